"""Opening a port: the settings on the line, the locks, and what each refusal says."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from edge_gateway.config.link import Rs485Settings, SerialLine, UsbMatch
from edge_gateway.errors import LinkUnavailable
from edge_gateway.transport import serial_line
from edge_gateway.transport.serial_line import (
    close_port,
    find_usb_port,
    is_hung_up,
    open_port,
    read_line_errors,
    unsent_bytes,
)

from .pty_device import PtyDevice

TCGETS2 = 0x802C542A
TIOCGEXCL = 0x80045440


@pytest.fixture
def device() -> Iterator[PtyDevice]:
    with PtyDevice() as device:
        yield device


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pseudo-terminals treated as a UART whose driver knows no data bits but 8 and no parity but none."""
    monkeypatch.setattr(serial_line, "is_pseudo_terminal", lambda _path: False)


class FakePort:
    def __init__(self, device: str, vid: int | None = None, pid: int | None = None, serial: str | None = None) -> None:
        self.device = device
        self.vid = vid
        self.pid = pid
        self.serial_number = serial


def refusal(path: str, line: SerialLine | None = None) -> LinkUnavailable:
    with pytest.raises(LinkUnavailable) as caught:
        open_port(path, line or SerialLine())
    return caught.value


@pytest.mark.parametrize("baud", [1200, 9600, 115_200, 250_000, 12_345])
def test_the_baud_rate_is_set(device: PtyDevice, baud: int) -> None:
    """Usual and unusual baud rates reach the driver as they are."""
    port = open_port(device.path, SerialLine(baud=baud))
    termios2 = fcntl.ioctl(port.fileno(), TCGETS2, bytes(44))
    close_port(port)
    assert struct.unpack_from("II", termios2, 36) == (baud, baud)


@pytest.mark.parametrize(
    ("line", "iflag", "cflag"),
    [
        (SerialLine(), 0, 0),
        (SerialLine(stop_bits=2), 0, termios.CSTOPB),
        (SerialLine(flow_control="rts-cts"), 0, termios.CRTSCTS),
        (SerialLine(flow_control="xon-xoff"), termios.IXON | termios.IXOFF, 0),
    ],
)
def test_stop_bits_and_flow_control_are_set(device: PtyDevice, line: SerialLine, iflag: int, cflag: int) -> None:
    """Each setting switches its own flag and no other."""
    port = open_port(device.path, line)
    attributes = termios.tcgetattr(port.fileno())
    close_port(port)
    assert attributes[0] & (termios.IXON | termios.IXOFF) == iflag
    assert attributes[2] & (termios.CSTOPB | termios.CRTSCTS) == cflag


def test_an_idle_port_and_a_hang_up_can_be_told_apart(device: PtyDevice) -> None:
    """Reading an idle port raises BlockingIOError; only a hang-up returns nothing."""
    port = open_port(device.path, SerialLine())
    with pytest.raises(BlockingIOError):
        os.read(port.fileno(), 100)
    assert not is_hung_up(port.fileno())
    device.unplug()
    assert os.read(port.fileno(), 100) == b""
    assert is_hung_up(port.fileno())
    close_port(port)


def test_a_break_does_not_discard_what_was_received(device: PtyDevice) -> None:
    """The flag that has a break flush the input is off, even if the last program left it on."""
    attributes = termios.tcgetattr(device.fileno())
    attributes[0] |= termios.BRKINT
    termios.tcsetattr(device.fileno(), termios.TCSANOW, attributes)
    port = open_port(device.path, SerialLine())
    assert not termios.tcgetattr(port.fileno())[0] & termios.BRKINT
    close_port(port)


@pytest.mark.parametrize("line", [SerialLine(data_bits=7, parity="even"), SerialLine(parity="mark")])
def test_a_pseudo_terminal_takes_any_character_format(device: PtyDevice, line: SerialLine) -> None:
    """A bench runs the field's configuration, though a pseudo-terminal has neither data bits nor parity."""
    close_port(open_port(device.path, line))


@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (SerialLine(baud=9600, data_bits=7, parity="even"), "9600 baud 7E1"),
        (SerialLine(data_bits=5), "115200 baud 5N1"),
        (SerialLine(parity="odd", stop_bits=2), "115200 baud 8O2"),
        (SerialLine(parity="mark"), "115200 baud 8M1"),
        (SerialLine(parity="space"), "115200 baud 8S1"),
    ],
)
def test_settings_the_driver_does_not_take_are_a_fault(device: PtyDevice, line: SerialLine, words: str) -> None:
    """A driver that refuses the character format, or drops it in silence, is found out; the fault repeats it."""
    assert refusal(device.path, line).what == f"the port does not support {words}, flow control none"
    close_port(open_port(device.path, SerialLine()))  # nothing is left open or locked


def test_rs485_without_a_driver_for_it_is_a_fault(device: PtyDevice) -> None:
    """A port without direction control says so, and what would do instead."""
    error = refusal(device.path, SerialLine(rs485=Rs485Settings()))
    assert "does not support RS-485 direction control" in error.what
    assert "Remove rs485" in error.remedy
    close_port(open_port(device.path, SerialLine()))  # nothing is left open or locked


def test_a_missing_port_is_told(tmp_path: Path) -> None:
    """No such path, also behind a dangling link, is the first thing an installer meets."""
    dangling = tmp_path / "dangling"
    dangling.symlink_to("/dev/no-such-port")
    for path in ("/dev/no-such-port", str(dangling)):
        error = refusal(path)
        assert (error.where, error.what) == (path, "there is no such port")


def test_a_port_without_permission_is_told(device: PtyDevice) -> None:
    """No permission names the group that would help."""
    Path(device.path).chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        error = refusal(device.path)
    finally:
        os.seteuid(user)
    assert error.what == "no permission to open the port"
    assert "usermod -aG dialout" in error.remedy


def test_a_file_is_not_a_port(tmp_path: Path) -> None:
    """A file and a directory are refused as what they are."""
    file = tmp_path / "file"
    file.touch()
    assert refusal(str(file)).what == "this is not a serial port"
    assert refusal(str(tmp_path)).what == "this is not a serial port"


def test_a_locked_port_is_told(device: PtyDevice) -> None:
    """A port another program holds by pyserial's lock is in use, with the way to find that program."""
    with serial.Serial(device.path, exclusive=True):
        error = refusal(device.path)
    assert error.what == "in use by another program"
    assert f"fuser -v {device.path}" in error.remedy


@pytest.mark.usefixtures("hardware")
def test_a_port_is_closed_to_programs_that_ask_for_no_lock(device: PtyDevice) -> None:
    """While the gateway has a UART the kernel refuses every other opening of it."""
    port = open_port(device.path, SerialLine())
    assert fcntl.ioctl(port.fileno(), TIOCGEXCL, bytes(4)) == struct.pack("i", 1)
    close_port(port)


def test_a_pseudo_terminal_stays_open_to_a_successor(device: PtyDevice) -> None:
    """A killed gateway leaves no mark on a pseudo-terminal that would keep the next one out."""
    port = open_port(device.path, SerialLine())
    assert fcntl.ioctl(port.fileno(), TIOCGEXCL, bytes(4)) == bytes(4)
    close_port(port)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EBUSY, "busy"), "in use by another program"),
        (OSError(errno.ENXIO, "no device"), "there is no device behind this port"),
        (OSError(errno.ENODEV, "no device"), "there is no device behind this port"),
        (termios.error(errno.EIO, "error"), "there is no device behind this port"),
        (termios.error(errno.EINVAL, "invalid"), "the port does not support 115200 baud 8N1, flow control none"),
        (OSError(errno.ENOMEM, "no memory"), "the port cannot be opened: Cannot allocate memory"),
        (serial.SerialException("out of sorts"), "the port cannot be opened: out of sorts"),
        (ValueError("no such rate"), "the port cannot be opened: no such rate"),
    ],
)
def test_errors_no_pseudo_terminal_has_are_told_too(
    device: PtyDevice, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """Whatever pyserial raises leaves as LinkUnavailable with a cause and a remedy."""

    def fail(_port: serial.Serial) -> None:
        raise error

    monkeypatch.setattr(serial.Serial, "open", fail)
    told = refusal(device.path)
    assert told.what == words
    assert told.remedy


def test_a_device_unplugged_while_it_is_opened_is_told(device: PtyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that goes away between opening and setting up is a fault like any other."""
    opened = serial.Serial.open

    def open_and_unplug(port: serial.Serial) -> None:
        opened(port)
        device.unplug()

    monkeypatch.setattr(serial.Serial, "open", open_and_unplug)
    assert refusal(device.path).what == "there is no device behind this port"


def test_a_driver_that_counts_nothing_has_no_counts(device: PtyDevice) -> None:
    """A pseudo-terminal has no counters, and a device that is gone has none any more."""
    port = open_port(device.path, SerialLine())
    assert read_line_errors(port.fileno()) is None
    device.unplug()
    assert read_line_errors(port.fileno()) is None
    close_port(port)


def test_the_drivers_counters_are_read_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of overrun count as one; the rest is taken from its place in the kernel's structure."""
    counters = struct.pack("20i", 1, 2, 3, 4, 5, 6, 70, 80, 90, 100, 11, *range(9))
    monkeypatch.setattr(fcntl, "ioctl", lambda _fd, _request, _buffer: counters)
    assert read_line_errors(0) == (91, 70, 90, 100)


def test_output_that_cannot_go_out_is_discarded_on_closing(device: PtyDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing flushes a stuck line, for the kernel would wait for it."""
    flushed: list[int] = []
    port = open_port(device.path, SerialLine())
    assert unsent_bytes(port.fileno()) == 0
    monkeypatch.setattr(serial_line, "unsent_bytes", lambda _fd: 10)
    monkeypatch.setattr(termios, "tcflush", lambda _fd, queue: flushed.append(queue))
    close_port(port)
    assert flushed == [termios.TCOFLUSH]


def test_one_adapter_is_found_by_what_it_is() -> None:
    """Vendor and product suffice for the only one; the serial number tells twins apart."""
    ports = [FakePort("/dev/ttyS0"), FakePort("/dev/ttyUSB3", 1, 2, "A"), FakePort("/dev/ttyUSB4", 1, 3, "B")]
    assert find_usb_port(UsbMatch(vendor_id=1, product_id=3), lambda: ports) == "/dev/ttyUSB4"
    ports.append(FakePort("/dev/ttyUSB5", 1, 3, "C"))
    assert find_usb_port(UsbMatch(vendor_id=1, product_id=3, serial_number="C"), lambda: ports) == "/dev/ttyUSB5"


def test_a_missing_adapter_is_told_with_those_that_are_there() -> None:
    """The installer sees at once whether another number is what was meant."""
    ports = [FakePort("/dev/ttyS0"), FakePort("/dev/ttyUSB3", 0x1A86, 0x7523)]
    with pytest.raises(LinkUnavailable) as caught:
        find_usb_port(UsbMatch(vendor_id=0x0403, product_id=0x6001), lambda: ports)
    assert caught.value.where == "usb 0403:6001"
    assert "plugged in now: 1a86:7523" in caught.value.remedy
    with pytest.raises(LinkUnavailable, match="plugged in now: none"):
        find_usb_port(UsbMatch(vendor_id=0x0403, product_id=0x6001), list)


def test_two_adapters_that_match_are_not_guessed_between() -> None:
    """Where two fit, the fault names both and asks for the serial number."""
    ports = [FakePort("/dev/ttyUSB1", 1, 2), FakePort("/dev/ttyUSB0", 1, 2)]
    with pytest.raises(LinkUnavailable, match="2 ports match: /dev/ttyUSB0, /dev/ttyUSB1") as caught:
        find_usb_port(UsbMatch(vendor_id=1, product_id=2), lambda: ports)
    assert "Set serial_number" in caught.value.remedy


def test_a_list_that_changes_while_it_is_read_is_a_fault_and_no_crash() -> None:
    """An adapter unplugged while it is listed makes the list fail; the link tries again later."""

    def torn() -> list[FakePort]:
        raise TypeError("int() argument must be a string")

    with pytest.raises(LinkUnavailable, match="could not be read"):
        find_usb_port(UsbMatch(vendor_id=1, product_id=2), torn)
