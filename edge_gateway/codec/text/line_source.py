"""The source for the cells of one line: a pattern, and an expression for each value.

One regular expression takes all cells at once, a group for each that anybody wants. What `int` and `float` make of a
group is looked at by the lines behind it, where a column has something to look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from edge_gateway.codec.fields.whole_numbers import RawRange
from edge_gateway.codec.fixed_run import identifier, literal
from edge_gateway.codec.text.column import Style
from edge_gateway.codec.text.columns import (
    AnyColumn,
    ArrayColumn,
    ChoiceColumn,
    GroupColumn,
    OneCell,
    PlainColumn,
    is_optional,
)
from edge_gateway.codec.text.numbers import DecimalColumn, IntegerColumn, ratio_of
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import PLACES, ClockColumn, DateColumn, TimestampColumn
from edge_gateway.codec.text.words import FlagColumn, TextColumn


class LineSource:
    """The source for the cells of one line.

    Args:
        columns: in the order of the line.
        style: how the cells are set.
        name: a part of the names of constants; an identifier.
        fail: the statement for a line that does not fit.
        path: what the names of local variables begin with, within a group or a list.
    """

    def __init__(self, columns: Sequence[AnyColumn], style: Style, name: str, fail: str, path: str = "") -> None:
        self._style = style
        self._name = name
        self._fail = fail
        self._path = path
        self._targets: list[str] = []
        self._lines: list[str] = []
        self.constants: list[str] = []
        """Module-level lines that the others refer to."""
        self.values: dict[str, str] = {}
        """The expression of each value, by name."""
        self.choices: list[tuple[str, str, str]] = []
        """What is not None if a value is there, the value's name and its expression."""
        # A date is read for the clocks that want it, even if it is no value itself.
        self._dates = {column.date: "None" for column in columns if isinstance(column, ClockColumn) and column.emit}
        for column in columns:
            if isinstance(column, DateColumn) and column.name in self._dates:
                self._dates[column.name] = self._number_or_text(column, is_always_there=False)
        separator = re.escape(style.separator)
        pieces: list[bytes] = []
        for index, column in enumerate(columns):
            if isinstance(column, ArrayColumn):
                pieces.append(self._array(column, is_first=index == 0))
            else:
                pieces.append((separator if index else b"") + self._piece(column))
        optional = sum(map(is_optional, columns))
        self.pieces = [
            *pieces[: len(pieces) - optional],
            *(b"(?:" + piece for piece in pieces[len(pieces) - optional :]),
        ]
        """A regular expression of the whole line, a column each. Of the optional ones, each holds all behind it."""
        if optional:
            self.pieces[-1] += b")?" * optional

    def taking(self, found: str) -> Iterator[str]:
        """The lines that take the groups of a match, and fail for what they must not say."""
        if self._targets:
            targets = ", ".join(self._targets) + ("," if len(self._targets) == 1 else "")
            yield f"{targets} = {found}.groups()"
        yield from self._lines

    def choosing(self) -> Iterator[str]:
        """The lines that put the values that may not be there into `values`."""
        for there, key, value in self.choices:
            yield f"if {there} is not None:"
            yield f"    values[{literal(key)}] = {value}"

    def _piece(self, column: PlainColumn | GroupColumn | ChoiceColumn) -> bytes:
        """Take a column; returns its pattern."""
        style = self._style
        match column:
            case GroupColumn():
                inner = LineSource(column.columns, style, self._name, self._fail, f"{self._local(column.name)}_OF_")
                self._targets += inner._targets
                self._lines += inner._lines
                self.constants += inner.constants
                if column.emit:
                    self.values[column.name] = inner.mapping()
                return b"".join(inner.pieces)
            case ChoiceColumn():
                return self._choice(column)
            case PlaceColumn():
                return self._place(column)
            case _:
                captures = (
                    column.emit
                    or column.can_reject
                    or column.name in self._dates
                    or (column.is_required and bool(style.empty))
                )
                if captures and not column.is_constant:
                    self._cell(column)
                    if column.emit:
                        is_always_there = column.is_required and not column.optional
                        self.values[column.name] = self._number_or_text(column, is_always_there)
                return column.pattern(style, captures=captures and not column.is_constant)

    def mapping(self) -> str:
        """The expression of all values."""
        return f"{{{' '.join(self.items())[:-1]}}}"

    def items(self) -> list[str]:
        """All values as the lines within a dictionary."""
        return [f"{literal(key)}: {value}," for key, value in self.values.items()]

    def _local(self, name: str) -> str:
        # No name has upper case, so no two paths of names give one.
        return f"{self._path}{identifier(name)}"

    def _cell(self, column: OneCell) -> None:
        """Take the group of a cell, and make its raw value where that is looked at twice."""
        text, style = f"text_{self._local(column.name)}", self._style
        self._targets.append(text)
        if style.empty:
            words = f"({', '.join(map(literal, style.empty))},)"
            self._lines.append(f"if {text} in {words}:")
            self._lines.append(f"    {self._fail if column.is_required else f'{text} = None'}")
        raw = self._raw(column)
        condition = ""
        if raw != text:
            self._lines.append(f"{raw} = None if {text} is None else {_raw_of(column, text)}")
        if isinstance(column, TextColumn) and raw != text:
            condition = f"{raw} is None and {text} is not None"
        if isinstance(column, IntegerColumn | DecimalColumn) and column.can_reject:
            ways = [f"{raw} is None", _between(column, raw), *_sentinel_conditions(column, raw)]
            condition = f"not ({' or '.join(ways)})"
        if condition:
            self._lines += [f"if {condition}:", f"    {self._fail}"]

    def _raw(self, column: OneCell) -> str:
        """The variable of what a cell says: its text, or the number if that is looked at more than once."""
        local = self._local(column.name)
        match column:
            case IntegerColumn():
                return f"text_{local}" if column.is_plain and not column.can_reject else f"raw_{local}"
            case DecimalColumn():
                return f"raw_{local}" if column.sentinel or column.valid else f"text_{local}"
            case TextColumn():
                return f"raw_{local}" if column.encoding == "utf-8" else f"text_{local}"
            case _:
                return f"text_{local}"

    def _number_or_text(self, column: OneCell, is_always_there: bool) -> str:
        """The expression of a column's value."""
        raw = self._raw(column)
        value, nulls = self._bare_value(column, raw)
        # A raw value that is the value needs no look at whether it is None: then that is the value, too.
        if not is_always_there and (nulls or value != raw):
            nulls = [f"{raw} is None", *nulls]
        return f"None if {' or '.join(nulls)} else {value}" if nulls else value

    def _bare_value(self, column: OneCell, raw: str) -> tuple[str, list[str]]:
        """The expression of a value that is there, and when it is null all the same."""
        match column:
            case IntegerColumn():
                return self._whole_number(column, raw)
            case DecimalColumn():
                text = f"text_{self._local(column.name)}"
                number = f"float({text})" if raw == text else raw
                if column.is_scaled:
                    number = f"scaled_decimal({text}, {', '.join(map(literal, ratio_of(column)))})"
                nulls = _sentinel_conditions(column, raw)
                if column.valid is not None and not column.can_reject:
                    nulls.append(f"not {_between(column, raw)}")
                return number, nulls
            case TextColumn():
                if column.enum:
                    labels = f"labels_{self._local(column.name)}_OF_{self._name}"
                    pairs = ", ".join(
                        f"{literal(word.encode())}: {literal(label)}" for word, label in column.enum.items()
                    )
                    self.constants.append(f"{labels} = WordLabels({{{pairs}}})")
                    return f"{labels}[text_{self._local(column.name)}]", []
                return (raw if column.encoding == "utf-8" else f"{raw}.decode()"), []
            case FlagColumn():
                return f"{raw} == {literal(column.on.encode())}", []
            case DateColumn():
                places = ", ".join(f"{raw}[{literal(start)}:{literal(end)}]" for start, end in PLACES[column.format])
                return f"date_text({places})", []
            case ClockColumn():
                clock = f"clock_text({raw})"
                return (f"moment_text({self._dates[column.date]}, {clock})" if column.date else clock), []
            case TimestampColumn():
                return self._timestamp(column, raw), []

    def _whole_number(self, column: IntegerColumn, raw: str) -> tuple[str, list[str]]:
        if raw == f"text_{self._local(column.name)}":
            return _int_of(column, raw), []
        nulls = _sentinel_conditions(column, raw)
        if column.nulls_invalid:
            nulls.append(f"not {_between(column, raw)}")
        if column.enum:
            labels = f"labels_{self._local(column.name)}_OF_{self._name}"
            pairs = ", ".join(f"{literal(code)}: {literal(label)}" for code, label in column.enum.items())
            self.constants.append(f"{labels} = CodeLabels({{{pairs}}})")
            return f"{labels}[{raw}]", nulls
        multiplier, addend, divisor = column.ratio
        number = raw if multiplier == 1 else f"{raw} * {literal(multiplier)}"
        number = f"{number} + {literal(addend)}" if addend else number
        return (number if divisor == 1 else f"({number}) / {literal(divisor)}"), nulls

    def _timestamp(self, column: TimestampColumn, raw: str) -> str:
        places = ", ".join(f"{raw}[{literal(start)}:{literal(end)}]" for start, end in PLACES[column.format])
        offsets = column.offsets_s
        if not column.zones:
            return f"utc_text({places}, {literal(offsets[b''])})"
        zones = f"zones_{self._local(column.name)}_OF_{self._name}"
        self.constants.append(
            f"{zones} = {{{', '.join(f'{literal(word)}: {literal(s)}' for word, s in offsets.items())}}}"
        )
        return f"utc_text({places}, {zones}[{raw}[{literal(len(column.format))}:]])"

    def _place(self, column: PlaceColumn) -> bytes:
        local = self._local(column.name)
        number, half, degrees = f"text_{local}", f"half_{local}", f"degrees_{local}"
        self._targets += [number, half]
        if self._style.empty:
            words = f"({', '.join(map(literal, self._style.empty))},)"
            for variable in (number, half):
                self._lines += [f"if {variable} in {words}:", f"    {variable} = None"]
        most = literal(column.most_degrees)
        self._lines += [
            f"{degrees} = degrees_of({number}, {half})",
            f"if not ({degrees} is None or -{most} <= {degrees} <= {most}):",
            f"    {self._fail}",
        ]
        if column.emit:
            self.values[column.name] = degrees
        return column.pattern(self._style, captures=True)

    def _choice(self, column: ChoiceColumn) -> bytes:
        style = self._style
        ways = []
        for index, column_of_way in enumerate(column.of):
            # Two ways may have one name, and no name has upper case.
            way = column_of_way.model_copy(update={"required": True})
            inner = LineSource([way], style._replace(empty=()), self._name, self._fail, f"{self._path}WAY_{index}_")
            ways += inner.pieces
            self._targets += inner._targets
            self.constants += inner.constants
            self._lines += inner._lines
            for name, value in inner.values.items():
                self.choices.append((inner._targets[0], name, value))
        padding = re.escape(style.padding) + b"*" if style.padding else b""
        words = [padding + re.escape(word) + padding for word in style.empty]
        return b"(?:" + b"|".join([*words, *ways, padding]) + b")"

    def _array(self, column: ArrayColumn, *, is_first: bool) -> bytes:
        """Take a list as a whole, and its elements by a pattern of their own, which begins with a separator."""
        separator, local = re.escape(self._style.separator), self._local(column.name)
        element = LineSource([column.of], self._style, self._name, self._fail, f"{local}_OF_")
        captures = column.emit or bool(element._lines)
        if captures:
            text = f"text_{local}"
            self._targets.append(text)
            self.constants += element.constants
            # Two lists of one line may have elements of one name, so the pattern bears the list's.
            each = f"each_{local}_OF_{self._name}"
            self.constants.append(f"{each} = pattern_of({literal(separator + b''.join(element.pieces))}).finditer")
            span = f"{literal(self._style.separator)} + {text}" if is_first else text
            span += " or b''" if column.optional else ""
            append = [f"value = {element.values.get(column.of.name, 'None')}", f"list_{local}.append(value)"]
            if column.skip_empty:
                append[1:] = ["if value is not None:", f"    {append[1]}"]
            self._lines += [f"list_{local} = []", f"for item in {each}({span}):"]
            self._lines += indented([*element.taking("item"), *append])
            if column.emit:
                self.values[column.name] = f"list_{local}"
        bare = _bare_pattern(column.of, self._style)
        least, most = column.count_range
        if is_first:
            span_pattern = bare + b"(?:%s%s){%d,%d}" % (separator, bare, least - 1, most - 1)
        else:
            span_pattern = b"(?:%s%s){%d,%d}" % (separator, bare, least, most)
        return (b"(%s)" if captures else b"(?:%s)") % span_pattern


def _raw_of(column: OneCell, text: str) -> str:
    """The expression of what is looked at more than once."""
    match column:
        case IntegerColumn():
            return _int_of(column, text)
        case DecimalColumn():
            return f"float({text})"
        case _:
            return f"utf_8_of({text})"


def _int_of(column: IntegerColumn, text: str) -> str:
    return f"int({text}, 16)" if column.base == 16 else f"int({text})"


def _bare_pattern(column: PlainColumn | GroupColumn, style: Style) -> bytes:
    """The pattern of an element, without groups."""
    if isinstance(column, GroupColumn):
        return re.escape(style.separator).join(_bare_pattern(part, style) for part in column.columns)
    return column.pattern(style, captures=False)


def matcher(name: str, pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a pattern of which each piece is a line."""
    yield f"{name} = pattern_of("
    yield from indented(literal(piece) for piece in pieces if piece)
    yield ").fullmatch"


def _between(column: IntegerColumn | DecimalColumn, raw: str) -> str:
    """What is true of a raw number whose value can be true."""
    if isinstance(column, IntegerColumn):
        least, most = column.valid_raw
        return f"{literal(least)} <= {raw} <= {literal(most)}"
    value = raw
    if column.is_scaled:
        text = f"text_{raw.removeprefix('raw_')}"
        value = f"scaled_decimal({text}, {', '.join(map(literal, ratio_of(column)))})"
    low, high = column.valid_range
    ends = [f"{literal(low)} <= " if low > float("-inf") else "", f" <= {literal(high)}" if high < float("inf") else ""]
    return f"{ends[0]}{value}{ends[1]}"


def _sentinel_conditions(column: IntegerColumn | DecimalColumn, raw: str) -> list[str]:
    if isinstance(column, DecimalColumn):
        return [f"{raw} == {literal(number)}" for number in column.sentinels]
    return [
        f"{literal(each.minimum)} <= {raw} <= {literal(each.maximum)}"
        if isinstance(each, RawRange)
        else f"{raw} == {literal(each)}"
        for each in column.sentinel
    ]


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Lines one level deeper."""
    return (f"    {line}" for line in lines)
