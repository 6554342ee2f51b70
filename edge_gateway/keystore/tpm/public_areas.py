"""The public areas of the objects we use in a TPM, as bytes: what each is, what it may do, and how it is named.

| Object | Handle | Template |
| --- | --- | --- |
| storage root key (SRK) | 0x81000001 | owner's, P-256 or RSA-2048, the layout of Azure's tools |
| endorsement key (EK) | 0x81010001 | the maker's, TCG EK Credential Profile L-1 (RSA) or L-2 (P-256) |
| identity key | none: wrapped, in a file | HMAC-SHA256 |
| certificate key | likewise | P-256, ECDSA with SHA-256 |
| sealed secret | none: wrapped, with whoever keeps it | data, opened by a policy only |
| release key | none: public | signs what boots are approved |

Ours have `noDA`: else each power cut while a key is in use would count as a wrong password, and in the end the TPM of
an unattended box would lock.

Sources: TPM 2.0 Library part 2, sections 8.3 (attributes) and 12.2 (public areas); part 1, section 16 (names).
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, Literal, TypeAlias

KeyType: TypeAlias = Literal["ecc", "rsa"]

SRK_HANDLE: Final = 0x81000001
EK_HANDLE: Final = 0x81010001

LONGEST_PUBLIC_BYTES: Final = 512
"""An RSA-2048 key with a policy takes 316."""

# Part 2: TPM_ALG_ID, TPM_ECC_CURVE
_RSA: Final = 0x0001
_HMAC: Final = 0x0005
_AES: Final = 0x0006
_KEYEDHASH: Final = 0x0008
_SHA256: Final = 0x000B
_NULL: Final = 0x0010
_ECDSA: Final = 0x0018
_ECC: Final = 0x0023
_CFB: Final = 0x0043
_NIST_P256: Final = 0x0003
_AES_128_CFB: Final = struct.pack(">HHH", _AES, 128, _CFB)

# Part 2: TPMA_OBJECT
_FIXED_TPM: Final = 1 << 1
_FIXED_PARENT: Final = 1 << 4
_SENSITIVE_DATA_ORIGIN: Final = 1 << 5
_USER_WITH_AUTH: Final = 1 << 6
_NO_DICTIONARY_ATTACK: Final = 1 << 10
_RESTRICTED: Final = 1 << 16
_DECRYPT: Final = 1 << 17
_SIGN: Final = 1 << 18

_STAYS_HERE: Final = _FIXED_TPM | _FIXED_PARENT | _NO_DICTIONARY_ATTACK
_SRK_ATTRIBUTES: Final = _STAYS_HERE | _SENSITIVE_DATA_ORIGIN | _USER_WITH_AUTH | _RESTRICTED | _DECRYPT
_EK_ATTRIBUTES: Final = _FIXED_TPM | _FIXED_PARENT | _SENSITIVE_DATA_ORIGIN | _RESTRICTED | _DECRYPT
_KEY_ATTRIBUTES: Final = _STAYS_HERE | _USER_WITH_AUTH | _SIGN

_COORDINATE_BYTES: Final = 32

_RSA_EXPONENTS: Final = (0, 65537)
"""0 says: the usual one. Some chips write it out."""


def sized(content: bytes) -> bytes:
    """A TPM2B: the size in 2 bytes, then the content."""
    return struct.pack(">H", len(content)) + content


def name_of(public: bytes) -> bytes:
    """The Name a TPM knows an object by, 34 bytes: a hash algorithm, and its hash over the public area.

    Args:
        public: a marshalled TPM2B_PUBLIC, its size in front.
    """
    return struct.pack(">H", _SHA256) + hashlib.sha256(public[2:]).digest()


def srk_template(kind: KeyType) -> bytes:
    """The template of a storage root key, a TPM2B_PUBLIC: the same TPM makes the same key of it until it is cleared."""
    if kind == "rsa":
        return sized(_rsa_head(0) + sized(bytes(256)))
    return sized(_ecc_head() + sized(bytes(32)) + sized(bytes(32)))


def is_storage_root(public: bytes) -> bool:
    """Whether what lies at the handle of the SRK is one, of either kind, whoever made it."""
    heads = (_ecc_head(), *map(_rsa_head, _RSA_EXPONENTS))
    return len(public) <= LONGEST_PUBLIC_BYTES and public[2:].startswith(heads)


def is_endorsement_key(public: bytes) -> bool:
    """Whether what lies at the handle of the EK can be one: made in this TPM, and only for reading credentials."""
    if not 10 <= len(public) <= LONGEST_PUBLIC_BYTES:
        return False
    kind, name_algorithm, attributes = struct.unpack_from(">HHI", public, 2)
    return (
        kind in (_RSA, _ECC) and name_algorithm == _SHA256 and attributes & (_EK_ATTRIBUTES | _SIGN) == _EK_ATTRIBUTES
    )


def key_template(*, made_inside: bool) -> bytes:
    """The template of an HMAC-SHA256 key that never leaves its TPM, a TPM2B_PUBLIC.

    Args:
        made_inside: the TPM makes it; else it is handed in.
    """
    attributes = _KEY_ATTRIBUTES | (_SENSITIVE_DATA_ORIGIN if made_inside else 0)
    return sized(_keyedhash(attributes, b"") + struct.pack(">HH", _HMAC, _SHA256) + sized(b""))


def is_hmac_key(public: bytes) -> bool:
    """Whether a service's key can be used: HMAC-SHA256, without a password, for signing and nothing else."""
    if not 10 <= len(public) <= LONGEST_PUBLIC_BYTES:
        return False
    (attributes,) = struct.unpack_from(">I", public, 6)
    wanted = _USER_WITH_AUTH | _SIGN
    if attributes & (wanted | _RESTRICTED | _DECRYPT) != wanted:
        return False
    head = _keyedhash(attributes, b"") + struct.pack(">HH", _HMAC, _SHA256)
    return public[2:].startswith(head) and len(public) == 2 + len(head) + 2 + 32


def certificate_key_template() -> bytes:
    """The template of a key for a certificate: made in its TPM, on P-256, signs by ECDSA, a TPM2B_PUBLIC."""
    return sized(_ecdsa_head(_KEY_ATTRIBUTES | _SENSITIVE_DATA_ORIGIN) + sized(b"") + sized(b""))


def point_of(public: bytes) -> bytes | None:
    """The point of a certificate key, uncompressed (SEC 1, section 2.3.3), 65 bytes; None if this is another object."""
    head = _ecdsa_head(_KEY_ATTRIBUTES | _SENSITIVE_DATA_ORIGIN)
    if not public[2:].startswith(head):
        return None
    place, point = 2 + len(head), b"\x04"
    for _ in range(2):
        end = place + 2 + int.from_bytes(public[place : place + 2], "big")
        point += public[place + 2 : end].rjust(_COORDINATE_BYTES, b"\0")  # some TPMs leave leading zeros out
        place = end
    return point if len(point) == 1 + 2 * _COORDINATE_BYTES and place == len(public) else None


def sealed_template(policy: bytes) -> bytes:
    """The template of a sealed secret, a TPM2B_PUBLIC. There is no password; the policy is the only way to it.

    Args:
        policy: the digest a session has to show, 32 bytes.
    """
    return sized(_keyedhash(_STAYS_HERE, policy) + struct.pack(">H", _NULL) + sized(b""))


def release_key_area(x: bytes, y: bytes) -> bytes:
    """The public area of a key on P-256 that signs by ECDSA with SHA-256, a TPM2B_PUBLIC.

    Args:
        x: of its point, 32 bytes.
        y: likewise.
    """
    return sized(_ecdsa_head(_USER_WITH_AUTH | _SIGN) + sized(x) + sized(y))


def _keyedhash(attributes: int, policy: bytes) -> bytes:
    return struct.pack(">HHI", _KEYEDHASH, _SHA256, attributes) + sized(policy)


def _ecdsa_head(attributes: int) -> bytes:
    """A key on P-256 that signs, up to its point."""
    head = struct.pack(">HHI", _ECC, _SHA256, attributes) + sized(b"")
    return head + struct.pack(">HHHHH", _NULL, _ECDSA, _SHA256, _NIST_P256, _NULL)


def _ecc_head() -> bytes:
    """A storage root key on P-256, up to its point."""
    head = struct.pack(">HHI", _ECC, _SHA256, _SRK_ATTRIBUTES) + sized(b"") + _AES_128_CFB
    return head + struct.pack(">HHH", _NULL, _NIST_P256, _NULL)


def _rsa_head(exponent: int) -> bytes:
    """A storage root key of RSA-2048, up to its modulus."""
    head = struct.pack(">HHI", _RSA, _SHA256, _SRK_ATTRIBUTES) + sized(b"") + _AES_128_CFB
    return head + struct.pack(">HHI", _NULL, 2048, exponent)
