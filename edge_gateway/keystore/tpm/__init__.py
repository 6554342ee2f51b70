"""The key store whose keys are opened nowhere but in a TPM 2.0.

```
store.py           what callers see: KeyStore and Attester
chip.py            what they ask of the TPM, by the parts below
connection.py      the one thread that talks to the TPM; no wrong signature after a restart; busy, lost, full
worker.py          that thread
response_codes.py  what the TPM's codes mean: one table
tcti.py            how the TPM is reached
storage_root.py    the key that wraps all others: found or made, and pinned
signing.py         identity keys wrapped and used
certificate_keys.py  those for certificates, likewise
certificate_key.py   such a key, as whoever needs a signature sees it
sealing.py         secrets for the disk, opened by a policy
boot_policy.py     the boots that may open them
boot_approvals.py  those that their maker has approved, by a signature
attestation.py     the endorsement key, and the key of a provisioning service's challenge
password_file.py   the passwords of the TPM's owner and of its lockout
challenge.py       such a challenge, as bytes
wiping.py          the TPM cleared
public_areas.py    templates and names, as bytes
wrapped.py         a wrapped key, as bytes
key_directory.py   their files
```

A key is a file: wrapped by the TPM's storage root key, it opens in that TPM only. To sign, it is loaded, used and taken
out again. So a TPM with room for three keys serves a thousand, and holds nothing between two uses but a session.

`tpm2-pytss` is loaded when the first store is made; it is the extra `tpm`.
"""

from __future__ import annotations

from edge_gateway.keystore.tpm.boot_policy import BootPolicy
from edge_gateway.keystore.tpm.certificate_key import CertificateKey
from edge_gateway.keystore.tpm.password_file import PasswordFile
from edge_gateway.keystore.tpm.store import TpmKeyStore

__all__ = ["BootPolicy", "CertificateKey", "PasswordFile", "TpmKeyStore"]
