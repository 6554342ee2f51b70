"""Keys in files, for boxes without a TPM.

One file a key, mode 0600, in a directory of mode 0700 that belongs to the gateway's user. Whoever can read the disk can
read the keys: that is what a TPM is for, and why `status` calls this store by its name.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from pathlib import Path
from typing import Final

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import KeyStoreError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64


class SoftwareKeyStore:
    """`KeyStore` on a directory.

    Args:
        directory: made with mode 0700 when the first key is put.

    Raises:
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __repr__(self) -> str:
        return f"SoftwareKeyStore({str(self._directory)!r})"

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`. The key is read for each signature and not kept in memory."""
        return hmac.new(self._read(name), data, hashlib.sha256).digest()

    def put(self, name: str, key: bytes) -> None:
        """See `KeyStore.put`. A power cut leaves the old key or the new one."""
        path = self._path(name)
        if not SHORTEST_KEY_BYTES <= len(key) <= LONGEST_KEY_BYTES:
            raise KeyStoreError(
                f"a key of {len(key)} bytes cannot be used",
                where=f"key {name!r}",
                remedy=f"Give {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes",
            )
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check(self._directory)
            replace_durably(path, key, mode=0o600)
        except OSError as error:
            raise KeyStoreError(
                f"cannot be written: {error.strerror}", where=str(path), remedy="Check the directory's owner and space"
            ) from error

    def names(self) -> list[str]:
        """See `KeyStore.names`."""
        try:
            return sorted(path.stem for path in self._directory.glob("*.key"))
        except OSError as error:
            raise KeyStoreError(f"cannot be listed: {error.strerror}", where=str(self._directory)) from error

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise KeyStoreError(
                "cannot be a key's name",
                where=repr(name),
                remedy="Use letters, digits, `.`, `_` and `-`, at most 64 of them",
            )
        return self._directory / f"{name}.key"

    def _read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            self._check(self._directory)
            self._check(path)
            return path.read_bytes()
        except FileNotFoundError:
            raise KeyStoreError(
                "there is no such key",
                where=f"key {name!r} in {self._directory}",
                remedy=f"Import it: edge-gateway keys import {name} --config gateway.yaml < key.txt",
            ) from None
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=str(path), remedy="Run as the user who imported the key"
            ) from error

    @staticmethod
    def _check(path: Path) -> None:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise KeyStoreError(
                f"can be read by others (mode {mode:04o})",
                where=str(path),
                remedy=f"chmod go-rwx {path}",
            )
