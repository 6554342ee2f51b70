"""The JSON Schema of a profile's values: valid itself, true of every frame, and saying what is known."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_gateway.codec import compile_profile, load_profile, parse_profile, profile_names
from edge_gateway.codec.generated import corpus, values_schema
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.load import PACKAGED
from edge_gateway.codec.profile import DecoderVector, FrameVector, Profile
from tests.codec.declarations import frames_of, profiles
from tests.codec.structure.drawn import Structure, structures
from tests.codec.structure.drawn import frames_of as planned_frames_of

from .mutations import judges


def as_json(document: Any) -> Any:
    return orjson.loads(orjson.dumps(document))


@pytest.mark.parametrize("name", profile_names())
def test_every_decoded_frame_satisfies_the_schema(name: str) -> None:
    """What a packaged profile's decoder gives is valid by its schema, extremes and sentinels included."""
    profile = load_profile(name)
    schema = values_schema(profile)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    samples = [
        sample
        for judge, names in judges(profile)
        for sample in judge.decode(list(corpus(profile, 1, 500, names))).samples
    ]
    assert samples
    for sample in samples:
        validator.validate(as_json(sample.values))


@pytest.mark.parametrize("name", profile_names())
def test_the_values_of_every_vector_satisfy_the_schema(name: str) -> None:
    """What the manuals and recordings in a packaged profile say is valid by its schema."""
    profile = load_profile(name)
    validator = Draft202012Validator(values_schema(profile))
    for vector in profile.vectors:
        match vector:
            case FrameVector(reject=None) if profile.frames[vector.frame].role == "sample":
                validator.validate(vector.values)
            case DecoderVector():
                for sample in vector.samples:
                    validator.validate(sample.values)


@given(st.data(), profiles())
@settings(max_examples=60, deadline=None)
def test_any_profile_has_a_true_schema(data: st.DataObject, profile: Profile) -> None:
    """Whatever a profile declares and a frame holds, the values are valid by the generated schema."""
    schema = values_schema(profile)
    Draft202012Validator.check_schema(schema)
    frames = [data.draw(frames_of(layout)) for layout in profile.layouts.values() if isinstance(layout, Layout)]
    for sample in compile_profile(profile).decode(frames).samples:
        Draft202012Validator(schema).validate(as_json(sample.values))


@given(st.data(), structures())
@settings(max_examples=60, deadline=None)
def test_any_structure_has_a_true_schema(data: st.DataObject, structure: Structure) -> None:
    """So it is for frames of no fixed length."""
    codec = structure.codec
    schema = values_schema(codec.profile)
    Draft202012Validator.check_schema(schema)
    for sample in codec.decode([data.draw(planned_frames_of(structure)).frame]).samples:
        Draft202012Validator(schema).validate(as_json(sample.values))


def sample_with(fields: str) -> Profile:
    return parse_profile(
        "{name: one, version: 1, title: One, source: {document: d}, framing: {kind: slip}, frames: {"
        f"only: {{role: sample, endian: big, fields: [{fields}]}}}}}}",
        "one.yaml",
    )


def test_groups_are_objects_and_lists_are_arrays() -> None:
    """What is in a group or a list stands in the schema as it is in the values."""
    schema = values_schema(
        sample_with(
            "{name: size, type: u8, emit: false},"
            "{name: places, type: array, count: size, of: {name: place, type: group, description: Where, fields: ["
            "{name: x, type: i8, unit: m}, {name: y, type: u8, if: x > 0}]}},"
            "{name: pair, type: array, count: 2, of: {name: one, type: u8, sentinel: 255}}"
        )
    )
    assert schema["properties"] == {
        "places": {
            "type": "array",
            "items": {
                "type": "object",
                "description": "Where",
                "properties": {
                    "x": {"type": "integer", "minimum": -128, "maximum": 127, "unit": "m"},
                    "y": {"type": "integer", "minimum": 0, "maximum": 255},
                },
                "required": ["x"],
                "additionalProperties": False,
            },
        },
        "pair": {
            "type": "array",
            "items": {"type": ["integer", "null"], "minimum": 0, "maximum": 255},
            "minItems": 2,
            "maxItems": 2,
        },
    }
    assert schema["required"] == ["places", "pair"]


def test_what_a_frame_can_be_without_is_not_required() -> None:
    """A condition, a choice and an item may be absent; what every case of a choice has is there."""
    schema = values_schema(
        sample_with(
            "{name: kind, type: u8}, {name: extra, type: u8, if: kind > 1},"
            "{type: switch, on: kind, cases: {1: [{name: level, type: u8}, {name: more, type: u8}],"
            "2: [{name: level, type: text, length_bytes: 2}]}},"
            "{name: half, type: computed, value: double(kind) / 2.0, unit: m}"
        )
    )
    assert schema["required"] == ["kind", "level", "half"]
    assert schema["properties"]["level"] == {
        "anyOf": [{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "string", "pattern": r"^[\s\S]{0,2}$"}]
    }
    assert schema["properties"]["half"] == {"type": ["number", "null"], "unit": "m"}


TAGGED = (
    "{name: kind, type: u8}, {type: tlv, header: [{name: tag, type: u8}], tag: tag, items: {"
    "1: [{name: level, type: i8}], 2: [{name: open, type: bool}]}}"
)


def test_items_that_come_again_are_patterns() -> None:
    """A number behind a name is allowed where an item can come again, from 2 on, and nowhere else."""
    validator = Draft202012Validator(values_schema(sample_with(TAGGED)))
    assert validator.is_valid({"kind": 1})
    assert validator.is_valid({"kind": 1, "level": -5, "level_2": -6, "level_10": -7, "open": True})
    for wrong in ({"level_1": 1}, {"level_02": 1}, {"level_2": 300}, {"open_2": 1}, {"tag": 1}, {"kind_2": 1}):
        assert not validator.is_valid({"kind": 1, **wrong})


def test_items_with_a_number_have_no_name_without_it() -> None:
    """Where the frame itself gives the number, every number is allowed, and the bare name is not."""
    text = TAGGED.replace("{name: tag, type: u8}", "{name: channel, type: u8}, {name: tag, type: u8}")
    validator = Draft202012Validator(values_schema(sample_with(text.replace("tag: tag", "tag: tag, number: channel"))))
    assert validator.is_valid({"kind": 1, "level_0": -5, "level_255": 5, "open_1": False})
    assert not validator.is_valid({"kind": 1, "level": -5})


def test_what_code_decodes_may_be_anything() -> None:
    """Of a decoder in Python nothing is known but that it gives values by name."""
    schema = values_schema(load_profile("senml-json"))
    assert schema["type"] == "object"
    assert "properties" not in schema


def test_the_schema_says_what_the_profile_knows() -> None:
    """Types, ranges, units, names of codes and null stand in the schema."""
    properties = values_schema(load_profile("reference-climate"))["properties"]
    assert properties["temperature"] == {
        "type": ["number", "null"],
        "minimum": -327.68,
        "maximum": 327.67,
        "unit": "Cel",
    }
    assert properties["uptime_ms"]["type"] == "integer"
    assert properties["uptime_ms"]["maximum"] == 4_294_967_295
    assert properties["uptime_ms"]["description"].startswith("Since the sensor started")
    assert properties["door_open"] == {"type": "boolean"}
    assert {"enum": ["idle", "measure", "fault"]} in properties["mode"]["anyOf"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"temperature": 400.0}, "above the wire's range"),
        ({"battery": None}, "no sentinel"),
        ({"mode": "asleep"}, "no such name"),
        ({"door_open": 1}, "not a boolean"),
        ({"pressure": 1.0}, "no such value"),
    ],
)
def test_other_values_are_not_valid(change: dict[str, Any], why: str) -> None:
    """What the device cannot have said is refused."""
    profile = load_profile("reference-climate")
    values = dict(profile.vectors[0].values)  # type: ignore[union-attr] # the first vector is a frame's
    validator = Draft202012Validator(values_schema(profile))
    assert validator.is_valid(as_json(values))
    assert not validator.is_valid(as_json({**values, **change})), why


def test_a_complete_enum_has_no_unnamed_codes() -> None:
    """Where every number has a name, nothing else is valid."""
    text = (PACKAGED / "reference-climate.yaml").read_text("utf-8")
    complete = text.replace("{0: idle, 1: measure, 2: fault}", "{0: idle, 1: measure, 2: fault, 3: off}")
    mode = values_schema(parse_profile(complete, "complete.yaml"))["properties"]["mode"]
    assert mode == {"type": "string", "enum": ["idle", "measure", "fault", "off"]}


def test_several_sample_frames_are_a_choice() -> None:
    """A profile with two kinds of samples has a schema that takes either, and not half of each."""
    text = (PACKAGED / "reference-climate.yaml").read_text("utf-8").partition("commands:")[0]
    profile = parse_profile(text.replace("role: answer", "role: sample"), "two.yaml")
    validator = Draft202012Validator(values_schema(profile))
    assert validator.is_valid({"code": "ping", "status": "done"})
    assert not validator.is_valid({"code": "ping"})
