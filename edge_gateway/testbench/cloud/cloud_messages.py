"""Cloud-to-device messages: a queue for each device, from which a message leaves only when its fate is known.

A message waits (queued), is handed to the device under a lock (sent), and ends in one of five ways: the device
completes or rejects it, it expires, it was handed out and given back too often, or the solution purges the queue. The
sender is told of the end if it asked for that. Figures are IoT Hub's (devguide: cloud-to-device messages).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.cloud.refusals import MessageLockLost, QueueFull

MAX_C2D_BYTES = 64 * 1024
MAX_C2D_QUEUED = 50
MAX_DELIVERIES = 10
"""How often a message may be handed out and given back by `abandon`."""
LOCK_S = 60.0
LIFETIME_NS = 3600 * NS_PER_S
"""Of a message whose sender set none."""


class DeliveryState(enum.Enum):
    """Where a cloud-to-device message is."""

    QUEUED = "queued"
    """Waits for the device to connect and subscribe, or to ask."""
    SENT = "sent"
    """Is with the device, which has not confirmed it."""
    COMPLETED = "completed"
    """Its end is known: see `CloudMessage.outcome`."""


class Outcome(enum.Enum):
    """How a message ended; the values are those of feedback records."""

    SUCCESS = "Success"
    EXPIRED = "Expired"
    DELIVERY_COUNT_EXCEEDED = "DeliveryCountExceeded"
    REJECTED = "Rejected"
    PURGED = "Purged"


class Ack(enum.Enum):
    """Of which ends the sender wants to hear."""

    NONE = "none"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    FULL = "full"

    def wants(self, outcome: Outcome) -> bool:
        """Whether feedback is due."""
        match self:
            case Ack.NONE:
                return False
            case Ack.POSITIVE:
                return outcome is Outcome.SUCCESS
            case Ack.NEGATIVE:
                return outcome is not Outcome.SUCCESS
            case Ack.FULL:
                return True


@dataclass(slots=True)
class CloudMessage:
    """A cloud-to-device message and its way to the device."""

    device_id: str
    generation_id: str
    """Of the device at that time."""
    body: bytes
    properties: Mapping[str, str | None]
    """The application's; None is a name without a value."""
    system_properties: Mapping[str, str]
    """By their long names, e.g. `message-id`."""
    packet_id: int
    """Under which it goes over MQTT: every time the same."""
    enqueued_ns: int
    expires_ns: int
    """Wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    ack: Ack = Ack.NONE
    state: DeliveryState = DeliveryState.QUEUED
    outcome: Outcome | None = None
    attempts: int = 0
    """How often it was sent."""
    lock_token: str = ""
    locked_until_s: float = 0.0
    """Event loop time after which it is handed out again."""
    _ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def completed(self) -> None:
        """Wait until the message has ended; `outcome` says how."""
        await asyncio.shield(self._ended)

    def _end(self, outcome: Outcome) -> None:
        self.state = DeliveryState.COMPLETED
        self.outcome = outcome
        self.lock_token = ""
        if not self._ended.done():
            self._ended.set_result(None)


class CloudQueue:
    """One device's messages that have not ended, oldest first.

    Args:
        on_end: called with each message that has ended.
    """

    def __init__(self, on_end: Callable[[CloudMessage], None]) -> None:
        self._on_end = on_end
        self._messages: list[CloudMessage] = []
        self._packet_ids = 0

    def __len__(self) -> int:
        return len(self._messages)

    def waiting(self) -> list[CloudMessage]:
        """All of them, oldest first."""
        return list(self._messages)

    def next_packet_id(self) -> int:
        """An id for a new message. So few are in use at a time that going round never meets one that is."""
        self._packet_ids = self._packet_ids % 0xFFFF + 1
        return self._packet_ids

    def add(self, message: CloudMessage) -> None:
        """Queue a message.

        Raises:
            QueueFull: fifty wait already.
        """
        if len(self._messages) >= MAX_C2D_QUEUED:
            raise QueueFull(
                f"{MAX_C2D_QUEUED} messages wait for the device already",
                where=message.device_id,
                remedy="Let the device confirm some",
            )
        self._messages.append(message)
        self._packet_ids = message.packet_id

    def take(self, now_ns: int, now_s: float, lock_token: str) -> CloudMessage | None:
        """Hand out the oldest message that waits, under a lock; None if there is none.

        Args:
            now_ns: wall time, by which messages expire.
            now_s: event loop time, by which locks end.
            lock_token: under which the message can be completed, rejected or abandoned.
        """
        self.expire(now_ns)
        for message in self._messages:
            if message.state is DeliveryState.SENT and message.locked_until_s <= now_s:
                message.state = DeliveryState.QUEUED
            if message.state is DeliveryState.QUEUED:
                message.state = DeliveryState.SENT
                message.attempts += 1
                message.lock_token = lock_token
                message.locked_until_s = now_s + LOCK_S
                return message
        return None

    def held(self, lock_token: str) -> CloudMessage:
        """The message under a lock.

        Raises:
            MessageLockLost: there is none.
        """
        for message in self._messages:
            if message.lock_token == lock_token and message.state is DeliveryState.SENT:
                return message
        raise MessageLockLost("no message is held under this lock", where="devicebound", remedy="Receive it again")

    def release(self, message: CloudMessage) -> None:
        """Let a message wait again because its device has gone. Does not count as given back."""
        if message.state is DeliveryState.SENT:
            message.state = DeliveryState.QUEUED
            message.lock_token = ""

    def abandon(self, message: CloudMessage) -> None:
        """Let a message wait again because its device gave it back."""
        self.release(message)
        if message.attempts >= MAX_DELIVERIES:
            self.end(message, Outcome.DELIVERY_COUNT_EXCEEDED)

    def end(self, message: CloudMessage, outcome: Outcome) -> None:
        """Be done with a message."""
        if message.state is not DeliveryState.COMPLETED:
            self._messages.remove(message)
            message._end(outcome)
            self._on_end(message)

    def expire(self, now_ns: int) -> None:
        """End what has expired and is not with the device."""
        for message in [
            each for each in self._messages if each.expires_ns <= now_ns and each.state is DeliveryState.QUEUED
        ]:
            self.end(message, Outcome.EXPIRED)

    def purge(self) -> int:
        """End everything; return how many there were."""
        messages = list(self._messages)
        for message in messages:
            self.end(message, Outcome.PURGED)
        return len(messages)
