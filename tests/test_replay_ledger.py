"""Counters on disk: durable before anything is handed on, exact after a stop, in nobody's way if the disk fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.codec.replay import Freshness, ReplayGuard, ReplayRule
from edge_gateway.offload import run_inline
from edge_gateway.replay_ledger import ReplayLedger

RULE = ReplayRule(counter="counter")
SPAN = 1 << 32
SENSOR = ("air", "a4:c1:38:56:53:84")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counters.json"


async def hear(ledger: ReplayLedger, guard: ReplayGuard, counter: int, now_s: float = 0.0) -> bool:
    """What the pipeline does with one frame: whether it is handed on."""
    fresh = guard.judge(counter) is Freshness.FRESH
    await ledger.settle(now_s, is_due=guard.must_reserve)
    return fresh


async def test_after_a_crash_nothing_is_taken_twice(path: Path) -> None:
    """The file alone, as it is after each frame, refuses every frame so far, and soon takes new ones."""
    ledger = ReplayLedger(path, run_inline)
    guard = ledger.guard(*SENSOR, RULE, SPAN)
    for counter in range(50):
        assert await hear(ledger, guard, counter, counter)
        after = ReplayLedger(path, run_inline).guard(*SENSOR, RULE, SPAN)
        assert all(after.judge(old) is not Freshness.FRESH for old in range(counter + 1))
        assert after.judge(counter + 100) is Freshness.FRESH


async def test_after_a_stop_the_next_frame_is_taken(path: Path) -> None:
    """Nothing is refused that was not taken before."""
    ledger = ReplayLedger(path, run_inline)
    guard = ledger.guard(*SENSOR, RULE, SPAN)
    for counter in range(50):
        await hear(ledger, guard, counter)
    await ledger.close()
    after = ReplayLedger(path, run_inline).guard(*SENSOR, RULE, SPAN)
    assert [after.judge(counter) for counter in (0, 49, 50)] == [
        Freshness.REPLAYED,
        Freshness.REPEATED,
        Freshness.FRESH,
    ]


async def test_devices_are_told_apart(path: Path) -> None:
    """By link and address; 7 is not "7", and a device without an address is one, too."""
    devices: list[tuple[str, int | str | None]] = [("a", 7), ("a", "7"), ("b", 7), ("a", None)]
    ledger = ReplayLedger(path, run_inline)
    for number, device in enumerate(devices):
        await hear(ledger, ledger.guard(*device, RULE, SPAN), 1000 * number)
    await ledger.close()
    again = ReplayLedger(path, run_inline)
    assert [again.guard(*device, RULE, SPAN).last for device in devices] == [0, 1000, 2000, 3000]


async def test_who_is_away_keeps_its_number(path: Path) -> None:
    """A device that is not heard for a whole run of the gateway is not forgotten by it."""
    first = ReplayLedger(path, run_inline)
    await hear(first, first.guard(*SENSOR, RULE, SPAN), 500)
    await first.close()
    second = ReplayLedger(path, run_inline)
    await hear(second, second.guard("air", "other", RULE, SPAN), 1)
    await second.close()
    assert ReplayLedger(path, run_inline).guard(*SENSOR, RULE, SPAN).last == 500


async def test_a_plant_writes_seldom(path: Path) -> None:
    """Two hundred devices of a frame a minute each, for two hours: about a write a minute, for all of them."""
    writes = 0

    def counting(call: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        nonlocal writes
        writes += 1
        run_inline(call, done)

    ledger = ReplayLedger(path, counting)
    guards = [ledger.guard("air", number, RULE, SPAN) for number in range(200)]
    for minute in range(120):
        for number, guard in enumerate(guards):
            await hear(ledger, guard, minute, 60 * minute + 0.3 * number)
        if minute == 0:
            writes = 0  # a device's first frame is written for itself
    assert writes <= 150


async def test_nobody_goes_on_while_its_number_is_being_written(path: Path) -> None:
    """A second link whose reservation the writing in progress makes waits until it is done."""
    started: list[Callable[[], None]] = []
    ledger = ReplayLedger(path, lambda call, done: started.append(lambda: run_inline(call, done)))
    one, two = (ledger.guard("air", number, RULE, SPAN) for number in range(2))
    two.judge(5)
    first = asyncio.create_task(hear(ledger, one, 1))
    await asyncio.sleep(0)
    assert not two.must_reserve, "it was reserved together with the other"
    two.judge(6)
    second = asyncio.create_task(ledger.settle(0.0, is_due=two.must_reserve))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not second.done()
    started.pop()()
    await asyncio.gather(first, second)


async def test_a_writing_given_up_is_made_good(path: Path) -> None:
    """If the task that waits for the disk is cancelled, the next one writes again and does not believe it done."""
    ledger = ReplayLedger(path, lambda _call, _done: None)
    guard = ledger.guard(*SENSOR, RULE, SPAN)
    waiting = asyncio.create_task(hear(ledger, guard, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await ledger.settle(0.0, is_due=False)


async def test_a_disk_that_fails_is_told_and_data_goes_on(path: Path) -> None:
    """One log event and a fault to see; with the disk back, everything is written and the fault is gone."""
    (path.parent / f".{path.name}.new").mkdir()
    ledger = ReplayLedger(path, run_inline)
    guard = ledger.guard(*SENSOR, RULE, SPAN)
    with capture_logs() as logs:
        assert await hear(ledger, guard, 1)
        assert await hear(ledger, guard, 2)
    assert [(each["event"], each["path"]) for each in logs] == [("replay.unwritten", str(path))]
    assert "counters.json: the counters of devices cannot be written: Is a directory" in ledger.fault
    (path.parent / f".{path.name}.new").rmdir()
    assert await hear(ledger, guard, 3)
    assert ledger.fault == ""
    assert ReplayLedger(path, run_inline).guard(*SENSOR, RULE, SPAN).judge(3) is not Freshness.FRESH


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary(max_size=80)
    | st.sampled_from(
        [b'{"links": []}', b'{"links": {"a": 3}}', b'{"links": {"a": [[1, "c", -1]]}}', b'{"links": {"a": [[1, 2]]}}']
    )
)
async def test_a_broken_file_is_told_and_left_behind(path: Path, content: bytes) -> None:
    """Whatever stands there, the gateway starts, says so, and knows no counters."""
    path.write_bytes(content)
    with capture_logs() as logs:
        ledger = ReplayLedger(path, run_inline)
    assert [(each["event"], each["log_level"]) for each in logs] == [("replay.unreadable", "error")]
    assert ledger.guard(*SENSOR, RULE, SPAN).last is None


async def test_a_counter_that_became_narrower_begins_anew(path: Path) -> None:
    """A number that the profile's counter cannot have any more is not believed."""
    ledger = ReplayLedger(path, run_inline)
    await hear(ledger, ledger.guard(*SENSOR, RULE, SPAN), 70_000)
    assert ReplayLedger(path, run_inline).guard(*SENSOR, RULE, 1 << 16).last is None
