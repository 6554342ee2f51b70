"""The buffer's door: holds what the disk is still at work on, up to a bound.

A link that reads faster than the disk writes waits here. A disk that fails must not stop the links, or the operator
would not see what is lost: what no longer fits in memory is then rejected and counted by device, and the count is made
durable when the disk is back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from edge_gateway.buffer import Buffer
from edge_gateway.errors import BufferUnavailable
from edge_gateway.records import Event, Reading

_log = structlog.get_logger()

_RETRY_S: Final = 1.0


class Intake:
    """Between the links and the buffer.

    Args:
        buffer: where records go.
        pending_records: records held in memory at most.
    """

    def __init__(self, buffer: Buffer, pending_records: int) -> None:
        self._buffer = buffer
        self._most_pending = pending_records
        self._pending = 0
        """Records given to the buffer, or kept for it, and not durable."""
        self._kept: list[Reading | Event] = []
        """While the disk fails: what waits for the next try, in order."""
        self._rejected: Counter[str] = Counter()
        """The same for counts."""
        self._failing = False
        self._in_work = 0
        """Appends the buffer has not answered."""
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def pending(self) -> int:
        """Records in memory that are not durable."""
        return self._pending

    async def put(self, records: Sequence[Reading | Event], rejected: Counter[str] | None = None) -> None:
        """Take over records, in order; wait while there is no room and the disk is well.

        Args:
            records: to be appended.
            rejected: frames that could not become records, by device or link, for the account.
        """
        while self._pending >= self._most_pending and not self._failing:
            self._room.clear()
            await self._room.wait()
        if not self._failing:
            self._pending += len(records)
            self._append(records, rejected or Counter())
            return
        if rejected:
            self._rejected.update(rejected)
        if self._pending >= self._most_pending:
            self._rejected.update(record.device for record in records)
        else:
            self._pending += len(records)
            self._kept.extend(records)

    async def drained(self) -> None:
        """Wait until everything put so far is durable."""
        await self._empty.wait()

    def _append(self, records: Sequence[Reading | Event], rejected: Counter[str]) -> None:
        self._in_work += 1
        self._empty.clear()
        self._buffer.submit(records, list(rejected.items()), partial(self._appended, records, rejected))

    def _appended(
        self, records: Sequence[Reading | Event], rejected: Counter[str], error: BufferUnavailable | None
    ) -> None:
        """Told by the buffer, in the order of the appends."""
        self._in_work -= 1
        if error is not None:
            self._kept.extend(records)
            self._rejected.update(rejected)
            if not self._failing:
                self._failing = True
                self._room.set()  # whoever waits for room goes on, and what does not fit is counted
                _log.error("intake.failing", reason=str(error), pending=self._pending)
            if not self._in_work:
                asyncio.get_running_loop().call_later(_RETRY_S, self._retry)
            return
        self._pending -= len(records)
        if self._pending < self._most_pending:
            self._room.set()
        if self._failing:
            self._failing = False
            _log.info("intake.recovered", records=len(records))
        if self._kept or self._rejected:
            self._retry()
        elif not self._in_work:
            self._empty.set()

    def _retry(self) -> None:
        """Try all that was kept, as one append."""
        records, self._kept = self._kept, []
        rejected, self._rejected = self._rejected, Counter()
        self._append(records, rejected)
