"""How a bulletin gets into the buffer, and what bulletins need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import orjson

from edge_gateway.buffer import Account, Batch
from edge_gateway.buffer.ledger import LedgerRow
from edge_gateway.clock import NS_PER_S, Clock, rfc3339, stamp
from edge_gateway.records import Event, Value

SOURCE: Final = "buffer"
"""The part of the gateway that speaks."""

_WIDEST: Final = {
    "event": "records-dropped",
    "source": SOURCE,
    "seq": 1 << 63,
    "time": rfc3339(0),
    "values": {},
    "time_trusted": False,
    "time_corrected": True,
    "boot": "-" * 36,
    "uptime_s": 1234567890.123456,
}
"""All that can stand around the values of an event in a message, at its widest."""


class Books(Protocol):
    """What bulletins need of a buffer; `DurableBuffer` has it."""

    async def append(self, batch: Batch) -> None:
        """See `Buffer.append`. Notes are durable if and only if the events of the same batch are."""
        ...

    def note(self, name: str) -> str | None:
        """What was last noted under this name, from memory; None if nothing was."""
        ...

    async def ledger_rows(self, after: int = 0, *, most: int = 1000) -> Sequence[LedgerRow]:
        """Rows behind the one with the number `after`, by number; none at the end."""
        ...

    def accounts_now(self) -> Mapping[tuple[str, str], Account]:
        """The account of each device and lane, from memory, as of the last transaction."""
        ...

    def on_state(self, told: Callable[[str], None]) -> None:
        """Call `told` at once with `BufferStatus.state`, and in the event loop whenever that has changed."""
        ...


class Sender:
    """Stamps events with the gateway's name and the time, and appends them.

    Args:
        gateway: the device of the events.
        books: where they go.
        clock: stamps them.
        most_bytes: of a message.
    """

    def __init__(self, gateway: str, books: Books, clock: Clock, most_bytes: int) -> None:
        self._gateway = gateway
        self._books = books
        self._clock = clock
        self.room_bytes = most_bytes - len(orjson.dumps([{"device": gateway, **_WIDEST}]))
        """What the values of an event may take as JSON."""

    async def send(self, kind: str, values: Mapping[str, Value], notes: Mapping[str, str] | None = None) -> None:
        """Make an event durable, and with it the notes.

        Raises:
            BufferUnavailable: neither was kept.
            LaneFull: the same.
        """
        time_ns, time_trusted, uptime_ns = stamp(self._clock)
        event = Event(self._gateway, SOURCE, kind, time_ns, values, time_trusted, uptime_ns)
        await self._books.append(Batch(records=(event,), notes=notes or {}))

    def time_of(self, at_s: float) -> str | None:
        """Wall time of a moment of the event loop, as the clock sees it now; None while that is not trusted."""
        now_ns, is_trusted, _ = stamp(self._clock)
        if not is_trusted:
            return None
        return rfc3339(now_ns - round((asyncio.get_running_loop().time() - at_s) * NS_PER_S))
