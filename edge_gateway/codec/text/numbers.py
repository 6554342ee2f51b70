"""Numbers that are written in digits.

A whole number means what a binary one means (`WholeNumber`), raw number and all. A decimal is exact: what is written is
the number, so 23.45 is the float nearest to 23.45, and with a scale it is the float nearest to the exact product.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_gateway.codec.fields.whole_numbers import Bound, Scale, Valid, WholeNumber, is_finite_number
from edge_gateway.codec.fields.wire import Misdeclared, Unit
from edge_gateway.codec.text.column import Column, Flaw, Style
from edge_gateway.config.settings import OneOrManySchema, one_or_many
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

MOST_DIGITS = {10: 15, 16: 12}
"""How many digits a whole number has at most, by base: any of them is exact as a float."""
MOST_DECIMAL_DIGITS = 15
"""How many digits a decimal has at most before its point, and how many behind it."""


class IntegerColumn(WholeNumber, Column):
    """A whole number in decimal or hexadecimal digits; all its keys mean what they mean in a binary frame."""

    type: Literal["integer"]
    base: Literal[10, 16] = 10
    """Which digits: 10, with a sign if there is one, or 16, in either case."""
    digits: int | None = Field(default=None, ge=1, le=15)
    """Exactly how many, zeros in front included; any number up to 15 (of base 16, 12) unless given."""

    @model_validator(mode="after")
    def _check_digits(self) -> IntegerColumn:
        if self.digits is not None and self.digits > MOST_DIGITS[self.base]:
            raise Misdeclared(
                f"{self.digits} digits of base {self.base} are too many",
                key="digits",
                remedy=f"At most {MOST_DIGITS[self.base]}; read longer ones as text",
            )
        return self

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest number these digits can say."""
        most = int(self.base ** (self.digits or MOST_DIGITS[self.base])) - 1
        return (-most if self.base == 10 else 0), most

    @property
    def blank(self) -> bytes:
        """The digits of the valid number nearest to 0."""
        return self._digits_of(self.blank_raw)

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- digits are digits in every frame
        """Digits, and in base 10 a sign."""
        count = self.digits or f"1,{MOST_DIGITS[self.base]}"
        pattern = "[0-9A-Fa-f]{%s}" if self.base == 16 else "[-+]?[0-9]{%s}"
        return (pattern % count).encode()

    def core_value(self, core: bytes) -> Value:
        """The value of digits."""
        raw = self._number_in(core)
        flaw = self.flaw_of(raw)
        if flaw:
            raise Flaw(flaw)
        return self.value_of(raw)

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:
        """The digits of a value."""
        return self._digits_of(self.raw_of(value, exact=exact))

    def _number_in(self, core: bytes) -> int:
        most = MOST_DIGITS[self.base]
        digits = core[1:] if self.base == 10 and core[:1] in (b"-", b"+") else core
        known = b"0123456789abcdefABCDEF" if self.base == 16 else b"0123456789"
        if digits.strip(known) or not 1 <= len(digits) <= most or (self.digits and len(digits) != self.digits):
            raise Flaw(f"{self.digits or f'1 to {most}'} digits of base {self.base} expected")
        return int(core, self.base)

    def _digits_of(self, raw: int) -> bytes:
        digits = f"{abs(raw):X}" if self.base == 16 else str(abs(raw))
        return f"{'-' if raw < 0 else ''}{digits.zfill(self.digits or 1)}".encode()


class DecimalColumn(Column):
    """A number with or without a point; the value is a float."""

    type: Literal["decimal"]
    unit: Unit | None = None
    scale: Scale = Decimal(1)
    """The value of 1 as it is written, as an exact decimal."""
    offset: Scale = Decimal(0)
    """Added after scaling, in the value's unit."""
    sentinel: Annotated[tuple[Bound, ...], BeforeValidator(one_or_many), OneOrManySchema()] = ()
    """Numbers, as they are written, that mean "no value"; they become null."""
    valid: Valid | None = None
    """Which values can be true, in the value's unit; `sentinel` comes first."""

    @model_validator(mode="after")
    def _check_scale(self) -> DecimalColumn:
        if self.scale == 0:
            raise Misdeclared("a scale of 0 makes every value the same", key="scale", remedy="For instance: 0.01")
        return self

    @property
    def is_scaled(self) -> bool:
        """Whether value and written number differ."""
        return self.scale != 1 or self.offset != 0

    @property
    def valid_range(self) -> tuple[float, float]:
        """The least and the greatest value that can be true; infinite where nothing is said."""
        least, most = (None, None) if self.valid is None else (self.valid.minimum, self.valid.maximum)
        return float("-inf") if least is None else float(least), float("inf") if most is None else float(most)

    @property
    def value_range(self) -> tuple[int | float, int | float]:
        """The same, for whoever asks any field that is a number."""
        return self.valid_range

    @property
    def sentinels(self) -> tuple[float, ...]:
        """The sentinels, as floats."""
        return tuple(map(float, self.sentinel))

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return self.valid is not None and self.valid.otherwise == "reject"

    @property
    def blank(self) -> bytes:
        """0, or where that is not valid, an end of what is."""
        least, most = self.valid_range
        return b"0" if least <= 0 <= most else self.core_text(least if least > 0 else most)

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- digits are digits in every frame
        """A sign, digits, and a point among, before or behind them."""
        most = MOST_DECIMAL_DIGITS
        return rb"[-+]?(?:[0-9]{1,%d}(?:\.[0-9]{0,%d})?|\.[0-9]{1,%d})" % (most, most, most)

    def core_value(self, core: bytes) -> Value:
        """The value of a written number."""
        whole, _, part = core.removeprefix(core[:1] if core[:1] in (b"-", b"+") else b"").partition(b".")
        known = b"0123456789"
        if (whole + part).strip(known) or not whole + part or max(len(whole), len(part)) > MOST_DECIMAL_DIGITS:
            raise Flaw("a decimal number expected")
        if float(core) in self.sentinels:
            return None
        value = self._scaled(core) if self.is_scaled else float(core)
        least, most = self.valid_range
        if least <= value <= most:
            return value
        if self.can_reject:
            raise Flaw(f"valid is {self.valid}")
        return None

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:
        """The shortest number that reads as a value.

        Args:
            value: a number, or None for the first sentinel.
            exact: as everywhere; a decimal is always exact where it has as few digits as it may.
        """
        if value is None and self.sentinel:
            return f"{self.sentinel[0]:f}".encode()
        if isinstance(value, bool) or not is_finite_number(value):
            raise CodecError(f"{value!r} is not a number", where=self.name, remedy="For instance: 1.5")
        # The shortest text of a float is the decimal its writer meant.
        written = (Fraction(str(value)) - Fraction(self.offset)) / Fraction(self.scale)
        texts = _decimals(written)
        text = next((text for text in texts if self._scaled(text) == value), texts[-1])
        if exact and self._scaled(text) != value:
            raise CodecError(f"{value!r} has too many digits", where=self.name, remedy=f"Nearest: {self._scaled(text)}")
        try:
            read = self.core_value(text)
        except Flaw as flaw:
            raise CodecError(f"{value!r} does not fit", where=self.name, remedy=f"It takes: {flaw.note}") from flaw
        if read is None:
            raise CodecError(f"{value!r} is not valid", where=self.name, remedy="Use null to say no value")
        return text

    def _scaled(self, core: bytes) -> float:
        return float(Fraction(core.decode()) * Fraction(self.scale) + Fraction(self.offset))


def _decimals(number: Fraction) -> list[bytes]:
    """A number to the nearest with 0, 1, 2 and so on digits behind the point."""
    texts = []
    for places in range(MOST_DECIMAL_DIGITS + 1):
        steps = round(abs(number) * 10**places)
        whole, part = divmod(steps, 10**places)
        sign = "-" if number < 0 and steps else ""
        texts.append(f"{sign}{whole}.{part:0{places}d}" if places else f"{sign}{whole}")
    return [text.encode() for text in texts]


def scaled_decimal(text: bytes, multiplier: int, addend: int, divisor: int) -> float:
    """The float nearest to `(number * multiplier + addend) / divisor`, for a number as it is written.

    Args:
        text: an optional sign, digits and at most one point; at least one digit.
        multiplier: and the others, as in `Ratio`.
        addend: added after the multiplication.
        divisor: positive.
    """
    whole, _, part = text.partition(b".")
    power = int(10 ** len(part))
    # Python divides whole numbers of any size to the nearest float.
    return (int(whole + part) * multiplier + addend * power) / (divisor * power)


def ratio_of(column: DecimalColumn) -> tuple[int, int, int]:
    """Scale and offset of a decimal column, for `scaled_decimal`."""
    scale, offset = Fraction(column.scale), Fraction(column.offset)
    divisor = math.lcm(scale.denominator, offset.denominator)
    return int(scale * divisor), int(offset * divisor), divisor
