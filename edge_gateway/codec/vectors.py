"""A profile's test vectors, run against its own codec.

A vector is a frame somebody else vouches for: the manual, or a capture. Where the vectors hold, the declaration says
what the device does, at least there.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_gateway.codec.codec import Codec
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.profile import CommandVector, DecoderVector, FrameVector
from edge_gateway.errors import CodecError
from edge_gateway.records import Value


def failed_vectors(codec: Codec) -> list[str]:
    """Run every vector of the codec's profile.

    Returns:
        What did not hold, a sentence each with the vector's place in the profile; empty when all is well.
    """
    failures = []
    for index, vector in enumerate(codec.profile.vectors):
        match vector:
            case FrameVector():
                failure = _frame_failure(codec if not vector.keys else _with_keys(codec, vector), vector)
            case CommandVector():
                failure = _command_failure(codec, vector)
            case DecoderVector():
                failure = _decoder_failure(codec, vector)
        if failure:
            failures.append(f"vectors[{index}]: {failure}")
    return failures


def _with_keys(codec: Codec, vector: FrameVector) -> Codec:
    keys = {name: bytes.fromhex(key) for name, key in vector.keys.items()}
    return Codec(codec.profile, same_payload_keys(keys))


def _frame_failure(codec: Codec, vector: FrameVector) -> str:
    frame = bytes.fromhex(vector.hex)
    if codec.profile.frames[vector.frame].role == "request":
        try:
            encoded = codec.encode(vector.frame, vector.address, vector.sequence, vector.values)
        except CodecError as error:
            return str(error)
        return "" if encoded == frame else f"encodes to {encoded.hex(' ')}, not to {frame.hex(' ')}"
    # What a polled device says is known by what was asked.
    is_asked_for = bool(codec.profile.polls)
    decode = codec.decoder_of((vector.frame,)) if is_asked_for else codec.decode
    samples, answers, rejects, *_ = decode([frame])
    if vector.reject is not None:
        if not rejects:
            return f"the frame is taken, and the vector says {vector.reject!r}"
        reason = rejects[0].reason
        return "" if reason == vector.reject else f"the frame is rejected: {reason}, not {vector.reject}"
    if rejects:
        return f"the frame is rejected: {rejects[0].reason}"
    name = vector.frame if is_asked_for else answers[0].frame if answers else _sample_name(codec, frame)
    if name != vector.frame:
        return f"the frame is decoded as {name!r}, not as {vector.frame!r}"
    got = samples[0] if samples else answers[0]
    if got.address != vector.address:
        return f"the address is {got.address!r}, not {vector.address!r}"
    if samples and samples[0].sequence != vector.sequence:
        return f"the sequence is {samples[0].sequence!r}, not {vector.sequence!r}"
    return _difference(samples[0].values if samples else answers[0].fields, vector.values)


def _sample_name(codec: Codec, frame: bytes) -> str:
    """Which sample a frame that decodes is: the one layout that fits it."""
    profile = codec.profile
    fitting = [name for name, layout in profile.layouts.items() if _is_sample(codec, name) and layout.fits(frame)]
    if len(fitting) == 1:
        return fitting[0]
    return next(name for name in fitting if codec.reads_as(name, frame))


def _is_sample(codec: Codec, name: str) -> bool:
    return codec.profile.frames[name].role == "sample"


def _command_failure(codec: Codec, vector: CommandVector) -> str:
    expected = bytes.fromhex(vector.hex)
    try:
        payload = codec.encode_command(vector.command, vector.arguments, vector.address).payload
    except CodecError as error:
        return str(error)
    return "" if payload == expected else f"encodes to {payload.hex(' ')}, not to {expected.hex(' ')}"


def _decoder_failure(codec: Codec, vector: DecoderVector) -> str:
    samples, _, rejects, *_ = codec.decode([vector.frame_bytes])
    reason = rejects[0].reason if rejects else None
    if reason != vector.reject:
        return f"the frame is {'taken' if reason is None else f'rejected: {reason}'}, not {vector.reject or 'taken'}"
    if len(samples) != len(vector.samples):
        return f"the decoder gives {len(samples)} samples, not {len(vector.samples)}"
    for got, expected in zip(samples, vector.samples, strict=True):
        if got.address != expected.address:
            return f"the address is {got.address!r}, not {expected.address!r}"
        difference = _difference(got.values, expected.values)
        if difference:
            return difference
    return ""


def _difference(got: Mapping[str, Value], expected: Mapping[str, Value]) -> str:
    for name in {**expected, **got}:
        if name not in got:
            return f"the frame has no value {name!r}"
        if name not in expected:
            return f"the value {name!r} is {got[name]!r}, and the vector does not say so"
        if _told_apart(got[name]) != _told_apart(expected[name]):
            return f"{name!r} is {got[name]!r}, not {expected[name]!r}"
    return ""


def _told_apart(value: Value) -> object:
    """The value with true and false marked, as True == 1 in Python, but not in JSON."""
    if isinstance(value, bool):
        return ("truth", value)
    if isinstance(value, Mapping):
        return {name: _told_apart(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told_apart(each) for each in value]
    return value
