"""The whole gateway through simulated days: the real pipeline, rules, store and delivery on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest
from structlog.testing import capture_logs

from edge_gateway import assembly
from edge_gateway.buffer import Account
from edge_gateway.framing.cobs import CobsFramer
from edge_gateway.records import Command, CommandStatus
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.sensor_line import MemoryTransport
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.transport.capture import read_capture

from .virtual_plant import books, running_plant

DAY_S = 86_400.0
PERIOD_S = 60.0

FAN = {
    "name": "hot",
    "profile": "reference-climate",
    "value": "temperature",
    "raise_above": 24.0,
    "clear_below": 22.0,
    "on_raise": {"name": "set-relay", "arguments": {"state": 1}},
    "on_clear": {"name": "set-relay", "arguments": {"state": 0}},
}


def assert_balanced(directory: Path, delivered: dict[tuple[str, str], int], rejected: int) -> None:
    accounts = books(directory)
    assert all(account.balance() == 0 for account in accounts.values())
    assert {key: account.delivered for key, account in accounts.items() if account.delivered} == delivered
    assert sum(account.queued for account in accounts.values()) == 0
    assert sum(account.quarantined + account.rejected for account in accounts.values()) == rejected


def test_a_day_with_outages_unplugged_cables_and_a_wrong_clock_loses_nothing(tmp_path: Path) -> None:
    """Three sensors for a day, two hub outages, a pulled cable and a clock stepped by a day: all in order, once."""

    async def main() -> None:
        async with running_plant(tmp_path, seed=1, period_s=PERIOD_S, rules=[FAN]) as plant:

            async def play() -> None:
                await asyncio.sleep(2 * 3600)
                plant.hub.cut()
                await asyncio.sleep(6 * 3600)
                plant.hub.restore()
                await asyncio.sleep(3600)
                plant.lines["port-climate-2"].unplug()
                plant.clock.step(-DAY_S)
                await asyncio.sleep(1800)
                plant.lines["port-climate-2"].plug_in()
                plant.clock.step(2 * DAY_S)
                plant.hub.confirming = False
                await asyncio.sleep(600)
                plant.hub.confirming = True
                plant.hub.cut()
                await asyncio.sleep(60)
                plant.hub.restore()

            await play()
            await asyncio.sleep(DAY_S - asyncio.get_running_loop().time())
        account = plant.account
        assert account.faults() == []
        assert account.repeated_messages > 0, "the unconfirmed were sent again"
        for name, sensor in plant.sensors.items():
            good = sensor.ledger.sent - sensor.ledger.broken
            assert good == DAY_S / PERIOD_S
            assert account.records[name, "normal"] == good - sensor.ledger.lost_closed
            assert sensor.ledger.lost_closed == (1800 / PERIOD_S if name == "climate-2" else 0)
        broken = sum(status["rejects"].get("checksum", 0) for status in plant.gateway.status()["links"])
        assert broken > 0
        assert_balanced(tmp_path, dict(account.records), broken)

    run_virtual(main())


def test_the_same_seed_gives_byte_identical_messages(tmp_path: Path) -> None:
    """Two runs with one seed deliver the same ids and bytes in the same order; another seed does not."""

    def messages(seed: int, directory: Path) -> list[tuple[str, bytes]]:
        directory.mkdir()

        async def main() -> list[tuple[str, bytes]]:
            async with running_plant(directory, seed=seed, period_s=30, rules=[FAN]) as plant:
                await asyncio.sleep(3600)
                plant.hub.cut()
                await asyncio.sleep(1800)
                plant.hub.restore()
                await asyncio.sleep(3600)
            return [(message.id, message.body) for message in plant.hub.messages]

        return run_virtual(main())

    first = messages(7, tmp_path / "first")
    assert len(first) > 100
    assert messages(7, tmp_path / "second") == first
    assert messages(8, tmp_path / "third") != first


def test_a_restart_in_the_middle_of_an_outage_sends_what_was_queued(tmp_path: Path) -> None:
    """Stopped while the hub is away, the gateway keeps what it has and delivers it after the next start."""

    async def main() -> None:
        async with running_plant(tmp_path, seed=1) as before:
            before.hub.cut()
            await asyncio.sleep(3600)
        queued = sum(account.queued for account in books(tmp_path).values())
        assert queued > 3 * 350
        async with running_plant(tmp_path, seed=2) as after:
            await asyncio.sleep(60)
        assert after.account.faults() == []
        assert sum(after.account.records.values()) >= queued

    run_virtual(main())


def test_an_alert_is_raised_once_told_first_and_switches_the_relay(tmp_path: Path) -> None:
    """A hot room raises one alert, the fan's relay closes, and the outcome of the command is told as well."""

    async def main() -> None:
        rule = FAN | {"raise_above": -50.0, "clear_below": -60.0}
        async with running_plant(tmp_path, seed=3, sensors=1, rules=[rule]) as plant:
            await asyncio.sleep(120)
            assert plant.sensors["climate-1"].relay_closed
            assert plant.gateway.status()["alerts"] == [{"rule": "hot", "device": "climate-1"}]
        events = [
            record for message in plant.hub.messages if message.lane == "alert" for record in orjson.loads(message.body)
        ]
        assert [event["event"] for event in events] == ["alert-raised", "command-result"]
        assert events[1]["values"]["status"] == "acknowledged"

    run_virtual(main())


async def _command(plant_hub: MemoryHub, device: str, name: str, **arguments: int) -> tuple[CommandStatus, str]:
    result = await plant_hub.command(Command(device, name, arguments, source="test"))
    return result.status, result.detail


def test_commands_end_with_what_the_sensor_said(tmp_path: Path) -> None:
    """Acknowledged, invalid, unreachable and unanswered are told apart."""

    async def main() -> None:
        async with running_plant(tmp_path, seed=4, sensors=2) as plant:
            await asyncio.sleep(20)
            assert await _command(plant.hub, "climate-1", "ping") == (CommandStatus.ACKNOWLEDGED, "")
            for device, name, arguments, says in (
                ("climate-9", "ping", {}, "there is no device 'climate-9'"),
                ("climate-1", "jump", {}, "there is no command 'jump'"),
                ("climate-1", "set-period", {"period_ms": 1}, "1 is not allowed"),
            ):
                status, detail = await _command(plant.hub, device, name, **arguments)
                assert status is CommandStatus.INVALID
                assert says in detail
            plant.lines["port-climate-2"].unplug()
            status, _ = await _command(plant.hub, "climate-2", "ping")
            assert status is CommandStatus.UNREACHABLE
            plant.lines["port-climate-1"].listen(lambda _: None, lambda: None)
            before_s = asyncio.get_running_loop().time()
            status, detail = await _command(plant.hub, "climate-1", "ping")
            assert status is CommandStatus.NO_ANSWER
            assert "did not answer within 2 s" in detail
            assert asyncio.get_running_loop().time() - before_s == pytest.approx(2.0)

    run_virtual(main())


def test_a_command_that_the_framing_cannot_carry_is_invalid(tmp_path: Path) -> None:
    """The asker learns why, nothing is written, and the gateway goes on; another command fits."""

    async def main() -> None:
        link = {
            "name": "port-climate-1",
            "port": {"path": "/dev/climate-1"},
            "profile": "reference-climate",
            "framing": {"kind": "delimiter", "delimiter": "02"},
            "devices": [{"name": "climate-1", "address": 1}],
        }
        async with running_plant(tmp_path, seed=4, sensors=1, links=[link]) as plant:
            await asyncio.sleep(20)
            status, detail = await _command(plant.hub, "climate-1", "set-relay", state=1)
            assert status is CommandStatus.INVALID
            assert "the delimiter 02 appear before its end" in detail
            assert plant.gateway.status()["links"][0]["bytes_written"] == 0
            status, _ = await _command(plant.hub, "climate-1", "ping")
            assert status is CommandStatus.NO_ANSWER

    run_virtual(main())


@pytest.mark.parametrize("argument", [10**20, "\ud800"])
def test_a_twin_with_odd_numbers_or_texts_does_not_end_the_gateway(tmp_path: Path, argument: Any) -> None:
    """A number beyond 64 bits and half a character are JSON, too; the gateway goes on and obeys what comes next."""
    command = {"name": "ping", "arguments": {"a": argument}}

    async def main() -> None:
        async with running_plant(tmp_path, seed=5, sensors=1) as plant:
            await asyncio.sleep(10)
            await plant.hub.desire({"rules": [FAN | {"name": "odd", "on_raise": command}], "$version": 2})
            await plant.hub.desire({"rules": [FAN | {"name": "even"}], "$version": 3})
            assert plant.hub.reported()["rules"] == {"value": ["even"], "ac": 200, "av": 3, "ad": ""}

    run_virtual(main())


def test_a_capture_that_nobody_ends_does_not_take_the_disk_from_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at its bound, with whole lines, and the readings go on."""
    monkeypatch.setattr(assembly, "MOST_CAPTURE_BYTES", 1000)
    capture = tmp_path / "forgotten.capture"

    async def main() -> None:
        async with running_plant(tmp_path, seed=4, sensors=2, capture=capture) as plant:
            await asyncio.sleep(600)
            assert len(list(read_capture(capture))) > 5
            assert capture.stat().st_size <= 1000
            assert plant.gateway.status()["account"]["delivered"] > 100

    run_virtual(main())


def test_many_links_are_left_in_the_time_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that take no more output hold up a stopping gateway once, and not one after the other."""
    leave = MemoryTransport.__aexit__

    async def main() -> float:
        async def linger(transport: MemoryTransport, *reason: Any) -> None:
            await asyncio.sleep(1.0)
            await leave(transport, *reason)

        monkeypatch.setattr(MemoryTransport, "__aexit__", linger)
        async with running_plant(tmp_path, seed=4, sensors=8):
            await asyncio.sleep(60)
            stopped_s = asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - stopped_s

    assert run_virtual(main()) < 2.0


def test_a_fault_of_ours_in_a_command_does_not_end_the_gateway(tmp_path: Path) -> None:
    """The asker is told, the log holds it, and readings and other commands go on."""

    def broken(*_: object) -> NoReturn:
        raise ZeroDivisionError

    async def main() -> None:
        async with running_plant(tmp_path, seed=4, sensors=2) as plant:
            await asyncio.sleep(20)
            with pytest.MonkeyPatch.context() as fault, capture_logs() as logs:
                fault.setattr(CobsFramer, "encode", broken)
                status, detail = await _command(plant.hub, "climate-1", "set-relay", state=1)
            assert status is CommandStatus.NO_ANSWER
            assert "its log says how" in detail
            assert [each["command"] for each in logs if each["event"] == "command.failed"] == ["set-relay"]
            status, _ = await _command(plant.hub, "climate-1", "set-relay", state=1)
            assert status is CommandStatus.ACKNOWLEDGED
        assert plant.account.faults() == []

    run_virtual(main())


def test_the_twin_replaces_the_rules_and_a_restart_keeps_them(tmp_path: Path) -> None:
    """Rules from the twin are in force at once and survive a restart without a hub; null brings back the file's."""

    async def main() -> None:
        cold = FAN | {"name": "cold", "raise_above": 90.0, "clear_below": 80.0}
        async with running_plant(tmp_path, seed=5, sensors=1, rules=[FAN]) as plant:
            await asyncio.sleep(30)
            await plant.hub.desire({"rules": [cold], "$version": 4})
            assert plant.gateway.reported()["rules"] == {"value": ["cold"], "ac": 200, "av": 4, "ad": ""}
            await plant.hub.desire({"rules": [cold | {"value": "pressure"}], "$version": 5})
            reported = plant.gateway.reported()["rules"]
            assert (reported["value"], reported["ac"]) == (["cold"], 400)
            assert "has no value 'pressure'" in reported["ad"]
        async with running_plant(tmp_path, seed=5, sensors=1, rules=[FAN]) as plant:
            assert plant.gateway.reported()["rules"]["value"] == ["cold"]
            await asyncio.sleep(30)
            await plant.hub.desire({"rules": None, "$version": 6})
            assert plant.gateway.reported()["rules"]["value"] == ["hot"]

    run_virtual(main())


def test_frames_from_strangers_are_named_or_rejected(tmp_path: Path) -> None:
    """A device nobody listed gets a name from its link and address; where that is not wanted it is counted."""

    async def main(unknown: str) -> dict[tuple[str, str], Account]:
        directory = tmp_path / unknown
        directory.mkdir()
        links = [
            {
                "name": "port-climate-1",
                "port": {"path": "/dev/x"},
                "profile": "reference-climate",
                "unknown_devices": unknown,
            }
        ]
        async with running_plant(directory, seed=6, sensors=1, links=links) as plant:
            await asyncio.sleep(100)
            rejects = plant.gateway.status()["links"][0]["rejects"]
            assert ("unknown-device" in rejects) == (unknown == "reject")
        return books(directory)

    accepted = run_virtual(main("accept"))
    assert accepted["port-climate-1-1", "normal"].delivered >= 9
    rejected = run_virtual(main("reject"))
    assert rejected["port-climate-1", "normal"].rejected >= 9
