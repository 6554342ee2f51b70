"""Timestamps and durations: how they are written, and their parts.

Both are whole nanoseconds. Texts are RFC 3339, as `2026-05-01T12:00:00.25+02:00`, and `1h30m`, `-1.5s`, `250ms`.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from fractions import Fraction

from edge_gateway.cel.types import DURATION, LIMITS, TIMESTAMP, Type
from edge_gateway.clock import NS_PER_S

_NS_PER_UNIT = {"h": 3600 * NS_PER_S, "m": 60 * NS_PER_S, "s": NS_PER_S, "ms": 10**6, "us": 1000, "ns": 1}
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"([+-]?)(?:0|((?:(?:\d{1,20}\.?\d{0,20}|\.\d{1,20})(?:h|ms?|s|us|ns))+))", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+)([a-z]+)", re.ASCII)
_FIXED_ZONE = re.compile(r"([+-]?)(\d\d):(\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_of_text(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 text.

    Raises:
        ValueError: it is none, or outside of the years 1 to 9999.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r:.60} is no timestamp such as '2026-05-01T12:00:00Z'")
    day, time, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{offset.upper()}")
    except ValueError as error:
        raise ValueError(f"{text!r} is no timestamp: {error}") from error
    return _limited(_seconds(moment) * NS_PER_S + int((fraction or "").ljust(9, "0")), TIMESTAMP)


def timestamp_of_seconds(seconds: int) -> int:
    """Nanoseconds since 1970 of seconds since 1970.

    Raises:
        ValueError: it is outside of the years 1 to 9999.
    """
    return _limited(seconds * NS_PER_S, TIMESTAMP)


def seconds_of_timestamp(timestamp: int) -> int:
    """Whole seconds since 1970, the earlier one between two."""
    return timestamp // NS_PER_S


def text_of_timestamp(timestamp: int) -> str:
    """RFC 3339 in UTC, with as many decimals as it needs."""
    return f"{_moment(timestamp).isoformat()[:19]}{_decimals(timestamp % NS_PER_S)}Z"


def duration_of_text(text: str) -> int:
    """Nanoseconds of a text such as `1h30m` or `-1.5s`.

    Raises:
        ValueError: it is none, or beyond 292 years.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r:.60} is no duration such as '1h30m', '-1.5s' or '250ms'")
    parts = _DURATION_PART.findall(match[2] or "")
    total = int(sum((Fraction(number) * _NS_PER_UNIT[unit] for number, unit in parts), Fraction(0)))
    return _limited(-total if match[1] == "-" else total, DURATION)


def text_of_duration(duration: int) -> str:
    """Seconds with as many decimals as it needs: `90s`, `-1.5s`."""
    seconds, rest = divmod(abs(duration), NS_PER_S)
    return f"{'-' if duration < 0 else ''}{seconds}{_decimals(rest)}s"


def _decimals(rest_ns: int) -> str:
    return f".{rest_ns:09}".rstrip("0") if rest_ns else ""


def _limited(number: int, kind: Type) -> int:
    low, high = LIMITS[kind]
    if not low <= number <= high:
        raise ValueError(f"beyond the range of {kind}")
    return number


def _seconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return since.days * 86_400 + since.seconds


def _moment(timestamp: int, zone: str = "UTC") -> datetime:
    try:
        return (_EPOCH + timedelta(seconds=timestamp // NS_PER_S)).astimezone(_zone(zone))
    except OverflowError as error:
        raise ValueError("the time of that zone is outside of the years 1 to 9999") from error


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    if match := _FIXED_ZONE.fullmatch(name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(-offset if match[1] == "-" else offset)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r:.60} is no time zone such as 'Europe/Paris' or '+01:00'") from error


# Parts of a timestamp, in UTC or in a zone.


def year(timestamp: int, zone: str = "UTC") -> int:
    """For instance 2026."""
    return _moment(timestamp, zone).year


def month(timestamp: int, zone: str = "UTC") -> int:
    """From 0, January."""
    return _moment(timestamp, zone).month - 1


def day_of_year(timestamp: int, zone: str = "UTC") -> int:
    """From 0."""
    return _moment(timestamp, zone).timetuple().tm_yday - 1


def date(timestamp: int, zone: str = "UTC") -> int:
    """The day of the month, from 1."""
    return _moment(timestamp, zone).day


def day_of_month(timestamp: int, zone: str = "UTC") -> int:
    """The day of the month, from 0."""
    return _moment(timestamp, zone).day - 1


def day_of_week(timestamp: int, zone: str = "UTC") -> int:
    """From 0, Sunday."""
    return _moment(timestamp, zone).isoweekday() % 7


def hours(timestamp: int, zone: str = "UTC") -> int:
    """Of the day."""
    return _moment(timestamp, zone).hour


def minutes(timestamp: int, zone: str = "UTC") -> int:
    """Of the hour."""
    return _moment(timestamp, zone).minute


def seconds(timestamp: int, zone: str = "UTC") -> int:
    """Of the minute."""
    return _moment(timestamp, zone).second


def milliseconds(timestamp: int, zone: str = "UTC") -> int:
    """Of the second; the same in every zone."""
    _zone(zone)
    return timestamp % NS_PER_S // 10**6


# Parts of a duration, rounded toward zero.


def _whole(duration: int, unit_ns: int) -> int:
    return duration // unit_ns if duration >= 0 else -(-duration // unit_ns)


def hours_of_duration(duration: int) -> int:
    """All of it in hours."""
    return _whole(duration, 3600 * NS_PER_S)


def minutes_of_duration(duration: int) -> int:
    """All of it in minutes."""
    return _whole(duration, 60 * NS_PER_S)


def seconds_of_duration(duration: int) -> int:
    """All of it in seconds."""
    return _whole(duration, NS_PER_S)


def milliseconds_of_duration(duration: int) -> int:
    """What remains beside whole seconds, in milliseconds."""
    return _whole(duration - seconds_of_duration(duration) * NS_PER_S, 10**6)
