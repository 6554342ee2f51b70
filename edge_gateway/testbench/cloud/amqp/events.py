"""What devices sent, as Event Hubs hands it to readers: one partition, from a place of the reader's choice.

A reader asks for `{event hub}/ConsumerGroups/{group}/Partitions/0` and says by a filter where to begin. Offsets are
sequence numbers as text here; at Event Hubs they are not, and a program has no business to compute with them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edge_gateway.testbench.cloud.amqp.composites import Properties
from edge_gateway.testbench.cloud.amqp.feeds import NS_PER_MS, Feed
from edge_gateway.testbench.cloud.amqp.message import Message
from edge_gateway.testbench.cloud.amqp.sessions import Refused
from edge_gateway.testbench.cloud.amqp.values import Described, Symbol, Timestamp, Value
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.hub_messages import HubEvent

PARTITION = "0"
_FILTER = Symbol("apache.org:selector-filter:string")
_SELECTOR = re.compile(
    r"\s*amqp\.annotation\.x-opt-(offset|sequence-number|enqueued-time)\s*(>=?)\s*'?(-?\d{1,19}|@latest)'?\s*"
)
_MS_PER_S = 1000
_OWN_FIELDS = frozenset(
    (
        *("message-id", "correlation-id", "user-id", "to", "content-type", "content-encoding"),
        *("absolute-expiry-time", "creation-time-utc"),
    )
)
"""System properties that AMQP has fields for; the others become annotations."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader begins."""

    from_sequence: int | None = 0
    """None: with the next event to come."""
    after_ms: int | None = None
    """Only with events that came later; wall time, milliseconds since 1970-01-01T00:00:00Z."""

    def admits(self, event: HubEvent) -> bool:
        """Whether the reader wants an event."""
        return self.after_ms is None or event.message.enqueued_ns // NS_PER_MS > self.after_ms


def position(source_filter: Mapping[Any, Any], last_sequence: int) -> Position:
    """Where a link's filter says to begin; without one, at the oldest event.

    Args:
        source_filter: of the link's source.
        last_sequence: of the newest event.

    Raises:
        Refused: it cannot be read.
    """
    given = source_filter.get(_FILTER)
    if given is None:
        return Position()
    text = given.value if isinstance(given, Described) else given
    found = _SELECTOR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Refused("com.microsoft:argument-error", "the filter is none of those for offset, number or time")
    field, operator, value = found.groups()
    after = operator == ">"
    if value == "@latest":
        return Position(None if after else max(0, last_sequence))
    if field == "enqueued-time":
        return Position(0, int(value) if after else int(value) - 1)
    return Position(max(0, int(value) + after))


async def feed_events(feed: Feed, hub: LocalHub, start: Position, *, metrics: bool) -> None:
    """Send events as they come.

    Args:
        feed: the link's.
        hub: whose.
        start: where to begin.
        metrics: tell with each event which was the newest at that time.
    """
    async for event in hub.events(start.from_sequence):
        if start.admits(event):
            await feed.room()
            await feed.send(_message(event, _metrics(hub) if metrics else {}))


def partition_properties(hub: LocalHub) -> dict[str, Value]:
    """The partition's first and last event."""
    count, held = hub.statistics.messages, len(hub.messages)
    return {
        "begin_sequence_number": count - held,
        "last_enqueued_sequence_number": count - 1,
        "last_enqueued_offset": str(count - 1),
        "last_enqueued_time_utc": Timestamp(hub.messages[-1].enqueued_ns // NS_PER_MS if held else 0),
        "is_partition_empty": not held,
    }


def _metrics(hub: LocalHub) -> dict[str, Value]:
    known = partition_properties(hub)
    names = ("last_enqueued_sequence_number", "last_enqueued_offset", "last_enqueued_time_utc")
    now = Timestamp(hub.now_ns() // NS_PER_MS)
    return {**{Symbol(name): known[name] for name in names}, Symbol("runtime_info_retrieval_time_utc"): now}


def _message(event: HubEvent, metrics: Mapping[str, Value]) -> Message:
    message = event.message
    system = message.system_properties
    enqueued = Timestamp(message.enqueued_ns // NS_PER_MS)
    user_id = system.get("user-id")
    properties = Properties(
        message_id=message.message_id,
        user_id=user_id.encode() if user_id is not None else None,
        to=system.get("to"),
        correlation_id=system.get("correlation-id"),
        content_type=_symbol(system.get("content-type")),
        content_encoding=_symbol(system.get("content-encoding")),
        absolute_expiry_time=_timestamp(system.get("absolute-expiry-time")),
        creation_time=_timestamp(system.get("creation-time-utc")),
    )
    annotations: dict[str, Value] = {
        Symbol("x-opt-sequence-number"): event.sequence,
        Symbol("x-opt-offset"): str(event.sequence),
        Symbol("x-opt-enqueued-time"): enqueued,
        Symbol("iothub-enqueuedtime"): enqueued,
        Symbol("iothub-message-source"): "Telemetry",
    }
    annotations |= {Symbol(name): value for name, value in system.items() if name not in _OWN_FIELDS and name.isascii()}
    return Message(message.body, None, properties, dict(message.properties), annotations, metrics)


def _symbol(text: str | None) -> Symbol | None:
    return Symbol(text) if text is not None and text.isascii() else None


def _timestamp(text: str | None) -> Timestamp | None:
    """Read what a device wrote, UTC unless it says otherwise; what is no time has no field it could be kept in."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return Timestamp(int((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * _MS_PER_S))
