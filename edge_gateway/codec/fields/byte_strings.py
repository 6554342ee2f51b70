"""What stays a row of bytes on the way to its value: text, hardware addresses, and bytes nobody takes apart."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from edge_gateway.codec.fields.wire import Endian, Misdeclared, WireField, highest_first
from edge_gateway.config.link import HexBytes
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


class BytesField(WireField[bytes]):
    """Bytes that are no number. The value is their hexadecimal digits, lower case."""

    type: Literal["bytes"]
    length_bytes: int = Field(ge=1, le=65_536)
    const: HexBytes | None = None
    """The only bytes a frame of this kind has here; they tell frames apart and are no value."""

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

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: zeros."""
        return bytes(self.length_bytes)

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
        if len(raw) != self.length_bytes:
            raise CodecError(
                f"{value!r} is not {self.length_bytes} bytes in hexadecimal digits",
                where=self.name,
                remedy=f"For instance: {'00' * min(self.length_bytes, 8)!r}",
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


class TextField(WireField[bytes]):
    """Text in a fixed number of bytes, filled up at its end. A frame whose bytes are no such text is rejected."""

    type: Literal["text"]
    length_bytes: int = Field(ge=1, le=4096)
    encoding: Literal["ascii", "utf-8"] = "ascii"
    padding: int = Field(default=0, ge=0, le=255)
    """What fills the rest, and is taken off the end: 0, 0x20 for spaces, or 0xff."""

    @model_validator(mode="after")
    def _check_padding(self) -> TextField:
        if 0x80 <= self.padding < 0xFF:
            raise Misdeclared(
                f"{self.padding} can be a part of a character", key="padding", remedy="Use 0 to 127, or 255"
            )
        return self

    @property
    def size_bytes(self) -> int:
        """How many bytes of the frame it takes."""
        return self.length_bytes

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for what may stand here."""
        return True

    @property
    def padding_byte(self) -> bytes:
        """What fills the rest, as a byte."""
        return bytes([self.padding])

    @property
    def blank_raw(self) -> bytes:
        """What is sent where nobody gives a value: no text."""
        return b""

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return f"{self.encoding} text of at most {self.length_bytes} bytes"

    def pack(self, raw: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- text has no order; every kind takes it
        """The bytes of the text, filled up."""
        return raw.ljust(self.length_bytes, self.padding_byte)

    def unpack(self, data: bytes, endian: Endian) -> bytes:  # noqa: ARG002 -- text has no order; every kind takes it
        """The bytes without what fills them up."""
        return data.rstrip(self.padding_byte)

    def flaw_of(self, raw: bytes) -> str:
        """Why a frame with these bytes is rejected; empty if it is not."""
        is_text = raw.isascii() if self.encoding == "ascii" else utf_8_of(raw) is not None
        return "" if is_text else f"not {self.encoding} text"

    def value_of(self, raw: bytes) -> Value:
        """The text; a mark stands for what is none."""
        return raw.decode(self.encoding, "replace")

    def raw_of(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- text is always exact
        """The bytes of a text.

        Raises:
            CodecError: not text of this encoding, too long, or it ends with what fills up, which would not come back.
        """
        try:
            raw = value.encode(self.encoding) if isinstance(value, str) else None
        except UnicodeEncodeError:
            raw = None
        if raw is None or len(raw) > self.length_bytes or raw.endswith(self.padding_byte):
            raise CodecError(f"{value!r} does not fit", where=self.name, remedy=f"Possible: {self.text_form}")
        return raw


def utf_8_of(data: bytes) -> str | None:
    """The text in bytes, or None where they are no UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
