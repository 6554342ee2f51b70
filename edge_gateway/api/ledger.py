"""What can be asked of the ledger: its rows, whether they are as they were written, and to publish them.

| Request | Lines, besides `progress` |
| --- | --- |
| `ledger.show` | `rows`: some, in order |
| `ledger.verify` | `fault` for each thing that does not fit, `chain` |
| `ledger.publish` | `published` |
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from edge_gateway.api.control import Answer, progress
from edge_gateway.buffer.ledger import LedgerCheck, LedgerHead, LedgerRow
from edge_gateway.clock import NS_PER_S, rfc3339

_PAGE_ROWS: Final = 1000

_END_OF_YEARS_S: Final = 253_402_300_800
"""The year 10,000, which RFC 3339 cannot write."""


class LedgerBooks(Protocol):
    """What is needed of a buffer; `DurableBuffer` has it."""

    async def ledger_rows(self, after: int = 0, *, most: int = 1000) -> Sequence[LedgerRow]:
        """Rows behind the one with the number `after`, by number; none at the end."""
        ...

    def ledger_head(self) -> LedgerHead:
        """The last row, as the store remembers it beside the rows."""
        ...


async def show_ledger(
    buffer: LedgerBooks, *, device: str | None = None, since_s: int | None = None
) -> AsyncGenerator[Answer, None]:
    """Show the rows of the ledger, oldest first.

    Args:
        buffer: any.
        device: only the rows of this one.
        since_s: only hours that began then or later, seconds since 1970-01-01T00:00:00Z.
    """
    async for rows in _pages(buffer):
        wanted = [
            row
            for row in rows
            if (device is None or row.device == device) and (since_s is None or _is_since(row.hour_s, since_s))
        ]
        if wanted:
            yield {"rows": [_document(row) for row in wanted]}


async def verify_ledger(buffer: LedgerBooks) -> AsyncGenerator[Answer, None]:
    """Follow the chain from the oldest row there is to the one the store remembers as the last."""
    check = LedgerCheck()
    seen = faults = last = 0
    while True:
        head = buffer.ledger_head()  # before the reading: what it names must be found
        rows = await buffer.ledger_rows(last, most=_PAGE_ROWS)
        found = list(check.rows(rows) if rows else check.end(head))
        for fault in found:
            yield {"fault": fault._asdict()}
        faults += len(found)
        if not rows:
            break
        seen += len(rows)
        last = rows[-1].number
        yield progress(seen, seen + head.number - last)
    yield {"chain": {"rows": seen, "faults": faults, "last": last}}


async def publish_ledger(publish: Callable[[], Awaitable[int]]) -> AsyncGenerator[Answer, None]:
    """Send the rows that were not sent yet to the hub now, and not at the end of the day.

    Args:
        publish: of a running gateway; returns how many rows are on their way.
    """
    yield {"published": {"rows": await publish()}}


async def _pages(buffer: LedgerBooks) -> AsyncIterator[Sequence[LedgerRow]]:
    after = 0
    while rows := await buffer.ledger_rows(after, most=_PAGE_ROWS):
        yield rows
        after = rows[-1].number


def _is_since(hour_s: object, since_s: int) -> bool:
    return isinstance(hour_s, int) and hour_s >= since_s


def _hour(hour_s: object) -> object:
    return rfc3339(hour_s * NS_PER_S) if isinstance(hour_s, int) and 0 <= hour_s < _END_OF_YEARS_S else hour_s


def _document(row: LedgerRow) -> dict[str, Any]:
    """A row as JSON can say it. On a damaged disk, anything may stand in any column."""
    document = {name: value.hex() if isinstance(value, bytes) else value for name, value in row._asdict().items()}
    return {"hour": _hour(document.pop("hour_s")), **document}
