"""What does not hold in a profile's vectors, down to the byte: whoever writes a profile wants to know where to look.

`failed_vectors` is the judge; this adds the bytes. A vector fails in one of three ways: the frame is rejected, a value
differs, or something encodes to other bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from edge_gateway.codec.codec import Codec
from edge_gateway.codec.explain import Row
from edge_gateway.codec.profile import CommandVector, FrameVector
from edge_gateway.codec.vectors import failed_vectors
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_FAILURE = re.compile(r"vectors\[(\d+)\]: (.*)", re.DOTALL)
_WRONG = re.compile(r"wrong: ([0-9a-f ]+) expected")


@dataclass(frozen=True, slots=True)
class VectorFailure:
    """One thing in a vector that does not hold."""

    vector: str
    """Its place in the profile, e.g. `vectors[2]`."""
    what: str
    """The sentence of `failed_vectors`."""
    start: int | None = None
    """The first byte it is about, counted from 0; None where no byte can be named."""
    end: int | None = None
    """The byte after the last."""
    field: str = ""
    expected: str = ""
    """What the vector, or the profile's constants and checksum, say."""
    got: str = ""
    """What the profile makes of the vector's bytes, or what stands there."""


def vector_failures(codec: Codec) -> list[VectorFailure]:
    """Run every vector of the codec's profile.

    Returns:
        At least one entry for each vector that does not hold, one for each byte range that can be named.
    """
    failures: list[VectorFailure] = []
    for sentence in failed_vectors(codec):
        found = _FAILURE.fullmatch(sentence)
        if found is None:
            raise ValueError(f"failed_vectors starts each sentence with the vector's place, but not {sentence!r}")
        vector = codec.profile.vectors[int(found[1])]
        place, what = f"vectors[{found[1]}]", found[2]
        frame = bytes.fromhex(vector.hex)
        details = [
            VectorFailure(place, what, row_start, row_end, field, expected, got)
            for row_start, row_end, field, expected, got in _details(codec, vector, frame)
        ]
        failures += details or [VectorFailure(place, what)]
    return failures


def _details(
    codec: Codec, vector: FrameVector | CommandVector, frame: bytes
) -> Iterator[tuple[int, int, str, str, str]]:
    if isinstance(vector, CommandVector) or codec.profile.frames[vector.frame].role == "request":
        try:
            encoded = _encoded(codec, vector)
        except CodecError:
            return  # it has no bytes to compare; the sentence says which value does not fit
        yield from _different_bytes(codec, frame, encoded)
        return
    rows = codec.explain(frame)
    if codec.decode([frame]).rejects:
        yield from _broken_places(rows[1:])
    else:
        expected: dict[str | None, Value] = {
            codec.profile.identity: vector.address,
            codec.profile.sequence: vector.sequence,
        }
        expected.update(vector.values)
        yield from _different_values(rows[1:], expected)


def _encoded(codec: Codec, vector: FrameVector | CommandVector) -> bytes:
    match vector:
        case CommandVector():
            return codec.encode_command(vector.command, vector.arguments, vector.address).payload
        case FrameVector():
            return codec.encode(vector.frame, vector.address, vector.sequence, vector.values)


def _different_bytes(codec: Codec, frame: bytes, encoded: bytes) -> Iterator[tuple[int, int, str, str, str]]:
    """The fields whose bytes differ, by the layout of what was encoded."""
    for row in codec.explain(encoded)[1:]:
        stated = frame[row.start : row.end].hex(" ")
        if row.hex and stated != row.hex:
            yield row.start, row.end, row.field, stated, row.hex
    if len(frame) > len(encoded):
        yield len(encoded), len(frame), "", frame[len(encoded) :].hex(" "), ""


def _broken_places(rows: list[Row]) -> Iterator[tuple[int, int, str, str, str]]:
    for row in rows:
        wrong = _WRONG.search(row.note)
        if wrong:
            yield row.start, row.end, row.field, wrong[1], row.hex
        elif row.note.startswith("missing"):
            yield row.start, row.end, row.field, row.note, row.hex
        elif not row.field and row.hex:
            yield row.start, row.end, "", "", row.hex


def _different_values(rows: list[Row], expected: dict[str | None, Value]) -> Iterator[tuple[int, int, str, str, str]]:
    for row in rows:
        if row.field in expected and _json(row.value) != _json(expected[row.field]):
            yield row.start, row.end, row.field, _json(expected[row.field]), _json(row.value)


def _json(value: Value) -> str:
    """As JSON tells values apart: true is not 1, and 10.0 is 10."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return orjson.dumps(value).decode()
