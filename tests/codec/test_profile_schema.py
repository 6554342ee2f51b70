"""The JSON Schema that editors check a profile with agrees with the gateway."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from edge_gateway.codec import Profile, load, parse_profile, profile_names
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ProfileError

SCHEMA = Draft202012Validator(Profile.model_json_schema())


def profile_with(field: dict[str, Any], checksum: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "probe",
        "version": 1,
        "title": "A probe",
        "source": {"document": "none"},
        "framing": {"kind": "slip"},
        "frames": {
            "only": {"role": "sample", "endian": "big", "fields": [{"name": "x", **field}], "checksum": checksum}
        },
    }


def test_the_schema_is_one() -> None:
    """The schema follows the rules of its own dialect."""
    Draft202012Validator.check_schema(Profile.model_json_schema())


@pytest.mark.parametrize("name", profile_names())
def test_packaged_profiles_are_valid_to_an_editor(name: str) -> None:
    """No editor underlines anything in a profile that ships with the gateway."""
    document = parse_yaml((load.PACKAGED / f"{name}.yaml").read_text("utf-8"), where=name, error_type=ProfileError)
    assert [error.message for error in SCHEMA.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("field", "checksum"),
    [
        ({"type": "u16", "sentinel": 65_535}, None),
        ({"type": "u16", "sentinel": {"minimum": 1, "maximum": 2}}, None),
        ({"type": "u16", "sentinel": [7, {"minimum": 1, "maximum": 2}]}, None),
        ({"type": "i56", "word_order": "normal", "endian": "little", "valid": {"minimum": -1.5}}, None),
        ({"type": "u32", "epoch": "unix-ms"}, None),
        ({"type": "medfloat16", "valid": {"maximum": 50, "otherwise": "null"}}, None),
        ({"type": "u8", "valid": {"maximum": 50, "otherwise": None}}, None),
        ({"type": "bcd", "digits": 5}, None),
        ({"type": "text", "length_bytes": 4, "encoding": "utf-8", "padding": 32}, None),
        ({"type": "mac", "endian": "little"}, {"algorithm": "lrc", "from": "x", "to": 5}),
    ],
)
def test_what_the_gateway_takes_is_valid_to_an_editor(field: dict[str, Any], checksum: dict[str, Any] | None) -> None:
    """Every new key and each way to write one passes both."""
    document = profile_with(field, checksum)
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert parse_profile(yaml.safe_dump(document), "probe.yaml").name == "probe"


@pytest.mark.parametrize(
    "field",
    [
        {"type": "u12"},
        {"type": "u16", "sentinel": "none"},
        {"type": "u16", "sentinel": {"minimum": 1}},
        {"type": "u16", "valid": {"otherwise": "drop"}},
        {"type": "bcd"},
        {"type": "text", "length_bytes": 4, "encoding": "latin-1"},
    ],
)
def test_an_editor_sees_what_is_wrong(field: dict[str, Any]) -> None:
    """A mistake in a kind or a key is one to the editor as well."""
    assert list(SCHEMA.iter_errors(profile_with(field)))
