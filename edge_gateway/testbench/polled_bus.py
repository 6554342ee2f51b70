"""Devices without hardware that answer when they are asked, several on one line, with faults that can be switched.

Each speaks a profile by the profile's own codec: a request of the profile that names a device is answered with what its
signal measures, and a command with the answer that says it was carried out. A request for nobody on the line meets
silence. What a device said is counted, so that a test knows what a gateway must have.

```python
meter = VirtualPolledDevice(signal, address=1)
bus = PolledBus(line, compile_profile(load_profile("sdm120")), [meter])
```
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edge_gateway.codec import Codec
from edge_gateway.codec.fields import WholeNumber
from edge_gateway.codec.profile import CommandAnswer
from edge_gateway.errors import BenchError
from edge_gateway.framing import make_framer
from edge_gateway.framing.idle_gap import IdleGapFramer
from edge_gateway.records import Answer, Chunk, Value
from edge_gateway.testbench.sensor_line import SensorLine
from edge_gateway.testbench.sensor_signals import Signal

_TORN_S: Final = 0.1
"""A request whose bytes come further apart than this is none."""


@dataclass(slots=True)
class VirtualPolledDevice:
    """One device on a bus; its faults may be changed at any time."""

    signal: Signal
    """What it measures: all values of the profile's samples."""
    address: int | None = None
    answers_after_s: float = 0.005
    """From the end of the request."""
    is_silent: bool = False
    """Whether it is dead, or its wire broken."""
    broken_answers: int = 0
    """So many answers from now on come with a wrong last byte."""
    answers_as: int | None = None
    """The address it gives instead of its own."""
    refuses_with: str = ""
    """The answer frame it says no with, by its name in the profile; empty: it says yes."""
    refusal: Mapping[str, Value] = field(default_factory=dict)
    """The values of that frame."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests that reached it, by the request frame's name."""
    answered: Counter[str] = field(default_factory=Counter)
    """Good answers, by the answer frame's name."""
    commands: list[tuple[str, Mapping[str, Value]]] = field(default_factory=list)
    """Commands it carried out: the request frame's name and its values."""


class PolledBus:
    """The devices' end of one line.

    Args:
        line: the cable.
        codec: of the profile they speak.
        devices: those on the line.
        has_echo: whether the line gives back what it is sent, like an RS-485 adapter that hears itself.

    Raises:
        BenchError: two devices have the same address, or the profile polls nothing.
    """

    def __init__(
        self, line: SensorLine, codec: Codec, devices: Sequence[VirtualPolledDevice], *, has_echo: bool = False
    ) -> None:
        self.devices = {device.address: device for device in devices}
        if len(self.devices) != len(devices):
            raise BenchError("two devices have the same address", remedy="Give each its own")
        profile = codec.profile
        if not profile.polls:
            raise BenchError("polls nothing", where=profile.name, remedy="Use a VirtualSensor")
        self.line = line
        self._codec = codec
        self._framer = make_framer(profile.line_framing)
        self._has_echo = has_echo
        self._held = b""
        self._held_at_s = 0.0
        self._polled = {poll.frame: poll.answer for poll in profile.polls.values()}
        self._commanded = {command.frame: command.answer for command in profile.commands.values()}
        requests = [name for name in profile.frames if profile.is_request(name)]
        self._requests: list[tuple[str, Callable[[bytes], Answer | None]]] = [
            (name, self._recogniser(name)) for name in requests
        ]
        line.listen(self._on_bytes, self._on_closed)

    def _recogniser(self, request: str) -> Callable[[bytes], Answer | None]:
        decode = self._codec.decoder_of((request,))
        return lambda frame: next(iter(decode([frame]).answers), None)

    def _on_closed(self) -> None:
        self._framer.reset()
        self._held = b""

    def _on_bytes(self, data: bytes) -> None:
        if self._has_echo:
            self.line.write(data)
        for frame in self._frames(data):
            for name, recognise in self._requests:
                request = recognise(frame)
                if request is not None and request.address in self.devices:
                    self._held = b""
                    self._answer(name, request, self.devices[request.address])
                    break

    def _frames(self, data: bytes) -> list[bytes]:
        now_s = asyncio.get_running_loop().time()
        if not isinstance(self._framer, IdleGapFramer):
            return self._framer.feed([Chunk(now_s, data)])
        # Where silence ends frames, a request is known as soon as it is one; a device does not wait either.
        self._held = data if now_s > self._held_at_s + _TORN_S else self._held + data
        self._held_at_s = now_s
        return [self._held]

    def _answer(self, name: str, request: Answer, device: VirtualPolledDevice) -> None:
        device.asked[name] += 1
        if device.is_silent:
            return
        address = device.address if device.answers_as is None else device.answers_as
        if device.refuses_with:
            answer_name, values = device.refuses_with, device.refusal
        elif name in self._polled:
            answer_name = self._polled[name]
            measured = device.signal.values(asyncio.get_running_loop().time())
            values = {value: measured[value] for value in self._codec.profile.values_of(answer_name)}
        else:
            device.commands.append((name, request.fields))
            said = self._commanded.get(name)
            if said is None:
                return
            answer_name, values = said.frame, self._agreement(said, request.fields)
        payload = self._codec.encode(answer_name, address, None, values)
        if device.broken_answers:
            device.broken_answers -= 1
            payload = payload[:-1] + bytes([payload[-1] ^ 0x01])
        elif device.answers_as is None:
            device.answered[answer_name] += 1
        wire = self._framer.encode(payload)
        asyncio.get_running_loop().call_later(device.answers_after_s, self.line.write, wire)

    def _agreement(self, said: CommandAnswer, asked: Mapping[str, Value]) -> Mapping[str, Value]:
        """The values of an answer that agrees: as declared, else as asked, else what is sent by default."""
        values = self._codec.profile.values_of(said.frame)
        agreed: dict[str, Value] = {}
        for name, spec in values.items():
            if isinstance(spec, WholeNumber):
                agreed[name] = spec.value_of(spec.blank_raw)
        given = {**asked, **said.match, **said.success}
        return agreed | {name: value for name, value in given.items() if name in values}
