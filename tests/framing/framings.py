"""The framings the contract is checked for: how to make a framer, what it carries, and the model that judges it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hypothesis import strategies as st

from edge_gateway.framing import Framer
from edge_gateway.framing.block import BlockFramer
from edge_gateway.framing.cobs import CobsFramer
from edge_gateway.framing.delimiter import DelimiterFramer
from edge_gateway.framing.fixed import FixedFramer
from edge_gateway.framing.hex_text import HexTextFramer
from edge_gateway.framing.idle_gap import IdleGapFramer
from edge_gateway.framing.length_prefixed import LengthPrefixedFramer
from edge_gateway.framing.modbus_rtu import ModbusRtuFramer
from edge_gateway.framing.shdlc import ShdlcFramer
from edge_gateway.framing.slip import SlipFramer
from edge_gateway.records import Chunk

from . import wire_models
from .wire_models import Fate

SILENCE_S = 0.5
"""The same for all, and exact in binary, so that the times of a test add up without rounding."""


@dataclass(frozen=True)
class Framing:
    """One framing with one set of parameters."""

    name: str
    make: Callable[[], Framer]
    judge: Callable[[list[Chunk]], Fate]
    payloads: st.SearchStrategy[bytes]
    """What `encode` accepts and every receiver can tell from noise."""
    marks: tuple[bytes, ...]
    """Byte sequences that mean something to this framing; noise made of them reaches the dark corners."""
    most_held_bytes: int
    closing: bytes = b""
    """After any noise, this and a silence bring the framer back to where a frame may begin."""
    lost_frames: int | None = None
    """How many clean frames noise and `closing` may cost without a silence; None where only silence is certain."""
    silent_between: bool = False
    """Whether frames need a silence between them."""

    def __str__(self) -> str:
        return self.name


def binary(least_bytes: int, most_bytes: int, marks: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Bytes in which `marks` occur far more often than by chance."""
    lump = st.one_of(st.sampled_from(marks), st.binary(min_size=1, max_size=8))
    lumps = st.lists(lump, max_size=most_bytes).map(b"".join)
    whole = st.tuples(st.binary(min_size=least_bytes, max_size=most_bytes), lumps, st.integers(least_bytes, most_bytes))
    return whole.map(lambda parts: (parts[1] + parts[0])[: max(parts[2], least_bytes)])


def without(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda data: not any(mark in data for mark in marks)


def with_length(sync: bytes, body: bytes, *, length_adds: int = 0) -> bytes:
    """A frame with a two-byte big endian length right after its sync."""
    return sync + (len(body) - length_adds).to_bytes(2, "big") + body


_COBS_MARKS = (b"\0", b"\1", b"\2", b"\xff", bytes(range(1, 255)), b"\xff" + bytes(range(2, 256)))
_SHDLC_MARKS = (b"\x7e", b"\x7d", b"\x7d\x5e", b"\x7d\x5d", b"\x11", b"\x13", b"\x7d\x31")
_SLIP_MARKS = (b"\xc0", b"\xdb", b"\xdc", b"\xdd", b"\xdb\xdc", b"\xdb\xdd")
_PMS = b"\x42\x4d"
_LIDAR = b"\x59\x59"

FRAMINGS = (
    Framing(
        "cobs",
        make=partial(CobsFramer, 600),
        judge=partial(wire_models.cobs, max_frame_bytes=600),
        payloads=binary(1, 600, _COBS_MARKS),
        marks=_COBS_MARKS,
        most_held_bytes=603,
        closing=b"\0",
        lost_frames=0,
    ),
    Framing(
        "cobs, small frames",
        make=partial(CobsFramer, 5),
        judge=partial(wire_models.cobs, max_frame_bytes=5),
        payloads=binary(1, 5, (b"\0", b"\1")),
        marks=_COBS_MARKS,
        most_held_bytes=6,
        closing=b"\0",
        lost_frames=0,
    ),
    Framing(
        "slip",
        make=partial(SlipFramer, 12),
        judge=partial(wire_models.slip, max_frame_bytes=12),
        payloads=binary(1, 12, _SLIP_MARKS),
        marks=_SLIP_MARKS,
        most_held_bytes=24,
        closing=b"\xc0",
        lost_frames=0,
    ),
    Framing(
        "shdlc",
        make=partial(ShdlcFramer, 12),
        judge=partial(wire_models.shdlc, max_frame_bytes=12),
        payloads=binary(1, 12, _SHDLC_MARKS),
        marks=_SHDLC_MARKS,
        most_held_bytes=24,
        closing=b"\x7e",
        lost_frames=0,
    ),
    Framing(
        "lines",
        make=partial(DelimiterFramer, delimiter=b"\n", start=b"", strip=b"\r", max_frame_bytes=12),
        judge=partial(wire_models.delimited, delimiter=b"\n", strip=b"\r", max_frame_bytes=12),
        payloads=binary(1, 12, (b"\r", b"a")).filter(without(b"\n")).filter(lambda data: not data.endswith(b"\r")),
        marks=(b"\n", b"\r", b"\r\n"),
        most_held_bytes=13,
        closing=b"\n",
        lost_frames=0,
    ),
    Framing(
        "two-byte delimiter that overlaps itself",
        make=partial(DelimiterFramer, delimiter=b"\xaa\xaa", start=b"", strip=b"", max_frame_bytes=9),
        judge=partial(wire_models.delimited, delimiter=b"\xaa\xaa", strip=b"", max_frame_bytes=9),
        payloads=binary(1, 9, (b"a",)).filter(without(b"\xaa")),
        marks=(b"\xaa", b"\xaa\xaa", b"\xaa\xaa\xaa"),
        most_held_bytes=10,
        # Whether noise ends with half a delimiter or not, this completes one and leaves none half done.
        closing=b"\xaa\xaa\x00\xaa\xaa",
        lost_frames=0,
    ),
    Framing(
        "sentences with a start",
        make=partial(DelimiterFramer, delimiter=b"\r\n", start=b"$", strip=b"", max_frame_bytes=12),
        judge=partial(wire_models.started, delimiter=b"\r\n", start=b"$", strip=b"", max_frame_bytes=12),
        payloads=binary(0, 11, (b"GP", b"\r")).filter(without(b"$", b"\n")).map(lambda body: b"$" + body),
        marks=(b"$", b"\r", b"\n", b"\r\n"),
        most_held_bytes=13,
        lost_frames=0,
    ),
    Framing(
        "long start, overlapping delimiter, strip",
        make=partial(DelimiterFramer, delimiter=b"\xaa\xbb\xaa", start=b"\xbb\xaa", strip=b"\xaa", max_frame_bytes=8),
        judge=partial(
            wire_models.started, delimiter=b"\xaa\xbb\xaa", start=b"\xbb\xaa", strip=b"\xaa", max_frame_bytes=8
        ),
        payloads=binary(0, 6, (b"a",))
        .filter(without(b"\xaa", b"\xbb"))
        .map(lambda body: b"\xbb\xaa" + body + b"x")
        .filter(lambda data: len(data) <= 8),
        marks=(b"\xaa", b"\xbb", b"\xbb\xaa", b"\xaa\xbb\xaa"),
        most_held_bytes=11,
        closing=b"\x00",
        lost_frames=0,
    ),
    Framing(
        "blocks with a raw byte at their end",
        make=partial(BlockFramer, start=b"", end=b"\nC\t", tail_bytes=1, tail_until=b"", max_frame_bytes=14),
        judge=partial(wire_models.block, start=b"", end=b"\nC\t", tail_bytes=1, tail_until=b"", max_frame_bytes=14),
        payloads=st.builds(
            lambda body, check: body + b"\nC\t" + check,
            binary(0, 10, (b"\n", b"C", b"\t")).filter(lambda body: (body + b"\nC\t").find(b"\nC\t") == len(body)),
            st.sampled_from([b"\n", b"C", b"\t", b":", b"\r"]) | st.binary(min_size=1, max_size=1),
        ),
        marks=(b"\n", b"C", b"\t", b"\nC\t", b"\nC\t\n"),
        most_held_bytes=14,
        # Whether a tail is awaited or not, the first mark ends, and so does the second.
        closing=b"\nC\tx\nC\tx",
        lost_frames=0,
    ),
    Framing(
        "telegrams with a start and a checksum up to the line's end",
        make=partial(BlockFramer, start=b"/", end=b"\n!", tail_bytes=0, tail_until=b"\r\n", max_frame_bytes=14),
        judge=partial(wire_models.block, start=b"/", end=b"\n!", tail_bytes=0, tail_until=b"\r\n", max_frame_bytes=14),
        payloads=st.builds(
            lambda body, check: b"/" + body + b"\n!" + check,
            binary(0, 7, (b"\n", b"!", b"\r")).filter(without(b"/", b"\n!")),
            binary(0, 4, (b"\r", b"/")).filter(lambda tail: (tail + b"\r\n").find(b"\r\n") == len(tail)),
        ).filter(without(b"\n!!")),
        marks=(b"/", b"\n", b"!", b"\n!", b"\r", b"\r\n"),
        most_held_bytes=15,
        closing=b"\r\n",
        lost_frames=0,
    ),
    Framing(
        "long start, mark that overlaps both itself and the start",
        make=partial(
            BlockFramer, start=b"\xbb\xaa", end=b"\xaa\xbb\xaa", tail_bytes=2, tail_until=b"", max_frame_bytes=10
        ),
        judge=partial(
            wire_models.block,
            start=b"\xbb\xaa",
            end=b"\xaa\xbb\xaa",
            tail_bytes=2,
            tail_until=b"",
            max_frame_bytes=10,
        ),
        payloads=st.builds(
            lambda body, tail: b"\xbb\xaax" + body + b"\xaa\xbb\xaa" + tail,
            binary(0, 2, (b"a",)).filter(without(b"\xaa", b"\xbb")),
            st.binary(min_size=2, max_size=2),
        ),
        marks=(b"\xaa", b"\xbb", b"\xbb\xaa", b"\xaa\xbb\xaa"),
        most_held_bytes=10,
        closing=b"\x00\x00",
        lost_frames=0,
    ),
    Framing(
        "digits of a card reader",
        make=partial(HexTextFramer, end=b"\x03", start=b"\x02", strip=b"", max_frame_bytes=6),
        judge=partial(wire_models.hex_text, end=b"\x03", start=b"\x02", strip=b"", max_frame_bytes=6),
        payloads=binary(1, 6, (b"\x02", b"\x03")),
        marks=(b"\x02", b"\x03", b"0", b"aF", b"\x020\x03", b"\x0200\x03"),
        most_held_bytes=13,
        lost_frames=0,
    ),
    Framing(
        "lines of digits",
        make=partial(HexTextFramer, end=b"\n", start=b"", strip=b"\r", max_frame_bytes=6),
        judge=partial(wire_models.hex_text, end=b"\n", start=b"", strip=b"\r", max_frame_bytes=6),
        payloads=binary(1, 6, (b"\n",)),
        marks=(b"\r", b"\n", b"0", b"aF", b"00\r\n", b"00\n"),
        most_held_bytes=13,
        closing=b"\n",
        lost_frames=0,
    ),
    Framing(
        "length-prefixed",
        make=partial(
            LengthPrefixedFramer,
            sync=_PMS,
            length_offset=2,
            length_bytes=2,
            endian="big",
            length_adds=0,
            max_frame_bytes=40,
            silence_s=SILENCE_S,
        ),
        judge=partial(
            wire_models.length_prefixed,
            sync=_PMS,
            length_offset=2,
            length_adds=0,
            max_frame_bytes=40,
            silence_s=SILENCE_S,
        ),
        payloads=binary(0, 36, (b"\x42", b"\x4d", b"\0")).map(partial(with_length, _PMS)),
        marks=(b"\x42", b"\x4d", _PMS, b"\x42\x4d\x00", b"\x42\x4d\x00\x04", b"\x42\x4d\x00\x24", b"\x42\x4d\xff\xff"),
        most_held_bytes=39,
    ),
    Framing(
        "length-prefixed, length counts the header",
        make=partial(
            LengthPrefixedFramer,
            sync=b"\x5a",
            length_offset=1,
            length_bytes=2,
            endian="big",
            length_adds=-3,
            max_frame_bytes=20,
            silence_s=SILENCE_S,
        ),
        judge=partial(
            wire_models.length_prefixed,
            sync=b"\x5a",
            length_offset=1,
            length_adds=-3,
            max_frame_bytes=20,
            silence_s=SILENCE_S,
        ),
        payloads=binary(0, 17, (b"\x5a", b"\0")).map(partial(with_length, b"\x5a", length_adds=-3)),
        marks=(b"\x5a", b"\0", b"\x5a\x00\x02", b"\x5a\x00\x03", b"\x5a\x00\x14", b"\x5a\x00\x15"),
        most_held_bytes=19,
    ),
    Framing(
        "length-prefixed, no sync",
        make=partial(
            LengthPrefixedFramer,
            sync=b"",
            length_offset=0,
            length_bytes=2,
            endian="big",
            length_adds=0,
            max_frame_bytes=20,
            silence_s=SILENCE_S,
        ),
        judge=partial(
            wire_models.length_prefixed,
            sync=b"",
            length_offset=0,
            length_adds=0,
            max_frame_bytes=20,
            silence_s=SILENCE_S,
        ),
        payloads=binary(0, 18, (b"\0",)).map(partial(with_length, b"")),
        marks=(b"\0", b"\0\0", b"\x00\x04", b"\x00\x12", b"\x00\x13"),
        most_held_bytes=19,
    ),
    Framing(
        "fixed",
        make=partial(FixedFramer, frame_bytes=9, sync=_LIDAR, silence_s=SILENCE_S),
        judge=partial(wire_models.fixed, frame_bytes=9, sync=_LIDAR, silence_s=SILENCE_S),
        payloads=binary(7, 7, (b"\x00", b"a")).filter(without(b"\x59")).map(lambda body: _LIDAR + body),
        marks=(b"\x59", _LIDAR, b"\x59\x59\x59"),
        most_held_bytes=8,
        lost_frames=1,
    ),
    Framing(
        "fixed, a sync that overlaps itself and looks like payload",
        make=partial(FixedFramer, frame_bytes=6, sync=b"\xaa\xaa\xbb", silence_s=SILENCE_S),
        judge=partial(wire_models.fixed, frame_bytes=6, sync=b"\xaa\xaa\xbb", silence_s=SILENCE_S),
        payloads=binary(3, 3, (b"\xaa", b"\xbb")).map(lambda body: b"\xaa\xaa\xbb" + body),
        marks=(b"\xaa", b"\xbb", b"\xaa\xaa", b"\xaa\xaa\xaa", b"\xaa\xaa\xbb"),
        most_held_bytes=5,
    ),
    Framing(
        "fixed, no sync",
        make=partial(FixedFramer, frame_bytes=4, sync=b"", silence_s=SILENCE_S),
        judge=partial(wire_models.fixed, frame_bytes=4, sync=b"", silence_s=SILENCE_S),
        payloads=st.binary(min_size=4, max_size=4),
        marks=(b"a",),
        most_held_bytes=3,
    ),
    Framing(
        "fixed, no silence",
        make=partial(FixedFramer, frame_bytes=9, sync=_LIDAR, silence_s=None),
        judge=partial(wire_models.fixed, frame_bytes=9, sync=_LIDAR, silence_s=None),
        payloads=binary(7, 7, (b"\x00", b"a")).filter(without(b"\x59")).map(lambda body: _LIDAR + body),
        marks=(b"\x59", _LIDAR, b"\x59\x59\x59"),
        most_held_bytes=8,
        # Longer than a frame and without a sync: whatever was begun ends in it.
        closing=bytes(9),
        lost_frames=1,
    ),
    Framing(
        "idle gap",
        make=partial(IdleGapFramer, silence_s=SILENCE_S, max_frame_bytes=12),
        judge=partial(wire_models.idle_gap, silence_s=SILENCE_S, max_frame_bytes=12),
        payloads=binary(1, 12, (b"\0",)),
        marks=(b"\0",),
        most_held_bytes=12,
        silent_between=True,
    ),
    Framing(
        "modbus rtu, nothing asked",
        make=partial(ModbusRtuFramer, silence_s=SILENCE_S, max_frame_bytes=12),
        judge=partial(wire_models.idle_gap, silence_s=SILENCE_S, max_frame_bytes=12),
        payloads=binary(1, 12, (b"\0",)),
        marks=(b"\0",),
        most_held_bytes=12,
        silent_between=True,
    ),
)
