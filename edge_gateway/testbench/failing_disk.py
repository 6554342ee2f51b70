"""A disk under SQLite that fails as disks do: full, broken, read-only, slow, or forgetful after a failed sync.

```python
with failing_disk("broken") as disk:
    connection = apsw.Connection(path, vfs=disk.name)
    disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE, first=disk.calls[Call.WRITE] + 7)]
    ...
    disk.mend()
```

The files are real ones, written by SQLite's own VFS for Linux. In between sits the disk, which may answer instead. What
SQLite makes of a failing Linux file system (https://www.sqlite.org/rescode.html tells what each code means):

- No room left (`ENOSPC`, `EDQUOT`): a write, of which a part may be there, is `SQLITE_FULL`. SQLite rolls back by
  itself if it has to: https://www.sqlite.org/lang_transaction.html, section 3.
- A medium that fails (`EIO`): `SQLITE_IOERR_READ`, `_WRITE`, `_FSYNC`, `_TRUNCATE`, `_DELETE`; what cannot be opened is
  `SQLITE_CANTOPEN`.
- Read-only, as ext4 mounts itself again after an error (`EROFS`): writing to a file that is open is
  `SQLITE_IOERR_WRITE` and not `SQLITE_READONLY`. A file that is there is opened for reading, and stays so when the
  disk is mended; one that is not there is `SQLITE_CANTOPEN`.

After a failed sync Linux takes what it could not write for clean. What then becomes of it depends on the file system
(`Lost`): the next sync succeeds all the same, and a program that trusts it has lost data. PostgreSQL learnt it in 2018
(https://wiki.postgresql.org/wiki/Fsync_Errors), and SQLite is no exception (A. Rebello and others, "Can Applications
Recover from fsync Failures?", https://www.usenix.org/conference/atc20/presentation/rebello). So the disk knows, page by
page, what is durable and what only looks so.

Names and truncations are durable at once here: what a power cut makes of those is the power cut machine's subject.

A sync is answered and never done: nobody cuts the power of the bench's machine, and it would only take time. Memory
maps (`PRAGMA mmap_size`) would go round this disk; SQLite does not use them unless told to.
"""

from __future__ import annotations

import enum
import fnmatch
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from edge_gateway.testbench.native_vfs import NativeFile, NativeVfs

PAGE_BYTES: Final = 4096
"""What Linux keeps in memory of a file, and writes back, as one piece."""

SECTOR_BYTES: Final = 512


class Call(enum.Enum):
    """What a disk is asked to do."""

    OPEN = "open"
    READ = "read"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    DELETE = "delete"


class Answer(enum.Enum):
    """What a disk says that does not do it."""

    NO_SPACE = "no space left on device"
    IO_ERROR = "input/output error"
    READ_ONLY = "read-only file system"


class Lost(enum.Enum):
    """What a failed sync makes of the pages written since the last good one."""

    NOTHING = "nothing"
    """They are still dirty: the next good sync makes them durable."""
    FROM_DISK = "from disk"
    """They are taken for clean: reading gives them, no sync writes them, and a power cut shows it. ext4 and XFS."""
    FROM_CACHE = "from cache"
    """They are thrown away: reading gives what was there before. Btrfs; the others too when memory gets short."""


_IO_ERRORS: Final = {
    Call.OPEN: apsw.SQLITE_CANTOPEN,
    Call.READ: apsw.SQLITE_IOERR_READ,
    Call.WRITE: apsw.SQLITE_IOERR_WRITE,
    Call.TRUNCATE: apsw.SQLITE_IOERR_TRUNCATE,
    Call.SYNC: apsw.SQLITE_IOERR_FSYNC,
    Call.DELETE: apsw.SQLITE_IOERR_DELETE,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Calls that fail.

    Args:
        calls: of which kinds; all kinds are counted together.
        answer: what they get.
        first: the number of the first that fails, counted as `FailingDisk.calls` counts: the first of all is 1.
        last: the number of the last; None until the disk is mended.
        files: which files, by a pattern for the name, as in `*-wal`.
        partly: a write that fails has written its first half.
        lost: what a failed sync loses.
    """

    calls: Collection[Call]
    answer: Answer
    first: int = 1
    last: int | None = None
    files: str = "*"
    partly: bool = False
    lost: Lost = Lost.NOTHING


class FailingDisk:
    """A disk. Made by `failing_disk`; sound until it is told otherwise.

    Args:
        name: of its VFS.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """For `apsw.Connection(vfs=)`."""
        self.faults: Sequence[Fault] = ()
        self.capacity_bytes: int | None = None
        """A small disk: a write that grows a file fails if all files of its directory would be larger together. What is
        written over what is there needs no room."""
        self.slow_sync: Callable[[], None] = lambda: None
        """Called in the thread that waits for a sync: whoever wants a slow disk waits in it, whoever wants the power to
        fail just then cuts it there. Must not raise."""
        self.calls: Counter[Call] = Counter()
        """How often it was asked, failed calls too."""
        self.refused: Counter[Call] = Counter()
        """How often it said no."""
        self.written_bytes: Counter[str] = Counter()
        """What SQLite wrote, by name of the file."""
        self._unsynced: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        """By path and number of each page not yet durable: what a power cut would leave there."""
        self._lost: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
        """The same for pages that are taken for durable and are not."""
        self.deaths = 0
        """How often a process was killed or the power cut."""
        self._deaths_before: dict[NativeFile, int] = {}

    # --- what may go wrong --------------------------------------------------------------------------------------------

    def mend(self) -> None:
        """Be sound from now on. What was lost stays lost."""
        self.faults = ()
        self.capacity_bytes = None
        self.slow_sync = lambda: None

    def kill(self) -> None:
        """The process that has files open is gone: what it still asks for fails. What it wrote is in the files.

        Close its connections before you open others: as they are in this process, SQLite finds its own locks.
        """
        self.deaths += 1

    def cut_power(self) -> None:
        """As `kill`, and what no good sync has made durable is gone too; where a file has grown there are zeros."""
        self.kill()
        for pages_of in (self._unsynced, self._lost):
            for path, pages in pages_of.items():
                if Path(path).exists():
                    with Path(path).open("r+b") as file:
                        size = file.seek(0, os.SEEK_END)
                        for page, data in pages.items():
                            at = file.seek(page * PAGE_BYTES)
                            file.write(data[: max(0, size - at)])
            pages_of.clear()

    def is_durable(self, path: Path) -> bool:
        """Whether a power cut would take nothing from a file."""
        name = str(path.resolve())
        return not self._unsynced.get(name) and not self._lost.get(name)

    # --- what SQLite asks for: see `native_vfs.FileCalls` -------------------------------------------------------------

    def opening(self, path: str, flags: int) -> tuple[int, int]:
        """See `FileCalls.opening`."""
        fault = self._fault(Call.OPEN, path)
        if fault is None:
            return apsw.SQLITE_OK, flags
        if fault.answer is not Answer.READ_ONLY or not Path(path).exists():
            return self._refuse(Call.OPEN, apsw.SQLITE_CANTOPEN), flags
        writable = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        return apsw.SQLITE_OK, flags & ~writable | apsw.SQLITE_OPEN_READONLY

    def opened(self, file: NativeFile) -> None:
        """See `FileCalls.opened`."""
        self._deaths_before[file] = self.deaths

    def closed(self, file: NativeFile) -> None:
        """See `FileCalls.closed`."""
        del self._deaths_before[file]

    def deleting(self, path: str) -> int:
        """See `FileCalls.deleting`."""
        # A log is deleted while its database is open; whose it is can be told by that alone.
        of_the_dead = any(path.startswith(file.path) for file in self._deaths_before if self._is_of_the_dead(file))
        if of_the_dead or self._fault(Call.DELETE, path) is not None:
            return self._refuse(Call.DELETE, apsw.SQLITE_IOERR_DELETE)
        self._unsynced.pop(path, None)
        self._lost.pop(path, None)
        return apsw.SQLITE_OK

    def reading(self, file: NativeFile) -> int:
        """See `FileCalls.reading`."""
        if self._is_of_the_dead(file) or self._fault(Call.READ, file.path) is not None:
            return self._refuse(Call.READ, apsw.SQLITE_IOERR_READ)
        return apsw.SQLITE_OK

    def writing(self, file: NativeFile, data: bytes, offset: int) -> int:
        """See `FileCalls.writing`."""
        if self._is_of_the_dead(file):
            return self._refuse(Call.WRITE, apsw.SQLITE_IOERR_WRITE)
        fault = self._fault(Call.WRITE, file.path)
        if fault is None and not self._has_room(file, offset + len(data)):
            fault = Fault({Call.WRITE}, Answer.NO_SPACE)
        if fault is None:
            self._note_write(file, len(data), offset)
            return apsw.SQLITE_OK
        if fault.partly:
            half = data[: len(data) // 2]
            self._note_write(file, len(half), offset)
            file.write(half, offset)
        no_room = fault.answer is Answer.NO_SPACE
        return self._refuse(Call.WRITE, apsw.SQLITE_FULL if no_room else apsw.SQLITE_IOERR_WRITE)

    def truncating(self, file: NativeFile, size: int) -> int:
        """See `FileCalls.truncating`."""
        if self._is_of_the_dead(file) or self._fault(Call.TRUNCATE, file.path) is not None:
            return self._refuse(Call.TRUNCATE, apsw.SQLITE_IOERR_TRUNCATE)
        for pages in (self._unsynced[file.path], self._lost[file.path]):
            for page in [page for page in pages if page * PAGE_BYTES >= size]:
                del pages[page]
        return apsw.SQLITE_OK

    def syncing(self, file: NativeFile) -> int:
        """See `FileCalls.syncing`."""
        self.slow_sync()
        if self._is_of_the_dead(file):
            return self._refuse(Call.SYNC, apsw.SQLITE_IOERR_FSYNC)
        fault = self._fault(Call.SYNC, file.path)
        unsynced = self._unsynced[file.path]
        if fault is None:
            unsynced.clear()
            return apsw.SQLITE_OK
        match fault.lost:
            case Lost.NOTHING:
                pass
            case Lost.FROM_DISK:
                self._lost[file.path] |= unsynced
                unsynced.clear()
            case Lost.FROM_CACHE:
                size = file.size()
                for page, data in unsynced.items():
                    file.write(data[: max(0, size - page * PAGE_BYTES)], page * PAGE_BYTES)
                unsynced.clear()
        return self._refuse(Call.SYNC, apsw.SQLITE_IOERR_FSYNC)

    def _fault(self, call: Call, path: str) -> Fault | None:
        """Count a call, and find the fault that meets it."""
        self.calls[call] += 1
        for fault in self.faults:
            if call in fault.calls and fnmatch.fnmatchcase(Path(path).name, fault.files):
                number = sum(self.calls[each] for each in fault.calls)
                if fault.first <= number and (fault.last is None or number <= fault.last):
                    return fault
        return None

    def _refuse(self, call: Call, code: int) -> int:
        self.refused[call] += 1
        return code

    def _is_of_the_dead(self, file: NativeFile) -> bool:
        return self._deaths_before[file] < self.deaths

    def _has_room(self, file: NativeFile, end: int) -> bool:
        growth = end - file.size()
        if self.capacity_bytes is None or growth <= 0:
            return True
        used = sum(each.stat().st_size for each in Path(file.path).parent.iterdir() if each.is_file())
        return used + growth <= self.capacity_bytes

    def _note_write(self, file: NativeFile, amount: int, offset: int) -> None:
        """Remember what is durable of the pages that are about to change."""
        self.written_bytes[Path(file.path).name] += amount
        unsynced, lost = self._unsynced[file.path], self._lost[file.path]
        for page in range(offset // PAGE_BYTES, -(-(offset + amount) // PAGE_BYTES)):
            if page in unsynced:
                continue
            # Linux writes whole pages: a sync of this one makes durable what was lost of it before.
            durable = lost.pop(page, None)
            if durable is None:
                durable = file.read(PAGE_BYTES, page * PAGE_BYTES).ljust(PAGE_BYTES, b"\0")
            unsynced[page] = durable


@contextmanager
def failing_disk(name: str) -> Iterator[FailingDisk]:
    """A disk, known to SQLite by its name until the block is left. What is still open then has a sound one.

    Raises:
        BenchError: there is a VFS of that name.
    """
    disk = FailingDisk(name)
    vfs = NativeVfs(name, disk)
    try:
        yield disk
    finally:
        disk.mend()
        vfs.unregister()


def damage(path: Path, rng: random.Random, *, zeroed: bool = False) -> int:
    """Damage a file at rest, in one place drawn by `rng`: a bit turned over, or a sector of zeros.

    Args:
        path: a file that is not empty, and that nobody has open.
        rng: draws the place.
        zeroed: the sector's zeros.

    Returns:
        Where the damage begins, bytes from the beginning of the file.
    """
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if zeroed:
        at -= at % SECTOR_BYTES
        data[at : at + SECTOR_BYTES] = bytes(len(data[at : at + SECTOR_BYTES]))
    else:
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return at
