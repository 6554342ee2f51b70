"""SHDLC: what the sensor maker's drivers send and expect, to the byte."""

from __future__ import annotations

import pytest

from edge_gateway.framing import FramingCounters
from edge_gateway.framing.shdlc import ShdlcFramer
from edge_gateway.records import Chunk


def feed(framer: ShdlcFramer, wire: str) -> list[bytes]:
    return framer.feed([Chunk(0.0, bytes.fromhex(wire))])


@pytest.mark.parametrize(
    ("payload", "wire"),
    [
        pytest.param("00 03 00 fc", "7e 00 03 00 fc 7e", id="read measured values"),
        pytest.param("00 00 02 01 03 f9", "7e 00 00 02 01 03 f9 7e", id="start measurement"),
        pytest.param(
            "7e 7d 04 11 12 13 14 b6", "7e 7d 5e 7d 5d 04 7d 31 12 7d 33 14 b6 7e", id="request with every escape"
        ),
        pytest.param(
            "7e 7d 11 03 12 13 14 b7", "7e 7d 5e 7d 5d 7d 31 03 12 7d 33 14 b7 7e", id="answer with every escape"
        ),
    ],
)
def test_frames_travel_as_the_makers_driver_sends_them(payload: str, wire: str) -> None:
    """Flag, escape and the codes of flow control are escaped, in both directions."""
    framer = ShdlcFramer(max_frame_bytes=16)
    assert framer.encode(bytes.fromhex(payload)) == bytes.fromhex(wire)
    assert feed(framer, wire) == [bytes.fromhex(payload)]


def test_flow_control_codes_may_come_unescaped() -> None:
    """A receiver takes 0x11 and 0x13 as they are."""
    assert feed(ShdlcFramer(max_frame_bytes=16), "7e 11 13 7e") == [b"\x11\x13"]


def test_a_frame_cut_short_does_not_take_the_next_along() -> None:
    """The flag that starts a frame ends what came before it."""
    assert feed(ShdlcFramer(max_frame_bytes=16), "7e 00 03 7e 00 03 00 fc 7e")[-1] == bytes.fromhex("000300fc")


@pytest.mark.parametrize("piece", ["01 7d 02", "7d", "01 7d 7d 5e", "7d 7d 5d"])
def test_an_unknown_escape_is_malformed(piece: str) -> None:
    """An escape before anything but its four codes spoils the frame; the next one comes out."""
    framer = ShdlcFramer(max_frame_bytes=16)
    assert feed(framer, piece + "7e 07 7e") == [b"\x07"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=len(bytes.fromhex(piece)) + 1)


@pytest.mark.parametrize("filler", [b"\x07", b"\x7e", b"\x7d", b"\x11"])
def test_the_largest_frame_passes_and_one_byte_more_does_not(filler: bytes) -> None:
    """`max_frame_bytes` counts the payload, however much of it is escaped."""
    wire = ShdlcFramer(max_frame_bytes=17).encode(filler * 17)
    framer = ShdlcFramer(max_frame_bytes=16)
    assert framer.feed([Chunk(0.0, framer.encode(filler * 16) + wire)]) == [filler * 16]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=len(wire) - 1)
