"""A profile as a DTDL version 3 interface, for Azure Digital Twins and whoever else reads models of devices.

It describes the device: what it measures is Telemetry, what it can be told is a Command. It does not describe the
gateway's message, in which these values stand under `values`, nor its direct method `command`, which takes a command's
own name; that name stands in `comment` where DTDL has no room for its hyphens.

DTDL says less than a profile. It has no null, no range, and an enumeration is closed, while a device may send a code
without a name. `comment` says so where it is so.

Source: https://github.com/Azure/opendigitaltwins-dtdl, DTDL/v3/DTDL.v3.md and DTDL.quantitativeTypes.v1.md.
"""

from __future__ import annotations

import re
from typing import Any, Final

from edge_gateway.codec.fields import NamedField
from edge_gateway.codec.generated.dtdl_units import SEMANTIC_TYPES
from edge_gateway.codec.generated.shapes import (
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
from edge_gateway.codec.profile import Argument, DeviceCommand, Profile
from edge_gateway.errors import CodecError

CONTEXT: Final = ("dtmi:dtdl:context;3", "dtmi:dtdl:extension:quantitativeTypes;1")

MOST_ID_CHARACTERS: Final = 128
MOST_VERSION: Final = 999_999_999
MOST_TEXT_CHARACTERS: Final = 512
MOST_DISPLAY_CHARACTERS: Final = 64

_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?")
"""DTDL v3, Telemetry: a letter first, a letter or digit last, letters, digits and `_` between."""

_ID_PREFIX = re.compile(r"dtmi(?::[A-Za-z](?:[A-Za-z0-9_]*[A-Za-z0-9])?)+")

_RESERVED: Final = ("dtmi:dtdl:", "dtmi:standard:")


def dtdl_interface(profile: Profile, *, dtmi_prefix: str = "dtmi:edge_gateway") -> dict[str, Any]:
    """The DTDL v3 interface of a device of this profile.

    Args:
        profile: whose.
        dtmi_prefix: what its identifier starts with, e.g. `dtmi:com:example`; the profile's name and version follow.

    Raises:
        CodecError: a name or the prefix cannot be said in DTDL, or two sample frames give one value in ways that
            no DTDL schema covers.
    """
    if not _ID_PREFIX.fullmatch(dtmi_prefix) or f"{dtmi_prefix}:".startswith(_RESERVED):
        raise CodecError(
            f"{dtmi_prefix!r} cannot start a DTMI", where=profile.name, remedy="For instance: dtmi:com:example"
        )
    if profile.version > MOST_VERSION:
        raise CodecError(
            f"the version {profile.version} is too large for a DTMI",
            where=profile.name,
            remedy=f"At most {MOST_VERSION}",
        )
    identifier = f"{dtmi_prefix}:{_dtdl_name(profile.name, profile.name)};{profile.version}"
    if len(identifier) > MOST_ID_CHARACTERS:
        raise CodecError(
            f"{identifier!r} has {len(identifier)} characters",
            where=profile.name,
            remedy=f"An interface's identifier has at most {MOST_ID_CHARACTERS}: use a shorter prefix",
        )
    telemetry = _telemetry(profile)
    commands = {_dtdl_name(name, profile.name): (name, command) for name, command in profile.commands.items()}
    return {
        "@context": list(CONTEXT),
        "@id": identifier,
        "@type": "Interface",
        "displayName": profile.title[:MOST_DISPLAY_CHARACTERS],
        "description": profile.title[:MOST_TEXT_CHARACTERS],
        "comment": f"Generated from the profile {profile.name}, version {profile.version}",
        "contents": [
            *telemetry.values(),
            *(
                _command(f"{dtdl_name}_command" if dtdl_name in telemetry else dtdl_name, name, command)
                for dtdl_name, (name, command) in commands.items()
            ),
        ],
    }


def _telemetry(profile: Profile) -> dict[str, dict[str, Any]]:
    """By name. A value that several kinds of sample frames give is there once."""
    contents: dict[str, dict[str, Any]] = {}
    for frame_name, frame in profile.frames.items():
        if frame.role != "sample":
            continue
        for name, spec in profile.values_of(frame_name).items():
            element = _telemetry_of(profile, name, spec)
            contents[name] = _joined(contents[name], element, profile.name) if name in contents else element
    return contents


def _telemetry_of(profile: Profile, name: str, spec: NamedField) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        # It must be the key the gateway sends, so no other name would do.
        raise CodecError(f"DTDL has no such name: {name!r}", where=profile.name, remedy="End it in a letter or digit")
    shape = shape_of(spec)
    # A semantic type is for numbers, while a profile may give a flag a unit.
    has_type = isinstance(shape, NumberShape) and unit_of(spec) in SEMANTIC_TYPES
    semantic_type, unit = SEMANTIC_TYPES[unit_of(spec) or ""] if has_type else ("", "")
    notes = [f"Unit: {unit_of(spec)}"] if unit_of(spec) and not unit else []
    if can_be_null(spec):
        notes.append("null when the device has no value")
    if isinstance(shape, LabelShape) and not shape.is_complete:
        notes.append("A code without a name comes as its digits")
    element: dict[str, Any] = {
        "@type": ["Telemetry", semantic_type] if unit else "Telemetry",
        "name": name,
        "schema": _schema(spec),
    }
    if unit:
        element["unit"] = unit
    return element | _texts(spec.description, "; ".join(notes))


def _schema(spec: NamedField) -> str | dict[str, Any]:
    match shape_of(spec):
        case TruthShape():
            return "boolean"
        case NumberShape(is_whole, least, most):
            if is_whole and least is not None and most is not None:
                if least >= -(1 << 31) and most < 1 << 31:
                    return "integer"
                if least >= -(1 << 63) and most < 1 << 63:
                    return "long"
            return "double"
        case LabelShape(labels):
            return _enumeration(labels)
        case TimeShape():
            return "dateTime"
        case TextShape() | AnyShape():
            return "string"


def _enumeration(labels: tuple[str, ...]) -> dict[str, Any]:
    values = []
    taken: set[str] = set()
    for number, label in enumerate(labels):
        name = re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")
        if not _NAME.fullmatch(name) or name in taken:
            name = f"label_{number}"
        taken.add(name)
        values.append({"name": name, "displayName": label, "enumValue": label})
    return {"@type": "Enum", "valueSchema": "string", "enumValues": values}


_WIDER: Final = ("integer", "long", "double")


def _joined(one: dict[str, Any], other: dict[str, Any], where: str) -> dict[str, Any]:
    """One element for a value two frames give: the wider of two numbers, as long as their unit is the same."""
    schemas = one["schema"], other["schema"]
    if one.get("@type") == other.get("@type") and one.get("unit") == other.get("unit"):
        if schemas[0] == schemas[1]:
            return one
        if all(schema in _WIDER for schema in schemas):
            return {**one, "schema": max(schemas, key=_WIDER.index)}
    raise CodecError(
        f"{one['name']!r} means different things in two sample frames, which DTDL cannot say",
        where=where,
        remedy="Give one of the two another name",
    )


def _command(dtdl_name: str, name: str, command: DeviceCommand) -> dict[str, Any]:
    element: dict[str, Any] = {"@type": "Command", "name": dtdl_name}
    if command.arguments:
        element["request"] = {
            "name": "arguments",
            "schema": {
                "@type": "Object",
                "fields": [_argument(argument, spec) for argument, spec in command.arguments.items()],
            },
        }
    return element | _texts(command.description, f"The gateway's name: {name}" if name != dtdl_name else "")


def _argument(name: str, argument: Argument) -> dict[str, Any]:
    schemas = {"integer": "long", "number": "double", "boolean": "boolean", "text": "string"}
    has_type = argument.type in ("integer", "number") and argument.unit in SEMANTIC_TYPES
    semantic_type, unit = SEMANTIC_TYPES[argument.unit or ""] if has_type else ("", "")
    element: dict[str, Any] = {
        "@type": ["Field", semantic_type] if unit else "Field",
        "name": name,
        "schema": schemas[argument.type],
    }
    if unit:
        element["unit"] = unit
    bounds = [
        f"{word} {bound}"
        for word, bound in (("at least", argument.minimum), ("at most", argument.maximum))
        if bound is not None
    ]
    return element | _texts(argument.description, ", ".join(bounds))


def _texts(description: str, comment: str) -> dict[str, str]:
    texts = {"description": description[:MOST_TEXT_CHARACTERS], "comment": comment[:MOST_TEXT_CHARACTERS]}
    return {key: text for key, text in texts.items() if text}


def _dtdl_name(name: str, where: str) -> str:
    """A profile's or command's name with `_` for hyphens."""
    dtdl_name = name.replace("-", "_")
    if not _NAME.fullmatch(dtdl_name):
        raise CodecError(f"DTDL has no such name: {name!r}", where=where, remedy="End it in a letter or digit")
    return dtdl_name
