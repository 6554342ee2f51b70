"""What a hub's tier allows: operations in a second, and messages in a day.

A tier's rates are shared by all its devices. Each operation has a bucket that fills at its rate; who finds it empty
waits or is turned away, as the protocol has it. Figures: iot-hub-devguide-quotas-throttling. Times come from the
caller, so that a day passes in a test at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.testbench.cloud.refusals import QuotaExceeded, Throttled

_DAY_NS = 24 * 3600 * NS_PER_S
_MINUTE_S = 60.0
_BURST_S = 1.0
"""A bucket holds as much as comes in this time: rates are rates over a second."""


class Operation(enum.Enum):
    """What is limited for itself."""

    CONNECT = "connect"
    D2C = "device-to-cloud"
    C2D = "cloud-to-device"
    C2D_RECEIVE = "cloud-to-device receive"
    FILE_UPLOAD = "file upload"
    REGISTRY = "registry"
    QUERY = "query"
    TWIN_READ = "twin read"
    TWIN_UPDATE = "twin update"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Tier:
    """What one unit of a tier allows."""

    name: str
    messages_per_day: int
    meter_bytes: int
    """A message counts once for each of these it has begun."""
    level: int
    """1 to 3: tiers of one level share their rates."""


TIERS = {
    tier.name: tier
    for tier in (
        Tier("F1", 8_000, 512, 1),
        Tier("B1", 400_000, 4096, 1),
        Tier("B2", 6_000_000, 4096, 2),
        Tier("B3", 300_000_000, 4096, 3),
        Tier("S1", 400_000, 4096, 1),
        Tier("S2", 6_000_000, 4096, 2),
        Tier("S3", 300_000_000, 4096, 3),
    )
}


def rates_per_s(level: int, units: int) -> dict[Operation, float]:
    """Operations in a second that a tier of this level allows with so many units."""

    def at(first: float, second: float, third: float) -> float:
        return (first, second, third)[level - 1]

    traffic = max(100.0, at(12, 120, 6000) * units) if level == 1 else at(12, 120, 6000) * units
    return {
        Operation.CONNECT: traffic,
        Operation.D2C: traffic,
        Operation.C2D: at(100, 100, 5000) * units / _MINUTE_S,
        Operation.C2D_RECEIVE: at(1000, 1000, 50_000) * units / _MINUTE_S,
        Operation.FILE_UPLOAD: at(100, 100, 5000) * units / _MINUTE_S,
        Operation.REGISTRY: at(100, 100, 5000) * units / _MINUTE_S,
        Operation.QUERY: at(20, 20, 1000) * units / _MINUTE_S,
        Operation.TWIN_READ: at(100, max(100, 10 * units), 500 * units),
        Operation.TWIN_UPDATE: at(50, max(50, 5 * units), 250 * units),
        Operation.CONFIGURATION: 20 * units / _MINUTE_S,
    }


class _Bucket:
    def __init__(self, rate_per_s: float, now_s: float) -> None:
        self.rate_per_s = rate_per_s
        self.capacity = max(1.0, rate_per_s * _BURST_S)
        self._level = self.capacity
        self._filled_s = now_s

    def take(self, now_s: float) -> float:
        """Take one, though it may have to be owed; return after how many seconds it is paid for."""
        self._fill(now_s)
        self._level -= 1
        return max(0.0, -self._level / self.rate_per_s)

    def lacks_s(self, now_s: float) -> float:
        """Seconds until one can be taken."""
        self._fill(now_s)
        return max(0.0, (1 - self._level) / self.rate_per_s)

    def _fill(self, now_s: float) -> None:
        self._level = min(self.capacity, self._level + (now_s - self._filled_s) * self.rate_per_s)
        self._filled_s = now_s


class Throttle:
    """The rates and the daily quota of one hub.

    Args:
        tier: a name in `TIERS`; None allows everything.
        units: how many the hub has.
        clock: wall time, by which days end (UTC).
        loop_time: event loop time, by which buckets fill.
    """

    def __init__(self, tier: str | None, units: int, *, clock: Clock, loop_time: Callable[[], float]) -> None:
        self._tier = TIERS[tier] if tier is not None else None
        self._units = units
        self._clock = clock
        self._loop_time = loop_time
        self._buckets: dict[Operation, _Bucket] = {}
        self._day = 0
        self.messages_today = 0
        """Metered messages since midnight UTC."""

    def shape(self, operation: Operation) -> float:
        """Let an operation happen; return for how many seconds its answer has to wait so that the rate holds."""
        if self._tier is None:
            return 0.0
        return self._bucket(operation).take(self._loop_time())

    def admit(self, operation: Operation, where: str) -> None:
        """Let an operation happen now, or not at all.

        Raises:
            Throttled: not at all.
        """
        if self._tier is None:
            return
        bucket = self._bucket(operation)
        lacking_s = bucket.lacks_s(self._loop_time())
        if lacking_s > 0:
            raise Throttled(f"too many operations ({operation.value})", where=where, retry_after_s=lacking_s)
        bucket.take(self._loop_time())

    def count_message(self, size_bytes: int, where: str) -> None:
        """Count a message towards the day's quota.

        Raises:
            QuotaExceeded: the day's messages are used up; it is not counted.
        """
        if self._tier is None:
            return
        day = self._clock.now_ns() // _DAY_NS
        if day != self._day:
            self._day, self.messages_today = day, 0
        metered = max(1, -(-size_bytes // self._tier.meter_bytes))
        quota = self._tier.messages_per_day * self._units
        if self.messages_today + metered > quota:
            raise QuotaExceeded(f"{quota} messages today already", where=where, remedy="Wait for midnight UTC")
        self.messages_today += metered

    def _bucket(self, operation: Operation) -> _Bucket:
        bucket = self._buckets.get(operation)
        if bucket is None:
            tier = self._tier
            assert tier is not None, "asked only with a tier"  # noqa: S101 - both callers have returned without one
            rate_per_s = rates_per_s(tier.level, self._units)[operation]
            bucket = self._buckets[operation] = _Bucket(rate_per_s, self._loop_time())
        return bucket
