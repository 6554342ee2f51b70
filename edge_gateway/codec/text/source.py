"""A text frame to Python source: the function that reads one frame, or says that it is none.

The source is what one would write by hand: the ends of the frame are compared, one regular expression takes all cells
of a line, `int` and `float` make the numbers, and a dictionary literal takes the values. Of a block, each label has a
small function of its own, found in a dictionary.

Nothing of a profile reaches the source but by `identifier` and `literal`, which see to it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from edge_gateway.codec.fields.byte_strings import utf_8_of
from edge_gateway.codec.fixed_run import identifier, literal
from edge_gateway.codec.text.column import Style
from edge_gateway.codec.text.columns import AnyColumn
from edge_gateway.codec.text.form import Form, TextChecksum
from edge_gateway.codec.text.frames import BlockFrame, ListFrame, TextFrame
from edge_gateway.codec.text.line_source import LineSource, indented, matcher
from edge_gateway.codec.text.numbers import scaled_decimal
from edge_gateway.codec.text.places import degrees_of
from edge_gateway.codec.text.times import clock_text, date_text, moment_text, utc_text
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
    yield from matcher(f"match_{name}", line.pieces)
    yield from envelope.constants()
    yield from line.constants
    yield ""
    yield ""
    yield f"def {name}(frame):"
    yield from indented(envelope.comparing("frame"))
    yield f"    body = frame{envelope.inner}"
    yield f"    found = match_{name}(body)"
    yield "    if found is None:"
    yield "        return None"
    # The checksum comes late: a line of another kind, of which there are many, costs no more than the pattern.
    yield from indented(envelope.checking("frame", "body"))
    yield from indented(line.taking("found"))
    roles = {role: line.values.pop(role, "None") for role in (identity, sequence) if role is not None}
    address, count = (roles[role] if role is not None else "None" for role in (identity, sequence))
    if not line.choices:
        yield f"    return {address}, {count}, {{"
        yield from indented(indented(line.items()))
        yield "    }"
        return
    yield "    values = {"
    yield from indented(indented(line.items()))
    yield "    }"
    yield from indented(line.choosing())
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
    yield from indented(envelope.comparing("frame"))
    yield f"    body = frame{envelope.inner}"
    yield from indented(envelope.checking("frame", "body"))
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
    yield from matcher(f"match_{taker}", [*line.pieces, re.escape((closes or "").encode())])
    yield from line.constants
    yield ""
    yield ""
    yield f"def {taker}(text, values):"
    yield f"    found = match_{taker}(text)"
    yield "    if found is None:"
    yield "        return True"
    yield from indented(line.taking("found"))
    for key, value in line.values.items():
        yield f"    values[{literal(key)}] = {value}"
    yield from indented(line.choosing())
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
