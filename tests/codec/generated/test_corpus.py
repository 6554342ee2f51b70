"""The corpus: repeatable, and rich in what decoders get wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile, profile_names
from edge_gateway.codec.generated import corpus
from edge_gateway.codec.profile import Profile
from tests.codec.declarations import profiles

from .mutations import judge


def test_the_same_seed_gives_the_same_frames() -> None:
    """A run can be repeated from its seed, and a longer one starts like a shorter one."""
    profile = load_profile("reference-climate")
    frames = list(corpus(profile, 5, 300))
    assert list(corpus(profile, 5, 500))[:300] == frames
    assert list(corpus(profile, 6, 300)) != frames


@pytest.mark.parametrize("name", profile_names())
def test_the_corpus_holds_sound_and_broken_frames(name: str) -> None:
    """Some frames are accepted, and some rejected for every reason the profile's frames can have."""
    profile = load_profile(name)
    frames = list(corpus(profile, 1, 4_000))
    decoded = compile_profile(profile).decode(frames)
    assert len(frames) == 4_000
    assert len(decoded.samples) > 200
    assert {"length", "checksum", "unknown-frame"} <= {reject.reason for reject in decoded.rejects}


def test_the_ends_of_the_ranges_and_the_sentinels_are_there() -> None:
    """Extreme values and "no value" come more often than chance has them."""
    profile = load_profile("reference-climate")
    samples = compile_profile(profile).decode(list(corpus(profile, 1, 4_000))).samples
    temperatures = {sample.values["temperature"] for sample in samples}
    assert {-327.67, 327.67, None, 0.0} <= temperatures
    assert {sample.values["mode"] for sample in samples} == {"idle", "measure", "fault", "3"}
    assert {sample.values["door_open"] for sample in samples} == {True, False}


@given(profiles(), st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_any_profile_has_a_corpus(profile: Profile, seed: int) -> None:
    """Whatever a profile declares, its frames can be drawn, and its decoder judges them rightly."""
    frames = list(corpus(profile, seed, 100))
    assert len(frames) == 100
    account = judge(compile_profile(profile), profile.heard_layouts, frames)
    assert account.is_good, account
