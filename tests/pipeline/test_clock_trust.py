"""A box without a battery for its clock: it reads its sensors before it knows what time it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.testbench.virtual_time import START_NS, VirtualClock, run_virtual

from .virtual_plant import Plant, running_plant

HOUR_S = 3600.0
PERIOD_S = 60.0

HOT = {
    "name": "hot",
    "profile": "reference-climate",
    "value": "temperature",
    "raise_above": -50.0,
    "clear_below": -60.0,
    "on_raise": {"name": "set-relay", "arguments": {"state": 1}},
}
"""Raised by the first reading, so that an alert and a command's outcome are among what is stamped."""

Records = dict[tuple[str, int], dict[str, Any]]
"""What the hub got, by device and seq."""


async def an_hour_without_a_hub(plant: Plant, set_clock: Callable[[], None]) -> None:
    plant.hub.cut()
    await asyncio.sleep(HOUR_S)
    set_clock()
    await asyncio.sleep(2 * PERIOD_S)
    plant.hub.restore()
    await asyncio.sleep(2 * PERIOD_S)


async def an_hour_with_a_hub_that_confirms_late(plant: Plant, set_clock: Callable[[], None]) -> None:
    await asyncio.sleep(HOUR_S)
    plant.hub.confirming = False
    await asyncio.sleep(PERIOD_S + 5)
    set_clock()
    plant.hub.cut()
    plant.hub.confirming = True
    plant.hub.restore()
    await asyncio.sleep(2 * PERIOD_S)
    assert plant.account.repeated_messages > 0


def records_at_the_hub(
    directory: Path, play: Callable[[Plant, Callable[[], None]], Awaitable[None]], *, starts_in_1970: bool
) -> Records:
    """Run a plant whose clock is right from the start, or only from where `play` sets it."""
    directory.mkdir()

    async def main() -> Records:
        loop = asyncio.get_running_loop()
        clock = VirtualClock(loop, 0, trusted=False) if starts_in_1970 else VirtualClock(loop)

        def set_clock() -> None:
            if starts_in_1970:
                clock.step(START_NS / NS_PER_S)
                clock.trusted = True

        async with running_plant(directory, seed=11, period_s=PERIOD_S, rules=[HOT], clock=clock) as plant:
            await play(plant, set_clock)
        assert plant.account.faults() == []
        bodies = {message.id: message.body for message in plant.hub.messages}
        assert all(bodies[message.id] == message.body for message in plant.hub.messages), "sent again with other bytes"
        return {
            (record["device"], record["seq"]): record
            for message in plant.hub.messages
            for record in orjson.loads(message.body)
            if record.get("source") != "buffer"  # what the gateway says of its own books
        }

    return run_virtual(main())


def test_what_was_read_before_the_clock_was_set_reaches_the_hub_with_its_right_time(tmp_path: Path) -> None:
    """In 1970 and without a hub for an hour, then set, then connected: each time is that of a box with a good clock."""
    right = records_at_the_hub(tmp_path / "right", an_hour_without_a_hub, starts_in_1970=False)
    corrected = records_at_the_hub(tmp_path / "1970", an_hour_without_a_hub, starts_in_1970=True)
    assert len(right) > 3 * HOUR_S / PERIOD_S
    assert {key: record["time"] for key, record in corrected.items()} == {
        key: record["time"] for key, record in right.items()
    }
    marks = {"time_trusted", "boot", "uptime_s"}
    assert not any(marks & record.keys() for record in corrected.values())
    set_at = rfc3339(START_NS + round(HOUR_S) * NS_PER_S)
    for record in corrected.values():
        assert ("time_corrected" in record) == (record["time"] < set_at)
    assert {record.get("event") for record in corrected.values() if "time_corrected" in record} == {
        None,
        "alert-raised",
        "command-result",
    }


def test_no_wrong_time_reaches_the_hub_unmarked(tmp_path: Path) -> None:
    """What is sent in 1970 says so, in the same bytes when it is sent again; everything else has its right time."""
    right = records_at_the_hub(tmp_path / "right", an_hour_with_a_hub_that_confirms_late, starts_in_1970=False)
    received = records_at_the_hub(tmp_path / "1970", an_hour_with_a_hub_that_confirms_late, starts_in_1970=True)
    assert received.keys() == right.keys()
    marked = {key: record for key, record in received.items() if "time_trusted" in record}
    assert len(marked) > 3 * HOUR_S / PERIOD_S
    for record in marked.values():
        assert record["time"].startswith("1970-01-01T0")
        assert (record["time_trusted"], record["boot"]) == (False, "virtual-boot")
    for key in received.keys() - marked.keys():
        assert received[key]["time"] == right[key]["time"]
