"""What turns a whole number on the wire into a value; the same for integers, bit fields and BCD.

Scaling is exact. `value = raw * scale + offset` is kept as a fraction of whole numbers, and Python divides whole
numbers to the nearest float: raw 2345 with scale 0.01 is 2345/100 = 23.45, where 2345 * 0.01 is 23.450000000000003.

A raw number is looked at in this order: it means "no value" (`sentinel`), it is outside what can be true (`valid`), or
it is a value.
"""

from __future__ import annotations

import functools
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeGuard

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from edge_gateway.codec.fields.wire import Misdeclared, Named, Unit
from edge_gateway.config.settings import OneOrManySchema, Settings, one_or_many
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_DIGITS = re.compile(r"-?[0-9]{1,20}")
"""An unnamed code as text. No 64-bit number has more digits."""


def _label(label: str) -> str:
    if not label or not label.isprintable() or _DIGITS.fullmatch(label):
        raise Misdeclared(
            f"{label!r} cannot name a code: a name is printable and not a number", remedy="For instance: 'idle'"
        )
    return label


Label = Annotated[str, StringConstraints(max_length=64), AfterValidator(_label)]
Scale = Annotated[Decimal, Field(ge=Decimal("-1e12"), le=Decimal("1e12"), max_digits=24)]
Bound = Annotated[Decimal, Field(ge=Decimal("-1e21"), le=Decimal("1e21"), max_digits=24)]


def _word_for_null(value: Any) -> Any:
    """Let `otherwise: null` be what it looks like: YAML reads no text there."""
    return "null" if value is None else value


Otherwise: TypeAlias = Annotated[
    Literal["reject", "null"], BeforeValidator(_word_for_null), WithJsonSchema({"enum": ["reject", "null", None]})
]


class RawRange(Settings):
    """Neighbouring raw numbers, both ends included."""

    minimum: int
    maximum: int

    @model_validator(mode="after")
    def _check_order(self) -> RawRange:
        if self.minimum > self.maximum:
            raise Misdeclared(
                f"the minimum {self.minimum} is above the maximum {self.maximum}", key="minimum", remedy="Swap them"
            )
        return self


class Valid(Settings):
    """The values that can be true, both ends included, and what becomes of another."""

    minimum: Bound | None = None
    """The least; without it, whatever the field can carry."""
    maximum: Bound | None = None
    """The greatest; without it, whatever the field can carry."""
    otherwise: Otherwise = "reject"
    """`reject`: the whole frame is rejected, as one that was damaged. `null`: this one value is null."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Valid:
        if self.minimum is None and self.maximum is None:
            raise Misdeclared("nothing says what is valid", remedy="Give a `minimum`, a `maximum`, or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise Misdeclared(
                f"the minimum {self.minimum} is above the maximum {self.maximum}", key="minimum", remedy="Swap them"
            )
        return self

    def __str__(self) -> str:
        ends = (("from", self.minimum), ("to", self.maximum))
        return " ".join(f"{word} {end}" for word, end in ends if end is not None)


def _sentinel_kind(value: Any) -> str:
    return "RawRange" if isinstance(value, (dict, RawRange)) else "int"


Sentinel: TypeAlias = Annotated[
    Annotated[int, Tag("int")] | Annotated[RawRange, Tag("RawRange")], Discriminator(_sentinel_kind)
]


class Ratio(NamedTuple):
    """Scale and offset in whole numbers: `value = (raw * multiplier + addend) / divisor`."""

    multiplier: int
    addend: int
    divisor: int


@functools.lru_cache(maxsize=1024)
def _ratio(scale: Decimal, offset: Decimal) -> Ratio:
    by, plus = Fraction(scale), Fraction(offset)
    divisor = math.lcm(by.denominator, plus.denominator)
    return Ratio(int(by * divisor), int(plus * divisor), divisor)


def is_finite_number(value: Value) -> TypeGuard[int | float]:
    """Whether a value is a number that JSON can say; true and false count as 1 and 0."""
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


class WholeNumber(Named, ABC):
    """A value that is a whole number on the wire."""

    unit: Unit | None = None
    scale: Scale = Decimal(1)
    """The value of one raw step, as an exact decimal."""
    offset: Scale = Decimal(0)
    """Added after scaling, in the value's unit."""
    sentinel: Annotated[tuple[Sentinel, ...], BeforeValidator(one_or_many), OneOrManySchema()] = ()
    """Raw numbers, or ranges of them, that mean "no value"; they become null."""
    valid: Valid | None = None
    """Which values can be true, in the value's unit; `sentinel` comes first."""
    enum: dict[int, Label] = Field(default_factory=dict)
    """Names of raw numbers. A number without a name becomes its digits, as text."""

    @property
    @abstractmethod
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""

    @property
    def valid_raw(self) -> tuple[int, int]:
        """The least and the greatest raw number within `valid`; `raw_range` for a field without it."""
        low, high = self.raw_range
        if self.valid is None:
            return low, high
        multiplier, addend, divisor = self.ratio
        ends = [
            None if end is None else (Fraction(end) * divisor - addend) / multiplier
            for end in (self.valid.minimum, self.valid.maximum)
        ]
        least, most = ends if multiplier > 0 else reversed(ends)
        return (
            low if least is None else max(low, math.ceil(least)),
            high if most is None else min(high, math.floor(most)),
        )

    @property
    def value_range(self) -> tuple[int | float, int | float]:
        """The least and the greatest measured value, sentinels aside."""
        multiplier, addend, divisor = self.ratio
        ends = [raw * multiplier + addend for raw in self.valid_raw]
        least, most = (end if divisor == 1 else end / divisor for end in sorted(ends))
        return least, most

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false."""
        return False

    @property
    def is_scaled(self) -> bool:
        """Whether value and raw number differ by scale or offset."""
        return self.scale != 1 or self.offset != 0

    @property
    def is_plain(self) -> bool:
        """Whether the value is the raw number itself, always."""
        return not (self.is_bool or self.is_scaled or self.enum or self.sentinel or self.nulls_invalid)

    @property
    def has_meaning(self) -> bool:
        """Whether anything is declared about its values."""
        return bool(self.enum or self.sentinel or self.unit or self.is_scaled or self.valid)

    @property
    def nulls_invalid(self) -> bool:
        """Whether a number outside `valid` becomes null."""
        return self.valid is not None and self.valid.otherwise == "null"

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return self.valid is not None and self.valid.otherwise == "reject"

    @property
    def text_form(self) -> str:
        """What the values look like, where they are text; empty where they are not."""
        return ", ".join(self.enum.values())

    @property
    def blank_raw(self) -> int:
        """What is sent where nobody gives a value: 0, or the valid number next to it."""
        least, most = self.valid_raw
        return min(max(0, least), most) if self.flaw_of(0) else 0

    @property
    def ratio(self) -> Ratio:
        """Scale and offset as whole numbers."""
        return _ratio(self.scale, self.offset)

    @model_validator(mode="after")
    def _check_meaning(self) -> WholeNumber:
        if self.scale == 0:
            raise Misdeclared("a scale of 0 makes every value the same", key="scale", remedy="For instance: 0.01")
        if self.enum and (self.is_scaled or self.unit):
            raise Misdeclared("a name has no scale, offset or unit", key="enum", remedy="Keep `enum`, or the others")
        if len(set(self.enum.values())) != len(self.enum):
            raise Misdeclared("two numbers have the same name", key="enum", remedy="Give each number its own name")
        low, high = self.raw_range
        for key, codes in (("sentinel", _ends(self.sentinel)), ("enum", tuple(self.enum))):
            for code in codes:
                if not low <= code <= high:
                    raise Misdeclared(f"{code} does not fit", key=key, remedy=f"It holds {low} to {high}")
        self._check_valid()
        least, most = self.value_range
        if self.ratio.divisor == 1 and not (least >= -(1 << 63) and most < 1 << 64):
            raise Misdeclared(
                f"{least} to {most} takes more than 64 bits, which JSON readers do not",
                key="scale",
                remedy="Use a smaller scale, or say what is `valid`",
            )
        return self

    def _check_valid(self) -> None:
        if self.valid is None:
            return
        if self.enum or self.is_bool:
            raise Misdeclared(
                "`valid` is for numbers, and these values are none", key="valid", remedy="Leave `valid` out"
            )
        least, most = self.valid_raw
        if least > most:
            whole = self.model_copy(update={"valid": None}).value_range
            raise Misdeclared(
                f"no number on the wire is {self.valid}",
                key="valid",
                remedy=f"It carries {whole[0]} to {whole[1]}, in the value's unit",
            )

    def is_sentinel(self, raw: int) -> bool:
        """Whether a raw number is declared to mean "no value"."""
        return any(
            each.minimum <= raw <= each.maximum if isinstance(each, RawRange) else each == raw for each in self.sentinel
        )

    def is_valid(self, raw: int) -> bool:
        """Whether a raw number stands for a value that can be true."""
        least, most = self.valid_raw
        return least <= raw <= most

    def flaw_of(self, raw: int) -> str:
        """Why a frame with this raw number is rejected; empty if it is not."""
        rejects = self.valid is not None and self.valid.otherwise == "reject"
        if rejects and not self.is_sentinel(raw) and not self.is_valid(raw):
            return f"valid is {self.valid}"
        return ""

    def value_of(self, raw: int) -> Value:
        """The value a raw number stands for."""
        if self.is_sentinel(raw) or (self.nulls_invalid and not self.is_valid(raw)):
            return None
        if self.is_bool:
            return raw != 0
        if self.enum:
            return self.enum.get(raw, str(raw))
        multiplier, addend, divisor = self.ratio
        scaled = raw * multiplier + addend
        return scaled if divisor == 1 else scaled / divisor

    def raw_of(self, value: Value, *, exact: bool = False) -> int:
        """The raw number that stands for a value.

        Args:
            value: None becomes the first sentinel, or a number that is not valid; text is looked up in `enum`, or is
                the digits of an unnamed code.
            exact: refuse a value between two raw steps, where otherwise the nearest step is taken.

        Raises:
            CodecError: no raw number stands for it; the remedy says what would do.
        """
        low, high = self.raw_range
        if value is None:
            for raw in (*_ends(self.sentinel), high, low):
                if self.value_of(raw) is None:
                    return raw
            raise CodecError("null cannot be sent: the field has no sentinel", where=self.name)
        raw = self._code_of(value) if self.enum else self._steps_of(value, exact)
        if not low <= raw <= high:
            raise CodecError(f"{value!r} does not fit", where=self.name, remedy=self._possible())
        if self.is_sentinel(raw):
            raise CodecError(f"{value!r} is the code for no value", where=self.name, remedy="Use null to say no value")
        if not self.is_valid(raw):
            raise CodecError(f"{value!r} is not valid", where=self.name, remedy=self._possible())
        return raw

    def _possible(self) -> str:
        least, most = self.value_range
        return f"Possible: {least} to {most}"

    def _code_of(self, value: Value) -> int:
        for code, label in self.enum.items():
            if value == label or (value == code and type(value) is int):
                return code
        if type(value) is int:
            return value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            return int(value)
        raise CodecError(
            f"{value!r} is not one of the names", where=self.name, remedy=f"Possible: {', '.join(self.enum.values())}"
        )

    def _steps_of(self, value: Value, exact: bool) -> int:
        if not is_finite_number(value) or (isinstance(value, bool) and self.is_scaled):
            raise CodecError(f"{value!r} is not a number", where=self.name, remedy="For instance: 1")
        multiplier, addend, divisor = self.ratio
        # The shortest text of a float is the decimal its writer meant: 23.45 is 2345/100, not a binary fraction.
        decimal = Fraction(str(value)) if isinstance(value, float) else Fraction(int(value))
        steps = (decimal * divisor - addend) / multiplier
        raw = round(steps)
        if exact and raw != steps:
            raise CodecError(
                f"{value!r} is between two steps of the device",
                where=self.name,
                remedy=f"Nearest: {self.value_of(raw)}",
            )
        return raw


def _ends(sentinels: Iterable[int | RawRange]) -> tuple[int, ...]:
    """The numbers of sentinels, of a range its ends."""
    pairs = ((each.minimum, each.maximum) if isinstance(each, RawRange) else (each,) for each in sentinels)
    return tuple(end for pair in pairs for end in pair)
