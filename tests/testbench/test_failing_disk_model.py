"""The failing disk fails as it is told to, as SQLite documents it, and forgets what a real one would forget."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench.failing_disk import (
    PAGE_BYTES,
    SECTOR_BYTES,
    Answer,
    Call,
    FailingDisk,
    Fault,
    Lost,
    damage,
    failing_disk,
)

NAME: Final = "failing-disk-model"


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with failing_disk(NAME) as disk:
        yield disk


def open_file(path: Path) -> apsw.VFSFile:
    """Open a file of the disk, below SQLite."""
    flags = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    return apsw.VFSFile(NAME, str(path), [flags, 0])


def open_database(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=NAME)
    assert connection.execute("PRAGMA locking_mode = EXCLUSIVE").get == "exclusive"
    assert connection.execute("PRAGMA journal_mode = WAL").get == "wal"
    connection.execute("PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS number(n)")
    return connection


# --- calls that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "answer", "code"),
    [
        (Call.READ, Answer.IO_ERROR, apsw.SQLITE_IOERR_READ),
        (Call.WRITE, Answer.NO_SPACE, apsw.SQLITE_FULL),
        (Call.WRITE, Answer.IO_ERROR, apsw.SQLITE_IOERR_WRITE),
        (Call.WRITE, Answer.READ_ONLY, apsw.SQLITE_IOERR_WRITE),
        (Call.TRUNCATE, Answer.IO_ERROR, apsw.SQLITE_IOERR_TRUNCATE),
        (Call.SYNC, Answer.IO_ERROR, apsw.SQLITE_IOERR_FSYNC),
    ],
)
def test_a_failed_call_has_the_code_of_sqlite(
    disk: FailingDisk, tmp_path: Path, call: Call, answer: Answer, code: int
) -> None:
    """Each failure is answered with the extended result code that SQLite documents for it, until the disk is mended."""
    file = open_file(tmp_path / "a")
    file.xWrite(b"before", 0)
    calls: dict[Call, Callable[[], object]] = {
        Call.READ: lambda: file.xRead(6, 0),
        Call.WRITE: lambda: file.xWrite(b"after!", 0),
        Call.TRUNCATE: lambda: file.xTruncate(3),
        Call.SYNC: lambda: file.xSync(apsw.SQLITE_SYNC_NORMAL),
    }
    disk.faults = [Fault({call}, answer)]
    for _ in range(2):
        with pytest.raises(apsw.Error) as failed:
            calls[call]()
        assert vars(failed.value)["extendedresult"] == code
    assert disk.refused == {call: 2}
    assert (tmp_path / "a").read_bytes() == b"before"
    disk.mend()
    calls[call]()
    file.xClose()


def test_only_the_numbered_calls_of_the_named_files_fail(disk: FailingDisk, tmp_path: Path) -> None:
    """A fault has a first and a last call, counted over all files, and strikes those whose name fits."""
    log, other = open_file(tmp_path / "a-wal"), open_file(tmp_path / "b")
    disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE, first=2, last=5, files="*-wal")]
    fates = []
    for file in (log, other, log, log, other, log):
        try:
            file.xWrite(b"x", 0)
        except apsw.FullError:
            fates.append("failed")
        else:
            fates.append("done")
    assert fates == ["done", "done", "failed", "failed", "done", "done"]
    log.xClose()
    other.xClose()


def test_a_write_may_fail_in_the_middle(disk: FailingDisk, tmp_path: Path) -> None:
    """A write that finds no room has put down its first half."""
    file = open_file(tmp_path / "a")
    file.xWrite(b"........", 0)
    disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE, partly=True)]
    with pytest.raises(apsw.FullError):
        file.xWrite(b"abcdefgh", 0)
    assert (tmp_path / "a").read_bytes() == b"abcd...."
    file.xClose()


def test_a_small_disk_refuses_growth_alone(disk: FailingDisk, tmp_path: Path) -> None:
    """What lies beside counts too; what is written over what is there needs no room; freed space can be used."""
    (tmp_path / "other").write_bytes(bytes(600))
    file = open_file(tmp_path / "a")
    disk.capacity_bytes = 1000
    file.xWrite(bytes(400), 0)
    file.xWrite(b"over", 0)
    with pytest.raises(apsw.FullError):
        file.xWrite(b"x", 400)
    (tmp_path / "other").unlink()
    file.xWrite(b"x", 400)
    file.xClose()


def test_a_read_only_disk_opens_what_is_there_for_reading(disk: FailingDisk, tmp_path: Path) -> None:
    """A new file cannot be opened; an old one is read-only, and stays so after the disk is mended."""
    plain = apsw.Connection(str(tmp_path / "old.db"))
    plain.execute("CREATE TABLE number(n)")
    plain.close()
    disk.faults = [Fault({Call.OPEN, Call.WRITE, Call.SYNC, Call.DELETE}, Answer.READ_ONLY)]
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection(str(tmp_path / "new.db"), vfs=NAME)
    old = apsw.Connection(str(tmp_path / "old.db"), vfs=NAME)
    assert old.execute("SELECT count(*) FROM number").get == 0
    disk.mend()
    with pytest.raises(apsw.ReadOnlyError):
        old.execute("INSERT INTO number VALUES (1)")
    old.close()


def test_an_error_that_sqlite_ignores_is_not_raised(disk: FailingDisk, tmp_path: Path) -> None:
    """A commit succeeds though the checkpoint after it fails, as it does on a real disk."""
    connection = open_database(tmp_path / "a.db")
    connection.execute("PRAGMA wal_autocheckpoint = 1")
    disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE, files="*.db")]
    for number in range(3):
        connection.execute("INSERT INTO number VALUES (?)", (number,))
    assert disk.refused[Call.WRITE] == 3
    disk.mend()
    assert connection.execute("SELECT count(*) FROM number").get == 3
    connection.close()


def test_what_was_written_is_counted(disk: FailingDisk, tmp_path: Path) -> None:
    """Bytes by file and syncs are counted: what a payload costs on disk can be told."""
    connection = open_database(tmp_path / "a.db")
    disk.written_bytes.clear()
    syncs = disk.calls[Call.SYNC]
    connection.execute("INSERT INTO number VALUES (1)")
    assert disk.written_bytes == {"a.db-wal": 24 + 4096}
    assert disk.calls[Call.SYNC] == syncs + 1
    connection.close()


def test_a_slow_disk_is_waited_for(disk: FailingDisk, tmp_path: Path) -> None:
    """Whoever syncs waits for as long as the disk takes."""
    waits: list[int] = []
    file = open_file(tmp_path / "a")
    disk.slow_sync = lambda: waits.append(disk.calls[Call.SYNC])
    file.xSync(apsw.SQLITE_SYNC_NORMAL)
    file.xSync(apsw.SQLITE_SYNC_NORMAL)
    assert waits == [0, 1]
    file.xClose()


# --- what is forgotten -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "read", "left"),
    [
        (Lost.NOTHING, b"new", b"new"),
        (Lost.FROM_DISK, b"new", b"old"),
        (Lost.FROM_CACHE, b"old", b"old"),
    ],
)
def test_a_failed_sync_forgets(disk: FailingDisk, tmp_path: Path, lost: Lost, read: bytes, left: bytes) -> None:
    """After a failed sync the next one succeeds; what is then read, and what a power cut leaves, differs."""
    path = tmp_path / "a"
    file = open_file(path)
    file.xWrite(b"old", 0)
    file.xSync(apsw.SQLITE_SYNC_NORMAL)
    file.xWrite(b"new", 0)
    disk.faults = [Fault({Call.SYNC}, Answer.IO_ERROR, lost=lost)]
    with pytest.raises(apsw.IOError):
        file.xSync(apsw.SQLITE_SYNC_NORMAL)
    disk.mend()
    file.xSync(apsw.SQLITE_SYNC_NORMAL)
    assert file.xRead(3, 0) == read
    assert disk.is_durable(path) is (lost is not Lost.FROM_DISK)
    file.xClose()
    disk.cut_power()
    assert path.read_bytes()[:3] == left


def test_the_next_write_to_a_page_saves_what_was_lost_of_it(disk: FailingDisk, tmp_path: Path) -> None:
    """Linux writes pages: one more byte makes the whole page dirty, and the next good sync durable."""
    path = tmp_path / "a"
    file = open_file(path)
    file.xWrite(b"new", 0)
    file.xWrite(b"far", PAGE_BYTES)
    disk.faults = [Fault({Call.SYNC}, Answer.IO_ERROR, lost=Lost.FROM_DISK)]
    with pytest.raises(apsw.IOError):
        file.xSync(apsw.SQLITE_SYNC_NORMAL)
    disk.mend()
    file.xWrite(b"!", 3)
    file.xSync(apsw.SQLITE_SYNC_NORMAL)
    file.xClose()
    disk.cut_power()
    assert path.read_bytes() == b"new!".ljust(PAGE_BYTES + 3, b"\0")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3 * PAGE_BYTES), st.binary(min_size=1, max_size=2 * PAGE_BYTES)),
        st.tuples(st.just("sync"), st.just(0), st.just(b"")),
        st.tuples(st.sampled_from(Lost), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


class Kernel:
    """A page cache over a platter, said as plainly as it can be."""

    def __init__(self) -> None:
        self.cache = [bytearray(PAGE_BYTES) for _ in range(8)]
        self.platter = [bytes(PAGE_BYTES) for _ in range(8)]
        self.dirty: set[int] = set()

    def write(self, offset: int, data: bytes) -> None:
        for at, byte in enumerate(data, offset):
            self.cache[at // PAGE_BYTES][at % PAGE_BYTES] = byte
            self.dirty.add(at // PAGE_BYTES)

    def sync(self) -> None:
        for page in self.dirty:
            self.platter[page] = bytes(self.cache[page])
        self.dirty.clear()

    def fail(self, lost: Lost) -> None:
        if lost is Lost.FROM_CACHE:
            for page in self.dirty:
                self.cache[page][:] = self.platter[page]
        if lost is not Lost.NOTHING:
            self.dirty.clear()


@given(steps=STEPS)
def test_the_disk_forgets_as_a_page_cache_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str | Lost, int, bytes]]
) -> None:
    """Whatever is written, synced and lost in whatever order: reading and a power cut give what the kernel would."""
    kernel = Kernel()
    with failing_disk(NAME) as disk:
        path = tmp_path_factory.getbasetemp() / "failing-disk-model"
        file = open_file(path)
        try:
            for step, offset, data in steps:
                if isinstance(step, Lost):
                    disk.faults = [Fault({Call.SYNC}, Answer.IO_ERROR, lost=step)]
                    with pytest.raises(apsw.IOError):
                        file.xSync(apsw.SQLITE_SYNC_NORMAL)
                    disk.mend()
                    kernel.fail(step)
                elif step == "sync":
                    file.xSync(apsw.SQLITE_SYNC_NORMAL)
                    kernel.sync()
                else:
                    file.xWrite(data, offset)
                    kernel.write(offset, data)
            assert path.read_bytes() == b"".join(kernel.cache)[: path.stat().st_size]
            disk.cut_power()
            assert path.read_bytes() == b"".join(kernel.platter)[: path.stat().st_size]
        finally:
            file.xClose()
            path.unlink()


def test_the_dead_write_nothing(disk: FailingDisk, tmp_path: Path) -> None:
    """What a killed process had open fails, its last checkpoint too; the next one finds the files as they were."""
    connection = open_database(tmp_path / "a.db")
    connection.execute("INSERT INTO number VALUES (1)")
    disk.kill()
    with pytest.raises(apsw.IOError):
        connection.execute("INSERT INTO number VALUES (2)")
    connection.close()
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    connection = open_database(tmp_path / "a.db")
    assert connection.execute("SELECT n FROM number").fetchall() == [(1,)]
    connection.close()


def test_a_power_cut_leaves_what_was_synced(disk: FailingDisk, tmp_path: Path) -> None:
    """A database with `synchronous=FULL` keeps each commit; with `OFF` it is found out."""
    for level, left in (("FULL", 1), ("OFF", 0)):
        path = tmp_path / f"{level}.db"
        connection = open_database(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute("INSERT INTO number VALUES (1)")
        disk.cut_power()
        connection.close()
        connection = open_database(path)
        assert connection.execute("SELECT count(*) FROM number").get == left
        connection.close()


# --- at rest, and around ---------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 5000), zeroed=st.booleans())
def test_damage_is_in_one_place(tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, zeroed: bool) -> None:
    """One bit, or bytes of one sector, are other than before; the same seed damages the same place."""
    path = tmp_path_factory.getbasetemp() / "failing-disk-damage"
    before = bytes([255]) * size
    places = []
    for _ in range(2):
        path.write_bytes(before)
        places.append(damage(path, random.Random(seed), zeroed=zeroed))
    after = path.read_bytes()
    changed = [at for at, byte in enumerate(after) if byte != 255]
    assert len(after) == size
    assert changed[0] == places[0] == places[1]
    if zeroed:
        assert changed == list(range(places[0], min(size, places[0] + SECTOR_BYTES)))
        assert places[0] % SECTOR_BYTES == 0
    else:
        assert len(changed) == 1
        assert (after[changed[0]] ^ 255).bit_count() == 1


def test_a_name_is_given_once(disk: FailingDisk) -> None:
    """Two disks cannot have one name at a time."""
    with pytest.raises(BenchError, match="already"), failing_disk(NAME):
        pass


def test_a_connection_may_outlive_the_disk(tmp_path: Path) -> None:
    """What is open when the disk is left goes on, on a sound one; the name is free again."""
    with failing_disk(NAME) as disk:
        connection = open_database(tmp_path / "a.db")
        disk.faults = [Fault({Call.WRITE}, Answer.IO_ERROR)]
    assert NAME not in apsw.vfs_names()
    with failing_disk(NAME):
        connection.execute("INSERT INTO number VALUES (1)")
        connection.close()
    plain = apsw.Connection(str(tmp_path / "a.db"))
    assert plain.execute("SELECT count(*) FROM number").get == 1
    plain.close()


def test_files_outside_are_as_ever(disk: FailingDisk, tmp_path: Path) -> None:
    """Who does not name the disk does not meet it; a temporary file lies elsewhere as well."""
    disk.faults = [Fault(set(Call), Answer.IO_ERROR)]
    plain = apsw.Connection(str(tmp_path / "a.db"))
    plain.execute("CREATE TABLE number(n)")
    plain.close()
    temporary = apsw.Connection("", vfs=NAME)
    temporary.execute("PRAGMA cache_size = 1; PRAGMA temp_store = FILE; CREATE TABLE blob(b)")
    temporary.execute("INSERT INTO blob VALUES (zeroblob(1000000))")
    assert temporary.execute("SELECT length(b) FROM blob").get == 1_000_000
    temporary.close()
