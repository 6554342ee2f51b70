"""Polled devices through the whole gateway on virtual time: who is asked when, and what becomes of every answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.errors import ConfigError
from edge_gateway.records import Command, CommandResult, CommandStatus
from edge_gateway.testbench.virtual_time import run_virtual

from .polled_plant import REGISTERS, PolledPlant, polled_plant

DAY_S = 86_400.0
HOUR_S = 3_600.0
PERIOD_S = 300.0


async def command(plant: PolledPlant, device: str, name: str, **arguments: int) -> CommandResult:
    return await plant.hub.command(Command(device, name, arguments, source="test"))


def test_three_meters_for_a_day_and_one_dead_for_an_hour(tmp_path: Path) -> None:
    """Every good answer becomes one reading of the right device; a dead meter costs the others nothing."""

    async def main() -> None:
        async with polled_plant(tmp_path, poll_every_s=PERIOD_S) as plant:
            await asyncio.sleep(5 * HOUR_S)
            plant.meters["meter-2"].is_silent = True
            asked = sum(plant.meters["meter-2"].asked.values())
            await asyncio.sleep(HOUR_S)
            assert "meter-2: does not answer" in plant.gateway.status()["faults"][0]
            assert sum(plant.meters["meter-2"].asked.values()) - asked < HOUR_S / 60 + 10, "it is left alone"
            plant.meters["meter-2"].is_silent = False
            await asyncio.sleep(DAY_S - 6 * HOUR_S - 30)
            assert plant.gateway.status()["faults"] == []
            assert plant.link()["rejects"] == {}
            status = {name: plant.status(name) for name in plant.meters}
        for name in ("meter-1", "meter-3"):
            answered = plant.meters[name].answered
            assert answered["input-0000"] == pytest.approx(DAY_S / PERIOD_S, abs=1)
            assert answered["input-0100"] == answered["input-0200"] == answered["input-0000"]
            assert "silent" not in status[name]["polls"]
        assert plant.meters["meter-2"].answered["input-0000"] == pytest.approx((DAY_S - HOUR_S) / PERIOD_S, abs=2)
        for number, (name, meter) in enumerate(plant.meters.items(), start=1):
            readings = plant.readings(name)
            assert len(readings) == sum(meter.answered.values()) == status[name]["polls"]["answered"]
            assert {each["voltage"] for each in readings if "voltage" in each} == {200 + number / 10}
            assert all(each["energy"] // 10_000 == number for each in readings if "energy" in each)
            assert all(-each["total"] // 10_000 == number for each in readings if "total" in each)

    run_virtual(main())


def test_a_device_that_is_late_is_still_heard(tmp_path: Path) -> None:
    """An answer within twice the time is taken and counted as late; nothing is taken for another answer."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=1) as plant:
            plant.meters["meter-1"].answers_after_s = 0.35
            await asyncio.sleep(600)
            polls = plant.status("meter-1")["polls"]
            assert polls["late"] == polls["answered"] > 60
            assert plant.link()["rejects"] == {}

    run_virtual(main())


@pytest.mark.parametrize("answers_after_s", [0.45, 0.6, 0.8, 1.0])
def test_answers_that_come_too_late_are_never_another_ones(tmp_path: Path, answers_after_s: float) -> None:
    """A device slower than its profile says gives no reading, or the right one: `energy` and `total` look the same."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=2) as plant:
            plant.meters["meter-1"].answers_after_s = answers_after_s
            await asyncio.sleep(1200)
            assert plant.status("meter-1")["polls"]["silent"] > 5
            for reading in plant.readings("meter-1"):
                assert all(reading.get(name, 1) > 0 for name in ("voltage", "current", "energy"))
                assert reading.get("total", -1) < 0
            other = plant.meters["meter-2"].answered
            assert len(plant.readings("meter-2")) == pytest.approx(sum(other.values()), abs=2)
            assert other["input-0000"] == pytest.approx(1200 / 10, abs=3)

    run_virtual(main())


def test_damaged_answers_are_asked_for_again(tmp_path: Path) -> None:
    """A wrong CRC is counted for the device and the line, and the repetition brings the value."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=1) as plant:
            await asyncio.sleep(95)
            plant.meters["meter-1"].broken_answers = 1
            await asyncio.sleep(25)
            polls = plant.status("meter-1")["polls"]
            assert polls["checksum"] == 1
            assert plant.link()["rejects"] == {"checksum": 1}
            assert polls["answered"] == sum(plant.meters["meter-1"].answered.values())
            assert plant.gateway.status()["faults"] == []
            plant.meters["meter-1"].broken_answers = 1000
            await asyncio.sleep(25)
            assert "meter-1: cannot be understood (checksum)" in plant.gateway.status()["faults"][0]
            plant.meters["meter-1"].broken_answers = 0
            await asyncio.sleep(125)
            assert plant.gateway.status()["faults"] == []

    run_virtual(main())


def test_an_answer_from_another_address_is_nobodys(tmp_path: Path) -> None:
    """A meter that gives a wrong address is counted and gives no reading, neither its own nor the other's."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=2) as plant:
            plant.meters["meter-1"].answers_as = 2
            await asyncio.sleep(300)
            assert plant.readings("meter-1") == []
            assert {each["voltage"] for each in plant.readings("meter-2") if "voltage" in each} == {200.2}
            assert plant.link()["polling"]["another-address"] > 5
            assert plant.link()["rejects"] == {"another-address": plant.link()["polling"]["another-address"]}

    run_virtual(main())


def test_exceptions_are_told_by_device(tmp_path: Path) -> None:
    """A meter that refuses a register is not taken for a dead one; what it says stands in the status."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=1) as plant:
            meter = plant.meters["meter-1"]
            meter.refuses_with, meter.refusal = "exception-4", {"code": "illegal-data-address"}
            await asyncio.sleep(95)
            assert plant.status("meter-1")["polls"] == {"refused": 14}
            assert plant.gateway.status()["faults"][0] == (
                "meter-1: refuses input-0000 (exception-4: code is illegal-data-address)"
            )
            meter.refuses_with = ""
            await asyncio.sleep(65)
            assert plant.gateway.status()["faults"] == []

    run_virtual(main())


def test_writes_take_turns_with_polls(tmp_path: Path) -> None:
    """Commands are carried out while polling goes on; an exception refuses, and silence is told."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=2, poll_every_s=0.1) as plant:
            await asyncio.sleep(5)
            results = await asyncio.gather(
                command(plant, "meter-1", "set-limit", limit=3000),
                command(plant, "meter-2", "set-counter", counter=70_000),
                command(plant, "meter-2", "set-limit", limit=1),
            )
            assert {result.status for result in results} == {CommandStatus.ACKNOWLEDGED}
            assert plant.meters["meter-1"].commands == [("write-set-limit", {"limit": 3000})]
            assert sorted(plant.meters["meter-2"].commands) == [
                ("write-set-counter", {"counter": 70_000}),
                ("write-set-limit", {"limit": 1}),
            ]
            invalid = await command(plant, "meter-1", "set-limit", limit=5001)
            assert invalid.status is CommandStatus.INVALID
            meter = plant.meters["meter-1"]
            meter.refuses_with, meter.refusal = "exception-6", {"code": "illegal-data-value"}
            refused = await command(plant, "meter-1", "set-limit", limit=1)
            assert refused.status is CommandStatus.REFUSED
            assert "illegal-data-value" in refused.detail
            meter.is_silent = True
            silent = await command(plant, "meter-1", "set-limit", limit=1)
            assert silent.status is CommandStatus.NO_ANSWER
            plant.line.unplug()
            assert (await command(plant, "meter-1", "set-limit", limit=1)).status is CommandStatus.UNREACHABLE

    run_virtual(main())


def test_an_adapter_that_hears_itself_changes_nothing(tmp_path: Path) -> None:
    """Echoes are dropped and counted; an echoed write is not taken for its acknowledgement."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=1, has_echo=True) as plant:
            await asyncio.sleep(60)
            polls = plant.status("meter-1")["polls"]
            assert plant.link()["polling"] == {"echo": polls["answered"]}
            assert (await command(plant, "meter-1", "set-limit", limit=1)).status is CommandStatus.ACKNOWLEDGED
            plant.meters["meter-1"].is_silent = True
            assert (await command(plant, "meter-1", "set-limit", limit=1)).status is CommandStatus.NO_ANSWER
            assert plant.link()["rejects"] == {}

    run_virtual(main())


def test_a_pulled_cable_is_no_silent_device(tmp_path: Path) -> None:
    """While the link is away nobody is blamed; polling goes on when it is back."""

    async def main() -> None:
        async with polled_plant(tmp_path) as plant:
            await asyncio.sleep(61)
            plant.line.unplug()
            await asyncio.sleep(HOUR_S)
            assert plant.gateway.status()["faults"] == ["bus: bus: the cable is unplugged. Plug it in again"]
            before = sum(meter.answered["input-0000"] for meter in plant.meters.values())
            plant.line.plug_in()
            await asyncio.sleep(60)
            assert sum(meter.answered["input-0000"] for meter in plant.meters.values()) >= before + 15
            assert plant.gateway.status()["faults"] == []

    run_virtual(main())


def test_the_interval_of_a_link_overrides_the_profiles(tmp_path: Path) -> None:
    """`poll_every_s` says how often devices are asked here."""

    async def main() -> None:
        async with polled_plant(tmp_path, meters=1, poll_every_s=30) as plant:
            await asyncio.sleep(301)
            assert plant.status("meter-1")["polls"] == {"answered": 33}

    run_virtual(main())


def test_a_line_too_slow_for_its_schedule_leaves_requests_out(tmp_path: Path) -> None:
    """Every device is asked as often as the line allows, one as often as the other."""

    async def main() -> None:
        async with polled_plant(tmp_path, poll_every_s=0.01) as plant:
            await asyncio.sleep(60)
            answered = [meter.answered["input-0000"] for meter in plant.meters.values()]
            assert min(answered) > 100
            assert max(answered) - min(answered) <= 1

    run_virtual(main())


def test_a_command_that_the_framing_cannot_carry_is_invalid(tmp_path: Path) -> None:
    """The asker learns why, and the polls go on."""

    async def main() -> None:
        async with polled_plant(tmp_path, framing={"kind": "modbus-rtu", "max_frame_bytes": 12}) as plant:
            await asyncio.sleep(30)
            result = await command(plant, "meter-1", "set-counter", counter=1)
            assert result.status is CommandStatus.INVALID
            assert "13 bytes" in result.detail
            before = len(plant.readings("meter-1"))
            await asyncio.sleep(30)
            assert len(plant.readings("meter-1")) > before

    run_virtual(main())


@pytest.mark.parametrize(
    ("link", "says"),
    [
        (
            {"devices": []},
            r"links: bus: meter answers only when asked, and no device is listed\. Add its devices, for ",
        ),
        ({"devices": [{"name": "a", "address": 300}]}, r"links: bus devices: .*300"),
        ({"devices": [{"name": "a"}]}, r"links: bus: the device 'a' has no address"),
        (
            {"framing": {"kind": "modbus-rtu", "max_frame_bytes": 7}},
            r"links: bus framing: .* 8 bytes .*max_frame_bytes",
        ),
    ],
)
def test_a_link_that_cannot_be_polled_is_refused(tmp_path: Path, link: dict[str, Any], says: str) -> None:
    """A configuration whose devices cannot be asked does not start; the error says what to add."""

    async def main() -> None:
        with pytest.raises(ConfigError, match=says):
            async with polled_plant(tmp_path, **link):
                pass

    run_virtual(main())


def test_an_interval_where_nothing_is_polled_is_refused(tmp_path: Path) -> None:
    """`poll_every_s` on a link of devices that speak by themselves is a mistake."""

    async def main() -> None:
        profile = REGISTERS[: REGISTERS.index("modbus:")] + (
            "framing: {kind: cobs}\n"
            "frames: {x: {role: sample, endian: big, fields: [{name: y, type: u8}, {name: unit, type: u8}]}}\n"
            "identity: unit\n"
        )
        with pytest.raises(ConfigError, match="meter polls nothing"):
            async with polled_plant(tmp_path, profile=profile, poll_every_s=1):
                pass

    run_virtual(main())
