"""The durable queue itself: SQLite, synchronous, one thread at a time.

What is on disk:

- `chunk`: records as they were appended together, already encoded, so that delivering them costs no second encoding.
  A run of chunks with one `message` number is one message.
- `lane`: for each lane the last numbers given out and what is queued, so that start takes the same time however full.
- `account`: for each device and lane what became of its records.
- `device`: for each device the last `seq` given out.

All of these change in one transaction, so the account cannot disagree with the queue.

Why a repeated message has the same bytes under the same id: a chunk gets its message number when it is appended. A
number is closed, in memory, when the message is first taken or full; later chunks get the next one. After a restart the
first chunk gets a fresh number. So no message ever grows after its first sending, and that costs no extra sync.

`PRAGMA synchronous=FULL` in WAL mode syncs the log at every commit: https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
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
CREATE TABLE lane(
    lane INTEGER PRIMARY KEY, last_chunk INTEGER NOT NULL, last_message INTEGER NOT NULL,
    records INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE device(name TEXT PRIMARY KEY, last_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE account(
    device TEXT NOT NULL, lane INTEGER NOT NULL, received INTEGER NOT NULL, delivered INTEGER NOT NULL,
    expired INTEGER NOT NULL, evicted INTEGER NOT NULL, rejected INTEGER NOT NULL,
    PRIMARY KEY(device, lane)) WITHOUT ROWID;
CREATE TABLE chunk(
    lane INTEGER NOT NULL, id INTEGER NOT NULL, message INTEGER NOT NULL, records INTEGER NOT NULL,
    counts TEXT NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY(lane, id)) WITHOUT ROWID;
"""

_PUT_CHUNK: Final = "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?)"
_PUT_LANE: Final = "INSERT OR REPLACE INTO lane VALUES (?, ?, ?, ?, ?)"
_PUT_DEVICE: Final = "INSERT OR REPLACE INTO device VALUES (?, ?)"
_PUT_ACCOUNT: Final = "INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?)"
_CHUNKS_AFTER: Final = "SELECT id, message, records, counts, payload FROM chunk WHERE lane = ? AND id > ? ORDER BY id"
_DROP_CHUNKS: Final = "DELETE FROM chunk WHERE lane = ? AND id BETWEEN ? AND ?"


_AccountOf: TypeAlias = Callable[[str, Lane], Account]
"""Finds the books of a device and lane, for changing them in the transaction at hand."""


@dataclass(slots=True)
class _LaneState:
    """A lane's row, with what only this process needs to know."""

    lane: Lane
    last_chunk: int = 0
    last_message: int = 0
    records: int = 0
    bytes: int = 0
    taken_to: int = 0
    """The last chunk given out; where `take` goes on."""
    open_first_chunk: int = 0
    """Where the message starts that chunks may still join."""
    open_records: int = 0
    """Records in that message; 0 if there is none."""
    open_bytes: int = 0
    open_since_s: float = 0.0


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
        self._lanes: dict[Lane, _LaneState] = {}
        self._accounts: dict[tuple[str, Lane], Account] = {}
        self._seqs: dict[str, int] = {}
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
        return {lane: state.records for lane, state in self._lanes.items()}

    def totals(self) -> Account:
        """The account summed over devices and lanes, from memory."""
        total = Account(queued=sum(state.records for state in self._lanes.values()))
        for account in self._accounts.values():
            total.received += account.received
            total.delivered += account.delivered
            total.expired += account.expired
            total.evicted += account.evicted
            total.rejected += account.rejected
        return total

    def accounts(self) -> dict[tuple[str, Lane], Account]:
        """The account of each device and lane, all read from disk; what is queued is counted chunk by chunk.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        with self._errors():
            accounts = self._read_accounts()
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
        lanes = {lane: replace(state) for lane, state in self._lanes.items()}
        accounts: dict[tuple[str, Lane], Account] = {}
        seqs: dict[str, int] = {}

        def account(device: str, lane: Lane) -> Account:
            key = (device, lane)
            if key not in accounts:
                accounts[key] = replace(self._accounts.get(key, Account()))
            return accounts[key]

        chunks: list[tuple[int, int, int, int, bytes, bytes]] = []
        drops: list[tuple[int, int, int]] = []
        for lane, records in _by_lane(writes.records):
            for counts, payload in self._encode(records, seqs, account, lane):
                chunks.append(self._place(lanes[lane], counts, payload, now_s))
                for device, count in counts.items():
                    account(device, lane).received += count
        for device, count in writes.rejected:
            books = account(device, Lane.NORMAL)
            books.received += count
            books.rejected += count
        for message in writes.settled:
            taken = self._taken.get((message.lane, message.number))
            if taken is not None:
                drops.append(self._drop(lanes[message.lane], taken))
                for device, count in taken.counts.items():
                    account(device, message.lane).delivered += count

        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_PUT_CHUNK, chunks)
                self._db.executemany(_DROP_CHUNKS, drops)
                for lane, taken in self._over_cap(lanes):
                    self._db.execute(_DROP_CHUNKS, self._drop(lanes[lane], taken))
                    for device, count in taken.counts.items():
                        account(device, lane).evicted += count
                self._db.executemany(_PUT_DEVICE, seqs.items())
                self._db.executemany(
                    _PUT_ACCOUNT,
                    [
                        (device, lane, a.received, a.delivered, a.expired, a.evicted, a.rejected)
                        for (device, lane), a in accounts.items()
                    ],
                )
                self._db.executemany(
                    _PUT_LANE,
                    [
                        (lane, state.last_chunk, state.last_message, state.records, state.bytes)
                        for lane, state in lanes.items()
                        if state != self._lanes[lane]
                    ],
                )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._lanes = lanes
        self._accounts.update(accounts)
        self._seqs.update(seqs)
        for message in writes.settled:
            self._taken.pop((message.lane, message.number), None)

    def _place(
        self, lane: _LaneState, counts: dict[str, int], payload: bytes, now_s: float
    ) -> tuple[int, int, int, int, bytes, bytes]:
        """Give a chunk its place: in the open message if there is room, else in a new one."""
        records = sum(counts.values())
        joins = (
            lane.open_records
            and lane.open_records + records <= self._most_records(lane.lane)
            and lane.open_bytes + len(payload) < self._settings.max_message_bytes
        )
        if joins:
            lane.open_records += records
            lane.open_bytes += len(payload) + 1
        else:
            lane.last_message += 1
            lane.open_first_chunk = lane.last_chunk + 1
            lane.open_records = records
            lane.open_bytes = len(payload) + 2
            lane.open_since_s = now_s
        lane.last_chunk += 1
        lane.records += records
        lane.bytes += len(payload)
        return (lane.lane, lane.last_chunk, lane.last_message, records, orjson.dumps(counts), payload)

    def _drop(self, lane: _LaneState, taken: _Taken) -> tuple[int, int, int]:
        lane.records -= sum(taken.counts.values())
        lane.bytes -= taken.bytes
        return (lane.lane, taken.first_chunk, taken.last_chunk)

    def _over_cap(self, lanes: dict[Lane, _LaneState]) -> Iterator[tuple[Lane, _Taken]]:
        """The oldest readings nobody is sending just now, for as long as the store is over its cap."""
        normal = lanes[Lane.NORMAL]
        while sum(lane.bytes for lane in lanes.values()) > self._settings.max_bytes:
            oldest = self._read_message(Lane.NORMAL, normal.taken_to)
            if oldest is None:
                return
            if oldest[0].number == normal.last_message:
                normal.open_records = 0
            _log.warning("buffer.evicted", lane=Lane.NORMAL.label, records=oldest[0].records)
            yield Lane.NORMAL, oldest[1]

    def _encode(
        self,
        records: Sequence[Reading | Event],
        seqs: dict[str, int],
        account: _AccountOf,
        lane: Lane,
    ) -> Iterator[tuple[dict[str, int], bytes]]:
        """Number the records and write them as JSON, in pieces that fit a message, each with its count by device."""
        documents = []
        last_time_ns, time = -1, ""
        for record in records:
            device = record.device
            seqs[device] = seq = (seqs[device] if device in seqs else self._seqs.get(device, 0)) + 1
            if record.time_ns != last_time_ns:
                last_time_ns, time = record.time_ns, rfc3339(record.time_ns)
            document: dict[str, object]
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
        rest = iter(documents)
        while piece := list(islice(rest, self._most_records(lane))):
            yield from self._fit(piece, account, lane)

    def _fit(
        self, documents: list[dict[str, object]], account: _AccountOf, lane: Lane
    ) -> Iterator[tuple[dict[str, int], bytes]]:
        """Split until every piece fits; a single record that never will is rejected and counted."""
        try:
            payload = orjson.dumps(documents)[1:-1]
            fits = len(payload) + 2 <= self._settings.max_message_bytes
        except orjson.JSONEncodeError:
            fits = False
        if fits:
            counts: dict[str, int] = {}
            for document in documents:
                device = str(document["device"])
                counts[device] = counts.get(device, 0) + 1
            yield counts, payload
        elif len(documents) > 1:
            middle = len(documents) // 2
            yield from self._fit(documents[:middle], account, lane)
            yield from self._fit(documents[middle:], account, lane)
        else:
            device = str(documents[0]["device"])
            books = account(device, lane)
            books.received += 1
            books.rejected += 1
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
        for lane, state in self._lanes.items():
            if state.taken_to >= state.last_chunk:
                continue
            if (
                wait_for_more
                and lane is Lane.NORMAL
                and state.open_records
                and state.taken_to >= state.open_first_chunk - 1
                and now_s < (due_s := state.open_since_s + self._settings.max_message_age_s)
                and state.open_records < self._most_records(lane)
            ):
                ready_at_s = due_s
                continue
            with self._errors():
                found = self._read_message(lane, state.taken_to)
            if found is None:
                state.taken_to = state.last_chunk
                continue
            message, taken = found
            self._taken[lane, message.number] = taken
            state.taken_to = taken.last_chunk
            if message.number == state.last_message:
                state.open_records = 0
            return message
        return ready_at_s

    @property
    def may_give(self) -> bool:
        """Whether `take` has anything to look for; from memory."""
        return any(state.taken_to < state.last_chunk for state in self._lanes.values())

    def rewind(self) -> None:
        """Start giving out from the oldest message again."""
        self._taken.clear()
        for state in self._lanes.values():
            state.taken_to = 0

    def _read_message(self, lane: Lane, after_chunk: int) -> tuple[Message, _Taken] | None:
        ids: list[int] = []
        parts: list[bytes] = []
        counts: dict[str, int] = {}
        number = records = 0
        for chunk_id, message, chunk_records, chunk_counts, payload in self._db.execute(
            _CHUNKS_AFTER, (lane, after_chunk)
        ):
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
            db.executemany(_PUT_LANE, [(lane, 0, 0, 0, 0) for lane in Lane])
            db.pragma("user_version", SCHEMA_VERSION)
        elif version != SCHEMA_VERSION:
            db.execute("ROLLBACK")
            raise BufferUnavailable(
                f"was written by another version (schema {version}, this is {SCHEMA_VERSION})",
                where=self._path,
                remedy="Run the version that wrote it, or move the file away",
            )
        db.execute("COMMIT")
        self._lanes = {
            Lane(lane): _LaneState(Lane(lane), *rest) for lane, *rest in db.execute("SELECT * FROM lane ORDER BY lane")
        }
        self._accounts = self._read_accounts()
        self._seqs = dict(db.execute("SELECT name, last_seq FROM device"))
        return str(db.execute("SELECT value FROM store WHERE key = 'id'").get)

    def _read_accounts(self) -> dict[tuple[str, Lane], Account]:
        return {
            (device, Lane(lane)): Account(
                received=received, delivered=delivered, expired=expired, evicted=evicted, rejected=rejected
            )
            for device, lane, received, delivered, expired, evicted, rejected in self._db.execute(
                "SELECT device, lane, received, delivered, expired, evicted, rejected FROM account"
            )
        }

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
