"""Rates and the daily quota of a hub's tier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.testbench.cloud.refusals import QuotaExceeded, Throttled
from edge_gateway.testbench.cloud.throttle import Operation, Throttle, rates_per_s

DAY_S = 86_400


class Times(SystemClock):
    """Wall time and event loop time, both set by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def now_ns(self) -> int:
        return int(self.now_s * NS_PER_S)

    def throttle(self, tier: str | None, units: int = 1) -> Throttle:
        return Throttle(tier, units, clock=self, loop_time=lambda: self.now_s)


def test_without_a_tier_everything_is_allowed() -> None:
    """A hub that was given no tier never waits and never refuses."""
    throttle = Times().throttle(None)
    assert {throttle.shape(Operation.D2C) for _ in range(10_000)} == {0.0}
    throttle.admit(Operation.TWIN_READ, "d")
    throttle.count_message(10**9, "d")


@given(st.lists(st.floats(0, 0.05), min_size=200, max_size=400))
def test_shaped_answers_keep_the_rate(pauses_s: list[float]) -> None:
    """Whenever messages come, their answers leave at no more than 100 a second after a burst of as many."""
    times = Times()
    throttle = times.throttle("S1")
    answered_s = []
    for pause_s in pauses_s:
        times.now_s += pause_s
        answered_s.append(times.now_s + throttle.shape(Operation.D2C))
    assert answered_s == sorted(answered_s)
    for earlier, later in zip(answered_s, answered_s[200:], strict=False):
        assert later - earlier >= 1 - 1e-6


def test_refused_operations_say_when_to_come_back() -> None:
    """Beyond its rate an operation is refused, and after the time that is named it is allowed."""
    times = Times()
    throttle = times.throttle("S1")
    for _ in range(50):
        throttle.admit(Operation.TWIN_UPDATE, "d")
    with pytest.raises(Throttled) as refused:
        throttle.admit(Operation.TWIN_UPDATE, "d")
    times.now_s += refused.value.retry_after_s
    throttle.admit(Operation.TWIN_UPDATE, "d")
    throttle.admit(Operation.TWIN_READ, "d")


def test_quota_of_a_day() -> None:
    """Messages are metered in pieces of 4 KiB (0.5 KiB in the free tier), and counted anew from midnight UTC on."""
    times = Times()
    throttle = times.throttle("F1")
    throttle.count_message(0, "d")
    throttle.count_message(513, "d")
    assert throttle.messages_today == 3
    throttle.count_message(7_997 * 512, "d")
    with pytest.raises(QuotaExceeded):
        throttle.count_message(1, "d")
    times.now_s += DAY_S
    throttle.count_message(1, "d")
    assert throttle.messages_today == 1


@pytest.mark.parametrize(
    ("level", "units", "d2c"), [(1, 1, 100), (1, 9, 108), (2, 1, 120), (3, 2, 12_000)], ids=["S1", "9xS1", "S2", "2xS3"]
)
def test_rates_grow_with_units(level: int, units: int, d2c: float) -> None:
    """A tier's rate is its units' together, and never under 100 a second in the lowest."""
    assert rates_per_s(level, units)[Operation.D2C] == d2c
