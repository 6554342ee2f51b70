"""A serial port that outlives its cable.

The event loop watches the port's file descriptor; there is no thread, no polling for bytes, and one read takes all that
has come. One task keeps the link open: twice a second it tries to open a link that is down, and looks whether an open
one still leads to the device its path names. It finds the port anew at every opening, so a renumbered adapter is found
again. How a port is opened, and what a refusal means, is in `serial_line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from serial.tools import list_ports as system_ports

from edge_gateway.config.link import SerialLine, UsbMatch
from edge_gateway.errors import ConfigError, LinkLost, LinkUnavailable
from edge_gateway.records import Chunk
from edge_gateway.transport import LinkCounters
from edge_gateway.transport.serial_line import (
    LineErrors,
    PortHandle,
    PortLister,
    close_port,
    find_usb_port,
    is_hung_up,
    open_port,
    read_line_errors,
    unsent_bytes,
)

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_READ_BYTES = 65_536
"""Asked of one read; a tty gives up to 4095 at a time."""

_CHUNK_COST_BYTES = 128
"""What Python needs to hold one chunk beside its bytes. At 9600 baud chunks are single bytes, and a bound that counted
only those would let memory grow to a hundred times its value."""

_CLOSE_WAIT_S = 1.0
"""How long leaving waits for the last bytes written to go out on the line; a thousand characters at 9600 baud."""

_CLOSE_CHECK_S = 0.02

_HUNG_UP = "unplugged or hung up"


@dataclass(slots=True)
class _OpenPort:
    handle: PortHandle
    fd: int
    path: Path
    device_number: int
    """What `path` led to when it was opened (st_rdev)."""
    line_errors: LineErrors | None
    """The driver's counts when last looked at; None if it has none."""


class SerialPort:
    """A serial link. See `Transport` for what its methods promise.

    Args:
        name: the link's name in the configuration.
        line: baud rate and the like.
        path: the port's path: a device or a symlink, looked at anew at every opening.
        usb: finds the port by its USB adapter instead. Exactly one of `path` and `usb` is given.
        retry_s: seconds between two tries to open the link, and between two looks at an open one.
        held_bytes: how much is held while nobody reads, before the port is no longer read.
        list_ports: the ports present, for `usb`.
        read_line_errors: what the driver of an open file descriptor counted, or None if it counts nothing.

    Raises:
        ConfigError: both or neither of `path` and `usb` are given.
    """

    def __init__(
        self,
        name: str,
        *,
        line: SerialLine,
        path: str | None = None,
        usb: UsbMatch | None = None,
        retry_s: float = 0.5,
        held_bytes: int = 32_768,
        list_ports: PortLister = system_ports.comports,
        read_line_errors: Callable[[int], LineErrors | None] = read_line_errors,
    ) -> None:
        self._find_path: Callable[[], str]
        if path is not None and usb is None:
            self._find_path = lambda: path
        elif usb is not None and path is None:
            self._find_path = lambda: find_usb_port(usb, list_ports)
        else:
            raise ConfigError("a serial link needs either path or usb", where=name, remedy="Give one of them")
        self._name = name
        self._line = line
        self._retry_s = retry_s
        self._most_held_bytes = held_bytes
        self._read_line_errors = read_line_errors

        self._counters = LinkCounters()
        self._port: _OpenPort | None = None
        self._why_down = LinkUnavailable("the link has not been opened", where=name)
        self._logged_fault = ""
        self._chunks: list[Chunk] = []
        """Read from the port and not yet handed out, since it was last opened."""
        self._ended: deque[tuple[list[Chunk], LinkLost]] = deque()
        """The same of earlier openings, each with the loss that ended it."""
        self._held_bytes = 0
        self._arrived = asyncio.Event()
        self._reading_paused = False
        self._writing = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The link's name in the configuration."""
        return self._name

    @property
    def is_up(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    @property
    def fault(self) -> str:
        """Why the port is not open, with what to do about it; empty while it is."""
        return "" if self._port is not None else str(self._why_down)

    @property
    def counters(self) -> LinkCounters:
        """Counts since the object was made, the driver's as of now."""
        self._count_line_errors()
        return self._counters

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._try_open()
        self._keeper = asyncio.create_task(self._keep_open(), name=f"transport.{self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
                if not self._keeper.cancelled():
                    self._keeper.result()  # raises what ended it before its time
            await self._let_output_out()
        finally:
            self._close(LinkUnavailable("the link has been closed", where=self._name))

    async def read(self) -> list[Chunk]:
        """See `Transport.read`. Cancelling it loses nothing."""
        while not self._chunks and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._ended:
            chunks, self._chunks = self._chunks, []
        else:
            chunks, loss = self._ended.popleft()
            if not chunks:
                raise loss
            self._ended.appendleft(([], loss))
        self._held_bytes -= sum(_CHUNK_COST_BYTES + len(chunk.data) for chunk in chunks)
        if self._reading_paused:
            self._watch_for_bytes()
        return chunks

    async def write(self, data: bytes) -> None:
        """See `Transport.write`. Writes of several tasks go out whole, one after the other."""
        async with self._writing:
            port = self._port
            if port is None:
                why = self._why_down
                raise LinkUnavailable(why.what, where=why.where, remedy=why.remedy)
            rest = memoryview(data)
            while rest:
                try:
                    count = os.write(port.fd, rest)
                except BlockingIOError:
                    count = 0
                except OSError as error:
                    self._lose(port, error.strerror or str(error))
                    raise _lost_while_writing(port) from error
                self._counters.bytes_written += count
                rest = rest[count:]
                if rest:
                    await self._wait_until_writable(port)

    async def _wait_until_writable(self, port: _OpenPort) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(port.fd, self._on_writable)
        try:
            await self._writable
        finally:
            self._writable = None
            # Once the port is closed its number may already be another link's, with a writer of its own.
            if self._port is port:
                self._loop.remove_writer(port.fd)
        if self._port is not port:
            raise _lost_while_writing(port)

    def _on_writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _on_readable(self, port: _OpenPort) -> None:
        # One read for each time the loop says so: reading on until the port is empty would cost a second system call
        # for every small read, and let a fast line keep the others waiting.
        try:
            data = os.read(port.fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(port, error.strerror or str(error))
            return
        if not data:
            self._lose(port, _HUNG_UP)
            return
        self._counters.bytes_read += len(data)
        self._chunks.append(Chunk(self._loop.time(), data))
        self._held_bytes += _CHUNK_COST_BYTES + len(data)
        self._arrived.set()
        if self._held_bytes >= self._most_held_bytes:
            self._loop.remove_reader(port.fd)
            self._reading_paused = True

    def _watch_for_bytes(self) -> None:
        """Have the loop call `_on_readable`, if the port is open and there is room for what it would read."""
        self._reading_paused = self._held_bytes >= self._most_held_bytes
        if self._port is not None and not self._reading_paused:
            self._loop.add_reader(self._port.fd, self._on_readable, self._port)

    async def _keep_open(self) -> None:
        while True:
            await asyncio.sleep(self._retry_s)
            if self._port is None:
                self._try_open()
            else:
                self._count_line_errors()
                if reason := self._why_gone(self._port):
                    self._lose(self._port, reason)

    def _try_open(self) -> None:
        # Opening needs no thread: pyserial opens with O_NONBLOCK, so nothing waits for a carrier, and it takes well
        # below a millisecond. A thread would also run outside the loop's time.
        try:
            path = self._find_path()
            handle = open_port(path, self._line)
        except LinkUnavailable as error:
            self._why_down = error
            if str(error) != self._logged_fault:
                self._logged_fault = str(error)
                _log.warning("link.unavailable", link=self._name, fault=self._logged_fault)
            return
        fd = handle.fileno()
        self._port = _OpenPort(handle, fd, Path(path), os.fstat(fd).st_rdev, self._read_line_errors(fd))
        self._counters.opened += 1
        self._logged_fault = ""
        self._watch_for_bytes()
        _log.info("link.opened", link=self._name, path=path)

    def _why_gone(self, port: _OpenPort) -> str:
        """What reading the port would not tell, or not now: why it is no longer the link's; empty while it is."""
        if self._reading_paused and is_hung_up(port.fd):
            return _HUNG_UP
        try:
            device_number = port.path.stat().st_rdev
        except OSError:
            # No loss while the port works: udev takes links away and puts them back.
            return ""
        return "" if device_number == port.device_number else "the path now leads to another device"

    def _lose(self, port: _OpenPort, reason: str) -> None:
        """Take note that an open port is gone, for the reader to be told after what had come before."""
        loss = LinkLost(
            f"the link is lost: {reason}", where=str(port.path), remedy="It is taken up again when the port is back"
        )
        self._close(LinkUnavailable(loss.what, where=loss.where, remedy=loss.remedy))
        self._counters.lost += 1
        # Losses without a byte between them are one to the reader: there is nothing more to drop, and a port that comes
        # and goes while nobody reads takes no memory.
        if self._chunks or not self._ended:
            self._ended.append((self._chunks, loss))
            self._chunks = []
        self._arrived.set()
        _log.warning("link.lost", link=self._name, path=str(port.path), reason=reason)

    def _close(self, why: LinkUnavailable) -> None:
        self._why_down = why
        if self._port is None:
            return
        self._count_line_errors()
        self._loop.remove_reader(self._port.fd)
        self._loop.remove_writer(self._port.fd)
        close_port(self._port.handle)
        self._port = None
        self._on_writable()  # so that a writer that waits learns of it

    async def _let_output_out(self) -> None:
        # The driver tells nobody when its output is gone; it must be asked.
        deadline_s = self._loop.time() + _CLOSE_WAIT_S
        with contextlib.suppress(OSError):  # a device that is gone takes no more output
            while self._port and unsent_bytes(self._port.fd):
                if self._loop.time() >= deadline_s:
                    return
                await asyncio.sleep(_CLOSE_CHECK_S)

    def _count_line_errors(self) -> None:
        port = self._port
        if port is None or port.line_errors is None:
            return
        now = self._read_line_errors(port.fd)
        if now is None:
            return
        new = LineErrors(*map(_growth, port.line_errors, now))
        port.line_errors = now
        self._counters.overruns += new.overruns
        self._counters.framing_errors += new.framing
        self._counters.parity_errors += new.parity
        self._counters.breaks += new.breaks


def _lost_while_writing(port: _OpenPort) -> LinkLost:
    return LinkLost(
        "the link went away while it was written to", where=str(port.path), remedy="Write again when it is back"
    )


def _growth(before: int, now: int) -> int:
    # A driver that was reset starts over at zero.
    return now - before if now >= before else now
