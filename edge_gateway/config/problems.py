"""Turns what pydantic found wrong into sentences that name the key, the value and a value that would do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_LONGEST_VALUE_SHOWN = 60


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence for each thing wrong, most specific key first, in the order of the document."""
    return [_sentence(problem, model) for problem in error.errors(include_url=False)]


def _sentence(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    steps = list(problem["loc"])
    field, owner, path = _walk(model, steps)
    match problem["type"]:
        case "extra_forbidden":
            known = sorted(owner.model_fields) if owner else []
            close = difflib.get_close_matches(str(steps[-1]), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(known)}"
            return f"`{path}` is not a setting; {hint}"
        case "missing":
            return f"`{path}` is missing; {_would_do(field)}"
        case "value_error" | "port_kind":
            text = str(problem["msg"]).removeprefix("Value error, ")
            return f"`{path}`: {text}" if path else text
        case _:
            text = str(problem["msg"])
            text = text[0].lower() + text[1:]
            return f"`{path}` is {_shown(problem['input'])}: {text}; {_would_do(field)}"


def _walk(model: type[BaseModel], steps: list[Any]) -> tuple[FieldInfo | None, type[BaseModel] | None, str]:
    """Follow a location through the models; tags of unions are steps of pydantic's that stand in no document."""
    owner: type[BaseModel] | None = model
    field: FieldInfo | None = None
    path = ""
    candidates: list[type[BaseModel]] = [model]
    for position, step in enumerate(steps):
        if isinstance(step, int):
            path += f"[{step}]"
            continue
        holder = next((each for each in candidates if step in each.model_fields), None)
        if holder is not None:
            owner, field = holder, holder.model_fields[step]
            path += f".{step}" if path else str(step)
            candidates = list(_models_in(field.annotation))
            continue
        narrowed = [each for each in candidates if _has_tag(each, step)]
        if narrowed and position < len(steps) - 1:
            candidates = narrowed
            owner = narrowed[0]
            continue
        owner = candidates[0] if candidates else owner
        path += f".{step}" if path else str(step)
    return field, owner, path


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    kind = model.model_fields.get("kind")
    return (kind is not None and kind.default == tag) or tag in model.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE_SHOWN else f"{text[:_LONGEST_VALUE_SHOWN]}..."


def _would_do(field: FieldInfo | None) -> str:
    if field is None:
        return "see `edge-gateway schema`"
    if field.examples:
        return f"{_shown(field.examples[0])} would do"
    if not field.is_required() and field.default is not None and not isinstance(field.default, BaseModel):
        return f"{_shown(field.default)} would do"
    for part in get_args(field.annotation):
        if isinstance(part, FieldInfo) and part.examples:
            return f"{_shown(part.examples[0])} would do"
    for meta in field.metadata:
        if isinstance(meta, FieldInfo) and meta.examples:
            return f"{_shown(meta.examples[0])} would do"
    return field.description or "see `edge-gateway schema`"
