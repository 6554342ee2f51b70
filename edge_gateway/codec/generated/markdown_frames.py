"""The bytes of a frame as tables: one for each list of items, to be held against the tables of a datasheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edge_gateway.codec.fields import AnyField, BytesField, Endian, IntegerField, TextField
from edge_gateway.codec.frame_check import Checksum
from edge_gateway.codec.generated.drawing import bodies_in
from edge_gateway.codec.generated.markdown_text import cell, code, meaning, place, table, unit_cell
from edge_gateway.codec.layout import Layout, Slot
from edge_gateway.codec.profile import Frame, Profile
from edge_gateway.codec.structure.items import (
    Array,
    Computed,
    Encrypted,
    FieldBytes,
    FixedBytes,
    Group,
    Item,
    Part,
    PartOfProfile,
    Plain,
    Require,
    Switch,
    Tlv,
)
from edge_gateway.codec.structure.plan import Body, Plan

Row = tuple[str, ...]

_HEAD = ("Bytes", "Type", "Field", "Unit", "Meaning")


def fixed_frame(profile: Profile, layout: Layout) -> Iterator[str]:
    """The table of a frame in which every field has its own place."""
    rows: list[Row] = []
    for slot in layout.slots:
        rows += _field_rows(profile, slot, layout.endian, place(slot.start, slot.end))
    if layout.checksum is not None:
        check = layout.checksum
        name_of_check = "checksum" if check.field == "checksum" else f"`{check.field}`"
        covers = "" if (check.covers_start, check.covers_end) == (0, check.start) else "; over bytes "
        covered = f"{check.name}{covers}" + (place(check.covers_start, check.covers_end) if covers else "")
        rows.append((place(check.start, check.end), f"u{8 * (check.end - check.start)}", name_of_check, "", covered))
    # A checksum may stand before the last field.
    rows.sort(key=lambda row: int(row[0].partition("-")[0]))
    yield from table(_HEAD, rows)


def planned_frame(profile: Profile, frame: Frame) -> Iterator[str]:
    """The tables of a frame of no fixed length."""
    tables = _Tables(profile, frame.endian)
    yield "Bytes are counted from the first of each table; `+2` are the next two behind what has no fixed length, and"
    yield "`-2` are counted from the end."
    yield ""
    yield from table(_HEAD, tables.rows(frame.fields))
    if frame.version is not None:
        yield ""
        yield f"This is version {frame.version.current} by `{frame.version.field}`; what a newer one adds is ignored."
    if frame.checksum is not None:
        yield ""
        yield f"Checksum: {_check_words(frame.checksum)}."
    yield from tables.sections()


def part_of_profile(profile: Profile, name: str) -> Iterator[str]:
    """The tables of items that stand in several frames."""
    orders = [layout.endian for layout in profile.layouts.values() if isinstance(layout, Plan)]
    tables = _Tables(profile, orders[0] if orders else "big")
    yield from table(_HEAD, tables.rows(profile.parts[name]))
    yield from tables.sections()


def length_words(layout: Layout | Plan) -> str:
    """How long a frame is."""
    least, most = layout.least_bytes, layout.most_bytes
    if most is None:
        return f"{least} bytes and more"
    return f"{least} bytes" if least == most else f"{least} to {most} bytes"


def _check_words(check: Checksum) -> str:
    where = f"in `{check.at}`" if check.at is not None else "behind the last field"
    order = f", {check.endian} endian" if check.endian is not None else ""
    if check.first is None and check.last is None:
        return f"{check.algorithm}{order}, {where}, over all before it"
    first = "the first byte" if check.first is None else _place_words(check.first)
    last = "the last byte before it" if check.last is None else _place_words(check.last)
    return f"{check.algorithm}{order}, {where}, from {first} to {last}"


def _place_words(where: int | str) -> str:
    return f"byte {where}" if isinstance(where, int) else f"`{where}`"


class _Places:
    """Where the items of one list are, as far as the declaration says it.

    Args:
        items: the list.
        tails: by `id`, the fields that stand at the end of what holds them.
    """

    def __init__(self, items: Sequence[Item], tails: set[int]) -> None:
        self._tails = tails
        self._left_bytes = sum(_size_of(item) or 0 for item in items if id(item) in tails)
        self._at: int | None = 0

    def of(self, item: Item) -> str:
        """The bytes of the next item."""
        size = _size_of(item)
        if id(item) in self._tails and size is not None:
            start, self._left_bytes = self._left_bytes, self._left_bytes - size
            return f"-{start}" if size == 1 else f"-{start} to -{start - size + 1}"
        if isinstance(item, Computed | Require):
            return ""
        if size is None:
            found = "" if self._at is None else f"{self._at}-"
            self._at = None
            return found
        found = f"+{size}" if self._at is None else place(self._at, self._at + size)
        is_always_there = not item.is_conditional
        self._at = self._at + size if self._at is not None and is_always_there else None
        return found


def _size_of(item: Item) -> int | None:
    return item.size_bytes if isinstance(item, AnyField) and item.is_sized else None


def _tails_in(body: Body) -> set[int]:
    own = set() if body.tail is None else {id(slot.field) for slot in body.tail.slots}
    return own.union(*(_tails_in(inner) for step in body.steps for inner in bodies_in(step)))


class _Tables:
    """Rows for a list of items, and sections for what stands in it."""

    def __init__(self, profile: Profile, endian: Endian) -> None:
        self._profile = profile
        self._endian = endian
        self._waiting: list[tuple[str, Iterator[str]]] = []
        plans = [layout for layout in profile.layouts.values() if isinstance(layout, Plan)]
        self._tails = set[int]().union(*(_tails_in(plan.body) for plan in plans))

    def sections(self) -> Iterator[str]:
        """What the rows so far refer to, and what that refers to."""
        while self._waiting:
            title, lines = self._waiting.pop(0)
            # What it holds comes right behind it, and before its neighbours.
            behind, self._waiting = self._waiting, []
            yield from ("", f"### {title}", "", *lines)
            self._waiting += behind

    def _section(self, title: str, lines: Iterator[str]) -> str:
        self._waiting.append((title, lines))
        return f"see {title} below"

    def rows(self, items: Sequence[Item]) -> Iterator[Row]:
        """A row for each item, and more for its bit fields."""
        places = _Places(items, self._tails)
        for item in items:
            for bytes_, kind, name, unit, words in self._rows_of(item, places.of(item)):
                yield bytes_, kind, name, unit, _joined(_condition(item), words)

    def _rows_of(self, item: Item, at: str) -> Iterator[Row]:
        match item:
            case Group():
                section = self._section(f"Group `{item.name}`", table(_HEAD, self.rows(item.fields)))
                yield at, "group", f"`{item.name}`", "", _described(item, section)
            case Array():
                yield self._array_row(item, at)
            case Switch():
                keyed = self._keyed("", [(_case_word(case), each) for case, each in item.cases.items()], item.default)
                yield at, f"choice by `{item.on}`", "", "", self._section(f"Choice by `{item.on}`", keyed)
            case Tlv():
                yield at, "tagged items", "", "", self._section(f"Items by `{item.tag}`", self._tlv(item))
            case Computed():
                yield "", "computed", f"`{item.name}`", unit_cell(item), _joined(code(item.value), meaning(item))
            case Encrypted():
                section = self._section(f"Under the key `{item.key}`", self._encrypted(item))
                yield at, item.algorithm, "", "", section
            case Plain():
                title = f"In clear, only from a device without the key `{item.key}`"
                yield at, "in clear", "", "", self._section(title, table(_HEAD, self.rows(item.fields)))
            case Require():
                yield "", "rule", "", "", f"the frame is rejected unless {code(item.that)}"
            case PartOfProfile():
                yield at, "part", "", "", f"see part `{item.part}` below"
            case _:
                yield from _field_rows(self._profile, Slot(item, 0, item.size_bytes), self._endian, at)

    def _array_row(self, item: Array, at: str) -> Row:
        if item.count is not None:
            count = f"x {item.count}" if isinstance(item.count, int) else f"x `{item.count}`"
        else:
            count = "to the end" if item.until == "end" else f"until `{item.until}`"
        if isinstance(item.of, Group):
            section = self._section(f"Each of `{item.name}`", table(_HEAD, self.rows(item.of.fields)))
            return at, f"list {count}", f"`{item.name}`", "", _described(item, section)
        if not isinstance(item.of, AnyField):
            raise TypeError("an element of a list is a field or a group")
        words = _joined(cell(item.description), meaning(item.of))
        return at, f"{_type_word(item.of)} {count}", f"`{item.name}`", unit_cell(item.of), words

    def _keyed(
        self, key: str, cases: Iterable[tuple[str, Sequence[Item]]], default: Sequence[Item] | None
    ) -> Iterator[str]:
        """A table of several lists of items, each under a number or a word."""
        rows: list[Row] = []
        for word, items in [*cases, *([("any other", default)] if default is not None else [])]:
            found = list(self.rows(items)) or [("", "nothing", "", "", "")]
            rows += [(word, *row) for row in found]
        yield from table((key or "Value", *_HEAD), rows)

    def _tlv(self, item: Tlv) -> Iterator[str]:
        yield "Each item begins with:"
        yield ""
        yield from table(_HEAD, self.rows(item.header))
        yield ""
        if item.length is not None:
            yield f"`{item.length}` is the number of bytes that follow it."
        if item.number is not None:
            yield f"`{item.number}` stands behind the names: `NAME_3`."
        else:
            yield "What comes again gets a number behind its name: `NAME_2`."
        yield {
            "reject": "With an item that is not below, the frame is rejected.",
            "skip": "An item that is not below is passed over.",
            "stop": "An item that is not below ends the frame; what came before it counts.",
        }[item.unknown]
        yield ""
        yield from self._keyed("Tag", ((f"0x{tag:02x}", items) for tag, items in item.items.items()), None)

    def _encrypted(self, item: Encrypted) -> Iterator[str]:
        tag = f"in `{item.tag}`" if item.tag is not None else "the last of the encrypted ones"
        yield f"{item.algorithm.upper()} with the device's key `{item.key}`. Nonce: {_parts(item.nonce)}."
        if item.aad:
            yield f"Authenticated as well: {_parts(item.aad)}."
        yield f"The tag has {item.tag_bytes} bytes, {tag}. Decrypted:"
        yield ""
        yield from table(_HEAD, self.rows(item.fields))


def _field_rows(profile: Profile, slot: Slot, endian: Endian, at: str) -> Iterator[Row]:
    spec = slot.field
    constant = slot.constant(endian)
    words = f"always `{constant.hex(' ')}`" if constant is not None else meaning(spec)
    yield at, _type_word(spec), f"`{spec.name}`", unit_cell(spec), _joined(words, _role(profile, spec.name))
    for part in spec.bits if isinstance(spec, IntegerField) else ():
        last = part.bit + part.width - 1
        bits = f"bit {part.bit}" if part.width == 1 else f"bits {part.bit}-{last}"
        yield at, bits, f"`{part.name}`", unit_cell(part), _joined(meaning(part), _role(profile, part.name))


def _type_word(spec: AnyField) -> str:
    if isinstance(spec, TextField | BytesField) and not spec.is_sized:
        length = "to the end" if spec.length_bytes == "end" else f"of `{spec.length_bytes}` bytes"
        return f"{spec.type} {length}"
    return spec.type


def _role(profile: Profile, name: str) -> str:
    if name == profile.identity:
        return "the device's address"
    return "counts frames" if name == profile.sequence else ""


def _condition(item: Item) -> str:
    words = [f"only if {code(item.condition)}"] if item.condition is not None else []
    if item.since is not None:
        words.append(f"since version {item.since}")
    if item.until_version is not None:
        words.append(f"until version {item.until_version}")
    return ", ".join(words)


def _case_word(case: bool | int | str) -> str:
    return str(case).lower() if isinstance(case, bool) else code(str(case))


def _described(item: Group | Array, section: str) -> str:
    return _joined(cell(item.description), section, "" if item.emit else "not reported")


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))


def _parts(parts: Sequence[Part]) -> str:
    words: list[str] = []
    for part in parts:
        match part:
            case FixedBytes():
                words.append(f"the bytes `{part.hex}`")
            case FieldBytes():
                words.append(f"`{part.field}`" + (" backwards" if part.reversed else ""))
            case _:
                words.append(f"`{part}`")
    return ", ".join(words)
