"""Holds keys by name, so that the configuration can name them and need not contain them.

There are three kinds, kept apart. An identity key goes in and never comes out: the store signs with it. A payload key
is shared with a sensor and must be computed with here, so it can be opened, as a `Secret` that tells nobody what it is.
A data key is made here, for what the gateway keeps on its disk, and opened likewise; it has a number for a name. What
opens payloads or data has no way to an identity key.
"""

from __future__ import annotations

from typing import Final, NoReturn, Protocol

DATA_KEY_BYTES: Final = 32
"""AES-256."""


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


class DataKeys(Protocol):
    """Makes and holds the keys of what the gateway keeps on its disk, by number. The highest is the newest.

    Opening may be slow (a TPM takes a tenth of a second) and may fail for a while; who opens keeps what was opened at
    hand.
    """

    def ids(self) -> list[int]:
        """The numbers of all keys, sorted; of those too that cannot be opened now.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        ...

    def create(self) -> int:
        """Make a random key of `DATA_KEY_BYTES`.

        When this returns the key can be opened, and survives a power cut. One that comes before may leave a key that
        nobody has used.

        Returns:
            Its number, higher than any this store has ever given, to keys since destroyed too; 1 for the first.

        Raises:
            KeyStoreError: the store cannot be written.
        """
        ...

    def open(self, key_id: int) -> Secret:
        """The key of this number.

        Raises:
            KeyStoreError: it cannot be opened now, or there is none: which of both, `ids` tells.
        """
        ...

    def destroy(self, key_id: int) -> None:
        """Forget a key, for good when this returns: what is sealed under it can never be opened again.

        Raises:
            KeyStoreError: there is none, or the store cannot be written; the key may still be there.
        """
        ...
