"""Whether a gateway may open as many files as it has sensors with identities of their own."""

from __future__ import annotations

import asyncio
import sys

import pytest

from edge_gateway.provisioning.identities import Identities, Identity
from tests.doctor.healthy_box import HealthyBox
from tests.doctor.test_doctor_command import doctor

SENSORS = 250


@pytest.fixture
def with_sensors(healthy: HealthyBox) -> HealthyBox:
    """A gateway with sensors that have identities, and a key each."""
    host = healthy.hub.hub.host_name
    names = [f"sensor-{number}" for number in range(SENSORS)]
    Identities(healthy.data / "identities.json").put(
        *(Identity(name, host, name, name, "csv") for name in names),
    )
    for name in names:
        healthy.put_key(bytes(range(32)), name)
    healthy.settings["uplink"]["sensors"] = {"connects_per_s": 1, "hold": False}
    return healthy


def limited(files: int) -> tuple[str, ...]:
    return ("prlimit", f"--nofile={files}:{files}")


async def test_as_it_would_be_started(with_sensors: HealthyBox) -> None:
    """Of a gateway that is stopped nobody knows how it will be started, so its limit is a warning."""
    ended = await doctor(with_sensors, "--json", around=limited(256))
    assert ended.ids == ["box.few-files-here"]
    assert ended.code == 0
    [finding] = ended.document["findings"]
    assert "LimitNOFILE=314" in finding["fix"]
    assert (await doctor(with_sensors, "--json", around=limited(314))).ids == []


async def test_as_it_runs(with_sensors: HealthyBox) -> None:
    """Of a gateway that runs its own limit counts, and not the doctor's."""
    arguments = (sys.executable, "-m", "edge_gateway", "run", "--config", str(with_sensors.write()))
    running = await asyncio.create_subprocess_exec(*limited(256), *arguments, stderr=asyncio.subprocess.DEVNULL)
    hub = with_sensors.hub.hub
    try:
        async with asyncio.timeout(30):
            await hub.until(lambda: hub.is_connected("gw-17"))
        ended = await doctor(with_sensors, "--json")
        assert ended.ids == ["box.few-files"]
        assert ended.code == 1
    finally:
        running.terminate()
        await running.wait()
