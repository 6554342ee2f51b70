"""MQTT 3.1.1 packets to bytes and back (OASIS mqtt-v3.1.1); no I/O.

Bytes go into a `PacketReader` as they come off a socket, cut anywhere; whole packets come out. Each packet has
`encode()` for the other direction. Both ends of a connection are covered, so that the same code serves the hub and the
clients that test it.

- Strict: what the specification calls malformed is one error, `MalformedPacket`; the connection has to be closed.
- Bounded: between calls a reader holds less than one packet of the largest size it was told to accept.
- Packets made for every message, `Publish` and `Puback`, are named tuples, the cheapest immutable thing Python builds.

```python
reader = PacketReader(max_packet_bytes=300_000)
for packet in reader.feed(data):
    match packet:
        case Publish(qos=1):
            transport.write(Puback(packet.packet_id).encode())
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, NamedTuple, TypeAlias

from edge_gateway.errors import BenchError

MAX_PACKET_BYTES = 1 + 4 + 268_435_455
"""The largest packet MQTT can express: type, four bytes of length, and what they can count (section 2.2.3)."""

_U16 = Struct(">H")
_PACKET_ID = Struct(">H")
_LENGTH_FIELD_BYTES = 4
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP = range(1, 8)
_SUBSCRIBE, _SUBACK, _UNSUBSCRIBE, _UNSUBACK, _PINGREQ, _PINGRESP, _DISCONNECT = range(8, 15)
_PROTOCOL = b"\x00\x04MQTT\x04"
_SUBSCRIPTION_REFUSED = 0x80


class MalformedPacket(BenchError):
    """Bytes are not MQTT 3.1.1, or a packet is larger than the reader accepts.

    Attributes:
        packets: the whole packets that came before the malformed one in the same call.
    """

    packets: Sequence[Packet] = ()

    def __init__(self, what: str) -> None:
        super().__init__(what, where="MQTT", remedy="Close the connection [MQTT-4.8.0-1]")


@dataclass(frozen=True, slots=True)
class Will:
    """What the server publishes for a client that goes without a DISCONNECT (section 3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """The client's first packet (section 3.1)."""

    client_id: str
    clean_session: bool = True
    keep_alive_s: int = 0
    """0 turns the keep-alive off."""
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None

    def encode(self) -> bytes:
        """The packet's bytes."""
        will, flags = self.will, self.clean_session << 1
        fields = [_text(self.client_id)]
        if will is not None:
            flags |= 0x04 | will.qos << 3 | will.retain << 5
            fields += [_text(will.topic), _binary(will.payload)]
        if self.username is not None:
            flags |= 0x80
            fields.append(_text(self.username))
        if self.password is not None:
            flags |= 0x40
            fields.append(_binary(self.password))
        head = _PROTOCOL + bytes((flags,)) + _U16.pack(self.keep_alive_s)
        return _packet(_CONNECT << 4, head + b"".join(fields))


@dataclass(frozen=True, slots=True)
class Connack:
    """The server's answer to CONNECT (section 3.2)."""

    return_code: int
    """0 accepted, 1 protocol, 2 client id, 3 unavailable, 4 user name or password, 5 not authorised."""
    session_present: bool = False

    def encode(self) -> bytes:
        """The packet's bytes."""
        return bytes((_CONNACK << 4, 2, self.session_present, self.return_code))


class Publish(NamedTuple):
    """A message, either way (section 3.3)."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    """1 to 65535 for QoS 1 and 2; 0 for QoS 0, which has none."""
    dup: bool = False
    retain: bool = False

    def encode(self) -> bytes:
        """The packet's bytes."""
        head = _PUBLISH << 4 | self.dup << 3 | self.qos << 1 | self.retain
        packet_id = _PACKET_ID.pack(self.packet_id) if self.qos else b""
        return _packet(head, _text(self.topic) + packet_id + self.payload)


class Puback(NamedTuple):
    """Confirms a QoS 1 PUBLISH (section 3.4)."""

    packet_id: int

    def encode(self) -> bytes:
        """The packet's bytes."""
        return b"\x40\x02" + _PACKET_ID.pack(self.packet_id)


@dataclass(frozen=True, slots=True)
class _PacketIdOnly:
    """A packet that says nothing but which packet it is about."""

    _head: ClassVar[int]
    packet_id: int

    def encode(self) -> bytes:
        """The packet's bytes."""
        return bytes((self._head, 2)) + _PACKET_ID.pack(self.packet_id)


@dataclass(frozen=True, slots=True)
class Pubrec(_PacketIdOnly):
    """QoS 2, first answer (section 3.5)."""

    _head = _PUBREC << 4


@dataclass(frozen=True, slots=True)
class Pubrel(_PacketIdOnly):
    """QoS 2, second step (section 3.6)."""

    _head = _PUBREL << 4 | 0x02


@dataclass(frozen=True, slots=True)
class Pubcomp(_PacketIdOnly):
    """QoS 2, last answer (section 3.7)."""

    _head = _PUBCOMP << 4


@dataclass(frozen=True, slots=True)
class Unsuback(_PacketIdOnly):
    """Confirms UNSUBSCRIBE (section 3.11)."""

    _head = _UNSUBACK << 4


class Subscription(NamedTuple):
    """One filter of a SUBSCRIBE, with the highest QoS the client wants."""

    topic_filter: str
    qos: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Asks for messages (section 3.8)."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]

    def encode(self) -> bytes:
        """The packet's bytes."""
        filters = b"".join(_text(wanted.topic_filter) + bytes((wanted.qos,)) for wanted in self.subscriptions)
        return _packet(_SUBSCRIBE << 4 | 0x02, _PACKET_ID.pack(self.packet_id) + filters)


@dataclass(frozen=True, slots=True)
class Suback:
    """Answers SUBSCRIBE, one granted QoS a filter (section 3.9)."""

    packet_id: int
    granted: tuple[int | None, ...]
    """None where the server refused the filter."""

    def encode(self) -> bytes:
        """The packet's bytes."""
        codes = bytes(_SUBSCRIPTION_REFUSED if qos is None else qos for qos in self.granted)
        return _packet(_SUBACK << 4, _PACKET_ID.pack(self.packet_id) + codes)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Ends subscriptions (section 3.10)."""

    packet_id: int
    topic_filters: tuple[str, ...]

    def encode(self) -> bytes:
        """The packet's bytes."""
        filters = b"".join(map(_text, self.topic_filters))
        return _packet(_UNSUBSCRIBE << 4 | 0x02, _PACKET_ID.pack(self.packet_id) + filters)


@dataclass(frozen=True, slots=True)
class _Bare:
    """A packet without content."""

    _head: ClassVar[int]

    def encode(self) -> bytes:
        """The packet's bytes."""
        return bytes((self._head, 0))


@dataclass(frozen=True, slots=True)
class Pingreq(_Bare):
    """The client is alive and asks whether the server is (section 3.12)."""

    _head = _PINGREQ << 4


@dataclass(frozen=True, slots=True)
class Pingresp(_Bare):
    """The server is alive (section 3.13)."""

    _head = _PINGRESP << 4


@dataclass(frozen=True, slots=True)
class Disconnect(_Bare):
    """The client leaves on purpose; its will is not published (section 3.14)."""

    _head = _DISCONNECT << 4


Packet: TypeAlias = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
)


class PacketReader:
    """Finds packets in the bytes of one direction of one connection.

    Args:
        max_packet_bytes: the largest packet accepted, counted with its header.
    """

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._partial = bytearray()
        self._wanted_bytes = 0
        self._fault: str | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """Take what was read and return the packets that are now whole, in order.

        Raises:
            MalformedPacket: the stream broke MQTT's rules here, or in an earlier call.
        """
        if self._fault is not None:
            raise MalformedPacket(self._fault)
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted_bytes:
                return []
            data = bytes(self._partial)
            self._partial.clear()
        packets: list[Packet] = []
        start, available = 0, len(data)
        try:
            while start < available:
                if data[start] not in _FIRST_BYTES:  # said before the rest comes: another protocol may never send it
                    raise MalformedPacket(f"no packet starts with 0x{data[start]:02x}")
                body, end = self._extent(data, start)
                if end > available:
                    self._wanted_bytes = end - start
                    self._partial += data[start:]
                    break
                packets.append(_decode(data, start, body, end))
                start = end
        except MalformedPacket as error:
            self._fault = error.what
            error.packets = packets
            raise
        return packets

    def _extent(self, data: bytes, start: int) -> tuple[int, int]:
        """Where the body of the packet at `start` begins and ends; an end beyond the data if more has to come."""
        length = 0
        for place in range(_LENGTH_FIELD_BYTES):
            at = start + 1 + place
            if at >= len(data):
                return at, at + 1
            byte = data[at]
            length |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                end = at + 1 + length
                if end - start > self._max_packet_bytes:
                    raise MalformedPacket(f"packet of {end - start} bytes, {self._max_packet_bytes} are allowed")
                return at + 1, end
        raise MalformedPacket("length field of more than four bytes")


def _decode(data: bytes, start: int, body: int, end: int) -> Packet:
    head = data[start]
    if head >> 4 == _PUBLISH:
        return _decode_publish(head, data, body, end)
    fields = _Fields(data, body, end)
    packet = _DECODERS[head](fields)
    fields.finish()
    return packet


def _decode_publish(head: int, data: bytes, at: int, end: int) -> Publish:
    """PUBLISH without the field cursor: it comes for every message, everything else once a connection."""
    qos = head >> 1 & 0x03
    topic_end = at + 2 + _U16.unpack_from(data, at)[0] if at + 2 <= end else end + 1
    payload = topic_end + 2 if qos else topic_end
    if payload > end:
        raise MalformedPacket("PUBLISH shorter than its fields")
    try:
        topic = data[at + 2 : topic_end].decode()
    except UnicodeDecodeError:
        raise MalformedPacket("topic is not UTF-8") from None
    if not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise MalformedPacket("topic is empty or has a wildcard or a null character")
    if not qos:
        if head & 0x08:
            raise MalformedPacket("DUP with QoS 0")
        return Publish(topic, data[payload:end], 0, 0, False, bool(head & 0x01))
    if qos > 2:
        raise MalformedPacket("QoS 3")
    packet_id = _PACKET_ID.unpack_from(data, topic_end)[0]
    if not packet_id:
        raise MalformedPacket("packet id 0")
    return Publish(topic, data[payload:end], qos, packet_id, bool(head & 0x08), bool(head & 0x01))


class _Fields:
    """Takes the fields of one packet's body in order and never looks past its end."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data = data
        self._at = start
        self._end = end

    @property
    def left(self) -> int:
        return self._end - self._at

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > self._end:
            raise MalformedPacket("packet shorter than its fields")
        return self._data[start : self._at]

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def packet_id(self) -> int:
        packet_id = self.u16()
        if not packet_id:
            raise MalformedPacket("packet id 0")
        return packet_id

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError:
            raise MalformedPacket("string is not UTF-8") from None
        if "\0" in text:
            raise MalformedPacket("string has a null character")
        return text

    def topic_filter(self) -> str:
        text = self.text()
        if not text:
            raise MalformedPacket("empty topic filter")
        return text

    def finish(self) -> None:
        if self._at != self._end:
            raise MalformedPacket("packet longer than its fields")


def _connect(fields: _Fields) -> Connect:
    if fields.take(len(_PROTOCOL)) != _PROTOCOL:
        raise MalformedPacket("CONNECT for another protocol than MQTT 3.1.1")
    flags = fields.u8()
    keep_alive_s = fields.u16()
    has_will, will_qos, will_retain = bool(flags & 0x04), flags >> 3 & 0x03, bool(flags & 0x20)
    if flags & 0x01 or will_qos > 2 or (not has_will and flags & 0x38) or flags & 0xC0 == 0x40:
        raise MalformedPacket(f"CONNECT flags 0x{flags:02x}")
    return Connect(
        client_id=fields.text(),
        clean_session=bool(flags & 0x02),
        keep_alive_s=keep_alive_s,
        will=Will(fields.topic_filter(), fields.binary(), will_qos, will_retain) if has_will else None,
        username=fields.text() if flags & 0x80 else None,
        password=fields.binary() if flags & 0x40 else None,
    )


def _connack(fields: _Fields) -> Connack:
    flags, return_code = fields.take(2)
    if flags > 1 or (flags and return_code):
        raise MalformedPacket(f"CONNACK flags 0x{flags:02x} with return code {return_code}")
    return Connack(return_code, bool(flags))


def _subscribe(fields: _Fields) -> Subscribe:
    packet_id = fields.packet_id()
    subscriptions = []
    while fields.left:
        subscriptions.append(Subscription(fields.topic_filter(), fields.u8()))
        if subscriptions[-1].qos > 2:
            raise MalformedPacket("subscription's QoS above 2")
    if not subscriptions:
        raise MalformedPacket("SUBSCRIBE without a filter")
    return Subscribe(packet_id, tuple(subscriptions))


def _suback(fields: _Fields) -> Suback:
    packet_id = fields.packet_id()
    codes = fields.take(fields.left)
    if not codes or any(code > 2 and code != _SUBSCRIPTION_REFUSED for code in codes):
        raise MalformedPacket("SUBACK without or with unknown return codes")
    return Suback(packet_id, tuple(None if code == _SUBSCRIPTION_REFUSED else code for code in codes))


def _unsubscribe(fields: _Fields) -> Unsubscribe:
    packet_id = fields.packet_id()
    topic_filters = []
    while fields.left:
        topic_filters.append(fields.topic_filter())
    if not topic_filters:
        raise MalformedPacket("UNSUBSCRIBE without a filter")
    return Unsubscribe(packet_id, tuple(topic_filters))


_DECODERS: dict[int, Callable[[_Fields], Packet]] = {
    _CONNECT << 4: _connect,
    _CONNACK << 4: _connack,
    _PUBACK << 4: lambda fields: Puback(fields.packet_id()),
    _PUBREC << 4: lambda fields: Pubrec(fields.packet_id()),
    _PUBREL << 4 | 0x02: lambda fields: Pubrel(fields.packet_id()),
    _PUBCOMP << 4: lambda fields: Pubcomp(fields.packet_id()),
    _SUBSCRIBE << 4 | 0x02: _subscribe,
    _SUBACK << 4: _suback,
    _UNSUBSCRIBE << 4 | 0x02: _unsubscribe,
    _UNSUBACK << 4: lambda fields: Unsuback(fields.packet_id()),
    _PINGREQ << 4: lambda _: Pingreq(),
    _PINGRESP << 4: lambda _: Pingresp(),
    _DISCONNECT << 4: lambda _: Disconnect(),
}
"""By first byte, whose lower half is fixed for every packet but PUBLISH (table 2.2)."""

_FIRST_BYTES = frozenset(_DECODERS) | frozenset(range(_PUBLISH << 4, (_PUBLISH + 1) << 4))


def _binary(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise BenchError(
            f"a field of {len(data)} bytes does not fit into an MQTT packet",
            where="MQTT",
            remedy="Names, topics and passwords end at 65535 bytes",
        )
    return _U16.pack(len(data)) + data


def _text(text: str) -> bytes:
    return _binary(text.encode())


def _packet(head: int, body: bytes) -> bytes:
    length = len(body)
    if length < 0x80:
        return bytes((head, length)) + body
    header = bytearray((head,))
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header) + body
