"""The JSON Schema of what a gateway sends in `values` for a profile, for those who store or check readings.

It says what the wire can carry, so a decoded frame always satisfies it: a range comes from a field's width and scale,
and not from what a sensor of that sort would plausibly measure. A unit stands in `unit`, as its SenML code; JSON Schema
lets everybody ignore a keyword it does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edge_gateway.codec.generated.outline import outline
from edge_gateway.codec.generated.shapes import (
    UNNAMED_CODE_PATTERN,
    AnyShape,
    LabelShape,
    ListShape,
    MappingShape,
    Meaning,
    Member,
    NumberShape,
    Shape,
    TextShape,
    TimeShape,
    TruthShape,
)
from edge_gateway.codec.profile import Profile

_AGAIN = "(?:[2-9]|[1-9][0-9]+)"
_ANY_NUMBER = "-?[0-9]+"


def values_schema(profile: Profile) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the `values` of a reading.

    Returns:
        An object schema; with several kinds of sample frames, the choice among theirs. Where code decodes, any object.

    Source: https://json-schema.org/draft/2020-12/schema; units by RFC 8428 and RFC 8798.
    """
    samples = []
    for name, frame in profile.frames.items():
        if frame.role == "sample":
            description = {"description": frame.description} if frame.description else {}
            samples.append(description | _mapping_schema(outline(profile, name)))
    body: dict[str, Any] = {"anyOf": samples}
    if profile.decoder is not None:
        body = {"type": "object"}
    elif len(samples) < 2:
        # A device that only answers has no readings: nothing is valid.
        body = samples[0] if samples else {"not": {}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{profile.title}: values",
        "$comment": f"Generated from the profile {profile.name}, version {profile.version}",
        **body,
    }


def _mapping_schema(mapping: MappingShape) -> dict[str, Any]:
    """An object's schema; names with numbers, which nobody can list, are patterns."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            member.name: _meanings_schema(member.meanings) for member in mapping.members if not member.is_numbered
        },
    }
    # No other name of the frame fits such a pattern: a profile in which one did would be refused.
    patterns = {
        f"^{member.name}_{_ANY_NUMBER if member.is_numbered else _AGAIN}$": _meanings_schema(member.meanings)
        for member in mapping.members
        if member.is_numbered or member.can_come_again
    }
    if patterns:
        schema["patternProperties"] = patterns
    return schema | {"required": [*_always_there(mapping.members)], "additionalProperties": False}


def _always_there(members: Iterable[Member]) -> Iterable[str]:
    return (member.name for member in members if member.is_always_there and not member.is_numbered)


def _meanings_schema(meanings: Iterable[Meaning]) -> dict[str, Any]:
    schemas = [meaning_schema(meaning) for meaning in meanings]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def meaning_schema(meaning: Meaning) -> dict[str, Any]:
    """The JSON Schema of one value."""
    schema = _shape_schema(meaning.shape)
    if meaning.can_be_null and schema:
        schema = _or_null(schema)
    if meaning.unit:
        schema["unit"] = meaning.unit
    if meaning.description:
        schema["description"] = meaning.description
    return schema


def _shape_schema(shape: Shape) -> dict[str, Any]:
    match shape:
        case TruthShape():
            return {"type": "boolean"}
        case NumberShape(is_whole, least, most):
            schema: dict[str, Any] = {"type": "integer" if is_whole else "number"}
            bounds = {"minimum": least, "maximum": most}
            return schema | {key: bound for key, bound in bounds.items() if bound is not None}
        case LabelShape(labels, is_complete):
            if is_complete:
                return {"type": "string", "enum": list(labels)}
            unnamed = {"pattern": UNNAMED_CODE_PATTERN, "description": "A code without a name"}
            return {"type": "string", "anyOf": [{"enum": list(labels)}, unnamed]}
        case TextShape(pattern):
            return {"type": "string", "pattern": pattern}
        case TimeShape():
            return {"type": "string", "format": "date-time"}
        case MappingShape():
            return _mapping_schema(shape)
        case ListShape(element, least_count, most_count):
            listed = {"type": "array", "items": meaning_schema(element)}
            counts = {"minItems": least_count or None, "maxItems": most_count}
            return listed | {key: count for key, count in counts.items() if count is not None}
        case AnyShape():
            return {}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with null beside it. `enum` and `anyOf` bind null as well, so they stand apart from it."""
    if "enum" in schema or "anyOf" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}
