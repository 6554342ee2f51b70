"""Blocks of text that end with a mark and a little more, such as a checksum.

A smart meter's telegram goes from `/` to a line that begins with `!`, and the checksum that follows ends with the line.
A VE.Direct block ends with the label `Checksum` and one raw byte, whatever byte that is. So a delimiter alone does not
say where a frame ends: behind the mark stands a tail, of a fixed number of bytes or up to a second mark.

A frame includes its start, its mark and its tail, because checksums cover them; the second mark is no part of it.

Resynchronises at the next mark, or, with `start`, at the next start. Without a start, a frame that begins in the middle
is delivered like any other, and its checksum tells.
"""

from __future__ import annotations

from typing import Final

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.records import Chunk


class BlockFramer:
    """Frames that end with a mark and a tail.

    Args:
        start: if not empty, a frame begins with the last of these before its mark; what stands before is noise.
        end: the mark; at least one byte.
        tail_bytes: how many bytes follow the mark, where `tail_until` is empty.
        tail_until: if not empty, the tail goes up to these bytes.
        max_frame_bytes: the largest frame let through, with all but `tail_until`.

    Raises:
        ConfigError: there is no mark, the tail is declared twice, or start, mark and tail are longer than a frame.
    """

    silence_s: Final = None

    def __init__(self, start: bytes, end: bytes, tail_bytes: int, tail_until: bytes, max_frame_bytes: int) -> None:
        if not end:
            raise ConfigError("no block ends without a mark", where="framing.end", remedy='for a telegram: "0d0a21"')
        if tail_bytes and tail_until:
            raise ConfigError(
                "the tail has a length and an end", where="framing.tail_bytes", remedy="leave out one of the two"
            )
        least_bytes = len(start) + len(end) + tail_bytes
        if least_bytes > max_frame_bytes:
            raise ConfigError(
                f"the least block has {least_bytes} bytes, and at most {max_frame_bytes} are let through",
                where="framing.max_frame_bytes",
                remedy="raise max_frame_bytes",
            )
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._start = start
        self._end = end
        self._tail_bytes = tail_bytes
        self._tail_until = tail_until
        # As many bytes at the end may be a mark begun; no start is looked for in them.
        self._overlap_bytes = len(end) - 1
        self._held = bytearray()
        self._in_tail = False
        # Whether bytes of a frame that outgrew all others have been given up already.
        self._outgrown = False

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames whose tail has come."""
        frames: list[bytes] = []
        searched_bytes = 0 if self._in_tail else max(len(self._held) - self._overlap_bytes, 0)
        self._held += b"".join([chunk.data for chunk in chunks])
        while (end_at := self._held.find(self._end, searched_bytes)) >= 0:
            # A start that outgrew all frames is not held any more, so one that is found came after it.
            start_at = self._held.rfind(self._start, 0, end_at) if self._start else -self._outgrown
            tail_at = end_at + len(self._end)
            if start_at < 0:
                self.counters.oversized += self._outgrown
                self._waste(tail_at)
            else:
                self._waste(start_at)
                if not self._take_tail(tail_at - start_at, frames):
                    self._in_tail = True
                    return frames
            self._outgrown = False
            searched_bytes = 0
        self._in_tail = False
        self._bound()
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to a mark
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._waste(len(self._held))
        self._in_tail = self._outgrown = False

    def encode(self, payload: bytes) -> bytes:
        """Put `tail_until` behind `payload`, which has its start, mark and tail already.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`, or would not come out of a framer like
                this one as it is.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one block",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        wire = payload + self._tail_until
        end_at = wire.find(self._end)
        tail_at = end_at + len(self._end)
        tail_end = wire.find(self._tail_until, tail_at) if self._tail_until else tail_at + self._tail_bytes
        if end_at < 0 or tail_end != len(payload):
            raise CodecError(
                f"the payload does not end with {self._end.hex()} and its tail",
                remedy="end the payload with framing.end and the tail, and keep both out of the rest",
            )
        if self._start and payload.rfind(self._start, 0, end_at) != 0:
            raise CodecError(
                f"the payload does not hold {self._start.hex()} at its beginning and nowhere else",
                remedy="begin the payload with framing.start",
            )
        return wire

    def _take_tail(self, tail_at: int, frames: list[bytes]) -> bool:
        """Take the frame that begins with what is held; False if its tail has not come yet."""
        held = self._held
        if self._tail_until:
            frame_bytes = held.find(self._tail_until, tail_at)
            if frame_bytes < 0:
                if tail_at <= self.max_frame_bytes and len(held) < self.max_frame_bytes + len(self._tail_until):
                    return False
                frame_bytes = self.max_frame_bytes + 1
        else:
            frame_bytes = tail_at + self._tail_bytes
            if len(held) < frame_bytes <= self.max_frame_bytes:
                return False
        if frame_bytes > self.max_frame_bytes:
            # The tail is given up, not what comes in it: that may be the next frame.
            self.counters.oversized += 1
            self._waste(tail_at)
        else:
            frames.append(bytes(held[:frame_bytes]))
            self.counters.frames += 1
            del held[: frame_bytes + len(self._tail_until)]
        return True

    def _waste(self, count_bytes: int) -> None:
        self.counters.noise_bytes += count_bytes
        del self._held[:count_bytes]

    def _bound(self) -> None:
        """Give up what no mark can make a frame any more. Nothing that is held has a mark."""
        held_bytes = len(self._held)
        if self._start:
            begun_at = self._held.rfind(self._start, 0, max(held_bytes - self._overlap_bytes, 0))
        else:
            begun_at = -self._outgrown
        if begun_at >= 0:
            self._outgrown = held_bytes - begun_at >= self.max_frame_bytes
        if begun_at >= 0 and not self._outgrown:
            self._waste(begun_at)
        else:
            # What is left may be a start begun, a mark begun, or the one followed by the other.
            kept_bytes = max(len(self._start) - 1, 0) + self._overlap_bytes
            self._waste(max(held_bytes - kept_bytes, 0))
