"""The JSON Schema of what a gateway sends in `values` for a profile, for those who store or check readings.

It says what the wire can carry, so a decoded frame always satisfies it: a range comes from a field's width and scale,
and not from what a sensor of that sort would plausibly measure. A unit stands in `unit`, as its SenML code; JSON Schema
lets everybody ignore a keyword it does not have.
"""

from __future__ import annotations

from typing import Any

from edge_gateway.codec.fields import NamedField
from edge_gateway.codec.generated.shapes import (
    UNNAMED_CODE_PATTERN,
    AnyShape,
    LabelShape,
    NumberShape,
    TextShape,
    TimeShape,
    TruthShape,
    can_be_null,
    shape_of,
    unit_of,
)
from edge_gateway.codec.profile import Profile


def values_schema(profile: Profile) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the `values` of a reading.

    Returns:
        An object schema; with several kinds of sample frames, the choice among theirs.

    Source: https://json-schema.org/draft/2020-12/schema; units by RFC 8428 and RFC 8798.
    """
    samples = [
        _frame_schema(profile, name, frame.description)
        for name, frame in profile.frames.items()
        if frame.role == "sample"
    ]
    body: dict[str, Any] = {"anyOf": samples}
    if len(samples) < 2:
        # A device that only answers has no readings: nothing is valid.
        body = samples[0] if samples else {"not": {}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{profile.title}: values",
        "$comment": f"Generated from the profile {profile.name}, version {profile.version}",
        **body,
    }


def _frame_schema(profile: Profile, frame_name: str, description: str) -> dict[str, Any]:
    values = profile.values_of(frame_name)
    schema: dict[str, Any] = {"description": description} if description else {}
    return schema | {
        "type": "object",
        "properties": {name: field_schema(spec) for name, spec in values.items()},
        "required": list(values),
        "additionalProperties": False,
    }


def field_schema(spec: NamedField) -> dict[str, Any]:
    """The JSON Schema of one field's value."""
    schema = _shape_schema(spec)
    if can_be_null(spec) and schema:
        schema = _or_null(schema)
    if unit_of(spec):
        schema["unit"] = unit_of(spec)
    if spec.description:
        schema["description"] = spec.description
    return schema


def _shape_schema(spec: NamedField) -> dict[str, Any]:
    match shape_of(spec):
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
        case AnyShape():
            return {}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with null beside it. `enum` and `anyOf` bind null as well, so they stand apart from it."""
    if "enum" in schema or "anyOf" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}
