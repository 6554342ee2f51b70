"""The gateway as a process polls Modbus RTU devices played by pymodbus, and a local hub gets their values."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.records import Value
from edge_gateway.testbench import LocalAuthority, LocalHub, ReceivedMessage, free_loopback_address

from .gateway_process import PATIENCE_S, GatewayProcess
from .modbus_bus import ModbusBus, open_bus, transmitter
from .site import GATEWAY, QUICK, hub_uplink, write_config


@dataclass
class Received:
    """Readings at the hub."""

    readings: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, message: ReceivedMessage) -> None:
        for record in orjson.loads(message.body):
            if "event" not in record:
                self.readings.append((record["device"], record["values"]))
        self.news.set()

    async def more_of(self, device: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many new readings of a device."""
        mark = len(self.readings)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                new = [values for name, values in self.readings[mark:] if name == device]
                if len(new) >= count:
                    return new
                self.news.clear()
                await self.news.wait()


@dataclass(frozen=True)
class PolledSite:
    """What a test plays with."""

    bus: ModbusBus
    gateway: GatewayProcess
    hub: LocalHub
    received: Received

    async def polls_of(self, device: str) -> dict[str, int]:
        return counts(await self.gateway.status(), device)


def counts(status: dict[str, Any], device: str) -> dict[str, int]:
    polls: dict[str, int] = next(each["polls"] for each in status["devices"] if each["name"] == device)
    return polls


@asynccontextmanager
async def polled_site(
    directory: Path, authority: LocalAuthority, *, units: tuple[int, ...] = (1, 2)
) -> AsyncIterator[PolledSite]:
    """A running gateway with two transmitters on the line."""
    address, received = free_loopback_address(random.Random()), Received()
    devices = [transmitter(1, 305, 546), transmitter(2, 0xFF33, 400)]
    async with (
        LocalHub(authority=authority, address=address, on_message=received.add, keep_messages=0) as hub,
        open_bus(directory / "bus", devices) as bus,
    ):
        identity = hub.add_device(GATEWAY)
        config = write_config(
            directory,
            uplink=hub_uplink(directory, authority, address),
            links=[
                {
                    "name": "bus",
                    "port": {"path": str(directory / "bus")},
                    "profile": "xy-md02",
                    "poll_every_s": 0.2,
                    "answer_timeout_s": 1.0,
                    "devices": [{"name": f"room-{unit}", "address": unit} for unit in units],
                }
            ],
            buffer=QUICK["buffer"],
            delivery=QUICK["delivery"],
        )
        async with GatewayProcess(config) as gateway:
            keys = SoftwareKeyStore(gateway.data_directory / KEYS_DIRECTORY)
            keys.put("gateway", Secret(base64.b64decode(identity.primary_key)))
            await gateway.start_reading()
            await gateway.event("uplink.connected")
            yield PolledSite(bus, gateway, hub, received)
            assert (await gateway.stop()).code == 0
            assert gateway.stray_lines == []


async def test_values_of_several_units_arrive_at_the_hub(tmp_path: Path, authority: LocalAuthority) -> None:
    """Each unit's registers become its readings, and a write from the cloud becomes a register of the right one."""
    async with polled_site(tmp_path, authority) as site:
        one, two = await asyncio.gather(site.received.more_of("room-1", 3), site.received.more_of("room-2", 3))
        assert one[0] == {"temperature": 30.5, "humidity": 54.6}
        assert two[0] == {"temperature": -20.5, "humidity": 40.0}
        command: dict[str, Value] = {"device": "room-2", "command": "set-baud-rate", "arguments": {"baud_rate": 19200}}
        response = await site.hub.invoke_method(GATEWAY, "command", command, timeout_s=20)
        assert response.status == 200
        assert site.bus.written == [(2, 0x0102, [19200])]


async def test_a_unit_that_refuses_or_is_silent_does_not_hold_up_the_others(
    tmp_path: Path, authority: LocalAuthority
) -> None:
    """The server's exception for a unit it lacks is told as such; without it the unit is silent and left alone."""
    async with polled_site(tmp_path, authority, units=(1, 9)) as site:
        status = await site.gateway.status_where(lambda status: counts(status, "room-9").get("refused", 0) >= 2)
        assert status["faults"] == ["room-9: refuses input-0001 (exception-4: code is server-device-failure)"]
        site.bus.spoil = lambda answer: b"" if answer[0] == 9 else answer
        status = await site.gateway.status_where(lambda status: counts(status, "room-9").get("silent", 0) >= 3)
        assert status["faults"][0].startswith("room-9: does not answer")
        before = counts(status, "room-9")["silent"]
        await site.received.more_of("room-1", 5)
        after = await site.polls_of("room-9")
        assert after["silent"] - before <= 2
        assert "answered" not in after


async def test_an_exception_refuses_a_write(tmp_path: Path, authority: LocalAuthority) -> None:
    """What the device says no with reaches whoever asked, and polling goes on."""
    async with polled_site(tmp_path, authority) as site:
        site.bus.spoil = lambda answer: refused(answer, 6)
        command: dict[str, Value] = {"device": "room-1", "command": "set-address", "arguments": {"new_address": 7}}
        response = await site.hub.invoke_method(GATEWAY, "command", command, timeout_s=20)
        assert response.status == 409
        assert isinstance(response.payload, dict)
        assert "illegal-data-address" in str(response.payload["detail"])
        await site.received.more_of("room-1")


def refused(answer: bytes, function: int) -> bytes:
    """An exception in place of the answer to one function."""
    if answer[1] != function:
        return answer
    # The device's own exception: unit 1, illegal data address.
    return bytes.fromhex("01 86 02 c3 a1")


async def test_damage_and_pulled_cables_are_counted_and_mended(tmp_path: Path, authority: LocalAuthority) -> None:
    """A wrong CRC is asked for again; after the cable is back, so are the values."""
    async with polled_site(tmp_path, authority, units=(1,)) as site:
        await site.received.more_of("room-1")
        site.bus.spoil = lambda answer: answer[:-1] + bytes([answer[-1] ^ 1])
        status = await site.gateway.status_where(lambda status: counts(status, "room-1").get("checksum", 0) >= 2)
        assert status["links"][0]["rejects"]["checksum"] >= 2
        site.bus.spoil = bytes
        await site.received.more_of("room-1")
        site.bus.line.unplug()
        await site.gateway.event("link.lost")
        site.bus.line.plug_in()
        assert (await site.received.more_of("room-1"))[0] == {"temperature": 30.5, "humidity": 54.6}
        await site.gateway.status_where(lambda status: status["faults"] == [])
