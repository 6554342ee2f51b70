"""The only way to wall time.

Durations, time-outs and intervals use the event loop's monotonic time and never this: a wall clock steps, by a day when
a box without a battery first reaches a time server. Wall time only stamps records.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Protocol

NS_PER_S = 1_000_000_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # UTC, as everything here; without a zone it prints without an offset

EARLIEST_PLAUSIBLE_NS = 1_767_225_600 * NS_PER_S
"""2026-01-01: this software did not exist before, so a clock that says so has not been set."""


class Clock(Protocol):
    """Wall time, and whether to believe it."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z. May step in either direction between two calls."""
        ...

    @property
    def trusted(self) -> bool:
        """False while the clock has visibly never been set."""
        ...


class SystemClock:
    """The operating system's wall clock."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns()

    @property
    def trusted(self) -> bool:
        """False while the clock shows a date before this software existed."""
        return time.time_ns() >= EARLIEST_PLAUSIBLE_NS


def rfc3339(time_ns: int) -> str:
    """Write a wall time as RFC 3339 in UTC with microseconds, e.g. `2026-05-01T12:00:00.250000Z`."""
    stamp = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return f"{stamp.isoformat(timespec='microseconds')}Z"
