"""A line of polled meters on virtual time: the real gateway asks, virtual devices answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from edge_gateway.assembly import check_parts, open_gateway
from edge_gateway.config.load import parse_config
from edge_gateway.offload import run_inline
from edge_gateway.pipeline import Gateway
from edge_gateway.records import Value
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.polled_bus import PolledBus, VirtualPolledDevice
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.sensor_signals import Signal
from edge_gateway.testbench.virtual_time import VirtualClock

REGISTERS = """
name: meter
version: 1
title: A meter
source: {document: none}
line: {baud: 9600}
modbus:
  function: 4
  every_s: 10
  timeout_s: 0.2
  retries: 1
  registers:
    - {address: 0x0000, name: voltage, type: u16, scale: 0.1, unit: V}
    - {address: 0x0001, name: current, type: u32, word_order: swapped, scale: 0.001, unit: A}
    - {address: 0x0100, name: energy, type: f32, unit: kWh, every_s: 60}
    - {address: 0x0200, name: total, type: f32, unit: kWh, every_s: 60}
  writes:
    set-limit: {address: 0x0010, name: limit, type: u16, unit: W, maximum: 5000}
    set-counter: {address: 0x0020, name: counter, type: u32}
"""


class CountingSignal:
    """Values that are all different, so that one taken for another is seen."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._asked = 0

    def values(self, at_s: float) -> Mapping[str, Value]:
        self._asked += 1
        return {
            "voltage": 200 + self._number / 10,
            "current": self._asked / 1000,
            "energy": float(10_000 * self._number + self._asked % 1000),
            "total": -float(10_000 * self._number + self._asked % 1000),
        }


@dataclass(frozen=True, slots=True)
class PolledPlant:
    """What a test plays with."""

    gateway: Gateway
    hub: MemoryHub
    line: MemoryLine
    meters: dict[str, VirtualPolledDevice]

    def readings(self, device: str) -> list[Mapping[str, Any]]:
        """What the hub has of a device, in order."""
        return [
            record["values"]
            for message in self.hub.messages
            for record in orjson.loads(message.body)
            if record["device"] == device and "event" not in record
        ]

    def status(self, device: str) -> dict[str, Any]:
        return next(each for each in self.gateway.status()["devices"] if each["name"] == device)

    def link(self) -> dict[str, Any]:
        link: dict[str, Any] = self.gateway.status()["links"][0]
        return link


@asynccontextmanager
async def polled_plant(
    directory: Path,
    *,
    meters: int = 3,
    profile: str = REGISTERS,
    profile_name: str = "",
    signals: Mapping[str, tuple[int | None, Signal]] | None = None,
    has_echo: bool = False,
    **link: Any,
) -> AsyncIterator[PolledPlant]:
    """Start everything; on leaving, the gateway goes down in order.

    Args:
        directory: an empty one.
        meters: how many devices `meter-1`, `meter-2`, ... with these addresses there are.
        profile: what they speak.
        profile_name: a packaged profile instead.
        signals: devices instead of the meters: address and signal by name.
        has_echo: see `PolledBus`.
        link: more settings of the link.
    """
    loop = asyncio.get_running_loop()
    clock = VirtualClock(loop)
    hub = MemoryHub(confirm_after_s=0.05)
    (directory / "meter.yaml").write_text(profile)
    if signals is None:
        signals = {f"meter-{number}": (number, CountingSignal(number)) for number in range(1, meters + 1)}
    listed = [
        {"name": name} if address is None else {"name": name, "address": address}
        for name, (address, _) in signals.items()
    ]
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [
            {
                "name": "bus",
                "port": {"path": "/dev/bus"},
                "profile": profile_name or str(directory / "meter.yaml"),
                "devices": listed,
                **link,
            }
        ],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    parts = check_parts(parse_config(document, where="test", directory=directory), clock=clock)
    (codec,) = parts.codecs.values()
    line = MemoryLine()
    devices = {name: VirtualPolledDevice(signal, address) for name, (address, signal) in signals.items()}
    PolledBus(line, codec, list(devices.values()), has_echo=has_echo)
    stop = asyncio.Event()
    async with open_gateway(
        parts,
        clock=clock,
        rng=random.Random(1),
        make_transport=lambda settings, _: line.transport(settings.name),
        uplink=hub,
        offload=run_inline,
    ) as gateway:
        running = asyncio.create_task(gateway.run(stop))
        try:
            yield PolledPlant(gateway, hub, line, devices)
        finally:
            stop.set()
            await running
