"""What a store has to know before it can work: read at every start, in the same time however full it is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import apsw

from edge_gateway.buffer.books import (
    TOTALS,
    WHOLE_LANE,
    Book,
    Key,
    Sums,
    checked_row,
    columns_of,
    name_of_whole,
    with_crc,
)
from edge_gateway.buffer.database import PUT_BOOK, PUT_STORE, SCHEMA, SCHEMA_VERSION, Space
from edge_gateway.buffer.lanes import (
    NUMBERS,
    QUARANTINE,
    Lane,
    LanePlan,
    lane_and_route,
    lane_key,
    plans,
    quarantine_plan,
)
from edge_gateway.buffer.ledger import GENESIS
from edge_gateway.buffer.rebuild import NUMBER_FLOOR, TO_RECONCILE
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.shelf import Boot, Shelf
from edge_gateway.clock import Clock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferDamaged, BufferUnavailable

_TABLES = {text.strip() for text in SCHEMA.split(";") if text.strip()}
_LARGEST_VERSION = 1023
"""A version above can only be damage."""
_LAST_OF_LANE = "SELECT max(id), max(message) FROM chunk WHERE id BETWEEN ? AND ?"
_LANES_OF_CHUNKS = "SELECT DISTINCT id / ? FROM chunk"
_ORIGINS = "SELECT DISTINCT message FROM chunk WHERE id BETWEEN ? AND ?"
_FIRST_BOOT_OF_LANE = "SELECT boot FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1"


def load_shelf(
    db: apsw.Connection, settings: BufferSettings, *, sealer: Sealer, clock: Clock, rng: random.Random, path: str
) -> Shelf:
    """Read what belongs in memory; make what is not there yet.

    Args:
        db: open, perhaps empty.
        settings: lanes and limits.
        sealer: for the shelf.
        clock: says which boot this is.
        rng: makes the store's id if it has none.
        path: for errors.

    Raises:
        BufferUnavailable: it was written by another version.
        BufferDamaged: a row, or the schema, is not as it was written.
    """
    db.execute("BEGIN IMMEDIATE")
    _make_or_check_schema(db, path)
    said = dict(_checked(row) for row in db.execute("SELECT * FROM store"))
    books = read_books(db)
    if TO_RECONCILE not in said and not _are_complete(said, books):
        raise BufferDamaged("books, or what the store remembers, are missing", where=path)
    if "id" not in said:
        said["id"] = f"{rng.getrandbits(48):012x}"
        db.execute(PUT_STORE, with_crc(("id", said["id"])))
    floor = int(said.get(NUMBER_FLOOR, "0"))
    plans_by_name, lanes = _number_lanes(books, settings)
    if TO_RECONCILE in said and (nameless := _lanes_of_rows(db, books, lanes) - lanes.keys()):
        for number in nameless:
            name = lane_key(number)
            key = (number, WHOLE_LANE + said.get(name, name))
            books[key] = Book(last=floor, chunk=floor, given=floor)
            db.execute(PUT_BOOK, with_crc((*key, *columns_of(books[key]))))
        plans_by_name, lanes = _number_lanes(books, settings)
    for lane in lanes.values():
        key = (lane.number, name_of_whole(lane))
        if key not in books:
            [(last_id, message)] = db.execute(_LAST_OF_LANE, _span(lane))
            chunk = max(floor, lane.chunk_number(last_id) if last_id else 0)
            books[key] = Book(last=max(floor, message or 0), chunk=chunk, given=chunk)
            db.execute(PUT_BOOK, with_crc((*key, *columns_of(books[key]))))
    boots, boot = _boots(said, lanes, db, clock.boot_id)
    db.execute("COMMIT")
    open_hour = max((book.hour for book in books.values()), default=0)
    wholes = {number: books.pop((number, name_of_whole(lane))) for number, lane in lanes.items()}
    # Not the last row of the ledger: if somebody removed the end of it, the gap has to stay.
    ledger_number, _, digest = said.get("ledger", "0 ").partition(" ")
    return Shelf(
        db=db,
        space=Space(db, settings),
        sealer=sealer,
        settings=settings,
        path=path,
        id=said["id"],
        plans=plans_by_name,
        lanes=lanes,
        books=books,
        sums=Sums(wholes, lanes),
        boots=boots,
        boot=boot,
        ledger_number=int(ledger_number),
        ledger_digest=bytes.fromhex(digest) or GENESIS,
        open_hour=open_hour,
        notes={key.removeprefix("note "): text for key, text in said.items() if key.startswith("note ")},
        number_floor=floor,
        is_rebuilt=TO_RECONCILE in said,
    )


def _make_or_check_schema(db: apsw.Connection, path: str) -> None:
    """Make the tables if there are none; see that they are ours if there are."""
    version = db.pragma("user_version")
    tables = {sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema")}
    if not tables and version == 0:
        db.execute(SCHEMA)
        db.pragma("user_version", SCHEMA_VERSION)
    elif not 0 < version <= _LARGEST_VERSION or (version == SCHEMA_VERSION and tables != _TABLES):
        raise BufferDamaged("its tables are not those of its version", where=path)
    elif version != SCHEMA_VERSION:
        raise BufferUnavailable(
            f"was written by another version (schema {version}, this is {SCHEMA_VERSION})",
            where=path,
            remedy="Run the version that wrote it, or move the file away",
        )


def _are_complete(said: Mapping[str, str], books: Mapping[Key, Book]) -> bool:
    """Whether nothing is missing without an error, as a whole branch of a tree can: each lane's own book is the sum."""
    if "id" not in said and not books:
        return True
    sums: dict[int, Counter[str]] = {}
    wholes: dict[int, Book] = {}
    for (lane, device), book in books.items():
        if device.startswith(WHOLE_LANE):
            wholes[lane] = book
        else:
            sums.setdefault(lane, Counter()).update({column: getattr(book, column) for column in TOTALS})
    return (
        "id" in said
        and bool(wholes)
        and sums.keys() <= wholes.keys()
        and all(
            getattr(book, column) == sums.get(lane, Counter())[column]
            for lane, book in wholes.items()
            for column in TOTALS
        )
    )


def _lanes_of_rows(db: apsw.Connection, books: Mapping[Key, Book], lanes: Mapping[int, Lane]) -> set[int]:
    """The lanes that anything is of. Takes as long as there are chunks: for a store that was rebuilt."""
    found = {lane for lane, _ in books} | {lane for (lane,) in db.execute(_LANES_OF_CHUNKS, (NUMBERS,))}
    for lane in lanes.values():
        if lane.plan.name == QUARANTINE:
            found |= {origin for (origin,) in db.execute(_ORIGINS, _span(lane))}
    return found


def read_books(db: apsw.Connection) -> dict[Key, Book]:
    """All books as they are on disk.

    Raises:
        BufferDamaged: one is not as it was written.
    """
    books = {}
    for row in db.execute("SELECT * FROM book"):
        lane, device, *columns = _checked(row)
        books[lane, device] = Book(*columns)
    return books


def _checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a row with a checksum says."""
    checked = checked_row(row)
    if checked is None:
        raise BufferDamaged("a row does not have its checksum", where=f"{row[:2]}")
    return checked


def _number_lanes(books: Mapping[Key, Book], settings: BufferSettings) -> tuple[dict[str, LanePlan], dict[int, Lane]]:
    """Give each lane the number it has on disk, or the next one.

    Returns:
        The plans of those that are taken from, by name and in order; all lanes, by number.
    """
    numbers = {device.removeprefix(WHOLE_LANE): lane for lane, device in books if device.startswith(WHOLE_LANE)}
    by_name = {plan.name: plan for plan in (quarantine_plan(settings), *plans(settings, list(numbers)))}
    for rank, name in enumerate(by_name):
        # A lane whose book the disk has damaged had, most likely, the number of its rank.
        free = max(numbers.values(), default=-1) + 1 if rank in numbers.values() else rank
        numbers.setdefault(name, free)
    lanes: dict[int, Lane] = {}
    for name, number in numbers.items():
        lane, route = lane_and_route(name)
        lanes[number] = Lane(by_name[lane], number, route)
    del by_name[QUARANTINE]
    return by_name, lanes


def _boots(
    said: Mapping[str, str], lanes: Mapping[int, Lane], db: apsw.Connection, running: str
) -> tuple[dict[int, Boot], int]:
    """The boots that chunks are of, and the number of the running one. Older ones are forgotten."""
    boots = {}
    for key, text in said.items():
        if key.startswith("boot "):
            name, _, offset = text.partition(" ")
            boots[int(key.removeprefix("boot "))] = Boot(name, int(offset) if offset else None)
    number = next((number for number, each in boots.items() if each.name == running), 0)
    if not number:
        number = max(boots, default=0) + 1
        boots[number] = Boot(running)
        db.execute(PUT_STORE, with_crc((f"boot {number}", running)))
    first_boots = [db.execute(_FIRST_BOOT_OF_LANE, _span(lane)).get for lane in lanes.values()]
    oldest = min([number, *(each for each in first_boots if isinstance(each, int))])
    for old in [each for each in boots if each < oldest]:
        del boots[old]
        db.execute("DELETE FROM store WHERE key = ?", (f"boot {old}",))
    return boots, number


def _span(lane: Lane) -> tuple[int, int]:
    """The ids that a lane's chunks can have."""
    return lane.chunk_id(0), lane.chunk_id(NUMBERS - 1)
