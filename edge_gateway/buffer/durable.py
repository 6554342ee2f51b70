"""The durable queue for many tasks at once: one visit to the store at a time, and one sync for all that came meanwhile.

While the disk works on one transaction, what arrives is gathered; the next transaction takes all of it. So a single
reading waits for one sync, and a flood costs no more syncs than a trickle. What has been delivered is dropped in the
same transactions. The work runs in a thread, so a slow disk never stops the links from being read.

A visit begins in the very call that gives reason for it, and its end is told by callbacks and not by a task: each turn
of the event loop that a single reading has to wait for costs more than the work it waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

import structlog

from edge_gateway.buffer import Account, BufferStatus
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.errors import BufferUnavailable
from edge_gateway.records import Event, Lane, Message, Reading

_log = structlog.get_logger()

_Done: TypeAlias = Callable[[BufferUnavailable | None], None]

_READ_RETRY_S: Final = 1.0

_AHEAD: Final = 16
"""Messages read ahead of the taker, at most. While much comes in, a visit to the store first commits all of it; what is
delivered until the next visit has to be read in this one."""

_AHEAD_BYTES: Final = 2 << 20
"""The same in bytes."""


class Offload(Protocol):
    """Runs blocking calls off the event loop, one after the other."""

    def __call__(self, call: Callable[[], None], done: Callable[[BaseException | None], None], /) -> None:
        """Run `call`; then call `done` in the event loop, later than now, with what was raised or with None."""
        ...


def run_inline(call: Callable[[], None], done: Callable[[BaseException | None], None], /) -> None:
    """An `Offload` that does not: for virtual time, where a thread would bring the real clock in."""
    raised: BaseException | None = None
    try:
        call()
    except Exception as error:  # noqa: BLE001  # whoever waits for the call is told, whatever it is
        raised = error
    asyncio.get_running_loop().call_soon(done, raised)


class DurableBuffer:
    """`Buffer` on a `Store`. An async context manager; leaving writes what was settled and closes the store.

    Args:
        store: the queue; this object is its only user until it is left.
        settle_within_s: how long a delivered message may stay in the store when nothing else is written.
        offload: where the store's calls run.
    """

    def __init__(self, store: Store, *, settle_within_s: float, offload: Offload) -> None:
        self._store = store
        self._settle_within_s = settle_within_s
        self._offload = offload
        self._appends: list[tuple[Sequence[Reading | Event], Sequence[tuple[str, int]], _Done]] = []
        self._settled: list[Message] = []
        self._settle_timer: asyncio.TimerHandle | None = None
        self._settle_ripe = False
        self._give_timer: asyncio.TimerHandle | None = None
        self._ready: dict[Lane, deque[Message]] = {lane: deque() for lane in Lane}
        self._takers: set[asyncio.Future[None]] = set()
        self._rewind = False
        self._draining = False
        self._fault = ""
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
        for timer in (self._settle_timer, self._give_timer):
            if timer is not None:
                timer.cancel()
        await self._run(self._store.close)

    async def watch(self) -> None:
        """Wait for ever, or raise what has broken the buffer.

        Only a bug can; but a gateway that goes on without its buffer would read sensors and keep nothing.
        """
        await asyncio.shield(self._broken)

    async def append(self, records: Sequence[Reading | Event], rejected: Sequence[tuple[str, int]] = ()) -> None:
        """See `Buffer.append`."""
        appended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BufferUnavailable | None) -> None:
            if appended.done():
                return
            if error is None:
                appended.set_result(None)
            else:
                appended.set_exception(error)

        self.submit(records, rejected, done)
        await appended

    def submit(
        self,
        records: Sequence[Reading | Event],
        rejected: Sequence[tuple[str, int]],
        done: Callable[[BufferUnavailable | None], None],
    ) -> None:
        """See `Buffer.submit`."""
        self._appends.append((records, rejected, done))
        self._visit()

    async def take(self) -> Message:
        """See `Buffer.take`. A store that cannot be read is waited for; `status().fault` says why."""
        while True:
            for messages in self._ready.values():
                if messages:
                    message = messages.popleft()
                    if self._store.may_give and sum(map(len, self._ready.values())) < _AHEAD // 2:
                        self._visit()
                    return message
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._takers.add(waiting)
            if self._store.may_give:
                self._visit()
            try:
                await waiting
            finally:
                self._takers.discard(waiting)

    def settle(self, message: Message) -> None:
        """See `Buffer.settle`."""
        self._settled.append(message)
        if self._draining:
            self._settle_now()
        else:
            self._settle_later()

    def rewind(self) -> None:
        """See `Buffer.rewind`."""
        for messages in self._ready.values():
            messages.clear()
        self._rewind = True
        self._visit()

    def drain(self) -> None:
        """From now on give out young messages and drop delivered ones at once: the gateway is stopping."""
        self._draining = True
        self._note_queued()
        self._settle_now()

    async def emptied(self) -> None:
        """Wait until nothing is queued; to be called while draining."""
        await self._empty.wait()

    def status(self) -> BufferStatus:
        """See `Buffer.status`."""
        return BufferStatus(self._store.queued(), self._store.totals(), self._fault)

    async def accounts(self) -> dict[tuple[str, Lane], Account]:
        """See `Buffer.accounts`."""
        await self.flush()
        accounts: dict[tuple[str, Lane], Account] = {}
        await self._run(lambda: accounts.update(self._store.accounts()))
        return accounts

    async def flush(self) -> None:
        """See `Buffer.flush`.

        Raises:
            BufferUnavailable: it could not be written now; it stays pending.
        """
        await self.append(())

    # --- visits to the store ------------------------------------------------------------------------------------------

    def _visit(self) -> None:
        """Visit the store with all that has come in, unless somebody is there or there is no reason to."""
        if self._visiting:
            self._visit_again = True
            return
        if self._is_left:
            return
        appends, self._appends = self._appends, []
        rewind, self._rewind = self._rewind, False
        writes = Writes()
        for records, rejected, _ in appends:
            writes.records.extend(records)
            writes.rejected.extend(rejected)
        # A rewind must not give out again what is already known to be delivered.
        if appends or rewind or self._settle_ripe:
            writes.settled, self._settled = self._settled, []
            self._settle_ripe = False
            if self._settle_timer is not None:
                self._settle_timer.cancel()
                self._settle_timer = None
        ahead = sum(map(len, self._ready.values()))
        wanted = _AHEAD - ahead if self._takers or ahead else 0
        if not (appends or writes or rewind or (wanted and self._store.may_give)):
            return
        now_s = asyncio.get_running_loop().time()
        visit = _Visit(writes, rewind, wanted, now_s, wait_for_more=not self._draining)
        self._visiting = True
        self._offload(partial(visit.run, self._store), partial(self._back, visit, [done for *_, done in appends]))

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

    async def _run(self, call: Callable[[], None]) -> None:
        """Run a call on the store after those under way."""
        ran: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: BaseException | None) -> None:
            if ran.done():
                return
            if error is None:
                ran.set_result(None)
            else:
                ran.set_exception(error)

        self._offload(call, done)
        await ran

    def _finish(self, visit: _Visit, appended: list[_Done]) -> None:
        """Tell everybody how the visit went."""
        if visit.write_error is not None:
            self._settled = visit.writes.settled + self._settled
            if self._settled:
                self._settle_later()
            # What was submitted meanwhile fails too, or it would be durable before what came earlier.
            appended += [done for *_, done in self._appends]
            self._appends.clear()
        self._note_fault(visit)
        for done in appended:
            done(visit.write_error)
        if self._rewind:
            visit.messages.clear()  # read before the rewind that was asked for meanwhile; it gives them again, in order
        for message in visit.messages:
            self._ready[message.lane].append(message)
        if visit.messages:
            for waiting in self._takers:
                if not waiting.done():
                    waiting.set_result(None)
        due_s = visit.now_s + _READ_RETRY_S if visit.read_error is not None else visit.due_s
        if due_s is not None and self._give_timer is None:
            self._give_timer = asyncio.get_running_loop().call_at(due_s, self._give_now)

    def _note_queued(self) -> None:
        if any(self._store.queued().values()):
            self._empty.clear()
        else:
            self._empty.set()

    def _note_fault(self, visit: _Visit) -> None:
        error = visit.write_error or visit.read_error
        if error is not None:
            if error.what != self._fault:
                _log.error("buffer.unavailable", path=self._store.path, reason=str(error))
            self._fault = error.what
        elif visit.writes and self._fault:
            _log.info("buffer.available", path=self._store.path)
            self._fault = ""

    def _give_now(self) -> None:
        self._give_timer = None
        self._visit()

    def _settle_later(self) -> None:
        if self._settle_timer is None and not self._settle_ripe:
            self._settle_timer = asyncio.get_running_loop().call_later(self._settle_within_s, self._settle_now)

    def _settle_now(self) -> None:
        self._settle_timer = None
        self._settle_ripe = True
        self._visit()


@dataclass(slots=True)
class _Visit:
    """One visit to the store: what to change, what to read, and how it went."""

    writes: Writes
    rewind: bool
    wanted: int
    now_s: float
    wait_for_more: bool
    messages: list[Message] = field(default_factory=list)
    due_s: float | None = None
    write_error: BufferUnavailable | None = None
    read_error: BufferUnavailable | None = None

    def run(self, store: Store) -> None:
        try:
            if self.writes:
                store.write(self.writes, self.now_s)
        except BufferUnavailable as error:
            self.write_error = error
        if self.rewind:
            store.rewind()
        try:
            while len(self.messages) < self.wanted and sum(len(each.body) for each in self.messages) < _AHEAD_BYTES:
                match store.take(self.now_s, wait_for_more=self.wait_for_more):
                    case Message() as message:
                        self.messages.append(message)
                    case due_s:
                        self.due_s = due_s
                        break
        except BufferUnavailable as error:
            self.read_error = error
