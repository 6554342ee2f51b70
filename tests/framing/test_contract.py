"""What every framer promises, whatever its framing."""

from __future__ import annotations

import functools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.errors import CodecError
from edge_gateway.framing import Framer, FramingCounters
from edge_gateway.records import Chunk

from .framings import FRAMINGS, SILENCE_S, Framing

EVERY_FRAMING = pytest.mark.parametrize("framing", FRAMINGS, ids=str)
# A loaded machine is slow at times; that is no finding. Every property runs for every framing, so few examples add up.
some_examples = settings(deadline=None, max_examples=20)
splits = st.integers(0, 2**32).map(random.Random)


@functools.cache
def streams(framing: Framing) -> st.SearchStrategy[list[Chunk]]:
    """Anything a link may deliver: noise, marks, good frames and torn ones, with pauses around the silence."""
    whole = framing.payloads.map(framing.make().encode)
    torn = st.tuples(whole, st.integers(0, 20)).map(lambda parts: parts[0][parts[1] :])
    lump = st.one_of(
        whole,
        torn,
        st.lists(st.sampled_from(framing.marks), max_size=12).map(b"".join),
        st.binary(max_size=30),
    )
    pause_s = st.sampled_from([0.0, 0.0, 0.0, SILENCE_S / 2, SILENCE_S, 3 * SILENCE_S])

    def timed(parts: list[tuple[float, bytes]]) -> list[Chunk]:
        at_s = 100.0
        chunks = []
        for pause, data in parts:
            at_s += pause
            chunks.append(Chunk(at_s, data))
        return chunks

    return st.lists(st.tuples(pause_s, lump), max_size=12).map(timed)


def frames_on_the_wire(framing: Framing, payloads: list[bytes], at_s: float) -> list[Chunk]:
    """What a clean device sends, one chunk for each frame."""
    encode = framing.make().encode
    step_s = SILENCE_S if framing.silent_between else 0.0
    return [Chunk(at_s + step_s * number, encode(payload)) for number, payload in enumerate(payloads)]


def resplit(chunks: list[Chunk], rng: random.Random) -> list[list[Chunk]]:
    """The same bytes at the same times, cut into other chunks and handed over in other reads."""
    reads: list[list[Chunk]] = [[]]
    for at_s, data in chunks:
        rest = data
        while rest:
            size = rng.choice([1, 1, 2, 3, 10, len(rest)])
            reads[-1].append(Chunk(at_s, rest[:size]))
            rest = rest[size:]
            if rng.random() < 0.5:
                reads.append([])
    return reads


def feed_all(framer: Framer, reads: list[list[Chunk]]) -> list[bytes]:
    return [frame for read in reads for frame in framer.feed(read)]


def end_of(chunks: list[Chunk]) -> float:
    return chunks[-1].at_s if chunks else 100.0


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_what_is_encoded_comes_out_however_it_is_split(framing: Framing, data: st.DataObject) -> None:
    """Frames sent cleanly all come out once, in order, with not a byte of noise, wherever reads cut them."""
    payloads = data.draw(st.lists(framing.payloads, max_size=6))
    wire = frames_on_the_wire(framing, payloads, at_s=100.0)
    framer = framing.make()

    frames = feed_all(framer, resplit(wire, data.draw(splits)))
    frames += framer.flush(end_of(wire) + SILENCE_S)

    assert frames == payloads
    assert framer.counters == FramingCounters(frames=len(payloads))


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_every_byte_has_the_fate_its_framing_gives_it(framing: Framing, data: st.DataObject) -> None:
    """For any bytes at any times, frames and counts are those of the framing's plain definition; nothing is raised."""
    chunks = data.draw(streams(framing))
    framer = framing.make()

    frames = feed_all(framer, resplit(chunks, data.draw(splits)))

    fate = framing.judge(chunks)
    assert frames == fate.frames
    assert framer.counters == FramingCounters(
        frames=len(fate.frames),
        noise_bytes=fate.noise_bytes,
        malformed=fate.malformed,
        oversized=fate.oversized,
    )


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_the_account_of_bytes_is_exact(framing: Framing, data: st.DataObject) -> None:
    """Bytes fed are bytes of frames on the wire, of empty frames, of noise, or held, which a reset makes noise."""
    chunks = data.draw(streams(framing))
    framer = framing.make()
    framer.feed(chunks)
    noise_bytes = framer.counters.noise_bytes

    framer.reset()
    held_bytes = framer.counters.noise_bytes - noise_bytes

    fate = framing.judge(chunks)
    fed_bytes = sum(len(chunk.data) for chunk in chunks)
    assert fate.all_bytes == fed_bytes, "the model itself loses bytes"
    assert fate.frame_wire_bytes + fate.passed_over_bytes + noise_bytes + held_bytes == fed_bytes
    assert held_bytes == fate.held_bytes


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_one_byte_at_a_time_equals_all_at_once(framing: Framing, data: st.DataObject) -> None:
    """How reads cut the stream changes neither frames nor any count."""
    chunks = data.draw(streams(framing))
    at_once, bytewise = framing.make(), framing.make()

    frames = at_once.feed(chunks)
    single = [[Chunk(at_s, bytes([byte]))] for at_s, data_bytes in chunks for byte in data_bytes]

    assert feed_all(bytewise, single) == frames
    assert bytewise.counters == at_once.counters


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_clean_frames_after_noise_and_silence_all_come_out(framing: Framing, data: st.DataObject) -> None:
    """Whatever came before, after the framing's own mark and a silence no clean frame is lost."""
    noise = data.draw(streams(framing))
    payloads = data.draw(st.lists(framing.payloads, min_size=1, max_size=4))
    framer = framing.make()
    framer.feed(noise)
    framer.feed([Chunk(end_of(noise), framing.closing)])
    framer.flush(end_of(noise) + SILENCE_S)

    wire = frames_on_the_wire(framing, payloads, at_s=end_of(noise) + SILENCE_S)
    frames = feed_all(framer, resplit(wire, data.draw(splits)))
    frames += framer.flush(end_of(wire) + SILENCE_S)

    assert frames[-len(payloads) :] == payloads


FOUND_WITHOUT_SILENCE = [framing for framing in FRAMINGS if framing.lost_frames is not None]


@pytest.mark.parametrize("framing", FOUND_WITHOUT_SILENCE, ids=str)
@given(data=st.data())
@some_examples
def test_clean_frames_right_after_noise_come_out(framing: Framing, data: st.DataObject) -> None:
    """Where bytes alone tell where a frame begins, noise costs no frame after its closing mark, or just the first."""
    noise = data.draw(streams(framing))
    lost_frames = framing.lost_frames or 0
    payloads = data.draw(st.lists(framing.payloads, min_size=1 + lost_frames, max_size=5))
    framer = framing.make()
    framer.feed(noise)

    wire = frames_on_the_wire(framing, payloads, at_s=end_of(noise))
    frames = framer.feed([Chunk(end_of(noise), framing.closing), *wire])

    expected = payloads[lost_frames:]
    assert frames[-len(expected) :] == expected


def kept_bytes(part: object) -> int:
    """The bytes that an object and those it is made of have collected, wherever they are."""
    if isinstance(part, bytes | bytearray):
        return len(part)
    if isinstance(part, list | tuple | dict):
        return 8 * len(part) + sum(map(kept_bytes, part.values() if isinstance(part, dict) else part))
    return kept_bytes(vars(part)) if hasattr(part, "__dict__") else 0


@EVERY_FRAMING
@pytest.mark.parametrize("read_bytes", [1, 7, 4096])
def test_memory_is_bounded(framing: Framing, read_bytes: int) -> None:
    """However many bytes come without a frame in them, what a framer keeps never outgrows one stuffed frame."""
    new_bytes = kept_bytes(framing.make())
    framer = framing.make()
    for lump in (framing.marks[0], b"\x07", b"\xc8"):
        flood = lump * (4096 // len(lump))
        for start in range(0, len(flood), read_bytes):
            framer.feed([Chunk(100.0, flood[start : start + read_bytes])])
            assert kept_bytes(framer) - new_bytes <= framing.most_held_bytes


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_reset_forgets_everything_but_the_counts(framing: Framing, data: st.DataObject) -> None:
    """After a reset a framer treats what comes like a new one, and its counts go on from where they were."""
    before = data.draw(streams(framing))
    after = [Chunk(end_of(before) + chunk.at_s, chunk.data) for chunk in data.draw(streams(framing))]
    used, fresh = framing.make(), framing.make()
    used.feed(before)
    used.reset()
    counted = replace(used.counters)

    assert used.feed(after) == fresh.feed(after)
    assert used.counters == FramingCounters(
        frames=counted.frames + fresh.counters.frames,
        noise_bytes=counted.noise_bytes + fresh.counters.noise_bytes,
        malformed=counted.malformed + fresh.counters.malformed,
        oversized=counted.oversized + fresh.counters.oversized,
    )


@pytest.mark.parametrize("framing", [each for each in FRAMINGS if each.make().silence_s], ids=str)
def test_a_flush_before_the_silence_is_over_changes_nothing(framing: Framing) -> None:
    """A half-received frame is given up, or ended, when the silence is over and not earlier."""
    framer = framing.make()
    framer.feed([Chunk(100.0, framing.marks[0])])

    assert framer.flush(100.0 + SILENCE_S / 2) == []
    assert framer.counters == FramingCounters()

    frames = framer.flush(100.0 + SILENCE_S)
    assert framer.counters.noise_bytes + sum(map(len, frames)) == len(framing.marks[0])


@EVERY_FRAMING
def test_a_flush_is_no_end_where_silence_means_nothing(framing: Framing) -> None:
    """`flush` gives nothing on a framer that has just been made, and nothing ever where `silence_s` is None."""
    framer = framing.make()
    assert framer.flush(1e9) == []
    if framer.silence_s is None:
        framer.feed([Chunk(1e9, framing.marks[0][:1])])
        counted = replace(framer.counters)
        assert framer.flush(2e9) == []
        assert framer.counters == counted


@EVERY_FRAMING
@given(data=st.data())
@some_examples
def test_encode_gives_one_frame_or_refuses(framing: Framing, data: st.DataObject) -> None:
    """Any payload either comes back from a framer of the same settings as it was, or is refused with a `CodecError`."""
    payload = data.draw(st.one_of(framing.payloads, st.binary(max_size=50), st.sampled_from(framing.marks)))
    framer = framing.make()
    try:
        wire = framer.encode(payload)
    except CodecError:
        return
    assert framer.feed([Chunk(100.0, wire)]) + framer.flush(100.0 + SILENCE_S) == [payload]
    assert framer.counters == FramingCounters(frames=1)


@EVERY_FRAMING
def test_encode_refuses_what_cannot_be_a_frame(framing: Framing) -> None:
    """An empty payload and one beyond the largest frame are refused with a remedy."""
    framer = framing.make()
    for payload in (b"", bytes([7]) * (framer.max_frame_bytes + 1)):
        with pytest.raises(CodecError) as refusal:
            framer.encode(payload)
        assert refusal.value.remedy
