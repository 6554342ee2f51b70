"""The conformance vectors of the CEL specification, read from a checkout of it.

A vector is an expression with the variables it may use and what it has to give: a value of a type, or an error. Vectors
about what we do not have, foremost protocol buffer messages, are told apart here by what they use, not by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_gateway.cel import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    Duration,
    Type,
    Uint,
    list_of,
    map_of,
    nullable,
)
from edge_gateway.cel.types import TYPE
from tests.cel.textproto import Message, parse_textproto

FILES = (
    "basic",
    "comparisons",
    "conversions",
    "fields",
    "fp_math",
    "integer_math",
    "lists",
    "logic",
    "macros",
    "math_ext",
    "namespace",
    "parse",
    "plumbing",
    "string",
    "timestamps",
    "type_deduction",
)
"""The others are about protocol buffers (dynamic, enums, proto2, proto2_ext, proto3, wrappers) or extensions we do not
have (bindings_ext, block_ext, encoders_ext, macros2, network_ext, optionals, string_ext)."""


class Unsupported(Exception):
    """A vector uses what we do not have; the text says what."""


@dataclass(frozen=True)
class Vector:
    """One conformance test."""

    id: str
    message: Message

    @property
    def text(self) -> str:
        return _text(self.message["expr"][0])

    @property
    def is_unchecked(self) -> bool:
        """Whether it is to be evaluated without a type check, which we never do."""
        return "disable_check" in self.message

    @property
    def is_only_checked(self) -> bool:
        return "check_only" in self.message

    @property
    def wants_error(self) -> bool:
        return "eval_error" in self.message or "any_eval_errors" in self.message

    def variables(self) -> dict[str, Type]:
        """The declared variables."""
        if "container" in self.message and self.id.startswith("namespace"):
            raise Unsupported("names in a container")
        declared = {}
        for each in self.message.get("type_env", []):
            assert isinstance(each, dict)
            if "function" in each:
                raise Unsupported("functions without an implementation")
            (ident,) = each["ident"]
            assert isinstance(ident, dict)
            declared[_text(each["name"][0])] = _type(ident["type"][0])
        return declared

    def bindings(self) -> dict[str, Any]:
        """The variables' values."""
        bound = {}
        for each in self.message.get("bindings", []):
            assert isinstance(each, dict)
            (value,) = each["value"]
            assert isinstance(value, dict)
            bound[_text(each["key"][0])] = _value(value["value"][0])
        return bound

    def value(self) -> Any:
        """What it has to give; true unless it says otherwise."""
        if "typed_result" in self.message:
            (typed,) = self.message["typed_result"]
            assert isinstance(typed, dict)
            return _value(typed["result"][0])
        return _value(self.message["value"][0]) if "value" in self.message else True

    def type(self) -> Type | None:
        """The type the checker has to find, if it says."""
        if "typed_result" not in self.message:
            return None
        (typed,) = self.message["typed_result"]
        assert isinstance(typed, dict)
        return _type(typed["deduced_type"][0])


def vectors(checkout: Path) -> Iterator[Vector]:
    """All vectors of `FILES`."""
    for name in FILES:
        file = parse_textproto((checkout / "tests/simple/testdata" / f"{name}.textproto").read_text())
        for section in file["section"]:
            assert isinstance(section, dict)
            for test in section["test"]:
                assert isinstance(test, dict)
                yield Vector(f"{name}/{_text(section['name'][0])}/{_text(test['name'][0])}", test)


def is_same(one: Any, other: Any) -> bool:
    """Equal, of the same types all through; NaN is NaN."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            any(is_same(key, each) and is_same(value, other[each]) for each in other) for key, value in one.items()
        )
    return type(one) is type(other) and bool(one == other)


def _text(value: Any) -> str:
    assert isinstance(value, bytes)
    return value.decode()


_PRIMITIVES = {"BOOL": BOOL, "INT64": INT, "UINT64": UINT, "DOUBLE": DOUBLE, "STRING": STRING, "BYTES": BYTES}


def _type(message: Any) -> Type:
    (kind, (value,)), *_ = message.items()
    match kind:
        case "primitive":
            return _PRIMITIVES[value]
        case "wrapper":
            return nullable(_PRIMITIVES[value])
        case "dyn":
            return DYN
        case "null":
            return NULL
        case "type":
            return TYPE
        case "list_type":
            return list_of(_type(value["elem_type"][0]))
        case "map_type":
            return map_of(_type(value["key_type"][0]), _type(value["value_type"][0]))
        case "well_known":
            return {"TIMESTAMP": TIMESTAMP, "DURATION": DURATION, "ANY": DYN}[value]
        case "message_type":
            known = {TIMESTAMP.name: TIMESTAMP, DURATION.name: DURATION}
            if (found := known.get(_text(value))) is not None:
                return found
    raise Unsupported("protocol buffer messages" if kind == "message_type" else f"{kind} types")


def _value(message: Any) -> Any:
    if not message:
        return None
    (kind, (value,)), *_ = message.items()
    match kind:
        case "int64_value":
            return value
        case "bytes_value":
            return value
        case "uint64_value":
            return Uint(value)
        case "double_value":
            return float({"nan": "nan", "inf": "inf", "-inf": "-inf"}.get(value, value))
        case "bool_value":
            return value == "true"
        case "null_value":
            return None
        case "string_value":
            return _text(value)
        case "list_value":
            return [_value(each) for each in value.get("values", [])]
        case "map_value":
            return {_value(each["key"][0]): _value(each["value"][0]) for each in value.get("entries", [])}
        case "type_value":
            return Type(_text(value))
        case "object_value" if "type.googleapis.com/google.protobuf.Duration" in value:
            (duration,) = value["type.googleapis.com/google.protobuf.Duration"]
            return Duration(duration.get("seconds", [0])[0] * 10**9 + duration.get("nanos", [0])[0])
    raise Unsupported("protocol buffer messages" if kind == "object_value" else f"{kind}")
