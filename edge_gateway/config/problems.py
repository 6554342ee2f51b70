"""Turns what pydantic found wrong into sentences that name the key, the value and a value that would do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_LONGEST_VALUE_SHOWN: Final = 60


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence for each thing wrong, in the order of the document."""
    found = error.errors(include_url=False)
    # pydantic counts only good items, so a list of one bad item is "too short" as well.
    inner = [problem["loc"] for problem in found if problem["type"] != "too_short"]
    return [
        _sentence(problem, model)
        for problem in found
        if problem["type"] != "too_short" or not any(loc[: len(problem["loc"])] == problem["loc"] for loc in inner)
    ]


class _Place(NamedTuple):
    """Where a problem is."""

    path: str
    """As a person would write it."""
    field: FieldInfo | None
    """The setting that holds it; None at a key nobody knows."""
    owner: type[BaseModel] | None
    """The model whose keys would have done."""
    is_item: bool
    """Whether it is one item of the setting's list."""


def _sentence(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    place = _find(model, problem["loc"])
    path = place.path
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden" | "invalid_key":
            known = sorted(place.owner.model_fields) if place.owner else []
            return f"`{path}` is not a setting; {_near(problem['loc'][-1], known)} would do"
        case "missing":
            return f"`{path}` is missing; {_shown(_example(place))} would do"
        case "union_tag_not_found" | "union_tag_invalid":
            key = str(context["discriminator"]).strip("'")
            tags = [str(each.model_fields["kind"].default) for each in _models_of(place.field)]
            if "tag" not in context:
                return f"`{path}.{key}` is missing; {_near('', tags)} would do"
            return f"`{path}.{key}` is {_shown(context['tag'])}: not known; {_near(context['tag'], tags)} would do"
        case "value_error" | "port_kind":
            text = str(problem["msg"]).removeprefix("Value error, ")
            if isinstance(problem["input"], BaseModel | dict):
                return f"`{path}`: {text}" if path else text
            return f"`{path}` is {_input(problem, place)}: {text}"
        case "model_type" | "model_attributes_type" | "dict_type":
            reason = "not a mapping"
        case "tuple_type":
            reason = "not a list"
        case "too_short":
            reason = "nothing is listed"
        case "string_type" if problem["loc"][-1] == "[key]":
            reason = "a key that is not text"
        case _:
            text = str(problem["msg"])
            reason = text[0].lower() + text[1:]
    return f"`{path}` is {_input(problem, place)}: {reason}; {_shown(_example(place))} would do"


def _find(model: type[BaseModel], steps: tuple[int | str, ...]) -> _Place:
    """Follow a location through the models.

    A tag, which tells one model of a union from the others, and `[key]` are steps of pydantic's that stand in no
    document.
    """
    place = _Place("", None, model, is_item=False)
    candidates = [model]
    for step in steps:
        path, field = place.path, place.field
        if isinstance(step, int) and field is not None and get_origin(field.annotation) is tuple:
            place = place._replace(path=f"{path}[{step}]", is_item=True)
        elif len(candidates) > 1:
            candidates = [each for each in candidates if _has_tag(each, step)]
        elif step != "[key]":
            path = f"{path}.{step}" if path else str(step)
            if candidates:
                owner = candidates[0]
                field = owner.model_fields.get(str(step))
                candidates = _models_of(field)
                place = _Place(path, field, owner, is_item=False)
            else:  # a key of a mapping that holds what it likes
                place = _Place(path, field, None, is_item=True)
    return place


def _has_tag(model: type[BaseModel], tag: str | int) -> bool:
    kind = model.model_fields.get("kind")
    return (kind is not None and kind.default == tag) or tag in model.model_fields


def _models_of(field: FieldInfo | None) -> list[type[BaseModel]]:
    return [each for each in _parts(field.annotation if field else None) if isinstance(each, type)]


def _parts(annotation: Any) -> Iterator[Any]:
    """The models in a type, and what examples stand beside it."""
    if isinstance(annotation, FieldInfo) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        yield annotation
    for part in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _parts(part)


def _near(wanted: object, known: list[str]) -> str:
    return " or ".join(f"`{each}`" for each in difflib.get_close_matches(str(wanted), known, n=1) or known)


def _input(problem: Mapping[str, Any], place: _Place) -> str:
    """The value that is wrong, unless it may be a secret that came to the wrong place."""
    return _shown(problem["input"]) if place.field is None or place.field.repr else "something else"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else f"{text[:_LONGEST_VALUE_SHOWN]}..."


def _example(place: _Place) -> Any:
    """A value that would do: the one declared, the default, or what a model cannot do without."""
    field = place.field
    if field is None:
        return {}
    for each in (field, *_parts(field.annotation)):
        if isinstance(each, FieldInfo) and each.examples:
            example = each.examples[0]
            return [example] if each is not field and not place.is_item else example
    models = _models_of(field)
    if not models:
        return None if field.default is PydanticUndefined else field.default
    required = {
        name: _example(_Place(name, inner, models[0], is_item=False))
        for name, inner in models[0].model_fields.items()
        if inner.is_required() or name == "kind"
    }
    return [required] if get_origin(field.annotation) is tuple and not place.is_item else required
