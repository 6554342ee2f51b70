"""Device profiles drawn at random, and frames of them, for the property tests."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from edge_gateway.codec import Codec, compile_profile
from edge_gateway.codec.checksum import find_checksum
from edge_gateway.codec.fields import AnyField, BcdField, FloatField, IntegerField, TextField
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
    "lrc",
    "sum-8/inverted",
    "sum-16/negated",
    "fletcher-16",
]
# One unit of each is a step a device could have; together with an offset none of them makes two steps the same float.
SCALES = ["1", "0.01", "0.001", "0.1", "0.5", "0.0625", "0.15", "2", "10", "-0.1", "-3"]
OFFSETS = ["0", "-40", "100", "0.5", "-273.15"]


def fixed_layouts(profile: Profile) -> dict[str, Layout]:
    """The layouts of a profile whose frames all have one length."""
    layouts = profile.layouts
    fixed = {name: layout for name, layout in layouts.items() if isinstance(layout, Layout)}
    assert len(fixed) == len(layouts)
    return fixed


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
        keys["sentinel"] = draw(st.lists(numbers | _ranges(low, high), min_size=1, max_size=3, unique_by=repr))
    if kind != "enum" and high - low > 1 and draw(st.integers(0, 2)) == 0:
        keys["valid"] = draw(_valid(numbers, Decimal(keys.get("scale", "1")), Decimal(keys.get("offset", "0"))))
    return keys


@st.composite
def _valid(draw: st.DrawFn, numbers: st.SearchStrategy[int], scale: Decimal, offset: Decimal) -> dict[str, Any]:
    """The values of some raw numbers as bounds, both or one."""
    # A negative scale turns the ends round.
    least, most = sorted(end * scale + offset for end in draw(st.tuples(numbers, numbers)))
    bounds = {"minimum": str(least), "maximum": str(most)}
    if draw(st.booleans()):
        del bounds[draw(st.sampled_from(sorted(bounds)))]
    return {**bounds, "otherwise": draw(st.sampled_from(["reject", "null"]))}


@st.composite
def _ranges(draw: st.DrawFn, low: int, high: int) -> dict[str, int]:
    first, last = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    return {"minimum": first, "maximum": last}


@st.composite
def _bit_fields(draw: st.DrawFn, name: str, bits: int) -> list[dict[str, Any]]:
    cuts = sorted(draw(st.sets(st.integers(0, bits), min_size=2, max_size=5)))
    parts = []
    for index, (start, end) in enumerate(itertools.pairwise(cuts)):
        width = end - start
        signed = width > 1 and draw(st.booleans())
        low, high = (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
        meaning = draw(_meaning(low, high, can_scale=width <= 32)) if draw(st.booleans()) else {}
        parts.append({"name": f"{name}_{index}", "bit": start, "width": width, "signed": signed, **meaning})
    return parts


_orders: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"endian": "little"}, {"endian": "big"}])
_word_orders: st.SearchStrategy[dict[str, Any]] = st.sampled_from([{}, {"word_order": "swapped"}])


@st.composite
def _float(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["f16", "f32", "f64", "medfloat16", "medfloat32"]))
    keys: dict[str, Any] = {"type": kind, **draw(_orders)}
    if not kind.endswith("16"):
        keys |= draw(_word_orders)
    if draw(st.booleans()):
        bounds: list[dict[str, Any]] = [{"minimum": -10}, {"maximum": 100}, {"minimum": 0.5, "maximum": 2000}]
        keys["valid"] = {**draw(st.sampled_from(bounds)), "otherwise": draw(st.sampled_from(["reject", "null"]))}
    return keys


@st.composite
def _integer(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kind = draw(st.sampled_from(["meaning", "meaning", "bits", "const", "epoch"]))
    size_bytes = draw(st.integers(1, 8))
    bits = 8 * size_bytes
    order = draw(_orders) | (draw(_word_orders) if size_bytes in (4, 6, 8) else {})
    if kind == "bits":
        return {"type": f"u{bits}", "bits": draw(_bit_fields(name, bits)), **order}
    is_signed = draw(st.booleans())
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    sized: dict[str, Any] = {"type": f"{'i' if is_signed else 'u'}{bits}", **order}
    if kind == "const":
        return {**sized, "const": draw(st.integers(low, high))}
    if kind == "epoch":
        return {**sized, "epoch": draw(st.sampled_from(["unix-s", "unix-ms"])), "sentinel": draw(st.integers(0, 127))}
    # A scaled 64-bit number has more digits than a float holds, so it does not come back.
    return {**sized, **draw(_meaning(low, high, can_scale=bits <= 32))}


@st.composite
def _field(draw: st.DrawFn, name: str) -> dict[str, Any]:
    kinds = ["integer", "integer", "integer", "bool", "float", "bcd", "text", "mac", "uuid", "bytes"]
    kind = draw(st.sampled_from(kinds))
    keys: dict[str, Any]
    match kind:
        case "integer":
            keys = draw(_integer(name))
        case "float":
            keys = draw(_float())
        case "bcd":
            digits = draw(st.integers(1, 18))
            meaning = draw(_meaning(0, 10**digits - 1, can_scale=digits < 10))
            keys = {"type": "bcd", "digits": digits, **draw(_orders), **meaning}
        case "text":
            keys = {
                "type": "text",
                "length_bytes": draw(st.integers(1, 9)),
                "encoding": draw(st.sampled_from(["ascii", "utf-8"])),
                "padding": draw(st.sampled_from([0, 0x20, 0x41, 0xFF])),
                "expand": draw(st.sampled_from([{}, {1: ".com/", 2: ".com", 0x7E: "www."}])),
            }
        case "mac" | "uuid":
            keys = {"type": kind, **draw(_orders)}
        case "bool":
            keys = {"type": "bool", **draw(st.sampled_from([{}, {"sentinel": 0xFF}]))}
        case _:
            keys = {"type": "bytes", "length_bytes": draw(st.integers(1, 9))}
    if not keys.keys() & {"bits", "const"} and draw(st.integers(0, 5)) == 0:
        keys["emit"] = False
    return {"name": name, **keys}


@st.composite
def _checksum(draw: st.DrawFn, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """A check anywhere, over a range of its own; a field that holds it is put among the fields."""
    algorithm = draw(st.sampled_from(CHECKSUMS))
    check: dict[str, Any] = {"algorithm": algorithm}
    if draw(st.booleans()):
        check["endian"] = draw(st.sampled_from(["little", "big"]))
    names = [field["name"] for field in fields]
    if draw(st.booleans()):
        place = draw(st.integers(1, len(fields)))
        size_bits = 8 * find_checksum(algorithm).size_bytes
        fields.insert(place, {"name": "check_sum", "type": f"u{size_bits}", **draw(_orders)})
        check["at"] = "check_sum"
        names = draw(st.sampled_from([names[:place], names[place:] or names[:place]]))
        if names[0] != "kind":
            check["from"] = names[0]
    if draw(st.booleans()):
        first, last = sorted(draw(st.tuples(st.integers(0, len(names) - 1), st.integers(0, len(names) - 1))))
        check |= {"from": names[first], "to": names[last]}
    return check


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    """A profile with one to three frames that devices send, of random fields."""
    frames = {}
    for index in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 6))
        fields: list[dict[str, Any]] = [{"name": "kind", "type": "u8", "const": index}]
        fields += [draw(_field(f"f{position}")) for position in range(count)]
        identities: list[dict[str, Any]] = [
            {"type": "u16"},
            {"type": "u24"},
            {"type": "bytes", "length_bytes": 6},
            {"type": "mac", "endian": "little"},
            {"type": "bcd", "digits": 7},
            {"type": "text", "length_bytes": 4},
        ]
        identity = draw(st.sampled_from(identities))
        fields.insert(draw(st.integers(1, len(fields))), {"name": "who", **identity})
        fields.insert(draw(st.integers(1, len(fields))), {"name": "count", "type": "u8"})
        checksum = draw(_checksum(fields)) if draw(st.booleans()) else None
        frames[f"frame-{index}"] = {
            "role": "answer" if index == 1 else "sample",
            "endian": draw(st.sampled_from(["little", "big"])),
            "fields": fields,
            "checksum": checksum,
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
    """A frame with any bytes where any may stand, and the constants and the checksum right.

    Text is text and decimal digits are digits; `valid` may still be broken.
    """
    frame = bytearray(layout.length_bytes)
    for slot in layout.slots:
        constant = slot.constant(layout.endian)
        frame[slot.start : slot.end] = constant if constant is not None else draw(raw_bytes(slot.field))
    return layout.sealed(bytes(frame))


def raw_bytes(field: AnyField) -> st.SearchStrategy[bytes]:
    """Any bytes of a field, its sentinels and infinities more often than chance has them."""
    size = field.size_bytes
    anything = st.binary(min_size=size, max_size=size)
    match field:
        case FloatField():
            return anything | st.sampled_from(
                [bytes(size), b"\x7f\x80\0\0\0\0\0\0"[:size], b"\0\0\0\0\0\0\xf0\x7f"[-size:]]
            )
        case IntegerField(sentinel=(int(first), *_)):
            return anything | st.just(field.pack(first, "big"))
        case BcdField():
            return st.integers(*field.raw_range).map(lambda number: field.pack(number, "big"))
        case TextField(encoding="ascii"):
            return st.lists(st.integers(0, 127), min_size=size, max_size=size).map(bytes)
        case TextField():
            return st.text(max_size=size).map(lambda text: _filled(text, field))
        case _:
            return anything


def _filled(text: str, field: TextField) -> bytes:
    """As many characters as fit whole, filled up."""
    while len(text.encode()) > field.size_bytes:
        text = text[:-1]
    return field.pack(text.encode(), "big")


def sample_of(*fields: dict[str, Any], endian: str = "big", checksum: dict[str, Any] | None = None) -> Codec:
    """A codec for one sample frame, named `only`."""
    return compile_profile(
        Profile.model_validate(
            {
                "name": "one",
                "version": 1,
                "title": "One frame",
                "source": {"document": "none"},
                "framing": {"kind": "slip"},
                "frames": {"only": {"role": "sample", "endian": endian, "fields": fields, "checksum": checksum}},
            }
        )
    )


def value_of(codec: Codec, frame: bytes | str) -> Any:
    """The only value of a frame, or the reason why it is rejected."""
    decoded = codec.decode([bytes.fromhex(frame) if isinstance(frame, str) else frame])
    if decoded.rejects:
        return decoded.rejects[0].reason
    (value,) = decoded.samples[0].values.values()
    return value
