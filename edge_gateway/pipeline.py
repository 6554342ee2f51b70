"""The hallway: joins the rooms in the order the data walks through them, starts them, and shuts them down.

```
transport.read -> framer.feed -> codec.decode -> readings -> rules -> intake -> buffer -> delivery -> hub
      ^                                                        |                              |
      +---- framer.encode <---- codec.encode_command <---------+------------- commands -------+
```

Devices that speak only when asked are asked by a `PolledLine`, which then stands between framer and codec in both
directions.

One task reads each link and carries what it read through to the intake, in batches, without a queue between. Nothing
waits for the hub: links are read from the start, and what cannot be delivered lies in the buffer.

There is one way down, taken on SIGTERM: stop reading, make durable what was read, deliver for a moment what is queued,
close. What is still queued then is delivered after the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_gateway import __version__
from edge_gateway.buffer import ACCOUNT_COLUMNS, BadFrame, Batch, Outlet
from edge_gateway.buffer.bulletins import Bulletins
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.intake import Intake
from edge_gateway.buffer.joined import JoinedOutlet
from edge_gateway.clock import Clock, rfc3339, stamp
from edge_gateway.codec import Decoded
from edge_gateway.config.model import BufferSettings, DeliverySettings
from edge_gateway.emergency import Emergency
from edge_gateway.errors import CommandInvalid, TransportError
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.link import Device, Link
from edge_gateway.own_commands import OwnCommands
from edge_gateway.provisioning.rotation import KeyRotation
from edge_gateway.quarantine import replay
from edge_gateway.records import (
    Command,
    CommandResult,
    CommandStatus,
    Event,
    Reading,
    Value,
    record,
)
from edge_gateway.rules.rule_set import RuleSet
from edge_gateway.sensor_twin import SensorTwin
from edge_gateway.uplink import Downlink, Uplink
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafSessions

_log = structlog.get_logger()

MOST_UNKNOWN_DEVICES: Final = 1_000
"""Devices a link may bring that the configuration does not list; a bus full of noise must not fill the memory."""

MOST_WAITING_COMMANDS: Final = 16
"""Commands one device may have waiting for its turn."""

MOST_SENSOR_FAULTS: Final = 10
"""Sensors whose sessions fail that status names; of the others it says how many they are."""

_LAST_READ_S: Final = 0.5
"""How long a stopping gateway waits for what was read to find room in the intake."""

_LOOK_DELIVERED_S: Final = 0.05

_LAST_DELIVERY_S: Final = 2.0
"""How long a stopping gateway goes on delivering; with the closing of links and sessions it is gone within 5 s."""


@dataclass(frozen=True, slots=True)
class SensorUplinks:
    """How those sensors reach the hub that have an identity of their own."""

    uplinks: Mapping[str, Uplink] = field(default_factory=dict)
    """By the sensor's name."""
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    limits: LeafLimits = field(default_factory=LeafLimits)
    """What their sessions share."""
    hold: bool = True
    """Whether they are connected while nothing is queued, so that commands reach them."""


class Gateway:
    """All rooms together.

    Args:
        name: the gateway's own.
        links: where frames come from; entered and left by `run`.
        rules: the rules in force; desired properties may replace them.
        buffer: already entered; the caller leaves it after `run`.
        uplink: where messages go.
        sensors: the uplinks of those sensors that have an identity of their own, and what their sessions share.
        delivery: how.
        buffer_settings: how much may wait for the disk, and how large a message may be.
        keys: tells how the key store is.
        rotation: has keys replaced when they are old.
        emergency: destroys all keys when there is a reason.
        clock: stamps readings.
        rng: jitter.
    """

    def __init__(
        self,
        name: str,
        links: Sequence[Link],
        rules: RuleSet,
        *,
        buffer: DurableBuffer,
        uplink: Uplink,
        sensors: SensorUplinks,
        delivery: DeliverySettings,
        buffer_settings: BufferSettings,
        keys: KeyStoreWatch,
        rotation: KeyRotation,
        emergency: Emergency,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._name = name
        self._keys = keys
        self._rotation = rotation
        self._emergency = emergency
        self._event_lane = buffer_settings.event_lane
        self._deliveries: list[asyncio.Task[None]] = []
        self._links = links
        self._buffer = buffer
        self._clock = clock
        self._rules = rules
        self._devices = {device.name: device for link in links for device in link.devices.values()}
        self._intake = Intake(buffer, buffer_settings.pending_records)
        self._bulletins = Bulletins(
            name, buffer, clock, links=[link.name for link in links], most_bytes=buffer_settings.max_message_bytes
        )
        self._delivery = Delivery(
            uplink,
            self._own_outlet(sensors),
            Downlink(
                run_command=self.run_command,
                report_result=self._report_result,
                apply_desired=self._apply_desired,
                reported=self.reported,
            ),
            delivery,
            rng,
        )
        self._uplink = uplink
        self._twins = {name: self._twin_of(name) for name in sensors.uplinks}
        self._leaves = LeafSessions(
            [
                Leaf(
                    name,
                    sensor,
                    buffer.route(name),
                    Downlink(
                        self.run_command, self._report_result, self._twins[name].apply, self._twins[name].reported
                    ),
                    hold=sensors.hold,
                )
                for name, sensor in sensors.uplinks.items()
            ],
            sensors.delivery,
            sensors.limits,
            rng,
        )
        self._own_commands = OwnCommands(
            publish_ledger=self.publish_ledger,
            rotate_buffer_key=buffer.rotate_key,
            rotation=rotation,
            emergency=emergency,
        )
        self._started_at_s = 0.0
        self._commands: set[asyncio.Task[None]] = set()

    def _own_outlet(self, sensors: SensorUplinks) -> Outlet:
        """What the gateway delivers itself: all that no sensor's own session does."""
        left = sorted(self._buffer.queued_routes() - sensors.uplinks.keys() - {""})
        if not left:
            return self._buffer
        _log.info("sensors.spoken_for", sensors=left[:MOST_SENSOR_FAULTS], count=len(left))
        return JoinedOutlet(self._buffer.route(""), [self._buffer.route(name) for name in left])

    @property
    def buffer(self) -> DurableBuffer:
        """Where its records are."""
        return self._buffer

    # --- up and down -----------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then go down in order and return.

        Raises:
            TransportError: a link can never be opened, for instance because there is no such capture to replay.
        """
        loop = asyncio.get_running_loop()
        self._started_at_s = loop.time()
        async with AsyncExitStack() as transports:
            for link in self._links:
                await transports.enter_async_context(link.transport)
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._buffer.watch(), name="buffer watch")
                emergency = tasks.create_task(self._emergency.run(self, stop), name="emergency")
                self._deliveries = [
                    tasks.create_task(self._delivery.run(), name="delivery"),
                    tasks.create_task(self._leaves.run(), name="sensors' deliveries"),
                ]
                twins = [tasks.create_task(twin.run(), name=f"twin {name}") for name, twin in self._twins.items()]
                bulletins = tasks.create_task(self._bulletins.run(), name="bulletins")
                keys = tasks.create_task(self._keys.run(), name="key store watch")
                rotation = tasks.create_task(self._rotation.run(), name="key rotation")
                readers = [tasks.create_task(self._read(link), name=f"link {link.name}") for link in self._links]
                polls = [
                    tasks.create_task(link.polled.run(), name=f"polls {link.name}")
                    for link in self._links
                    if link.polled is not None
                ]
                _log.info("gateway.started", gateway=self._name, version=__version__, links=len(self._links))
                await stop.wait()

                _log.info("gateway.stopping", gateway=self._name)
                await _end([*polls, *twins, bulletins, keys, rotation])
                await self._stop_reading(readers)
                await _end([*self._commands])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_DELIVERY_S):
                        await self._intake.drained()
                        self._buffer.drain()
                        await self._buffer.emptied()
                if self._intake.pending:
                    _log.error("gateway.abandoned", records=self._intake.pending, reason=self._buffer.status().fault)
                await _end([*self._deliveries, watch, emergency])
        status = self._buffer.status()
        _log.info("gateway.stopped", gateway=self._name, queued=sum(status.queued.values()))

    @property
    def emergency(self) -> Emergency:
        """What destroys all keys when there is a reason."""
        return self._emergency

    async def alert(self, event: Event) -> None:
        """See `RunningGateway.alert`."""
        await self._buffer.append(Batch([event]))
        while self._buffer.status().queued[self._event_lane]:  # noqa: ASYNC110  # once in the life of a gateway
            await asyncio.sleep(_LOOK_DELIVERED_S)

    async def fall_silent(self) -> None:
        """See `RunningGateway.fall_silent`."""
        await _end(self._deliveries)

    async def _stop_reading(self, readers: Sequence[asyncio.Task[None]]) -> None:
        """End each reader where it holds nothing: while it waits for bytes, or once it has handed over what it read."""
        for link, reader in zip(self._links, readers, strict=True):
            link.stopping = True
            if link.is_silent:
                reader.cancel()
        if readers:
            await asyncio.wait(readers, timeout=_LAST_READ_S)
        await _end(readers)

    async def _read(self, link: Link) -> None:
        try:
            async for frames in link.frames():
                await self._carry(link, frames)
        except TransportError as error:
            # This link is beyond mending by itself, for instance a capture that breaks off; the others go on.
            link.failure = str(error)
            _log.error("link.failed", link=link.name, reason=str(error))
        else:
            _log.info("link.ended", link=link.name)

    # --- the way up ------------------------------------------------------------------------------------------------

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
                device = self._devices.get(each.device)
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
                device = self._admit(link, address)
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

    def _admit(self, link: Link, address: int | str | None) -> Device | None:
        """Take in a device the configuration does not list, or say that it is not wanted."""
        reason = ""
        if link.settings.unknown_devices == "reject":
            reason = "unknown-device"
        elif len(link.devices) - len(link.settings.devices) >= MOST_UNKNOWN_DEVICES:
            reason = "too-many-devices"
        if reason:
            if not link.rejects[reason]:
                _log.warning("device.rejected", link=link.name, address=address, reason=reason)
            link.rejects[reason] += 1
            return None
        name = link.name if address is None else f"{link.name}-{address}"
        while name in self._devices:
            name += "-2"
        device = self._devices[name] = link.add(name, address, link.lane)
        _log.info("device.arrived", device=name, link=link.name, profile=link.codec.profile.name)
        return device

    async def publish_ledger(self) -> int:
        """Send the ledger's rows that were not sent yet, and return how many they are.

        Raises:
            BufferUnavailable: not all could be appended; the next time goes on where this one ended.
        """
        return await self._bulletins.publish_ledger()

    def replay_quarantine(self, link: str | None) -> AsyncIterator[dict[str, Any]]:
        """Try the frames of the quarantine once more; see `edge_gateway.quarantine`.

        Args:
            link: only frames of this link; None is all.
        """
        return replay(self._buffer, {each.name: each for each in self._links}, self._admit, link)

    # --- the way down ----------------------------------------------------------------------------------------------

    async def run_command(self, command: Command) -> CommandResult:
        """Bring a command to its device and say how it ended. Never raises."""
        device = self._devices.get(command.device)
        if device is None and command.device == self._name:
            return await self._own_commands.run(command)
        if device is None:
            return CommandResult(
                CommandStatus.INVALID, f"there is no device {command.device!r}; `edge-gateway status` lists them"
            )
        try:
            request = device.link.codec.encode_command(command.name, command.arguments, device.address)
        except CommandInvalid as error:
            return CommandResult(CommandStatus.INVALID, str(error))
        if device.waiting_commands >= MOST_WAITING_COMMANDS:
            return CommandResult(
                CommandStatus.UNREACHABLE, f"{MOST_WAITING_COMMANDS} commands wait for this device; try again later"
            )
        device.waiting_commands += 1
        try:
            async with device.turn:
                result = await device.link.request(request)
        finally:
            device.waiting_commands -= 1
        _log.info(
            "command.done",
            device=command.device,
            command=command.name,
            source=command.source,
            status=result.status.value,
            detail=result.detail,
        )
        return result

    def _run_soon(self, command: Command) -> None:
        """Carry out a rule's command without keeping the link waiting for the answer that comes over it."""

        async def run() -> None:
            await self._report_result(command, await self.run_command(command))

        task = asyncio.create_task(run(), name=f"command {command.name} {command.device}")
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _report_result(self, command: Command, result: CommandResult) -> None:
        values = {"command": command.name, "status": result.status.value, "detail": result.detail}
        if command.correlation_id:
            values["correlation_id"] = command.correlation_id
        time_ns, time_trusted, uptime_ns = stamp(self._clock)
        event = Event(command.device, command.source, "command-result", time_ns, values, time_trusted, uptime_ns)
        device = self._devices.get(command.device)
        await self._intake.put(Batch([event], route="" if device is None else device.route))

    # --- twin ------------------------------------------------------------------------------------------------------

    async def _apply_desired(self, desired: Mapping[str, Any], whole: bool) -> None:
        self._rules.apply_desired(desired, whole=whole)

    def reported(self) -> Mapping[str, Any]:
        """What the twin is told: few properties that change seldom, in keys a twin allows."""
        return {
            "gateway": {"name": self._name, "version": __version__, "key_store": self._keys.kind},
            "links": [{"name": link.name, "up": link.transport.is_up} for link in self._links],
            "devices": len(self._devices),
            "rules": self._rules.reported(),
        }

    def _twin_of(self, name: str) -> SensorTwin:
        """The twin of a sensor with an identity of its own, which may be there or come later."""
        device = self._devices.get(name)
        links = self._links if device is None else [device.link]
        commands = {command for link in links for command in link.codec.profile.commands}
        return SensorTwin(name, commands, self.run_command, lambda: self._reported_of(name))

    def _reported_of(self, name: str) -> Mapping[str, Value]:
        device = self._devices.get(name)
        about: dict[str, Value] = {"gateway": self._name}
        if device is not None:
            about |= {"profile": device.link.codec.profile.name, "link_up": device.link.transport.is_up}
        return about

    # --- status ----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What runs, what is late, what is queued and what became of the rest, as JSON can say it."""
        now_s = asyncio.get_running_loop().time()
        buffer = self._buffer.status()
        uplink = self._delivery.status
        return {
            "gateway": self._name,
            "version": __version__,
            "time": rfc3339(self._clock.now_ns()),
            "time_trusted": self._clock.trusted,
            "uptime_s": round(now_s - self._started_at_s, 3),
            "links": [link.status() for link in self._links],
            "devices": [device.status(now_s) for device in self._devices.values()],
            "queue": buffer.queued,
            "account": {column: getattr(buffer.totals, column) for column in ACCOUNT_COLUMNS},
            "buffer": {"state": buffer.state, "fault": buffer.fault},
            "key_store": {"kind": self._keys.kind, "weakness": self._keys.weakness, "fault": self._keys.fault}
            | self._rotation.status(),
            "uplink": {
                "endpoint": self._uplink.endpoint,
                "connected": uplink.connected,
                "for_s": round(now_s - (uplink.since_s or self._started_at_s), 3),
                "fault": uplink.fault,
                "sessions": uplink.sessions,
                "messages": uplink.messages,
                "records": uplink.records,
                "in_flight": uplink.in_flight,
            },
            "sensors": self._sensors_status(),
            "tamper": self._emergency.status(),
            "alerts": self._rules.raised(),
            "faults": self._faults(
                buffer.fault,
                self._rotation.fault,
                uplink.fault,
                *self._sensors_faults(),
                *self._emergency.faults,
            ),
        }

    def _sensors_status(self) -> dict[str, Any]:
        """How those sensors fare at the hub that have an identity of their own."""
        sums = self._leaves.sums()
        return {
            "identities": sums.leaves,
            "states": dict(sums.states),
            "sessions": sums.sessions,
            "messages": sums.messages,
            "records": sums.records,
        }

    def _sensors_faults(self) -> list[str]:
        told = [f"{name}: {fault}" for name, each in self._leaves.statuses().items() if (fault := each.delivery.fault)]
        if len(told) > MOST_SENSOR_FAULTS:
            more = len(told) - MOST_SENSOR_FAULTS
            told = [*told[:MOST_SENSOR_FAULTS], f"{more} more sensors are not let in by the hub"]
        return told

    def _faults(self, *more: str) -> list[str]:
        of_links = [f"{link.name}: {fault}" for link in self._links if (fault := link.fault)]
        of_counters = dict.fromkeys(fault for link in self._links if link.arrivals and (fault := link.arrivals.fault))
        of_devices = [fault for link in self._links if link.polled is not None for fault in link.polled.faults]
        # A key store that is away has the same to say through the buffer, the hub and each sensor.
        of_keys = self._keys.fault
        others = [each for each in more if each and not (of_keys and of_keys in each)]
        return [*of_links, *of_devices, *of_counters, *([of_keys] if of_keys else []), *others]


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
