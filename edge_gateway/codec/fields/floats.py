"""Numbers with a fraction on the wire: the binary floats of IEEE 754 and the decimal ones of IEEE 11073."""

from __future__ import annotations

import math
import struct
from typing import Literal

from pydantic import model_validator

from edge_gateway.codec.fields.medical_float import medfloat16, medfloat32, to_medfloat
from edge_gateway.codec.fields.whole_numbers import Valid, is_finite_number
from edge_gateway.codec.fields.wire import (
    Endian,
    Unit,
    WireField,
    WordOrder,
    check_word_order,
    highest_first,
)
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

STRUCT_CODES = {"f16": "e", "f32": "f", "f64": "d"}
"""struct's code for each binary float; the decimal ones have none."""


class FloatField(WireField[float]):
    """A floating point number. NaN, the infinities and the codes of a decimal float for "no number" become null."""

    type: Literal["f16", "f32", "f64", "medfloat16", "medfloat32"]
    endian: Endian | None = None
    """Its byte order, where it differs from the frame's."""
    word_order: WordOrder = "normal"
    """`swapped` for a number in 16-bit registers of which the lower comes first."""
    unit: Unit | None = None
    valid: Valid | None = None
    """Which values can be true. What is no number is null and never rejected."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return int(self.type[-2:]) // 8

    @property
    def valid_range(self) -> tuple[float, float]:
        """The least and the greatest value that can be true; infinite where nothing is said."""
        least, most = (None, None) if self.valid is None else (self.valid.minimum, self.valid.maximum)
        return -math.inf if least is None else float(least), math.inf if most is None else float(most)

    @property
    def value_range(self) -> tuple[int | float, int | float]:
        """The same, for whoever asks any field that is a number."""
        return self.valid_range

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return self.valid is not None and self.valid.otherwise == "reject"

    @property
    def blank_raw(self) -> float:
        """What is sent where nobody gives a value: 0, or where that is not valid, no number."""
        return math.nan if self.flaw_of(0.0) else 0.0

    @property
    def text_form(self) -> str:
        """Empty: the values are no text."""
        return ""

    @model_validator(mode="after")
    def _check_words(self) -> FloatField:
        check_word_order(self.type, self.size_bytes, self.word_order)
        return self

    def pack(self, raw: float, endian: Endian) -> bytes:
        """The bytes of a raw number; raises OverflowError for one that is too large."""
        if self.type in STRUCT_CODES:
            number = struct.pack(">" + STRUCT_CODES[self.type], raw)
        else:
            number = to_medfloat(raw, self.size_bytes).to_bytes(self.size_bytes, "big")
        return highest_first(number, self.endian or endian, self.word_order)

    def unpack(self, data: bytes, endian: Endian) -> float:
        """The raw number in `size_bytes` bytes."""
        number = highest_first(data, self.endian or endian, self.word_order)
        if self.type in STRUCT_CODES:
            found: float = struct.unpack(">" + STRUCT_CODES[self.type], number)[0]
            return found
        word = int.from_bytes(number, "big")
        return medfloat16(word) if self.type == "medfloat16" else medfloat32(word)

    def flaw_of(self, raw: float) -> str:
        """Why a frame with this number is rejected; empty if it is not."""
        least, most = self.valid_range
        return f"valid is {self.valid}" if self.can_reject and math.isfinite(raw) and not least <= raw <= most else ""

    def value_of(self, raw: float) -> Value:
        """The number itself, or None where it is not finite, or not valid and `otherwise` says null."""
        if not math.isfinite(raw):
            return None
        least, most = self.valid_range
        nulls = self.valid is not None and self.valid.otherwise == "null"
        return None if nulls and not least <= raw <= most else raw

    def raw_of(self, value: Value, *, exact: bool = False) -> float:
        """The raw number for a value; None becomes NaN.

        Args:
            value: a number or None.
            exact: refuse a value that the field would round.

        Raises:
            CodecError: not a number, too large, or not valid.
        """
        if value is None:
            return math.nan
        if isinstance(value, bool) or not is_finite_number(value):
            raise CodecError(f"{value!r} is not a number", where=self.name, remedy="For instance: 1.5")
        try:
            nearest = self.unpack(self.pack(float(value), "big"), "big")
        except OverflowError as error:
            raise CodecError(f"{value!r} does not fit into {self.type}", where=self.name) from error
        if exact and nearest != value:
            raise CodecError(f"{value!r} is not exact in {self.type}", where=self.name, remedy=f"Nearest: {nearest!r}")
        least, most = self.valid_range
        if not least <= nearest <= most:
            raise CodecError(f"{value!r} is not valid", where=self.name, remedy=f"Possible: {least} to {most}")
        return float(value)
