"""A share of the mutation run: no crash, no hang, no silent accept, on every packaged profile."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import pytest

from edge_gateway.codec import Codec, Decoded, compile_profile, load_profile, profile_names
from edge_gateway.codec.checksum import find_checksum
from edge_gateway.records import Reject, Sample

from . import mutations
from .independent_checksums import CRCS, Crc, crc_of, independent_checksum
from .mutations import Account, Job, is_sound, jobs, judge, run_job

SHARE_FRAMES = 21_000
SEED = 20_261_122

REFERENCE = load_profile("reference-climate")
SOUND = bytes.fromhex("01 07 00 29 00 00 5c 26 05 29 09 a0 11 db 0c 05 d2 a7")


@pytest.mark.parametrize("job", jobs(profile_names(), SHARE_FRAMES, SEED), ids=lambda job: job.profile)
def test_no_frame_crashes_or_deceives_a_decoder(job: Job) -> None:
    """Of thousands of sound and broken frames, all are decoded in time, and just the sound ones are accepted."""
    _, account = run_job(job)
    assert account.is_good, account
    assert account.accepted > 0
    assert account.rejected["checksum"] > 0
    assert account.rejected["length"] > 0


def test_the_pieces_of_a_run_add_up() -> None:
    """However many profiles there are, so many frames are decoded as were asked for, with a seed each."""
    pieces = jobs(["a", "b", "c"], 200_000, 7)
    assert sum(piece.frames for piece in pieces) == 200_000
    assert len({piece.seed for piece in pieces}) == len(pieces)


class FaultyCodec(Codec):
    """A codec whose decoder is replaced, to see that the judge notices."""

    def __init__(self, decoded: Decoded | None) -> None:
        super().__init__(REFERENCE)
        self.decode = lambda _: decoded or self._raise()

    def _raise(self) -> Decoded:
        raise struct.error("unpack requires a buffer of 18 bytes")


def judged(decoded: Decoded | None, frame: bytes) -> Account:
    return judge(FaultyCodec(decoded), REFERENCE.heard_layouts, [frame])


def test_a_crash_is_noticed() -> None:
    """A decoder that raises is told with the frame."""
    (crash,) = judged(None, SOUND).crashes
    assert crash.startswith(SOUND.hex())


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that does not come back is stopped and told with the frame."""

    def never(frames: Sequence[bytes]) -> Decoded:
        for _ in itertools.count():
            pass
        raise AssertionError(frames)

    codec = FaultyCodec(None)
    codec.decode = never
    monkeypatch.setattr(mutations, "_BATCH_LIMIT_S", 0.05)
    monkeypatch.setattr(mutations, "_FRAME_LIMIT_S", 0.05)
    (crash,) = judge(codec, REFERENCE.heard_layouts, [SOUND]).crashes
    assert crash.startswith(f"{SOUND.hex()}: DecoderHangs")


def test_a_silent_accept_is_noticed() -> None:
    """A decoder that takes a frame with a wrong checksum is found out."""
    broken = SOUND[:-1] + b"\0"
    assert judged(Decoded([Sample(7, 41, {})], [], []), broken).silent_accepts == [broken.hex()]


def test_a_wrong_reject_is_noticed() -> None:
    """A decoder that refuses a sound frame is found out, unless it refuses a field's value."""
    assert judged(Decoded([], [], [Reject(SOUND, "checksum")]), SOUND).wrong_rejects == [SOUND.hex()]
    assert judged(Decoded([], [], [Reject(SOUND, "value")]), SOUND).is_good


def test_a_lost_frame_is_noticed() -> None:
    """A decoder that makes nothing of a frame is found out."""
    assert judged(Decoded([], [], []), SOUND).lost == 1


def test_a_right_checksum_by_chance_is_no_silent_accept() -> None:
    """A mutated frame whose checksum holds is as good as any other."""
    tfmini = load_profile("tfmini")
    swapped = bytes.fromhex("59 59 03 e8 5e 01 02 00 fe")
    assert is_sound(tfmini.heard_layouts, swapped)
    assert judge(compile_profile(tfmini), tfmini.heard_layouts, [swapped]).is_good


@pytest.mark.parametrize(("name", "crc"), CRCS.items())
def test_the_independent_checksums_are_right(name: str, crc: Crc) -> None:
    """Each has the catalogue's check value, and the library agrees with it on other bytes."""
    assert crc_of(crc, b"123456789") == crc.check
    assert independent_checksum(name, SOUND) == find_checksum(name).compute(SOUND)
