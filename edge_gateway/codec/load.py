"""Profiles from files: found by name or path, read as strict YAML, and refused with the place of the mistake."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge_gateway.codec.fields import Misdeclared
from edge_gateway.codec.profile import Profile
from edge_gateway.config.settings import validated
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ProfileError

PACKAGED = Path(__file__).parent / "profiles"
"""Where the profiles that ship with the gateway are."""

MAX_PROFILE_BYTES = 256 * 1024
"""A profile of a few hundred fields is 30 KB. More is a wrong file, which a small box would parse for seconds."""

_ENDINGS = (".yaml", ".yml", ".json")

_MISTAKEN_TYPES = {
    "boolean": "bool",
    "byte": "u8",
    "char": "text",
    "double": "f64",
    "float": "f32",
    "half": "f16",
    "hex": "bytes",
    "sfloat": "medfloat16",
    "str": "text",
    "string": "text",
}
"""What people write for the type of a field, and what they mean. For `uint16` and the like, see `_nearest_tags`."""


def profile_names(directories: Sequence[Path] = ()) -> list[str]:
    """The names of all profiles that `load_profile` finds, sorted.

    Args:
        directories: where to look beside the gateway's own profiles. A directory that is not there has none.
    """
    return sorted({path.stem for folder in (*directories, PACKAGED) for path in _profiles_in(folder)})


def load_profile(name_or_path: str | Path, directories: Sequence[Path] = ()) -> Profile:
    """Find, read and check a profile.

    Args:
        name_or_path: the name of a profile, or the path of its file. Text with a `/` or a file ending is a path.
        directories: where to look for a name, in order, before the gateway's own profiles; so a user's file of the same
            name wins.

    Raises:
        ProfileError: not found, unreadable, or wrong; the text names the file, the key, its value and what would do.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(_ENDINGS):
        return _read(Path(name_or_path))
    for folder in (*directories, PACKAGED):
        for path in _profiles_in(folder):
            if path.stem == text:
                profile = _read(path)
                if profile.name != text:
                    raise ProfileError(
                        f"the profile is named {profile.name!r}",
                        where=f"{path}: name",
                        remedy=f"Name it {text!r}, or the file {profile.name}.yaml",
                    )
                return profile
    known = profile_names(directories)
    near = difflib.get_close_matches(text, known, n=3) or known
    raise ProfileError(f"there is no profile {text!r}", remedy=f"Names that would do: {', '.join(near)}")


def parse_profile(text: str, where: str) -> Profile:
    """Read and check a profile from YAML or JSON.

    Args:
        text: the whole declaration.
        where: the file or twin property it is from, for errors.

    Raises:
        ProfileError: it is wrong; the text names `where`, the key, its value and what would do.
    """
    document = parse_yaml(text, where=where, error_type=ProfileError)
    if not isinstance(document, dict):
        raise ProfileError("not a profile", where=where, remedy="It starts with the keys name, version, title")
    try:
        return validated(Profile, document)
    except ValidationError as error:
        found = _telling(error.errors(include_url=False))
        key, what, remedy = _told(found["loc"], found, document)
        place = f"{where}:{_line_number(text, key)}: {key}" if key else where
        raise ProfileError(what, where=place, remedy=remedy) from error


def _profiles_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix in _ENDINGS) if folder.is_dir() else []


def _read(path: Path) -> Profile:
    try:
        if path.stat().st_size > MAX_PROFILE_BYTES:
            raise ProfileError(
                f"{path.stat().st_size} bytes are too many for a profile",
                where=str(path),
                remedy=f"At most {MAX_PROFILE_BYTES}",
            )
        text = path.read_text("utf-8")
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise ProfileError(reason, where=str(path), remedy="Check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ProfileError("not UTF-8 text", where=str(path), remedy="Save it as UTF-8") from error
    profile = parse_profile(text, str(path))
    if path.parent == PACKAGED and not profile.vectors:
        raise ProfileError(
            "a profile in the package needs test vectors",
            where=f"{path}: vectors",
            remedy="Add at least one frame from the manual or a capture",
        )
    return profile


def _line_number(text: str, key: str) -> int:
    """The line of a key, given as a path like `frames.sample.fields[4].type`; of what holds it, where it is missing."""
    node = yaml.compose(text, yaml.SafeLoader)
    line_index = 0
    for quoted, plain in re.findall(r'\["([^"]*)"\]|([^.\[\]]+)', key):
        step = quoted or plain
        if isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
            node = node.value[int(step)]
            line_index = node.start_mark.line
        elif isinstance(node, yaml.MappingNode) and (found := [pair for pair in node.value if _is_key(pair[0], step)]):
            key_node, node = found[0]
            line_index = key_node.start_mark.line
        else:
            break
    return line_index + 1


def _is_key(node: yaml.Node, step: str) -> bool:
    """Whether a key is the one of a path; a number may be written in other digits than the path has."""
    text = str(node.value)
    return text == step or (re.fullmatch(r"0[xb][0-9a-fA-F]+", text) is not None and str(int(text, 0)) == step)


def _nearest_tags(tag: str, possible: str) -> str:
    """`Did you mean ...` for a tag that is not one of the possible, or nothing."""
    known = re.findall(r"'([^']*)'", possible)
    integer = re.fullmatch(r"(u?)(?:int|i|s|)([0-9]{1,3})(?:_t|le|be)?", tag)
    meant = _MISTAKEN_TYPES.get(tag, tag)
    if integer:
        # Of a width that is not whole bytes, the integer that holds it; `bits` takes them out of it.
        meant = f"{integer[1] or 'i'}{-(-int(integer[2]) // 8) * 8}"
    near = [meant] if meant in known else [] if integer else difflib.get_close_matches(tag, known, n=2)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def _telling(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first error; of a key that is missing because it is misspelt, the one about the misspelt key."""
    first = errors[0]
    beside = [each for each in errors if each["type"] == "extra_forbidden" and each["loc"][:-1] == first["loc"][:-1]]
    return beside[0] if first["type"] == "missing" and beside else first


def _told(
    location: tuple[int | str, ...], details: Mapping[str, Any], document: Mapping[Any, Any]
) -> tuple[str, str, str]:
    """The first thing pydantic found, for a person: the key, what is wrong with it, and what would do."""
    path, value = _locate(location, document, is_missing=details["type"] == "missing")
    if location and location[-1] == "[key]":
        value = location[-2]
    context = details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Misdeclared):
        path = ".".join(part for part in (path, cause.key) if part)
        return path, cause.what, cause.remedy
    match details["type"]:
        case "missing":
            what, remedy = "the key is missing", "Add it"
        case "extra_forbidden":
            what = "there is no such key"
            known = _known_keys(location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=2, cutoff=0.65)
            remedy = f"Did you mean {' or '.join(near)}?" if near else f"Keys: {', '.join(known)}"
        case "union_tag_invalid":
            path = f"{path}.{str(context['discriminator']).strip(chr(39))}"
            meant = _nearest_tags(str(context["tag"]), context["expected_tags"])
            what, remedy = f"{context['tag']!r} is not known", f"{meant}Possible: {context['expected_tags']}"
        case "union_tag_not_found":
            path = f"{path}.{str(context['discriminator']).strip(chr(39))}"
            what, remedy = "the key is missing", "Add it"
        case "literal_error":
            what, remedy = f"{value!r} is not possible", f"Possible: {context['expected']}"
        case "string_type":
            what, remedy = f"{value!r} is not text", f"Put it in quotes: '{value}'"
        case "int_parsing" | "int_type" | "int_from_float":
            what, remedy = f"{value!r} is not a whole number", "For instance: 1, or 0xff"
        case "string_pattern_mismatch":
            what, remedy = f"{value!r} has characters that are not allowed", f"It must match {context['pattern']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            what, remedy = f"{value!r} is not a mapping", "Write `key: value` lines below it"
        case "too_short" if not value:
            what, remedy = "it is empty", "Give at least one"
        case "tuple_type":
            what, remedy = f"{value!r} is not a list", "Write a `-` in front of each item"
        case "value_error":
            what, remedy = f"{value!r} is not bytes", "Write pairs of hexadecimal digits: '42 4d'"
        case _:
            what, remedy = f"{value!r} will not do", str(details["msg"])
    return path, what, remedy


def _locate(location: Sequence[int | str], document: Any, *, is_missing: bool) -> tuple[str, Any]:
    """The path a person would write, and the value there.

    pydantic's location also names union members and, for a wrong key, `[key]`; both are no part of the document.
    """
    path = ""
    node = document
    for index, part in enumerate(location):
        is_last = index == len(location) - 1
        if isinstance(node, Mapping) and part in node:
            node = node[part]
            # A label of a text frame may have dots of its own.
            path += f'["{part}"]' if set(str(part)) & set(".[]") else f".{part}" if path else str(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            path += f"[{part}]"
        elif is_missing and is_last:
            path += f".{part}" if path else str(part)
    return path, node


@functools.cache
def _profile_schema() -> Mapping[str, Any]:
    """The language as JSON Schema, which takes pydantic longer to write than a profile takes to read."""
    return Profile.model_json_schema()


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys the language has at a location, from its JSON schema."""
    schema = _profile_schema()

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        # Of "a model or null" and "a model or a plain value", the model is the one that has keys.
        choices: list[Mapping[str, Any]] = [node, *node.get("anyOf", ())]
        references = [choice["$ref"] for choice in choices if "$ref" in choice]
        return schema["$defs"][references[0].rpartition("/")[2]] if references else node

    node: Mapping[str, Any] = schema
    for part in location:
        choices = (node, *node.get("anyOf", ()))
        tagged: Mapping[Any, str] = next(
            (choice["discriminator"]["mapping"] for choice in choices if "discriminator" in choice), {}
        )
        # A vector's tag is its model's name, as the schema has no mapping for tags that a function chooses.
        if part in tagged or part in schema["$defs"]:
            node = resolved({"$ref": tagged.get(part, part)})
            continue
        inside = [
            step
            for choice in choices
            for step in (
                choice.get("properties", {}).get(part),
                choice.get("items"),
                choice.get("additionalProperties"),
                *choice.get("patternProperties", {}).values(),
            )
        ]
        node = resolved(next((step for step in inside if isinstance(step, Mapping)), {}))
    return sorted(node.get("properties", {}))
