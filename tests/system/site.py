"""A whole site on one machine: sensors on their lines, the gateway as a process, a network that can fail, and a hub."""

from __future__ import annotations

import asyncio
import base64
import getpass
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench import FaultProxy, LocalAuthority, LocalHub, ReceivedMessage, free_loopback_address

from .feeder import SensorBank
from .gateway_process import PATIENCE_S, GatewayProcess
from .receiver import Receiver, verdict

SENSORS: Final = 20
"""With 10 frames/s each, 200 frames/s in total."""

GATEWAY: Final = "plant-1"

QUICK: Final = {
    "buffer": {"max_message_age_s": 0.1},
    "delivery": {"retry_first_s": 0.2, "retry_most_s": 1.0},
}
"""Settings for tests in which the hub's absence is short: the pauses of the field would only make the test longer."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a test of the whole gateway plays with."""

    directory: Path
    sensors: SensorBank
    gateway: GatewayProcess
    receiver: Receiver

    async def settled(self) -> None:
        """Send no more, and wait until the gateway has read all it can still read and nothing is queued."""
        await self.sensors.silence()
        opened_at_s = self.gateway.absences[-1].to_s
        last_frames = {
            sensor.name: len(sensor.sent_at_s) - 1
            for sensor in self.sensors
            if sensor.sent_at_s and sensor.sent_at_s[-1] > opened_at_s[sensor.name]
        }

        def is_settled(status: dict[str, Any]) -> bool:
            values = {device["name"]: device["values"] or {} for device in status["devices"]}
            account = status["account"]
            return (
                all(values[name].get("uptime_ms") == number for name, number in last_frames.items())
                and account["received"] == account["delivered"] + account["rejected"] + account["evicted"]
            )

        await self.gateway.status_where(is_settled)

    def verdict(self) -> list[str]:
        """See `receiver.verdict`. The gateway must have been stopped."""
        faults = verdict(self.receiver, self.gateway.ledger(), self.sensors.sensors, self.gateway.absences)
        return faults + self.gateway.stray_lines


@dataclass(frozen=True, slots=True)
class HubSite(Site):
    """A site whose hub is a `LocalHub` behind a network that can fail."""

    hub: LocalHub
    network: FaultProxy


def write_config(
    directory: Path,
    *,
    uplink: Mapping[str, Any],
    links: Sequence[Mapping[str, Any]],
    data_directory: Path | None = None,
    **sections: Any,
) -> Path:
    """Write `gateway.yaml` and return its path."""
    document = {
        "gateway": {"name": GATEWAY, "data_directory": str(data_directory or directory / "data")},
        "uplink": dict(uplink),
        "links": [dict(link) for link in links],
        **sections,
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def sensor_links(directory: Path, sensors: int, **settings: Any) -> list[dict[str, Any]]:
    """A link with one device for each sensor of a `SensorBank` in that directory, all named as the sensor is.

    Args:
        directory: holds the ports.
        sensors: how many.
        settings: more of each link.
    """
    names = [(f"sensor-{address:02}", address) for address in range(1, sensors + 1)]
    return [
        {
            "name": name,
            "port": {"path": str(directory / f"port-{address:02}")},
            "profile": "reference-climate",
            "devices": [{"name": name, "address": address}],
            **settings,
        }
        for name, address in names
    ]


def hub_uplink(directory: Path, authority: LocalAuthority, host_name: str) -> dict[str, Any]:
    """The uplink section for a `LocalHub`."""
    ca_file = directory / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    return {"kind": "iot-hub", "host_name": host_name, "device_id": GATEWAY, "ca_file": str(ca_file)}


@asynccontextmanager
async def open_site(
    directory: Path,
    authority: LocalAuthority,
    *,
    sensors: int = SENSORS,
    link: Mapping[str, Any] | None = None,
    more_links: Sequence[Mapping[str, Any]] = (),
    data_directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    **sections: Any,
) -> AsyncIterator[HubSite]:
    """Build a site around IoT Hub; the gateway is configured and has its key, and is not started.

    Args:
        directory: an empty one.
        authority: signs the hub's certificate; the gateway trusts it.
        sensors: how many.
        link: more settings of each sensor's link.
        more_links: after the sensors'.
        data_directory: the gateway's, if it shall not lie in `directory`.
        environment: added to the gateway's.
        arguments: more of the gateway's.
        sections: more sections of `gateway.yaml`.
    """
    # The device SDK knows no other port than 8883, so that the network gets an address of its own.
    rng = random.Random()
    network_address, hub_address = free_loopback_address(rng), free_loopback_address(rng)
    receiver = Receiver()
    async with (
        LocalHub(
            authority=authority,
            address=hub_address,
            host_name=network_address,
            on_message=receiver.add,
            keep_messages=0,
        ) as hub,
        FaultProxy(hub_address, hub.port, network_address, 8883) as network,
        SensorBank(directory, sensors) as bank,
    ):
        identity = hub.add_device(GATEWAY)
        config = write_config(
            directory,
            links=[*sensor_links(directory, sensors, **(link or {})), *more_links],
            data_directory=data_directory,
            **{"uplink": hub_uplink(directory, authority, network_address), **QUICK, **sections},
        )
        async with GatewayProcess(config, arguments=arguments, environment=environment) as gateway:
            keys = SoftwareKeyStore(gateway.data_directory / KEYS_DIRECTORY)
            keys.put("gateway", Secret(base64.b64decode(identity.primary_key)))
            yield HubSite(directory, bank, gateway, receiver, hub, network)


@dataclass(frozen=True, slots=True)
class BrokerSite(Site):
    """A site whose far end is mosquitto, behind a network that can fail, with a subscriber on its near side."""

    network: FaultProxy


@asynccontextmanager
async def open_broker_site(
    directory: Path, authority: LocalAuthority, *, sensors: int = SENSORS, **sections: Any
) -> AsyncIterator[BrokerSite]:
    """Build a site around mosquitto; the gateway is configured and not started. Arguments as for `open_site`."""
    receiver = Receiver()
    async with (
        _mosquitto(directory, authority) as (address, port),
        _subscriber(directory, address, port, receiver),
        FaultProxy(address, port) as network,
        SensorBank(directory, sensors) as bank,
    ):
        uplink = {
            "kind": "mqtt",
            "host": network.address,
            "port": network.port,
            "ca_file": str(directory / "ca.pem"),
        }
        config = write_config(directory, uplink=uplink, links=sensor_links(directory, sensors), **{**QUICK, **sections})
        async with GatewayProcess(config) as gateway:
            yield BrokerSite(directory, bank, gateway, receiver, network)


@asynccontextmanager
async def _mosquitto(directory: Path, authority: LocalAuthority) -> AsyncIterator[tuple[str, int]]:
    """A broker with TLS; gives its address and port."""
    address, port = free_loopback_address(random.Random()), 8883
    certificate = authority.server_certificate([address, "127.0.0.1"])  # the latter is where the network listens
    (directory / "ca.pem").write_text(authority.ca_pem)
    (directory / "server.pem").write_text(certificate.certificate_pem)
    (directory / "server.key").touch(mode=0o600)
    (directory / "server.key").write_text(certificate.key_pem)
    config = directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} {address}\n"
        f"certfile {directory}/server.pem\n"
        f"keyfile {directory}/server.key\n"
        "allow_anonymous true\n"
        # As root it would give up its rights, and with them the right to read the key.
        f"user {getpass.getuser()}\n"
        # The subscriber shall get all there is, however late it reads.
        "max_queued_messages 0\n"
        "max_inflight_messages 0\n"
    )
    process = await asyncio.create_subprocess_exec(
        "mosquitto", "-c", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(address, port)
                except OSError:
                    await asyncio.sleep(0.05)  # it does not say when it listens
                else:
                    writer.close()
                    await writer.wait_closed()
                    break
        yield address, port
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _subscriber(directory: Path, address: str, port: int, receiver: Receiver) -> AsyncIterator[None]:
    """Gives the receiver everything the broker gets, by a client library that is not the gateway's."""
    process = await asyncio.create_subprocess_exec(
        # Line by line: it tells that it has subscribed, and then nothing until there is something to tell.
        *("stdbuf", "-oL", "mosquitto_sub", "-h", address, "-p", str(port), "--cafile", str(directory / "ca.pem")),
        *("-q", "1", "-t", f"edge-gateway/{GATEWAY}/#", "-F", "%t %p", "-d"),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None
    output = process.stdout
    async with asyncio.timeout(PATIENCE_S):
        while b"Subscribed" not in await output.readline():
            pass

    async def receive() -> None:
        while line := await output.readline():
            topic, _, body = line.rstrip(b"\n").partition(b" ")
            if topic.startswith(b"edge-gateway/"):  # the rest is the client's own log
                message_id = topic.decode().rpartition("/")[2]
                receiver.add(ReceivedMessage(GATEWAY, message_id, {}, {}, body, 0.0, 0))

    receiving = asyncio.create_task(receive(), name="subscriber")
    try:
        yield
    finally:
        process.kill()
        await process.wait()
        await receiving
