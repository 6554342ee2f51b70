"""The reading's own time: dates, ages, and uptimes that wrap, drift, restart and come late."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_gateway.clock import NS_PER_S
from edge_gateway.codec.device_time import DeviceTime, ReadingTime, TimeScale, UptimeClock
from edge_gateway.codec.fields import Misdeclared
from edge_gateway.records import Value

NOW_NS = 1_790_000_000 * NS_PER_S  # 2026-09-21T14:13:20Z
DAY_S = 86_400
MS = Fraction(1_000_000)


def age_s(kind: str, value: Value, *, now_is_trusted: bool = True, **rule: Any) -> float | None:
    """What one frame with this value is told to be old."""
    declared = ReadingTime.model_validate({"field": "t", "kind": kind, "unit": "s", **rule})
    device = DeviceTime(declared, TimeScale(declared.ns_per_count(None)))
    age_ns = device.age_ns(value, loop_ns=5 * NS_PER_S, now_ns=NOW_NS, now_is_trusted=now_is_trusted)
    return None if age_ns is None else age_ns / NS_PER_S


# --- dates and ages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_790_000_000, 0),
        (1_789_999_000, 1000),
        (1_789_999_999.5, 0.5),
        ("2026-09-21T14:13:20Z", 0),
        ("2026-09-21T16:13:10.250+02:00", 9.75),
        (1_790_000_299, -299),
        (1_790_000_301, None),
        (1_790_000_000 - 29 * DAY_S, 29 * DAY_S),
        (1_790_000_000 - 31 * DAY_S, None),
        (0, None),
        (4_294_967_295, None),
        ("1970-01-01T00:00:12Z", None),
        ("2026-09-21T14:13:20", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        (-5, None),
        (10**400, None),
        ({"year": 2026}, None),
        ([1], None),
    ],
)
def test_a_date_near_the_gateways_is_believed(value: Value, expected: float | None) -> None:
    """Up to 30 days back and 5 minutes ahead; a clock never set, or a date without a zone, says nothing."""
    assert age_s("epoch", value) == expected


def test_without_a_date_of_its_own_the_gateway_believes_any_that_can_be_true() -> None:
    """Before its first time server answered, a box cannot compare; a device with GPS knows better."""
    assert age_s("epoch", 1_780_000_000, now_is_trusted=False) == 10_000_000
    assert age_s("epoch", 1_000_000_000, now_is_trusted=False) is None


@pytest.mark.parametrize(
    ("value", "rule", "expected"),
    [
        (90, {}, 90),
        (0, {}, 0),
        (1500, {"unit": "ms"}, 1.5),
        (3, {"unit": "h"}, 10_800),
        (512, {"unit": None, "ticks_per_s": 1024}, 0.5),
        (DAY_S, {"within_days": 0.5}, None),
        (65535 * 1000, {}, None),
        ("90", {}, None),
        (-1, {}, None),
        (None, {}, None),
    ],
)
def test_an_age_is_taken_in_its_unit(value: Value, rule: dict[str, Any], expected: float | None) -> None:
    """Seconds, milliseconds, hours or ticks; not older than what the profile believes."""
    assert age_s("age", value, **rule) == expected


@given(
    kind=st.sampled_from(["epoch", "age", "uptime"]),
    values=st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())),
)
def test_arbitrary_values_raise_nothing(kind: str, values: list[Value]) -> None:
    """Whatever a frame says about its time, there is an answer, and it is not in the far future."""
    declared = ReadingTime.model_validate({"field": "t", "kind": kind, "unit": "ms"})
    device = DeviceTime(declared, TimeScale(declared.ns_per_count(None), 1 << 32))
    for number, value in enumerate(values):
        age_ns = device.age_ns(value, loop_ns=number, now_ns=NOW_NS, now_is_trusted=True)
        assert age_ns is None or age_ns >= -300 * NS_PER_S


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "uptime", "unit": "s", "ticks_per_s": 10}, "both say what is counted"),
        ({"kind": "age", "wraps_at": 256}, "only uptime wraps, not age"),
        ({"kind": "uptime", "drift_ppm": 0}, "greater than or equal to 1"),
        ({"kind": "sundial"}, "'epoch', 'age' or 'uptime'"),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(rule: dict[str, Any], told: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(ValidationError, match=told):
        ReadingTime.model_validate({"field": "t", **rule})


def test_the_unit_is_the_fields_unless_given() -> None:
    """A field in ms counts milliseconds; one without a unit, or with one that is no time, needs a word."""
    rule = ReadingTime(field="up", kind="uptime")
    assert rule.ns_per_count("ms") == MS
    assert ReadingTime(field="up", kind="uptime", unit="s").ns_per_count("ms") == NS_PER_S
    for unit in (None, "Cel"):
        with pytest.raises(Misdeclared, match=r"nothing says what 'up' counts in.*us, ms, s, min, h; or `ticks_per_s`"):
            rule.ns_per_count(unit)


# --- uptime -----------------------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One frame of a simulated device; times in seconds on the gateway's clock."""

    measured_s: float
    counted: int
    arrived_s: float


def sent(
    times_s: list[float], delays_s: list[float], *, ticks_per_s: int = 1000, wraps_at: int, drift_ppm: float, first: int
) -> list[Frame]:
    """What a device sends that measures at these times; frames do not overtake each other."""
    frames, arrived_s = [], 0.0
    for time_s, delay_s in zip(times_s, delays_s, strict=True):
        arrived_s = max(arrived_s, time_s + delay_s)
        ticks = int(time_s * (1 + drift_ppm / 1e6) * ticks_per_s)
        frames.append(Frame(time_s, (first + ticks) % wraps_at, arrived_s))
    return frames


def placed(clock: UptimeClock, frames: list[Frame]) -> list[float | None]:
    """Where the gateway puts them, seconds."""
    result = []
    for frame in frames:
        age_ns = clock.age_ns(frame.counted, round(frame.arrived_s * NS_PER_S))
        result.append(None if age_ns is None else frame.arrived_s - age_ns / NS_PER_S)
    return result


@st.composite
def journeys(draw: st.DrawFn) -> tuple[list[Frame], int, float]:
    """Frames of a device with a clock as declared, the number its count wraps at, and the longest delay."""
    wraps_at = draw(st.sampled_from([1 << 16, 1 << 24, 1 << 32]))
    # Silence and delay together stay below a wrap, as promised to `UptimeClock`.
    wrap_s = wraps_at / 1000
    most_gap_s, most_delay_s = min(wrap_s * 0.7, 5000), min(wrap_s / 8, 3000)
    gaps = draw(st.lists(st.floats(0.01, most_gap_s), min_size=1, max_size=60))
    delays = draw(st.lists(st.floats(0, most_delay_s), min_size=len(gaps), max_size=len(gaps)))
    times, time_s = [], 0.0
    for gap in gaps:
        time_s += gap
        times.append(time_s)
    drift = draw(st.floats(-500, 500))
    first = draw(st.integers(0, wraps_at - 1))
    frames = sent(times, delays, wraps_at=wraps_at, drift_ppm=drift, first=first)
    return frames, wraps_at, max(frame.arrived_s - frame.measured_s for frame in frames)


@given(journeys())
def test_every_frame_is_placed_between_its_measurement_and_the_longest_delay(
    journey: tuple[list[Frame], int, float],
) -> None:
    """In order, not after its arrival, not before its time, not later than the way ever took; wrap where it may."""
    frames, wraps_at, longest_s = journey
    clock = UptimeClock(MS, wraps_at, drift_ppm=500)
    places = placed(clock, frames)
    assert clock.restarts == clock.silences == 0
    before = float("-inf")
    for frame, place in zip(frames, places, strict=True):
        assert place is not None
        assert before <= place <= frame.arrived_s + 1e-6
        # A count is in whole milliseconds, and drift is allowed for by the time of arrivals, late ones among them.
        assert -0.002 - longest_s * 0.001 <= place - frame.measured_s <= longest_s + 0.002
        before = place


def test_jitter_is_taken_out() -> None:
    """A sensor with a crystal, measuring each second, 0 to 300 ms on the way: the error is a few milliseconds."""
    rng = random.Random(4)
    times = [float(number) for number in range(3600)]
    delays = [rng.uniform(0, 0.3) for _ in times]
    frames = sent(times, delays, wraps_at=1 << 32, drift_ppm=-80, first=17)
    places = placed(UptimeClock(MS, 1 << 32, drift_ppm=100), frames)
    errors = sorted(abs((place or 0) - frame.measured_s) for frame, place in zip(frames, places, strict=True))[:-60]
    assert errors[len(errors) // 2] < 0.005
    assert errors[-1] < 0.05


def test_a_backlog_is_placed_when_it_was_measured() -> None:
    """A link away for two hours: what the device kept and sends at once lies where it belongs, minute by minute."""
    times = [60.0 * number for number in range(240)]
    delays = [7200 - (time - 3600) if 3600 <= time < 10_800 else 0.0 for time in times]
    frames = sent(times, delays, wraps_at=1 << 32, drift_ppm=20, first=5)
    places = placed(UptimeClock(MS, 1 << 32), frames)
    worst = max(abs((place or 0) - frame.measured_s) for frame, place in zip(frames, places, strict=True))
    assert worst < 4, "two hours of the allowed drift are 3.6 s"


def test_a_restart_is_noticed() -> None:
    """A device that counts from 0 again is placed at its arrival, and from there on as before."""
    clock = UptimeClock(MS, 1 << 32)
    first = sent([1000.0, 1001.0, 1002.0], [0.0] * 3, wraps_at=1 << 32, drift_ppm=0, first=0)
    again = [Frame(1010.0 + number, 40 + 1000 * number, 1010.0 + number) for number in range(3)]
    assert placed(clock, first + again) == [1000, 1001, 1002, 1010, 1011, 1012]
    assert clock.restarts == 1


def test_a_restart_that_looks_like_a_delay_is_mended() -> None:
    """Down for an hour, and up for longer than it was before: after two windows the old start is forgotten."""
    clock = UptimeClock(MS, 1 << 32)
    before = [Frame(float(number), 1000 * number, float(number)) for number in range(60)]
    # It started anew 1800 s ago, so its count seems to be 1841 s behind.
    after = [Frame(3700.0 + 10 * number, 1_800_000 + 10_000 * number, 3700.0 + 10 * number) for number in range(140)]
    places = placed(clock, before + after)
    assert clock.restarts == 0
    late = [frame.arrived_s - (place or 0) for frame, place in zip(before + after, places, strict=True)]
    assert late[60] > 1000
    assert late[-1] < 1
    in_order = [place or 0 for place in places]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("drift_ppm", [-10_000, 10_000])
def test_a_clock_worse_than_declared_does_not_run_away(drift_ppm: int) -> None:
    """An RC oscillator, 1 % off, in a profile that says 100 millionths: the error stays within two windows of drift."""
    times = [10.0 * number for number in range(8000)]
    frames = sent(times, [0.0] * len(times), wraps_at=1 << 32, drift_ppm=drift_ppm, first=0)
    places = placed(UptimeClock(MS, 1 << 32, drift_ppm=100), frames)
    errors = [(place or 0) - frame.measured_s for frame, place in zip(frames, places, strict=True)]
    assert max(map(abs, errors)) < 13, "two windows of 600 s, and 1 % of them"


def test_after_a_silence_longer_than_a_wrap_the_count_says_nothing() -> None:
    """16 bits of ms wrap in 65.536 s: after 60 s nobody knows whether they did; then frames are placed again."""
    clock = UptimeClock(MS, 1 << 16)
    frames = sent([0.0, 50.0, 110.0, 111.0], [0.0, 0.0, 0.0, 0.2], wraps_at=1 << 16, drift_ppm=0, first=60_000)
    places = placed(clock, frames)
    assert places[2] is None
    assert [places[0], places[1], places[3]] == pytest.approx([0.0, 50.0, 111.0], abs=0.002)
    assert clock.silences == 1


def test_a_frame_heard_twice_keeps_its_time() -> None:
    """The radio's repetition of a frame, a second later, was measured when the first was."""
    clock = UptimeClock(MS, 1 << 32)
    frames = [Frame(1.0, 1000, 1.0), Frame(2.0, 2000, 2.0), Frame(2.0, 2000, 3.0)]
    assert placed(clock, frames) == pytest.approx([1.0, 2.0, 2.0], abs=0.001)


@given(
    counts=st.lists(st.integers(0, 1 << 17) | st.floats(0, 1e6), min_size=1),
    gaps_ns=st.lists(st.integers(0, 1 << 46), min_size=1),
    wraps_at=st.none() | st.integers(1, 1 << 40) | st.floats(0.001, 1e9),
)
@example(counts=[5, 4], gaps_ns=[1], wraps_at=None)
def test_any_counts_at_any_times_stay_in_order(
    counts: list[int | float], gaps_ns: list[int], wraps_at: int | float | None
) -> None:
    """Whatever a device counts, no frame is placed before the one before it, nor after its arrival."""
    clock = UptimeClock(MS, wraps_at)
    arrived_ns, before_ns = 0, 0
    for count, gap_ns in zip(counts, gaps_ns, strict=False):
        arrived_ns += gap_ns
        age_ns = clock.age_ns(count, arrived_ns) or 0
        assert age_ns >= 0
        assert arrived_ns - age_ns >= before_ns
        before_ns = arrived_ns - age_ns
