"""Wall time, and whether to believe it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S, SystemClock, rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_NS = 253_402_300_799 * NS_PER_S  # the last second of the year 9999, the last RFC 3339 can write


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_777_636_800_250_000_000, "2026-05-01T12:00:00.250000Z"),
        (1_777_636_800_000_000_999, "2026-05-01T12:00:00.000000Z"),
        (951_782_399_999_999_999, "2000-02-28T23:59:59.999999Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_rfc3339_by_example(time_ns: int, text: str) -> None:
    """Times are written in UTC with microseconds; what is finer is cut, never rounded into the next second."""
    assert rfc3339(time_ns) == text


@given(st.integers(0, LAST_NS))
def test_rfc3339_reads_back(time_ns: int) -> None:
    """Any time up to the year 9999 reads back as itself, to the microsecond."""
    assert datetime.fromisoformat(rfc3339(time_ns)) == EPOCH + timedelta(microseconds=time_ns // 1000)


@given(st.tuples(st.integers(0, LAST_NS), st.integers(0, LAST_NS)).map(sorted))
def test_rfc3339_sorts_as_time_does(times_ns: list[int]) -> None:
    """Sorting the texts sorts the times."""
    assert rfc3339(times_ns[0]) <= rfc3339(times_ns[1])


def test_the_system_clock_is_the_system_clock() -> None:
    """It tells the operating system's wall time."""
    before = time.time_ns()
    assert before <= SystemClock().now_ns() <= time.time_ns()


@pytest.mark.parametrize(
    ("now_ns", "trusted"), [(0, False), (EARLIEST_PLAUSIBLE_NS - 1, False), (EARLIEST_PLAUSIBLE_NS, True)]
)
def test_a_clock_that_was_never_set_is_not_trusted(monkeypatch: pytest.MonkeyPatch, now_ns: int, trusted: bool) -> None:
    """A date before this software existed means a box without a battery that has not reached a time server."""
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    assert SystemClock().trusted is trusted
