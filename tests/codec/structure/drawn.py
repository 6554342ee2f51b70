"""Frames of no fixed length drawn at random: first a declaration, then bytes that fit it and the values they mean.

The bytes are written from the declaration alone, by rules that share nothing with the gateway's plan, reader, writer
and generated source, so that all of these can be held against them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from hypothesis import strategies as st

from edge_gateway.codec import Codec, compile_profile
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.profile import Profile

Item: TypeAlias = dict[str, Any]
Values: TypeAlias = dict[str, Any]

KEY = bytes(range(16))
MARK = "ff00"
_ELEMENT_START = 0xA5
"""Begins every element of a list that ends at a mark, so that none looks like the mark."""
_CURRENT_VERSION = 2


KEYS = same_payload_keys({"secret": KEY})


class Structure(NamedTuple):
    """A profile as it is declared."""

    declared: Item

    @property
    def codec(self) -> Codec:
        """Compiled, with the key that its frames are encrypted under."""
        about = {"name": "drawn", "version": 1, "title": "Drawn at random", "source": {"document": "hypothesis"}}
        return compile_profile(Profile.model_validate(about | self.declared), KEYS)


# --- declarations ----------------------------------------------------------------------------------------------------


@dataclass
class _Names:
    """What a declaration has named so far."""

    numbers: list[str] = field(default_factory=list)
    """Whole numbers that are known where the next item stands."""
    flags: list[str] = field(default_factory=list)
    drawn: list[int] = field(default_factory=lambda: [0])
    """How many names there are; shared by all lists of a frame."""
    parts: dict[str, list[Item]] = field(default_factory=dict)

    def fresh(self, prefix: str = "f") -> str:
        self.drawn[0] += 1
        return f"{prefix}{self.drawn[0]}x"

    def inner(self) -> _Names:
        return _Names([*self.numbers], [*self.flags], self.drawn, self.parts)


_MEANINGS: list[Item] = [
    {"type": "u8"},
    {"type": "i16", "scale": 0.1, "unit": "Cel", "sentinel": -32768},
    {"type": "u16", "endian": "little"},
    {"type": "u24"},
    {"type": "i40", "endian": "little"},
    {"type": "u8", "enum": {0: "idle", 1: "busy"}},
    {"type": "f32"},
    {"type": "bcd", "digits": 3},
    {"type": "text", "length_bytes": 3},
    {"type": "bytes", "length_bytes": 2},
    {"type": "mac"},
]


@st.composite
def _sized(draw: st.DrawFn, names: _Names) -> Item:
    """A field that is always as long."""
    kind = draw(st.sampled_from(["meaning", "meaning", "number", "flags", "constant"]))
    name = names.fresh()
    match kind:
        case "number":
            names.numbers.append(name)
            return {"name": name, "type": "u8"}
        case "flags":
            flags = [names.fresh("b") for _ in range(2)]
            number = names.fresh("b")
            names.flags += flags
            names.numbers.append(number)
            bits = [{"name": flag, "bit": index} for index, flag in enumerate(flags)]
            return {"name": name, "type": "u8", "bits": [*bits, {"name": number, "bit": 2, "width": 3}]}
        case "constant":
            return {"name": name, "type": "u8", "const": draw(st.integers(0, 255))}
        case _:
            return {"name": name, **draw(st.sampled_from(_MEANINGS))}


@st.composite
def _condition(draw: st.DrawFn, names: _Names) -> str:
    choices = [f"{flag}" for flag in names.flags] + [f"!{flag}" for flag in names.flags]
    choices += [f"{number} > 2" for number in names.numbers] + [f"{number} % 2 == 0" for number in names.numbers]
    return draw(st.sampled_from(choices)) if choices else "true"


@st.composite
def _items(
    draw: st.DrawFn,
    names: _Names,
    depth: int,
    *,
    of_frame: bool,
    may_end: bool,
    may_lack: bool = True,
    most: int = 4,
) -> list[Item]:
    """A list of items.

    Args:
        draw: of hypothesis.
        names: those known before it.
        depth: how much deeper items may stand in items.
        of_frame: whether its values are the frame's.
        may_end: whether its last may go to the end.
        may_lack: whether something in it may be there or not.
        most: how many.
    """
    kinds = ["sized", "sized", "counted", "computed", "require"]
    if depth:
        kinds += ["group", "array", "until-mark", "part"]
        if may_lack:
            kinds += ["switch", "conditional", "plain"]
    items: list[Item] = []
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(kinds))
        items += draw(_item(names, kind, depth, of_frame=of_frame, may_lack=may_lack))
    if may_end and draw(st.booleans()):
        tail = names.inner()
        fields = [draw(_sized(tail)) for _ in range(draw(st.integers(0, 2)))]
        endings = ["text", "bytes", "array"]
        if depth:
            endings += ["group", "encrypted"] + (["tlv", "tlv"] if of_frame else [])
        ending = draw(st.sampled_from(endings))
        items += [draw(_ending(names, ending, depth, of_frame=of_frame, may_lack=may_lack)), *fields]
    return items


@st.composite
def _item(draw: st.DrawFn, names: _Names, kind: str, depth: int, *, of_frame: bool, may_lack: bool) -> list[Item]:
    """Items that say themselves where they end; several, if one needs another before it."""

    def within(inner: _Names, *, of_frame: bool = False) -> list[Item]:
        return draw(_items(inner, depth - 1, of_frame=of_frame, may_end=False, may_lack=may_lack, most=3))

    match kind:
        case "counted":
            count, name = names.fresh("n"), names.fresh()
            kind = draw(st.sampled_from(["text", "bytes", "array"]))
            named: Item = {"name": name, "type": kind}
            sized: Item = {"count": count, "of": {"name": names.fresh(), "type": "i16"}}
            item: Item = named | (sized if kind == "array" else {"length_bytes": count})
            emit: Item = {} if draw(st.booleans()) else {"emit": False}
            return [{"name": count, "type": "u8", **emit}, item]
        case "computed":
            number = draw(st.sampled_from(names.numbers)) if names.numbers else "7"
            forms = ["{} + 1", "{} * 2", "100 / {}", "{} == 3", "'word'", "double({}) * 0.5"]
            return [
                {
                    "name": names.fresh("c"),
                    "type": "computed",
                    "value": draw(st.sampled_from(forms)).format(number),
                }
            ]
        case "require":
            return [{"type": "require", "that": f"{names.numbers[-1]} < 250" if names.numbers else "true"}]
        case "group":
            return [{"name": names.fresh("g"), "type": "group", "fields": within(names.inner())}]
        case "array":
            of: Item = {"name": names.fresh("g"), "type": "group", "fields": [{"name": names.fresh(), "type": "u8"}]}
            of["fields"] += within(names.inner())
            return [{"name": names.fresh("l"), "type": "array", "count": draw(st.integers(1, 3)), "of": of}]
        case "until-mark":
            start = {"name": names.fresh(), "type": "u8", "const": _ELEMENT_START}
            of = {"name": names.fresh("g"), "type": "group", "fields": [start, *within(names.inner())]}
            return [{"name": names.fresh("l"), "type": "array", "until": MARK, "of": of}]
        case "part":
            part = f"part-{names.fresh('p')}"
            # Its names are known behind it, as if it were no part.
            names.parts[part] = within(names, of_frame=of_frame)
            return [{"type": "part", "part": part}]
        case "switch":
            on = names.fresh("n")
            cases: dict[Any, list[Item]] = {
                number: within(names.inner(), of_frame=of_frame) for number in range(draw(st.integers(1, 7)))
            }
            default = draw(st.sampled_from([None, "fields"]))
            item = {"type": "switch", "on": on, "cases": cases}
            if default is not None:
                item["default"] = within(names.inner(), of_frame=of_frame)
            return [{"name": on, "type": "u8"}, item]
        case "conditional":
            (item,) = draw(
                _item(
                    names.inner(),
                    draw(st.sampled_from(["sized", "group", "array"])),
                    depth,
                    of_frame=of_frame,
                    may_lack=may_lack,
                )
            )
            item.pop("const", None)
            return [{**item, "if": draw(_condition(names))}]
        case "plain":
            return [{"type": "plain", "key": "unknown", "fields": within(names.inner(), of_frame=of_frame)}]
        case _:
            return [draw(_sized(names))]


@st.composite
def _ending(draw: st.DrawFn, names: _Names, kind: str, depth: int, *, of_frame: bool, may_lack: bool) -> Item:
    """An item that goes to the end."""

    def within(inner: _Names, *, of_frame: bool, may_end: bool = True, may_lack: bool = may_lack) -> list[Item]:
        return draw(_items(inner, depth - 1, of_frame=of_frame, may_end=may_end, may_lack=may_lack, most=3))

    match kind:
        case "text" | "bytes":
            return {"name": names.fresh(), "type": kind, "length_bytes": "end"}
        case "array":
            return {
                "name": names.fresh("l"),
                "type": "array",
                "until": "end",
                "of": {"name": names.fresh(), "type": "u16"},
            }
        case "group":
            fields = within(names.inner(), of_frame=False)
            return {"name": names.fresh("g"), "type": "group", "fields": fields}
        case "encrypted":
            algorithm = draw(st.sampled_from(["aes-ccm", "aes-gcm"]))
            return {
                "type": "encrypted",
                "algorithm": algorithm,
                "key": "secret",
                "nonce": [{"hex": "00" * 12}],
                "aad": draw(st.sampled_from([[], [{"hex": "0102"}]])),
                "tag_bytes": draw(st.sampled_from([4, 8, 16])),
                "fields": within(names.inner(), of_frame=of_frame),
            }
        case _:
            header: list[Item] = [{"name": (tag := names.fresh("t")), "type": "u8"}]
            item: Item = {"type": "tlv", "tag": tag}
            for role in ("length", "number"):
                if draw(st.booleans()):
                    item[role] = names.fresh("t")
                    header.append({"name": item[role], "type": "u8"})
            item["header"] = header
            item["unknown"] = draw(st.sampled_from(["reject", "stop"] + (["skip"] if "length" in item else [])))
            tags = draw(st.lists(st.integers(0, 255), min_size=1, max_size=7, unique=True))
            item["items"] = {
                number: within(names.inner(), of_frame=False, may_end="length" in item, may_lack=False)
                for number in tags
            }
            return item


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """A profile with one frame of items in items."""
    names = _Names()
    frame: Item = {"role": "sample", "endian": draw(st.sampled_from(["big", "little"]))}
    fields: list[Item] = [draw(_sized(names)) for _ in range(draw(st.integers(1, 2)))]
    # So that every frame has a plan, even one of sized fields alone.
    fields.append({"name": "planned", "type": "computed", "value": "true"})
    if draw(st.booleans()):
        fields.append({"name": "version", "type": "u8"})
        frame["version"] = {"field": "version", "current": _CURRENT_VERSION}
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(["since", "until_version"]))
            fields.append({"name": names.fresh(), "type": "u16", key: draw(st.integers(0, 3))})
    fields += draw(_items(names, 3, of_frame=True, may_end=True))
    check = draw(st.sampled_from(["", "behind", "first"]))
    if check == "behind":
        frame["checksum"] = {"algorithm": "sum-8"}
    if check == "first":
        fields = [{"name": "check", "type": "u8"}, {"name": "next", "type": "u8"}, *fields]
        frame["checksum"] = {"algorithm": "sum-8", "at": "check", "from": "next"}
    return Structure({"parts": names.parts, "frames": {"only": {**frame, "fields": fields}}})


# --- frames of them --------------------------------------------------------------------------------------------------


class DrawnFrame(NamedTuple):
    """Bytes, and what they mean."""

    frame: bytes
    values: Values | None
    """None for a frame that has to be rejected, as something required is not true."""
    version: int | None


@st.composite
def frames_of(draw: st.DrawFn, structure: Structure) -> DrawnFrame:
    """A frame that fits the profile's only one."""
    frame = structure.declared["frames"]["only"]
    writer = _FrameWriter(draw, structure.declared["parts"], frame["endian"])
    data = writer.items(frame["fields"], {}, writer.values)
    version = writer.version
    if version is not None and version > _CURRENT_VERSION and not writer.has_end:
        data += draw(st.binary(max_size=3))
    check = frame.get("checksum")
    if check is not None and "at" in check:
        data = bytes([sum(data[1:]) & 0xFF]) + data[1:]
        writer.values.pop("check")
    elif check is not None:
        data += bytes([sum(data) & 0xFF])
    return DrawnFrame(data, None if writer.is_refused else writer.values, version)


class _FrameWriter:
    """Writes one frame along its declaration."""

    def __init__(self, draw: st.DrawFn, parts: Mapping[str, list[Item]], endian: str) -> None:
        self._draw = draw
        self._parts = parts
        self._endian = endian
        self.values: Values = {}
        self._times: dict[str, int] = {}
        self.is_refused = False
        self.has_end = False
        self.version: int | None = None

    def items(self, items: list[Item], known: Values, values: Values) -> bytes:
        """A list of items: their bytes, with their values put among those given.

        Args:
            items: as declared.
            known: what conditions and lengths can use; those of this list are added.
            values: where its values go.
        """
        items = self._spread(items)
        ending = next((index for index, item in enumerate(items) if self._ends(item)), len(items))
        tail_values: Values = {}
        self.has_end = self.has_end or ending < len(items)
        tail = b"".join(self.item(item, known, tail_values) for item in items[ending + 1 :])
        written = b"".join(self.item(item, known, values) for item in items[: ending + 1])
        values.update(tail_values)
        return written + tail

    def _spread(self, items: list[Item]) -> list[Item]:
        spread: list[Item] = []
        for item in items:
            spread += self._spread(self._parts[item["part"]]) if item["type"] == "part" else [item]
        return spread

    def _ends(self, item: Item) -> bool:
        inner = self._spread(list(item["fields"])) if item["type"] in ("group", "plain") else []
        return (
            item["type"] in ("tlv", "encrypted")
            or "end" in (item.get("until"), item.get("length_bytes"))
            or any(map(self._ends, inner))
        )

    def item(self, item: Item, known: Values, values: Values) -> bytes:
        """One item."""
        if not self._is_there(item, known):
            return b""
        name = item.get("name", "")
        match item["type"]:
            case "group":
                inner: Values = {}
                data = self.items(item["fields"], {**known}, inner)
                value: Any = inner
            case "array":
                data, value = self._array(item, known)
            case "switch":
                chosen = known[item["on"]]
                if chosen not in item["cases"] and "default" not in item:
                    self.is_refused = True
                    return b""
                case = item["cases"].get(chosen, item.get("default"))
                return self.items(case, {**known}, values)
            case "tlv":
                return self._tlv(item, known)
            case "computed":
                data, value = b"", self._computed(item["value"], known)
            case "require":
                self.is_refused = self.is_refused or not self._holds(item["that"], known)
                return b""
            case "plain":
                return self.items(item["fields"], {**known}, values)
            case "encrypted":
                return self._encrypted(item, known, values)
            case "text" | "bytes" if not isinstance(item["length_bytes"], int):
                data, value = self._variable(item, known)
            case _:
                return self._field(item, known, values)
        values[name] = value
        return data

    def _is_there(self, item: Item, known: Values) -> bool:
        condition = item.get("if")
        is_new = self.version is None or (
            item.get("since", 0) <= self.version <= item.get("until_version", self.version)
        )
        return is_new and (condition is None or self._holds(condition, known))

    @staticmethod
    def _holds(condition: str, known: Values) -> bool:
        return bool(eval(condition.replace("!", "not ").replace("true", "True"), {}, dict(known)))

    @staticmethod
    def _computed(text: str, known: Values) -> Any:
        if text == "true":
            return True
        try:
            return eval(text.replace("/", "//").replace("double", "float"), {}, dict(known))
        except ZeroDivisionError:
            return None

    def _array(self, item: Item, known: Values) -> tuple[bytes, list[Any]]:
        count = known[item["count"]] if isinstance(item.get("count"), str) else item.get("count")
        if count is None:
            count = self._draw(st.integers(0, 3))
        data, elements = b"", []
        for _ in range(count):
            element: Values = {}
            data += self.item(item["of"], {**known}, element)
            elements.append(element[item["of"]["name"]])
        if item.get("until", "end") != "end":
            data += bytes.fromhex(item["until"])
        return data, elements

    def _variable(self, item: Item, known: Values) -> tuple[bytes, str]:
        length = known.get(item["length_bytes"])
        if length is None:
            length = self._draw(st.integers(0, 4))
        if item["type"] == "bytes":
            data = self._draw(st.binary(min_size=length, max_size=length))
            return data, data.hex()
        text = self._draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=length, max_size=length))
        return text.encode(), text

    def _tlv(self, item: Item, known: Values) -> bytes:
        written = b""
        for _ in range(self._draw(st.integers(0, 3))):
            tag = self._draw(st.sampled_from(sorted(item["items"])))
            number = self._draw(st.integers(0, 3))
            inner: Values = {}
            body = self.items(item["items"][tag], {**known}, inner)
            header = {item["tag"]: tag, item.get("length"): len(body), item.get("number"): number}
            written += bytes(header[each["name"]] for each in item["header"]) + body
            for name, value in inner.items():
                self._times[name] = self._times.get(name, 0) + 1
                times = number if "number" in item else self._times[name]
                self.values[name if "number" not in item and times == 1 else f"{name}_{times}"] = value
        return written

    def _encrypted(self, item: Item, known: Values, values: Values) -> bytes:
        plain = self.items(item["fields"], {**known}, values)
        nonce = bytes.fromhex(item["nonce"][0]["hex"])
        aad = b"".join(bytes.fromhex(part["hex"]) for part in item.get("aad", ()))
        tag_bytes = item.get("tag_bytes", 16)
        if item["algorithm"] == "aes-ccm":
            return AESCCM(KEY, tag_bytes).encrypt(nonce, plain, aad)
        # A tag that is cut short is the beginning of the whole one (NIST SP 800-38D, 5.2.1.2).
        sealed = AESGCM(KEY).encrypt(nonce, plain, aad)
        return sealed[: len(plain) + tag_bytes]

    def _field(self, item: Item, known: Values, values: Values) -> bytes:
        name, kind, draw = item["name"], item["type"], self._draw
        order = item.get("endian", self._endian)
        if "const" in item:
            return bytes([item["const"]])
        if "bits" in item:
            number = draw(st.integers(0, 255))
            one, other, wide = (part["name"] for part in item["bits"])
            found = {one: number & 1 == 1, other: number & 2 == 2, wide: number >> 2 & 7}
            known.update(found)
            values.update(found)
            return bytes([number])
        value: Any
        data: bytes
        match kind:
            case "text":
                value = draw(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=3))
                data = value.encode().ljust(3, b"\0")
            case "bytes":
                data = draw(st.binary(min_size=2, max_size=2))
                value = data.hex()
            case "mac":
                data = draw(st.binary(min_size=6, max_size=6))
                value = (data if order == "big" else data[::-1]).hex(":")
            case "f32":
                value = draw(st.floats(width=32, allow_nan=False, allow_infinity=False))
                data = struct.pack(">f" if order == "big" else "<f", value)
            case "bcd":
                value = draw(st.integers(0, 999))
                data = bytes.fromhex(f"{value:04}")[:: 1 if order == "big" else -1]
            case _:
                # Counts, what chooses, and the version are small.
                is_small = name[0] == "n" and name != "next"
                most = 3 if is_small or name == "version" else (1 << int(kind[1:])) - 1
                raw = draw(st.integers(0, most))
                data = raw.to_bytes(int(kind[1:]) // 8, order)
                value = self._number(item, raw)
        if name == "version":
            self.version = value
        known[name] = value
        if item.get("emit", True):
            values[name] = value
        return data

    @staticmethod
    def _number(item: Item, raw: int) -> Any:
        half = 1 << int(item["type"][1:]) - 1
        value = raw - 2 * half if item["type"].startswith("i") and raw >= half else raw
        if value == item.get("sentinel"):
            return None
        if "enum" in item:
            return item["enum"].get(raw, str(raw))
        return value / 10 if "scale" in item else value
