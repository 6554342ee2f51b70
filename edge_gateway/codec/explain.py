"""A frame told byte by byte, for a person who wants to know what a device said, or what is wrong with it.

Works from the layout and not from the compiled decoder, because it has to say something about broken frames too: which
frame was probably meant, and where the bytes stop fitting it.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_gateway.codec.compile import Decoded, reject_reason
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.payload_keys import PayloadKeys
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.rows import Row, checksum_row, slot_flaw, slot_rows
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.text import TextFrame, TextLayout


def explain_frame(profile: Profile, frame: bytes, keys: PayloadKeys) -> list[Row]:
    """See `Codec.explain`."""
    texts = {name: each for name, each in profile.frames.items() if isinstance(each, TextFrame)}
    if texts:
        from edge_gateway.codec.text.reading import explain_text, likeliest

        name = likeliest(texts, frame)
        return explain_text(name, texts[name], frame)
    layout = _likeliest(profile, frame)
    role: str = profile.frames[layout.name].role
    if isinstance(layout, Plan):
        from edge_gateway.codec.structure.reader import read_frame

        read = read_frame(layout, frame, profile.identity, profile.sequence, keys)
        verdict = role
        if read.reason:
            verdict = f"rejected: {reject_reason(profile, profile.heard_layouts, frame, keys)}"
        return [Row(0, len(frame), "", layout.name, None, None, verdict), *read.rows]
    if not layout.fits(frame) or not layout.check_holds(frame):
        reason = reject_reason(profile, profile.heard_layouts, frame, keys)
        verdict = f"rejected: {reason}; read as the likeliest frame"
    elif any(slot_flaw(layout.endian, slot, frame) for slot in layout.slots):
        verdict = "rejected: value"
    else:
        verdict = role
    rows = [Row(0, len(frame), "", layout.name, None, None, verdict)]
    for slot in layout.slots:
        rows += slot_rows(layout.endian, slot, frame)
    if layout.checksum is not None:
        rows.append(checksum_row(layout.checksum, frame))
        rows[1:] = sorted(rows[1:], key=lambda row: row.start)
    extra = frame[layout.length_bytes :]
    if extra:
        note = f"{len(extra)} bytes more than the {layout.length_bytes} of this frame"
        rows.append(Row(layout.length_bytes, len(frame), extra.hex(" "), "", None, None, note))
    return rows


def explain_decoded(frame: bytes, decoded: Decoded, units: Mapping[str, str | None]) -> list[Row]:
    """What code made of one frame; which bytes a value is from, only it knows.

    Args:
        frame: the frame.
        decoded: of it alone.
        units: of the values that have a known one.
    """
    verdict = f"rejected: {decoded.rejects[0].reason}" if decoded.rejects else "sample"
    rows = [Row(0, len(frame), frame.hex(" "), "", None, None, verdict)]
    for sample in decoded.samples:
        rows.append(Row(0, len(frame), "", "address", sample.address, None, "whose values follow"))
        rows += [Row(0, len(frame), "", name, value, units.get(name), "") for name, value in sample.values.items()]
    return rows


def _likeliest(profile: Profile, frame: bytes) -> Layout | Plan:
    """The frame that was probably meant: constants count more than length, and length more than nearness."""

    def likeness(layout: Layout | Plan) -> tuple[bool, bool, bool, int]:
        same_length = layout.admits_length(len(frame))
        has_constants = bool(layout.constants) and layout.has_constants(frame)
        fits = same_length and (has_constants or not layout.constants)
        return fits, has_constants, same_length, -abs(layout.least_bytes - len(frame))

    layouts = [layout for layout in profile.layouts.values() if not isinstance(layout, TextLayout)]
    return max(layouts, key=likeness)
