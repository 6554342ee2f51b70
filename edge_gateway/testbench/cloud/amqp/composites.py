"""What AMQP 1.0 says by lists of named fields: bodies of frames, states of deliveries, sources and targets, sections.

Each class is a table of the specification, field for field (OASIS amqp-core-transport, -messaging and -security v1.0).
The type of each field is checked on reading, so that what is of a wrong type never gets further than here. All fields
are written, empty ones too: azure-eventhub's own decoder finds them by their place.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from edge_gateway.testbench.cloud.amqp.values import (
    Array,
    Described,
    Malformed,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Value,
    decode_first,
    encode,
)

C = TypeVar("C")
Map: TypeAlias = dict[Any, Any]
Symbols: TypeAlias = Symbol | Array
"""One symbol or an array of them; the specification calls it "multiple"."""
MessageId: TypeAlias = Ulong | uuid.UUID | bytes | str


class _Kind(NamedTuple):
    make: Callable[..., Any]
    descriptor: Ulong
    names: tuple[str, ...]
    types: tuple[tuple[type, ...], ...]
    """Which types each field may have."""


_kinds: dict[Any, _Kind] = {}
"""By class, and by both of its descriptors."""


def _composite(code: int, name: str) -> Callable[[type[C]], type[C]]:
    """Make a dataclass readable and writable as the list that has these descriptors."""

    def register(made: type[C]) -> type[C]:
        hints = get_type_hints(made)
        names = tuple(each.name for each in fields(made))  # type: ignore[arg-type]  # it is a dataclass
        kind = _Kind(made, Ulong(code), names, tuple(_types(hints[each]) for each in names))
        _kinds.update({made: kind, kind.descriptor: kind, Symbol(f"amqp:{name}:list"): kind})
        return made

    return register


def _types(hint: Any) -> tuple[type, ...]:
    alternatives = (hint,) if get_origin(hint) in (None, dict) else get_args(hint)
    return tuple(get_origin(each) or each for each in alternatives)


def read(value: Value) -> Any:
    """Make a composite of a described list.

    Raises:
        Malformed: it is none that AMQP knows, or a field is missing or of a wrong type.
    """
    kind, given = None, None
    if isinstance(value, Described) and isinstance(value.descriptor, Ulong | Symbol):
        kind, given = _kinds.get(value.descriptor), value.value
    if kind is None or not isinstance(given, list):
        raise Malformed("a value that is no list AMQP describes")
    if len(given) > len(kind.names):
        raise Malformed(f"{kind.make.__name__} with too many fields")
    values = []
    for name, types, each in zip(kind.names, kind.types, given + [None] * (len(kind.names) - len(given)), strict=True):
        if isinstance(each, Described):
            each = read(each)
        if not isinstance(each, types):
            raise Malformed(f"{name} of {kind.make.__name__} is missing or of a wrong type")
        values.append(each)
    return kind.make(*values)


def read_first(data: bytes, start: int) -> tuple[Any, int]:
    """Read the composite that starts at a place; returned with the place behind it.

    Raises:
        Malformed: there is none.
    """
    value, end = decode_first(data, start)
    return read(value), end


def write(composite: Any) -> bytes:
    """A composite's bytes."""
    return encode(_described(composite))


def _described(composite: Any) -> Described:
    kind = _kinds[type(composite)]
    values = (getattr(composite, name) for name in kind.names)
    return Described(kind.descriptor, [_described(each) if type(each) in _kinds else each for each in values])


# States of deliveries, and errors


@_composite(0x1D, "error")
@dataclass(frozen=True, slots=True)
class Error:
    """What went wrong (transport, 2.8.14)."""

    condition: Symbol
    description: str | None = None
    info: Map | None = None


@_composite(0x23, "received")
@dataclass(frozen=True, slots=True)
class Received:
    """How much of a delivery has come (messaging, 3.4.1)."""

    section_number: Uint
    section_offset: Ulong


@_composite(0x24, "accepted")
@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver has taken it (messaging, 3.4.2)."""


@_composite(0x25, "rejected")
@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never do (messaging, 3.4.3)."""

    error: Error | None = None


@_composite(0x26, "released")
@dataclass(frozen=True, slots=True)
class Released:
    """The receiver gives it back unread (messaging, 3.4.4)."""


@_composite(0x27, "modified")
@dataclass(frozen=True, slots=True)
class Modified:
    """The receiver gives it back with a note on it (messaging, 3.4.5)."""

    delivery_failed: bool | None = None
    undeliverable_here: bool | None = None
    message_annotations: Map | None = None


State: TypeAlias = Received | Accepted | Rejected | Released | Modified


# Where links begin and end


@_composite(0x28, "source")
@dataclass(frozen=True, slots=True)
class Source:
    """Where a link's messages come from (messaging, 3.5.3)."""

    address: str | None = None
    durable: Uint | None = None
    expiry_policy: Symbol | None = None
    timeout: Uint | None = None
    dynamic: bool | None = None
    dynamic_node_properties: Map | None = None
    distribution_mode: Symbol | None = None
    filter: Map | None = None
    default_outcome: State | None = None
    outcomes: Symbols | None = None
    capabilities: Symbols | None = None


@_composite(0x29, "target")
@dataclass(frozen=True, slots=True)
class Target:
    """Where a link's messages go (messaging, 3.5.4)."""

    address: str | None = None
    durable: Uint | None = None
    expiry_policy: Symbol | None = None
    timeout: Uint | None = None
    dynamic: bool | None = None
    dynamic_node_properties: Map | None = None
    capabilities: Symbols | None = None


# Bodies of frames


@_composite(0x10, "open")
@dataclass(frozen=True, slots=True)
class Open:
    """Begins a connection (transport, 2.7.1)."""

    container_id: str
    hostname: str | None = None
    max_frame_size: Uint | None = None
    channel_max: Ushort | None = None
    idle_time_out: Uint | None = None
    """Milliseconds."""
    outgoing_locales: Symbols | None = None
    incoming_locales: Symbols | None = None
    offered_capabilities: Symbols | None = None
    desired_capabilities: Symbols | None = None
    properties: Map | None = None


@_composite(0x11, "begin")
@dataclass(frozen=True, slots=True)
class Begin:
    """Begins a session (transport, 2.7.2)."""

    remote_channel: Ushort | None
    next_outgoing_id: Uint
    incoming_window: Uint
    outgoing_window: Uint
    handle_max: Uint | None = None
    offered_capabilities: Symbols | None = None
    desired_capabilities: Symbols | None = None
    properties: Map | None = None


@_composite(0x12, "attach")
@dataclass(frozen=True, slots=True)
class Attach:
    """Begins a link (transport, 2.7.3)."""

    name: str
    handle: Uint
    role: bool
    """True: the one who says this receives."""
    snd_settle_mode: Ubyte | None = None
    """0 unsettled, 1 settled, 2 mixed."""
    rcv_settle_mode: Ubyte | None = None
    source: Source | None = None
    target: Target | None = None
    unsettled: Map | None = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: Uint | None = None
    max_message_size: Ulong | None = None
    offered_capabilities: Symbols | None = None
    desired_capabilities: Symbols | None = None
    properties: Map | None = None


@_composite(0x13, "flow")
@dataclass(frozen=True, slots=True)
class Flow:
    """Tells how much may be sent, in a session and on a link (transport, 2.7.4)."""

    next_incoming_id: Uint | None
    incoming_window: Uint
    next_outgoing_id: Uint
    outgoing_window: Uint
    handle: Uint | None = None
    delivery_count: Uint | None = None
    link_credit: Uint | None = None
    available: Uint | None = None
    drain: bool | None = None
    echo: bool | None = None
    properties: Map | None = None


@_composite(0x14, "transfer")
@dataclass(frozen=True, slots=True)
class Transfer:
    """A message or a part of one; its bytes follow in the frame (transport, 2.7.5)."""

    handle: Uint
    delivery_id: Uint | None = None
    delivery_tag: bytes | None = None
    message_format: Uint | None = None
    settled: bool | None = None
    more: bool | None = None
    rcv_settle_mode: Ubyte | None = None
    state: State | None = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


@_composite(0x15, "disposition")
@dataclass(frozen=True, slots=True)
class Disposition:
    """Tells the state of deliveries (transport, 2.7.6)."""

    role: bool
    """True: the one who says this receives."""
    first: Uint
    last: Uint | None = None
    settled: bool | None = None
    state: State | None = None
    batchable: bool | None = None


@_composite(0x16, "detach")
@dataclass(frozen=True, slots=True)
class Detach:
    """Ends a link (transport, 2.7.7)."""

    handle: Uint
    closed: bool | None = None
    error: Error | None = None


@_composite(0x17, "end")
@dataclass(frozen=True, slots=True)
class End:
    """Ends a session (transport, 2.7.8)."""

    error: Error | None = None


@_composite(0x18, "close")
@dataclass(frozen=True, slots=True)
class Close:
    """Ends a connection (transport, 2.7.9)."""

    error: Error | None = None


@_composite(0x40, "sasl-mechanisms")
@dataclass(frozen=True, slots=True)
class SaslMechanisms:
    """How a client may prove itself (security, 5.3.3.1)."""

    sasl_server_mechanisms: Symbols


@_composite(0x41, "sasl-init")
@dataclass(frozen=True, slots=True)
class SaslInit:
    """How a client proves itself (security, 5.3.3.2)."""

    mechanism: Symbol
    initial_response: bytes | None = field(default=None, repr=False)
    hostname: str | None = None


@_composite(0x44, "sasl-outcome")
@dataclass(frozen=True, slots=True)
class SaslOutcome:
    """Whether a client has proved itself (security, 5.3.3.6)."""

    code: Ubyte
    """0 it has, 1 it has not."""
    additional_data: bytes | None = None


# Sections of messages


@_composite(0x73, "properties")
@dataclass(frozen=True, slots=True)
class Properties:
    """What is said about every message (messaging, 3.2.4)."""

    message_id: MessageId | None = None
    user_id: bytes | None = None
    to: str | None = None
    subject: str | None = None
    reply_to: str | None = None
    correlation_id: MessageId | None = None
    content_type: Symbol | None = None
    content_encoding: Symbol | None = None
    absolute_expiry_time: Timestamp | None = None
    creation_time: Timestamp | None = None
    group_id: str | None = None
    group_sequence: Uint | None = None
    reply_to_group_id: str | None = None
