"""The way up: from the frames of a link to the buffer's door.

One task goes it for each link, in batches, without a queue between. Nothing waits for the hub here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.intake import Intake
from edge_gateway.clock import Clock, stamp
from edge_gateway.codec import Decoded
from edge_gateway.errors import TransportError
from edge_gateway.link import Link
from edge_gateway.records import Command, Event, Reading, record
from edge_gateway.roster import Roster
from edge_gateway.rules.rule_set import RuleSet

_log = structlog.get_logger()


class WayUp:
    """What stands between the links and the buffer.

    Args:
        roster: who may send.
        rules: see each reading, and may want something done.
        intake: takes what came.
        clock: says when it came.
        run_soon: carries out what a rule commands, without keeping the link waiting.
    """

    def __init__(
        self, roster: Roster, rules: RuleSet, intake: Intake, clock: Clock, run_soon: Callable[[Command], None]
    ) -> None:
        self._roster = roster
        self._rules = rules
        self._intake = intake
        self._clock = clock
        self._run_soon = run_soon

    async def read(self, link: Link) -> None:
        """Go it with all that a link brings, until the link ends or is told to stop."""
        try:
            async for frames in link.frames():
                await self._carry(link, frames)
        except TransportError as error:
            # This link is beyond mending by itself, for instance a capture that breaks off; the others go on.
            link.failure = str(error)
            _log.error("link.failed", link=link.name, reason=str(error))
        else:
            _log.info("link.ended", link=link.name)

    async def _carry(self, link: Link, frames: list[bytes]) -> None:
        """Bring whole frames of one link from bytes to the buffer's door."""
        decoded = link.decode(frames)
        rejected: Counter[str] = Counter()
        readings = self._readings(link, decoded, rejected)
        if link.arrivals is not None:
            await link.arrivals.settle(asyncio.get_running_loop().time())
        outcome = self._rules(readings) if readings else None
        for reject in decoded.rejects:
            link.rejects[reject.reason] += 1
            _log.debug("frame.rejected", link=link.name, reason=reject.reason, frame=reject.data.hex())
        if decoded.older or decoded.newer:
            link.versions.update(older=decoded.older, newer=decoded.newer)
        for answer in decoded.answers:
            for request, answered in link.waiting:
                result = request.judge(answer)
                if result is not None and not answered.done():
                    answered.set_result(result)
                    break
        bad: list[BadFrame] = []
        if decoded.rejects:
            now_ns, trusted = self._clock.now_ns(), self._clock.trusted
            bad = [BadFrame(link.name, reject.reason, reject.data, now_ns, trusted) for reject in decoded.rejects]
        events = () if outcome is None else outcome.events
        await self._keep(link, readings, events, bad, rejected)
        if outcome is not None:
            for command in outcome.commands:
                self._run_soon(command)

    async def _keep(
        self,
        link: Link,
        readings: Sequence[Reading],
        events: Sequence[Event],
        bad: Sequence[BadFrame],
        rejected: Counter[str],
    ) -> None:
        """Hand what became of some frames to the buffer's door, each record to its lane and route."""
        by_place: dict[tuple[str, str], list[Reading | Event]] = {}
        records: Sequence[Reading | Event] = [*events, *readings]
        if link.has_places:
            for each in records:
                device = self._roster.get(each.device)
                place = (link.lane, "") if device is None else (device.lane, device.route)
                by_place.setdefault(place, []).append(each)
            records = by_place.pop((link.lane, ""), [])
        if records or bad or rejected:
            await self._intake.put(Batch(records, link.lane, bad, list(rejected.items())))
        for (lane, route), others in by_place.items():
            await self._intake.put(Batch(others, lane, route=route))

    def _readings(self, link: Link, decoded: Decoded, rejected: Counter[str]) -> list[Reading]:
        """Say of each sample which device it is from and when it came."""
        known, profile, span = link.devices, link.codec.profile.name, link.codec.sequence_span
        now_s = asyncio.get_running_loop().time()
        arrivals, arrival = link.arrivals, stamp(self._clock)
        time_ns, time_trusted, uptime_ns = arrival
        readings = []
        for address, sequence, values in decoded.samples:
            device = known.get(address)
            if device is None:
                device = self._roster.admit(link, address)
                if device is None:
                    rejected[link.name] += 1
                    continue
            if arrivals is not None:
                reason = arrivals.refusal(address, sequence, values)
                if reason:
                    link.rejects[reason] += 1
                    rejected[link.name] += 1
                    continue
                time_ns, time_trusted, uptime_ns = arrivals.moment(address, values, arrival, now_s)
            if sequence is not None:
                if sequence != device.expected_sequence:
                    device.count_missed(sequence, span)
                device.expected_sequence = sequence + 1 if sequence + 1 < span else 0
            if not values:
                continue  # heard, and with nothing to tell
            device.readings += 1
            device.last = reading = record(Reading, (device.name, profile, time_ns, values, time_trusted, uptime_ns))
            device.last_at_s = now_s
            readings.append(reading)
        return readings
