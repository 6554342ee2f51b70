"""An edge device's way up to its hub, with a switch: for each identity behind it an MQTT client of the hub's.

An edge hub connects to IoT Hub under the identities of its modules and of the devices behind it. So does this: every
`UpstreamLink` speaks MQTT with the hub's own session code, through memory in place of TCP and TLS. The hub sees a
client like any other, and its rules hold, throttling and takeovers included. Only the way in is short: links sign with
the hub's `device` policy, which may act as any device, because an edge hub does not have its clients' keys.

`Upstream.go_offline` cuts all links and keeps them cut. What the hub took and had not confirmed by then is not known to
have arrived, and is sent again. `Upstream.faults` are those of a front door: delay, loss, confirmations withheld.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import orjson
import structlog
from cryptography import x509

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.edge.store import EdgeMessage
from edge_gateway.testbench.cloud.faults import Faults
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection, Session
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Packet,
    PacketReader,
    Pingreq,
    Puback,
    Publish,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.testbench.cloud.tokens import sas_token
from edge_gateway.testbench.cloud.topics import REPORTED_PATCH, TWIN_GET, TWIN_RESPONSES
from edge_gateway.testbench.cloud.twin import Section

_log = structlog.get_logger()

_TOKEN_LIFETIME_S: Final = 24 * 3600
_PING_EVERY_S: Final = 600.0
"""A hub cuts who is silent for half an hour."""
_RETRY_AFTER_S: Final = 5.0
"""After the hub has turned an identity away: it may be enabled again."""
_RECONNECT_AFTER_S: Final = 0.1
"""After a link was cut: at once would be a fight with whoever took its place."""
_ANSWER_WITHIN_S: Final = 30.0
_STATUS_REFUSED: Final = 300
_GOES_UP: Final = frozenset(
    {
        "message-id",
        "correlation-id",
        "user-id",
        "content-type",
        "content-encoding",
        "to",
        "creation-time-utc",
        "message-schema",
        "dt-subject",
        "interface-id",
    }
)
"""System properties an edge hub passes on to IoT Hub; an output's name, for one, stays below."""


_Answer = TypeVar("_Answer")


class LinkDown(BenchError):
    """A link to the hub is not there, or went before the hub answered. What was sent may have arrived."""


class TwinRequestRefused(BenchError):
    """The hub has answered a twin request with an error.

    Args:
        status: as HTTP has them.
        where: whose twin.
    """

    def __init__(self, status: int, where: str) -> None:
        super().__init__(f"the hub has answered a twin request with {status}", where=where)
        self.status = status


class Client(Protocol):
    """For whom a link is: it is told what comes down."""

    def link_changed(self) -> None:
        """The link is connected, with its subscriptions, or lost, or turned away."""

    def told(self, packet: Publish) -> None:
        """The hub published something that is no answer to a twin request."""


class Upstream:
    """The way up. A link is made for every identity that needs one.

    Args:
        hub: where it leads.
        clock: wall time, by which tokens end.
    """

    def __init__(self, hub: LocalHub, clock: Clock) -> None:
        self.hub = hub
        self.clock = clock
        self.faults = Faults()
        self.online = True
        self._links: dict[IdentityName, UpstreamLink] = {}

    def go_offline(self) -> None:
        """Cut every link, and make none until `go_online`."""
        if self.online:
            self.online = False
            _log.info("testbench.edge.offline", links=len(self._links))
            for link in list(self._links.values()):
                link.cut("offline")

    def go_online(self) -> None:
        """Connect again."""
        if not self.online:
            self.online = True
            _log.info("testbench.edge.online", links=len(self._links))
            for link in list(self._links.values()):
                link.connect()

    def open(self, name: IdentityName, client: Client) -> UpstreamLink:
        """Connect under an identity, now or when the way is online; again after each loss, until the link is closed."""
        link = UpstreamLink(self, name, client)
        self._links[name] = link
        link.connect()
        return link

    def close(self) -> None:
        """Close all links."""
        for link in list(self._links.values()):
            link.close()

    def forget(self, link: UpstreamLink) -> None:
        """A link is closed."""
        if self._links.get(link.name) is link:
            del self._links[link.name]

    # mqtt.connection.Reception

    def admit(self, connect: Connect, connection: MqttConnection) -> Session:
        """Hand a link's CONNECT to the hub."""
        return self.hub.admit(connect, connection)

    def arrived(self, connection: MqttConnection) -> None:
        """A link keeps its own connection."""

    def gone(self, connection: MqttConnection) -> None:
        """A link notices by itself."""

    def denied(self) -> None:
        """A link notices by CONNACK."""

    def violated(self) -> None:
        """A link notices that it was cut."""

    def changed(self) -> None:
        """Have those look who wait at the hub."""
        self.hub.changed()


class UpstreamLink:
    """One identity's connection to the hub. Made by `Upstream.open`.

    Attributes:
        name: whose.
        connected: the hub has let it in.
        refused: the hub has turned the identity away; it is tried again later.
    """

    def __init__(self, upstream: Upstream, name: IdentityName, client: Client) -> None:
        self.name = name
        self.connected = False
        self.refused = False
        self._upstream = upstream
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._events = f"{name.path}/messages/events/"
        self._subscriptions: dict[str, None] = {TWIN_RESPONSES: None}
        self._packet_ids = itertools.cycle(range(1, 0xFFFF))
        self._requests = itertools.count(1)
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._unanswered: dict[str, asyncio.Future[bytes]] = {}
        self._pipe: _Pipe | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # What the edge hub asks for

    def connect(self) -> None:
        """Connect if the way is online. Nothing happens if it is connected already."""
        if self._closed or not self._upstream.online or self._pipe is not None:
            return
        self._stop_timer()
        self._pipe = _Pipe(self._upstream, self._received, self._lost)
        hub, clock = self._upstream.hub, self._upstream.clock
        policy = hub.policies["device"]
        expires_s = clock.now_ns() // NS_PER_S + _TOKEN_LIFETIME_S
        token = sas_token(f"{hub.host_name}/{self.name.path}", policy.primary_key, expires_s, policy=policy.name)
        username = f"{hub.host_name}/{self.name}/?api-version=2021-04-12&DeviceClientType=edge-hub"
        self._send(Connect(str(self.name), username=username, password=token.encode()))

    def close(self) -> None:
        """Be done. A closed link is not opened again."""
        self._closed = True
        self.cut("closed")
        self._upstream.forget(self)

    def cut(self, reason: str) -> None:
        """Cut the connection. It comes back by itself if the way is online."""
        self._stop_timer()
        if self._pipe is not None:
            self._pipe.cut(reason)

    async def send(self, message: EdgeMessage) -> None:
        """Send a message as the link's identity; return when the hub has confirmed it.

        Raises:
            LinkDown: the hub has not confirmed it, whether it took it or not.
        """
        system = {name: text for name, text in message.system_properties.items() if name in _GOES_UP}
        topic = self._events + format_property_bag(message.properties, system)
        await self._publish(topic, message.body)

    async def get_twin(self) -> dict[str, Section]:
        """Ask for the twin: `desired` and `reported`, each with its `$version`.

        Raises:
            LinkDown: no answer came.
            TwinRequestRefused: the hub did not give it.
        """
        document: dict[str, Section] = orjson.loads(await self._request(TWIN_GET, b""))
        return document

    async def patch_reported(self, patch: Section) -> None:
        """Change reported properties.

        Raises:
            LinkDown: no answer came, whether they are changed or not.
            TwinRequestRefused: the hub did not take the patch.
        """
        await self._request(REPORTED_PATCH, orjson.dumps(patch))

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish at most once; nothing happens while the link is down."""
        if self.connected:
            self._send(Publish(topic, payload))

    def confirm(self, packet: Publish) -> None:
        """Tell the hub that what it published is delivered."""
        if packet.qos and self.connected:
            self._send(Puback(packet.packet_id))

    def subscribe(self, topic_filter: str) -> None:
        """Have the client told what the hub publishes there, over reconnects."""
        if topic_filter not in self._subscriptions:
            self._subscriptions[topic_filter] = None
            if self.connected:
                self._send(Subscribe(next(self._packet_ids), (Subscription(topic_filter, 1),)))

    def unsubscribe(self, topic_filter: str) -> None:
        """End a subscription."""
        if topic_filter in self._subscriptions:
            del self._subscriptions[topic_filter]
            if self.connected:
                self._send(Unsubscribe(next(self._packet_ids), (topic_filter,)))

    # MQTT

    async def _publish(self, topic: str, payload: bytes) -> None:
        self._check_connected()
        packet_id = next(self._packet_ids)
        confirmed = self._unconfirmed[packet_id] = self._loop.create_future()
        self._send(Publish(topic, payload, 1, packet_id))
        try:
            await self._answered(confirmed)
        finally:
            self._unconfirmed.pop(packet_id, None)

    async def _request(self, prefix: str, payload: bytes) -> bytes:
        self._check_connected()
        request_id = f"{next(self._requests):x}"
        answer = self._unanswered[request_id] = self._loop.create_future()
        self._send(Publish(prefix + request_id, payload))
        try:
            return await self._answered(answer)
        finally:
            self._unanswered.pop(request_id, None)

    async def _answered(self, answer: asyncio.Future[_Answer]) -> _Answer:
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await answer
        except TimeoutError:
            self.cut("no answer")
            raise _down(self.name) from None

    def _check_connected(self) -> None:
        if not self.connected:
            raise _down(self.name)

    def _send(self, packet: Packet) -> None:
        if self._pipe is not None:
            self._pipe.send(packet.encode())

    def _received(self, packet: Packet) -> None:
        match packet:
            case Connack(return_code=0):
                self.connected, self.refused = True, False
                wanted = tuple(Subscription(topic_filter, 1) for topic_filter in self._subscriptions)
                self._send(Subscribe(next(self._packet_ids), wanted))
                self._timer = self._loop.call_later(_PING_EVERY_S, self._ping)
                self._client.link_changed()
            case Connack():
                self.refused = True
                _log.warning("testbench.edge.refused", client=str(self.name))
                self._client.link_changed()
            case Puback():
                confirmed = self._unconfirmed.get(packet.packet_id)
                if confirmed is not None and not confirmed.done():
                    confirmed.set_result(None)
            case Publish() if packet.topic.startswith(TWIN_RESPONSES[:-1]):
                self._answer(packet)
            case Publish():
                self._client.told(packet)
            case _:
                pass  # SUBACK, UNSUBACK and PINGRESP tell nothing new

    def _answer(self, packet: Publish) -> None:
        status, _, rest = packet.topic[len(TWIN_RESPONSES) - 1 :].partition("/?$rid=")
        answer = self._unanswered.get(rest.partition("&")[0])
        if answer is None or answer.done():
            return  # it came after the time for it
        if int(status) >= _STATUS_REFUSED:
            answer.set_exception(TwinRequestRefused(int(status), str(self.name)))
        else:
            answer.set_result(packet.payload)

    def _ping(self) -> None:
        self._send(Pingreq())
        self._timer = self._loop.call_later(_PING_EVERY_S, self._ping)

    def _lost(self) -> None:
        self._pipe = None
        self._stop_timer()
        was_connected, self.connected = self.connected, False
        waiting: list[asyncio.Future[Any]] = [*self._unconfirmed.values(), *self._unanswered.values()]
        for answer in waiting:
            if not answer.done():
                answer.set_exception(_down(self.name))
        if self._upstream.online and not self._closed:
            after_s = _RECONNECT_AFTER_S if was_connected else _RETRY_AFTER_S
            self._timer = self._loop.call_later(after_s, self.connect)
        if was_connected:
            self._client.link_changed()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _down(name: IdentityName) -> LinkDown:
    return LinkDown("no connection to the hub", where=str(name), remedy="It is sent again when there is one")


class _Pipe(asyncio.Transport):
    """Memory in place of a socket, between a link and the hub's end of its connection.

    What one side writes, the other reads in a later turn of the event loop: neither is called while it is at work.

    Args:
        upstream: where the hub's end comes in.
        received: called with each packet from the hub.
        lost: called once when the connection is over.
    """

    def __init__(self, upstream: Upstream, received: Callable[[Packet], None], lost: Callable[[], None]) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._received, self._lost = received, lost
        self._reader = PacketReader()
        self._up: list[bytes] = []
        self._over = self._cut = False
        self._far_end = MqttConnection(upstream, upstream.clock, _no_certificates)
        self._far_end.connection_made(self)

    def send(self, data: bytes) -> None:
        """Write towards the hub."""
        if not self._up:
            self._loop.call_soon(self._deliver)
        self._up.append(data)

    def cut(self, reason: str) -> None:
        """End the connection from the link's side; what was on its way down is lost."""
        if not self._over:
            self._cut = True
            self._far_end.drop(reason)
            self._lost()

    def _deliver(self) -> None:
        data = b"".join(self._up)
        self._up.clear()
        if not self._over:
            self._far_end.data_received(data)

    # asyncio.Transport, for the hub's end

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._loop.call_soon(self._hand_down, bytes(data))

    def close(self) -> None:
        self._loop.call_soon(self.abort)  # what was written before is read first

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._loop.call_soon(self._end)

    def is_closing(self) -> bool:
        return self._over

    def pause_reading(self) -> None:
        """Memory does not back up."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def _hand_down(self, data: bytes) -> None:
        if self._over:
            return  # lost on the way, as it may happen to a confirmation
        for packet in self._reader.feed(data):
            self._received(packet)

    def _end(self) -> None:
        self._far_end.connection_lost(None)
        if not self._cut:
            self._lost()


def _no_certificates(_: asyncio.BaseTransport) -> Sequence[x509.Certificate]:
    return ()
