"""What does not hold in a profile's vectors, down to the byte: whoever writes a profile wants to know where to look.

`failed_vectors` is the judge; this adds the bytes. A vector fails in one of three ways: the frame is rejected, a value
differs, or something encodes to other bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from edge_gateway.codec.codec import Codec
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.profile import CommandVector, DecoderVector, FrameVector
from edge_gateway.codec.rows import Row
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
        if isinstance(vector, DecoderVector):
            failures.append(VectorFailure(place, what))  # only its code knows which bytes a value is from
            continue
        frame = bytes.fromhex(vector.hex)
        details = [
            VectorFailure(place, what, row_start, row_end, field, expected, got)
            for row_start, row_end, field, expected, got in _details(_with_keys(codec, vector), vector, frame)
        ]
        failures += details or [VectorFailure(place, what)]
    return failures


_Detail: TypeAlias = tuple[int | None, int | None, str, str, str]
"""The first byte, the byte after the last, the field, what was expected, and what came."""


def _with_keys(codec: Codec, vector: FrameVector | CommandVector) -> Codec:
    if isinstance(vector, CommandVector) or not vector.keys:
        return codec
    return Codec(codec.profile, same_payload_keys({name: bytes.fromhex(key) for name, key in vector.keys.items()}))


def _details(codec: Codec, vector: FrameVector | CommandVector, frame: bytes) -> Iterator[_Detail]:
    if isinstance(vector, CommandVector) or codec.profile.frames[vector.frame].role == "request":
        try:
            encoded = _encoded(codec, vector)
        except CodecError:
            return  # it has no bytes to compare; the sentence says which value does not fit
        yield from _different_bytes(codec, frame, encoded)
        return
    whole, *rows = codec.explain(frame)
    # What a polled device says is known by what was asked, and its frames may look the same.
    decode = codec.decoder_of((vector.frame,)) if codec.profile.polls else codec.decode
    if decode([frame]).rejects:
        yield from _broken_places(rows)
    elif whole.field == vector.frame and vector.reject is None:
        expected: dict[str | None, Value] = {
            codec.profile.identity: vector.address,
            codec.profile.sequence: vector.sequence,
        }
        for name, value in vector.values.items():
            expected.update(_leaves(name, value))
        yield from _different_values(rows, expected)


def _encoded(codec: Codec, vector: FrameVector | CommandVector) -> bytes:
    match vector:
        case CommandVector():
            return codec.encode_command(vector.command, vector.arguments, vector.address).payload
        case FrameVector():
            return codec.encode(vector.frame, vector.address, vector.sequence, vector.values)


def _different_bytes(codec: Codec, frame: bytes, encoded: bytes) -> Iterator[_Detail]:
    """The fields whose bytes differ, by the layout of what was encoded."""
    for row in codec.explain(encoded)[1:]:
        stated = frame[row.start : row.end].hex(" ")
        if row.hex and stated != row.hex:
            yield row.start, row.end, row.field, stated, row.hex
    if len(frame) > len(encoded):
        yield len(encoded), len(frame), "", frame[len(encoded) :].hex(" "), ""


def _broken_places(rows: list[Row]) -> Iterator[_Detail]:
    for row in rows:
        wrong = _WRONG.search(row.note)
        if wrong:
            yield *_place(row), row.field, wrong[1], row.hex
        elif row.note.startswith(("missing", "rejected")):
            yield *_place(row), row.field, row.note, row.hex
        elif "bytes more than" in row.note:
            yield *_place(row), "", "", row.hex


def _different_values(rows: list[Row], expected: dict[str | None, Value]) -> Iterator[_Detail]:
    for row in rows:
        if row.field in expected and _json(row.value) != _json(expected[row.field]):
            yield *_place(row), row.field, _json(expected[row.field]), _json(row.value)


def _place(row: Row) -> tuple[int | None, int | None]:
    """The bytes of a row; none for what was encrypted, whose bytes are nowhere in the frame."""
    return (None, None) if row.seals else (row.start, row.end)


def _leaves(name: str, value: Value) -> Iterator[tuple[str, Value]]:
    """A value by the names of rows: what is in a mapping or a list, each by its own."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _leaves(f"{name}[{index}]", inner)
    else:
        yield name, value


def _json(value: Value) -> str:
    """As JSON tells values apart: true is not 1, and 10.0 is 10."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return orjson.dumps(value).decode()
