"""A profile is wrong, frames are lost on nobody, and become readings once it is mended: the whole gateway, twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import yaml

from edge_gateway.assembly import check_parts, open_gateway
from edge_gateway.buffer import Account
from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.config.load import parse_config
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.offload import run_inline
from edge_gateway.pipeline import Gateway
from edge_gateway.records import Message
from edge_gateway.testbench.memory_hub import MemoryHub
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.virtual_time import START_NS, VirtualClock, run_virtual

MOISTURE = {"name": "moisture", "type": "u8"}
TEMPERATURE = {"name": "temperature", "type": "i8"}


def probe(*values: dict[str, str]) -> dict[str, Any]:
    """A profile of frames with a probe's number and these values."""
    fields = [{"name": "probe", "type": "u8"}, *values]
    return {
        "name": "probe",
        "version": 1,
        "title": "A probe",
        "source": {"document": "none"},
        "framing": {"kind": "slip"},
        "identity": "probe",
        "frames": {"sample": {"role": "sample", "endian": "big", "fields": fields}},
    }


class Site:
    """A box with one bus and a hub. Each `life` is a start of the gateway on the same disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lives = 0
        self.line = MemoryLine()
        self.records: list[dict[str, Any]] = []
        """What the hub got, but for what the gateway says of itself."""

    def live(self, profile: dict[str, Any], play: Callable[[Gateway], Awaitable[Any]]) -> Any:
        """Start the gateway with a profile, an hour later than the last time, and stop it after `play`."""
        (self._directory / "probe.yaml").write_text(yaml.safe_dump(profile))
        document = {
            "gateway": {"name": "plant", "data_directory": "data"},
            "links": [{"name": "bus", "port": {"path": "/dev/bus"}, "profile": "probe.yaml"}],
            "uplink": {"kind": "mqtt", "host": "unused"},
        }
        self._lives += 1

        async def scenario() -> Any:
            start_ns = START_NS + self._lives * 3600 * NS_PER_S
            clock = VirtualClock(asyncio.get_running_loop(), start_ns, boot_id=f"boot-{self._lives}")
            parts = check_parts(parse_config(document, where="test", directory=self._directory), clock=clock)
            stop = asyncio.Event()
            async with open_gateway(
                parts,
                clock=clock,
                rng=random.Random(1),
                make_transport=lambda settings, _: self.line.transport(settings.name),
                uplink=MemoryHub(on_message=self._receive),
                offload=run_inline,
            ) as gateway:
                running = asyncio.create_task(gateway.run(stop))
                await asyncio.sleep(1)
                result = await play(gateway)
                await asyncio.sleep(5)
                stop.set()
                await running
            return result

        return run_virtual(scenario())

    def send(self, *frames: str) -> None:
        framer = SlipFramer(max_frame_bytes=64)
        for frame in frames:
            assert self.line.write(framer.encode(bytes.fromhex(frame)))

    def _receive(self, message: Message) -> None:
        self.records += [each for each in orjson.loads(message.body) if each["device"] != "plant"]


def test_frames_refused_by_a_wrong_profile_are_readings_after_it_was_mended(tmp_path: Path) -> None:
    """They keep the time at which they came; what is still bad stays; the account balances before and after."""
    site = Site(tmp_path)

    async def with_the_wrong_profile(gateway: Gateway) -> dict[tuple[str, str], Account]:
        site.send("07 32", "08 33 15", "09 34 16", "0a")
        await asyncio.sleep(5)
        return await gateway.buffer.accounts()

    accounts = site.live(probe(MOISTURE), with_the_wrong_profile)
    assert accounts["bus", "normal"] == Account(received=3, quarantined=3)
    assert [record["device"] for record in site.records] == ["bus-7"]
    at = site.records[0]["time"]

    async def with_the_mended_profile(gateway: Gateway) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Account]]:
        said = [line async for line in gateway.replay_quarantine("bus")]
        await asyncio.sleep(5)
        return said, await gateway.buffer.accounts()

    said, accounts = site.live(probe(MOISTURE, TEMPERATURE), with_the_mended_profile)
    assert said[-1] == {"replayed": {"frames": 3, "readings": 2, "still_bad": 1}}
    assert [(record["device"], record["seq"], record["time"], record["values"]) for record in site.records[1:]] == [
        ("bus-8", 1, at, {"moisture": 51, "temperature": 21}),
        ("bus-9", 1, at, {"moisture": 52, "temperature": 22}),
    ]
    assert at == rfc3339(START_NS + 3601 * NS_PER_S)
    assert accounts["bus", "normal"] == Account(received=1, quarantined=1)
    assert accounts["bus-8", "normal"] == Account(received=1, delivered=1)
    assert all(account.balance() == 0 for account in accounts.values())


def test_a_replay_finds_only_the_frames_of_its_link(tmp_path: Path) -> None:
    """Frames of another link, or of one that is not configured any more, stay where they are."""
    site = Site(tmp_path)

    async def lose_frames(gateway: Gateway) -> None:
        site.send("08 33 15")
        await asyncio.sleep(5)

    site.live(probe(MOISTURE), lose_frames)

    async def replay_others(gateway: Gateway) -> tuple[list[dict[str, Any]], Account]:
        said = [line async for line in gateway.replay_quarantine("radio")]
        return said, (await gateway.buffer.accounts())["bus", "normal"]

    said, account = site.live(probe(MOISTURE, TEMPERATURE), replay_others)
    assert said[-1] == {"replayed": {"frames": 0, "readings": 0, "still_bad": 0}}
    assert account == Account(received=1, quarantined=1)
