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

```
Writes --> Store.write --> transaction: what leaves, what makes room, what comes in --> SQLite, synced --> the shelf
Message <-- Store.take <-- giving: the chunks of the next message -------------------------------------------+
people  <-- Store.stats, accounts, read_chunks <-- inspection -----------------------------------------------+
```

Whatever finds damage, the file is closed, rebuilt from what is whole and opened again (`store_file`), and the call that
found it is done once more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw
import structlog

from edge_gateway.buffer import Account, Batch, StoredChunk, inspection, upkeep
from edge_gateway.buffer.books import total
from edge_gateway.buffer.chunks import Damaged
from edge_gateway.buffer.database import SCHEMA_VERSION, close_database, sqlite_errors
from edge_gateway.buffer.giving import Giving
from edge_gateway.buffer.ledger import LedgerHead, LedgerRow
from edge_gateway.buffer.reserve import DiskRoom, Reserve
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.shelf import INSTANT_S, Moment, Shelf
from edge_gateway.buffer.store_file import StoreFile
from edge_gateway.buffer.transaction import Steps, Transaction
from edge_gateway.clock import NS_PER_S, Clock, boot_offset_ns
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import (
    BufferDamaged,
    BufferUnavailable,
    DataKeyMissing,
    DiskFull,
    KeyStoreError,
    LaneFull,
)
from edge_gateway.records import Message

_log = structlog.get_logger()

_DAMAGE_TOLD_S: Final = 60.0
"""Damage is mended at once, but whoever looks at the status should see it."""

_MEND_EVERY_S: Final = 10.0
"""If what is damaged could not be mended, how often it is tried again. It takes reading all there is."""

_Result = TypeVar("_Result")


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
        self._file = StoreFile(path, settings, sealer=sealer, clock=clock, rng=rng, vfs=vfs)
        self._path = self._file.path
        self._sealer = sealer
        self._clock = clock
        self._room = DiskRoom(reserve, clock, self._path)
        self._damage: BufferDamaged | None = None
        """Why the file is closed until it is mended."""
        self._not_mended: BufferUnavailable | None = None
        """Why it was not, the last time that was tried."""
        self._mend_at_s = 0.0
        """Uptime at which to try again."""
        self._damage_until_s = 0.0
        """Uptime until which status tells of damage that was mended."""
        self._must_checkpoint = False
        """Whether a failed transaction may have left something in the log."""
        self._shelf: Shelf
        try:
            self._open()
        except BufferDamaged as error:
            self._save(error)
        self._room.keep_reserve()

    @property
    def path(self) -> str:
        """The database file, for status and errors."""
        return self._path

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
        return DiskFull.state if self._room.is_full else "ok"

    def close(self) -> None:
        """Close the file. What was committed stays."""
        with sqlite_errors(self._path):
            if self._damage is None:
                close_database(self._shelf.db)

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

        room = self._room
        if room.may_not_grow:
            room.look()
        try:
            with self._shelf.space.frozen() if room.may_not_grow else nullcontext():
                refused = self._soundly(lambda: self._transact(steps))
            room.look()
        except DiskFull:
            refused = self._soundly(lambda: self._write_on_a_full_disk(steps))
        return refused

    def _write_on_a_full_disk(self, steps: Steps) -> list[LaneFull | None]:
        """Others have filled the disk: from now on the database does not grow, and lanes give way.

        Raises:
            DiskFull: not even that can be written.
        """
        self._room.found_full()
        with self._shelf.space.frozen():
            return self._transact(steps)

    def _transact(self, steps: Steps) -> list[LaneFull | None]:
        shelf, clock = self._shelf, self._clock
        # Trust is asked for first: a clock that is set between two questions must not be believed too early.
        is_trusted = clock.trusted
        offset_ns = boot_offset_ns(clock) if shelf.boots[shelf.boot].offset_ns is None else None
        moment = Moment(clock.uptime_ns(), clock.now_ns(), is_trusted, offset_ns)
        db = shelf.db
        with sqlite_errors(self._path):
            if self._must_checkpoint:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._must_checkpoint = False
            db.execute("BEGIN IMMEDIATE")
            try:
                transaction = Transaction(shelf, moment)
                transaction.note_time()
                done = steps(transaction)
                if shelf.giving:
                    transaction.mark_given()
                transaction.write()
                if shelf.is_in_doubt:
                    db.pragma("user_version", SCHEMA_VERSION)  # so that there is something to write and to sync
                db.execute("COMMIT")
            except BaseException as error:
                # What the failed transaction has left in the log must not be taken for one that was finished.
                self._must_checkpoint = isinstance(error, apsw.Error)
                shelf.is_in_doubt |= isinstance(error, apsw.IOError)
                if db.in_transaction:
                    with suppress(apsw.Error):
                        db.execute("ROLLBACK")
                if isinstance(error, KeyStoreError):
                    raise DataKeyMissing(error.what, where=error.where, remedy=error.remedy) from error
                raise
        transaction.finish()
        shelf.is_in_doubt = False
        return done

    def _set_aside(self, damaged: Sequence[Damaged]) -> None:
        def steps(transaction: Transaction) -> list[LaneFull | None]:
            transaction.set_aside(damaged)
            return []

        self._transact(steps)

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
        for _, route in places:
            self._shelf.begin_giving(route)
        if self._shelf.is_in_doubt or self.seconds_to_expiry() == 0:
            self.write(Writes())
        return self._soundly(lambda: self._take(places, wait_for_more=wait_for_more))

    def _take(self, places: Collection[tuple[str, str]], *, wait_for_more: bool) -> Message | float | None:
        giving = Giving(self._shelf, self._clock, mark=lambda: self._transact(lambda _: []), set_aside=self._set_aside)
        return giving.take(places, wait_for_more=wait_for_more)

    def begin_giving(self, routes: Iterable[str]) -> None:
        """Messages of these routes are taken from now on. Told of all at once, marking them takes one transaction."""
        for route in routes:
            self._shelf.begin_giving(route)

    def may_give(self, route: str) -> bool:
        """Whether `take` has anything of a route to look for; from memory."""
        return self._shelf.may_give(route)

    def has_more(self, lane: str, route: str) -> bool:
        """Whether `take` has anything of this lane to look for; from memory."""
        return self._shelf.numbers.get((lane, route)) in self._shelf.to_give

    def unfinished(self, route: str) -> list[str]:
        """The lanes in which `take` has anything of a route to look for, the most urgent first; from memory."""
        return self._shelf.unfinished(route)

    def seconds_to_expiry(self) -> float | None:
        """In how long a transaction should look for records that have expired; None if none ever does."""
        standing = self._shelf.expiry.standing
        if not standing:
            return None
        wait_s = standing[0][0] - self._uptime_s()
        return wait_s if wait_s > INSTANT_S else 0.0

    def rewind(self, route: str | None = None) -> None:
        """Start giving out from the oldest message again.

        Args:
            route: of this one only; of all by default.
        """
        routes = {lane.route for lane in self._shelf.lanes.values()} if route is None else {route}
        for each in routes:
            self._shelf.rewind(each)

    # --- looking, in memory ----------------------------------------------------------------------------------------

    def queued(self) -> dict[str, int]:
        """Records waiting, by lane; those of all routes."""
        return {name: self._shelf.sums.by_name[name].queued for name in self._shelf.plans}

    def queued_routes(self) -> set[str]:
        """The routes in which records wait."""
        return {lane.route for lane in self._shelf.lanes.values() if self._shelf.whole(lane.number).queued}

    def queued_of(self, route: str) -> int:
        """Records of a route that wait, given out or not."""
        return sum(self._shelf.whole(lane.number).queued for lane in self._shelf.route_lanes(route))

    def totals(self) -> Account:
        """The account summed over devices and lanes."""
        return total(self._shelf.sums.by_name[name] for name in self._shelf.plans)

    def known_accounts(self) -> dict[tuple[str, str], Account]:
        """The account of each device and lane."""
        return inspection.known_accounts(self._shelf)

    @property
    def ledger_head(self) -> LedgerHead:
        """The end of the ledger."""
        return LedgerHead(self._shelf.ledger_number, self._shelf.ledger_digest)

    def note(self, name: str) -> str | None:
        """What a batch's notes last said under this name."""
        return self._shelf.notes.get(name)

    # --- looking, on the disk --------------------------------------------------------------------------------------

    def accounts(self) -> dict[tuple[str, str], Account]:
        """The account of each device and lane, all read from disk; what is queued is counted chunk by chunk.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(lambda: inspection.counted_accounts(self._shelf))

    def read_chunks(self, after: int, most: int, *, quarantine: bool = False) -> list[StoredChunk]:
        """Some chunks, whoever holds them now. A damaged one is set aside and comes without its payload.

        Args:
            after: the id behind which to begin.
            most: chunks at once.
            quarantine: those of the quarantine, in place of all others.

        Raises:
            BufferUnavailable: the store cannot be read.
        """

        def read() -> list[StoredChunk]:
            found, damaged = inspection.read_chunks(self._shelf, after, most, quarantine=quarantine)
            if damaged:
                self._set_aside(damaged)
            return found

        return self._soundly(read)

    def ledger_rows(self, after: int, most: int) -> list[LedgerRow]:
        """Rows of the ledger by number.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(lambda: inspection.ledger_rows(self._shelf, after, most))

    def check(self) -> None:
        """Have every page of the file looked at. If one is damaged, what is whole is saved at once.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        self._soundly(lambda: inspection.check_pages(self._shelf))

    def stats(self) -> dict[str, Any]:
        """What the store holds and takes, as JSON can say it.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return self._soundly(lambda: inspection.stats(self._shelf, self.state))

    # --- upkeep ----------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Nothing is queued: give back disk space if much is free, and destroy keys that nothing needs any more.

        Raises:
            BufferUnavailable: the store cannot be read, or the disk is too full to be made tidy.
        """
        self._soundly(lambda: upkeep.give_space_back(self._shelf))
        self._soundly(lambda: upkeep.retire_keys(self._shelf))

    def rotate_key(self) -> int:
        """Seal with a new key from now on. The old one goes when nothing on the store needs it any more.

        Raises:
            DataKeyMissing: the key store makes none.
        """
        try:
            return self._sealer.rotate()
        except KeyStoreError as error:
            raise DataKeyMissing(error.what, where=error.where, remedy=error.remedy) from error

    # --- damage ----------------------------------------------------------------------------------------------------

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

    def _mend(self, error: BufferDamaged) -> None:
        """Close the damaged file, save what is whole in it, and go on with the routes that are taken from."""
        damaged = self._shelf
        if self._file.can_be_rebuilt:
            with suppress(apsw.Error):
                damaged.db.close()
        self._save(error)
        for route in damaged.giving:
            self._shelf.begin_giving(route)

    def _save(self, error: BufferDamaged) -> None:
        """Put what is whole into a new database, and open that.

        Raises:
            BufferUnavailable: it cannot be done now.
        """
        _log.error("buffer.damaged", path=self._path, reason=error.what)
        if not self._file.can_be_rebuilt:
            raise error
        # From here on nothing is written to the old files: what is in them is all there is.
        self._damage = error
        try:
            self._file.rebuild(self._room)
            self._open()
        except BufferUnavailable as failed:
            self._not_mended, self._mend_at_s = failed, self._uptime_s() + _MEND_EVERY_S
            raise
        self._damage = self._not_mended = None
        self._damage_until_s = self._uptime_s() + _DAMAGE_TOLD_S

    def _open(self) -> None:
        """Open the file; if it was rebuilt, find out what is missing.

        Raises:
            BufferUnavailable: it cannot be opened; it is closed, and as it was.
        """
        self._shelf = shelf = self._file.open()
        if shelf.is_rebuilt:
            try:
                self._transact(_reconcile)
            except BaseException:
                shelf.db.close()
                raise
            shelf.is_rebuilt = False

    def _uptime_s(self) -> float:
        return self._clock.uptime_ns() / NS_PER_S


def _reconcile(transaction: Transaction) -> list[LaneFull | None]:
    transaction.reconcile_all()
    return []
