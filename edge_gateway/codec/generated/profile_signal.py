"""What a simulated sensor of any profile measures: plausible by unit and range, so a chart of it looks like a plant.

A number swings around what its unit usually shows, with noise, and stays within what its field can carry; a duration
in a wide integer is taken for an uptime; flags and states change now and then; a field with a sentinel is rarely
without a value. Finer signals, which know that a fan cools a room, are written by hand in the test bench; this one is a
`testbench.sensor_signals.Signal` like them, without importing it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from edge_gateway.codec.fields import BytesField, IntegerField, MacField, NamedField, WholeNumber
from edge_gateway.codec.fields.timestamps import rfc3339_ms, rfc3339_s
from edge_gateway.codec.generated.shapes import (
    AnyShape,
    LabelShape,
    NumberShape,
    Shape,
    TextShape,
    TimeShape,
    TruthShape,
    can_be_null,
    shape_of,
    unit_of,
)
from edge_gateway.codec.profile import Profile
from edge_gateway.errors import CodecError
from edge_gateway.records import Value


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

_STARTED_MS: Final = 1_767_225_600_000
"""When every sensor with a clock starts: 2026-01-01T00:00:00Z."""

_NULL_SHARE: Final = 0.002
_CHANGE_SHARE: Final = 0.01
"""The share of measurements at which a flag or a state changes."""


class ProfileSignal:
    """A signal for one sample frame of a profile.

    Args:
        profile: what the sensor speaks.
        rng: noise, and where in its day the sensor is.
        frame: which sample frame; the first if left out.
        day_s: how long a swing takes; a demonstration wants a short one.

    Raises:
        CodecError: the profile has no such sample frame.
    """

    def __init__(
        self, profile: Profile, rng: random.Random, *, frame: str | None = None, day_s: float = 86_400.0
    ) -> None:
        samples = [name for name, each in profile.frames.items() if each.role == "sample"]
        if not samples or (frame is not None and frame not in samples):
            raise CodecError(
                f"there is no sample frame {frame!r}" if samples else "there is no sample frame",
                where=profile.name,
                remedy=f"Sample frames: {', '.join(samples) or 'none'}",
            )
        self._fields = profile.values_of(frame or samples[0])
        self._rng = rng
        self._day_s = day_s
        self._phases = {name: rng.random() for name in self._fields}
        self._states = {name: _first_state(spec, rng) for name, spec in self._fields.items()}

    def values(self, at_s: float) -> Mapping[str, Value]:
        """Measure at `at_s` seconds after the start; the keys are the frame's values."""
        return {name: self._value(name, spec, at_s) for name, spec in self._fields.items()}

    def _value(self, name: str, spec: NamedField, at_s: float) -> Value:
        shape = shape_of(spec)
        if can_be_null(spec) and self._rng.random() < _NULL_SHARE and _can_be_sent(spec, None):
            return None
        match shape:
            case NumberShape():
                return self._number(name, spec, shape, at_s)
            case TruthShape() | LabelShape():
                if self._rng.random() < _CHANGE_SHARE:
                    self._states[name] = _another_state(spec, shape, self._states[name], self._rng)
                return self._states[name]
            case TimeShape():
                return self._time(spec, at_s)
            case TextShape() | AnyShape():
                return self._states[name]

    def _time(self, spec: NamedField, at_s: float) -> Value:
        """The sensor's own clock, if its field can hold the time."""
        at_ms = _STARTED_MS + round(at_s * 1000)
        seconds = rfc3339_s(at_ms // 1000)
        return next((text for text in (rfc3339_ms(at_ms), seconds) if text and _can_be_sent(spec, text)), None)

    def _number(self, name: str, spec: NamedField, shape: NumberShape, at_s: float) -> int | float | None:
        least = -math.inf if shape.least is None else shape.least
        most = math.inf if shape.most is None else shape.most
        step_s = _SECONDS.get(unit_of(spec) or "")
        if step_s is not None and shape.is_whole and most >= 0xFFFF and isinstance(spec, IntegerField):
            uptime = int(at_s / step_s) % (int(most) + 1)
            return uptime if _can_be_sent(spec, uptime) else None
        usual = _usual(spec, least, most)
        swing = usual.swing * math.sin(2 * math.pi * (at_s / self._day_s + self._phases[name]))
        number = min(most, max(least, usual.mean + swing + self._rng.gauss(0, usual.noise)))
        # A number may be the code for "no value".
        candidates = (round(number) if shape.is_whole else number, round(usual.mean))
        return next((each for each in candidates if _can_be_sent(spec, each)), None)


def _usual(spec: NamedField, least: float, most: float) -> _Usual:
    usual = _USUAL.get(unit_of(spec) or "")
    if usual is not None and least <= usual.mean <= most:
        return usual
    low, high = max(least, 0.0), min(most, _WIDEST)
    low = low if low < high else max(least, most - _WIDEST)
    high = high if low < high else most
    return _Usual(low + (high - low) / 4, (high - low) / 8, (high - low) / 80)


def _can_be_sent(spec: NamedField, value: Value) -> bool:
    try:
        spec.raw_of(value)
    except CodecError:
        return False
    return True


def _first_state(spec: NamedField, rng: random.Random) -> Value:
    shape = shape_of(spec)
    match spec:
        case WholeNumber():
            return rng.choice(_states(spec, shape)) if isinstance(shape, LabelShape) else _states(spec, shape)[0]
        case BytesField() | MacField():
            # Such bytes are names and addresses: any will do, and stay.
            return spec.value_in(rng.randbytes(spec.size_bytes), "big")
        case _:
            return spec.value_in(spec.blank("big"), "big")


def _another_state(spec: NamedField, shape: Shape, state: Value, rng: random.Random) -> Value:
    others = [other for other in _states(spec, shape) if other != state]
    return rng.choice(others) if others else state


def _states(spec: NamedField, shape: Shape) -> list[str | bool | None]:
    """What can be sent of the names or of false and true: one may be the code for "no value"."""
    states: tuple[str | bool, ...] = shape.labels if isinstance(shape, LabelShape) else (False, True)
    return [state for state in states if _can_be_sent(spec, state)] or [None]
