"""The MQTT codec against the specification, arbitrary bytes, and arbitrary cuts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketReader,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)

packet_ids = st.integers(1, 0xFFFF)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
filters = texts.filter(bool)
topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=40)
payloads = st.binary(max_size=300)


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    username = draw(st.none() | texts)
    return Connect(
        client_id=draw(texts),
        clean_session=draw(st.booleans()),
        keep_alive_s=draw(st.integers(0, 0xFFFF)),
        username=username,
        password=draw(st.none() | payloads) if username is not None else None,
        will=draw(st.none() | st.builds(Will, topics, payloads, st.integers(0, 2), st.booleans())),
    )


packets: st.SearchStrategy[Packet] = st.one_of(
    connects(),
    st.builds(Connack, st.just(0), st.booleans()),
    st.builds(Connack, st.integers(1, 5)),
    st.builds(Publish, topics, payloads, st.just(0), st.just(0), st.just(False), st.booleans()),
    st.builds(Publish, topics, payloads, st.integers(1, 2), packet_ids, st.booleans(), st.booleans()),
    *(st.builds(kind, packet_ids) for kind in (Puback, Pubrec, Pubrel, Pubcomp, Unsuback)),
    st.builds(
        Subscribe,
        packet_ids,
        st.lists(st.builds(Subscription, filters, st.integers(0, 2)), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(Suback, packet_ids, st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=4).map(tuple)),
    st.builds(Unsubscribe, packet_ids, st.lists(filters, min_size=1, max_size=4).map(tuple)),
    st.sampled_from([Pingreq(), Pingresp(), Disconnect()]),
)


def feed_all(pieces: list[bytes], max_packet_bytes: int = 1000) -> tuple[list[Packet], bool]:
    """What a reader makes of pieces: the packets, and whether it ended in an error."""
    reader = PacketReader(max_packet_bytes)
    found: list[Packet] = []
    for piece in pieces:
        try:
            found += reader.feed(piece)
        except MalformedPacket as error:
            return [*found, *error.packets], True
    return found, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(packets, max_size=5))
def test_round_trip(sent: list[Packet]) -> None:
    """What `encode` writes, a reader reads back, packet for packet."""
    found, failed = feed_all([b"".join(packet.encode() for packet in sent)], 10_000)
    assert (found, failed) == (sent, False)
    assert [type(packet) for packet in found] == [type(packet) for packet in sent]


@given(st.lists(packets, max_size=4), st.binary(max_size=20), st.lists(st.integers(0, 5000), max_size=8))
def test_cuts_do_not_matter(sent: list[Packet], noise: bytes, places: list[int]) -> None:
    """However a stream is cut, good or broken, the same packets come out and the same streams fail."""
    data = b"".join(packet.encode() for packet in sent) + noise
    assert feed_all(cut(data, places)) == feed_all([data])


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes give packets or `MalformedPacket`, never another error."""
    feed_all([data])


@given(packets, st.integers(0, 400), st.integers(0, 255))
def test_damaged_packets(packet: Packet, place: int, byte: int) -> None:
    """A packet with one byte changed gives packets or `MalformedPacket`, never another error."""
    data = bytearray(packet.encode())
    data[place % len(data)] = byte
    feed_all([bytes(data)])


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_memory_is_bounded(pieces: list[bytes]) -> None:
    """Between calls a reader holds less than one packet of the largest size, whatever comes."""
    reader = PacketReader(64)
    for piece in pieces:
        try:
            reader.feed(piece)
        except MalformedPacket:
            break
        assert len(reader._partial) < 64


@pytest.mark.parametrize(
    ("data", "packet"),
    [
        ("100c 0004 4d515454 04 02 003c 0000", Connect("", keep_alive_s=60)),
        ("2002 0000", Connack(0)),
        ("3205 0001 61 0001", Publish("a", b"", 1, 1)),
        ("3004 0001 61 78", Publish("a", b"x")),
        ("4002 abcd", Puback(0xABCD)),
        ("6202 0001", Pubrel(1)),
        ("8206 0001 0001 61 01", Subscribe(1, (Subscription("a", 1),))),
        ("9003 0001 80", Suback(1, (None,))),
        ("a205 0001 0001 61", Unsubscribe(1, ("a",))),
        ("c000", Pingreq()),
        ("e000", Disconnect()),
    ],
)
def test_bytes_of_the_specification(data: str, packet: Packet) -> None:
    """The bytes are those of the specification's figures, in both directions."""
    assert packet.encode() == bytes.fromhex(data)
    assert PacketReader().feed(bytes.fromhex(data)) == [packet]


@pytest.mark.parametrize("size", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_length_field(size: int) -> None:
    """The length field is right at each of its edges (table 2.4)."""
    publish = Publish("t", bytes(size - 3))
    assert PacketReader().feed(publish.encode()) == [publish]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("00 00", "packet type 0"),
        ("f0 00", "packet type 15"),
        ("80 05 0001 0001 61", "SUBSCRIBE without its reserved bit"),
        ("c0 01 00", "PINGREQ with content"),
        ("30 ffffffff 01", "length field of five bytes"),
        ("32 05 0001 61 0000", "packet id 0"),
        ("36 05 0001 61 0001", "QoS 3"),
        ("38 03 0001 61", "DUP with QoS 0"),
        ("30 03 0001 23", "topic with a wildcard"),
        ("30 03 0001 ff", "topic that is not UTF-8"),
        ("30 03 0001 00", "topic with a null character"),
        ("30 02 0000", "empty topic"),
        ("30 01 00", "PUBLISH without a topic"),
        ("30 03 0009 61", "topic longer than the packet"),
        ("32 03 0001 61", "QoS 1 without a packet id"),
        ("10 0c 0004 4d515454 05 02 003c 0000", "MQTT 5"),
        ("10 0c 0004 4d515454 04 03 003c 0000", "reserved CONNECT flag"),
        ("10 0c 0004 4d515454 04 40 003c 0000", "password without user name"),
        ("10 0c 0004 4d515454 04 20 003c 0000", "retained will without will"),
        ("10 0c 0004 4d515454 04 02 003c 0001", "client id longer than the packet"),
        ("20 02 01 05", "session present on a refusal"),
        ("82 02 0001", "SUBSCRIBE without filter"),
        ("82 06 0001 0001 61 03", "subscription with QoS 3"),
        ("82 05 0001 0000 01", "empty filter"),
        ("90 03 0001 03", "SUBACK with an unknown code"),
        ("a2 02 0001", "UNSUBSCRIBE without filter"),
        ("40 03 0001 00", "PUBACK that is too long"),
    ],
)
def test_malformed(data: str, why: str) -> None:
    """What the specification forbids is refused."""
    with pytest.raises(MalformedPacket):
        PacketReader().feed(bytes.fromhex(data))


def test_packets_before_the_malformed_one_are_kept() -> None:
    """The error carries the whole packets before it, and the reader stays broken."""
    reader = PacketReader()
    with pytest.raises(MalformedPacket) as raised:
        reader.feed(b"\xc0\x00\xe0\x00\x00\x00")
    assert raised.value.packets == [Pingreq(), Disconnect()]
    with pytest.raises(MalformedPacket):
        reader.feed(b"\xc0\x00")


def test_too_large_is_refused_before_it_is_received() -> None:
    """A packet over the limit is refused as soon as its length is known."""
    data = Publish("topic", bytes(1000)).encode()
    assert PacketReader(len(data)).feed(data)
    with pytest.raises(MalformedPacket):
        PacketReader(len(data) - 1).feed(data[:3])


def test_another_protocol_is_refused_at_its_first_byte() -> None:
    """A byte that starts no packet is refused without waiting for a length that never comes."""
    with pytest.raises(MalformedPacket):
        PacketReader().feed(b"G")


def test_overlong_field_is_not_written() -> None:
    """A text that MQTT's two-byte length cannot count is an error, not a broken packet."""
    with pytest.raises(BenchError):
        Publish("t" * 65_536, b"").encode()


def test_repr_hides_the_password() -> None:
    """A password does not show when a packet is printed."""
    assert "hunter2" not in repr(Connect("c", username="u", password=b"hunter2"))
