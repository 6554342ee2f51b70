"""A serial link on real pseudo-terminals: bytes both ways, loss and return, back-pressure, counts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_gateway.config.link import SerialLine, UsbMatch
from edge_gateway.errors import ConfigError, LinkLost, LinkUnavailable
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.transport import serial_port
from edge_gateway.transport.serial_line import LineErrors
from edge_gateway.transport.serial_port import SerialPort

from .pty_device import PtyDevice
from .reading import read_bytes, read_until_lost, until_down, until_read, until_up

LINE = SerialLine()

BURST = random.Random(1).randbytes(1_000_000)


@pytest.fixture
def device() -> Iterator[PtyDevice]:
    with PtyDevice() as device:
        yield device


class UsbPort:
    """An adapter as the system lists it."""

    def __init__(self, device: str, vid: int | None, pid: int | None, serial_number: str | None) -> None:
        self.device = device
        self.vid = vid
        self.pid = pid
        self.serial_number = serial_number


async def test_needs_one_way_to_find_the_port() -> None:
    """A link with neither path nor usb, or with both, is refused when it is made."""
    with pytest.raises(ConfigError, match="either path or usb"):
        SerialPort("a", line=LINE)
    with pytest.raises(ConfigError, match="either path or usb"):
        SerialPort("a", line=LINE, path="/dev/ttyUSB0", usb=UsbMatch(vendor_id=1, product_id=2))


async def test_a_present_port_is_up_on_entering(device: PtyDevice) -> None:
    """Nobody waits for a port that is there."""
    with capture_logs() as logs:
        async with SerialPort("a", line=LINE, path=device.path) as port:
            assert port.is_up
            assert port.fault == ""
            assert port.counters.opened == 1
    assert logs == [{"event": "link.opened", "link": "a", "path": device.path, "log_level": "info"}]


def test_waits_for_a_port_that_is_missing_at_start(device: PtyDevice, tmp_path: Path) -> None:
    """A link whose port comes a minute late tells why, logs it once, and is up within half a second of its coming."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        name = tmp_path / "sensor"
        async with SerialPort("a", line=LINE, path=str(name)) as port:
            assert not port.is_up
            assert port.fault.startswith(f"{name}: there is no such port. Plug the adapter in")
            await asyncio.sleep(60)
            assert not port.is_up
            device.link(name)
            came_s = loop.time()
            assert await until_up(port) - came_s <= 0.52
            await device.send(b"hello")
            assert await read_bytes(port, 5) == b"hello"

    with capture_logs() as logs:
        run_virtual(main())
    assert [entry["event"] for entry in logs] == ["link.unavailable", "link.opened"]


def test_a_replugged_adapter_is_lost_once_and_back_under_its_new_number(tmp_path: Path) -> None:
    """Unplugged and back under another number, a link raises LinkLost once and reads again within two seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        name = tmp_path / "sensor"
        with PtyDevice() as first, PtyDevice() as second:
            async with SerialPort("a", line=LINE, path=first.link(name)) as port:
                await first.send(b"half a fra")
                assert await read_bytes(port, 10) == b"half a fra"
                first.unplug()
                unplugged_s = loop.time()
                with pytest.raises(LinkLost, match="the link is lost"):
                    await port.read()
                assert not port.is_up
                assert "the link is lost" in port.fault
                second.link(name)
                assert await until_up(port) - unplugged_s <= 2.0
                await second.send(b"whole frame")
                assert await read_bytes(port, 11) == b"whole frame"
                assert (port.counters.lost, port.counters.opened) == (1, 2)

    with capture_logs() as logs:
        run_virtual(main())
    assert [entry["event"] for entry in logs] == ["link.opened", "link.lost", "link.opened"]


def test_a_port_replaced_in_silence_is_noticed(tmp_path: Path) -> None:
    """When the path leads to another device while the old one still works, the link moves over within two seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        name = tmp_path / "sensor"
        with PtyDevice() as old, PtyDevice() as new:
            async with SerialPort("a", line=LINE, path=old.link(name)) as port:
                new.link(name)
                moved_s = loop.time()
                with pytest.raises(LinkLost, match="another device"):
                    await port.read()
                assert await until_up(port) - moved_s <= 2.0
                await new.send(b"new")
                assert await read_bytes(port, 3) == b"new"

    run_virtual(main())


def test_a_path_that_goes_away_is_no_loss_while_the_device_works(device: PtyDevice, tmp_path: Path) -> None:
    """A device that still answers is kept, though its link under /dev was taken away."""

    async def main() -> None:
        name = tmp_path / "sensor"
        async with SerialPort("a", line=LINE, path=device.link(name)) as port:
            name.unlink()
            await asyncio.sleep(10)
            assert port.is_up
            await device.send(b"here")
            assert await read_bytes(port, 4) == b"here"

    run_virtual(main())


async def test_what_came_before_a_loss_is_read_before_it(device: PtyDevice) -> None:
    """Bytes that had come when the device was unplugged are all read; the loss comes after them."""
    async with SerialPort("a", line=LINE, path=device.path) as port:
        sent = device.send_what_fits(BURST)
        await until_read(port, sent)
        device.unplug()
        chunks = await read_until_lost(port)
        assert b"".join(chunk.data for chunk in chunks) == BURST[:sent]


def test_a_loss_is_noticed_while_nobody_reads(device: PtyDevice) -> None:
    """A full link whose device goes away says so within a second, and still gives what it held."""

    async def main() -> None:
        async with SerialPort("a", line=LINE, path=device.path, held_bytes=100) as port:
            await device.send(b"x" * 300)
            await until_read(port, 300)
            unplugged_s = asyncio.get_running_loop().time()
            device.unplug()
            assert await until_down(port) - unplugged_s <= 1.0
            assert sum(len(chunk.data) for chunk in await read_until_lost(port)) == 300

    run_virtual(main())


@pytest.mark.parametrize("number", [errno.EIO, errno.ENXIO, errno.ENODEV])
async def test_an_error_of_reading_is_a_loss(device: PtyDevice, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Drivers differ in how they say that the device is gone; each way is a loss with the system's words."""

    def gone(_fd: int, _count: int) -> bytes:
        raise OSError(number, os.strerror(number))

    async with SerialPort("a", line=LINE, path=device.path) as port:
        monkeypatch.setattr(os, "read", gone)
        await device.send(b"x")
        with pytest.raises(LinkLost, match=os.strerror(number)):
            await port.read()
        monkeypatch.undo()
        assert os.strerror(number) in port.fault


async def test_a_wake_up_without_bytes_is_no_loss(device: PtyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that was said to be readable and is not after all stays open, and gives its bytes when they come."""
    read = os.read
    empty_wake_ups = 3

    def late(fd: int, count: int) -> bytes:
        nonlocal empty_wake_ups
        if empty_wake_ups:
            empty_wake_ups -= 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return read(fd, count)

    async with SerialPort("a", line=LINE, path=device.path) as port:
        monkeypatch.setattr(os, "read", late)
        await device.send(b"x")
        assert await read_bytes(port, 1) == b"x"
    assert empty_wake_ups == 0


async def test_the_loss_stands_between_the_bytes_before_and_after_it(tmp_path: Path) -> None:
    """A reader that was away for a whole replug gets the old bytes, the loss, and the new bytes, in this order."""
    name = tmp_path / "sensor"
    with PtyDevice() as first, PtyDevice() as second:
        async with SerialPort("a", line=LINE, path=first.link(name), retry_s=0.01) as port:
            await first.send(b"old")
            await until_read(port, 3)
            first.unplug()
            await until_down(port)
            second.link(name)
            await until_up(port)
            await second.send(b"new")
            await until_read(port, 6)
            assert b"".join(chunk.data for chunk in await read_until_lost(port)) == b"old"
            assert await read_bytes(port, 3) == b"new"


async def test_losses_nobody_saw_are_one_to_the_reader(tmp_path: Path) -> None:
    """A port that came and went three times in silence raises LinkLost once, and counts three losses."""
    name = tmp_path / "sensor"
    async with SerialPort("a", line=LINE, path=str(name), retry_s=0.01) as port:
        for _ in range(3):
            with PtyDevice() as device:
                device.link(name)
                await until_up(port)
            await until_down(port)
        with pytest.raises(LinkLost):
            await port.read()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(port.read(), 0.05)
        assert port.counters.lost == 3


async def test_a_port_in_use_is_refused_until_it_is_free(device: PtyDevice) -> None:
    """Two links never share a port: the second says who to ask, and takes over when the first leaves."""
    second = SerialPort("b", line=LINE, path=device.path, retry_s=0.01)
    async with SerialPort("a", line=LINE, path=device.path) as first:
        await second.__aenter__()
        assert first.is_up
        assert not second.is_up
        assert second.fault.startswith(f"{device.path}: in use by another program. Stop that program (`fuser -v ")
        with pytest.raises(LinkUnavailable, match="in use by another program"):
            await second.write(b"x")
    await until_up(second)
    await second.__aexit__(None, None, None)


async def test_bursts_in_both_directions_at_once(device: PtyDevice) -> None:
    """A megabyte each way, at the same time, arrives whole and in order."""
    async with SerialPort("a", line=LINE, path=device.path) as port, asyncio.TaskGroup() as group:
        to_gateway = group.create_task(read_bytes(port, len(BURST)))
        to_device = group.create_task(device.receive(len(BURST)))
        group.create_task(device.send(BURST))
        group.create_task(port.write(BURST))
    assert to_gateway.result() == BURST
    assert to_device.result() == BURST
    assert (port.counters.bytes_read, port.counters.bytes_written) == (len(BURST), len(BURST))


async def test_what_nobody_reads_is_held_up_to_the_bound(device: PtyDevice) -> None:
    """Without a reader the port is read up to the bound and no further; with one, every byte comes."""
    held_bytes = 20_000
    async with SerialPort("a", line=LINE, path=device.path, held_bytes=held_bytes) as port:
        sending = asyncio.create_task(device.send(BURST))
        seen = -1
        while port.counters.bytes_read != seen:  # until a second goes by without a byte more
            seen = port.counters.bytes_read
            await asyncio.sleep(0.2)
        assert 0 < seen < held_bytes + 4096  # a tty gives at most 4095 at a time, so the last read overshoots by that
        assert not sending.done()
        assert await read_bytes(port, len(BURST)) == BURST
        await sending


async def test_single_bytes_are_held_to_the_bound_with_what_they_cost(device: PtyDevice) -> None:
    """Chunks of one byte fill the bound by the memory they take, not by the byte each carries."""
    async with SerialPort("a", line=LINE, path=device.path, held_bytes=1290) as port:
        for count in range(1, 11):
            await device.send(b"x")
            await until_read(port, count)
        await device.send(b"yz")
        await asyncio.sleep(0.05)
        assert port.counters.bytes_read == 10
        assert await read_bytes(port, 10) == b"x" * 10
        assert await read_bytes(port, 2) == b"yz"


async def test_a_slow_reader_loses_nothing(device: PtyDevice) -> None:
    """A reader slower than the device gets every byte in order, with the port paused and resumed many times."""
    data = BURST[:200_000]
    async with SerialPort("a", line=LINE, path=device.path, held_bytes=4096) as port:
        sending = asyncio.create_task(device.send(data))
        received = b""
        while len(received) < len(data):
            received += b"".join(chunk.data for chunk in await port.read())
            await asyncio.sleep(0.001)
        await sending
    assert received == data


async def test_a_write_returns_when_the_last_byte_is_taken(device: PtyDevice) -> None:
    """A write larger than the kernel holds waits for the device to read, and then everything has arrived."""
    async with SerialPort("a", line=LINE, path=device.path) as port:
        writing = asyncio.create_task(port.write(BURST[:100_000]))
        await asyncio.sleep(0.02)
        assert not writing.done()
        assert 0 < port.counters.bytes_written < 100_000
        assert await device.receive(100_000) == BURST[:100_000]
        await writing
        assert port.counters.bytes_written == 100_000


async def test_writes_of_several_tasks_do_not_mix(device: PtyDevice) -> None:
    """Each write arrives in one piece, in the order the writes were started."""
    writes = [bytes([number]) * 30_000 for number in range(5)]
    async with SerialPort("a", line=LINE, path=device.path) as port, asyncio.TaskGroup() as group:
        for data in writes:
            group.create_task(port.write(data))
        received = group.create_task(device.receive(150_000))
    assert received.result() == b"".join(writes)


async def test_unplugging_ends_a_write_that_waits(device: PtyDevice) -> None:
    """A write that waits for a device that goes away raises LinkLost, and the next one LinkUnavailable."""
    async with SerialPort("a", line=LINE, path=device.path) as port:
        writing = asyncio.create_task(port.write(BURST))
        await asyncio.sleep(0.02)
        device.unplug()
        with pytest.raises(LinkLost):
            await writing
        written = port.counters.bytes_written
        with pytest.raises(LinkUnavailable, match="the link is lost"):
            await port.write(b"x")
        assert port.counters.bytes_written == written
        with pytest.raises(LinkLost):
            await port.read()


async def test_a_write_can_be_the_first_to_notice_a_loss(device: PtyDevice) -> None:
    """A write to a device that is just gone raises LinkLost; the reader hears of the same loss once."""
    async with SerialPort("a", line=LINE, path=device.path) as port:
        device.unplug()
        with pytest.raises(LinkLost):
            await port.write(b"x")
        with pytest.raises(LinkLost):
            await port.read()
        assert port.counters.lost == 1


async def test_a_cancelled_write_leaves_the_link_usable(device: PtyDevice) -> None:
    """After a write was given up half way, others go out."""
    async with SerialPort("a", line=LINE, path=device.path) as port:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(port.write(BURST), 0.02)
        await device.receive(port.counters.bytes_written)
        await port.write(b"next")
        assert await device.receive(4) == b"next"


def test_the_drivers_counts_only_grow_over_reopening(tmp_path: Path) -> None:
    """Errors are counted from each opening on, whatever the driver had counted before, and never go back."""
    driver = LineErrors(overruns=100, framing=200, parity=300, breaks=400)

    async def main() -> None:
        nonlocal driver
        name = tmp_path / "sensor"
        with PtyDevice() as first, PtyDevice() as second:
            async with SerialPort("a", line=LINE, path=first.link(name), read_line_errors=lambda _fd: driver) as port:
                assert port.counters.overruns == 0
                driver = LineErrors(overruns=101, framing=202, parity=303, breaks=404)
                await asyncio.sleep(1)
                driver = LineErrors(overruns=105, framing=202, parity=303, breaks=404)
                counted = port.counters
                errors = (counted.overruns, counted.framing_errors, counted.parity_errors, counted.breaks)
                assert errors == (5, 2, 3, 4)

                first.unplug()
                await read_until_lost(port)
                driver = LineErrors(overruns=7, framing=0, parity=0, breaks=0)
                second.link(name)
                await until_up(port)
                assert port.counters.overruns == 5
                driver = LineErrors(overruns=8, framing=0, parity=0, breaks=1)
                assert (port.counters.overruns, port.counters.breaks) == (6, 5)
                driver = LineErrors(overruns=2, framing=0, parity=0, breaks=0)  # the driver was reset
                assert (port.counters.overruns, port.counters.breaks) == (8, 5)

    run_virtual(main())


async def test_a_driver_that_counts_nothing_is_asked_once(device: PtyDevice) -> None:
    """Where there are no counts the driver is not asked again until the next opening."""
    asked = 0

    def counts_nothing(_fd: int) -> None:
        nonlocal asked
        asked += 1

    async with SerialPort("a", line=LINE, path=device.path, retry_s=0.001, read_line_errors=counts_nothing) as port:
        await asyncio.sleep(0.02)
        assert port.counters.overruns == 0
    assert asked == 1


def test_a_usb_adapter_is_found_again_under_another_number() -> None:
    """A link by vendor, product and serial number follows its adapter and ignores others."""
    present: list[UsbPort] = []

    async def main() -> None:
        usb = UsbMatch(vendor_id=0x0403, product_id=0x6001, serial_number="A1")
        with PtyDevice() as first, PtyDevice() as second:
            async with SerialPort("a", line=LINE, usb=usb, list_ports=lambda: present) as port:
                assert port.fault.startswith("usb 0403:6001 serial number A1: no such USB adapter is plugged in.")
                present[:] = [
                    UsbPort("/dev/ttyS0", None, None, None),
                    UsbPort("/dev/none", 0x0403, 0x6001, "B2"),
                    UsbPort(first.path, 0x0403, 0x6001, "A1"),
                ]
                await until_up(port)
                await first.send(b"1")
                assert await read_bytes(port, 1) == b"1"
                first.unplug()
                present[-1].device = second.path
                await read_until_lost(port)
                await until_up(port)
                await second.send(b"2")
                assert await read_bytes(port, 1) == b"2"

    run_virtual(main())


async def test_leaving_ends_the_task_and_frees_the_port(device: PtyDevice) -> None:
    """The link's task bears its name while the link lives; nothing of it is left afterwards."""
    for _ in range(2):
        async with SerialPort("a", line=LINE, path=device.path) as port:
            assert "transport.a" in {task.get_name() for task in asyncio.all_tasks()}
        assert port.fault == "a: the link has been closed"
        assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"transport.a"})


@pytest.mark.parametrize(("out_after_s", "left_after_s"), [(0.1, 0.1), (1000.0, 1.0)])
def test_leaving_waits_for_output_but_not_for_ever(
    device: PtyDevice, monkeypatch: pytest.MonkeyPatch, out_after_s: float, left_after_s: float
) -> None:
    """The last bytes written get a second to go out on the line; a line that takes none holds nobody up."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with SerialPort("a", line=LINE, path=device.path) as port:
            await port.write(b"last words")
            started_s = loop.time()
            # A pseudo-terminal never has output waiting, so this stands in for a slow UART.
            monkeypatch.setattr(
                serial_port, "unsent_bytes", lambda _fd: 10 if loop.time() < started_s + out_after_s else 0
            )
        return loop.time() - started_s

    assert run_virtual(main()) == pytest.approx(left_after_s, abs=0.03)


def test_an_idle_link_looks_twice_a_second_and_no_more(device: PtyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten quiet minutes cost 1,200 looks at the path and not one read."""
    looks = 0

    async def main() -> None:
        nonlocal looks
        async with SerialPort("a", line=LINE, path=device.path) as port:
            stat = Path.stat

            def counted(path: Path, *, follow_symlinks: bool = True) -> object:
                nonlocal looks
                looks += 1
                return stat(path, follow_symlinks=follow_symlinks)

            monkeypatch.setattr(Path, "stat", counted)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(port.read(), 600)
            monkeypatch.undo()

    run_virtual(main())
    assert 1198 <= looks <= 1201
