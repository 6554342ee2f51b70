"""SLIP: frames ended by 0xC0, with that byte escaped inside them.

Source: RFC 1055. END (0xC0) ends a frame. Inside it, END is sent as ESC ESC_END (0xDB 0xDC) and ESC as ESC ESC_ESC
(0xDB 0xDD). Sending starts with an END as well, as the RFC advises: it ends whatever line noise came before, and a
receiver passes over the empty frame.

One departure: the RFC's example receiver keeps a byte that follows ESC and is neither of the two, hoping that a
checksum will tell. Such a frame is known to be damaged, so it is counted as malformed here and not passed on.

Resynchronises at the next END. A frame cut short takes the frame after it along, unless that one starts with an END.
"""

from __future__ import annotations

from typing import Final

from edge_gateway.errors import CodecError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing._cutter import Cutter
from edge_gateway.records import Chunk

_END = b"\xc0"
_ESC = b"\xdb"
_ESC_END = b"\xdb\xdc"
_ESC_ESC = b"\xdb\xdd"


class SlipFramer:
    """SLIP as in RFC 1055. Empty frames are passed over without a count.

    Args:
        max_frame_bytes: the largest payload let through. Held is at most twice that, a payload of nothing but escapes.
    """

    silence_s: Final = None

    def __init__(self, max_frame_bytes: int) -> None:
        self.max_frame_bytes: Final = max_frame_bytes
        self.counters: Final = FramingCounters()
        self._longest_stuffed_bytes = 2 * max_frame_bytes
        self._cutter = Cutter(_END, self._longest_stuffed_bytes, self.counters)

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the payloads whose END has come."""
        frames: list[bytes] = []
        for stuffed in self._cutter.cut(b"".join([chunk.data for chunk in chunks])):
            if _ESC in stuffed or len(stuffed) > self.max_frame_bytes:
                self._unstuff(bytes(stuffed), frames)
            elif stuffed:
                frames.append(bytes(stuffed))
        self.counters.frames += len(frames)
        return frames

    def flush(self, at_s: float) -> list[bytes]:  # noqa: ARG002 - silence means nothing to SLIP
        """Return nothing: a pause ends no frame."""
        return []

    def reset(self) -> None:
        """Forget the frame begun; its bytes are noise."""
        self._cutter.drop()

    def encode(self, payload: bytes) -> bytes:
        """Escape `payload` and put an END on either side.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`.
        """
        if not 1 <= len(payload) <= self.max_frame_bytes:
            raise CodecError(
                f"a payload of {len(payload)} bytes cannot be sent as one SLIP frame",
                remedy=f"send 1 to {self.max_frame_bytes} bytes, or raise max_frame_bytes",
            )
        # ESC first, so that the ESC of an escaped END is not escaped again.
        return _END + payload.replace(_ESC, _ESC_ESC).replace(_END, _ESC_END) + _END

    def _unstuff(self, stuffed: bytes, frames: list[bytes]) -> None:
        """Take the escapes out of a frame that has some, and judge its size."""
        counters = self.counters
        if len(stuffed) > self._longest_stuffed_bytes:
            counters.oversized += 1
            counters.noise_bytes += len(stuffed) + 1
        elif stuffed.count(_ESC) != stuffed.count(_ESC_END) + stuffed.count(_ESC_ESC):
            counters.malformed += 1
            counters.noise_bytes += len(stuffed) + 1
        else:
            # END first: what it restores is no ESC, so the second replacement meets only what was sent.
            payload = stuffed.replace(_ESC_END, _END).replace(_ESC_ESC, _ESC)
            if len(payload) > self.max_frame_bytes:
                counters.oversized += 1
                counters.noise_bytes += len(stuffed) + 1
            else:
                frames.append(payload)
