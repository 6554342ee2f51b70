"""A frame told byte by byte, for a person who wants to know what a device said, or what is wrong with it.

Works from the layout and not from the compiled decoder, because it has to say something about broken frames too: which
frame was probably meant, and where the bytes stop fitting it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edge_gateway.codec.compile import reject_reason
from edge_gateway.codec.fields import FloatField, IntegerField, WholeNumber
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Layout, Slot
from edge_gateway.codec.profile import Profile
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
    """The field's name; in the first row, the frame's."""
    value: Value
    unit: str | None
    note: str
    """What a person should know: a role, a code without a name, or what is wrong and what was expected."""


def explain_frame(profile: Profile, frame: bytes) -> list[Row]:
    """See `Codec.explain`."""
    layout = _likeliest(profile, frame)
    role: str = profile.frames[layout.name].role
    if not layout.fits(frame) or not (layout.checksum is None or layout.checksum.holds(frame)):
        verdict = f"rejected: {reject_reason(profile.heard_layouts, frame)}; read as the likeliest frame"
    elif any(_has_flaw(layout, slot, frame) for slot in layout.slots):
        verdict = "rejected: value"
    else:
        verdict = role
    rows = [Row(0, len(frame), "", layout.name, None, None, verdict)]
    for slot in layout.slots:
        rows += _slot_rows(layout, slot, frame)
    if layout.checksum is not None:
        rows.append(_checksum_row(layout.checksum, frame))
        rows[1:] = sorted(rows[1:], key=lambda row: row.start)
    extra = frame[layout.length_bytes :]
    if extra:
        note = f"{len(extra)} bytes more than the {layout.length_bytes} of this frame"
        rows.append(Row(layout.length_bytes, len(frame), extra.hex(" "), "", None, None, note))
    return rows


def _likeliest(profile: Profile, frame: bytes) -> Layout:
    """The frame that was probably meant: constants count more than length, and length more than nearness."""

    def likeness(layout: Layout) -> tuple[bool, bool, bool, int]:
        same_length = layout.length_bytes == len(frame)
        has_constants = bool(layout.constants) and layout.has_constants(frame)
        fits = same_length and (has_constants or not layout.constants)
        return fits, has_constants, same_length, -abs(layout.length_bytes - len(frame))

    return max(profile.layouts.values(), key=likeness)


def _has_flaw(layout: Layout, slot: Slot, frame: bytes) -> bool:
    data, field = frame[slot.start : slot.end], slot.field
    if isinstance(field, IntegerField) and field.bits:
        number = field.unpack(data, layout.endian)
        return any(part.flaw_of(part.taken_from(number)) for part in field.bits)
    return bool(field.flaw_in(data, layout.endian))


def _slot_rows(layout: Layout, slot: Slot, frame: bytes) -> Iterable[Row]:
    spec, start, end = slot
    data = frame[start:end]
    if len(data) < end - start:
        yield Row(start, start + len(data), data.hex(" "), spec.name, None, None, _missing(data, end - start))
        return
    if isinstance(spec, IntegerField) and spec.bits:
        number = spec.unpack(data, layout.endian)
        yield Row(start, end, data.hex(" "), spec.name, None, None, f"bits {number:0{8 * (end - start)}b}")
        for part in spec.bits:
            raw = part.taken_from(number)
            last = part.bit + part.width - 1
            place = f"bit {last}" if part.width == 1 else f"bits {part.bit}-{last}"
            note = ", ".join(filter(None, (place, _number_note(part, raw))))
            yield Row(start, end, "", part.name, part.value_of(raw), part.unit, note)
        return
    value = spec.value_in(data, layout.endian)
    unit = spec.unit if isinstance(spec, WholeNumber | FloatField) else None
    if isinstance(spec, WholeNumber):
        note = _number_note(spec, spec.unpack(data, layout.endian))
    else:
        flaw = spec.flaw_in(data, layout.endian)
        note = f"rejected: {flaw}" if flaw else "not a finite number" if value is None else ""
    constant = slot.constant(layout.endian)
    if constant is not None:
        note = "constant" if data == constant else f"wrong: {constant.hex(' ')} expected"
    yield Row(start, end, data.hex(" "), spec.name, value, unit, note)


def _checksum_row(check: ChecksumSlot, frame: bytes) -> Row:
    size_bytes = check.end - check.start
    data = frame[check.start : check.end]
    if len(data) < size_bytes:
        note = _missing(data, size_bytes)
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


def _missing(data: bytes, size_bytes: int) -> str:
    return f"missing: {size_bytes - len(data)} of {size_bytes} bytes"
