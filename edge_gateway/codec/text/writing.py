"""Values to a text frame: what a simulator says, and what a command is sent as.

A frame that is written reads as the same values. It need not be the text that a device would send for them: numbers are
written as short as they may be, and a list ends where its optional columns have nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_gateway.codec.text.column import Column, Style
from edge_gateway.codec.text.columns import (
    AnyColumn,
    ArrayColumn,
    ChoiceColumn,
    GroupColumn,
    is_optional,
    named_in,
)
from edge_gateway.codec.text.form import Form
from edge_gateway.codec.text.frames import BlockFrame, ListFrame, TextFrame
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import ClockColumn
from edge_gateway.errors import CodecError
from edge_gateway.records import Value


def write_text(frame: TextFrame, values: Mapping[str, Value], *, exact: bool = False) -> bytes:
    """The frame that reads as these values.

    Args:
        frame: the declaration.
        values: by name. Of a list, what is not given is null or, where a cell must say something, the least there is;
            of a block, a label is written if one of its values is given.
        exact: refuse a value that the text would round.

    Raises:
        CodecError: a value has no name here or does not fit its column; `where` is the column.
    """
    for name in values:
        if name not in frame.specs:
            raise CodecError(f"there is no value {name!r}", remedy=f"Values: {', '.join(frame.specs)}")
    match frame:
        case ListFrame():
            body = _line(frame.columns, values, frame.text.style, exact)
        case BlockFrame():
            body = _block(frame, values, exact)
        case _:
            raise TypeError(f"{type(frame).__name__} is no kind of text frame")
    return _sealed(frame.form, body)


def _sealed(form: Form, body: bytes) -> bytes:
    """The body between its ends, with the checksum behind."""
    whole = form.start_bytes + body + form.end_bytes
    check = form.checksum
    if check is None:
        return whole
    algorithm = check.checked_by
    number = algorithm.compute(body if check.covers == "between" else whole)
    found = number.to_bytes(algorithm.size_bytes, check.endian)
    return whole + (found if check.form == "bytes" else found.hex().upper().encode())


def sealed_again(form: Form, frame: bytes) -> bytes:
    """A frame whose body was changed, with the checksum that is right now; the frame itself where there is no end."""
    start, end = form.start_bytes, form.end_bytes
    end_at = frame.rfind(end, len(start)) if form.checksum is not None else -1
    return frame if end_at < 0 or not frame.startswith(start) else _sealed(form, frame[len(start) : end_at])


def _block(frame: BlockFrame, values: Mapping[str, Value], exact: bool) -> bytes:
    form = frame.text
    lines = []
    if frame.head is not None:
        lines.append(_line([frame.head], values, form.style, exact))
    for label, columns in frame.lines.items():
        if any(spec.name in values for spec in named_in(columns)):
            text = _line(columns, values, form.style, exact)
            lines.append(label.encode() + form.opens.encode() + text + (form.closes or "").encode())
    if len(lines) == (frame.head is not None):
        raise CodecError("no line has a value", remedy=f"Give one of: {', '.join(frame.specs)}")
    return form.line_break.encode().join(lines)


def _line(columns: Sequence[AnyColumn], values: Mapping[str, Value], style: Style, exact: bool) -> bytes:
    given = dict(values)
    for column in columns:
        # A point in time is written in two columns.
        if isinstance(column, ClockColumn) and column.date is not None and isinstance(given.get(column.name), str):
            day, _, clock = str(given[column.name]).partition("T")
            given[column.date], given[column.name] = day, clock
    pieces: list[list[bytes]] = [_cells(column, given, style, exact) for column in columns]
    while pieces and is_optional(columns[len(pieces) - 1]) and not any(pieces[-1]):
        del pieces[-1]
    return style.separator.join(cell for cells in pieces for cell in cells)


def _cells(column: AnyColumn, values: Mapping[str, Value], style: Style, exact: bool) -> list[bytes]:
    match column:
        case GroupColumn():
            return [_group(column, values.get(column.name, {}), style, exact)]
        case ArrayColumn():
            return _array(column, values.get(column.name), style, exact)
        case ChoiceColumn():
            way = next((way for way in column.of if values.get(way.name) is not None), None)
            return [b"" if way is None else _said(way, values[way.name], style._replace(empty=()), exact)]
        case PlaceColumn():
            return list(column.write(values.get(column.name)))
        case _:
            return [_cell(column, values, style, exact)]


def _cell(column: Column, values: Mapping[str, Value], style: Style, exact: bool) -> bytes:
    if column.is_constant:
        return column.write("")
    if values.get(column.name) is None and (column.name not in values or not column.is_required):
        return column.write_blank()
    return _said(column, values[column.name], style, exact)


def _said(column: Column, value: Value, style: Style, exact: bool) -> bytes:
    """The cell for a value, if it would be read as one cell that says just this."""
    cell = column.write(value, exact=exact)
    if value is not None:
        core = column.core_text(value, exact=exact)
        text = cell.strip(style.padding) if style.padding else cell
        is_safe = text not in style.empty and core not in style.empty and not set(cell) & set(style.stops)
        if not is_safe or (style.padding and core != core.strip(style.padding)):
            raise column.refusal(value, "what neither ends a cell nor stands for nothing")
    return cell


def _group(column: GroupColumn, value: Value, style: Style, exact: bool) -> bytes:
    if not isinstance(value, Mapping):
        raise CodecError(f"{value!r} is not a mapping", where=column.name, remedy="Give its values by name")
    return _line(column.columns, value, style, exact)


def _array(column: ArrayColumn, value: Value, style: Style, exact: bool) -> list[bytes]:
    elements = [] if value is None else value
    least, most = column.count_range
    if isinstance(elements, str) or not isinstance(elements, Sequence) or len(elements) > most:
        raise CodecError(f"{value!r} does not fit", where=column.name, remedy=f"Possible: a list of at most {most}")
    if len(elements) < least and not column.skip_empty and value is not None:
        raise CodecError(f"{value!r} is too short", where=column.name, remedy=f"Possible: a list of {least}")
    padded = [*elements, *([None] * (least - len(elements)))]
    inner = column.of
    if isinstance(inner, GroupColumn):
        return [_group(inner, {} if each is None else each, style, exact) for each in padded]
    return [cell for each in padded for cell in _cells(inner, {inner.name: each}, style, exact)]
