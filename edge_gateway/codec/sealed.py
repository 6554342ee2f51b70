"""Encrypted payloads: AES-CCM and AES-GCM, opened only if their tag holds.

Both give nothing of the plain text unless nonce, data, tag and the additional data all belong together under the key
(NIST SP 800-38C and SP 800-38D). Advertisements have no room for 16 bytes of tag, so devices send 4: one forgery in
four thousand million is taken for true, and trying costs the attacker an advertisement each.

`aes.py` does the arithmetic.
"""

from __future__ import annotations

import functools
from typing import Final, Literal, TypeAlias

from edge_gateway.errors import CodecError

SealAlgorithm: TypeAlias = Literal["aes-ccm", "aes-gcm"]

KEY_BYTES: Final = (16, 24, 32)
"""How long a key may be: AES-128, AES-192, AES-256."""

NONCE_BYTES: Final[dict[SealAlgorithm, tuple[int, ...]]] = {"aes-ccm": tuple(range(7, 14)), "aes-gcm": (12,)}
"""How long a nonce may be."""

TAG_BYTES: Final[dict[SealAlgorithm, tuple[int, ...]]] = {
    "aes-ccm": tuple(range(4, 17, 2)),
    "aes-gcm": tuple(range(4, 17)),
}
"""How long a tag may be."""

MOST_DATA_BYTES: Final = 0xFFFF
"""What AES-CCM can count with its longest nonce. No frame is longer."""

_MOST_KEYS: Final = 256
"""Key schedules kept: a device's frames come again and again, and with its schedule at hand each costs half."""


class PayloadSeal:
    """Opens and makes payloads of one algorithm and one length of tag.

    Args:
        algorithm: `aes-ccm` or `aes-gcm`.
        tag_bytes: 4 to 16; for `aes-ccm` only even numbers.

    Raises:
        CodecError: the algorithm has no such tag.
    """

    def __init__(self, algorithm: SealAlgorithm, tag_bytes: int) -> None:
        if tag_bytes not in TAG_BYTES.get(algorithm, ()):
            possible = ", ".join(str(each) for each in TAG_BYTES.get(algorithm, ())) or f"none of {algorithm!r}"
            raise CodecError(
                f"{algorithm} has no tag of {tag_bytes} bytes", where="tag_bytes", remedy=f"Possible: {possible}"
            )
        from edge_gateway.codec import aes  # only now; see there

        self.algorithm: Final = algorithm
        self.tag_bytes: Final = tag_bytes
        self._nonce_bytes = NONCE_BYTES[algorithm]
        self._under = functools.lru_cache(_MOST_KEYS)(functools.partial(aes.keyed, algorithm, tag_bytes))
        self._refusal: Final = aes.InvalidTag

    def __repr__(self) -> str:
        return f"PayloadSeal({self.algorithm!r}, {self.tag_bytes})"

    def open(self, key: bytes, nonce: bytes, data: bytes, tag: bytes, aad: bytes = b"") -> bytes | None:
        """The plain text; None if anything but the sender's own bytes, or another key, came in.

        Args:
            key: 16, 24 or 32 bytes.
            nonce: as the sender built it. One of a length that the algorithm has not opens nothing.
            data: the encrypted bytes without the tag, at most `MOST_DATA_BYTES`.
            tag: `tag_bytes` long.
            aad: what is protected and not encrypted.

        Raises:
            ValueError: the key has another length. Nothing that comes over the air raises.
        """
        if len(nonce) not in self._nonce_bytes or len(tag) != self.tag_bytes or len(data) > MOST_DATA_BYTES:
            return None
        try:
            return self._under(key).decrypt(nonce, data + tag, aad)
        except self._refusal:
            return None

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes = b"") -> tuple[bytes, bytes]:
        """The encrypted bytes and their tag; for simulators, commands and tests.

        Args:
            key: as for `open`.
            nonce: never the same twice under one key, or both texts lie open.
            plain: at most `MOST_DATA_BYTES`.
            aad: what is protected and not encrypted.

        Raises:
            CodecError: the nonce has a length that the algorithm has not, or there is too much data.
            ValueError: the key has another length.
        """
        if len(nonce) not in self._nonce_bytes:
            possible = ", ".join(str(each) for each in self._nonce_bytes)
            raise CodecError(
                f"{self.algorithm} has no nonce of {len(nonce)} bytes", where="nonce", remedy=f"Possible: {possible}"
            )
        if len(plain) > MOST_DATA_BYTES:
            raise CodecError(f"{len(plain)} bytes are too many to encrypt", remedy=f"At most {MOST_DATA_BYTES}")
        sealed = self._under(key).encrypt(nonce, plain, aad)
        return sealed[: -self.tag_bytes], sealed[-self.tag_bytes :]
