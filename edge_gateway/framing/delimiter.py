"""Frames ended by a fixed byte sequence, such as lines.

Two optional details of real devices. `strip` takes a carriage return off where CR LF and LF both occur. `start` names
how a frame begins, as the `$` of NMEA 0183: then what stands before the last `start` is noise, so a frame cut short, or
line noise without an end, does not take the next frame along.

Resynchronises at the next delimiter, or, with `start`, at the next start.
"""

from __future__ import annotations

from typing import Final

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._cutter import Cutter
from edge_gateway.records import Chunk


class DelimiterFramer:
    """Frames that end with `delimiter`.

    A delimiter with nothing before it, or only `strip`, ends no frame and is passed over without a count. With `start`
    there is no such thing: a delimiter that ends no frame is noise.

    Args:
        delimiter: what ends a frame; not part of it. At least one byte.
        start: if not empty, a frame begins with the last of these before its delimiter and includes it.
        strip: if not empty and a frame ends with these bytes, they are taken off, once.
        max_frame_bytes: the largest frame let through, without delimiter and stripped bytes.

    Raises:
        ConfigError: the delimiter is empty, or the start is longer than the largest frame.
    """

    silence_s: Final = None

    def __init__(self, delimiter: bytes, start: bytes, strip: bytes, max_frame_bytes: int) -> None:
        if not delimiter:
            raise ConfigError("no frame ends without a delimiter", where="framing.delimiter", remedy='for lines: "0a"')
        if len(start) > max_frame_bytes:
            raise ConfigError(
                f"a start of {len(start)} bytes does not fit a frame of at most {max_frame_bytes}",
                where="framing.start",
                remedy="raise max_frame_bytes",
            )
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._delimiter = delimiter
        self._start = start
        self._strip = strip
        longest_piece_bytes = max_frame_bytes + len(strip)
        self._cutter = (
            _StartCutter(delimiter, start, longest_piece_bytes, self.counters)
            if start
            else Cutter(delimiter, longest_piece_bytes, self.counters)
        )

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames whose delimiter has come."""
        frames: list[bytes] = []
        for piece in self._cutter.cut(b"".join([chunk.data for chunk in chunks])):
            frame = bytes(piece.removesuffix(self._strip))
            if len(frame) > self.max_frame_bytes:
                self.counters.oversized += 1
                self.counters.noise_bytes += len(piece) + len(self._delimiter)
            elif frame:
                frames.append(frame)
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to a delimiter
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._cutter.drop()

    def encode(self, payload: bytes) -> bytes:
        """Put the delimiter behind `payload`.

        What `strip` names is not added: a device that insists on CR LF has both as its delimiter.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`, or would not come out of a framer like
                this one as it is: it holds the delimiter, ends with `strip`, or does not begin with its only `start`.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one delimited frame",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        wire = payload + self._delimiter
        if wire.find(self._delimiter) != len(payload):
            raise CodecError(
                f"the payload makes the delimiter {self._delimiter.hex()} appear before its end",
                remedy="choose a delimiter that payloads do not hold",
            )
        if self._strip and payload.endswith(self._strip):
            raise CodecError(
                f"the payload ends with {self._strip.hex()}, which framing.strip takes off",
                remedy="make these bytes part of the delimiter",
            )
        if self._start and payload.rfind(self._start) != 0:
            raise CodecError(
                f"the payload does not hold {self._start.hex()} at its beginning and nowhere else",
                remedy="begin the payload with framing.start",
            )
        return wire


class _StartCutter:
    """Cuts at delimiters as `Cutter` does, and returns each piece from its last start on.

    What has no start before it is noise at once, so nothing of it is held. A start that goes on for longer than any
    frame is counted as oversized when its delimiter comes: another start before that makes it plain noise.
    """

    def __init__(self, delimiter: bytes, start: bytes, longest_piece_bytes: int, counters: FramingCounters) -> None:
        self._delimiter = delimiter
        self._start = start
        self._longest_piece_bytes = longest_piece_bytes
        self._counters = counters
        # As many bytes at the end may be a delimiter begun; no start is looked for in them.
        self._overlap_bytes = len(delimiter) - 1
        self._held = bytearray()
        self._outgrown = False

    def cut(self, data: bytes) -> list[bytearray]:
        held = self._held
        searched_bytes = max(len(held) - self._overlap_bytes, 0)
        held += data
        started: list[bytearray] = []
        if held.find(self._delimiter, searched_bytes) >= 0:
            pieces = held.split(self._delimiter)
            self._held = pieces.pop()
            for piece in pieces:
                start_at = piece.rfind(self._start)
                if start_at >= 0:
                    self._counters.noise_bytes += start_at
                    started.append(piece[start_at:])
                else:
                    self._counters.noise_bytes += len(piece) + len(self._delimiter)
                    self._counters.oversized += self._outgrown
                self._outgrown = False
        self._drop_before_start()
        return started

    def drop(self) -> None:
        self._counters.noise_bytes += len(self._held)
        self._held.clear()
        self._outgrown = False

    def _drop_before_start(self) -> None:
        held_bytes = len(self._held)
        start_at = self._held.rfind(self._start, 0, max(held_bytes - self._overlap_bytes, 0))
        if start_at >= 0:
            self._outgrown = held_bytes - start_at > self._longest_piece_bytes + self._overlap_bytes
        if start_at >= 0 and not self._outgrown:
            surplus_bytes = start_at
        else:
            # What is left may be a start begun, a delimiter begun, or the one followed by the other.
            surplus_bytes = held_bytes - (len(self._start) - 1) - self._overlap_bytes
        if surplus_bytes > 0:
            self._counters.noise_bytes += surplus_bytes
            del self._held[:surplus_bytes]
