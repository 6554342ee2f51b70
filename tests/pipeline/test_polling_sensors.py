"""Polled sensors that are no Modbus: a start command, answers with nothing new, and a frame of nine bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.errors import BenchError
from edge_gateway.records import Command, CommandStatus, Value
from edge_gateway.testbench.polled_bus import PolledBus, VirtualPolledDevice
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.virtual_time import run_virtual

from .polled_plant import PolledPlant, polled_plant


class Steady:
    """Always the same values."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def values(self, at_s: float) -> Mapping[str, Value]:
        return self._values


SIZES = ["pm1_0", "pm2_5", "pm4_0", "pm10", "n0_5", "n1_0", "n2_5", "n4_0", "n10", "typical_size"]
DUST = Steady({"device_error": False, **{name: 1.5 + index for index, name in enumerate(SIZES)}})


@asynccontextmanager
async def one_sensor(directory: Path, profile: str, signal: Steady) -> AsyncIterator[PolledPlant]:
    """The gateway with one sensor without an address."""
    async with polled_plant(directory, profile_name=profile, signals={"sensor": (None, signal)}) as plant:
        yield plant


def test_a_sensor_is_started_before_it_is_asked_and_again_after_it_lost_its_power(tmp_path: Path) -> None:
    """The start command goes once, and again when the sensor was away or says that it does not measure."""

    async def main() -> None:
        async with one_sensor(tmp_path, "sps30", DUST) as plant:
            sensor = plant.meters["sensor"]
            await asyncio.sleep(10)
            assert [name for name, _ in sensor.commands] == ["start"]
            assert plant.status("sensor")["polls"] == {"answered": 10}
            sensor.is_silent = True
            await asyncio.sleep(30)
            sensor.is_silent = False
            await asyncio.sleep(60)
            assert [name for name, _ in sensor.commands] == ["start", "start"]
            sensor.refuses_with, sensor.refusal = "no-values", {"code": "not-allowed-now", "device_error": False}
            await asyncio.sleep(1)
            sensor.refuses_with = ""
            await asyncio.sleep(5)
            assert [name for name, _ in sensor.commands] == ["start", "start", "start"]
            assert plant.status("sensor")["polls"]["refused"] == 1
            assert plant.gateway.status()["faults"] == []

    run_virtual(main())


def test_nothing_new_is_an_answer_and_no_reading(tmp_path: Path) -> None:
    """A sensor asked more often than it measures is well; it gives readings only when it has some."""

    async def main() -> None:
        async with one_sensor(tmp_path, "sps30", DUST) as plant:
            await asyncio.sleep(5.5)
            sensor = plant.meters["sensor"]
            sensor.refuses_with, sensor.refusal = "no-values", {"code": "ok", "device_error": False}
            await asyncio.sleep(4)
            assert plant.status("sensor")["polls"] == {"answered": 6, "nothing-new": 4}
            assert plant.gateway.status()["faults"] == []
        assert len(plant.readings("sensor")) == 6

    run_virtual(main())


def test_a_sensor_with_frames_of_its_own_is_polled(tmp_path: Path) -> None:
    """The CO2 sensor's nine bytes travel both ways, and a command it never answers is sent between polls."""

    async def main() -> None:
        signal = Steady({"co2": 640, "temperature": 26})
        async with one_sensor(tmp_path, "mhz19", signal) as plant:
            await asyncio.sleep(125)
            result = await plant.hub.command(Command("sensor", "set-self-calibration", {"state": "off"}, source="t"))
            assert result.status is CommandStatus.SENT
            await asyncio.sleep(1)
            assert plant.meters["sensor"].commands == [("self-calibration", {"switch": "off"})]
        assert plant.readings("sensor") == [{"co2": 640, "temperature": 26}] * 3

    run_virtual(main())


@pytest.mark.parametrize("seed", range(2))
def test_noise_on_the_line_never_becomes_a_value(tmp_path: Path, seed: int) -> None:
    """Random bytes between the answers cost repetitions; every reading that arrives is right."""

    async def main() -> None:
        rng = random.Random(seed)
        async with polled_plant(tmp_path, meters=2, poll_every_s=1) as plant:
            for _ in range(100):
                await asyncio.sleep(rng.random())
                plant.line.write(rng.randbytes(rng.randint(1, 12)))
            await asyncio.sleep(10)
            assert plant.gateway.status()["faults"] == []
        for number in (1, 2):
            readings = plant.readings(f"meter-{number}")
            assert len(readings) > 100
            assert {each["voltage"] for each in readings if "voltage" in each} == {200 + number / 10}
            assert all(each["energy"] // 10_000 == number for each in readings if "energy" in each)

    run_virtual(main())


def test_a_bench_of_devices_that_are_not_polled_is_refused() -> None:
    """A virtual bus is for profiles with polls, and for devices with different addresses."""
    meters = [VirtualPolledDevice(DUST, 1), VirtualPolledDevice(DUST, 1)]
    with pytest.raises(BenchError, match="same address"):
        PolledBus(MemoryLine(), compile_profile(load_profile("sdm120")), meters)
    with pytest.raises(BenchError, match="tfmini: polls nothing"):
        PolledBus(MemoryLine(), compile_profile(load_profile("tfmini")), meters[:1])
