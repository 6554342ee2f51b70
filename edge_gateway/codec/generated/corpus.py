"""Frames to try a decoder with: sound ones with values of every kind, and the same ones broken in every way a wire has.

Sound frames come from the profile's own encoder: values drawn at random, the ends of each field's range, sentinels. Of
each follow some broken ones, which is where decoders go wrong, and which costs little: a flipped bit, a cut, a wrong
checksum. Nothing marks which are which; whoever uses the corpus judges each frame on its own, as a decoder must.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from edge_gateway.codec.codec import Codec, compile_profile
from edge_gateway.codec.fields import Endian, NamedField, RawRange, WholeNumber
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.profile import Profile, is_constant
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_BROKEN_FOR_EACH_SOUND: Final = 15
"""Encoding costs some ten times a mutation; so both take about the same time, and each sound frame is broken often."""

_LONGEST_EXTENSION_BYTES: Final = 24

_DRAWS: Final = 64
"""Draws of a value until one can be encoded: of a scaled 64-bit number about half round out of its range."""


def corpus(profile: Profile, seed: int, count: int) -> Iterator[bytes]:
    """Frames of a profile, of every role, sound and broken; the same for the same seed.

    Args:
        profile: whose.
        seed: chooses the frames.
        count: how many.

    Raises:
        CodecError: a field for which no value can be encoded; a profile's own checks leave none.
    """
    rng = random.Random(seed)  # noqa: S311 -- not for security: the same seed must give the same frames
    codec = compile_profile(profile)
    layouts = profile.layouts
    names = list(layouts)
    given = 0
    while True:
        name = rng.choice(names)
        sound = _sound_frame(codec, name, layouts[name], rng)
        for number in range(_BROKEN_FOR_EACH_SOUND + 1):
            if given == count:
                return
            given += 1
            yield _broken(sound, layouts[name], rng) if number else sound


def _sound_frame(codec: Codec, name: str, layout: Layout, rng: random.Random) -> bytes:
    profile = codec.profile
    held = {
        field: _draw_value(spec, layout.endian, rng)
        for field, spec in profile.frames[name].named.items()
        if not is_constant(spec)
    }
    address, sequence = (held.pop(role, None) if role else None for role in (profile.identity, profile.sequence))
    return codec.encode(
        name,
        address if isinstance(address, int | str) else None,
        sequence if isinstance(sequence, int) else None,
        held,
    )


def _draw_value(spec: NamedField, endian: Endian, rng: random.Random) -> Value:
    """A value that the field can encode: an end of its range, a sentinel or any."""
    for _ in range(_DRAWS):
        value = _draw_any(spec, endian, rng)
        try:
            spec.raw_of(value)
        except CodecError:
            continue
        return value
    raise CodecError("no value could be drawn", where=spec.name, remedy="Check that the field can encode any value")


def _draw_any(spec: NamedField, endian: Endian, rng: random.Random) -> Value:
    if isinstance(spec, WholeNumber):
        special = {*spec.raw_range, *spec.valid_raw, *spec.enum}
        for sentinel in spec.sentinel:
            special |= {sentinel.minimum, sentinel.maximum} if isinstance(sentinel, RawRange) else {sentinel}
        return spec.value_of(rng.choice((*sorted(special), *_randoms(*spec.valid_raw, rng))))
    size = spec.size_bytes
    # The blank one can always be encoded, even where random bytes are hardly ever valid.
    drawn = rng.choice((bytes(size), b"\xff" * size, spec.blank(endian), rng.randbytes(size), rng.randbytes(size)))
    return spec.value_in(drawn, endian)


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
)


def _broken(frame: bytes, layout: Layout, rng: random.Random) -> bytes:
    check = layout.checksum
    kind = rng.randrange(len(_DAMAGES) + 2)
    if kind < len(_DAMAGES):
        return _DAMAGES[kind](frame, rng)
    if check is not None and kind == len(_DAMAGES):
        return frame[: check.start] + rng.randbytes(check.end - check.start) + frame[check.end :]
    # Other bytes under a checksum that holds, so that what lies behind the check is tried too.
    other = rng.choice((_replace_run, _replace_run, _replace_run, _fill))(frame, rng)
    return layout.sealed(other)
