"""What the provisioning service does for a device that proves itself by its TPM.

The service knows a TPM by its endorsement key (EK), from the enrolment. The device also sends its storage root key
(SRK). The answer, the *authentication key blob*, carries an HMAC key that exactly one TPM can take in:

1. an *inner key* is encrypted so that only the TPM with this EK gets it, and only if it also holds a key with this
   SRK's name (what TPM2_MakeCredential does and TPM2_ActivateCredential undoes);
2. the HMAC key is encrypted with the inner key, and the result once more for the SRK (what TPM2_Import undoes).

Whoever then signs with the HMAC key has that EK and that SRK in one TPM. Nothing here needs a TPM, or keeps anything.

The blob is a row of fields, each after its size in 2 bytes; all integers are big-endian:

| # | TPM type | content |
| --- | --- | --- |
| 1 | TPM2B_ID_OBJECT | the inner key, encrypted |
| 2 | TPM2B_ENCRYPTED_SECRET | the seed of field 1, for the EK |
| 3 | TPM2B_PRIVATE | the HMAC key, encrypted twice |
| 4 | TPM2B_ENCRYPTED_SECRET | the seed of field 3, for the SRK |
| 5 | TPM2B_PUBLIC | the HMAC key's public area |
| 6 | TPM2B_DATA | an encrypted URI, which no client is known to use |

Sources: the TPM 2.0 Library, Part 1 ("Credential Protection", "Duplication", annexes B.10 and C.6 on sharing secrets)
and Part 2 (structures); the blob's order is what the C, Node.js and Rust clients read. Clients send RSA-2048 keys.
P-256 is taken as well, because the TPM's rules are the same; whether the real service takes it is not verified.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, Self, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from edge_gateway.errors import BenchError

LONGEST_KEY_BYTES: Final = 64
"""SHA-256's block: a TPM takes no longer key for HMAC-SHA256, though the hub's software would."""
LONGEST_PUBLIC_BYTES: Final = 512
"""An RSA-2048 key takes 316 bytes with a policy, a P-256 key 124."""
_LONGEST_FIELD_BYTES: Final = 0xFFFF

_DIGEST_BYTES: Final = 32
_COORDINATE_BYTES: Final = 32
_MODULUS_BYTES: Final = 256
_AES_KEY_BYTES: Final = 16
_AES_BLOCK_BYTES: Final = 16

# Part 2: TPM_ALG_ID, TPM_ECC_CURVE
_RSA: Final = 0x0001
_AES: Final = 0x0006
_KEYEDHASH: Final = 0x0008
_HMAC: Final = 0x0005
_SHA256: Final = 0x000B
_NULL: Final = 0x0010
_ECC: Final = 0x0023
_CFB: Final = 0x0043
_NIST_P256: Final = 0x0003

# Part 2: TPMA_OBJECT
_FIXED_TPM: Final = 1 << 1
_FIXED_PARENT: Final = 1 << 4
_SENSITIVE_DATA_ORIGIN: Final = 1 << 5
_USER_WITH_AUTH: Final = 1 << 6
_NO_DICTIONARY_ATTACK: Final = 1 << 10
_RESTRICTED: Final = 1 << 16
_DECRYPT: Final = 1 << 17
_SIGN: Final = 1 << 18

_PARENT_ATTRIBUTES: Final = _FIXED_TPM | _FIXED_PARENT | _SENSITIVE_DATA_ORIGIN | _RESTRICTED | _DECRYPT
"""Made in its TPM, never leaves it, and decrypts nothing but what a TPM itself has to read."""
_HMAC_KEY_ATTRIBUTES: Final = _USER_WITH_AUTH | _NO_DICTIONARY_ATTACK | _SIGN
"""An imported key cannot be fixed to its TPM. Which attributes the real service gives is not verified."""

_AsymmetricKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class TpmKeyRefused(BenchError):
    """What a device sent as one of its TPM's public keys is not what it has to be."""


@dataclass(frozen=True, slots=True)
class _ParentKey:
    """A restricted decryption key with AES-128-CFB and SHA-256: RSA-2048 or P-256. Two are equal by their bytes."""

    public: bytes
    """TPM2B_PUBLIC, as the device sent it."""
    _key: _AsymmetricKey = field(repr=False, compare=False)

    _KIND: ClassVar[str]

    @classmethod
    def parse(cls, public: bytes) -> Self:
        """Read and check a marshalled TPM2B_PUBLIC: its size in 2 bytes, then TPMT_PUBLIC.

        Raises:
            TpmKeyRefused: it is damaged, too long, or not such a key; the text says which member is wrong.
        """
        return cls(public, _parse_public(public, cls._KIND))

    @property
    def name(self) -> bytes:
        """The TPM's Name of this key, 34 bytes: the hash algorithm, then the hash of TPMT_PUBLIC."""
        return _name(self.public[2:])

    def share_seed(self, label: bytes) -> tuple[bytes, bytes]:
        """A new seed of 32 bytes, and the TPMU_ENCRYPTED_SECRET from which only this key's TPM gets it.

        Args:
            label: what the seed is for, without the trailing zero byte that the TPM counts to it.
        """
        label += b"\0"
        if isinstance(self._key, rsa.RSAPublicKey):
            seed = secrets.token_bytes(_DIGEST_BYTES)
            return seed, self._key.encrypt(seed, padding.OAEP(padding.MGF1(SHA256()), SHA256(), label))
        ephemeral = ec.generate_private_key(ec.SECP256R1())
        x, y = _coordinates(ephemeral.public_key())
        own_x, _ = _coordinates(self._key)
        agreed = ephemeral.exchange(ec.ECDH(), self._key)
        seed = ConcatKDFHash(SHA256(), _DIGEST_BYTES, label + x + own_x).derive(agreed)
        return seed, _sized(x) + _sized(y)


class EndorsementKey(_ParentKey):
    """Names a TPM: its maker's key, the same for the TPM's whole life. Get it by `EndorsementKey.parse`."""

    __slots__ = ()
    _KIND = "endorsement key"


class StorageRootKey(_ParentKey):
    """The parent of the keys a TPM's owner keeps. Get it by `StorageRootKey.parse`."""

    __slots__ = ()
    _KIND = "storage root key"


class Credential(NamedTuple):
    """A secret for one TPM that holds one key; TPM2_ActivateCredential gives the secret back."""

    id_object: bytes
    """TPMS_ID_OBJECT: the content of a TPM2B_ID_OBJECT."""
    encrypted_seed: bytes
    """The content of a TPM2B_ENCRYPTED_SECRET."""


class WrappedKey(NamedTuple):
    """An HMAC key that one storage root key's TPM can import, given the inner key."""

    duplicate: bytes
    """The content of a TPM2B_PRIVATE."""
    encrypted_seed: bytes
    """The content of a TPM2B_ENCRYPTED_SECRET."""
    public_area: bytes
    """TPMT_PUBLIC: the content of a TPM2B_PUBLIC."""


def registration_id(endorsement_key: EndorsementKey) -> str:
    """The registration id that clients derive from a TPM: 52 letters and digits, base32 of a SHA-256, in lower case.

    The hash is over the whole TPM2B_PUBLIC, its size included, as the C and Node.js clients have it.
    """
    digest = hashlib.sha256(endorsement_key.public).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()


def authentication_key_blob(
    endorsement_key: EndorsementKey, storage_root_key: StorageRootKey, key: bytes, *, encrypted_uri: bytes = b""
) -> bytes:
    """Wrap an HMAC key for one TPM; DPS sends it in base64 as `authenticationKey`. Never twice the same bytes.

    Args:
        endorsement_key: which TPM.
        storage_root_key: under which of its keys it will import the HMAC key.
        key: 1 to 64 bytes.
        encrypted_uri: at most 65,535 bytes for the last field. What the real service puts there is not known.

    Raises:
        BenchError: the key or the URI is too long, or the key empty.
    """
    if not 1 <= len(key) <= LONGEST_KEY_BYTES:
        raise BenchError(
            f"a key of {len(key)} bytes cannot be used by a TPM",
            where="authentication key",
            remedy=f"Give 1 to {LONGEST_KEY_BYTES} bytes",
        )
    if len(encrypted_uri) > _LONGEST_FIELD_BYTES:
        raise BenchError(
            f"an encrypted URI of {len(encrypted_uri)} bytes does not fit",
            where="authentication key",
            remedy=f"Give at most {_LONGEST_FIELD_BYTES} bytes",
        )
    inner_key = secrets.token_bytes(_AES_KEY_BYTES)
    credential = make_credential(endorsement_key, storage_root_key.name, inner_key)
    wrapped = wrap_hmac_key(storage_root_key, key, inner_key)
    return b"".join(map(_sized, (*credential, *wrapped, encrypted_uri)))


def make_credential(endorsement_key: EndorsementKey, name: bytes, secret: bytes) -> Credential:
    """Encrypt a secret so that only the endorsement key's TPM opens it, and only if it holds the key with this name.

    Args:
        endorsement_key: which TPM.
        name: the other key's Name, 34 bytes.
        secret: at most 32 bytes.
    """
    seed, encrypted_seed = endorsement_key.share_seed(b"IDENTITY")
    return Credential(_sealed(seed, name, _sized(secret)), encrypted_seed)


def wrap_hmac_key(storage_root_key: StorageRootKey, key: bytes, inner_key: bytes) -> WrappedKey:
    """Make a TPM's HMAC-SHA256 key object and wrap it twice for TPM2_Import.

    Args:
        storage_root_key: the parent under which it will be imported.
        key: the HMAC key. A TPM refuses more than 64 bytes; this function does not.
        inner_key: 16 bytes; the device gets it from the credential.
    """
    # It hides the key from whoever sees `unique`, which is a hash over both.
    obfuscation = secrets.token_bytes(_DIGEST_BYTES)
    no_policy = _sized(b"")
    no_password = _sized(b"")
    public_area = (
        struct.pack(">HHI", _KEYEDHASH, _SHA256, _HMAC_KEY_ATTRIBUTES)
        + no_policy
        + struct.pack(">HH", _HMAC, _SHA256)
        + _sized(_sha256(obfuscation + key))
    )
    name = _name(public_area)
    sensitive = _sized(struct.pack(">H", _KEYEDHASH) + no_password + _sized(obfuscation) + _sized(key))
    inner = _aes_cfb(inner_key, _sized(_sha256(sensitive + name)) + sensitive)
    seed, encrypted_seed = storage_root_key.share_seed(b"DUPLICATE")
    return WrappedKey(_sealed(seed, name, inner), encrypted_seed, public_area)


def _sealed(seed: bytes, name: bytes, plain: bytes) -> bytes:
    """Encrypt under a seed and bind to a name: the outer layer of credentials and duplicates alike."""
    encrypted = _aes_cfb(_derived(seed, b"STORAGE", name, _AES_KEY_BYTES), plain)
    integrity_key = _derived(seed, b"INTEGRITY", b"", _DIGEST_BYTES)
    return _sized(hmac.digest(integrity_key, encrypted + name, "sha256")) + encrypted


def _derived(seed: bytes, label: bytes, context: bytes, size_bytes: int) -> bytes:
    """Part 1's KDFa, which is NIST SP 800-108 with HMAC-SHA256 in counter mode."""
    kdf = KBKDFHMAC(
        algorithm=SHA256(),
        mode=Mode.CounterMode,
        length=size_bytes,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    )
    return kdf.derive(seed)


def _aes_cfb(key: bytes, plain: bytes) -> bytes:
    """AES-128-CFB from a zero vector; each call's key is new.

    Made of single blocks because the library has moved its own CFB: no place holds it in all releases we allow.
    """
    block_cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 -- one block at a time, for CFB
    feedback = bytes(_AES_BLOCK_BYTES)
    encrypted = bytearray()
    for start in range(0, len(plain), _AES_BLOCK_BYTES):
        mask = block_cipher.update(feedback)
        feedback = bytes(a ^ b for a, b in zip(plain[start : start + _AES_BLOCK_BYTES], mask, strict=False))
        encrypted += feedback
    return bytes(encrypted)


def _sized(content: bytes) -> bytes:
    """A TPM2B: the size in 2 bytes, then the content."""
    return struct.pack(">H", len(content)) + content


def _name(public_area: bytes) -> bytes:
    return struct.pack(">H", _SHA256) + _sha256(public_area)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(_COORDINATE_BYTES, "big"), numbers.y.to_bytes(_COORDINATE_BYTES, "big")


class _Fields:
    """Reads a TPM structure member by member."""

    def __init__(self, data: bytes, kind: str) -> None:
        self._rest = data
        self._kind = kind

    def refused(self, what: str) -> TpmKeyRefused:
        return TpmKeyRefused(
            f"not a usable {self._kind}: {what}",
            remedy="Send the TPM2B_PUBLIC of a restricted decryption key: RSA-2048 or P-256, AES-128-CFB, SHA-256",
        )

    def take(self, size_bytes: int, member: str) -> bytes:
        if len(self._rest) < size_bytes:
            raise self.refused(f"it ends within {member}")
        taken, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        return taken

    def number(self, size_bytes: int, member: str) -> int:
        return int.from_bytes(self.take(size_bytes, member), "big")

    def sized(self, member: str) -> bytes:
        return self.take(self.number(2, f"the size of {member}"), member)

    def expect(self, value: int, member: str) -> None:
        """Take 2 bytes that can have one value only."""
        found = self.number(2, member)
        if found != value:
            raise self.refused(f"{member} is 0x{found:04x} in place of 0x{value:04x}")

    def end(self) -> None:
        if self._rest:
            raise self.refused(f"{len(self._rest)} bytes too many")


def _parse_public(public: bytes, kind: str) -> _AsymmetricKey:
    """Check a TPM2B_PUBLIC (Part 2, "Public Area Structures") and take its key out."""
    fields = _Fields(public, kind)
    if len(public) > LONGEST_PUBLIC_BYTES:
        raise fields.refused(f"{len(public)} bytes, {LONGEST_PUBLIC_BYTES} are allowed")
    if fields.number(2, "its size") != len(public) - 2:
        raise fields.refused("its size is not that of its content")
    algorithm = fields.number(2, "the type")
    if algorithm not in (_RSA, _ECC):
        raise fields.refused(f"the type is 0x{algorithm:04x}, neither RSA nor ECC")
    fields.expect(_SHA256, "the name's hash algorithm")
    attributes = fields.number(4, "the attributes")
    if attributes & (_PARENT_ATTRIBUTES | _SIGN) != _PARENT_ATTRIBUTES:
        raise fields.refused(f"the attributes 0x{attributes:08x} are not those of a restricted decryption key")
    if len(fields.sized("the policy")) not in (0, _DIGEST_BYTES):
        raise fields.refused("the policy is not a SHA-256")
    fields.expect(_AES, "the symmetric algorithm")
    fields.expect(8 * _AES_KEY_BYTES, "the symmetric key's size in bits")
    fields.expect(_CFB, "the symmetric mode")
    fields.expect(_NULL, "the scheme")
    key = _parse_rsa(fields) if algorithm == _RSA else _parse_ecc(fields)
    fields.end()
    return key


def _parse_rsa(fields: _Fields) -> rsa.RSAPublicKey:
    fields.expect(8 * _MODULUS_BYTES, "the key's size in bits")
    exponent = fields.number(4, "the exponent")
    modulus = fields.sized("the modulus")
    if exponent not in (0, 65537):  # 0 says: the usual one
        raise fields.refused(f"the exponent is {exponent}")
    # Without the highest bit it would be a shorter key than it says.
    if len(modulus) != _MODULUS_BYTES or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise fields.refused("the modulus is not that of an RSA-2048 key")
    return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()


def _parse_ecc(fields: _Fields) -> ec.EllipticCurvePublicKey:
    fields.expect(_NIST_P256, "the curve")
    fields.expect(_NULL, "the key derivation scheme")
    x, y = fields.sized("x"), fields.sized("y")
    # The sharing of secrets is over padded coordinates; what a TPM does that leaves zeros out cannot be known.
    if len(x) != _COORDINATE_BYTES or len(y) != _COORDINATE_BYTES:
        raise fields.refused("a coordinate has not 32 bytes")
    try:
        return ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
    except ValueError as error:
        raise fields.refused("the point is not on the curve P-256") from error
