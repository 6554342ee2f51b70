"""A share of the mutation run: no crash, no hang, no silent accept, on every packaged profile."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from functools import partial

import pytest

from edge_gateway.codec import Decoded, compile_profile, load_profile, profile_names
from edge_gateway.codec.checksum import find_checksum
from edge_gateway.codec.payload_keys import no_payload_keys
from edge_gateway.codec.sealed import PayloadSeal, SealAlgorithm
from edge_gateway.records import Reject, Sample

from . import mutations
from .independent_checksums import CRCS, Crc, crc_of, independent_checksum
from .independent_seals import IndependentSeal
from .mutations import Account, Decode, Job, Judge, jobs, judges, run_job

SHARE_FRAMES = 41_000
SEED = 20_261_122

REFERENCE = load_profile("reference-climate")
SOUND = bytes.fromhex("01 07 00 29 00 00 5c 26 05 29 09 a0 11 db 0c 05 d2 a7")


@pytest.mark.parametrize("job", jobs(profile_names(), SHARE_FRAMES, SEED), ids=lambda job: job.profile)
def test_no_frame_crashes_or_deceives_a_decoder(job: Job) -> None:
    """Of thousands of sound and broken frames, all are decoded in time, and just the sound ones are accepted."""
    _, account = run_job(job)
    assert account.is_good, account
    assert account.frames == job.frames
    assert account.accepted > 0


def test_the_pieces_of_a_run_add_up() -> None:
    """However many profiles there are, so many frames are decoded as were asked for, with a seed each."""
    pieces = jobs(["a", "b", "c"], 200_000, 7)
    assert sum(piece.frames for piece in pieces) == 200_000
    assert len({piece.seed for piece in pieces}) == len(pieces)


def judged(decode: Decode, *frames: bytes) -> Account:
    return Judge(REFERENCE, decode, no_payload_keys, REFERENCE.heard_layouts).of(frames)


def test_a_crash_is_noticed() -> None:
    """A decoder that raises is told with the frame."""

    def crash(_: Sequence[bytes]) -> Decoded:
        raise struct.error("unpack requires a buffer of 18 bytes")

    (found,) = judged(crash, SOUND).crashes
    assert found.startswith(SOUND.hex())


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that does not come back is stopped and told with the frame."""

    def never(frames: Sequence[bytes]) -> Decoded:
        for _ in itertools.count():
            pass
        raise AssertionError(frames)

    monkeypatch.setattr(mutations, "_BATCH_LIMIT_S", 0.05)
    monkeypatch.setattr(mutations, "_FRAME_LIMIT_S", 0.05)
    (crash,) = judged(never, SOUND).crashes
    assert crash.startswith(f"{SOUND.hex()}: DecoderHangs")


def test_a_silent_accept_is_noticed() -> None:
    """A decoder that takes a frame with a wrong checksum is found out, and what follows is judged all the same."""
    broken = SOUND[:-1] + b"\0"
    (right,) = compile_profile(REFERENCE).decode([SOUND]).samples

    def credulous(frames: Sequence[bytes]) -> Decoded:
        return Decoded([Sample(7, 41, {}) if frame == broken else right for frame in frames], [], [])

    account = judged(credulous, broken, SOUND)
    assert account.silent_accepts == [broken.hex()]
    assert account.wrong_values == []


def test_a_wrong_reject_is_noticed() -> None:
    """A decoder that refuses a sound frame is found out."""
    assert judged(lambda _: Decoded([], [], [Reject(SOUND, "value")]), SOUND).wrong_rejects == [SOUND.hex()]


def one_sample(sample: Sample, _: Sequence[bytes]) -> Decoded:
    return Decoded([sample], [], [])


def test_a_wrong_value_is_noticed() -> None:
    """A decoder that says something else than the frame does is found out, true for 1 and another address included."""
    (right,) = compile_profile(REFERENCE).decode([SOUND]).samples
    for wrong in (
        right._replace(address=8),
        right._replace(sequence=None),
        right._replace(values={**right.values, "door_open": 1}),
        right._replace(values={**right.values, "humidity": 45.13}),
    ):
        assert judged(partial(one_sample, wrong), SOUND).wrong_values == [SOUND.hex()]
    assert judged(partial(one_sample, right), SOUND).is_good


def test_a_lost_frame_is_noticed() -> None:
    """A decoder that makes nothing of a frame is found out."""
    assert judged(lambda _: Decoded([], [], []), SOUND).lost == 1


def test_a_right_checksum_by_chance_is_no_silent_accept() -> None:
    """A mutated frame whose checksum holds is as good as any other."""
    ((judge, _),) = judges(load_profile("tfmini"))
    swapped = bytes.fromhex("59 59 03 e8 5e 01 02 00 fe")
    account = judge.of([swapped])
    assert account.is_good
    assert account.accepted == 1


@pytest.mark.parametrize("frame", ["24", "2450 4747 4c4c 2c2c 2c2c 2c2a 3030"])
def test_text_is_judged_by_its_own_reader(frame: str) -> None:
    """Text with a wrong checksum, or none at all, is rejected, and rightly so."""
    ((judge, _),) = judges(load_profile("nmea0183"))
    account = judge.of([bytes.fromhex(frame)])
    assert account.is_good
    assert account.accepted == 0


@pytest.mark.parametrize(
    ("algorithm", "tag_bytes", "nonce_bytes"),
    [("aes-ccm", 4, 13), ("aes-ccm", 4, 12), ("aes-ccm", 16, 7), ("aes-gcm", 16, 12), ("aes-gcm", 4, 12)],
)
@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (16, 0), (5, 17), (33, 16)])
def test_the_independent_seals_are_right(
    algorithm: SealAlgorithm, tag_bytes: int, nonce_bytes: int, sizes: tuple[int, int]
) -> None:
    """What the library seals opens, and with any byte changed it does not."""
    key, nonce, (plain, aad) = bytes(range(16)), bytes(range(nonce_bytes)), (b"\x5a" * size for size in sizes)
    data, tag = PayloadSeal(algorithm, tag_bytes).seal(key, nonce, plain, aad)
    seal = IndependentSeal(algorithm, tag_bytes)
    assert seal.open(key, nonce, data, tag, aad) == plain
    assert seal.open(key, nonce, data, bytes([tag[0] ^ 1]) + tag[1:], aad) is None
    assert seal.open(key, nonce, data, tag, aad + b"x") is None


@pytest.mark.parametrize(("name", "crc"), CRCS.items())
def test_the_independent_checksums_are_right(name: str, crc: Crc) -> None:
    """Each has the catalogue's check value, and the library agrees with it on other bytes."""
    assert crc_of(crc, b"123456789") == crc.check
    assert independent_checksum(name, SOUND) == find_checksum(name).compute(SOUND)
