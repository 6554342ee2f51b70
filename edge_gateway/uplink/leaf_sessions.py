"""A hub session for each sensor that has an identity of its own, a thousand of them on one box.

Each such sensor, a *leaf*, has a `Delivery` of its own, so that what one is refused holds up no other. What they share
is decided here:

- A leaf that is *held* is connected all the time, so that commands reach it. Another connects when something is queued
  for it, and leaves when it has been idle for a while.
- There are so many *places*. If all are taken and somebody has something to send, the session that was idle longest
  gives way, be it held or not; if none is idle, the one that has been connected longest, after its turn. Who is held
  and has nothing to send waits for a place that is free.
- Only so many connect at once, and only so many in a second: neither a start nor a hub that comes back sees a burst.

None of it needs a change in `Delivery` or an uplink: a leaf's uplink is wrapped in one that enters late and ends
sessions as planned.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

from edge_gateway.buffer import Outlet
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.errors import UplinkLost
from edge_gateway.records import Command, CommandResult, Message
from edge_gateway.uplink import Downlink, Session, Uplink
from edge_gateway.uplink.delivery import Delivery, DeliveryStatus

_ANSWERED_S: Final = 0.5
"""So long after its last message or command a session is not taken for idle: an answer may still be on its way."""


class LeafQueue(Outlet, Protocol):
    """What is queued for one leaf."""

    @property
    def has_queued(self) -> bool:
        """Whether there is something to take, or taken and not settled."""
        ...

    async def wait_queued(self) -> None:
        """Return when `has_queued` is true."""
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    """A sensor with an identity of its own."""

    device: str
    """The gateway's name for it."""
    uplink: Uplink
    queue: LeafQueue
    downlink: Downlink
    hold: bool = False
    """Whether it is connected while nothing is queued, too."""


@dataclass(frozen=True, slots=True)
class LeafLimits:
    """What leaves share."""

    most_sessions: int = 1000
    """At once."""
    most_connecting: int = 8
    """At once to one host; more than the threads that connect only wait there."""
    connects_per_s: float = 20.0
    """IoT Hub takes 100 in a second for all its devices, in its small tiers."""
    idle_s: float = 60.0
    """A session that is not held leaves after so long without a message or command."""
    turn_s: float = 10.0
    """A busy session gives way to who waits for a place after so long."""


LeafState: TypeAlias = Literal["connected", "connecting", "waiting", "idle", "faulty"]
"""`waiting`: something is queued, and there is no place; `idle`: not connected, and no need to be; `faulty`: refused or
lost, and tried again after a pause."""


class LeafStatus(NamedTuple):
    """How a leaf fares."""

    state: LeafState
    delivery: DeliveryStatus


class LeafSums(NamedTuple):
    """How all fare together."""

    leaves: int
    states: Mapping[LeafState, int]
    """How many leaves are in each; those with none are left out."""
    sessions: int
    """Begun since the process started."""
    messages: int
    """Confirmed since the process started."""
    records: int


class LeafSessions:
    """Runs until cancelled. Use `run` as a task.

    Args:
        leaves: the sensors.
        delivery: window, time-outs and pauses of each.
        limits: what they share.
        rng: jitter.
    """

    def __init__(
        self, leaves: Iterable[Leaf], delivery: DeliverySettings, limits: LeafLimits, rng: random.Random
    ) -> None:
        self._places = _Places(limits)
        self._links: dict[str, tuple[_LeafLink, Delivery]] = {}
        for leaf in leaves:
            link = _LeafLink(leaf, self._places, limits)
            self._links[leaf.device] = (link, Delivery(link, leaf.queue, leaf.downlink, delivery, rng))

    async def run(self) -> None:
        """Deliver for all."""
        async with asyncio.TaskGroup() as group:
            for device, (_, delivery) in self._links.items():
                group.create_task(delivery.run(), name=f"leaf {device}")

    def status(self, device: str) -> LeafStatus:
        """How one leaf fares; KeyError if there is none of this name."""
        link, delivery = self._links[device]
        return LeafStatus(link.state(delivery.status), delivery.status)

    def statuses(self) -> dict[str, LeafStatus]:
        """How each fares, by the device's name."""
        return {device: self.status(device) for device in self._links}

    def sums(self) -> LeafSums:
        """How all fare together."""
        each = [self.status(device) for device in self._links]
        return LeafSums(
            leaves=len(each),
            states=Counter(status.state for status in each),
            sessions=sum(status.delivery.sessions for status in each),
            messages=sum(status.delivery.messages for status in each),
            records=sum(status.delivery.records for status in each),
        )


class _Places:
    """Who may be connected, and who gives way."""

    def __init__(self, limits: LeafLimits) -> None:
        self._limits = limits
        self._taken: dict[_LeafLink, None] = {}
        self._waiting: deque[tuple[_LeafLink, asyncio.Future[None]]] = deque()
        """Who has something to send."""
        self._free: asyncio.Event = asyncio.Event()
        """For who has nothing to send."""
        self._free.set()
        self._connecting: dict[str, asyncio.Semaphore] = {}
        """By the host that is connected to: one that is dead keeps nobody from the others."""
        self._next_connect_at_s = 0.0
        self._timer: asyncio.Handle | None = None
        """While somebody waits."""

    def __contains__(self, link: _LeafLink) -> bool:
        return link in self._taken

    def try_take(self, link: _LeafLink) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self._waiting or len(self._taken) >= self._limits.most_sessions:
            return False
        self._take(link)
        return True

    async def take(self, link: _LeafLink) -> None:
        """Wait for a place, for who has something to send."""
        if self.try_take(link):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (link, granted)
        self._waiting.append(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._make_room)
        try:
            await granted
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif link in self._taken:
                self.give_back(link)
            raise

    async def free(self) -> None:
        """Wait until there may be a place for who has nothing to send."""
        await self._free.wait()

    def give_back(self, link: _LeafLink) -> None:
        """The session is over."""
        del self._taken[link]
        while self._waiting and len(self._taken) < self._limits.most_sessions:
            waiting, granted = self._waiting.popleft()
            if granted.cancelled():
                continue  # when all are ended at once, this one's turn to leave the queue has not come yet
            self._take(waiting)
            granted.set_result(None)
        self._note_free()

    @asynccontextmanager
    async def connecting(self, endpoint: str) -> AsyncIterator[None]:
        """Wait for the moment to connect, and be one of those that do.

        Args:
            endpoint: see `Uplink.endpoint`.
        """
        host = urlsplit(endpoint).netloc
        async with self._connecting.setdefault(host, asyncio.Semaphore(self._limits.most_connecting)):
            now_s = asyncio.get_running_loop().time()
            at_s = max(now_s, self._next_connect_at_s)
            self._next_connect_at_s = at_s + 1 / self._limits.connects_per_s
            await asyncio.sleep(at_s - now_s)
            yield

    def _take(self, link: _LeafLink) -> None:
        self._taken[link] = None
        self._note_free()

    def _note_free(self) -> None:
        if self._waiting or len(self._taken) >= self._limits.most_sessions:
            self._free.clear()
        else:
            self._free.set()

    def _make_room(self) -> None:
        """Ask as many to leave as wait, and look again soon while somebody does: who is busy now may be idle then."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_ANSWERED_S, self._make_room)
        sessions = [link.session for link in self._taken if link.session is not None]
        lacking = len(self._waiting) - sum(session.is_leaving for session in sessions)
        staying = [session for session in sessions if not session.is_leaving]
        ready = [session for session in staying if session.gives_way()[1] <= loop.time()]
        for session in sorted(ready, key=_LeafSession.gives_way)[: max(0, lacking)]:
            session.leave()


class _LeafLink:
    """`Uplink` of one leaf: enters when there is a reason and a place, and ends sessions that have none any more."""

    def __init__(self, leaf: Leaf, places: _Places, limits: LeafLimits) -> None:
        self._leaf = leaf
        self._places = places
        self._limits = limits
        self.session: _LeafSession | None = None

    @property
    def endpoint(self) -> str:
        return self._leaf.uplink.endpoint

    def state(self, delivery: DeliveryStatus) -> LeafState:
        """What status calls it."""
        if delivery.connected:
            return "connected"
        if delivery.fault:
            return "faulty"
        if self in self._places:
            return "connecting"
        return "waiting" if self._leaf.queue.has_queued else "idle"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        await self._take_place()
        try:
            session = _LeafSession(self._leaf, downlink, self._limits)
            counting = replace(downlink, run_command=session.run_command)
            async with AsyncExitStack() as resources:
                async with self._places.connecting(self.endpoint):
                    inner = await resources.enter_async_context(self._leaf.uplink.connect(counting))
                session.begin(inner)
                resources.callback(session.close)
                self.session = session
                yield session
        finally:
            self.session = None
            self._places.give_back(self)

    async def _take_place(self) -> None:
        queue = self._leaf.queue
        while not queue.has_queued:
            if not self._leaf.hold:
                await queue.wait_queued()
            elif self._places.try_take(self):
                return
            else:
                await _first_of(queue.wait_queued(), self._places.free())
        await self._places.take(self)


class _LeafSession:
    """A session that knows when it has nothing to do, and leaves when it is asked to."""

    def __init__(self, leaf: Leaf, downlink: Downlink, limits: LeafLimits) -> None:
        self._leaf = leaf
        self._downlink = downlink
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._inner: Session | None = None
        self._since_s = self._used_at_s = self._loop.time()
        self._in_flight = 0
        self._commands = 0
        """Being carried out."""
        self._idle_timer: asyncio.TimerHandle | None = None
        self._scope: asyncio.Timeout | None = None
        self._ended_by: UplinkLost | None = None
        self.is_leaving = False

    def begin(self, inner: Session) -> None:
        """The connection is there."""
        self._inner = inner
        self._since_s = self._used_at_s = self._loop.time()
        if not self._leaf.hold:
            self._look_idle()

    def close(self) -> None:
        """The connection is over."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def send(self, message: Message) -> asyncio.Future[None]:
        if self.is_leaving or self._inner is None:
            return self._loop.create_future()  # the next session sends this
        sent = self._inner.send(message)
        self._in_flight += 1
        sent.add_done_callback(self._landed)
        return sent

    async def lost(self) -> None:
        if self._inner is None:
            raise UplinkLost("the session has not begun", where=self._leaf.uplink.endpoint)
        try:
            async with asyncio.timeout(None) as self._scope:
                if self._ended_by is not None:
                    self._scope.reschedule(0)
                await self._inner.lost()
        except TimeoutError:
            if self._ended_by is None:
                raise
            raise self._ended_by from None
        finally:
            self._scope = None

    async def run_command(self, command: Command) -> CommandResult:
        """As the downlink's, and counted."""
        self._commands += 1
        try:
            return await self._downlink.run_command(command)
        finally:
            self._commands -= 1
            self._used()

    def gives_way(self) -> tuple[bool, float]:
        """Whether it is in use, and from when, in event loop time, it may be asked to leave because others wait."""
        if self._is_busy() or self._leaf.queue.has_queued:
            return True, self._since_s + self._limits.turn_s
        return False, self._used_at_s + _ANSWERED_S

    def leave(self) -> None:
        """Send nothing more, and go when what is under way is confirmed and answered."""
        self.is_leaving = True
        self._end_if_leaving()

    def _landed(self, _: asyncio.Future[None]) -> None:
        self._in_flight -= 1
        self._used()

    def _used(self) -> None:
        self._used_at_s = self._loop.time()
        self._end_if_leaving()

    def _is_busy(self) -> bool:
        return bool(self._in_flight or self._commands)

    def _end_if_leaving(self) -> None:
        if self.is_leaving and not self._is_busy():
            self._end("another leaf waits for the place")

    def _look_idle(self) -> None:
        """End the session if it has been idle for long enough; look again when that may be so."""
        now_s = self._loop.time()
        is_needed = self._is_busy() or self._leaf.queue.has_queued
        idle_at_s = (now_s if is_needed else self._used_at_s) + self._limits.idle_s
        if idle_at_s <= now_s:
            self._end("nothing to send")
        else:
            self._idle_timer = self._loop.call_at(idle_at_s, self._look_idle)

    def _end(self, reason: str) -> None:
        if self._ended_by is not None:
            return
        self._ended_by = UplinkLost(reason, where=self._leaf.uplink.endpoint, planned=True)
        if self._scope is not None:
            self._scope.reschedule(0)


async def _first_of(*waits: Coroutine[Any, Any, None]) -> None:
    """Return when one of them has; the others are cancelled."""
    tasks = [asyncio.create_task(wait, name="leaf-wait") for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
