"""The time as it really is, and a machine that is started again and finds its time server late or never."""

from __future__ import annotations

import asyncio
from typing import Final

from edge_gateway.clock import NS_PER_S

_WRONG_NS: Final = 3 * 365 * 86_400 * NS_PER_S
"""What the clock shows at a boot: a date long past."""


class WorldClock:
    """A `Clock` of a machine that has just been started, over many event loops in virtual time.

    Args:
        name: begins the names of its boots.
        true_ns: what time it really is, nanoseconds since 1970-01-01T00:00:00Z.
        trusted: whether the clock is right from the start.
    """

    def __init__(self, name: str, true_ns: int, *, trusted: bool = True) -> None:
        self._name = name
        self._boots = 0
        self._at_zero_ns = true_ns
        """True time at the event loop's zero."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reboot(0.0, trusted=trusted)

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on with another event loop, whose time is 0 now."""
        self._at_zero_ns = self.true_ns()
        self._loop = loop

    def reboot(self, after_s: float, *, trusted: bool) -> None:
        """The machine is started again; only between two event loops."""
        self._at_zero_ns, self._loop = self.true_ns() + round(after_s * NS_PER_S), None
        self._boots += 1
        self.boot_id = f"{self._name}-{self._boots}"
        self._booted_ns = self._at_zero_ns
        self.trusted = trusted

    def true_ns(self) -> int:
        """What time it really is, whatever the clock shows."""
        return self._at_zero_ns + (0 if self._loop is None else round(self._loop.time() * NS_PER_S))

    def now_ns(self) -> int:
        """What the clock shows: the truth once it is trusted."""
        return self.true_ns() if self.trusted else _WRONG_NS + self.uptime_ns()

    def uptime_ns(self) -> int:
        """Since the boot."""
        return self.true_ns() - self._booted_ns
