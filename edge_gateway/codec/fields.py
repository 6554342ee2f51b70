"""What a frame is made of: one small model for each kind of field, with its bytes and its meaning.

Every kind answers the same questions, and a new kind (an array, a TLV) joins by answering them too:

- `size_bytes`: how much of the frame it takes,
- `pack`, `unpack`: raw value <-> bytes. Raw is what the wire says: an int, a float or bytes,
- `raw_of`, `value_of`: raw value <-> value. A value is what the reading says: scaled, named, or None for "no value".

The compiled decoder does not call these; `compile.py` writes the same meaning as expressions, and the tests hold the
two against each other.

Scaling is exact. `value = raw * scale + offset` is kept as a fraction of whole numbers, and Python divides whole
numbers to the nearest float: raw 2345 with scale 0.01 is 2345/100 = 23.45, where 2345 * 0.01 is 23.450000000000003.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import struct
from abc import ABC, abstractmethod
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeGuard

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from edge_gateway.codec.units import MISTAKEN_UNITS, SENML_UNITS
from edge_gateway.config.link import HexBytes, Settings
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

Endian: TypeAlias = Literal["little", "big"]

FieldName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"), Field(examples=["temperature", "pm2_5"])
]
"""The name of a value: lower case letters, digits and `_`; it becomes a key in JSON and a word in rules."""


class Misdeclared(ValueError):
    """A declaration contradicts itself. Raised while a profile is checked; the loader turns it into a ProfileError.

    Args:
        what: what is wrong, naming the value.
        key: the key it is about, from where the check stands, e.g. `bits[1].width`.
        remedy: what would do instead.
    """

    def __init__(self, what: str, *, key: str = "", remedy: str = "") -> None:
        super().__init__(f"{what}. {remedy}" if remedy else what)
        self.what = what
        self.key = key
        self.remedy = remedy


def _senml_unit(unit: str) -> str:
    if unit not in SENML_UNITS:
        near = [MISTAKEN_UNITS[unit]] if unit in MISTAKEN_UNITS else []
        near = near or difflib.get_close_matches(unit, SENML_UNITS, n=3, cutoff=0.5) or ["Cel", "%RH", "V"]
        raise Misdeclared(f"{unit!r} is not a SenML unit code", remedy=f"Codes that would do: {', '.join(near)}")
    return unit


def _label(label: str) -> str:
    if not label or not label.isprintable() or _DIGITS.fullmatch(label):
        raise Misdeclared(
            f"{label!r} cannot name a code: a name is printable and not a number", remedy="For instance: 'idle'"
        )
    return label


def _one_or_many(value: Any) -> Any:
    """Let `sentinel: 65535` stand for a list of one."""
    return [value] if isinstance(value, int) else value


Unit = Annotated[str, AfterValidator(_senml_unit), Field(examples=["Cel", "%RH", "V", "ms"])]
"""A SenML unit code (RFC 8428, RFC 8798)."""

Label = Annotated[str, StringConstraints(max_length=64), AfterValidator(_label)]
Scale = Annotated[Decimal, Field(ge=Decimal("-1e12"), le=Decimal("1e12"), max_digits=24)]

_DIGITS = re.compile(r"-?[0-9]{1,20}")
"""An unnamed code as text. No 64-bit number has more digits."""

INTEGER_SIZES_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "64": 8}


def _is_finite_number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


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


class WholeNumber(Settings, ABC):
    """What turns a whole number on the wire into a value. Shared by integer fields and bit fields."""

    name: FieldName
    unit: Unit | None = None
    scale: Scale = Decimal(1)
    """The value of one raw step, as an exact decimal."""
    offset: Scale = Decimal(0)
    """Added after scaling, in the value's unit."""
    sentinel: Annotated[tuple[int, ...], BeforeValidator(_one_or_many)] = ()
    """Raw numbers that mean "no value"; they become null."""
    enum: dict[int, Label] = Field(default_factory=dict)
    """Names of raw numbers. A number without a name becomes its digits, as text."""
    emit: bool = True
    """False for what is no value, like a reserved byte."""
    description: str = ""

    @property
    @abstractmethod
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""

    @property
    def value_range(self) -> tuple[int | float, int | float]:
        """The least and the greatest measured value the wire can carry, sentinels aside."""
        multiplier, addend, divisor = self.ratio
        ends = [raw * multiplier + addend for raw in self.raw_range]
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
        for key, codes in (("sentinel", self.sentinel), ("enum", tuple(self.enum))):
            for code in codes:
                if not low <= code <= high:
                    raise Misdeclared(f"{code} does not fit", key=key, remedy=f"It holds {low} to {high}")
        return self

    def value_of(self, raw: int) -> Value:
        """The value a raw number stands for."""
        if raw in self.sentinel:
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
            value: None becomes the first sentinel; text is looked up in `enum`, or is the digits of an unnamed code.
            exact: refuse a value between two raw steps, where otherwise the nearest step is taken.

        Raises:
            CodecError: no raw number stands for it; the remedy says what would do.
        """
        if value is None:
            if not self.sentinel:
                raise CodecError("null cannot be sent: the field has no sentinel", where=self.name)
            return self.sentinel[0]
        raw = self._code_of(value) if self.enum else self._steps_of(value, exact)
        low, high = self.raw_range
        if not low <= raw <= high:
            least, most = self.value_range
            raise CodecError(f"{value!r} does not fit", where=self.name, remedy=f"Possible: {least} to {most}")
        if raw in self.sentinel:
            raise CodecError(f"{value!r} is the code for no value", where=self.name, remedy="Use null to say no value")
        return raw

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
        if not _is_finite_number(value) or (isinstance(value, bool) and self.is_scaled):
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


class BitField(WholeNumber):
    """Some neighbouring bits of an integer. One bit without an enum is true or false."""

    bit: int = Field(ge=0, le=63)
    """The lowest of its bits; bit 0 is worth 1."""
    width: int = Field(default=1, ge=1, le=64)

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""
        return 0, (1 << self.width) - 1

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false."""
        return self.width == 1 and not self.enum and not self.is_scaled

    @property
    def mask(self) -> int:
        """The bits it takes within its integer."""
        return ((1 << self.width) - 1) << self.bit


class IntegerField(WholeNumber):
    """A whole number, or several bit fields in one."""

    type: Literal["u8", "u16", "u24", "u32", "u64", "i8", "i16", "i24", "i32", "i64"]
    const: int | None = None
    """The only number a frame of this kind has here; it tells frames apart and is no value."""
    bits: tuple[BitField, ...] = ()
    """If given, these are the values and the integer itself is none. Bits nobody names are ignored, and sent as 0."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return INTEGER_SIZES_BYTES[self.type[1:]]

    @property
    def is_signed(self) -> bool:
        """Whether it is two's complement."""
        return self.type[0] == "i"

    @property
    def raw_range(self) -> tuple[int, int]:
        """The least and the greatest raw number the wire can carry."""
        bits = 8 * self.size_bytes
        return (-(1 << bits - 1), (1 << bits - 1) - 1) if self.is_signed else (0, (1 << bits) - 1)

    @model_validator(mode="after")
    def _check_integer(self) -> IntegerField:
        low, high = self.raw_range
        if self.const is not None and not low <= self.const <= high:
            raise Misdeclared(
                f"{self.const} does not fit into {self.type}", key="const", remedy=f"It holds {low} to {high}"
            )
        has_meaning = bool(self.enum or self.sentinel or self.unit or self.is_scaled)
        if self.const is not None and (has_meaning or self.bits):
            raise Misdeclared("a constant has no other meaning", key="const", remedy="Keep `const`, or the others")
        if self.bits and has_meaning:
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
        return self

    def pack(self, raw: int, endian: Endian) -> bytes:
        """The bytes of a raw number within `raw_range`."""
        return raw.to_bytes(self.size_bytes, endian, signed=self.is_signed)

    def encode(self, value: Value, endian: Endian, *, exact: bool = False) -> bytes:
        """The bytes of a value; raises what `raw_of` raises."""
        return self.pack(self.raw_of(value, exact=exact), endian)

    def unpack(self, data: bytes, endian: Endian) -> int:
        """The raw number in `size_bytes` bytes."""
        return int.from_bytes(data, endian, signed=self.is_signed)


class FloatField(Settings):
    """A floating point number (IEEE 754). NaN and the infinities become null: JSON cannot say them."""

    type: Literal["f32", "f64"]
    name: FieldName
    unit: Unit | None = None
    emit: bool = True
    """False for what is no value."""
    description: str = ""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return 4 if self.type == "f32" else 8

    def _struct_format(self, endian: Endian) -> str:
        return ("<" if endian == "little" else ">") + ("f" if self.type == "f32" else "d")

    def pack(self, raw: float, endian: Endian) -> bytes:
        """The bytes of a raw number."""
        return struct.pack(self._struct_format(endian), raw)

    def encode(self, value: Value, endian: Endian, *, exact: bool = False) -> bytes:
        """The bytes of a value; raises what `raw_of` raises."""
        return self.pack(self.raw_of(value, exact=exact), endian)

    def unpack(self, data: bytes, endian: Endian) -> float:
        """The raw number in `size_bytes` bytes."""
        number: float = struct.unpack(self._struct_format(endian), data)[0]
        return number

    def value_of(self, raw: float) -> Value:
        """The number itself, or None where it is not finite."""
        return raw if math.isfinite(raw) else None

    def raw_of(self, value: Value, *, exact: bool = False) -> float:
        """The raw number for a value; None becomes NaN.

        Args:
            value: a number or None.
            exact: refuse a value that `f32` would round.

        Raises:
            CodecError: not a number, or too large for `f32`.
        """
        if value is None:
            return math.nan
        if isinstance(value, bool) or not _is_finite_number(value):
            raise CodecError(f"{value!r} is not a number", where=self.name, remedy="For instance: 1.5")
        try:
            nearest = self.unpack(self.pack(float(value), "little"), "little")
        except OverflowError as error:
            raise CodecError(f"{value!r} does not fit into {self.type}", where=self.name) from error
        if exact and nearest != value:
            raise CodecError(f"{value!r} is not exact in {self.type}", where=self.name, remedy=f"Nearest: {nearest!r}")
        return float(value)


class BytesField(Settings):
    """Bytes that are no number, like a hardware address. The value is their hexadecimal digits, lower case."""

    type: Literal["bytes"]
    name: FieldName
    length_bytes: int = Field(ge=1, le=65_536)
    const: HexBytes | None = None
    """The only bytes a frame of this kind has here; they tell frames apart and are no value."""
    emit: bool = True
    """False for what is no value."""
    description: str = ""

    @model_validator(mode="after")
    def _check_length(self) -> BytesField:
        if self.const is not None and len(bytes.fromhex(self.const)) != self.length_bytes:
            count = len(bytes.fromhex(self.const))
            raise Misdeclared(
                f"{self.const!r} is {count} bytes", key="const", remedy=f"length_bytes says {self.length_bytes}"
            )
        return self

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return self.length_bytes

    def pack(self, raw: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- bytes have no order; every kind takes it
        """The bytes themselves."""
        return raw

    def encode(self, value: Value, endian: Endian, *, exact: bool = False) -> bytes:
        """The bytes of a value; raises what `raw_of` raises."""
        return self.pack(self.raw_of(value, exact=exact), endian)

    def unpack(self, data: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- bytes have no order; every kind takes it
        """The bytes themselves."""
        return data

    def value_of(self, raw: bytes) -> Value:
        """The bytes as hexadecimal digits."""
        return raw.hex()

    def raw_of(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- bytes are always exact
        """The bytes of hexadecimal digits.

        Raises:
            CodecError: not hexadecimal digits, or not `length_bytes` of them.
        """
        try:
            raw = bytes.fromhex(value) if isinstance(value, str) else b""
        except ValueError:
            raw = b""
        if len(raw) != self.length_bytes:
            raise CodecError(
                f"{value!r} is not {self.length_bytes} bytes in hexadecimal digits",
                where=self.name,
                remedy=f"For instance: {'00' * min(self.length_bytes, 8)!r}",
            )
        return raw


FieldSpec: TypeAlias = Annotated[IntegerField | FloatField | BytesField, Field(discriminator="type")]
