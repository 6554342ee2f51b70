"""What is handed from room to room.

```
bytes --transport--> Chunk --framing--> bytes of a frame --codec--> Sample --pipeline--> Reading
Reading --rules--> Event, Command          Reading, Event --buffer--> Message --uplink--> hub
```

Every handover is a sequence of these, so the cost of a hop is paid once a batch and not once a record. The records
made for every frame are named tuples, because they are the cheapest immutable thing Python can build.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | Sequence["Value"] | Mapping[str, "Value"]
"""What a field of a frame can become: anything JSON can say."""


record = tuple.__new__
"""Makes a record of what is made for every frame: `record(Reading, (...))` with every field, in order.

A named tuple's own constructor is a Python function; this is the same tuple, 0.1 us sooner.
"""


class Chunk(NamedTuple):
    """Bytes as one read of a link returned them."""

    at_s: float
    """Event loop time of the read, seconds. Only differences between two chunks mean anything."""
    data: bytes


class Sample(NamedTuple):
    """One frame, decoded. What the device said, before the gateway adds who and when."""

    address: int | str | None
    """What the profile's `identity` field held; None where a link carries one device and frames name nobody."""
    sequence: int | None
    """What the profile's `sequence` field held: the device's own frame counter, which wraps."""
    values: Mapping[str, Value]


class Answer(NamedTuple):
    """A frame a device sent because of a command, decoded."""

    frame: str
    """Name of the frame in the profile."""
    address: int | str | None
    fields: Mapping[str, Value]


class Reject(NamedTuple):
    """A whole frame that could not be decoded, with its bytes, so that nothing is dropped without a trace."""

    data: bytes
    reason: str
    """A fixed word for counting, one of docs/reference/profile.md: `checksum`, `length`, `value`, ..."""


class Reading(NamedTuple):
    """What one device measured at one time."""

    device: str
    profile: str
    time_ns: int
    """Nanoseconds since 1970-01-01T00:00:00Z."""
    values: Mapping[str, Value]
    time_trusted: bool = True
    """False if the time is not to be relied on, as the clock had visibly never been set, or the device's own time could
    not be believed; told to the hub."""
    uptime_ns: int | None = None
    """Nanoseconds since the boot, where the time can be corrected by it once the clock is set; see `clock.Stamp`."""


class Event(NamedTuple):
    """Something that happened about a device and is worth telling: an alert, or the outcome of a command."""

    device: str
    source: str
    """The rule or part of the gateway that says so."""
    kind: str
    """`alert-raised`, `alert-cleared` or `command-result`."""
    time_ns: int
    """Nanoseconds since 1970-01-01T00:00:00Z."""
    values: Mapping[str, Value]
    time_trusted: bool = True
    uptime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Something a device shall do."""

    device: str
    name: str
    arguments: Mapping[str, Value] = field(default_factory=dict)
    source: str = ""
    """Who asked: `method`, `c2d`, or `rule:NAME`."""
    correlation_id: str = ""
    """Returned with the outcome, so the asker can join the two."""


class CommandStatus(enum.Enum):
    """How a command ended."""

    ACKNOWLEDGED = "acknowledged"
    """The device answered and agreed."""
    REFUSED = "refused"
    """The device answered and declined."""
    NO_ANSWER = "no-answer"
    """The frame was written to the link; the device did not answer in time."""
    SENT = "sent"
    """The frame was written to the link; the profile says that the device never answers this command."""
    UNREACHABLE = "unreachable"
    """The link is away, so nothing was written."""
    INVALID = "invalid"
    """No such device, command or argument, or nothing the framing could carry; nothing was written."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended, with what the device said or what would do instead."""

    status: CommandStatus
    detail: str = ""
    answer: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """What the buffer gives an uplink: one publish, the same bytes under the same id however often it is sent."""

    id: str
    """Stable over retries and restarts; a receiver drops repeats by it."""
    lane: str
    number: int
    """Position in the lane of its route; grows with every message."""
    records: int
    body: bytes
    """A JSON array, utf-8."""
    route: str = ""
    """The sensor under whose identity it goes; the gateway's own if empty."""
