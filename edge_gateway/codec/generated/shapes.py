"""What the value of a field can be, told apart as far as JSON can tell: the one place that looks at kinds of fields.

Every generator asks here. A kind of field nobody taught this module is an `AnyShape`: all that is generated from it is
true, and says less.
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
    WholeNumber,
)


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


Shape: TypeAlias = NumberShape | TruthShape | LabelShape | TextShape | TimeShape | AnyShape

UNNAMED_CODE_PATTERN = "^-?[0-9]{1,20}$"
"""How a number without a name comes as text."""


_MOST_COUNTED_CODES = 1 << 16
"""Of a wider field nobody names every number."""


def shape_of(spec: NamedField) -> Shape:
    """What a field's value is when it is not null."""
    match spec:
        case IntegerField(epoch=str()):
            return TimeShape()
        case WholeNumber():
            if spec.is_bool:
                return TruthShape()
            if spec.enum:
                return LabelShape(tuple(spec.enum.values()), _names_all(spec))
            return NumberShape(spec.ratio.divisor == 1, *spec.value_range)
        case FloatField():
            least, most = (end if math.isfinite(end) else None for end in spec.value_range)
            return NumberShape(False, least, most)
        case BytesField():
            return TextShape(f"^[0-9a-f]{{{2 * spec.length_bytes}}}$")
        case MacField():
            return TextShape("^([0-9a-f]{2}:){5}[0-9a-f]{2}$")
        case TextField():
            return TextShape(f"^[\\s\\S]{{0,{spec.length_bytes}}}$")
        case _:
            return AnyShape()


def _names_all(spec: WholeNumber) -> bool:
    low, high = spec.raw_range
    return high - low < _MOST_COUNTED_CODES and all(
        raw in spec.enum or spec.is_sentinel(raw) for raw in range(low, high + 1)
    )


def can_be_null(spec: NamedField) -> bool:
    """Whether the device can say that it has no value."""
    match spec:
        case IntegerField(epoch=str()):
            return True  # a count beyond the year 9999 is no time
        case WholeNumber():
            return bool(spec.sentinel) or spec.nulls_invalid
        case BytesField() | MacField() | TextField():
            return False
        case _:
            return True


def unit_of(spec: NamedField) -> str | None:
    """The field's SenML unit code, if it has one."""
    return getattr(spec, "unit", None)
