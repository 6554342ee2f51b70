"""Values for a frame of text, by somebody who decides what each column says; `drawing.py` does it for binary frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_gateway.codec.generated.drawing import Draws, Values
from edge_gateway.codec.text import BlockFrame, TextFrame
from edge_gateway.codec.text.column import Column
from edge_gateway.codec.text.columns import (
    AnyColumn,
    ArrayColumn,
    ChoiceColumn,
    GroupColumn,
    NamedColumn,
    PlainColumn,
)
from edge_gateway.codec.text.places import PlaceColumn, degrees_of
from edge_gateway.codec.text.times import ClockColumn
from edge_gateway.records import Value

_MOST_ELEMENTS: Final = 4


def draw_values(frame: TextFrame, draws: Draws) -> Values:
    """Values that the frame can be written with, as it is read again.

    Args:
        frame: the declaration.
        draws: decides.

    Raises:
        CodecError: a decided value does not fit its column.
    """
    drawn: Values = {}
    for label, columns in frame.lines_of_columns.items():
        # A block has some of its labels, and at least the first.
        is_head = not label or not isinstance(frame, BlockFrame) or label == next(iter(frame.lines))
        if is_head or draws.size(label, 0, 1):
            drawn |= _line(columns, draws, f"{label}.")
    return drawn


def _line(columns: Sequence[AnyColumn], draws: Draws, path: str) -> Values:
    drawn: Values = {}
    for index, column in enumerate(columns):
        chosen: NamedColumn
        if isinstance(column, ChoiceColumn):
            ways = column.of
            chosen = ways[min(draws.size(f"{path}{index}", 0, len(ways) - 1), len(ways) - 1)]
        else:
            chosen = column
        if not chosen.is_constant:
            drawn[chosen.name] = _value(chosen, draws, f"{path}{chosen.name}")
    return drawn


def _value(column: NamedColumn, draws: Draws, path: str) -> Value:
    match column:
        case GroupColumn():
            return _line(column.columns, draws, f"{path}.")
        case ArrayColumn():
            least, most = column.count_range
            size = draws.size(path, least, max(least, min(most, _MOST_ELEMENTS)))
            return [_value(column.of, draws, f"{path}[{index}]") for index in range(size)]
        case _:
            return _as_read(column, draws.value(column, path, decides=False))


def _as_read(column: PlainColumn, value: Value) -> Value:
    """What becomes of a value on its way through the text."""
    if value is None:
        return None
    match column:
        case PlaceColumn():
            return degrees_of(*column.write(value))
        case ClockColumn(date=str()):
            return value  # it is written in two columns
        case Column():
            return column.core_value(column.core_text(value))
