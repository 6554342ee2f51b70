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
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from edge_gateway import __version__
from edge_gateway.arrivals import Arrivals
from edge_gateway.buffer import ACCOUNT_COLUMNS, BadFrame, Batch
from edge_gateway.buffer.bulletins import Bulletins
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.intake import Intake
from edge_gateway.clock import Clock, rfc3339, stamp
from edge_gateway.codec import Codec, Decoded, Request
from edge_gateway.config.model import BufferSettings, DeliverySettings, LinkSettings
from edge_gateway.errors import CommandInvalid, LinkEnded, LinkLost, LinkUnavailable, StoreError, TransportError
from edge_gateway.framing import Framer
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.quarantine import replay
from edge_gateway.records import (
    Chunk,
    Command,
    CommandResult,
    CommandStatus,
    Event,
    Reading,
    Value,
    record,
)
from edge_gateway.rules.rule_set import RuleSet
from edge_gateway.transport import Transport
from edge_gateway.uplink import Downlink, Uplink
from edge_gateway.uplink.delivery import Delivery

if TYPE_CHECKING:
    from edge_gateway.polling import PolledLine

_log = structlog.get_logger()

MOST_UNKNOWN_DEVICES: Final = 1_000
"""Devices a link may bring that the configuration does not list; a bus full of noise must not fill the memory."""

MOST_WAITING_COMMANDS: Final = 16
"""Commands one device may have waiting for its turn."""

_LAST_READ_S: Final = 0.5
"""How long a stopping gateway waits for what was read to find room in the intake."""

_LAST_DELIVERY_S: Final = 2.0
"""How long a stopping gateway goes on delivering; with the closing of links and sessions it is gone within 5 s."""


@dataclass(slots=True)
class Device:
    """One sensor behind a link, and what is known of it since the process started."""

    name: str
    address: int | str | None
    link: Link
    lane: str = ""
    """Of the buffer; the configured one for readings if empty."""
    route: str = ""
    """Its own name if the hub knows it by an identity of its own; else empty, and it speaks under the gateway's."""
    readings: int = 0
    missed: int = 0
    """Frames its own sequence says it sent and that never came."""
    expected_sequence: int | None = None
    last: Reading | None = None
    last_at_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a command is carried out: a device does one thing after the other."""
    waiting_commands: int = 0


class Link:
    """One transport with its framing, its profile and the devices behind it.

    Args:
        settings: names, and what to do with a device nobody listed.
        transport: the bytes.
        framer: finds frames in them.
        codec: knows what frames mean.
        polled: asks the devices, where they speak only when asked.
        arrivals: says which samples are new and when they were measured, where the profile does.
        routes: names of devices, here and elsewhere, that have an identity of their own.
    """

    def __init__(
        self,
        settings: LinkSettings,
        transport: Transport,
        framer: Framer,
        codec: Codec,
        polled: PolledLine | None = None,
        arrivals: Arrivals | None = None,
        routes: Container[str] = (),
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.transport = transport
        self.framer = framer
        self.codec = codec
        self.polled = polled
        self.arrivals = arrivals
        self.decode = codec.decode if polled is None else polled.decode
        self.lane = settings.lane or ""
        """Of readings whose device has no other."""
        self._routes = routes
        self.has_places = False
        """Whether some device has a lane or a route of its own."""
        self.devices: dict[int | str | None, Device] = {}
        for device in settings.devices:
            self.add(device.name, device.address, device.lane or self.lane)
        self.rejects: Counter[str] = Counter()
        """Frames that could not become readings, by reason."""
        self.versions: Counter[str] = Counter()
        """Frames of an `older` or a `newer` version than the profile describes, which became readings all the same."""
        self.failure = ""
        """Why this link was given up; empty for all that work or wait for their port."""
        self.is_silent = False
        """Whether the reader waits for bytes; it holds nothing then, and may be ended."""
        self.stopping = False
        """Set to have the reader end after what it has in hand."""
        self.waiting: list[tuple[Request, asyncio.Future[CommandResult]]] = []
        """Commands written to the link whose answer has not come."""

    def add(self, name: str, address: int | str | None, lane: str) -> Device:
        """Take in a device."""
        device = Device(name, address, self, lane, name if name in self._routes else "")
        self.devices[address] = device
        self.has_places |= bool(device.route) or device.lane != self.lane
        return device

    @property
    def fault(self) -> str:
        """Why nothing comes from here, with what to do about it; empty if something may."""
        return self.failure or self.transport.fault

    async def frames(self) -> AsyncIterator[list[bytes]]:
        """Whole frames as they come, many at once if many came; ends when the link does, or after `stopping` is set."""
        silence_s = self.framer.silence_s
        last_byte_s = 0.0
        pending = False
        while not self.stopping:
            try:
                chunks = await self._read(silence_s if pending else None)
            except LinkLost:
                self.framer.reset()
                if self.polled is not None:
                    self.polled.link_lost()
                pending = False
                continue
            except LinkEnded:
                # By the link's own time, which runs ahead of the loop's when a capture is played fast.
                yield self.framer.flush(last_byte_s + (silence_s or 0.0))
                return
            if chunks:
                last_byte_s = chunks[-1].at_s
                frames = self.framer.feed(chunks)
                pending = silence_s is not None
            else:
                frames = self.framer.flush(asyncio.get_running_loop().time())
                pending = False
            if frames:
                yield frames

    async def _read(self, within_s: float | None) -> list[Chunk]:
        """What the transport read; nothing if it was silent for `within_s`."""
        self.is_silent = True
        try:
            if within_s is None:
                return await self.transport.read()
            async with asyncio.timeout(within_s):
                return await self.transport.read()
        except TimeoutError:
            return []
        finally:
            self.is_silent = False

    async def request(self, request: Request) -> CommandResult:
        """Write a command and wait for its answer."""
        try:
            if self.polled is not None:
                return await self.polled.command(request, self.settings.answer_timeout_s)
            return await self._request(request)
        except LinkUnavailable as error:
            return CommandResult(CommandStatus.UNREACHABLE, str(error))
        except LinkLost as error:
            return CommandResult(CommandStatus.NO_ANSWER, str(error))
        except TimeoutError:
            return CommandResult(
                CommandStatus.NO_ANSWER, f"the device did not answer within {self.settings.answer_timeout_s:g} s"
            )

    async def _request(self, request: Request) -> CommandResult:
        answered: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        waiting = (request, answered)
        if request.answer_frame is not None:
            self.waiting.append(waiting)
        try:
            await self.transport.write(self.framer.encode(request.payload))
            if request.answer_frame is None:
                return CommandResult(CommandStatus.SENT)
            async with asyncio.timeout(self.settings.answer_timeout_s):
                return await answered
        finally:
            if waiting in self.waiting:
                self.waiting.remove(waiting)


class Gateway:
    """All rooms together.

    Args:
        name: the gateway's own.
        links: where frames come from; entered and left by `run`.
        rules: the rules in force; desired properties may replace them.
        buffer: already entered; the caller leaves it after `run`.
        uplink: where messages go.
        delivery: how.
        buffer_settings: how much may wait for the disk, and how large a message may be.
        keys: tells how the key store is.
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
        delivery: DeliverySettings,
        buffer_settings: BufferSettings,
        keys: KeyStoreWatch,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._name = name
        self._keys = keys
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
            buffer,
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
        self._started_at_s = 0.0
        self._commands: set[asyncio.Task[None]] = set()

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
                delivery = tasks.create_task(self._delivery.run(), name="delivery")
                bulletins = tasks.create_task(self._bulletins.run(), name="bulletins")
                keys = tasks.create_task(self._keys.run(), name="key store watch")
                readers = [tasks.create_task(self._read(link), name=f"link {link.name}") for link in self._links]
                polls = [
                    tasks.create_task(link.polled.run(), name=f"polls {link.name}")
                    for link in self._links
                    if link.polled is not None
                ]
                _log.info("gateway.started", gateway=self._name, version=__version__, links=len(self._links))
                await stop.wait()

                _log.info("gateway.stopping", gateway=self._name)
                await _end([*polls, bulletins, keys])
                await self._stop_reading(readers)
                await _end([*self._commands])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_DELIVERY_S):
                        await self._intake.drained()
                        self._buffer.drain()
                        await self._buffer.emptied()
                if self._intake.pending:
                    _log.error("gateway.abandoned", records=self._intake.pending, reason=self._buffer.status().fault)
                await _end([delivery, watch])
        status = self._buffer.status()
        _log.info("gateway.stopped", gateway=self._name, queued=sum(status.queued.values()))

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
                    _count_missed(device, sequence, span)
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
            return await self._run_own_command(command)
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

    async def _run_own_command(self, command: Command) -> CommandResult:
        """A command to the gateway itself, under its own name."""
        try:
            match command.name:
                case "publish-ledger":
                    answer: dict[str, Value] = {"rows": await self.publish_ledger()}
                case "rotate-buffer-key":
                    answer = {"key": await self._buffer.rotate_key()}
                case _:
                    return CommandResult(
                        CommandStatus.INVALID,
                        f"a gateway has no command {command.name!r}; publish-ledger and rotate-buffer-key would do",
                    )
        except StoreError as error:
            return CommandResult(CommandStatus.REFUSED, str(error))
        _log.info("gateway.command_done", command=command.name, source=command.source, **answer)
        return CommandResult(CommandStatus.ACKNOWLEDGED, answer=answer)

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
            "links": [_link_status(link) for link in self._links],
            "devices": [_device_status(device, now_s) for device in self._devices.values()],
            "queue": buffer.queued,
            "account": {column: getattr(buffer.totals, column) for column in ACCOUNT_COLUMNS},
            "buffer": {"state": buffer.state, "fault": buffer.fault},
            "key_store": {"kind": self._keys.kind, "weakness": self._keys.weakness, "fault": self._keys.fault},
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
            "alerts": self._rules.raised(),
            "faults": self._faults(buffer.fault, self._keys.fault, uplink.fault),
        }

    def _faults(self, *more: str) -> list[str]:
        of_links = [f"{link.name}: {fault}" for link in self._links if (fault := link.fault)]
        of_counters = dict.fromkeys(fault for link in self._links if link.arrivals and (fault := link.arrivals.fault))
        of_devices = [fault for link in self._links if link.polled is not None for fault in link.polled.faults]
        return [*of_links, *of_devices, *of_counters] + [each for each in more if each]


def _count_missed(device: Device, sequence: int, span: int) -> None:
    """A gap in a device's own numbers is frames it sent in vain; half the span or more is a device that restarted."""
    if device.expected_sequence is not None:
        gap = (sequence - device.expected_sequence) % span
        if gap < span // 2:
            device.missed += gap


def _link_status(link: Link) -> dict[str, Any]:
    return {
        "name": link.name,
        "profile": link.codec.profile.name,
        "up": link.transport.is_up,
        "fault": link.fault,
        **asdict(link.transport.counters),
        **asdict(link.framer.counters),
        "rejects": dict(link.rejects),
        **({"versions": dict(link.versions)} if link.versions else {}),
        **({} if link.polled is None else {"polling": dict(link.polled.counts)}),
        **({} if link.arrivals is None else {"times_unbelieved": link.arrivals.unbelieved}),
    }


def _device_status(device: Device, now_s: float) -> dict[str, Any]:
    asked = None if device.link.polled is None else device.link.polled.devices.get(device.address)
    return {
        "name": device.name,
        "link": device.link.name,
        "profile": device.link.codec.profile.name,
        "readings": device.readings,
        "missed": device.missed,
        "age_s": round(now_s - device.last_at_s, 3) if device.last else None,
        "values": device.last.values if device.last else None,
        **({} if asked is None else {"polls": dict(asked.counts)}),
    }


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
