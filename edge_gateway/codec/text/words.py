"""What a cell says in words: text, one of several words with a meaning, and yes or no."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from edge_gateway.codec.fields.byte_strings import utf_8_of
from edge_gateway.codec.fields.whole_numbers import Label
from edge_gateway.codec.fields.wire import Misdeclared
from edge_gateway.codec.text.column import Column, Flaw, Style, Words
from edge_gateway.records import Value


class TextColumn(Column):
    """Text, as it is or by the meaning of its words."""

    type: Literal["text"]
    const: Words | None = None
    """The only text a frame of this kind has here; it tells frames apart and is no value."""
    enum: dict[Words, Label] = Field(default_factory=dict)
    """Names of words. A word without a name is its own."""
    encoding: Literal["ascii", "utf-8"] = "ascii"
    length: int | None = Field(default=None, ge=1, le=4096)
    """Exactly how many bytes."""
    max_length: int = Field(default=64, ge=1, le=4096)
    """At most how many bytes, where `length` does not say it."""

    @model_validator(mode="after")
    def _check_text(self) -> TextColumn:
        if self.const is not None and self.enum:
            raise Misdeclared("a constant has no other meaning", key="const", remedy="Keep `const`, or `enum`")
        if len(set(self.enum.values())) != len(self.enum):
            raise Misdeclared("two words have the same name", key="enum", remedy="Give each word its own name")
        for word in (*self.enum, *filter(None, [self.const])):
            if not self._takes(word.encode()):
                raise Misdeclared(f"{word!r} does not fit", key="enum" if self.enum else "const", remedy=self.text_form)
        return self

    @property
    def is_constant(self) -> bool:
        """Whether the cell says the same in every frame of its kind."""
        return self.const is not None

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for a cell that its pattern takes: UTF-8 is no matter of a pattern."""
        return self.encoding == "utf-8" and not self.is_constant

    @property
    def text_form(self) -> str:
        """What the values look like."""
        words = ", ".join(self.enum.values())
        size = self.length or f"at most {self.max_length}"
        return words or f"{self.encoding} text of {size} bytes"

    @property
    def blank(self) -> bytes:
        """The constant, the first word, or dashes."""
        first = next(iter(self.enum), None)
        return (self.const or first or "-" * (self.length or 1)).encode()

    def core_pattern(self, style: Style) -> bytes:
        """The constant, or as many characters as may be, of which neither the first nor the last is padding."""
        if self.const is not None:
            return _literal(self.const)
        is_ascii = self.encoding == "ascii"
        inner, outer = style.class_of(ascii_only=is_ascii), style.class_of(style.padding, ascii_only=is_ascii)
        least, most = (self.length, self.length) if self.length else (1, self.max_length)
        if not style.padding:
            return inner + (b"{%d}" % most if self.length else b"{1,%d}" % most)
        longer = b"%s%s{%d,%d}%s" % (outer, inner, max(least - 2, 0), max(most - 2, 0), outer)
        return longer if least > 1 else outer if most == 1 else b"(?:%s|%s)" % (longer, outer)

    def core_value(self, core: bytes) -> Value:
        """The text, or the name of the word."""
        text = utf_8_of(core)
        if self.const is not None:
            if text != self.const:
                raise Flaw(f"{self.const!r} expected")
            return None
        if text is None or not self._takes(core):
            raise Flaw(f"{self.text_form} expected")
        return self.enum.get(text, text)

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- text is always exact
        """The text of a value, or the word of a name."""
        if self.const is not None:
            return self.const.encode()
        word = next((word for word, label in self.enum.items() if label == value), value)
        core = word.encode() if isinstance(word, str) and word.isprintable() else b""
        if not self._takes(core):
            raise self.refusal(value, self.text_form)
        return core

    def _takes(self, core: bytes) -> bool:
        fits = len(core) == self.length if self.length else 1 <= len(core) <= self.max_length
        return fits and (self.encoding == "utf-8" or core.isascii())


class FlagColumn(Column):
    """Yes or no, in a word for each."""

    type: Literal["flag"]
    on: Words
    """What says true."""
    off: Words
    """What says false."""

    @model_validator(mode="after")
    def _check_words(self) -> FlagColumn:
        if self.on == self.off:
            raise Misdeclared(f"{self.on!r} says both", key="off", remedy="Give each its own word")
        return self

    @property
    def is_bool(self) -> bool:
        """Whether the value is true or false: always."""
        return True

    @property
    def blank(self) -> bytes:
        """What says false."""
        return self.off.encode()

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- the two words are the same in every frame
        """One of the two words."""
        return _literal(self.on) + b"|" + _literal(self.off)

    def core_value(self, core: bytes) -> Value:
        """Whether it is the word for true."""
        if core not in (self.on.encode(), self.off.encode()):
            raise Flaw(f"{self.on} or {self.off} expected")
        return core == self.on.encode()

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- a word is always exact
        """The word for true or false."""
        if not isinstance(value, bool):
            raise self.refusal(value, "true, false")
        return (self.on if value else self.off).encode()


def _literal(word: str) -> bytes:
    return re.escape(word.encode())
