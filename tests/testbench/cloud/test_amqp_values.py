"""AMQP values against the specification's encodings, arbitrary bytes, and bytes made to hurt."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.amqp.values import (
    MAX_DEPTH,
    Array,
    Byte,
    Char,
    Described,
    Float,
    Int,
    Malformed,
    Short,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Value,
    decode,
    decode_first,
    encode,
)


def whole(kind: type[int], bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(lowest, highest).map(kind)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
symbols = st.text(st.characters(max_codepoint=127), max_size=20).map(Symbol)
scalars: list[st.SearchStrategy[Any]] = [
    st.booleans(),
    whole(Ubyte, 8, signed=False),
    whole(Ushort, 16, signed=False),
    whole(Uint, 32, signed=False),
    whole(Ulong, 64, signed=False),
    whole(Byte, 8, signed=True),
    whole(Short, 16, signed=True),
    whole(Int, 32, signed=True),
    whole(int, 64, signed=True),
    whole(Timestamp, 64, signed=True),
    st.floats(width=32, allow_nan=False).map(Float),
    st.floats(allow_nan=False),
    st.characters(exclude_categories=["Cs"]).map(Char),
    st.uuids(),
    st.binary(max_size=300),
    texts,
    symbols,
]
arrays = st.one_of([st.lists(scalar, max_size=4).map(Array) for scalar in scalars])
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.one_of(scalars) | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | symbols, inner, max_size=4)
        | st.builds(Described, whole(Ulong, 64, signed=False) | symbols, inner)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value with all its types, so that an unsigned 1 differs from a signed one."""
    match value:
        case Described():
            return Described, typed(value.descriptor), typed(value.value)
        case list():
            return type(value), [typed(each) for each in value]
        case dict():
            return dict, [(typed(key), typed(each)) for key, each in value.items()]
    return type(value), value


def outcome(data: bytes) -> Any:
    """What reading gives, or that it is refused; any other error fails the test."""
    try:
        return typed(decode(data))
    except Malformed:
        return None


@given(values)
def test_round_trip(value: Value) -> None:
    """What is written is read back, in value and in type."""
    assert typed(decode(encode(value))) == typed(value)


@given(values, st.integers(0, 2000), st.integers(0, 255))
def test_damaged_values(value: Value, place: int, byte: int) -> None:
    """A value with one byte changed is a value or `Malformed`, never another error."""
    data = bytearray(encode(value))
    data[place % len(data)] = byte
    outcome(bytes(data))


@given(values, st.integers(0, 2000))
def test_cut_values(value: Value, place: int) -> None:
    """A value whose end is missing is `Malformed`."""
    data = encode(value)
    assert outcome(data[: place % len(data)]) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are a value or `Malformed`, never another error."""
    outcome(data)


def test_the_place_behind_a_value() -> None:
    """A value is found among others, and where the next one begins is told."""
    data = encode("a") + encode(Uint(5)) + encode(None)
    assert decode_first(data, 3) == (Uint(5), 5)
    with pytest.raises(Malformed):
        decode(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("40", None),
        ("41", True),
        ("5600", False),
        ("43", Uint(0)),
        ("52ff", Uint(255)),
        ("7000000100", Uint(256)),
        ("44", Ulong(0)),
        ("5310", Ulong(16)),
        ("54ff", Int(-1)),
        ("5580", -128),
        ("50ff", Ubyte(255)),
        ("7200000000", Float(0)),
        ("8300000000000003e8", Timestamp(1000)),
        ("7300000041", Char("A")),
        ("98 00112233 4455 6677 8899 aabbccddeeff", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
        ("a1 02 c3a9", "é"),
        ("b1 00000001 61", "a"),
        ("a3 01 61", Symbol("a")),
        ("45", []),
        ("c0 03 02 41 42", [True, False]),
        ("d0 00000006 00000002 41 42", [True, False]),
        ("c1 05 02 a101 6b 41", {"k": True}),
        ("e0 06 02 a3 01 61 01 62", Array([Symbol("a"), Symbol("b")])),
        ("00 a3 01 64 a1 01 76", Described(Symbol("d"), "v")),
    ],
)
def test_bytes_of_the_specification(data: str, value: Value) -> None:
    """Each encoding of the specification is read (amqp-core-types-v1.0, section 1.6)."""
    assert typed(decode(bytes.fromhex(data))) == typed(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (Ulong(0x10), "5310"),
        (Uint(300), "700000012c"),
        (Symbol("x"), "a30178"),
        ([], "45"),
        ([None], "c0020140"),
        (bytes(256), "b000000100" + "00" * 256),
    ],
)
def test_short_forms(value: Value, data: str) -> None:
    """Short values are written in their short form; azure-eventhub reads descriptors in no other."""
    assert encode(value).hex() == data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "nothing"),
        ("4141", "a second value"),
        ("01", "an unknown type"),
        ("7400000000", "a decimal"),
        ("5602", "a boolean of 2"),
        ("a101ff", "text that is not UTF-8"),
        ("a301c3", "a symbol that is not ASCII"),
        ("73ffffffff", "no Unicode character"),
        ("c1020140", "a map with half an item"),
        ("c104024541", "a list as a key: what follows is short"),
        ("c103024541", "a list as a key"),
        ("c0044041", "a list that says it has more"),
        ("c0040240414141", "a list shorter than it says"),
        ("00", "a descriptor without a value"),
    ],
)
def test_malformed(data: str, why: str) -> None:
    """What is no value is refused."""
    assert outcome(bytes.fromhex(data)) is None


@pytest.mark.parametrize("start", ["c0ff01", "d0000000ff00000001", "00", "e0ff01"])
def test_depth_is_bounded(start: str) -> None:
    """Values in values end in `Malformed` long before they end the interpreter."""
    assert outcome(bytes.fromhex(start) * 5000) is None


def test_depth_that_is_needed() -> None:
    """Lists may be nested as deep as `MAX_DEPTH` says, and no deeper."""
    value: Value = None
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode(encode(value)) == value
    assert outcome(encode([value])) is None


def test_few_bytes_are_few_values() -> None:
    """An array of four billion nulls, which has ten bytes, is refused and not built."""
    assert outcome(bytes.fromhex("f0 00000005 ffffffff 40")) is None


@pytest.mark.parametrize(
    "value", [Ubyte(256), Uint(-1), Ulong(2**64), 2**63, Array([1, "a"]), Array([Described(1, 2)])]
)
def test_what_cannot_be_written(value: Value) -> None:
    """A number that does not fit, and an array of several types or of described values, is an error."""
    with pytest.raises(BenchError):
        encode(value)
