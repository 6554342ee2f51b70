"""The functions of the condition language (`expression`): of numbers, of texts, and to ask for a value's kind.

Names, arguments and results are those of edgeHub's built-in functions; lengths and positions in texts count code points
here and UTF-16 units there, which differ beyond U+FFFF.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from edge_gateway.testbench.cloud.conditions.values import (
    EVERY_KIND,
    UNDEFINED,
    Function,
    Kind,
    Outcome,
    kind_of,
    number,
)

_NUMBER, _STRING = frozenset([Kind.NUMBER]), frozenset([Kind.STRING])
_WRITTEN_NUMBER = re.compile(r"\s*[+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)


def _as_number(value: str | float) -> Outcome:
    if not isinstance(value, str):
        return value
    return float(value.replace(",", "")) if _WRITTEN_NUMBER.fullmatch(value) else UNDEFINED


def _power(base: float, exponent: float) -> Outcome:
    try:
        return number(math.pow(base, exponent))
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        return UNDEFINED if base else math.inf


def _exponential(value: float) -> Outcome:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _rounded(by: Callable[[float], int]) -> Callable[[float], Outcome]:
    return lambda value: float(by(value)) if math.isfinite(value) else value


def _substring(text: str, start: float, length: float | None = None) -> Outcome:
    if length is None:
        return text[int(start) :] if 0 <= start <= len(text) else UNDEFINED
    if 0 <= start < len(text) and 0 <= length <= len(text) - start:
        return text[int(start) : int(start) + int(length)]
    return UNDEFINED


def _is(*kinds: Kind) -> Function:
    wanted = frozenset(kinds)
    return Function((EVERY_KIND,), Kind.BOOL, lambda value: kind_of(value) in wanted)


def _of_number(apply: Callable[[float], Outcome]) -> Function:
    return Function((_NUMBER,), Kind.NUMBER, apply)


def _of_texts(apply: Callable[[str, str], Outcome], gives: Kind = Kind.BOOL) -> Function:
    return Function((_STRING, _STRING), gives, apply)


ROUTE_FUNCTIONS: Final[Mapping[str, Function]] = {
    "ABS": _of_number(abs),
    "EXP": _of_number(_exponential),
    "POWER": Function((_NUMBER, _NUMBER), Kind.NUMBER, _power),
    "SQUARE": _of_number(lambda value: float(value) * value),
    "CEILING": _of_number(_rounded(math.ceil)),
    "FLOOR": _of_number(_rounded(math.floor)),
    "SIGN": _of_number(lambda value: (value > 0) - (value < 0)),
    "SQRT": _of_number(lambda value: math.sqrt(value) if value >= 0 else UNDEFINED),
    "AS_NUMBER": Function((_NUMBER | _STRING,), Kind.NUMBER, _as_number),
    "IS_BOOL": _is(Kind.BOOL),
    "IS_DEFINED": _is(*(EVERY_KIND - {Kind.UNDEFINED})),
    "IS_NULL": _is(Kind.NULL),
    "IS_NUMBER": Function(
        (EVERY_KIND,), Kind.BOOL, lambda value: kind_of(value) is Kind.NUMBER and math.isfinite(value)
    ),
    "IS_STRING": _is(Kind.STRING),
    "CONCAT": Function((_STRING, _STRING), Kind.STRING, lambda *texts: "".join(texts), variadic=True),
    "LENGTH": Function((_STRING,), Kind.NUMBER, len),
    "LOWER": Function((_STRING,), Kind.STRING, str.lower),
    "UPPER": Function((_STRING,), Kind.STRING, str.upper),
    "SUBSTRING": Function((_STRING, _NUMBER, _NUMBER), Kind.STRING, _substring, optional=1),
    "INDEX_OF": _of_texts(str.find, Kind.NUMBER),
    "STARTS_WITH": _of_texts(str.startswith),
    "ENDS_WITH": _of_texts(str.endswith),
    "CONTAINS": _of_texts(str.__contains__),
}
"""All that edgeHub has: a route with any other is refused there."""

QUERY_FUNCTIONS: Final[Mapping[str, Function]] = {
    **ROUTE_FUNCTIONS,
    "STARTSWITH": ROUTE_FUNCTIONS["STARTS_WITH"],
    "ENDSWITH": ROUTE_FUNCTIONS["ENDS_WITH"],
    "IS_OBJECT": _is(Kind.OBJECT),
    "IS_ARRAY": _is(Kind.ARRAY),
    "IS_PRIMITIVE": _is(Kind.BOOL, Kind.NUMBER, Kind.STRING, Kind.NULL),
}
"""Of these, IoT Hub's documentation promises only IS_DEFINED for twins and jobs, and its samples use STARTSWITH.
Whether a real hub takes the others there is not verified."""
