"""Short ways to make a text frame of a few columns and to ask what one says."""

from __future__ import annotations

from typing import Any

from edge_gateway.codec.text import BlockFrame, ListFrame, TextFrame
from edge_gateway.codec.text.reading import read_text
from edge_gateway.codec.text.source import compile_text
from edge_gateway.records import Value


def line(*columns: dict[str, Any], **form: Any) -> ListFrame:
    """A list frame of these columns."""
    return ListFrame.model_validate({"role": "sample", "text": {"kind": "list", **form}, "columns": columns})


def block(lines: dict[str, Any], head: dict[str, Any] | None = None, **form: Any) -> BlockFrame:
    """A block frame of these lines."""
    return BlockFrame.model_validate(
        {"role": "sample", "text": {"kind": "block", **form}, "head": head, "lines": lines}
    )


def read(frame: TextFrame, data: bytes) -> dict[str, Value] | str:
    """What both readers say of some bytes: the values, or why they are rejected."""
    report = read_text(frame, data)
    found = compile_text(frame).read(data)
    if found is None:
        return report.reason
    assert found[2] == report.values
    return found[2]


def value(column: dict[str, Any], cell: str, **form: Any) -> Value:
    """What one cell says: the value, or why its line is rejected."""
    said = read(line({"name": "x", **column}, **form), cell.encode())
    return said if isinstance(said, str) else said["x"]
