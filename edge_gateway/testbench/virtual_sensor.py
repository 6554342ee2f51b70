"""Sensors without hardware: each speaks its packaged profile on a line, by the profile's own encoder and framer.

A sensor sends a frame every period. Now and then it sends a broken one before it, with a wrong checksum, or noise that
belongs to no frame, as a loose wire does. The account stays exact all the same: noise is chosen so that the profile's
framing passes over it and finds the frame behind it, and a broken frame is always followed by a good one in the same
write, so that it was read if that one was (see `frame_ledger`).

Time is the event loop's and randomness is handed in, so the same seed gives the same sensor, on virtual time too.

```python
sensor = ClimateSensor("climate-1", line, ClimateSignal(rng), address=1, period_s=0.5, rng=rng)
task = asyncio.create_task(sensor.run())
```
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.codec.fields import IntegerField
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.payload_keys import PayloadKeys, no_payload_keys
from edge_gateway.config.link import FramingSettings
from edge_gateway.errors import BenchError
from edge_gateway.framing import make_framer
from edge_gateway.records import Chunk, Value
from edge_gateway.testbench.frame_ledger import FrameLedger
from edge_gateway.testbench.sensor_line import SensorLine
from edge_gateway.testbench.sensor_signals import ClimateSignal, Signal

_DIFFERENT_FRAMES: Final = 64
"""So many frames of a sensor in a row all differ; far more than are cut off together when a port closes."""

_DRAWS: Final = 1_000
_LONGEST_NOISE_BYTES: Final = 12


class VirtualSensor:
    """One sensor of one profile.

    Args:
        name: the device's name at the gateway, for the ledger.
        line: the cable.
        signal: what it measures.
        profile: what it speaks: a packaged profile's name.
        period_s: seconds between two frames.
        rng: when it starts, noise and broken frames.
        address: what the profile's identity field holds; None where frames name nobody.
        frame: which sample frame it sends; the only one if left out.
        framing: how its frames travel; as the profile says if left out, which radio devices and payloads do not.
        keys: of what it encrypts.
        different_frames: so many in a row all differ, so that the account is exact whenever a port closes; fewer for a
            sensor that has few values.
        noise_share: the share of frames with noise before them, 0 to 1.
        broken_share: the share of frames with a broken frame before them, 0 to 1.

    Raises:
        ProfileError: there is no such profile.
        BenchError: the profile has no such sample frame, or several to choose from.
    """

    def __init__(
        self,
        name: str,
        line: SensorLine,
        signal: Signal,
        *,
        profile: str,
        period_s: float,
        rng: random.Random,
        address: int | str | None = None,
        frame: str | None = None,
        framing: FramingSettings | None = None,
        keys: PayloadKeys = no_payload_keys,
        different_frames: int = _DIFFERENT_FRAMES,
        noise_share: float = 0.0,
        broken_share: float = 0.0,
    ) -> None:
        self.name = name
        self.line = line
        self.address = address
        self.ledger = FrameLedger(name)
        self.period_s = period_s
        self.noise_bytes = 0
        """Bytes of noise sent."""
        self.latest: Mapping[str, Value] = {}
        """The values of the newest frame."""
        self._codec = _codec_of(profile) if keys is no_payload_keys else compile_profile(load_profile(profile), keys)
        self._framing = framing or self._codec.profile.line_framing
        self._framer = make_framer(self._framing)
        self._frame_name = _sample_frame(self._codec, frame)
        self._signal = signal
        self._rng = rng
        self._noise_share = noise_share
        self._broken_share = broken_share
        self._sequence = 0
        self._recent: deque[Mapping[str, Value]] = deque(maxlen=different_frames)
        self._started_s: float | None = None
        self._period_changed = asyncio.Event()
        line.listen(self._on_bytes, self._on_closed)

    @property
    def profile(self) -> str:
        """The name of the profile it speaks."""
        return self._codec.profile.name

    async def run(self) -> None:
        """Send until cancelled, from a random moment within the first period on."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._rng.random() * self.period_s
        while True:
            self._period_changed.clear()
            try:
                async with asyncio.timeout_at(due_s):
                    await self._period_changed.wait()
            except TimeoutError:
                self.send()
                # One that was held up does not make up for what it missed; a real one measures when it measures.
                due_s = max(due_s + self.period_s, loop.time())
            else:
                due_s = loop.time() + self.period_s

    def send(self) -> None:
        """Measure and send one frame now, with what comes before it."""
        now_s = asyncio.get_running_loop().time()
        if self._started_s is None:
            self._started_s = now_s
        payload, values = self._measure(now_s - self._started_s)
        self.latest = values
        if not self.line.is_open:
            self.ledger.sent_into_void()
            return
        wire = self._framer.encode(payload)
        broken = self._rng.random() < self._broken_share
        if broken:
            wire = self._framer.encode(_break(payload)) + wire
        noise = self._noise(payload) if self._rng.random() < self._noise_share else b""
        if not self.line.write(noise + wire):
            self.ledger.found_no_room()
            return
        self.noise_bytes += len(noise)
        self.ledger.wrote(self.line.openings, now_s, values, int(broken))

    def _measure(self, at_s: float) -> tuple[bytes, Mapping[str, Value]]:
        """The next frame, and the values a gateway will find in it."""
        codec = self._codec
        sequence = self._sequence
        if codec.sequence_span:
            self._sequence = (sequence + 1) % codec.sequence_span
        for _ in range(_DRAWS):
            measured = self._signal.values(at_s)
            payload = codec.encode(self._frame_name, self.address, sequence, measured)
            # Frames of one profile may look the same where a gateway knows what it asked for.
            (sample,) = codec.decoder_of((self._frame_name,))([payload]).samples
            if sample.values not in self._recent:
                self._recent.append(sample.values)
                return payload, sample.values
        raise BenchError(
            "the signal gives the same values again and again", where=self.name, remedy="Add noise to the signal"
        )

    def _noise(self, payload: bytes) -> bytes:
        """Random bytes that this framing passes over without harm to the frame that follows.

        A delimiter ends them, for a framing that has one. They are tried on a framer of their own.
        """
        wire = self._framer.encode(payload)
        for _ in range(_DRAWS):
            noise = self._rng.randbytes(self._rng.randint(1, _LONGEST_NOISE_BYTES)) + b"\0"
            framer = make_framer(self._framing)
            if framer.feed([Chunk(0.0, noise)]) == [] and framer.feed([Chunk(0.0, wire)]) == [payload]:
                return noise
        raise BenchError("no noise is harmless to this framing", where=self.name, remedy="Set noise_share to 0")

    def _on_bytes(self, data: bytes) -> None:
        """Bytes from the gateway; a sensor without commands does not listen."""

    def _on_closed(self) -> None:
        self.ledger.closed(self.line.openings, asyncio.get_running_loop().time())


class ClimateSensor(VirtualSensor):
    """A `reference-climate` sensor, which obeys: `set-period`, `set-relay` and `ping`, each with an answer.

    A command for another address, or with a wrong checksum, is met with silence, as on a shared line.

    Args:
        name: as in `VirtualSensor`.
        line: as in `VirtualSensor`.
        signal: the room, with the fan on the relay.
        address: its own.
        period_s: as in `VirtualSensor`.
        rng: as in `VirtualSensor`.
        noise_share: as in `VirtualSensor`.
        broken_share: as in `VirtualSensor`.
    """

    PROFILE: Final = "reference-climate"

    def __init__(
        self,
        name: str,
        line: SensorLine,
        signal: ClimateSignal,
        *,
        address: int,
        period_s: float,
        rng: random.Random,
        noise_share: float = 0.0,
        broken_share: float = 0.0,
    ) -> None:
        super().__init__(
            name,
            line,
            signal,
            profile=self.PROFILE,
            period_s=period_s,
            rng=rng,
            address=address,
            noise_share=noise_share,
            broken_share=broken_share,
        )
        self.commands: Counter[str] = Counter()
        """Commands carried out, by name."""
        self._room = signal
        self._commands_in = make_framer(self._codec.profile.line_framing)
        request = self._codec.profile.layouts["command"]
        if not isinstance(request, Layout):
            raise TypeError("a command of the reference sensor has one length")
        self._request = request

    @property
    def relay_closed(self) -> bool:
        """Whether the relay is closed, and the fan runs."""
        return self._room.relay_closed

    def _on_closed(self) -> None:
        super()._on_closed()
        self._commands_in.reset()

    def _on_bytes(self, data: bytes) -> None:
        for frame in self._commands_in.feed([Chunk(asyncio.get_running_loop().time(), data)]):
            if not self._request.fits(frame) or not self._request.check_holds(frame):
                continue
            fields = {
                slot.field.name: slot.field.value_of(
                    slot.field.unpack(frame[slot.start : slot.end], self._request.endian)
                )
                for slot in self._request.slots
                if isinstance(slot.field, IntegerField)
            }
            if fields["address"] != self.address:
                continue
            code = str(fields["code"])
            answer = {"code": code, "status": self._obey(code, fields["argument"])}
            # An answer that does not fit is lost; the gateway reports that none came.
            self.line.write(self._framer.encode(self._codec.encode("answer", self.address, None, answer)))

    def _obey(self, code: str, argument: Value) -> str:
        """Carry a command out and return the answer's status."""
        match code, argument:
            case "set-period", int(period_ms) if 50 <= period_ms <= 60_000:
                self.period_s = period_ms / 1000
                self._period_changed.set()
            case "set-relay", (0 | 1) as state:
                self._room.relay_closed = state == 1
            case "ping", 0:
                pass
            case (("set-period" | "set-relay" | "ping"), _):
                return "bad-argument"
            case _:
                return "unknown-command"
        self.commands[code] += 1
        return "done"


_codecs: dict[str, Codec] = {}


def _codec_of(profile: str) -> Codec:
    """One compiled codec for all sensors of a profile: compiling takes longer than a thousand frames."""
    if profile not in _codecs:
        _codecs[profile] = compile_profile(load_profile(profile))
    return _codecs[profile]


def _sample_frame(codec: Codec, name: str | None) -> str:
    names = [each for each, frame in codec.profile.frames.items() if frame.role == "sample"]
    if name in names:
        return name
    if name is not None or len(names) != 1:
        raise BenchError(
            f"has {len(names)} sample frames" if name is None else f"has no sample frame {name!r}",
            where=codec.profile.name,
            remedy=f"A virtual sensor speaks one of them: {', '.join(names) or 'none'}",
        )
    return names[0]


def _break(payload: bytes) -> bytes:
    """The payload with its last byte, which belongs to the checksum, damaged."""
    return payload[:-1] + bytes([payload[-1] ^ 0x01])
