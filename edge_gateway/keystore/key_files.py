"""One file a key, mode 0600, in a directory of mode 0700 that belongs to the gateway's user.

What all keys have in common that are kept in files, whatever their content is sealed with. Who changes a directory
holds a lock on it, so that two threads or two processes do so one after the other; reading needs none, as a file is
replaced whole.

A wipe waits for nobody, so it takes no lock. Whoever keeps a key looks, before and after it has written, whether the
keys are being wiped, and takes back what it wrote too late. So a file is either there when the wipe looks for files, or
gone when its writer goes on.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import KeyMissing, KeyStoreError, KeyTaken
from edge_gateway.hardening import shared_with_others
from edge_gateway.keystore.generations import is_later_generation

SHORTEST_KEY_BYTES: Final = 16
LONGEST_KEY_BYTES: Final = 64
"""Of an identity. A hub gives 32 or 64."""

MOST_FILE_BYTES: Final = 4096
"""What is longer is no key, in whatever wrapping."""

WIPE_MARK: Final = "wipe.begun"
"""Beside the directories of keys: all of them are being wiped, or were. `emergency` puts it."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> None:
    """Refuse what cannot be a key's name, and so can be no path either.

    Raises:
        KeyStoreError: it has other characters than it may, or too many.
    """
    if not _NAME.fullmatch(name):
        raise KeyStoreError(
            "cannot be a key's name",
            where=repr(name),
            remedy="Use letters, digits, `.`, `_` and `-`, at most 64 of them",
        )


def check_size(name: str, size_bytes: int) -> None:
    """Refuse what is too short or too long to be an identity's key.

    Raises:
        KeyStoreError: it is.
    """
    if not SHORTEST_KEY_BYTES <= size_bytes <= LONGEST_KEY_BYTES:
        raise KeyStoreError(
            f"a key of {size_bytes} bytes cannot be used",
            where=f"key {name!r}",
            remedy=f"Give {SHORTEST_KEY_BYTES} to {LONGEST_KEY_BYTES} bytes",
        )


def refuse_if_wiped(directory: Path) -> None:
    """Refuse a directory of keys that are being wiped, or were.

    Raises:
        KeyStoreError: it is so.
    """
    try:
        (directory.parent / WIPE_MARK).stat()
    except OSError:
        return  # none; or a directory of somebody else's, who is told so elsewhere
    raise KeyStoreError(
        "the keys of this gateway were wiped, and none is kept any more",
        where=str(directory.parent),
        remedy="To use the box again, remove the data directory, then: edge-gateway provision",
    )


class KeyFiles:
    """Named files in a directory.

    Args:
        directory: made with mode 0700 when the first file is put.
        suffix: of the files' names; files with another are not ours.
        import_options: what `edge-gateway keys import` needs to bring such a key, beside its name.

    Raises:
        KeyStoreError: by every method, when a file's or the directory's mode would let others read a key.
    """

    def __init__(self, directory: Path, *, suffix: str = ".key", import_options: str = "") -> None:
        self.directory: Final = directory
        self._suffix = suffix
        self._import_options = import_options

    def path(self, name: str) -> Path:
        """Where a key is or would be.

        Raises:
            KeyStoreError: this cannot be a key's name.
        """
        check_name(name)
        return self.directory / f"{name}{self._suffix}"

    def put(self, name: str, content: bytes) -> None:
        """Keep a file; a power cut leaves the old one or the new one, and once this returns it is the new one.

        Raises:
            KeyTaken: it is a key's later generation, and there is one of this number.
            KeyStoreError: the name cannot be used, or the directory cannot be written.
        """
        path = self.path(name)
        with changing(self.directory, path):
            if is_later_generation(name) and path.exists():
                # Somebody else has counted at the same time; the key that he was told is kept has to stay.
                raise KeyTaken(
                    "there is a key of this name",
                    where=f"key {name!r}",
                    remedy="Do it again: it gets another number",
                )
            replace_durably(path, content, mode=0o600)

    def read(self, name: str) -> bytes:
        """What was put under this name.

        Raises:
            KeyMissing: there is nothing.
            KeyStoreError: it cannot be read, or was never put here.
        """
        path = self.path(name)
        try:
            _check_mode(self.directory)
            content = bytearray(MOST_FILE_BYTES + 1)
            size_bytes = read_private(path, content)
        except FileNotFoundError:
            raise self._missing(name) from None
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=str(path), remedy="Run as the user who imported the key"
            ) from error
        if size_bytes > MOST_FILE_BYTES:
            raise KeyStoreError("is too long to be a key", where=str(path), remedy="Import the key again")
        return bytes(content[:size_bytes])

    def is_empty(self, name: str) -> bool:
        """Whether a file is there and has no content."""
        try:
            return self.path(name).stat().st_size == 0
        except OSError:
            return False  # why it cannot be read, `read` will say

    def remove(self, name: str) -> None:
        """Overwrite a file and take it away, for good when this returns.

        Raises:
            KeyMissing: there is none.
            KeyStoreError: the directory cannot be written.
        """
        path = self.path(name)
        names = self.names()
        if name not in names:
            known = ", ".join(names) or "none"
            raise KeyMissing(
                "there is no such key", where=f"key {name!r} in {self.directory}", remedy=f"Keys there: {known}"
            )
        with changing(self.directory, path):
            destroy_file(path)
            sync_directory(self.directory)

    def empty(self, name: str) -> None:
        """Overwrite a file's content, and leave its name with nothing in it.

        Raises:
            KeyStoreError: the directory cannot be written.
        """
        path = self.path(name)
        with changing(self.directory, path):
            _overwrite(path)
            replace_durably(path, b"", mode=0o600)

    def remove_all(self) -> None:
        """Overwrite and take away every file of ours, also what a crash left half written. Modes are not asked for.

        Raises:
            KeyStoreError: some are still there; all that could go are gone.
        """
        left: list[str] = []
        try:
            for path in sorted(self.directory.iterdir()):
                if path.name.endswith((self._suffix, f"{self._suffix}.new")):
                    try:
                        destroy_file(path)
                    except FileNotFoundError:
                        continue  # its writer, or another wipe, was faster
                    except OSError as error:
                        left.append(f"{path.name} ({error.strerror})")
            sync_directory(self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            left.append(str(error.strerror))
        if left:
            raise KeyStoreError(
                f"could not be destroyed: {', '.join(left)}",
                where=str(self.directory),
                remedy="Remove the directory as root: rm -r",
            )

    def names(self) -> list[str]:
        """The names of all keys, sorted.

        Raises:
            KeyStoreError: the directory is there and cannot be read.
        """
        try:
            found = os.listdir(self.directory)  # noqa: PTH208  # paths take ten times as long, and there may be thousands
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise KeyStoreError(
                f"cannot be listed: {error.strerror}", where=str(self.directory), remedy="Look at the disk"
            ) from error
        names = (each.removesuffix(self._suffix) for each in found if each.endswith(self._suffix))
        return sorted(name for name in names if _NAME.fullmatch(name))

    def check(self) -> None:
        """Find out whether the directory, if there is one, can be used.

        Raises:
            KeyStoreError: others can read it, or it cannot be read.
        """
        try:
            _check_mode(self.directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise KeyStoreError(
                f"cannot be read: {error.strerror}", where=str(self.directory), remedy="Run as the gateway's user"
            ) from error
        self.names()

    def _missing(self, name: str) -> KeyMissing:
        refuse_if_wiped(self.directory)
        return KeyMissing(
            "there is no such key",
            where=f"key {name!r} in {self.directory}",
            remedy=f"Import it: edge-gateway keys import {name}{self._import_options} --config gateway.yaml < key.txt",
        )


@contextmanager
def changing(directory: Path, about: Path) -> Iterator[None]:
    """Have a directory to oneself, made if need be; on leaving, its own name is safe from a power cut.

    Args:
        directory: of mode 0700.
        about: the file that is put or taken away; errors name it.

    Raises:
        KeyStoreError: others could read what is in it, it cannot be written, or keys are being wiped.
    """
    refuse_if_wiped(directory)
    try:
        made = [each for each in (directory, *directory.parents) if not each.exists()]
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_mode(directory)
        with _locked(directory):
            yield
            _take_back_if_wiped(about)
        # Also of one that was there: a crash may have come between making it and this.
        for each in made or [directory]:
            sync_directory(each.parent)
    except OSError as error:
        refuse_if_wiped(directory)  # that may be why
        raise KeyStoreError(
            f"cannot be written: {error.strerror}", where=str(about), remedy="Check the directory's owner and space"
        ) from error


def _take_back_if_wiped(path: Path) -> None:
    """Destroy a file that was written while keys began to be wiped, whose files may have been looked for already."""
    try:
        refuse_if_wiped(path.parent)
    except KeyStoreError:
        with suppress(FileNotFoundError):
            destroy_file(path)
            sync_directory(path.parent)
        raise


def read_private(path: Path, content: bytearray) -> int:
    """Read a file that nobody else may read.

    Args:
        path: a plain file.
        content: filled from its beginning, so that no copy is left anywhere else.

    Returns:
        How many bytes of `content` were filled.

    Raises:
        KeyStoreError: somebody else may read it.
        OSError: it cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe in its place keeps nobody waiting
    try:
        if shared_with_others(file):
            raise _shared(path)
        return os.readv(file, [content])
    finally:
        os.close(file)


def write_private(path: Path, content: memoryview) -> None:
    """Make a file that nobody else may read, whole or not at all, as `replace_durably`; no copy is left in memory.

    Args:
        path: in a directory that the caller is `changing`.
        content: short.

    Raises:
        OSError: it could not be done.
    """
    aside = aside_of(path)
    aside.unlink(missing_ok=True)
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    aside.replace(path)
    sync_directory(path.parent)


def aside_of(path: Path) -> Path:
    """What a crash may leave while a file is written."""
    return path.with_name(f".{path.name}.new")


def destroy_file(path: Path) -> None:
    """Overwrite a file, and take it away. On flash, and on disks that keep old blocks, the content may still be there.

    Raises:
        OSError: it is still there.
    """
    _overwrite(path)
    path.unlink()


def sync_directory(directory: Path) -> None:
    """Make the names in a directory safe from a power cut.

    Raises:
        OSError: they may not be.
    """
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _overwrite(path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.pwrite(file, bytes(os.fstat(file).st_size), 0)
        os.fsync(file)
    finally:
        os.close(file)


def _check_mode(path: Path) -> None:
    if shared_with_others(path):
        raise _shared(path)


def _shared(path: Path) -> KeyStoreError:
    mode = stat.S_IMODE(path.stat().st_mode)
    return KeyStoreError(f"can be read by others (mode {mode:04o})", where=str(path), remedy=f"chmod go-rwx {path}")
