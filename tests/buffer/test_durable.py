"""The durable queue as many tasks use it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.intake import Intake
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.offload import Offload, Worker, run_inline
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import MemoryDataKeys
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from .conftest import alert, reading


class FlakyStore(Store):
    """A store whose disk can be made to fail."""

    def __init__(self, **settings: object) -> None:
        self.failing = False
        self.transactions = 0
        merged = {"max_message_age_s": 0.0} | settings
        super().__init__(
            ":memory:",
            BufferSettings.model_validate(merged),
            sealer=Sealer(MemoryDataKeys()),
            clock=VirtualClock(asyncio.get_running_loop()),
            rng=random.Random(1),
        )

    def write(self, writes: Writes) -> list[LaneFull | None]:
        if self.failing:
            raise BufferUnavailable("the disk is full", where=":memory:")
        self.transactions += 1
        return super().write(writes)


class SlowDisk:
    """An offload whose every call takes as long as a sync on a slow card."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s

    def __call__(self, call: Callable[[], None], done: Callable[[BaseException | None], None], /) -> None:
        asyncio.get_running_loop().call_later(self.takes_s, run_inline, call, done)


@asynccontextmanager
async def opened(
    store: Store, offload: Offload = run_inline, settle_within_s: float = 0.25
) -> AsyncIterator[DurableBuffer]:
    async with DurableBuffer(store, settle_within_s=settle_within_s, commit_within_s=0.01, offload=offload) as buffer:
        yield buffer


def test_appends_that_come_together_share_one_transaction() -> None:
    """A hundred producers at once cost one transaction more than one does, not a hundred."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store, SlowDisk(0.01)) as buffer:
            await asyncio.gather(*(buffer.append(Batch([reading(f"device-{number}")])) for number in range(100)))
            assert store.transactions <= 2
            assert buffer.status().totals.received == 100

    run_virtual(main())


def test_append_returns_only_after_the_disk_has_it() -> None:
    """While the disk is still at work the append has not returned."""

    async def main() -> None:
        async with opened(FlakyStore(), SlowDisk(5.0)) as buffer:
            append = asyncio.create_task(buffer.append(Batch([reading()])))
            await asyncio.sleep(4.9)
            assert not append.done()
            await asyncio.sleep(0.2)
            assert append.done()

    run_virtual(main())


def test_a_taker_is_woken_by_what_is_appended() -> None:
    """Taking from an empty buffer waits, and gets the reading as soon as it is durable."""

    async def main() -> None:
        async with opened(FlakyStore()) as buffer:
            taker = asyncio.create_task(buffer.take())
            await asyncio.sleep(1)
            assert not taker.done()
            await buffer.append(Batch([reading()]))
            assert (await taker).records == 1

    run_virtual(main())


def test_an_alert_soon_overtakes_a_backlog() -> None:
    """With thousands of readings queued, an alert is given out after the few messages read ahead."""

    async def main() -> None:
        async with opened(FlakyStore(max_records_per_message=10)) as buffer:
            await buffer.append(Batch([reading(value=value) for value in range(5000)]))
            await buffer.take()
            await buffer.append(Batch([alert()]))
            lanes = [(await buffer.take()).lane for _ in range(8)]
            assert "alert" in lanes

    run_virtual(main())


def test_settled_messages_leave_within_the_stated_time() -> None:
    """Without any append, a delivered message is dropped from the store within `settle_within_s`."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store, settle_within_s=0.25) as buffer:
            await buffer.append(Batch([reading()]))
            buffer.settle(await buffer.take())
            assert store.queued()["normal"] == 1
            await asyncio.sleep(0.26)
            assert store.queued()["normal"] == 0

    run_virtual(main())


def test_each_settled_message_has_its_own_time() -> None:
    """One that is confirmed while an earlier one's time runs leaves no later than its own, and not without need."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store, settle_within_s=0.25) as buffer:
            await buffer.append(Batch([reading()]))
            buffer.settle(await buffer.take())
            await asyncio.sleep(0.1)
            await buffer.append(Batch([reading()]))  # takes the first along
            assert store.queued()["normal"] == 1
            await asyncio.sleep(0.1)
            buffer.settle(await buffer.take())
            transactions = store.transactions
            await asyncio.sleep(0.24)
            assert store.transactions == transactions
            await asyncio.sleep(0.02)
            assert store.queued()["normal"] == 0

    run_virtual(main())


def test_settling_rides_on_the_next_append() -> None:
    """A delivered message costs no sync of its own while readings keep coming."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store, settle_within_s=10) as buffer:
            for _ in range(50):
                await buffer.append(Batch([reading()]))
                buffer.settle(await buffer.take())
            assert store.transactions == 50
            assert store.queued()["normal"] == 1

    run_virtual(main())


def test_a_young_message_is_given_out_when_its_time_comes() -> None:
    """A reading that waits for company is taken after the message age and not later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with opened(FlakyStore(max_message_age_s=2.0)) as buffer:
            await buffer.append(Batch([reading(value=1)]))
            start_s = loop.time()
            taker = asyncio.create_task(buffer.take())
            await asyncio.sleep(1.5)
            await buffer.append(Batch([reading(value=2)]))
            message = await taker
            assert message.records == 2
            assert loop.time() - start_s == pytest.approx(2.0, abs=0.01)

    run_virtual(main())


def test_draining_waits_for_nothing() -> None:
    """A stopping gateway gives out young messages at once and knows when nothing is left."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with opened(FlakyStore(max_message_age_s=3600.0), settle_within_s=3600.0) as buffer:
            await buffer.append(Batch([reading()]))
            taker = asyncio.create_task(buffer.take())
            await asyncio.sleep(1)
            before_s = loop.time()
            buffer.drain()
            buffer.settle(await taker)
            await buffer.emptied()
            assert loop.time() - before_s < 0.1

    run_virtual(main())


def test_what_is_known_to_be_delivered_does_not_come_back_after_a_rewind() -> None:
    """A session lost right after a confirmation does not send the confirmed message again."""

    async def main() -> None:
        async with opened(FlakyStore(max_records_per_message=1), settle_within_s=10) as buffer:
            await buffer.append(Batch([reading(value=value) for value in range(3)]))
            messages = [await buffer.take() for _ in range(3)]
            buffer.settle(messages[0])
            buffer.rewind()
            assert [await buffer.take(), await buffer.take()] == messages[1:]

    run_virtual(main())


def test_a_failing_disk_fails_the_append_and_says_so_in_status() -> None:
    """The caller learns that nothing was kept; status names the fault until a write succeeds."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store) as buffer:
            store.failing = True
            with pytest.raises(BufferUnavailable, match="disk is full"):
                await buffer.append(Batch([reading()]))
            assert buffer.status().fault == "the disk is full"
            store.failing = False
            await buffer.append(Batch([reading()]))
            assert buffer.status().fault == ""
            assert buffer.status().totals.received == 1

    run_virtual(main())


def test_a_confirmation_that_could_not_be_written_is_written_later() -> None:
    """Delivered while the disk was full: the message leaves the store once the disk is back."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store) as buffer:
            await buffer.append(Batch([reading()]))
            message = await buffer.take()
            store.failing = True
            buffer.settle(message)
            await asyncio.sleep(2)
            store.failing = False
            await asyncio.sleep(2)
            assert buffer.status().totals.delivered == 1

    run_virtual(main())


def test_a_bug_in_the_store_is_no_silence() -> None:
    """Should the worker break, whoever watches is told, and leaving does not wait for it."""

    class BrokenStore(FlakyStore):
        def write(self, writes: Writes) -> list[LaneFull | None]:
            raise ZeroDivisionError

    async def main() -> None:
        async with opened(BrokenStore()) as buffer:
            watching = asyncio.create_task(buffer.watch())
            buffer.submit(Batch([reading()]), lambda _: None)
            with pytest.raises(ZeroDivisionError):
                await watching

    run_virtual(main())


def test_the_intake_keeps_what_fits_and_counts_what_does_not_while_the_disk_fails() -> None:
    """A full disk stops no link: what fits in memory is kept in order, the rest is rejected and counted by device."""

    async def main() -> None:
        store = FlakyStore()
        async with opened(store) as buffer:
            intake = Intake(buffer, pending_records=100)
            store.failing = True
            for number in range(50):
                async with asyncio.timeout(10):
                    await intake.put(Batch([reading(value=number * 10 + each) for each in range(10)]))
                await asyncio.sleep(0.1)
            store.failing = False
            await intake.drained()
            account = (await buffer.accounts())["a", "normal"]
            assert account.received == 500
            assert account.balance() == 0
            assert 100 <= account.queued < 120

    run_virtual(main())


def test_the_intake_makes_a_fast_link_wait_for_a_slow_disk() -> None:
    """With a healthy disk nothing is dropped: whoever brings more than fits waits."""

    async def main() -> None:
        async with opened(FlakyStore(), SlowDisk(1.0)) as buffer:
            intake = Intake(buffer, pending_records=100)
            loop = asyncio.get_running_loop()
            for number in range(100):
                await intake.put(Batch([reading(value=number * 10 + each) for each in range(10)]))
            assert loop.time() >= 8.0
            await intake.drained()
            assert buffer.status().totals.received == 1000
            assert buffer.status().totals.rejected == 0

    run_virtual(main())


def test_a_thread_and_many_tasks_lose_nothing() -> None:
    """With the real thread and a taker that settles as it goes, every reading comes out once and in order."""

    async def main() -> None:
        store = FlakyStore(max_records_per_message=50)
        got: dict[str, list[object]] = {}

        def read(message: Message) -> None:
            import orjson

            for each in orjson.loads(message.body):
                got.setdefault(each["device"], []).append(each["values"]["x"])

        with Worker("buffer-test") as worker:
            async with opened(store, worker) as buffer:

                async def produce(device: str) -> None:
                    for value in range(200):
                        await buffer.append(Batch([Reading(device, "p", 0, {"x": value})]))

                async def consume() -> None:
                    while sum(map(len, got.values())) < 2000:
                        message = await buffer.take()
                        read(message)
                        buffer.settle(message)

                await asyncio.gather(consume(), *(produce(f"device-{number}") for number in range(10)))
                await buffer.flush()
                assert buffer.status().totals.delivered == 2000
        assert all(values == list(range(200)) for values in got.values())

    asyncio.run(main())
