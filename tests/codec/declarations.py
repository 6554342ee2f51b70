"""Device profiles drawn at random, and frames of them, for the property tests."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

from edge_gateway.codec.fields import INTEGER_SIZES_BYTES, BytesField, FloatField, IntegerField
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.profile import Profile

CHECKSUMS = [
    "crc-8/smbus",
    "crc-16/ibm-3740",
    "crc-16/modbus",
    "crc-16/xmodem",
    "crc-32/iso-hdlc",
    "crc-64/xz",
    "sum-8",
    "sum-16",
    "xor-8",
]
# One unit of each is a step a device could have; together with an offset none of them makes two steps the same float.
SCALES = ["1", "0.01", "0.001", "0.1", "0.5", "0.0625", "0.15", "2", "10", "-0.1", "-3"]
OFFSETS = ["0", "-40", "100", "0.5", "-273.15"]

labels = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters="0123456789-"), min_size=1, max_size=8
).filter(str.isprintable)


@st.composite
def _meaning(draw: st.DrawFn, low: int, high: int, *, can_scale: bool = True) -> dict[str, Any]:
    """What a whole number of this range stands for."""
    numbers = st.integers(low, high)
    kind = draw(st.sampled_from(["plain", "scaled", "enum"]))
    keys: dict[str, Any] = {}
    if kind == "scaled" and can_scale:
        keys |= {"scale": draw(st.sampled_from(SCALES)), "offset": draw(st.sampled_from(OFFSETS)), "unit": "Cel"}
    if kind == "enum":
        names = draw(st.lists(labels, min_size=1, max_size=4, unique=True))
        codes = draw(st.lists(numbers, min_size=1, max_size=len(names), unique=True))
        keys["enum"] = dict(zip(codes, names, strict=False))
    if draw(st.booleans()):
        keys["sentinel"] = draw(st.lists(numbers, min_size=1, max_size=3, unique=True))
    return keys


@st.composite
def _bit_fields(draw: st.DrawFn, name: str, bits: int) -> list[dict[str, Any]]:
    cuts = sorted(draw(st.sets(st.integers(0, bits), min_size=2, max_size=5)))
    parts = []
    for index, (start, end) in enumerate(itertools.pairwise(cuts)):
        width = end - start
        meaning = draw(_meaning(0, (1 << width) - 1, can_scale=width <= 32)) if draw(st.booleans()) else {}
        parts.append({"name": f"{name}_{index}", "bit": start, "width": width, **meaning})
    return parts


@st.composite
def _field(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "integer", "integer", "bits", "const", "float", "bytes"]))
    emit: dict[str, Any] = {} if draw(st.integers(0, 5)) else {"emit": False}
    if kind == "float":
        return {"name": name, "type": draw(st.sampled_from(["f32", "f64"])), **emit}
    if kind == "bytes":
        return {"name": name, "type": "bytes", "length_bytes": draw(st.integers(1, 9)), **emit}
    size = draw(st.sampled_from(sorted(INTEGER_SIZES_BYTES)))
    bits = int(size)
    if kind == "bits":
        return {"name": name, "type": f"u{size}", "bits": draw(_bit_fields(name, bits))}
    is_signed = draw(st.booleans())
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    sized: dict[str, Any] = {"name": name, "type": ("i" if is_signed else "u") + size}
    if kind == "const":
        return {**sized, "const": draw(st.integers(low, high))}
    # A scaled 64-bit number has more digits than a float holds, so it does not come back.
    return {**sized, **draw(_meaning(low, high, can_scale=bits <= 32)), **emit}


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """A profile with one to three frames that devices send, of random fields."""
    frames = {}
    for index in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 6))
        fields: list[dict[str, Any]] = [{"name": "kind", "type": "u8", "const": index}]
        fields += [draw(_field(f"f{position}")) for position in range(count)]
        identities: list[dict[str, Any]] = [{"type": "u16"}, {"type": "u24"}, {"type": "bytes", "length_bytes": 6}]
        identity = draw(st.sampled_from(identities))
        fields.insert(draw(st.integers(1, len(fields))), {"name": "who", **identity})
        fields.insert(draw(st.integers(1, len(fields))), {"name": "count", "type": "u8"})
        checksum = {"algorithm": draw(st.sampled_from(CHECKSUMS)), "endian": draw(st.sampled_from(["little", "big"]))}
        frames[f"frame-{index}"] = {
            "role": "answer" if index == 1 else "sample",
            "endian": draw(st.sampled_from(["little", "big"])),
            "fields": fields,
            "checksum": checksum if draw(st.booleans()) else None,
        }
    return Profile.model_validate(
        {
            "name": "drawn",
            "version": 1,
            "title": "Drawn at random",
            "source": {"document": "hypothesis"},
            "framing": {"kind": "slip"},
            "identity": "who",
            "sequence": "count",
            "frames": frames,
        }
    )


@st.composite
def frames_of(draw: st.DrawFn, layout: Layout) -> bytes:
    """A frame with any bytes where any may stand, and the constants and the checksum right."""
    frame = bytearray()
    for slot in layout.slots:
        constant = slot.constant(layout.endian)
        frame += constant if constant is not None else draw(raw_bytes(slot.field))
    if layout.checksum is not None:
        check = layout.checksum
        frame += check.compute(bytes(frame)).to_bytes(check.end - check.start, check.endian)
    return bytes(frame)


def raw_bytes(field: IntegerField | FloatField | BytesField) -> st.SearchStrategy[bytes]:
    """Any bytes of a field, its sentinels and infinities more often than chance has them."""
    size = field.size_bytes
    anything = st.binary(min_size=size, max_size=size)
    match field:
        case FloatField():
            return anything | st.sampled_from(
                [bytes(size), b"\x7f\x80\0\0\0\0\0\0"[:size], b"\0\0\0\0\0\0\xf0\x7f"[-size:]]
            )
        case IntegerField(sentinel=(first, *_)):
            return anything | st.just(field.pack(first, "big"))
        case _:
            return anything
