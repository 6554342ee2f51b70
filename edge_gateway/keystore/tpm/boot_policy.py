"""How a box has to be started for its sealed secrets to open: as the maker of its software has approved.

While a box starts, each stage measures the next into the TPM's registers (PCRs) before it runs it. Another boot loader,
kernel or command line gives other values. A secret is not bound to values, as each update would lock the box out, but
to the maker's *release key*: it opens if the values that are there now were signed with that. An update brings its own
approval, which is put beside the older ones (see `boot_approvals`). Nothing that is on the disk has to be sealed again.

A box that is not as it has to be has lost nothing: so that is a `KeyStoreUnavailable`, which no one answers with new
keys in place of those that do not open.

An older release stays approved as long as its approval lies there; and whoever keeps a copy can put it back.

Source: TPM 2.0 Library part 3, sections 23.7 (PolicyPCR) and 23.16 (PolicyAuthorize).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge_gateway.config.key_store import DEFAULT_PCRS
from edge_gateway.errors import ConfigError, KeyStoreUnavailable
from edge_gateway.keystore.tpm.boot_approvals import read_approvals
from edge_gateway.keystore.tpm.public_areas import name_of, release_key_area

_NO_POLICY: Final = bytes(32)
_CC_POLICY_AUTHORIZE: Final = 0x0000016A
_PCRS: Final = range(24)
_LONGEST_KEY_FILE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class BootPolicy:
    """Which boots open what is sealed. Get it by `BootPolicy.read`."""

    pcrs: tuple[int, ...]
    release_key: bytes
    """The public area of the maker's key, a TPM2B_PUBLIC."""
    approvals: Path
    """A file, read each time; see `boot_approvals`."""

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
            with release_key.open("rb") as file:
                key = load_pem_public_key(file.read(_LONGEST_KEY_FILE_BYTES))
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}",
                where=str(release_key),
                remedy="Put the public key of whoever makes this box's software there",
            ) from error
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
            KeyStoreUnavailable: there is none.
        """
        for approval in read_approvals(self.approvals):
            if approval.policy == policy:
                return approval.tpm_signature
        raise KeyStoreUnavailable(
            "the box was not started as any approved release starts",
            where=str(self.approvals),
            remedy=f"Start an approved release, or have this one approved: its policy is {policy.hex()}",
        )
