"""The sensor's end of a cable: what it writes, a gateway reads.

`PtyLine` is a real serial port to the gateway, a pseudo-terminal under a path that stays the same over unplugging.
`MemoryLine` hands out a `Transport` and needs no kernel, so that it runs on virtual time.

How a sensor's end knows whether its bytes arrive. The kernel takes bytes for a pseudo-terminal nobody has open, some
20 kB of them, and whoever opens it as a serial port discards them first (`tcflush`). A successful write
says nothing. Two things the master side can be told say it instead (tty_ioctl(4), TIOCPKT; ioctl_tty(2)):

- while no process has the port open, polling the master reports POLLHUP;
- in packet mode, reading the master reports TIOCPKT_FLUSHREAD when a process has discarded the port's input.

A line is open from the discarding, the last thing that can take bytes away from a reader, to the hang-up; while it is
not, nothing is written at all. What remains uncertain are the last bytes before a close: written in time, but perhaps
not read, or read and not kept. Whoever keeps an account has to look at what came out at the other end
(`frame_ledger`); `openings` and `on_closed` tell it between which bytes to look.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import struct
import termios
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from edge_gateway.errors import LinkLost, LinkUnavailable
from edge_gateway.records import Chunk
from edge_gateway.transport import LinkCounters

_LOOK_EVERY_S: Final = 0.02
"""How often a line that is not open is looked at: a master whose slave is closed polls as readable without end, so the
event loop cannot wait for the opening."""

_READ_BYTES: Final = 4096
_PACKET_DATA: Final = termios.TIOCPKT_DATA


class SensorLine(Protocol):
    """One sensor's end of a cable."""

    @property
    def is_open(self) -> bool:
        """Whether a gateway has the other end open, so that what is written now lies before it."""
        ...

    @property
    def is_plugged_in(self) -> bool:
        """Whether the cable is there."""
        ...

    @property
    def openings(self) -> int:
        """How often the line came open. Tells the bytes of one opening from those of another."""
        ...

    def listen(self, on_bytes: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        """Have what comes from the gateway, and the end of each opening, reported."""
        ...

    def write(self, data: bytes) -> bool:
        """Send all of `data`, in order, or nothing of it; never waits.

        Returns:
            False if nothing was sent, because the line is not open or the gateway does not read.
        """
        ...

    def unplug(self) -> None:
        """Pull the cable out; what the gateway has not read is lost."""
        ...

    def plug_in(self) -> None:
        """Put the cable back."""
        ...


class PtyLine:
    """A pseudo-terminal under a stable path. Plugged in while it is a context; needs a running event loop.

    Args:
        path: a symbolic link that leads to the port while the cable is plugged in, as udev makes them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.openings = 0
        self.unsent = 0
        """Writes refused because the kernel would hold no more: a gateway that does not read what it has open."""
        self._fd: int | None = None
        self._open = False
        self._watched = False
        self._rest = b""
        """The end of data whose beginning the kernel took; it goes out before anything else."""
        self._timer: asyncio.TimerHandle | None = None
        self._on_bytes: Callable[[bytes], None] = _ignore_bytes
        self._on_closed: Callable[[], None] = _ignore_closing

    def __enter__(self) -> Self:
        self.plug_in()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()

    @property
    def is_open(self) -> bool:
        """See `SensorLine.is_open`."""
        return self._open

    @property
    def is_plugged_in(self) -> bool:
        """See `SensorLine.is_plugged_in`."""
        return self._fd is not None

    def listen(self, on_bytes: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        """See `SensorLine.listen`."""
        self._on_bytes, self._on_closed = on_bytes, on_closed

    def write(self, data: bytes) -> bool:
        """See `SensorLine.write`."""
        if self._fd is None or not self._open:
            return False
        self._push_rest(self._fd)
        taken = 0 if self._rest else _write_what_fits(self._fd, data)
        if not taken:
            self.unsent += 1
            return False
        self._rest = data[taken:]
        self._look_later()
        return True

    def plug_in(self) -> None:
        """See `SensorLine.plug_in`. The port is a new one under the same path."""
        if self._fd is not None:
            return
        fd, slave = os.openpty()
        # The settings outlive the slave's descriptor. A slave left open here would hide the gateway's coming and going.
        tty.setraw(slave)
        target = os.ttyname(slave)
        os.close(slave)
        os.set_blocking(fd, False)
        fcntl.ioctl(fd, termios.TIOCPKT, struct.pack("i", 1))
        self._fd = fd
        aside = self.path.with_name(f"{self.path.name}.new")
        aside.symlink_to(target)
        aside.replace(self.path)
        self._look()

    def unplug(self) -> None:
        """See `SensorLine.unplug`."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        self.path.unlink(missing_ok=True)
        self._close(fd)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        os.close(fd)

    def _look(self) -> None:
        """Do what no event of the loop would call for."""
        self._timer = None
        if self._fd is None:
            return
        if self._watched:
            self._push_rest(self._fd)
        elif _is_hung_up(self._fd):
            _forget_packet_status(self._fd)
        else:
            self._watched = True
            asyncio.get_running_loop().add_reader(self._fd, self._on_readable, self._fd)
        self._look_later()

    def _look_later(self) -> None:
        """Look again soon, if there is something to look for: an opening, or room for the rest of a write."""
        if self._timer is None and (self._rest or not self._watched):
            self._timer = asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _on_readable(self, fd: int) -> None:
        try:
            packet = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the port open any more
            self._close(fd)
            self._look_later()
            return
        if packet[0] == _PACKET_DATA:
            self._on_bytes(packet[1:])
        elif packet[0] & termios.TIOCPKT_FLUSHREAD:
            self._end_opening()  # one that closed and opened again between two looks
            self._open = True
            self.openings += 1

    def _push_rest(self, fd: int) -> None:
        if self._rest:
            self._rest = self._rest[_write_what_fits(fd, self._rest) :]

    def _close(self, fd: int) -> None:
        if self._watched:
            self._watched = False
            asyncio.get_running_loop().remove_reader(fd)
        self._end_opening()

    def _end_opening(self) -> None:
        self._rest = b""
        if self._open:
            self._open = False
            self._on_closed()


class MemoryLine:
    """A cable without a kernel. Plugged in from the start; open while a gateway has its transport open.

    Nothing written is lost but by `unplug` and by the transport's closing, and by those only what was not read.
    """

    def __init__(self) -> None:
        self.openings = 0
        self._plugged_in = True
        self._transport: MemoryTransport | None = None
        self._on_bytes: Callable[[bytes], None] = _ignore_bytes
        self._on_closed: Callable[[], None] = _ignore_closing

    @property
    def is_open(self) -> bool:
        """See `SensorLine.is_open`."""
        return self._plugged_in and self._transport is not None

    @property
    def is_plugged_in(self) -> bool:
        """See `SensorLine.is_plugged_in`."""
        return self._plugged_in

    def listen(self, on_bytes: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        """See `SensorLine.listen`."""
        self._on_bytes, self._on_closed = on_bytes, on_closed

    def transport(self, name: str) -> MemoryTransport:
        """The gateway's end. One at a time may be open.

        Args:
            name: the link's name in the configuration.
        """
        return MemoryTransport(self, name)

    def write(self, data: bytes) -> bool:
        """See `SensorLine.write`."""
        if self._transport is None or not self._plugged_in:
            return False
        self._transport._arrive(data)
        return True

    def unplug(self) -> None:
        """See `SensorLine.unplug`."""
        if not self._plugged_in:
            return
        was_open = self.is_open
        self._plugged_in = False
        if self._transport is not None:
            self._transport._lose()
        if was_open:
            self._on_closed()

    def plug_in(self) -> None:
        """See `SensorLine.plug_in`."""
        if self._plugged_in:
            return
        self._plugged_in = True
        if self._transport is not None:
            self._came_open(self._transport)

    def _attach(self, transport: MemoryTransport) -> None:
        self._transport = transport
        if self._plugged_in:
            self._came_open(transport)

    def _detach(self) -> None:
        was_open = self.is_open
        self._transport = None
        if was_open:
            self._on_closed()

    def _came_open(self, transport: MemoryTransport) -> None:
        self.openings += 1
        transport._counters.opened += 1

    def _receive(self, data: bytes) -> None:
        self._on_bytes(data)


class MemoryTransport:
    """A `Transport` at the gateway's end of a `MemoryLine`; made by `MemoryLine.transport`."""

    def __init__(self, line: MemoryLine, name: str) -> None:
        self._line = line
        self._name = name
        self._counters = LinkCounters()
        self._entered = False
        self._waiting: deque[Chunk | LinkLost] = deque()
        self._some = asyncio.Event()

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._name

    @property
    def is_up(self) -> bool:
        """See `Transport.is_up`."""
        return self._entered and self._line.is_plugged_in

    @property
    def fault(self) -> str:
        """See `Transport.fault`."""
        return "" if self.is_up else f"{self._name}: the cable is unplugged. Plug it in again"

    @property
    def counters(self) -> LinkCounters:
        """See `Transport.counters`."""
        return self._counters

    async def __aenter__(self) -> Self:
        self._entered = True
        self._line._attach(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered = False
        self._line._detach()

    async def read(self) -> list[Chunk]:
        """See `Transport.read`. Cancelling it loses nothing."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        chunks: list[Chunk] = []
        while self._waiting:
            match self._waiting[0]:
                case LinkLost() as loss:
                    if not chunks:
                        self._waiting.popleft()
                        raise loss
                    break
                case chunk:
                    chunks.append(chunk)
                    self._waiting.popleft()
        self._counters.bytes_read += sum(len(chunk.data) for chunk in chunks)
        return chunks

    async def write(self, data: bytes) -> None:
        """See `Transport.write`. The sensor gets the bytes in the loop's next turn, as over a wire."""
        if not self.is_up:
            raise LinkUnavailable("the cable is unplugged", where=self._name, remedy="Plug it in again")
        self._counters.bytes_written += len(data)
        asyncio.get_running_loop().call_soon(self._line._receive, data)

    def _arrive(self, data: bytes) -> None:
        self._waiting.append(Chunk(asyncio.get_running_loop().time(), data))
        self._some.set()

    def _lose(self) -> None:
        self._counters.lost += 1
        self._waiting.append(LinkLost("the cable was unplugged", where=self._name, remedy="Plug it in again"))
        self._some.set()


def _ignore_bytes(_: bytes) -> None:
    """Nobody listens to the line."""


def _ignore_closing() -> None:
    """Nobody keeps an account of the line."""


def _write_what_fits(fd: int, data: bytes) -> int:
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0


def _is_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)  # hang-ups are always reported
    return bool(poll.poll(0))


def _forget_packet_status(fd: int) -> None:
    """Take away what is left of an opening that was over before it was noticed, lest it be taken for the next one's."""
    try:
        os.read(fd, _READ_BYTES)
    except OSError:
        return  # EIO: nothing was left
