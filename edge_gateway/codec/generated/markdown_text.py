"""Words and tables for a page in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edge_gateway.codec.fields import FloatField, IntegerField, RawRange, Valid
from edge_gateway.codec.generated.shapes import OneValue, unit_of
from edge_gateway.codec.structure.items import Computed

_EPOCHS = {"unix-s": "seconds since 1970", "unix-ms": "milliseconds since 1970"}


def cell(text: str) -> str:
    """Text of a profile, made harmless to the table and the page it stands in."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Text of a profile as code in a table. A backtick would end it, so it becomes an apostrophe."""
    return f"`{cell(text).replace('&lt;', '<').replace('`', chr(39))}`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table; its cells are Markdown already."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def place(start: int, end: int) -> str:
    """The bytes from `start` to before `end`."""
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


def unit_cell(spec: OneValue | Computed) -> str:
    """The unit, or nothing."""
    return (spec.unit if isinstance(spec, Computed) else unit_of(spec)) or ""


def meaning(spec: OneValue | Computed) -> str:
    """What a field says about its value, in words."""
    notes = [cell(spec.description)] if spec.description else []
    if isinstance(spec, IntegerField | FloatField):
        notes += _order(spec)
    scale, offset = getattr(spec, "scale", 1), getattr(spec, "offset", 0)
    if scale != 1 or offset != 0:
        notes.append(f"raw x {scale}" + (f" {'+' if offset > 0 else '-'} {abs(offset)}" if offset else ""))
    epoch = getattr(spec, "epoch", None)
    if epoch is not None:
        notes.append(_EPOCHS[epoch])
    enum: dict[int | str, str] = getattr(spec, "enum", {})
    if enum:
        notes.append(", ".join(f"{cell(str(raw))} {code(label)}" for raw, label in enum.items()))
    expand: dict[int, str] = getattr(spec, "expand", {})
    if expand:
        notes.append(", ".join(f"0x{raw:02x} stands for {code(word)}" for raw, word in expand.items()))
    sentinels: Sequence[object] = getattr(spec, "sentinel", ())
    if sentinels:
        codes = (f"{each.minimum} to {each.maximum}" if isinstance(each, RawRange) else str(each) for each in sentinels)
        notes.append(f"{', '.join(codes)}: no value")
    valid: Valid | None = getattr(spec, "valid", None)
    if valid is not None:
        otherwise = "no value" if valid.otherwise == "null" else "the frame is rejected"
        notes.append(f"valid is {valid}, otherwise {otherwise}")
    if not spec.emit and not spec.is_constant:
        notes.append("not reported")
    return "; ".join(notes)


def _order(spec: IntegerField | FloatField) -> Iterator[str]:
    if spec.endian is not None and spec.size_bytes > 1:
        yield f"{spec.endian} endian"
    if spec.word_order == "swapped":
        yield "the lower register first"
