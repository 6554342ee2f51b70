"""The edge hub's store: order, priorities, lifetimes and room, against a plain list that obeys the same rules."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.edge.store import EdgeMessage, EndpointQueue, MessageStore
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.refusals import LimitExceeded

SENDERS = [IdentityName("edge", name) for name in "abc"]


def message(sender: IdentityName = SENDERS[0], body: bytes = b"") -> EdgeMessage:
    return EdgeMessage(sender, {}, {}, body)


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Expected:
    """A message as the rules have it."""

    body: bytes
    sender: IdentityName
    priority: int
    expires_s: float


puts = st.tuples(st.just("put"), st.sampled_from(SENDERS), st.integers(0, 3), st.none() | st.integers(0, 5))
takes = st.tuples(st.just("take"), st.sets(st.sampled_from(SENDERS)), st.none(), st.none())
waits = st.tuples(st.just("wait"), st.integers(1, 3), st.none(), st.none())


@given(st.lists(st.one_of(puts, takes, waits), max_size=60))
def test_as_the_rules_say(steps: list[tuple[str, object, int | None, int | None]]) -> None:
    """Out comes the oldest of the best priority that is not too old, of a sender that is not passed over.

    What is too old is noticed when it is the oldest of its sender and priority.
    """
    clock = Clock()
    store = MessageStore(loop_time=clock)
    queue = EndpointQueue(store)
    expected: list[Expected] = []
    bodies = iter(range(1000))

    def alive(each: Expected) -> bool:
        return each.expires_s > clock.now_s

    for step, subject, priority, ttl_s in steps:
        if step == "put":
            assert isinstance(subject, IdentityName)
            assert priority is not None
            body = b"%d" % next(bodies)
            queue.put(message(subject, body), priority, ttl_s)
            expires_s = math.inf if ttl_s is None else clock.now_s + ttl_s
            expected.append(Expected(body, subject, priority, expires_s))
        elif step == "wait":
            assert isinstance(subject, int)
            clock.now_s += subject
        else:
            assert isinstance(subject, set)
            passing = [each for each in expected if alive(each) and each.sender not in subject]
            wanted = min(passing, key=lambda each: each.priority, default=None)
            head = queue.head(subject)
            assert (head.message.body if head is not None else None) == (wanted.body if wanted is not None else None)
            if head is not None and wanted is not None:
                queue.done(head)
                expected.remove(wanted)
    statistics = store.statistics
    assert statistics.stored == statistics.delivered + statistics.expired + len(queue)
    _emptied(queue)
    assert (store.size_bytes, len(queue)) == (0, 0)


def _emptied(queue: EndpointQueue) -> None:
    while (head := queue.head()) is not None:
        queue.done(head)


def test_room() -> None:
    """A full store takes nothing for nobody until something is delivered or too old."""
    clock = Clock()
    store = MessageStore(100, loop_time=clock)
    queue = EndpointQueue(store)
    store.admit(message(body=bytes(50)), 2)
    queue.put(message(body=bytes(60)), 0, None)
    queue.put(message(body=bytes(40)), 1, 5)
    with pytest.raises(LimitExceeded, match="full with 100 bytes"):
        store.admit(message(body=b"x"), 1)
    assert store.statistics.refused == 1
    clock.now_s = 5
    assert queue.head() is not None
    store.admit(message(body=bytes(40)), 1)


def test_expired_on_its_way() -> None:
    """A message that was too old before it was confirmed is counted once."""
    clock = Clock()
    store = MessageStore(loop_time=clock)
    queue = EndpointQueue(store)
    queue.put(message(), 0, 5)
    head = queue.head()
    assert head is not None
    clock.now_s = 5
    assert queue.head() is None
    queue.done(head)
    assert (store.statistics.expired, store.statistics.delivered, store.size_bytes) == (1, 0, 0)


async def test_waiting() -> None:
    """Who waits at a queue goes on with the next message, or when woken."""
    queue = EndpointQueue(MessageStore(loop_time=Clock()))
    ends: list[Callable[[], None]] = [lambda: queue.put(message(), 0, None), queue.wake]
    for end_the_wait in ends:
        waiting = asyncio.create_task(queue.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        end_the_wait()
        async with asyncio.timeout(1):
            await waiting


def test_senders() -> None:
    """A queue knows whose messages it holds."""
    queue = EndpointQueue(MessageStore(loop_time=Clock()))
    queue.put(message(SENDERS[0]), 0, None)
    queue.put(message(SENDERS[1]), 1, None)
    assert queue.senders() == {SENDERS[0], SENDERS[1]}
    _emptied(queue)
    assert queue.senders() == set()
