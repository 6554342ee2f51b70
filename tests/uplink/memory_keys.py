"""A key store that is a dictionary, for tests of who signs with one."""

from __future__ import annotations

import hashlib
import hmac

from edge_gateway.errors import KeyMissing
from edge_gateway.keystore import Secret


class MemoryKeys:
    """`KeyStore` of which only signing is used here; it counts that."""

    kind = "software"
    weakness = "a dictionary"

    def __init__(self) -> None:
        self._keys: dict[str, bytes] = {}
        self.signed: list[str] = []
        """Names of the keys that were signed with, in order."""

    def put(self, name: str, key: Secret) -> None:
        self._keys[name] = key.reveal()

    def sign(self, name: str, data: bytes) -> bytes:
        if name not in self._keys:
            raise KeyMissing(
                "there is no such key", where=f"key {name!r}", remedy=f"Import it: edge-gateway keys import {name}"
            )
        self.signed.append(name)
        return hmac.new(self._keys[name], data, hashlib.sha256).digest()

    def names(self) -> list[str]:
        return sorted(self._keys)

    def remove(self, name: str) -> None:
        del self._keys[name]

    def create(self, name: str) -> None:
        raise NotImplementedError

    def seal(self, secret: Secret) -> bytes:
        raise NotImplementedError

    def unseal(self, sealed: bytes) -> Secret:
        raise NotImplementedError

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def wipe(self) -> None:
        self._keys.clear()

    def close(self) -> None:
        """Nothing is open."""
