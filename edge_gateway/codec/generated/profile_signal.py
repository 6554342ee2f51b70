"""What a simulated sensor of any profile measures: plausible by unit and range, so a chart of it looks like a plant.

A number swings around what its unit usually shows, with noise, and stays within what its field can carry; a duration
in a wide integer is taken for an uptime; flags and states change now and then; a field with a sentinel is rarely
without a value. What a frame is made of stays: a sensor sends the same items each time, and its lists have one length.
Finer signals, which know that a fan cools a room, are written by hand in the test bench; this one is a
`testbench.sensor_signals.Signal` like them, without importing it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from edge_gateway.codec.codec import Codec, compile_profile
from edge_gateway.codec.fields import (
    BytesField,
    IntegerField,
    MacField,
    NamedField,
    TextField,
    UuidField,
)
from edge_gateway.codec.fields.timestamps import rfc3339_ms, rfc3339_s
from edge_gateway.codec.generated.drawing import Drawn, Draws, FrameDrawing, can_carry
from edge_gateway.codec.generated.outline import plan_of
from edge_gateway.codec.generated.shapes import (
    LabelShape,
    NumberShape,
    OneValue,
    Shape,
    TimeShape,
    TruthShape,
    can_be_null,
    shape_of,
    unit_of,
)
from edge_gateway.codec.generated.text_drawing import draw_values
from edge_gateway.codec.payload_keys import PayloadKeys, no_payload_keys
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.structure.plan import Body
from edge_gateway.codec.structure.writer import names_of
from edge_gateway.codec.text import TextFrame
from edge_gateway.codec.text.numbers import DecimalColumn
from edge_gateway.codec.text.times import ClockColumn, DateColumn
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar, Value


class _Usual(NamedTuple):
    """What a unit usually shows, in that unit."""

    mean: float
    swing: float
    noise: float


_USUAL: Final = {
    "Cel": _Usual(22, 4, 0.05),
    "K": _Usual(295, 4, 0.05),
    "%RH": _Usual(50, 10, 0.3),
    "/100": _Usual(60, 20, 0.5),
    "%EL": _Usual(80, 5, 0.2),
    "V": _Usual(3.1, 0.2, 0.002),
    "mV": _Usual(3100, 200, 2),
    "A": _Usual(4, 2, 0.05),
    "mA": _Usual(12, 4, 0.05),
    "W": _Usual(900, 500, 10),
    "kW": _Usual(0.9, 0.5, 0.01),
    "Hz": _Usual(50, 0.05, 0.01),
    "Pa": _Usual(101_325, 800, 10),
    "hPa": _Usual(1013.25, 8, 0.1),
    "lx": _Usual(400, 350, 5),
    "ppm": _Usual(650, 200, 5),
    "ug/m3": _Usual(12, 6, 0.6),
    "m": _Usual(2, 1, 0.01),
    "cm": _Usual(200, 100, 1),
    "mm": _Usual(2000, 1000, 10),
    "m/s": _Usual(3, 2, 0.3),
    "m/s2": _Usual(0, 1, 0.1),
    "dB": _Usual(45, 10, 1),
    "dBm": _Usual(-70, 8, 2),
    "pH": _Usual(7, 0.5, 0.02),
    "lat": _Usual(48.2, 0.001, 0.0001),
    "lon": _Usual(11.6, 0.001, 0.0001),
}

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}

_WIDEST: Final = 1000.0
"""A number without a unit stays below this, even if its field could carry billions."""

_DECIMAL_PLACES: Final = 3
"""What a device writes behind the point of a number in text."""

_STARTED_MS: Final = 1_767_225_600_000
"""When every sensor with a clock starts: 2026-01-01T00:00:00Z."""

_NULL_SHARE: Final = 0.002
_CHANGE_SHARE: Final = 0.01
"""The share of measurements at which a flag or a state changes."""

_TRIES: Final = 200
"""Frames that are made up until one can be sent: where a device encrypts or not, about half need a key."""

_CANDIDATES: Final = 8
"""Of so many sensors that could be, the one with most values is taken."""

_MOST_ITEMS: Final = 4
_MOST_ELEMENTS: Final = 4

_T = TypeVar("_T")


class ProfileSignal:
    """A signal for one sample frame of a profile.

    Args:
        profile: what the sensor speaks.
        rng: noise, and where in its day the sensor is.
        frame: which sample frame; the first if left out.
        day_s: how long a swing takes; a demonstration wants a short one.
        keys: of what the sensor encrypts. Without them it is one that does not.

    Raises:
        CodecError: the profile has no such sample frame, or none of it can be sent without a key.
    """

    def __init__(
        self,
        profile: Profile,
        rng: random.Random,
        *,
        frame: str | None = None,
        day_s: float = 86_400.0,
        keys: PayloadKeys = no_payload_keys,
    ) -> None:
        samples = [name for name, each in profile.frames.items() if each.role == "sample"]
        if not samples or (frame is not None and frame not in samples):
            raise CodecError(
                f"there is no sample frame {frame!r}" if samples else "there is no sample frame",
                where=profile.name,
                remedy=f"Sample frames: {', '.join(samples) or 'none'}",
            )
        self._rng = rng
        self._day_s = day_s
        self._measure = _measurer(profile, frame or samples[0], keys)
        self._sensor, self._last = self._a_sensor(compile_profile(profile, keys), frame or samples[0])

    def values(self, at_s: float) -> Mapping[str, Value]:
        """Measure at `at_s` seconds after the start; the keys are the frame's values, and what they depend on."""
        self._sensor.at_s = at_s
        drawn = self._measure(self._sensor)
        # Values that the device would not send together are not measured again: it repeats what it had.
        self._last = self._last if drawn is None else drawn.values
        return self._last

    def _a_sensor(self, codec: Codec, frame: str) -> tuple[_Plausible, Mapping[str, Value]]:
        """Of some sensors whose frames can be made of their values alone, the one that has most to say."""
        found: list[tuple[int, _Plausible, Mapping[str, Value]]] = []
        for _ in range(_TRIES):
            sensor = _Plausible(self._rng, self._day_s)
            drawn = self._measure(sensor)
            said = None if drawn is None else _said_again(codec, frame, drawn)
            if drawn is not None and said is not None:
                found.append((len(said), sensor, drawn.values))
            if len(found) == _CANDIDATES:
                break
        if not found:
            raise CodecError(
                "no values were found that can be sent",
                where=f"{codec.profile.name} {frame}",
                remedy="If all of it is encrypted, give the keys",
            )
        _, sensor, values = max(found, key=lambda each: each[0])
        return sensor, values


def _measurer(profile: Profile, name: str, keys: PayloadKeys) -> Callable[[Draws], Drawn | None]:
    frame, plan = profile.frames[name], plan_of(profile, name)
    if plan is not None:
        drawing = FrameDrawing(plan, profile.identity, profile.sequence)
        return lambda draws: drawing.draw(draws, keys)

    def measure(draws: Draws) -> Drawn | None:
        values = draw_values(frame, draws) if isinstance(frame, TextFrame) else {}
        address, sequence = (values.pop(role or "", None) for role in (profile.identity, profile.sequence))
        return Drawn(
            b"",
            address if isinstance(address, int | str) else None,
            sequence if isinstance(sequence, int) else None,
            values,
        )

    return measure


def _said_again(codec: Codec, name: str, drawn: Drawn) -> Mapping[str, Value] | None:
    """What a frame made of values is decoded to; None if that is something else."""
    try:
        frame = codec.encode(name, drawn.address, drawn.sequence, drawn.values)
    except CodecError:
        return None
    for sample in codec.decoder_of((name,))([frame]).samples:
        if all(drawn.values[key] == value for key, value in sample.values.items() if key in drawn.values):
            return sample.values
    return None


class _Plausible(Draws):
    """What one sensor measures, and what its frames are made of."""

    def __init__(self, rng: random.Random, day_s: float) -> None:
        self.at_s = 0.0
        self._rng = rng
        self._day_s = day_s
        self._kept: dict[str, object] = {}

    def _keep(self, path: str, made: Callable[[], _T]) -> _T:
        """What was decided for a path once and for all."""
        if path not in self._kept:
            self._kept[path] = made()
        return self._kept[path]  # type: ignore[return-value]  # each path has one kind of decision

    def value(self, spec: OneValue, path: str, *, decides: bool) -> Value:
        """What the sensor measures now, or one value for ever where the rest of the frame depends on it."""
        if decides:
            return self._keep(f"decides {path}", lambda: self._decided(spec, path))
        return self._measured(spec, path)

    def _decided(self, spec: OneValue, path: str) -> Value:
        shape = shape_of(spec)
        is_state = isinstance(shape, TruthShape | LabelShape)
        return self._rng.choice(_states(spec, shape)) if is_state else self._measured(spec, path)

    def one_of(self, spec: NamedField, path: str, options: Sequence[Scalar]) -> Value:  # noqa: ARG002 -- any will do
        """Always the same one."""
        return self._keep(f"option {path}", lambda: self._rng.choice(options))

    def size(self, path: str, least: int, most: int) -> int:
        """Always the same few."""
        return self._keep(f"size {path}", lambda: self._rng.randint(least, min(most, least + _MOST_ELEMENTS)))

    def stated(self, path: str, size: int) -> int:  # noqa: ARG002 -- a sensor does not lie
        """The truth."""
        return size

    def content(self, spec: TextField | BytesField, path: str, size_bytes: int) -> bytes:
        """Always the same letters or bytes."""
        if isinstance(spec, BytesField):
            return self._keep(f"content {path}", lambda: self._rng.randbytes(size_bytes))
        letters = [code for code in range(ord("a"), ord("z") + 1) if code != spec.padding]
        return self._keep(f"content {path}", lambda: bytes(self._rng.choices(letters, k=size_bytes)))

    def items(self, path: str, bodies: Mapping[int, Body]) -> Sequence[int]:
        """Always the same few, none of which has a name that another has."""

        def choose() -> list[int]:
            chosen: list[int] = []
            taken: set[str] = set()
            known: set[str] = set()
            tags = []
            for tag, body in bodies.items():
                names = set(names_of(body))
                # Of several items with one name the first is sent, as nothing else says which.
                if not names & known:
                    tags.append(tag)
                known |= names
            for tag in self._rng.sample(tags, min(len(tags), _MOST_ITEMS)):
                names = set(names_of(bodies[tag]))
                if not names & taken:
                    chosen.append(tag)
                    taken |= names
            return chosen

        return self._keep(f"items {path}", choose)

    # --- measuring ---------------------------------------------------------------------------------------------------

    def _measured(self, spec: OneValue, path: str) -> Value:
        shape = shape_of(spec)
        if can_be_null(spec) and self._rng.random() < _NULL_SHARE and can_carry(spec, None):
            return None
        match shape:
            case NumberShape():
                return self._number(spec, path, shape)
            case TruthShape() | LabelShape():
                return self._state(spec, path, shape)
            case TimeShape():
                return self._time(spec)
            case _:
                return self._keep(f"text {path}", lambda: _some_text(spec, self._rng))

    def _state(self, spec: OneValue, path: str, shape: Shape) -> Value:
        key, states = f"state {path}", _states(spec, shape)
        state = self._keep(key, lambda: self._rng.choice(states) if isinstance(shape, LabelShape) else states[0])
        if self._rng.random() < _CHANGE_SHARE:
            others = [other for other in states if other != state]
            self._kept[key] = state = self._rng.choice(others) if others else state
        return state

    def _time(self, spec: OneValue) -> Value:
        """The sensor's own clock, if its field can hold the time."""
        at_ms = _STARTED_MS + round(self.at_s * 1000)
        texts = (rfc3339_ms(at_ms), rfc3339_s(at_ms // 1000))
        if isinstance(spec, ClockColumn):
            return texts[1]  # its column says which day, and another column says the day
        return next((text for text in texts if text and can_carry(spec, text)), None)

    def _number(self, spec: OneValue, path: str, shape: NumberShape) -> int | float | None:
        least = -math.inf if shape.least is None else shape.least
        most = math.inf if shape.most is None else shape.most
        step_s = _SECONDS.get(unit_of(spec) or "")
        if step_s is not None and shape.is_whole and most >= 0xFFFF and isinstance(spec, IntegerField):
            uptime = int(self.at_s / step_s) % (int(most) + 1)
            return uptime if can_carry(spec, uptime) else None
        usual = _usual(spec, least, most)
        phase = self._keep(f"phase {path}", self._rng.random)
        swing = usual.swing * math.sin(2 * math.pi * (self.at_s / self._day_s + phase))
        number = min(most, max(least, usual.mean + swing + self._rng.gauss(0, usual.noise)))
        if isinstance(spec, DecimalColumn):
            number = round(number, _DECIMAL_PLACES)
        # A number may be the code for "no value".
        candidates = (round(number) if shape.is_whole else number, round(usual.mean))
        return next((each for each in candidates if can_carry(spec, each)), None)


def _usual(spec: OneValue, least: float, most: float) -> _Usual:
    usual = _USUAL.get(unit_of(spec) or "")
    if usual is not None and least <= usual.mean <= most:
        return usual
    low, high = max(least, 0.0), min(most, _WIDEST)
    low = low if low < high else max(least, most - _WIDEST)
    high = high if low < high else most
    return _Usual(low + (high - low) / 4, (high - low) / 8, (high - low) / 80)


def _some_text(spec: OneValue, rng: random.Random) -> Value:
    match spec:
        case BytesField() | MacField() | UuidField():
            # Such bytes are names and addresses: any will do, and stay.
            return spec.value_in(rng.randbytes(spec.size_bytes), "big")
        case TextField():
            return spec.value_in(spec.blank("big"), "big")
        case ClockColumn():
            return "12:00:00Z"
        case DateColumn():
            return "2026-01-01"
        case _:
            texts = ("A" * size for size in (1, 2, 3, 4, 6, 8, 10, 12, 16))
            return next((text for text in texts if can_carry(spec, text)), None)


def _states(spec: OneValue, shape: Shape) -> list[str | bool | None]:
    """What can be sent of the names or of false and true: one may be the code for "no value"."""
    states: tuple[str | bool, ...] = shape.labels if isinstance(shape, LabelShape) else (False, True)
    return [state for state in states if can_carry(spec, state)] or [None]
