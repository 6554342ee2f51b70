"""A device's or module's MQTT session at the local IoT Hub: what it says on which topic, and what it is told.

A session ends with its connection. What outlives it, the twin and the queue of cloud-to-device messages, is in the
hub's record of the device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from edge_gateway.clock import rfc3339
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.cloud_messages import LOCK_S, CloudMessage, Outcome
from edge_gateway.testbench.cloud.hub_devices import DeviceRecord
from edge_gateway.testbench.cloud.identity import Identity
from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection, RuleBroken
from edge_gateway.testbench.cloud.mqtt.packets import Connect, Publish
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.testbench.cloud.refusals import DeviceNotOnline, LimitExceeded, QuotaExceeded, Throttled
from edge_gateway.testbench.cloud.throttle import Operation
from edge_gateway.testbench.cloud.topics import (
    DESIRED_PATCHES,
    METHODS,
    REPORTED_PATCH,
    TWIN_GET,
    TWIN_RESPONSES,
    Topics,
    desired_patch,
    method_request,
    method_response,
    twin_response,
)
from edge_gateway.testbench.cloud.twin import TwinRefused
from edge_gateway.testbench.receiver import ReceivedMessage

if TYPE_CHECKING:  # the hub makes sessions
    from edge_gateway.testbench.cloud.hub import LocalHub

_AFTER_LOCK_S = 0.1
"""Timers fire a little early; a lock that has not ended yet would be left for another minute."""


class MethodResponse(NamedTuple):
    """A device's answer to a direct method."""

    status: int
    payload: Value


class HubSession:
    """See `mqtt.connection.Session` for what the connection asks of it.

    Args:
        hub: whose session it is.
        identity: who has been let in.
        record: what the hub knows about it.
        connect: the CONNECT by which it came.
        expires_s: the Unix second at which its token ends.
        model_id: what the client says it is a kind of; empty if nothing.

    Raises:
        RuleBroken: the will is for another topic than the client's own events.
    """

    def __init__(
        self,
        hub: LocalHub,
        identity: Identity,
        record: DeviceRecord,
        connect: Connect,
        expires_s: int | None,
        model_id: str,
    ) -> None:
        self.identity = identity
        self.label = str(identity.name)
        self.expires_s = expires_s
        self._hub = hub
        self._record = record
        self._topics = Topics(identity.name)
        self._loop = asyncio.get_running_loop()
        self._clean = connect.clean_session
        self._subscriptions: dict[str, int] = {}
        self._unconfirmed: dict[int, CloudMessage] = {}
        self._method_calls: dict[str, asyncio.Future[MethodResponse]] = {}
        self._redelivery: asyncio.TimerHandle | None = None
        self._stamps = hub.stamps(identity, x509=expires_s is None, model_id=model_id)
        self._will: ReceivedMessage | None = None
        """What is received if the client goes without DISCONNECT."""
        if (will := connect.will) is not None:
            if not will.topic.startswith(self._topics.events):
                raise RuleBroken("will for another topic than the device's events")
            message = self._message(will.topic, will.payload, will.retain)
            self._will = message._replace(properties={**message.properties, "iothub-MessageType": "Will"})
        self.session_present = record.session_kept and not self._clean
        record.session_kept = not self._clean
        if self.session_present:
            self._subscriptions |= record.kept_subscriptions
        self._keep_session()

    # mqtt.connection.Session

    def opened(self, connection: MqttConnection) -> None:
        """Take over from an older connection of the same device, and send what waited."""
        self._connection = connection
        if self._record.session is not None:
            self._hub.statistics.taken_over += 1
            self._record.session.drop("connected again")
        self._record.session = self
        self._record.state_changed_ns = self._hub.now_ns()
        self._hub.statistics.connections += 1
        self._send_queued()

    def published(self, packet: Publish) -> None:
        """Telemetry, a twin request, or the answer to a direct method."""
        topic = packet.topic
        if topic.startswith(self._topics.events):
            self._receive(packet)
        elif topic.startswith(TWIN_GET):
            self._connection.confirm(packet)
            self._answer_twin_get(topic.removeprefix(TWIN_GET))
        elif topic.startswith(REPORTED_PATCH):
            self._connection.confirm(packet)
            self._patch_reported(topic.removeprefix(REPORTED_PATCH), packet.payload)
        elif (answer := method_response(topic)) is not None:
            self._connection.confirm(packet)
            self._answer_method(*answer, packet.payload)
        else:
            raise RuleBroken(f"publish to {topic}")

    def confirmed(self, packet_id: int) -> None:
        """The device has taken a cloud-to-device message."""
        message = self._unconfirmed.pop(packet_id, None)
        if message is not None:
            self._record.c2d.end(message, Outcome.SUCCESS)

    def subscribed(self, topic_filter: str, qos: int) -> int | None:
        """Grant the documented filters of the client's own, at most QoS 1."""
        if topic_filter not in self._topics.subscriptions:
            return None
        self._subscriptions[topic_filter] = min(qos, 1)
        self._keep_session()
        return min(qos, 1)

    def after_suback(self) -> None:
        """Send what waited for the device to listen."""
        self._send_queued()

    def unsubscribed(self, topic_filter: str) -> None:
        """Send nothing more on a filter."""
        self._subscriptions.pop(topic_filter, None)
        self._keep_session()

    def closed(self, *, orderly: bool) -> None:
        """Leave the record, let unconfirmed messages wait again, and publish the will if it is due."""
        if self._redelivery is not None:
            self._redelivery.cancel()
        if self._record.session is self:
            self._record.session = None
            self._record.state_changed_ns = self._hub.now_ns()
        for message in self._unconfirmed.values():
            self._record.c2d.release(message)
        for answer in list(self._method_calls.values()):
            if not answer.done():
                answer.set_exception(DeviceNotOnline("the device left without an answer", where=self.label))
        if self._will is not None and not orderly:
            now_s, now_ns = self._loop.time(), self._hub.now_ns()
            self._hub.receive(self._will._replace(received_s=now_s, enqueued_ns=now_ns))

    # What the hub asks for

    def listens_to(self, topic_filter: str) -> bool:
        """Whether the client has subscribed."""
        return topic_filter in self._subscriptions

    def drop(self, reason: str) -> None:
        """Cut the connection without a word to the client."""
        self._connection.drop(reason)

    def notify_desired(self, patch: Mapping[str, Any], version: int) -> None:
        """Tell the client of changed desired properties, at most once."""
        self._tell(DESIRED_PATCHES, desired_patch(version), orjson.dumps({**patch, "$version": version}))
        self._connection.flush()

    def request_method(self, request_id: str, name: str, body: bytes) -> asyncio.Future[MethodResponse]:
        """Call a direct method; the future has the answer, or DeviceNotOnline."""
        answer = self._method_calls[request_id] = self._loop.create_future()
        answer.add_done_callback(lambda _: self._method_calls.pop(request_id, None))
        self._tell(METHODS, method_request(name, request_id), body)
        self._connection.flush()
        return answer

    def send_c2d(self) -> None:
        """Send what waits for the device if it listens."""
        self._send_queued()
        self._connection.flush()

    # Device to cloud

    def _receive(self, packet: Publish) -> None:
        message = self._message(packet.topic, packet.payload, packet.retain)
        throttle = self._hub.throttle
        try:
            throttle.count_message(len(packet.payload) + len(packet.topic), self.label)
        except QuotaExceeded as error:
            raise RuleBroken(error.what) from None
        self._hub.receive(message)
        wait_s = throttle.shape(Operation.D2C)
        if wait_s:
            self._loop.call_later(wait_s, self._confirm_late, packet)
        else:
            self._connection.confirm(packet)

    def _confirm_late(self, packet: Publish) -> None:
        self._connection.confirm(packet)
        self._connection.flush()

    def _message(self, topic: str, payload: bytes, retain: bool) -> ReceivedMessage:
        try:
            properties, system = self._topics.properties(topic)
        except ValueError:
            raise RuleBroken("property bag is not percent-encoded UTF-8") from None
        if retain:
            properties["mqtt-retain"] = "true"
        try:
            return self._hub.message_from(self.identity, properties, system, payload, stamps=self._stamps)
        except LimitExceeded as error:
            raise RuleBroken(error.what) from None

    # Cloud to device

    def _keep_session(self) -> None:
        self._record.kept_subscriptions = {} if self._clean else dict(self._subscriptions)

    def _send_queued(self) -> None:
        qos = self._subscriptions.get(self._topics.devicebound)
        if qos is None:
            return
        queue = self._record.c2d
        while (message := queue.take(self._hub.now_ns(), self._loop.time(), self._hub.next_lock_token())) is not None:
            properties = dict(message.properties)
            if message.ack.value != "none":
                properties["iothub-ack"] = message.ack.value
            bag = format_property_bag(properties, message.system_properties)
            topic = self._topics.devicebound.removesuffix("#") + bag
            if qos:
                self._unconfirmed[message.packet_id] = message
                self._connection.publish(
                    topic, message.body, qos=1, packet_id=message.packet_id, dup=message.attempts > 1
                )
            else:
                self._connection.publish(topic, message.body)
                queue.end(message, Outcome.SUCCESS)
        if self._unconfirmed and self._redelivery is None:
            self._redelivery = self._loop.call_later(LOCK_S + _AFTER_LOCK_S, self._redeliver)

    def _redeliver(self) -> None:
        """The first lock has ended: what is still unconfirmed goes again as its lock ends."""
        self._redelivery = None
        self.send_c2d()

    # Twin and methods

    def _answer_twin_get(self, request_id: str) -> None:
        try:
            self._hub.throttle.admit(Operation.TWIN_READ, self.label)
        except Throttled as error:
            self._refuse_twin(429, request_id, str(error))
        else:
            self._tell(TWIN_RESPONSES, twin_response(200, request_id), orjson.dumps(self._record.twin.document()))

    def _patch_reported(self, request_id: str, payload: bytes) -> None:
        try:
            self._hub.throttle.admit(Operation.TWIN_UPDATE, self.label)
            version = self._record.twin.patch_reported(orjson.loads(payload))
        except (orjson.JSONDecodeError, TwinRefused) as error:
            self._refuse_twin(400, request_id, str(error))
        except Throttled as error:
            self._refuse_twin(429, request_id, str(error))
        else:
            self._tell(TWIN_RESPONSES, twin_response(204, request_id, version), b"")

    def _refuse_twin(self, status: int, request_id: str, reason: str) -> None:
        failure = {
            "errorCode": status,
            "trackingId": request_id,
            "message": reason,
            "timestampUtc": rfc3339(self._hub.now_ns()),
        }
        self._tell(TWIN_RESPONSES, twin_response(status, request_id), orjson.dumps(failure))

    def _answer_method(self, status: int, request_id: str, payload: bytes) -> None:
        answer = self._method_calls.get(request_id)
        if answer is None or answer.done():
            return  # late: the caller has given up
        try:
            answer.set_result(MethodResponse(status, orjson.loads(payload) if payload else None))
        except orjson.JSONDecodeError:
            raise RuleBroken("method response is not JSON") from None

    def _tell(self, topic_filter: str, topic: str, payload: bytes) -> None:
        """Send to a subscriber, at most once; nothing happens if it is none."""
        if topic_filter in self._subscriptions:
            self._connection.publish(topic, payload)
