"""What an edge hub stores and forwards: messages on their way, in order, until they are delivered or too old.

Each endpoint has a queue for every priority and sender. The next message is the oldest of the best priority, among
senders that can be served now; so one sender's order is kept, and one who is turned away upstream holds up nobody else.
Priority and lifetime are those a message's route had when it came (iotedge: Route_priority_and_TTL).

The store is in memory: what an edge hub holds is lost with the bench's process. It may be bounded; when it is full, it
takes no more and the sender is not told that its message is safe. Nothing old is dropped to make room.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.refusals import LimitExceeded


class EdgeMessage(NamedTuple):
    """A message as an edge hub handles it."""

    sender: IdentityName
    properties: Mapping[str, str]
    """The application's."""
    system_properties: Mapping[str, str]
    """By their long names, the sender's device and module among them."""
    body: bytes

    @property
    def size_bytes(self) -> int:
        """Body, names and values of properties together."""
        texts = (*self.properties.items(), *self.system_properties.items())
        return len(self.body) + sum(len(name) + len(value) for name, value in texts)


class StoredMessage(NamedTuple):
    """A message in the queue of one endpoint."""

    message: EdgeMessage
    priority: int
    """0 is the best."""
    expires_s: float
    """Event loop time after which it is not delivered any more."""
    sequence: int
    """Grows with each message the store takes."""


@dataclass(slots=True)
class StoreStatistics:
    """What the store did. Only ever grows."""

    stored: int = 0
    delivered: int = 0
    expired: int = 0
    """Dropped because they were too old."""
    refused: int = 0
    """Not taken because the store was full."""


class MessageStore:
    """The messages of all endpoints together.

    Args:
        max_size_bytes: how much it holds; None is without bound.
        loop_time: event loop time, by which messages age.
    """

    def __init__(self, max_size_bytes: int | None = None, *, loop_time: Callable[[], float]) -> None:
        self.max_size_bytes = max_size_bytes
        self.statistics = StoreStatistics()
        self.size_bytes = 0
        self.now_s = loop_time
        self._sequence = 0

    def admit(self, message: EdgeMessage, endpoints: int) -> None:
        """Check that there is room for a message on its way to so many endpoints.

        Raises:
            LimitExceeded: there is none.
        """
        needed_bytes = message.size_bytes * endpoints
        if self.max_size_bytes is not None and self.size_bytes + needed_bytes > self.max_size_bytes:
            self.statistics.refused += 1
            raise LimitExceeded(
                f"the edge hub's store is full with {self.size_bytes} bytes",
                where=str(message.sender),
                remedy="Let it deliver, or set a larger storeLimits.maxSizeBytes",
            )

    def next_sequence(self) -> int:
        """The number of the next message."""
        self._sequence += 1
        return self._sequence


class EndpointQueue:
    """The messages on their way to one endpoint.

    Args:
        store: of which it is a part.
    """

    def __init__(self, store: MessageStore) -> None:
        self._store = store
        self._queues: dict[tuple[int, IdentityName], deque[StoredMessage]] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def senders(self) -> set[IdentityName]:
        """Whose messages wait here."""
        return {sender for _, sender in self._queues}

    def put(self, message: EdgeMessage, priority: int, ttl_s: float | None) -> None:
        """Take a message.

        Args:
            message: what `MessageStore.admit` had room for.
            priority: 0 is the best.
            ttl_s: how long it is worth delivering; None is for ever.
        """
        store = self._store
        expires_s = math.inf if ttl_s is None else store.now_s() + ttl_s
        queue = self._queues.setdefault((priority, message.sender), deque())
        queue.append(StoredMessage(message, priority, expires_s, store.next_sequence()))
        store.size_bytes += message.size_bytes
        store.statistics.stored += 1
        self._drop_expired()
        self._changed.set()

    def head(self, without: Collection[IdentityName] = ()) -> StoredMessage | None:
        """The next message to deliver, which stays; None if there is none.

        Args:
            without: senders to pass over.
        """
        self._drop_expired()
        heads = [queue[0] for (_, sender), queue in self._queues.items() if sender not in without]
        return min(heads, key=lambda head: (head.priority, head.sequence), default=None)

    def done(self, stored: StoredMessage) -> None:
        """Be done with a message that was `head`: it is delivered."""
        key = (stored.priority, stored.message.sender)
        queue = self._queues.get(key)
        if queue and queue[0] is stored:  # else it has expired on its way
            self._drop(key, queue)
            self._store.statistics.delivered += 1

    def wake(self) -> None:
        """End the wait of `changed`: what keeps the head from its endpoint may be over."""
        self._changed.set()

    async def changed(self) -> None:
        """Wait until a message is put, or until `wake`."""
        self._changed.clear()
        await self._changed.wait()

    def _drop_expired(self) -> None:
        """Drop what is too old at the head of each queue; what is behind a younger one is found when it gets there."""
        now_s = self._store.now_s()
        for key, queue in list(self._queues.items()):
            while queue and queue[0].expires_s <= now_s:
                self._drop(key, queue)
                self._store.statistics.expired += 1

    def _drop(self, key: tuple[int, IdentityName], queue: deque[StoredMessage]) -> None:
        self._store.size_bytes -= queue.popleft().message.size_bytes
        if not queue:
            del self._queues[key]
