"""The ends of the durable queue: one for each route, with what was read ahead for it and who waits for more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import islice
from math import inf
from typing import Final, NamedTuple

from edge_gateway.buffer.lanes import Turns
from edge_gateway.buffer.store import Store
from edge_gateway.records import Message

_AHEAD: Final = 16
"""Messages of each lane read ahead of the taker, at most. While much comes in, a visit to the store first commits all
of it; what is delivered until the next visit has to be read in this one."""

_AHEAD_OF_ALL: Final = 4 * _AHEAD
"""The same for all routes that one visit reads for, together."""

_AHEAD_BYTES: Final = 1 << 20
"""The same in bytes."""

_MOST_AHEAD_BYTES: Final = 8 << 20
"""Once so much was read and not taken, a route gets no more than one message ahead."""

_MOST_ROUTES: Final = 64
"""Read for in one visit; what comes in must not wait for more. The others have their turn in the next."""

_SOON_S: Final = 0.001
"""Two clocks that are each rounded differ by less; nobody looks twice within it."""


class Route:
    """`Outlet` for the messages of one route; `DurableBuffer.route` makes it.

    Args:
        name: the sensor's; "" for the gateway's own.
        routes: all of them.
        lanes: the most urgent first.
    """

    def __init__(self, name: str, routes: Routes, lanes: Iterable[str]) -> None:
        self.name = name
        self._routes = routes
        self._ready: dict[str, deque[Message]] = {lane: deque() for lane in lanes}
        self._turns = Turns()
        self._takers: set[asyncio.Future[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        """Who waits for anything to be queued."""

    # --- for the uplink ---------------------------------------------------------------------------------------------

    @property
    def has_queued(self) -> bool:
        """Whether any record waits here that was not settled, taken or not; from memory."""
        return self._routes.has_queued(self)

    async def wait_queued(self) -> None:
        """Return as soon as `has_queued`. Nothing is read ahead for that."""
        while not self.has_queued:
            woken = _sleeper(self._waiting)
            try:
                await woken
            finally:
                self._waiting.discard(woken)

    async def take(self) -> Message:
        """See `Outlet.take`. A store that cannot be read is waited for; the buffer's `status().fault` says why."""
        while True:
            lanes = [name for name, messages in self._ready.items() if messages]
            if lanes:
                ready = self._ready[self._turns.next(lanes)]
                message = ready.popleft()
                self._routes.took(message)
                if len(ready) < _AHEAD // 2:
                    self._routes.want(self)
                return message
            woken = _sleeper(self._takers)
            self._routes.want(self)
            try:
                await woken
            finally:
                self._takers.discard(woken)

    def settle(self, message: Message) -> None:
        """See `Outlet.settle`."""
        self._routes.settle(message)

    def rewind(self) -> None:
        """See `Outlet.rewind`."""
        for messages in self._ready.values():
            for message in messages:
                self._routes.took(message)
            messages.clear()
        self._routes.rewind(self)

    # --- for the buffer ---------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for a message, and there is none."""
        return bool(self._takers) and not any(self._ready.values())

    @property
    def is_taken_from(self) -> bool:
        """Whether somebody waits for a message, or comes for those that were read ahead."""
        return bool(self._takers) or any(self._ready.values())

    def ready(self) -> Mapping[str, int]:
        """How many messages were read ahead, by lane; lanes without any may be left out."""
        return {name: len(messages) for name, messages in self._ready.items() if messages}

    def put(self, message: Message) -> None:
        """A message was read."""
        self._ready.setdefault(message.lane, deque()).append(message)
        _wake(self._takers)

    def note_queued(self) -> None:
        """Something was appended."""
        _wake(self._waiting)


class Look(NamedTuple):
    """What a visit to the store shall read, and the most of it."""

    ready: dict[str, Mapping[str, int]]
    """The routes to read for; of each, how many messages are here already, by lane."""
    most: int
    """Messages of each lane to have here then; at least one is always read where none is here."""
    most_bytes: int
    """Of what is read for one lane; at least one message always is."""


class Routes:
    """All routes of a buffer, and for which to read ahead: those that somebody takes from and that have something.

    Nothing here takes longer the more routes there are that have nothing, or that nobody takes from.

    Args:
        store: what is read from.
        visit: called when there is something to read.
        settle: called with what the hub has confirmed.
    """

    def __init__(self, store: Store, visit: Callable[[], None], settle: Callable[[Message], None]) -> None:
        self._store = store
        self._visit = visit
        self.settle: Final = settle
        self._routes: dict[str, Route] = {}
        self._wanted: dict[str, Route] = {}
        """Those to read for, in the order in which they asked."""
        self._rewinds: set[str] = set()
        self._looks: dict[str, float] = {}
        """When to look again at routes that have only young messages, or could not be read. Event loop time."""
        self._look_queue: list[tuple[float, str]] = []
        """A heap of these; an entry that does not say what is there is out of date."""
        self._look_timer: asyncio.TimerHandle | None = None
        self._ahead_bytes = 0
        """Read and not taken."""
        self._leaving: dict[str, int] = {}
        """Records settled, and still on the store, by route."""

    def route(self, name: str) -> Route:
        """The outlet of a route, the same one at each call."""
        route = self._routes.get(name)
        if route is None:
            route = self._routes[name] = Route(name, self, self._store.lanes)
        return route

    def close(self) -> None:
        """Look no more."""
        if self._look_timer is not None:
            self._look_timer.cancel()

    # --- told by a route --------------------------------------------------------------------------------------------

    def has_queued(self, route: Route) -> bool:
        """Whether any record of it is on the store, besides those that will leave with the next transaction."""
        return self._store.queued_of(route.name) > self._leaving.get(route.name, 0)

    def want(self, route: Route) -> None:
        """Somebody has little of it left, or waits: read, if there is anything that is not too young."""
        if route.name not in self._looks and self._store.may_give(route.name):
            self._wanted[route.name] = route
            self._visit()

    def took(self, message: Message) -> None:
        """This one is not here any more."""
        self._ahead_bytes -= len(message.body)

    def rewind(self, route: Route) -> None:
        """What was read of it, or is being read, is forgotten here; the store is to start over."""
        self._rewinds.add(route.name)
        self._wanted.pop(route.name, None)
        self._visit()

    # --- for the buffer ---------------------------------------------------------------------------------------------

    def leave(self, message: Message) -> None:
        """It was settled, and will leave the store."""
        self._leaving[message.route] = self._leaving.get(message.route, 0) + message.records

    def have_left(self, messages: Iterable[Message]) -> None:
        """They are not on the store any more."""
        for message in messages:
            self._leaving[message.route] -= message.records
            if not self._leaving[message.route]:
                del self._leaving[message.route]
            if message.route in self._routes:
                # Between the commit and now they were subtracted from what had left already.
                self._routes[message.route].note_queued()

    def look_at_all(self) -> None:
        """What is young has not to wait any more."""
        self._looks.clear()
        self._wanted.update({name: route for name, route in self._routes.items() if route.is_taken_from})

    def next_rewinds(self) -> set[str]:
        """The routes that have to start over before anything is read."""
        rewinds, self._rewinds = self._rewinds, set()
        return rewinds

    def next_look(self, appended: Iterable[str]) -> Look:
        """What a visit shall read that also brings something into some routes."""
        for name in appended:
            route = self._routes.get(name)
            if route is not None and route.is_taken_from:
                self._wanted[name] = route
            else:
                self._looks.pop(name, None)
        names = list(islice(self._wanted, _MOST_ROUTES))
        ready = {name: self._wanted.pop(name).ready() for name in names}
        if self._ahead_bytes >= _MOST_AHEAD_BYTES:
            return Look(ready, 1, _AHEAD_BYTES)
        among = max(1, len(names))
        return Look(ready, max(1, min(_AHEAD, _AHEAD_OF_ALL // among)), _AHEAD_BYTES // among)

    @property
    def is_wanted(self) -> bool:
        """Whether there is something left to read."""
        return bool(self._wanted)

    def visited(
        self,
        appended: Iterable[str],
        look: Look,
        rewound: Iterable[str],
        messages: Iterable[Message],
        later: Mapping[str, float],
    ) -> None:
        """A visit is over.

        Args:
            appended: routes that something was brought into.
            look: what it was to read.
            rewound: routes that have started over.
            messages: what it read.
            later: routes at which to look again, and in how many seconds.
        """
        for name in appended:
            if name in self._routes:
                self._routes[name].note_queued()
        for message in messages:
            # What was read before a rewind that was asked for meanwhile comes again, in order.
            if message.route not in self._rewinds:
                self._ahead_bytes += len(message.body)
                self._routes[message.route].put(message)
        now_s = asyncio.get_running_loop().time()
        for name in {*look.ready, *rewound}:
            if name in later:
                self._look_again(name, now_s + later[name])
            else:
                self._looks.pop(name, None)
        for name in {*look.ready, *rewound, *appended}:
            # Somebody may have come while the store was at work, and found nothing yet.
            route = self._routes.get(name)
            if route is not None and route.is_waiting:
                self.want(route)

    def _look_again(self, name: str, at_s: float) -> None:
        if self._looks.get(name, inf) <= at_s + _SOON_S:
            return
        self._looks[name] = at_s
        heappush(self._look_queue, (at_s, name))
        self._set_timer()

    def _set_timer(self) -> None:
        at_s = self._look_queue[0][0]
        if self._look_timer is not None:
            if self._look_timer.when() <= at_s:
                return
            self._look_timer.cancel()
        self._look_timer = asyncio.get_running_loop().call_at(at_s, self._look_now, at_s)

    def _look_now(self, now_s: float) -> None:
        """It is this time, although a timer may come a trifle early by the loop's clock."""
        self._look_timer = None
        while self._look_queue and self._look_queue[0][0] <= now_s:
            at_s, name = heappop(self._look_queue)
            if self._looks.get(name) == at_s:
                del self._looks[name]
                if self._routes[name].is_taken_from:
                    self.want(self._routes[name])
        if self._look_queue:
            self._set_timer()


def _sleeper(sleepers: set[asyncio.Future[None]]) -> asyncio.Future[None]:
    """One more that waits to be woken; whoever awaits it takes it out of the set."""
    sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    sleepers.add(sleeper)
    return sleeper


def _wake(sleepers: Iterable[asyncio.Future[None]]) -> None:
    for woken in sleepers:
        if not woken.done():
            woken.set_result(None)
