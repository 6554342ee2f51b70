"""The generated source is readable, and nothing a profile says becomes code."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.fields import FloatField, IntegerField
from edge_gateway.codec.profile import Frame, Profile
from edge_gateway.errors import ProfileError

from .declarations import profiles

OWN_NAMES = re.compile(
    r"raw_[a-z0-9_]+|part[0-9]_of_(raw_[a-z0-9_]+|check)|labels_[a-z0-9_]+_OF_[a-z0-9_]+|unpack_[a-z0-9_]+"
    r"|(crc_(8|16|32|64)|sum|xor|fletcher)_[a-z0-9_]+|f16|f32|f64|medfloat16|medfloat32|decimal_of|utf_8_of|uuid_text"
    r"|rfc3339_m?s|check|decode|frame|frames|length|len|samples|answers|rejects|add_sample|add_answer|add_reject"
    r"|record|reason|Struct|Labels|all_labels|Decoded|Sample|Answer|Reject"
)
OWN_CALLS = {"unpack", "hex", "append", "rstrip", "isascii", "decode", "translate"}


def profile_with(label: str) -> Profile:
    return Profile.model_validate(
        {
            "name": "hostile",
            "version": 1,
            "title": label,
            "source": {"document": label},
            "framing": {"kind": "slip"},
            "frames": {
                "only": {
                    "role": "sample",
                    "endian": "big",
                    "description": label,
                    "fields": [{"name": "state", "type": "u8", "enum": {0: label}, "description": label}],
                }
            },
        }
    )


def assert_harmless(source: str) -> None:
    """Only the generator's own names and a few methods are used, and nothing is imported or defined but `decode`."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            assert OWN_NAMES.fullmatch(node.id), node.id
        if isinstance(node, ast.Attribute):
            assert node.attr in OWN_CALLS
        assert not isinstance(node, (ast.Import, ast.ImportFrom, ast.Lambda, ast.ClassDef, ast.While))
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == ["decode"]


@settings(max_examples=60, deadline=None)  # compiling takes its time on a busy machine
@given(profiles())
def test_the_source_has_no_names_of_its_own_making(profile: Profile) -> None:
    """Whatever the profile, the source uses the generator's own vocabulary only."""
    assert_harmless(compile_profile(profile).source)


HOSTILE_LABELS = [
    "'}); import os; os.abort() #",
    '"""; import os; os.abort()',
    "\\'}); __import__('os').abort() #",
    "{__import__('os').abort()}",
    "%s%n${x}",
]


@pytest.mark.parametrize("label", HOSTILE_LABELS)
def test_a_label_stays_text(label: str) -> None:
    """Text that looks like code is a value and nothing else, wherever in the profile it stands."""
    codec = compile_profile(profile_with(label))
    assert_harmless(codec.source)
    assert codec.decode([b"\0"]).samples[0].values == {"state": label}


@given(
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=64).filter(lambda t: not t.isdecimal())
)
def test_any_label_comes_out_as_it_went_in(label: str) -> None:
    """Every printable label survives the way through the source."""
    try:
        profile = profile_with(label)
    except ValueError:
        assert not label.isprintable() or re.fullmatch(r"-?[0-9]{1,20}", label)
        return
    codec = compile_profile(profile)
    assert_harmless(codec.source)
    assert codec.decode([b"\0"]).samples[0].values == {"state": label}


@pytest.mark.parametrize("name", ["a'] = 1\nimport os\n#", "a b", "", "Ä", "a\n", "__import__", "1a"])
def test_a_name_that_is_no_name_is_refused_by_the_model(name: str) -> None:
    """A field, frame or profile with such a name cannot be declared."""
    field: dict[str, Any] = {"name": "a", "type": "u8"}
    frame: dict[str, Any] = {"role": "sample", "endian": "big", "fields": [field]}
    whole: dict[str, Any] = {
        "name": "p",
        "version": 1,
        "title": "t",
        "source": {"document": "d"},
        "framing": {"kind": "slip"},
        "frames": {"f": frame},
    }
    Profile.model_validate(whole)
    for wrong in (
        {**whole, "name": name},
        {**whole, "frames": {name: frame}},
        {**whole, "frames": {"f": {**frame, "fields": [{**field, "name": name}]}}},
    ):
        with pytest.raises(ValueError, match=r"name|frames"):
            Profile.model_validate(wrong)


def test_a_profile_made_around_its_checks_is_refused_by_the_compiler() -> None:
    """Where the model's checks were skipped, the compiler's own refuse what must not enter source code."""
    sound = load_profile("tfmini")
    evil = "a'] = __import__('os').abort() #"
    whole = sound.frames["distance"]
    assert isinstance(whole, Frame)

    def with_field(**update: object) -> Profile:
        field = whole.fields[1].model_copy(update=update)
        frame = whole.model_copy(update={"fields": (whole.fields[0], field, *whole.fields[2:])})
        assert isinstance(frame, Frame)
        return sound.model_copy(update={"frames": {"distance": frame}})

    assert isinstance(whole.fields[1], IntegerField)

    class Hostile(int):
        """A number whose text is code."""

        def __repr__(self) -> str:
            return evil

    for profile in (
        sound.model_copy(update={"name": evil}),
        sound.model_copy(update={"version": Hostile(1)}),
        sound.model_copy(update={"frames": {evil: whole}}),
        with_field(name=evil),
        with_field(sentinel=(Hostile(1),)),
    ):
        with pytest.raises(ProfileError):
            compile_profile(profile)


def test_a_type_made_around_its_checks_is_refused_by_the_compiler() -> None:
    """The type of a float is the one word of a declaration that names a function, so it must be a plain name."""
    sound = load_profile("tfmini")
    whole = sound.frames["distance"]
    for kind in ("x().medfloat16", "f16+y(32"):
        field = FloatField(name="x", type="f32").model_copy(update={"type": kind})
        frame = whole.model_copy(update={"fields": (field,), "checksum": None})
        with pytest.raises(ProfileError):
            compile_profile(sound.model_copy(update={"frames": {"distance": frame}}))


def test_the_reference_decoder_reads_as_one_would_write_it() -> None:
    """The common frame costs one length comparison, one constant, one unpack and one checksum before its values."""
    source = compile_profile(load_profile("reference-climate")).source
    body = source[source.index("for frame in frames:") :].splitlines()[1:8]
    assert [line.strip() for line in body] == [
        "length = len(frame)",
        "if length == 18:",
        "if frame[0] == 1:",
        "raw_address, raw_sequence, raw_uptime_ms, raw_temperature, raw_humidity, raw_battery, raw_flags, check"
        " = unpack_sample(frame)",
        "if crc_16_ibm_3740(frame[:16]) == check:",
        "add_sample(record(Sample, (raw_address, raw_sequence, {",
        "'uptime_ms': raw_uptime_ms,",
    ]
