"""How the text of a frame is set: where it begins and ends, what separates its parts, and its check.

Around every text frame stands the same: `start`, the body, `end`, and behind `end` the checksum, if there is one. In an
NMEA sentence those are `$`, the cells, `*` and two digits; in a VE.Direct block the mark `Checksum` and one raw byte.
"""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from edge_gateway.codec.checksum import ChecksumAlgorithm, find_checksum
from edge_gateway.codec.fields.wire import Endian, Misdeclared
from edge_gateway.codec.text.column import Style, Words
from edge_gateway.config.settings import Settings
from edge_gateway.errors import CodecError

_OF_NUMBERS = frozenset(string.ascii_letters + string.digits + "+-.")
_HEX_DIGITS = frozenset(string.hexdigits)


def _checksum_name(name: str) -> str:
    try:
        return find_checksum(name).name
    except CodecError as error:
        raise Misdeclared(error.what, remedy=error.remedy) from error


class TextChecksum(Settings):
    """The check of a text frame. It stands behind the form's `end`."""

    algorithm: Annotated[str, AfterValidator(_checksum_name), Field(examples=["xor-8", "crc-16/arc"])]
    covers: Literal["between", "all"] = "all"
    """`between`: what stands between `start` and `end`. `all`: those two as well."""
    form: Literal["hex", "bytes"] = "hex"
    """How it is written: in hexadecimal digits of either case, or as raw bytes, whatever those are."""
    endian: Endian = "big"
    """Which of its bytes comes first."""
    padded: bool = True
    """False for a device that leaves out the zeros in front."""

    @property
    def checked_by(self) -> ChecksumAlgorithm:
        """How it is computed."""
        return find_checksum(self.algorithm)

    @property
    def most_bytes(self) -> int:
        """How many bytes of the frame it takes at most."""
        return self.checked_by.size_bytes * (2 if self.form == "hex" else 1)

    @model_validator(mode="after")
    def _check_form(self) -> TextChecksum:
        if not self.padded and (self.form == "bytes" or self.endian == "little"):
            raise Misdeclared(
                "only a number with its highest digit first can leave out zeros",
                key="padded",
                remedy="Leave `padded` out",
            )
        return self


class Form(Settings):
    """What lists and blocks have in common."""

    start: Words | None = None
    """What a frame begins with."""
    end: Words | None = None
    """What a frame ends with, before its checksum."""
    checksum: TextChecksum | None = None
    empty: tuple[Words, ...] = Field(default=(), max_length=8)
    """What a cell says that has no value, beside nothing: `---`."""
    padding: Annotated[str, StringConstraints(min_length=1, max_length=1)] | None = None
    """The character that may surround cells and what they say: a space."""

    @model_validator(mode="after")
    def _check_marks(self) -> Form:
        if self.checksum is not None and self.end is None:
            raise Misdeclared("nothing says where the checksum begins", key="end", remedy="For instance: end: '*'")
        unpadded = self.checksum is not None and not self.checksum.padded
        if unpadded and (self.end or "")[-1:] in _HEX_DIGITS:
            raise Misdeclared(
                f"{self.end!r} ends with a digit, so nothing says where the checksum begins",
                key="end",
                remedy="For instance: end: '!'",
            )
        if self.padding is not None and (not self.padding.isascii() or self.padding in _OF_NUMBERS):
            raise Misdeclared(
                f"{self.padding!r} can be a part of a value", key="padding", remedy="Use a space, '*', '#' or the like"
            )
        return self

    @property
    def start_bytes(self) -> bytes:
        """What a frame begins with; maybe nothing."""
        return (self.start or "").encode()

    @property
    def end_bytes(self) -> bytes:
        """What a frame ends with, before its checksum; maybe nothing."""
        return (self.end or "").encode()

    def _style(self, separator: str, stops: str) -> Style:
        return Style(
            separator.encode(),
            bytes(dict.fromkeys(stops.encode())),
            tuple(word.encode() for word in self.empty),
            (self.padding or "").encode(),
        )


class ListForm(Form):
    """One line of cells, such as an NMEA sentence or comma-separated numbers."""

    kind: Literal["list"]
    separator: Words = ","
    """What stands between two cells."""

    @model_validator(mode="after")
    def _check_separator(self) -> ListForm:
        _must_separate(self.separator, "separator", self.padding)
        return self

    @property
    def style(self) -> Style:
        """How its cells are set."""
        return self._style(self.separator, self.separator + (self.end or "")[:1] + "\r\n")


class Asides(Settings):
    """Messages of another protocol that a device throws in anywhere. They are no part of the block nor of its check."""

    start: Words
    end: Words


class BlockForm(Form):
    """Lines that each begin with a label, such as a VE.Direct block or the telegram of a smart meter."""

    kind: Literal["block"]
    line_break: Words = "\r\n"
    """What stands between two lines."""
    opens: Words
    """What stands between a label and its value: a TAB, `=`, `(`."""
    separator: Words | None = None
    """What stands between two values of one label: `)(`."""
    closes: Words | None = None
    """What stands behind the last value: `)`."""
    continues: Words | None = None
    """What a line begins with that goes on the line before it."""
    asides: Asides | None = None

    @model_validator(mode="after")
    def _check_separators(self) -> BlockForm:
        for key in ("opens", "separator", "closes"):
            text = getattr(self, key)
            if text is not None:
                _must_separate(text, key, self.padding)
        return self

    @property
    def style(self) -> Style:
        """How its cells are set."""
        return self._style(
            self.separator or self.opens, f"{self.separator or ''}{self.opens}{self.closes or ''}{self.line_break}"
        )


def _must_separate(text: str, key: str, padding: str | None) -> None:
    wrong = _OF_NUMBERS & set(text)
    if wrong or (padding is not None and padding in text):
        raise Misdeclared(
            f"{text!r} can be a part of a value", key=key, remedy="Use what no value has: ',' or ';' or the like"
        )
