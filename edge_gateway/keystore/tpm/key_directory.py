"""The store's part of the disk: a file a key, the storage root key's name, and whether a wipe has begun.

| File | Content |
| --- | --- |
| `NAME.tpm` | a key, wrapped by the TPM: see `wrapped` |
| `srk.name` | the Name of the storage root key, in hex: the TPM and the owner these keys belong to |
| `wipe.begun` | empty: a wipe was begun and has not ended |

The directory has mode 0700 and the files 0600. What is in them opens in one TPM only; the modes are for those who
could then have that TPM sign.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import KeyMissing, KeyStoreError
from edge_gateway.keystore.tpm.wrapped import LONGEST_WRAPPED_BYTES, Wrapped

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX: Final = ".tpm"
_ROOT_FILE: Final = "srk.name"
_WIPE_FILE: Final = "wipe.begun"
_ROOT_NAME: Final = re.compile(rb"[0-9a-f]{68}\n")


class KeyDirectory:
    """Wrapped keys by name. Needs no TPM.

    Args:
        path: made with mode 0700 when the first file is written.

    Raises:
        KeyStoreError: by every method, when a mode lets others in, or the disk does not do its part.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path

    def check_name(self, name: str) -> None:
        """Refuse what could lead elsewhere."""
        if not _NAME.fullmatch(name):
            raise KeyStoreError(
                "cannot be a key's name",
                where=repr(name),
                remedy="Use letters, digits, `.`, `_` and `-`, at most 64 of them",
            )

    def names(self) -> list[str]:
        """Of all keys, sorted."""
        try:
            found = os.listdir(self.path)  # noqa: PTH208  # paths take ten times as long, and there may be thousands
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _failed("cannot be listed", self.path, error) from error
        return sorted(
            each.removesuffix(_SUFFIX) for each in found if each.endswith(_SUFFIX) and not each.startswith(".")
        )

    def read(self, name: str) -> Wrapped:
        """A key.

        Raises:
            KeyMissing: there is none of this name.
            KeyStoreError: it is not as it was written.
        """
        self.check_name(name)
        path = self._key_path(name)
        content = self._read(path, LONGEST_WRAPPED_BYTES)
        if content is None:
            raise KeyMissing(
                "there is no such key",
                where=f"key {name!r} in {self.path}",
                remedy=f"Import it: edge-gateway keys import {name} --config gateway.yaml < key.txt",
            )
        return Wrapped.from_bytes(content, label=name, where=str(path))

    def put(self, key: Wrapped) -> None:
        """Keep a key under its label; a power cut leaves the older one or this one."""
        self._write(self._key_path(key.label), key.to_bytes())

    def remove(self, name: str) -> None:
        """Forget a key.

        Raises:
            KeyMissing: there is none of this name.
        """
        self.check_name(name)
        self._check_directory()
        try:
            self._key_path(name).unlink()
            _sync(self.path)
        except FileNotFoundError:
            known = ", ".join(self.names()[:20]) or "none"
            raise KeyMissing(
                "there is no such key", where=f"key {name!r} in {self.path}", remedy=f"Keys there: {known}"
            ) from None
        except OSError as error:
            raise _failed("cannot be removed", self._key_path(name), error) from error

    @property
    def root_path(self) -> Path:
        """The file that says which storage root key these keys belong to; for errors."""
        return self.path / _ROOT_FILE

    def root_name(self) -> bytes | None:
        """The Name of the storage root key these keys belong to; None before the first.

        Raises:
            KeyStoreError: the file is damaged, or is gone while there are keys.
        """
        content = self._read(self.root_path, 100)
        if content is None:
            if self.names():
                raise KeyStoreError(
                    "it is missing, while there are keys",
                    where=str(self.root_path),
                    remedy="Bring the directory back from a backup, whole",
                )
            return None
        if not _ROOT_NAME.fullmatch(content):
            raise KeyStoreError(
                "not what the key store wrote",
                where=str(self.root_path),
                remedy="Bring it back from this box's backup, or wipe: edge-gateway keys wipe",
            )
        return bytes.fromhex(content.decode("ascii"))

    def pin_root(self, name: bytes) -> None:
        """Remember the storage root key's Name for good."""
        self._write(self.root_path, name.hex().encode("ascii") + b"\n")

    @property
    def is_being_wiped(self) -> bool:
        """Whether a wipe has begun and not ended."""
        return (self.path / _WIPE_FILE).exists()

    def begin_wipe(self) -> None:
        """From now on, over any power cut, until `end_wipe`, this is a store that is being wiped."""
        self._write(self.path / _WIPE_FILE, b"")

    def delete_all(self) -> None:
        """Delete keys first, then what says whose they were."""
        try:
            for path in sorted(self.path.iterdir()):
                if path.name.removesuffix(".new").endswith(_SUFFIX):
                    path.unlink()
            _sync(self.path)
            self.root_path.unlink(missing_ok=True)
            _sync(self.path)
        except OSError as error:
            raise _failed("cannot be wiped", self.path, error) from error

    def end_wipe(self) -> None:
        """The store is as new."""
        try:
            (self.path / _WIPE_FILE).unlink(missing_ok=True)
            _sync(self.path)
        except OSError as error:
            raise _failed("cannot be wiped", self.path, error) from error

    def check(self) -> None:
        """See that nobody else gets at the files, and that what they hold can be told."""
        self._check_directory()
        self.root_name()

    def _key_path(self, name: str) -> Path:
        return self.path / f"{name}{_SUFFIX}"

    def _read(self, path: Path, longest_bytes: int) -> bytes | None:
        """A whole file, or one byte more than it may have; None if there is none."""
        self._check_directory()
        try:
            with path.open("rb") as file:
                _check_mode(path, os.fstat(file.fileno()))
                return file.read(longest_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("cannot be read", path, error) from error

    def _write(self, path: Path, content: bytes) -> None:
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync(self.path.parent)
            self._check_directory()
            replace_durably(path, content, mode=0o600)
        except OSError as error:
            raise _failed("cannot be written", path, error) from error

    def _check_directory(self) -> None:
        try:
            _check_mode(self.path, self.path.stat())
        except FileNotFoundError:
            return  # nothing has been written yet
        except OSError as error:
            raise _failed("cannot be read", self.path, error) from error


def _check_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise KeyStoreError(f"can be read by others (mode {mode:04o})", where=str(path), remedy=f"chmod go-rwx {path}")


def _failed(what: str, path: Path, error: OSError) -> KeyStoreError:
    return KeyStoreError(
        f"{what}: {error.strerror}", where=str(path), remedy="Check the directory's owner and space, and the disk"
    )


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
