"""Times that devices count since 1970, as RFC 3339 text and back.

A device whose clock was never set may say a number far outside any calendar. Such a number is no reason to lose the
measurement beside it, so it becomes None.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

Epoch: TypeAlias = Literal["unix-s", "unix-ms"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_S: Final = -62_135_596_800
"""0001-01-01T00:00:00Z, the first second of Python's calendar."""
_LATEST_S: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second that RFC 3339 can say."""


def rfc3339_s(unix_s: int) -> str | None:
    """`2026-01-31T12:00:00Z` for whole seconds since 1970; None outside the years 1 to 9999."""
    if not _EARLIEST_S <= unix_s <= _LATEST_S:
        return None
    return f"{(_EPOCH + timedelta(seconds=unix_s)).isoformat()[:-6]}Z"


def rfc3339_ms(unix_ms: int) -> str | None:
    """`2026-01-31T12:00:00.000Z` for milliseconds since 1970; None outside the years 1 to 9999."""
    if not _EARLIEST_S * 1000 <= unix_ms < (_LATEST_S + 1) * 1000:
        return None
    return f"{(_EPOCH + timedelta(milliseconds=unix_ms)).isoformat(timespec='milliseconds')[:-6]}Z"


def unix_of(text: str, epoch: Epoch) -> tuple[int, bool]:
    """The count for a time, and whether it says it exactly.

    Raises:
        ValueError: the text is no time with an offset from UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    count, rest = divmod(moment - _EPOCH, timedelta(seconds=1) if epoch == "unix-s" else timedelta(milliseconds=1))
    return count, not rest
