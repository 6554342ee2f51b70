"""From settings to a framer."""

from __future__ import annotations

from typing import assert_never

from edge_gateway.config.link import (
    BlockFraming,
    CobsFraming,
    DelimiterFraming,
    FixedFraming,
    FramingSettings,
    HexTextFraming,
    IdleGapFraming,
    LengthPrefixedFraming,
    ModbusRtuFraming,
    ShdlcFraming,
    SlipFraming,
)
from edge_gateway.framing import Framer
from edge_gateway.framing.block import BlockFramer
from edge_gateway.framing.cobs import CobsFramer
from edge_gateway.framing.delimiter import DelimiterFramer
from edge_gateway.framing.fixed import FixedFramer
from edge_gateway.framing.hex_text import HexTextFramer
from edge_gateway.framing.idle_gap import IdleGapFramer
from edge_gateway.framing.length_prefixed import LengthPrefixedFramer
from edge_gateway.framing.modbus_rtu import ModbusRtuFramer
from edge_gateway.framing.shdlc import ShdlcFramer
from edge_gateway.framing.slip import SlipFramer


def make_framer(settings: FramingSettings) -> Framer:
    """Make the framer that `settings` declare; one for each link, as it keeps what is half received.

    Raises:
        ConfigError: the settings contradict each other, e.g. a length field inside the sync.
    """
    match settings:
        case CobsFraming():
            return CobsFramer(settings.max_frame_bytes)
        case SlipFraming():
            return SlipFramer(settings.max_frame_bytes)
        case ShdlcFraming():
            return ShdlcFramer(settings.max_frame_bytes)
        case DelimiterFraming():
            return DelimiterFramer(
                delimiter=bytes.fromhex(settings.delimiter),
                start=bytes.fromhex(settings.start),
                strip=bytes.fromhex(settings.strip),
                max_frame_bytes=settings.max_frame_bytes,
            )
        case BlockFraming():
            return BlockFramer(
                start=bytes.fromhex(settings.start),
                end=bytes.fromhex(settings.end),
                tail_bytes=settings.tail_bytes,
                tail_until=bytes.fromhex(settings.tail_until),
                max_frame_bytes=settings.max_frame_bytes,
            )
        case HexTextFraming():
            return HexTextFramer(
                end=bytes.fromhex(settings.end),
                start=bytes.fromhex(settings.start),
                strip=bytes.fromhex(settings.strip),
                max_frame_bytes=settings.max_frame_bytes,
            )
        case LengthPrefixedFraming():
            return LengthPrefixedFramer(
                sync=bytes.fromhex(settings.sync),
                length_offset=settings.length_offset,
                length_bytes=settings.length_bytes,
                endian=settings.endian,
                length_adds=settings.length_adds,
                max_frame_bytes=settings.max_frame_bytes,
                silence_s=settings.silence_s,
                sends=settings.sends,
            )
        case FixedFraming():
            return FixedFramer(
                frame_bytes=settings.frame_bytes,
                sync=bytes.fromhex(settings.sync),
                silence_s=settings.silence_s,
                sends=settings.sends,
            )
        case IdleGapFraming():
            return IdleGapFramer(silence_s=settings.silence_s, max_frame_bytes=settings.max_frame_bytes)
        case ModbusRtuFraming():
            return ModbusRtuFramer(silence_s=settings.silence_s, max_frame_bytes=settings.max_frame_bytes)
        case _:
            assert_never(settings)
