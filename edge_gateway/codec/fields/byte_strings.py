"""What stays a row of bytes on the way to its value: text, hardware addresses, and bytes nobody takes apart."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from edge_gateway.codec.fields.wire import Endian, Length, Misdeclared, WireField, highest_first
from edge_gateway.config.link import HexBytes
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Expansion: TypeAlias = Annotated[str, StringConstraints(min_length=2, max_length=64)]
"""A word that has a short form."""


class BytesField(WireField[bytes]):
    """Bytes that are no number. The value is their hexadecimal digits, lower case."""

    type: Literal["bytes"]
    length_bytes: Length
    const: HexBytes | None = None
    """The only bytes a frame of this kind has here; they tell frames apart and are no value."""

    @model_validator(mode="after")
    def _check_length(self) -> BytesField:
        if self.const is not None and not self.is_sized:
            raise Misdeclared("a constant has one length", key="length_bytes", remedy="Give it as a number")
        if self.const is not None and len(bytes.fromhex(self.const)) != self.length_bytes:
            count = len(bytes.fromhex(self.const))
            raise Misdeclared(
                f"{self.const!r} is {count} bytes", key="const", remedy=f"length_bytes says {self.length_bytes}"
            )
        return self

    @property
    def is_constant(self) -> bool:
        """Whether it holds the same in every frame of its kind."""
        return self.const is not None

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return self.length_bytes if isinstance(self.length_bytes, int) else 0

    @property
    def is_sized(self) -> bool:
        """Whether it always takes `size_bytes`."""
        return isinstance(self.length_bytes, int)

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: zeros."""
        return bytes(self.size_bytes)

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "text in hexadecimal digits"

    def pack(self, raw: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- bytes have no order; every kind takes it
        """The bytes themselves."""
        return raw

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
        if not isinstance(value, str) or (self.is_sized and len(raw) != self.size_bytes) or (value and not raw):
            size = f"{self.size_bytes} bytes" if self.is_sized else "bytes"
            raise CodecError(
                f"{value!r} is not {size} in hexadecimal digits",
                where=self.name,
                remedy=f"For instance: {'00' * min(self.size_bytes or 2, 8)!r}",
            )
        return raw


class MacField(WireField[bytes]):
    """A hardware address of 6 bytes. The value is `aa:bb:cc:dd:ee:ff`, as it is printed on the device."""

    type: Literal["mac"]
    endian: Endian | None = None
    """`big` if its first byte comes first, `little` if its last does; the frame's unless given."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return 6

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: zeros."""
        return bytes(6)

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "text like a1:b2:c3:d4:e5:f6"

    def pack(self, raw: bytes, endian: Endian) -> bytes:
        """The bytes in the order of the wire."""
        return highest_first(raw, self.endian or endian)

    def unpack(self, data: bytes, endian: Endian) -> bytes:
        """The bytes in the order they are read out."""
        return highest_first(data, self.endian or endian)

    def value_of(self, raw: bytes) -> Value:
        """The address as text."""
        return raw.hex(":")

    def raw_of(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- an address is always exact
        """The bytes of an address.

        Raises:
            CodecError: not six pairs of hexadecimal digits with colons between them.
        """
        if not isinstance(value, str) or not _MAC.fullmatch(value):
            raise CodecError(
                f"{value!r} is not a hardware address", where=self.name, remedy="For instance: a1:b2:c3:d4:e5:f6"
            )
        return bytes.fromhex(value.replace(":", ""))


class UuidField(WireField[bytes]):
    """A UUID of 16 bytes (RFC 9562). The value is `00112233-4455-6677-8899-aabbccddeeff`, as it is printed."""

    type: Literal["uuid"]
    endian: Endian | None = None
    """`big` if its first byte comes first, `little` if its last does, as in Bluetooth; the frame's unless given."""

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return 16

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: zeros."""
        return bytes(16)

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "text like 00112233-4455-6677-8899-aabbccddeeff"

    def pack(self, raw: bytes, endian: Endian) -> bytes:
        """The bytes in the order of the wire."""
        return highest_first(raw, self.endian or endian)

    def unpack(self, data: bytes, endian: Endian) -> bytes:
        """The bytes in the order they are read out."""
        return highest_first(data, self.endian or endian)

    def value_of(self, raw: bytes) -> Value:
        """The UUID as text."""
        return uuid_text(raw)

    def raw_of(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- a UUID is always exact
        """The bytes of a UUID.

        Raises:
            CodecError: not 32 hexadecimal digits in five groups.
        """
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise CodecError(f"{value!r} is not a UUID", where=self.name, remedy=f"Write it as {self.text_form}")
        return bytes.fromhex(value.replace("-", ""))


def uuid_text(raw: bytes) -> str:
    """How 16 bytes are printed as a UUID."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class TextField(WireField[bytes]):
    """Text, filled up at its end if it has a fixed length. A frame whose bytes are no such text is rejected."""

    type: Literal["text"]
    length_bytes: Length
    encoding: Literal["ascii", "utf-8"] = "ascii"
    padding: Annotated[int, Field(ge=0, le=255)] | None = 0
    """What fills the rest, and is taken off the end: 0, 0x20 for spaces, or 0xff; null for text that fills it all."""
    expand: dict[Annotated[int, Field(ge=0, le=127)], Expansion] = Field(default_factory=dict)
    """What single bytes stand for, in a text that writes common words short."""

    @model_validator(mode="after")
    def _check_padding(self) -> TextField:
        if self.padding is not None and 0x80 <= self.padding < 0xFF:
            raise Misdeclared(
                f"{self.padding} can be a part of a character", key="padding", remedy="Use 0 to 127, or 255"
            )
        if self.padding in self.expand:
            raise Misdeclared(
                f"{self.padding} is what fills up, and is taken off the end", key="expand", remedy="Say `padding: null`"
            )
        return self

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return self.length_bytes if isinstance(self.length_bytes, int) else 0

    @property
    def is_sized(self) -> bool:
        """Whether it always takes `size_bytes`."""
        return isinstance(self.length_bytes, int)

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return True

    @property
    def padding_byte(self) -> bytes:
        """What fills the rest, as a byte; empty where nothing does."""
        return b"" if self.padding is None else bytes([self.padding])

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: no text, or zeros where nothing fills up."""
        return bytes(self.size_bytes) if self.padding is None else b""

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return f"{self.encoding} text of at most {self.size_bytes} bytes" if self.is_sized else f"{self.encoding} text"

    def pack(self, raw: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- text has no order; every kind takes it
        """The bytes of the text, filled up."""
        return raw + self.padding_byte * (self.size_bytes - len(raw))

    def unpack(self, data: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- text has no order; every kind takes it
        """The bytes without what fills them up."""
        return data.rstrip(self.padding_byte)

    def flaw_of(self, raw: bytes) -> str:
        """Why a frame with these bytes is rejected; empty if it is not."""
        is_text = raw.isascii() if self.encoding == "ascii" else utf_8_of(raw) is not None
        return "" if is_text else f"not {self.encoding} text"

    def value_of(self, raw: bytes) -> Value:
        """The text, written out; a mark stands for what is none."""
        return raw.decode(self.encoding, "replace").translate(self.expand)

    def raw_of(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- text is always exact
        """The bytes of a text, as short as it can be written.

        Raises:
            CodecError: not text of this encoding, of another length than fits, or it would not come back, as it ends
                with what fills up or holds what is expanded.
        """
        try:
            raw = self._shortened(value).encode(self.encoding) if isinstance(value, str) else None
        except UnicodeEncodeError:
            raw = None
        if raw is None or not self._fits(raw) or self.value_of(raw) != value:
            raise CodecError(f"{value!r} does not fit", where=self.name, remedy=f"Possible: {self.text_form}")
        return raw

    def _shortened(self, text: str) -> str:
        for code, word in sorted(self.expand.items(), key=lambda pair: -len(pair[1])):
            text = text.replace(word, chr(code))
        return text

    def _fits(self, raw: bytes) -> bool:
        if self.padding is None:
            return not self.is_sized or len(raw) == self.size_bytes
        return not raw.endswith(self.padding_byte) and (not self.is_sized or len(raw) <= self.size_bytes)


def utf_8_of(data: bytes) -> str | None:
    """The text in bytes, or None where they are no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
