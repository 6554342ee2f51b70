"""Frames of one length: a lidar's, false syncs, and lost bytes."""

from __future__ import annotations

import pytest

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing.fixed import FixedFramer
from edge_gateway.records import Chunk

SILENCE_S = 0.005

LIDAR = bytes.fromhex("59 59 e8 03 2c 01 00 00 ca")
"""Benewake TFmini, SJ-GU-TFmini-01, table 5: 59 59, distance 1000, strength 300, two more, sum of the first eight."""


def lidar() -> FixedFramer:
    return FixedFramer(frame_bytes=9, sync=b"\x59\x59", silence_s=SILENCE_S)


def feed(framer: FixedFramer, data: bytes, at_s: float = 0.0) -> list[bytes]:
    return framer.feed([Chunk(at_s, data)])


def test_a_lidar_sends_nine_bytes() -> None:
    """TFmini frames come out whole, sync included, wherever a read cuts them, even within the sync."""
    framer = lidar()
    assert feed(framer, LIDAR + LIDAR[:1]) == [LIDAR]
    assert feed(framer, LIDAR[1:]) == [LIDAR]
    assert framer.encode(LIDAR) == LIDAR


def test_noise_before_a_sync_is_counted_and_skipped() -> None:
    """What stands before a sync is noise, to the byte, and no frame is lost."""
    framer = lidar()
    assert feed(framer, b"\x00\x59\x01" + LIDAR + b"\xff" + LIDAR) == [LIDAR, LIDAR]
    assert framer.counters == FramingCounters(frames=2, noise_bytes=4)


def test_a_false_sync_costs_the_frame_it_overlaps() -> None:
    """A sync in noise is believed: it takes bytes of the next frame with it, and the frame after that is clean."""
    framer = lidar()
    assert feed(framer, b"\x59\x59\x00" + LIDAR + LIDAR) == [b"\x59\x59\x00" + LIDAR[:6], LIDAR]
    assert framer.counters == FramingCounters(frames=2, noise_bytes=3)


def test_payload_that_looks_like_a_sync_does_no_harm_to_aligned_frames() -> None:
    """While frames follow each other, what is inside them is not searched."""
    frame = b"\x59" * 9
    assert feed(lidar(), frame * 3) == [frame] * 3


def test_silence_gives_a_half_frame_up() -> None:
    """After a silence the next byte begins a frame, so a lost byte costs one frame; a shorter pause changes nothing."""
    framer = FixedFramer(frame_bytes=4, sync=b"", silence_s=SILENCE_S)
    assert feed(framer, b"abc", at_s=1.0) == []
    assert feed(framer, b"1234", at_s=1.0 + SILENCE_S) == [b"1234"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=3)
    assert feed(framer, b"56", at_s=2.0) == []
    assert feed(framer, b"78", at_s=2.0 + SILENCE_S / 2) == [b"5678"]


def test_flush_gives_a_half_frame_up() -> None:
    """A flush after the silence returns nothing and leaves nothing behind."""
    framer = lidar()
    assert feed(framer, LIDAR[:5], at_s=1.0) == []
    assert framer.flush(1.0 + SILENCE_S) == []
    assert framer.counters == FramingCounters(malformed=1, noise_bytes=5)


def test_without_silence_a_half_frame_waits_for_ever() -> None:
    """With no `silence_s` a frame may pause as long as it likes."""
    framer = FixedFramer(frame_bytes=4, sync=b"", silence_s=None)
    assert feed(framer, b"12", at_s=1.0) == []
    assert framer.flush(1e6) == []
    assert feed(framer, b"34", at_s=1e6) == [b"1234"]


@pytest.mark.parametrize("payload", [LIDAR[:-1], LIDAR + b"\0", b"\x00" + LIDAR[1:]])
def test_a_payload_of_another_shape_is_refused(payload: bytes) -> None:
    """Only the one length, beginning with the sync, is sent."""
    with pytest.raises(CodecError) as refusal:
        lidar().encode(payload)
    assert refusal.value.remedy


def test_impossible_settings_are_refused() -> None:
    """A sync beyond the frame names the key and what would do."""
    with pytest.raises(ConfigError, match=r"framing\.frame_bytes"):
        FixedFramer(frame_bytes=1, sync=b"\x59\x59", silence_s=None)
