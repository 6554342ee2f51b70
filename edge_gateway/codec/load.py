"""Profiles from files: found by name or path, read as YAML 1.2, and refused with the place of the mistake.

YAML is read strictly, because a profile is typed in by people and also arrives as JSON: only `true` and `false` are
booleans (a name like `on` stays text), `12:30` and `010` are not numbers in disguise, a repeated key is an error and
not the loss of the first, and aliases are refused, with which a few lines could unfold into gigabytes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edge_gateway.codec.fields import Misdeclared
from edge_gateway.codec.profile import Profile
from edge_gateway.errors import ProfileError

PACKAGED = Path(__file__).parent / "profiles"
"""Where the profiles that ship with the gateway are."""

MAX_PROFILE_BYTES = 256 * 1024
"""A profile of a few hundred fields is 30 KB. More is a wrong file, which a small box would parse for seconds."""

_ENDINGS = (".yaml", ".yml", ".json")


class _NotAllowed(yaml.YAMLError):
    """YAML that a profile does not use."""

    def __init__(self, what: str, line_index: int, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.line_number = line_index + 1
        self.remedy = remedy


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, without aliases, tags and repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- PyYAML's name for it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave this one out
        line_index = event.start_mark.line if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise _NotAllowed(f"the alias *{event.anchor}", line_index, "Write out what it stands for")
        if getattr(event, "tag", None) is not None:
            raise _NotAllowed("a tag (!)", line_index, "Leave it out, or put text that starts with ! in quotes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _NotAllowed("a list or mapping as a key", key_node.start_mark.line, "Use a name or a number")
            key = self.construct_object(key_node)
            if key in seen:
                line_index = key_node.start_mark.line
                raise _NotAllowed(f"the key {key!r} is there twice", line_index, "Keep one of the two")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first_characters in (
    ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?(?:0|[1-9][0-9]{0,19})|0x[0-9a-fA-F]{1,16}|0b[01]{1,64}", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]{1,3})?|[-+]?[0-9]+[eE][-+]?[0-9]{1,3}",
        [*"-+.0123456789"],
    ),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first_characters
    )


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
    try:
        document = yaml.load(text, _StrictLoader)  # noqa: S506 -- the loader is the safe one, made stricter
    except _NotAllowed as error:
        raise ProfileError(error.what, where=f"{where}:{error.line_number}", remedy=error.remedy) from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ProfileError(error.problem or "not YAML", where=f"{where}{line}", remedy="Mend the YAML there") from error
    except (yaml.YAMLError, RecursionError) as error:
        what = "characters that YAML forbids, or nested too deeply"
        raise ProfileError(what, where=where, remedy="Save it as UTF-8 text") from error
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
