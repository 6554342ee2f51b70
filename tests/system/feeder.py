"""Reference climate sensors at the far ends of pseudo-terminals, and what each of them knows about what it sent.

A frame carries its number twice: in the 16-bit sequence, and whole in `uptime_ms`, which reaches the hub. Temperature
and humidity follow from it, so that a value that was mixed up on the way is seen. COBS and the frame layouts are
written out here once more on purpose: the gateway's own codec shall not judge itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import struct
import tty
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from fastcrc import crc16

FRAMES_PER_S: Final = 10
"""What one sensor sends."""

_SAMPLE: Final = struct.Struct("<BHHIhHHB")
_COMMAND: Final = struct.Struct("<BHBH")
_ANSWER: Final = struct.Struct("<BHBB")
_CRC: Final = struct.Struct("<H")
_DONE, _BAD_ARGUMENT = 0, 2


class Manners(enum.Enum):
    """What a sensor does with a command."""

    OBEY = "obey"
    REFUSE = "refuse"
    MUTE = "mute"


def seal(body: bytes) -> bytes:
    """A frame's payload: the body and its CRC-16/IBM-3740."""
    return body + _CRC.pack(crc16.ibm_3740(body))


def stuff(payload: bytes) -> bytes:
    """COBS for payloads below 254 bytes, with the delimiter."""
    return b"".join(bytes([len(run) + 1]) + run for run in payload.split(b"\0")) + b"\0"


def unstuff(stuffed: bytes) -> bytes:
    """Undo `stuff`, without the delimiter."""
    payload = bytearray()
    at = 0
    while at < len(stuffed):
        payload += b"\0" * bool(at) + stuffed[at + 1 : at + stuffed[at]]
        at += stuffed[at]
    return bytes(payload)


def sample(address: int, number: int) -> bytes:
    """The payload of a sample, 18 bytes."""
    return seal(
        _SAMPLE.pack(1, address, number & 0xFFFF, number, number % 4000, number % 10_000, 3300, number % 3 << 2)
    )


def sample_values(number: int) -> dict[str, object]:
    """What must arrive at the hub for that sample."""
    return {
        "uptime_ms": number,
        "temperature": number % 4000 / 100,
        "humidity": number % 10_000 / 100,
        "battery": 3.3,
        "door_open": False,
        "low_battery": False,
        "mode": ("idle", "measure", "fault")[number % 3],
    }


class Sensor:
    """One sensor, alone on its line.

    Args:
        name: the device's name in the gateway's configuration.
        address: its address in frames.
        port: where the gateway finds the line while it is plugged in.
    """

    def __init__(self, name: str, address: int, port: Path) -> None:
        self.name = name
        self.address = address
        self.port = port
        self.manners = Manners.OBEY
        self.sent_at_s: list[float] = []
        """Event loop time of each frame's write, by frame number."""
        self.commands: list[tuple[int, int]] = []
        """Code and argument of each command that came."""
        self._received = bytearray()
        self._fd = -1
        self._near_end = -1

    def plug_in(self) -> None:
        """Make the line. The near end stays open here, so that a gateway that leaves does not hang the line up."""
        self._fd, self._near_end = os.openpty()
        tty.setraw(self._near_end)
        os.set_blocking(self._fd, False)
        self.port.symlink_to(os.ttyname(self._near_end))
        asyncio.get_running_loop().add_reader(self._fd, self._listen)

    def unplug(self) -> None:
        """Take the line away."""
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_reader(self._fd)
        self.port.unlink()
        os.close(self._near_end)
        os.close(self._fd)
        self._fd = -1

    def send_sample(self) -> None:
        """Send the next frame. One for which a line that nobody reads has no room is none, and has no number."""
        if self._fd >= 0 and self.write(stuff(sample(self.address, len(self.sent_at_s)))):
            self.sent_at_s.append(asyncio.get_running_loop().time())

    def write(self, data: bytes) -> bool:
        """Put bytes on the line, all or none that matter: what was written of a frame cut short is ended here."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            return False
        if written < len(data):
            # A frame cut short would take the next one along, which the sensor counts as sent.
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd, b"\0")
            return False
        return True

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._received += os.read(self._fd, 4096)
        *frames, rest = self._received.split(b"\0")
        self._received = bytearray(rest)
        for frame in frames:
            self._obey(unstuff(bytes(frame)))

    def _obey(self, payload: bytes) -> None:
        kind, address, code, argument = _COMMAND.unpack(payload[: _COMMAND.size])
        assert payload == seal(payload[: _COMMAND.size]), f"{self.name} heard {payload.hex()}"
        assert (kind, address) == (0x41, self.address), f"{self.name} heard {payload.hex()}"
        self.commands.append((code, argument))
        if self.manners is not Manners.MUTE:
            status = _DONE if self.manners is Manners.OBEY else _BAD_ARGUMENT
            self.write(stuff(seal(_ANSWER.pack(0x81, self.address, code, status))))


class SensorBank:
    """Some sensors that send at a steady pace, one after the other. Use it as an async context manager.

    Args:
        directory: holds the ports.
        count: how many sensors.
        frames_per_s: what each of them sends.
    """

    def __init__(self, directory: Path, count: int, frames_per_s: float = FRAMES_PER_S) -> None:
        self.sensors: Sequence[Sensor] = [
            Sensor(f"sensor-{address:02}", address, directory / f"port-{address:02}") for address in range(1, count + 1)
        ]
        self._period_s = 1 / frames_per_s
        self._sending: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Sensor]:
        return iter(self.sensors)

    def __getitem__(self, index: int) -> Sensor:
        return self.sensors[index]

    async def __aenter__(self) -> Self:
        for sensor in self.sensors:
            sensor.plug_in()
        if self.sensors:
            self._sending = asyncio.create_task(self._send(), name="sensors")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.silence()
        for sensor in self.sensors:
            sensor.unplug()

    def sent(self) -> Counter[str]:
        """Frames sent so far, by device."""
        return Counter({sensor.name: len(sensor.sent_at_s) for sensor in self.sensors})

    async def silence(self) -> None:
        """Send no more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            sending, self._sending = self._sending, None
            if not sending.cancelled():
                sending.result()  # raises what ended it before its time

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            for sensor in self.sensors:
                due_s += self._period_s / len(self.sensors)
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                sensor.send_sample()
