"""The DTDL interface: valid by the rules of version 3, and by Microsoft's parser where that is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from edge_gateway.codec import load_profile, parse_profile, profile_names
from edge_gateway.codec.generated import dtdl_interface
from edge_gateway.codec.generated.dtdl_units import SEMANTIC_TYPES
from edge_gateway.codec.load import PACKAGED
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.units import SENML_UNITS
from edge_gateway.errors import CodecError
from tests.codec.declarations import profiles
from tests.codec.structure.drawn import Structure, structures

from .dtdl_rules import check_dtdl

REFERENCE_TEXT = (PACKAGED / "reference-climate.yaml").read_text("utf-8")


def contents(profile: Profile) -> dict[str, dict[str, Any]]:
    return {element["name"]: element for element in dtdl_interface(profile)["contents"]}


@pytest.mark.parametrize("name", profile_names())
def test_every_packaged_profile_has_an_interface(name: str) -> None:
    """The interface of a packaged profile keeps the rules of DTDL v3."""
    check_dtdl(dtdl_interface(load_profile(name)))


@given(profiles())
@settings(max_examples=60, deadline=None)
def test_any_profile_has_an_interface(profile: Profile) -> None:
    """Whatever a profile declares, its interface keeps the rules."""
    check_dtdl(dtdl_interface(profile))


@given(structures())
@settings(max_examples=60, deadline=None)
def test_any_structure_has_an_interface(structure: Structure) -> None:
    """So it is for groups, lists and choices, however deep; what cannot be declared is named in the comment."""
    profile = structure.codec.profile
    interface = dtdl_interface(profile)
    check_dtdl(interface)
    declared = {element["name"] for element in interface["contents"]}
    for name, spec in profile.values_of("only").items():
        assert name in declared or re.search(rf"\b{name}\b|{name}_0\b", interface["comment"]), spec


def one_frame(fields: str) -> Profile:
    return parse_profile(
        "{name: one, version: 1, title: One, source: {document: d}, framing: {kind: slip}, frames: {"
        f"only: {{role: sample, endian: big, fields: [{fields}]}}}}}}",
        "one.yaml",
    )


def test_groups_are_objects_and_lists_are_arrays() -> None:
    """A group is an object with fields, a list an array; what DTDL has no words for stands in the comment."""
    elements = contents(
        one_frame(
            "{name: place, type: group, description: Where it is, fields: ["
            "{name: x, type: i16, unit: m}, {name: y, type: u8, if: x > 0, unit: '%RH', sentinel: 255}]},"
            "{name: levels, type: array, count: 2, of: {name: level, type: u16, unit: V, sentinel: 0}}"
        )
    )
    assert elements["place"] == {
        "@type": "Telemetry",
        "name": "place",
        "description": "Where it is",
        "schema": {
            "@type": "Object",
            "fields": [
                {"@type": ["Field", "Length"], "name": "x", "schema": "integer", "unit": "metre"},
                {
                    "@type": ["Field", "RelativeHumidity"],
                    "name": "y",
                    "schema": "integer",
                    "unit": "percent",
                    "comment": "null when the device has no value; Not in every message",
                },
            ],
        },
    }
    assert elements["levels"] == {
        "@type": "Telemetry",
        "name": "levels",
        "schema": {"@type": "Array", "elementSchema": "integer"},
        "comment": "Each element: Unit: V; Each element: null when the device has no value",
    }


def test_names_with_a_number_are_told_in_words() -> None:
    """An item that comes again is declared once and its other names told; one that only has a number is only told."""
    header = "[{name: n, type: u8}, {name: tag, type: u8}]"
    items = f"{{type: tlv, header: {header}, tag: tag, %s items: {{1: [{{name: a, type: u8}}]}}}}"
    again = dtdl_interface(one_frame(items % ""))
    assert again["contents"][0]["comment"] == "Not in every message; One that comes again is a_2, a_3, ..."
    numbered = dtdl_interface(one_frame(items % "number: n,"))
    assert numbered["contents"] == []
    assert numbered["comment"] == "Generated from the profile one, version 1. Sent and not declared: a_0"


def test_what_is_too_deep_is_told_in_words() -> None:
    """DTDL has five levels of objects and lists; what is deeper is not declared."""
    deep = "{name: g%d, type: group, fields: [%s]}"
    fields = "{name: x, type: u8}"
    for level in range(6):
        fields = deep % (level, fields)
        interface = dtdl_interface(one_frame(fields))
        assert bool(interface["contents"]) == (level < 5)
    assert interface["comment"].endswith("Sent and not declared: g5")


def test_two_meanings_of_one_name_are_joined() -> None:
    """Codes of two frames become one enumeration, and a time beside text is text."""
    joined = contents(
        one_frame(
            "{name: kind, type: u8}, {type: switch, on: kind, cases: {"
            "1: [{name: state, type: u8, enum: {1: low}}, {name: at, type: u32, epoch: unix-s}],"
            "2: [{name: state, type: u8, enum: {1: high}}, {name: at, type: text, length_bytes: 4}]}}"
        )
    )
    assert [value["enumValue"] for value in joined["state"]["schema"]["enumValues"]] == ["low", "high"]
    assert joined["at"]["schema"] == "string"


def test_values_are_telemetry_with_semantic_types() -> None:
    """A value has DTDL's schema for its range, and the semantic type and unit that its SenML code means."""
    elements = contents(load_profile("reference-climate"))
    assert elements["temperature"] == {
        "@type": ["Telemetry", "Temperature"],
        "name": "temperature",
        "schema": "double",
        "unit": "degreeCelsius",
        "comment": "null when the device has no value",
    }
    assert elements["uptime_ms"]["schema"] == "long"
    assert elements["door_open"]["schema"] == "boolean"
    mode = elements["mode"]["schema"]
    assert [value["enumValue"] for value in mode["enumValues"]] == ["idle", "measure", "fault"]
    assert "address" not in elements


def test_commands_have_their_arguments_and_their_own_name() -> None:
    """A command's arguments are the fields of its request, and its name in the gateway is kept in the comment."""
    elements = contents(load_profile("reference-climate"))
    assert elements["set_period"]["comment"] == "The gateway's name: set-period"
    (period,) = elements["set_period"]["request"]["schema"]["fields"]
    assert period["unit"] == "millisecond"
    assert period["comment"] == "at least 50, at most 60000"
    assert "request" not in elements["ping"]


def test_a_unit_without_a_counterpart_is_told_in_words() -> None:
    """A SenML unit that DTDL does not have is no semantic type, and is not lost."""
    text = REFERENCE_TEXT.replace('"%RH"', '"/100"')
    assert contents(parse_profile(text, "x"))["humidity"] == {
        "@type": "Telemetry",
        "name": "humidity",
        "schema": "double",
        "comment": "Unit: /100; null when the device has no value",
    }


def test_a_command_named_like_a_value_gets_another_name() -> None:
    """Names are unique in an interface, so a command gives way."""
    text = REFERENCE_TEXT.replace("\n  ping:", "\n  mode:").replace("command: ping", "command: mode")
    assert {"mode", "mode_command"} <= set(contents(parse_profile(text, "x")))


def test_a_value_of_two_frames_has_the_wider_schema() -> None:
    """Where two sample frames give one number in different widths, the schema covers both."""
    text = (
        "{name: two, version: 1, title: Two, source: {document: d}, framing: {kind: slip}, frames: {"
        "a: {role: sample, endian: big, fields: [{name: level, type: u16}]},"
        "b: {role: sample, endian: big, fields: [{name: level, type: u32}]}}}"
    )
    assert contents(parse_profile(text, "x"))["level"]["schema"] == "long"
    different = dtdl_interface(parse_profile(text.replace("type: u32", "type: u32, unit: m"), "x"))
    assert different["contents"] == []
    assert different["comment"].endswith("Sent and not declared: level")


def test_what_dtdl_cannot_name_is_an_error() -> None:
    """A prefix, name, version or length that DTDL refuses is refused here, with what would do."""
    profile = load_profile("tfmini")
    for prefix in ("example", "dtmi:9", "dtmi:dtdl:x", "dtmi:standard", "dtmi:a:_b", "dtmi:" + "a" * 120):
        with pytest.raises(CodecError):
            dtdl_interface(profile, dtmi_prefix=prefix)
    assert dtdl_interface(profile, dtmi_prefix="dtmi:com:example")["@id"] == "dtmi:com:example:tfmini;1"
    text = (PACKAGED / "tfmini.yaml").read_text("utf-8")
    with pytest.raises(CodecError, match="DTDL has no such name: 'strength_'"):
        dtdl_interface(parse_profile(text.replace("strength:", "strength_:").replace("strength,", "strength_,"), "x"))
    with pytest.raises(CodecError, match="too large for a DTMI"):
        dtdl_interface(profile.model_copy(update={"version": 1_000_000_000}))


def test_only_known_units_are_mapped() -> None:
    """Every code in the table of semantic types is a SenML code, so that a profile can have it."""
    assert set(SEMANTIC_TYPES) <= SENML_UNITS


PARSE = """
const {createParser} = require("@azure/dtdl-parser");
createParser(0).parse([require("fs").readFileSync(0, "utf8")]).then(
    () => console.log("[]"),
    (error) => console.log(JSON.stringify((error._parsingErrors || error.errors || [{cause: String(error)}]))));
"""


@pytest.mark.parametrize("name", profile_names())
def test_microsofts_parser_accepts_the_interface(name: str, tmp_path: Path) -> None:
    """@azure/dtdl-parser finds nothing wrong but units its preview does not know and the published extension has."""
    node, modules = shutil.which("node"), os.environ.get("DTDL_PARSER_MODULES", "")
    if node is None or not (Path(modules) / "@azure" / "dtdl-parser").is_dir():
        pytest.skip("set DTDL_PARSER_MODULES to the node_modules of `npm install @azure/dtdl-parser`")
    done = subprocess.run(
        [node, "-e", PARSE],
        input=json.dumps(dtdl_interface(load_profile(name))).encode(),
        env={**os.environ, "NODE_PATH": modules},
        capture_output=True,
        check=True,
        timeout=60,
        cwd=tmp_path,
    )
    errors = json.loads(done.stdout)
    units = {unit for _, unit in SEMANTIC_TYPES.values()}
    unexpected = [
        error
        for error in errors
        if not (error.get("validationId") == "dtmi:dtdl:parsingError:badDtmiOrTerm" and error.get("value") in units)
    ]
    assert unexpected == []
