"""Signals for any profile: they can be sent, they are plausible, and a virtual sensor plays them."""

from __future__ import annotations

import asyncio
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile, parse_profile, profile_names
from edge_gateway.codec.fields import BitField
from edge_gateway.codec.generated import ProfileSignal
from edge_gateway.codec.profile import Profile, is_field
from edge_gateway.errors import CodecError
from edge_gateway.framing import make_framer
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.sensor_signals import Signal
from edge_gateway.testbench.virtual_sensor import VirtualSensor
from edge_gateway.testbench.virtual_time import run_virtual
from tests.codec.declarations import profiles


def test_it_is_a_signal_of_the_test_bench() -> None:
    """A virtual sensor takes it like the signals written by hand."""
    signal: Signal = ProfileSignal(load_profile("tfmini"), random.Random(1))
    assert set(signal.values(0.0)) == {"distance", "strength", "mode"}


@pytest.mark.parametrize("name", profile_names())
def test_a_virtual_sensor_plays_it(name: str) -> None:
    """A sensor of the test bench with this signal sends frames that the profile's framing and decoder take."""

    async def main() -> list[bytes]:
        line = MemoryLine()
        codec = compile_profile(load_profile(name))
        signal = ProfileSignal(codec.profile, random.Random(1))
        sensor = VirtualSensor("generated", line, signal, profile=name, period_s=1.0, rng=random.Random(2), address=7)
        framer = make_framer(codec.profile.framing)
        frames: list[bytes] = []
        async with line.transport("port") as gateway:
            for _ in range(20):
                sensor.send()
                frames += framer.feed(await gateway.read())
                await asyncio.sleep(1)
        decoded = codec.decode(frames)
        assert len(decoded.samples) == 20
        assert decoded.samples[-1].values == sensor.latest
        return frames

    assert run_virtual(main())


@pytest.mark.parametrize("name", profile_names())
def test_what_is_measured_can_be_sent(name: str) -> None:
    """An hour of measurements of each packaged profile is encoded, decoded, and differs from frame to frame."""
    codec = compile_profile(load_profile(name))
    signal = ProfileSignal(codec.profile, random.Random(1))
    frame = next(each for each, spec in codec.profile.frames.items() if spec.role == "sample")
    frames = [codec.encode(frame, 1, 0, signal.values(float(at_s))) for at_s in range(3_600)]
    decoded = codec.decode(frames)
    assert len(decoded.samples) == 3_600
    repeated = sum(one.values == other.values for one, other in pairwise(decoded.samples))
    assert repeated < 36


@given(profiles(), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_any_profile_has_a_signal(profile: Profile, seed: int) -> None:
    """Whatever a profile declares, its sample frames can be measured and encoded."""
    codec = compile_profile(profile)
    for name, frame in profile.frames.items():
        if frame.role != "sample":
            continue
        signal = ProfileSignal(profile, random.Random(seed), frame=name)
        who = profile.named(name)["who"]
        assert is_field(who) and not isinstance(who, BitField)
        address = who.value_in(who.blank("big"), "big")
        assert isinstance(address, int | str)
        for at_s in (0.0, 1.0, 1e6):
            assert codec.encode(name, address, 0, signal.values(at_s))


def test_numbers_are_what_their_unit_usually_shows() -> None:
    """A room has some 22 Cel, its values change slowly, and its uptime rises."""
    signal = ProfileSignal(load_profile("reference-climate"), random.Random(3))
    measured = [signal.values(float(at_s)) for at_s in range(600)]
    temperatures = [float(str(each["temperature"])) for each in measured if each["temperature"] is not None]
    assert 15 < statistics.mean(temperatures) < 29
    assert max(abs(one - other) for one, other in pairwise(temperatures)) < 1
    assert [each["uptime_ms"] for each in measured] == [1000 * at_s for at_s in range(600)]
    assert {each["door_open"] for each in measured} == {True, False}


def test_an_uptime_that_says_no_value_is_none() -> None:
    """Where a device keeps a number of its counter for "no value", the signal does not measure it."""
    text = (
        "{name: clock, version: 1, title: Clock, source: {document: d}, framing: {kind: slip}, frames: {"
        "a: {role: sample, endian: big, fields: [{name: uptime, type: u32, unit: s, sentinel: 0}]}}}"
    )
    signal = ProfileSignal(parse_profile(text, "x"), random.Random(1))
    assert signal.values(0.0) == {"uptime": None}
    assert signal.values(2.0) == {"uptime": 2}


def test_the_same_seed_measures_the_same() -> None:
    """Two signals of one seed are alike, of two seeds not."""
    profile = load_profile("pms5003")
    runs = [[ProfileSignal(profile, random.Random(seed)).values(1.0) for _ in range(3)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_a_profile_without_samples_has_no_signal() -> None:
    """A device that measures nothing, or not this frame, is refused."""
    text = (
        "{name: mute, version: 1, title: Mute, source: {document: d}, framing: {kind: slip}, frames: {"
        "a: {role: answer, endian: big, fields: [{name: level, type: u16}]}}}"
    )
    with pytest.raises(CodecError, match="there is no sample frame"):
        ProfileSignal(parse_profile(text, "x"), random.Random(1))
    with pytest.raises(CodecError, match="Sample frames: distance"):
        ProfileSignal(load_profile("tfmini"), random.Random(1), frame="speed")
