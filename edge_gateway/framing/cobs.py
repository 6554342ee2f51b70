"""Consistent Overhead Byte Stuffing: frames without a zero byte, ended by one.

Source: S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking 7(2), 1999. A
stuffed frame is a chain of blocks. Each starts with a code byte that says how far it is to the next one; where the next
one stands, the payload had a zero. Code 0xFF is the exception: 254 payload bytes follow and no zero.

So unstuffing needs no copy: walk from code to code and write the zero back into its place. That costs a step for each
zero of the payload and not for each byte, and only a block of 0xFF, which no frame below 255 bytes can hold, needs its
code byte taken out.

Resynchronises at the next zero byte. A frame cut short takes the frame after it along, unless the device sends a zero
before a frame too; such an empty frame is neither frame nor noise.
"""

from __future__ import annotations

from typing import Final

from edge_gateway.errors import CodecError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._cutter import Cutter
from edge_gateway.records import Chunk

_FULL_BLOCK_BYTES = 254
"""Payload bytes in a block of code 0xFF."""


class CobsFramer:
    """COBS with 0x00 as delimiter.

    A frame whose code points past its end is malformed. Two delimiters in a row, or a frame that holds an empty
    payload, are passed over without a count.

    Args:
        max_frame_bytes: the largest payload let through. Held is at most what stuffing makes of it: one byte more, and
            one for each 254.
    """

    silence_s: Final = None

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._longest_stuffed_bytes = max_frame_bytes + 1 + max_frame_bytes // _FULL_BLOCK_BYTES
        # Up to here a stuffed frame has no room for a full block, and its payload, one byte less, is never too large.
        self._plain_stuffed_bytes = min(max_frame_bytes + 1, _FULL_BLOCK_BYTES)
        self._cutter = Cutter(b"\0", self._longest_stuffed_bytes, self.counters)

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the payloads whose delimiter has come."""
        frames: list[bytes] = []
        plain_stuffed_bytes = self._plain_stuffed_bytes
        for stuffed in self._cutter.cut(b"".join([chunk.data for chunk in chunks])):
            end = len(stuffed)
            if end > plain_stuffed_bytes:
                self._unstuff_long(stuffed, frames)
                continue
            at = 0
            while at < end:
                code = stuffed[at]
                stuffed[at] = 0
                at += code
            if at != end:
                self.counters.malformed += 1
                self.counters.noise_bytes += end + 1
            elif end > 1:
                del stuffed[0]
                frames.append(bytes(stuffed))
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to COBS
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._cutter.drop()

    def encode(self, payload: bytes) -> bytes:
        """Stuff `payload` and end it with the delimiter.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one COBS frame",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        stuffed = bytearray()
        full_block_last = False
        for run in payload.split(b"\0"):
            start = 0
            while len(run) - start >= _FULL_BLOCK_BYTES:
                stuffed.append(0xFF)
                stuffed += run[start : start + _FULL_BLOCK_BYTES]
                start += _FULL_BLOCK_BYTES
            full_block_last = start == len(run) > 0
            stuffed.append(len(run) - start + 1)
            stuffed += run[start:]
        if full_block_last:
            # The last block stands for no zero, and neither does a full one: the empty block after it says nothing.
            del stuffed[-1]
        stuffed.append(0)
        return bytes(stuffed)

    def _unstuff_long(self, stuffed: bytearray, frames: list[bytes]) -> None:
        """Unstuff what may hold full blocks or be too large."""
        counters = self.counters
        end = len(stuffed)
        if end > self._longest_stuffed_bytes:
            counters.oversized += 1
            counters.noise_bytes += end + 1
            return
        payload = bytearray()
        at = 0
        while at < end:
            code = stuffed[at]
            payload += stuffed[at + 1 : at + code]
            at += code
            if code != 0xFF and at < end:
                payload.append(0)
        if at != end:
            counters.malformed += 1
            counters.noise_bytes += end + 1
        elif len(payload) > self.max_frame_bytes:
            counters.oversized += 1
            counters.noise_bytes += end + 1
        else:
            frames.append(bytes(payload))
