"""The buffer's door: where a lane refuses what comes, and where the disk is slow and fails."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.buffer import Account, BadFrame, Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.intake import Intake
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.offload import run_inline
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from . import incompressible
from .conftest import NOW_NS, alert, reading

REFUSING = BufferSettings.model_validate(
    {
        "lanes": [
            {"name": "alert"},
            {"name": "normal"},
            {"name": "firm", "when_full": "refuse", "max_bytes": 64 * 1024, "max_records_per_message": 1},
        ],
        "max_message_age_s": 0.0,
    }
)
LARGE = [reading("large", incompressible.text(20_000, seed=seed)) for seed in range(4)]


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[DurableBuffer, Intake]]:
    clock = VirtualClock(asyncio.get_running_loop())
    store = open_bench_store(":memory:", REFUSING, clock=clock)
    async with DurableBuffer(store, settle_within_s=0.1, commit_within_s=0.0, offload=run_inline) as buffer:
        yield buffer, Intake(buffer, pending_records=100)


def test_what_a_lane_refuses_is_counted_as_rejected_and_the_rest_of_the_batch_is_kept() -> None:
    """Readings of a full lane are lost and in the account; alerts, bad frames and other lanes go on."""

    async def main() -> None:
        async with opened() as (buffer, intake):
            await intake.put(Batch(LARGE[:3], "firm"))
            bad = BadFrame("bus", "checksum", b"\x01", NOW_NS)
            await intake.put(Batch([*LARGE, alert("door")], "firm", [bad], [("bus", 2)]))
            await intake.put(Batch([reading("small")]))
            await intake.drained()
            assert intake.pending == 0
            assert await buffer.accounts() == {
                ("large", "firm"): Account(received=3, queued=3),
                ("large", "normal"): Account(received=4, rejected=4),
                ("door", "alert"): Account(received=1, queued=1),
                ("bus", "normal"): Account(received=3, rejected=2, quarantined=1),
                ("small", "normal"): Account(received=1, queued=1),
            }

    run_virtual(main())


def test_a_lane_that_refused_takes_more_when_some_was_delivered() -> None:
    """Refusal is told once in the log while it lasts, and again the next time."""

    async def main() -> None:
        async with opened() as (buffer, intake):
            with capture_logs() as logs:
                for _ in range(3):
                    await intake.put(Batch(LARGE[:2], "firm"))
                    await intake.drained()
                assert (await buffer.accounts())["large", "firm"].queued == 2
                for _ in range(2):
                    buffer.settle(await buffer.take())
                await buffer.flush()
                for _ in range(3):
                    await intake.put(Batch(LARGE[:2], "firm"))
                    await intake.drained()
            accounts = await buffer.accounts()
            assert accounts["large", "firm"] == Account(received=4, delivered=2, queued=2)
            assert accounts["large", "normal"] == Account(received=8, rejected=8)
            assert [each["event"] for each in logs].count("intake.refused") == 2

    run_virtual(main())


def test_a_refusal_is_told_to_who_appends() -> None:
    """Without the door, `append` raises, and nothing but the readings is missing."""

    async def main() -> None:
        async with opened() as (buffer, _):
            await buffer.append(Batch(LARGE[:3], "firm"))
            with pytest.raises(LaneFull, match="firm is full"):
                await buffer.append(Batch([*LARGE, alert("door")], "firm"))
            assert buffer.status().queued == {"alert": 1, "normal": 0, "firm": 3}

    run_virtual(main())


class SlowDisk:
    """An offload whose calls take a drawn time, of a store that fails while `is_away`.

    Args:
        take_s: how long each call takes, over and over.
    """

    def __init__(self, take_s: Sequence[float]) -> None:
        self.is_away = False
        self._take_s = itertools.cycle(take_s)

    def __call__(self, call: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        asyncio.get_running_loop().call_later(next(self._take_s), run_inline, call, done)

    def fail_when_away(self, store: Store) -> None:
        write = store.write

        def fail_or_write(writes: Writes) -> list[LaneFull | None]:
            if self.is_away:
                raise BufferUnavailable("the disk is away")
            return write(writes)

        store.write = fail_or_write  # type: ignore[method-assign]  # a disk that is pulled and put back


STEPS = st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.booleans())
"""How many records come, how long nothing comes after that, and whether the disk is away from then on."""


@given(st.lists(STEPS, max_size=20), st.lists(st.sampled_from([0.0, 0.1, 1.2]), min_size=1, max_size=5))
def test_a_slow_disk_that_fails_keeps_the_order(steps: list[tuple[int, float, bool]], take_s: list[float]) -> None:
    """Whatever comes while it is tried again, and however often that fails: all arrives, once and in order."""

    async def main() -> None:
        disk = SlowDisk(take_s)
        store = open_bench_store(
            ":memory:", BufferSettings(max_message_age_s=0.0), clock=VirtualClock(asyncio.get_running_loop())
        )
        disk.fail_when_away(store)
        async with DurableBuffer(store, settle_within_s=0.1, commit_within_s=0.01, offload=disk) as buffer:
            intake = Intake(buffer, pending_records=1_000)
            count = 0
            for records, pause_s, is_away in steps:
                for _ in range(records):
                    await intake.put(Batch([reading("a", count)]))
                    count += 1
                await asyncio.sleep(pause_s)
                disk.is_away = is_away
            disk.is_away = False
            await intake.drained()
            arrived: list[int] = []
            while len(arrived) < count:
                message = await buffer.take()
                arrived += [each["values"]["x"] for each in orjson.loads(message.body)]
                buffer.settle(message)
            assert arrived == list(range(count))

    run_virtual(main())
