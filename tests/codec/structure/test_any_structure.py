"""Whatever a profile declares and whatever comes: the decoder, the reader, the encoder and the declaration agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import Codec
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.structure.reader import read_frame

from .drawn import KEYS, Structure, frames_of, structures

_CURRENT_VERSION = 2


def assert_decoder_and_reader_agree(codec: Codec, frame: bytes) -> None:
    """Both take the frame with the same values, or neither does, for the same reason."""
    decoded = codec.decode([frame])
    plan = codec.profile.layouts["only"]
    assert isinstance(plan, Plan)
    read = read_frame(plan, frame, None, None, KEYS)
    if read.reason:
        assert decoded.samples == []
        # One has looked at the whole frame and the other at the first thing that does not fit.
        ((data, reason),) = decoded.rejects
        assert data == frame
        assert codec.explain(frame)[0].note == f"rejected: {reason}"
    else:
        assert decoded.rejects == []
        assert [(sample.address, sample.sequence, sample.values) for sample in decoded.samples] == [
            (read.address, read.sequence, read.values)
        ]
        assert codec.explain(frame)[0].note == "sample"


@given(st.data(), structures())
def test_what_was_declared_is_decoded_and_comes_back(data: st.DataObject, structure: Structure) -> None:
    """A frame written from the declaration decodes to the values it was written for, and these encode to one."""
    codec = structure.codec
    drawn = data.draw(frames_of(structure))
    assert_decoder_and_reader_agree(codec, drawn.frame)
    decoded = codec.decode([drawn.frame])
    if drawn.values is None:
        assert [reject.reason for reject in decoded.rejects] in (["value"], ["length"])
        return
    assert decoded.rejects == []
    assert decoded.samples == [(None, None, drawn.values)]
    if drawn.version is not None:
        assert (decoded.older, decoded.newer) == (drawn.version < _CURRENT_VERSION, drawn.version > _CURRENT_VERSION)
    again = codec.decode([codec.encode("only", None, None, drawn.values)])
    assert again.samples == decoded.samples


@st.composite
def _damaged(draw: st.DrawFn, frame: bytes) -> bytes:
    """The frame with some bytes turned, lost, added or twice there."""
    damaged = bytearray(frame)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(damaged)))
        kind = draw(st.sampled_from(["turn", "turn", "set", "lose", "add", "repeat", "cut"]))
        if kind == "turn" and at < len(damaged):
            damaged[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and at < len(damaged):
            damaged[at] = draw(st.sampled_from([0, 1, 2, 3, 0xA5, 0xFF]))
        elif kind == "lose":
            del damaged[at : at + draw(st.integers(1, 3))]
        elif kind == "add":
            damaged[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "repeat":
            damaged[at:at] = damaged[at : at + 4]
        else:
            del damaged[at:]
    return bytes(damaged)


@given(st.data(), structures())
def test_damaged_frames_are_read_alike(data: st.DataObject, structure: Structure) -> None:
    """Of a frame with damage, decoder and reader say the same, and none raises."""
    codec = structure.codec
    frame = data.draw(frames_of(structure)).frame
    for _ in range(5):
        damaged = data.draw(_damaged(frame))
        assert_decoder_and_reader_agree(codec, damaged)
        plan = codec.profile.layouts["only"]
        assert_decoder_and_reader_agree(codec, plan.sealed(damaged) if plan.admits_length(len(damaged)) else damaged)


@given(structures(), st.lists(st.binary(max_size=48), max_size=8))
def test_any_bytes_are_read_alike(structure: Structure, frames: list[bytes]) -> None:
    """Of any bytes, decoder and reader say the same, and none raises."""
    codec = structure.codec
    for frame in frames:
        assert_decoder_and_reader_agree(codec, frame)
    decoded = codec.decode(frames)
    assert len(decoded.samples) + len(decoded.rejects) == len(frames)
