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
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.profile import FrameVector, Profile, is_field
from edge_gateway.config.link import CobsFraming
from edge_gateway.errors import CodecError
from edge_gateway.framing import make_framer
from edge_gateway.testbench.sensor_line import MemoryLine
from edge_gateway.testbench.sensor_signals import Signal
from edge_gateway.testbench.virtual_sensor import VirtualSensor
from edge_gateway.testbench.virtual_time import run_virtual
from tests.codec.declarations import profiles
from tests.codec.structure.drawn import KEYS, Structure, structures


def test_it_is_a_signal_of_the_test_bench() -> None:
    """A virtual sensor takes it like the signals written by hand."""
    signal: Signal = ProfileSignal(load_profile("tfmini"), random.Random(1))
    assert set(signal.values(0.0)) == {"distance", "strength", "mode"}


SAMPLE_FRAMES = [
    (name, frame)
    for name in profile_names()
    for frame, declared in load_profile(name).frames.items()
    if declared.role == "sample"
]


def address_of(profile: Profile, frame: str) -> int | str | None:
    """An address as devices of this profile have."""
    vectors = [vector for vector in profile.vectors if isinstance(vector, FrameVector) and vector.frame == frame]
    return next((vector.address for vector in vectors if vector.address is not None), None)


@pytest.mark.parametrize(("name", "frame"), SAMPLE_FRAMES)
def test_a_virtual_sensor_plays_it(name: str, frame: str) -> None:
    """A sensor of the test bench with this signal sends frames that a framing and the decoder take."""

    async def main() -> None:
        line = MemoryLine()
        profile = load_profile(name)
        framing = profile.framing or CobsFraming(kind="cobs")
        sensor = VirtualSensor(
            "generated",
            line,
            ProfileSignal(profile, random.Random(1), frame=frame),
            profile=name,
            period_s=1.0,
            rng=random.Random(2),
            address=address_of(profile, frame),
            frame=frame,
            framing=framing,
            different_frames=0,
        )
        framer = make_framer(framing)
        decode = compile_profile(profile).decoder_of((frame,))
        async with line.transport("port") as gateway:
            for _ in range(10):
                sensor.send()
                frames = framer.feed(await gateway.read())
                await asyncio.sleep(1)
                frames += framer.flush(asyncio.get_running_loop().time())
                (sample,) = decode(frames).samples
                assert sample.values == sensor.latest

    run_virtual(main())


@pytest.mark.parametrize(("name", "frame"), SAMPLE_FRAMES)
def test_what_is_measured_can_be_sent(name: str, frame: str) -> None:
    """Minutes of measurements of each sample frame are encoded, and decoded to what was measured."""
    profile = load_profile(name)
    codec = compile_profile(profile)
    signal = ProfileSignal(profile, random.Random(1), frame=frame)
    address = address_of(profile, frame)
    measured = [signal.values(float(at_s)) for at_s in range(0, 3_600, 60)]
    samples = codec.decoder_of((frame,))([codec.encode(frame, address, 0, values) for values in measured]).samples
    for values, sample in zip(measured, samples, strict=True):
        assert sample.address == address
        # What is computed nobody measures, and what only says what the frame is made of is no value.
        both = values.keys() & sample.values.keys()
        assert both
        assert {name: sample.values[name] for name in both} == {name: values[name] for name in both}


def test_a_sensor_that_encrypts_is_measured_with_its_key() -> None:
    """With keys, a sensor may be one that encrypts; its frames open with them, and not without."""
    profile = load_profile("bthome-v2")
    keys = same_payload_keys({"bindkey": bytes(range(16))})
    (frame,) = profile.frames
    encrypted = 0
    for seed in range(20):
        values = ProfileSignal(profile, random.Random(seed), keys=keys).values(0.0)
        payload = compile_profile(profile, keys).encode(frame, address_of(profile, frame), 1, values)
        (sample,) = compile_profile(profile, keys).decode([payload]).samples
        assert sample.values.items() <= {**sample.values, **values}.items()
        encrypted += compile_profile(profile).decode([payload]).rejects != []
    assert encrypted


def test_values_are_not_frozen() -> None:
    """Measurements differ from one to the next, while what the frame is made of stays."""
    for name in ("reference-climate", "bthome-v2", "ruuvitag", "nmea0183"):
        signal = ProfileSignal(load_profile(name), random.Random(1))
        measured = [signal.values(float(at_s)) for at_s in range(0, 86_400, 600)]
        assert sum(one == other for one, other in pairwise(measured)) < len(measured) / 2
        assert len({tuple(values) for values in measured}) == 1


@given(structures(), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_any_structure_has_a_signal_or_says_why_not(structure: Structure, seed: int) -> None:
    """What is measured of a frame of any structure can be sent; where nothing can, the error says so."""
    codec = structure.codec
    refusal = ""
    try:
        signal = ProfileSignal(codec.profile, random.Random(seed), keys=KEYS)
        for at_s in (0.0, 1.0, 1e6):
            assert codec.decode([codec.encode("only", None, None, signal.values(at_s))]).samples
    except CodecError as error:
        refusal = error.what
    assert refusal in ("", "no values were found that can be sent")


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
        assert is_field(who)
        assert not isinstance(who, BitField)
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
