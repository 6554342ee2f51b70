"""Signs for the gateway; a key goes in and never comes out.

The configuration names keys, this store holds them. Whoever needs to prove an identity asks for a signature.
"""

from __future__ import annotations

from typing import Protocol


class KeyStore(Protocol):
    """Holds symmetric keys by name."""

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
