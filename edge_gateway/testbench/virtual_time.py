"""Time that costs nothing: an event loop that jumps ahead whenever there is nothing to do, and a wall clock on it.

What sleeps by the event loop and reads wall time through `Clock` runs unchanged, as fast as the processor allows: a
simulated day of a sensor is a test. Files, pipes and pseudo-terminals work as well; a thread does not, because its work
takes real time that this clock knows nothing of. Give the buffer `run_inline` instead of one.

```python
async def main() -> None:
    clock = VirtualClock(asyncio.get_running_loop())
    await asyncio.sleep(86_400)
    assert clock.now_ns() == START_NS + 86_400 * NS_PER_S

run_virtual(main())
```
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S

T = TypeVar("T")

START_NS: Final = EARLIEST_PLAUSIBLE_NS + 100 * 86_400 * NS_PER_S
"""Where a virtual wall clock starts unless told otherwise: 2026-04-11T00:00:00Z."""

_GRACE_S: Final = 0.001
"""Real time given to the kernel before the clock jumps: it moves a pseudo-terminal's bytes in a worker of its own."""

_RESOLUTION_S: Final = 1e-6
"""Timers closer together than this fire at once, in order. Enough for two centuries of virtual time."""


class _JumpingSelector(selectors.EpollSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        # The loop's own wake-up socket is always registered. Without any other there is no kernel to wait for.
        grace_s = _GRACE_S if len(self.get_map()) > 1 else 0.0
        ready = super().select(min(timeout, grace_s))
        if not ready and timeout > 0:
            self.now_s += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that, when nothing and no file descriptor is ready, jumps to its next timer. Starts at 0 s."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # The loop takes a timer for due if it lies less than this ahead. Its own nanosecond is lost in a float beyond
        # some months, and a timer that is due exactly now would then wait for ever.
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Seconds since the loop was made, by its own clock."""
        return self._jumping.now_s


class VirtualClock:
    """A `Clock` that goes with an event loop and can be set, as a box does that finds its time server.

    Args:
        loop: whose time it follows.
        start_ns: what it shows now, nanoseconds since 1970-01-01T00:00:00Z.
        trusted: whether it says that it was set.
        boot_id: names the boot. A box that is restarted gets another clock with another name; time since the boot is
            the loop's for all of them.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        start_ns: int = START_NS,
        *,
        trusted: bool = True,
        boot_id: str = "virtual-boot",
    ) -> None:
        self._loop = loop
        self._offset_ns = start_ns - self.uptime_ns()
        self.trusted = trusted
        self.boot_id = boot_id

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return self._offset_ns + self.uptime_ns()

    def uptime_ns(self) -> int:
        """Nanoseconds of the event loop's time."""
        return round(self._loop.time() * NS_PER_S)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back if `seconds` is negative. The event loop does not notice."""
        self._offset_ns += round(seconds * NS_PER_S)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a `VirtualTimeLoop`, and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
