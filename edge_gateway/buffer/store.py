"""The durable queue itself: SQLite, synchronous, one thread at a time.

What is on disk:

- `chunk`: records as they were appended together, already encoded, so that delivering them costs no second encoding.
  A run of chunks with one `message` number is one message.
- `book`: for each lane and device what became of its records, and the last `seq` given out. Under the empty name stands
  the lane as a whole, with the last message number given out and the bytes queued, so that start takes the same time
  however full the store is.

Both change in one transaction, so the account cannot disagree with the queue. There are only two tables because every
commit writes and syncs whole pages, at least one for each table it touches.

Why a repeated message has the same bytes under the same id: a chunk gets its message number when it is appended. A
number is closed, in memory, when the message is first taken or full; later chunks get the next one. After a restart the
first chunk gets a fresh number. So no message ever grows after its first sending, and that costs no extra sync.

`PRAGMA synchronous=FULL` in WAL mode syncs the log at every commit: https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeAlias

import apsw
import orjson
import structlog

from edge_gateway.buffer import Account
from edge_gateway.clock import rfc3339
from edge_gateway.config.model import BufferSettings
from edge_gateway.errors import BufferInUse, BufferUnavailable
from edge_gateway.records import Event, Lane, Message, Reading

_log = structlog.get_logger()

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE store(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE book(
    lane INTEGER NOT NULL, device TEXT NOT NULL, last INTEGER NOT NULL, bytes INTEGER NOT NULL,
    received INTEGER NOT NULL, delivered INTEGER NOT NULL, expired INTEGER NOT NULL, evicted INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    PRIMARY KEY(lane, device)) WITHOUT ROWID;
CREATE TABLE chunk(
    lane INTEGER NOT NULL, id INTEGER NOT NULL, message INTEGER NOT NULL, records INTEGER NOT NULL,
    counts TEXT NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY(lane, id)) WITHOUT ROWID;
"""

_PUT_CHUNK: Final = "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?)"
_PUT_BOOK: Final = "INSERT OR REPLACE INTO book VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHUNKS_AFTER: Final = "SELECT * FROM chunk WHERE lane = ? AND id > ? ORDER BY id"
_DROP_CHUNKS: Final = "DELETE FROM chunk WHERE lane = ? AND id BETWEEN ? AND ?"


_LANES: Final = tuple(Lane)

_FRESH_BYTES: Final = 64 * 1024
"""What a transaction appended is kept in memory up to this size, because it is nearly always taken next."""

_device_of = itemgetter("device")

WHOLE_LANE: Final = ""
"""The name under which a lane's own book is kept; no device can have it."""


@dataclass(slots=True)
class _Book:
    """A row of `book`."""

    last: int = 0
    """The last seq given to the device; in a lane's own book, the last message number."""
    bytes: int = 0
    """Payload bytes queued; kept for lanes only."""
    received: int = 0
    delivered: int = 0
    expired: int = 0
    evicted: int = 0
    rejected: int = 0

    def row(self) -> tuple[int, ...]:
        return (
            self.last,
            self.bytes,
            self.received,
            self.delivered,
            self.expired,
            self.evicted,
            self.rejected,
        )

    def copy(self) -> _Book:
        return _Book(*self.row())

    @property
    def queued(self) -> int:
        return self.received - self.delivered - self.expired - self.evicted - self.rejected


_ChunkRow: TypeAlias = tuple[int, int, int, int, bytes, bytes]
"""A row of `chunk`."""

_Books: TypeAlias = dict[tuple[Lane, str], _Book]


@dataclass(slots=True)
class _Queue:
    """What only this process needs to know of a lane."""

    last_chunk: int = 0
    taken_to: int = 0
    """The last chunk given out; where `take` goes on."""
    open_first_chunk: int = 0
    """Where the message starts that chunks may still join."""
    open_records: int = 0
    """Records in that message; 0 if there is none."""
    open_bytes: int = 0
    open_since_s: float = 0.0

    def copy(self) -> _Queue:
        return _Queue(
            self.last_chunk,
            self.taken_to,
            self.open_first_chunk,
            self.open_records,
            self.open_bytes,
            self.open_since_s,
        )


@dataclass(frozen=True, slots=True)
class _Taken:
    """A message given out: which chunks it was and whose records."""

    first_chunk: int
    last_chunk: int
    counts: dict[str, int]
    bytes: int


@dataclass(slots=True)
class Writes:
    """What one transaction shall change."""

    records: list[Reading | Event] = field(default_factory=list)
    rejected: list[tuple[str, int]] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records or self.rejected or self.settled)


class Store:
    """A durable queue with lanes and an account, in one SQLite file.

    Args:
        path: the database file; `:memory:` for one that lives as long as the process.
        settings: limits of messages and of the store.
        rng: makes the store's id, which starts every message id.
        vfs: name of an apsw VFS to use instead of the system's; for tests that watch or fail the disk.

    Raises:
        BufferInUse: another process has the file open.
        BufferUnavailable: the file cannot be created or read.
    """

    def __init__(
        self, path: Path | str, settings: BufferSettings, *, rng: random.Random, vfs: str | None = None
    ) -> None:
        self._path = str(path)
        self._settings = settings
        self._rng = rng
        self._vfs = vfs
        self._taken: dict[tuple[Lane, int], _Taken] = {}
        self._queues: dict[Lane, _Queue] = {}
        self._books: _Books = {}
        self._seqs: dict[str, int] = {}
        self._fresh: dict[tuple[int, int], _ChunkRow] = {}
        """Chunks of the last transaction, by lane and id."""
        with self._errors():
            self._db = self._open()
            self.id = self._load()

    @property
    def path(self) -> str:
        """The database file, for status and errors."""
        return self._path

    def close(self) -> None:
        """Close the file. What was committed stays."""
        with self._errors():
            self._db.close()

    def queued(self) -> dict[Lane, int]:
        """Records waiting, by lane, from memory."""
        return {lane: self._books[lane, WHOLE_LANE].queued for lane in Lane}

    def totals(self) -> Account:
        """The account summed over devices and lanes, from memory."""
        lanes = [self._books[lane, WHOLE_LANE] for lane in Lane]
        return Account(
            received=sum(book.received for book in lanes),
            delivered=sum(book.delivered for book in lanes),
            queued=sum(book.queued for book in lanes),
            expired=sum(book.expired for book in lanes),
            evicted=sum(book.evicted for book in lanes),
            rejected=sum(book.rejected for book in lanes),
        )

    def accounts(self) -> dict[tuple[str, Lane], Account]:
        """The account of each device and lane, all read from disk; what is queued is counted chunk by chunk.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        with self._errors():
            accounts = {
                (device, lane): Account(
                    received=book.received,
                    delivered=book.delivered,
                    expired=book.expired,
                    evicted=book.evicted,
                    rejected=book.rejected,
                )
                for (lane, device), book in self._read_books().items()
                if device != WHOLE_LANE
            }
            for lane, counts in self._db.execute("SELECT lane, counts FROM chunk"):
                for device, records in orjson.loads(counts).items():
                    accounts.setdefault((device, Lane(lane)), Account()).queued += records
            return accounts

    # --- one transaction -------------------------------------------------------------------------------------------

    def write(self, writes: Writes, now_s: float) -> None:
        """Do all of `writes`, or nothing, and return when it is safe from a power cut.

        Args:
            writes: records to append in order, rejects to count, messages to drop as delivered.
            now_s: event loop time, from which a message's age is reckoned.

        Raises:
            BufferUnavailable: nothing was changed; doing it again with the same writes is safe.
        """
        change = _Change(self._books, self._queues)
        chunks = []
        for lane, records in _by_lane(writes.records):
            for counts, payload in self._encode(lane, records, change):
                change.count(lane, counts, "received", bytes_queued=len(payload))
                chunks.append(self._place(lane, counts, payload, change, now_s))
        for device, count in writes.rejected:
            change.count(Lane.NORMAL, {device: count}, "received", "rejected")
        drops = []
        for message in writes.settled:
            taken = self._taken.get((message.lane, message.number))
            if taken is not None:
                change.count(message.lane, taken.counts, "delivered", bytes_queued=-taken.bytes)
                drops.append((message.lane, taken.first_chunk, taken.last_chunk))
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_PUT_CHUNK, chunks)
                self._db.executemany(_DROP_CHUNKS, drops)
                evicted = self._evict(change)
                self._db.executemany(_PUT_BOOK, change.rows())
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._books.update(change.books)
        self._queues = change.queues
        keep = not evicted and sum(len(chunk[5]) for chunk in chunks) <= _FRESH_BYTES
        self._fresh = {(chunk[0], chunk[1]): chunk for chunk in chunks} if keep else {}
        self._seqs.update(change.seqs)
        for message in writes.settled:
            self._taken.pop((message.lane, message.number), None)

    def _place(self, lane: Lane, counts: dict[str, int], payload: bytes, change: _Change, now_s: float) -> _ChunkRow:
        """Give a chunk its place: in the open message if there is room, else in a new one."""
        queue, book = change.queues[lane], change.book(lane, WHOLE_LANE)
        records = sum(counts.values())
        if (
            queue.open_records
            and queue.open_records + records <= self._most_records(lane)
            and queue.open_bytes + len(payload) < self._settings.max_message_bytes
        ):
            queue.open_records += records
            queue.open_bytes += len(payload) + 1
        else:
            book.last += 1
            queue.open_first_chunk = queue.last_chunk + 1
            queue.open_records = records
            queue.open_bytes = len(payload) + 2
            queue.open_since_s = now_s
        queue.last_chunk += 1
        return (lane, queue.last_chunk, book.last, records, orjson.dumps(counts), payload)

    def _evict(self, change: _Change) -> bool:
        """Drop the oldest readings nobody is sending just now, for as long as the store is over its cap."""
        evicted = False
        while sum(change.bytes_queued(lane) for lane in _LANES) > self._settings.max_bytes:
            self._fresh = {}  # what is dropped must not be found there again
            queue = change.queues[Lane.NORMAL]
            oldest = self._read_message(Lane.NORMAL, queue.taken_to)
            if oldest is None:
                break
            message, taken = oldest
            if message.number == change.book(Lane.NORMAL, WHOLE_LANE).last:
                queue.open_records = 0
            change.count(Lane.NORMAL, taken.counts, "evicted", bytes_queued=-taken.bytes)
            self._db.execute(_DROP_CHUNKS, (Lane.NORMAL, taken.first_chunk, taken.last_chunk))
            evicted = True
            _log.warning("buffer.evicted", lane=Lane.NORMAL.label, records=message.records)
        return evicted

    def _encode(
        self, lane: Lane, records: Sequence[Reading | Event], change: _Change
    ) -> Iterator[tuple[dict[str, int], bytes]]:
        """Number the records and write them as JSON, in pieces that fit a message, each with its count by device."""
        seqs, known_seqs = change.seqs, self._seqs
        documents: list[dict[str, object]] = []
        last_time_ns, time = -1, ""
        for record in records:
            device = record.device
            seq = seqs.get(device)
            seqs[device] = seq = (known_seqs.get(device, 0) if seq is None else seq) + 1
            if record.time_ns != last_time_ns:
                last_time_ns = record.time_ns
                time = rfc3339(last_time_ns)
            if isinstance(record, Reading):
                document = {
                    "device": device,
                    "profile": record.profile,
                    "seq": seq,
                    "time": time,
                    "values": record.values,
                }
            else:
                document = {
                    "device": device,
                    "event": record.kind,
                    "source": record.source,
                    "seq": seq,
                    "time": time,
                    "values": record.values,
                }
            if not record.time_trusted:
                document["time_trusted"] = False
            documents.append(document)
        most = self._most_records(lane)
        for start in range(0, len(documents), most):
            yield from self._fit(lane, documents[start : start + most], change)

    def _fit(
        self, lane: Lane, documents: list[dict[str, object]], change: _Change
    ) -> Iterator[tuple[dict[str, int], bytes]]:
        """Split until every piece fits; a single record that never will is rejected and counted."""
        try:
            payload = orjson.dumps(documents)[1:-1]
            fits = len(payload) + 2 <= self._settings.max_message_bytes
        except orjson.JSONEncodeError:
            fits = False
        if fits:
            yield Counter(map(_device_of, documents)), payload
        elif len(documents) > 1:
            middle = len(documents) // 2
            yield from self._fit(lane, documents[:middle], change)
            yield from self._fit(lane, documents[middle:], change)
        else:
            device = _device_of(documents[0])
            change.count(lane, {device: 1}, "received", "rejected")
            _log.warning("buffer.record_rejected", device=device, reason="does not fit a message as JSON")

    def _most_records(self, lane: Lane) -> int:
        return 1 if lane is Lane.ALERT else self._settings.max_records_per_message

    # --- giving out ------------------------------------------------------------------------------------------------

    def take(self, now_s: float, *, wait_for_more: bool = True) -> Message | float | None:
        """Give out the next message not given out yet, the lowest lane first.

        Args:
            now_s: event loop time.
            wait_for_more: let a young message wait for more records, as `max_message_age_s` says.

        Returns:
            The message; or the loop time from which a waiting message will be given out; or None if there is nothing.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        ready_at_s: float | None = None
        for lane, queue in self._queues.items():
            if queue.taken_to >= queue.last_chunk:
                continue
            if (
                wait_for_more
                and lane is Lane.NORMAL
                and queue.open_records
                and queue.taken_to >= queue.open_first_chunk - 1
                and now_s < (due_s := queue.open_since_s + self._settings.max_message_age_s)
                and queue.open_records < self._most_records(lane)
            ):
                ready_at_s = due_s
                continue
            with self._errors():
                found = self._read_message(lane, queue.taken_to)
            if found is None:
                queue.taken_to = queue.last_chunk
                continue
            message, taken = found
            self._taken[lane, message.number] = taken
            queue.taken_to = taken.last_chunk
            if message.number == self._books[lane, WHOLE_LANE].last:
                queue.open_records = 0
            return message
        return ready_at_s

    @property
    def may_give(self) -> bool:
        """Whether `take` has anything to look for; from memory."""
        return any(queue.taken_to < queue.last_chunk for queue in self._queues.values())

    def rewind(self) -> None:
        """Start giving out from the oldest message again."""
        self._taken.clear()
        for queue in self._queues.values():
            queue.taken_to = 0

    def _read_message(self, lane: Lane, after_chunk: int) -> tuple[Message, _Taken] | None:
        ids: list[int] = []
        parts: list[bytes] = []
        counts: dict[str, int] = {}
        number = records = 0
        for _, chunk_id, message, chunk_records, chunk_counts, payload in self._chunks_after(lane, after_chunk):
            if ids and message != number:
                break
            number = message
            ids.append(chunk_id)
            parts.append(payload)
            records += chunk_records
            for device, count in orjson.loads(chunk_counts).items():
                counts[device] = counts.get(device, 0) + count
        if not ids:
            return None
        body = b"[" + b",".join(parts) + b"]"
        taken = _Taken(ids[0], ids[-1], counts, sum(map(len, parts)))
        return Message(f"{self.id}-{lane.label[0]}{number}", lane, number, records, body), taken

    def _chunks_after(self, lane: Lane, after_chunk: int) -> Iterator[_ChunkRow]:
        """The chunks of a lane in order; from memory if the last transaction appended them all."""
        if (lane, after_chunk + 1) in self._fresh:
            for chunk_id in range(after_chunk + 1, self._queues[lane].last_chunk + 1):
                yield self._fresh[lane, chunk_id]
        else:
            yield from self._db.execute(_CHUNKS_AFTER, (lane, after_chunk))

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open(self) -> apsw.Connection:
        db = apsw.Connection(self._path, vfs=self._vfs)
        # One process owns the file: no shared memory is needed, and a second process is told so at once.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -2048")
        db.execute("PRAGMA journal_size_limit = 8388608")
        return db

    def _load(self) -> str:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        version = db.pragma("user_version")
        if version == 0:
            db.execute(_SCHEMA)
            db.execute("INSERT INTO store VALUES ('id', ?)", (f"{self._rng.getrandbits(48):012x}",))
            db.executemany(_PUT_BOOK, [(lane, WHOLE_LANE, *_Book().row()) for lane in Lane])
            db.pragma("user_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            db.execute("ROLLBACK")
            raise BufferUnavailable(
                f"was written by another version (schema {version}, this is {SCHEMA_VERSION})",
                where=self._path,
                remedy="Run the version that wrote it, or move the file away",
            )
        db.execute("COMMIT")
        self._books = self._read_books()
        for (_, device), book in self._books.items():
            self._seqs[device] = max(book.last, self._seqs.get(device, 0))
        for lane in Lane:
            last_chunk = db.execute("SELECT max(id) FROM chunk WHERE lane = ?", (lane,)).get
            self._queues[lane] = _Queue(last_chunk=last_chunk or 0)
        return str(db.execute("SELECT value FROM store WHERE key = 'id'").get)

    def _read_books(self) -> _Books:
        return {(Lane(lane), device): _Book(*rest) for lane, device, *rest in self._db.execute("SELECT * FROM book")}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except (apsw.BusyError, apsw.LockedError) as error:
            raise BufferInUse(
                "is open in another process",
                where=self._path,
                remedy="Stop the other gateway, or give it its own data_directory",
            ) from error
        except apsw.FullError as error:
            raise BufferUnavailable(
                "the disk is full", where=self._path, remedy="Free some space; the gateway goes on by itself"
            ) from error
        except apsw.ReadOnlyError as error:
            raise BufferUnavailable(
                "cannot be written", where=self._path, remedy="Mount the disk writable, or mend the file's owner"
            ) from error
        except apsw.Error as error:
            raise BufferUnavailable(
                f"{error}", where=self._path, remedy="Look at the disk; the gateway tries again"
            ) from error


class _Change:
    """What a transaction does to books, queues and seqs: copies, which take the place of the originals on success."""

    def __init__(self, books: _Books, queues: dict[Lane, _Queue]) -> None:
        self._before = books
        self.books: _Books = {}
        self.queues = {lane: queue.copy() for lane, queue in queues.items()}
        self.seqs: dict[str, int] = {}
        """Of devices that got one in this transaction."""

    def book(self, lane: Lane, device: str) -> _Book:
        """The book as this transaction leaves it."""
        book = self.books.get((lane, device))
        if book is None:
            before = self._before.get((lane, device))
            self.books[lane, device] = book = _Book() if before is None else before.copy()
        return book

    def bytes_queued(self, lane: Lane) -> int:
        """Payload bytes of a lane as this transaction leaves it."""
        return (self.books.get((lane, WHOLE_LANE)) or self._before[lane, WHOLE_LANE]).bytes

    def count(self, lane: Lane, counts: Mapping[str, int], *columns: str, bytes_queued: int = 0) -> None:
        """Enter records of some devices in their books and in the lane's own."""
        whole = self.book(lane, WHOLE_LANE)
        whole.bytes += bytes_queued
        for device, records in counts.items():
            book = self.book(lane, device)
            for column in columns:
                setattr(book, column, getattr(book, column) + records)
                setattr(whole, column, getattr(whole, column) + records)
            book.last = max(book.last, self.seqs.get(device, 0))

    def rows(self) -> list[tuple[object, ...]]:
        """The changed rows of `book`."""
        return [(lane, device, *book.row()) for (lane, device), book in self.books.items()]


def _by_lane(records: Sequence[Reading | Event]) -> Iterator[tuple[Lane, Sequence[Reading | Event]]]:
    events = [record for record in records if isinstance(record, Event)]
    if not events:
        if records:
            yield Lane.NORMAL, records
        return
    yield Lane.ALERT, events
    readings = [record for record in records if isinstance(record, Reading)]
    if readings:
        yield Lane.NORMAL, readings
