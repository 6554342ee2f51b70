"""The keys of encrypted sensor payloads, in files that the key store has sealed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.sealed_files import SealedFiles
from edge_gateway.keystore.secret import Secret

PAYLOAD_KEY_BYTES: Final = (16, 24, 32)
"""AES-128, AES-192 and AES-256."""


class SealedPayloadKeys:
    """`PayloadKeyStore` on a directory of its own.

    Args:
        directory: made with mode 0700 when the first key is put.
        store: seals the keys.

    Raises:
        KeyStoreUnavailable: by `put` and `open_key`, while the store does not answer.
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(self, directory: Path, store: KeyStore) -> None:
        self._sealed = SealedFiles(
            directory,
            store,
            kind="payload key",
            remedy=lambda name: f"Import it again: edge-gateway keys import {name} --payload",
            import_options=" --payload",
        )

    def __repr__(self) -> str:
        return f"SealedPayloadKeys({str(self._sealed.files.directory)!r})"

    def open_key(self, name: str) -> Secret:
        """See `PayloadKeyStore.open_key`."""
        return self._sealed.open(name)

    def put(self, name: str, key: Secret) -> None:
        """See `PayloadKeyStore.put`. A power cut leaves the old key or the new one."""
        self._sealed.files.path(name)
        if len(key) not in PAYLOAD_KEY_BYTES:
            raise KeyStoreError(
                f"a key of {len(key)} bytes cannot be used",
                where=f"key {name!r}",
                remedy="Give 16, 24 or 32 bytes, as AES takes",
            )
        self._sealed.put(name, key)

    def remove(self, name: str) -> None:
        """See `PayloadKeyStore.remove`."""
        self._sealed.files.remove(name)

    def names(self) -> list[str]:
        """See `PayloadKeyStore.names`."""
        return self._sealed.files.names()

    def wipe(self) -> None:
        """Destroy all keys.

        Raises:
            KeyStoreError: something may be left; the text says what. The next call ends it.
        """
        self._sealed.files.remove_all()
