"""A whole plant on virtual time: sensors, the gateway with its real store, and a hub, all in one loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_gateway.assembly import check_parts, open_gateway
from edge_gateway.buffer import Account
from edge_gateway.codec import Profile
from edge_gateway.config.devices import LinkSettings
from edge_gateway.config.load import parse_config
from edge_gateway.offload import run_inline
from edge_gateway.pipeline import Gateway, SensorUplinks
from edge_gateway.records import Message
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.receiver import DeliveryAccount, ReceivedMessage
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.sensor_signals import ClimateSignal
from edge_gateway.testbench.virtual_sensor import ClimateSensor
from edge_gateway.testbench.virtual_time import VirtualClock
from edge_gateway.transport import Transport


@dataclass(frozen=True, slots=True)
class Plant:
    """What a test plays with."""

    gateway: Gateway
    hub: MemoryHub
    clock: VirtualClock
    lines: dict[str, MemoryLine]
    sensors: dict[str, ClimateSensor]
    account: DeliveryAccount


@asynccontextmanager
async def running_plant(
    directory: Path,
    *,
    seed: int,
    sensors: int = 3,
    period_s: float = 10.0,
    hub: MemoryHub | None = None,
    identities: Mapping[str, MemoryHub] | None = None,
    clock: VirtualClock | None = None,
    capture: Path | None = None,
    **more: Any,
) -> AsyncIterator[Plant]:
    """Start everything; on leaving, sensors fall silent, the gateway goes down in order, and everything is closed."""
    loop = asyncio.get_running_loop()
    clock = clock or VirtualClock(loop)
    account = DeliveryAccount(first_seq=1)

    def receive(message: Message) -> None:
        account.add(ReceivedMessage("gateway", message.id, {}, {}, message.body, loop.time(), clock.now_ns()))

    hub = hub or MemoryHub(confirm_after_s=0.05, on_message=receive)
    names = [f"climate-{number}" for number in range(1, sensors + 1)]
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [
            {
                "name": f"port-{name}",
                "port": {"path": f"/dev/{name}"},
                "profile": "reference-climate",
                "devices": [{"name": name, "address": address}],
            }
            for address, name in enumerate(names, start=1)
        ],
        "uplink": {"kind": "mqtt", "host": "unused"},
        **more,
    }
    parts = check_parts(parse_config(document, where="test", directory=directory), clock=clock)
    lines = {f"port-{name}": MemoryLine() for name in names}
    rngs = [random.Random(f"{seed} {name}") for name in names]
    virtual = {
        name: ClimateSensor(
            name,
            lines[f"port-{name}"],
            ClimateSignal(rng),
            address=address,
            period_s=period_s,
            rng=rng,
            noise_share=0.05,
            broken_share=0.02,
        )
        for address, (name, rng) in enumerate(zip(names, rngs, strict=True), start=1)
    }

    def transport(settings: LinkSettings, _: Profile) -> Transport:
        return lines[settings.name].transport(settings.name)

    stop = asyncio.Event()
    async with open_gateway(
        parts,
        clock=clock,
        rng=random.Random(seed),
        capture=capture,
        make_transport=transport,
        uplink=hub,
        sensors=SensorUplinks(dict(identities or {})),
        offload=run_inline,
    ) as gateway:
        running = asyncio.create_task(gateway.run(stop))
        tasks = [asyncio.create_task(sensor.run()) for sensor in virtual.values()]
        try:
            yield Plant(gateway, hub, clock, lines, virtual, account)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stop.set()
            await running


def books(directory: Path) -> dict[tuple[str, str], Account]:
    """The account as it stands on disk after the gateway has gone."""
    store = open_bench_store(directory / "data" / "buffer.db")
    try:
        return store.accounts()
    finally:
        store.close()
