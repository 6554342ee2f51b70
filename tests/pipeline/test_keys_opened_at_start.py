"""Keys of encrypted sensors are opened before their link is read, and nothing else waits for them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_gateway.assembly import check_parts, open_gateway
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import parse_config
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.keystore import Secret
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.sensor_line import MemoryLine
from tests.pipeline.test_sealed_sensors import directory, frames, keep_key

__all__ = ["directory"]  # a fixture


async def test_the_first_frame_waits_for_its_key_and_no_other_link_does(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TPM that takes its time: a sensor in clear is heard meanwhile, and no frame of the encrypted one is lost."""
    keep_key(directory)
    may_open = threading.Event()
    real = SealedPayloadKeys.open_key

    def slow(self: SealedPayloadKeys, name: str) -> Secret:
        assert threading.current_thread() is not threading.main_thread()
        assert may_open.wait(30)
        return real(self, name)

    monkeypatch.setattr(SealedPayloadKeys, "open_key", slow)
    link: dict[str, Any] = {"port": {"path": "/dev/x"}, "profile": "sealed-probe.yaml"}
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [
            link | {"name": "sealed", "devices": [{"name": "kitchen", "address": 7, "keys": {"bindkey": "kitchen"}}]},
            {"name": "clear", "port": {"path": "/dev/y"}, "profile": "bthome-v2", "framing": {"kind": "slip"}},
        ],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    clock = SystemClock()
    parts = check_parts(parse_config(document, where="test", directory=directory), clock=clock)
    profiles: list[str] = []
    hub = MemoryHub(on_message=lambda message: profiles.extend(each["profile"] for each in orjson.loads(message.body)))
    lines = {"sealed": MemoryLine(), "clear": MemoryLine()}
    stop = asyncio.Event()
    async with open_gateway(
        parts,
        clock=clock,
        rng=random.Random(1),
        make_transport=lambda settings, _: lines[settings.name].transport(settings.name),
        uplink=hub,
    ) as gateway:
        running = asyncio.create_task(gateway.run(stop))
        await until(lambda: all(each["up"] for each in gateway.status()["links"]))
        slip = SlipFramer(max_frame_bytes=64)
        assert lines["sealed"].write(slip.encode(frames(directory, range(100, 101))[0]))
        assert lines["clear"].write(slip.encode(bytes.fromhex("a4c138565384 d2fc 40 02ca09")))
        await until(lambda: profiles == ["bthome-v2"])
        may_open.set()
        await until(lambda: sorted(profiles) == ["bthome-v2", "sealed-probe"])
        assert gateway.status()["links"][0]["rejects"] == {}
        stop.set()
        await running


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.01)
