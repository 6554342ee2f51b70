"""The durable queue itself: SQLite, synchronous, one thread at a time.

What is on disk:

- `chunk`: records as they were appended together, already encoded and sealed, so that delivering them costs no second
  encoding. A run of chunks with one `message` number is one message.
- `book`: for each lane and device what became of its records, and the last `seq` given out. Under a name that begins
  with `=` stands the lane as a whole, so that start takes the same time however full the store is. There is a lane for
  each route: `=normal` is the gateway's own, `=normal/boiler-3` that of a sensor with an identity of its own.
- `ledger`: the books as they were at the end of each hour, chained by digests.
- `store`: the store's id, the boots records were stamped in, and notes.

Chunks and books change in one transaction, so the account cannot disagree with the queue. A commit touches no third
table, because it writes and syncs whole pages, at least one for each.

Why a repeated message has the same bytes under the same id: a chunk gets its message number when it is appended. A
number is closed, in memory, when the message is first taken or full; later chunks get the next one. After a restart the
first chunk gets a fresh number. So no message ever grows after its first sending, and that costs no extra sync.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import apsw
import orjson
import structlog

from edge_gateway.buffer import ACCOUNT_COLUMNS, Account, Batch, StoredChunk
from edge_gateway.buffer.books import WHOLE_LANE, Book, Key, total
from edge_gateway.buffer.chunks import Chunk, counts_of, is_whole, opened
from edge_gateway.buffer.database import (
    PAGE_BYTES,
    SCHEMA_VERSION,
    Reserve,
    close_database,
    open_database,
    sqlite_errors,
)
from edge_gateway.buffer.lanes import NUMBERS, QUARANTINE, Lane, lane_number, name_on_disk
from edge_gateway.buffer.ledger import LedgerHead, LedgerRow
from edge_gateway.buffer.loading import load_shelf, read_books
from edge_gateway.buffer.rebuild import finish, has_sound_header, lacks_database, rebuild
from edge_gateway.buffer.salvage import FileContent, lost_frames
from edge_gateway.buffer.sealing import Sealer, key_id_of
from edge_gateway.buffer.shelf import Moment, Shelf, Taken
from edge_gateway.buffer.transaction import Transaction
from edge_gateway.clock import NS_PER_S, Clock, boot_offset_ns
from edge_gateway.config.model import BufferSettings
from edge_gateway.errors import (
    BufferDamaged,
    BufferUnavailable,
    DataKeyMissing,
    DiskFull,
    DiskReadOnly,
    KeyStoreError,
    LaneFull,
    PayloadDamaged,
)
from edge_gateway.records import Message

_log = structlog.get_logger()

_CHUNKS_AFTER: Final = "SELECT * FROM chunk WHERE id > ? AND id <= ? ORDER BY id"
_LEDGER_AFTER: Final = "SELECT * FROM ledger WHERE number > ? ORDER BY number LIMIT ?"

_TIDY_BYTES: Final = 16 << 20
"""A database of more than this is made small again once it holds a quarter of it or less."""

_INSTANT_S: Final = 1e-6
"""Two clocks that are each rounded differ by less; nobody waits for so little."""

_DAMAGE_TOLD_S: Final = 60.0
"""Damage is mended at once, but whoever looks at the status should see it."""

_MEND_EVERY_S: Final = 10.0
"""If what is damaged could not be mended, how often it is tried again. It takes reading all there is."""

_RESERVE_EVERY_S: Final = 10.0
"""After the reserve was given up, how often it is tried to take it again."""

_Result = TypeVar("_Result")
_Steps: TypeAlias = "Callable[[Transaction], list[LaneFull | None]]"


@dataclass(slots=True)
class Writes:
    """What one transaction shall change."""

    batches: list[Batch] = field(default_factory=list)
    settled: list[Message] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.batches or self.settled)


class Store:
    """A durable queue with lanes and an account, in one SQLite file.

    Args:
        path: the database file; `:memory:` for one that lives as long as the process.
        settings: lanes and limits.
        sealer: encrypts what is stored.
        clock: tells how old records are, and when times can be put right.
        rng: makes the store's id, which starts every message id.
        reserve: disk space to give up when the disk is full.
        vfs: name of an apsw VFS to use instead of the system's; for tests that watch or fail the disk.

    Raises:
        BufferInUse: another process has the file open.
        BufferUnavailable: the file cannot be created or read.
    """

    def __init__(
        self,
        path: Path | str,
        settings: BufferSettings,
        *,
        sealer: Sealer,
        clock: Clock,
        rng: random.Random,
        reserve: Reserve | None = None,
        vfs: str | None = None,
    ) -> None:
        self._path = str(path)
        self._settings = settings
        self._sealer = sealer
        self._clock = clock
        self._rng = rng
        self._reserve = reserve
        self._vfs = vfs
        self._disk_is_full = False
        self._may_not_grow = False
        """From when the disk was found full until the reserve is there again."""
        self._reserve_at_s = 0.0
        """Uptime at which to try again to take the reserve."""
        self._damage_until_s = 0.0
        """Uptime until which status tells of damage that was mended."""
        self._must_checkpoint = False
        self._is_in_doubt = False
        """Whether a sync has failed, so that nobody knows what is on the disk until one has succeeded."""
        self._has_file = self._path != ":memory:" and vfs is None
        self._damage: BufferDamaged | None = None
        """Why the file is closed until it is mended."""
        self._not_mended: BufferUnavailable | None = None
        """Why it was not, the last time that was tried."""
        self._mend_at_s = 0.0
        """Uptime at which to try again."""
        self._db: apsw.Connection
        self._shelf: Shelf
        try:
            self._open()
        except BufferDamaged as error:
            self._mend(error)
        self._disk_is_full = reserve is not None and not reserve.keep()

    @property
    def path(self) -> str:
        """The database file, for status and errors."""
        return self._path

    @property
    def id(self) -> str:
        """Begins every message id."""
        return self._shelf.id

    @property
    def lanes(self) -> list[str]:
        """The lanes that are taken from, the most urgent first."""
        return list(self._shelf.plans)

    @property
    def state(self) -> str:
        """A fixed word.

        `ok`; `disk-full` from when others have filled the disk until there is room for the reserve again; `damaged`
        for a while after the disk has damaged the store.
        """
        if self._uptime_s() < self._damage_until_s:
            return BufferDamaged.state
        return DiskFull.state if self._disk_is_full else "ok"

    def close(self) -> None:
        """Close the file. What was committed stays."""
        with sqlite_errors(self._path):
            if self._damage is None:
                close_database(self._db)

    def queued(self) -> dict[str, int]:
        """Records waiting, by lane, from memory; those of all routes."""
        return {name: self._shelf.sums.by_name[name].queued for name in self._shelf.plans}

    def queued_of(self, route: str) -> int:
        """Records of a route that wait, given out or not; from memory."""
        return sum(self._shelf.whole(lane.number).queued for lane in self._shelf.route_lanes(route))

    def totals(self) -> Account:
        """The account summed over devices and lanes, from memory."""
        return total(self._shelf.sums.by_name[name] for name in self._shelf.plans)

    def known_accounts(self) -> dict[tuple[str, str], Account]:
        """The account of each device and lane, from memory."""
        # A transaction may add some meanwhile.
        return self._accounts_of(list(self._shelf.books.items()))

    def accounts(self) -> dict[tuple[str, str], Account]:
        """The account of each device and lane, all read from disk; what is queued is counted chunk by chunk.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(self._count_accounts)

    def _count_accounts(self) -> dict[tuple[str, str], Account]:
        books = read_books(self._db).items()
        accounts = self._accounts_of((key, book) for key, book in books if not key[1].startswith(WHOLE_LANE))
        for account in accounts.values():
            account.queued = 0
        for chunk_id, counts in self._db.execute("SELECT id, counts FROM chunk"):
            if (name := self._shelf.lane(lane_number(chunk_id)).plan.name) != QUARANTINE:
                for device, records in counts_of(counts).items():
                    accounts.setdefault((device, name), Account()).queued += records
        if any(account.balance() for account in accounts.values()):
            raise BufferDamaged("chunks are not in the books, or not there", where=self._path)
        return accounts

    def _accounts_of(self, books: Iterable[tuple[Key, Book]]) -> dict[tuple[str, str], Account]:
        """By device and lane: a device may have been in several routes in its life."""
        by_account: defaultdict[tuple[str, str], list[Book]] = defaultdict(list)
        for (number, device), book in books:
            by_account[device, self._shelf.lane(number).plan.name].append(book)
        return {key: total(several) for key, several in by_account.items()}

    def _soundly(self, call: Callable[[], _Result]) -> _Result:
        """Run a call on the database. If that turns out to be damaged, save what is whole, and run it again."""
        if self._damage is not None:
            if self._not_mended is not None and self._uptime_s() < self._mend_at_s:
                raise self._not_mended.with_traceback(None)
            self._mend(self._damage)
        try:
            with sqlite_errors(self._path):
                return call()
        except BufferDamaged as error:
            self._mend(error)
            with sqlite_errors(self._path):
                return call()

    @property
    def ledger_head(self) -> LedgerHead:
        """The end of the ledger."""
        return LedgerHead(self._shelf.ledger_number, self._shelf.ledger_digest)

    def note(self, name: str) -> str | None:
        """What a batch's notes last said under this name."""
        return self._shelf.notes.get(name)

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, writes: Writes) -> list[LaneFull | None]:
        """Do all of `writes`, or nothing, and return when it is safe from a power cut.

        Returns:
            For each batch None, or why its readings were not taken.

        Raises:
            BufferUnavailable: nothing was changed; doing it again with the same writes is safe.
        """

        def steps(transaction: Transaction) -> list[LaneFull | None]:
            transaction.settle(writes.settled)
            for batch in writes.batches:
                transaction.take_from_quarantine(batch.replays)
            transaction.expire()
            return transaction.append(writes.batches)

        if self._may_not_grow:
            self._disk_has_room()
        try:
            with self._shelf.space.frozen() if self._may_not_grow else nullcontext():
                refused = self._soundly(lambda: self._transact(steps))
            self._disk_has_room()
        except DiskFull:
            refused = self._soundly(lambda: self._write_on_a_full_disk(steps))
        return refused

    def _transact(self, steps: _Steps) -> list[LaneFull | None]:
        shelf, clock = self._shelf, self._clock
        # Trust is asked for first: a clock that is set between two questions must not be believed too early.
        is_trusted = clock.trusted
        offset_ns = boot_offset_ns(clock) if shelf.boots[shelf.boot].offset_ns is None else None
        moment = Moment(clock.uptime_ns(), clock.now_ns(), is_trusted, offset_ns)
        with sqlite_errors(self._path):
            if self._must_checkpoint:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._must_checkpoint = False
            self._db.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(shelf, moment)
                transaction.note_time()
                done = steps(transaction)
                if shelf.giving:
                    transaction.mark_given()
                transaction.write()
                if self._is_in_doubt:
                    self._db.pragma("user_version", SCHEMA_VERSION)  # so that there is something to write and to sync
                self._db.execute("COMMIT")
            except BaseException as error:
                # What the failed transaction has left in the log must not be taken for one that was finished.
                self._must_checkpoint = isinstance(error, apsw.Error)
                self._is_in_doubt |= isinstance(error, apsw.IOError)
                if self._db.in_transaction:
                    with suppress(apsw.Error):
                        self._db.execute("ROLLBACK")
                if isinstance(error, KeyStoreError):
                    raise DataKeyMissing(error.what, where=error.where, remedy=error.remedy) from error
                raise
        transaction.finish()
        self._is_in_doubt = False
        return done

    def _write_on_a_full_disk(self, steps: _Steps) -> list[LaneFull | None]:
        """Others have filled the disk: from now on the database does not grow, and lanes give way.

        The reserve is not for records. It is the room that what is in the log needs in the database, so that the log
        can begin anew in the room it has; were the reserve used up first, nothing could ever be written again.

        Raises:
            DiskFull: not even that can be written.
        """
        if not self._disk_is_full:
            self._disk_is_full = True
            _log.error("buffer.disk_full", path=self._path)
        if self._reserve is not None:
            self._reserve.give_up()
            self._may_not_grow = True
        with self._shelf.space.frozen():
            return self._transact(steps)

    def _disk_has_room(self) -> None:
        """Take the reserve again, if it is time to try; without one, that a transaction went through has to do."""
        if self._disk_is_full and self._uptime_s() >= self._reserve_at_s:
            self._reserve_at_s = self._uptime_s() + _RESERVE_EVERY_S
            if self._reserve is None or self._reserve.keep():
                self._disk_is_full = self._may_not_grow = False
                _log.info("buffer.disk_has_room", path=self._path)

    def tidy(self) -> None:
        """Nothing is queued: give back disk space if much is free, and destroy keys that nothing needs any more.

        Raises:
            BufferUnavailable: the store cannot be read, or the disk is too full to be made tidy.
        """
        self._soundly(self._give_space_back)
        self._soundly(self._retire_keys)

    def _give_space_back(self) -> None:
        file_pages, free_pages = self._shelf.space.file_pages(), self._shelf.space.free_pages()
        if file_pages * PAGE_BYTES > _TIDY_BYTES and (file_pages - free_pages) * 4 <= file_pages:
            self._db.execute("VACUUM")

    def _retire_keys(self) -> None:
        try:
            if len(self._sealer.key_ids()) < 2:
                return
            needed = {key_id_of(payload) for (payload,) in self._db.execute("SELECT payload FROM chunk")}
            for key_id in self._sealer.retire(min(needed, default=self._sealer.key_id)):
                _log.info("buffer.key_destroyed", key=key_id)
        except (KeyStoreError, PayloadDamaged) as error:
            # The keys stay until they can be told from those in use.
            _log.warning("buffer.keys_kept", reason=str(error))

    def rotate_key(self) -> int:
        """Seal with a new key from now on. The old one goes when nothing on the store needs it any more.

        Raises:
            DataKeyMissing: the key store makes none.
        """
        try:
            return self._sealer.rotate()
        except KeyStoreError as error:
            raise DataKeyMissing(error.what, where=error.where, remedy=error.remedy) from error

    # --- giving out ------------------------------------------------------------------------------------------------

    def take(
        self, *, wait_for_more: bool = True, lanes: Collection[tuple[str, str]] | None = None
    ) -> Message | float | None:
        """Give out the next message not given out yet, of the most urgent lane.

        Args:
            wait_for_more: let a young message wait for more records, as its lane says.
            lanes: of these only, each a lane and a route; of all routes by default.

        Returns:
            The message; or in how many seconds a waiting message will be given out; or None if there is nothing.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        places = {lane.place for lane in self._shelf.lanes.values()} if lanes is None else lanes
        self.begin_giving(route for _, route in places)
        if self._is_in_doubt or self.seconds_to_expiry() == 0:
            self.write(Writes())
        return self._soundly(lambda: self._take(places, wait_for_more=wait_for_more))

    def begin_giving(self, routes: Iterable[str]) -> None:
        """Messages of these routes are taken from now on. Told of all at once, marking them takes one transaction."""
        for route in routes:
            self._shelf.begin_giving(route)

    def _take(self, places: Collection[tuple[str, str]], *, wait_for_more: bool) -> Message | float | None:
        wait_s: float | None = None
        for number in self._unfinished(places):
            lane = self._shelf.lanes[number]
            while number in self._shelf.to_give:
                young_s = self._still_waits_s(lane) if wait_for_more else 0.0
                if young_s > 0:
                    wait_s = young_s if wait_s is None else min(wait_s, young_s)
                    break
                message = self._give(number)
                if message is not None:
                    return message
                lane = self._shelf.lanes[number]
        return wait_s

    def _unfinished(self, places: Collection[tuple[str, str]]) -> list[int]:
        """Which of these lanes have something to give, the most urgent first."""
        shelf = self._shelf
        numbers = [number for place in places if (number := shelf.numbers.get(place)) in shelf.to_give]
        if len(numbers) > 1:
            numbers.sort(key=lambda number: (shelf.rank[shelf.lanes[number].plan.name], number))
        return numbers

    def _still_waits_s(self, lane: Lane) -> float:
        """How long the next message of a lane still waits for company."""
        if not lane.open_records or lane.taken_to < lane.open_first_chunk - 1:
            return 0.0
        if lane.open_records >= lane.plan.most_records:
            return 0.0
        wait_s = lane.open_since_s + lane.plan.wait_s - self._uptime_s()
        return wait_s if wait_s > _INSTANT_S else 0.0

    def _give(self, number: int) -> Message | None:
        """The next message of a lane; None if there is none any more, or it was damaged."""
        found = self._read_message(number)
        if found is None:
            return None
        message, taken = found
        lane = self._shelf.lanes[number]
        if lane.chunk_number(taken.last_id) > self._shelf.whole(number).given:
            self._mark_given(number)
            found = self._read_message(number)  # with the marks that are there now
            if found is None:
                return None
            message, taken = found
            lane = self._shelf.lanes[number]
        self._shelf.taken.setdefault(number, {})[message.number] = taken
        self._shelf.give(lane, lane.chunk_number(taken.last_id))
        if message.number == self._shelf.whole(number).last:
            lane.open_records = 0
        return message

    def _mark_given(self, number: int) -> None:
        """From now on what is on the store may be with the hub, and stays as it is."""
        try:
            self._transact(lambda _: [])
        except BufferUnavailable:
            if self._is_in_doubt:
                raise
            # A disk that takes no writes must not keep the backlog from the hub. Only if the power fails too before it
            # does again, a message may come back thinned or corrected.
            whole = self._shelf.whole(number)
            whole.given = whole.chunk

    def may_give(self, route: str) -> bool:
        """Whether `take` has anything of a route to look for; from memory."""
        return self._shelf.may_give(route)

    def unfinished(self, route: str) -> list[str]:
        """The lanes in which `take` has anything of a route to look for, the most urgent first; from memory."""
        return self._shelf.unfinished(route)

    def seconds_to_expiry(self) -> float | None:
        """In how long a transaction should look for records that have expired; None if none ever does."""
        standing = self._shelf.expiry.standing
        if not standing:
            return None
        wait_s = standing[0][0] - self._uptime_s()
        return wait_s if wait_s > _INSTANT_S else 0.0

    def rewind(self, route: str | None = None) -> None:
        """Start giving out from the oldest message again.

        Args:
            route: of this one only; of all by default.
        """
        routes = {lane.route for lane in self._shelf.lanes.values()} if route is None else {route}
        for each in routes:
            self._shelf.rewind(each)

    def _read_message(self, number: int) -> tuple[Message, Taken] | None:
        """Put the next message of a lane together; None if there is none. Damaged chunks are set aside."""
        lane = self._shelf.lanes[number]
        chunks: list[Chunk] = []
        damaged: list[tuple[Chunk, bytes]] = []
        with closing(self._chunks_after(lane, damaged)) as following:
            for chunk in following:
                if chunks and chunk.message != chunks[0].message:
                    break
                chunks.append(chunk)
        if damaged:
            try:
                self._set_aside(damaged)
            except (DiskFull, DiskReadOnly):
                # A disk that takes no writes must not keep what is whole from the hub.
                self._shelf.passed_over.add(number)
            lane = self._shelf.lanes[number]
        if not chunks:
            self._miss_none(lane)
            self._shelf.give(lane, self._shelf.whole(number).chunk)
            return None
        counts: dict[str, int] = {}
        for chunk in chunks:
            for device, count in orjson.loads(chunk.counts).items():
                counts[device] = counts.get(device, 0) + count
        first = chunks[0]
        body = b"[" + b",".join(map(self._shelf.documents_of, chunks)) + b"]"
        taken = Taken(first.id, chunks[-1].id, counts, sum(chunk.stored_bytes for chunk in chunks))
        message = Message(
            f"{self.id}-{number}-{first.message}",
            lane.plan.name,
            first.message,
            sum(chunk.records for chunk in chunks),
            body,
            lane.route,
        )
        return message, taken

    def _miss_none(self, lane: Lane) -> None:
        """At the end of a lane: see that the disk has not swallowed chunks without a word."""
        queued = self._shelf.whole(lane.number).queued
        taken = self._shelf.taken.get(lane.number, {}).values()
        given = sum(sum(each.counts.values()) for each in taken)
        if queued != given and lane.number not in self._shelf.passed_over:
            raise BufferDamaged(f"{queued - given} records are missing", where=f"lane {name_on_disk(*lane.place)}")

    def _chunks_after(self, lane: Lane, damaged: list[tuple[Chunk, bytes]]) -> Generator[Chunk, None, None]:
        """The chunks of a lane not given out, in order; from memory if the last transaction appended them all.

        Args:
            lane: which.
            damaged: gets those that do not open, with their sealed payloads.
        """
        first, last = lane.chunk_id(lane.taken_to + 1), lane.chunk_id(self._shelf.whole(lane.number).chunk)
        fresh = self._shelf.fresh
        if first in fresh:
            for chunk_id in range(first, last + 1):
                yield fresh[chunk_id]
            return
        last_id = first - 1
        with closing(self._db.execute(_CHUNKS_AFTER, (last_id, last))) as rows:
            for row in rows:
                if row[0] <= last_id:
                    raise BufferDamaged("chunks are not in order", where=f"chunk {row[0]} behind {last_id}")
                last_id = row[0]
                chunk, sealed = opened(row, self._sealer)
                if sealed is not None:
                    damaged.append((chunk, sealed))
                else:
                    yield chunk

    def _set_aside(self, damaged: list[tuple[Chunk, bytes]]) -> None:
        def steps(transaction: Transaction) -> list[LaneFull | None]:
            for _, of_lane in groupby(damaged, lambda each: lane_number(each[0].id)):
                transaction.set_aside(list(of_lane))
            return []

        self._transact(steps)

    # --- looking ---------------------------------------------------------------------------------------------------

    def read_chunks(self, after: int, most: int, *, quarantine: bool = False) -> list[StoredChunk]:
        """Some chunks, whoever holds them now. A damaged one is set aside and comes without its payload.

        Args:
            after: the id behind which to begin.
            most: chunks at once.
            quarantine: those of the quarantine, in place of all others.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(lambda: self._read_chunks(after, most, quarantine=quarantine))

    def _read_chunks(self, after: int, most: int, *, quarantine: bool) -> list[StoredChunk]:
        apart = self._shelf.quarantine
        spans = [(apart * NUMBERS, (apart + 1) * NUMBERS - 1)]
        if not quarantine:
            spans = [(0, apart * NUMBERS - 1), ((apart + 1) * NUMBERS, self._shelf.next_number * NUMBERS - 1)]
        rows: list[tuple[Any, ...]] = []
        for first, last in spans:
            span = (max(after, first - 1), last, most - len(rows))
            rows += self._db.execute(f"{_CHUNKS_AFTER} LIMIT ?", span).fetchall()
        found: list[StoredChunk] = []
        damaged: list[tuple[Chunk, bytes]] = []
        for row in rows:
            chunk, sealed = opened(row, self._sealer)
            payload = self._shelf.documents_of(chunk) if sealed is None else None
            if sealed is not None and not quarantine:
                damaged.append((chunk, sealed))
            name, route = self._shelf.lane(chunk.message if quarantine else lane_number(chunk.id)).place
            counts = counts_of(chunk.counts)
            found.append(StoredChunk(chunk.id, name, chunk.message, chunk.records, counts, payload, route))
        if damaged:
            self._set_aside(damaged)
        return found

    def ledger_rows(self, after: int, most: int) -> list[LedgerRow]:
        """Rows of the ledger by number.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(lambda: [LedgerRow(*row) for row in self._db.execute(_LEDGER_AFTER, (after, most))])

    def check(self) -> None:
        """Have every page of the file looked at. If one is damaged, what is whole is saved at once.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        self._soundly(self._check)

    def _check(self) -> None:
        fault = self._db.execute("PRAGMA integrity_check(1)").get
        if fault != "ok":
            raise BufferDamaged(str(fault), where=self._path)

    def stats(self) -> dict[str, Any]:
        """What the store holds and takes, as JSON can say it.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        file_pages, free_pages = self._soundly(lambda: (self._shelf.space.file_pages(), self._shelf.space.free_pages()))
        shelf = self._shelf
        lanes = []
        for plan in shelf.plans.values():
            whole = shelf.sums.by_name[plan.name]
            account = {name: getattr(whole.account(), name) for name in ACCOUNT_COLUMNS}
            lanes.append(
                {
                    "name": plan.name,
                    "bytes": whole.bytes,
                    "max_bytes": plan.max_bytes,
                    "when_full": plan.when_full,
                    "ttl_s": plan.ttl_s,
                    **account,
                }
            )
        return {
            "path": self._path,
            "id": shelf.id,
            "state": self.state,
            "lanes": lanes,
            "quarantine_bytes": shelf.whole(shelf.quarantine).bytes,
            "disk": {
                "database_bytes": file_pages * PAGE_BYTES,
                "free_bytes": free_pages * PAGE_BYTES,
                "max_bytes": self._settings.max_disk_bytes,
            },
            "key": self._sealer.key_id,
            "ledger_rows_to": shelf.ledger_number,
        }

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the file, or make it. If that fails it is closed, and as it was.

        Raises:
            BufferUnavailable: it cannot be opened.
        """
        path = Path(self._path)
        with sqlite_errors(self._path):
            if self._has_file:
                finish(path)
                if lacks_database(path):
                    raise BufferDamaged("there is a log and no database", where=self._path)
                path.touch(mode=0o600)  # for the gateway's user only; SQLite gives the log the same mode
            try:
                self._db = open_database(self._path, self._settings, self._vfs)
                try:
                    self._begin()
                except BaseException:
                    self._db.close()
                    raise
            except DiskReadOnly as error:
                if self._has_file and not has_sound_header(path):
                    raise BufferDamaged("its header is damaged", where=self._path) from error
                raise

    def _begin(self) -> None:
        """Make sure that SQLite has found all that is there, and read what belongs in memory."""
        with sqlite_errors(self._path):
            [(_, recovered, _)] = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
            log = Path(f"{self._path}-wal")
            if self._has_file and recovered >= 0 and log.exists():
                with log.open("rb") as file:
                    if lost := lost_frames(FileContent(file.fileno()), recovered, page_bytes=PAGE_BYTES):
                        raise BufferDamaged(f"{lost} frames of the log are damaged", where=str(log))
            self._shelf = load_shelf(
                self._db, self._settings, sealer=self._sealer, clock=self._clock, rng=self._rng, path=self._path
            )
            if self._shelf.is_rebuilt:
                self._transact(_reconcile)
                self._shelf.is_rebuilt = False

    def _mend(self, error: BufferDamaged) -> None:
        """Put what is whole into a new database, and go on with that.

        Raises:
            BufferUnavailable: it cannot be done now.
        """
        _log.error("buffer.damaged", path=self._path, reason=error.what)
        if not self._has_file:
            raise error
        giving = self._shelf.giving if hasattr(self, "_shelf") else set()
        # From here on nothing is written to the old files: what is in them is all there is.
        self._damage = error
        try:
            if hasattr(self, "_db"):
                with suppress(apsw.Error):
                    self._db.close()
            with sqlite_errors(self._path):
                self._rebuild(Path(self._path))
            self._open()
        except BufferUnavailable as failed:
            self._not_mended, self._mend_at_s = failed, self._uptime_s() + _MEND_EVERY_S
            raise
        self._damage = self._not_mended = None
        for route in giving:
            self._shelf.begin_giving(route)
        self._damage_until_s = self._uptime_s() + _DAMAGE_TOLD_S

    def _rebuild(self, path: Path) -> None:
        if finish(path):
            return
        try:
            rebuild(path, self._is_whole)
        except (apsw.FullError, OSError):
            if self._reserve is None or not self._reserve.give_up():
                raise
            if not finish(path):
                rebuild(path, self._is_whole)

    def _is_whole(self, row: tuple[Any, ...]) -> bool:
        return is_whole(row, self._sealer)

    def _uptime_s(self) -> float:
        return self._clock.uptime_ns() / NS_PER_S


def _reconcile(transaction: Transaction) -> list[LaneFull | None]:
    transaction.reconcile_all()
    return []
