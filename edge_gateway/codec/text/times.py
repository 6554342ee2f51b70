"""Times and dates in digits, as RFC 3339 text.

A time that no calendar has becomes null, like one a binary device counts: a clock that was never set is no reason to
lose the measurement beside it. Of a year in two digits, 69 to 99 are 1969 to 1999 and 00 to 68 are 2000 to 2068, as
POSIX has it (strptime, %y).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from edge_gateway.codec.fields.wire import FieldName, Misdeclared
from edge_gateway.codec.text.column import Column, Flaw, Style, Words
from edge_gateway.records import Value

DateFormat: TypeAlias = Literal["ddmmyy", "yymmdd", "ddmmyyyy", "yyyymmdd"]
TimestampFormat: TypeAlias = Literal["yymmddhhmmss", "yyyymmddhhmmss"]
UtcOffset = Annotated[
    str, StringConstraints(pattern=r"^(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$"), Field(examples=["+01:00"])
]
"""How far a zone is ahead of UTC."""

_PAIRS = tuple((start, start + 2) for start in range(0, 14, 2))
PLACES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "ddmmyy": (_PAIRS[2], _PAIRS[1], _PAIRS[0]),
    "yymmdd": _PAIRS[:3],
    "ddmmyyyy": ((4, 8), _PAIRS[1], _PAIRS[0]),
    "yyyymmdd": ((0, 4), *_PAIRS[2:4]),
    "yymmddhhmmss": _PAIRS[:6],
    "yyyymmddhhmmss": ((0, 4), *_PAIRS[2:7]),
}
"""Where year, month, day, hour, minute and second stand in the digits of each format."""

_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2}(?:\.[0-9]{1,9})?)Z")


class ClockColumn(Column):
    """A time of the day in UTC, `hhmmss` with or without decimals. With `date`, a point in time."""

    type: Literal["clock"]
    date: FieldName | None = None
    """The `date` column of the same line that says which day; the value is both, or null if one is missing."""

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "a time like 12:00:00.5Z" if self.date is None else "a time like 2026-01-31T12:00:00.5Z"

    @property
    def blank(self) -> bytes:
        """Midnight."""
        return b"000000"

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- digits are digits in every frame
        """Six digits, and decimals of the second."""
        return rb"[0-9]{6}(?:\.[0-9]{1,9})?"

    def core_value(self, core: bytes) -> Value:
        """The time of the day; with `date`, the reader of the line joins the two."""
        digits, point, decimals = core.partition(b".")
        if len(digits) != 6 or (digits + decimals).strip(b"0123456789") or bool(point) != (1 <= len(decimals) <= 9):
            raise Flaw("hhmmss expected")
        return clock_text(core)

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- a time is always exact
        """The digits of a time of the day."""
        found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        if found is None or clock_text("".join(found.groups()).encode()) is None:
            raise self.refusal(value, "a time like 12:00:00.5Z")
        return "".join(found.groups()).encode()


class DateColumn(Column):
    """A day, `2026-01-31`."""

    type: Literal["date"]
    format: DateFormat = "ddmmyy"

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "a day like 2026-01-31"

    @property
    def blank(self) -> bytes:
        """The first day of 2000."""
        return self.core_text("2000-01-01")

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- digits are digits in every frame
        """As many digits as the format has."""
        return b"[0-9]{%d}" % len(self.format)

    def core_value(self, core: bytes) -> Value:
        """The day."""
        if len(core) != len(self.format) or core.strip(b"0123456789"):
            raise Flaw(f"{self.format} expected")
        year, month, day = (core[start:end] for start, end in PLACES[self.format])
        return date_text(year, month, day)

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- a day is always exact
        """The digits of a day."""
        try:
            day = date.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            day = None
        text = None if day is None else _digits(datetime(day.year, day.month, day.day, tzinfo=UTC), self.format)
        if text is None or self.core_value(text) != value:
            raise self.refusal(value, self.text_form)
        return text


class TimestampColumn(Column):
    """A point in time in one cell, as a calendar and a clock show it in a zone; the value is in UTC."""

    type: Literal["timestamp"]
    format: TimestampFormat = "yymmddhhmmss"
    zone: UtcOffset | None = None
    """The zone of all its times."""
    zones: dict[Words, UtcOffset] = Field(default_factory=dict)
    """Zones by what stands behind the digits, where a device says it. The first is used for sending."""

    @model_validator(mode="after")
    def _check_zones(self) -> TimestampColumn:
        if (self.zone is None) == (not self.zones):
            raise Misdeclared(
                "nothing says which zone" if self.zone is None else "there are two ways to know the zone",
                key="zone",
                remedy="Give `zone: Z`, or `zones: {W: '+01:00', S: '+02:00'}`; without a zone, read it as text",
            )
        if len(set(map(len, map(str.encode, self.zones)))) > 1:
            raise Misdeclared("the words for zones are not of one length", key="zones", remedy="Read it as text")
        return self

    @property
    def text_form(self) -> str:
        """What the values look like."""
        return "a time like 2026-01-31T12:00:00Z"

    @property
    def blank(self) -> bytes:
        """The first day of 2000."""
        return self.core_text("2000-01-01T00:00:00Z")

    @property
    def offsets_s(self) -> dict[bytes, int]:
        """Seconds ahead of UTC by what stands behind the digits."""
        return {word.encode(): offset_s(zone) for word, zone in (self.zones or {"": self.zone or "Z"}).items()}

    def core_pattern(self, style: Style) -> bytes:  # noqa: ARG002 -- digits are digits in every frame
        """As many digits as the format has, and one of the zones."""
        return b"[0-9]{%d}(?:%s)" % (len(self.format), b"|".join(map(re.escape, self.offsets_s)))

    def core_value(self, core: bytes) -> Value:
        """The time in UTC."""
        digits, zone = core[: len(self.format)], core[len(self.format) :]
        if len(digits) < len(self.format) or digits.strip(b"0123456789") or zone not in self.offsets_s:
            raise Flaw(f"{self.format}{'/'.join(self.zones)} expected")
        year, month, day, hour, minute, second = (digits[start:end] for start, end in PLACES[self.format])
        return utc_text(year, month, day, hour, minute, second, self.offsets_s[zone])

    def core_text(self, value: Value, *, exact: bool = False) -> bytes:  # noqa: ARG002 -- a time is always exact
        """The digits of a time in the first of the zones."""
        word, ahead_s = next(iter(self.offsets_s.items()))
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
            local = None if moment is None else moment.astimezone(timezone(timedelta(seconds=ahead_s)))
        except (ValueError, OverflowError):
            local = None
        text = None if local is None else _digits(local, self.format) + word
        if text is None or self.core_value(text) != value:
            raise self.refusal(value, self.text_form)
        return text


def clock_text(core: bytes) -> str | None:
    """`hhmmss` and maybe decimals as `12:00:00.5Z`; None for what no clock shows."""
    text = core.decode()
    if text[:2] > "23" or text[2:4] > "59" or text[4:6] > "59":
        return None
    return f"{text[:2]}:{text[2:4]}:{text[4:]}Z"


def date_text(year: bytes, month: bytes, day: bytes) -> str | None:
    """`2026-01-31` for digits; None for a day no calendar has."""
    try:
        return date(_year_of(year), int(month), int(day)).isoformat()
    except ValueError:
        return None


def moment_text(day: str | None, clock: str | None) -> str | None:
    """A point in time of a day and a time of the day; None if one is missing."""
    return None if day is None or clock is None else f"{day}T{clock}"


def utc_text(
    year: bytes, month: bytes, day: bytes, hour: bytes, minute: bytes, second: bytes, ahead_s: int
) -> str | None:
    """`2026-01-31T12:00:00Z` for the digits of a zone this many seconds ahead of UTC; None for what no calendar has."""
    try:
        local = datetime(  # noqa: DTZ001 -- the zone is a number of seconds, taken off in the next line
            _year_of(year), int(month), int(day), int(hour), int(minute), int(second)
        )
        return f"{(local - timedelta(seconds=ahead_s)).isoformat()}Z"
    except (ValueError, OverflowError):
        return None


def offset_s(zone: str) -> int:
    """Seconds ahead of UTC of `Z` or `+01:00`."""
    if zone == "Z":
        return 0
    seconds = 3600 * int(zone[1:3]) + 60 * int(zone[4:6])
    return -seconds if zone.startswith("-") else seconds


def _year_of(digits: bytes) -> int:
    year = int(digits)
    return year if len(digits) == 4 else year + (1900 if year >= 69 else 2000)


def _digits(moment: datetime, time_format: str) -> bytes:
    """The digits of a moment as its own zone shows it."""
    parts = (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)
    digits = bytearray(len(time_format))
    for part, (start, end) in zip(parts, PLACES[time_format], strict=False):
        digits[start:end] = f"{part:04d}".encode()[start - end :]
    return bytes(digits)
