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
from edge_gateway.codec.load import PACKAGED
from edge_gateway.codec.profile import Profile
from tests.codec.declarations import frames_of, profiles


def as_json(document: Any) -> Any:
    return orjson.loads(orjson.dumps(document))


@pytest.mark.parametrize("name", profile_names())
def test_every_decoded_frame_satisfies_the_schema(name: str) -> None:
    """What a packaged profile's decoder gives is valid by its schema, extremes and sentinels included."""
    profile = load_profile(name)
    schema = values_schema(profile)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    samples = compile_profile(profile).decode(list(corpus(profile, 1, 2_000))).samples
    assert samples
    for sample in samples:
        validator.validate(as_json(sample.values))


@given(st.data(), profiles())
@settings(max_examples=60, deadline=None)
def test_any_profile_has_a_true_schema(data: st.DataObject, profile: Profile) -> None:
    """Whatever a profile declares and a frame holds, the values are valid by the generated schema."""
    schema = values_schema(profile)
    Draft202012Validator.check_schema(schema)
    frames = [data.draw(frames_of(layout)) for layout in profile.layouts.values()]
    for sample in compile_profile(profile).decode(frames).samples:
        Draft202012Validator(schema).validate(as_json(sample.values))


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
