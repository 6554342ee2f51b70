"""Profiles from files: found by name or path, read as strict YAML, and refused with the place of the mistake."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_gateway.codec.fields import Misdeclared
from edge_gateway.codec.profile import Profile
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ProfileError

PACKAGED = Path(__file__).parent / "profiles"
"""Where the profiles that ship with the gateway are."""

MAX_PROFILE_BYTES = 256 * 1024
"""A profile of a few hundred fields is 30 KB. More is a wrong file, which a small box would parse for seconds."""

_ENDINGS = (".yaml", ".yml", ".json")


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
        return Profile.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _as_profile_error(first["loc"], first, document, where) from error


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


def _as_profile_error(
    location: tuple[int | str, ...], details: Mapping[str, Any], document: Mapping[Any, Any], where: str
) -> ProfileError:
    """Turn the first thing pydantic found into an error a person can act on."""
    path, value = _locate(location, document, is_missing=details["type"] == "missing")
    context = details.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Misdeclared):
        path = ".".join(part for part in (path, cause.key) if part)
        return ProfileError(cause.what, where=f"{where}: {path}", remedy=cause.remedy)
    match details["type"]:
        case "missing":
            what, remedy = "the key is missing", "Add it"
        case "extra_forbidden":
            what = "there is no such key"
            known = _known_keys(location[:-1])
            near = difflib.get_close_matches(str(location[-1]), known, n=2)
            remedy = f"Did you mean {' or '.join(near)}?" if near else f"Keys: {', '.join(known)}"
        case "union_tag_invalid":
            path = f"{path}.{str(context['discriminator']).strip(chr(39))}"
            what, remedy = f"{context['tag']!r} is not known", f"Possible: {context['expected_tags']}"
        case "union_tag_not_found":
            path = f"{path}.{str(context['discriminator']).strip(chr(39))}"
            what, remedy = "the key is missing", "Add it"
        case "literal_error":
            what, remedy = f"{value!r} is not possible", f"Possible: {context['expected']}"
        case "string_type":
            what, remedy = f"{value!r} is not text", f"Put it in quotes: '{value}'"
        case "string_pattern_mismatch":
            what, remedy = f"{value!r} has characters that are not allowed", f"It must match {context['pattern']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            what, remedy = f"{value!r} is not a mapping", "Write `key: value` lines below it"
        case "tuple_type":
            what, remedy = f"{value!r} is not a list", "Write a `-` in front of each item"
        case "value_error":
            what, remedy = f"{value!r} is not bytes", "Write pairs of hexadecimal digits: '42 4d'"
        case _:
            what, remedy = f"{value!r} will not do", str(details["msg"])
    return ProfileError(what, where=f"{where}: {path}", remedy=remedy)


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
            path += f".{part}" if path else str(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
            path += f"[{part}]"
        elif is_missing and is_last:
            path += f".{part}" if path else str(part)
    return path, node


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys the language has at a location, from its JSON schema."""
    schema = Profile.model_json_schema()

    def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
        # Of "a model or null" and "a model or a plain value", the model is the one that has keys.
        choices: list[Mapping[str, Any]] = [node, *node.get("anyOf", ())]
        references = [choice["$ref"] for choice in choices if "$ref" in choice]
        return schema["$defs"][references[0].rpartition("/")[2]] if references else node

    node: Mapping[str, Any] = schema
    for part in location:
        tagged = node.get("discriminator", {}).get("mapping", {})
        # A vector's tag is its model's name, as the schema has no mapping for tags that a function chooses.
        if part in tagged or part in schema["$defs"]:
            node = resolved({"$ref": tagged.get(part, part)})
            continue
        inside = (
            node.get("properties", {}).get(part),
            node.get("items"),
            node.get("additionalProperties"),
            *node.get("patternProperties", {}).values(),
        )
        node = resolved(next((step for step in inside if isinstance(step, Mapping)), {}))
    return sorted(node.get("properties", {}))
