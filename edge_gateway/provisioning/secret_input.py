"""Secrets that come in by a file or standard input, and are erased from the file when they are in the key store.

A program's arguments are seen by every user of the machine, so a secret is never one.

Erasing overwrites the file's bytes in place, syncs, and removes its name. That is all a program can do: flash storage
and file systems that keep old blocks (btrfs, snapshots, backups) may still have them. Where that matters, bring secrets
by standard input over ssh, and nothing has to be erased.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from edge_gateway.errors import ConfigError

STANDARD_INPUT: Final = "-"

_LOOKS_SECRET: Final = re.compile(r"SharedAccessKey|^[A-Za-z0-9+/]{20,}={1,2}$")
"""A connection string, or a key in base64."""

_CHUNK_BYTES: Final = 65_536
_UTF_16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class SecretInput:
    """The content of a secret file, or of standard input. As a context manager it wipes its copy when left.

    Args:
        source: the file's path, or `-` for standard input.
        most_bytes: more is refused.
        keep_file: the file is not going to be erased.

    Raises:
        ConfigError: it cannot be read, is too long, or could not be erased afterwards. Nothing was changed.
    """

    def __init__(self, source: str, *, most_bytes: int, keep_file: bool = False) -> None:
        if _LOOKS_SECRET.search(source):
            # Not repeated: what is told may be kept.
            raise ConfigError(
                "looks like the secret itself, and is to be the name of a file",
                where="what was given as a file",
                remedy="Give `-` and paste it then. Arguments are seen by others and kept in the shell's history: have "
                "a new key made",
            )
        self.where: Final = "standard input" if source == STANDARD_INPUT else source
        self._to_erase: Path | None = None
        self._inode = (0, 0)
        try:
            if source == STANDARD_INPUT:
                self._note = _note_on_standard_input()
                self.content = self._read(cast("io.BufferedReader", sys.stdin.buffer), most_bytes)
            else:
                self._note = self._prepare_file(Path(source).resolve(strict=True), keep_file)
                with Path(source).open("rb", buffering=0) as file:
                    self.content = self._read(file, most_bytes)
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", where=self.where, remedy="Name a file that this user can read"
            ) from error
        if self.content.startswith(codecs.BOM_UTF8):  # as Windows' editors put it in front
            del self.content[: len(codecs.BOM_UTF8)]
        if self.content.startswith(_UTF_16):
            raise ConfigError("is text in UTF-16", where=self.where, remedy="Save it as UTF-8 and give it again")
        if b"\0" in self.content:
            raise ConfigError(
                "is not text, or was about to be erased when that was cut short",
                where=self.where,
                remedy="See with `edge-gateway provision list` what is provisioned; if all is, erase what is left: "
                f"shred -u {self.where}",
            )

    def erase(self) -> str:
        """Erase the file. Call it when what was in it is safe.

        Returns:
            What was done, or what is left to be done, in a sentence; empty if there is nothing to say.

        Raises:
            ConfigError: it cannot be erased, or it is not the file it was.
        """
        path = self._to_erase
        if path is None:
            return self._note
        try:
            _overwrite(path, self._inode)
            path.unlink()
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise ConfigError(
                f"all is provisioned, but the file cannot be erased: {error.strerror}",
                where=str(path),
                remedy=f"Erase it yourself: shred -u {path}",
            ) from error
        self._to_erase = None
        return f"{path} is erased{self._note}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.content[:] = bytes(len(self.content))

    def _prepare_file(self, path: Path, keep_file: bool) -> str:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return ""  # a pipe of the shell's: what has been read is gone
        if keep_file:
            return f"{path} still has the secret; you asked for that with --keep-file"
        # Found out now, and not when everything else is done.
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)):
            raise ConfigError(
                "this user could not erase it afterwards",
                where=self.where,
                remedy="Let the user write the file and its directory, or erase it yourself and give --keep-file",
            )
        self._to_erase = path
        self._inode = (found.st_dev, found.st_ino)
        return ". Others could read it until now" if found.st_mode & (stat.S_IRGRP | stat.S_IROTH) else ""

    def _read(self, file: io.BufferedReader | io.FileIO, most_bytes: int) -> bytearray:
        # Read into memory that can be wiped, and not into an immutable copy first.
        content = bytearray(most_bytes + 1)
        filled = 0
        with memoryview(content) as view:
            while filled < len(content):
                got_bytes = file.readinto(view[filled:])
                if not got_bytes:
                    break
                filled += got_bytes
        if filled > most_bytes:
            content[:] = bytes(len(content))
            raise ConfigError(
                f"is longer than {most_bytes} bytes", where=self.where, remedy="Give the secret and nothing else"
            )
        del content[filled:]
        return content


def _note_on_standard_input() -> str:
    """What to say of standard input: a file that the shell has opened for us stays, and we have no name for it."""
    try:
        is_file = stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):  # no file at all, as in a test
        return ""
    return (
        "standard input was a file, and it still has the secret: erase it, for instance by shred -u" if is_file else ""
    )


def _overwrite(path: Path, inode: tuple[int, int]) -> None:
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) != inode:
            raise ConfigError(
                "another file has taken its place meanwhile",
                where=str(path),
                remedy="Look which file has the secret, and erase it",
            )
        for start in range(0, found.st_size, _CHUNK_BYTES):
            os.pwrite(file, bytes(min(_CHUNK_BYTES, found.st_size - start)), start)
        os.fsync(file)
    finally:
        os.close(file)
