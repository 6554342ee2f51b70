"""Frames separated by silence, as in Modbus RTU.

Source: "MODBUS over Serial Line, Specification and Implementation Guide V1.02", 2.5.1.1: frames are separated by at
least 3.5 character times, fixed at 1.75 ms above 19200 bit/s. The bytes themselves say nothing, so the time of each
read decides: a frame ends where the pause between a chunk and the next is at least `silence_s`, or when `flush` says
so.

One chunk is never split. Two frames that the operating system hands over in one read come out as one and fail their
checksum: that is the price of this framing on a line whose reads come late.

Resynchronises at the next silence. The first frame after a start or `reset` may be the tail of one that was already
under way; its checksum tells.
"""

from __future__ import annotations

import math
from typing import Final

from edge_gateway.errors import CodecError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._silence import is_silence
from edge_gateway.records import Chunk


class IdleGapFramer:
    """Frames that end where nothing comes for a while.

    Args:
        silence_s: seconds without a byte that end a frame.
        max_frame_bytes: the largest frame let through. What follows a longer one is skipped up to the next silence.
    """

    def __init__(self, silence_s: float, max_frame_bytes: int) -> None:
        self.silence_s: Final = silence_s
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._held = bytearray()
        self._skipping = False
        self._last_at_s = -math.inf

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames that ended before the last of `chunks`; a chunk without bytes does not break a silence."""
        frames: list[bytes] = []
        for at_s, data in chunks:
            if not data:
                continue
            frames += self.flush(at_s)
            self._last_at_s = at_s
            if self._skipping:
                self.counters.noise_bytes += len(data)
                continue
            self._held += data
            if len(self._held) > self.max_frame_bytes:
                self._skipping = True
                self.counters.oversized += 1
                self._drop_held()
        return frames

    def flush(self, at_s: float) -> list[bytes]:
        """Return the frame begun, if no byte for `silence_s` up to `at_s` has ended it; nothing if it is too early."""
        if not is_silence(self._last_at_s, at_s, self.silence_s):
            return []
        self._skipping = False
        if not self._held:
            return []
        frame = bytes(self._held)
        self._held.clear()
        self.counters.frames += 1
        return [frame]

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._drop_held()
        self._skipping = False

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` itself: the silence around it is made by whoever writes.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one frame",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        return payload

    def _drop_held(self) -> None:
        self.counters.noise_bytes += len(self._held)
        self._held.clear()
