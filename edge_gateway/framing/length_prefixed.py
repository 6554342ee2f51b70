"""Frames whose header tells their length.

```
  sync    ...   length field   the rest, as long as the field says
|------|-------|------------|---------------------------------------|
       ^       ^ length_offset, counted from the first byte
       nothing, or other header fields
```

The frame handed over is all of it, header included, because its checksum covers the header.

Framing knows no checksum, so it cannot tell a sync from payload that looks like one. What it does instead:

- A length below what the header takes, or above `max_frame_bytes`, refuses the sync: one byte is skipped and the search
  goes on right behind it, so a real frame that begins inside the false one is found.
- A false sync with a plausible length is believed. It comes out as a frame for the codec to reject, and real frames
  that began inside it are lost with it, at most `max_frame_bytes` of them. Hence: set `max_frame_bytes` to what the
  device really sends.
- A frame that stalls for `silence_s` is no frame: its sync is refused and the bytes behind it are searched again, so
  that a false sync cannot hold a slow device's frames back for longer than that.

Resynchronises after at most `max_frame_bytes` where payload does not imitate the sync, and else after one silence.
Without `sync` any byte may begin a frame, so after a lost byte only silence brings certainty, and a stalled frame is
dropped whole; until then, what comes out is left to the codec.
"""

from __future__ import annotations

import math
import struct
from typing import Final, Literal

from edge_gateway.config.link import Sends
from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._silence import is_silence
from edge_gateway.framing._sync import sent_as_is, sync_begun_bytes
from edge_gateway.records import Chunk

STALLED_AFTER_S = 1.0
"""No device pauses this long inside a frame. It is long for a link's reasons, not the device's: a busy gateway or a
serial port behind a network may hand a frame over in parts hundreds of milliseconds apart."""

_LENGTH_CODES = {1: "B", 2: "H", 4: "I"}
_BYTE_ORDERS = {"big": ">", "little": "<"}


class LengthPrefixedFramer:
    """Frames with a length field at a fixed place.

    Args:
        sync: bytes every frame starts with; may be empty.
        length_offset: where the length field starts, counted from the first byte of the frame, sync included.
        length_bytes: width of the length field.
        endian: its byte order.
        length_adds: added to the field's value to get the bytes that follow the field.
        max_frame_bytes: the largest frame let through, header included.
        silence_s: seconds without a byte after which a frame begun is given up.
        sends: `as-is` for a device that is sent frames of another shape than it sends.

    Raises:
        ConfigError: the length field lies inside the sync, or the header does not fit the largest frame.
    """

    def __init__(
        self,
        sync: bytes,
        length_offset: int,
        length_bytes: Literal[1, 2, 4],
        endian: Literal["big", "little"],
        length_adds: int,
        max_frame_bytes: int,
        silence_s: float = STALLED_AFTER_S,
        sends: Sends = "frames",
    ) -> None:
        if length_offset < len(sync):
            raise ConfigError(
                f"the length field at {length_offset} lies inside the sync of {len(sync)} bytes",
                where="framing.length_offset",
                remedy=f"count from the first byte of the sync: {len(sync)} or more",
            )
        header_bytes = length_offset + length_bytes
        if header_bytes > max_frame_bytes:
            raise ConfigError(
                f"the header takes {header_bytes} bytes and a frame may have {max_frame_bytes}",
                where="framing.max_frame_bytes",
                remedy="raise it to the longest frame the device sends",
            )
        self.max_frame_bytes: Final = max_frame_bytes
        self.silence_s: Final = silence_s
        self.counters: Final = FramingCounters()
        self._sync = sync
        self._sends = sends
        self._length_offset = length_offset
        self._length_field = struct.Struct(_BYTE_ORDERS[endian] + _LENGTH_CODES[length_bytes])
        self._header_bytes = header_bytes
        self._fixed_bytes = header_bytes + length_adds
        self._held = bytearray()
        # Nothing can be decided about what is held before it has grown to this, so it is not looked at again.
        self._needed_bytes = 0
        self._last_at_s = -math.inf

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames that are now whole, and those found inside a frame that stalled."""
        frames: list[bytes] = []
        for at_s, data in chunks:
            if not data:
                continue
            if self._held and is_silence(self._last_at_s, at_s, self.silence_s):
                self._give_up_stalled(frames)
            self._last_at_s = at_s
            if not self._held:
                self._scan(data, frames)
                continue
            self._held += data
            if len(self._held) >= self._needed_bytes:
                self._scan(bytes(self._held), frames)
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:
        """Give up a frame that has stalled by `at_s`, and return the frames found inside it."""
        frames: list[bytes] = []
        if self._held and is_silence(self._last_at_s, at_s, self.silence_s):
            self._give_up_stalled(frames)
            self.counters.frames += len(frames)
        return frames

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self.counters.noise_bytes += len(self._held)
        self._held.clear()

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` itself, checked: it is the whole frame, header included.

        Raises:
            CodecError: the payload does not start with the sync, or its length field does not tell its length, or it is
                larger than `max_frame_bytes`.
        """
        if self._sends == "as-is":
            return sent_as_is(payload)
        if len(payload) > self.max_frame_bytes:
            raise CodecError(
                f"a frame of {len(payload)} bytes is too large",
                remedy=f"send at most {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        if len(payload) < self._header_bytes or not payload.startswith(self._sync):
            raise CodecError(
                f"a frame needs a header of {self._header_bytes} bytes that starts with {self._sync.hex()!r}",
                remedy="declare sync and length as fields of the frame",
            )
        told_bytes = self._told_bytes(payload, 0)
        if told_bytes != len(payload):
            raise CodecError(
                f"the length field tells a frame of {told_bytes} bytes and the frame has {len(payload)}",
                remedy="see framing.length_adds: it is added to the field to get the bytes behind the field",
            )
        return payload

    def _told_bytes(self, data: bytes, start: int) -> int:
        """The size of the frame at `start`, as its length field tells it; the header is there."""
        value: int = self._length_field.unpack_from(data, start + self._length_offset)[0]
        return self._fixed_bytes + value

    def _scan(self, data: bytes, frames: list[bytes], *, stalled: bool = False) -> None:
        """Take the frames out of `data` and hold what is undecided.

        With `stalled` nothing more will come: a frame that is not whole is refused like one of an impossible length,
        and nothing is held.
        """
        counters = self.counters
        start = 0
        end = len(data)
        while start < end:
            # An empty sync is found where the search begins.
            sync_at = data.find(self._sync, start)
            if sync_at < 0:
                undecided_bytes = 0 if stalled else sync_begun_bytes(data, self._sync, start)
                counters.noise_bytes += end - undecided_bytes - start
                start = end - undecided_bytes
                self._needed_bytes = len(self._sync)
                break
            counters.noise_bytes += sync_at - start
            start = sync_at
            needed_bytes = self._header_bytes
            if end - start >= needed_bytes:
                needed_bytes = self._told_bytes(data, start)
                if needed_bytes < self._header_bytes:
                    counters.malformed += 1
                    counters.noise_bytes += 1
                    start += 1
                    continue
                if needed_bytes > self.max_frame_bytes:
                    counters.oversized += 1
                    counters.noise_bytes += 1
                    start += 1
                    continue
                if end - start >= needed_bytes:
                    frames.append(data[start : start + needed_bytes])
                    start += needed_bytes
                    continue
            if not stalled:
                self._needed_bytes = needed_bytes
                break
            # Without a sync, a search inside the stalled frame would find a "frame" at every byte.
            skipped_bytes = 1 if self._sync else end - start
            counters.noise_bytes += skipped_bytes
            start += skipped_bytes
        self._held = bytearray(data[start:])

    def _give_up_stalled(self, frames: list[bytes]) -> None:
        self.counters.malformed += 1
        self._scan(bytes(self._held), frames, stalled=True)
