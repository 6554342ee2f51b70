"""Frames of text: one line of cells, or a block of labelled lines.

A text frame is declared beside the binary ones and told from them by its key `text`. Its columns have the words of
binary fields, with the same meaning: scale, offset, unit, sentinel, valid, enum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_gateway.codec.fields.wire import Misdeclared
from edge_gateway.codec.text.column import Column, Style, Words
from edge_gateway.codec.text.columns import (
    AnyColumn,
    ArrayColumn,
    ColumnSpec,
    GroupColumn,
    NamedColumn,
    PlainColumn,
    cell_range,
    check_line,
    is_open,
    is_optional,
    named_in,
)
from edge_gateway.codec.text.form import BlockForm, ListForm
from edge_gateway.codec.text.words import FlagColumn, TextColumn
from edge_gateway.config.settings import OneOrManySchema, Settings, one_or_many


class TextFrame(Settings, ABC):
    """One kind of frame that is text."""

    role: Literal["sample", "answer", "request"]
    """`sample`: measured values. `answer`: what a device says to a command. `request`: sent to the device."""
    description: str = ""

    @property
    @abstractmethod
    def form(self) -> ListForm | BlockForm:
        """How its text is set."""

    @property
    @abstractmethod
    def lines_of_columns(self) -> Mapping[str, Sequence[AnyColumn]]:
        """Its columns by label; those of a list under an empty one."""

    @property
    def specs(self) -> dict[str, NamedColumn]:
        """Its columns by name. Worked out at every call."""
        specs = [spec for columns in self.lines_of_columns.values() for spec in named_in(columns)]
        # Of ways to write the same, the first stands for all.
        first = {spec.name: spec for spec in reversed(specs)}
        return dict(reversed(first.items()))

    def _check_words(self, style: Style) -> None:
        for key, column in self._keyed_columns():
            for name, word in _words_of(column):
                stop = next((byte for byte in word.encode() if byte in style.stops), None)
                if stop is not None:
                    raise Misdeclared(
                        f"{word!r} has {chr(stop)!r} in it, which ends a cell", key=f"{key}.{name}", remedy="Split it"
                    )
            if isinstance(column, Column) and (column.prefix or column.suffix):
                prefix, suffix = column.affixes
                for empty in style.empty:
                    if empty.startswith(prefix) and empty.endswith(suffix):
                        raise Misdeclared(
                            f"{empty.decode()!r} looks like a value", key=f"{key}.prefix", remedy="Change `text.empty`"
                        )

    def _keyed_columns(self) -> Iterator[tuple[str, PlainColumn]]:
        for label, columns in self.lines_of_columns.items():
            where = _place_of(label) if label else "columns"
            for index, column in enumerate(columns):
                yield from _plain_columns(column, where if len(columns) == 1 and label else f"{where}[{index}]")


class ListFrame(TextFrame):
    """One line of cells. A cell is a column; what it says is the column's value."""

    text: ListForm
    columns: tuple[ColumnSpec, ...] = Field(min_length=1, max_length=256)
    """In the order of the line."""

    @property
    def form(self) -> ListForm:
        """How its text is set."""
        return self.text

    @property
    def lines_of_columns(self) -> Mapping[str, Sequence[AnyColumn]]:
        """Its columns, under an empty label."""
        return {"": self.columns}

    @model_validator(mode="after")
    def _check_columns(self) -> ListFrame:
        check_line(self.columns)
        self._check_words(self.text.style)
        return self


class BlockFrame(TextFrame):
    """Labelled lines in any order. A label that is not there gives no values; an unknown one is passed over."""

    text: BlockForm
    head: ColumnSpec | None = None
    """What stands between `start` and the first line break, if that is no labelled line."""
    lines: dict[
        Words, Annotated[tuple[ColumnSpec, ...], Field(min_length=1), BeforeValidator(one_or_many), OneOrManySchema()]
    ] = Field(min_length=1, max_length=1024)
    """The column of each label, or a list of its columns. Of a label that comes twice, the last line counts."""

    @property
    def form(self) -> BlockForm:
        """How its text is set."""
        return self.text

    @property
    def lines_of_columns(self) -> Mapping[str, Sequence[AnyColumn]]:
        """Its columns by label; that of the head is under an empty one."""
        return {**({"": (self.head,)} if self.head is not None else {}), **self.lines}

    @model_validator(mode="after")
    def _check_lines(self) -> BlockFrame:
        if self.head is not None and (is_optional(self.head) or is_open(self.head)):
            raise Misdeclared("the head is always there", key="head", remedy="Leave `optional` out")
        seen: dict[str, str] = {}
        for label, columns in self.lines_of_columns.items():
            try:
                check_line(columns)
            except Misdeclared as wrong:
                raise Misdeclared(wrong.what, key=_place_of(label), remedy=wrong.remedy) from wrong
            for spec in named_in(columns):
                if seen.get(spec.name, label) != label:
                    raise Misdeclared(
                        f"{spec.name!r} is the name of {seen[spec.name]!r}, too",
                        key=_place_of(label),
                        remedy=f"For instance: {spec.name}_2",
                    )
                seen[spec.name] = label
            if label and (self.text.opens in label or self.text.line_break in label):
                raise Misdeclared(
                    f"the label {label!r} has in it what ends a label", key=_place_of(label), remedy="Leave that out"
                )
            if len(columns) > 1 and self.text.separator is None:
                raise Misdeclared(
                    "nothing separates two values of a label", key="text.separator", remedy="For instance: ')('"
                )
        self._check_words(self.text.style)
        return self


def _place_of(label: str) -> str:
    """The path of a label's line, as `load.py` reads it."""
    return f'lines["{label}"]' if set(label) & set(".[]") else f"lines.{label}"


def _plain_columns(column: AnyColumn, key: str) -> Iterator[tuple[str, PlainColumn]]:
    match column:
        case GroupColumn():
            for index, part in enumerate(column.columns):
                yield from _plain_columns(part, f"{key}.columns[{index}]")
        case ArrayColumn():
            yield from _plain_columns(column.of, f"{key}.of")
        case _:
            for spec in named_in([column]):
                if not isinstance(spec, GroupColumn | ArrayColumn):
                    yield key, spec


def _words_of(column: PlainColumn) -> Iterator[tuple[str, str]]:
    """What a column says literally, by key."""
    for key in ("prefix", "suffix", "const"):
        word = getattr(column, key, None)
        if word is not None:
            yield key, word
    if isinstance(column, FlagColumn):
        yield from (("on", column.on), ("off", column.off))
    if isinstance(column, TextColumn):
        yield from (("enum", word) for word in column.enum)


def can_be_told_apart(one: TextFrame, other: TextFrame) -> bool:
    """Whether no text can be taken for both. When in doubt, it can.

    Two frames differ if they begin differently; two lists also if they have different numbers of cells, or if a cell
    that must say something has another prefix, suffix or constant.
    """
    if not _may_both_begin(one.form.start_bytes, other.form.start_bytes):
        return True
    if not isinstance(one, ListFrame) or not isinstance(other, ListFrame) or one.text.style != other.text.style:
        return False
    same_envelope = one.text.start == other.text.start and one.text.end == other.text.end
    if not same_envelope or one.text.checksum != other.text.checksum:
        return False
    ranges = cell_range(one.columns), cell_range(other.columns)
    if ranges[0][1] < ranges[1][0] or ranges[1][1] < ranges[0][0]:
        return True
    cells = zip(_leading_cells(one.columns), _leading_cells(other.columns), strict=False)
    return any(_differ(cell, other_cell) for cell, other_cell in cells)


def _may_both_begin(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def _leading_cells(columns: Iterable[AnyColumn]) -> Iterator[Column | None]:
    """The columns of the first cells, as far as their places are known; None for a cell that tells nothing."""
    for column in columns:
        match column:
            case Column():
                yield column
            case GroupColumn():
                yield from _leading_cells(column.columns)
            case ArrayColumn():
                return
            case _:
                yield from [None] * (2 if not isinstance(column, Column) and column.type != "choice" else 1)


def _differ(one: Column | None, other: Column | None) -> bool:
    """Whether no cell fits both columns."""
    if one is None or other is None or not one.is_required or not other.is_required or one.optional or other.optional:
        return False
    if isinstance(one, TextColumn) and isinstance(other, TextColumn) and one.const and other.const:
        return _whole(one) != _whole(other)
    (prefix, suffix), (other_prefix, other_suffix) = _edges(one), _edges(other)
    same_end = suffix.endswith(other_suffix) or other_suffix.endswith(suffix)
    return not _may_both_begin(prefix, other_prefix) or not same_end


def _whole(column: TextColumn) -> bytes:
    prefix, suffix = column.affixes
    return prefix + (column.const or "").encode() + suffix


def _edges(column: Column) -> tuple[bytes, bytes]:
    """What a cell begins and ends with."""
    if isinstance(column, TextColumn) and column.const:
        return _whole(column), _whole(column)
    return column.affixes
