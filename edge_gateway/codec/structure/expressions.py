"""CEL in a profile: what the values of fields are to an expression, and which functions there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_gateway.cel import (
    BOOL,
    DOUBLE,
    DYN,
    INT,
    STANDARD,
    STRING,
    UINT,
    CelValue,
    Checked,
    ExpressionError,
    Function,
    Type,
    check,
    compile_expression,
    list_of,
    nullable,
    parse,
)
from edge_gateway.codec.fields import AnyField, FloatField, IntegerField, Misdeclared, NamedField, WholeNumber
from edge_gateway.codec.structure.items import Array, Computed, Group

_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 63) - 1


def _exp(power: float) -> float:
    try:
        return math.exp(power)
    except OverflowError:
        return math.inf


def _ln(number: float) -> float:
    if number > 0:
        return math.log(number)
    return -math.inf if number == 0 else math.nan


def _pow(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


FUNCTIONS = STANDARD.including(
    Function("exp", (DOUBLE,), DOUBLE, _exp, fails=False),
    Function("ln", (DOUBLE,), DOUBLE, _ln, fails=False),
    Function("pow", (DOUBLE, DOUBLE), DOUBLE, _pow, fails=False),
)
"""The standard's, and what sensors with logarithmic scales need; by IEEE 754, so with infinity or NaN for an error."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression."""

    text: str
    checked: Checked
    evaluate: Callable[[Mapping[str, CelValue]], CelValue]
    """From the values of names; raises EvaluationError if it has no value."""
    locals: Mapping[str, str]
    """What generated source calls the fields it uses."""

    @property
    def names(self) -> list[str]:
        """The fields it uses."""
        return list(self.checked.variables)


class Usable(Protocol):
    """A field that an expression may use."""

    @property
    def type(self) -> Type:
        """Of its value."""

    @property
    def local(self) -> str:
        """What generated source calls it."""


def read_expression(text: str, fields: Mapping[str, Usable], key: str) -> Expression:
    """Check an expression.

    Args:
        text: CEL.
        fields: those it may use, by name.
        key: of the profile, for errors.

    Raises:
        Misdeclared: it cannot be used; the text says where in it and what would do.
    """
    types = {name: each.type for name, each in fields.items()}
    try:
        checked = check(parse(text), types, FUNCTIONS)
        evaluate = compile_expression(text, types, FUNCTIONS)
    except ExpressionError as error:
        raise Misdeclared(f"{error.what} ({error.where})", key=key, remedy=error.remedy) from error
    return Expression(text, checked, evaluate, {name: fields[name].local for name in checked.variables})


def read_condition(text: str, fields: Mapping[str, Usable], key: str) -> Expression:
    """Check an expression that is true or false; raises Misdeclared like `read_expression`."""
    expression = read_expression(text, fields, key)
    if expression.checked.type.present not in (BOOL, DYN):
        raise Misdeclared(
            f"the condition gives {expression.checked.type}",
            key=key,
            remedy="Compare it with something, as in `x == 1`",
        )
    return expression


def read_value(text: str, fields: Mapping[str, Usable], key: str) -> Expression:
    """Check an expression whose value goes into a reading; raises Misdeclared like `read_expression`."""
    expression = read_expression(text, fields, key)
    given = expression.checked.type.present
    if given not in (BOOL, INT, UINT, DOUBLE, STRING):
        raise Misdeclared(f"the value would be {given}", key=key, remedy="Give a number, text, or true and false")
    return expression


def type_of(spec: NamedField | Group | Array) -> Type:
    """What the value of a field is to an expression."""
    match spec:
        case IntegerField(epoch=str()):
            return nullable(STRING)
        case WholeNumber():
            number = _number_type(spec)
            return nullable(number) if spec.sentinel or spec.nulls_invalid else number
        case FloatField():
            return nullable(DOUBLE)
        case Group():
            return DYN
        case Array():
            return list_of(type_of(spec.of)) if isinstance(spec.of, AnyField) else DYN
        case Computed():
            raise TypeError("the type of a computed value is its expression's")
        case _:
            return STRING


def _number_type(spec: WholeNumber) -> Type:
    if spec.is_bool:
        return BOOL
    if spec.enum:
        return STRING
    if spec.ratio.divisor != 1:
        return DOUBLE
    least, most = (int(end) for end in spec.value_range)
    if least < _LEAST_INT:
        return DOUBLE
    return INT.within(least, most) if most <= _MOST_INT else UINT.within(max(0, least), most)
