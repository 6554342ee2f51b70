"""The boots that the maker of a box's software has approved: a file of signatures, made without a TPM.

```
[{"policy": 64 hexadecimal digits, "signature": hexadecimal digits}, ...]

policy    = SHA-256(32 zero bytes || 0000017f || selection of PCRs || SHA-256(values of the PCRs, one after the other))
signature = ECDSA-P256-SHA256(policy), DER
```

The selection is a TPML_PCR_SELECTION: for the registers 0 and 7, for instance, 00000001 000b 03 810000. Who keeps the
release key in hardware signs the policy there; any tool will do that signs ECDSA with SHA-256.

Source: TPM 2.0 Library part 3, section 23.7 (PolicyPCR); part 2, sections 10.6.2 (TPMS_PCR_SELECTION) and 11.3.4
(TPMT_SIGNATURE).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable

REGISTER_BYTES: Final = 32
"""Of the bank of SHA-256."""

_NO_POLICY: Final = bytes(32)
_CC_POLICY_PCR: Final = 0x0000017F
_ECDSA: Final = 0x0018
_SHA256: Final = 0x000B
_DIGEST_BYTES: Final = 32
_LONGEST_FILE_BYTES: Final = 64 * 1024
"""Some 250 releases."""
_LONGEST_KEY_FILE_BYTES: Final = 16 * 1024


def pcr_selection(pcrs: Sequence[int]) -> bytes:
    """The TPML_PCR_SELECTION of SHA-256 registers."""
    bits = sum(1 << pcr for pcr in set(pcrs))
    return struct.pack(">IHB", 1, _SHA256, 3) + bits.to_bytes(3, "little")


def pcr_policy(values: Mapping[int, bytes]) -> bytes:
    """The policy of registers with these values, 32 bytes: what a maker signs.

    Args:
        values: `REGISTER_BYTES` for each register.
    """
    digest = hashlib.sha256(b"".join(values[pcr] for pcr in sorted(values))).digest()
    return hashlib.sha256(
        _NO_POLICY + struct.pack(">I", _CC_POLICY_PCR) + pcr_selection(tuple(values)) + digest
    ).digest()


@dataclass(frozen=True, slots=True)
class Approval:
    """A boot that has been approved, or is said to: the TPM checks the signature."""

    policy: bytes
    """32 bytes."""
    r: bytes
    """Of the signature, 32 bytes."""
    s: bytes
    """Likewise."""
    der: bytes
    """The signature as it stands in the file."""

    @classmethod
    def parse(cls, policy: str, signature: str) -> Approval:
        """An approval as it stands in the file, in hexadecimal digits.

        Raises:
            ValueError: it is none.
        """
        der = bytes.fromhex(signature)
        try:
            r, s = (number.to_bytes(_DIGEST_BYTES, "big") for number in decode_dss_signature(der))
        except OverflowError as error:
            raise ValueError("not a signature by a key on P-256") from error
        if len(digest := bytes.fromhex(policy)) != _DIGEST_BYTES:
            raise ValueError("not a SHA-256 digest")
        return cls(digest, r, s, der)

    @property
    def tpm_signature(self) -> bytes:
        """The signature as a marshalled TPMT_SIGNATURE."""
        head = struct.pack(">HHH", _ECDSA, _SHA256, _DIGEST_BYTES)
        return head + self.r + struct.pack(">H", _DIGEST_BYTES) + self.s


def approve(values: Mapping[int, bytes], release_key: ec.EllipticCurvePrivateKey) -> Approval:
    """Approve the boots that leave these values in the registers; arguments as of `pcr_policy`."""
    policy = pcr_policy(values)
    return Approval.parse(policy.hex(), release_key.sign(policy, ec.ECDSA(SHA256())).hex())


def written(approvals: Iterable[Approval]) -> bytes:
    """The file of these approvals; of those of one boot, the last.

    Raises:
        ConfigError: a gateway would not read it, for its length.
    """
    entries = {each.policy: {"policy": each.policy.hex(), "signature": each.der.hex()} for each in approvals}
    content = orjson.dumps(list(entries.values()), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if len(content) > _LONGEST_FILE_BYTES:
        raise ConfigError(
            f"{len(entries)} approvals are more than {_LONGEST_FILE_BYTES} bytes",
            where="approvals",
            remedy="Take releases out that no box runs any more",
        )
    return content


def read_approvals(path: Path) -> list[Approval]:
    """The approvals in a file.

    Raises:
        KeyStoreUnavailable: it cannot be read, or holds something else; so nothing opens until it is put right.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE_BYTES + 1)
    except OSError as error:
        raise KeyStoreUnavailable(
            f"cannot be read: {error.strerror}",
            where=str(path),
            remedy="Install the approval of the release that runs",
        ) from error
    try:
        return [Approval.parse(entry["policy"], entry["signature"]) for entry in _listed(content)]
    except (ValueError, TypeError, KeyError) as error:
        raise KeyStoreUnavailable(
            "these are no approvals",
            where=str(path),
            remedy='It has to be [{"policy": 64 hex digits, "signature": hex digits of DER}]',
        ) from error


def read_release_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The maker's private key, from a PEM file without a password.

    Raises:
        ConfigError: it is none.
        KeyStoreError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            key = load_pem_private_key(file.read(_LONGEST_KEY_FILE_BYTES), password=None)
    except OSError as error:
        raise KeyStoreError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Name the file with the release key"
        ) from error
    except TypeError:  # so the library says that there is a password
        raise ConfigError(
            "it has a password",
            where=str(path),
            remedy="Give the key without: openssl pkey -in FILE writes it so",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            "it is no private key on P-256",
            where=str(path),
            remedy="Make one: openssl ecparam -genkey -noout -name prime256v1",
        )
    return key


def _listed(content: bytes) -> list[Any]:
    if len(content) > _LONGEST_FILE_BYTES:
        raise ValueError("longer than approvals may be")
    listed = orjson.loads(content)
    if not isinstance(listed, list):
        raise TypeError("not a list")
    return listed
