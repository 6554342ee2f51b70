"""The rules of DTDL version 3 that an interface of ours can break, as JSON Schema and a few lines.

Written from the charts of https://github.com/Azure/opendigitaltwins-dtdl, DTDL/v3/DTDL.v3.md, and the units from
DTDL.quantitativeTypes.v1.md there, as far as the generator uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from jsonschema import Draft202012Validator

_NAME = {"type": "string", "pattern": "^[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?$", "maxLength": 512}
_TEXTS = {
    "displayName": {"type": "string", "maxLength": 64},
    "description": {"type": "string", "maxLength": 512},
    "comment": {"type": "string", "maxLength": 512},
}


def _element(types: Any, required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": {"@type": types, "name": _NAME, **_TEXTS, **properties},
    }


def _typed(name: str) -> dict[str, Any]:
    """`name`, or `name` with one semantic type."""
    return {
        "anyOf": [
            {"const": name},
            {"type": "array", "prefixItems": [{"const": name}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ]
    }


DTDL_V3 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["@context", "@id", "@type"],
    "additionalProperties": False,
    "properties": {
        "@context": {"type": "array", "prefixItems": [{"const": "dtmi:dtdl:context;3"}]},
        "@id": {
            "type": "string",
            "maxLength": 128,
            "pattern": "^dtmi:(?!dtdl:|standard:)[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?"
            "(?::[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?)*;[1-9][0-9]{0,8}$",
        },
        "@type": {"const": "Interface"},
        "contents": {
            "type": "array",
            "items": {
                "if": {"properties": {"@type": {"const": "Command"}}},
                "then": {"$ref": "#/$defs/command"},
                "else": {"$ref": "#/$defs/telemetry"},
            },
        },
        **_TEXTS,
    },
    "$defs": {
        "schema": {
            "anyOf": [
                {"enum": ["boolean", "double", "float", "integer", "long", "string", "dateTime"]},
                {"$ref": "#/$defs/enum"},
                {"$ref": "#/$defs/object"},
                {"$ref": "#/$defs/array"},
            ]
        },
        "array": {
            "type": "object",
            "required": ["@type", "elementSchema"],
            "additionalProperties": False,
            "properties": {"@type": {"const": "Array"}, "elementSchema": {"$ref": "#/$defs/schema"}},
        },
        "enum": {
            "type": "object",
            "required": ["@type", "valueSchema", "enumValues"],
            "additionalProperties": False,
            "properties": {
                "@type": {"const": "Enum"},
                "valueSchema": {"const": "string"},
                "enumValues": {
                    "type": "array",
                    "items": _element({"const": "EnumValue"}, ["name", "enumValue"], enumValue={"type": "string"}),
                },
            },
        },
        "object": {
            "type": "object",
            "required": ["@type", "fields"],
            "additionalProperties": False,
            "properties": {
                "@type": {"const": "Object"},
                "fields": {
                    "type": "array",
                    "items": _element(
                        _typed("Field"),
                        ["name", "schema"],
                        schema={"$ref": "#/$defs/schema"},
                        unit={"type": "string"},
                    ),
                },
            },
        },
        "telemetry": _element(
            _typed("Telemetry"),
            ["@type", "name", "schema"],
            schema={"$ref": "#/$defs/schema"},
            unit={"type": "string"},
        ),
        "command": _element(
            {"const": "Command"},
            ["@type", "name"],
            request=_element({"const": "CommandRequest"}, ["name", "schema"], schema={"$ref": "#/$defs/schema"}),
        ),
    },
}

NUMERIC_SCHEMAS = ("double", "float", "integer", "long")


def check_dtdl(interface: dict[str, Any]) -> None:
    """Fail where an interface breaks a rule of DTDL v3."""
    Draft202012Validator(DTDL_V3).validate(interface)
    names = [element["name"] for element in interface["contents"]]
    assert len(set(names)) == len(names), "must be unique for all contents in Interface"
    has_units = "dtmi:dtdl:extension:quantitativeTypes;1" in interface["@context"]
    elements = list(_elements(interface["contents"]))
    assert len(elements) <= 100_000, "max 100,000 elements in hierarchy"
    for element in elements:
        assert _levels(element.get("schema")) <= 5, "the maximum depth of nested complex schemas is 5 levels"
        assert isinstance(element["@type"], list) == ("unit" in element), "a unit and a semantic type go together"
        if "unit" in element:
            assert has_units
            assert element["schema"] in NUMERIC_SCHEMAS, "a semantic type is for numbers"
        if isinstance(element.get("schema"), dict) and element["schema"]["@type"] == "Enum":
            values = element["schema"]["enumValues"]
            for key in ("name", "enumValue"):
                assert len({value[key] for value in values}) == len(values), f"{key} must be unique in an Enum"


def _elements(contents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Contents and all fields within them."""
    for element in contents:
        yield element
        for schema in (element.get("schema"), element.get("request", {}).get("schema")):
            yield from _elements(_fields(schema))


def _fields(schema: Any) -> list[dict[str, Any]]:
    """The fields of an object, or of what an array holds."""
    if not isinstance(schema, dict):
        return []
    fields: list[dict[str, Any]] = schema.get("fields") or _fields(schema.get("elementSchema"))
    return fields


def _levels(schema: Any) -> int:
    """How deep complex schemas stand in each other."""
    if not isinstance(schema, dict):
        return 0
    inner = [field["schema"] for field in schema.get("fields", ())] + [schema.get("elementSchema")]
    return 1 + max(map(_levels, inner))
