"""The DTDL interface: valid by the rules of version 3, and by Microsoft's parser where that is installed."""

from __future__ import annotations

import json
import os
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
def test_any_profile_has_an_interface_or_says_why_not(profile: Profile) -> None:
    """Whatever a profile declares, its interface keeps the rules, or the error says what DTDL cannot say."""
    refusal = ""
    try:
        check_dtdl(dtdl_interface(profile))
    except CodecError as error:
        refusal = error.what
    assert not refusal or "means different things in two sample frames" in refusal


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
    with pytest.raises(CodecError, match="'level' means different things in two sample frames"):
        dtdl_interface(parse_profile(text.replace("type: u32", "type: u32, unit: m"), "x"))


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
