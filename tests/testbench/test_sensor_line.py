"""A sensor's line has to know when a gateway listens: against the real kernel, and in memory."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edge_gateway.config.link import SerialLine
from edge_gateway.errors import LinkLost, LinkUnavailable
from edge_gateway.records import Chunk
from edge_gateway.testbench.sensor_line import MemoryLine, PtyLine
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.transport.serial_port import SerialPort

WITHIN_S = 10.0
RETRY_S = 0.02


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the kernel tells nobody; it must be asked
            await asyncio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tty-sensor"


def port(path: Path) -> SerialPort:
    return SerialPort("port", line=SerialLine(), path=str(path), retry_s=RETRY_S)


class Closings:
    """Listens to a line, and notes which opening ended."""

    def __init__(self, line: PtyLine | MemoryLine) -> None:
        self._line = line
        self.received = bytearray()
        self.ended: list[int] = []
        line.listen(self.received.extend, lambda: self.ended.append(line.openings))


async def read_bytes(port: SerialPort, count: int) -> bytes:
    data = bytearray()
    async with asyncio.timeout(WITHIN_S):
        while len(data) < count:
            data += b"".join(chunk.data for chunk in await port.read())
    return bytes(data)


async def test_a_line_is_open_only_while_a_gateway_has_it_open(path: Path) -> None:
    """Nothing can be written before and after, and each opening is told from the next."""
    with PtyLine(path) as line:
        heard = Closings(line)
        assert not line.write(b"too early")
        for opening in (1, 2):
            async with port(path) as gateway:
                await until(lambda: line.is_open)
                assert line.openings == opening
                assert line.write(b"frame")
                assert await read_bytes(gateway, 5) == b"frame"
            await until(lambda: not line.is_open)
            assert not line.write(b"too late")
        assert heard.ended == [1, 2]
        assert line.unsent == 0


async def test_every_byte_written_to_an_open_line_is_read(path: Path) -> None:
    """A gateway discards what lay in the port when it opened it; a line that counts as open has that behind it."""
    with PtyLine(path) as line:
        for number in range(20):
            async with port(path) as gateway:
                await until(partial(line.write, b"%03d" % number))
                assert await read_bytes(gateway, 3) == b"%03d" % number
            await until(lambda: not line.is_open)


async def test_what_the_gateway_writes_reaches_the_sensor(path: Path) -> None:
    """Bytes come as they were written, zeros and control characters included."""
    command = bytes(range(256))
    with PtyLine(path) as line:
        heard = Closings(line)
        async with port(path) as gateway:
            await until(lambda: line.is_open)
            await gateway.write(command)
            await until(lambda: len(heard.received) == len(command))
        assert bytes(heard.received) == command


async def test_unplugging_is_a_loss_to_the_gateway_and_plugging_in_brings_the_link_back(path: Path) -> None:
    """The path is gone with the cable, and leads to a new port afterwards that the gateway finds by itself."""
    with PtyLine(path) as line:
        heard = Closings(line)
        async with port(path) as gateway:
            await until(lambda: line.is_open)
            line.unplug()
            assert not line.is_plugged_in
            assert not path.is_symlink()
            assert heard.ended == [1]
            with pytest.raises(LinkLost):
                await gateway.read()
            assert not line.write(b"into the air")
            line.plug_in()
            await until(lambda: line.is_open)
            assert line.write(b"back")
            assert await read_bytes(gateway, 4) == b"back"
            assert line.openings == 2
    assert not path.is_symlink()


async def test_a_killed_gateway_closes_the_line(path: Path) -> None:
    """SIGKILL gives no time to say goodbye; the kernel hangs up all the same, and the line notices."""
    script = f"import serial, time; port = serial.Serial({str(path)!r}, exclusive=True); time.sleep(60)"
    with PtyLine(path) as line:
        heard = Closings(line)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        try:
            await until(lambda: line.is_open)
        finally:
            process.kill()
            await process.wait()
        await until(lambda: not line.is_open)
        assert heard.ended == [1]


async def test_an_opening_without_discarding_does_not_count(path: Path) -> None:
    """A program that has opened the port and may still discard its input gets nothing that could be lost by that."""
    with PtyLine(path) as line:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            await asyncio.sleep(0.1)  # several looks of the line
            assert not line.is_open
            assert not line.write(b"frame")
        finally:
            os.close(fd)


async def test_a_gateway_that_does_not_read_costs_whole_writes_only(path: Path) -> None:
    """Once the kernel holds no more, writes are refused and counted; what was taken comes out whole and in order."""
    record = b"".join(b"%04d" % number for number in range(25))
    with PtyLine(path) as line:
        async with SerialPort("port", line=SerialLine(), path=str(path), held_bytes=1) as gateway:
            await until(lambda: line.is_open)
            taken = 0
            async with asyncio.timeout(WITHIN_S):
                while not line.unsent:
                    taken += line.write(record)
                    await asyncio.sleep(0)
            assert taken > 100
            assert await read_bytes(gateway, taken * len(record)) == taken * record


@pytest.fixture
def memory_line() -> MemoryLine:
    return MemoryLine()


def test_a_line_in_memory_carries_bytes_both_ways_at_the_loops_time(memory_line: MemoryLine) -> None:
    """Chunks carry the virtual time of their writing, and a closed line takes nothing."""

    async def main() -> None:
        heard = Closings(memory_line)
        assert not memory_line.write(b"nobody there")
        async with memory_line.transport("port") as gateway:
            await asyncio.sleep(3600)
            assert memory_line.write(b"one")
            await asyncio.sleep(3600)
            assert memory_line.write(b"two")
            assert await gateway.read() == [Chunk(3600, b"one"), Chunk(7200, b"two")]
            await gateway.write(b"command")
            await asyncio.sleep(0)
            assert heard.received == b"command"
        assert not memory_line.is_open
        assert heard.ended == [1]

    run_virtual(main())


def test_unplugging_in_memory_is_told_after_what_had_come_before(memory_line: MemoryLine) -> None:
    """The reader first gets its bytes, then one LinkLost, then waits for the cable's return."""

    async def main() -> None:
        async with memory_line.transport("port") as gateway:
            memory_line.write(b"before")
            memory_line.unplug()
            memory_line.unplug()
            assert not gateway.is_up
            assert "unplugged" in gateway.fault
            with pytest.raises(LinkUnavailable):
                await gateway.write(b"command")
            assert [chunk.data for chunk in await gateway.read()] == [b"before"]
            with pytest.raises(LinkLost):
                await gateway.read()
            memory_line.plug_in()
            assert gateway.is_up
            assert gateway.fault == ""
            memory_line.write(b"after")
            assert [chunk.data for chunk in await gateway.read()] == [b"after"]
            assert (gateway.counters.opened, gateway.counters.lost, gateway.counters.bytes_read) == (2, 1, 11)

    run_virtual(main())
