"""Waiting for what a service is to see: no test sleeps, because a condition is judged again at each change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watched:
    """A service whose changes can be waited for, in its event loop."""

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[None], None] = {}
        """In the order in which they came."""

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the service holds; judged again at each change. The caller sets a time limit."""
        while not condition():
            await self.change()

    async def change(self) -> None:
        """Wait for the next moment at which something may have changed."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[change] = None
        try:
            await change
        finally:
            self._waiters.pop(change, None)

    def changed(self) -> None:
        """Have those who wait look again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, {}
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
