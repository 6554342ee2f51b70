"""AMQP's frames, what is in them, and messages: round trips, cuts, and bytes that are none of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.amqp import composites
from edge_gateway.testbench.cloud.amqp.composites import (
    Accepted,
    Attach,
    Disposition,
    Error,
    Open,
    Properties,
    Rejected,
    SaslInit,
    Source,
    Target,
    Transfer,
    read,
    read_first,
    write,
)
from edge_gateway.testbench.cloud.amqp.frames import AMQP, AMQP_HEADER, SASL, SASL_HEADER, Frame, FrameReader
from edge_gateway.testbench.cloud.amqp.message import Message, decode_message
from edge_gateway.testbench.cloud.amqp.values import (
    Array,
    Described,
    Malformed,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Value,
    encode,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
symbols = st.text(st.characters(max_codepoint=127), max_size=20).map(Symbol)
uints = st.integers(0, 2**32 - 1).map(Uint)
ulongs = st.integers(0, 2**64 - 1).map(Ulong)
times = st.integers(-(2**63), 2**63 - 1).map(Timestamp)
message_ids: st.SearchStrategy[Any] = ulongs | st.uuids() | st.binary(max_size=20) | texts
simple: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-9, 9) | texts | times
states: st.SearchStrategy[Any] = st.sampled_from([None, Accepted()]) | st.builds(
    Rejected, st.none() | st.builds(Error, symbols, texts)
)
sources = st.builds(
    Source,
    st.none() | texts,
    filter=st.none() | st.dictionaries(symbols, st.builds(Described, symbols, texts), max_size=2),
    capabilities=st.none() | symbols | st.lists(symbols, max_size=3).map(Array),
)
messages = st.builds(
    Message,
    data=st.binary(max_size=40),
    properties=st.builds(
        Properties,
        message_id=st.none() | message_ids,
        user_id=st.none() | st.binary(max_size=9),
        correlation_id=st.none() | message_ids,
        content_type=st.none() | symbols,
        absolute_expiry_time=st.none() | times,
    ),
    application_properties=st.dictionaries(texts, simple, max_size=3),
    annotations=st.dictionaries(symbols, simple, max_size=3),
    delivery_annotations=st.dictionaries(symbols, simple, max_size=3),
)
bodies: st.SearchStrategy[Any] = st.one_of(
    st.builds(Open, texts, hostname=st.none() | texts, idle_time_out=st.none() | uints),
    st.builds(Attach, texts, uints, st.booleans(), source=st.none() | sources, target=st.builds(Target, texts)),
    st.builds(Transfer, uints, delivery_id=st.none() | uints, delivery_tag=st.none() | st.binary(max_size=32)),
    st.builds(Disposition, st.booleans(), uints, state=states),
)
frames = st.builds(
    Frame,
    st.sampled_from([AMQP, SASL]),
    st.integers(0, 0xFFFF),
    st.just(b"") | bodies.map(write) | st.binary(max_size=50),
)
pieces = st.sampled_from([AMQP_HEADER, SASL_HEADER]) | frames


def feed_all(parts: list[bytes], max_frame_bytes: int = 2000) -> tuple[list[Frame | bytes], bool]:
    """What a reader makes of the parts of a stream, and whether it ended in an error."""
    reader, found = FrameReader(max_frame_bytes), []
    try:
        for part in parts:
            found += list(reader.feed(part))
            assert len(reader._partial) < max_frame_bytes
    except Malformed:
        return found, True
    return found, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def stream(given: list[Frame | bytes]) -> bytes:
    return b"".join(each if isinstance(each, bytes) else each.encode() for each in given)


@given(st.lists(pieces, max_size=5))
def test_frames_round_trip(sent: list[Frame | bytes]) -> None:
    """Frames and protocol headers come out as they went in, in order."""
    assert feed_all([stream(sent)]) == (sent, False)


@given(st.lists(pieces, max_size=4), st.binary(max_size=20), st.lists(st.integers(0, 5000), max_size=8))
def test_cuts_do_not_matter(sent: list[Frame | bytes], noise: bytes, places: list[int]) -> None:
    """However a stream is cut, good or broken, the same comes out and the same streams fail."""
    whole, failed = feed_all([stream(sent) + noise])
    found, failed_too = feed_all(cut(stream(sent) + noise, places))
    assert failed_too == failed
    assert found[: len(whole)] == whole[: len(found)]
    assert failed or found == whole


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are frames, the beginning of one, or `Malformed`; what is kept stays under the limit."""
    feed_all([data], 64)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("00000007 02 00 0000", "smaller than its head"),
        ("00000800 02 00 0000", "larger than allowed"),
        ("00000008 01 00 0000", "a body that begins within the head"),
        ("00000008 03 00 0000", "a body that begins behind the end"),
        ("00000008 02 02 0000", "an unknown kind"),
    ],
)
def test_frames_that_are_none(data: str, why: str) -> None:
    """A frame's head that cannot be right is refused as soon as it is there."""
    assert feed_all([bytes.fromhex(data)], 0x400) == ([], True)


def test_extended_head() -> None:
    """What stands between a frame's head and its body is left out."""
    assert list(FrameReader(100).feed(bytes.fromhex("0000000e 03 00 0001 ffffffff 4041"))) == [
        Frame(AMQP, 1, b"\x40\x41")
    ]


@given(bodies, st.binary(max_size=20))
def test_composites_round_trip(body: Any, rest: bytes) -> None:
    """What a class of the specification is written to is read as the same, and what follows is left."""
    data = write(body)
    assert read_first(data + rest, 0) == (body, len(data))


@given(bodies, st.integers(0, 2000), st.integers(0, 255))
def test_damaged_composites(body: Any, place: int, byte: int) -> None:
    """A frame's body with one byte changed is one of AMQP's or `Malformed`, never another error."""
    data = bytearray(write(body))
    data[place % len(data)] = byte
    try:
        read_first(bytes(data), 0)
    except Malformed:
        return


def test_fields_left_out() -> None:
    """Fields at the end of a list may be missing; the first of them is needed here."""
    assert read(Described(Ulong(0x10), ["me"])) == Open("me")
    assert read(Described(Symbol("amqp:open:list"), ["me", "host"])) == Open("me", "host")
    wrong: list[list[Value]] = [[], [None], ["me"] + [None] * 10, [5]]
    for fields in wrong:
        with pytest.raises(Malformed):
            read(Described(Ulong(0x10), fields))


def test_all_fields_are_written() -> None:
    """Empty fields are written, too: azure-eventhub finds fields by their place."""
    assert write(Disposition(False, Uint(0))).hex() == "005315c0080642520040404040"


@pytest.mark.parametrize("value", [None, [], Described(Ulong(0x99), []), Described(Ulong(0x10), {}), Described([], [])])
def test_no_composite(value: Value) -> None:
    """A value that is no list AMQP describes is refused."""
    with pytest.raises(Malformed):
        read(value)


def test_every_class_is_known_once() -> None:
    """No two classes have the same descriptor."""
    kinds = {kind.make for kind in composites._kinds.values()}
    assert len(composites._kinds) == 3 * len(kinds)


def test_secrets_are_not_shown() -> None:
    """What a client proves itself by does not show when it is printed."""
    assert "hunter2" not in repr(SaslInit(Symbol("PLAIN"), b"\0user\0hunter2"))


@given(messages)
def test_messages_round_trip(message: Message) -> None:
    """A message is read as it was written, with the types of its ids."""
    found = decode_message(message.encode())
    assert found == message
    assert type(found.properties.message_id) is type(message.properties.message_id)


def test_message_of_a_value() -> None:
    """A body may be a value."""
    assert decode_message(Message(value="text").encode()) == Message(value="text")


def test_message_in_sections() -> None:
    """Data sections come together; header and footer are passed over."""
    sections: list[tuple[int, Value]] = [(0x70, [True, Ubyte(4)]), (0x75, b"a"), (0x75, b"b"), (0x78, {})]
    data = b"".join(encode(Described(Ulong(code), content)) for code, content in sections)
    assert decode_message(data) == Message(b"ab")


@given(messages, st.integers(0, 2000), st.integers(0, 255))
def test_damaged_messages(message: Message, place: int, byte: int) -> None:
    """A message with one byte changed is a message or `Malformed`, never another error."""
    data = bytearray(message.encode())
    data[place % len(data)] = byte
    try:
        decode_message(bytes(data))
    except Malformed:
        return


@pytest.mark.parametrize(
    "section", [None, Described(Ulong(0x79), None), Described(Ulong(0x75), "a"), Described(Ulong(0x74), {1: 2})]
)
def test_messages_that_are_none(section: Value) -> None:
    """A section that is unknown or of a wrong type makes a message none."""
    with pytest.raises(Malformed):
        decode_message(encode(section))
