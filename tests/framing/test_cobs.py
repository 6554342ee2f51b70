"""COBS: the published examples, full blocks, and what breaks the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.framing import FramingCounters
from edge_gateway.framing.cobs import CobsFramer
from edge_gateway.records import Chunk

EXAMPLES = [
    pytest.param("00", "01 01 00", id="one zero"),
    pytest.param("00 00", "01 01 01 00", id="two zeros"),
    pytest.param("00 11 00", "01 02 11 01 00", id="zeros around"),
    pytest.param("11 22 00 33", "03 11 22 02 33 00", id="zero inside"),
    pytest.param("11 22 33 44", "05 11 22 33 44 00", id="no zero"),
    pytest.param("11 00 00 00", "02 11 01 01 01 00", id="zeros at the end"),
    pytest.param(bytes(range(1, 255)).hex(), "ff" + bytes(range(1, 255)).hex() + "00", id="01..fe, a full block"),
    pytest.param(
        bytes(range(255)).hex(), "01 ff" + bytes(range(1, 255)).hex() + "00", id="00..fe, a full block at the end"
    ),
    pytest.param(
        bytes(range(1, 256)).hex(), "ff" + bytes(range(1, 255)).hex() + "02 ff 00", id="01..ff, beyond a full block"
    ),
    pytest.param(
        bytes([*range(2, 256), 0]).hex(),
        "ff" + bytes(range(2, 256)).hex() + "01 01 00",
        id="02..ff 00, a zero after a full block",
    ),
    pytest.param(
        bytes([*range(3, 256), 0, 1]).hex(),
        "fe" + bytes(range(3, 256)).hex() + "02 01 00",
        id="03..ff 00 01, one short of a full block",
    ),
    pytest.param(
        "45 00 00 2c 4c 79 00 00 40 06 4f 37",
        "02 45 01 04 2c 4c 79 01 05 40 06 4f 37 00",
        id="the IP header in the paper of Cheshire and Baker",
    ),
]
"""Payload and wire. The first eleven are the examples of the Wikipedia article on COBS."""


def feed(framer: CobsFramer, data: bytes) -> list[bytes]:
    return framer.feed([Chunk(0.0, data)])


@pytest.mark.parametrize(("payload", "wire"), EXAMPLES)
def test_published_examples_hold_in_both_directions(payload: str, wire: str) -> None:
    """The published examples are encoded and decoded as published."""
    framer = CobsFramer(max_frame_bytes=1024)
    assert framer.encode(bytes.fromhex(payload)) == bytes.fromhex(wire)
    assert feed(framer, bytes.fromhex(wire)) == [bytes.fromhex(payload)]


@given(payload=st.binary(min_size=1, max_size=2000), zeros=st.sampled_from([b"\0", b"\1", b"\xff"]))
def test_long_payloads_come_back(payload: bytes, zeros: bytes) -> None:
    """Payloads of many blocks, with many, few or no zeros, come back as they were."""
    payload = payload.replace(b"\0", zeros)
    framer = CobsFramer(max_frame_bytes=2000)
    wire = framer.encode(payload)
    assert wire.index(0) == len(wire) - 1
    assert len(wire) <= len(payload) + len(payload) // 254 + 2
    assert feed(framer, wire) == [payload]


def test_an_encoder_that_closes_a_full_block_is_understood() -> None:
    """Some encoders send an empty last block after a full one; the payload is the same."""
    block = bytes(range(1, 255))
    assert feed(CobsFramer(max_frame_bytes=254), b"\xff" + block + b"\x01\x00") == [block]


def test_empty_frames_are_neither_frames_nor_noise() -> None:
    """Zeros in a row, a zero before a frame, and a frame of an empty payload pass without a count."""
    framer = CobsFramer(max_frame_bytes=8)
    assert feed(framer, bytes.fromhex("00 00 02 07 00 01 00 00 02 08 00")) == [b"\x07", b"\x08"]
    assert framer.counters == FramingCounters(frames=2)


@pytest.mark.parametrize("piece", ["05 11", "02 11 03", "ff 11 22", "01 03 11"])
def test_a_code_past_the_end_is_malformed(piece: str) -> None:
    """A frame whose code points past its end is counted, with its delimiter, as noise; the next one comes out."""
    framer = CobsFramer(max_frame_bytes=8)
    broken = bytes.fromhex(piece) + b"\0"
    assert feed(framer, broken + bytes.fromhex("02 07 00")) == [b"\x07"]
    assert framer.counters == FramingCounters(frames=1, malformed=1, noise_bytes=len(broken))


@pytest.mark.parametrize("max_frame_bytes", [1, 4, 253, 254, 255, 508, 600])
def test_the_largest_frame_passes_and_one_byte_more_does_not(max_frame_bytes: int) -> None:
    """`max_frame_bytes` is exact, with and without zeros in the payload, and an oversized frame is counted once."""
    large = CobsFramer(max_frame_bytes=2000)
    for filler in (b"\0", b"\x07"):
        framer = CobsFramer(max_frame_bytes)
        fits = filler * max_frame_bytes
        oversized = large.encode(fits + filler)
        assert feed(framer, large.encode(fits) + oversized + large.encode(fits)) == [fits, fits]
        assert framer.counters == FramingCounters(frames=2, oversized=1, noise_bytes=len(oversized))


def test_an_oversized_frame_is_skipped_while_it_comes() -> None:
    """A frame that goes on and on is counted once, when it outgrows the limit, and skipped to its delimiter."""
    framer = CobsFramer(max_frame_bytes=8)
    for _ in range(100):
        assert feed(framer, b"\x07" * 5) == []
    assert framer.counters == FramingCounters(oversized=1, noise_bytes=500)
    assert feed(framer, b"\x07\0\x02\x07\0") == [b"\x07"]
    assert framer.counters == FramingCounters(frames=1, oversized=1, noise_bytes=502)
