"""Frames that all have the same length.

With `sync`, a frame begins at the next sync and what stands before it is noise. Framing knows no checksum: a sync that
is part of noise or of payload is believed, and one frame comes out for the codec to reject. The search then goes on
behind it. So, after noise, the frame is lost whose bytes the false one took; from the next on they are aligned again,
unless payload imitates the sync at the very same place each time, which only silence mends.

With `silence_s`, a frame that is not whole when the device falls silent is given up, and the first byte after the
silence begins a frame. Without `sync` this is the only way back after a lost byte; without either there is none.
"""

from __future__ import annotations

import math
from typing import Final

from edge_gateway.config.link import Sends
from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._silence import is_silence
from edge_gateway.framing._sync import sent_as_is, sync_begun_bytes
from edge_gateway.records import Chunk


class FixedFramer:
    """Frames of `frame_bytes` each.

    Args:
        frame_bytes: length of every frame, sync included.
        sync: bytes every frame starts with; may be empty.
        silence_s: seconds without a byte after which a half-received frame is given up; None to wait for ever.
        sends: `as-is` for a device that is sent frames of another shape than it sends.

    Raises:
        ConfigError: the sync is longer than a frame.
    """

    def __init__(self, frame_bytes: int, sync: bytes, silence_s: float | None, sends: Sends = "frames") -> None:
        if len(sync) > frame_bytes:
            raise ConfigError(
                f"a sync of {len(sync)} bytes does not fit a frame of {frame_bytes}",
                where="framing.frame_bytes",
                remedy="count the whole frame, sync included",
            )
        self.max_frame_bytes: Final = frame_bytes
        self.silence_s: Final = silence_s
        self.counters: Final = FramingCounters()
        self._sync = sync
        self._sends = sends
        self._held = bytearray()
        self._last_at_s = -math.inf

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames that are now whole."""
        frames: list[bytes] = []
        for at_s, data in chunks:
            if not data:
                continue
            self.flush(at_s)
            self._last_at_s = at_s
            if not self._held:
                self._scan(data, frames)
                continue
            sync_is_here = len(self._held) >= len(self._sync)
            self._held += data
            # A frame begun and not whole yet needs no second look.
            if not sync_is_here or len(self._held) >= self.max_frame_bytes:
                self._scan(bytes(self._held), frames)
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:
        """Give up a frame that is not whole, if no byte came for `silence_s` up to `at_s`; never returns one."""
        if self._held and self.silence_s is not None and is_silence(self._last_at_s, at_s, self.silence_s):
            self.counters.malformed += 1
            self.reset()
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self.counters.noise_bytes += len(self._held)
        self._held.clear()

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` itself, checked: it is the whole frame, sync included.

        Raises:
            CodecError: the payload is not of the one length, or does not start with the sync.
        """
        if self._sends == "as-is":
            return sent_as_is(payload)
        if len(payload) != self.max_frame_bytes or not payload.startswith(self._sync):
            raise CodecError(
                f"a frame of {len(payload)} bytes that starts with {payload[: len(self._sync)].hex()!r} does not fit",
                remedy=f"send {self.max_frame_bytes} bytes that start with {self._sync.hex()!r}",
            )
        return payload

    def _scan(self, data: bytes, frames: list[bytes]) -> None:
        """Take the frames out of `data` and hold what is undecided."""
        start = 0
        end = len(data)
        while start < end:
            # An empty sync is found where the search begins.
            sync_at = data.find(self._sync, start)
            if sync_at < 0:
                sync_at = end - sync_begun_bytes(data, self._sync, start)
            self.counters.noise_bytes += sync_at - start
            start = sync_at
            if end - start < self.max_frame_bytes:
                break
            frames.append(data[start : start + self.max_frame_bytes])
            start += self.max_frame_bytes
        self._held = bytearray(data[start:])
