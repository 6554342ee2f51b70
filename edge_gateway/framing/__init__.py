"""Bytes to whole frames, and back.

Pure: no I/O, no clock, no asyncio; time comes in as an argument. Bounded: no framer ever holds more than one frame of
the largest size. Resynchronising: whatever bytes come, the next clean frame after them is found again (each framer says
after how much). Noise is counted and skipped, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_gateway.records import Chunk


@dataclass(slots=True)
class FramingCounters:
    """What a framer saw since it was made. Only ever grows."""

    frames: int = 0
    noise_bytes: int = 0
    """Bytes that belonged to no whole frame."""
    malformed: int = 0
    """Times bytes were given up because they broke the framing's rules."""
    oversized: int = 0
    """Times bytes were given up because a frame outgrew `max_frame_bytes`."""


class Framer(Protocol):
    """Finds the frames of one link in its bytes."""

    @property
    def counters(self) -> FramingCounters:
        """Counts since the framer was made."""
        ...

    @property
    def max_frame_bytes(self) -> int:
        """The largest frame this framer lets through, without delimiters and stuffing."""
        ...

    @property
    def silence_s(self) -> float | None:
        """For a framer that ends frames by silence: call `flush` after this many seconds without bytes. Else None."""
        ...

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Take what was read, in order, and return the frames that are now whole, in order."""
        ...

    def flush(self, at_s: float) -> list[bytes]:
        """Say that no byte came up to `at_s` (event loop seconds); return a frame the silence completed, if any."""
        ...

    def reset(self) -> None:
        """Forget a half-received frame, for instance because the cable was pulled; its bytes count as noise."""
        ...

    def encode(self, payload: bytes) -> bytes:
        """The bytes that carry `payload` over the wire as one frame.

        Raises:
            CodecError: the payload cannot be framed: too large, empty, or of a length this framing does not have.
        """
        ...


from edge_gateway.framing.select import make_framer  # noqa: E402 - the framers implement what is declared above

__all__ = ["Framer", "FramingCounters", "make_framer"]
