"""Frames to try a decoder with: sound ones with values of every kind, and the same ones broken in every way a wire has.

Sound frames are made field by field: values drawn at random, the ends of each field's range, sentinels, items in any
order; or they are the profile's vectors. Some of those that are made lie about themselves: a count, a length or a tag
is another than what follows. Of each follow some broken ones, which is where decoders go wrong, and which costs little:
a flipped bit, a cut, a wrong checksum. Nothing marks which are which; whoever uses the corpus judges each frame on its
own, as a decoder must.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from edge_gateway.codec.fields import BytesField, Endian, NamedField, RawRange, TextField, WholeNumber
from edge_gateway.codec.fields.timestamps import rfc3339_s
from edge_gateway.codec.generated.drawing import Draws, FrameDrawing, can_carry
from edge_gateway.codec.generated.outline import plan_of
from edge_gateway.codec.generated.shapes import NumberShape, OneValue, TimeShape, TruthShape, shape_of
from edge_gateway.codec.generated.text_drawing import draw_values
from edge_gateway.codec.payload_keys import PayloadKeys
from edge_gateway.codec.profile import AnyLayout, DecoderVector, FrameVector, Profile
from edge_gateway.codec.structure.plan import Body, Plan
from edge_gateway.codec.text import TextFrame
from edge_gateway.codec.text.columns import PlainColumn
from edge_gateway.codec.text.words import TextColumn
from edge_gateway.codec.text.writing import write_text
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar, Value

_BROKEN_FOR_EACH_SOUND: Final = 15
"""Encoding costs some ten times a mutation; so both take about the same time, and each sound frame is broken often."""

_LONGEST_EXTENSION_BYTES: Final = 24

_DRAWS: Final = 64
"""Draws of a value until one can be encoded: of a scaled 64-bit number about half round out of its range."""

_VECTOR_SHARE: Final = 0.2
"""Of the sound frames, as many are the profile's vectors."""
_LYING_SHARE: Final = 0.15
"""Of those that are made, as many lie about themselves."""

_EMPTY_SHARE: Final = 0.1
"""Of the cells of a text, as many say nothing."""

_MOST_ELEMENTS: Final = 48
"""Of all lists, texts and rows of bytes in a frame, those of lists in lists included."""

_SOME_KEY: Final = bytes(range(16))
"""Of a device that no vector knows."""


def corpus(profile: Profile, seed: int, count: int, frames: Sequence[str] | None = None) -> Iterator[bytes]:
    """Frames of a profile, of every role, sound and broken; the same for the same seed.

    Args:
        profile: whose.
        seed: chooses the frames.
        count: how many.
        frames: only frames of these kinds; all unless given.

    Raises:
        CodecError: a field for which no value can be encoded; a profile's own checks leave none.
    """
    rng = random.Random(seed)  # noqa: S311 -- not for security: the same seed must give the same frames
    kinds = _kinds(profile, frames)
    if not kinds:
        raise CodecError("there is no frame to begin with", where=profile.name, remedy="Add a vector")
    given = 0
    while True:
        kind = rng.choice(kinds)
        sound = kind.sound_frame(rng)
        for number in range(_BROKEN_FOR_EACH_SOUND + 1):
            if given == count:
                return
            given += 1
            yield kind.broken(sound, rng) if number else sound


def corpus_keys(profile: Profile) -> PayloadKeys:
    """The keys that encrypted frames of the corpus are made with.

    A device of a vector has the keys of that vector. Of the others, about half have a key, so that there are frames
    from devices that have none.
    """
    known = {
        (name, vector.address): bytes.fromhex(key)
        for vector in profile.vectors
        if isinstance(vector, FrameVector)
        for name, key in vector.keys.items()
    }
    addresses = {vector.address for vector in profile.vectors if isinstance(vector, FrameVector)} - {None}

    def key_of(name: str, address: int | str | None) -> bytes | None:
        if (name, address) in known:
            return known[name, address]
        return None if address in addresses or ord(str(address)[-1]) % 2 else _SOME_KEY

    return key_of


def _kinds(profile: Profile, frames: Sequence[str] | None) -> list[_Kind]:
    if profile.decoder is not None:
        given = [each.frame_bytes for each in profile.vectors if isinstance(each, DecoderVector)]
        return [_Kind(given)] if given else []
    keys = corpus_keys(profile)
    return [_kind(profile, name, keys) for name in (profile.frames if frames is None else frames)]


def _kind(profile: Profile, name: str, keys: PayloadKeys) -> _Kind:
    frame, layout, plan = profile.frames[name], profile.layouts[name], plan_of(profile, name)
    vectors = [
        bytes.fromhex(each.hex)
        for each in profile.vectors
        if isinstance(each, FrameVector) and each.frame == name and each.reject is None
    ]
    if isinstance(frame, TextFrame):
        return _Kind(vectors, layout, lambda rng: _text_frame(frame, rng))
    if plan is None:
        return _Kind(vectors, layout)
    drawing = FrameDrawing(plan, profile.identity, profile.sequence)
    return _Kind(vectors, plan, lambda rng: _frame(drawing, keys, rng))


def _frame(drawing: FrameDrawing, keys: PayloadKeys, rng: random.Random) -> bytes | None:
    drawn = drawing.draw(_AtRandom(drawing.plan.endian, rng, lies=rng.random() < _LYING_SHARE), keys)
    return None if drawn is None else drawn.frame


def _text_frame(frame: TextFrame, rng: random.Random) -> bytes | None:
    try:
        return write_text(frame, draw_values(frame, _AtRandom("big", rng, lies=False)))
    except CodecError:
        return None  # a list too long, or a column that must say something and has nothing


class _Kind:
    """One kind of frame.

    Args:
        vectors: sound frames of it.
        layout: where its checksum is; None for one that only its vectors are known of.
        made: makes a sound frame or one that lies; None if chance had it that nothing fits.
    """

    def __init__(
        self,
        vectors: Sequence[bytes],
        layout: AnyLayout | None = None,
        made: Callable[[random.Random], bytes | None] = lambda _: None,
    ) -> None:
        self._vectors = vectors
        self._layout = layout
        self._made = made

    def sound_frame(self, rng: random.Random) -> bytes:
        """One that the decoder takes, or one that lies."""
        if self._vectors and (self._layout is None or rng.random() < _VECTOR_SHARE):
            return rng.choice(self._vectors)
        for _ in range(_DRAWS):
            frame = self._made(rng)
            if frame is not None:
                return frame
        if self._vectors:
            return rng.choice(self._vectors)
        where = "" if self._layout is None else self._layout.name
        raise CodecError("no frame could be drawn", where=where, remedy="Add a vector")

    def broken(self, frame: bytes, rng: random.Random) -> bytes:
        """The frame with something wrong, which may be another one that is right."""
        if not frame:
            return rng.randbytes(rng.randint(1, _LONGEST_EXTENSION_BYTES))
        kind = rng.randrange(len(_DAMAGES) + 2)
        if kind < len(_DAMAGES):
            return _DAMAGES[kind](frame, rng)
        check = self._layout.placed_check(len(frame)) if isinstance(self._layout, Plan) else None
        if check is not None and kind == len(_DAMAGES):
            return frame[: check.start] + rng.randbytes(check.end - check.start) + frame[check.end :]
        # Other bytes under a checksum that holds, so that what lies behind the check is tried too.
        other = rng.choice((_replace_run, _replace_run, _nudge_byte, _repeat_part, _fill))(frame, rng)
        fits = self._layout is not None and len(other) >= self._layout.least_bytes
        return self._layout.sealed(other) if self._layout is not None and fits else other


class _AtRandom(Draws):
    """Decides by chance.

    Args:
        endian: of the frame's numbers.
        rng: chance.
        lies: whether counts, lengths and tags may be wrong.
    """

    def __init__(self, endian: Endian, rng: random.Random, *, lies: bool) -> None:
        self._endian = endian
        self._rng = rng
        self._lies = lies
        self._left = _MOST_ELEMENTS

    def value(self, spec: OneValue, path: str, *, decides: bool) -> Value:  # noqa: ARG002 -- all are drawn alike
        """A value that the field can encode: an end of its range, a sentinel or any."""
        for _ in range(_DRAWS):
            value = _draw_any(spec, self._endian, self._rng)
            if can_carry(spec, value):
                return value
        raise CodecError("no value could be drawn", where=spec.name, remedy="Check that the field can encode any value")

    def one_of(self, spec: NamedField, path: str, options: Sequence[Scalar]) -> Value:
        """One of the options, or where frames lie, anything."""
        lies = self._lies and self._rng.random() < 0.3
        return self.value(spec, path, decides=True) if lies else self._rng.choice(options)

    def size(self, path: str, least: int, most: int) -> int:  # noqa: ARG002 -- all are drawn alike
        """A few; lists in lists would be many."""
        size = min(most, least + min(self._left, self._rng.choice((0, 1, 1, 2, 3, 4, 9))))
        self._left = max(0, self._left - size)
        return size

    def stated(self, path: str, size: int) -> int:  # noqa: ARG002 -- all are drawn alike
        """The size itself, or where frames lie, another."""
        if self._lies and self._rng.random() < 0.3:
            return self._rng.choice((size + 1, size - 1, 0, 0x7F, 0xFF, self._rng.randrange(1 << 16)))
        return size

    def content(self, spec: TextField | BytesField, path: str, size_bytes: int) -> bytes:  # noqa: ARG002 -- as above
        """Letters, or any bytes."""
        if isinstance(spec, TextField) and self._rng.random() < 0.9:
            return bytes(self._rng.choices(range(0x20, 0x7F), k=size_bytes))
        return self._rng.randbytes(size_bytes)

    def items(self, path: str, bodies: Mapping[int, Body]) -> Sequence[int]:  # noqa: ARG002 -- all are drawn alike
        """Some of them, also twice, in any order; where frames lie, also one that nobody declared."""
        tags = self._rng.choices(list(bodies), k=self._rng.choice((0, 1, 2, 3, 5)))
        if self._lies and self._rng.random() < 0.5:
            tags.insert(self._rng.randint(0, len(tags)), self._rng.randrange(256))
        return tags


def _draw_any(spec: OneValue, endian: Endian, rng: random.Random) -> Value:
    if isinstance(spec, PlainColumn) and (not isinstance(spec, WholeNumber) or rng.random() < _EMPTY_SHARE):
        return _draw_text(spec, rng)
    if isinstance(spec, WholeNumber):
        special = {*spec.raw_range, *spec.valid_raw, *spec.enum}
        for sentinel in spec.sentinel:
            special |= {sentinel.minimum, sentinel.maximum} if isinstance(sentinel, RawRange) else {sentinel}
        return spec.value_of(rng.choice((*sorted(special), *_randoms(*spec.valid_raw, rng))))
    size = spec.size_bytes
    # The blank one can always be encoded, even where random bytes are hardly ever valid.
    drawn = rng.choice((bytes(size), b"\xff" * size, spec.blank(endian), rng.randbytes(size), rng.randbytes(size)))
    return spec.value_in(drawn, endian)


def _draw_text(spec: PlainColumn, rng: random.Random) -> Value:
    """A value of a column: by its shape, or nothing."""
    if rng.random() < _EMPTY_SHARE:
        return None
    match shape_of(spec):
        case NumberShape(_, least, most):
            low, high = (-1e6 if least is None else float(least)), (1e6 if most is None else float(most))
            number = rng.choice((low, high, 0.0, rng.uniform(low, high), rng.uniform(low, high)))
            return round(number, rng.randrange(7))
        case TruthShape():
            return rng.random() < 0.5
        case TimeShape():
            return rfc3339_s(rng.randrange(946_684_800, 4_102_444_800))
        case _:
            clock, day = f"{rng.randrange(24):02}:{rng.randrange(60):02}:07Z", f"20{rng.randrange(100):02}-02-28"
            words: Sequence[str] = list(spec.enum.values()) if isinstance(spec, TextColumn) else ()
            letters = "".join(rng.choices(string.printable, k=rng.choice((1, 1, 2, 3, 4, 8, 10, 12, 16))))
            return rng.choice((clock, day, letters, letters.strip(), "".join(filter(str.isalnum, letters)), *words))


def _randoms(low: int, high: int, rng: random.Random) -> tuple[int, ...]:
    """Numbers of the range; some near its ends and near 0, where carries and signs are."""
    near = (low + 1, high - 1, 0, 1, -1)
    return (*(each for each in near if low <= each <= high), *(rng.randint(low, high) for _ in range(6)))


# --- breaking --------------------------------------------------------------------------------------------------------


def _flip_bits(frame: bytes, rng: random.Random) -> bytes:
    number = int.from_bytes(frame, "little")
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        number ^= 1 << rng.randrange(8 * len(frame))
    return number.to_bytes(len(frame), "little")


def _replace_run(frame: bytes, rng: random.Random) -> bytes:
    """A burst of noise, or of a line that hangs at one level."""
    start = rng.randrange(len(frame))
    size = rng.randint(1, len(frame) - start)
    run = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return frame[:start] + run + frame[start + size :]


def _cut(frame: bytes, rng: random.Random) -> bytes:
    size = rng.randrange(len(frame))
    return frame[:size] if rng.random() < 0.5 else frame[len(frame) - size :]


def _lose_byte(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame))
    return frame[:at] + frame[at + 1 :]


def _extend(frame: bytes, rng: random.Random) -> bytes:
    extra = rng.randbytes(rng.randint(1, _LONGEST_EXTENSION_BYTES))
    return frame + extra if rng.random() < 0.5 else extra + frame


def _swap_bytes(frame: bytes, rng: random.Random) -> bytes:
    """Two neighbours in the wrong order, which a plain sum does not see."""
    swapped = bytearray(frame)
    at = rng.randrange(len(frame))
    swapped[at - 1], swapped[at] = swapped[at], swapped[at - 1]
    return bytes(swapped)


def _nudge_byte(frame: bytes, rng: random.Random) -> bytes:
    """One number a little other than it was, as counts, lengths and tags are wrong by one."""
    at = rng.randrange(len(frame))
    other = rng.choice((frame[at] + 1, frame[at] - 1, 0, 0x7F, 0x80, 0xFF)) & 0xFF
    return frame[:at] + bytes([other]) + frame[at + 1 :]


def _repeat_part(frame: bytes, rng: random.Random) -> bytes:
    """Some bytes twice, as items that come again, or a sender that stutters."""
    start = rng.randrange(len(frame))
    end = min(len(frame), start + rng.randint(1, _LONGEST_EXTENSION_BYTES))
    return frame[:end] + frame[start:end] + frame[end:]


def _fill(frame: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(len(frame))


_DAMAGES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _flip_bits,
    _flip_bits,
    _replace_run,
    _cut,
    _lose_byte,
    _extend,
    _swap_bytes,
    _nudge_byte,
    _repeat_part,
)
