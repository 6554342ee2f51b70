"""Holds keys by name, so that the configuration can name them and need not contain them.

There are two kinds, kept apart. An identity key goes in and never comes out: the store signs with it. A payload key is
shared with a sensor and must be computed with here, so it can be opened, as a `Secret` that tells nobody what it is.
What opens payloads has no way to an identity key.
"""

from __future__ import annotations

from typing import NoReturn, Protocol


class KeyStore(Protocol):
    """Holds symmetric keys by name, and signs."""

    def sign(self, name: str, data: bytes) -> bytes:
        """HMAC-SHA256 of `data` under the key `name`, 32 bytes.

        Raises:
            KeyStoreError: no such key, or it cannot be used.
        """
        ...

    def put(self, name: str, key: bytes) -> None:
        """Store a key of 16 to 64 bytes under `name`, replacing an older one.

        Raises:
            KeyStoreError: the name or the key cannot be used, or the store cannot be written.
        """
        ...

    def names(self) -> list[str]:
        """The names of all keys, sorted."""
        ...


class Secret:
    """A key in the open, for code that computes with it. It is not printed, logged, compared, copied or pickled."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def reveal(self) -> bytes:
        """The key itself: hand it to the cipher and to nobody else."""
        return self._key

    def __repr__(self) -> str:
        return f"Secret({len(self._key)} bytes)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not for pickling or copying")


class PayloadKeyStore(Protocol):
    """Holds the keys of encrypted sensor payloads by name."""

    def open_key(self, name: str) -> Secret:
        """The key `name`: AES, so of 16, 24 or 32 bytes.

        Raises:
            KeyStoreError: no such key, or it cannot be used.
        """
        ...

    def put(self, name: str, key: bytes) -> None:
        """Store a key of 16, 24 or 32 bytes under `name`, replacing an older one.

        Raises:
            KeyStoreError: the name or the key cannot be used, or the store cannot be written.
        """
        ...

    def remove(self, name: str) -> None:
        """Forget the key `name`.

        Raises:
            KeyStoreError: no such key, or the store cannot be written.
        """
        ...

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        ...
