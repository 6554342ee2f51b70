"""Readings and events of a sensor with an identity of its own go by its own session; all else by the gateway's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson

from edge_gateway.records import Command, CommandStatus
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.virtual_time import run_virtual
from tests.log_events import log_events

from .virtual_plant import books, running_plant

HALF_AN_HOUR_S = 1800
ALWAYS_WARM = {
    "name": "warm",
    "profile": "reference-climate",
    "value": "temperature",
    "raise_above": -99,
    "clear_below": -99,
}


def devices_in(hub: MemoryHub) -> set[str]:
    return {each["device"] for message in hub.messages for each in orjson.loads(message.body)}


def test_what_a_sensor_says_goes_by_its_own_session(tmp_path: Path) -> None:
    """One of two sensors has an identity: its readings and alerts come by that, and the other's by the gateway's."""
    own = MemoryHub()

    async def main() -> None:
        identities = {"climate-1": own}
        async with running_plant(tmp_path, seed=1, sensors=2, rules=[ALWAYS_WARM], identities=identities) as plant:
            await asyncio.sleep(HALF_AN_HOUR_S)
            assert devices_in(plant.hub) == {"climate-2"}

    run_virtual(main())
    assert devices_in(own) == {"climate-1"}
    assert {message.lane for message in own.messages} == {"alert", "normal"}
    account = books(tmp_path)["climate-1", "normal"]
    assert account.received == account.delivered > 100


def test_a_sensor_that_is_not_let_in_holds_up_nobody(tmp_path: Path) -> None:
    """Its readings wait, over a restart too, while the other's are delivered, and come in order once it is let in."""
    own = MemoryHub()
    own.cut()

    async def first() -> None:
        async with running_plant(tmp_path, seed=1, sensors=2, identities={"climate-1": own}) as plant:
            await asyncio.sleep(HALF_AN_HOUR_S)
            status = plant.gateway.status()
            assert status["sensors"]["states"] == {"faulty": 1}
            assert any(fault.startswith("climate-1: memory: is away") for fault in status["faults"])

    run_virtual(first())
    waiting = books(tmp_path)["climate-1", "normal"].queued
    assert waiting > 100
    assert books(tmp_path)["climate-2", "normal"].queued == 0
    assert own.messages == []
    own.restore()

    async def then() -> None:
        async with running_plant(tmp_path, seed=2, sensors=2, identities={"climate-1": own}):
            await asyncio.sleep(HALF_AN_HOUR_S)

    run_virtual(then())
    numbers = [each["seq"] for message in own.messages for each in orjson.loads(message.body)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > waiting


def test_what_waits_for_a_sensor_that_lost_its_identity(tmp_path: Path) -> None:
    """The gateway brings it under its own, all of it and in order, also where a session breaks off; then as ever."""
    own = MemoryHub()
    own.cut()

    async def first() -> None:
        async with running_plant(tmp_path, seed=1, sensors=2, identities={"climate-1": own}):
            await asyncio.sleep(HALF_AN_HOUR_S)

    run_virtual(first())
    waiting = books(tmp_path)["climate-1", "normal"].queued
    assert waiting > 100
    hub = MemoryHub()

    async def then() -> None:
        async with running_plant(tmp_path, seed=2, sensors=2, hub=hub) as plant:
            await asyncio.sleep(5)
            hub.cut()
            await asyncio.sleep(60)
            hub.restore()
            await asyncio.sleep(HALF_AN_HOUR_S)
            assert plant.gateway.status()["faults"] == []

    with log_events() as events:
        run_virtual(then())
    assert [each["sensors"] for each in events if each["event"] == "sensors.spoken_for"] == [["climate-1"]]
    account = books(tmp_path)["climate-1", "normal"]
    assert account.queued == 0
    assert account.received == account.delivered > waiting
    records = [each for message in hub.messages for each in orjson.loads(message.body)]
    seqs = [each["seq"] for each in records if each["device"] == "climate-1"]
    assert sorted(set(seqs)) == list(range(1, account.received + 1))
    old = list(dict.fromkeys(seq for seq in seqs if seq <= waiting))
    assert old == sorted(old)


def test_what_is_desired_of_a_sensor_becomes_a_command(tmp_path: Path) -> None:
    """It is tried until the sensor has obeyed; the outcome is reported as the convention has it, nonsense too."""
    own = MemoryHub()

    async def main() -> None:
        async with running_plant(tmp_path, seed=1, sensors=1, identities={"climate-1": own}) as plant:
            await asyncio.sleep(60)
            plant.lines["port-climate-1"].unplug()
            await own.desire({"set-relay": {"state": 1}, "set-period": 5, "colour": "blue", "$version": 3}, whole=True)
            await asyncio.sleep(10)
            assert "set-relay" not in own.reported()
            plant.lines["port-climate-1"].plug_in()
            await asyncio.sleep(120)
            assert own.reported()["set-relay"] == {"value": {"state": 1}, "ac": 200, "av": 3, "ad": ""}
            assert own.reported()["set-period"]["ac"] == 400
            assert "colour" not in own.reported()

            await own.desire({"set-relay": None, "$version": 4})
            await asyncio.sleep(1)
            assert "set-relay" not in own.reported()

    run_virtual(main())


def test_a_command_by_the_sensors_own_session_reaches_it(tmp_path: Path) -> None:
    """It is answered there."""
    own = MemoryHub()

    async def main() -> None:
        async with running_plant(tmp_path, seed=1, sensors=1, identities={"climate-1": own}):
            await asyncio.sleep(60)
            result = await own.command(Command("climate-1", "set-relay", {"state": 1}, "method"))
            assert result.status is CommandStatus.ACKNOWLEDGED

    run_virtual(main())
