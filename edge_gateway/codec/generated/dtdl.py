"""A profile as a DTDL version 3 interface, for Azure Digital Twins and whoever else reads models of devices.

It describes the device: what it measures is Telemetry, what it can be told is a Command. It does not describe the
gateway's message, in which these values stand under `values`, nor its direct method `command`, which takes a command's
own name; that name stands in `comment` where DTDL has no room for its hyphens.

DTDL says less than a profile. It has no null, no range, no value that may be missing, and an enumeration is closed,
while a device may send a code without a name. A name with a number behind it, for a value that comes again or has a
channel, cannot be declared at all, nor one that is a number in one frame and text in another. `comment` says so where
it is so.

Source: https://github.com/Azure/opendigitaltwins-dtdl, DTDL/v3/DTDL.v3.md and DTDL.quantitativeTypes.v1.md.
"""

from __future__ import annotations

import re
from typing import Any, Final

from edge_gateway.codec.generated.dtdl_units import SEMANTIC_TYPES
from edge_gateway.codec.generated.outline import outline
from edge_gateway.codec.generated.shapes import (
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
from edge_gateway.codec.profile import Argument, DeviceCommand, Profile
from edge_gateway.errors import CodecError

CONTEXT: Final = ("dtmi:dtdl:context;3", "dtmi:dtdl:extension:quantitativeTypes;1")

MOST_ID_CHARACTERS: Final = 128
MOST_VERSION: Final = 999_999_999
MOST_TEXT_CHARACTERS: Final = 512
MOST_DISPLAY_CHARACTERS: Final = 64
MOST_LEVELS: Final = 5
"""Of complex schemas in each other; an enumeration is one, too."""

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
        CodecError: a name or the prefix cannot be said in DTDL.
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
    telemetry, unsayable = _telemetry(profile)
    comment = f"Generated from the profile {profile.name}, version {profile.version}"
    if unsayable:
        comment += f". Sent and not declared: {', '.join(unsayable)}"
    commands = {_dtdl_name(name, profile.name): (name, command) for name, command in profile.commands.items()}
    return {
        "@context": list(CONTEXT),
        "@id": identifier,
        "@type": "Interface",
        "displayName": profile.title[:MOST_DISPLAY_CHARACTERS],
        "description": profile.title[:MOST_TEXT_CHARACTERS],
        "comment": comment[:MOST_TEXT_CHARACTERS],
        "contents": [
            *telemetry.values(),
            *(
                _command(f"{dtdl_name}_command" if dtdl_name in telemetry else dtdl_name, name, command)
                for dtdl_name, (name, command) in commands.items()
            ),
        ],
    }


class _Unsayable(Exception):
    """DTDL has no schema for a value."""


def _telemetry(profile: Profile) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """By name, a value that several kinds of sample frames give only once; and the names that cannot be declared."""
    samples = [outline(profile, name).members for name, frame in profile.frames.items() if frame.role == "sample"]
    found: dict[str, Member] = {}
    unsayable: list[str] = []
    for member in (member for members in samples for member in members):
        if member.is_numbered:
            unsayable.append(f"{member.name}_0")
            continue
        before = found.get(member.name, member)
        found[member.name] = member._replace(
            meanings=tuple(dict.fromkeys((*before.meanings, *member.meanings))),
            # Of several kinds of frames, each has its own values: that others lack one is no news.
            is_always_there=before.is_always_there and member.is_always_there,
            can_come_again=before.can_come_again or member.can_come_again,
        )
    contents = {}
    for name, member in found.items():
        try:
            contents[name] = _element("Telemetry", member, profile.name)
        except _Unsayable:
            unsayable.append(name)
    return contents, list(dict.fromkeys(unsayable))


def _element(kind: str, member: Member, where: str, level: int = 1) -> dict[str, Any]:
    """A Telemetry or a Field for a name."""
    if not _NAME.fullmatch(member.name):
        # It must be the key the gateway sends, so no other name would do.
        raise CodecError(f"DTDL has no such name: {member.name!r}", where=where, remedy="End it in a letter or digit")
    first, *others = (_element_of(kind, member.name, meaning, where, level) for meaning in member.meanings)
    for other in others:
        first = _joined(first, other)
    notes = [first.pop("comment")] if "comment" in first else []
    if not member.is_always_there:
        notes.append("Not in every message")
    if member.can_come_again:
        notes.append(f"One that comes again is {member.name}_2, {member.name}_3, ...")
    return first | _texts("", "; ".join(notes))


def _element_of(kind: str, name: str, meaning: Meaning, where: str, level: int) -> dict[str, Any]:
    # A semantic type is for numbers, while a profile may give a flag a unit.
    has_type = isinstance(meaning.shape, NumberShape) and meaning.unit in SEMANTIC_TYPES
    semantic_type, unit = SEMANTIC_TYPES[meaning.unit or ""] if has_type else ("", "")
    element: dict[str, Any] = {
        "@type": [kind, semantic_type] if unit else kind,
        "name": name,
        "schema": _schema(meaning.shape, where, level),
    }
    if unit:
        element["unit"] = unit
    return element | _texts(meaning.description, "; ".join(_notes(meaning, has_unit=bool(unit))))


def _notes(meaning: Meaning, *, has_unit: bool = False) -> list[str]:
    """What DTDL has no words for."""
    notes = [f"Unit: {meaning.unit}"] if meaning.unit and not has_unit else []
    if meaning.can_be_null:
        notes.append("null when the device has no value")
    if isinstance(meaning.shape, LabelShape) and not meaning.shape.is_complete:
        notes.append("A code without a name comes as its digits")
    if isinstance(meaning.shape, ListShape):
        notes += [f"Each element: {note}" for note in _notes(meaning.shape.element)]
    return notes


def _schema(shape: Shape, where: str, level: int) -> str | dict[str, Any]:
    match shape:
        case LabelShape() | MappingShape() | ListShape() if level > MOST_LEVELS:
            raise _Unsayable
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
        case MappingShape(members):
            # A group's names cannot have numbers: tagged items stand in the frame itself.
            return {"@type": "Object", "fields": [_element("Field", each, where, level + 1) for each in members]}
        case ListShape(element):
            return {"@type": "Array", "elementSchema": _schema(element.shape, where, level + 1)}
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


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """One element for a name with two meanings: one schema that takes both, as long as their unit is the same."""
    schema = _joined_schema(one["schema"], other["schema"])
    if schema is None or one["@type"] != other["@type"] or one.get("unit") != other.get("unit"):
        raise _Unsayable
    notes = dict.fromkeys(each["comment"] for each in (one, other) if "comment" in each)
    return {**one, "schema": schema} | _texts("", "; ".join(notes))


def _joined_schema(one: str | dict[str, Any], other: str | dict[str, Any]) -> str | dict[str, Any] | None:
    if one == other:
        return one
    if isinstance(one, str) and isinstance(other, str):
        if {one, other} == {"string", "dateTime"}:
            return "string"
        return max(one, other, key=_WIDER.index) if one in _WIDER and other in _WIDER else None
    enumerations = [each for each in (one, other) if not isinstance(each, str) and each["@type"] == "Enum"]
    if len(enumerations) == len((one, other)):
        labels = dict.fromkeys(value["enumValue"] for each in enumerations for value in each["enumValues"])
        return _enumeration(tuple(labels))
    return "string" if enumerations and "string" in (one, other) else None


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
