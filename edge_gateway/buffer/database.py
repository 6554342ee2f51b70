"""The SQLite file under the store: how it is opened, how large it may grow, and what its errors mean.

`PRAGMA synchronous=FULL` in WAL mode syncs the log at every commit: https://www.sqlite.org/pragma.html#pragma_synchronous.
One process owns the file (`locking_mode=EXCLUSIVE`): no shared memory is needed, and a second process is told at once.

What the disk holds of it at most: the database (`Space.most_pages`), a log of twice what starts a checkpoint, and the
reserve.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import apsw

from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferDamaged, BufferInUse, BufferUnavailable, DiskFull, DiskReadOnly

SCHEMA_VERSION: Final = 2

SCHEMA: Final = """
CREATE TABLE store(key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE book(
    lane INTEGER NOT NULL, device TEXT NOT NULL, last INTEGER NOT NULL, chunk INTEGER NOT NULL, given INTEGER NOT NULL,
    thinned INTEGER NOT NULL, bytes INTEGER NOT NULL, received INTEGER NOT NULL, delivered INTEGER NOT NULL,
    expired INTEGER NOT NULL, evicted INTEGER NOT NULL, rejected INTEGER NOT NULL, quarantined INTEGER NOT NULL,
    hour INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY(lane, device)) WITHOUT ROWID;
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY, message INTEGER NOT NULL, records INTEGER NOT NULL, boot INTEGER NOT NULL,
    uptime_ms INTEGER NOT NULL, clock INTEGER NOT NULL, counts BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE ledger(
    number INTEGER PRIMARY KEY, hour INTEGER NOT NULL, lane TEXT NOT NULL, device TEXT NOT NULL,
    received INTEGER NOT NULL, delivered INTEGER NOT NULL, queued INTEGER NOT NULL, expired INTEGER NOT NULL,
    evicted INTEGER NOT NULL, rejected INTEGER NOT NULL, quarantined INTEGER NOT NULL, digest BLOB NOT NULL);
"""

PUT_STORE: Final = "INSERT OR REPLACE INTO store VALUES (?, ?, ?)"
PUT_BOOK: Final = "INSERT OR REPLACE INTO book VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_CHUNK: Final = "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
PUT_LEDGER: Final = "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

PAGE_BYTES: Final = 1024
"""A commit writes whole pages: for lone readings this is a little more than half of what pages of 4096 bytes cost."""

_LOG_PAGES: Final = 1000
_CUT_SHORT: Final = (apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS)
_KINDS: Final = {
    errno.ENOSPC: DiskFull,
    errno.EDQUOT: DiskFull,
    errno.EROFS: DiskReadOnly,
    errno.EACCES: DiskReadOnly,
    errno.EPERM: DiskReadOnly,
}
_FRAME_BYTES: Final = PAGE_BYTES + 24
_REWRITE_BYTES: Final = 1 << 16
"""SQLite writes at most twice that at once, and takes 0 bytes for a full disk."""
_MOST_PAGES: Final = 1 << 30
"""More than any database here has: no limit of SQLite's own."""


def open_database(path: str, settings: BufferSettings, vfs: str | None) -> apsw.Connection:
    """Open the file, or make it, with the settings that the promise needs.

    If it is closed by an error, its log stays: SQLite would drop what stands behind damage in it. See `close_database`.
    """
    if path != ":memory:":
        _make_log_durable(path, vfs or "")
    db = apsw.Connection(path, vfs=vfs)
    try:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        log_pages = checkpoint_pages(settings)
        for pragma in (
            "locking_mode = EXCLUSIVE",
            f"page_size = {PAGE_BYTES}",
            "synchronous = FULL",
            "temp_store = MEMORY",
            "cache_size = -2048",
            f"wal_autocheckpoint = {log_pages}",
            f"journal_size_limit = {log_pages * _FRAME_BYTES}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        # SQLite goes on without a log if it cannot make one, and says so only in the answer.
        [(mode,)] = db.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode not in ("wal", "memory"):
            raise BufferUnavailable("no log can be made", where=path, remedy="Look at the disk")
    except BaseException:
        db.close()
        raise
    return db


def _make_log_durable(path: str, vfs: str) -> None:
    """Write the log once more, as it is, and sync it.

    A sync that failed may have left a transaction in the kernel's cache that is not on the disk, and that nobody was
    told is safe. SQLite would find it there and build on it: so what is found has to be made true first. Done under the
    lock of the database, so that nobody else is writing.
    """
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0]
    try:
        database = apsw.VFSFile(vfs, path, flags)
    except apsw.CantOpenError:
        return  # there is none yet, or whoever opens it next says why
    try:
        for level in (apsw.SQLITE_LOCK_SHARED, apsw.SQLITE_LOCK_RESERVED, apsw.SQLITE_LOCK_EXCLUSIVE):
            database.xLock(level)
        try:
            log = apsw.VFSFile(vfs, f"{path}-wal", flags)
        except apsw.CantOpenError:
            return
        try:
            for offset in range(0, size := log.xFileSize(), _REWRITE_BYTES):
                log.xWrite(log.xRead(min(_REWRITE_BYTES, size - offset), offset), offset)
            log.xSync(apsw.SQLITE_SYNC_NORMAL)
        finally:
            log.xClose()
    finally:
        database.xUnlock(apsw.SQLITE_LOCK_NONE)
        database.xClose()


def close_database(db: apsw.Connection) -> None:
    """Close a file that is sound: its log goes into the database, and away."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    db.close()


def checkpoint_pages(settings: BufferSettings) -> int:
    """Pages in the log that start a checkpoint."""
    return min(_LOG_PAGES, settings.max_disk_bytes // 8 // _FRAME_BYTES)


def reserve_bytes(settings: BufferSettings) -> int:
    """The reserve that the limit of the whole allows."""
    return min(settings.reserve_bytes, settings.max_disk_bytes // 4)


class Space:
    """How large the database is and may be, in pages.

    Args:
        db: the database.
        settings: the limit of the whole.
    """

    def __init__(self, db: apsw.Connection, settings: BufferSettings) -> None:
        self._db = db
        log_bytes = 2 * checkpoint_pages(settings) * _FRAME_BYTES
        self._planned_pages = (settings.max_disk_bytes - reserve_bytes(settings) - log_bytes) // PAGE_BYTES
        self.most_pages = self._planned_pages
        self._surely_free = 0
        self.is_frozen = False
        """Whether the database must not grow at all."""

    def file_pages(self) -> int:
        """Pages of the database, free ones and those in the log included."""
        return int(self._db.pragma("page_count"))

    def free_pages(self) -> int:
        """Pages of the database that hold nothing."""
        return int(self._db.pragma("freelist_count"))

    def has_room(self, pages: int) -> bool:
        """Whether so many pages may still be filled; to be asked before they are.

        SQLite is asked only when what it last said, less all that was filled since, does not do.
        """
        if self.is_frozen or self._surely_free < pages:
            self._surely_free = self.most_pages - self.file_pages() + self.free_pages()
        if self._surely_free < pages:
            return False
        self._surely_free -= pages
        return True

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this the database does not grow."""
        file_pages = self.file_pages()
        self.most_pages = min(self._planned_pages, file_pages)
        self.is_frozen = True
        self._db.pragma("max_page_count", file_pages)
        try:
            yield
        finally:
            self._db.pragma("max_page_count", _MOST_PAGES)
            self.most_pages = self._planned_pages
            self.is_frozen = False
            self._surely_free = 0


@contextmanager
def sqlite_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors, and those of files, into ours."""
    try:
        yield
    except (apsw.BusyError, apsw.LockedError) as error:
        raise BufferInUse(
            "is open in another process",
            where=path,
            remedy="Stop the other gateway, or give it its own data_directory",
        ) from error
    except apsw.FullError as error:
        raise DiskFull(
            "the disk is full", where=path, remedy="Free some space; the gateway goes on by itself"
        ) from error
    except (apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise DiskReadOnly(
            "cannot be written", where=path, remedy="Mount the disk writable, or mend the file's owner"
        ) from error
    except (
        apsw.CorruptError,
        apsw.NotADBError,
        apsw.TooBigError,  # a length is damaged
        apsw.SQLError,  # a table or a column is gone
        apsw.ConstraintError,  # a row has a number that was never given out
        UnicodeDecodeError,
    ) as error:
        raise BufferDamaged(f"{error}", where=path, remedy="The gateway saves what is whole by itself") from error
    except apsw.IOError as error:
        if getattr(error, "extendedresult", 0) in _CUT_SHORT:  # one that a VFS in Python raised has none
            raise BufferDamaged(f"{error}", where=path, remedy="The gateway saves what is whole by itself") from error
        raise BufferUnavailable(f"{error}", where=path, remedy="Look at the disk; the gateway tries again") from error
    except apsw.Error as error:
        raise BufferUnavailable(f"{error}", where=path, remedy="Look at the disk; the gateway tries again") from error
    except OSError as error:
        kind = _KINDS.get(error.errno or 0, BufferUnavailable)
        raise kind(f"{error.strerror}", where=path, remedy="Look at the disk; the gateway tries again") from error
