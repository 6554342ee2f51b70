"""What can be asked of the buffer: what it holds, whether all of it is whole, a copy of it, and to be emptied.

Each request is a generator of lines over an open buffer, which the gateway goes on working with meanwhile. Long work
goes through the store a few chunks at a time, so it needs little memory and keeps a reading waiting for milliseconds.

| Request | Lines, besides `progress` |
| --- | --- |
| `buffer.stats` | `stats` |
| `buffer.verify` | `damaged`, `set_aside`: a chunk each; `fault` of the ledger; `verified` |
| `buffer.export` | `records`: some, in order; `damaged`; `exported` |
| `buffer.drain` | `drained` |
| `buffer.rotate-key` | `rotated` |

A chunk that is found damaged among the queued ones is set aside by the buffer in that moment: it is then in the account
as quarantined, and a later look finds it in the quarantine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

import orjson

from edge_gateway.api.control import Answer, progress
from edge_gateway.api.ledger import LedgerBooks, verify_ledger
from edge_gateway.buffer import BufferStatus, StoredChunk

_PAGE_CHUNKS: Final = 16
"""Read at once. Nothing becomes durable meanwhile, and opening 16 of the largest takes some 10 ms."""

_TELL_EVERY_S: Final = 1.0


class OpenBuffer(LedgerBooks, Protocol):
    """What is needed of a buffer; `DurableBuffer` has it."""

    def status(self) -> BufferStatus:
        """What is held now."""
        ...

    async def stats(self) -> dict[str, Any]:
        """Everything there is to know of the store, as JSON can say it."""
        ...

    async def read_chunks(self, after: int = 0, *, most: int = 64, quarantine: bool = False) -> Sequence[StoredChunk]:
        """Chunks behind the one with the id `after`, by id; none at the end."""
        ...

    async def rotate_key(self) -> int:
        """Seal what comes from now on with a new key, and return its id."""
        ...

    def drain(self) -> None:
        """Give out young messages at once, and drop delivered ones at once."""
        ...

    def end_drain(self) -> None:
        """Let messages wait for company again."""
        ...

    async def emptied(self) -> None:
        """Wait until nothing is queued; to be called while draining."""
        ...


async def stats(buffer: OpenBuffer) -> AsyncGenerator[Answer, None]:
    """Say what the store holds."""
    yield {"stats": await buffer.stats()}


async def verify(buffer: OpenBuffer) -> AsyncGenerator[Answer, None]:
    """Open everything that is stored, lane by lane, then the quarantine; then follow the chain of the ledger."""
    totals = buffer.status().totals
    of = totals.queued + totals.quarantined
    seen = 0
    found = {"records": 0, "damaged": 0, "set_aside": 0, "ledger_rows": 0, "ledger_faults": 0}
    for quarantine, what in ((False, "damaged"), (True, "set_aside")):
        async for chunks in pages(buffer, quarantine=quarantine):
            for chunk in chunks:
                seen += chunk.records
                if chunk.payload is None:
                    found[what] += chunk.records
                    yield {what: outline(chunk)}
                else:
                    found["records"] += chunk.records
            yield progress(seen, of)
    async for answer in verify_ledger(buffer):
        match answer:
            case {"chain": {"rows": rows, "faults": faults}}:
                found |= {"ledger_rows": rows, "ledger_faults": faults}
            case _:
                yield answer
    yield {"verified": found}


async def export(buffer: OpenBuffer) -> AsyncGenerator[Answer, None]:
    """Copy all queued records out, lane by lane in the order they came in, each once. They stay where they are.

    A running gateway goes on. What it delivers before its turn is not in the copy; and as many records as a lane held
    at the start are the most that are copied from it, so the end comes however fast sensors are.
    """
    left = dict(buffer.status().queued)
    of = sum(left.values())
    records = damaged = 0
    async for chunks in pages(buffer):
        for chunk in chunks:
            if left.get(chunk.lane, 0) <= 0:
                continue
            left[chunk.lane] -= chunk.records
            if chunk.payload is None:
                damaged += chunk.records
                yield {"damaged": outline(chunk)}
            else:
                records += chunk.records
                yield {"records": documents(chunk.payload)}
        yield progress(records + damaged, of)
    yield {"exported": {"records": records, "damaged": damaged}}


async def drain(
    buffer: OpenBuffer, faults: Callable[[], Sequence[str]], *, timeout_s: float = 600.0
) -> AsyncGenerator[Answer, None]:
    """Have everything delivered that is queued, without waiting for messages to fill.

    Args:
        buffer: that of a gateway that is running, and so delivers.
        faults: what is wrong with that gateway now; told if not all could be delivered.
        timeout_s: how long to try.
    """
    loop = asyncio.get_running_loop()
    ends_at_s = loop.time() + timeout_s
    of = queued = _queued(buffer)
    buffer.drain()
    emptied = asyncio.create_task(buffer.emptied(), name="drain")
    try:
        while (left_s := ends_at_s - loop.time()) > 0 and not emptied.done():
            await asyncio.wait((emptied,), timeout=min(left_s, _TELL_EVERY_S))
            queued = 0 if emptied.done() else _queued(buffer)
            yield progress(max(of - queued, 0), of)
    finally:
        emptied.cancel()
        buffer.end_drain()
    yield {"drained": {"queued": queued, "faults": list(faults()) if queued else []}}


async def rotate_key(buffer: OpenBuffer) -> AsyncGenerator[Answer, None]:
    """Seal what comes from now on with a new key."""
    yield {"rotated": {"key": await buffer.rotate_key()}}


async def pages(buffer: OpenBuffer, *, quarantine: bool = False) -> AsyncIterator[Sequence[StoredChunk]]:
    """All chunks, a few at a time."""
    after = 0
    while chunks := await buffer.read_chunks(after, most=_PAGE_CHUNKS, quarantine=quarantine):
        yield chunks
        after = chunks[-1].id


def documents(payload: bytes) -> list[dict[str, Any]]:
    """What is in a chunk."""
    listed: list[dict[str, Any]] = orjson.loads(b"[%b]" % payload)
    return listed


def outline(chunk: StoredChunk) -> dict[str, Any]:
    """A chunk that cannot be opened: how much of whose records it was."""
    return {"lane": chunk.lane, "chunk": chunk.id, "records": chunk.records, "devices": dict(chunk.counts)}


def _queued(buffer: OpenBuffer) -> int:
    return sum(buffer.status().queued.values())
