"""Each kind of field against bytes whose meaning is known from elsewhere: Python's own packing, standards, manuals."""

from __future__ import annotations

import math
import struct
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import Codec
from edge_gateway.codec.fields.medical_float import medfloat16, medfloat32, to_medfloat
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

from .declarations import sample_of, value_of

FLOAT_CODES = {"f16": "e", "f32": "f", "f64": "d"}


def field(kind: str, **keys: Any) -> Codec:
    return sample_of({"name": "x", "type": kind, **keys})


def encoded(codec: Codec, value: Value) -> str:
    return codec.encode("only", None, None, {"x": value}).hex(" ")


# --- true and false --------------------------------------------------------------------------------------------------


def test_true_and_false() -> None:
    """A byte that is 0 is false, any other is true, and true is written as 1."""
    codec = field("bool")
    assert [value_of(codec, bytes([raw])) for raw in (0, 1, 2, 255)] == [False, True, True, True]
    assert (encoded(codec, False), encoded(codec, True)) == ("00", "01")
    with pytest.raises(CodecError, match="neither true nor false"):
        encoded(codec, 2)


def test_neither_true_nor_false() -> None:
    """A byte can say that it is not known, and everything else is true or false all the same."""
    codec = field("bool", sentinel=0xFF)
    assert [value_of(codec, bytes([raw])) for raw in (0, 1, 255)] == [False, True, None]
    assert encoded(codec, None) == "ff"


# --- integers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("frame_endian", ["little", "big"])
@pytest.mark.parametrize("sign", ["u", "i"])
@pytest.mark.parametrize("size_bytes", range(1, 9))
def test_integers_of_every_width(size_bytes: int, sign: str, frame_endian: str, endian: str) -> None:
    """An integer of 1 to 8 bytes is what Python makes of its bytes, in the field's order whatever the frame's."""
    declared = {"name": "x", "type": f"{sign}{8 * size_bytes}", "endian": endian}
    codec = sample_of(declared, {"name": "tail", "type": "u8", "emit": False}, endian=frame_endian)
    for data in (
        bytes(range(0xF1, 0xF1 + size_bytes)),
        bytes(range(1, 1 + size_bytes)),
        b"\x80" + bytes(size_bytes - 1),
    ):
        number = int.from_bytes(data, "little" if endian == "little" else "big", signed=sign == "i")
        assert value_of(codec, data + b"\0") == number
        assert codec.encode("only", None, None, {"x": number}) == data + b"\0"


@pytest.mark.parametrize(
    ("kind", "keys", "wire", "value"),
    [
        # The four orders of a 32-bit number in Modbus registers, as manuals call them: ABCD, CDAB, BADC, DCBA.
        ("u32", {}, "01 02 03 04", 0x01020304),
        ("u32", {"word_order": "swapped"}, "03 04 01 02", 0x01020304),
        ("u32", {"word_order": "swapped", "endian": "little"}, "02 01 04 03", 0x01020304),
        ("u32", {"endian": "little"}, "04 03 02 01", 0x01020304),
        ("i32", {"word_order": "swapped"}, "ff fe ff ff", -2),
        ("u48", {"word_order": "swapped"}, "05 06 03 04 01 02", 0x010203040506),
        ("i64", {"word_order": "swapped"}, "ff fe ff ff ff ff ff ff", -2),
        ("f32", {"word_order": "swapped"}, "00 00 41 bc", 23.5),
        ("f32", {"word_order": "swapped", "endian": "little"}, "bc 41 00 00", 23.5),
        ("f64", {"word_order": "swapped"}, "00 00 00 00 80 00 40 37", 23.5),
    ],
)
def test_words_in_the_other_order(kind: str, keys: dict[str, Any], wire: str, value: float) -> None:
    """A number in registers of which the lower comes first is read and written in that order."""
    codec = field(kind, **keys)
    assert value_of(codec, wire) == value
    assert encoded(codec, value) == wire


@given(st.binary(min_size=7, max_size=7), st.integers(0, 55), st.integers(2, 56), st.booleans())
def test_bits_across_bytes(data: bytes, bit: int, width: int, signed: bool) -> None:
    """Any run of bits of a 7-byte integer is shifted and masked out of it, and signed where it says so."""
    width = max(2 if bit < 55 else 1, min(width, 56 - bit))
    signed = signed and width > 1
    codec = sample_of(
        {"name": "all", "type": "u56", "bits": [{"name": "x", "bit": bit, "width": width, "signed": signed}]}
    )
    text = f"{int.from_bytes(data, 'big'):056b}"[56 - bit - width : 56 - bit]
    expected = int(text, 2) - ((1 << width) if signed and text[0] == "1" else 0)
    assert value_of(codec, data) == expected
    assert value_of(codec, codec.encode("only", None, None, {"x": value_of(codec, data)})) == expected


def test_bits_have_scale_enum_and_sentinel() -> None:
    """A bit field has every meaning an integer can have."""
    parts: list[dict[str, Any]] = [
        {"name": "level", "bit": 0, "width": 12, "signed": True, "scale": 0.25, "offset": 1, "sentinel": -2048},
        {"name": "state", "bit": 12, "width": 2, "enum": {0: "off", 1: "on"}, "sentinel": 3},
        {"name": "flag", "bit": 15},
    ]
    codec = sample_of({"name": "all", "type": "u16", "bits": parts})
    for wire, level, state, flag in (
        ("8f ff", 0.75, "off", True),
        ("18 00", None, "on", False),
        ("37 ff", 512.75, None, False),
    ):
        values = {"level": level, "state": state, "flag": flag}
        assert codec.decode([bytes.fromhex(wire)]).samples[0].values == values
        assert codec.encode("only", None, None, values) == bytes.fromhex(wire)


def test_labels_of_two_fields_never_meet() -> None:
    """Frames and fields whose joined names read the same keep their own names of codes."""
    fields: list[dict[str, Any]] = [
        {"name": "kind", "type": "u8", "const": 0},
        {"name": "b_c", "type": "u8", "enum": {0: "one"}},
    ]
    other = [{"name": "kind", "type": "u8", "const": 1}, {"name": "c", "type": "u8", "enum": {0: "two"}}]
    profile = sample_of(*fields).profile
    document = profile.model_dump(exclude_none=True, by_alias=True)
    frame = document["frames"].pop("only")
    document["frames"] = {"a": frame, "a-b": {**frame, "fields": other}}
    codec = Codec(type(profile).model_validate(document))
    assert [sample.values for sample in codec.decode([b"\0\0", b"\1\0"]).samples] == [{"b_c": "one"}, {"c": "two"}]


# --- floats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_binary_floats(kind: str, endian: str) -> None:
    """A float of 2, 4 or 8 bytes is what struct says, in either order; NaN and the infinities are null."""
    codec = field(kind, endian=endian)
    code = (">" if endian == "big" else "<") + FLOAT_CODES[kind]
    for number in (0.0, 1.5, -2.25, 65_504.0):
        assert value_of(codec, struct.pack(code, number)) == number
        assert encoded(codec, number) == struct.pack(code, number).hex(" ")
    for number in (math.nan, math.inf, -math.inf):
        assert value_of(codec, struct.pack(code, number)) is None


@pytest.mark.parametrize(
    ("kind", "wire", "value"),
    [
        # A thermometer's 36.4 as the Bluetooth health thermometer service sends it, there little endian.
        ("medfloat32", "ff 00 01 6c", 36.4),
        ("medfloat16", "f1 6c", 36.4),
        ("medfloat16", "00 72", 114.0),
        ("medfloat16", "7f ff", -10_000_000.0),
        ("medfloat16", "f7 ff", 204.7),
        ("medfloat32", "7f 00 00 01", 1e127),
        ("medfloat32", "80 00 00 01", 1e-128),
    ],
)
def test_decimal_floats(kind: str, wire: str, value: float) -> None:
    """A decimal float is its mantissa times a power of ten, to the nearest float."""
    codec = field(kind)
    assert value_of(codec, wire) == value
    assert value_of(codec, encoded(codec, value)) == value


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("07 fe", "00 7f ff fe"),  # infinity
        ("07 ff", "00 7f ff ff"),  # NaN
        ("08 00", "00 80 00 00"),  # not at this resolution
        ("08 01", "00 80 00 01"),  # reserved
        ("08 02", "00 80 00 02"),  # minus infinity
    ],
)
def test_decimal_floats_that_are_no_numbers(short: str, long: str) -> None:
    """The five codes that are no numbers are null in both widths; null is sent as NaN."""
    assert value_of(field("medfloat16"), short) is None
    assert value_of(field("medfloat32"), long) is None
    assert encoded(field("medfloat16"), None) == "07 ff"
    assert encoded(field("medfloat32"), None) == "00 7f ff ff"


def test_every_short_decimal_float_comes_back() -> None:
    """Each of the 65536 words decodes to a number that encodes to a word of the same number."""
    for word in range(1 << 16):
        number = medfloat16(word)
        again = medfloat16(to_medfloat(number, 2))
        assert again == number or (math.isnan(again) and math.isnan(number))


@given(st.integers(0, (1 << 32) - 1))
def test_any_long_decimal_float_comes_back(word: int) -> None:
    """What 32 bits say is said again by what it encodes to."""
    number = medfloat32(word)
    again = medfloat32(to_medfloat(number, 4))
    assert again == number or (math.isnan(again) and math.isnan(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_becomes_the_nearest_decimal_float(number: float) -> None:
    """A number is rounded to the digits that fit, or refused as too large."""
    try:
        near = medfloat32(to_medfloat(number, 4))
    except OverflowError:
        assert abs(number) > 8e133
        return
    assert abs(near - number) <= max(abs(number) * 1e-6, 1e-128)


@pytest.mark.parametrize(("kind", "value"), [("f16", 1e6), ("f32", 1e39), ("medfloat16", 1e12), ("medfloat32", 1e140)])
def test_floats_that_are_too_large_are_refused(kind: str, value: float) -> None:
    """A number beyond the format is an error that names the format, and never an infinity on the wire."""
    with pytest.raises(CodecError, match=f"does not fit into {kind}"):
        encoded(field(kind), value)


# --- decimal digits, text, addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "wire", "value"),
    [
        ({"digits": 4}, "12 34", 1234),
        ({"digits": 4, "endian": "little"}, "34 12", 1234),
        ({"digits": 3}, "01 23", 123),
        ({"digits": 8, "scale": 0.01, "unit": "kWh"}, "00 12 34 56", 1234.56),
        ({"digits": 2, "enum": {10: "ten"}}, "10", "ten"),
        ({"digits": 2, "sentinel": 99}, "99", None),
        ({"digits": 18}, "99 99 99 99 99 99 99 99 99", 10**18 - 1),
    ],
)
def test_decimal_digits(keys: dict[str, Any], wire: str, value: Value) -> None:
    """Packed digits read as the number they show."""
    codec = field("bcd", **keys)
    assert value_of(codec, wire) == value
    assert encoded(codec, value) == wire


@pytest.mark.parametrize(("digits", "wire"), [(4, "12 3a"), (4, "f0 00"), (3, "11 23"), (1, "10")])
def test_what_is_no_decimal_digit_rejects_the_frame(digits: int, wire: str) -> None:
    """A half byte above 9, or a digit where there is none, rejects the frame, and the explanation points at it."""
    codec = field("bcd", digits=digits)
    assert value_of(codec, wire) == "value"
    first, row = codec.explain(bytes.fromhex(wire))
    assert first.note == "rejected: value"
    assert row.note in ("rejected: not decimal digits", f"rejected: more than {digits} digits")


@pytest.mark.parametrize(
    ("keys", "wire", "value"),
    [
        ({}, b"AB\0\0", "AB"),
        ({}, b"\0\0\0\0", ""),
        ({}, b"A\0B\0", "A\0B"),
        ({"padding": 0x20}, b"AB  ", "AB"),
        ({"padding": 0xFF}, b"AB\xff\xff", "AB"),
        ({"encoding": "utf-8"}, "µm".encode() + b"\0", "µm"),
        ({"encoding": "utf-8", "padding": 0xFF}, "µm".encode() + b"\xff", "µm"),
    ],
)
def test_text_loses_what_fills_it_up(keys: dict[str, Any], wire: bytes, value: str) -> None:
    """Text of a fixed length comes without its padding, and goes with it."""
    codec = field("text", length_bytes=4, **keys)
    assert value_of(codec, wire) == value
    assert codec.encode("only", None, None, {"x": value}) == wire


@pytest.mark.parametrize(("encoding", "wire"), [("ascii", b"A\x80"), ("utf-8", b"\xc3("), ("utf-8", b"A\xc3")])
def test_what_is_no_text_rejects_the_frame(encoding: str, wire: bytes) -> None:
    """Bytes that are not of the encoding reject the frame, and the explanation says so."""
    codec = field("text", length_bytes=2, encoding=encoding)
    assert value_of(codec, wire) == "value"
    assert codec.explain(wire)[1].note == f"rejected: not {encoding} text"


@pytest.mark.parametrize("value", ["ABCDE", "A\0", "µ", 7, None])
def test_text_that_would_not_come_back_is_refused(value: Value) -> None:
    """Text that is too long, ends like padding or is of another alphabet is not sent."""
    with pytest.raises(CodecError, match="Possible: ascii text of at most 4 bytes"):
        encoded(field("text", length_bytes=4), value)


def test_text_that_fills_all_its_bytes() -> None:
    """With `padding: null`, nothing is taken off the end, and nothing is filled up."""
    codec = field("text", length_bytes=3, padding=None)
    assert value_of(codec, b"A\0\0") == "A\0\0"
    assert encoded(codec, "A\0\0") == "41 00 00"
    for value in ("A\0", "ABCD"):
        with pytest.raises(CodecError, match="does not fit"):
            encoded(codec, value)


def test_words_that_are_written_short() -> None:
    """Single bytes stand for words, and words are written as such bytes, the longest first."""
    codec = field("text", length_bytes="end", padding=None, expand={0: ".com/", 7: ".com", 1: ".org/"})
    assert value_of(codec, b"a\0b\x07") == "a.com/b.com"
    assert value_of(codec, b"a.com") == "a.com"
    assert encoded(codec, "a.com/b.com.org/") == b"a\0b\x07\x01".hex(" ")
    with pytest.raises(CodecError, match="does not fit"):
        encoded(codec, "a\0")


@pytest.mark.parametrize(("endian", "wire"), [("big", "a1 b2 c3 d4 e5 f6"), ("little", "f6 e5 d4 c3 b2 a1")])
def test_hardware_addresses(endian: str, wire: str) -> None:
    """A hardware address reads as on the device's label in either order; in capitals it is understood too."""
    codec = field("mac", endian=endian)
    assert value_of(codec, wire) == "a1:b2:c3:d4:e5:f6"
    assert encoded(codec, "A1:B2:C3:D4:E5:F6") == wire
    with pytest.raises(CodecError, match=r"is not a hardware address\. For instance: a1:b2:c3:d4:e5:f6"):
        encoded(codec, "a1b2c3d4e5f6")


@pytest.mark.parametrize("endian", ["big", "little"])
def test_uuids(endian: str) -> None:
    """A UUID reads as Python's own prints it, in either order; in capitals it is understood too."""
    codec = field("uuid", endian=endian)
    printed = uuid.UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    wire = printed.bytes if endian == "big" else printed.bytes[::-1]
    assert value_of(codec, wire) == str(printed)
    assert encoded(codec, str(printed).upper()) == wire.hex(" ")
    with pytest.raises(CodecError, match="is not a UUID"):
        encoded(codec, printed.hex)


# --- no value, and values that cannot be true ------------------------------------------------------------------------


def test_a_range_of_sentinels() -> None:
    """Single numbers and ranges together mean "no value"; null is sent as the first of them."""
    codec = field("u16", sentinel=[7, {"minimum": 0xFFF0, "maximum": 0xFFFF}])
    wires = ("00 07", "ff f0", "ff ff", "ff ef", "00 08")
    assert [value_of(codec, wire) for wire in wires] == [None, None, None, 0xFFEF, 8]
    assert encoded(codec, None) == "00 07"
    assert encoded(field("u16", sentinel={"minimum": 0xFFF0, "maximum": 0xFFFF}), None) == "ff f0"


VALID = {"minimum": -40, "maximum": 85}


@pytest.mark.parametrize(("otherwise", "outside"), [("reject", "value"), ("null", None), (None, None)])
def test_values_that_cannot_be_true(otherwise: str, outside: Value) -> None:
    """Outside `valid`, in the value's unit and ends included, a frame is rejected or the value is null."""
    codec = field("i16", scale=0.1, sentinel=-32768, unit="Cel", valid={**VALID, "otherwise": otherwise})
    numbers = (-401, -400, 850, 851, -32768)
    found = [value_of(codec, number.to_bytes(2, "big", signed=True)) for number in numbers]
    assert found == [outside, -40.0, 85.0, outside, None]
    with pytest.raises(CodecError, match=r"85\.1 is not valid\. Possible: -40\.0 to 85\.0"):
        encoded(codec, 85.1)


@pytest.mark.parametrize(("otherwise", "outside"), [("reject", "value"), ("null", None)])
def test_floats_that_cannot_be_true(otherwise: str, outside: Value) -> None:
    """The same holds for floats, where what is no number is null and never a reject."""
    codec = field("f32", valid={**VALID, "otherwise": otherwise})
    numbers = (-40.5, -40.0, 85.0, 85.5, math.nan, math.inf, -math.inf)
    found = [value_of(codec, struct.pack(">f", number)) for number in numbers]
    assert found == [outside, -40.0, 85.0, outside, None, None, None]


def test_one_bound_is_enough() -> None:
    """A single bound leaves the other side open."""
    assert [value_of(field("u8", valid={"maximum": 100}), bytes([n])) for n in (0, 100, 101)] == [0, 100, "value"]
    codec = field("f32", valid={"minimum": 0, "otherwise": "null"})
    assert [value_of(codec, struct.pack(">f", n)) for n in (-1.0, 0.0, 2.0**99, math.inf)] == [None, 0.0, 2.0**99, None]


def test_a_field_without_value_is_checked_all_the_same() -> None:
    """`emit: false` takes away the value and not the check; left out of `encode`, it is a number that passes."""
    codec = sample_of({"name": "x", "type": "u8"}, {"name": "n", "type": "u8", "emit": False, "valid": {"minimum": 3}})
    assert value_of(codec, "01 03") == 1
    assert value_of(codec, "01 02") == "value"
    assert encoded(codec, 1) == "01 03"


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "epoch", "number", "text"),
    [
        ("u32", "unix-s", 0, "1970-01-01T00:00:00Z"),
        ("u32", "unix-s", 1_767_225_599, "2025-12-31T23:59:59Z"),
        ("i32", "unix-s", -1, "1969-12-31T23:59:59Z"),
        ("u32", "unix-s", 2**32 - 1, "2106-02-07T06:28:15Z"),
        ("u48", "unix-ms", 1_767_225_599_007, "2025-12-31T23:59:59.007Z"),
        ("u64", "unix-ms", 253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ("u64", "unix-ms", 253_402_300_800_000, None),
        ("i64", "unix-s", -(2**63), None),
    ],
)
def test_times_since_1970(kind: str, epoch: str, number: int, text: str | None) -> None:
    """Seconds and milliseconds since 1970 read as RFC 3339; what no calendar has is null."""
    codec = field(kind, epoch=epoch)
    wire = number.to_bytes(int(kind[1:]) // 8, "big", signed=kind[0] == "i")
    assert value_of(codec, wire) == text
    assert value_of(codec, encoded(codec, text)) == text


def test_a_time_to_send_has_an_offset() -> None:
    """A time with any offset is sent as the moment it is; one without is no moment, and refused."""
    codec = field("u32", epoch="unix-s")
    assert encoded(codec, "1970-01-01T02:00:01+02:00") == "00 00 00 01"
    for wrong in ("1970-01-01T00:00:01", "yesterday", 1, "2107-01-01T00:00:00Z"):
        with pytest.raises(CodecError, match=r"x: .*(Write it as|Possible: 1970-01-01T00:00:00Z to 2106)"):
            encoded(codec, wrong)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["unix-s", "unix-ms"]))
def test_any_time_comes_back_or_is_null(number: int, epoch: str) -> None:
    """Whatever a device counts, the text says that moment exactly or there is none."""
    codec = field("i64", epoch=epoch)
    text = value_of(codec, number.to_bytes(8, "big", signed=True))
    if text is not None:
        assert int.from_bytes(codec.encode("only", None, None, {"x": text}), "big", signed=True) == number


# --- any bytes -------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=9), st.sampled_from(["f16", "medfloat16", "medfloat32", "mac", "u56", "i24"]))
def test_no_bytes_raise(data: bytes, kind: str) -> None:
    """Bytes of any kind of field end in a value or a reject."""
    decoded = field(kind).decode([data])
    assert len(decoded.samples) + len(decoded.rejects) == 1
