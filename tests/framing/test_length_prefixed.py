"""Length fields: a particle sensor's frames, every width, false syncs, and frames that stall."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.errors import CodecError, ConfigError
from edge_gateway.framing import FramingCounters
from edge_gateway.framing.length_prefixed import STALLED_AFTER_S, LengthPrefixedFramer
from edge_gateway.records import Chunk


def particles(max_frame_bytes: int = 64) -> LengthPrefixedFramer:
    """PMS5003, data manual V2.3, transport protocol: 42 4d, then a length of 28 that counts what follows it."""
    return LengthPrefixedFramer(
        sync=b"\x42\x4d",
        length_offset=2,
        length_bytes=2,
        endian="big",
        length_adds=0,
        max_frame_bytes=max_frame_bytes,
    )


PARTICLES = bytes.fromhex("424d001c") + bytes(range(100, 128))
"""A frame of the PMS5003: four bytes of header and the 28 they tell of."""


def feed(framer: LengthPrefixedFramer, data: bytes, at_s: float = 0.0) -> list[bytes]:
    return framer.feed([Chunk(at_s, data)])


def test_a_particle_sensor_sends_32_bytes() -> None:
    """A PMS5003 frame is whole with its 32nd byte, header included, and not earlier."""
    framer = particles()
    assert feed(framer, PARTICLES[:31]) == []
    assert feed(framer, PARTICLES[31:]) == [PARTICLES]
    assert framer.encode(PARTICLES) == PARTICLES


@pytest.mark.parametrize(
    ("length_bytes", "endian", "field"),
    [
        (1, "big", "05"),
        (1, "little", "05"),
        (2, "big", "00 05"),
        (2, "little", "05 00"),
        (4, "big", "00 00 00 05"),
        (4, "little", "05 00 00 00"),
    ],
)
def test_every_width_and_order_is_read(
    length_bytes: Literal[1, 2, 4], endian: Literal["big", "little"], field: str
) -> None:
    """The length field is read with its width and byte order, wherever it stands."""
    framer = LengthPrefixedFramer(b"\xa5", 3, length_bytes, endian, 0, 32)
    frame = b"\xa5\x01\x02" + bytes.fromhex(field) + b"hello"
    assert feed(framer, frame + frame) == [frame, frame]


def test_a_length_of_the_whole_frame_is_told_by_a_negative_addition() -> None:
    """Benewake TFmini Plus, manual A04, 8.2: the length counts head and itself, so two are taken off."""
    framer = LengthPrefixedFramer(b"\x5a", 1, 1, "little", -2, 32)
    version_request = bytes.fromhex("5a 04 01 5f")
    assert framer.encode(version_request) == version_request
    assert feed(framer, version_request) == [version_request]


def test_a_length_that_leaves_a_checksum_out_is_told_by_a_positive_addition() -> None:
    """Bytes the field does not count, such as a checksum of two, are added."""
    framer = LengthPrefixedFramer(b"\x5a", 1, 1, "little", 2, 32)
    assert feed(framer, b"\x5a\x01\x07\xcc\xcc\x5a") == [b"\x5a\x01\x07\xcc\xcc"]


def test_a_real_frame_inside_a_refused_one_is_found() -> None:
    """A false sync with an impossible length costs one byte: the frame that begins in its header comes out."""
    framer = particles()
    assert feed(framer, b"\x42\x4d" + PARTICLES) == [PARTICLES]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=2)


def test_a_length_below_the_header_is_malformed() -> None:
    """A length that would end the frame within its own header is refused, and the search goes on behind the sync."""
    framer = LengthPrefixedFramer(b"\x5a", 1, 1, "little", -2, 32)
    assert feed(framer, b"\x5a\x01\x5a\x03\x07") == [b"\x5a\x03\x07"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=2)


def test_a_false_sync_with_a_plausible_length_is_left_to_the_codec() -> None:
    """What looks like a frame comes out as one; the search goes on behind it and finds the next clean frame."""
    framer = particles()
    false = bytes.fromhex("424d0004 11223344")
    assert feed(framer, false + PARTICLES) == [false, PARTICLES]


@given(noise=st.lists(st.sampled_from([b"\x42", b"\x4d", b"\x42\x4d", b"\x00", b"\x00\x3c", b"\xff"])).map(b"".join))
@settings(deadline=None)
def test_without_silence_noise_costs_at_most_one_largest_frame(noise: bytes) -> None:
    """Clean frames that begin beyond `max_frame_bytes` after any noise all come out, without a pause."""
    framer = particles(max_frame_bytes=64)
    frames = feed(framer, noise + PARTICLES * 5)
    assert frames[-3:] == [PARTICLES] * 3


@given(noise=st.binary(max_size=60).filter(lambda data: b"\x42" not in data))
def test_noise_without_a_sync_costs_no_frame(noise: bytes) -> None:
    """Noise that does not imitate the sync is counted to the byte and costs nothing."""
    framer = particles()
    assert feed(framer, noise + PARTICLES) == [PARTICLES]
    assert framer.counters == FramingCounters(frames=1, noise_bytes=len(noise))


def test_a_stalled_frame_gives_back_what_it_swallowed() -> None:
    """When a false frame waits for bytes that do not come, the real frame inside it comes out with the flush."""
    framer = particles()
    assert feed(framer, bytes.fromhex("424d003c") + PARTICLES, at_s=10.0) == []
    assert framer.flush(10.0 + STALLED_AFTER_S / 2) == []
    assert framer.flush(10.0 + STALLED_AFTER_S) == [PARTICLES]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=4)


def test_a_stalled_frame_is_given_up_when_bytes_come_after_the_silence() -> None:
    """Without a flush the next read does the same, before its own bytes are looked at."""
    framer = particles()
    assert feed(framer, PARTICLES[:20], at_s=10.0) == []
    assert feed(framer, PARTICLES, at_s=10.0 + STALLED_AFTER_S) == [PARTICLES]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=20)


def test_a_frame_may_come_in_parts_shorter_than_the_stall_apart() -> None:
    """Only a single pause counts: a slow frame of many short pauses is whole in the end."""
    framer = particles()
    parts = [Chunk(number * STALLED_AFTER_S * 0.9, bytes([byte])) for number, byte in enumerate(PARTICLES)]
    assert framer.feed(parts) == [PARTICLES]


def test_without_a_sync_a_stalled_frame_is_dropped_whole() -> None:
    """No byte inside it is more likely a beginning than another, so none is guessed; after the silence all is well."""
    framer = LengthPrefixedFramer(b"", 0, 1, "big", 0, 32)
    assert feed(framer, b"\x09\x01\x07\x01\x07", at_s=10.0) == []
    assert feed(framer, b"\x01\x07", at_s=10.0 + STALLED_AFTER_S) == [b"\x01\x07"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=5)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(PARTICLES[:-1], id="shorter than the field tells"),
        pytest.param(PARTICLES + b"\0", id="longer than the field tells"),
        pytest.param(b"\x42" + PARTICLES, id="no sync"),
        pytest.param(PARTICLES[:3], id="no whole header"),
        pytest.param(bytes.fromhex("424d003d") + bytes(61), id="beyond the largest frame"),
    ],
)
def test_a_payload_whose_header_is_wrong_is_refused(payload: bytes) -> None:
    """The payload is the whole frame; one that a receiver would cut elsewhere is not sent."""
    with pytest.raises(CodecError) as refusal:
        particles().encode(payload)
    assert refusal.value.remedy


def test_impossible_settings_are_refused() -> None:
    """A length field inside the sync and a header beyond the largest frame name the key and what would do."""
    with pytest.raises(ConfigError, match=r"framing\.length_offset"):
        LengthPrefixedFramer(b"\x42\x4d", 1, 2, "big", 0, 64)
    with pytest.raises(ConfigError, match=r"framing\.max_frame_bytes"):
        LengthPrefixedFramer(b"\x42\x4d", 2, 2, "big", 0, 3)
