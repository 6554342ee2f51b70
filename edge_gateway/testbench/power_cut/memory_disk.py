"""A disk in memory under SQLite that notes, in order, what it was asked to do and what was said to the outside.

It is an apsw VFS that answers as SQLite's own for Linux does: the same sector size and device characteristics, and a
sync of a new journal or log syncs its directory too (`UNIXFILE_DIRSYNC` in os_unix.c). There is no shared memory: the
store's `locking_mode=EXCLUSIVE` keeps the index of the log on the heap, so there is no `-shm` file at all.

SQLite's random numbers come from the disk's own generator, so that the same seed writes the same bytes: the salts of
the log are random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import apsw

SECTOR_SIZE: Final = 4096
CHARACTERISTICS: Final = apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE | 0x8000
"""What SQLite's VFS says on Linux; 0x8000 is SUBPAGE_READ, for which older apsw has no name."""


@dataclass(frozen=True, slots=True)
class Created:
    """A name was given to a new, empty file."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """A name was taken away."""

    name: str


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes were written."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    """A file was cut to a size in bytes."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that a file holds was made durable, its size included."""

    inode: int


@dataclass(frozen=True, slots=True)
class DirectorySynced:
    """All names were made durable."""


Operation: TypeAlias = Created | Deleted | Written | Truncated | Synced | DirectorySynced


@dataclass(frozen=True, slots=True)
class Began:
    """The store was asked for its `number`-th transaction."""

    number: int


@dataclass(frozen=True, slots=True)
class Promised:
    """Somebody was told that transaction `number`, and all before it, survive a power cut."""

    number: int


@dataclass(frozen=True, slots=True)
class Given:
    """A message left the store."""

    id: str
    lane: str
    number: int
    body: bytes
    route: str = ""


@dataclass(frozen=True, slots=True)
class KeysAre:
    """The key store made or destroyed a data key, durably; these are left."""

    ids: tuple[int, ...]


Said: TypeAlias = Began | Promised | Given | KeysAre


class MemoryDisk(apsw.VFS):
    """One directory of files. Made by `memory_disk`.

    Args:
        name: of the VFS, for `apsw.Connection(vfs=)`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[Operation | Said] = []
        self._files: dict[int, bytearray] = {}
        self._names: dict[str, int] = {}
        self._last_inode = 0
        self._rng = random.Random(0)  # noqa: S311  # repeatable on purpose; nothing here is a secret
        super().__init__(name, "")

    def load(self, files: Mapping[str, bytes], seed: int) -> None:
        """Begin anew with these files, all durable, and an empty log; `seed` makes SQLite's random numbers."""
        self.log = []
        self._files = {inode: bytearray(data) for inode, data in enumerate(files.values())}
        self._names = {name: inode for inode, name in enumerate(files)}
        self._last_inode = len(files) - 1
        self._rng.seed(seed)
        apsw.randomness(0)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's
        """Open a file, made if there is none and SQLite may; without a name, one that no image shows."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        inode = None if path is None else self._names.get(path)
        if inode is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"no file {path}")
            self._last_inode += 1
            inode = self._last_inode
            self._files[inode] = bytearray()
            if path is not None:
                self._names[path] = inode
                self.log.append(Created(path, inode))
        syncs_directory = bool(flags[0] & (apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL))
        return _MemoryFile(self._files[inode], inode, None if path is None else self.log, syncs_directory)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802  # SQLite's name
        """Take a name away; whoever has the file open keeps it."""
        if self._names.pop(filename, None) is None:
            missing = apsw.IOError(f"no file {filename}")
            missing.extendedresult = apsw.SQLITE_IOERR_DELETE_NOENT  # type: ignore[attr-defined]  # apsw reads it
            raise missing
        self.log.append(Deleted(filename))
        if syncdir:
            self.log.append(DirectorySynced())

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002, N802  # SQLite's name and arguments
        """Whether there is such a file."""
        return pathname in self._names

    def xFullPathname(self, name: str) -> str:  # noqa: N802  # SQLite's name
        """Names are whole already."""
        return name

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802  # SQLite's name
        """Bytes drawn from the seed, from which SQLite goes on by itself."""
        return self._rng.randbytes(numbytes)


class _MemoryFile(apsw.VFSFile):
    def __init__(self, data: bytearray, inode: int, log: list[Operation | Said] | None, syncs_directory: bool) -> None:
        # Not the parent's: there is no file of the operating system below.
        self._data = data
        self._inode = inode
        self._log = log
        self._syncs_directory = syncs_directory

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802  # SQLite's names here and below
        return bytes(self._data[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        written = bytes(data)
        put(self._data, offset, written)
        if self._log is not None:
            self._log.append(Written(self._inode, offset, written))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        del self._data[newsize:]
        if self._log is not None:
            self._log.append(Truncated(self._inode, newsize))

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802
        if self._log is None:
            return
        self._log.append(Synced(self._inode))
        if self._syncs_directory:
            self._log.append(DirectorySynced())
            self._syncs_directory = False

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._data)

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_SIZE

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return CHARACTERISTICS

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: ARG002, N802
        return False

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xClose(self) -> None:  # noqa: N802
        pass


def put(file: bytearray, offset: int, data: bytes) -> None:
    """Write into a file; what lies between its end and the offset becomes zeros."""
    if offset > len(file):
        file.extend(bytes(offset - len(file)))
    file[offset : offset + len(data)] = data


@contextmanager
def memory_disk(name: str) -> Iterator[MemoryDisk]:
    """A disk, registered with SQLite as its default too, for the random numbers, until the block is left."""
    disk = MemoryDisk(name)
    before = apsw.vfs_names()[0]
    apsw.set_default_vfs(name)
    try:
        yield disk
    finally:
        apsw.set_default_vfs(before)
        disk.unregister()
        apsw.randomness(0)
