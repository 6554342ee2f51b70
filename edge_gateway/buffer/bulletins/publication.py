"""`ledger`: the hourly accounts, told upstream, so that nobody can change them at the gateway unseen.

```json
{"columns": ["number", "hour_s", "lane", "device", "received", "delivered", "queued", "expired", "evicted", "rejected",
             "quarantined"],
 "after": {"number": 0, "digest": "0000000000000000000000000000000000000000000000000000000000000000"},
 "rows": [[1, 1798761600, "normal", "boiler-3", 12, 9, 2, 0, 1, 0, 0]],
 "head": {"number": 1, "digest": "5c1311a5e734a2a379482d81edd1683c12a13294ab4ad8086834491c0f7cd4a4"},
 "more": false}
```

Starting with the digest in `after`, a receiver takes each row through SHA-256 as `buffer/ledger.py` says, and has the
digest in `head`. What it had as the last `head` must be this `after`. The digest in `after` is null if the row before
the first one here is not there any more. Where a part would be larger than a message, there are several, and `more`
says that another follows; in the last one `head` is the end of the ledger. Without new rows, `rows` is empty. A gap in
the numbers is a row that the disk has damaged beyond reading.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import Final

import orjson
import structlog

from edge_gateway.buffer.bulletins.sender import Books, Sender
from edge_gateway.buffer.ledger import COLUMNS, LedgerHead, LedgerRow, is_readable
from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.records import Value

_log = structlog.get_logger()

_NOTE: Final = "ledger published"
_PLACE: Final = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64})", re.ASCII)

_DAY_S: Final = 86_400

_AFTER_MIDNIGHT_S: Final = 60
"""Time for the store to close the last hour of the day."""

_PAGE_ROWS: Final = 1000

_PAUSE_S: Final = 1.0
"""Between two parts. A long publication shares its lane with alerts, and they must not wait for all of it."""


def place_of_text(text: str | None) -> LedgerHead:
    """Read a note; one that cannot be read, or is not there, is the beginning of the ledger."""
    match = _PLACE.fullmatch(text or "")
    return LedgerHead(int(match[1]), bytes.fromhex(match[2])) if match else LedgerHead()


def text_of_place(place: LedgerHead) -> str:
    """For a note."""
    return f"{place.number} {place.digest.hex()}"


class LedgerPublication:
    """Tells the rows of the ledger, each once.

    Args:
        sender: appends the events.
        books: the rows, and a note of the last one told.
        clock: says when a day is over.
    """

    def __init__(self, sender: Sender, books: Books, clock: Clock) -> None:
        self._sender = sender
        self._books = books
        self._clock = clock
        self._day: int | None = None
        """Days since 1970, the last one on which it was seen to that all rows of earlier days are told."""
        self._told_at_s: float | None = None
        """Event loop time since which rows may be waiting."""
        self._publishing = asyncio.Lock()

    async def tell_daily(self, now_s: float) -> None:
        """Publish if the first row that was not told is of another day: once a day, soon after midnight in UTC.

        While the clock is not trusted, publish each 24 hours of the event loop.

        Raises:
            BufferUnavailable: not all could be told; to be called again.
            LaneFull: the same.
        """
        if self._told_at_s is None:
            self._told_at_s = now_s
        if not self._clock.trusted:
            if now_s - self._told_at_s >= _DAY_S:
                await self.publish()
            return
        day = (self._clock.now_ns() // NS_PER_S - _AFTER_MIDNIGHT_S) // _DAY_S
        if day == self._day:
            return
        async with self._publishing:
            place = await self._place()
            waiting = await self._books.ledger_rows(place.number, most=1)
            # Not `<`: a clock that was set back must not silence the gateway until it is that late again.
            if any(not is_readable(row) or row.hour_s // _DAY_S != day for row in waiting):
                await self._publish(place)
        self._day = day

    async def publish(self) -> int:
        """Tell all rows that were not told, and the head.

        Returns:
            How many rows that were.

        Raises:
            BufferUnavailable: not all could be told; what was told is noted.
            LaneFull: the same.
        """
        async with self._publishing:
            return await self._publish(await self._place())

    async def _publish(self, place: LedgerHead) -> int:
        told = parts = 0
        room_bytes = self._sender.room_bytes - _FRAME_BYTES
        read_to = place.number
        rows: list[LedgerRow] = []
        is_end = False
        while rows or not is_end or not parts:
            while not is_end and sum(map(_size, rows)) <= room_bytes:
                page = await self._books.ledger_rows(read_to, most=_PAGE_ROWS)
                is_end = not page
                read_to = page[-1].number if page else read_to
                rows += filter(is_readable, page)
            fitting = _fitting(rows, room_bytes)
            part, rows = rows[:fitting], rows[fitting:]
            if parts:
                await asyncio.sleep(_PAUSE_S)
            head = LedgerHead(part[-1].number, part[-1].digest) if part else place
            values = _values(place, part, head, more=bool(rows) or not is_end)
            await self._sender.send("ledger", values, {_NOTE: text_of_place(head)})
            place = head
            told += len(part)
            parts += 1
        self._told_at_s = asyncio.get_running_loop().time()
        _log.info("ledger.published", rows=told, parts=parts, number=place.number)
        return told

    async def _place(self) -> LedgerHead:
        """The last row told; the beginning, if the ledger is not the one it was in."""
        place = place_of_text(self._books.note(_NOTE))
        if place.number == 0:
            return place
        found = await self._books.ledger_rows(place.number - 1, most=1)
        if found and (found[0].number > place.number or found[0].digest == place.digest):
            return place
        _log.warning("ledger.told_anew", number=place.number, reason="the last row told is not in the ledger")
        return LedgerHead()


def _values(after: LedgerHead, rows: Sequence[LedgerRow], head: LedgerHead, *, more: bool) -> dict[str, Value]:
    follows = not rows or rows[0].number == after.number + 1
    return {
        "columns": COLUMNS,
        "after": {
            "number": after.number if follows else rows[0].number - 1,
            "digest": after.digest.hex() if follows else None,
        },
        "rows": [row[:-1] for row in rows],
        "head": {"number": head.number, "digest": head.digest.hex()},
        "more": more,
    }


_FARTHEST: Final = LedgerHead(1 << 63)
_FRAME_BYTES: Final = len(orjson.dumps(_values(_FARTHEST, [], _FARTHEST, more=False)))
"""What stands around the rows, at most."""


def _size(row: LedgerRow) -> int:
    """Bytes of a row in an event, with its comma."""
    return len(orjson.dumps(row[:-1])) + 1


def _fitting(rows: Sequence[LedgerRow], room_bytes: int) -> int:
    """How many rows fit; at least one, if there is any."""
    taken_bytes = accumulate(map(_size, rows))
    fitting = sum(1 for _ in takewhile(lambda taken: taken <= room_bytes, taken_bytes))
    return max(fitting, min(1, len(rows)))
