"""Makes a sound store out of a damaged one: all that is whole goes over, and nobody has to do anything.

The new database is made beside the old one and takes its place in steps that a power cut may interrupt anywhere:

1. `buffer.db.building` is filled with every row that is still whole;
2. it becomes `buffer.db.rebuilt`, and from now on it is the store;
3. the old files go to the folder `damaged`, or away if they are large;
4. `buffer.db.rebuilt` becomes `buffer.db`.

Whoever opens a store first finishes what was interrupted (`finish`). Until step 2 the old files stay as they are. What
is missing is not known yet then: the store holds its books against its chunks as soon as it is open, which a note
reminds it of.

What is whole is known by its seal (chunks), its checksum (books, notes) or its digest (the ledger, where a row that is
not what it was comes over and is named by whoever verifies it). What cannot be known from what a disk has left:

- Damage in the last transaction of the log, or to the mark that ends the one before, looks like a transaction torn by a
  power cut, and is taken for one. So does a log that is cut short.
- A row on a page that only a lost page led to may have been deleted. Of those, and of rows whose page has a newer
  version that is lost, as many come back as the books miss, the newest first, as the oldest leave first.
- Numbers go on far above all that are known, because those given out last may be among what is lost. But where the
  store's id is lost too, messages get new ones, and what was sent and not confirmed may arrive twice.
- If the first page is lost, a root swapped for another page of its tree is taken for the root.
- A free page that the list of free pages names wrongly is overwritten before anybody can notice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import apsw
import structlog

from edge_gateway.buffer.books import COLUMNS, WHOLE_LANE, Book, Key, checked_row, columns_of, with_crc
from edge_gateway.buffer.chunks import counts_of
from edge_gateway.buffer.database import PAGE_BYTES, PUT_BOOK, PUT_STORE, SCHEMA, SCHEMA_VERSION
from edge_gateway.buffer.lanes import NUMBERS, lane_number
from edge_gateway.buffer.ledger import LedgerRow, digest, is_readable
from edge_gateway.buffer.salvage import Content, FileContent, Found, Row, Table, rows

_log = structlog.get_logger()

TO_RECONCILE: Final = "reconcile"
"""Key in the table `store`, there until the books have been held against the chunks."""

NUMBER_FLOOR: Final = "number floor"
"""Key in the table `store`: all numbers of chunks, messages and records that are given out from now on are larger."""

_JUMP: Final = 1 << 32
"""Added to the largest number known. More than a device or a lane uses up in its life, so that nothing is numbered
twice even if all books are lost; and few enough for some thousand rebuildings."""

_KEPT_BYTES: Final = 16 << 20
"""Damaged files up to this size are kept for whoever wants to look."""

_BOOK: Final = dict.fromkeys(COLUMNS, int)
TABLES: Final = (  # the roots are where SQLite puts them: it helps where the schema itself is lost
    Table("store", {"key": str, "value": str, "crc": int}, without_rowid=True, root=2),
    Table("book", {"lane": int, "device": str, **_BOOK, "crc": int}, without_rowid=True, root=3),
    Table(
        "chunk",
        {
            "id": int,
            "message": int,
            "records": int,
            "boot": int,
            "uptime_ms": int,
            "clock": int,
            "counts": bytes,
            "payload": bytes,
        },
        rowid="id",
        root=4,
    ),
    Table(
        "ledger",
        {
            "number": int,
            "hour": int,
            "lane": str,
            "device": str,
            **dict.fromkeys(("received", "delivered", "queued", "expired", "evicted", "rejected", "quarantined"), int),
            "digest": bytes,
        },
        rowid="number",
        root=5,
    ),
)

_ChunkOpens: TypeAlias = Callable[[tuple[Any, ...]], bool]
_Rank: TypeAlias = tuple[Found, int]
"""How sure a row is, then how new; a smaller one is better."""

_LAST: Final[_Rank] = (Found.ORPHAN, 1)
"""Behind every row."""

_PUT_LEDGER: Final = "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE_LEDGER: Final = "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_CHUNK: Final = "INSERT OR {} INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Salvaged(NamedTuple):
    """How much was whole."""

    chunks: int
    books: int
    ledger_rows: int


def finish(path: Path) -> bool:
    """Finish a rebuilding that was interrupted after its second step; forget one that was interrupted before.

    Returns:
        Whether there was one to finish.

    Raises:
        OSError: it cannot be finished now; calling again later may work.
    """
    _beside(path, ".building").unlink(missing_ok=True)
    rebuilt = _beside(path, ".rebuilt")
    if not rebuilt.exists():
        return False
    damaged = path.parent / "damaged"
    # The database last: a log must never lie beside one that is not its own.
    files = [file for suffix in ("-wal", "-journal", "") if (file := _beside(path, suffix)).exists()]
    is_kept = sum(file.stat().st_size for file in files) <= _KEPT_BYTES
    if is_kept:
        damaged.mkdir(mode=0o700, exist_ok=True)
    for file in files:
        if is_kept:
            file.replace(damaged / file.name)
        else:
            file.unlink()
    _sync(path.parent)
    rebuilt.replace(path)
    _sync(path.parent)
    return True


def lacks_database(path: Path) -> bool:
    """Whether there is a log and not a byte of its database. SQLite would throw the log away."""
    log = _beside(path, "-wal")
    return log.exists() and log.stat().st_size > 0 and not (path.exists() and path.stat().st_size)


def has_sound_header(path: Path) -> bool:
    """Whether a database says of itself what the store's says; if not, SQLite may take it for read-only.

    https://www.sqlite.org/fileformat2.html, section 1.3: page size, file format versions, reserved bytes, fractions.
    """
    with path.open("rb") as file:
        return file.read(24)[16:] == PAGE_BYTES.to_bytes(2) + bytes((2, 2, 0, 64, 32, 32))


def rebuild(path: Path, chunk_opens: _ChunkOpens) -> Salvaged:
    """Put a sound store in the place of a damaged one, which nobody has open.

    Args:
        path: the database file; its log lies beside it.
        chunk_opens: whether the payload of a row of `chunk` is what was sealed for that row.

    Raises:
        apsw.Error: the new one cannot be written; the old one is as it was.
        OSError: the same; or the new one waits to be put in its place by `finish`.
    """
    building = _beside(path, ".building")
    try:
        salvaged = _build(path, building, chunk_opens)
        _sync(building)
        building.replace(_beside(path, ".rebuilt"))
    except BaseException:
        with suppress(OSError):  # what went wrong before is what counts
            building.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    finish(path)
    _log.error("buffer.rebuilt", path=str(path), **salvaged._asdict())
    return salvaged


def _build(path: Path, building: Path, chunk_opens: _ChunkOpens) -> Salvaged:
    """Fill the new database, which is synced as a whole and later, and so needs no log."""
    building.unlink(missing_ok=True)
    db = apsw.Connection(str(building))
    try:
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "locking_mode = EXCLUSIVE",
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -2048",
        ):
            db.execute(f"PRAGMA {pragma}")
        db.execute("BEGIN")
        db.execute(SCHEMA)
        with _contents(path) as (database, log):
            copying = _Copying(db, chunk_opens)
            copying.copy(rows(database, log, TABLES, page_bytes=PAGE_BYTES))
            salvaged = copying.end()
        db.pragma("user_version", SCHEMA_VERSION)
        db.execute("COMMIT")
    finally:
        db.close()
    return salvaged


class _Copying:
    """Brings over what is whole; of two rows with one key the surer and then the newer."""

    def __init__(self, db: apsw.Connection, chunk_opens: _ChunkOpens) -> None:
        self._db = db
        self._chunk_opens = chunk_opens
        self._said: dict[str, tuple[_Rank, str]] = {}
        self._books: dict[Key, tuple[_Rank, Book]] = {}
        self._unsure: dict[int, _Rank] = {}
        """Chunks that may have been deleted."""
        self._rivals: list[LedgerRow] = []
        """Rows of the ledger that say they have a number which another has, too."""

    def copy(self, found: Iterable[Row]) -> None:
        """Bring over each row as it is found, or remember it."""
        for row in found:
            rank = (row.found, -row.frame)
            match row.table:
                case "store":
                    entry = checked_row(row.values)
                    if entry and rank < self._said.get(entry[0], (_LAST,))[0]:
                        self._said[entry[0]] = (rank, entry[1])
                case "book":
                    entry = checked_row(row.values)
                    if entry and rank < self._books.get(entry[:2], (_LAST,))[0]:
                        self._books[entry[:2]] = (rank, Book(*entry[2:]))
                case "ledger":
                    self._db.execute(_PUT_LEDGER, row.values)
                    if not self._db.changes():
                        self._rivals.append(LedgerRow._make(row.values))
                case _ if self._chunk_opens(row.values):
                    self._put_chunk(row.values, rank)

    def _put_chunk(self, values: tuple[Any, ...], rank: _Rank) -> None:
        chunk_id = values[0]
        known = self._unsure.get(chunk_id)
        if known is None:
            self._db.execute(_PUT_CHUNK.format("IGNORE"), values)
            if not self._db.changes():
                return  # a sure one is there
        elif rank < known:
            self._db.execute(_PUT_CHUNK.format("REPLACE"), values)
        else:
            return
        if rank[0] is Found.TREE:
            self._unsure.pop(chunk_id, None)
        else:
            self._unsure[chunk_id] = rank

    def end(self) -> Salvaged:
        """Decide what could not be decided row by row, and write the books and what the store has to remember."""
        there: Counter[Key] = Counter()
        doubtful: list[tuple[int, Found, dict[Key, int]]] = []
        boots: set[int] = set()
        highest = int(self._text(NUMBER_FLOOR, "0"))
        for chunk_id, message, boot, counts in self._db.execute("SELECT id, message, boot, counts FROM chunk"):
            keys = {(lane_number(chunk_id), device): records for device, records in counts_of(counts).items()}
            highest = max(highest, message, chunk_id % NUMBERS)
            boots.add(boot)
            if chunk_id in self._unsure:
                doubtful.append((chunk_id, self._unsure[chunk_id][0], keys))
            else:
                there.update(keys)
        self._drop_deleted(doubtful, there)
        self._choose_rivals()
        highest = max([highest, *(max(book.last, book.chunk) for _, book in self._books.values())])
        self._put_books(highest + _JUMP)
        self._put_said(highest + _JUMP, boots)
        [(chunks, ledger_rows)] = self._db.execute("SELECT (SELECT count(*) FROM chunk), (SELECT count(*) FROM ledger)")
        return Salvaged(chunks, len(self._books), ledger_rows)

    def _choose_rivals(self) -> None:
        """Of two rows of the ledger with one number, keep the one that joins the row before: numbers rot, too."""
        for rival in filter(is_readable, self._rivals):
            before = self._db.execute("SELECT digest FROM ledger WHERE number = ?", (rival.number - 1,)).get
            if isinstance(before, bytes) and digest(before, rival) == rival.digest:
                self._db.execute(_REPLACE_LEDGER, rival)

    def _drop_deleted(self, doubtful: list[tuple[int, Found, dict[Key, int]]], there: Counter[Key]) -> None:
        """Of chunks that may have been deleted, keep what the books miss: the newest, as the oldest leave first."""
        for chunk_id, found, keys in reversed(doubtful):
            if all(self._misses(key, there[key] + records, found) for key, records in keys.items()):
                there.update(keys)
            else:
                self._db.execute("DELETE FROM chunk WHERE id = ?", (chunk_id,))

    def _misses(self, key: Key, records: int, found: Found) -> bool:
        """Whether so many records may be there by the books; an old book knows nothing of what is as old as it."""
        if key not in self._books:
            return True
        (book_found, _), book = self._books[key]
        return records <= book.queued or (found is Found.STALE and book_found is not Found.TREE)

    def _put_books(self, floor: int) -> None:
        for (lane, device), (_, book) in self._books.items():
            if device.startswith(WHOLE_LANE):
                book.last = book.chunk = book.given = floor
            self._db.execute(PUT_BOOK, with_crc((lane, device, *columns_of(book))))

    def _put_said(self, floor: int, boots: set[int]) -> None:
        texts = {key: text for key, (_, text) in self._said.items()}
        texts |= {key: "" for boot in boots if (key := f"boot {boot}") not in texts}  # nobody may take their numbers
        texts[NUMBER_FLOOR] = str(floor)
        texts[TO_RECONCILE] = "1"
        head = int(self._text("ledger", "0 ").partition(" ")[0])
        if head and self._said["ledger"][0][0] is Found.TREE:
            self._db.execute("DELETE FROM ledger WHERE number > ?", (head,))  # the number of such a row is damaged
        last = self._db.execute("SELECT number, digest FROM ledger ORDER BY number DESC LIMIT 1").fetchone()
        if last is not None and last[0] > head:
            texts["ledger"] = f"{last[0]} {last[1].hex()}"
        self._db.executemany(PUT_STORE, [with_crc(each) for each in texts.items()])

    def _text(self, key: str, default: str) -> str:
        return self._said[key][1] if key in self._said else default


@contextmanager
def _contents(path: Path) -> Iterator[tuple[Content, Content]]:
    """The bytes of a database and its log; none where there is no file."""
    with ExitStack() as files:

        def content(file: Path) -> Content:
            if not file.exists():
                return b""
            return FileContent(files.enter_context(file.open("rb")).fileno())

        yield content(path), content(_beside(path, "-wal"))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
