"""The values of the condition language (`expression`), and what operators make of them.

They are JSON's, and `UNDEFINED`: what is not there, and what has no result. Numbers are doubles.
"""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from edge_gateway.records import Value

Judged = TypeVar("Judged")
"""What a term is evaluated on: a message or a twin."""


class Nothing(enum.Enum):
    """Values that are none."""

    UNDEFINED = "undefined"
    MISSING = "missing"
    """A place in a message's body that is not there. edgeHub takes it for null, but for IS_NULL."""


UNDEFINED: Final = Nothing.UNDEFINED
MISSING: Final = Nothing.MISSING

Outcome: TypeAlias = Value | Nothing


class Kind(enum.Enum):
    """What a value is; of a term, what is known beforehand of the values it will have."""

    BOOL = "boolean"
    NUMBER = "number"
    STRING = "string"
    NULL = "null"
    OBJECT = "object"
    ARRAY = "array"
    UNDEFINED = "undefined"
    ANY = "any"
    """Of terms only: it shows when the term is evaluated."""


EVERY_KIND: Final = frozenset(Kind)


def kind_of(value: Outcome) -> Kind:
    """The kind of a value; never `Kind.ANY`."""
    match value:
        case Nothing.UNDEFINED:
            return Kind.UNDEFINED
        case None | Nothing.MISSING:
            return Kind.NULL
        case bool():
            return Kind.BOOL
        case int() | float():
            return Kind.NUMBER
        case str():
            return Kind.STRING
        case Mapping():
            return Kind.OBJECT
        case _:
            return Kind.ARRAY


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the language.

    `apply` is only called with values of the kinds in `takes`; with others the outcome is undefined.
    """

    takes: tuple[frozenset[Kind], ...]
    gives: Kind
    apply: Callable[..., Outcome]
    optional: int = 0
    """How many of the last arguments may be left out."""
    variadic: bool = False
    """The last argument may come any number of times."""

    def accepts(self, kinds: Sequence[Kind]) -> bool:
        """Whether arguments of these kinds, as known beforehand, will do."""
        if len(kinds) < len(self.takes) - self.optional or (len(kinds) > len(self.takes) and not self.variadic):
            return False
        return all(kind is Kind.ANY or kind in self._taken(index) for index, kind in enumerate(kinds))

    def call(self, arguments: Sequence[Outcome]) -> Outcome:
        """The function's value."""
        for index, argument in enumerate(arguments):
            if kind_of(argument) not in self._taken(index):
                return UNDEFINED
        return self.apply(*arguments)

    def _taken(self, index: int) -> frozenset[Kind]:
        return self.takes[min(index, len(self.takes) - 1)]


_TESTS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITIES: Final = frozenset(["=", "!=", "<>"])
ORDER_OF_KINDS: Final = {Kind.BOOL: 1, Kind.NUMBER: 2, Kind.STRING: 3, Kind.NULL: 4}
"""The kinds that can be compared, as edgeHub orders them."""


def number(value: float) -> Outcome:
    """A result of arithmetic: what is not a number is undefined."""
    return UNDEFINED if math.isnan(value) else value


def arithmetic(word: str, left: Outcome, right: Outcome) -> Outcome:
    """Of doubles, as IEEE 754 has it."""
    if isinstance(left, bool) or isinstance(right, bool):
        return UNDEFINED
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return UNDEFINED
    first, second = float(left), float(right)
    match word:
        case "+":
            return number(first + second)
        case "-":
            return number(first - second)
        case "*":
            return number(first * second)
        case "/" if second:
            return number(first / second)
        case "/":
            return number(math.copysign(math.inf, first) * math.copysign(1, second)) if first else UNDEFINED
        case _:
            return number(math.fmod(first, second)) if second and math.isfinite(first) else UNDEFINED


def joined(left: Outcome, right: Outcome) -> Outcome:
    """Two texts as one."""
    return left + right if isinstance(left, str) and isinstance(right, str) else UNDEFINED


def defined(outcome: Outcome, otherwise: Callable[[], Outcome]) -> Outcome:
    """A value, or the other one where it is undefined."""
    return otherwise() if outcome is UNDEFINED else outcome


def comparison(word: str, orders_kinds: bool) -> Callable[[Outcome, Outcome], Outcome]:
    """What `=`, `!=`, `<>`, `<`, `<=`, `>` or `>=` says of two values.

    Args:
        word: the operator.
        orders_kinds: whether values of two kinds are ordered by their kinds. If not, only `=` and `!=` say something.
    """
    test, is_equality = _TESTS[word], word in _EQUALITIES

    def compare(left: Outcome, right: Outcome) -> Outcome:
        first, second = ORDER_OF_KINDS.get(kind_of(left), 0), ORDER_OF_KINDS.get(kind_of(right), 0)
        if not first or not second:
            return UNDEFINED
        if first != second:
            return test(first, second) if is_equality or orders_kinds else UNDEFINED
        if first == ORDER_OF_KINDS[Kind.NULL]:
            return test(0, 0)
        return test(left, right)

    return compare


def decision(evaluations: Sequence[Callable[[Judged], Outcome]], decides: bool) -> Callable[[Judged], Outcome]:
    """OR, which one True decides, or AND, which one False decides; else what is not a boolean makes it undefined."""

    def decide(judged: Judged) -> Outcome:
        outcome: Outcome = not decides
        for evaluate in evaluations:
            operand = evaluate(judged)
            if operand is decides:
                return operand
            if not isinstance(operand, bool):
                outcome = UNDEFINED
        return outcome

    return decide
