"""Calls that block are kept off the event loop, and whoever waits for them hears how they went."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from edge_gateway.offload import Offload, Worker, run, run_inline


@pytest.fixture(params=["worker", "inline"])
def offload(request: pytest.FixtureRequest) -> Iterator[Offload]:
    if request.param == "inline":
        yield run_inline
        return
    with Worker("test") as worker:
        yield worker


async def test_a_call_gives_what_it_returns(offload: Offload) -> None:
    """Each caller its own."""
    assert await run(offload, lambda: 7) == 7
    assert await asyncio.gather(*(run(offload, lambda number=number: number) for number in range(5))) == [*range(5)]  # type: ignore[misc]  # bound to each number


async def test_a_call_gives_what_it_raises(offload: Offload) -> None:
    """The caller gets the error, and the next call goes on."""

    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run(offload, fail)
    assert await run(offload, lambda: 1) == 1


async def test_done_is_told_later_than_now(offload: Offload) -> None:
    """A callback never runs within the call that asks for it: who asks may still be changing things."""
    told = asyncio.Event()
    offload(lambda: None, lambda _: told.set())
    assert not told.is_set()
    await told.wait()


async def test_calls_go_one_after_the_other(offload: Offload) -> None:
    """In the order they were given."""
    order: list[int] = []
    await asyncio.gather(*(run(offload, lambda number=number: order.append(number)) for number in range(20)))  # type: ignore[misc]  # as above
    assert order == [*range(20)]


async def test_a_worker_leaves_the_loop_alone() -> None:
    """While a call blocks the event loop goes on; all calls are in one thread, which bears the worker's name."""
    goes_on = threading.Event()
    with Worker("test-thread") as worker:
        waiting = asyncio.create_task(run(worker, lambda: goes_on.wait(30) and threading.current_thread()))
        await asyncio.sleep(0)
        goes_on.set()
        threads = {await waiting, await run(worker, threading.current_thread)}
    assert {getattr(each, "name", None) for each in threads} == {"test-thread"}


async def test_who_is_cancelled_is_not_told() -> None:
    """The call goes on, its end disturbs nobody, and the next caller gets its own answer."""
    goes_on = threading.Event()
    with Worker("test") as worker:
        waiting = asyncio.create_task(run(worker, lambda: goes_on.wait(30)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        goes_on.set()
        assert await run(worker, lambda: 2) == 2


async def test_an_idle_worker_keeps_nothing() -> None:
    """What a call returned, a key for instance, is its caller's alone."""

    class Thing:
        pass

    with Worker("test") as worker:
        thing = await run(worker, Thing)
        kept = weakref.ref(thing)
        await run(worker, lambda: None)
        del thing
        gc.collect()
        assert kept() is None


async def test_calls_given_before_leaving_are_made() -> None:
    """A gateway that stops still closes its store."""
    made = asyncio.Event()
    with Worker("test") as worker:
        worker(lambda: None, lambda _: made.set())
    async with asyncio.timeout(30):
        await made.wait()
