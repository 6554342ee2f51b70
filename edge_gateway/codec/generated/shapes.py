"""What the value of a field can be, told apart as far as JSON can tell: the one place that looks at kinds of fields.

Every generator asks here, or `outline.py`, which puts the values of a frame together. A kind of field nobody taught
this module is an `AnyShape`: all that is generated from it is true, and says less.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from edge_gateway.codec.fields import (
    BytesField,
    FloatField,
    IntegerField,
    MacField,
    NamedField,
    TextField,
    UuidField,
    WholeNumber,
)
from edge_gateway.codec.text.columns import PlainColumn
from edge_gateway.codec.text.numbers import DecimalColumn, IntegerColumn
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import ClockColumn, DateColumn, TimestampColumn
from edge_gateway.codec.text.words import FlagColumn, TextColumn

OneValue: TypeAlias = NamedField | PlainColumn
"""Whatever has a name and gives one value, in bytes or in text."""


class NumberShape(NamedTuple):
    """A number, JSON's `number` or `integer`."""

    is_whole: bool
    least: int | float | None
    """None where nothing but the format of a floating point number bounds it."""
    most: int | float | None


class TruthShape(NamedTuple):
    """True or false."""


class LabelShape(NamedTuple):
    """One of the names of a code."""

    labels: tuple[str, ...]
    is_complete: bool
    """Whether every number of the wire has a name; otherwise the rest comes as their digits in text."""


class TextShape(NamedTuple):
    """Text that follows a pattern."""

    pattern: str
    """A regular expression for the whole text, in JSON Schema's dialect."""


class TimeShape(NamedTuple):
    """A time as RFC 3339 has it."""


class AnyShape(NamedTuple):
    """Anything JSON can say."""


class MappingShape(NamedTuple):
    """Values by name."""

    members: tuple[Member, ...]


class ListShape(NamedTuple):
    """Values one after the other."""

    element: Meaning
    least: int
    most: int | None
    """None where only the frame bounds it."""


Shape: TypeAlias = NumberShape | TruthShape | LabelShape | TextShape | TimeShape | MappingShape | ListShape | AnyShape


class Meaning(NamedTuple):
    """What is known of one value."""

    shape: Shape
    can_be_null: bool = False
    unit: str | None = None
    description: str = ""


class Member(NamedTuple):
    """A name in a mapping, and what can be under it."""

    name: str
    meanings: tuple[Meaning, ...]
    """One, or several for a name that means different things in different frames."""
    is_always_there: bool = True
    can_come_again: bool = False
    """Whether there can be `NAME_2`, `NAME_3` and so on as well."""
    is_numbered: bool = False
    """Whether there is no `NAME`, but only `NAME_0` and so on, by a number in the frame."""


ANY_TEXT = r"^[\s\S]*$"
"""A pattern for text of which nothing is known."""

UNNAMED_CODE_PATTERN = "^-?[0-9]{1,20}$"
"""How a number without a name comes as text."""


_MOST_COUNTED_CODES = 1 << 16
"""Of a wider field nobody names every number."""


def meaning_of(spec: OneValue) -> Meaning:
    """All that a field says about its value."""
    return Meaning(shape_of(spec), can_be_null(spec), unit_of(spec), spec.description)


def shape_of(spec: OneValue) -> Shape:
    """What a field's value is when it is not null."""
    match spec:
        case IntegerField(epoch=str()) | TimestampColumn() | ClockColumn(date=str()):
            return TimeShape()
        case ClockColumn():
            return TextShape(r"^[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$")
        case DateColumn():
            return TextShape("^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
        case FlagColumn():
            return TruthShape()
        case WholeNumber():
            if spec.is_bool:
                return TruthShape()
            if spec.enum:
                return LabelShape(tuple(spec.enum.values()), _names_all(spec))
            return NumberShape(spec.ratio.divisor == 1, *spec.value_range)
        case FloatField() | DecimalColumn() | PlaceColumn():
            least, most = (end if math.isfinite(end) else None for end in spec.value_range)
            return NumberShape(False, least, most)
        case BytesField():
            return TextShape(f"^[0-9a-f]{{{2 * spec.size_bytes}}}$" if spec.is_sized else "^([0-9a-f]{2})*$")
        case MacField():
            return TextShape("^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
        case UuidField():
            return TextShape("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        case TextField():
            # Short forms of words make the text longer than its bytes.
            is_bounded = spec.is_sized and not spec.expand
            return TextShape(f"^[\\s\\S]{{0,{spec.size_bytes}}}$" if is_bounded else ANY_TEXT)
        case TextColumn():
            return TextShape(ANY_TEXT)
        case _:
            return AnyShape()


def _names_all(spec: WholeNumber) -> bool:
    low, high = spec.raw_range
    return high - low < _MOST_COUNTED_CODES and all(
        raw in spec.enum or spec.is_sentinel(raw) for raw in range(low, high + 1)
    )


def can_be_null(spec: OneValue) -> bool:
    """Whether the device can say that it has no value."""
    match spec:
        case IntegerField(epoch=str()):
            return True  # a count beyond the year 9999 is no time
        case TextColumn() | FlagColumn():
            return not spec.is_required
        case WholeNumber():
            is_empty = isinstance(spec, IntegerColumn) and not spec.is_required
            return bool(spec.sentinel) or spec.nulls_invalid or is_empty
        case BytesField() | MacField() | UuidField() | TextField():
            return False
        case _:
            return True


def unit_of(spec: OneValue) -> str | None:
    """The field's SenML unit code, if it has one."""
    return getattr(spec, "unit", None)
