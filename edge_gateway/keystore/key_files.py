"""One file a key, mode 0600, in a directory of mode 0700 that belongs to the gateway's user.

What both kinds of keys have in common when they are kept in files. Whoever can read the disk can read the keys: that is
what a TPM is for.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Container
from pathlib import Path
from typing import Final

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import KeyStoreError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX: Final = ".key"


class KeyFiles:
    """Named keys in a directory.

    Args:
        directory: made with mode 0700 when the first key is put.
        sizes_bytes: how long a key may be.
        sizes_told: the same for people.
        import_options: what `edge-gateway keys import` needs to bring such a key, beside its name.

    Raises:
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(
        self, directory: Path, *, sizes_bytes: Container[int], sizes_told: str, import_options: str = ""
    ) -> None:
        self.directory: Final = directory
        self._sizes_bytes = sizes_bytes
        self._sizes_told = sizes_told
        self._import_options = import_options

    def put(self, name: str, key: bytes) -> None:
        """Keep a key; a power cut leaves the old one or the new one.

        Raises:
            KeyStoreError: the name or the key cannot be used, or the directory cannot be written.
        """
        path = self._path(name)
        self._check_size(name, key)
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_mode(self.directory)
            replace_durably(path, key, mode=0o600)
        except OSError as error:
            raise KeyStoreError(
                f"cannot be written: {error.strerror}", where=str(path), remedy="Check the directory's owner and space"
            ) from error

    def read(self, name: str) -> bytes:
        """The key of this name.

        Raises:
            KeyStoreError: there is none, it cannot be read, or it is no key.
        """
        path = self._path(name)
        try:
            _check_mode(self.directory)
            _check_mode(path)
            key = path.read_bytes()
        except FileNotFoundError:
            raise self._missing(name) from None
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=str(path), remedy="Run as the user who imported the key"
            ) from error
        self._check_size(name, key)
        return key

    def remove(self, name: str) -> None:
        """Forget a key.

        Raises:
            KeyStoreError: there is none, or the directory cannot be written.
        """
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            known = ", ".join(self.names()) or "none"
            raise KeyStoreError(
                "there is no such key", where=f"key {name!r} in {self.directory}", remedy=f"Keys there: {known}"
            ) from None
        except OSError as error:
            raise KeyStoreError(
                f"cannot be removed: {error.strerror}", where=str(path), remedy="Run as the user who imported the key"
            ) from error

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            KeyStoreError: the directory is there and cannot be read.
        """
        try:
            return sorted(path.stem for path in self.directory.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise KeyStoreError(f"cannot be listed: {error.strerror}", where=str(self.directory)) from error

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise KeyStoreError(
                "cannot be a key's name",
                where=repr(name),
                remedy="Use letters, digits, `.`, `_` and `-`, at most 64 of them",
            )
        return self.directory / f"{name}{_SUFFIX}"

    def _check_size(self, name: str, key: bytes) -> None:
        if len(key) not in self._sizes_bytes:
            raise KeyStoreError(
                f"a key of {len(key)} bytes cannot be used",
                where=f"key {name!r}",
                remedy=f"Give {self._sizes_told}",
            )

    def _missing(self, name: str) -> KeyStoreError:
        return KeyStoreError(
            "there is no such key",
            where=f"key {name!r} in {self.directory}",
            remedy=f"Import it: edge-gateway keys import {name}{self._import_options} --config gateway.yaml < key.txt",
        )


def _check_mode(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyStoreError(
            f"can be read by others (mode {mode:04o})",
            where=str(path),
            remedy=f"chmod go-rwx {path}",
        )
