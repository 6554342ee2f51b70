"""The hallway: joins the rooms in the order the data walks through them, starts them, and shuts them down.

```
transport.read -> framer.feed -> codec.decode -> readings -> rules -> intake -> buffer -> delivery -> hub
      ^                                                        |                              |
      +---- framer.encode <---- codec.encode_command <---------+------------- commands -------+
```

Devices that speak only when asked are asked by a `PolledLine`, which then stands between framer and codec in both
directions.

`way_up.py` has what is above, up to the intake, and `way_down.py` what is below. Nothing waits for the hub: links are
read from the start, and what cannot be delivered lies in the buffer.

There is one way down, taken on SIGTERM: stop reading, make durable what was read, deliver for a moment what is queued,
close. What is still queued then is delivered after the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from edge_gateway import __version__
from edge_gateway.buffer import Batch, Outlet
from edge_gateway.buffer.bulletins import Bulletins
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.buffer.intake import Intake
from edge_gateway.buffer.joined import JoinedOutlet
from edge_gateway.clock import Clock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.emergency import Emergency
from edge_gateway.gateway_status import GatewayStatus
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.link import Link
from edge_gateway.own_commands import OwnCommands
from edge_gateway.provisioning.rotation import KeyRotation
from edge_gateway.quarantine import replay
from edge_gateway.records import Event, Value
from edge_gateway.roster import Roster
from edge_gateway.rules.rule_set import RuleSet
from edge_gateway.sensor_twin import SensorTwin
from edge_gateway.transport import Transport
from edge_gateway.uplink import Downlink, Uplink
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafSessions
from edge_gateway.way_down import WayDown
from edge_gateway.way_up import WayUp

_log = structlog.get_logger()

_MOST_NAMED: Final = 10
"""Sensors that one line of the log names."""

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
        self._links = links
        self._rules = rules
        self._buffer = buffer
        self._event_lane = buffer_settings.event_lane
        self._keys = keys
        self._rotation = rotation
        self._emergency = emergency
        self._roster = Roster(links)
        self._intake = Intake(buffer, buffer_settings.pending_records)
        self._bulletins = Bulletins(
            name, buffer, clock, links=[link.name for link in links], most_bytes=buffer_settings.max_message_bytes
        )
        own_commands = OwnCommands(
            publish_ledger=self.publish_ledger,
            rotate_buffer_key=buffer.rotate_key,
            rotation=rotation,
            emergency=emergency,
        )
        self._down = WayDown(name, own_commands, self._roster, self._intake, clock)
        self._up = WayUp(self._roster, rules, self._intake, clock, self._down.run_soon)
        self._delivery = Delivery(
            uplink,
            self._own_outlet(sensors),
            Downlink(
                run_command=self._down.run,
                report_result=self._down.report_result,
                apply_desired=self._apply_desired,
                reported=self.reported,
            ),
            delivery,
            rng,
        )
        self._twins = {name: self._twin_of(name) for name in sensors.uplinks}
        self._leaves = LeafSessions(
            [
                Leaf(
                    name,
                    sensor,
                    buffer.route(name),
                    Downlink(
                        self._down.run, self._down.report_result, self._twins[name].apply, self._twins[name].reported
                    ),
                    hold=sensors.hold,
                )
                for name, sensor in sensors.uplinks.items()
            ],
            sensors.delivery,
            sensors.limits,
            rng,
        )
        self._status = GatewayStatus(
            name=name,
            endpoint=uplink.endpoint,
            links=links,
            roster=self._roster,
            rules=rules,
            buffer=buffer,
            delivery=self._delivery,
            leaves=self._leaves,
            keys=keys,
            rotation=rotation,
            emergency=emergency,
            clock=clock,
        )
        self._deliveries: list[asyncio.Task[None]] = []
        self._started_at_s = 0.0

    def _own_outlet(self, sensors: SensorUplinks) -> Outlet:
        """What the gateway delivers itself: all that no sensor's own session does."""
        left = sorted(self._buffer.queued_routes() - sensors.uplinks.keys() - {""})
        if not left:
            return self._buffer
        _log.info("sensors.spoken_for", sensors=left[:_MOST_NAMED], count=len(left))
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
        async with _open([link.transport for link in self._links]), asyncio.TaskGroup() as tasks:
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
            readers = [tasks.create_task(self._up.read(link), name=f"link {link.name}") for link in self._links]
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
            await _end(self._down.running())
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

    # --- what others ask for ---------------------------------------------------------------------------------------

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
        return replay(self._buffer, {each.name: each for each in self._links}, self._roster.admit, link)

    def status(self) -> dict[str, Any]:
        """What runs, what is late, what is queued and what became of the rest, as JSON can say it."""
        return self._status.told(self._started_at_s)

    # --- twins -----------------------------------------------------------------------------------------------------

    async def _apply_desired(self, desired: Mapping[str, Any], whole: bool) -> None:
        self._rules.apply_desired(desired, whole=whole)

    def reported(self) -> Mapping[str, Any]:
        """What the twin is told: few properties that change seldom, in keys a twin allows."""
        return {
            "gateway": {"name": self._name, "version": __version__, "key_store": self._keys.kind},
            "links": [{"name": link.name, "up": link.transport.is_up} for link in self._links],
            "devices": len(self._roster),
            "rules": self._rules.reported(),
        }

    def _twin_of(self, name: str) -> SensorTwin:
        """The twin of a sensor with an identity of its own, which may be there or come later."""
        device = self._roster.get(name)
        links = self._links if device is None else [device.link]
        commands = {command for link in links for command in link.codec.profile.commands}
        return SensorTwin(name, commands, self._down.run, lambda: self._reported_of(name))

    def _reported_of(self, name: str) -> Mapping[str, Value]:
        device = self._roster.get(name)
        about: dict[str, Value] = {"gateway": self._name}
        if device is not None:
            about |= {"profile": device.link.codec.profile.name, "link_up": device.link.transport.is_up}
        return about


@asynccontextmanager
async def _open(transports: Sequence[Transport]) -> AsyncIterator[None]:
    """Enter transports one after the other, and leave them together, as each may wait for its last output.

    Raises:
        TransportError: one can never be opened; those before it are left.
    """
    opened: list[Transport] = []
    try:
        for transport in transports:
            await transport.__aenter__()
            opened.append(transport)
        yield
    finally:
        ends = [transport.__aexit__(None, None, None) for transport in opened]
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                raise error


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
