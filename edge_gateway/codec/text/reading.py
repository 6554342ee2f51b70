"""A text frame read cell by cell, for a person who wants to know what a device said, or what is wrong with it.

Works from the declaration and without the patterns of the compiled reader, because it has to say something about broken
frames, too: which part does not fit, and why. The tests hold the two readers against each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_gateway.codec.rows import Row
from edge_gateway.codec.text.column import Column, Flaw, Style
from edge_gateway.codec.text.columns import (
    AnyColumn,
    ArrayColumn,
    ChoiceColumn,
    GroupColumn,
    OneCell,
    PlainColumn,
    cell_range,
    cells_of,
    counts_fit,
    is_open,
    is_optional,
)
from edge_gateway.codec.text.form import TextChecksum
from edge_gateway.codec.text.frames import BlockFrame, ListFrame, TextFrame
from edge_gateway.codec.text.source import aside_pattern
from edge_gateway.codec.text.times import ClockColumn, moment_text
from edge_gateway.records import Value

_NEARNESS = ("", "value", "length", "checksum", "unknown-frame")
"""Why some bytes are not a certain frame, from the nearest miss to the farthest."""
_GRAVITY = ("", "value", "length", "unknown-frame", "checksum")
"""The same by what counts where several are true: damage is the likelier cause of anything else."""


class Span(NamedTuple):
    """Some bytes of a frame, and where each of them stands in it."""

    data: bytes
    places: Sequence[int]
    """The place of each byte, and at last the place behind them."""

    def part(self, start: int, end: int | None = None) -> Span:
        """Some of the bytes, as a slice."""
        stop = len(self.data) if end is None else end
        return Span(self.data[start:stop], self.places[start : stop + 1])

    def split(self, separator: bytes) -> list[Span]:
        """The parts between separators."""
        parts, start = [], 0
        for piece in self.data.split(separator):
            parts.append(self.part(start, start + len(piece)))
            start += len(piece) + len(separator)
        return parts

    def without(self, holes: Iterable[tuple[int, int]]) -> Span:
        """All but some of the bytes: those from the first to before the last of each pair, which are in order."""
        data: list[bytes] = []
        places: list[int] = []
        at = 0
        for start, end in holes:
            data.append(self.data[at:start])
            places += self.places[at:start]
            at = end
        return Span(b"".join([*data, self.data[at:]]), [*places, *self.places[at:]])


@dataclass
class TextReport:
    """What was found in a frame."""

    values: dict[str, Value] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """What each part means; see `Codec.explain`. Without the row of the whole frame."""
    reason: str = ""
    """Why the frame is rejected; empty if it is not."""
    is_of_another_kind: bool = False
    """Whether something in it that tells frames apart says so."""

    def reject(self, reason: str) -> None:
        """Note why the frame is rejected."""
        self.is_of_another_kind |= reason == "unknown-frame"
        self.reason = max(self.reason, reason, key=_GRAVITY.index)

    @property
    def distance(self) -> tuple[int, bool]:
        """How far it is from being this frame; less is nearer."""
        return _NEARNESS.index(self.reason), self.is_of_another_kind

    def row(self, span: Span, name: str, value: Value = None, unit: str | None = None, note: str = "") -> None:
        """Note what a part means."""
        self.rows.append(Row(span.places[0], span.places[-1], span.data.hex(" "), name, value, unit, note))


def read_text(frame: TextFrame, data: bytes) -> TextReport:
    """Read a frame slowly. Raises for no bytes whatever."""
    report = TextReport()
    whole = Span(data, range(len(data) + 1))
    if isinstance(frame, BlockFrame) and frame.text.asides is not None:
        whole = _without_asides(frame, whole, report)
    body = _read_envelope(frame, whole, report)
    if body is not None:
        match frame:
            case ListFrame():
                cells = body.split(frame.text.style.separator)
                report.values = _LineReader(frame.text.style, report).line(frame.columns, cells, body)
            case BlockFrame():
                _read_block(frame, body, report)
    report.rows.sort(key=lambda row: row.start)
    return report


def _shown(word: bytes) -> str:
    """Some bytes for a person."""
    return repr(word.decode("ascii", "backslashreplace"))


def _without_asides(frame: BlockFrame, whole: Span, report: TextReport) -> Span:
    asides, check = frame.text.asides, frame.text.checksum
    behind = check.most_bytes if check is not None else 0
    if asides is None:
        return whole
    covered = whole.data[: max(len(whole.data) - behind, 0)] if behind else whole.data
    holes = [found.span() for found in re.finditer(aside_pattern(asides.start, asides.end), covered)]
    for hole in holes:
        report.row(whole.part(*hole), "", note="no part of the block")
    return whole.without(holes)


def _read_envelope(frame: TextFrame, whole: Span, report: TextReport) -> Span | None:
    """Check what is around the body; returns the body, or None where it cannot be told from the rest."""
    form, data = frame.form, whole.data
    start, end, check = form.start_bytes, form.end_bytes, form.checksum
    if start:
        begin = whole.part(0, min(len(start), len(data)))
        report.row(begin, "", note="" if begin.data == start else f"wrong: {_shown(start)} expected")
    if not data.startswith(start):
        report.reject("unknown-frame")
        return None
    rest = whole.part(len(start))
    behind = Span(b"", whole.places[-1:])
    if check is not None:
        size = len(rest.data) - rest.data.rfind(end) - len(end) if not check.padded else check.most_bytes
        size = min(max(size, 0), len(rest.data))
        behind = rest.part(len(rest.data) - size)
        rest = rest.part(0, len(rest.data) - size)
    if not rest.data.endswith(end):
        report.reject("checksum" if check is not None else "length")
        report.row(Span(b"", whole.places[-1:]), "", note=f"missing: {_shown(end)}{' and a checksum' if check else ''}")
        return rest
    body = rest.part(0, len(rest.data) - len(end))
    if end:
        report.row(rest.part(len(body.data)), "", note="")
    if check is not None:
        covered = body.data if check.covers == "between" else start + rest.data
        note = _checksum_note(check, covered, behind.data)
        if not note.endswith("right"):
            report.reject("checksum")
        report.row(behind, "checksum", note=note)
    return body


def _checksum_note(check: TextChecksum, covered: bytes, found: bytes) -> str:
    algorithm = check.checked_by
    right = algorithm.compute(covered).to_bytes(algorithm.size_bytes, check.endian)
    given = found
    if check.form == "hex":
        digits = found.zfill(check.most_bytes) if found and not check.padded else found
        is_hex = len(digits) == check.most_bytes and not digits.strip(b"0123456789abcdefABCDEF")
        given = bytes.fromhex(digits.decode()) if is_hex else b""
    if given == right:
        return f"{algorithm.name}, right"
    expected = right.hex().upper() if check.form == "hex" else right.hex(" ")
    return f"{algorithm.name}, wrong: {expected} expected"


def _read_block(frame: BlockFrame, body: Span, report: TextReport) -> None:
    form, style = frame.text, frame.text.style
    line_break = form.line_break.encode()
    if form.continues is not None:
        continued = re.escape(line_break + form.continues.encode())
        starts = [found.start() for found in re.finditer(continued, body.data)]
        body = body.without((start, start + len(line_break)) for start in starts)
    lines = body.split(line_break)
    reader = _LineReader(style, report)
    if frame.head is not None:
        report.values |= reader.line([frame.head], lines[0].split(style.separator), lines[0])
        lines = lines[1:]
    lines_by_label = {label.encode(): columns for label, columns in frame.lines.items()}
    known = 0
    for line in lines:
        label, opened, _ = line.data.partition(form.opens.encode())
        columns = lines_by_label.get(label)
        if columns is None:
            if line.data:
                report.row(line, "", note="not declared")
            continue
        known += 1
        text = line.part(len(label + opened))
        closes = (form.closes or "").encode()
        if not opened or not text.data.endswith(closes):
            report.reject("value")
            report.row(line, "", note=f"rejected: {form.opens}...{form.closes or ''} expected")
            continue
        text = text.part(0, len(text.data) - len(closes))
        report.values |= reader.line(columns, text.split(style.separator), text)
    if not known:
        report.reject("unknown-frame")


class _LineReader:
    """Reads the cells of lines into rows and values."""

    def __init__(self, style: Style, report: TextReport) -> None:
        self._style = style
        self._report = report

    def line(self, columns: Sequence[AnyColumn], cells: list[Span], whole: Span) -> dict[str, Value]:
        """The values of a line, as far as it can be read."""
        least, most = cell_range(columns)
        if not counts_fit(columns, len(cells)):
            tags = zip(columns, cells, strict=False)
            if not all(_fits_tag(column, cell, self._style) for column, cell in tags):
                self._report.reject("unknown-frame")
            else:
                self._report.reject("length")
            self._report.row(whole, "", note=f"{len(cells)} cells, {least} to {most} expected")
            return {}
        values: dict[str, Value] = {}
        days: dict[str, Value] = {}
        at = 0
        for column in columns:
            if at == len(cells) and is_optional(column):
                values |= {} if isinstance(column, ChoiceColumn) else self._absent(column)
                continue
            count = cells_of(column)
            if isinstance(column, ArrayColumn) and is_open(column):
                count = (len(cells) - at) // column.element_cells * column.element_cells
            values |= self._column(column, cells[at : at + count], days)
            at += count
        for column in columns:
            if isinstance(column, ClockColumn) and column.date is not None and column.emit:
                day, clock = days.get(column.date), values[column.name]
                values[column.name] = moment_text(
                    day if isinstance(day, str) else None, clock if isinstance(clock, str) else None
                )
        return values

    def _absent(self, column: AnyColumn) -> dict[str, Value]:
        match column:
            case ArrayColumn():
                return {column.name: []} if column.emit else {}
            case GroupColumn() | ChoiceColumn():
                return {}
            case _:
                return {column.name: None} if column.emit and not column.is_constant else {}

    def _column(self, column: AnyColumn, cells: list[Span], days: dict[str, Value]) -> dict[str, Value]:
        match column:
            case GroupColumn():
                group = self.line(column.columns, cells, cells[0])
                return {column.name: group} if column.emit else {}
            case ArrayColumn():
                return self._array(column, cells)
            case ChoiceColumn():
                return self._choice(column.of, cells[0])
            case _:
                value = self._plain(column, cells)
                days[column.name] = value
                return {column.name: value} if column.emit and not column.is_constant else {}

    def _array(self, column: ArrayColumn, cells: list[Span]) -> dict[str, Value]:
        size = column.element_cells
        values: list[Value] = []
        for at in range(0, len(cells), size):
            element = cells[at : at + size]
            if isinstance(column.of, GroupColumn):
                value: Value = self.line(column.of.columns, element, element[0])
                value = value if column.of.emit else None
            else:
                value = self._plain(column.of, element)
                value = value if column.of.emit and not column.of.is_constant else None
            if value is not None or not column.skip_empty:
                values.append(value)
        return {column.name: values} if column.emit else {}

    def _choice(self, ways: Iterable[OneCell], cell: Span) -> dict[str, Value]:
        text = cell.data.strip(self._style.padding) if self._style.padding else cell.data
        if not text or text in self._style.empty:
            self._report.row(cell, "", note="empty")
            return {}
        for way in ways:
            try:
                value = way.model_copy(update={"required": True}).read(cell.data, self._style._replace(empty=()))
            except Flaw:
                continue
            self._report.row(cell, way.name, value, getattr(way, "unit", None))
            return {way.name: value} if way.emit and not way.is_constant else {}
        self._report.reject("value")
        self._report.row(cell, "", note="rejected: none of the ways to write it fits")
        return {}

    def _plain(self, column: PlainColumn, cells: list[Span]) -> Value:
        span = _joined(cells, self._style.separator)
        try:
            value = column.read(span.data, self._style)
        except Flaw as flaw:
            self._report.reject("unknown-frame" if flaw.tells_frames_apart else "value")
            self._report.row(span, column.name, None, getattr(column, "unit", None), f"rejected: {flaw.note}")
            return None
        note = "constant" if column.is_constant else "" if value is not None or not span.data else "no value"
        self._report.row(span, column.name, value, getattr(column, "unit", None), note)
        return value


def _joined(cells: list[Span], separator: bytes) -> Span:
    """Neighbouring cells, with what separates them."""
    if len(cells) == 1:
        return cells[0]
    data = separator.join(cell.data for cell in cells)
    return Span(data, [cells[0].places[0] + at for at in range(len(data))] + [cells[-1].places[-1]])


def _fits_tag(column: AnyColumn, cell: Span, style: Style) -> bool:
    if not isinstance(column, Column) or not column.tells_frames_apart:
        return True
    try:
        column.read(cell.data, style)
    except Flaw:
        return False
    return True


def explain_text(name: str, frame: TextFrame, data: bytes) -> list[Row]:
    """What each part of a frame means; see `Codec.explain`.

    Args:
        name: what the profile calls the frame.
        frame: its declaration.
        data: any bytes.
    """
    report = read_text(frame, data)
    verdict = frame.role if not report.reason else f"rejected: {report.reason}"
    return [Row(0, len(data), "", name, None, None, verdict), *report.rows]


def likeliest(frames: Mapping[str, TextFrame], data: bytes) -> str:
    """The name of the frame that was probably meant: the one whose reason says most.

    Args:
        frames: at least one, by name.
        data: any bytes.
    """
    return min(frames, key=lambda name: read_text(frames[name], data).distance)


def text_reject_reason(frames: Iterable[TextFrame], data: bytes) -> str:
    """Why none of these frames takes some bytes; empty if one does."""
    reasons = [read_text(frame, data).reason for frame in frames]
    return min(reasons, key=_NEARNESS.index, default="unknown-frame")
