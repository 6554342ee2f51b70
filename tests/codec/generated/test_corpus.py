"""The corpus: repeatable, and rich in what decoders get wrong."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile, profile_names
from edge_gateway.codec.generated import corpus, corpus_keys
from edge_gateway.codec.profile import Profile
from edge_gateway.errors import CodecError
from tests.codec.declarations import profiles
from tests.codec.structure.drawn import Structure, structures

from .mutations import judges


def test_the_same_seed_gives_the_same_frames() -> None:
    """A run can be repeated from its seed, and a longer one starts like a shorter one."""
    for name in ("reference-climate", "bthome-v2", "nmea0183"):
        profile = load_profile(name)
        frames = list(corpus(profile, 5, 300))
        assert list(corpus(profile, 5, 500))[:300] == frames
        assert list(corpus(profile, 6, 300)) != frames


@pytest.mark.parametrize("name", profile_names())
def test_the_corpus_holds_sound_and_broken_frames(name: str) -> None:
    """Of the frames of each packaged profile, many are accepted, and many are rejected if any can be."""
    profile = load_profile(name)
    accepted, rejected = 0, Counter[str]()
    for judge, names in judges(profile):
        decoded = judge.decode(list(corpus(profile, 1, 1_000, names)))
        accepted += len(decoded.samples) + len(decoded.answers)
        rejected += Counter(reject.reason for reject in decoded.rejects)
    assert accepted > 50
    # Of Cayenne LPP every byte sequence is a frame: what cannot be read ends it.
    assert rejected.total() > 200 or name == "cayenne-lpp"


def test_the_ends_of_the_ranges_and_the_sentinels_are_there() -> None:
    """Extreme values and "no value" come more often than chance has them."""
    profile = load_profile("reference-climate")
    samples = compile_profile(profile).decode(list(corpus(profile, 1, 4_000))).samples
    temperatures = {sample.values["temperature"] for sample in samples}
    assert {-327.67, 327.67, None, 0.0} <= temperatures
    assert {sample.values["mode"] for sample in samples} == {"idle", "measure", "fault", "3"}
    assert {sample.values["door_open"] for sample in samples} == {True, False}


def test_encrypted_frames_come_with_their_keys() -> None:
    """Frames under a key can be opened with the corpus' keys; some devices have none, and some send in clear."""
    profile = load_profile("bthome-v2")
    frames = list(corpus(profile, 1, 4_000))
    with_keys = compile_profile(profile, corpus_keys(profile)).decode(frames)
    without = compile_profile(profile).decode(frames)
    assert len(with_keys.samples) > len(without.samples) > 0
    assert {"no-key", "decryption", "unsealed"} <= {reject.reason for reject in with_keys.rejects}


def test_frames_lie_about_themselves() -> None:
    """Behind sound seals and checksums there are counts, lengths and tags that are wrong."""
    profile = load_profile("bthome-v2")
    decoded = compile_profile(profile, corpus_keys(profile)).decode(list(corpus(profile, 2, 8_000)))
    assert {"length", "value"} <= {reject.reason for reject in decoded.rejects}


def test_of_a_decoder_in_python_only_the_vectors_are_known() -> None:
    """Where code decodes, frames are the vectors and what becomes of them; without a vector there is none."""
    profile = load_profile("senml-json")
    vectors = {vector.frame_bytes for vector in profile.vectors}  # type: ignore[union-attr]  # all are of a decoder
    assert vectors & set(corpus(profile, 1, 200))
    with pytest.raises(CodecError, match="no frame to begin with"):
        next(corpus(profile.model_copy(update={"vectors": ()}), 1, 1))


@given(profiles(), st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_any_profile_has_a_corpus(profile: Profile, seed: int) -> None:
    """Whatever a profile declares, its frames can be drawn, and its decoder judges them rightly."""
    frames = list(corpus(profile, seed, 100))
    assert len(frames) == 100
    ((judge, _),) = judges(profile)
    account = judge.of(frames)
    assert account.is_good, account


@given(structures(), st.integers(0, 1_000))
@settings(max_examples=25, deadline=None)
def test_any_structure_has_a_corpus(structure: Structure, seed: int) -> None:
    """So it is for groups, lists, choices, tagged, computed and sealed items, however they stand in each other."""
    profile = structure.codec.profile
    ((judge, _),) = judges(profile)
    # Conditions may hold for so few values that none is found.
    with contextlib.suppress(CodecError):
        account = judge.of(list(corpus(profile, seed, 100)))
        assert account.is_good, account


@given(st.integers(0, 1_000), st.sampled_from(profile_names()))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_judged_alike(seed: int, name: str) -> None:
    """Bytes that are nobody's frame are taken by the decoder and by the slow reader, or by neither."""
    rng = random.Random(seed)
    frames = [rng.randbytes(rng.randint(1, 60)) for _ in range(20)]
    for judge, _ in judges(load_profile(name)):
        assert judge.of(frames).is_good
