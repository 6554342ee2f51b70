"""A profile's test vectors, run against its own codec.

A vector is a frame somebody else vouches for: the manual, or a capture. Where the vectors hold, the declaration says
what the device does, at least there.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_gateway.codec.codec import Codec
from edge_gateway.codec.profile import CommandVector, FrameVector
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
                failure = _frame_failure(codec, vector)
            case CommandVector():
                failure = _command_failure(codec, vector)
        if failure:
            failures.append(f"vectors[{index}]: {failure}")
    return failures


def _frame_failure(codec: Codec, vector: FrameVector) -> str:
    frame = bytes.fromhex(vector.hex)
    if codec.profile.frames[vector.frame].role == "request":
        try:
            encoded = codec.encode(vector.frame, vector.address, vector.sequence, vector.values)
        except CodecError as error:
            return str(error)
        return "" if encoded == frame else f"encodes to {encoded.hex(' ')}, not to {frame.hex(' ')}"
    samples, answers, rejects = codec.decode([frame])
    if rejects:
        return f"the frame is rejected: {rejects[0].reason}"
    name = answers[0].frame if answers else _sample_name(codec, frame)
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
    return next(
        name
        for name, layout in codec.profile.layouts.items()
        if codec.profile.frames[name].role == "sample" and layout.fits(frame)
    )


def _command_failure(codec: Codec, vector: CommandVector) -> str:
    expected = bytes.fromhex(vector.hex)
    try:
        payload = codec.encode_command(vector.command, vector.arguments, vector.address).payload
    except CodecError as error:
        return str(error)
    return "" if payload == expected else f"encodes to {payload.hex(' ')}, not to {expected.hex(' ')}"


def _difference(got: Mapping[str, Value], expected: Mapping[str, Value]) -> str:
    for name in {**expected, **got}:
        if name not in got:
            return f"the frame has no value {name!r}"
        if name not in expected:
            return f"the value {name!r} is {got[name]!r}, and the vector does not say so"
        # True == 1 in Python, but not in JSON.
        if got[name] != expected[name] or isinstance(got[name], bool) != isinstance(expected[name], bool):
            return f"{name!r} is {got[name]!r}, not {expected[name]!r}"
    return ""
