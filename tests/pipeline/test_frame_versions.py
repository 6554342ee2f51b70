"""Sensors of different ages on one line, through the whole gateway on virtual time."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
import yaml

from edge_gateway.assembly import check_parts, open_gateway
from edge_gateway.config.load import parse_config
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.offload import run_inline
from edge_gateway.records import Message
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

PROBE = {
    "name": "probe",
    "version": 1,
    "title": "A probe with two layouts so far",
    "source": {"document": "none"},
    "framing": {"kind": "slip"},
    "identity": "probe",
    "frames": {
        "sample": {
            "role": "sample",
            "endian": "big",
            "version": {"field": "layout", "current": 2},
            "fields": [
                {"name": "probe", "type": "u8"},
                {"name": "layout", "type": "u8", "emit": False},
                {"name": "moisture", "type": "u8"},
                {"name": "temperature", "type": "i8", "since": 2},
            ],
        }
    },
}


def test_older_and_newer_sensors_are_understood_and_counted(tmp_path: Path) -> None:
    """One of version 1 lacks a value, one of version 3 sends more than is known; both are readings, and counted."""
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump(PROBE))
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "bus", "port": {"path": "/dev/bus"}, "profile": "probe.yaml"}],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    records: list[dict[str, Any]] = []

    def receive(message: Message) -> None:
        records.extend(orjson.loads(message.body))

    async def scenario() -> dict[str, Any]:
        clock = VirtualClock(asyncio.get_running_loop())
        parts = check_parts(parse_config(document, where="test", directory=tmp_path), clock=clock)
        line, stop = MemoryLine(), asyncio.Event()
        async with open_gateway(
            parts,
            clock=clock,
            rng=random.Random(1),
            make_transport=lambda settings, _: line.transport(settings.name),
            uplink=MemoryHub(on_message=receive),
            offload=run_inline,
        ) as gateway:
            running = asyncio.create_task(gateway.run(stop))
            await asyncio.sleep(1)
            framer = SlipFramer(max_frame_bytes=64)
            for frame in ("07 01 32", "08 02 33 15", "09 03 34 16 ff ff", "0a 02 35 17 ff"):
                assert line.write(framer.encode(bytes.fromhex(frame)))
            await asyncio.sleep(5)
            status = gateway.status()
            stop.set()
            await running
        return status

    (link,) = run_virtual(scenario())["links"]
    assert {record["device"]: record["values"] for record in records} == {
        "bus-7": {"moisture": 50},
        "bus-8": {"moisture": 51, "temperature": 21},
        "bus-9": {"moisture": 52, "temperature": 22},
    }
    assert link["versions"] == {"older": 1, "newer": 1}
    assert link["rejects"] == {"length": 1}
