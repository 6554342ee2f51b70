"""Types of values, and how the type of a whole follows from its parts.

A `Type` is what the checker computes with, and also the value that `type(x)` gives, then without its parameters.

Two things are not in the specification. `nullable(T)`, a T or null, is its wrapper types under a shorter name. And a
type of whole numbers can carry `bounds`, which its values are known to lie within: they save the check for overflow and
change no result. Whoever declares bounds promises them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce


@dataclass(frozen=True, slots=True)
class Type:
    """A type, such as `double` or `list(string)`."""

    name: str
    parameters: tuple[Type, ...] = ()
    bounds: tuple[int, int] | None = field(default=None, compare=False, repr=False)
    """The least and the greatest number a value can be; None is all that the type can hold."""

    def within(self, low: int, high: int) -> Type:
        """This type of whole numbers, with values that are known to lie from `low` to `high`."""
        return replace(self, bounds=(low, high))

    @property
    def erased(self) -> Type:
        """What a value of it says of itself: `list`, whatever is in it."""
        return Type(self.name)

    @property
    def is_nullable(self) -> bool:
        """Whether a value can be null as well as something else."""
        return self.name == _NULLABLE

    @property
    def present(self) -> Type:
        """What a value is if it is not null."""
        return self.parameters[0] if self.is_nullable else self

    @property
    def is_variable(self) -> bool:
        """Whether it stands for any type in a function's signature."""
        return self.name.isupper()

    def __str__(self) -> str:
        if self.is_nullable:
            return f"{self.present} or null"
        if self == NOTHING:
            return "dyn"
        return f"{self.name}({', '.join(map(str, self.parameters))})" if self.parameters else self.name


_NULLABLE = "nullable"

BOOL = Type("bool")
INT = Type("int")
UINT = Type("uint")
DOUBLE = Type("double")
STRING = Type("string")
BYTES = Type("bytes")
NULL = Type("null_type")
TIMESTAMP = Type("google.protobuf.Timestamp")
DURATION = Type("google.protobuf.Duration")
TYPE = Type("type")
DYN = Type("dyn")
"""Any value; what it is, is seen when it is there."""
NOTHING = Type("nothing")
"""The elements of `[]`: there are none, so they fit anywhere."""
A = Type("A")
B = Type("B")
"""Stand for any type in a function's signature, for the same one wherever they stand."""

NUMBERS = (INT, UINT, DOUBLE)
KEYS = (INT, UINT, BOOL, STRING)
"""What can be a key of a map."""
LIMITS = {
    INT: (-(2**63), 2**63 - 1),
    UINT: (0, 2**64 - 1),
    TIMESTAMP: (-62_135_596_800_000_000_000, 253_402_300_799_999_999_999),
    DURATION: (-(2**63), 2**63 - 1),
}
"""Types that are whole numbers in Python. Timestamps are nanoseconds since 1970, of the years 1 to 9999."""


def list_of(element: Type) -> Type:
    """`list(element)`."""
    return Type("list", (element,))


def map_of(key: Type, value: Type) -> Type:
    """`map(key, value)`."""
    return Type("map", (key, value))


def nullable(present: Type) -> Type:
    """A value of this type, or null; what it is of a type that includes null already stays as it is."""
    return present if present.is_nullable or present in (DYN, NULL) else Type(_NULLABLE, (present,))


LIST = list_of(A)
MAP = map_of(A, B)


def join(types: Iterable[Type]) -> Type:
    """The narrowest type that values of all these types have; `dyn` if they have nothing in common."""
    return reduce(_joined, types, NOTHING)


def _joined(one: Type, other: Type) -> Type:
    if one == other:
        if one.bounds is None or other.bounds is None:
            return replace(one, bounds=None)
        return one.within(min(one.bounds[0], other.bounds[0]), max(one.bounds[1], other.bounds[1]))
    if NOTHING in (one, other):
        return other if one == NOTHING else one
    if NULL in (one, other):
        return nullable(other if one == NULL else one)
    if one.is_nullable or other.is_nullable:
        return nullable(_joined(one.present, other.present))
    if one.name == other.name and one.parameters:
        return Type(one.name, tuple(map(_joined, one.parameters, other.parameters)))
    return DYN


class Fit(enum.IntEnum):
    """Whether a value can be an argument."""

    NO = 0
    MAYBE = 1
    """It is dynamic: only the value itself can tell."""
    YES = 2


def fit(actual: Type, wanted: Type, bound: dict[str, Type]) -> Fit:
    """Whether a value of one type can stand where a function wants another.

    A nullable value fits, as in the specification: if it is null, the call fails. One inside a list or map does not.

    Args:
        actual: the value's type.
        wanted: the function's; with variables.
        bound: what variables stand for so far. Changed.
    """
    if wanted.is_nullable:
        return Fit.YES if actual == NULL else fit(actual, wanted.present, bound)
    present = actual if wanted.is_variable else actual.present
    if present == DYN and not wanted.is_variable:
        return Fit.YES if wanted == DYN else Fit.MAYBE
    return Fit.YES if _is_same(present, wanted, bound) else Fit.NO


def _is_same(actual: Type, wanted: Type, bound: dict[str, Type]) -> bool:
    if wanted.is_variable:
        before = bound.get(wanted.name, NOTHING)
        bound[wanted.name] = join((before, actual))
        return bound[wanted.name] != DYN or DYN in (actual, before)
    if wanted == DYN or actual == NOTHING:
        return True
    return actual.name == wanted.name and all(
        _is_same(*each, bound) for each in zip(actual.parameters, wanted.parameters, strict=True)
    )


def substituted(result: Type, bound: dict[str, Type]) -> Type:
    """A result with what its variables stand for put in."""
    if result.is_variable:
        return bound.get(result.name, NOTHING)
    return replace(result, parameters=tuple(substituted(each, bound) for each in result.parameters))
