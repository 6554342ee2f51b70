"""Every setting with its type, default and meaning, as Markdown, from the model itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def explain_settings(model: type[BaseModel], *, title: str) -> str:
    """A reference of all settings of a model and of the models within it.

    Args:
        model: the outermost.
        title: the page's heading.

    Returns:
        Markdown: one section for each model in the order they are met, one table row for each key.
    """
    schema = model.model_json_schema(mode="validation")
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    sections = [f"# {title}", "", _first_paragraph(schema), ""]
    sections += _table(schema, definitions)
    met: list[str] = []
    _meet(schema, definitions, met)
    for name in met:
        if "properties" in definitions[name]:
            sections += [f"## {name}", "", _first_paragraph(definitions[name]), ""]
            sections += _table(definitions[name], definitions)
    return "\n".join(sections).rstrip() + "\n"


def _first_paragraph(schema: Mapping[str, Any]) -> str:
    return str(schema.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _table(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    rows = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |"]
    required = schema.get("required", [])
    for key, spec in schema.get("properties", {}).items():
        default = "required" if key in required else _default(spec)
        meaning = _meaning(key, spec, definitions)
        example = spec.get("examples", [None])[0]
        if example is not None:
            meaning = f"{meaning} For instance {_code(example)}.".strip()
        rows.append(f"| `{key}` | {_type(spec, definitions)} | {default} | {meaning.replace('|', chr(92) + '|')} |")
    return [*rows, ""]


def _type(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in spec:
        name = str(spec["$ref"]).rpartition("/")[2]
        if "properties" in definitions[name]:
            return f"[{name}](#{name.lower()})"
        return _type(definitions[name], definitions)
    for key in ("anyOf", "oneOf"):
        if key in spec:
            return " or ".join(dict.fromkeys(_type(each, definitions) for each in spec[key]))
    if "const" in spec:
        return _code(spec["const"])
    if "enum" in spec:
        return ", ".join(_code(each) for each in spec["enum"])
    kind = str(spec.get("type", "any"))
    if kind == "array":
        return f"list of {_type(spec.get('items', {}), definitions)}"
    if kind == "object":
        return "mapping"
    return kind + _bounds(spec)


def _bounds(spec: Mapping[str, Any]) -> str:
    low = spec.get("minimum", spec.get("exclusiveMinimum"))
    high = spec.get("maximum", spec.get("exclusiveMaximum"))
    above = "over" if "exclusiveMinimum" in spec else "from"
    match low, high:
        case None, None:
            return ""
        case _, None:
            return f" {above} {low}"
        case None, _:
            return f" to {high}"
        case _:
            return f" {above} {low} to {high}"


def _meaning(key: str, spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if key == "kind":
        return "Says which sort this is."
    if "$ref" in spec and "description" not in spec:
        return _first_paragraph(definitions[str(spec["$ref"]).rpartition("/")[2]])
    return _first_paragraph(spec)


def _default(spec: Mapping[str, Any]) -> str:
    value = spec.get("default")
    return "its own defaults" if isinstance(value, dict) and value else _code(value)


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _meet(spec: Any, definitions: Mapping[str, Any], met: list[str]) -> None:
    """Collect the names of models in the order a reader of the document meets them."""
    if isinstance(spec, Mapping):
        if "$ref" in spec:
            name = str(spec["$ref"]).rpartition("/")[2]
            if name not in met:
                met.append(name)
                _meet(definitions[name], definitions, met)
        for key, value in spec.items():
            if key != "$defs":
                _meet(value, definitions, met)
    elif isinstance(spec, list):
        for each in spec:
            _meet(each, definitions, met)
