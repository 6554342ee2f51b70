"""Sensors that encrypt, count and keep their own time, through the whole gateway on virtual time, with an attacker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from structlog.testing import capture_logs

from edge_gateway.assembly import KEYS_DIRECTORY, PAYLOAD_KEYS_DIRECTORY, check_parts, open_gateway
from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.config.load import parse_config
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.keystore import Secret
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.offload import run_inline
from edge_gateway.records import Message
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

KEY = bytes(range(16))

PROBE = {
    "name": "sealed-probe",
    "version": 1,
    "title": "A probe that encrypts",
    "source": {"document": "none"},
    "framing": {"kind": "slip"},
    "identity": "probe",
    "replay": [{"counter": "counter"}],
    "time": {"field": "uptime", "kind": "uptime"},
    "frames": {
        "sealed": {
            "role": "sample",
            "endian": "little",
            "fields": [
                {"name": "probe", "type": "u8"},
                {
                    "type": "encrypted",
                    "algorithm": "aes-ccm",
                    "key": "bindkey",
                    "nonce": [{"hex": "0102030405060708"}, "probe", "counter"],
                    "tag_bytes": 4,
                    "tag": "check",
                    "fields": [
                        {"name": "uptime", "type": "u32", "unit": "ms"},
                        {"name": "temperature", "type": "i16", "scale": 0.01, "unit": "Cel"},
                    ],
                },
                {"name": "counter", "type": "u32"},
                {"name": "check", "type": "bytes", "length_bytes": 4, "emit": False},
            ],
        }
    },
}


@dataclass
class Site:
    """A gateway with one line, and what arrived at the hub."""

    line: MemoryLine
    records: list[dict[str, Any]]
    status: Callable[[], dict[str, Any]]
    directory: Path

    def send(self, frame: bytes) -> None:
        assert self.line.write(SlipFramer(max_frame_bytes=64).encode(frame))

    @property
    def temperatures(self) -> list[float]:
        return [record["values"]["temperature"] for record in self.records if "profile" in record]

    @property
    def rejects(self) -> dict[str, int]:
        rejects: dict[str, int] = self.status()["links"][0]["rejects"]
        return rejects


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "sealed-probe.yaml").write_text(yaml.safe_dump(PROBE))
    return tmp_path


@asynccontextmanager
async def site(directory: Path, *, crash: bool = False, **link: Any) -> AsyncIterator[Site]:
    """A running gateway; `crash` has the counters on disk stay as they are at the moment of leaving."""
    clock = VirtualClock(asyncio.get_running_loop())
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [
            {
                "name": "air",
                "port": {"path": "/dev/air"},
                "profile": "sealed-probe.yaml",
                "devices": [{"name": "kitchen", "address": 7, "keys": {"bindkey": "kitchen"}}],
                **link,
            }
        ],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    parts = check_parts(parse_config(document, where="test", directory=directory), clock=clock)
    records: list[dict[str, Any]] = []

    def receive(message: Message) -> None:
        records.extend(orjson.loads(message.body))

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
        yield Site(line, records, gateway.status, directory)
        await asyncio.sleep(5)
        stop.set()
        await running
        counters = directory / "data" / "counters.json"
        at_crash = counters.read_bytes() if counters.exists() else None
    if crash and at_crash is not None:
        counters.write_bytes(at_crash)


def frames(directory: Path, counters: range, *, key: bytes = KEY, uptime_ms: int = 0) -> list[bytes]:
    """What the probe sends, a second between each and the next; the temperature is the counter in hundredths."""
    codec = compile_profile(load_profile(str(directory / "sealed-probe.yaml")), same_payload_keys({"bindkey": key}))
    return [
        codec.encode(
            "sealed",
            7,
            None,
            {"uptime": uptime_ms + 1000 * (number - counters.start), "temperature": number / 100, "counter": number},
        )
        for number in counters
    ]


def keep_key(directory: Path) -> None:
    store = SoftwareKeyStore(directory / "data" / KEYS_DIRECTORY)
    SealedPayloadKeys(directory / "data" / PAYLOAD_KEYS_DIRECTORY, store).put("kitchen", Secret(KEY))


def test_a_sealed_reading_arrives_and_a_recording_of_it_does_not(directory: Path) -> None:
    """Each frame once, whoever sends it again; what somebody forged or sealed with another key is counted."""

    async def main() -> None:
        keep_key(directory)
        heard = frames(directory, range(100, 110))
        async with site(directory) as plant:
            for frame in heard:
                plant.send(frame)
                await asyncio.sleep(1)
            for frame in [
                heard[-1],
                *heard,
                heard[3][:-1] + b"\x00",
                *frames(directory, range(200, 202), key=KEY[::-1]),
            ]:
                plant.send(frame)
            await asyncio.sleep(5)
            assert plant.rejects == {"repeated": 2, "replayed": 9, "decryption": 3}
            assert plant.temperatures == [number / 100 for number in range(100, 110)]

    run_virtual(main())


@pytest.mark.parametrize("crash", [False, True])
def test_a_restart_cannot_be_used_to_replay(directory: Path, crash: bool) -> None:
    """After a stop or a crash the attacker's recording is refused; the sensor itself is heard, after a crash soon."""

    async def main() -> None:
        keep_key(directory)
        heard = frames(directory, range(100, 160))
        async with site(directory, crash=crash) as plant:
            for frame in heard:
                plant.send(frame)
                await asyncio.sleep(1)
        async with site(directory) as plant:
            for frame in heard:
                plant.send(frame)
            await asyncio.sleep(1)
            assert plant.temperatures == []
            for frame in frames(directory, range(160, 300)):
                plant.send(frame)
                await asyncio.sleep(1)
            await asyncio.sleep(5)
            assert plant.temperatures == sorted(plant.temperatures)
            assert plant.temperatures[-1] == 2.99
            lost = 140 - len(plant.temperatures)
            assert lost == 0 if not crash else 0 < lost < 128

    run_virtual(main())


def test_a_key_imported_while_the_gateway_runs_is_used(directory: Path) -> None:
    """Until then frames are counted as `no-key`, and the log has the command that ends it."""

    async def main() -> None:
        heard = frames(directory, range(100, 110))
        with capture_logs() as logs:
            async with site(directory) as plant:
                for frame in heard[:3]:
                    plant.send(frame)
                    await asyncio.sleep(1)
                keep_key(directory)
                await asyncio.sleep(10)
                plant.send(heard[3])
                await asyncio.sleep(5)
                assert plant.rejects == {"no-key": 3}
                assert plant.temperatures == [1.03]
        told = [each for each in logs if each["event"] == "key.missing"]
        assert [each["remedy"] for each in told] == ["edge-gateway keys import kitchen --payload"]
        assert KEY.hex() not in repr(logs)

    run_virtual(main())


def test_what_a_sensor_kept_for_an_hour_has_the_time_it_was_measured(directory: Path) -> None:
    """Its frames come late and all at once; the readings are a second apart, and end when the last was measured."""

    async def main() -> None:
        keep_key(directory)
        async with site(directory) as plant:
            first, *kept = frames(directory, range(100, 140))
            plant.send(first)
            await asyncio.sleep(3600)
            for frame in kept:
                plant.send(frame)
            await asyncio.sleep(5)
            times = [datetime.fromisoformat(record["time"]) for record in plant.records]
            apart_s = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
            assert len(times) == 40
            assert 1.0 <= apart_s[0] <= 3.0, "an hour of the drift that is allowed for is 1.8 s"
            assert apart_s[1:] == pytest.approx([1.0] * 38, abs=0.001)
            assert all("time_trusted" not in record for record in plant.records)

    run_virtual(main())
