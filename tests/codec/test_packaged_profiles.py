"""The profiles that ship with the gateway, and the one in the documentation, say what they claim to say."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from edge_gateway.codec import compile_profile, failed_vectors, load_profile, parse_profile, profile_names
from edge_gateway.codec.fields import IntegerField
from edge_gateway.codec.load import PACKAGED
from edge_gateway.records import Answer, Sample, Value

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "profile.md"


def crc_16_ibm_3740(data: bytes) -> int:
    """The reference frames' checksum, bit by bit from its catalogue entry, to hold the library against."""
    register = 0xFFFF
    for byte in data:
        register ^= byte << 8
        for _ in range(8):
            register = (register << 1 ^ 0x1021) & 0xFFFF if register & 0x8000 else register << 1
    return register


@pytest.mark.parametrize("name", profile_names())
def test_vectors_hold(name: str) -> None:
    """Every test vector of every packaged profile holds."""
    codec = compile_profile(load_profile(name))
    assert codec.profile.vectors
    assert failed_vectors(codec) == []


@pytest.mark.parametrize("name", profile_names())
def test_every_frame_and_command_has_a_vector(name: str) -> None:
    """No frame a device sends and no command of a packaged profile goes without a vector."""
    profile = load_profile(name)
    covered = {getattr(vector, "frame", None) or getattr(vector, "command", None) for vector in profile.vectors}
    heard = {frame_name for frame_name, frame in profile.frames.items() if frame.role != "request"}
    assert heard | set(profile.commands) <= covered


def test_the_gateway_ships_profiles() -> None:
    """The reference sensor and public ones are found without any directory."""
    assert {"pms5003", "reference-climate", "tfmini"} <= set(profile_names())


def test_documented_example_works() -> None:
    """The example in the documentation loads, and its vectors hold."""
    example = re.search(r"```yaml\n(.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    assert example is not None
    assert failed_vectors(compile_profile(parse_profile(example[1], "profile.md"))) == []


def test_reference_sample_is_the_documented_struct() -> None:
    """A sample packed by hand from the frame table decodes to its fields."""
    body = struct.pack("<BHHIhHHB", 0x01, 513, 65_535, 123_456, -1, 9_999, 3_000, 0b0110)
    decoded = compile_profile(load_profile("reference-climate")).decode(
        [body + struct.pack("<H", crc_16_ibm_3740(body))]
    )
    values: dict[str, Value] = {
        "uptime_ms": 123_456,
        "temperature": -0.01,
        "humidity": 99.99,
        "battery": 3.0,
        "door_open": False,
        "low_battery": True,
        "mode": "measure",
    }
    assert decoded.samples == [Sample(513, 65_535, values)]
    assert decoded.answers == []
    assert decoded.rejects == []


def test_reference_answer_is_the_documented_struct() -> None:
    """An answer packed by hand from the frame table decodes to its fields."""
    body = struct.pack("<BHBB", 0x81, 7, 2, 1)
    decoded = compile_profile(load_profile("reference-climate")).decode(
        [body + struct.pack("<H", crc_16_ibm_3740(body))]
    )
    assert decoded.answers == [Answer("answer", 7, {"code": "set-relay", "status": "unknown-command"})]
    assert decoded.samples == []


def test_temperatures_are_the_decimals_of_the_wire() -> None:
    """Every raw temperature of the reference frame becomes the float nearest to its decimal, and comes back."""
    field = load_profile("reference-climate").named("sample")["temperature"]
    assert isinstance(field, IntegerField)
    for raw in range(-32_767, 32_768):
        assert field.value_of(raw) == float(f"{raw}e-2")


@pytest.mark.parametrize(
    ("right", "wrong", "failure"),
    [
        ("    address: 7\n    sequence: 41", "    address: 8\n    sequence: 41", "[0]: the address is 7, not 8"),
        ("    sequence: 41", "    sequence: 42", "[0]: the sequence is 41, not 42"),
        ("      door_open: true", "      door_open: 1", "[0]: 'door_open' is True, not 1"),
        ("      mode: measure\n", "", "[0]: the value 'mode' is 'measure', and the vector does not say so"),
        ("      mode: measure", "      mode: measure\n      moods: 1", "[0]: the frame has no value 'moods'"),
        ("05 d2 a7", "05 d2 a8", "[0]: the frame is rejected: checksum"),
        (
            "  - frame: answer\n    hex: 81 07 00 01 00",
            "  - frame: sample\n    hex: 81 07 00 01 00",
            "[3]: the frame is decod",
        ),
        ("    hex: 41 07 00 01 f4 01 60 be", "    hex: 41 07", "[5]: encodes to 41 07 00 01 f4 01 60 be, not to 41 07"),
        (
            "    arguments: {period_ms: 500}",
            "    arguments: {period_ms: 5}",
            "[5]: reference-climate set-period period_ms: 5",
        ),
    ],
)
def test_a_vector_that_does_not_hold_says_what_differs(right: str, wrong: str, failure: str) -> None:
    """A wrong vector is told by its place in the profile and by what differs."""
    text = (PACKAGED / "reference-climate.yaml").read_text("utf-8")
    assert right in text
    (found,) = failed_vectors(compile_profile(parse_profile(text.replace(right, wrong, 1), "wrong.yaml")))
    assert found.startswith(f"vectors{failure}")


def test_every_vector_that_does_not_hold_is_told() -> None:
    """One failure does not hide the next."""
    text = (PACKAGED / "tfmini.yaml").read_text("utf-8")
    wrong = text.replace("strength: 350", "strength: 351").replace("distance: null", "distance: 655.35")
    assert failed_vectors(compile_profile(parse_profile(wrong, "wrong.yaml"))) == [
        "vectors[0]: 'strength' is 350, not 351",
        "vectors[1]: 'distance' is None, not 655.35",
    ]


def test_a_request_can_have_a_vector() -> None:
    """The frame of a request is held against its bytes in the encode direction."""
    text = (PACKAGED / "reference-climate.yaml").read_text("utf-8")
    vector = (
        "  - {frame: command, hex: 41 02 01 03 00 00 c7 4a, address: 258, "
        "values: {code: ping, argument: %s}, source: x}"
    )
    assert failed_vectors(compile_profile(parse_profile(text + vector % 0, "right.yaml"))) == []
    (failure,) = failed_vectors(compile_profile(parse_profile(text + vector % 1, "wrong.yaml")))
    assert "not to 41 02 01 03 00 00 c7 4a" in failure


def test_the_span_of_the_sequence_is_known() -> None:
    """A codec says how far the device counts; 0 for a device that does not count."""
    assert compile_profile(load_profile("reference-climate")).sequence_span == 65_536
    assert compile_profile(load_profile("pms5003")).sequence_span == 0
