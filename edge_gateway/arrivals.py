"""What a link asks of each sample before it becomes a reading: is it new, and when was it measured?

The answers come from `codec.replay` and `codec.device_time`, which know one device; this keeps one of each for every
device of a link, where its profile has `replay` or `time`. A link whose profile has neither has no `Arrivals`.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_gateway.clock import NS_PER_S, Stamp
from edge_gateway.codec import Profile
from edge_gateway.codec.device_time import DeviceTime, time_scale
from edge_gateway.codec.replay import Freshness, ReplayGuard, ReplayRule, counter_span
from edge_gateway.records import Value
from edge_gateway.replay_ledger import ReplayLedger


class Arrivals:
    """New or not, and when, for the devices of one link.

    Args:
        link: its name.
        profile: one with `replay` or `time`.
        ledger: keeps counters over a restart; None where each run begins anew, as in a capture that is played again.
    """

    def __init__(self, link: str, profile: Profile, ledger: ReplayLedger | None) -> None:
        self._link = link
        self._ledger = ledger
        self._sequence = profile.sequence
        self._counters = [(rule, counter_span(rule, profile.told(rule.counter))) for rule in profile.replay]
        self._guards: dict[int | str | None, list[ReplayGuard]] = {}
        self._time = profile.time
        self._scale = None if profile.time is None else time_scale(profile.time, profile.told(profile.time.field))
        self._clocks: dict[int | str | None, DeviceTime] = {}
        self._is_due = False
        """Whether a counter was taken that is not on disk yet."""
        self.unbelieved = 0
        """Readings that have the gateway's time, because the device's own was not to be believed."""

    def refusal(self, address: int | str | None, sequence: int | None, values: Mapping[str, Value]) -> str:
        """The word for why a sample is not taken, `repeated` or `replayed`; empty if it is new.

        Asked once for each sample, of a device that was admitted: the answer changes what is new.
        """
        guards = self._guards.get(address)
        if guards is None:
            guards = self._guards[address] = [self._guard(address, rule, span) for rule, span in self._counters]
        for (rule, _), guard in zip(self._counters, guards, strict=True):
            counter = sequence if rule.counter == self._sequence else values.get(rule.counter)
            if isinstance(counter, int):
                verdict = guard.judge(counter)
                if verdict is not Freshness.FRESH:
                    return verdict.value
                self._is_due |= guard.must_reserve
        return ""

    def _guard(self, address: int | str | None, rule: ReplayRule, span: int) -> ReplayGuard:
        if self._ledger is None:
            return ReplayGuard(rule, span)
        return self._ledger.guard(self._link, address, rule, span)

    async def settle(self, now_s: float) -> None:
        """Return when a restart of the gateway cannot make anything taken so far new again."""
        is_due, self._is_due = self._is_due, False
        if self._ledger is not None and self._counters:
            await self._ledger.settle(now_s, is_due=is_due)

    @property
    def fault(self) -> str:
        """Why counters cannot be kept; empty if they can."""
        return "" if self._ledger is None else self._ledger.fault

    def moment(self, address: int | str | None, values: Mapping[str, Value], arrival: Stamp, loop_s: float) -> Stamp:
        """When a sample was measured.

        Args:
            address: whose sample it is.
            values: what it says.
            arrival: when its frame came.
            loop_s: the same moment by the event loop.
        """
        told = None if self._time is None else values.get(self._time.field)
        if told is None or self._time is None or self._scale is None:
            return arrival
        clock = self._clocks.get(address)
        if clock is None:
            clock = self._clocks[address] = DeviceTime(self._time, self._scale)
        age_ns = clock.age_ns(
            told,
            loop_ns=round(loop_s * NS_PER_S),
            now_ns=arrival.time_ns,
            now_is_trusted=arrival.time_trusted,
        )
        if age_ns is None:
            self.unbelieved += 1
            return Stamp(arrival.time_ns, False, None)
        if arrival.uptime_ns is None or self._time.kind == "epoch":
            # A date owes nothing to the gateway's clock, and must not be corrected with it.
            return Stamp(arrival.time_ns - age_ns, arrival.time_trusted, None)
        return Stamp(arrival.time_ns - age_ns, False, arrival.uptime_ns - age_ns)
