"""What does not hold in a vector, down to the byte."""

from __future__ import annotations

import pytest

from edge_gateway.codec import compile_profile, load_profile, parse_profile, profile_names
from edge_gateway.codec.generated import VectorFailure, starting_profile, vector_failures
from edge_gateway.codec.load import PACKAGED
from edge_gateway.errors import ProfileError

TEXT = (PACKAGED / "reference-climate.yaml").read_text("utf-8")


def failures(right: str, wrong: str) -> list[VectorFailure]:
    assert right in TEXT
    return vector_failures(compile_profile(parse_profile(TEXT.replace(right, wrong, 1), "wrong.yaml")))


@pytest.mark.parametrize("name", profile_names())
def test_packaged_profiles_have_no_failures(name: str) -> None:
    """Where all vectors hold there is nothing to report."""
    assert vector_failures(compile_profile(load_profile(name))) == []


def test_a_wrong_value_is_told_with_its_bytes() -> None:
    """A value the vector gets wrong stands with the bytes it was decoded from; so does a wrong address."""
    (failure,) = failures("temperature: 23.45", "temperature: 23.5")
    assert failure == VectorFailure(
        "vectors[0]", "'temperature' is 23.45, not 23.5", 9, 11, "temperature", "23.5", "23.45"
    )
    (failure,) = failures("    address: 7\n    sequence: 41", "    address: 8\n    sequence: 41")
    assert (failure.start, failure.field, failure.expected, failure.got) == (1, "address", "8", "7")


def test_all_wrong_values_of_a_vector_are_told() -> None:
    """One wrong value does not hide the next; true is not 1, and 100 is 100.0."""
    found = failures(
        "      humidity: 45.12\n      battery: 3.291\n      door_open: true",
        "      humidity: 45\n      battery: 3\n      door_open: 1",
    )
    assert [(each.field, each.expected, each.got) for each in found] == [
        ("humidity", "45", "45.12"),
        ("battery", "3", "3.291"),
        ("door_open", "1", "true"),
    ]
    assert failures("humidity: 100.0", "humidity: 100") == []


def test_a_wrong_checksum_is_told_with_the_right_one() -> None:
    """A rejected frame names the bytes that make it so."""
    (failure,) = failures("05 d2 a7", "05 d2 a8")
    assert (failure.start, failure.end, failure.field) == (16, 18, "checksum")
    assert (failure.expected, failure.got) == ("d2 a7", "d2 a8")


def test_a_frame_too_short_or_too_long_is_told() -> None:
    """Missing bytes and extra ones are named; a wrong constant, too."""
    assert failures("05 d2 a7", "05")[-1].expected == "missing: 2 of 2 bytes"
    assert failures("05 d2 a7", "05 d2 a7 99")[-1].got == "99"
    assert failures("hex: 01 07", "hex: 02 07")[0].expected == "01"


def test_a_command_is_compared_byte_by_byte() -> None:
    """What a command encodes to stands beside what the vector says, field by field."""
    found = failures("41 07 00 01 f4 01 60 be", "41 07 00 01 f5 01 60 be")
    assert [(each.start, each.end, each.field, each.expected, each.got) for each in found] == [
        (4, 6, "argument", "f5 01", "f4 01")
    ]
    assert failures("01 60 be", "01 60 be 00")[0].start == 8
    assert failures("01 60 be", "01 60")[0].field == "checksum"


def test_an_argument_that_does_not_fit_has_no_bytes() -> None:
    """A command that cannot be encoded is told by its sentence."""
    (failure,) = failures("arguments: {period_ms: 500}", "arguments: {period_ms: 5}")
    assert failure.start is None
    assert "5 is not allowed" in failure.what


def packaged_failures(name: str, right: str, wrong: str) -> list[VectorFailure]:
    text = (PACKAGED / f"{name}.yaml").read_text("utf-8")
    assert right in text
    return vector_failures(compile_profile(parse_profile(text.replace(right, wrong, 1), "wrong.yaml")))


def test_values_in_groups_and_lists_are_told_by_their_place() -> None:
    """Of a group or a list, the one value is told that is wrong."""
    (failure,) = packaged_failures("cayenne-lpp", "acceleration_6: {x: 1.234", "acceleration_6: {x: 1.235")
    assert (failure.start, failure.end, failure.field) == (6, 8, "acceleration_6.x")
    assert (failure.expected, failure.got) == ("1.235", "1.234")


def test_what_was_encrypted_has_no_bytes_in_the_frame() -> None:
    """A wrong value of an encrypted vector is told by its name; its bytes are not those of the frame."""
    right = "encryption_counter: 857870592, temperature: 25.06"
    failed = packaged_failures("bthome-v2", right, right.replace("25.06", "25"))
    assert [(each.start, each.field, each.expected, each.got) for each in failed] == [
        (None, "temperature", "25", "25.06")
    ]


def test_a_reject_that_does_not_come_is_told() -> None:
    """A frame that has to be rejected and is not, or for another reason, is told by its sentence."""
    vector = "vectors:\n  - {frame: answer, hex: 81 07 00 01 00 %s, reject: checksum, source: x}\n"
    right, wrong = (vector % check for check in ("00 00", TEXT.partition("hex: 81 07 00 01 00 ")[2][:5]))
    assert failures("vectors:\n", right) == []
    (failure,) = failures("vectors:\n", wrong)
    assert failure.what == "the frame is taken, and the vector says 'checksum'"
    assert failure.start is None


def test_a_vector_of_code_is_told_by_its_sentence() -> None:
    """Which bytes a value is from, only the decoder knows."""
    (failure,) = packaged_failures("senml-json", "address: ", "address: not-")
    assert failure.what.startswith("the address is")


@pytest.mark.parametrize("radio", [False, True])
def test_the_starting_profile_works(radio: bool) -> None:
    """A new profile loads under its name, and its vectors hold."""
    profile = parse_profile(starting_profile("soil-probe", radio=radio), "soil-probe.yaml")
    assert profile.name == "soil-probe"
    assert profile.vectors
    assert vector_failures(compile_profile(profile)) == []


@pytest.mark.parametrize("name", ["Soil", "9", "", "a b", "a" * 65, "{x}"])
def test_a_starting_profile_needs_a_good_name(name: str) -> None:
    """A name no profile may have is refused."""
    with pytest.raises(ProfileError, match="cannot name a profile"):
        starting_profile(name)
