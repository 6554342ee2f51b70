"""Gathers what the links bring and hands it to the buffer, as much at once as came in meanwhile.

A link that reads faster than the disk writes waits here. A disk that fails must not stop the links, or the operator
would not see what is lost: what no longer fits in memory is then rejected and counted by device, and the count is made
durable when the disk is back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
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
        pending_records: records held in memory at most, besides those the disk is at work on.
    """

    def __init__(self, buffer: Buffer, pending_records: int) -> None:
        self._buffer = buffer
        self._pending_records = pending_records
        self._records: list[Reading | Event] = []
        self._rejected: Counter[str] = Counter()
        self._some = asyncio.Event()
        self._room = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._room.set()
        self._failing = False

    async def put(self, records: Sequence[Reading | Event], rejected: Counter[str] | None = None) -> None:
        """Take over records, in order; wait while there is no room and the disk is well.

        Args:
            records: to be appended.
            rejected: frames that could not become records, by device or link, for the account.
        """
        while not self._room.is_set() and not self._failing:
            await self._room.wait()
        if rejected:
            self._rejected.update(rejected)
        if self._failing and len(self._records) >= self._pending_records:
            self._rejected.update(record.device for record in records)
        else:
            self._records.extend(records)
            if len(self._records) >= self._pending_records:
                self._room.clear()
        if self._records or self._rejected:
            self._empty.clear()
            self._some.set()

    async def drained(self) -> None:
        """Wait until everything put so far is durable."""
        await self._empty.wait()

    async def run(self) -> None:
        """Append until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            records, self._records = self._records, []
            rejected, self._rejected = self._rejected, Counter()
            self._room.set()
            await self._append(records, list(rejected.items()))
            if not self._records and not self._rejected:
                self._empty.set()

    async def _append(self, records: list[Reading | Event], rejected: list[tuple[str, int]]) -> None:
        while True:
            try:
                await self._buffer.append(records, rejected)
            except BufferUnavailable as error:
                if not self._failing:
                    _log.error("intake.failing", reason=str(error), pending=len(records))
                self._failing = True
                self._room.set()  # whoever waits for room goes on, and has its records counted as rejected
                await asyncio.sleep(_RETRY_S)
            else:
                if self._failing:
                    _log.info("intake.recovered", records=len(records))
                self._failing = False
                return
