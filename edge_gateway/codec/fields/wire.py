"""What all kinds of fields share: a name, a place on the wire, and the order of bytes there.

Sixteen-bit registers bring a second order. A device that keeps a 32-bit number in two registers may send the lower
register first, with the bytes of each register in the usual order: 0x01020304 as 03 04 01 02. That is `word_order:
swapped`.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from typing import Annotated, Generic, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from edge_gateway.codec.units import MISTAKEN_UNITS, SENML_UNITS
from edge_gateway.config.settings import Settings
from edge_gateway.records import Value

Endian: TypeAlias = Literal["little", "big"]
WordOrder: TypeAlias = Literal["normal", "swapped"]

FieldName = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"), Field(examples=["temperature", "pm2_5"])
]
"""The name of a value: lower case letters, digits and `_`; it becomes a key in JSON and a word in rules."""

Raw = TypeVar("Raw", int, float, bytes)


Length: TypeAlias = Annotated[int, Field(ge=1, le=65_536)] | FieldName
"""How many bytes: a number, the name of a field before it that says so, or `end` for all that are left."""


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


Unit = Annotated[str, AfterValidator(_senml_unit), Field(examples=["Cel", "%RH", "V", "ms"])]
"""A SenML unit code (RFC 8428, RFC 8798)."""


class Named(Settings):
    """Whatever in a frame has a name."""

    name: FieldName
    emit: bool = True
    """False for what is no value, like a reserved byte. It is checked all the same, where it has something to check."""
    description: str = ""

    @property
    def is_constant(self) -> bool:
        """Whether it holds the same in every frame of its kind."""
        return False

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return False


class Presence(Settings):
    """When an item of a frame is there at all."""

    model_config = ConfigDict(populate_by_name=True)

    condition: str | None = Field(default=None, alias="if", max_length=4096, examples=["has_pressure"])
    """A CEL expression over the values of fields before it: only if it is true, the item is there."""
    since: int | None = Field(default=None, ge=0)
    """The first version of the frame that has it."""
    until_version: int | None = Field(default=None, ge=0)
    """The last version of the frame that has it."""

    @property
    def is_conditional(self) -> bool:
        """Whether a frame can be without it."""
        return self.condition is not None or self.since is not None or self.until_version is not None


class WireField(Named, Presence, ABC, Generic[Raw]):
    """A field with bytes of its own. `endian` is always the frame's; a field that has its own order knows better."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes; 0 if only the frame says so."""

    @property
    def is_sized(self) -> bool:
        """Whether it always takes `size_bytes`."""
        return True

    @abstractmethod
    def pack(self, raw: Raw, endian: Endian) -> bytes:
        """The bytes of a raw value."""

    @abstractmethod
    def unpack(self, data: bytes, endian: Endian) -> Raw:
        """The raw value in `size_bytes` bytes, whatever they are."""

    @abstractmethod
    def value_of(self, raw: Raw) -> Value:
        """The value a raw value stands for."""

    @abstractmethod
    def raw_of(self, value: Value, *, exact: bool = False) -> Raw:
        """The raw value that stands for a value.

        Args:
            value: what a decoder would give.
            exact: refuse a value the wire would round.

        Raises:
            CodecError: no raw value stands for it; the remedy says what would do.
        """

    @property
    @abstractmethod
    def blank_raw(self) -> Raw:
        """What is sent where nobody gives a value: 0, or what comes near it and is not rejected."""

    def flaw_of(self, raw: Raw) -> str:  # noqa: ARG002 -- most kinds take whatever the wire says
        """Why a frame with this raw value is rejected; empty if it is not."""
        return ""

    def encode(self, value: Value, endian: Endian, *, exact: bool = False) -> bytes:
        """The bytes of a value; raises what `raw_of` raises."""
        return self.pack(self.raw_of(value, exact=exact), endian)

    def blank(self, endian: Endian) -> bytes:
        """The bytes of `blank_raw`."""
        return self.pack(self.blank_raw, endian)

    def value_in(self, data: bytes, endian: Endian) -> Value:
        """The value of `size_bytes` bytes."""
        return self.value_of(self.unpack(data, endian))

    def flaw_in(self, data: bytes, endian: Endian) -> str:
        """Why a frame with these bytes is rejected; empty if it is not."""
        return self.flaw_of(self.unpack(data, endian))


def highest_first(data: bytes, endian: Endian, word_order: WordOrder = "normal") -> bytes:
    """The bytes of a number from the most significant to the least; applied twice, the bytes themselves.

    Args:
        data: as they are on the wire.
        endian: the order of bytes on the wire; of those of a word, where words are swapped.
        word_order: `swapped` if words of two bytes stand in the other order than the bytes within them.
    """
    if word_order == "swapped":
        data = b"".join(data[start : start + 2] for start in reversed(range(0, len(data), 2)))
    return data if endian == "big" else data[::-1]


def significance(size_bytes: int, endian: Endian, word_order: WordOrder = "normal") -> list[int]:
    """For each byte of a number on the wire, the power of 256 it counts."""
    ranks = highest_first(bytes(range(size_bytes)), endian, word_order)
    return [size_bytes - 1 - ranks.index(place) for place in range(size_bytes)]


def check_word_order(type_name: str, size_bytes: int, word_order: WordOrder) -> None:
    """Raise `Misdeclared` where there are no words to swap."""
    if word_order == "swapped" and (size_bytes < 4 or size_bytes % 2):
        raise Misdeclared(
            f"{type_name} is not made of several 16-bit words",
            key="word_order",
            remedy="Leave it out; it is for numbers of 4, 6 and 8 bytes",
        )
