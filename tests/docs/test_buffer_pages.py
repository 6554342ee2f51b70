"""The pages about the buffer: their commands print what stands below them, their events are what the gateway sends."""

from __future__ import annotations

import asyncio
import random
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.assembly import key_store, make_data_directory, open_store
from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.bulletins import Bulletins
from edge_gateway.buffer.corrections import correct
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.store import Store, Writes
from edge_gateway.cli.app import collect
from edge_gateway.clock import NS_PER_S, time_ns_of
from edge_gateway.codec import compile_profile, parse_profile
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.load import load_config
from edge_gateway.errors import DiskFull
from edge_gateway.offload import run_inline
from edge_gateway.records import Event, Message, Reading, Value
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.failing_disk import Answer, Call, Fault, failing_disk
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual
from tests.docs.test_docs import ROOT, Block, blocks

ACCOUNT_PAGE = ROOT / "docs/how-to/account-for-records.md"
REPLAY_PAGE = ROOT / "docs/how-to/replay-bad-frames.md"
OUTAGES_PAGE = ROOT / "docs/how-to/long-outages.md"
MESSAGES_PAGE = ROOT / "docs/reference/messages.md"

CONFIG_DIRECTORY = "/etc/edge-gateway"
DATA_DIRECTORY = "/var/lib/edge-gateway"
"""Where the pages have a gateway's files."""

NEEDS_HUB = ("buffer drain", "ledger publish", "edge-gateway status", "systemctl")
"""What only a running gateway or a system can do; tests/cli and tests/system show it."""


@pytest.fixture(autouse=True)
def in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands make lies there."""
    monkeypatch.chdir(tmp_path)


class HandClock:
    """The clock of a gateway that ran on the first of May."""

    boot_id = "0d5b8b1e-4d0c-4c57-9b27-4f0e0a9b7d11"
    trusted = True

    def __init__(self) -> None:
        self.uptime_s = 0.0

    def now_ns(self) -> int:
        return time_ns_of("2026-05-01T09:00:00.000000Z") + self.uptime_ns()

    def uptime_ns(self) -> int:
        return round(self.uptime_s * NS_PER_S)


@dataclass(frozen=True)
class Site:
    """A gateway that has been stopped, in directories of its own."""

    config_directory: Path
    data_directory: Path

    def run(self, command: str) -> Result:
        """Run a command of a page as it stands there, but for the directories."""
        words = shlex.split(command.replace(CONFIG_DIRECTORY, str(self.config_directory)))[1:]
        return CliRunner().invoke(collect(words[0]), words)

    def told(self, output: str) -> str:
        """An output as the page has it."""
        return output.replace(str(self.data_directory), DATA_DIRECTORY)


def make_site(directory: Path, link: dict[str, Any], **buffer: Any) -> tuple[Site, Store, HandClock]:
    """A gateway's files, and its store, open."""
    site = Site(directory / "etc", directory / "data")
    site.config_directory.mkdir(exist_ok=True)
    document = {
        "gateway": {"name": "plant-3", "data_directory": str(site.data_directory)},
        "links": [{"name": "port-a", "port": {"path": "/dev/ttyUSB0"}, **link}],
        "uplink": {"kind": "mqtt", "host": "broker.example.com"},
        "buffer": buffer,
    }
    config_file = site.config_directory / "gateway.yaml"
    config_file.write_text(yaml.safe_dump(document))
    config = load_config(config_file)
    make_data_directory(config.gateway.data_directory)
    clock = HandClock()
    store = open_store(config, clock=clock, rng=random.Random(17), keys=key_store(config))
    return site, store, clock


def tell(site: Site, page: Path, before: Mapping[str, Callable[[], object]] | None = None) -> None:
    """Run a page's commands, one after the other, and compare what they print with what the page says.

    Args:
        site: the gateway they are about.
        page: the document. An output it leaves out may be anything.
        before: what the reader does before a command that contains these words.
    """
    for block in (each for each in blocks("console") if each.page == page):
        for command, shown in steps(block):
            if any(words in command for words in NEEDS_HUB):
                continue
            for words, prepare in (before or {}).items():
                if words in command:
                    prepare()
            done = site.run(command)
            assert done.exit_code == (1 if "--explain" in command else 0), (command, done.output)
            if shown:
                assert sizes_hidden(site.told(done.stdout + done.stderr)) == sizes_hidden(shown), command


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """Commands of a block, each with the output below it."""
    for step in block.text.split("$ ")[1:]:
        command, _, shown = step.partition("\n")
        yield command, shown


def sizes_hidden(output: str) -> str:
    """An output without numbers of bytes: they change with the compression library, and mean nothing here."""
    lines = (re.sub(r" *[0-9]+", " N", line) if "bytes" in line else line for line in output.splitlines())
    return "\n".join(line.rstrip() for line in lines)


def taken(store: Store) -> Iterator[Message]:
    while isinstance(message := store.take(wait_for_more=False), Message):
        yield message


def test_the_account_page(tmp_path: Path) -> None:
    """Each command of the page about the account prints what the page says."""
    devices = [{"name": "boiler-room", "address": 7}, {"name": "pump", "address": 8, "lane": "bulk"}]
    lanes = [{"name": "alert"}, {"name": "normal"}, {"name": "bulk", "max_bytes": 65_536, "when_full": "thin"}]
    site, store, clock = make_site(tmp_path, {"profile": "reference-climate", "devices": devices}, lanes=lanes)
    fill_for_the_account_page(store, clock)
    tell(site, ACCOUNT_PAGE)


def fill_for_the_account_page(store: Store, clock: HandClock) -> None:
    """Three hours: a reading of the boiler room each minute, of the pump every ten seconds. After one, the hub goes."""
    settled: list[Message] = []
    for seconds in range(0, 3 * 3600, 10):
        clock.uptime_s = seconds + 0.25
        hours = seconds / 3600
        batches = [Batch([reading("pump", clock, 48 + hours)], lane="bulk")]
        if seconds % 60 == 0:
            batches.append(Batch([reading("boiler-room", clock, 21 + hours)]))
        if seconds == 1200:
            frame = bytes.fromhex("0107002900005c26052909a011db0c05d2a8")
            batches.append(Batch(bad=[BadFrame("port-a", "checksum", frame, clock.now_ns())]))
        if seconds == 7800:
            values = {"temperature": 23.2, "raise_above": 23.0, "clear_below": 22.0}
            batches.append(Batch([Event("boiler-room", "too-hot", "alert-raised", clock.now_ns(), values)]))
        store.write(Writes(batches, settled))
        settled = list(taken(store)) if seconds < 3600 else []
        if seconds == 3600:
            store.rewind()
    clock.uptime_s = 3 * 3600 + 0.25
    store.write(Writes())
    store.close()


def reading(device: str, clock: HandClock, temperature: float) -> Reading:
    return Reading(
        device, "reference-climate", clock.now_ns(), {"temperature": round(temperature, 2), "humidity": 45.1}
    )


SOIL_FRAMES = ("01037702a100862e", "010392029e00a0d2", "0103be029b00ab12")


def test_the_replay_page(tmp_path: Path) -> None:
    """Frames that the page's profile could not read, before it was mended, become readings by the page's commands."""
    (mended,) = (block.text for block in blocks("yaml") if block.page == REPLAY_PAGE)
    wrong = mended.partition("vectors:")[0].replace("maximum: 100", "maximum: 60")
    profile_file = tmp_path / "etc" / "soil-probe.yaml"
    profile_file.parent.mkdir()
    profile_file.write_text(wrong)
    site, store, clock = make_site(tmp_path, {"profile": "soil-probe.yaml"})
    codec = compile_profile(parse_profile(wrong, "wrong"))
    for text in SOIL_FRAMES:
        clock.uptime_s += 600
        (reject,) = codec.decode([bytes.fromhex(text)]).rejects
        store.write(Writes([Batch(bad=[BadFrame("port-a", reject.reason, reject.data, clock.now_ns())])]))
    store.close()
    tell(site, REPLAY_PAGE, before={"profiles test": lambda: profile_file.write_text(mended)})


async def events_of_the_buffer(path: Path) -> list[dict[str, Any]]:
    """What the gateway says about its own buffer in a day on which a lane overflows and the disk fills up."""
    loop = asyncio.get_running_loop()
    clock = VirtualClock(loop, time_ns_of("2026-05-01T12:00:00.250000Z"))
    lanes = [{"name": "alert", "max_records_per_message": 1}, {"name": "normal", "max_bytes": 65_536}]
    settings = BufferSettings.model_validate({"lanes": lanes})
    with failing_disk("events of the buffer") as disk:
        store = open_bench_store(path, settings, clock=clock, vfs=disk.name)
        async with DurableBuffer(store, settle_within_s=0, commit_within_s=0, offload=run_inline) as buffer:
            bulletins = Bulletins("plant-3", buffer, clock, links=["port-a"])
            saying = asyncio.create_task(bulletins.run())
            await asyncio.sleep(10)
            for number in range(400):
                values = {"temperature": 48 + number / 100, "humidity": 45.1}
                await buffer.append(Batch([Reading("pump", "reference-climate", clock.now_ns(), values)]))
            await asyncio.sleep(3600)
            await buffer.append(Batch(rejected=[("port-a", 1)]))
            await bulletins.publish_ledger()
            disk.faults = [Fault({Call.WRITE}, Answer.NO_SPACE)]
            with pytest.raises(DiskFull):
                await buffer.append(Batch(rejected=[("port-a", 1)]))
            await asyncio.sleep(12)
            disk.mend()
            await buffer.append(Batch(rejected=[("port-a", 1)]))
            await asyncio.sleep(20)
            saying.cancel()
            chunks = await buffer.read_chunks(most=1000)
    documents = [orjson.loads(b"[%b]" % chunk.payload) for chunk in chunks if chunk.lane == "alert" and chunk.payload]
    return [document for batch in documents for document in batch if document["device"] == "plant-3"]


def test_the_events_of_the_buffer_are_those_of_the_page(tmp_path: Path) -> None:
    """Each event that the page about messages shows of the buffer is one that the gateway sends."""
    sent = run_virtual(events_of_the_buffer(tmp_path / "buffer.db"))
    shown = [orjson.loads(block.text) for block in blocks("json") if block.page == MESSAGES_PAGE]
    of_the_buffer = [document for document in shown if document.get("source") == "buffer"]
    assert {document["event"] for document in of_the_buffer} == {"ledger", "records-dropped", "buffer-fault"}
    for document in of_the_buffer:
        assert document in sent


def test_corrected_times_are_those_of_the_page() -> None:
    """The record that the page about messages shows before the clock was set becomes the one it shows after."""
    shown = [orjson.loads(block.text) for block in blocks("json") if block.page == MESSAGES_PAGE]
    (before,) = (document for document in shown if "uptime_s" in document)
    (after,) = (document for document in shown if "time_corrected" in document)
    offset_ns = time_ns_of("2026-05-01T11:58:00.000000Z")
    assert orjson.loads(correct(orjson.dumps(before), before["boot"], offset_ns)) == after


SIZES = re.findall(
    r"^\| ([0-9]+) \| ([0-9.]+)[^|]* \| ([0-9]+) bytes \|", OUTAGES_PAGE.read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("per_s", "commit_within_s", "shown_bytes"), SIZES)
def test_a_reading_takes_as_much_of_the_disk_as_the_page_says(
    per_s: str, commit_within_s: str, shown_bytes: str
) -> None:
    """The sizes in the page about long outages are those of the store, give or take a tenth."""
    taken_bytes = run_virtual(bytes_of_a_reading(float(per_s), float(commit_within_s)))
    assert taken_bytes == pytest.approx(float(shown_bytes), rel=0.1)


async def bytes_of_a_reading(per_s: float, commit_within_s: float, *, readings: int = 6000) -> float:
    """On disk, of twenty sensors with seven values that know nothing of each other, while the hub is away."""
    rng = random.Random(7)
    clock = VirtualClock(asyncio.get_running_loop())
    store = open_bench_store(":memory:", clock=clock)
    async with DurableBuffer(store, settle_within_s=0, commit_within_s=commit_within_s, offload=run_inline) as buffer:
        empty_bytes = await used_bytes(buffer)
        temperatures = [20 + 5 * rng.random() for _ in range(20)]
        for number in range(readings):
            await asyncio.sleep(rng.expovariate(per_s))
            turn, sensor = divmod(number, 20)
            temperatures[sensor] += rng.gauss(0, 0.02)
            values: dict[str, Value] = {
                "uptime_ms": 86_400_000 + 1_000 * sensor + 20 * turn,
                "temperature": round(temperatures[sensor], 2),
                "humidity": round(40 + 10 * rng.random(), 2),
                "battery": round(2.8 + 0.02 * sensor, 3),
                "door_open": False,
                "low_battery": False,
                "mode": "measure",
            }
            told = Reading(f"sensor-{sensor + 1}", "reference-climate", clock.now_ns(), values)
            buffer.submit(Batch([told]), lambda error: None)
        await buffer.flush()
        return (await used_bytes(buffer) - empty_bytes) / readings


async def used_bytes(buffer: DurableBuffer) -> int:
    disk = (await buffer.stats())["disk"]
    return int(disk["database_bytes"] - disk["free_bytes"])
