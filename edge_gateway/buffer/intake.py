"""The buffer's door: holds what the disk is still at work on, up to a bound.

A link that reads faster than the disk writes waits here. A disk that fails must not stop the links, or the operator
would not see what is lost: what no longer fits in memory is then rejected and counted by device, and the count is made
durable when the disk is back. So is what a lane refuses.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import Final

import structlog

from edge_gateway.buffer import Batch, Buffer
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.records import Reading

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
        """Records and bad frames given to the buffer, or kept for it, and not durable."""
        self._kept: list[Batch] = []
        """While the disk fails: what waits for the next try, in order."""
        self._failed: list[Batch] = []
        """What the buffer has just given back; it came before all that is kept meanwhile."""
        self._rejected: Counter[str] = Counter()
        """What could not be kept, by device or link, to be counted with the next append."""
        self._failing = False
        self._full: set[str] = set()
        """Lanes that refuse."""
        self._in_work = 0
        """Appends the buffer has not answered."""
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def pending(self) -> int:
        """Records and bad frames in memory that are not durable."""
        return self._pending

    async def put(self, batch: Batch) -> None:
        """Take over a batch, in order; wait while there is no room and the disk is well."""
        while self._pending >= self._most_pending and not self._failing:
            self._room.clear()
            await self._room.wait()
        if self._failing and self._pending >= self._most_pending:
            self._reject(batch)
            return
        self._pending += _size(batch)
        if self._failing:
            self._kept.append(batch)
        else:
            self._append(batch)

    async def drained(self) -> None:
        """Wait until everything put so far is durable."""
        await self._empty.wait()

    def _append(self, batch: Batch) -> None:
        if self._rejected:
            batch = batch._replace(rejected=[*batch.rejected, *self._rejected.items()])
            self._rejected.clear()
        self._in_work += 1
        self._empty.clear()
        self._buffer.submit(batch, partial(self._appended, batch))

    def _appended(self, batch: Batch, error: BufferUnavailable | LaneFull | None) -> None:
        """Told by the buffer, in the order of the appends."""
        self._in_work -= 1
        if isinstance(error, BufferUnavailable):
            self._failed.append(batch)
            if not self._failing:
                self._failing = True
                self._room.set()  # whoever waits for room goes on, and what does not fit is counted
                _log.error("intake.failing", reason=str(error), pending=self._pending)
            if not self._in_work:  # the buffer gives back all it has, or none
                self._kept[:0] = self._failed
                self._failed.clear()
                asyncio.get_running_loop().call_later(_RETRY_S, self._retry)
            return
        if error is not None:
            self._note_refused(batch, error)
        elif batch.records:
            self._full.discard(batch.lane)
        self._pending -= _size(batch)
        if self._pending < self._most_pending:
            self._room.set()
        if self._failing:
            self._failing = False
            _log.info("intake.recovered", records=len(batch.records))
        if self._kept or self._rejected:
            self._retry()
        elif not self._in_work:
            self._empty.set()

    def _retry(self) -> None:
        """Try all that was kept, one after the other: they share a transaction all the same."""
        kept, self._kept = self._kept or [Batch()], []
        for batch in kept:
            self._append(batch)

    def _reject(self, batch: Batch) -> None:
        """There is no room for a batch: what came is counted, and nothing else is left of it."""
        self._rejected.update(record.device for record in batch.records)
        self._rejected.update(frame.source for frame in batch.bad)
        for source, count in batch.rejected:
            self._rejected[source] += count

    def _note_refused(self, batch: Batch, error: LaneFull) -> None:
        """A lane has taken no readings; all else of the batch is durable."""
        self._rejected.update(record.device for record in batch.records if isinstance(record, Reading))
        if batch.lane not in self._full:
            self._full.add(batch.lane)
            _log.error("intake.refused", reason=str(error))


def _size(batch: Batch) -> int:
    return len(batch.records) + len(batch.bad)
