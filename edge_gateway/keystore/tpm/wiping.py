"""Making all that this TPM has wrapped worthless, wherever copies of it are.

TPM2_Clear gives the owner's hierarchy a new seed: no storage root key and no wrapped key of before works again, nor
does what others have put under the owner (keys of other programs, disk keys). To evict the storage root key would
be no wipe, as the same would be made again.

Source: TPM 2.0 Library part 3, section 24.6.
"""

from __future__ import annotations

from tpm2_pytss import ESYS_TR, TSS2_Exception

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.tpm.connection import Link
from edge_gateway.keystore.tpm.password_file import Password
from edge_gateway.keystore.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_DISABLED, RC_LOCKOUT, base_code
from edge_gateway.keystore.tpm.storage_root import password_of

_REFUSALS = {
    RC_AUTH_FAIL: "its lockout password is another",
    RC_BAD_AUTH: "its lockout password is another",
    RC_DISABLED: "clearing is switched off (TPM2_ClearControl)",
    RC_LOCKOUT: "its lockout password is locked after a wrong one",
}


def clear(link: Link, lockout_auth: Password | None) -> KeyStoreError | None:
    """Clear the TPM; the owner's password is empty afterwards.

    Args:
        link: the connection; to be dropped afterwards.
        lockout_auth: the TPM's lockout password; empty if None.

    Returns:
        Why the TPM refused, if it did.
    """
    with password_of(link.esys, ESYS_TR.LOCKOUT, lockout_auth):
        try:
            link.esys.clear(auth_handle=ESYS_TR.LOCKOUT)
        except TSS2_Exception as error:
            refusal = _REFUSALS.get(base_code(int(error.rc)))
            if refusal is None:
                raise
            return KeyStoreError(
                f"the TPM could not be cleared: {refusal}; copies made before still work with it",
                where="TPM",
                remedy="Clear it in the firmware's setup, or give the lockout password in a file: "
                "key_store.lockout_password_file",
            )
    return None
