"""A frame told byte by byte, sound or broken."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import Row, compile_profile, load_profile
from edge_gateway.codec.profile import Profile

from .declarations import fixed_layouts, frames_of, profiles

REFERENCE = compile_profile(load_profile("reference-climate"))
SAMPLE = bytes.fromhex("01 07 00 29 00 00 5c 26 05 29 09 a0 11 db 0c 05 d2 a7")


def rows_by_field(frame: bytes) -> dict[str, Row]:
    return {row.field: row for row in REFERENCE.explain(frame)}


def test_a_sound_frame_is_told_field_by_field() -> None:
    """Every byte stands in a row with its field, value and unit, and the checksum is said to be right."""
    assert REFERENCE.explain(SAMPLE) == [
        Row(0, 18, "", "sample", None, None, "sample"),
        Row(0, 1, "01", "kind", 1, None, "constant"),
        Row(1, 3, "07 00", "address", 7, None, ""),
        Row(3, 5, "29 00", "sequence", 41, None, ""),
        Row(5, 9, "00 5c 26 05", "uptime_ms", 86_400_000, "ms", ""),
        Row(9, 11, "29 09", "temperature", 23.45, "Cel", ""),
        Row(11, 13, "a0 11", "humidity", 45.12, "%RH", ""),
        Row(13, 15, "db 0c", "battery", 3.291, "V", ""),
        Row(15, 16, "05", "flags", None, None, "bits 00000101"),
        Row(15, 16, "", "door_open", True, None, "bit 0"),
        Row(15, 16, "", "low_battery", False, None, "bit 1"),
        Row(15, 16, "", "mode", "measure", None, "bits 2-3"),
        Row(16, 18, "d2 a7", "checksum", None, None, "crc-16/ibm-3740, right"),
    ]


def test_sentinels_and_unnamed_codes_are_noted() -> None:
    """What decodes to null or to a number's text says why."""
    rows = rows_by_field(bytes.fromhex("01 ff ff ff ff ff ff ff ff 00 80 ff ff 00 00 0e 7e 4c"))
    assert rows["temperature"].note == "the code for no value"
    assert rows["mode"] == Row(15, 16, "", "mode", "3", None, "bits 2-3, a code without a name")


def test_a_wrong_checksum_is_told_with_the_right_one() -> None:
    """A damaged frame is read all the same, and the checksum it should have is given."""
    rows = rows_by_field(SAMPLE[:-1] + b"\0")
    assert rows["sample"].note == "rejected: checksum; read as the likeliest frame"
    assert rows["checksum"] == Row(16, 18, "d2 00", "checksum", None, None, "crc-16/ibm-3740, wrong: d2 a7 expected")


def test_a_cut_frame_says_what_is_missing() -> None:
    """A frame that stops early is read up to there."""
    rows = rows_by_field(SAMPLE[:10])
    assert rows["sample"].note == "rejected: length; read as the likeliest frame"
    assert rows["uptime_ms"].value == 86_400_000
    assert rows["temperature"] == Row(9, 10, "29", "temperature", None, None, "missing: 1 of 2 bytes")
    assert rows["checksum"].note == "missing: 2 of 2 bytes"


def test_a_grown_frame_shows_the_extra_bytes() -> None:
    """Bytes behind the frame stand in a row of their own."""
    assert REFERENCE.explain(SAMPLE + b"\xaa\xbb")[-1] == Row(
        18, 20, "aa bb", "", None, None, "2 bytes more than the 18 of this frame"
    )


def test_a_wrong_constant_is_pointed_at() -> None:
    """A frame of an unknown kind is read as the one of its length, with the constant it should have."""
    rows = rows_by_field(b"\x02" + SAMPLE[1:])
    assert rows["kind"].note == "wrong: 01 expected"


def test_a_request_is_explained_too() -> None:
    """What the gateway sends can be told like what it hears."""
    rows = rows_by_field(REFERENCE.encode_command("set-period", {"period_ms": 500}, address=7).payload)
    assert rows["command"].note == "request"
    assert rows["argument"].value == 500


@given(st.binary(max_size=64))
def test_any_bytes_are_explained(frame: bytes) -> None:
    """No bytes raise, every byte is in a row, and the verdict is the decoder's."""
    first, *rows = REFERENCE.explain(frame)
    assert bytes.fromhex("".join(row.hex for row in rows)) == frame
    rejected = REFERENCE.decode([frame]).rejects
    is_request = first.note == "request"
    assert (f"rejected: {rejected[0].reason}" in first.note or is_request) if rejected else "rejected" not in first.note


@settings(max_examples=60, deadline=None)  # compiling takes its time on a busy machine
@given(st.data(), profiles())
def test_explanation_and_decoder_agree(data: st.DataObject, profile: Profile) -> None:
    """For any profile and frame, explanation and decoder tell the same values, or both refuse the frame."""
    codec = compile_profile(profile)
    name = data.draw(st.sampled_from(sorted(profile.frames)))
    frame = data.draw(frames_of(fixed_layouts(profile)[name]))
    decoded = codec.decode([frame])
    if decoded.rejects:
        first, *rows = codec.explain(frame)
        assert first.note == "rejected: value"
        assert any("rejected: " in row.note for row in rows)
        return
    values = decoded.samples[0].values if decoded.samples else decoded.answers[0].fields
    told = {row.field: row.value for row in codec.explain(frame)}
    assert {field: told[field] for field in values} == values
