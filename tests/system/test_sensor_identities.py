"""Sensors that the hub knows by identities of their own, behind a gateway that runs as a process."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity, leaf_key_name
from edge_gateway.testbench import LocalAuthority

from .gateway_process import PATIENCE_S
from .site import GATEWAY, HubSite, open_site

SENSORS = 6
WITH_IDENTITY = ("sensor-01", "sensor-02", "sensor-03", "sensor-04")
REFUSED = "sensor-04"


def known_as(device: str) -> str:
    """What the hub calls a sensor."""
    return f"{GATEWAY}-{device}"


def give_identities(site: HubSite) -> None:
    """Make some sensors known to the hub, and the gateway know their keys; one of them is disabled at the hub."""
    directory = site.gateway.data_directory
    keys = SoftwareKeyStore(directory / KEYS_DIRECTORY)
    for device in WITH_IDENTITY:
        identity = site.hub.add_device(known_as(device))
        keys.put(leaf_key_name(device), Secret(base64.b64decode(identity.primary_key)))
        Identities(directory / IDENTITIES_FILE).put(
            Identity(device, site.hub.host_name, known_as(device), leaf_key_name(device), "csv")
        )
    site.hub.set_enabled(known_as(REFUSED), False)


async def until(condition: Callable[[], object]) -> None:
    """Look until something at the hub is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # a twin at the hub announces nothing
            await asyncio.sleep(0.05)


@asynccontextmanager
async def site_with_identities(directory: Path, authority: LocalAuthority) -> AsyncIterator[HubSite]:
    async with open_site(directory, authority, sensors=SENSORS) as site:
        give_identities(site)
        await site.gateway.start_reading()
        yield site


async def test_each_sensor_speaks_under_its_own_identity(tmp_path: Path, authority: LocalAuthority) -> None:
    """Readings come by the identity of the sensor that has one; a refused sensor holds up nobody and loses nothing."""
    async with site_with_identities(tmp_path, authority) as site:
        frames = site.receiver.frames
        others = [sensor.name for sensor in site.sensors if sensor.name != REFUSED]
        await site.receiver.until(lambda: all(len(frames[name]) >= 30 for name in others))
        status = await site.gateway.status_where(lambda status: any(REFUSED in fault for fault in status["faults"]))
        assert status["sensors"]["identities"] == len(WITH_IDENTITY)
        assert not frames[REFUSED]
        assert status["queue"]["normal"] > 0

        site.hub.set_enabled(known_as(REFUSED), True)
        await site.receiver.until(lambda: len(frames[REFUSED]) >= 30)
        await site.settled()
        assert (await site.gateway.stop()).code == 0
        assert site.verdict() == []
        assert site.receiver.senders == {
            sensor.name: {known_as(sensor.name) if sensor.name in WITH_IDENTITY else GATEWAY} for sensor in site.sensors
        }


async def test_a_sensor_is_commanded_by_its_own_method_and_its_own_twin(
    tmp_path: Path, authority: LocalAuthority
) -> None:
    """A method named as a command, and a desired property, reach that sensor and no other, and are answered."""
    async with site_with_identities(tmp_path, authority) as site:
        first, second = site.sensors[0], site.sensors[1]
        await until(lambda: site.hub.is_connected(known_as(first.name)))
        answered = await site.hub.invoke_method(known_as(first.name), "set-relay", {"state": 1}, connect_timeout_s=10)
        assert answered.status == 200
        assert len(first.commands) == 1

        version = site.hub.replace_desired(known_as(second.name), {"set-relay": {"state": 0}, "colour": "blue"})
        await until(lambda: "set-relay" in site.hub.twin(known_as(second.name)).reported)
        reported = site.hub.twin(known_as(second.name)).reported
        assert reported["set-relay"] == {"value": {"state": 0}, "ac": 200, "av": version, "ad": ""}
        assert reported["gateway"] == GATEWAY
        assert "colour" not in reported
        assert (len(first.commands), len(second.commands)) == (1, 1)
        assert (await site.gateway.stop()).code == 0
