"""What the tests of the whole gateway share."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.testbench import LocalAuthority


class ClockOfAWeekAgo(SystemClock):
    """Signs certificates that are also good for a gateway whose clock is a day behind."""

    def now_ns(self) -> int:
        return super().now_ns() - int(timedelta(days=7).total_seconds()) * NS_PER_S


@pytest.fixture(scope="session")
def authority() -> LocalAuthority:
    return LocalAuthority(clock=ClockOfAWeekAgo())
