"""AES-CCM and AES-GCM under one key, by `cryptography`.

Apart from `sealed.py`, which imports it when the first encrypted item is met: the library is 7 MiB and 25 ms, which a
gateway whose sensors do not encrypt should not pay.
"""

from __future__ import annotations

from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

__all__ = ["InvalidTag", "Keyed", "keyed"]

_FULL_TAG_BYTES: Final = 16


class Keyed(Protocol):
    """An algorithm under one key; the tag stands behind the encrypted bytes."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """The encrypted bytes and the tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """The plain text.

        Raises:
            InvalidTag: the bytes do not belong together, or not under this key.
        """
        ...


def keyed(algorithm: str, tag_bytes: int, key: bytes) -> Keyed:
    """An algorithm of `sealed.py` with a length of tag that it has.

    Raises:
        ValueError: the key is not of 16, 24 or 32 bytes.
    """
    if algorithm == "aes-ccm":
        return AESCCM(key, tag_bytes)
    return AESGCM(key) if tag_bytes == _FULL_TAG_BYTES else _ShortTagGcm(key, tag_bytes)


class _ShortTagGcm:
    """AES-GCM with a tag cut short, which `AESGCM` has not; several calls in place of one."""

    def __init__(self, key: bytes, tag_bytes: int) -> None:
        self._aes = AES(key)
        self._tag_bytes = tag_bytes

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        encryptor = Cipher(self._aes, GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(associated_data or b"")
        sealed = encryptor.update(data) + encryptor.finalize()
        return sealed + encryptor.tag[: self._tag_bytes]

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        tag = data[-self._tag_bytes :]
        decryptor = Cipher(self._aes, GCM(nonce, tag, min_tag_length=self._tag_bytes)).decryptor()
        decryptor.authenticate_additional_data(associated_data or b"")
        return decryptor.update(data[: -self._tag_bytes]) + decryptor.finalize()
