"""When a device measured, by its own account: a date, an age, or the time since it started.

The gateway knows when a frame came. That is when it was measured, unless the device waited: for its turn on the air,
for a retry, for a link that was away half a day. Frames may say it themselves, in three ways, and each becomes the same
thing here: how long before its arrival a frame was measured.

- `epoch`: a date. Worth nothing on a device whose clock was never set, so it must be near the gateway's.
- `age`: how long ago.
- `uptime`: a count since the device started, which wraps, restarts, and drifts; see `UptimeClock`.

Pure: times come in as arguments. Ages are measured on the loop's clock, which never steps; only `epoch` needs a date.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final, Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S
from edge_gateway.codec.fields import BitField, FieldName, FloatField, IntegerField, Misdeclared, WholeNumber
from edge_gateway.codec.structure.items import Computed
from edge_gateway.codec.text.numbers import DecimalColumn
from edge_gateway.config.settings import Settings
from edge_gateway.records import Value

TimeUnit: TypeAlias = Literal["us", "ms", "s", "min", "h"]

_NS_PER_UNIT: Final[dict[TimeUnit, int]] = {
    "us": 1000,
    "ms": 1_000_000,
    "s": NS_PER_S,
    "min": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}

_DAY_NS: Final = 86_400 * NS_PER_S

_MOST_FUTURE_NS: Final = 300 * NS_PER_S
"""How far a device's date may be ahead of the gateway's: two clocks that are both right still differ."""

_MOST_COUNT: Final = 1 << 64
"""No count of a device is larger; a number in text may be."""

_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


class ReadingTime(Settings):
    """Which value says when a frame was measured, and how."""

    field: FieldName
    """The value. A frame without it has the time at which it came."""
    kind: Literal["epoch", "age", "uptime"]
    """`epoch`: a date, since 1970 or as RFC 3339 text. `age`: time before now. `uptime`: time since the start."""
    unit: TimeUnit | None = None
    """What the value counts in; that of its field unless given."""
    ticks_per_s: float | None = Field(default=None, gt=0, le=1e9, examples=[1024])
    """In place of `unit`, for a count of something else."""
    wraps_at: int | float | None = Field(default=None, gt=0, examples=[65536])
    """For `uptime`: the first value that never comes, because the count begins at 0 again; what its field can carry
    unless given."""
    drift_ppm: int = Field(default=500, ge=1, le=20_000)
    """For `uptime`: how much the device's clock may be slow, in millionths. A crystal is within 100, an RC oscillator
    within 10000."""
    within_days: float = Field(default=30, gt=0, le=3660)
    """For `epoch` and `age`: nothing older is believed; the reading then has the time at which it came."""

    @model_validator(mode="after")
    def _check_units(self) -> ReadingTime:
        if self.unit is not None and self.ticks_per_s is not None:
            raise Misdeclared("`unit` and `ticks_per_s` both say what is counted", key="unit", remedy="Keep one")
        if self.kind != "uptime" and self.wraps_at is not None:
            raise Misdeclared(f"only uptime wraps, not {self.kind}", key="wraps_at", remedy="Leave it out")
        return self

    def ns_per_count(self, field_unit: str | None) -> Fraction:
        """How long one step of the value is, nanoseconds.

        Args:
            field_unit: the SenML unit of the field; used where the rule names none.

        Raises:
            Misdeclared: nobody says what the value counts in.
        """
        if self.ticks_per_s is not None:
            return Fraction(NS_PER_S) / Fraction(self.ticks_per_s)
        unit = self.unit or field_unit
        if unit in _NS_PER_UNIT:
            return Fraction(_NS_PER_UNIT[unit])
        raise Misdeclared(
            f"nothing says what {self.field!r} counts in",
            key="unit",
            remedy=f"Give `unit` to the field or here: {', '.join(_NS_PER_UNIT)}; or `ticks_per_s`",
        )


class TimeScale(NamedTuple):
    """What the value counts, in the field's declaration and the rule's words together."""

    ns_per_count: Fraction
    """How long one step is; without meaning for dates as text."""
    wraps_at: int | float | None = None
    """The first value an uptime never has; None for one that never wraps."""


def time_scale(rule: ReadingTime, fields: Sequence[object] | None) -> TimeScale:
    """How to read the value that says when a frame was measured.

    Args:
        rule: whose value it is.
        fields: the declarations of what goes by its name in the frames; None where the frames are not declared.

    Raises:
        Misdeclared: there is no such value, it is no time, or the frames differ in what it counts.
    """
    if fields is None:
        return TimeScale(rule.ns_per_count(None), rule.wraps_at)
    if not fields:
        raise Misdeclared(f"{rule.field!r} is no value of a sample", key="field", remedy="Name a value")
    scales = {_scale_of(rule, field) for field in fields}
    if len(scales) > 1:
        raise Misdeclared(
            f"{rule.field!r} counts differently in different frames",
            key="field",
            remedy="Give both the same name only where they have the same type, scale and unit",
        )
    return scales.pop()


def _scale_of(rule: ReadingTime, field: object) -> TimeScale:
    is_number = isinstance(field, WholeNumber | FloatField | Computed | DecimalColumn)
    if not is_number or (isinstance(field, IntegerField) and field.epoch is not None):
        if rule.kind != "epoch":
            raise Misdeclared(f"{rule.field!r} is no number", key="field", remedy="Only an epoch can be text")
        return TimeScale(Fraction(1))
    if isinstance(field, WholeNumber) and (field.enum or (isinstance(field, BitField) and field.is_bool)):
        raise Misdeclared(f"{rule.field!r} is no number", key="field", remedy="Name a number")
    wraps_at = rule.wraps_at
    if wraps_at is None and rule.kind == "uptime" and isinstance(field, WholeNumber):
        least, most = field.raw_range
        wraps_at = (most - least + 1) * field.ratio.multiplier / field.ratio.divisor
        wraps_at = int(wraps_at) if wraps_at.is_integer() else wraps_at
    return TimeScale(rule.ns_per_count(getattr(field, "unit", None)), wraps_at)


class DeviceTime:
    """Ages of the frames of one device.

    Args:
        rule: which kind, and what to believe.
        scale: from `time_scale`.
    """

    def __init__(self, rule: ReadingTime, scale: TimeScale) -> None:
        self._rule = rule
        self._ns_per_count = scale.ns_per_count
        self._most_age_ns = round(rule.within_days * _DAY_NS)
        self.uptime = UptimeClock(*scale, drift_ppm=rule.drift_ppm) if rule.kind == "uptime" else None

    def age_ns(self, value: Value, *, loop_ns: int, now_ns: int, now_is_trusted: bool) -> int | None:
        """How long before its arrival a frame was measured; None if the device's word is worth nothing.

        Args:
            value: what the frame says, whatever it is.
            loop_ns: when it came, on a clock that only goes forward.
            now_ns: the same moment as nanoseconds since 1970.
            now_is_trusted: whether that is to be believed. If not, a device's date is, if it can be true at all.

        Returns:
            Nanoseconds; for a date a little below 0, if the device's clock is ahead of the gateway's.
        """
        if self._rule.kind == "epoch" and isinstance(value, str):
            moment_ns = _moment_ns(value)
            return None if moment_ns is None else self._believed(moment_ns, now_ns, now_is_trusted)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_COUNT:
            return None  # NaN is not within either
        if self.uptime is not None:
            return self.uptime.age_ns(value, loop_ns)
        counted_ns = round(value * self._ns_per_count)
        if self._rule.kind == "epoch":
            return self._believed(counted_ns, now_ns, now_is_trusted)
        return counted_ns if counted_ns <= self._most_age_ns else None

    def _believed(self, moment_ns: int, now_ns: int, now_is_trusted: bool) -> int | None:
        age_ns = now_ns - moment_ns
        is_plausible = -_MOST_FUTURE_NS <= age_ns <= self._most_age_ns
        return age_ns if (is_plausible if now_is_trusted else moment_ns >= EARLIEST_PLAUSIBLE_NS) else None


def _moment_ns(text: str) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 text; None if it is no such text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else (moment - _EPOCH) // timedelta(microseconds=1) * 1000


_SILENCE_SHARE: Final = Fraction(7, 8)
"""Of a wrap, how long a device may be silent; the rest is for the delay of the frame before."""

_MOST_LEAD_NS: Final = 3600 * NS_PER_S
"""A count that runs ahead by more did not run: the device started anew."""

_WINDOW_NS: Final = 600 * NS_PER_S
_WINDOW_FRAMES: Final = 8
"""What lasts over a window is no delay. It has so many frames at least, and is so long at least."""


class UptimeClock:
    """Places the frames of one device in time by its uptime: jitter of the way is taken out, order is kept.

    Arrival minus uptime is the moment of the start plus the delay of the frame. No delay is negative, so the least
    difference seen is the nearest to the truth. It is followed in two ways, as the device's clock drifts: it may grow
    by `drift_ppm` of the time that goes by, and it is never below the least of the last two windows, so that a clock
    that is worse than declared, or a restart that looked like a delay, is mended within two of them.

    With a clock no slower than `drift_ppm` no frame is placed before it was measured, and none later than the longest
    delay after it. (A delay that all frames have cannot be known, and counts as none.) No frame is placed before the
    one before it, nor after its arrival.

    Args:
        ns_per_count: how long one step of the count is.
        wraps_at: the first count that never comes; None for one that never wraps.
        drift_ppm: how much the device's clock may be slow, in millionths.
    """

    def __init__(self, ns_per_count: Fraction, wraps_at: int | float | None, *, drift_ppm: int = 500) -> None:
        # Nearly always a whole number, which Python multiplies ten times as fast.
        self._ns_per_count = ns_per_count.numerator if ns_per_count.denominator == 1 else ns_per_count
        self._wraps_at = wraps_at
        self._drift_ppm = drift_ppm
        wrap_ns = None if wraps_at is None else round(wraps_at * ns_per_count)
        self._most_silence_ns = None if wrap_ns is None else int(wrap_ns * _SILENCE_SHARE)
        self._most_lead_ns = _MOST_LEAD_NS if wrap_ns is None else min(_MOST_LEAD_NS, wrap_ns // 2)
        self._count: int | float | None = None
        self._arrived_ns = 0
        self._placed_ns = 0
        """Where the last frame was placed; on the clock of arrivals, like the others."""
        self._uptime_ns = 0
        """Since the anchor, without wraps."""
        self._start_ns = 0
        """The estimate: when the uptime above was 0."""
        self._window_from_ns = 0
        self._window_frames = 0
        self._window_least_ns = 0
        self._least_before_ns = 0
        """The least difference of the window before."""
        self.restarts = 0
        """How often the device was seen to count anew."""
        self.silences = 0
        """How often it was silent for so long that its count says nothing any more."""

    def age_ns(self, count: int | float, arrived_ns: int) -> int | None:
        """How long before its arrival this frame was measured, nanoseconds, 0 or more.

        0 for the first frame, and the first after a restart, which can be compared with nothing.

        Args:
            count: the uptime as the device counts it.
            arrived_ns: never less than the time before.

        Returns:
            None after a silence in which the count may have wrapped unseen; the next frames are placed from there.
        """
        if self._count is None:
            self._anchor(count, arrived_ns)
            return 0
        elapsed_ns = arrived_ns - self._arrived_ns
        if self._most_silence_ns is not None and elapsed_ns >= self._most_silence_ns:
            self.silences += 1
            self._anchor(count, arrived_ns)
            return None
        counted = count - self._count if self._wraps_at is None else (count - self._count) % self._wraps_at
        advance_ns = round(counted * self._ns_per_count)
        if advance_ns < 0 or advance_ns - elapsed_ns > self._most_lead_ns:
            self.restarts += 1
            self._anchor(count, arrived_ns)
            return 0
        self._count = count
        self._arrived_ns = arrived_ns
        self._uptime_ns += advance_ns
        self._follow(arrived_ns - self._uptime_ns, elapsed_ns)
        self._placed_ns = max(self._placed_ns, self._uptime_ns + self._start_ns)
        return arrived_ns - self._placed_ns

    def _anchor(self, count: int | float, arrived_ns: int) -> None:
        self._count = count
        self._arrived_ns = self._placed_ns = self._start_ns = arrived_ns
        self._uptime_ns = 0
        self._window_from_ns = arrived_ns
        self._window_frames = 1
        self._window_least_ns = self._least_before_ns = arrived_ns

    def _follow(self, difference_ns: int, elapsed_ns: int) -> None:
        """Take one more difference of arrival and uptime into the estimate."""
        if self._window_frames >= _WINDOW_FRAMES and self._arrived_ns - self._window_from_ns >= _WINDOW_NS:
            self._least_before_ns = self._window_least_ns
            self._window_least_ns = difference_ns
            self._window_from_ns = self._arrived_ns
            self._window_frames = 0
        self._window_frames += 1
        self._window_least_ns = min(self._window_least_ns, difference_ns)
        least_ns = min(self._least_before_ns, self._window_least_ns)
        grown_ns = self._start_ns + elapsed_ns * self._drift_ppm // 1_000_000
        self._start_ns = min(difference_ns, max(grown_ns, least_ns))
