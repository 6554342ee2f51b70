"""How bytes reach the gateway: serial parameters and framings.

A device profile states what its family speaks; the gateway's configuration may override it for one link.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from edge_gateway.config.settings import Settings


def _hex_bytes(text: str) -> str:
    try:
        bytes.fromhex(text)
    except ValueError:
        raise ValueError("not bytes; pairs of hexadecimal digits would do, for instance 42 4d") from None
    return text


HexBytes = Annotated[str, AfterValidator(_hex_bytes), Field(examples=["424d", "0d 0a"])]
"""Bytes written as hexadecimal digits; spaces are allowed."""

MaxFrameBytes = Annotated[int, Field(ge=1, le=65_536)]


Sends = Literal["frames", "as-is"]
"""What a device hears: frames like those it sends, or whatever the profile's requests are."""


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


class ShdlcFraming(Settings):
    """SHDLC, frames stand between 0x7E flags (Sensirion's sensors)."""

    kind: Literal["shdlc"] = "shdlc"
    max_frame_bytes: MaxFrameBytes = 261
    """The largest frame let through, without flags and stuffing; what is longer is counted and skipped."""


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


class BlockFraming(Settings):
    """Frames end with a mark and a tail, e.g. telegrams whose checksum stands behind the mark."""

    kind: Literal["block"] = "block"
    start: HexBytes = ""
    """If set, a frame begins with the last of these before its mark, and includes it; the rest is noise."""
    end: HexBytes = Field(examples=["0d0a21"])
    """The mark; part of the frame."""
    tail_bytes: int = Field(default=0, ge=0, le=255)
    """How many bytes of the frame follow the mark."""
    tail_until: HexBytes = ""
    """If set, the frame goes on behind the mark up to these bytes, which are no part of it."""
    max_frame_bytes: MaxFrameBytes = 4096
    """The largest frame let through, from its start to the end of its tail; what is longer is counted and skipped."""


class HexTextFraming(Settings):
    """Frames are written as hexadecimal digits, and end with a fixed byte sequence; what counts is their bytes."""

    kind: Literal["hex-text"] = "hex-text"
    end: HexBytes = "0a"
    """What ends a frame."""
    start: HexBytes = ""
    """If set, the digits begin behind the last of these before the end; the rest is noise."""
    strip: HexBytes = "0d"
    """Bytes removed from a frame's end, e.g. the carriage return of CR LF."""
    max_frame_bytes: MaxFrameBytes = 256
    """The largest frame let through, in bytes; on the wire it has twice as many digits."""


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
    sends: Sends = "frames"
    """`as-is`: requests are sent as they are, to a device that hears frames of another shape than it sends."""


class FixedFraming(Settings):
    """Every frame has the same length."""

    kind: Literal["fixed"] = "fixed"
    frame_bytes: MaxFrameBytes = Field(examples=[9])
    """Length of every frame, sync included."""
    sync: HexBytes = ""
    """Bytes every frame starts with. Without them a lost byte can only be mended by silence."""
    silence_s: float | None = Field(default=None, gt=0, le=60, examples=[0.05])
    """A pause after which a half-received frame is given up."""
    sends: Sends = "frames"
    """`as-is`: requests are sent as they are, to a device that hears frames of another shape than it sends."""


class IdleGapFraming(Settings):
    """Frames are separated by silence, as in Modbus RTU (3.5 characters, at least 1.75 ms above 19200 baud)."""

    kind: Literal["idle-gap"] = "idle-gap"
    silence_s: float = Field(default=0.005, gt=0, le=60)
    """Silence that ends a frame. USB adapters deliver bytes in lumps up to 16 ms apart: allow for that."""
    max_frame_bytes: MaxFrameBytes = 256
    """The largest frame let through, without delimiters and stuffing; what is longer is counted and skipped."""


class ModbusRtuFraming(Settings):
    """Frames are separated by silence, and an answer ends with the last byte its request asked for (Modbus RTU)."""

    kind: Literal["modbus-rtu"] = "modbus-rtu"
    silence_s: float = Field(default=0.05, gt=0, le=60)
    """Silence that ends a damaged frame. Whole answers do not wait for it, so it may well be longer than the 3.5
    characters of the standard, which USB adapters' lumps would tear."""
    max_frame_bytes: MaxFrameBytes = 256
    """The largest frame let through; what is longer is counted and skipped."""


FramingSettings: TypeAlias = Annotated[
    CobsFraming
    | SlipFraming
    | ShdlcFraming
    | DelimiterFraming
    | BlockFraming
    | HexTextFraming
    | LengthPrefixedFraming
    | FixedFraming
    | IdleGapFraming
    | ModbusRtuFraming,
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

    @property
    def character_bits(self) -> int:
        """The bits of one character on the line: start, data, parity, stop."""
        return 1 + self.data_bits + (self.parity != "none") + self.stop_bits


class UsbMatch(Settings):
    """Finds a USB serial adapter wherever it is plugged in."""

    vendor_id: int = Field(ge=0, le=0xFFFF, examples=[0x0403])
    product_id: int = Field(ge=0, le=0xFFFF, examples=[0x6001])
    serial_number: str | None = Field(default=None, examples=["A50285BI"])
    """Needed where two adapters of one make are present."""
