"""One outlet for several routes: the gateway speaks for sensors that had an identity of their own, and have it no more.

What waits for such a sensor was queued while it had one. Nothing more is appended there, so this is over when it has
been delivered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

from edge_gateway.buffer.routes import Route
from edge_gateway.records import Message

_MOST_AT_ONCE: Final = 64
"""Routes that are taken from; the others have their turn when one of these is empty."""


class JoinedOutlet:
    """`Outlet` for a route and for what is left in others.

    Args:
        own: the route that goes on.
        left: the others.
    """

    def __init__(self, own: Route, left: Iterable[Route]) -> None:
        self._own = own
        self._left = list(left)
        self._held: deque[Message] = deque()
        """Taken together with the one that was given out."""

    async def take(self) -> Message:
        """See `Outlet.take`."""
        while not self._held:
            self._left = [route for route in self._left if route.has_queued]
            if not self._left:
                return await self._own.take()
            await self._take_any([self._own, *self._left[:_MOST_AT_ONCE]])
        return self._held.popleft()

    def settle(self, message: Message) -> None:
        """See `Outlet.settle`."""
        self._own.settle(message)  # of whatever route

    def rewind(self) -> None:
        """See `Outlet.rewind`."""
        self._held.clear()
        for route in (self._own, *self._left):
            route.rewind()

    async def _take_any(self, routes: Iterable[Route]) -> None:
        takers = [asyncio.ensure_future(route.take()) for route in routes]
        try:
            await asyncio.wait(takers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for taker in takers:
                if not taker.done():
                    taker.cancel()  # one that waits has taken nothing
                elif taker.exception() is None:
                    self._held.append(taker.result())
