"""Frames: what AMQP 1.0 cuts a connection's bytes into (OASIS amqp-core-transport-v1.0, section 2.3); no I/O.

A frame has a kind (AMQP or SASL), a channel, and a body: one composite, and behind a transfer the message's bytes. A
body of nothing says that its sender is alive. Protocol headers, eight bytes that say what follows, come between frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from edge_gateway.testbench.cloud.amqp.values import Malformed

AMQP, SASL = 0, 1
AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
FRAME_HEAD_BYTES = 8
_HEAD = Struct(">IBBH")
"""Size of the frame in bytes, data offset in words of four bytes, kind, channel."""
_OFFSET = 2


class Frame(NamedTuple):
    """One frame, its body unread."""

    kind: int
    channel: int
    body: bytes = b""

    def encode(self) -> bytes:
        """The frame's bytes."""
        return _HEAD.pack(FRAME_HEAD_BYTES + len(self.body), _OFFSET, self.kind, self.channel) + self.body


class FrameReader:
    """Finds frames and protocol headers in the bytes of one direction of one connection.

    Args:
        max_frame_bytes: the largest frame accepted, counted with its head. It holds less than one of these.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._partial = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame | bytes]:
        """Take what was read and give the frames and protocol headers (bytes) that are now whole, in order.

        Raises:
            Malformed: what follows is neither. What came before it has been given.
        """
        self._partial += data
        while len(self._partial) >= FRAME_HEAD_BYTES:
            if self._partial.startswith(b"AMQP"):
                yield self._take(FRAME_HEAD_BYTES)
                continue
            size, offset, kind, channel = _HEAD.unpack_from(self._partial)
            if not FRAME_HEAD_BYTES <= size <= self._max_frame_bytes:
                raise Malformed(f"frame of {size} bytes, {self._max_frame_bytes} are allowed")
            if not FRAME_HEAD_BYTES <= 4 * offset <= size or kind not in (AMQP, SASL):
                raise Malformed(f"frame of kind {kind} with an offset of {offset}")
            if len(self._partial) < size:
                return
            yield Frame(kind, channel, self._take(size)[4 * offset :])

    def _take(self, size: int) -> bytes:
        taken = bytes(self._partial[:size])
        del self._partial[:size]
        return taken
