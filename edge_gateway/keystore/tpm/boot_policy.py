"""How a box has to be started for its sealed secrets to open: as the maker of its software has approved.

While a box starts, each stage measures the next into the TPM's registers (PCRs) before it runs it. Another boot loader,
kernel or command line gives other values. A secret is not bound to values, as each update would lock the box out, but
to the maker's *release key*: it opens if the values that are there now were signed with that. An update brings its own
approval, which is put beside the older ones. Nothing that is on the disk has to be sealed again.

The maker signs the *policy* of the values, as any tool does that signs ECDSA with SHA-256:

```
policy    = SHA-256(32 zero bytes || 0000017f || selection of PCRs || SHA-256(values of the PCRs, one after the other))
signature = ECDSA-P256-SHA256(policy)
```

An older release stays approved as long as its approval lies there; and whoever keeps a copy can put it back.

Source: TPM 2.0 Library part 3, sections 23.7 (PolicyPCR) and 23.16 (PolicyAuthorize).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore.tpm.public_areas import name_of, release_key_area

DEFAULT_PCRS: Final = (0, 2, 4, 7, 11)
"""Firmware, its extensions, boot loader, Secure Boot's state, and the unified kernel image (UAPI group)."""

_NO_POLICY: Final = bytes(32)
_CC_POLICY_PCR: Final = 0x0000017F
_CC_POLICY_AUTHORIZE: Final = 0x0000016A
_SHA256: Final = 0x000B
_PCRS: Final = range(24)
_LONGEST_FILE_BYTES: Final = 64 * 1024
_DIGEST_BYTES: Final = 32


def pcr_selection(pcrs: Sequence[int]) -> bytes:
    """The TPML_PCR_SELECTION of SHA-256 registers."""
    bits = sum(1 << pcr for pcr in set(pcrs))
    return struct.pack(">IHB", 1, _SHA256, 3) + bits.to_bytes(3, "little")


def pcr_policy(values: Mapping[int, bytes]) -> bytes:
    """The policy of registers with these values, 32 bytes: what a maker signs.

    Args:
        values: 32 bytes for each register.
    """
    digest = hashlib.sha256(b"".join(values[pcr] for pcr in sorted(values))).digest()
    return hashlib.sha256(
        _NO_POLICY + struct.pack(">I", _CC_POLICY_PCR) + pcr_selection(tuple(values)) + digest
    ).digest()


@dataclass(frozen=True, slots=True)
class BootPolicy:
    """Which boots open what is sealed. Get it by `BootPolicy.read`."""

    pcrs: tuple[int, ...]
    release_key: bytes
    """The public area of the maker's key, a TPM2B_PUBLIC."""
    approvals: Path
    """A file, read each time: `[{"policy": hex, "signature": hex of DER}, ...]`, one for each release."""

    @classmethod
    def read(cls, release_key: Path, approvals: Path, pcrs: Sequence[int] = DEFAULT_PCRS) -> Self:
        """A policy by the maker's public key.

        Args:
            release_key: a PEM file with a key on P-256.
            approvals: a file, which need not be there yet.
            pcrs: the registers that count.

        Raises:
            ConfigError: the key or the registers cannot be used.
        """
        if not pcrs or not set(pcrs) <= set(_PCRS):
            raise ConfigError(
                f"{list(pcrs)} are not registers of a TPM",
                where="pcrs",
                remedy="Give some of 0 to 23, e.g. [0, 2, 4, 7]",
            )
        try:
            key = load_pem_public_key(release_key.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(release_key)) from error
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(
                "it is no public key on P-256",
                where=str(release_key),
                remedy="Make one: openssl ecparam -genkey -name prime256v1 | openssl ec -pubout",
            )
        point = key.public_numbers()
        area = release_key_area(point.x.to_bytes(32, "big"), point.y.to_bytes(32, "big"))
        return cls(tuple(sorted(set(pcrs))), area, approvals)

    @property
    def digest(self) -> bytes:
        """The policy that what is sealed carries: whatever the holder of the release key approves."""
        authorized = struct.pack(">I", _CC_POLICY_AUTHORIZE) + name_of(self.release_key)
        first = hashlib.sha256(_NO_POLICY + authorized).digest()
        return hashlib.sha256(first).digest()  # once more, over the policy's reference, which is empty

    def approval_of(self, policy: bytes) -> bytes:
        """The maker's signature for the boot that was, as a marshalled TPMT_SIGNATURE.

        Raises:
            KeyStoreError: there is none.
        """
        for approved, r, s in self._approvals():
            if approved == policy:
                return struct.pack(">HHH", 0x0018, _SHA256, _DIGEST_BYTES) + r + struct.pack(">H", _DIGEST_BYTES) + s
        raise KeyStoreError(
            "the box was not started as any approved release starts",
            where=str(self.approvals),
            remedy=f"Start an approved release, or have this one approved: its policy is {policy.hex()}",
        )

    def _approvals(self) -> list[tuple[bytes, bytes, bytes]]:
        try:
            with self.approvals.open("rb") as file:
                content = file.read(_LONGEST_FILE_BYTES + 1)
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}",
                where=str(self.approvals),
                remedy="Install the approval of the release that runs",
            ) from error
        try:
            return [_approval(each) for each in _listed(content)]
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise KeyStoreError(
                "these are no approvals",
                where=str(self.approvals),
                remedy='It has to be [{"policy": 64 hex digits, "signature": hex digits of DER}]',
            ) from error


def _listed(content: bytes) -> list[Any]:
    listed = orjson.loads(content[:_LONGEST_FILE_BYTES])
    if not isinstance(listed, list):
        raise TypeError
    return listed


def _approval(entry: Any) -> tuple[bytes, bytes, bytes]:
    policy = bytes.fromhex(entry["policy"])
    r, s = decode_dss_signature(bytes.fromhex(entry["signature"]))
    return policy, r.to_bytes(_DIGEST_BYTES, "big"), s.to_bytes(_DIGEST_BYTES, "big")
