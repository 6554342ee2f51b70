"""A text frame to Python source: the function that reads one frame, or says that it is none.

The source is what one would write by hand: the ends of the frame are compared, one regular expression takes all cells
of a line, `int` and `float` make the numbers, and a dictionary literal takes the values. Of a block, each label has a
small function of its own, found in a dictionary.

Nothing of a profile reaches the source but by `identifier` and `literal`, which see to it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from edge_gateway.codec.fields.byte_strings import utf_8_of
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
from edge_gateway.codec.text.form import Form, TextChecksum
from edge_gateway.codec.text.frames import BlockFrame, ListFrame, TextFrame
from edge_gateway.codec.text.numbers import DecimalColumn, IntegerColumn, ratio_of, scaled_decimal
from edge_gateway.codec.text.places import PlaceColumn, degrees_of
from edge_gateway.codec.text.times import (
    PLACES,
    ClockColumn,
    DateColumn,
    TimestampColumn,
    clock_text,
    date_text,
    moment_text,
    utc_text,
)
from edge_gateway.codec.text.words import FlagColumn, TextColumn
from edge_gateway.records import Value

TextReading: TypeAlias = tuple[int | str | None, int | None, dict[str, Value]]
"""The address, the sequence and the values of a frame."""


class _CodeLabels(dict[int, str]):
    """Names of codes; a code without a name is its digits."""

    def __missing__(self, code: int) -> str:
        return str(code)


class _WordLabels(dict[bytes, str]):
    """Names of words; a word without a name is its own."""

    def __missing__(self, word: bytes) -> str:
        return word.decode()


def namespace_of(frame: TextFrame) -> dict[str, object]:
    """What the source of a frame takes for granted."""
    names: dict[str, object] = {
        "pattern_of": re.compile,
        "CodeLabels": _CodeLabels,
        "WordLabels": _WordLabels,
        "utf_8_of": utf_8_of,
        "scaled_decimal": scaled_decimal,
        "degrees_of": degrees_of,
        "clock_text": clock_text,
        "date_text": date_text,
        "moment_text": moment_text,
        "utc_text": utc_text,
    }
    if frame.form.checksum is not None:
        algorithm = frame.form.checksum.checked_by
        names[identifier(algorithm.name)] = algorithm.compute
    return names


def source_lines(
    frame: TextFrame, function_name: str, identity: str | None = None, sequence: str | None = None
) -> Iterator[str]:
    """The module-level lines that define the reader of a frame.

    The function takes bytes, and returns the address, the sequence and a dictionary of the values; or None for a frame
    of another kind, or one that is rejected.

    Args:
        frame: the declaration.
        function_name: what to call it; also a part of the names of its constants.
        identity: the column whose value is the address, if there is one.
        sequence: the column whose value is the sequence, if there is one.

    Raises:
        ProfileError: a name or number that must not enter source code.
    """
    name = identifier(function_name)
    match frame:
        case ListFrame():
            yield from _list_source(frame, name, identity, sequence)
        case BlockFrame():
            yield from _block_source(frame, name, identity, sequence)
        case _:
            raise TypeError(f"{type(frame).__name__} is no kind of text frame")


def _list_source(frame: ListFrame, name: str, identity: str | None, sequence: str | None) -> Iterator[str]:
    line = LineSource(frame.columns, frame.text.style, name, "return None")
    envelope = _Envelope(frame.text, name)
    yield from _matcher(f"match_{name}", line.pieces)
    yield from envelope.constants()
    yield from line.constants
    yield ""
    yield ""
    yield f"def {name}(frame):"
    yield from _indented(envelope.comparing("frame"))
    yield f"    body = frame{envelope.inner}"
    yield f"    found = match_{name}(body)"
    yield "    if found is None:"
    yield "        return None"
    # The checksum comes late: a line of another kind, of which there are many, costs no more than the pattern.
    yield from _indented(envelope.checking("frame", "body"))
    yield from _indented(line.taking("found"))
    roles = {role: line.values.pop(role, "None") for role in (identity, sequence) if role is not None}
    address, count = (roles[role] if role is not None else "None" for role in (identity, sequence))
    if not line.choices:
        yield f"    return {address}, {count}, {{"
        yield from _indented(_indented(line.items()))
        yield "    }"
        return
    yield "    values = {"
    yield from _indented(_indented(line.items()))
    yield "    }"
    yield from _indented(line.choosing())
    yield f"    return {address}, {count}, values"


def _block_source(frame: BlockFrame, name: str, identity: str | None, sequence: str | None) -> Iterator[str]:
    form = frame.text
    takers: dict[str, str] = {}
    for index, (label, columns) in enumerate(frame.lines_of_columns.items()):
        taker = f"take_{index}_of_{name}"
        takers[label] = taker
        yield from _taker_source(taker, columns, form.style, form.closes if label else None)
        yield ""
        yield ""
    yield f"takers_of_{name} = {{"
    yield from (f"    {literal(label.encode())}: {taker}," for label, taker in takers.items() if label)
    yield "}"
    envelope = _Envelope(form, name)
    yield from envelope.constants()
    if form.asides is not None:
        aside = aside_pattern(form.asides.start, form.asides.end)
        yield f"drop_asides_of_{name} = pattern_of({literal(aside)}).sub"
    yield ""
    yield ""
    yield f"def {name}(frame):"
    if form.asides is not None:
        # The bytes of a raw checksum may look like the beginning of an aside.
        behind = form.checksum.most_bytes if form.checksum is not None else 0
        if behind:
            yield f"    frame = drop_asides_of_{name}(b'', frame[:-{literal(behind)}]) + frame[-{literal(behind)}:]"
        else:
            yield f"    frame = drop_asides_of_{name}(b'', frame)"
    yield from _indented(envelope.comparing("frame"))
    yield f"    body = frame{envelope.inner}"
    yield from _indented(envelope.checking("frame", "body"))
    line_break = literal(form.line_break.encode())
    if form.continues is not None:
        continues = form.continues.encode()
        yield f"    body = body.replace({literal(form.line_break.encode() + continues)}, {literal(continues)})"
    yield "    values = {}"
    if frame.head is not None:
        yield f"    head, _, body = body.partition({line_break})"
        yield f"    if {takers['']}(head, values):"
        yield "        return None"
    yield "    is_known = False"
    yield f"    for line in body.split({line_break}):"
    yield f"        label, opened, text = line.partition({literal(form.opens.encode())})"
    yield f"        take = takers_of_{name}.get(label)"
    yield "        if take is not None:"
    yield "            if not opened or take(text, values):"
    yield "                return None"
    yield "            is_known = True"
    yield "    if not is_known:"
    yield "        return None"
    address, count = ("None" if role is None else f"values.pop({literal(role)}, None)" for role in (identity, sequence))
    yield f"    return {address}, {count}, values"


def _taker_source(taker: str, columns: Sequence[AnyColumn], style: Style, closes: str | None) -> Iterator[str]:
    """A function that puts the values of one label's text into a dictionary; it returns True for what does not fit."""
    line = LineSource(columns, style, taker, "return True")
    yield from _matcher(f"match_{taker}", [*line.pieces, re.escape((closes or "").encode())])
    yield from line.constants
    yield ""
    yield ""
    yield f"def {taker}(text, values):"
    yield f"    found = match_{taker}(text)"
    yield "    if found is None:"
    yield "        return True"
    yield from _indented(line.taking("found"))
    for key, value in line.values.items():
        yield f"    values[{literal(key)}] = {value}"
    yield from _indented(line.choosing())
    yield "    return False"


def aside_pattern(start: str, end: str) -> bytes:
    """What is an aside: from its start to its end, without another start or a line break in between."""
    stops = dict.fromkeys(start.encode()[:1] + end.encode()[:1] + b"\r\n")
    inside = b"[^" + b"".join(re.escape(bytes([stop])) for stop in stops) + b"]{0,256}"
    return re.escape(start.encode()) + inside + re.escape(end.encode())


class _Envelope:
    """The source for what is around the body."""

    def __init__(self, form: Form, name: str) -> None:
        self._form = form
        self._name = name
        self._start, self._end = form.start_bytes, form.end_bytes
        self._check = form.checksum
        self._behind = 0 if form.checksum is None else form.checksum.most_bytes

    @property
    def is_loose(self) -> bool:
        """Whether only the frame says how long its checksum is."""
        return self._check is not None and not self._check.padded

    @property
    def inner(self) -> str:
        """The slice of a frame that is its body."""
        start = literal(len(self._start)) if self._start else ""
        if self.is_loose:
            return f"[{start}:end_at]"
        behind = self._behind + len(self._end)
        return f"[{start}:{literal(-behind) if behind else ''}]"

    def constants(self) -> Iterator[str]:
        if self._check is not None and self._check.form == "hex":
            count = b"{1,%d}" if self.is_loose else b"{%d}"
            pattern = b"[0-9A-Fa-f]" + count % self._behind
            yield f"is_check_of_{self._name} = pattern_of({literal(pattern)}).fullmatch"

    def comparing(self, frame: str) -> Iterator[str]:
        """The lines that return None for a frame with other ends."""
        least = len(self._start) + len(self._end) + (1 if self.is_loose else self._behind)
        yield f"if len({frame}) < {literal(least)}:"
        yield "    return None"
        if self._start:
            yield f"if not {frame}.startswith({literal(self._start)}):"
            yield "    return None"
        if self.is_loose:
            yield f"end_at = {frame}.rfind({literal(self._end)}, {literal(len(self._start))})"
            yield "if end_at < 0:"
            yield "    return None"
        elif self._end:
            behind = f"[:{literal(-self._behind)}]" if self._behind else ""
            yield f"if not {frame}{behind}.endswith({literal(self._end)}):"
            yield "    return None"

    def checking(self, frame: str, body: str) -> Iterator[str]:
        """The lines that return None where the checksum does not hold."""
        check = self._check
        if check is None:
            return
        at = f"end_at + {literal(len(self._end))}" if self.is_loose else literal(-self._behind)
        covered = body if check.covers == "between" else f"{frame}[:{at}]"
        yield f"check = {frame}[{at}:]"
        if check.form == "hex":
            yield f"if is_check_of_{self._name}(check) is None:"
            yield "    return None"
        yield f"if {identifier(check.checked_by.name)}({covered}) != {_check_number(check)}:"
        yield "    return None"


def _check_number(check: TextChecksum) -> str:
    if check.form == "hex" and check.endian == "big":
        return "int(check, 16)"
    data = "bytes.fromhex(check.decode())" if check.form == "hex" else "check"
    return f"int.from_bytes({data}, {literal(check.endian)})"


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
            self._lines += _indented([*element.taking("item"), *append])
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


def _matcher(name: str, pieces: Iterable[bytes]) -> Iterator[str]:
    """The lines of a pattern of which each piece is a line."""
    yield f"{name} = pattern_of("
    yield from _indented(literal(piece) for piece in pieces if piece)
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


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)


class CompiledText(NamedTuple):
    """The reader of one kind of text frame, and the source it was made from."""

    source: str
    read: Callable[[bytes], TextReading | None]


def compile_text(frame: TextFrame, identity: str | None = None, sequence: str | None = None) -> CompiledText:
    """Generate and load the reader of one frame; what a profile does for all of its frames.

    Args:
        frame: the declaration.
        identity: as in `source_lines`.
        sequence: as in `source_lines`.

    Raises:
        ProfileError: a name or number that must not enter source code; only a frame made around its checks has one.
    """
    source = "\n".join(source_lines(frame, "read", identity, sequence)) + "\n"
    names = namespace_of(frame)
    exec(compile(source, "<reader of a text frame>", "exec"), names)  # noqa: S102 -- what enters is checked above
    read = names["read"]
    if not callable(read):
        raise TypeError("the generated source defines read() as its last statement")
    return CompiledText(source, read)
