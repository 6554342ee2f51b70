"""The standard definitions of the specification and its `math` extension, each a line with its signature.

Where Python has a function of the same meaning it is that; the others are above the table they stand in.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from edge_gateway.cel import times, values
from edge_gateway.cel.functions import Function, Functions
from edge_gateway.cel.pattern import compile_pattern
from edge_gateway.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    LIST,
    MAP,
    NUMBERS,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    A,
    B,
    Type,
    list_of,
)

_COUNT = INT.within(0, 2**32)
"""Of letters or elements: more do not fit in memory."""

# Arithmetic

BY_ZERO = {"_/_": "division by zero", "_%_": "modulus by zero"}


def quotient(dividend: int, divisor: int) -> int:
    """Rounded toward zero, where Python rounds down.

    Raises:
        ValueError: the divisor is 0.
    """
    if divisor == 0:
        raise ValueError(BY_ZERO["_/_"])
    return dividend // divisor if (dividend < 0) is (divisor < 0) else -(-dividend // divisor)


def remainder(dividend: int, divisor: int) -> int:
    """With the dividend's sign, where Python gives it the divisor's.

    Raises:
        ValueError: the divisor is 0.
    """
    if divisor == 0:
        raise ValueError(BY_ZERO["_%_"])
    rest = abs(dividend) % abs(divisor)
    return -rest if dividend < 0 else rest


def ieee_quotient(dividend: float, divisor: float) -> float:
    """With infinities and NaN, where Python raises."""
    if divisor:
        return dividend / divisor
    if math.isnan(dividend) or not dividend or math.isnan(divisor):
        return math.nan
    return math.copysign(math.inf, dividend) * math.copysign(1.0, divisor)


def _arithmetic() -> Iterable[Function]:
    def whole(name: str, call: Callable[..., int], *signature: Type, inline: str = "") -> Function:
        *parameters, result = signature
        return Function(name, tuple(parameters), result, call, fails=not inline, inline=inline, is_unlimited=True)

    for kind in (INT, UINT):
        yield whole("_+_", operator.add, kind, kind, kind, inline="{0} + {1}")
        yield whole("_-_", operator.sub, kind, kind, kind, inline="{0} - {1}")
        yield whole("_*_", operator.mul, kind, kind, kind, inline="{0} * {1}")
        yield whole("_/_", quotient, kind, kind, kind)
        yield whole("_%_", remainder, kind, kind, kind)
    yield whole("-_", operator.neg, INT, INT, inline="-{0}")
    for name, call, inline in (
        ("_+_", operator.add, "{0} + {1}"),
        ("_-_", operator.sub, "{0} - {1}"),
        ("_*_", operator.mul, "{0} * {1}"),
    ):
        yield Function(name, (DOUBLE, DOUBLE), DOUBLE, call, fails=False, inline=inline)
    yield Function("_/_", (DOUBLE, DOUBLE), DOUBLE, ieee_quotient, fails=False)
    yield Function("-_", (DOUBLE,), DOUBLE, operator.neg, fails=False, inline="-{0}")
    for left, right in ((TIMESTAMP, DURATION), (DURATION, TIMESTAMP), (DURATION, DURATION)):
        result = DURATION if left == right else TIMESTAMP
        yield whole("_+_", operator.add, left, right, result, inline="{0} + {1}")
    for left, right in ((TIMESTAMP, TIMESTAMP), (TIMESTAMP, DURATION), (DURATION, DURATION)):
        result = DURATION if left == right else TIMESTAMP
        yield whole("_-_", operator.sub, left, right, result, inline="{0} - {1}")
    for kind in (STRING, BYTES, LIST):
        yield Function("_+_", (kind, kind), kind, values.joined)


def _comparisons() -> Iterable[Function]:
    kinds = (*NUMBERS, STRING, BYTES, BOOL, TIMESTAMP, DURATION)
    for symbol, call in (("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge)):
        for pair in (*zip(kinds, kinds, strict=True), (INT, UINT), (UINT, INT)):
            yield Function(f"_{symbol}_", pair, BOOL, call, fails=False, inline=f"{{0}} {symbol} {{1}}")
        # A whole number is compared with a double as the nearest double, says the conformance suite.
        for whole in (INT, UINT):
            inline = f"{{0}} {symbol} {{1}} + 0.0"
            yield Function(f"_{symbol}_", (DOUBLE, whole), BOOL, values.as_doubles(call), fails=False, inline=inline)
            inline = f"{{0}} + 0.0 {symbol} {{1}}"
            yield Function(f"_{symbol}_", (whole, DOUBLE), BOOL, values.as_doubles(call), fails=False, inline=inline)


# Strings


def _contains(text: str, part: str) -> bool:
    return part in text


def _matches(text: str, pattern: str) -> bool:
    return compile_pattern(pattern)(text)


def _strings() -> Iterable[Function]:
    for kind in (STRING, BYTES, LIST, MAP):
        for is_method in (False, True):
            yield Function("size", (kind,), _COUNT, len, is_method, fails=False)
    for name, call, inline in (
        ("contains", _contains, "({1} in {0})"),
        ("startsWith", str.startswith, "{0}.startswith({1})"),
        ("endsWith", str.endswith, "{0}.endswith({1})"),
    ):
        yield Function(name, (STRING, STRING), BOOL, call, is_method=True, fails=False, inline=inline)
    for is_method in (False, True):
        yield Function("matches", (STRING, STRING), BOOL, _matches, is_method, prepare=compile_pattern)


# Conversions

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?(?:inf|infinity)|nan", re.IGNORECASE)
_TRUTHS = {
    **dict.fromkeys(["1", "t", "true", "TRUE", "True"], True),
    **dict.fromkeys(["0", "f", "false", "FALSE", "False"], False),
}


def _same(value: Any) -> Any:
    return value


def _whole_of_text(text: str) -> int:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r:.60} is no whole number")
    return int(text)


def _whole_of_double(number: float) -> int:
    # Neither end of the range is a double that is surely exact, so both are refused (langdef.md, "Overflow").
    if not -(2.0**63) < number < 2.0**63:
        raise ValueError(f"{number!r} does not fit in int")
    return int(number)


def _uint_of_double(number: float) -> int:
    if not 0.0 <= number < 2.0**64:
        raise ValueError(f"{number!r} does not fit in uint")
    return int(number)


def _double_of_text(text: str) -> float:
    if not _REAL.fullmatch(text):
        raise ValueError(f"{text!r:.60} is no number")
    return float(text)


def _bool_of_text(text: str) -> bool:
    if text not in _TRUTHS:
        raise ValueError(f"{text!r:.60} is neither 'true' nor 'false'")
    return _TRUTHS[text]


def _text_of_bytes(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"the bytes are not UTF-8: {error.reason} at {error.start}") from error


def _text_of_bool(value: bool) -> str:
    return "true" if value else "false"


def _whole_text(number: int) -> str:
    return f"{number:d}"


def _conversions() -> Iterable[Function]:
    for kind in (INT, UINT, DOUBLE, BOOL, STRING, BYTES, TIMESTAMP, DURATION):
        name = {TIMESTAMP: "timestamp", DURATION: "duration"}.get(kind, kind.name)
        yield Function(name, (kind,), kind, _same, fails=False, inline="{0}")
    yield Function("dyn", (A,), DYN, _same, fails=False, inline="{0}")
    yield Function("type", (A,), TYPE, values.type_of, fails=False)
    for kind, other, of_double in ((INT, UINT, _whole_of_double), (UINT, INT, _uint_of_double)):
        yield Function(kind.name, (other,), kind, _same, fails=False, inline="{0}", is_unlimited=True)
        yield Function(kind.name, (DOUBLE,), kind, of_double)
        yield Function(kind.name, (STRING,), kind, _whole_of_text, is_unlimited=True)
        # Adding 0.0 rounds as float() does, and is a third of its cost.
        yield Function("double", (kind,), DOUBLE, float, fails=False, inline="{0} + 0.0")
        yield Function("string", (kind,), STRING, _whole_text, fails=False)
    yield Function("int", (TIMESTAMP,), INT, times.seconds_of_timestamp, fails=False)
    yield Function("double", (STRING,), DOUBLE, _double_of_text)
    yield Function("bool", (STRING,), BOOL, _bool_of_text)
    yield Function("string", (BOOL,), STRING, _text_of_bool, fails=False)
    yield Function("string", (DOUBLE,), STRING, repr, fails=False)
    yield Function("string", (BYTES,), STRING, _text_of_bytes)
    yield Function("string", (TIMESTAMP,), STRING, times.text_of_timestamp)
    yield Function("string", (DURATION,), STRING, times.text_of_duration, fails=False)
    yield Function("bytes", (STRING,), BYTES, str.encode, fails=False)
    yield Function("timestamp", (STRING,), TIMESTAMP, times.timestamp_of_text)
    yield Function("timestamp", (INT,), TIMESTAMP, times.timestamp_of_seconds)
    yield Function("duration", (STRING,), DURATION, times.duration_of_text)


# Times


def _getters() -> Iterable[Function]:
    for name, call, high in (
        ("getFullYear", times.year, 9999),
        ("getMonth", times.month, 11),
        ("getDayOfYear", times.day_of_year, 365),
        ("getDate", times.date, 31),
        ("getDayOfMonth", times.day_of_month, 30),
        ("getDayOfWeek", times.day_of_week, 6),
        ("getHours", times.hours, 23),
        ("getMinutes", times.minutes, 59),
        ("getSeconds", times.seconds, 59),
        ("getMilliseconds", times.milliseconds, 999),
    ):
        yield Function(name, (TIMESTAMP,), INT.within(0, high), call, is_method=True, fails=False)
        yield Function(name, (TIMESTAMP, STRING), INT.within(0, high), call, is_method=True)
    for name, of_duration in (
        ("getHours", times.hours_of_duration),
        ("getMinutes", times.minutes_of_duration),
        ("getSeconds", times.seconds_of_duration),
        ("getMilliseconds", times.milliseconds_of_duration),
    ):
        yield Function(name, (DURATION,), INT, of_duration, is_method=True, fails=False)


# The math extension


def _greatest(*numbers: Any) -> Any:
    return max(_numbers(numbers))


def _least(*numbers: Any) -> Any:
    return min(_numbers(numbers))


def _numbers(given: Sequence[Any]) -> Sequence[Any]:
    """What is given as arguments, or in a list that is the only one."""
    numbers = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    for number in numbers:
        if values.type_of(number) not in NUMBERS:
            raise ValueError(f"{values.type_of(number)} among numbers")
    if not numbers:
        raise ValueError("an empty list has no least or greatest number")
    return numbers


def _trunc(number: float) -> float:
    return math.modf(number)[1]


def _floor(number: float) -> float:
    fraction, whole = math.modf(number)
    return whole - 1.0 if fraction < 0.0 else whole


def _ceil(number: float) -> float:
    fraction, whole = math.modf(number)
    return whole + 1.0 if fraction > 0.0 else whole


def _round(number: float) -> float:
    """To the nearest whole number, halves away from zero, where Python's round() takes the even one."""
    fraction, whole = math.modf(number)
    return whole + math.copysign(1.0, number) if abs(fraction) >= 0.5 else whole


def _sign(number: float) -> Any:
    return (number > 0) - (number < 0)


def _sign_of_double(number: float) -> float:
    return math.copysign(1.0, number) if number else number


def _root(number: float) -> float:
    return math.sqrt(number) if number >= 0 else math.nan


def _shifted_left(number: int, by: int) -> int:
    return number << _shift(by) & _MASK if by < 64 else 0


def _shifted_right(number: int, by: int) -> int:
    return (number & _MASK) >> _shift(by) if by < 64 else 0


def _signed(call: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def shifted(number: int, by: int) -> int:
        bits = call(number, by)
        return bits - 2**64 if bits >> 63 else bits

    return shifted


def _shift(by: int) -> int:
    if by < 0:
        raise ValueError(f"a shift by {by}")
    return by


def _not_of_uint(number: int) -> int:
    return ~number & _MASK


_MASK = 2**64 - 1


def _math() -> Iterable[Function]:
    for name, call, plain in (("greatest", _greatest, max), ("least", _least, min)):
        for kind in NUMBERS:
            yield Function(f"math.{name}", (kind,), kind, _same, fails=False, inline="{0}")
            yield Function(f"math.{name}", (kind, kind), kind, plain, is_variadic=True, fails=False)
            yield Function(f"math.{name}", (list_of(kind),), kind, call)
        yield Function(f"math.{name}", (list_of(DYN),), DYN, call)
        yield Function(f"math.{name}", (DYN, DYN), DYN, call, is_variadic=True)
    for name, rounded in (("ceil", _ceil), ("floor", _floor), ("trunc", _trunc), ("round", _round)):
        yield Function(f"math.{name}", (DOUBLE,), DOUBLE, rounded, fails=False)
    for name, test in (("isNaN", math.isnan), ("isInf", math.isinf), ("isFinite", math.isfinite)):
        yield Function(f"math.{name}", (DOUBLE,), BOOL, test, fails=False)
    yield Function("math.abs", (DOUBLE,), DOUBLE, abs, fails=False)
    yield Function("math.sign", (DOUBLE,), DOUBLE, _sign_of_double, fails=False)
    for kind in (INT, UINT):
        yield Function("math.abs", (kind,), kind, abs, fails=False, is_unlimited=True)
        yield Function("math.sign", (kind,), kind.within(-1, 1), _sign, fails=False)
        for name, bits in (("bitAnd", operator.and_), ("bitOr", operator.or_), ("bitXor", operator.xor)):
            symbol = {"bitAnd": "&", "bitOr": "|", "bitXor": "^"}[name]
            yield Function(f"math.{name}", (kind, kind), kind, bits, fails=False, inline=f"{{0}} {symbol} {{1}}")
    for kind in NUMBERS:
        yield Function("math.sqrt", (kind,), DOUBLE, _root, fails=False)
    yield Function("math.bitNot", (INT,), INT, operator.invert, fails=False, inline="~{0}")
    yield Function("math.bitNot", (UINT,), UINT, _not_of_uint, fails=False)
    for name, shift in (("bitShiftLeft", _shifted_left), ("bitShiftRight", _shifted_right)):
        yield Function(f"math.{name}", (INT, INT), INT, _signed(shift))
        yield Function(f"math.{name}", (UINT, INT), UINT, shift)


# Elements


def _elements() -> Iterable[Function]:
    yield Function("_[_]", (LIST, INT), A, values.item)
    yield Function("_[_]", (MAP, A), B, values.item)


STANDARD = Functions(
    itertools.chain(_arithmetic(), _comparisons(), _strings(), _conversions(), _getters(), _math(), _elements())
)
"""What the specification defines, and its `math` extension."""
