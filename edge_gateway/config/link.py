"""How bytes reach the gateway: serial parameters and framings.

A device profile states what its family speaks; the gateway's configuration may override it for one link.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of every declared setting: immutable, a key nobody knows is an error, and no number is infinite or none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def _hex_bytes(text: str) -> str:
    try:
        bytes.fromhex(text)
    except ValueError:
        raise ValueError("not bytes; pairs of hexadecimal digits would do, for instance 42 4d") from None
    return text


HexBytes = Annotated[str, AfterValidator(_hex_bytes), Field(examples=["424d", "0d 0a"])]
"""Bytes written as hexadecimal digits; spaces are allowed."""

MaxFrameBytes = Annotated[int, Field(ge=1, le=65_536)]


class CobsFraming(Settings):
    """Consistent Overhead Byte Stuffing, frames end with 0x00 (Cheshire and Baker, 1999)."""

    kind: Literal["cobs"] = "cobs"
    max_frame_bytes: MaxFrameBytes = 1024
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""


class SlipFraming(Settings):
    """SLIP, frames end with 0xC0 (RFC 1055)."""

    kind: Literal["slip"] = "slip"
    max_frame_bytes: MaxFrameBytes = 1024
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""


class DelimiterFraming(Settings):
    """Frames end with a fixed byte sequence, e.g. lines."""

    kind: Literal["delimiter"] = "delimiter"
    delimiter: HexBytes = "0a"
    start: HexBytes = ""
    """If set, a frame begins with the last of these before its delimiter, and includes it; the rest is noise."""
    strip: HexBytes = "0d"
    """Bytes removed from a frame's end, e.g. the carriage return of CR LF."""
    max_frame_bytes: MaxFrameBytes = 1024
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""


class LengthPrefixedFraming(Settings):
    """A header tells the frame's length; the frame includes its header."""

    kind: Literal["length-prefixed"] = "length-prefixed"
    sync: HexBytes = ""
    """Bytes every frame starts with."""
    length_offset: int = Field(default=0, ge=0, le=255)
    """Where the length field starts, counted from the first byte of the frame, sync included."""
    length_bytes: Literal[1, 2, 4] = 1
    """Width of the length field."""
    endian: Literal["big", "little"] = "big"
    """Byte order of the length field."""
    length_adds: int = Field(default=0, ge=-255, le=65_536)
    """Added to the length field's value to get the bytes that follow the field."""
    max_frame_bytes: MaxFrameBytes = 1024
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""
    silence_s: float = Field(default=1.0, gt=0, le=60)
    """A pause after which a half-received frame is given up, and a frame inside it is looked for."""


class FixedFraming(Settings):
    """Every frame has the same length."""

    kind: Literal["fixed"] = "fixed"
    frame_bytes: MaxFrameBytes = Field(examples=[9])
    """Length of every frame, sync included."""
    sync: HexBytes = ""
    """Bytes every frame starts with. Without them a lost byte can only be mended by silence."""
    silence_s: float | None = Field(default=None, gt=0, le=60, examples=[0.05])
    """A pause after which a half-received frame is given up."""


class IdleGapFraming(Settings):
    """Frames are separated by silence, as in Modbus RTU (3.5 characters, at least 1.75 ms above 19200 baud)."""

    kind: Literal["idle-gap"] = "idle-gap"
    silence_s: float = Field(default=0.005, gt=0, le=60)
    """Silence that ends a frame. USB adapters deliver bytes in lumps up to 16 ms apart: allow for that."""
    max_frame_bytes: MaxFrameBytes = 256
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""


FramingSettings: TypeAlias = Annotated[
    CobsFraming | SlipFraming | DelimiterFraming | LengthPrefixedFraming | FixedFraming | IdleGapFraming,
    Field(discriminator="kind"),
]


class Rs485Settings(Settings):
    """Half-duplex direction control by the kernel's driver (TIOCSRS485)."""

    rts_on_send: bool = True
    """Level of RTS while sending."""
    rts_after_send: bool = False
    """Level of RTS while receiving."""
    delay_before_send_s: float = Field(default=0, ge=0, le=1)
    """Between switching to sending and the first character."""
    delay_after_send_s: float = Field(default=0, ge=0, le=1)
    """Between the last character and switching to receiving."""


class SerialLine(Settings):
    """How characters travel on a serial line."""

    baud: int = Field(default=115_200, ge=50, le=4_000_000)
    """Bits a second."""
    data_bits: Literal[5, 6, 7, 8] = 8
    """Bits of a character."""
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    """The check bit of a character."""
    stop_bits: Literal[1, 2] = 1
    """Pause after a character, in bits."""
    flow_control: Literal["none", "rts-cts", "xon-xoff"] = "none"
    """How either side asks the other to wait."""
    rs485: Rs485Settings | None = None
    """Direction control for half-duplex RS-485; none for RS-232 and for adapters that switch by themselves."""


class UsbMatch(Settings):
    """Finds a USB serial adapter wherever it is plugged in."""

    vendor_id: int = Field(ge=0, le=0xFFFF, examples=[0x0403])
    product_id: int = Field(ge=0, le=0xFFFF, examples=[0x6001])
    serial_number: str | None = Field(default=None, examples=["A50285BI"])
    """Needed where two adapters of one make are present."""
