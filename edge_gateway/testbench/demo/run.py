"""Runs the demonstration: for a number of seconds by a script of faults, or until it is told to stop."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from edge_gateway.testbench.demo.bench import DemoBench
from edge_gateway.testbench.demo.outcome import Outcome
from edge_gateway.testbench.demo.script import Step

Watch: TypeAlias = Callable[[DemoBench, asyncio.Event], Coroutine[Any, Any, None]]
"""Shows a running bench, and sets the event when somebody has seen enough. Cancelled at the end."""


async def run_demo(
    *,
    sensors: int,
    seed: int,
    seconds: float | None,
    steps: Sequence[Step] = (),
    watch: Watch | None = None,
) -> tuple[Outcome, dict[str, Any]]:
    """Build the bench, run it, take it down, and return the account and it with everything else as one document.

    SIGINT, SIGTERM and SIGHUP end the run early and in order; the account is drawn all the same. The second of them
    ends it at once, without an account: the call is cancelled.

    Args:
        sensors: how many.
        seed: makes what the sensors measure.
        seconds: how long the sensors send; None until told to stop.
        steps: what to do when.
        watch: shows the bench while it runs.

    Raises:
        BenchError: the bench cannot be built.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.current_task()

    def end() -> None:
        if stop.is_set() and running is not None:
            running.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    # Not a secret: the same seed has to give the same sensors.
    async with DemoBench(sensors=sensors, rng=random.Random(seed)) as bench:  # noqa: S311
        bench.start_sensors()
        async with asyncio.TaskGroup() as tasks:
            beside = [tasks.create_task(_follow(bench, steps), name="demo script")]
            if watch is not None:
                beside.append(tasks.create_task(watch(bench, stop), name="demo view"))
            await _wait(stop, seconds)
            for task in beside:
                task.cancel()
        ran_s = loop.time() - bench.started_s
        outcome = await bench.finish()
        return outcome, _document(bench, outcome, seed, ran_s)


async def _wait(stop: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


async def _follow(bench: DemoBench, steps: Sequence[Step]) -> None:
    loop = asyncio.get_running_loop()
    for step in steps:
        await asyncio.sleep(bench.started_s + step.at_s - loop.time())
        await bench.act(step.action)


def _document(bench: DemoBench, outcome: Outcome, seed: int, ran_s: float) -> dict[str, Any]:
    hub = bench.hub_book
    return {
        "seed": seed,
        "seconds": round(ran_s, 3),
        **outcome.document(),
        "alerts": {"raised": hub.events["alert-raised"], "cleared": hub.events["alert-cleared"]},
        "commands": {"by_rule": dict(hub.command_results), "by_hub": bench.command_answers},
        "frames_per_s": round((outcome.total.received - outcome.total.rejected) / ran_s, 1),
        "latency_ms": {"p50": hub.latency_ms(0.5), "p99": hub.latency_ms(0.99)},
        "gateway": {"starts": bench.gateway.starts, "kills": bench.gateway.kills},
        "sessions": bench.hub.statistics.connections,
        "history": bench.history,
    }
