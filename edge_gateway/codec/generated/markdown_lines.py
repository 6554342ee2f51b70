"""The cells of a frame of text as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge_gateway.codec.generated.markdown_text import cell, code, meaning, table, unit_cell
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.text import BlockFrame, TextFrame
from edge_gateway.codec.text.columns import AnyColumn, ArrayColumn, ChoiceColumn, GroupColumn, cells_of, is_optional
from edge_gateway.codec.text.form import BlockForm, ListForm
from edge_gateway.codec.text.words import FlagColumn

Row = tuple[str, ...]


def text_frame(profile: Profile, frame: TextFrame) -> Iterator[str]:
    """How its text is set, and what each cell says."""
    is_block = isinstance(frame, BlockFrame)
    yield f"{'Labelled lines' if is_block else 'A line of cells'}{_form_words(frame.form)}."
    yield ""
    rows: list[Row] = []
    for label, columns in frame.lines_of_columns.items():
        rows += _rows(profile, columns, code(label) if label else "" if is_block else "1")
    yield from table(("Label" if is_block else "Cell", "Type", "Value", "Unit", "Meaning"), rows)


def _form_words(form: ListForm | BlockForm) -> str:
    words = [f", separated by {code(_visible(form.separator))}"] if form.separator is not None else []
    if form.start is not None:
        words.append(f", from {code(_visible(form.start))}")
    if form.end is not None:
        words.append(f"{'' if form.start is not None else ','} to {code(_visible(form.end))}")
    if form.checksum is not None:
        digits = "hexadecimal digits" if form.checksum.form == "hex" else "bytes"
        covers = "what is between" if form.checksum.covers == "between" else "all before it"
        words.append(f", and then {form.checksum.algorithm} over {covers}, in {digits}")
    return "".join(words)


def _visible(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _rows(profile: Profile, columns: Sequence[AnyColumn], first: str, outer: str = "") -> Iterator[Row]:
    place = first
    for column in columns:
        yield from _rows_of(profile, column, place, outer)
        if isinstance(column, ArrayColumn) and column.until is not None:
            place = ""  # behind a list to the end, nobody knows which cell it is
        elif place.isdecimal():
            place = str(int(place) + cells_of(column))


def _rows_of(profile: Profile, column: AnyColumn, place: str, outer: str) -> Iterator[Row]:
    optional = "may be missing" if is_optional(column) else ""
    match column:
        case ChoiceColumn():
            for way in column.of:
                yield from _rows_of(profile, way, place, outer)
        case GroupColumn():
            yield place, "group", f"`{outer}{column.name}`", "", _joined(cell(column.description), optional)
            yield from _rows(profile, column.columns, "", f"{outer}{column.name}.")
        case ArrayColumn():
            count = f"x {column.count}" if column.count is not None else f"to the end, at most {column.most}"
            yield place, f"list {count}", f"`{outer}{column.name}`", "", _joined(cell(column.description), optional)
            yield from _rows_of(profile, column.of, "", f"{outer}{column.name}[].")
        case _:
            words = [_role(profile, column.name), meaning(column), optional]
            if isinstance(column, FlagColumn):
                words.append(f"{code(column.on)} is true, {code(column.off)} is false")
            for key in ("const", "prefix", "suffix"):
                said = getattr(column, key, None)
                if said is not None:
                    words.append(f"{'always' if key == 'const' else key} {code(said)}")
            yield place, column.type, f"`{outer}{column.name}`", unit_cell(column), _joined(*words)


def _role(profile: Profile, name: str) -> str:
    if name == profile.identity:
        return "the device's address"
    return "counts frames" if name == profile.sequence else ""


def _joined(*words: str) -> str:
    return "; ".join(filter(None, words))
