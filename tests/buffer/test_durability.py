"""When `write` returns, the records are on disk: shown by watching the file system calls."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from edge_gateway.buffer import Account
from edge_gateway.errors import BufferUnavailable
from edge_gateway.records import Message

from .conftest import OpenStore, reading, writes


class WatchedFile(apsw.VFSFile):
    """A file that notes what is written and synced, and can fail."""

    def __init__(self, disk: WatchedDisk, name: object, flags: list[int]) -> None:
        self.disk = disk
        self.name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)  # type: ignore[arg-type]  # apsw accepts what it handed out

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # SQLite's name
        self.disk.check()
        self.disk.unsynced.add(self.name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        self.disk.check()
        self.disk.syncs += 1
        self.disk.unsynced.discard(self.name)
        super().xSync(flags)


class WatchedDisk(apsw.VFS):
    """A file system that knows which files have writes that a power cut would lose."""

    def __init__(self, name: str) -> None:
        self.unsynced: set[str] = set()
        self.syncs = 0
        self.fail_with: type[apsw.Error] | None = None
        super().__init__(name, "")

    def xOpen(self, name: object, flags: list[int]) -> WatchedFile:  # noqa: N802  # SQLite's name
        return WatchedFile(self, name, flags)

    def check(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with("injected")


@contextmanager
def watched_disk(name: str) -> Iterator[WatchedDisk]:
    disk = WatchedDisk(name)
    try:
        yield disk
    finally:
        disk.unregister()


def test_nothing_is_unsynced_when_write_returns(open_store: OpenStore) -> None:
    """After every write the log holds nothing that a power cut could take."""
    with watched_disk("watched-sync") as disk:
        store = open_store(vfs="watched-sync")
        for value in range(20):
            before = disk.syncs
            store.write(writes([reading(value=value)]))
            assert disk.syncs > before
            assert not [name for name in disk.unsynced if name.endswith("-wal")]
        store.close()


def test_the_watch_can_fail(open_store: OpenStore) -> None:
    """With `synchronous=NORMAL` the same watch reports unsafe writes: it is the setting that makes it pass."""
    with watched_disk("watched-normal") as disk:
        store = open_store(vfs="watched-normal")
        store._shelf.db.execute("PRAGMA synchronous = NORMAL")
        store.write(writes([reading()]))
        assert [name for name in disk.unsynced if name.endswith("-wal")]
        store.close()


@pytest.mark.parametrize("failure", [apsw.FullError, apsw.IOError, apsw.ReadOnlyError])
def test_a_failing_disk_changes_nothing_and_heals(open_store: OpenStore, failure: type[apsw.Error]) -> None:
    """A write that fails leaves queue, account and seq as they were; the same write succeeds when the disk is back."""
    with watched_disk(f"failing-{failure.__name__}") as disk:
        store = open_store(vfs=f"failing-{failure.__name__}")
        store.write(writes([reading(value=1)]))
        message = store.take()
        assert isinstance(message, Message)
        again = writes([reading(value=2)], settled=[message], rejected=[("port", 1)])
        disk.fail_with = failure
        with pytest.raises(BufferUnavailable):
            store.write(again)
        disk.fail_with = None
        assert store.accounts() == {("a", "normal"): Account(received=1, queued=1)}
        store.write(again)
        assert store.accounts() == {
            ("a", "normal"): Account(received=2, delivered=1, queued=1),
            ("port", "normal"): Account(received=1, rejected=1),
        }
        second = store.take()
        assert isinstance(second, Message)
        assert b'"seq":2' in second.body
        store.close()


def test_a_killed_process_leaves_a_store_that_opens(open_store: OpenStore, tmp_path: Path) -> None:
    """A copy of the files taken while the store is open, as a power cut leaves them, has everything written."""
    store = open_store()
    for value in range(100):
        store.write(writes([reading(value=value)]))
    for name in ("buffer.db", "buffer.db-wal"):
        (tmp_path / f"cut-{name}").write_bytes((tmp_path / name).read_bytes())
    with sqlite3.connect(tmp_path / "cut-buffer.db") as cut:
        assert cut.execute("SELECT sum(records) FROM chunk").fetchone() == (100,)
    cut.close()
    store.close()
