"""Messages between a hub's devices and its services, both ways, and the rates they are held to.

- Device to cloud: what is received, in whatever way, is stamped, kept and counted; readers of the hub's events get it
  from any message on that is still kept.
- Cloud to device: what is sent waits in the queue of its device, until it has ended in one way or another. Its sender
  hears of that by `feedback`, if it wanted to.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.testbench.cloud.cloud_messages import (
    LIFETIME_NS,
    MAX_C2D_BYTES,
    Ack,
    CloudMessage,
    CloudQueue,
    Outcome,
)
from edge_gateway.testbench.cloud.hub_devices import DeviceDirectory
from edge_gateway.testbench.cloud.identity import Identity, IdentityName
from edge_gateway.testbench.cloud.mqtt.connection import MAX_MESSAGE_BYTES
from edge_gateway.testbench.cloud.refusals import LimitExceeded
from edge_gateway.testbench.cloud.throttle import Operation, Throttle
from edge_gateway.testbench.receiver import ReceivedMessage

_LONGEST_TIMER_S = 24 * 3600.0


@dataclass(slots=True)
class HubStatistics:
    """What the hub saw since it was made. Only ever grows."""

    connections: int = 0
    """CONNECTs accepted."""
    taken_over: int = 0
    """Connections dropped because their device connected again."""
    messages: int = 0
    """Device-to-cloud messages, repeats included."""


class HubEvent(NamedTuple):
    """A device-to-cloud message as readers of the hub's events get it."""

    sequence: int
    """Grows by one with each message, from 0."""
    message: ReceivedMessage


class FeedbackRecord(NamedTuple):
    """How a cloud-to-device message ended whose sender wanted to know."""

    original_message_id: str
    enqueued_ns: int
    """When it ended; wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    outcome: Outcome
    device_id: str
    generation_id: str


class MessageHub(DeviceDirectory):
    """The part of a hub that messages go through.

    Args:
        host_name: the hub's name in user names and tokens.
        clock: wall time, by which tokens and messages end.
        rng: makes the keys of devices that are added without.
        on_message: called with each device-to-cloud message before it is confirmed. It must not raise.
        keep_messages: how many of the newest messages `messages` holds; None holds all.
        tier: whose rates and quota hold, e.g. `S1`; None allows everything.
        units: how many of that tier.
    """

    def __init__(
        self,
        host_name: str,
        *,
        clock: Clock,
        rng: random.Random,
        on_message: Callable[[ReceivedMessage], None] | None,
        keep_messages: int | None,
        tier: str | None,
        units: int,
    ) -> None:
        super().__init__(host_name, clock=clock, rng=rng, on_c2d_end=self._c2d_ended)
        self.statistics = HubStatistics()
        self.messages: deque[ReceivedMessage] = deque(maxlen=keep_messages)
        """Device-to-cloud messages, oldest first, repeats included."""
        self.feedback: deque[FeedbackRecord] = deque()
        """Ends of cloud-to-device messages that their senders wanted to hear of; taken by who reads them."""
        self._on_message = on_message
        self._locks = itertools.count(1)
        self.use_tier(tier, units)

    def use_tier(self, tier: str | None, units: int = 1) -> None:
        """Hold devices and services to a tier's rates and quota from now on; None to none."""
        self.throttle = Throttle(tier, units, clock=self.clock, loop_time=lambda: asyncio.get_running_loop().time())

    # Device to cloud

    def stamps(self, identity: Identity, *, x509: bool = False, model_id: str = "") -> dict[str, str]:
        """What the hub notes on each message of a client about its connection."""
        method = {"scope": "module" if identity.module_id else "device", "type": "x509" if x509 else "sas"}
        stamps = {
            "iothub-connection-device-id": identity.device_id,
            "iothub-connection-auth-generation-id": identity.generation_id,
            "iothub-connection-auth-method": orjson.dumps({**method, "issuer": "iothub"}).decode(),
        }
        if identity.module_id:
            stamps["iothub-connection-module-id"] = identity.module_id
        if model_id:
            stamps["dt-dataschema"] = model_id
        return stamps

    def message_from(
        self,
        identity: Identity,
        properties: Mapping[str, str],
        system_properties: Mapping[str, str],
        body: bytes,
        *,
        stamps: Mapping[str, str] | None = None,
    ) -> ReceivedMessage:
        """A message as the hub takes it from a client.

        Args:
            identity: who sent it.
            properties: the application's.
            system_properties: by their long names.
            body: what was sent.
            stamps: the hub's notes on the connection, where they are at hand.

        Raises:
            LimitExceeded: body and properties are more than 256 KiB together.
        """
        size_bytes = len(body) + _properties_bytes(properties.items()) + _properties_bytes(system_properties.items())
        if size_bytes > MAX_MESSAGE_BYTES:
            raise LimitExceeded(
                f"message of {size_bytes} bytes", where=str(identity.name), remedy=f"Send at most {MAX_MESSAGE_BYTES}"
            )
        return ReceivedMessage(
            identity.device_id,
            system_properties.get("message-id"),
            properties,
            {**system_properties, **(stamps if stamps is not None else self.stamps(identity))},
            body,
            asyncio.get_running_loop().time(),
            self.clock.now_ns(),
            identity.module_id,
        )

    def receive(self, message: ReceivedMessage) -> None:
        """Take a device-to-cloud message in, whatever way it came."""
        record = self._records.get(IdentityName(message.device_id, message.module_id))
        if record is not None:
            record.last_activity_ns = message.enqueued_ns
        self.statistics.messages += 1
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)
        self.changed()

    async def events(self, from_sequence: int | None = None) -> AsyncGenerator[HubEvent, None]:
        """Device-to-cloud messages as they come, without end.

        Args:
            from_sequence: begin with this one, or with the oldest that is held; None begins with the next to come.
        """
        wanted = self.statistics.messages if from_sequence is None else from_sequence
        while True:
            while self.statistics.messages <= wanted:
                await self.change()
            first = self.statistics.messages - len(self.messages)
            wanted = max(wanted, first)
            for message in list(itertools.islice(self.messages, wanted - first, None)):
                yield HubEvent(wanted, message)
                wanted += 1

    # Cloud to device

    def send_c2d(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None] | None = None,
        *,
        message_id: str | None = None,
        system_properties: Mapping[str, str] | None = None,
        expires_ns: int | None = None,
        ack: Ack | str = Ack.NONE,
    ) -> CloudMessage:
        """Send a cloud-to-device message now or as soon as the device listens.

        Args:
            device_id: to whom.
            body: what.
            properties: the application's; None is a name without a value.
            message_id: the sender's own, by which feedback names the message.
            system_properties: others of the system's, by their long names.
            expires_ns: wall time, nanoseconds since 1970-01-01T00:00:00Z; None is an hour from now.
            ack: of which ends the sender wants to hear by `feedback`.

        Raises:
            IdentityNotFound: no such device.
            QueueFull: fifty messages wait for it already.
            LimitExceeded: the message is too large.
            Throttled: too many messages for the hub's tier.
        """
        queue = self.record(IdentityName(device_id)).c2d
        properties = properties if properties is not None else {}
        size_bytes = len(body) + _properties_bytes(properties.items())
        if size_bytes > MAX_C2D_BYTES:
            raise LimitExceeded(
                f"{size_bytes} bytes to a device", where=device_id, remedy=f"Send at most {MAX_C2D_BYTES}"
            )
        self.throttle.admit(Operation.C2D, device_id)
        system = {"to": f"/devices/{device_id}/messages/devicebound", **(system_properties or {})}
        if message_id is not None:
            system["message-id"] = message_id
        now_ns = self.clock.now_ns()
        message = CloudMessage(
            device_id,
            self.identity(device_id).generation_id,
            body,
            properties,
            system,
            queue.next_packet_id(),
            now_ns,
            expires_ns if expires_ns is not None else now_ns + LIFETIME_NS,
            Ack(ack),
        )
        queue.expire(now_ns)
        self.enqueue_c2d(message)
        session = self.record(IdentityName(device_id)).session
        if session is not None:
            session.send_c2d()
        self.changed()
        return message

    def enqueue_c2d(self, message: CloudMessage) -> None:
        """Let a message wait for its device, which hears nothing of it yet.

        Raises:
            QueueFull: fifty messages wait for it already.
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(message.device_id)).c2d
        queue.add(message)
        left_s = max(0.0, (message.expires_ns - self.clock.now_ns()) / NS_PER_S)
        asyncio.get_running_loop().call_later(min(left_s, _LONGEST_TIMER_S), self._expire_c2d, queue)

    def receive_c2d(self, device_id: str) -> CloudMessage | None:
        """Hand out the oldest waiting message under a lock of a minute, for a device that asks by HTTPS.

        Raises:
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(device_id)).c2d
        return queue.take(self.clock.now_ns(), asyncio.get_running_loop().time(), self.next_lock_token())

    def complete_c2d(self, device_id: str, lock_token: str) -> None:
        """Be done with a message a device has taken.

        Raises:
            MessageLockLost: the lock has ended.
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(device_id)).c2d
        queue.end(queue.held(lock_token), Outcome.SUCCESS)
        self.changed()

    def reject_c2d(self, device_id: str, lock_token: str) -> None:
        """Be done with a message a device does not want. Errors as for `complete_c2d`."""
        queue = self.record(IdentityName(device_id)).c2d
        queue.end(queue.held(lock_token), Outcome.REJECTED)
        self.changed()

    def abandon_c2d(self, device_id: str, lock_token: str) -> None:
        """Take a message back, to hand it out again; after ten times it is over. Errors as for `complete_c2d`."""
        queue = self.record(IdentityName(device_id)).c2d
        queue.abandon(queue.held(lock_token))
        self.changed()

    def purge_c2d(self, device_id: str) -> int:
        """End all of a device's messages; return how many there were.

        Raises:
            IdentityNotFound: no such device.
        """
        return self.record(IdentityName(device_id)).c2d.purge()

    def next_lock_token(self) -> str:
        """A name for a lock on a message."""
        return f"{next(self._locks):08x}-0000-0000-0000-000000000000"

    def _expire_c2d(self, queue: CloudQueue) -> None:
        queue.expire(self.clock.now_ns())
        self.changed()

    def _c2d_ended(self, message: CloudMessage) -> None:
        outcome = message.outcome
        if outcome is None or not message.ack.wants(outcome):
            return
        self.feedback.append(
            FeedbackRecord(
                message.system_properties.get("message-id", ""),
                self.clock.now_ns(),
                outcome,
                message.device_id,
                message.generation_id,
            )
        )


def _properties_bytes(properties: Iterable[tuple[str, str | None]]) -> int:
    return sum(len(name) + len(value or "") for name, value in properties)
