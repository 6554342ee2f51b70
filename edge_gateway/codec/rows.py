"""The lines of an explanation: what each byte of a frame means, or what is wrong with it, for a person."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edge_gateway.codec.fields import Endian, FloatField, IntegerField, WholeNumber
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Slot
from edge_gateway.records import Value


class Row(NamedTuple):
    """One line of an explanation."""

    start: int
    """The first byte, counted from 0."""
    end: int
    """The byte after the last."""
    hex: str
    """What is there; empty for bit fields, whose integer stands in the row above, and for what is missing."""
    field: str
    """The field's name, with the group or list it is in: `position.latitude`, `satellites[0].id`; in the first row, the
    frame's."""
    value: Value
    unit: str | None
    note: str
    """What a person should know: a role, a code without a name, or what is wrong and what was expected."""
    seals: int = 0
    """How many seals were opened to see it. Its bytes are then counted in what was opened, and not in the frame."""


def slot_flaw(endian: Endian, slot: Slot, frame: bytes) -> bool:
    """Whether a frame is rejected for what stands in a slot; all its bytes have to be there."""
    data, field = frame[slot.start : slot.end], slot.field
    if isinstance(field, IntegerField) and field.bits:
        number = field.unpack(data, endian)
        return any(part.flaw_of(part.taken_from(number)) for part in field.bits)
    return bool(field.flaw_in(data, endian))


def slot_rows(endian: Endian, slot: Slot, frame: bytes) -> Iterable[Row]:
    """A field, and its bit fields."""
    spec, start, end = slot
    data = frame[start:end]
    if len(data) < end - start:
        yield Row(start, start + len(data), data.hex(" "), spec.name, None, None, missing(data, end - start))
        return
    if isinstance(spec, IntegerField) and spec.bits:
        number = spec.unpack(data, endian)
        yield Row(start, end, data.hex(" "), spec.name, None, None, f"bits {number:0{8 * (end - start)}b}")
        for part in spec.bits:
            raw = part.taken_from(number)
            last = part.bit + part.width - 1
            place = f"bit {last}" if part.width == 1 else f"bits {part.bit}-{last}"
            note = ", ".join(filter(None, (place, _number_note(part, raw))))
            yield Row(start, end, "", part.name, part.value_of(raw), part.unit, note)
        return
    value = spec.value_in(data, endian)
    unit = spec.unit if isinstance(spec, WholeNumber | FloatField) else None
    if isinstance(spec, WholeNumber):
        note = _number_note(spec, spec.unpack(data, endian))
    else:
        flaw = spec.flaw_in(data, endian)
        note = f"rejected: {flaw}" if flaw else "not a finite number" if value is None else ""
    constant = slot.constant(endian)
    if constant is not None:
        note = "constant" if data == constant else f"wrong: {constant.hex(' ')} expected"
    yield Row(start, end, data.hex(" "), spec.name, value, unit, note)


def checksum_row(check: ChecksumSlot, frame: bytes) -> Row:
    """The check of a frame."""
    size_bytes = check.end - check.start
    data = frame[check.start : check.end]
    if len(data) < size_bytes:
        note = missing(data, size_bytes)
    elif check.holds(frame):
        note = f"{check.name}, right"
    elif len(frame) < check.covers_end:
        note = f"{check.name} over bytes of which some are missing"
    else:
        note = f"{check.name}, wrong: {check.right_bytes(frame).hex(' ')} expected"
    return Row(check.start, check.start + len(data), data.hex(" "), check.field, None, None, note)


def _number_note(spec: WholeNumber, raw: int) -> str:
    flaw = spec.flaw_of(raw)
    if flaw:
        return f"rejected: {flaw}"
    if spec.is_sentinel(raw):
        return "the code for no value"
    if spec.enum and raw not in spec.enum:
        return "a code without a name"
    if spec.value_of(raw) is None:
        return f"null: valid is {spec.valid}" if spec.valid else "null: no time of any calendar"
    return ""


def missing(data: bytes, size_bytes: int) -> str:
    """What to say of bytes that are not there."""
    return f"missing: {size_bytes - len(data)} of {size_bytes} bytes"
