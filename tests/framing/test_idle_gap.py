"""Silence between frames: Modbus RTU's times, late flushes, and lines that never pause."""

from __future__ import annotations

import pytest

from edge_gateway.framing import FramingCounters
from edge_gateway.framing.idle_gap import IdleGapFramer
from edge_gateway.records import Chunk

REQUEST = bytes.fromhex("01 03 00 00 00 0a c5 cd")
"""Modbus RTU: read ten holding registers of device 1."""
BITS_OF_A_CHARACTER = 11
"""Start, eight data, parity or a second stop, stop: Modbus over Serial Line V1.02, 2.5.1."""


def modbus(baud: int) -> IdleGapFramer:
    """As the specification has it in 2.5.1.1: 3.5 characters, and 1.75 ms above 19200 bit/s."""
    silence_s = 3.5 * BITS_OF_A_CHARACTER / baud if baud <= 19_200 else 0.001_75
    return IdleGapFramer(silence_s=silence_s, max_frame_bytes=256)


def characters(frame: bytes, baud: int, start_s: float, pause_characters: float = 0.0) -> list[Chunk]:
    """Each character as its own read, at the time its last bit has come."""
    step_s = (1 + pause_characters) * BITS_OF_A_CHARACTER / baud
    return [Chunk(start_s + number * step_s, bytes([byte])) for number, byte in enumerate(frame, start=1)]


@pytest.mark.parametrize("baud", [1200, 9600, 19_200])
def test_modbus_frames_are_told_apart_by_their_gap(baud: int) -> None:
    """A gap of 3.5 characters ends a frame; one of 1.5 characters, the most allowed inside a frame, does not."""
    framer = modbus(baud)
    first = characters(REQUEST, baud, start_s=1000.0, pause_characters=1.5)
    second = characters(REQUEST, baud, start_s=first[-1].at_s + 3.5 * BITS_OF_A_CHARACTER / baud)
    assert framer.silence_s is not None
    assert framer.feed(first) == []
    assert framer.feed(second) == [REQUEST]
    assert framer.flush(second[-1].at_s + framer.silence_s) == [REQUEST]
    assert framer.counters == FramingCounters(frames=2)


def test_above_19200_the_gap_is_fixed() -> None:
    """At 115200 bit/s pauses of a millisecond lie within a frame and 1.75 ms end it."""
    framer = modbus(115_200)
    chunks = [Chunk(1000.0, REQUEST[:3]), Chunk(1000.001, REQUEST[3:]), Chunk(1000.002_75, REQUEST)]
    assert framer.feed(chunks) == [REQUEST]


def test_a_timer_set_for_the_silence_is_never_too_early() -> None:
    """A flush at the very time the silence is over ends the frame, whatever the rounding of the loop's clock."""
    framer = IdleGapFramer(silence_s=0.005, max_frame_bytes=256)
    for number in range(1000):
        at_s = 0.1 * number
        framer.feed([Chunk(at_s, REQUEST)])
        assert framer.flush(at_s + 0.005 - 1e-9) == [REQUEST]


def test_a_flush_too_early_waits() -> None:
    """Before the silence is over a flush changes nothing."""
    framer = IdleGapFramer(silence_s=0.005, max_frame_bytes=256)
    framer.feed([Chunk(1.0, REQUEST[:4])])
    assert framer.flush(1.004) == []
    framer.feed([Chunk(1.004, REQUEST[4:])])
    assert framer.flush(1.009) == [REQUEST]


def test_a_chunk_without_bytes_does_not_break_the_silence() -> None:
    """Only bytes count."""
    framer = IdleGapFramer(silence_s=0.005, max_frame_bytes=256)
    framer.feed([Chunk(1.0, REQUEST), Chunk(1.004, b"")])
    assert framer.feed([Chunk(1.005, REQUEST)]) == [REQUEST]


def test_a_line_that_never_pauses_is_counted_once_and_skipped_to_the_next_silence() -> None:
    """An oversized frame is given up while it comes, and its tail does not become a frame."""
    framer = IdleGapFramer(silence_s=0.005, max_frame_bytes=8)
    framer.feed([Chunk(1.0 + 0.001 * number, b"abc") for number in range(50)])
    assert framer.counters == FramingCounters(oversized=1, noise_bytes=150)
    assert framer.feed([Chunk(2.0, b"12345678")]) == []
    assert framer.flush(2.005) == [b"12345678"]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=150)
