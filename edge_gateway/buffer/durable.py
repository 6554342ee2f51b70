"""The durable queue for many tasks at once: one visit to the store at a time, and one sync for all that came meanwhile.

While the disk works on one transaction, what arrives is gathered; the next transaction takes all of it. What comes
within `commit_within_s` of the last one waits for that long, so that a flood costs no more syncs than a trickle; a
single reading and an alert wait for nothing but their own sync. What has been delivered is dropped in the same
transactions. The work runs in a thread, so a slow disk never stops the links from being read.

Messages come out by routes, each an `Outlet` of its own. A visit reads only for those that somebody takes from and that
have something, so what lies in other routes costs nothing, and one after the other if there are many, so none starves.

A visit begins in the very call that gives reason for it, and its end is told by callbacks and not by a task: each turn
of the event loop that a single reading has to wait for costs more than the work it waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import structlog

from edge_gateway.buffer import Account, Batch, BufferStatus, StoredChunk
from edge_gateway.buffer.ledger import LedgerHead, LedgerRow
from edge_gateway.buffer.routes import Look, Route, Routes
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.offload import Offload, run
from edge_gateway.records import Event, Message

_log = structlog.get_logger()

_Error: TypeAlias = BufferUnavailable | LaneFull | None
_Done: TypeAlias = Callable[[_Error], None]

_READ_RETRY_S: Final = 1.0

_MOST_RECORDS: Final = 4_000
"""In a transaction, so that none grows the log beyond its share of the disk."""

_TIDY_EVERY_S: Final = 60.0

_ALARMS: Final = {
    "disk-full": "the disk is full; the buffer goes on with what it has",
    "damaged": "the disk has damaged the buffer; what was whole is saved, and what was not is counted",
}
"""What status says while the store goes on in spite of its state."""


class DurableBuffer:
    """`Buffer` on a `Store`. An async context manager; leaving writes what was settled and closes the store.

    Args:
        store: the queue; this object is its only user until it is left.
        settle_within_s: how long a delivered message may stay in the store when nothing else is written.
        commit_within_s: how long after a commit records wait for others to share the next.
        offload: where the store's calls run.
    """

    def __init__(self, store: Store, *, settle_within_s: float, commit_within_s: float, offload: Offload) -> None:
        self._store = store
        self._settle_within_s = settle_within_s
        self._commit_within_s = commit_within_s
        self._offload = offload
        self._appends: deque[tuple[Batch, _Done]] = deque()
        self._is_urgent = False
        """Whether among the appends is one that does not wait for others."""
        self._commit_at_s = 0.0
        """Event loop time before which appends wait for others."""
        self._commit_timer: asyncio.TimerHandle | None = None
        self._tidy_at_s = 0.0
        self._settled: list[Message] = []
        self._settle_at_s = 0.0
        """Event loop time at which they leave if nothing else is written before."""
        self._settle_timer: asyncio.TimerHandle | None = None
        """Runs out at that time or earlier, and looks; one for each message would be made and cancelled in vain."""
        self._settle_ripe = False
        self._routes = Routes(store, self._visit, self.settle)
        self._own = self._routes.route("")
        self._draining = False
        self._fault = ""
        self._state = "ok"
        self._on_state: Callable[[str], None] | None = None
        self._told_state = "ok"
        self._visiting = False
        """Whether the store is being visited; what comes in meanwhile waits for the next visit."""
        self._visit_again = False
        self._is_left = False
        self._empty = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._broken.done():
            try:
                await self.flush()
            except BufferUnavailable as unwritten:
                # Nothing is lost by this: what was delivered will be sent again under the same ids.
                _log.warning("buffer.settle_unwritten", messages=len(self._settled), reason=str(unwritten))
        self._is_left = True
        self._routes.close()
        for timer in (self._settle_timer, self._commit_timer):
            if timer is not None:
                timer.cancel()
        await run(self._offload, self._store.close)

    async def watch(self) -> None:
        """Wait for ever, or raise what has broken the buffer.

        Only a bug can; but a gateway that goes on without its buffer would read sensors and keep nothing.
        """
        await asyncio.shield(self._broken)

    async def append(self, batch: Batch) -> None:
        """See `Buffer.append`."""
        appended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: _Error) -> None:
            if appended.done():
                return
            if error is None:
                appended.set_result(None)
            else:
                appended.set_exception(error)

        self.submit(batch, done)
        await appended

    def submit(self, batch: Batch, done: _Done) -> None:
        """See `Buffer.submit`."""
        self._appends.append((batch, done))
        # Who appends nothing waits for what is to be written anyway.
        is_flush = not (batch.records or batch.bad or batch.rejected)
        self._is_urgent = self._is_urgent or is_flush or any(isinstance(each, Event) for each in batch.records)
        self._visit()

    def route(self, name: str) -> Route:
        """The outlet of a route, the same one at each call.

        Args:
            name: a sensor's; "" for the gateway's own, which this object is as well.
        """
        return self._routes.route(name)

    def queued_routes(self) -> set[str]:
        """The routes in which records wait, from memory."""
        return self._store.queued_routes()

    async def take(self) -> Message:
        """See `Outlet.take`. A store that cannot be read is waited for; `status().fault` says why."""
        return await self._own.take()

    def settle(self, message: Message) -> None:
        """See `Outlet.settle`; of whatever route."""
        is_first = not self._settled
        # Without its body, as many may wait for the next transaction; spelt out, as `replace` takes five times as long.
        kept = Message(message.id, message.lane, message.number, message.records, b"", message.route)
        self._settled.append(kept)
        self._routes.leave(message)
        if self._draining:
            self._settle_now()
        elif is_first:
            self._settle_later()

    def rewind(self) -> None:
        """See `Outlet.rewind`."""
        self._own.rewind()

    def drain(self) -> None:
        """From now on give out young messages and drop delivered ones at once: the gateway is stopping."""
        self._draining = True
        self._routes.look_at_all()
        self._note_queued()
        self._settle_now()

    def end_drain(self) -> None:
        """The gateway goes on: let messages wait for company again."""
        self._draining = False

    async def emptied(self) -> None:
        """Wait until nothing is queued; to be called while draining."""
        await self._empty.wait()

    def status(self) -> BufferStatus:
        """See `Buffer.status`."""
        state = self._state_now()
        fault = self._fault or _ALARMS.get(state, "")
        return BufferStatus(self._store.queued(), self._store.totals(), fault, state)

    def _state_now(self) -> str:
        """`BufferStatus.state`; asked for after each visit, when nobody wants the sums."""
        return self._store.state if self._state == "ok" else self._state

    async def accounts(self) -> dict[tuple[str, str], Account]:
        """See `Buffer.accounts`."""
        await self.flush()
        return await run(self._offload, self._store.accounts)

    def accounts_now(self) -> dict[tuple[str, str], Account]:
        """The account of every device and lane, from memory."""
        return self._store.known_accounts()

    def ledger_head(self) -> LedgerHead:
        """The end of the ledger, from memory."""
        return self._store.ledger_head

    def on_state(self, told: Callable[[str], None]) -> None:
        """Call `told` at once with `BufferStatus.state`, and in the event loop whenever that has changed."""
        self._told_state = self._state_now()
        self._on_state = told
        told(self._told_state)

    def note(self, name: str) -> str | None:
        """What the notes of the batches appended so far last said under this name."""
        return self._store.note(name)

    async def read_chunks(self, after: int = 0, *, most: int = 64, quarantine: bool = False) -> list[StoredChunk]:
        """Some chunks of the store by id, taken or not; none at the end.

        A damaged chunk is set aside by being read, and comes without its payload.

        Args:
            after: the id of the last one seen.
            most: chunks at once.
            quarantine: those of the quarantine, in place of all others.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return await run(self._offload, lambda: self._store.read_chunks(after, most, quarantine=quarantine))

    async def ledger_rows(self, after: int = 0, *, most: int = 1000) -> list[LedgerRow]:
        """Some rows of the ledger by number; none at the end.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return await run(self._offload, lambda: self._store.ledger_rows(after, most))

    async def stats(self) -> dict[str, Any]:
        """What the store holds and takes, as JSON can say it.

        Raises:
            BufferUnavailable: the store cannot be read.
        """
        return await run(self._offload, self._store.stats)

    async def rotate_key(self) -> int:
        """Seal with a new key from now on; its number.

        Raises:
            BufferUnavailable: the key store makes none.
        """
        return await run(self._offload, self._store.rotate_key)

    async def flush(self) -> None:
        """See `Buffer.flush`.

        Raises:
            BufferUnavailable: it could not be written now; it stays pending.
        """
        await self.append(Batch())

    # --- visits to the store ------------------------------------------------------------------------------------------

    def _visit(self) -> None:
        """Visit the store with all that has come in, unless somebody is there or there is no reason to."""
        if self._visiting:
            self._visit_again = True
            return
        if self._is_left:
            return
        now_s = asyncio.get_running_loop().time()
        appends = self._due_appends(now_s)
        appended = {batch.route for batch, _ in appends}
        rewinds = self._routes.next_rewinds()
        writes = Writes([batch for batch, _ in appends])
        # A rewind must not give out again what is already known to be delivered.
        if appends or rewinds or self._settle_ripe:
            writes.settled, self._settled = self._settled, []
            self._settle_ripe = False
        look = self._routes.next_look(appended)
        tidy = now_s >= self._tidy_at_s and not any(self._store.queued().values())
        if not (writes or rewinds or tidy or look.ready):
            return
        if writes:
            self._commit_at_s = now_s + self._commit_within_s
        if tidy:
            self._tidy_at_s = now_s + _TIDY_EVERY_S
        self._visit_again |= self._routes.is_wanted
        visit = _Visit(writes, appended, rewinds, look, wait_for_more=not self._draining, tidy=tidy)
        self._visiting = True
        self._offload(partial(visit.run, self._store), partial(self._back, visit, [done for _, done in appends]))

    def _due_appends(self, now_s: float) -> list[tuple[Batch, _Done]]:
        """What shall be written now; the rest waits for others, but not for long."""
        if not self._appends:
            return []
        if not (self._is_urgent or self._draining) and now_s < self._commit_at_s:
            if self._commit_timer is None:
                self._commit_timer = asyncio.get_running_loop().call_at(self._commit_at_s, self._commit_now)
            return []
        due = []
        records = 0
        while self._appends and records < _MOST_RECORDS:
            due.append(self._appends.popleft())
            records += len(due[-1][0].records)
        self._is_urgent = self._visit_again = bool(self._appends)
        return due

    def _commit_now(self) -> None:
        self._commit_timer = None
        self._commit_at_s = 0.0  # now, although a timer may come a trifle early by the loop's clock
        self._visit()

    def _back(self, visit: _Visit, appended: list[_Done], bug: BaseException | None) -> None:
        """A visit is over."""
        try:
            if bug is not None:
                raise bug
            if self._draining:
                self._note_queued()
            self._finish(visit, appended)
            self._visiting = False  # not before: what `_finish` sets off is for the next visit
            if self._visit_again:
                self._visit_again = False
                self._visit()
        except Exception as error:  # noqa: BLE001  # raised where the buffer is watched
            if not self._broken.done():
                self._broken.set_exception(error)

    def _finish(self, visit: _Visit, appended: list[_Done]) -> None:
        """Tell everybody how the visit went."""
        self._note_fault(visit)
        if visit.write_error is not None:
            self._settled = visit.writes.settled + self._settled
            if self._settled:
                self._settle_later()
            # What was submitted meanwhile fails too, or it would be durable before what came earlier.
            appended += [done for _, done in self._appends]
            self._appends.clear()
            self._is_urgent = False
            for done in appended:
                done(visit.write_error)
        else:
            self._routes.have_left(visit.writes.settled)
            for done, refused in zip(appended, visit.refused, strict=True):
                done(refused)
        later = visit.later if visit.read_error is None else dict.fromkeys(visit.look.ready, _READ_RETRY_S)
        self._routes.visited(visit.appended, visit.look, visit.rewinds, visit.messages, later)

    def _note_queued(self) -> None:
        if any(self._store.queued().values()):
            self._empty.clear()
        else:
            self._empty.set()

    def _note_fault(self, visit: _Visit) -> None:
        error = visit.write_error or visit.read_error
        if error is not None:
            if error.what != self._fault:
                _log.error("buffer.unavailable", path=self._store.path, state=error.state, reason=str(error))
            self._fault, self._state = error.what, error.state
        elif visit.writes and self._fault:
            _log.info("buffer.available", path=self._store.path)
            self._fault, self._state = "", "ok"
        if self._on_state is not None and (state := self._state_now()) != self._told_state:
            self._told_state = state
            self._on_state(state)

    def _settle_later(self) -> None:
        self._settle_at_s = asyncio.get_running_loop().time() + self._settle_within_s
        if self._settle_timer is None:
            self._set_settle_timer()

    def _set_settle_timer(self) -> None:
        at_s = self._settle_at_s
        self._settle_timer = asyncio.get_running_loop().call_at(at_s, self._settle_due, at_s)

    def _settle_due(self, at_s: float) -> None:
        """It is this time; but what was settled then may have left, and other messages have come."""
        self._settle_timer = None
        if not self._settled:
            return
        if at_s < self._settle_at_s:
            self._set_settle_timer()
        else:
            self._settle_now()

    def _settle_now(self) -> None:
        self._settle_ripe = True
        self._visit()


@dataclass(slots=True)
class _Visit:
    """One visit to the store: what to change, what to read, and how it went."""

    writes: Writes
    appended: set[str]
    """Routes that something is brought into."""
    rewinds: set[str]
    look: Look
    wait_for_more: bool
    tidy: bool
    messages: list[Message] = field(default_factory=list)
    later: dict[str, float] = field(default_factory=dict)
    """Routes that have nothing to give now, but in so many seconds."""
    refused: list[LaneFull | None] = field(default_factory=list)
    write_error: BufferUnavailable | None = None
    read_error: BufferUnavailable | None = None

    def run(self, store: Store) -> None:
        store.begin_giving(self.look.ready.keys() - self.rewinds)  # so that what is written now marks them too
        try:
            if self.writes:
                self.refused = store.write(self.writes)
        except BufferUnavailable as error:
            self.write_error = error
        if self.rewinds:
            for route in self.rewinds:
                store.rewind(route)
            store.begin_giving(self.look.ready)
        try:
            for route, ready in self.look.ready.items():
                waits_s = [
                    self._read(store, lane, route, self.look.most - ready.get(lane, 0))
                    for lane in store.unfinished(route)
                ]
                wait_s = min(waits_s, default=inf)
                if 0 < wait_s < inf:
                    self.later[route] = wait_s
            if self.tidy:
                store.tidy()
        except BufferUnavailable as error:
            self.read_error = error

    def _read(self, store: Store, lane: str, route: str, most: int) -> float:
        """Read what there is room for; in how many seconds the lane has more to give: 0 is now, `inf` never."""
        size_bytes = 0
        while most > 0 and size_bytes < self.look.most_bytes:
            match store.take(wait_for_more=self.wait_for_more, lanes=((lane, route),)):
                case Message() as message:
                    self.messages.append(message)
                    size_bytes += len(message.body)
                    most -= 1
                    if not store.has_more(lane, route):
                        return inf
                case None:
                    return inf
                case wait_s:
                    return wait_s
        return 0.0
