"""Whole numbers on the wire: binary integers, bits of them, and packed decimal digits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edge_gateway.codec.fields.timestamps import Epoch, rfc3339_ms, rfc3339_s, unix_of
from edge_gateway.codec.fields.whole_numbers import WholeNumber
from edge_gateway.codec.fields.wire import (
    Endian,
    Misdeclared,
    WireField,
    WordOrder,
    check_word_order,
    highest_first,
)
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

IntegerType = Literal[
    "u8", "u16", "u24", "u32", "u40", "u48", "u56", "u64", "i8", "i16", "i24", "i32", "i40", "i48", "i56", "i64", "bool"
]


class BitField(WholeNumber):
    """Some neighbouring bits of an integer. One bit without an enum is true or false."""

    bit: int = Field(ge=0, le=63)
    """The lowest of its bits; bit 0 is worth 1."""
    width: int = Field(default=1, ge=1, le=64)
    signed: bool = False
    """Whether its bits are two's complement."""

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""
        return _range(self.width, self.signed)

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false."""
        return self.width == 1 and not self.enum and not self.is_scaled

    @property
    def mask(self) -> int:
        """The bits it takes within its integer."""
        return ((1 << self.width) - 1) << self.bit

    @model_validator(mode="after")
    def _check_sign(self) -> BitField:
        if self.signed and self.width == 1:
            raise Misdeclared("a single bit has no sign", key="signed", remedy="Leave it out, or mend `width`")
        return self

    def taken_from(self, holder: int) -> int:
        """Its raw number in the integer that holds it."""
        raw = (holder & self.mask) >> self.bit
        return raw - (1 << self.width) if self.signed and raw >> self.width - 1 else raw

    def put_into_place(self, raw: int) -> int:
        """What it adds to the integer that holds it."""
        return raw << self.bit & self.mask


class IntegerField(WholeNumber, WireField[int]):
    """A whole number of 1 to 8 bytes, or several bit fields in one; as `bool`, one byte that is 0 or not."""

    type: IntegerType
    endian: Endian | None = None
    """Its byte order, where it differs from the frame's."""
    word_order: WordOrder = "normal"
    """`swapped` for a number in 16-bit registers of which the lower comes first."""
    const: int | None = None
    """The only number a frame of this kind has here; it tells frames apart and is no value."""
    bits: tuple[BitField, ...] = ()
    """If given, these are the values and the integer itself is none. Bits nobody names are ignored, and sent as 0."""
    epoch: Epoch | None = None
    """If given, it counts seconds or milliseconds since 1970, and the value is that time as RFC 3339 text."""

    @property
    def is_constant(self) -> bool:
        """Whether it holds the same in every frame of its kind."""
        return self.const is not None

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return 1 if self.is_bool else int(self.type[1:]) // 8

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false."""
        return self.type == "bool"

    @property
    def is_signed(self) -> bool:
        """Whether it is two's complement."""
        return self.type[0] == "i"

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""
        return _range(8 * self.size_bytes, self.is_signed)

    @property
    def is_plain(self) -> bool:
        """Whether the value is the raw number itself, always."""
        return super().is_plain and self.epoch is None

    @property
    def has_meaning(self) -> bool:
        """Whether anything is declared about its values."""
        return super().has_meaning or self.epoch is not None

    @property
    def text_form(self) -> str:
        """What the values look like, where they are text; empty where they are not."""
        return super().text_form if self.epoch is None else "a time like 2026-01-31T12:00:00Z"

    @model_validator(mode="after")
    def _check_integer(self) -> IntegerField:
        check_word_order(self.type, self.size_bytes, self.word_order)
        low, high = self.raw_range
        if self.const is not None and not low <= self.const <= high:
            raise Misdeclared(
                f"{self.const} does not fit into {self.type}", key="const", remedy=f"It holds {low} to {high}"
            )
        if self.const is not None and (self.has_meaning or self.bits):
            raise Misdeclared("a constant has no other meaning", key="const", remedy="Keep `const`, or the others")
        if self.epoch is not None and (self.enum or self.unit or self.is_scaled or self.valid):
            raise Misdeclared(
                "a time has no enum, unit, scale, offset or `valid`", key="epoch", remedy="Keep `epoch`, or the others"
            )
        if self.is_bool and (self.enum or self.unit or self.is_scaled or self.epoch or self.bits):
            raise Misdeclared(
                "true and false have no other meaning", key="type", remedy="Use u8, or keep the sentinel alone"
            )
        self._check_bits()
        return self

    def _check_bits(self) -> None:
        if self.bits and self.has_meaning:
            raise Misdeclared(
                "an integer made of bit fields has no value itself", key="bits", remedy="Give each bit field its own"
            )
        if self.bits and self.is_signed:
            raise Misdeclared(f"bit fields of the signed {self.type}", key="type", remedy=f"Use u{self.type[1:]}")
        taken = 0
        for index, part in enumerate(self.bits):
            if part.bit + part.width > 8 * self.size_bytes:
                raise Misdeclared(
                    f"{part.name!r} ends at bit {part.bit + part.width - 1}",
                    key=f"bits[{index}]",
                    remedy=f"{self.type} has bits 0 to {8 * self.size_bytes - 1}",
                )
            if taken & part.mask:
                free = next((bit for bit in range(8 * self.size_bytes) if not (taken >> bit) & 1), None)
                raise Misdeclared(
                    f"{part.name!r} overlaps another bit field",
                    key=f"bits[{index}]",
                    remedy="No bit is free" if free is None else f"The first free bit is {free}",
                )
            taken |= part.mask

    def pack(self, raw: int, endian: Endian) -> bytes:
        """The bytes of a raw number within `raw_range`."""
        number = raw.to_bytes(self.size_bytes, "big", signed=self.is_signed)
        return highest_first(number, self.endian or endian, self.word_order)

    def unpack(self, data: bytes, endian: Endian) -> int:
        """The raw number in `size_bytes` bytes."""
        number = highest_first(data, self.endian or endian, self.word_order)
        return int.from_bytes(number, "big", signed=self.is_signed)

    def value_of(self, raw: int) -> Value:
        """The value a raw number stands for."""
        if self.epoch is None or self.is_sentinel(raw):
            return super().value_of(raw)
        return rfc3339_s(raw) if self.epoch == "unix-s" else rfc3339_ms(raw)

    def _steps_of(self, value: Value, exact: bool) -> int:
        if self.is_bool and value not in (False, True):
            raise CodecError(f"{value!r} is neither true nor false", where=self.name, remedy="Possible: false, true")
        if self.epoch is None:
            return super()._steps_of(value, exact)
        try:
            count, is_exact = unix_of(value if isinstance(value, str) else "", self.epoch)
        except ValueError as error:
            remedy = f"Write it as {self.text_form}"
            raise CodecError(
                f"{value!r} is not a time with its offset from UTC", where=self.name, remedy=remedy
            ) from error
        if exact and not is_exact:
            unit = "seconds" if self.epoch == "unix-s" else "milliseconds"
            raise CodecError(f"{value!r} is not in whole {unit}", where=self.name, remedy="Leave the rest out")
        return count

    def _possible(self) -> str:
        if self.epoch is None:
            return super()._possible()
        least, most = (self.value_of(raw) for raw in self.raw_range)
        return f"Possible: {least or '0001-01-01T00:00:00Z'} to {most or '9999-12-31T23:59:59Z'}"


class BcdField(WholeNumber, WireField[int]):
    """Decimal digits, two in a byte, the higher in the upper half. A frame with another digit than 0 to 9 is rejected.

    The raw number of bytes that are no such digits is negative.
    """

    type: Literal["bcd"]
    digits: int = Field(ge=1, le=18)
    """How many. Of an odd number, the first half byte is 0."""
    endian: Endian | None = None
    """Its byte order, where it differs from the frame's."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return (self.digits + 1) // 2

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""
        return 0, 10**self.digits - 1

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return True

    def pack(self, raw: int, endian: Endian) -> bytes:
        """The bytes of a raw number within `raw_range`."""
        return highest_first(bytes.fromhex(f"{raw:0{2 * self.size_bytes}}"), self.endian or endian)

    def unpack(self, data: bytes, endian: Endian) -> int:
        """The raw number in `size_bytes` bytes; -1 where a half byte is no digit."""
        return decimal_of(highest_first(data, self.endian or endian))

    def flaw_of(self, raw: int) -> str:
        """Why a frame with this raw number is rejected; empty if it is not."""
        if raw < 0:
            return "not decimal digits"
        return f"more than {self.digits} digits" if raw > self.raw_range[1] else super().flaw_of(raw)

    def value_of(self, raw: int) -> Value:
        """The value a raw number stands for; None where there is no number."""
        return None if raw < 0 else super().value_of(raw)


def decimal_of(data: bytes) -> int:
    """The number that packed decimal digits spell, the highest first; -1 where a half byte is no digit."""
    digits = data.hex()
    return int(digits) if digits.isdecimal() else -1


def _range(bits: int, is_signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
