"""Whatever rots in the database or its log: rows on sound pages come back, deleted ones do not, nothing is raised.

`python -m tests.buffer.test_salvage 1000` judges as many seeded damages of each kind of database as it is told.
"""

from __future__ import annotations

import os
import random
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import UnionType
from typing import NamedTuple

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer.salvage import FileContent, Found, Row, Table, Value, lost_frames, rows
from edge_gateway.testbench.power_cut.disk_model import Files, Platter
from edge_gateway.testbench.power_cut.memory_disk import MemoryDisk, Operation, memory_disk

SCHEMA = """
CREATE TABLE store(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lane(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE boot(id INTEGER PRIMARY KEY, name TEXT NOT NULL, offset_ns INTEGER);
CREATE TABLE book(
    lane INTEGER NOT NULL, device TEXT NOT NULL, last INTEGER NOT NULL, received INTEGER NOT NULL,
    PRIMARY KEY(lane, device)) WITHOUT ROWID;
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY, message INTEGER NOT NULL, records INTEGER NOT NULL, counts TEXT NOT NULL,
    payload BLOB NOT NULL);
CREATE TABLE ledger(
    number INTEGER PRIMARY KEY, hour INTEGER NOT NULL, device TEXT NOT NULL, received INTEGER NOT NULL,
    digest BLOB NOT NULL);
"""
TABLES = (
    Table("store", {"key": str, "value": str}, without_rowid=True),
    Table("lane", {"id": int, "name": str}, rowid="id"),
    Table("boot", {"id": int, "name": str, "offset_ns": int | None}, rowid="id"),
    Table("book", {"lane": int, "device": str, "last": int, "received": int}, without_rowid=True),
    Table("chunk", {"id": int, "message": int, "records": int, "counts": str, "payload": bytes}, rowid="id"),
    Table("ledger", {"number": int, "hour": int, "device": str, "received": int, "digest": bytes}, rowid="number"),
)
ANYTHING = int | float | str | bytes | None
KEY_COLUMNS = {"book": 2}

Key = tuple[str, tuple[Value, ...]]


def key_of(table: str, values: Sequence[Value]) -> Key:
    return table, tuple(values[: KEY_COLUMNS.get(table, 1)])


# --- databases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """The files of a database as SQLite wrote them, and what they hold."""

    page_bytes: int
    tables: tuple[Table, ...]
    """With their roots."""
    database: bytes
    log: bytes
    states: list[dict[Key, tuple[Value, ...]]]
    """The rows before the log's first transaction and after each; the last is what counts."""
    pages: dict[Key, set[int]]
    """The pages each row stands on, as SQLite's own dbstat tells."""
    frames: dict[int, int]
    """By page: its newest frame."""
    transactions: list[list[tuple[int, int]]]
    """Frame and page of all that was written, by transaction."""
    interior: list[int]
    free: list[int]


def append(db: apsw.Connection, rng: random.Random, first: int, count: int, *, most_bytes: int) -> None:
    for number in range(first, first + count):
        payload = rng.randbytes(rng.choice((rng.randint(20, 200), rng.randint(20, most_bytes))))
        db.execute("INSERT INTO chunk VALUES (?, ?, ?, ?, ?)", (number, number // 3, 4, f'{{"d{number}":4}}', payload))
        db.execute(
            "INSERT INTO book VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET last = excluded.last, received = received + 1",
            (number % 3, f"device {rng.randrange(120)}", number),
        )
        db.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", (number, number * 3600, "pump", number, rng.randbytes(32))
        )


@cache
def image(page_bytes: int) -> Image:
    """A database with deep trees, overflow pages and free pages, and a log with leftovers of an earlier one."""
    rng = random.Random(page_bytes)
    most_bytes = page_bytes * 4
    with TemporaryDirectory() as folder:
        path = Path(folder, "buffer.db")
        db = apsw.Connection(str(path))
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = FULL",
            "wal_autocheckpoint = 0",
        ):
            db.execute(f"PRAGMA page_size = {page_bytes}; PRAGMA {pragma}").fetchall()
        db.execute(SCHEMA)
        with db:
            db.execute("INSERT INTO store VALUES ('id', 'a1b2'), ('opened', '7')")
            db.execute("INSERT INTO lane VALUES (0, 'alert'), (1, 'normal'), (2, 'bulk')")
            db.execute("INSERT INTO boot VALUES (1, 'first', NULL), (2, 'second', 1790000000000000000)")
            append(db, rng, 1, 500, most_bytes=most_bytes)
        with db:
            db.execute("DELETE FROM chunk WHERE id % 97 < 60 AND id < 400")
            db.execute("DELETE FROM ledger WHERE number < 200")
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        states = [live_rows(db)]
        for step in range(60):
            with db:
                append(db, rng, 501 + 3 * step, rng.randint(1, 3), most_bytes=most_bytes)
                if step % 4 == 0:
                    db.execute("DELETE FROM chunk WHERE id BETWEEN ? AND ?", (60 + step * 7, 80 + step * 7))
            states.append(live_rows(db))
        database, log = path.read_bytes(), Path(f"{path}-wal").read_bytes()
        pages = dict(pages_of(db))
        stat = list(db.execute("SELECT pageno, pagetype FROM dbstat"))
        roots = dict(db.execute("SELECT name, rootpage FROM sqlite_schema"))
        db.close()
    transactions = list(transactions_of(log, page_bytes))
    used = {page for page, _ in stat}
    newest = {page: frame for transaction in transactions for frame, page in transaction}
    return Image(
        page_bytes,
        tuple(replace(table, root=roots[table.name]) for table in TABLES),
        database,
        log,
        states,
        pages,
        newest,
        transactions,
        [page for page, kind in stat if kind == "internal"],
        sorted({*range(1, max(*newest, len(database) // page_bytes) + 1)} - used),
    )


def live_rows(db: apsw.Connection) -> dict[Key, tuple[Value, ...]]:
    return {key_of(each.name, row): row for each in TABLES for row in db.execute(f"SELECT * FROM {each.name}")}


def pages_of(db: apsw.Connection, tables: Sequence[Table] = TABLES) -> Iterator[tuple[Key, set[int]]]:
    """The leaf and the overflow pages of every row: dbstat lists a tree's pages by path, and the rows are in order."""
    for table in tables:
        stat = list(db.execute("SELECT path, pageno, pagetype, ncell FROM dbstat WHERE name = ?", (table.name,)))
        overflow = defaultdict(set)
        for path, page, kind, _ in stat:
            if kind == "overflow":
                overflow[path.split("+")[0]].add(page)
        cells: list[tuple[str, int]] = []
        for path, page, kind, count in stat:
            if kind == "leaf" or (kind == "internal" and table.without_rowid):
                # An interior cell comes behind all that is below its own child.
                cells += [(f"{path}{cell:03x}" + ("~" if kind == "internal" else ""), page) for cell in range(count)]
        found = list(db.execute(f"SELECT * FROM {table.name}"))
        assert len(cells) == len(found)
        for (path, page), row in zip(sorted(cells), found, strict=True):
            yield key_of(table.name, row), {page, *overflow[path.rstrip("~")]}


def transactions_of(log: bytes, page_bytes: int) -> Iterator[list[tuple[int, int]]]:
    salts = log[16:24]
    transaction = []
    for frame, at in enumerate(range(32, len(log) - page_bytes, page_bytes + 24), 1):
        page, size = struct.unpack_from(">2I", log, at)
        if log[at + 8 : at + 16] != salts:
            return
        transaction.append((frame, page))
        if size:
            yield transaction
            transaction = []


# --- damage ----------------------------------------------------------------------------------------------------------


class Damaged(NamedTuple):
    database: bytes
    log: bytes
    what: str


def rot(data: bytearray, start: int, length: int, rng: random.Random) -> str:
    """Damage a piece as flash does: bits flipped, or all of it zero, erased or noise."""
    length = max(0, min(length, len(data) - start))
    match rng.choice(("flip", "flip", "zero", "erased", "noise")):
        case "flip" if length:
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[start + rng.randrange(length)] ^= 1 << rng.randrange(8)
            return "flip"
        case "zero":
            data[start : start + length] = bytes(length)
            return "zero"
        case "erased":
            data[start : start + length] = b"\xff" * length
            return "erased"
        case _:
            data[start : start + length] = rng.randbytes(length)
            return "noise"


PLACES = (
    *("page", "sector", "first", "interior", "free", "truncated", "swapped"),
    *("frame", "frame", "log sector", "log block", "log header", "log truncated"),
)


def damage(whole: Image, seed: int) -> Damaged:
    rng = random.Random(seed)
    database, log, size = bytearray(whole.database), bytearray(whole.log), whole.page_bytes
    in_file = len(database) // size
    done = []
    missing = {"interior": not whole.interior, "free": not whole.free}
    places = [each for each in PLACES if not missing.get(each) and (log or not each.startswith(("frame", "log")))]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        what = rng.choice(places)
        match what:
            case "page":
                how = rot(database, rng.randrange(in_file) * size, size, rng)
            case "sector":
                how = rot(database, rng.randrange(max(1, len(database) // 512)) * 512, 512, rng)
            case "first":
                how = rot(database, 0, rng.choice((100, 512, size)), rng)
            case "interior":
                how = rot(database, (rng.choice(whole.interior) - 1) * size, size, rng)
            case "free":
                how = rot(database, (rng.choice(whole.free) - 1) * size, size, rng)
            case "truncated":
                how = str(cut := rng.randrange(max(1, len(database))))
                del database[cut:]
            case "swapped":
                a, b = (rng.randrange(in_file) * size for _ in range(2))
                database[a : a + size], database[b : b + size] = database[b : b + size], database[a : a + size]
                how = f"{a // size + 1} and {b // size + 1}"
            case "frame":
                how = rot(log, 32 + rng.randrange(max(1, len(log) // (size + 24))) * (size + 24), size + 24, rng)
            case "log sector":
                how = rot(log, rng.randrange(len(log) // 512 + 1) * 512, 512, rng)
            case "log block":
                how = rot(log, rng.randrange(len(log) // 4096 + 1) * 4096, 4096, rng)
            case "log header":
                how = rot(log, 0, 32, rng)
            case _:
                how = str(cut := rng.randrange(max(1, len(log))))
                del log[cut:]
        done.append(f"{what} {how}")
    return Damaged(bytes(database), bytes(log), ", ".join(done))


def damaged_pages(whole: Image, damaged: Damaged) -> tuple[set[int], int]:
    """The pages whose newest version is not what it was; and after which transaction the log may seem to end.

    What is damaged at the end cannot be told from a transaction that was torn, so its pages count as damaged too.
    """
    size = whole.page_bytes
    lost = set()
    for page in range(1, len(whole.database) // size + 1):
        part = slice((page - 1) * size, page * size)
        if page not in whole.frames and whole.database[part] != damaged.database[part]:
            lost.add(page)

    def differs(frame: int) -> bool:
        part = slice(32 + (frame - 1) * (size + 24), 32 + frame * (size + 24))
        return whole.log[part] != damaged.log[part]

    lost |= {page for page, frame in whole.frames.items() if differs(frame)}
    last = len(whole.transactions)
    while last and any(differs(frame) for frame, _ in whole.transactions[last - 1]):
        last -= 1
        lost |= {page for _, page in whole.transactions[last]}
    return lost, last


class Verdict(NamedTuple):
    found: Counter[Found]
    expected: int
    problems: list[str]


def judge(whole: Image, damaged: Damaged) -> Verdict:
    bad, last = damaged_pages(whole, damaged)
    live = whole.states[-1]
    back: set[tuple[Key, tuple[Value, ...]]] = set()
    found: Counter[Found] = Counter()
    problems = []
    for row in salvage(whole, damaged):
        key = key_of(row.table, row.values)
        back.add((key, row.values))
        found[row.found] += 1
        is_live = row.values in [state.get(key) for state in whole.states[last:]]
        # Of a row that was deleted by a transaction that is gone, dbstat does not know the overflow pages any more.
        is_live |= key not in live and key in whole.states[last]
        stands_on_damage = row.page in bad or bool(whole.pages.get(key, set()) & bad)
        if row.found is Found.TREE and not is_live and not stands_on_damage:
            problems.append(f"came back: {key} from page {row.page}, frame {row.frame}")
    expected = {(key, values) for key, values in live.items() if not whole.pages[key] & bad}
    problems += [f"lost: {key} on {whole.pages[key]}" for key, _ in expected - back]
    return Verdict(found, len(expected), problems)


PAGE_SIZES = (512, 1024, 4096)
"""Small pages make deep trees, many frames and damage that goes over several of both."""


def salvage(whole: Image, damaged: Damaged) -> list[Row]:
    return list(rows(damaged.database, damaged.log, whole.tables, page_bytes=whole.page_bytes))


def intact(whole: Image) -> Damaged:
    return Damaged(whole.database, whole.log, "nothing")


def with_frame(whole: Image, frame: int, body: bytes) -> Damaged:
    start = 32 + (frame - 1) * (whole.page_bytes + 24) + 24
    return Damaged(whole.database, whole.log[:start] + body + whole.log[start + whole.page_bytes :], f"frame {frame}")


# --- whatever rots ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_of_a_sound_database_every_row_is_in_a_tree(page_bytes: int) -> None:
    """What is not damaged is read as SQLite reads it, the log included: each live row once, in order, no other."""
    whole = image(page_bytes)
    found = salvage(whole, intact(whole))
    assert {row.found for row in found} == {Found.TREE}
    assert len(found) == len(whole.states[-1])
    assert {key_of(row.table, row.values): row.values for row in found} == whole.states[-1]
    for table in ("chunk", "ledger"):
        ids = [row.values[0] for row in found if row.table == table]
        assert ids == sorted(ids, key=int)  # type: ignore[arg-type]  # they are numbers


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_rows_on_sound_pages_come_back_and_deleted_ones_do_not(page_bytes: int, seed: int) -> None:
    """Of one to five damages anywhere, no row is lost but on a damaged page, and no tree leads to a deleted one."""
    whole = image(page_bytes)
    damaged = damage(whole, seed)
    verdict = judge(whole, damaged)
    assert not verdict.problems, damaged.what


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_a_lost_interior_page_loses_no_row(page_bytes: int) -> None:
    """The leaves below a page of pointers come back as orphans, all of them, and no free page with them."""
    whole = image(page_bytes)
    assert len(whole.interior) >= 3
    for page in set(whole.interior) - {1}:
        database = bytearray(checkpointed(whole))
        database[(page - 1) * page_bytes : page * page_bytes] = bytes(page_bytes)
        found = list(rows(bytes(database), b"", whole.tables, page_bytes=page_bytes))
        assert {row.found for row in found} == {Found.TREE, Found.ORPHAN}
        back = {key_of(row.table, row.values): row.values for row in found}
        assert back.items() <= whole.states[-1].items()
        # An interior page of a table without rowids has rows of its own.
        assert all(page in whole.pages[key] for key in whole.states[-1].keys() - back.keys())


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_without_the_first_page_the_declared_roots_lead_to_the_rows(page_bytes: int) -> None:
    """Schema and freelist are gone, and still every row is found along its tree, and no deleted one at all."""
    whole = image(page_bytes)
    database = bytes(page_bytes) + checkpointed(whole)[page_bytes:]
    found = list(rows(database, b"", whole.tables, page_bytes=page_bytes))
    assert {row.found for row in found} == {Found.TREE}
    assert {key_of(row.table, row.values): row.values for row in found} == whole.states[-1]


def test_without_any_root_rows_are_known_by_their_shape() -> None:
    """With neither schema nor declared roots every live row is found as an orphan, and given to the right table."""
    whole = image(512)
    database = bytes(512) + checkpointed(whole)[512:]
    found = list(rows(database, b"", [replace(table, root=0) for table in TABLES], page_bytes=512))
    assert {row.found for row in found} == {Found.ORPHAN}
    values = {(row.table, row.values) for row in found}
    assert {(key[0], row) for key, row in whole.states[-1].items()} <= values


def test_a_pointer_to_a_free_page_brings_back_no_deleted_row_through_the_tree() -> None:
    """What an interior page leads to by mistake counts as an orphan if it is free, even if its rowids fit the place."""
    whole = image(512)
    database = bytearray(checkpointed(whole))
    root = next(table.root for table in whole.tables if table.name == "chunk")
    start = (root - 1) * 512
    last_child = slice(start + 8, start + 12)
    target = int.from_bytes(database[last_child])
    free = whole.free[-1]
    database[(free - 1) * 512 : free * 512] = database[(target - 1) * 512 : target * 512]
    database[last_child] = free.to_bytes(4)
    chunks = [row for row in rows(bytes(database), b"", whole.tables, page_bytes=512) if row.table == "chunk"]
    assert Found.ORPHAN in {row.found for row in chunks}
    assert {row.values for row in chunks} == {row for key, row in whole.states[-1].items() if key[0] == "chunk"}


def test_an_overflow_chain_in_a_circle_ends() -> None:
    """A row whose overflow pages lead back to themselves is left out; its neighbours are not."""
    whole = image(512)
    key, pages = max(whole.pages.items(), key=lambda each: len(each[1]))
    database = bytearray(checkpointed(whole))
    leaf = next(row.page for row in rows(bytes(database), b"", whole.tables, page_bytes=512) if key_of(*row[:2]) == key)
    for page in pages - {leaf}:
        database[(page - 1) * 512 : (page - 1) * 512 + 4] = page.to_bytes(4)
    found = {key_of(row.table, row.values) for row in rows(bytes(database), b"", whole.tables, page_bytes=512)}
    assert whole.states[-1].keys() - found == {key}


def checkpointed(whole: Image) -> bytes:
    """The database as it is when all of its log has been moved into it."""
    database = bytearray(whole.database)
    for page, frame in whole.frames.items():
        database.extend(bytes(max(0, page * whole.page_bytes - len(database))))
        start = 32 + (frame - 1) * (whole.page_bytes + 24) + 24
        body = whole.log[start : start + whole.page_bytes]
        database[(page - 1) * whole.page_bytes : page * whole.page_bytes] = body
    return bytes(database)


def test_a_file_is_read_in_parts(tmp_path: Path) -> None:
    """Through its descriptor the same rows come out, and none if the disk does not give a single byte."""
    whole = image(512)
    for name, data in (("buffer.db", whole.database), ("buffer.db-wal", whole.log)):
        (tmp_path / name).write_bytes(data)
    for mode, found in ((os.O_RDONLY, salvage(whole, intact(whole))), (os.O_WRONLY, [])):  # written only: no read works
        database, log = (os.open(tmp_path / name, mode) for name in ("buffer.db", "buffer.db-wal"))
        content = FileContent(database), FileContent(log)
        assert len(content[0]) == len(whole.database)
        assert list(rows(*content, whole.tables, page_bytes=512)) == found
        assert lost_frames(content[1], 0, page_bytes=512) == (len(found) > 0) * whole.transactions[-1][-1][0]
        os.close(database)
        os.close(log)


# --- the log ---------------------------------------------------------------------------------------------------------


def test_where_a_frame_is_lost_the_rows_before_it_are_stale() -> None:
    """If the newest frame of a page is damaged, an older version of it is read, and its rows are marked."""
    whole = image(1024)
    may_be_torn = {page for _, page in whole.transactions[-1]}
    ledger = {row.page for row in salvage(whole, intact(whole)) if row.table == "ledger"}
    page = max(page for page in ledger & whole.frames.keys() - may_be_torn if page <= len(whole.database) // 1024)
    found = salvage(whole, with_frame(whole, whole.frames[page], bytes(1024)))
    on_page = [row for row in found if row.page == page]
    assert {row.found for row in on_page} == {Found.STALE}
    assert all(row.frame < whole.frames[page] for row in on_page)
    assert Found.TREE in {row.found for row in found if row.table == "ledger"}


def test_a_torn_last_transaction_is_left_out() -> None:
    """As SQLite does, for nobody was told that it is safe: what is found is the state before it."""
    whole = image(1024)
    last = [frame for frame, _ in whole.transactions[-1]]
    for frame in last[:-1]:
        found = salvage(whole, with_frame(whole, frame, bytes(1024)))
        assert {key_of(row.table, row.values): row.values for row in found} == whole.states[-2]


def test_a_log_without_its_header_is_read_by_its_chain() -> None:
    """The salts of the first frame that goes on from the one before it are those in use; leftovers have others."""
    whole = image(512)
    for at in range(0, 32, 3):
        log = bytearray(whole.log)
        log[at] ^= 1 << at % 8
        found = salvage(whole, Damaged(whole.database, bytes(log), f"header byte {at}"))
        assert {key_of(row.table, row.values): row.values for row in found} == whole.states[-1]


def recovered_by_sqlite(damaged: Damaged, folder: Path) -> int:
    path = folder / "buffer.db"
    path.write_bytes(damaged.database)
    log = Path(f"{path}-wal")
    log.write_bytes(damaged.log)
    db = apsw.Connection(str(path))
    db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    _, recovered, _ = next(db.execute("PRAGMA wal_checkpoint(PASSIVE)"))
    assert log.read_bytes() == damaged.log
    db.close()
    return int(recovered)


def test_transactions_behind_a_damaged_frame_are_missed(tmp_path: Path) -> None:
    """Whatever frame before the last two transactions is damaged, SQLite drops the rest and is found out."""
    whole = image(1024)
    before = 0
    last_frame = whole.transactions[-1][-1][0]
    for transaction in whole.transactions[:-2]:
        for frame, _ in transaction:
            start = 32 + (frame - 1) * (1024 + 24)
            for at, length in ((24 + 700, 1), (0, 24), (0, 1024 + 24)):
                log = bytearray(whole.log)
                log[start + at : start + at + length] = bytes(
                    byte ^ 0x5A for byte in log[start + at : start + at + length]
                )
                assert 0 < lost_frames(bytes(log), before, page_bytes=1024) <= last_frame - before, (frame, at)
        first = 32 + (transaction[0][0] - 1) * (1024 + 24)
        if transaction[0][0] % 7 == 0:
            damaged = Damaged(whole.database, whole.log[:first] + bytes(512) + whole.log[first + 512 :], "")
            assert recovered_by_sqlite(damaged, tmp_path) == before
        before = transaction[-1][0]


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_a_sound_log_and_a_torn_one_are_missing_nothing(page_bytes: int, tmp_path: Path) -> None:
    """All recovered, nothing recovered because all is left over, the last transaction torn or cut off: 0."""
    whole = image(page_bytes)
    recovered = recovered_by_sqlite(intact(whole), tmp_path)
    assert recovered == whole.transactions[-1][-1][0]
    assert lost_frames(whole.log, recovered, page_bytes=page_bytes) == 0
    assert lost_frames(b"", 0) == lost_frames(b"", -1) == lost_frames(bytes(100_000), 0) == 0
    before = whole.transactions[-2][-1][0]
    for frame, _ in whole.transactions[-1]:
        torn = with_frame(whole, frame, bytes(page_bytes)).log
        assert lost_frames(torn, before, page_bytes=page_bytes) == 0
        cut = whole.log[: 32 + frame * (page_bytes + 24) - 1]
        assert lost_frames(cut, before, page_bytes=page_bytes) == 0
    # As when it had just been begun anew.
    assert lost_frames(anew(whole.log), 0, page_bytes=page_bytes) == 0


def anew(log: bytes) -> bytes:
    """The log with the header that SQLite writes when it begins it anew, and no frame yet."""
    words = (*struct.unpack("<4I", log[:16]), 1, 2)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return struct.pack("<6I", *words) + struct.pack(">2I", first, second) + log[32:]


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_a_log_without_its_header_is_missed(page_bytes: int) -> None:
    """SQLite takes a log with a damaged header for empty and says nothing."""
    whole = image(page_bytes)
    for at in range(0, 32, 3):
        log = bytearray(whole.log)
        log[at] ^= 1 << at % 8
        assert lost_frames(bytes(log), 0, page_bytes=page_bytes) == whole.transactions[-1][-1][0]


def test_no_power_cut_is_taken_for_damage() -> None:
    """Of all that power cuts may leave of a store with `synchronous=FULL`, nothing looks as if frames were lost."""
    rng = random.Random(5)

    def opened(disk: MemoryDisk, files: Files) -> tuple[apsw.Connection, int]:
        disk.load(files, rng.getrandbits(32))
        db = apsw.Connection("buffer.db", vfs=disk.name)
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        _, recovered, _ = next(db.execute("PRAGMA wal_checkpoint(PASSIVE)"))
        return db, recovered

    def lived(disk: MemoryDisk, files: Files) -> None:
        db, _ = opened(disk, files)
        db.execute(f"PRAGMA wal_autocheckpoint = {rng.choice((4, 12, 30, 1000))}").fetchall()
        if not files:
            db.execute(SCHEMA)
        first = db.execute("SELECT coalesce(max(id), 0) + 1 FROM chunk").get
        for number in range(first, first + 25 * 4, 4):
            with db:
                append(db, rng, number, rng.randint(1, 4), most_bytes=9000)
                if rng.random() < 0.3:
                    db.execute("DELETE FROM chunk WHERE id < ?", (number - 10,))
            if rng.random() < 0.1:
                db.execute(f"PRAGMA wal_checkpoint({rng.choice(('PASSIVE', 'RESTART', 'TRUNCATE'))})").fetchall()
        if rng.random() < 0.5:
            db.close()

    images: set[tuple[bytes, bytes]] = set()
    with_remains = 0
    with memory_disk("salvage") as disk:
        files: Files = {}
        for _ in range(3):
            lived(disk, files)
            operations = [each for each in disk.log if isinstance(each, Operation)]
            platter = Platter(files)
            stop = rng.randrange(len(operations) // 2, len(operations))
            for cut, operation in enumerate(operations):
                fates = list(platter.fates(rng))
                for fate in rng.sample(fates, min(len(fates), 3)):
                    left = platter.image(fate)
                    log = left.get("buffer.db-wal", b"")
                    if cut <= stop and left.get("buffer.db"):
                        files = left
                    if (left.get("buffer.db", b""), log) in images:
                        continue
                    images.add((left.get("buffer.db", b""), log))
                    db, recovered = opened(disk, left)
                    db.close()
                    assert lost_frames(log, recovered) == 0, (cut, recovered)
                    with_remains += len(log) > 32 + max(recovered, 0) * (4096 + 24)
                platter.do(operation)
    assert len(images) > 500
    assert with_remains > 250


# --- any bytes -------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(database=st.binary(max_size=4096), log=st.binary(max_size=4096), recovered=st.integers(-1, 9))
def test_arbitrary_bytes_are_no_rows(database: bytes, log: bytes, recovered: int) -> None:
    """Whatever the files hold, nothing is raised."""
    list(rows(database, log, TABLES, page_bytes=512))
    lost_frames(log, recovered, page_bytes=512)


@settings(max_examples=60, deadline=None)
@given(
    splices=st.lists(
        st.tuples(st.booleans(), st.floats(0, 1), st.binary(min_size=1, max_size=40), st.booleans()), max_size=30
    )
)
def test_a_database_with_arbitrary_bytes_in_it_is_read(splices: list[tuple[bool, float, bytes, bool]]) -> None:
    """Nothing is raised, and each row has the types that were declared, wherever bytes were changed, put in or cut."""
    whole = image(512)
    files = [bytearray(whole.database), bytearray(whole.log)]
    for in_log, where, data, in_place in splices:
        file = files[in_log]
        at = int(where * len(file))
        file[at : at + len(data) if in_place else at] = data
    types = {table.name: list(table.columns.values()) for table in TABLES}
    for row in rows(bytes(files[0]), bytes(files[1]), TABLES, page_bytes=512):
        assert all(map(isinstance, row.values, types[row.table]))


COLUMN = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=2000),
    st.binary(max_size=3000),
)


@settings(max_examples=40, deadline=None)
@given(
    stored=st.dictionaries(st.integers(-(1 << 63), (1 << 63) - 1), st.tuples(COLUMN, COLUMN), max_size=12),
    page_bytes=st.sampled_from(PAGE_SIZES),
)
def test_what_sqlite_stored_comes_back(stored: dict[int, tuple[Value, Value]], page_bytes: int) -> None:
    """Any rowid and any values, with and without rowids, are read as they were written."""
    columns: dict[str, type | UnionType] = {"id": int, "a": ANYTHING, "b": ANYTHING}
    tables = (Table("t", columns, rowid="id"), Table("w", columns, without_rowid=True))
    db = apsw.Connection(":memory:")
    db.execute(f"PRAGMA page_size = {page_bytes}")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE w(id INT PRIMARY KEY, a, b) WITHOUT ROWID")
    given_rows = [(key, *values) for key, values in sorted(stored.items())]
    db.executemany("INSERT INTO t VALUES (?, ?, ?)", given_rows)
    db.executemany("INSERT INTO w VALUES (?, ?, ?)", given_rows)
    found = list(rows(db.serialize("main"), b"", tables, page_bytes=page_bytes))
    assert [row.values for row in found if row.table == "t"] == given_rows
    assert sorted(row.values for row in found if row.table == "w") == given_rows
    assert {row.found for row in found} <= {Found.TREE}


if __name__ == "__main__":
    most = int(sys.argv[1])
    for page_bytes in (512, 1024, 4096):
        total: Counter[Found] = Counter()
        broken = 0
        for seed in range(most):
            hurt = damage(image(page_bytes), seed)
            verdict = judge(image(page_bytes), hurt)
            total += verdict.found
            if verdict.problems:
                broken += 1
                print(page_bytes, seed, hurt.what, len(verdict.problems), *verdict.problems[:3], sep="\n    ")
        print(f"pages of {page_bytes}: {most} damages, {broken} break a promise; rows {dict(total)}")
