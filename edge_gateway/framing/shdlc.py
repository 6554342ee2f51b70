"""SHDLC: frames between 0x7E flags, with four byte values escaped inside them.

Source: Sensirion's serial protocol, as its own drivers speak it. A frame stands between two flags (0x7E). Inside it,
the flag, the escape (0x7D) and the two codes of software flow control (0x11, 0x13) are sent as the escape and the byte
with bit 5 turned: 0x7E as 0x7D 0x5E. A frame's checksum is inside the flags and escaped like the rest; it is the
codec's.

A receiver takes the two flow control codes unescaped as well, as the drivers do. An escape before anything but the four
codes is damage, so that frame is counted as malformed and not passed on.

Resynchronises at the next flag. A frame cut short does not take the one behind it along, as that starts with a flag of
its own.
"""

from __future__ import annotations

import re
from typing import Final

from edge_gateway.errors import CodecError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._cutter import Cutter
from edge_gateway.records import Chunk

_FLAG = b"\x7e"
_ESCAPE = b"\x7d"
_TURNED_BIT = 0x20
_TO_ESCAPE = re.compile(rb"[\x7e\x7d\x11\x13]")
_ESCAPED = re.compile(rb"\x7d([\x5e\x5d\x31\x33])")


class ShdlcFramer:
    """SHDLC as Sensirion's sensors speak it. Empty frames are passed over without a count.

    Args:
        max_frame_bytes: the largest payload let through. Held is at most twice that, a payload of nothing but escapes.
    """

    silence_s: Final = None

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._longest_stuffed_bytes = 2 * max_frame_bytes
        self._cutter = Cutter(_FLAG, self._longest_stuffed_bytes, self.counters)

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the payloads whose closing flag has come."""
        frames: list[bytes] = []
        for stuffed in self._cutter.cut(b"".join([chunk.data for chunk in chunks])):
            if stuffed:
                self._unstuff(bytes(stuffed), frames)
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to SHDLC
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._cutter.drop()

    def encode(self, payload: bytes) -> bytes:
        """Escape `payload` and put a flag on either side.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one SHDLC frame",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        return _FLAG + _TO_ESCAPE.sub(lambda found: _ESCAPE + _turned(found[0]), payload) + _FLAG

    def _unstuff(self, stuffed: bytes, frames: list[bytes]) -> None:
        """Take the escapes out of a frame, and judge its size."""
        counters = self.counters
        if len(stuffed) > self._longest_stuffed_bytes:
            counters.oversized += 1
        elif stuffed.count(_ESCAPE) != len(_ESCAPED.findall(stuffed)):
            counters.malformed += 1
        else:
            payload = _ESCAPED.sub(lambda found: _turned(found[1]), stuffed)
            if len(payload) <= self.max_frame_bytes:
                frames.append(payload)
                return
            counters.oversized += 1
        counters.noise_bytes += len(stuffed) + 1


def _turned(byte: bytes) -> bytes:
    return bytes([byte[0] ^ _TURNED_BIT])
