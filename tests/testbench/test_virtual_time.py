"""Time that costs nothing must still be time: timers in order, clocks that agree, and kernels that are waited for."""

from __future__ import annotations

import asyncio
import os
import time

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.virtual_time import START_NS, VirtualClock, run_virtual


def test_sleeping_for_years_takes_no_time_and_ends_when_due() -> None:
    """The loop's time is exactly what was slept, a minute of real time is never needed for it."""

    async def main() -> float:
        await asyncio.sleep(10 * 365 * 86_400)
        return asyncio.get_running_loop().time()

    started_s = time.monotonic()
    assert run_virtual(main()) == 10 * 365 * 86_400
    assert time.monotonic() - started_s < 5


def test_timers_fire_in_the_order_of_their_times() -> None:
    """Jumping ahead never jumps over a timer, and one that is due at once is not forgotten, however late it is."""

    async def main() -> list[float]:
        fired: list[float] = []
        loop = asyncio.get_running_loop()
        await asyncio.sleep(100 * 365 * 86_400)
        for delay_s in (0.3, 0.1, 0.2, 0.0, 1e6):
            loop.call_later(delay_s, fired.append, delay_s)
        await asyncio.sleep(2e6)
        return fired

    assert run_virtual(main()) == [0.0, 0.1, 0.2, 0.3, 1e6]


def test_bytes_in_a_pipe_come_before_a_distant_timer() -> None:
    """A file descriptor that is ready is served first, and the clock stands still meanwhile."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        near, far = os.pipe()
        try:
            os.write(far, b"x")
            loop.add_reader(near, came.set_result, None)
            async with asyncio.timeout(1):
                await came
            loop.remove_reader(near)
        finally:
            os.close(near)
            os.close(far)
        return loop.time()

    assert run_virtual(main()) == 0.0


def test_the_wall_clock_follows_the_loop_and_can_be_set() -> None:
    """A virtual wall clock goes with the loop, steps either way, and says of itself whether it was set."""

    async def main() -> None:
        clock = VirtualClock(asyncio.get_running_loop(), trusted=False)
        assert clock.now_ns() == START_NS
        await asyncio.sleep(1.5)
        assert clock.now_ns() == START_NS + 1_500_000_000
        clock.step(-86_400)
        assert clock.now_ns() == START_NS + 1_500_000_000 - 86_400 * NS_PER_S
        assert clock.uptime_ns() == 1_500_000_000, "setting the clock does not change when the box started"
        assert not clock.trusted
        clock.trusted = True
        assert clock.trusted

    run_virtual(main())
