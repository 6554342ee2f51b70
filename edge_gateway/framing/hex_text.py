"""Bytes written as hexadecimal digits, so that they travel as text: card readers, Modbus ASCII.

What comes out are the bytes, as with COBS and SLIP: a profile declares those, and their checksum is over those.

Resynchronises as `delimiter` does: at the next end, or, with `start`, at the next start.
"""

from __future__ import annotations

import binascii
from typing import Final

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing.delimiter import DelimiterFramer
from edge_gateway.records import Chunk


class HexTextFramer:
    """Frames of hexadecimal digits between a start and an end.

    Either case of digits is understood, and upper case is sent. A piece that holds anything else, or half a byte, is
    counted as malformed.

    Args:
        end: what ends a frame. At least one byte.
        start: if not empty, digits begin behind the last of these before the end.
        strip: if not empty and a piece ends with these bytes, they are taken off, once.
        max_frame_bytes: the largest frame let through; on the wire, it has twice as many digits.

    Raises:
        ConfigError: the end is empty.
    """

    silence_s: Final = None

    def __init__(self, end: bytes, start: bytes, strip: bytes, max_frame_bytes: int) -> None:
        if not end:
            raise ConfigError("no frame ends without an end", where="framing.end", remedy='for lines: "0a"')
        self.max_frame_bytes: Final = max_frame_bytes
        self._end = end
        self._start = start
        self._strip = strip
        self._pieces = DelimiterFramer(end, start, b"", len(start) + 2 * max_frame_bytes + len(strip))
        self._own = FramingCounters()

    @property
    def counters(self) -> FramingCounters:
        """Counts since the framer was made."""
        cut, own = self._pieces.counters, self._own
        return FramingCounters(
            own.frames, cut.noise_bytes + own.noise_bytes, own.malformed, cut.oversized + own.oversized
        )

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the bytes whose last digit and end have come."""
        frames: list[bytes] = []
        own = self._own
        for piece in self._pieces.feed(chunks):
            digits = piece.removesuffix(self._strip)[len(self._start) :]
            if not digits and not self._start:
                continue
            try:
                frame = binascii.unhexlify(digits)
            except binascii.Error:
                frame = b""
            if 1 <= len(frame) <= self.max_frame_bytes:
                frames.append(frame)
                continue
            own.oversized += bool(frame)
            own.malformed += not frame
            own.noise_bytes += len(piece) + len(self._end)
        own.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to a delimiter
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._pieces.reset()

    def encode(self, payload: bytes) -> bytes:
        """The digits of `payload` between start and end.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`, or its digits hold what is set apart.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one frame of digits",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        digits = self._start + payload.hex().upper().encode()
        if self._strip and digits.endswith(self._strip):
            raise CodecError(
                f"the digits end with {self._strip.hex()}, which framing.strip takes off",
                remedy="make these bytes part of framing.end",
            )
        return self._pieces.encode(digits)
