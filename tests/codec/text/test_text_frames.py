"""Whole frames: their ends, checksums and lines, the reasons for a reject, and how an explanation reads."""

from __future__ import annotations

from typing import Any

import pytest

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.text import can_be_told_apart
from edge_gateway.codec.text.reading import explain_text
from edge_gateway.codec.text.source import compile_text
from edge_gateway.codec.text.writing import write_text
from edge_gateway.errors import CodecError, ProfileError
from edge_gateway.records import Answer, Sample

from .examples import block, line, read

NUMBER: dict[str, Any] = {"name": "x", "type": "integer"}


def sealed(text: str, start: str = "$") -> bytes:
    """An NMEA sentence with its checksum."""
    check = 0
    for byte in text.encode():
        check ^= byte
    return f"{start}{text}*{check:02X}".encode()


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"algorithm": "xor-8", "covers": "between"}, b"#12*03", b"#12*13"),
        ({"algorithm": "sum-8", "covers": "between"}, b"#12*63", b"#12*64"),
        ({"algorithm": "sum-8"}, b"#12*B0", b"#12*b1"),
        ({"algorithm": "sum-8", "form": "bytes"}, b"#12*\xb0", b"#12*\xb1"),
        ({"algorithm": "sum-16"}, b"#12*00B0", b"#12*B0"),
        ({"algorithm": "sum-16", "endian": "little"}, b"#12*B000", b"#12*00B0"),
        ({"algorithm": "sum-16", "padded": False}, b"#12*B0", b"#12*00B00"),
        ({"algorithm": "sum-16", "form": "bytes", "endian": "little"}, b"#12*\xb0\x00", b"#12*\x00\xb0"),
    ],
)
def test_a_checksum_in_each_form(check: dict[str, Any], right: bytes, wrong: bytes) -> None:
    """A checksum is in digits or raw, over the body or over all; the wrong one rejects, and ours is the right one."""
    frame = line(NUMBER, start="#", end="*", checksum=check)
    assert read(frame, right) == {"x": 12}
    assert read(frame, wrong) == "checksum"
    assert read(frame, right[:-1]) == "checksum"
    written = write_text(frame, {"x": 12})
    assert read(frame, written) == {"x": 12}
    assert written == right or not check.get("padded", True)


def test_reasons_of_a_list() -> None:
    """Each way not to be a frame has its word; damage comes before all but another beginning."""
    tag = {"name": "talker", "type": "text", "length": 2, "suffix": "XYZ", "required": True}
    frame = line(tag, NUMBER, start="$", end="*", checksum={"algorithm": "xor-8", "covers": "between"})
    assert read(frame, sealed("GPXYZ,5")) == {"talker": "GP", "x": 5}
    assert read(frame, b"") == "unknown-frame"
    assert read(frame, sealed("GPXYZ,5", start="!")) == "unknown-frame"
    assert read(frame, b"$GPXYZ,5") == "checksum"
    assert read(frame, b"$GPXYZ,5*00") == "checksum"
    assert read(frame, b"$GPXYZ,5*zz") == "checksum"
    assert read(frame, sealed("GPXYW,5")) == "unknown-frame"
    assert read(frame, sealed("GPXYZ,5,6")) == "length"
    assert read(frame, sealed("GPXYZ,V")) == "value"


def test_labelled_values_in_any_order_on_one_line() -> None:
    """A comma may be the line break and `=` what opens a value; labels nobody declared are passed over."""
    frame = block(
        {"T": {"name": "t", "type": "decimal"}, "H": {"name": "h", "type": "integer"}}, line_break=",", opens="="
    )
    assert read(frame, b"T=23.4,H=50") == {"t": 23.4, "h": 50}
    assert read(frame, b"H=50,P=1013") == {"h": 50}
    assert read(frame, b"H=") == {"h": None}
    assert read(frame, b"H=50,H=51") == {"h": 51}
    assert read(frame, b"P=1013") == "unknown-frame"
    assert read(frame, b"H") == "value"
    assert read(frame, b"T=hot") == "value"
    assert write_text(frame, {"h": 50}) == b"H=50"
    with pytest.raises(CodecError, match="no line has a value"):
        write_text(frame, {})


def test_a_block_with_brackets_head_and_continued_lines() -> None:
    """A label may have several values in brackets, the first line be a head, and a line go on the one before."""
    frame = block(
        {"1.8.0": [{"name": "at", "type": "text"}, {"name": "x", "type": "decimal", "suffix": "*kWh"}]},
        head={"name": "meter", "type": "text"},
        start="/",
        end="\r\n!",
        opens="(",
        separator=")(",
        closes=")",
        continues="(",
    )
    assert read(frame, b"/ISk5\r\n1.8.0(now)(1.5*kWh)\r\n!") == {"meter": "ISk5", "at": "now", "x": 1.5}
    assert read(frame, b"/ISk5\r\n\r\n1.8.0(now)\r\n(1.5*kWh)\r\n!") == {"meter": "ISk5", "at": "now", "x": 1.5}
    assert read(frame, b"/ISk5\r\n1.8.0(now)(1.5*kWh)\r\n") == "length"
    assert read(frame, b"/ISk5\r\n1.8.0(now)(1.5*kWh\r\n!") == "value"
    assert read(frame, b"/ISk5\r\n!") == "unknown-frame"
    assert write_text(frame, {"meter": "ISk5", "at": "now", "x": 1.5}) == b"/ISk5\r\n1.8.0(now)(1.5*kWh)\r\n!"


def test_asides_are_no_part_of_a_block() -> None:
    """Messages thrown in anywhere neither disturb the values nor the checksum; a raw check byte may look like one."""
    codec = compile_profile(load_profile("vedirect"))
    clean = codec.encode("block", None, None, {"voltage": 12.53, "current": -0.01})
    assert codec.decode([clean]).samples == [Sample(None, None, {"voltage": 12.53, "current": -0.01})]
    for at in (0, clean.index(b"V"), clean.index(b"\r\nI"), clean.index(b"-10") + 3):
        with_aside = clean[:at] + b":7FF0F0040\n" + clean[at:]
        assert codec.decode([with_aside]).samples == codec.decode([clean]).samples
    for millivolts in range(256):
        each = codec.encode("block", None, None, {"voltage": millivolts / 1000})
        assert codec.decode([each]).samples == [Sample(None, None, {"voltage": millivolts / 1000})]


def test_frames_of_one_profile_are_told_apart_by_a_cell() -> None:
    """Another start, suffix, prefix, constant or number of cells tells two frames apart; nothing else does."""
    rmc = {"name": "tag", "type": "text", "length": 2, "suffix": "RMC", "required": True}
    gga = {**rmc, "suffix": "GGA"}
    assert can_be_told_apart(line(rmc, NUMBER), line(gga, NUMBER))
    assert can_be_told_apart(line(NUMBER, start="$"), line(NUMBER, start="!"))
    assert can_be_told_apart(line(NUMBER), line(NUMBER, {**NUMBER, "name": "y"}))
    const = {"name": "tag", "type": "text", "const": "PUBX"}
    assert can_be_told_apart(line(const, NUMBER), line({**const, "const": "PGRM"}, NUMBER))
    assert can_be_told_apart(line(const, NUMBER), line(rmc, NUMBER))
    assert not can_be_told_apart(line({**rmc, "required": False}, NUMBER), line(gga, NUMBER))
    assert not can_be_told_apart(line(NUMBER), line({**NUMBER, "optional": True, "name": "z"} | {"optional": False}))
    assert not can_be_told_apart(line(NUMBER), block({"V": NUMBER}, opens="="))
    assert not can_be_told_apart(line(NUMBER, start="$"), line(NUMBER, start="$$"))


def text_profile(frames: dict[str, Any], **more: Any) -> Profile:
    return Profile.model_validate(
        {
            "name": "text",
            "version": 1,
            "title": "Text",
            "source": {"document": "none"},
            "framing": {"kind": "delimiter"},
            "frames": frames,
            **more,
        }
    )


REQUEST = {
    "role": "request",
    "text": {"kind": "list"},
    "columns": [
        {"name": "what", "type": "text", "const": "SET"},
        {"name": "address", "type": "integer", "digits": 2, "required": True},
        {"name": "level", "type": "decimal", "valid": {"minimum": 0, "maximum": 10}, "required": True},
    ],
}
ANSWER = {
    "role": "answer",
    "text": {"kind": "list"},
    "columns": [
        {"name": "what", "type": "text", "const": "OK"},
        {"name": "address", "type": "integer", "digits": 2, "required": True},
        {"name": "done", "type": "flag", "on": "Y", "off": "N"},
    ],
}
SAMPLE = {
    "role": "sample",
    "text": {"kind": "list"},
    "columns": [
        {"name": "what", "type": "text", "const": "T"},
        {"name": "address", "type": "integer", "digits": 2, "required": True},
        {"name": "count", "type": "integer"},
        {"name": "temperature", "type": "decimal", "unit": "Cel"},
    ],
}


def test_text_devices_have_addresses_counters_and_commands() -> None:
    """Identity, sequence, commands and their answers work as they do for binary frames."""
    commands = {
        "set-level": {
            "frame": "set",
            "set": {"level": {"argument": "level"}},
            "arguments": {"level": {"type": "number"}},
            "answer": {"frame": "ok", "success": {"done": True}},
        }
    }
    codec = compile_profile(
        text_profile(
            {"t": SAMPLE, "ok": ANSWER, "set": REQUEST}, identity="address", sequence="count", commands=commands
        )
    )
    assert codec.decode([b"T,07,41,23.45", b"OK,07,Y", b"T,07,41,hot"]) == (
        [Sample(7, 41, {"temperature": 23.45})],
        [Answer("ok", 7, {"done": True})],
        [(b"T,07,41,hot", "value")],
        0,
        0,
    )
    request = codec.encode_command("set-level", {"level": 2.5}, address=7)
    assert request.payload == b"SET,07,2.5"
    with pytest.raises(CodecError, match=r"11 is not allowed|11 is not valid|does not fit"):
        codec.encode_command("set-level", {"level": 11}, address=7)
    assert codec.encode("t", 7, 41, {"temperature": 23.45}) == b"T,07,41,23.45"


def test_text_and_binary_frames_do_not_mix() -> None:
    """A profile is all text or all binary, and says so."""
    binary = {"role": "sample", "endian": "big", "fields": [{"name": "x", "type": "u8"}]}
    with pytest.raises(ValueError, match="some frames are text and some are not"):
        text_profile({"a": SAMPLE, "b": binary})


def test_an_explanation_points_at_the_cell_that_is_wrong() -> None:
    """Each part has a row with its bytes; the one that does not fit says what was expected."""
    codec = compile_profile(load_profile("nmea0183"))
    rows = codec.explain(sealed("GPVTG,054.7,T,034.4,M,fast,N,010.2,K"))
    assert rows[0].field == "vtg"
    assert rows[0].note == "rejected: value"
    (wrong,) = [row for row in rows[1:] if row.note.startswith("rejected")]
    assert (wrong.field, bytes.fromhex(wrong.hex)) == ("speed_in_knots", b"fast")
    assert all(0 <= row.start <= row.end <= rows[0].end for row in rows)


def test_every_byte_of_a_block_is_explained_where_it_stands() -> None:
    """Rows of a block with an aside name the places of the bytes in the frame as it came."""
    codec = compile_profile(load_profile("vedirect"))
    frame = codec.encode("block", None, None, {"voltage": 12.53})
    with_aside = frame[:2] + b":70010003E\n" + frame[2:]
    rows = {row.field or row.note: row for row in codec.explain(with_aside)[1:]}
    voltage = rows["voltage"]
    assert with_aside[voltage.start : voltage.end] == b"12530"
    aside = rows["no part of the block"]
    assert with_aside[aside.start : aside.end] == b":70010003E\n"


@pytest.mark.parametrize("name", ["nmea0183", "vedirect", "dsmr-p1"])
def test_the_source_is_readable_and_has_no_interpreter(name: str) -> None:
    """The generated reader is plain Python without a reference to the declaration."""
    source = compile_profile(load_profile(name)).source
    assert "def decode(frames):" in source
    assert "column" not in source.replace("columns", "")


def test_nothing_of_a_profile_is_executed() -> None:
    """Text that looks like Python stays text, and a name made around the checks is refused."""
    odd = "'); import os #\\"
    frame = line({"name": "x", "type": "text", "const": odd}, {"name": "y", "type": "text", "enum": {odd: "odd"}})
    found = compile_text(frame).read(f"{odd},{odd}".encode())
    assert found is not None
    assert found[2] == {"y": "odd"}
    column = frame.columns[1].model_copy(update={"name": "y = 1; import os"})
    with pytest.raises(ProfileError):
        compile_text(frame.model_copy(update={"columns": (frame.columns[0], column)}))


def test_a_frame_explains_itself_under_its_name() -> None:
    """The first row is about the whole frame."""
    rows = explain_text("only", line(NUMBER), b"7")
    assert (rows[0].field, rows[0].note, rows[1].value) == ("only", "sample", 7)
