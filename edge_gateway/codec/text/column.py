"""What all columns of a text frame share: how a cell is taken apart into an affix, what it says, and another affix.

A cell is the text between two separators. It is looked at in this order: padding around it is taken off; nothing, or
one of the frame's `empty` words, is no value; then come the prefix, what the cell says, and the suffix.

Each kind of column tells the same three things about what a cell says, its core: a pattern of the cores it takes
(the compiled decoder matches with that), the value of a core, and the core of a value. The last two are written without
the pattern, so that the tests can hold the two ways against each other.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Annotated, NamedTuple

from pydantic import StringConstraints

from edge_gateway.codec.fields.wire import Named
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

Words = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""Some characters as they are on the line."""


class Flaw(Exception):
    """A cell does not say what its column takes. It never leaves this package.

    Args:
        note: what was expected, for a person.
        tells_frames_apart: whether this cell says which kind of frame it is.
    """

    def __init__(self, note: str, *, tells_frames_apart: bool = False) -> None:
        super().__init__(note)
        self.note = note
        self.tells_frames_apart = tells_frames_apart


class Style(NamedTuple):
    """How the cells of a frame are set."""

    separator: bytes
    """What stands between two cells."""
    stops: bytes
    """Bytes that no cell holds, because they end it."""
    empty: tuple[bytes, ...]
    """What a cell without a value may say, beside nothing."""
    padding: bytes
    """The byte that may surround a cell and what it says; empty for none."""

    def class_of(self, more: bytes = b"", *, ascii_only: bool) -> bytes:
        """A pattern for any one byte that a cell may hold, without `more`."""
        stops = b"".join(re.escape(bytes([stop])) for stop in dict.fromkeys(self.stops + more))
        return b"[^" + stops + (rb"\x80-\xff]" if ascii_only else b"]")


class Column(Named, ABC):
    """One cell with one value."""

    prefix: Words | None = None
    """What stands in front, as in `T=23.4`."""
    suffix: Words | None = None
    """What stands behind, as in `23.4C`."""
    required: bool | None = None
    """Whether the cell must say something. Unless given, only a `const` must; of any other, an empty one is null."""
    optional: bool = False
    """Whether a line may end before it. What follows it must be optional as well; what is not there is null."""

    @abstractmethod
    def core_pattern(self, style: Style) -> bytes:
        """A regular expression, without groups, of what the cell may say. It never matches nothing."""

    @abstractmethod
    def core_value(self, core: bytes) -> Value:
        """The value of what the cell says.

        Raises:
            Flaw: no cell of this column says that, or the frame is to be rejected for it.
        """

    @abstractmethod
    def core_text(self, value: Value, *, exact: bool = False) -> bytes:
        """What the cell says for a value other than None.

        Raises:
            CodecError: nothing says that; the remedy says what would do.
        """

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for a cell that its pattern takes."""
        return False

    @property
    def text_form(self) -> str:
        """What the values look like, where they are text; empty where they are not."""
        return ""

    @property
    def blank(self) -> bytes:
        """What a required cell says where nobody gives a value."""
        return b"0"

    @property
    def is_required(self) -> bool:
        """Whether the cell must say something."""
        return self.is_constant if self.required is None else self.required

    @property
    def tells_frames_apart(self) -> bool:
        """Whether a cell that does not fit means that it is another kind of frame."""
        return self.is_required and bool(self.prefix or self.suffix or self.is_constant)

    @property
    def affixes(self) -> tuple[bytes, bytes]:
        """Prefix and suffix, as bytes."""
        return (self.prefix or "").encode(), (self.suffix or "").encode()

    def pattern(self, style: Style, *, captures: bool) -> bytes:
        """A regular expression of the whole cell; with a group of what it says, if asked for."""
        prefix, suffix = (re.escape(affix) for affix in self.affixes)
        padding = re.escape(style.padding) + b"*" if style.padding else b""
        core = b"|".join([self.core_pattern(style), *map(re.escape, style.empty)])
        group = b"(" + core + b")" if captures else b"(?:" + core + b")"
        if self.is_required:
            return padding + prefix + padding + group + padding + suffix + padding
        said = prefix + padding + group + b"?" + padding + suffix
        if not prefix and not suffix:
            return said
        # An empty word may stand for the whole cell, affixes and all.
        words = b"".join(b"|" + re.escape(word) for word in style.empty)
        return padding + b"(?:" + said + words + b")?" + padding

    def read(self, cell: bytes, style: Style) -> Value:
        """The value of a cell.

        Raises:
            Flaw: the cell does not fit.
        """
        try:
            core = self.core_of(cell, style)
            return None if core is None else self.core_value(core)
        except Flaw as flaw:
            raise Flaw(flaw.note, tells_frames_apart=self.tells_frames_apart) from flaw

    def core_of(self, cell: bytes, style: Style) -> bytes | None:
        """What a cell says; None for nothing.

        Raises:
            Flaw: an affix is missing, or what must be there.
        """
        prefix, suffix = self.affixes
        text = cell.strip(style.padding) if style.padding else cell
        core = text
        if text and text not in style.empty:
            if not text.startswith(prefix) or not text.endswith(suffix) or len(text) < len(prefix + suffix):
                raise Flaw(f"{self.prefix or ''}...{self.suffix or ''} expected")
            core = text[len(prefix) : len(text) - len(suffix)]
            core = core.strip(style.padding) if style.padding else core
        if core and core not in style.empty:
            if set(core) & set(style.stops):
                raise Flaw("it has in it what ends a cell")
            return core
        if self.is_required:
            raise Flaw("something must be there")
        return None

    def write(self, value: Value, *, exact: bool = False) -> bytes:
        """The cell for a value.

        Raises:
            CodecError: no cell says that.
        """
        if value is None and not self.is_required:
            return b""
        prefix, suffix = self.affixes
        return prefix + self.core_text(value, exact=exact) + suffix

    def write_blank(self) -> bytes:
        """The cell where nobody gives a value."""
        prefix, suffix = self.affixes
        return prefix + self.blank + suffix if self.is_required else b""

    def refusal(self, value: Value, possible: str) -> CodecError:
        """The error for a value that no cell says."""
        return CodecError(f"{value!r} does not fit", where=self.name, remedy=f"Possible: {possible}")
