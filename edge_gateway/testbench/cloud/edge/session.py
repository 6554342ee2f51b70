"""A module or device at the edge hub: its MQTT session, and what the edge hub knows about it beyond a connection.

On the same topics as at IoT Hub, some things are the edge hub's own: messages go to its store and are confirmed when
they are there; a twin is answered from its copy while the hub is out of reach; reported properties are taken at once
and go up later; modules have inputs. The rest it relays: desired properties and methods, and for devices
cloud-to-device messages, which it does not store.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from edge_gateway.testbench.cloud.edge.store import EdgeMessage
from edge_gateway.testbench.cloud.edge.twin import TwinCopy
from edge_gateway.testbench.cloud.edge.upstream import LinkDown, TwinRequestRefused, UpstreamLink
from edge_gateway.testbench.cloud.hub_session import MethodResponse
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.connection import MAX_MESSAGE_BYTES, MqttConnection, RuleBroken
from edge_gateway.testbench.cloud.mqtt.packets import Connect, Publish
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.testbench.cloud.refusals import DeviceNotOnline, LimitExceeded
from edge_gateway.testbench.cloud.topics import (
    DESIRED_PATCHES,
    METHODS,
    REPORTED_PATCH,
    TWIN_GET,
    TWIN_RESPONSES,
    Topics,
    method_request,
    method_response,
    twin_response,
)
from edge_gateway.testbench.cloud.twin import Section, TwinRefused

if TYPE_CHECKING:  # the edge hub makes clients and sessions
    from edge_gateway.testbench.cloud.edge.hub import EdgeHub

_log = structlog.get_logger()

_BAD_REQUEST, _UNAVAILABLE = 400, 503
_MAX_TOPIC_BYTES = 65_535
_LONGEST_ENCODING = 3
"""`/` becomes `%2F`: a property bag written anew may be so many times as long as the client's."""


class EdgeClient:
    """What the edge hub knows about one module or device, connected or not.

    Attributes:
        session: the connection's, while there is one.
        link: to the hub, while the client is connected or something of its has to go up.
        twin: the edge hub's copy.
        kept: the subscriptions of a session that outlives its connection, with their QoS; None if there is none.
    """

    def __init__(self, hub: EdgeHub, name: IdentityName) -> None:
        self.name = name
        self.topics = Topics(name)
        self.session: EdgeSession | None = None
        self.link: UpstreamLink | None = None
        self.twin = TwinCopy()
        self.kept: dict[str, int] | None = None
        self._hub = hub
        self._syncing = asyncio.Lock()
        self._was_up = False

    # edge_upstream.Client

    def link_changed(self) -> None:
        """Catch up when the hub is there again."""
        up = self.link is not None and self.link.connected
        if up and not self._was_up:
            self._hub.spawn(self._catch_up(), f"catch-up-{self.name}")
        self._was_up = up
        self._hub.link_changed()

    def told(self, packet: Publish) -> None:
        """Relay what the hub says; what has no listener any more is lost, or the hub sends it again."""
        if self.session is None:
            return  # it has just gone
        if packet.topic.startswith(DESIRED_PATCHES[:-1]):
            if not self.twin.patch_desired(orjson.loads(packet.payload)):
                self._hub.spawn(self._fetch(), f"fetch-{self.name}")
            self.session.tell(DESIRED_PATCHES, packet.topic, packet.payload)
        elif packet.topic.startswith(METHODS[:-1]):
            self._relay_method(packet, self.session)
        elif self.session.listens_to(self.topics.devicebound):
            delivered = self.session.deliver(self.topics.devicebound, packet.topic, packet.payload)
            delivered.add_done_callback(lambda done: self._confirm(packet, done))

    # What the edge hub asks for

    def open_link(self) -> UpstreamLink:
        """The link to the hub, opened if there is none."""
        if self.link is None:
            self.link = self._hub.upstream.open(self.name, self)
        self.follow_subscriptions()
        return self.link

    def follow_subscriptions(self) -> None:
        """Have the hub tell what the client wants to hear of it."""
        if self.link is None:
            return
        for topic_filter in (DESIRED_PATCHES, METHODS, self.topics.devicebound):
            if self.session is not None and self.session.listens_to(topic_filter):
                self.link.subscribe(topic_filter)
            else:
                self.link.unsubscribe(topic_filter)

    def close_link(self) -> None:
        """Be done with the link to the hub."""
        if self.link is not None:
            self.link.close()
            self.link = None
            self._was_up = False

    async def get_twin(self) -> Section:
        """The twin as the hub has it, or the copy while the hub is out of reach.

        Raises:
            LinkDown: the hub is out of reach, and there is no copy.
            TwinRequestRefused: the hub does not give it, and there is no copy.
        """
        try:
            await self.sync_reported()
            self.twin.refresh(await self._connected_link().get_twin())
        except (LinkDown, TwinRequestRefused):
            if not self.twin.known:
                raise
        return self.twin.document()

    async def sync_reported(self) -> None:
        """Bring reported properties up that wait for it.

        Raises:
            LinkDown: the hub is out of reach; they wait on.
            TwinRequestRefused: the hub does not take them now; they wait on.
        """
        async with self._syncing:
            patch = self.twin.pending
            if not patch:
                return
            try:
                await self._connected_link().patch_reported(patch)
            except TwinRequestRefused as error:
                if error.status != _BAD_REQUEST:
                    raise
                _log.warning("testbench.edge.reported_refused", client=str(self.name))
            self.twin.sent(patch)

    def _connected_link(self) -> UpstreamLink:
        if self.link is None or not self.link.connected:
            raise LinkDown("no connection to the hub", where=str(self.name))
        return self.link

    async def _catch_up(self) -> None:
        """After a time apart: bring up what waits, fetch the twin, and tell the client what it has missed."""
        missed = await self._fetch()
        if missed and self.session is not None:
            topic = f"{DESIRED_PATCHES[:-1]}?$version={missed['$version']}"
            self.session.tell(DESIRED_PATCHES, topic, orjson.dumps(missed))

    async def _fetch(self) -> Section:
        """Make the copy as the hub's twin is; return what desired properties changed by."""
        try:
            await self.sync_reported()
            missed = self.twin.refresh(await self._connected_link().get_twin())
        except (LinkDown, TwinRequestRefused) as error:
            _log.info("testbench.edge.twin_not_fetched", client=str(self.name), reason=error.what)
            return {}
        self._hub.changed()
        return missed

    def _relay_method(self, packet: Publish, session: EdgeSession) -> None:
        name, _, request_id = packet.topic[len(METHODS) - 1 :].partition("/?$rid=")
        answer = session.call_method(name, packet.payload)
        answer.add_done_callback(lambda done: self._relay_answer(request_id, done))

    def _relay_answer(self, request_id: str, done: asyncio.Future[MethodResponse]) -> None:
        if self.link is not None and done.exception() is None:
            status, payload = done.result()
            self.link.publish(f"$iothub/methods/res/{status}/?$rid={request_id}", orjson.dumps(payload))

    def _confirm(self, packet: Publish, done: asyncio.Future[None]) -> None:
        if self.link is not None and done.exception() is None:
            self.link.confirm(packet)


class EdgeSession:
    """See `mqtt.connection.Session` for what the connection asks of it.

    Args:
        hub: whose session it is.
        client: who has been let in.
        connect: the CONNECT by which it came.
        expires_s: the Unix second at which its token ends.

    Raises:
        RuleBroken: the will is for another topic than the client's own events.
    """

    def __init__(self, hub: EdgeHub, client: EdgeClient, connect: Connect, expires_s: int | None) -> None:
        self.client = client
        self.label = str(client.name)
        self.expires_s = expires_s
        self._hub = hub
        self._topics = client.topics
        self._loop = asyncio.get_running_loop()
        self._packet_ids = itertools.cycle(range(1, _MAX_TOPIC_BYTES))
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._requests = itertools.count(1)
        self._method_calls: dict[str, asyncio.Future[MethodResponse]] = {}
        self._will: EdgeMessage | None = None
        """What is received if the client goes without DISCONNECT."""
        if (will := connect.will) is not None:
            if not self._is_event(will.topic):
                raise RuleBroken("will for another topic than the client's own events")
            message = self._message(will.topic, will.payload)
            self._will = message._replace(properties={**message.properties, "iothub-MessageType": "Will"})
        self.session_present = client.kept is not None and not connect.clean_session
        self._subscriptions: dict[str, int] = (client.kept or {}) if self.session_present else {}
        client.kept = None if connect.clean_session else self._subscriptions

    # mqtt.connection.Session

    def opened(self, connection: MqttConnection) -> None:
        """Take over from an older connection of the same client."""
        self._connection = connection
        if self.client.session is not None:
            self.client.session.drop("connected again")
        self.client.session = self
        self._hub.client_connected(self.client)

    def published(self, packet: Publish) -> None:
        """Take a message, a twin request or a method's answer."""
        topic = packet.topic
        if self._is_event(topic):
            message = self._message(topic, packet.payload, retain=packet.retain, dup=packet.dup)
            try:
                self._hub.take(message)
            except LimitExceeded as error:  # not confirmed, so that the client sends it again
                raise RuleBroken(error.what) from None
            self._connection.confirm(packet)
        elif topic.startswith(TWIN_GET):
            self._connection.confirm(packet)
            self._hub.spawn(self._answer_twin_get(topic.removeprefix(TWIN_GET)), f"twin-{self.label}")
        elif topic.startswith(REPORTED_PATCH):
            self._connection.confirm(packet)
            self._patch_reported(topic.removeprefix(REPORTED_PATCH), packet.payload)
        elif (answer := method_response(topic)) is not None:
            self._connection.confirm(packet)
            self._answer_method(*answer, packet.payload)
        else:
            raise RuleBroken(f"publish to {topic}")

    def confirmed(self, packet_id: int) -> None:
        """Be done with what was delivered under this id."""
        delivered = self._unconfirmed.pop(packet_id, None)
        if delivered is not None and not delivered.done():
            delivered.set_result(None)

    def subscribed(self, topic_filter: str, qos: int) -> int | None:
        """Grant the client's own topics, at most with QoS 1."""
        if topic_filter not in self._topics.subscriptions:
            return None
        self._subscriptions[topic_filter] = min(qos, 1)
        return min(qos, 1)

    def after_suback(self) -> None:
        """Ask the hub for what is relayed, and let waiting messages come."""
        self.client.follow_subscriptions()
        self._hub.subscriptions_changed(self.client)

    def unsubscribed(self, topic_filter: str) -> None:
        """Relay no more of it."""
        self._subscriptions.pop(topic_filter, None)
        self.client.follow_subscriptions()

    def closed(self, *, orderly: bool) -> None:
        """Give up on what was not confirmed or answered; what has to arrive waits in the store or at the hub."""
        left: list[asyncio.Future[Any]] = [*self._unconfirmed.values(), *self._method_calls.values()]
        for waiting in left:
            if not waiting.done():
                waiting.set_exception(DeviceNotOnline("it left without an answer", where=self.label))
        if self._will is not None and not orderly:
            self._hub.take_if_room(self._will)
        if self.client.session is self:
            self.client.session = None
            self._hub.client_gone(self.client)

    # What the edge hub asks for

    def listens_to(self, topic_filter: str) -> bool:
        """Whether the client has subscribed."""
        return topic_filter in self._subscriptions

    @property
    def inputs_filter(self) -> str | None:
        """The filter by which a module hears of its inputs; None if it does not."""
        every = f"{self.client.name.path}/#"
        return next((each for each in (self._topics.inputs, every) if each in self._subscriptions), None)

    def drop(self, reason: str) -> None:
        """Cut the connection without a word to the client."""
        self._connection.drop(reason)

    def tell(self, topic_filter: str, topic: str, payload: bytes) -> None:
        """Send to a subscriber, at most once; nothing happens if it is none."""
        if topic_filter in self._subscriptions:
            self._connection.publish(topic, payload)
            self._connection.flush()

    def deliver(self, topic_filter: str, topic: str, payload: bytes, *, again: bool = False) -> asyncio.Future[None]:
        """Send to a subscriber; the future is done when it has confirmed, or is DeviceNotOnline.

        Args:
            topic_filter: by which the client has subscribed.
            topic: of the message.
            payload: of the message.
            again: it may have been sent before.
        """
        delivered: asyncio.Future[None] = self._loop.create_future()
        if self._subscriptions.get(topic_filter):
            packet_id = next(self._packet_ids)
            self._unconfirmed[packet_id] = delivered
            self._connection.publish(topic, payload, qos=1, packet_id=packet_id, dup=again)
        else:
            self._connection.publish(topic, payload)
            delivered.set_result(None)
        self._connection.flush()
        return delivered

    def call_method(self, name: str, payload: bytes) -> asyncio.Future[MethodResponse]:
        """Call a direct method; the future has the answer, or DeviceNotOnline."""
        request_id = f"{next(self._requests):x}"
        answer = self._method_calls[request_id] = self._loop.create_future()
        answer.add_done_callback(lambda _: self._method_calls.pop(request_id, None))
        self.tell(METHODS, method_request(name, request_id), payload)
        return answer

    # How

    def _is_event(self, topic: str) -> bool:
        return topic.startswith(self._topics.events) or topic == self._topics.events[:-1]

    def _message(self, topic: str, payload: bytes, *, retain: bool = False, dup: bool = False) -> EdgeMessage:
        try:
            properties, system = self._topics.properties(topic)
        except ValueError:
            raise RuleBroken("property bag is not percent-encoded UTF-8") from None
        properties |= {name: "true" for name, marked in (("mqtt-retain", retain), ("mqtt-dup", dup)) if marked}
        name = self.client.name
        system["connection-device-id"] = name.device_id
        if name.module_id:
            system["connection-module-id"] = name.module_id
        message = EdgeMessage(name, properties, system, payload)
        if message.size_bytes > MAX_MESSAGE_BYTES:
            raise RuleBroken(f"message of {message.size_bytes} bytes")
        if len(topic) * _LONGEST_ENCODING > _MAX_TOPIC_BYTES - 512:
            bag_bytes = len(format_property_bag(properties, system))
            if bag_bytes > _MAX_TOPIC_BYTES - 512:
                raise RuleBroken(f"properties of {bag_bytes} bytes")
        return message

    def _answer_method(self, status: int, request_id: str, payload: bytes) -> None:
        try:
            response = MethodResponse(status, orjson.loads(payload) if payload else None)
        except orjson.JSONDecodeError:
            raise RuleBroken("method response is not JSON") from None
        call = self._method_calls.get(request_id)
        if call is not None and not call.done():
            call.set_result(response)

    async def _answer_twin_get(self, request_id: str) -> None:
        try:
            document = await self.client.get_twin()
        except (LinkDown, TwinRequestRefused) as error:
            status = error.status if isinstance(error, TwinRequestRefused) else _UNAVAILABLE
            self._refuse_twin(status, request_id, error.what)
        else:
            self.tell(TWIN_RESPONSES, twin_response(200, request_id), orjson.dumps(document))

    def _patch_reported(self, request_id: str, payload: bytes) -> None:
        try:
            patch = orjson.loads(payload)
            self.client.twin.patch_reported(patch)
        except (orjson.JSONDecodeError, TwinRefused) as error:
            self._refuse_twin(_BAD_REQUEST, request_id, str(error))
        else:
            self.tell(TWIN_RESPONSES, twin_response(204, request_id), b"")
            self._hub.reported_changed(self.client, payload)

    def _refuse_twin(self, status: int, request_id: str, reason: str) -> None:
        failure = {
            "errorCode": status,
            "trackingId": request_id,
            "message": reason,
            "timestampUtc": self._hub.now_text(),
        }
        self.tell(TWIN_RESPONSES, twin_response(status, request_id), orjson.dumps(failure))
