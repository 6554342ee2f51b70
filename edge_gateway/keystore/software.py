"""Keys in files, for boxes without a TPM, which is why `status` calls these stores by their name."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from edge_gateway.keystore import Secret
from edge_gateway.keystore.key_files import KeyFiles

SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64

PAYLOAD_KEY_BYTES: Final = (16, 24, 32)
"""AES-128, AES-192 and AES-256."""


class SoftwareKeyStore:
    """`KeyStore` on a directory.

    Args:
        directory: made with mode 0700 when the first key is put.

    Raises:
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(self, directory: Path) -> None:
        self._files = KeyFiles(
            directory,
            sizes_bytes=range(SHORTEST_KEY_BYTES, LONGEST_KEY_BYTES + 1),
            sizes_told=f"{SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes",
        )

    def __repr__(self) -> str:
        return f"SoftwareKeyStore({str(self._files.directory)!r})"

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`. The key is read for each signature and not kept in memory."""
        return hmac.new(self._files.read(name), data, hashlib.sha256).digest()

    def put(self, name: str, key: bytes) -> None:
        """See `KeyStore.put`. A power cut leaves the old key or the new one."""
        self._files.put(name, key)

    def remove(self, name: str) -> None:
        """Forget a key.

        Raises:
            KeyStoreError: no such key, or the directory cannot be written.
        """
        self._files.remove(name)

    def names(self) -> list[str]:
        """See `KeyStore.names`."""
        return self._files.names()


class SoftwarePayloadKeys:
    """`PayloadKeyStore` on a directory of its own.

    Args:
        directory: made with mode 0700 when the first key is put.

    Raises:
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(self, directory: Path) -> None:
        self._files = KeyFiles(
            directory,
            sizes_bytes=PAYLOAD_KEY_BYTES,
            sizes_told="16, 24 or 32 bytes, as AES takes",
            import_options=" --payload",
        )

    def __repr__(self) -> str:
        return f"SoftwarePayloadKeys({str(self._files.directory)!r})"

    def open_key(self, name: str) -> Secret:
        """See `PayloadKeyStore.open_key`."""
        return Secret(self._files.read(name))

    def put(self, name: str, key: bytes) -> None:
        """See `PayloadKeyStore.put`. A power cut leaves the old key or the new one."""
        self._files.put(name, key)

    def remove(self, name: str) -> None:
        """See `PayloadKeyStore.remove`."""
        self._files.remove(name)

    def names(self) -> list[str]:
        """See `PayloadKeyStore.names`."""
        return self._files.names()
