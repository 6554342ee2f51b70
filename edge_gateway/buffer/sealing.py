"""Encryption at rest: what the store keeps can be read, changed or moved by nobody without the data key.

A sealed payload is self-contained:

```
format  key id  salt  counter  check | encrypted payload | tag
1       4       16    4        4       as long as it was   16 bytes      numbers are big-endian
```

`format` says whether the payload was compressed (zstd) before AES-256-GCM, `check` is the CRC-32 of what stands before
it. The tag holds for the payload, for this header, and for the context that the store gives, which says where the
payload belongs. The check is for the key id: were one of its bits to flip, a key that never was would look like a lost
one.

Why a nonce never comes twice under one key, whatever a power cut undoes: nothing about nonces is kept. A data key
encrypts nothing itself. Each process, and each change of key, draws a random salt when it first seals; the key used is
HKDF-SHA256 (RFC 5869) of data key and salt; under it the nonce is a counter, which moves on before it is used and lives
no longer than the key does. That is the deterministic construction of NIST SP 800-38D, section 8.2.1. Two salts of 128
bits are the same once in 2^128 pairs: after a million starts with one data key the odds are about 1 in 10^27.
"""

from __future__ import annotations

import functools
import hmac
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable, PayloadDamaged
from edge_gateway.keystore import DataKeys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_log = structlog.get_logger()

MOST_PAYLOAD_BYTES: Final = 1 << 20
"""A message is at most a quarter of this, whatever is configured."""

_HEAD: Final = struct.Struct(">BI16sI")
_CHECK: Final = struct.Struct(">I")
_HEADER_BYTES: Final = _HEAD.size + _CHECK.size
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

OVERHEAD_BYTES: Final = _HEADER_BYTES + _TAG_BYTES
"""By how much a sealed payload is longer than the payload, if compression does not gain more than that."""

_PLAIN: Final = 1
_ZSTD: Final = 2

_WORTH_COMPRESSING_BYTES: Final = 256
"""A lone reading is shorter and shrinks by an eighth; two of them shrink to a half."""

_COMPRESSION_LEVEL: Final = 1
"""On JSON of readings smaller and faster than 3; the faster negative levels leave a half more."""

_MOST_SEALS: Final = 1 << 32
"""Under one salt: what the counter holds, and what NIST SP 800-38D, section 8.3, allows a key."""

_PURPOSE: Final = b"edge-gateway buffer payload aes-256-gcm"
"""Keys for other purposes derived from the same data key have nothing to do with these."""

_KEYS_AT_HAND: Final = 4
"""Opened data keys kept in memory: the newest, and that of the oldest payload of each lane."""

_CIPHERS_AT_HAND: Final = 8
"""Derived keys kept in memory, one for each start of the gateway whose payloads are read just now."""


def key_id_of(sealed: bytes) -> int:
    """The number of the data key that a sealed payload needs.

    Raises:
        PayloadDamaged: it does not begin as a sealed payload does.
    """
    return _read_header(sealed)[1]


class Sealer:
    """Seals and opens payloads. For one thread at a time.

    Args:
        keys: data keys. The first is made when the first payload is sealed; no key is asked for before it is needed.
        random_bytes: gives so many bytes for a salt; never the same in two processes that share a data key.
        most_payload_bytes: of one payload. What is longer when unpacked is not what was sealed, and takes no memory.
    """

    def __init__(
        self,
        keys: DataKeys,
        *,
        random_bytes: Callable[[int], bytes] = os.urandom,
        most_payload_bytes: int = MOST_PAYLOAD_BYTES,
    ) -> None:
        # Imported only by who seals: 7 MiB.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._keys = keys
        self._random_bytes = random_bytes
        self._most_payload_bytes = most_payload_bytes
        self._aes_gcm = AESGCM
        self._refusal = InvalidTag
        self._open_key = functools.lru_cache(_KEYS_AT_HAND)(keys.open)
        self._cipher = functools.lru_cache(_CIPHERS_AT_HAND)(self._derive)
        self._opening: _Opening | None = None

    @property
    def key_id(self) -> int:
        """The number of the key under which payloads are sealed now; made if there is none.

        Raises:
            KeyStoreError: it cannot be told or made now.
        """
        return self._under_way().key_id

    def key_ids(self) -> list[int]:
        """The numbers of all data keys there are. A payload that needs another one will never open.

        Raises:
            KeyStoreError: they cannot be told now.
        """
        return self._keys.ids()

    def seal(self, payload: bytes, context: bytes) -> bytes:
        """Compress if that makes it shorter, and encrypt.

        Args:
            payload: at most `most_payload_bytes`.
            context: opens with these bytes only; they are not kept.

        Raises:
            KeyStoreError: there is no key now; trying again later may work.
            ValueError: the payload is too long.
        """
        if len(payload) > self._most_payload_bytes:
            raise ValueError(f"a payload of {len(payload)} bytes is longer than {self._most_payload_bytes}")
        opening = self._under_way()
        data_format, data = _PLAIN, payload
        if len(payload) >= _WORTH_COMPRESSING_BYTES:
            compressed = self._compression.compress(payload)
            if len(compressed) < len(payload):
                data_format, data = _ZSTD, compressed
        counter = opening.counter
        opening.counter = counter + 1  # first of all: what fails from here on has used it up
        head = _HEAD.pack(data_format, opening.key_id, opening.salt, counter)
        header = head + _CHECK.pack(zlib.crc32(head))
        return header + opening.cipher.encrypt(_nonce(counter), data, header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The payload, which is what was sealed with this context and nothing else.

        Raises:
            PayloadDamaged: it was changed, cut short or moved.
            KeyStoreError: its key cannot be opened now, or is not among `key_ids` and never will be.
        """
        data_format, key_id, salt, counter = _read_header(sealed)
        cipher = self._cipher(key_id, salt)
        try:
            data = cipher.decrypt(_nonce(counter), sealed[_HEADER_BYTES:], sealed[:_HEADER_BYTES] + context)
        except self._refusal:
            raise _damaged(sealed, "was changed, or is not where it was put") from None
        if data_format == _PLAIN:
            return data
        payload = self._compression.decompress(data)
        if payload is None:
            raise _damaged(sealed, "does not unpack")
        return payload

    def rotate(self) -> int:
        """Make a new key and seal under it from now on.

        Returns:
            Its number.

        Raises:
            KeyStoreError: it cannot be made or opened now; the key in use stays.
        """
        self._opening = self._begin(self._keys.create())
        return self._opening.key_id

    def retire(self, oldest_needed: int) -> list[int]:
        """Destroy the keys that nothing needs any more; never the one in use.

        Args:
            oldest_needed: the lowest `key_id_of` a sealed payload that is kept, or that a power cut may bring back.

        Returns:
            The numbers of those destroyed.

        Raises:
            KeyStoreError: one could not be destroyed; it and those after it are still there.
        """
        needed = min(oldest_needed, self.key_id)
        old = [key_id for key_id in self._keys.ids() if key_id < needed]
        if old:
            self._open_key.cache_clear()
            self._cipher.cache_clear()
        for key_id in old:
            self._keys.destroy(key_id)
        return old

    def _under_way(self) -> _Opening:
        if self._opening is None:
            self._opening = self._begin_with_newest()
        elif self._opening.counter >= _MOST_SEALS:
            self._opening = self._begin(self._opening.key_id)
        return self._opening

    def _begin_with_newest(self) -> _Opening:
        ids = self._keys.ids()
        if ids:
            try:
                return self._begin(ids[-1])
            except KeyStoreUnavailable:
                raise  # it will be back, and with it what was sealed
            except KeyStoreError as error:
                # A key that is lost, as when a TPM was cleared, must not keep new records out.
                key_id = self._keys.create()
                _log.error("buffer.data_key_replaced", key=ids[-1], by=key_id, reason=str(error))
                return self._begin(key_id)
        return self._begin(self._keys.create())

    def _begin(self, key_id: int) -> _Opening:
        salt = self._random_bytes(_SALT_BYTES)
        return _Opening(key_id, salt, self._cipher(key_id, salt))

    def _derive(self, key_id: int, salt: bytes) -> AESGCM:
        """The cipher under a data key and a salt. HKDF for one block is these two lines, RFC 5869, section 2."""
        extracted = hmac.digest(salt, self._open_key(key_id).reveal(), "sha256")
        return self._aes_gcm(hmac.digest(extracted, _PURPOSE + b"\x01", "sha256"))

    @functools.cached_property
    def _compression(self) -> _Compression:
        return _Compression(self._most_payload_bytes)


class _Compression:
    """The compression library, which comes with the first payload worth it: 1 MiB that lone readings need not pay."""

    def __init__(self, most_bytes: int) -> None:
        import zstandard

        self._most_bytes = most_bytes
        self._content_bytes = zstandard.frame_content_size
        self._refusal = zstandard.ZstdError
        self.compress = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def decompress(self, data: bytes) -> bytes | None:
        """What was compressed; None if that is longer than may be, or nothing was."""
        try:
            # Asked before: the library makes room for whatever length the data claim to have.
            if not 0 < self._content_bytes(data) <= self._most_bytes:
                return None
            return self._decompress(data)
        except self._refusal:
            return None


@dataclass(slots=True)
class _Opening:
    """What payloads are sealed with from one draw of a salt to the next."""

    key_id: int
    salt: bytes
    cipher: AESGCM
    counter: int = 0
    """The next payload's; never goes back."""


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(_NONCE_BYTES, "big")


def _read_header(sealed: bytes) -> tuple[int, int, bytes, int]:
    """Format, key id, salt and counter."""
    if len(sealed) < OVERHEAD_BYTES:
        raise _damaged(sealed, "is cut short")
    if zlib.crc32(sealed[: _HEAD.size]) != _CHECK.unpack_from(sealed, _HEAD.size)[0]:
        raise _damaged(sealed, "has a header that was changed")
    data_format, key_id, salt, counter = _HEAD.unpack_from(sealed)
    if data_format not in (_PLAIN, _ZSTD):
        raise _damaged(sealed, f"is of format {data_format}, which is not known here")
    return data_format, key_id, salt, counter


def _damaged(sealed: bytes, what: str) -> PayloadDamaged:
    return PayloadDamaged(what, where=f"sealed payload of {len(sealed)} bytes")
