"""Whether two kinds of frames can be known by their bytes."""

from __future__ import annotations

from edge_gateway.codec.layout import Layout
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.text import TextLayout


def can_be_told_apart(one: Layout | Plan | TextLayout, other: Layout | Plan | TextLayout) -> bool:
    """Whether no byte sequence fits both: their lengths differ, or a byte constant in both differs.

    Two text frames differ in how they begin, or in a cell; see `text.can_be_told_apart`. No profile has both kinds.
    """
    if isinstance(one, TextLayout) or isinstance(other, TextLayout):
        return isinstance(one, TextLayout) and isinstance(other, TextLayout) and one.differs_from(other)
    first, second = sorted((one, other), key=lambda each: each.least_bytes)
    if first.most_bytes is not None and first.most_bytes < second.least_bytes:
        return True
    fixed = {start + index: byte for start, run in one.constants for index, byte in enumerate(run)}
    return any(
        fixed.get(start + index, byte) != byte for start, run in other.constants for index, byte in enumerate(run)
    )
