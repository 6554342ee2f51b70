"""Decoding: exact, in order, and never raising for any bytes."""

from __future__ import annotations

import math
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import Codec, compile_profile, load_profile, parse_profile
from edge_gateway.codec.fields import IntegerField
from edge_gateway.codec.profile import Profile
from edge_gateway.records import Value

from .declarations import fixed_layouts, frames_of, profiles

REFERENCE = compile_profile(load_profile("reference-climate"))

reference_values = st.fixed_dictionaries(
    {
        "uptime_ms": st.integers(0, 2**32 - 1),
        "temperature": st.none() | st.integers(-32_767, 32_767).map(lambda raw: raw / 100),
        "humidity": st.none() | st.integers(0, 65_534).map(lambda raw: raw / 100),
        "battery": st.integers(0, 65_535).map(lambda raw: raw / 1000),
        "door_open": st.booleans(),
        "low_battery": st.booleans(),
        "mode": st.sampled_from(["idle", "measure", "fault", "3"]),
    }
)
addresses = st.integers(0, 65_535)


def reference_frame(address: int = 7, sequence: int = 41) -> bytes:
    values: dict[str, Value] = {
        "uptime_ms": 1000,
        "temperature": 21.5,
        "humidity": 40.0,
        "battery": 3.1,
        "door_open": False,
        "low_battery": False,
        "mode": "idle",
    }
    return REFERENCE.encode("sample", address, sequence, values)


def one_float(kind: str) -> Codec:
    return compile_profile(
        parse_profile(
            f"""
            name: float
            version: 1
            title: One float
            source: {{document: none}}
            framing: {{kind: slip}}
            frames:
              only: {{role: sample, endian: big, fields: [{{name: level, type: {kind}}}]}}
            """,
            "float.yaml",
        )
    )


def told_by_fields(profile: Profile, frame_name: str, frame: bytes) -> tuple[dict[str, Value], bool]:
    """The values of a frame, field by field, without the generated code, and whether each of them is accepted."""
    layout = fixed_layouts(profile)[frame_name]
    found: dict[str, Value] = {}
    accepted = True
    for slot in layout.slots:
        data, field = frame[slot.start : slot.end], slot.field
        if isinstance(field, IntegerField) and field.bits:
            number = field.unpack(data, layout.endian)
            found |= {part.name: part.value_of(part.taken_from(number)) for part in field.bits}
            accepted &= not any(part.flaw_of(part.taken_from(number)) for part in field.bits)
        else:
            found[field.name] = field.value_in(data, layout.endian)
            accepted &= not field.flaw_in(data, layout.endian)
    return found, accepted


@given(addresses, addresses, reference_values)
def test_reference_frames_come_back(address: int, sequence: int, values: dict[str, Value]) -> None:
    """What is encoded as a reference sample decodes to the same address, sequence and values."""
    decoded = REFERENCE.decode([REFERENCE.encode("sample", address, sequence, values)])
    assert decoded.samples == [(address, sequence, values)]
    assert decoded.rejects == []


@settings(max_examples=200, deadline=None)
@given(st.data(), profiles())
def test_frames_of_any_profile_decode_and_come_back(data: st.DataObject, profile: Profile) -> None:
    """For any profile and frame, the compiled decoder agrees with the declaration, and what it accepts encodes back."""
    codec = compile_profile(profile)
    name = data.draw(st.sampled_from(sorted(profile.frames)))
    frame = data.draw(frames_of(fixed_layouts(profile)[name]))
    decoded = codec.decode([frame])
    expected, accepted = told_by_fields(profile, name, frame)
    if not accepted:
        assert decoded.rejects == [(frame, "value")]
        return
    assert decoded.rejects == []
    address = expected["who"]
    values = {field: expected[field] for field in profile.values_of(name)}
    if profile.frames[name].role == "answer":
        assert decoded.answers == [(name, address, values)]
    else:
        assert decoded.samples == [(address, expected["count"], values)]
    sequence = expected["count"]
    assert isinstance(address, (int, str))
    assert isinstance(sequence, int)
    again = codec.encode(name, address, sequence, values)
    assert codec.decode([again]) == decoded
    assert len(again) == len(frame)


@given(st.lists(st.binary(max_size=40) | st.binary(min_size=18, max_size=18).map(lambda tail: b"\x01" + tail[1:])))
def test_no_bytes_raise_and_none_pass_unchecked(frames: list[bytes]) -> None:
    """Whatever the bytes, each frame ends in exactly one list, and an accepted one has the right checksum."""
    decoded = REFERENCE.decode(frames)
    assert len(decoded.samples) + len(decoded.answers) + len(decoded.rejects) == len(frames)
    rejected = {reject.data for reject in decoded.rejects}
    for frame in frames:
        if frame not in rejected:
            layout = next(
                found for found in fixed_layouts(REFERENCE.profile).values() if found.length_bytes == len(frame)
            )
            assert layout.checksum is not None
            assert layout.checksum.holds(frame)
    assert {reject.reason for reject in decoded.rejects} <= {"length", "checksum", "unknown-frame"}


@settings(max_examples=60, deadline=None)  # compiling takes its time on a busy machine
@given(profiles(), st.lists(st.binary(max_size=64), max_size=20))
def test_no_bytes_raise_in_any_profile(profile: Profile, frames: list[bytes]) -> None:
    """The decoder of any profile takes any bytes."""
    decoded = compile_profile(profile).decode(frames)
    assert len(decoded.samples) + len(decoded.answers) + len(decoded.rejects) == len(frames)


def test_every_flipped_bit_is_noticed() -> None:
    """A reference frame with any one or two bits flipped is rejected as damaged, wherever they are."""
    frame = int.from_bytes(reference_frame(), "big")
    flips = [1 << bit for bit in range(18 * 8)]
    damaged = [(frame ^ one ^ other).to_bytes(18, "big") for one in flips for other in flips if one != other]
    damaged += [(frame ^ one).to_bytes(18, "big") for one in flips]
    decoded = REFERENCE.decode(damaged)
    assert decoded.samples == []
    assert {reject.reason for reject in decoded.rejects} == {"checksum"}


def test_a_cut_or_grown_frame_is_rejected_by_its_length() -> None:
    """A frame that lost or gained bytes has a length no frame has, and says so."""
    frame = reference_frame()
    lengths = [n for n in range(18) if n != 7]
    decoded = REFERENCE.decode([frame[:n] for n in lengths] + [frame + b"\0"])
    assert [reject.reason for reject in decoded.rejects] == ["length"] * (len(lengths) + 1)


def test_a_sound_frame_of_another_kind_is_unknown() -> None:
    """The right length and checksum with a kind the profile does not have is an unknown frame, not damage."""
    layout = fixed_layouts(REFERENCE.profile)["sample"]
    assert layout.checksum is not None
    body = b"\x02" + reference_frame()[1:16]
    foreign = body + layout.checksum.compute(body).to_bytes(2, "little")
    assert REFERENCE.decode([foreign]).rejects == [(foreign, "unknown-frame")]


def test_requests_are_not_taken_for_answers() -> None:
    """The gateway's own request, heard as an echo on a shared line, is rejected."""
    echo = REFERENCE.encode_command("ping", {}, address=7).payload
    assert REFERENCE.decode([echo]).rejects == [(echo, "length")]


def test_a_batch_keeps_its_order() -> None:
    """Samples, answers and rejects each come out in the order they went in."""
    answers = [REFERENCE.encode("answer", n, None, {"code": "ping", "status": "done"}) for n in range(3)]
    samples = [reference_frame(sequence=n) for n in range(3)]
    broken = [bytes([n]) for n in range(3)]
    mixed = [frame for trio in zip(answers, samples, broken, strict=True) for frame in trio]
    decoded = REFERENCE.decode(mixed)
    assert [answer.address for answer in decoded.answers] == [0, 1, 2]
    assert [sample.sequence for sample in decoded.samples] == [0, 1, 2]
    assert [reject.data for reject in decoded.rejects] == broken


def test_numbers_json_cannot_say_become_null() -> None:
    """NaN and the infinities decode to None, and None encodes to a NaN."""
    codec = one_float("f32")
    odd = [struct.pack(">f", number) for number in (math.nan, math.inf, -math.inf)]
    assert [sample.values for sample in codec.decode(odd).samples] == [{"level": None}] * 3
    sent = codec.encode("only", None, None, {"level": None})
    assert math.isnan(struct.unpack(">f", sent)[0])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_floats_come_back(number: float) -> None:
    """Every finite f64 decodes to itself."""
    codec = one_float("f64")
    assert codec.decode([codec.encode("only", None, None, {"level": number})]).samples[0].values == {"level": number}


def test_expected_values_see_constants() -> None:
    """The comparison above covers constants too: they are fields, and no values."""
    assert REFERENCE.profile.named("sample")["kind"].is_constant
    assert "kind" not in REFERENCE.profile.values_of("sample")
