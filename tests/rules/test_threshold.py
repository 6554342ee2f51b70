"""A limit with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.config.rules import CommandOnAlert, ThresholdRule
from edge_gateway.records import Command, Event, Reading, Value
from edge_gateway.rules import Outcome
from edge_gateway.rules.threshold import Threshold

HIGH = {"raise_above": 30, "clear_below": 28}
LOW = {"raise_below": 5, "clear_above": 7}


def rule(**settings: object) -> Threshold:
    declared = {"name": "limit", "profile": "climate", "value": "t"} | settings
    return Threshold(ThresholdRule.model_validate(declared))


def readings(values: Sequence[Value], device: str = "a") -> list[Reading]:
    return [Reading(device, "climate", number, {"t": value}) for number, value in enumerate(values)]


def outcome(threshold: Threshold, each: Sequence[Reading]) -> Outcome:
    result = Outcome([], [])
    threshold(each, result)
    return result


def told(threshold: Threshold, values: Sequence[Value]) -> list[tuple[int, str]]:
    """When something was said, and what."""
    return [(event.time_ns, event.kind) for event in outcome(threshold, readings(values)).events]


def test_a_high_limit_raises_once_and_clears_once() -> None:
    """Between the two limits nothing is said, in whichever direction the value goes."""
    values = [29, 30, 30.1, 31, 29, 28, 30.5, 27.9, 29, 27, 31]
    assert told(rule(**HIGH), values) == [(2, "alert-raised"), (7, "alert-cleared"), (10, "alert-raised")]


def test_a_low_limit_is_the_same_upside_down() -> None:
    """A rule for low values raises below its limit and clears above the other."""
    values = [6, 5, 4.9, 6, 7, 4, 7.1, 6, 5, -40]
    assert told(rule(**LOW), values) == [(2, "alert-raised"), (6, "alert-cleared"), (9, "alert-raised")]


def test_a_limit_of_zero_is_a_limit() -> None:
    """Zero is not mistaken for a limit that was not given, also as a low one."""
    assert told(rule(raise_above=0, clear_below=0), [0, 0.1, 0, -0.1]) == [(1, "alert-raised"), (3, "alert-cleared")]
    assert told(rule(raise_below=0, clear_above=0), [0, -0.1, 0, 0.1]) == [(1, "alert-raised"), (3, "alert-cleared")]


@pytest.mark.parametrize("value", [None, math.nan, "99", "", [99], {"t": 99}])
def test_what_is_no_number_changes_nothing(value: Value) -> None:
    """A null, a NaN or a text neither raises nor clears an alert."""
    assert told(rule(**HIGH), [value, 31, value, value, 27, value]) == [(1, "alert-raised"), (4, "alert-cleared")]


def test_a_reading_without_the_value_changes_nothing() -> None:
    """A device that sends several kinds of frames says nothing of the value in some."""
    threshold = rule(**HIGH)
    outcome(threshold, readings([31]))
    assert outcome(threshold, [Reading("a", "climate", 0, {"other": 1})]) == Outcome([], [])
    assert threshold.raised == {"a"}


def test_a_flag_counts_as_zero_or_one() -> None:
    """A rule can watch a door."""
    assert told(rule(raise_above=0.5, clear_below=0.5), [False, True, True, False]) == [
        (1, "alert-raised"),
        (3, "alert-cleared"),
    ]


def test_every_device_has_its_own_alert() -> None:
    """One device's alert neither hides nor clears another's."""
    threshold = rule(**HIGH)
    each = [
        Reading(device, "climate", number, {"t": value})
        for number, (device, value) in enumerate([("a", 31), ("b", 31), ("a", 20), ("b", 29), ("c", 20)])
    ]
    assert [(event.device, event.kind) for event in outcome(threshold, each).events] == [
        ("a", "alert-raised"),
        ("b", "alert-raised"),
        ("a", "alert-cleared"),
    ]
    assert threshold.raised == {"b"}


def test_only_the_devices_it_names() -> None:
    """A rule with a list of devices looks at no other."""
    threshold = rule(**HIGH, devices=["b"])
    assert outcome(threshold, readings([99], "a")) == Outcome([], [])
    assert len(outcome(threshold, readings([99], "b")).events) == 1


def test_an_alert_tells_the_value_its_limits_and_when() -> None:
    """The event has what an operator asks for: which rule, what was measured, against what, and whether to trust it."""
    untrusted = Reading("a", "climate", 17, {"t": 31.5, "h": 3}, time_trusted=False, uptime_ns=5)
    (event,) = outcome(rule(**HIGH), [untrusted]).events
    assert event == Event(
        "a",
        "limit",
        "alert-raised",
        17,
        {"t": 31.5, "raise_above": 30, "clear_below": 28},
        time_trusted=False,
        uptime_ns=5,
    )


def test_commands_go_to_the_device_that_raised_it() -> None:
    """Raising and clearing each send their command, with the rule as the asker."""
    threshold = rule(
        **HIGH,
        on_raise=CommandOnAlert(name="set-relay", arguments={"state": 1}),
        on_clear=CommandOnAlert(name="set-relay", arguments={"state": 0}),
    )
    assert outcome(threshold, readings([31, 32, 27, 26], "b")).commands == [
        Command("b", "set-relay", {"state": 1}, source="rule:limit"),
        Command("b", "set-relay", {"state": 0}, source="rule:limit"),
    ]


class Told(NamedTuple):
    device: str
    number: int
    kind: str


def model(series: Sequence[tuple[str, Value]], *, is_high: bool, edge: float, back: float) -> list[Told]:
    """What a rule has to say, by the definition: crossed and quiet, or back and raised."""
    alarmed: dict[str, bool] = {}
    said = []
    for number, (device, value) in enumerate(series):
        if isinstance(value, str) or value is None or not isinstance(value, int | float):
            continue
        crossed = value > edge if is_high else value < edge
        is_back = value < back if is_high else value > back
        if crossed and not alarmed.get(device):
            alarmed[device] = True
            said.append(Told(device, number, "alert-raised"))
        elif is_back and alarmed.get(device):
            alarmed[device] = False
            said.append(Told(device, number, "alert-cleared"))
    return said


_values = st.one_of(st.integers(-5, 5), st.floats(-5, 5), st.floats(), st.none(), st.booleans(), st.text(max_size=2))


@given(
    st.lists(st.tuples(st.sampled_from("abc"), _values), max_size=60),
    st.booleans(),
    st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted),
    st.lists(st.integers(1, 9), max_size=30),
)
def test_any_series_says_what_the_definition_says(
    series: list[tuple[str, Value]], is_high: bool, limits: list[float], sizes: list[int]
) -> None:
    """Over any values of any devices, in any batches, the rule says what its definition says, at the same readings."""
    low, high = limits
    edge, back = (high, low) if is_high else (low, high)
    keys = ("raise_above", "clear_below") if is_high else ("raise_below", "clear_above")
    threshold = rule(**dict(zip(keys, (edge, back), strict=True)))
    rest = [Reading(device, "climate", number, {"t": value}) for number, (device, value) in enumerate(series)]
    said = []
    for size in [*sizes, len(rest) + 1]:
        batch, rest = rest[:size], rest[size:]
        said += [Told(event.device, event.time_ns, event.kind) for event in outcome(threshold, batch).events]
    assert said == model(series, is_high=is_high, edge=edge, back=back)
