"""Modbus RTU: frames separated by silence, and answers that are known to be whole before it.

Source: "MODBUS over Serial Line, Specification and Implementation Guide V1.02", 2.5.1, and "MODBUS Application Protocol
Specification V1.1b3" for the lengths. The bytes say nothing of where a frame ends, so that silence decides
(`idle_gap`). Yet nothing is sent on such a line unasked, and every request goes through `encode`: it says how long
its answer is. So an answer ends as soon as its last byte is there, if its CRC is right, and nobody waits for a silence
that a USB adapter's lumps would make long. What is damaged or unknown ends by silence as ever.

Three frames are looked for after a request: the answer, the exception (5 bytes), and the request itself, which comes
back from a line with an echo, and as the answer to some functions. Which of them came is not judged here.

Resynchronises at the next silence, or at the next request, for which the line is forgotten by `reset`.
"""

from __future__ import annotations

from typing import NamedTuple

import fastcrc

from edge_gateway.framing.idle_gap import IdleGapFramer
from edge_gateway.records import Chunk

_CRC_BYTES = 2
_READ_BITS = (0x01, 0x02)
_READ_REGISTERS = (0x03, 0x04)
_WRITE_SEVERAL = (0x0F, 0x10)
_EXCEPTION = 0x80
_EXCEPTION_BYTES = 5
_READ_OVERHEAD_BYTES = 5
"""Unit, function, byte count and CRC."""
_WRITE_ANSWER_BYTES = 8
_MOST_DATA_BYTES = 255


class ModbusRtuFramer(IdleGapFramer):
    """Frames that end by silence, or, after a request, with the last byte of its answer.

    Args:
        silence_s: seconds without a byte that end a frame.
        max_frame_bytes: the largest frame let through. What follows a longer one is skipped up to the next silence.
    """

    def __init__(self, silence_s: float, max_frame_bytes: int) -> None:
        super().__init__(silence_s, max_frame_bytes)
        self._expected: tuple[_Expected, ...] = ()

    def feed(self, chunks: list[Chunk]) -> list[bytes]:
        """Return the frames that are now whole; a chunk without bytes does not break a silence."""
        frames: list[bytes] = []
        for chunk in chunks:
            for piece in self._pieces(chunk):
                frames += super().feed([piece])
                frames += self._whole()
        return frames

    def reset(self) -> None:
        """Forget the frame begun, whose bytes are noise, and the request."""
        super().reset()
        self._expected = ()

    def encode(self, payload: bytes) -> bytes:
        """Return `payload` itself, and remember what its answer looks like.

        Raises:
            CodecError: the payload is empty or larger than `max_frame_bytes`.
        """
        wire = super().encode(payload)
        self._expected = _expected(payload)
        return wire

    def _pieces(self, chunk: Chunk) -> list[Chunk]:
        """The chunk cut where a frame may end; how reads cut a stream must not change what is found in it."""
        if not self._expected:
            return [chunk]
        return [Chunk(chunk.at_s, bytes([byte])) for byte in chunk.data]

    def _whole(self) -> list[bytes]:
        held = self._held
        for expected in self._expected:
            if len(held) == expected.length_bytes and held.startswith(expected.mark, expected.mark_at):
                frame = bytes(held)
                if _crc_holds(frame):
                    held.clear()
                    self.counters.frames += 1
                    return [frame]
        return []


class _Expected(NamedTuple):
    """A frame that may come after a request."""

    length_bytes: int
    mark_at: int
    mark: bytes
    """What it holds there. Without it, the beginning of one frame might be taken for another, as a CRC of two bytes
    holds for one of 65536."""


def _expected(request: bytes) -> tuple[_Expected, ...]:
    if len(request) < 2 + _CRC_BYTES:
        return ()
    function = request[1]
    count = int.from_bytes(request[4:6], "big")
    expected = [
        _Expected(len(request), 0, request),
        _Expected(_EXCEPTION_BYTES, 1, bytes([function | _EXCEPTION])),
    ]
    if function in _WRITE_SEVERAL:
        expected.append(_Expected(_WRITE_ANSWER_BYTES, 1, request[1:6]))
    elif function in (*_READ_BITS, *_READ_REGISTERS):
        data_bytes = 2 * count if function in _READ_REGISTERS else -(-count // 8)
        if data_bytes <= _MOST_DATA_BYTES:
            expected.append(_Expected(_READ_OVERHEAD_BYTES + data_bytes, 1, bytes([function, data_bytes])))
    return tuple(expected)


def _crc_holds(frame: bytes) -> bool:
    return int(fastcrc.crc16.modbus(frame[:-_CRC_BYTES])).to_bytes(_CRC_BYTES, "little") == frame[-_CRC_BYTES:]
