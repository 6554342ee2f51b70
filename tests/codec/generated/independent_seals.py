"""AES-CCM and AES-GCM written a second time from their specifications, on nothing but the block cipher.

Slow where they may be and plain everywhere: they open what a decoder has opened already, to hold the library and the
way nonces and tags are cut against somebody who did it alone.

Sources: NIST SP 800-38C, 6.2 and appendix A (CCM); NIST SP 800-38D, 6 and 7.2 (GCM).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

_BLOCK_BYTES = 16
_GCM_POLYNOMIAL = 0xE1 << 120


class IndependentSeal:
    """In the place of `PayloadSeal`, for opening.

    Args:
        algorithm: `aes-ccm` or `aes-gcm`.
        tag_bytes: how long the tag is.
    """

    def __init__(self, algorithm: str, tag_bytes: int) -> None:
        self._algorithm = algorithm
        self._tag_bytes = tag_bytes

    def open(self, key: bytes, nonce: bytes, data: bytes, tag: bytes, aad: bytes = b"") -> bytes | None:
        """The plain text, or None if the tag is not the one of these bytes."""
        if self._algorithm == "aes-ccm":
            plain, right = _ccm(key, nonce, data, aad, self._tag_bytes)
        else:
            plain, right = _gcm(key, nonce, data, aad)
        return plain if right[: self._tag_bytes] == tag else None


def _encrypt(key: bytes, blocks: bytes) -> bytes:
    """Each block by itself: the bare cipher."""
    encryptor = Cipher(AES(key), ECB()).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK_BYTES)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))


def _ccm(key: bytes, nonce: bytes, data: bytes, aad: bytes, tag_bytes: int) -> tuple[bytes, bytes]:
    length_bytes = 15 - len(nonce)

    def counter(number: int) -> bytes:
        return bytes([length_bytes - 1]) + nonce + number.to_bytes(length_bytes, "big")

    count = -(-len(data) // _BLOCK_BYTES)
    stream = _encrypt(key, b"".join(counter(number) for number in range(count + 1)))
    plain = _xor(data, stream[_BLOCK_BYTES:])
    flags = 64 * bool(aad) + 8 * ((tag_bytes - 2) // 2) + length_bytes - 1
    formatted = bytes([flags]) + nonce + len(plain).to_bytes(length_bytes, "big")
    if aad:
        formatted += _padded(len(aad).to_bytes(2, "big") + aad)
    formatted += _padded(plain)
    chained = bytes(_BLOCK_BYTES)
    for at in range(0, len(formatted), _BLOCK_BYTES):
        chained = _encrypt(key, _xor(chained, formatted[at : at + _BLOCK_BYTES]))
    return plain, _xor(chained, stream)[:tag_bytes]


def _multiplied(one: int, other: int) -> int:
    """The product in GF(2^128), bits counted from the left."""
    product = 0
    for bit in range(127, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_GCM_POLYNOMIAL if other & 1 else 0)
    return product


def _gcm(key: bytes, nonce: bytes, data: bytes, aad: bytes) -> tuple[bytes, bytes]:
    subkey = int.from_bytes(_encrypt(key, bytes(_BLOCK_BYTES)), "big")

    def hashed(blocks: bytes) -> int:
        result = 0
        for at in range(0, len(blocks), _BLOCK_BYTES):
            result = _multiplied(result ^ int.from_bytes(blocks[at : at + _BLOCK_BYTES], "big"), subkey)
        return result

    first = nonce + b"\0\0\0\1"
    if len(nonce) != 12:
        first = hashed(_padded(nonce) + (8 * len(nonce)).to_bytes(16, "big")).to_bytes(16, "big")
    start, count = int.from_bytes(first[12:], "big"), -(-len(data) // _BLOCK_BYTES)
    counters = (first[:12] + ((start + number) % (1 << 32)).to_bytes(4, "big") for number in range(count + 1))
    stream = _encrypt(key, b"".join(counters))
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(data)).to_bytes(8, "big")
    tag = _xor(hashed(_padded(aad) + _padded(data) + lengths).to_bytes(16, "big"), stream)
    return _xor(data, stream[_BLOCK_BYTES:]), tag
