"""Checksums where devices have them: over a part of the frame, in its middle, as a complement."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import Codec

from .declarations import fixed_layouts, sample_of

HEAD = {"name": "head", "type": "bytes", "length_bytes": 2, "emit": False}
DATA = {"name": "data", "type": "bytes", "length_bytes": 4}
CHECK = {"name": "check_sum", "type": "u16"}
TAIL = {"name": "tail", "type": "u8", "emit": False}


def rejected(codec: Codec, frame: bytes) -> str:
    rejects = codec.decode([frame]).rejects
    return rejects[0].reason if rejects else ""


@pytest.mark.parametrize(
    ("wire", "fields", "checksum"),
    [
        # MH-Z19 manual: bytes 1 to 7, inverted plus one.
        (
            "ff 86 02 60 47 00 00 00 d1",
            [{"name": "start", "type": "u8", "const": 0xFF}, {"name": "rest", "type": "bytes", "length_bytes": 7}],
            {"algorithm": "sum-8/negated", "from": 1},
        ),
        # SDS011 protocol V1.3: the sum of the six data bytes, which the tail follows.
        (
            "aa c0 d4 04 3a 0a a1 60 1d ab",
            [
                {"name": "start", "type": "u16", "const": 0xAAC0},
                {"name": "pm2_5", "type": "u16"},
                {"name": "pm10", "type": "u16"},
                {"name": "device", "type": "u16"},
                {"name": "check_sum", "type": "u8"},
                {"name": "tail", "type": "u8", "const": 0xAB},
            ],
            {"algorithm": "sum-8", "at": "check_sum", "from": "pm2_5"},
        ),
        # Modbus over serial line V1.02, ASCII mode: the two's complement of the sum.
        ("01 03 00 00 00 0a f2", [{"name": "rest", "type": "bytes", "length_bytes": 6}], {"algorithm": "lrc"}),
    ],
)
def test_checks_of_known_devices(wire: str, fields: list[dict[str, Any]], checksum: dict[str, Any]) -> None:
    """A frame printed in a manual passes, one with any covered bit flipped does not, and encoding gives the frame."""
    codec = sample_of(*fields, checksum=checksum)
    frame = bytes.fromhex(wire)
    (sample,) = codec.decode([frame]).samples
    assert codec.encode("only", None, None, sample.values) == frame
    check = fixed_layouts(codec.profile)["only"].checksum
    assert check is not None
    for index in (*range(check.covers_start, check.covers_end), check.start):
        damaged = bytearray(frame)
        damaged[index] ^= 0x10
        assert rejected(codec, bytes(damaged)) == "checksum"


@pytest.mark.parametrize(
    ("fields", "checksum", "covers", "place"),
    [
        ([HEAD, DATA], {}, (0, 6), (6, 8)),
        ([HEAD, DATA, TAIL], {"to": "data"}, (0, 6), (7, 9)),
        ([HEAD, DATA], {"from": "data"}, (2, 6), (6, 8)),
        ([HEAD, DATA], {"from": 1, "to": 3}, (1, 4), (6, 8)),
        ([HEAD, CHECK, DATA], {"at": "check_sum", "from": "data"}, (4, 8), (2, 4)),
        ([HEAD, CHECK, DATA, TAIL], {"at": "check_sum"}, (0, 2), (2, 4)),
        ([CHECK, HEAD, DATA], {"at": "check_sum", "from": "head", "to": 4}, (2, 5), (0, 2)),
    ],
)
def test_places_and_ranges(
    fields: list[dict[str, Any]], checksum: dict[str, Any], covers: tuple[int, int], place: tuple[int, int]
) -> None:
    """`from` and `to` are the first and the last that is covered; without them, all before the check or behind it."""
    codec = sample_of(*fields, checksum={"algorithm": "crc-16/modbus", **checksum})
    check = fixed_layouts(codec.profile)["only"].checksum
    assert check is not None
    assert ((check.covers_start, check.covers_end), (check.start, check.end)) == (covers, place)
    frame = codec.encode("only", None, None, {"data": "01020304"})
    assert rejected(codec, frame) == ""
    for index in range(*covers):
        damaged = bytearray(frame)
        damaged[index] ^= 1
        assert rejected(codec, bytes(damaged)) == "checksum"


def test_the_field_of_a_check_is_no_value() -> None:
    """The field that holds the check neither becomes a value nor is asked for, and has its own byte order."""
    codec = sample_of(DATA, {**CHECK, "endian": "little"}, TAIL, checksum={"algorithm": "sum-16", "at": "check_sum"})
    frame = codec.encode("only", None, None, {"data": "ffffffff"})
    assert frame.hex() == "ffffffff" + "fc03" + "00"
    assert codec.decode([frame]).samples[0].values == {"data": "ffffffff"}
    (row,) = (row for row in codec.explain(frame) if row.field == "check_sum")
    assert (row.start, row.end, row.note) == (4, 6, "sum-16, right")


def test_a_wrong_check_in_the_middle_is_told_in_its_place() -> None:
    """The explanation goes from the first byte to the last also where the check stands between fields."""
    codec = sample_of(DATA, CHECK, TAIL, checksum={"algorithm": "sum-16", "at": "check_sum"})
    first, *rows = codec.explain(bytes.fromhex("01020304 0000 00"))
    assert "rejected: checksum" in first.note
    assert [row.field for row in rows] == ["data", "check_sum", "tail"]
    assert rows[1].note == "sum-16, wrong: 00 0a expected"


def test_a_cut_frame_with_its_check_in_front_says_what_is_missing() -> None:
    """Of a frame that stops before the last covered byte, no right checksum can be told."""
    codec = sample_of(CHECK, DATA, checksum={"algorithm": "sum-16", "at": "check_sum", "from": "data"})
    notes = {row.field: row.note for row in codec.explain(bytes.fromhex("00 0a 01 02"))}
    assert notes["check_sum"] == "sum-16 over bytes of which some are missing"
    assert notes["data"] == "missing: 2 of 4 bytes"


@given(st.binary(min_size=9, max_size=9))
def test_what_passes_holds(frame: bytes) -> None:
    """No frame passes whose check, worked out here again, is not right."""
    codec = sample_of(HEAD, CHECK, DATA, TAIL, checksum={"algorithm": "sum-16", "at": "check_sum", "from": 4, "to": 6})
    sealed = frame[:2] + sum(frame[4:7]).to_bytes(2, "big") + frame[4:]
    assert rejected(codec, sealed) == ""
    assert (rejected(codec, frame) == "") == (frame == sealed)
