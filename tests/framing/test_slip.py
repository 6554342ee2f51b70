"""SLIP: RFC 1055 to the byte, and the one departure from it."""

from __future__ import annotations

import pytest

from edge_gateway.framing import FramingCounters
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.records import Chunk


def feed(framer: SlipFramer, wire: str) -> list[bytes]:
    return framer.feed([Chunk(0.0, bytes.fromhex(wire))])


@pytest.mark.parametrize(
    ("payload", "wire"),
    [
        pytest.param("01 02 03", "c0 01 02 03 c0", id="nothing to escape"),
        pytest.param("c0", "c0 db dc c0", id="END becomes ESC ESC_END"),
        pytest.param("db", "c0 db dd c0", id="ESC becomes ESC ESC_ESC"),
        pytest.param("db dc", "c0 db dd dc c0", id="ESC before a byte that looks like an escape"),
        pytest.param("dc dd", "c0 dc dd c0", id="escape codes alone are plain bytes"),
        pytest.param("c0 db c0 db", "c0 db dc db dd db dc db dd c0", id="nothing but escapes"),
    ],
)
def test_special_bytes_travel_as_in_rfc_1055(payload: str, wire: str) -> None:
    """END and ESC are escaped as in RFC 1055, in both directions; an END stands on either side."""
    framer = SlipFramer(max_frame_bytes=16)
    assert framer.encode(bytes.fromhex(payload)) == bytes.fromhex(wire)
    assert feed(framer, wire) == [bytes.fromhex(payload)]


def test_the_leading_end_flushes_line_noise() -> None:
    """Line noise before the END that starts a frame becomes a frame of its own and does not spoil the next one."""
    framer = SlipFramer(max_frame_bytes=16)
    assert feed(framer, "55 aa c0 01 02 c0") == [b"\x55\xaa", b"\x01\x02"]


def test_a_sender_without_leading_end_is_understood() -> None:
    """Frames separated by single ENDs are told apart."""
    framer = SlipFramer(max_frame_bytes=16)
    assert feed(framer, "01 02 c0 03 c0") == [b"\x01\x02", b"\x03"]


def test_empty_frames_are_neither_frames_nor_noise() -> None:
    """ENDs in a row pass without a count."""
    framer = SlipFramer(max_frame_bytes=16)
    assert feed(framer, "c0 c0 c0 01 c0 c0") == [b"\x01"]
    assert framer.counters == FramingCounters(frames=1)


@pytest.mark.parametrize("piece", ["01 db 02", "db", "01 db db dc", "db de"])
def test_an_unknown_escape_is_malformed(piece: str) -> None:
    """ESC before anything but its two codes spoils the frame, unlike in the RFC's example; the next one comes out."""
    framer = SlipFramer(max_frame_bytes=16)
    assert feed(framer, piece + "c0 07 c0") == [b"\x07"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=len(bytes.fromhex(piece)) + 1)


@pytest.mark.parametrize("filler", [b"\x07", b"\xc0", b"\xdb"])
def test_the_largest_frame_passes_and_one_byte_more_does_not(filler: bytes) -> None:
    """`max_frame_bytes` counts the payload, however much of it is escaped."""
    wire = SlipFramer(max_frame_bytes=17).encode(filler * 17)
    framer = SlipFramer(max_frame_bytes=16)
    assert framer.feed([Chunk(0.0, framer.encode(filler * 16) + wire)]) == [filler * 16]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=len(wire) - 1)
