"""What `Transport` promises, judged on every transport: a serial port, the same while captured, and a replay."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.config.link import SerialLine
from edge_gateway.errors import LinkEnded, LinkUnavailable
from edge_gateway.records import Chunk
from edge_gateway.transport import Transport
from edge_gateway.transport.capture import CaptureWriter, Capturing, read_capture
from edge_gateway.transport.replay import ReplayPort
from edge_gateway.transport.serial_port import SerialPort

from .pty_device import PtyDevice
from .reading import PATIENCE_S, read_bytes

BYTES = random.Random(2).randbytes(50_000)


@dataclass
class Bench:
    """A transport, and what its far side sends."""

    transport: Transport
    send: Callable[[], Coroutine[Any, Any, None]]
    """Have the device say BYTES; returns when they are on their way."""


async def serial_bench(directory: Path) -> AsyncIterator[Bench]:
    with PtyDevice() as device:
        port = SerialPort("bench", line=SerialLine(), path=device.path)
        yield Bench(port, lambda: device.send(BYTES))


async def captured_bench(directory: Path) -> AsyncIterator[Bench]:
    with PtyDevice() as device, CaptureWriter(directory / "capture.jsonl") as writer:
        port = SerialPort("bench", line=SerialLine(), path=device.path)
        yield Bench(Capturing(port, writer), lambda: device.send(BYTES))


async def replay_bench(directory: Path) -> AsyncIterator[Bench]:
    path = directory / "capture.jsonl"
    lines = [
        f'{{"t": {0.1 + start / 1e6}, "link": "a", "hex": "{BYTES[start : start + 100].hex()}"}}\n'
        for start in range(0, len(BYTES), 100)
    ]
    path.write_text('{"capture": 1}\n' + "".join(lines))
    yield Bench(ReplayPort("bench", path), lambda: asyncio.sleep(0))


BENCHES = {"serial": serial_bench, "captured": captured_bench, "replay": replay_bench}


@pytest.fixture(params=BENCHES)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for bench in BENCHES[request.param](tmp_path):
        yield bench


async def test_a_link_is_up_between_entering_and_leaving(bench: Bench) -> None:
    """The fault says why a link is down and is empty while it is up; entering gives the transport itself."""
    link = bench.transport
    assert link.name == "bench"
    assert not link.is_up
    assert link.fault
    async with link as entered:
        assert entered is link
        assert link.is_up
        assert link.fault == ""
        assert link.counters.opened == 1
    assert not link.is_up
    assert link.fault
    assert link.counters.lost == 0


async def test_bytes_come_whole_and_in_order_with_their_times(bench: Bench) -> None:
    """Every byte of the device comes once, in order, in chunks that are not empty and whose times never go back."""
    chunks: list[Chunk] = []
    async with bench.transport as link, asyncio.TaskGroup() as group:
        group.create_task(bench.send())
        async with asyncio.timeout(PATIENCE_S):
            while sum(len(chunk.data) for chunk in chunks) < len(BYTES):
                read = await link.read()
                assert read
                chunks += read
    assert b"".join(chunk.data for chunk in chunks) == BYTES
    assert all(chunk.data for chunk in chunks)
    times_s = [chunk.at_s for chunk in chunks]
    assert times_s == sorted(times_s)
    assert link.counters.bytes_read == len(BYTES)


async def test_a_read_waits_and_giving_it_up_loses_nothing(bench: Bench) -> None:
    """Reading before anything has come waits; reads that were cancelled have taken no bytes with them."""
    async with bench.transport as link:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(link.read(), 0.01)
        async with asyncio.TaskGroup() as group:
            group.create_task(bench.send())
            assert await read_bytes(link, len(BYTES)) == BYTES


async def test_writing_is_counted_while_up_and_refused_while_down(bench: Bench) -> None:
    """A write to a link that is down raises LinkUnavailable with the cause, and counts nothing."""
    link = bench.transport
    with pytest.raises(LinkUnavailable):
        await link.write(b"too soon")
    async with link:
        await link.write(b"in time")
        await link.write(b"")
    with pytest.raises(LinkUnavailable) as caught:
        await link.write(b"too late")
    assert caught.value.what in link.fault
    assert link.counters.bytes_written == len(b"in time")


async def test_counts_never_go_back(bench: Bench) -> None:
    """Each count only grows while bytes flow, and stays after leaving."""
    async with bench.transport as link, asyncio.TaskGroup() as group:
        group.create_task(bench.send())
        before = astuple(link.counters)
        received = 0
        while received < len(BYTES):
            received += sum(len(chunk.data) for chunk in await link.read())
            now = astuple(link.counters)
            assert all(later >= earlier for earlier, later in zip(before, now, strict=True))
            before = now
    assert astuple(link.counters) == before


async def test_what_was_captured_is_what_was_read(tmp_path: Path) -> None:
    """A captured link's chunks are in the file, one line each, and play again as the same bytes."""
    path = tmp_path / "capture.jsonl"
    with PtyDevice() as device, CaptureWriter(path) as writer:
        port = Capturing(SerialPort("rs485-1", line=SerialLine(), path=device.path), writer)
        async with port, asyncio.TaskGroup() as group:
            group.create_task(device.send(BYTES))
            assert await read_bytes(port, len(BYTES)) == BYTES
            await port.write(b"not captured")
    assert {chunk.link for chunk in read_capture(path)} == {"rs485-1"}
    async with ReplayPort("bench", path, speed=None) as replay:
        assert await read_bytes(replay, len(BYTES)) == BYTES
        with pytest.raises(LinkEnded):
            await replay.read()
