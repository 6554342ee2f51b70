"""A frame told byte by byte, for a person who wants to know what a device said, or what is wrong with it.

Works from the layout and not from the compiled decoder, because it has to say something about broken frames too: which
frame was probably meant, and where the bytes stop fitting it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edge_gateway.codec.compile import reject_reason
from edge_gateway.codec.fields import BitField, BytesField, FloatField, IntegerField
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
    if layout.fits(frame) and (layout.checksum is None or layout.checksum.holds(frame)):
        verdict = role
    else:
        verdict = f"rejected: {reject_reason(profile.heard_layouts, frame)}; read as the likeliest frame"
    rows = [Row(0, len(frame), "", layout.name, None, None, verdict)]
    for slot in layout.slots:
        rows += _slot_rows(layout, slot, frame)
    if layout.checksum is not None:
        check = layout.checksum
        data = frame[check.start : check.end]
        if len(data) < check.end - check.start:
            note = _missing(data, check.end - check.start)
        elif check.holds(frame):
            note = f"{check.name}, right"
        else:
            right = check.compute(frame[: check.start]).to_bytes(check.end - check.start, check.endian)
            note = f"{check.name}, wrong: {right.hex(' ')} expected"
        rows.append(Row(check.start, check.start + len(data), data.hex(" "), "checksum", None, None, note))
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


def _slot_rows(layout: Layout, slot: Slot, frame: bytes) -> Iterable[Row]:
    spec, start, end = slot
    data = frame[start:end]
    if len(data) < end - start:
        yield Row(start, start + len(data), data.hex(" "), spec.name, None, None, _missing(data, end - start))
        return
    unit = None if isinstance(spec, BytesField) else spec.unit
    match spec:
        case IntegerField():
            raw = spec.unpack(data, layout.endian)
            if spec.bits:
                yield Row(start, end, data.hex(" "), spec.name, None, None, f"bits {raw:0{8 * (end - start)}b}")
                for part in spec.bits:
                    value = (raw & part.mask) >> part.bit
                    last = part.bit + part.width - 1
                    place = f"bit {last}" if part.width == 1 else f"bits {part.bit}-{last}"
                    note = ", ".join(filter(None, (place, _number_note(part, value))))
                    yield Row(start, end, "", part.name, part.value_of(value), part.unit, note)
                return
            value_of_raw, note = spec.value_of(raw), _number_note(spec, raw)
        case FloatField():
            value_of_raw = spec.value_of(spec.unpack(data, layout.endian))
            note = "not a finite number" if value_of_raw is None else ""
        case BytesField():
            value_of_raw, note = spec.value_of(data), ""
    constant = slot.constant(layout.endian)
    if constant is not None:
        note = "constant" if data == constant else f"wrong: {constant.hex(' ')} expected"
    yield Row(start, end, data.hex(" "), spec.name, value_of_raw, unit, note)


def _number_note(spec: IntegerField | BitField, raw: int) -> str:
    if raw in spec.sentinel:
        return "the code for no value"
    if spec.enum and raw not in spec.enum:
        return "a code without a name"
    return ""


def _missing(data: bytes, size_bytes: int) -> str:
    return f"missing: {size_bytes - len(data)} of {size_bytes} bytes"
