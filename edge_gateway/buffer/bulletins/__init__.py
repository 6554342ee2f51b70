"""What the gateway says upstream about its own books, as events under its own name.

| Event | When |
| --- | --- |
| `ledger` | Each day soon after midnight UTC, and on request: the rows closed since the last time. |
| `records-dropped` | When a policy cost records: how many of which devices, at most once a minute for each lane. |
| `buffer-fault` | When the disk is full, read-only, failing or damaged, and when it is not any more. |

Bulletins are records like any other: they wait in the buffer while the hub is away. While the buffer takes nothing,
they wait too, and say later what they would have said. What was said of the ledger and of dropped records is noted in
the transaction that takes the event in, so a restart neither leaves anything out nor says it twice. Faults are not
noted: a new process sees by itself how the disk is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Final

import structlog

from edge_gateway.buffer.bulletins.dropped import DroppedRecords
from edge_gateway.buffer.bulletins.faults import BufferFaults
from edge_gateway.buffer.bulletins.publication import LedgerPublication
from edge_gateway.buffer.bulletins.sender import Books, Sender
from edge_gateway.clock import Clock
from edge_gateway.errors import BufferUnavailable, LaneFull

_log = structlog.get_logger()

_LOOK_EVERY_S: Final = 60.0
"""How often the accounts and the date are looked at."""

_RETRY_S: Final = 10.0
"""Pause after the buffer took nothing."""


class Bulletins:
    """Looks at the books and says what is worth saying. Use `run` as a task.

    Args:
        gateway: the name under which the events stand.
        buffer: whose books these are; the events go into it as well.
        clock: stamps events, and says when a day is over.
        links: names of links. What stands in quarantine in their accounts are bad frames, which are kept; in the
            account of a device it is damaged records, which are lost.
        most_bytes: of a message.
    """

    def __init__(
        self, gateway: str, buffer: Books, clock: Clock, *, links: Collection[str] = (), most_bytes: int = 128 * 1024
    ) -> None:
        self._buffer = buffer
        sender = Sender(gateway, buffer, clock, most_bytes)
        self._publication = LedgerPublication(sender, buffer, clock)
        self._dropped = DroppedRecords(sender, buffer, frozenset(links))
        self._faults = BufferFaults(sender)
        self._something_is_new = asyncio.Event()

    async def run(self) -> None:
        """Say what there is to say, until cancelled."""
        loop = asyncio.get_running_loop()
        self._buffer.on_state(self._state_changed)
        self._dropped.start(loop.time())
        look_at_s = loop.time() + _LOOK_EVERY_S
        is_waiting = False
        while True:
            pause_s = max(0.0, look_at_s - loop.time())
            try:
                await self._faults.tell()
                if not pause_s:
                    await self._dropped.tell(loop.time())
                    await self._publication.tell_daily(loop.time())
                    look_at_s = loop.time() + _LOOK_EVERY_S
                    pause_s = _LOOK_EVERY_S
                is_waiting = False
            except (BufferUnavailable, LaneFull) as error:
                if not is_waiting:
                    _log.warning("bulletins.waiting", reason=str(error))
                is_waiting = True
                pause_s = _RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._something_is_new.wait()
            self._something_is_new.clear()

    async def publish_ledger(self) -> int:
        """Tell the rows of the ledger that were not told yet, and its head, now.

        Returns:
            How many rows are in the buffer, on their way.

        Raises:
            BufferUnavailable: not all could be appended; the next time goes on where this one ended.
            LaneFull: the same.
        """
        return await self._publication.publish()

    def _state_changed(self, state: str) -> None:
        self._faults.state_changed(state, asyncio.get_running_loop().time())
        self._something_is_new.set()
