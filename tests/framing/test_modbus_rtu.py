"""Modbus RTU: an answer that was asked for ends with its last byte, everything else by silence."""

from __future__ import annotations

import random

import fastcrc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.framing.modbus_rtu import ModbusRtuFramer
from edge_gateway.records import Chunk

SILENCE_S = 0.5


def sealed(hexed: str) -> bytes:
    body = bytes.fromhex(hexed)
    return body + int(fastcrc.crc16.modbus(body)).to_bytes(2, "little")


def asked(request: bytes) -> ModbusRtuFramer:
    framer = ModbusRtuFramer(SILENCE_S, max_frame_bytes=256)
    framer.encode(request)
    return framer


READ = sealed("01 04 00 00 00 02")
ANSWERS = [
    pytest.param(READ, sealed("01 04 04 43 66 33 34"), id="registers"),
    pytest.param(READ, sealed("02 04 04 43 66 33 34"), id="registers of another unit"),
    pytest.param(READ, sealed("01 84 02"), id="exception"),
    pytest.param(READ, READ, id="echo"),
    pytest.param(sealed("01 01 00 13 00 13"), sealed("01 01 03 cd 6b 05"), id="19 coils"),
    pytest.param(sealed("01 06 00 01 00 03"), sealed("01 06 00 01 00 03"), id="one register written"),
    pytest.param(sealed("01 10 00 1c 00 02 04 40 00 00 00"), sealed("01 10 00 1c 00 02"), id="two registers written"),
    pytest.param(sealed("01 42"), sealed("01 42"), id="a maker's own function that is answered by itself"),
]


@pytest.mark.parametrize(("request_frame", "answer"), ANSWERS)
def test_an_answer_ends_with_its_last_byte(request_frame: bytes, answer: bytes) -> None:
    """No silence is waited for, however the reads cut the answer, and a byte behind it is another frame's."""
    framer = asked(request_frame)
    for byte in answer[:-1]:
        assert framer.feed([Chunk(1.0, bytes([byte]))]) == []
    assert framer.feed([Chunk(1.0, answer[-1:] + b"\0")]) == [answer]
    assert framer.flush(1.0 + SILENCE_S) == [b"\0"]


def test_an_echo_and_the_answer_behind_it_are_two_frames() -> None:
    """An adapter that hears itself gives the request first; the answer follows without a pause."""
    answer = sealed("01 04 04 43 66 33 34")
    assert asked(READ).feed([Chunk(1.0, READ + answer)]) == [READ, answer]
    write = sealed("01 06 00 01 00 03")
    assert asked(write).feed([Chunk(1.0, write + write)]) == [write, write]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(sealed("01 04 04 43 66 33 34")[:-1] + b"\xff", id="wrong CRC"),
        pytest.param(b"\0" + sealed("01 04 04 43 66 33 34"), id="a byte of noise before it"),
        pytest.param(sealed("01 04 02 43 66"), id="fewer registers than asked for"),
        pytest.param(sealed("01 03 04 43 66 33 34"), id="another function"),
    ],
)
def test_what_was_not_asked_for_ends_by_silence(wire: bytes) -> None:
    """Damage is handed on whole, for its reason to be counted, and the next frame is found behind the silence."""
    framer = asked(READ)
    assert framer.feed([Chunk(1.0, wire)]) == []
    answer = sealed("01 04 04 00 00 00 00")
    assert framer.feed([Chunk(1.0 + SILENCE_S, answer)]) == [wire, answer]


def test_a_reset_forgets_the_request() -> None:
    """After the cable was pulled, nothing is expected and silence alone ends frames."""
    framer = asked(READ)
    framer.reset()
    assert framer.feed([Chunk(1.0, sealed("01 84 02"))]) == []


@given(st.binary(max_size=12), st.lists(st.binary(max_size=20), max_size=6), st.integers(0, 2**32))
def test_no_byte_is_lost_or_doubled(request_frame: bytes, lumps: list[bytes], seed: int) -> None:
    """Whatever was asked and whatever comes, the frames are the bytes in their order, however reads cut them."""
    whole, cut = (ModbusRtuFramer(SILENCE_S, max_frame_bytes=256) for _ in range(2))
    if request_frame:
        whole.encode(request_frame)
        cut.encode(request_frame)
    wire = b"".join([request_frame, *lumps])
    frames = whole.feed([Chunk(1.0, wire)]) + whole.flush(2.0)
    assert b"".join(frames) == wire
    rng, rest, pieces = random.Random(seed), wire, []
    while rest:
        size = rng.randint(1, len(rest))
        pieces.append(Chunk(1.0, rest[:size]))
        rest = rest[size:]
    assert cut.feed(pieces) + cut.flush(2.0) == frames
