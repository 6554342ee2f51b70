"""When records become durable: a lone one at once, a flood together, an alert never later than now."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.offload import run_inline
from edge_gateway.testbench.bench_store import MemoryDataKeys
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from .conftest import alert, reading

WITHIN_S = 0.010


class WatchedStore(Store):
    """Notes when it commits, and can be made to fail."""

    def __init__(self) -> None:
        super().__init__(
            ":memory:",
            BufferSettings(max_message_age_s=0.0),
            sealer=Sealer(MemoryDataKeys()),
            clock=VirtualClock(asyncio.get_running_loop()),
            rng=random.Random(1),
        )
        self.commits_at_s: list[float] = []
        self.batches: list[int] = []
        self.failing = False

    def write(self, writes: Writes) -> list[LaneFull | None]:
        self.commits_at_s.append(asyncio.get_running_loop().time())
        self.batches.append(len(writes.batches))
        if self.failing:
            raise BufferUnavailable("the disk is gone", where=self.path)
        return super().write(writes)


@asynccontextmanager
async def opened(store: Store, *, within_s: float = WITHIN_S) -> AsyncIterator[DurableBuffer]:
    async with DurableBuffer(store, settle_within_s=60.0, commit_within_s=within_s, offload=run_inline) as buffer:
        await asyncio.sleep(1)  # whatever was committed to begin with is long ago
        yield buffer


async def appended_after_s(buffer: DurableBuffer, batch: Batch) -> float:
    """How long an append takes."""
    before_s = asyncio.get_running_loop().time()
    await buffer.append(batch)
    return asyncio.get_running_loop().time() - before_s


def test_a_lone_reading_is_committed_at_once() -> None:
    """Nobody waits for company when there was none for a while."""

    async def main() -> None:
        async with opened(WatchedStore()) as buffer:
            for _ in range(5):
                assert await appended_after_s(buffer, Batch([reading()])) == 0.0
                await asyncio.sleep(2 * WITHIN_S)

    run_virtual(main())


def test_what_comes_soon_after_a_commit_waits_and_shares_the_next() -> None:
    """Of readings every millisecond, ten share a sync, and none waits longer than the setting says."""

    async def main() -> None:
        store = WatchedStore()
        async with opened(store) as buffer:
            before = len(store.batches)
            waits: list[asyncio.Task[float]] = []
            for _ in range(101):
                waits.append(asyncio.create_task(appended_after_s(buffer, Batch([reading()]))))
                await asyncio.sleep(0.001)
            waited_s = await asyncio.gather(*waits)
            assert max(waited_s) <= WITHIN_S + 1e-6
            assert store.batches[before] == 1
            assert sum(store.batches[before:]) == 101
            assert len(store.batches) - before == pytest.approx(11, abs=1)

    run_virtual(main())


def test_with_no_time_to_wait_every_reading_is_committed_at_once() -> None:
    """`commit_within_s: 0` costs a sync for each."""

    async def main() -> None:
        store = WatchedStore()
        async with opened(store, within_s=0.0) as buffer:
            for _ in range(20):
                assert await appended_after_s(buffer, Batch([reading()])) == 0.0
            assert store.batches[-20:] == [1] * 20

    run_virtual(main())


@pytest.mark.parametrize(
    "urgent", [Batch([alert()]), Batch([reading(), alert()]), Batch()], ids=["alert", "alert among readings", "flush"]
)
def test_what_is_urgent_waits_for_nothing_and_takes_the_others_along(urgent: Batch) -> None:
    """An alert, and who asks for all to be durable, is served at once, with what was waiting before it."""

    async def main() -> None:
        store = WatchedStore()
        async with opened(store) as buffer:
            await buffer.append(Batch([reading()]))
            waiting = asyncio.create_task(buffer.append(Batch([reading()])))
            await asyncio.sleep(WITHIN_S / 10)
            assert not waiting.done()
            assert await appended_after_s(buffer, urgent) == 0.0
            assert waiting.done()
            assert store.batches[-1] == 2

    run_virtual(main())


def test_a_transaction_that_fails_fails_those_that_waited_behind_it() -> None:
    """Otherwise what came later would be durable before what came earlier; tried again, all come in order."""

    async def main() -> None:
        store = WatchedStore()
        async with opened(store) as buffer:
            store.failing = True
            answers: list[tuple[int, str]] = []

            def submit(number: int) -> None:
                batch = Batch([reading(value=number)])
                buffer.submit(batch, lambda error: answers.append((number, type(error).__name__)))

            submit(0)
            for number in range(1, 4):
                submit(number)
            await asyncio.sleep(1)
            assert answers == [(number, "BufferUnavailable") for number in range(4)]
            store.failing = False
            for number in range(4):
                submit(number)
            await asyncio.sleep(1)
            assert answers[4:] == [(number, "NoneType") for number in range(4)]
            assert buffer.status().totals.received == 4

    run_virtual(main())


def test_answers_come_in_the_order_of_the_appends() -> None:
    """Also when an alert overtakes the pacing."""

    async def main() -> None:
        async with opened(WatchedStore()) as buffer:
            answered: list[int] = []
            for number in range(30):
                batch = Batch([alert() if number % 7 == 6 else reading()])
                buffer.submit(batch, partial(lambda at, _: answered.append(at), number))
                await asyncio.sleep(0.0015)
            await asyncio.sleep(1)
            assert answered == list(range(30))

    run_virtual(main())


def test_draining_waits_for_no_company() -> None:
    """A gateway that is going down commits what comes at once."""

    async def main() -> None:
        async with opened(WatchedStore(), within_s=1.0) as buffer:
            await buffer.append(Batch([reading()]))
            buffer.drain()
            assert await appended_after_s(buffer, Batch([reading()])) == 0.0

    run_virtual(main())
