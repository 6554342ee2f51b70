"""Finds and opens a serial port as a declaration says, or says why not.

pyserial opens, locks and sets up the port. What it leaves undone on Linux is done here, each with its reason: a lock
that a container's own `/dev` cannot evade, a check that the driver took the settings, and a close that cannot hang.
Foreign errors end here; what leaves is `LinkUnavailable` with what a person can do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import struct
import sys
import termios
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import serial
from serial import rs485

from edge_gateway.config.link import Rs485Settings, SerialLine, UsbMatch
from edge_gateway.errors import LinkUnavailable

PortHandle: TypeAlias = Any
"""A `serial.Serial`; pyserial ships no types. Only `fileno()` and `close()` of it are used."""

PORT_ERRORS = (OSError, termios.error, ValueError)
"""What pyserial raises: OSErrors of its own, `termios.error` as it came, ValueError for a baud rate it cannot set."""

_UNIX98_PTY_MAJORS = range(136, 144)
"""Device majors of pseudo-terminal slaves (Linux, Documentation/admin-guide/devices.txt)."""

_CMSPAR = 0o10000000000
"""Mark and space parity in c_cflag (Linux, asm-generic/termbits.h); Python's termios does not name it."""

_CHARACTER_FLAGS = termios.CSIZE | termios.PARENB | termios.PARODD | _CMSPAR

_SIZE_FLAGS = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}

_PARITY_FLAGS = {
    "none": 0,
    "even": termios.PARENB,
    "odd": termios.PARENB | termios.PARODD,
    "mark": termios.PARENB | termios.PARODD | _CMSPAR,
    "space": termios.PARENB | _CMSPAR,
}

_TIOCGICOUNT = 0x545D
"""Read a UART's counters (Linux, asm-generic/ioctls.h)."""

_ICOUNTER = struct.Struct("20i")
"""`struct serial_icounter_struct` (Linux, linux/serial.h): cts, dsr, rng, dcd, rx, tx, frame, overrun, parity, brk,
buf_overrun, nine reserved."""


class LineErrors(NamedTuple):
    """What a driver counted on a line since it was loaded."""

    overruns: int
    framing: int
    parity: int
    breaks: int


class ListedPort(Protocol):
    """A serial port as `serial.tools.list_ports.comports()` tells it. All but `device` are None unless it is on USB."""

    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None


PortLister: TypeAlias = Callable[[], Iterable[ListedPort]]


def find_usb_port(usb: UsbMatch, list_ports: PortLister) -> str:
    """The device path of the one port that matches.

    Raises:
        LinkUnavailable: none matches, or more than one does, so that choosing would be guessing.
    """
    where = f"usb {usb.vendor_id:04x}:{usb.product_id:04x}"
    if usb.serial_number is not None:
        where += f" serial number {usb.serial_number}"
    try:
        ports = list(list_ports())
    except (OSError, TypeError, ValueError) as error:
        # pyserial reads sysfs file by file, and trips over an adapter that is unplugged meanwhile.
        raise LinkUnavailable(
            "the list of ports could not be read", where=where, remedy="Wait: it is read again soon"
        ) from error
    present = [port for port in ports if port.vid is not None and port.pid is not None]
    matching = [
        port
        for port in present
        if (port.vid, port.pid) == (usb.vendor_id, usb.product_id) and usb.serial_number in (None, port.serial_number)
    ]
    if len(matching) == 1:
        return matching[0].device
    if matching:
        devices = ", ".join(sorted(port.device for port in matching))
        raise LinkUnavailable(
            f"{len(matching)} ports match: {devices}",
            where=where,
            remedy="Set serial_number, or give the port's path under /dev/serial/by-path instead of usb",
        )
    others = ", ".join(sorted(f"{p.vid:04x}:{p.pid:04x} serial number {p.serial_number}" for p in present))
    raise LinkUnavailable(
        "no such USB adapter is plugged in",
        where=where,
        remedy=f"Plug it in, or correct usb; plugged in now: {others or 'none'}",
    )


def open_port(path: str, line: SerialLine) -> PortHandle:
    """Open a port for this process alone, in raw mode and without blocking.

    Reading an open port returns bytes, raises BlockingIOError while there are none, and returns b"" after a hang-up.
    Input from before the opening is discarded.

    Raises:
        LinkUnavailable: with the cause and what to do about it.
    """
    port = serial.Serial()
    try:
        pseudo_terminal = is_pseudo_terminal(path)
        _configure(port, path, line, character_format=not pseudo_terminal)
        port.open()
    except PORT_ERRORS as error:
        raise _refusal(path, line, error) from error
    try:
        _clear_break_signal(port.fileno())
        if not pseudo_terminal:
            _check_character_format(port.fileno(), path, line)
            # flock, which pyserial takes, holds against a program that asks for it through the same device node. A
            # container has nodes of its own, and many programs never ask; this refuses them all. It must not be set
            # on a pseudo-terminal: there the mark outlives a killed process for as long as the other side is open.
            fcntl.ioctl(port.fileno(), termios.TIOCEXCL)
        if line.rs485 is not None:
            _enable_rs485(port, path, line.rs485)
    except PORT_ERRORS as error:
        close_port(port)
        raise _refusal(path, line, error) from error
    except LinkUnavailable:
        close_port(port)
        raise
    return port


def close_port(port: PortHandle) -> None:
    """Give the port back, at once: output the line has not taken yet is discarded.

    The kernel would wait for that output in close(), up to 30 s where flow control holds it (closing_wait, see
    setserial(8)), and the event loop with it.
    """
    with contextlib.suppress(OSError, termios.error):  # a device that is gone has no output to discard
        if unsent_bytes(port.fileno()):
            termios.tcflush(port.fileno(), termios.TCOFLUSH)
    port.close()


def unsent_bytes(fd: int) -> int:
    """Bytes written to the port that have not gone out on the line yet. A pseudo-terminal always says 0.

    Raises:
        OSError: the device is gone.
    """
    count = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def is_hung_up(fd: int) -> bool:
    """Whether the device is gone. What it had sent and nobody had read is gone with it."""
    poll = select.poll()
    poll.register(fd, 0)  # hang-ups are always reported
    return bool(poll.poll(0))


def read_line_errors(fd: int) -> LineErrors | None:
    """What the driver counted; None where it counts nothing (pseudo-terminals, some USB adapters) or is gone."""
    try:
        counters = _ICOUNTER.unpack(fcntl.ioctl(fd, _TIOCGICOUNT, bytes(_ICOUNTER.size)))
    except OSError:
        return None
    frame, overrun, parity, brk, buf_overrun = counters[6:11]
    return LineErrors(overruns=overrun + buf_overrun, framing=frame, parity=parity, breaks=brk)


def is_pseudo_terminal(path: str) -> bool:
    """Whether the port is software on both sides, as on a test bench.

    Raises:
        OSError: there is no such path.
    """
    return os.major(Path(path).stat().st_rdev) in _UNIX98_PTY_MAJORS


def _configure(port: PortHandle, path: str, line: SerialLine, *, character_format: bool) -> None:
    port.port = path
    port.exclusive = True
    port.timeout = 0
    port.write_timeout = 0
    # VMIN 1, VTIME 0. pyserial's own default is VMIN 0, with which a read of an idle port returns b"" and cannot be
    # told from a hang-up.
    port.inter_byte_timeout = 0
    port.baudrate = line.baud
    port.stopbits = line.stop_bits
    port.xonxoff = line.flow_control == "xon-xoff"
    port.rtscts = line.flow_control == "rts-cts"
    # A pseudo-terminal carries bytes, so data bits and parity mean nothing there, and the kernel refuses any but 8N.
    # A bench runs the same configuration as the field.
    if character_format:
        port.bytesize = line.data_bits
        port.parity = line.parity[0].upper()


def _clear_break_signal(fd: int) -> None:
    # pyserial leaves BRKINT as the last program set it. With it, a break on the line discards what was received.
    attributes = termios.tcgetattr(fd)
    attributes[0] &= ~termios.BRKINT
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _check_character_format(fd: int, path: str, line: SerialLine) -> None:
    # tcsetattr succeeds if *any* of the changes could be made (termios(3)); a driver without, say, mark parity drops it
    # in silence. The baud rate is not checked: drivers of virtual ports, as of modems, report one they do not use.
    wanted = _SIZE_FLAGS[line.data_bits] | _PARITY_FLAGS[line.parity]
    if termios.tcgetattr(fd)[2] & _CHARACTER_FLAGS != wanted:
        raise _settings_refused(path, line)


def _enable_rs485(port: PortHandle, path: str, settings: Rs485Settings) -> None:
    try:
        port.rs485_mode = rs485.RS485Settings(
            rts_level_for_tx=settings.rts_on_send,
            rts_level_for_rx=settings.rts_after_send,
            delay_before_tx=settings.delay_before_send_s,
            delay_before_rx=settings.delay_after_send_s,
        )
    except ValueError as error:  # pyserial's way to say that the ioctl failed
        raise LinkUnavailable(
            "the port's driver does not support RS-485 direction control",
            where=path,
            remedy="Remove rs485 if the adapter switches direction by itself, as most USB adapters do",
        ) from error


def _settings_refused(path: str, line: SerialLine) -> LinkUnavailable:
    frame = f"{line.data_bits}{line.parity[0].upper()}{line.stop_bits}"
    return LinkUnavailable(
        f"the port does not support {line.baud} baud {frame}, flow control {line.flow_control}",
        where=path,
        remedy="Set what the device's manual says, or use an adapter that supports it",
    )


def _refusal(path: str, line: SerialLine, error: BaseException) -> LinkUnavailable:
    """Say what stands behind an error of opening."""
    number = _error_number(error)
    match number:
        case errno.ENOENT:
            what = "there is no such port"
            remedy = "Plug the adapter in, or correct the path; `ls -l /dev/serial/by-id` lists what is there"
        case errno.EACCES | errno.EPERM:
            what = "no permission to open the port"
            remedy = (
                "Add the gateway's user to the port's group, usually dialout (`usermod -aG dialout USER`), "
                "and start the gateway again"
            )
        case errno.EBUSY | errno.EAGAIN:
            what = "in use by another program"
            remedy = f"Stop that program (`fuser -v {path}` names it), or give this link another port"
        case errno.ENXIO | errno.ENODEV | errno.EIO:
            what = "there is no device behind this port"
            remedy = "Plug the device in again, or choose another port"
        case errno.ENOTTY | errno.EISDIR:
            what = "this is not a serial port"
            remedy = "Give the path of a port such as /dev/ttyUSB0"
        case errno.EINVAL:
            return _settings_refused(path, line)
        case None:
            what = f"the port cannot be opened: {error}"
            remedy = "Unplug the adapter and plug it in again"
        case _:
            what = f"the port cannot be opened: {os.strerror(number)}"
            remedy = "Unplug the adapter and plug it in again"
    return LinkUnavailable(what, where=path, remedy=remedy)


def _error_number(error: BaseException | None) -> int | None:
    """The errno behind an error of pyserial, which turns some into text and leaves the original as context."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if isinstance(error, termios.error) and isinstance(error.args[0], int):
            return error.args[0]
        error = error.__context__
    return None
