"""Declarations of text frames that contradict themselves, and what is said about them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from edge_gateway.codec import parse_profile
from edge_gateway.codec.load import PACKAGED
from edge_gateway.errors import ProfileError

from .examples import block, line

NUMBER: dict[str, Any] = {"name": "x", "type": "integer"}
TEXT: dict[str, Any] = {"name": "x", "type": "text"}


@pytest.mark.parametrize(
    ("columns", "form", "what"),
    [
        ([NUMBER, NUMBER], {}, "'x' is there twice"),
        ([NUMBER], {"separator": "."}, "can be a part of a value"),
        ([NUMBER], {"separator": "x"}, "can be a part of a value"),
        ([NUMBER], {"padding": "0"}, "can be a part of a value"),
        ([NUMBER], {"separator": " ", "padding": " "}, "can be a part of a value"),
        ([NUMBER], {"checksum": {"algorithm": "xor-8"}}, "nothing says where the checksum begins"),
        ([NUMBER], {"end": "*", "checksum": {"algorithm": "xor-9"}}, "no checksum is called 'xor-9'"),
        ([NUMBER], {"end": "A", "checksum": {"algorithm": "sum-16", "padded": False}}, "ends with a digit"),
        (
            [NUMBER],
            {"end": "*", "checksum": {"algorithm": "sum-8", "padded": False, "form": "bytes"}},
            "can leave out zeros",
        ),
        ([{**NUMBER, "prefix": "a,b"}], {}, "which ends a cell"),
        ([{**TEXT, "const": "a,b"}], {}, "which ends a cell"),
        ([{**NUMBER, "prefix": "-"}], {"empty": ["---"]}, "looks like a value"),
        ([{**NUMBER, "digits": 13, "base": 16}], {}, "13 digits of base 16 are too many"),
        ([{**NUMBER, "scale": 0}], {}, "a scale of 0"),
        ([{"name": "x", "type": "decimal", "scale": 0}], {}, "a scale of 0"),
        ([{"name": "x", "type": "decimal", "unit": "°C"}], {}, "not a SenML unit code"),
        ([{**TEXT, "const": "a", "enum": {"a": "b"}}], {}, "a constant has no other meaning"),
        ([{**TEXT, "enum": {"a": "c", "b": "c"}}], {}, "two words have the same name"),
        ([{**TEXT, "length": 2, "const": "abc"}], {}, "does not fit"),
        ([{"name": "x", "type": "flag", "on": "1", "off": "1"}], {}, "says both"),
        ([{"name": "x", "type": "clock", "date": "day"}], {}, "there is no date 'day'"),
        ([{"name": "x", "type": "timestamp"}], {}, "nothing says which zone"),
        ([{"name": "x", "type": "timestamp", "zone": "Z", "zones": {"W": "Z"}}], {}, "two ways to know the zone"),
        ([{"name": "x", "type": "timestamp", "zones": {"W": "Z", "SU": "Z"}}], {}, "not of one length"),
        ([{**NUMBER, "optional": True}], {}, "the first column is always there"),
        (
            [NUMBER, {**NUMBER, "name": "y", "optional": True}, {**NUMBER, "name": "z"}],
            {},
            "what follows an optional column",
        ),
        ([NUMBER, {"name": "y", "type": "array", "of": NUMBER}], {}, "nothing says how many"),
        (
            [NUMBER, {"name": "y", "type": "array", "of": NUMBER, "until": "end"}, {**NUMBER, "name": "z"}],
            {},
            "nothing says where this list ends",
        ),
        ([{"name": "y", "type": "array", "of": NUMBER, "until": "end"}], {}, "the first column is always there"),
        (
            [NUMBER, {"name": "y", "type": "array", "count": 2, "of": {**NUMBER, "optional": True}}],
            {},
            "an element of a list is always there",
        ),
        (
            [{"name": "y", "type": "group", "columns": [NUMBER, {**NUMBER, "name": "z", "optional": True}]}],
            {},
            "a group is whole",
        ),
        (
            [{"type": "choice", "of": [{**NUMBER, "required": True}, TEXT]}],
            {},
            "neither required nor optional",
        ),
        (
            [{"type": "choice", "of": [{**NUMBER, "valid": {"maximum": 1}}, {**TEXT, "name": "y"}]}],
            {},
            "rejects nothing",
        ),
        ([{"type": "choice", "of": [NUMBER, TEXT]}], {}, "'x' is there twice"),
    ],
)
def test_a_wrong_list_is_refused(columns: list[dict[str, Any]], form: dict[str, Any], what: str) -> None:
    """Each contradiction is refused in words that name it."""
    with pytest.raises(ValidationError, match=re.escape(what)):
        line(*columns, **form)


@pytest.mark.parametrize(
    ("lines", "form", "what"),
    [
        ({"V": [NUMBER, {**NUMBER, "name": "y"}]}, {}, "nothing separates two values"),
        ({"V": NUMBER, "W": NUMBER}, {}, "is the name of 'V', too"),
        ({"V=": NUMBER}, {}, "has in it what ends a label"),
        ({"V": [NUMBER, NUMBER]}, {"separator": ";"}, "is there twice"),
        ({}, {}, "at least 1 item"),
        ({"V": NUMBER}, {"closes": "x"}, "can be a part of a value"),
    ],
)
def test_a_wrong_block_is_refused(lines: dict[str, Any], form: dict[str, Any], what: str) -> None:
    """So is each contradiction of a block."""
    with pytest.raises(ValidationError, match=re.escape(what)):
        block(lines, opens="=", **form)


@pytest.mark.parametrize(
    ("profile", "right", "wrong", "message"),
    [
        (
            "nmea0183",
            "type: clock, date: day",
            "type: clok, date: day",
            "frames.rmc.columns[1].type: 'clok' is not known",
        ),
        (
            "nmea0183",
            "suffix: RMC",
            "sufix: RMC",
            "frames.rmc.columns[0].sufix: there is no such key. Did you mean suf",
        ),
        (
            "nmea0183",
            "unit: km/h, desc",
            "unit: kmh, desc",
            "frames.rmc.columns[5].unit: 'kmh' is not a SenML unit code",
        ),
        ("vedirect", "opens:", "open:", "frames.block.text.open: there is no such key. Did you mean opens?"),
        ("vedirect", "VS: {name: aux_voltage", "VS: {name: voltage", "frames.block.lines.VS: 'voltage' is the name of"),
        (
            "dsmr-p1",
            "{name: tariff, type: text}",
            "{name: tariff, type: text, unit: V}",
            'frames.telegram.lines["0-0:96.14.0"].unit: there is no such key',
        ),
    ],
)
def test_an_error_names_file_line_and_key(profile: str, right: str, wrong: str, message: str) -> None:
    """A mistake in a file is told with its line, its key and what would do, labels with dots among the keys."""
    text = (PACKAGED / f"{profile}.yaml").read_text("utf-8")
    assert right in text
    line_number = text[: text.index(right)].count("\n") + 1
    with pytest.raises(ProfileError) as refusal:
        parse_profile(text.replace(right, wrong, 1), "meter.yaml")
    assert str(refusal.value).startswith(f"meter.yaml:{line_number}: {message}")
