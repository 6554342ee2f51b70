"""Where on Earth, as navigation receivers write it: degrees and minutes in one cell, the hemisphere in the next.

`4807.038,N` is 48 degrees and 7.038 minutes north. The value is in degrees, negative in the south and the west, and is
the float nearest to the exact quotient.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from edge_gateway.codec.fields.whole_numbers import is_finite_number
from edge_gateway.codec.fields.wire import Named
from edge_gateway.codec.text.column import Flaw, Style
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

MOST_PLACES = 10
"""Digits behind the point of the minutes: more than a receiver can mean, at 0.2 micrometres."""


class PlaceColumn(Named):
    """Two cells with one value: `ddmm.mmmm` (of a longitude, `dddmm.mmmm`) and N or S, or E or W."""

    type: Literal["latitude", "longitude"]
    optional: bool = False
    """Whether a line may end before it. What follows it must be optional as well; what is not there is null."""

    @property
    def unit(self) -> str:
        """The SenML unit code."""
        return "lat" if self.type == "latitude" else "lon"

    @property
    def hemispheres(self) -> tuple[bytes, bytes]:
        """The letters of the positive and of the negative side."""
        return (b"N", b"S") if self.type == "latitude" else (b"E", b"W")

    @property
    def most_degrees(self) -> int:
        """The greatest number of degrees there is; a frame with more is rejected."""
        return 90 if self.type == "latitude" else 180

    @property
    def value_range(self) -> tuple[int, int]:
        """The least and the greatest value."""
        return -self.most_degrees, self.most_degrees

    @property
    def text_form(self) -> str:
        """Empty: the values are no text."""
        return ""

    @property
    def can_reject(self) -> bool:
        """Whether a frame is rejected for cells that the pattern takes."""
        return True

    @property
    def is_required(self) -> bool:
        """Whether the cells must say something."""
        return False

    @property
    def tells_frames_apart(self) -> bool:
        """Whether cells that do not fit mean that it is another kind of frame."""
        return False

    def pattern(self, style: Style, *, captures: bool) -> bytes:
        """A regular expression of the two cells; with a group for each, if asked for."""
        degrees = 2 if self.type == "latitude" else 3
        number = rb"[0-9]{0,%d}[0-5][0-9](?:\.[0-9]{0,%d})?" % (degrees, MOST_PLACES)
        cells = []
        for core in (number, b"[%s%s]" % self.hemispheres):
            words = b"|".join([core, *map(re.escape, style.empty)])
            group = (b"(%s)?" if captures else b"(?:%s)?") % words
            padding = re.escape(style.padding) + b"*" if style.padding else b""
            cells.append(padding + group + padding)
        return re.escape(style.separator).join(cells)

    def read(self, cell: bytes, style: Style) -> Value:
        """The value of the two cells with the separator between them.

        Raises:
            Flaw: they do not fit.
        """
        number, _, half = cell.partition(style.separator)
        if style.padding:
            number, half = number.strip(style.padding), half.strip(style.padding)
        number, half = (b"" if text in style.empty else text for text in (number, half))
        whole, _, part = number.partition(b".")
        most = 4 if self.type == "latitude" else 5
        if number and (
            (whole + part).strip(b"0123456789")
            or not 2 <= len(whole) <= most
            or whole[-2:] > b"59"
            or len(part) > MOST_PLACES
        ):
            raise Flaw("degrees and minutes expected")
        if half and half not in self.hemispheres:
            raise Flaw(f"{' or '.join(letter.decode() for letter in self.hemispheres)} expected")
        if not number or not half:
            return None
        degrees = Fraction(int(whole[:-2] or b"0")) + Fraction(f"{whole[-2:].decode()}.{part.decode()}0") / 60
        if degrees > self.most_degrees:
            raise Flaw(f"valid is up to {self.most_degrees} degrees")
        return float(degrees if half == self.hemispheres[0] else -degrees)

    def write(self, value: Value, *, exact: bool = False) -> tuple[bytes, bytes]:  # noqa: ARG002 -- as a cell's
        """The two cells for a value.

        Raises:
            CodecError: no such place.
        """
        if value is None:
            return b"", b""
        if isinstance(value, bool) or not is_finite_number(value) or abs(value) > self.most_degrees:
            raise CodecError(
                f"{value!r} is no {self.type}",
                where=self.name,
                remedy=f"Possible: -{self.most_degrees} to {self.most_degrees}",
            )
        half = self.hemispheres[0 if value >= 0 else 1]
        width = 2 if self.type == "latitude" else 3
        minutes = abs(Fraction(str(value))) * 60
        number = b""
        # Four digits behind the point are usual; more only if the value needs them.
        for places in range(4, MOST_PLACES + 1):
            whole, part = divmod(round(minutes * 10**places), 10**places)
            number = f"{whole // 60:0{width}d}{whole % 60:02d}.{part:0{places}d}".encode()
            if degrees_of(number, half) == value:
                break
        return number, half


def degrees_of(number: bytes | None, half: bytes | None) -> float | None:
    """Signed degrees of `ddmm.mmmm` and a hemisphere; None if one of the two is missing.

    Args:
        number: at least the two digits of the minutes, with at most one point behind them.
        half: a letter of `NSEW`.
    """
    if number is None or half is None:
        return None
    whole, _, part = number.partition(b".")
    power = int(10 ** len(part))
    # In minutes, times `power`: all whole numbers, so the one division rounds to the nearest float.
    steps = int(whole[:-2] or b"0") * 60 * power + int(whole[-2:] + part)
    return (steps if half in b"NE" else -steps) / (60 * power)
