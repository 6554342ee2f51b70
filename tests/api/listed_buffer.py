"""A buffer and a gateway that are lists in memory, which keep the promises that requests rely on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import orjson

from edge_gateway.api.control import Answer, progress
from edge_gateway.buffer import Account, BufferStatus, StoredChunk
from edge_gateway.buffer.ledger import LedgerHead, LedgerRow, close_hour

LANE = 1 << 48


def reading(device: str, seq: int, **values: object) -> dict[str, Any]:
    return {"device": device, "profile": "p", "seq": seq, "time": "2026-05-01T12:00:00.000000Z", "values": values}


def bad_frame(link: str, frame: str, reason: str = "checksum") -> dict[str, Any]:
    return {"link": link, "reason": reason, "time": "2026-05-01T12:00:00.000000Z", "frame": frame}


class ListedBuffer:
    """Keeps chunks by id. What was damaged by `damage` is found damaged once, and then lies in the quarantine."""

    def __init__(self, lanes: Sequence[str] = ("alert", "normal")) -> None:
        self.lanes = list(lanes)
        self.chunks: dict[int, StoredChunk] = {}
        self.quarantined: dict[int, StoredChunk] = {}
        self.rows: list[LedgerRow] = []
        self.head = LedgerHead()
        self.keys = 1
        self.draining = False
        self.visits = 0
        self._last: Counter[str] = Counter()
        self._damaged: set[int] = set()
        self._empty = asyncio.Event()

    def add(self, lane: str, *documents: Mapping[str, Any]) -> int:
        number = self._last[lane] = self._last[lane] + 1
        chunk_id = (self.lanes.index(lane) + 1) * LANE + number
        self.chunks[chunk_id] = self._chunk(chunk_id, lane, documents, "device")
        self._empty.clear()
        return chunk_id

    def add_bad(self, *documents: Mapping[str, Any]) -> None:
        chunk_id = 99 * LANE + len(self.quarantined) + 1
        self.quarantined[chunk_id] = self._chunk(chunk_id, "normal", documents, "link")

    def _chunk(self, number: int, lane: str, documents: Sequence[Mapping[str, Any]], key: str) -> StoredChunk:
        payload = orjson.dumps(documents)[1:-1]
        return StoredChunk(number, lane, 1, len(documents), Counter(each[key] for each in documents), payload)

    def damage(self, chunk_id: int) -> None:
        self._damaged.add(chunk_id)

    def deliver(self, most: int = 1_000_000) -> None:
        """The hub has the oldest chunks."""
        for chunk_id in sorted(self.chunks)[:most]:
            del self.chunks[chunk_id]
        if not self.chunks:
            self._empty.set()

    def close_hour(self, hour_s: int, **received: int) -> None:
        accounts = [("normal", device, Account(received=n, delivered=n)) for device, n in received.items()]
        self.rows += close_hour(hour_s, accounts, *self.head)
        self.head = LedgerHead(self.rows[-1].number, self.rows[-1].digest)

    # --- what requests need ----------------------------------------------------------------------------------------

    def status(self) -> BufferStatus:
        queued = dict.fromkeys(self.lanes, 0)
        for chunk in self.chunks.values():
            queued[chunk.lane] += chunk.records
        quarantined = sum(chunk.records for chunk in self.quarantined.values())
        total = sum(queued.values())
        return BufferStatus(queued, Account(received=total + quarantined, queued=total, quarantined=quarantined))

    async def stats(self) -> dict[str, Any]:
        lanes = [{"name": name, "queued": queued} for name, queued in self.status().queued.items()]
        return {"id": "ab12", "lanes": lanes, "disk": {"database_bytes": 4096, "max_bytes": None}, "key": self.keys}

    async def read_chunks(self, after: int = 0, *, most: int = 64, quarantine: bool = False) -> list[StoredChunk]:
        self.visits += 1
        await asyncio.sleep(0)
        among = self.quarantined if quarantine else self.chunks
        found = [among[each] for each in sorted(among) if each > after][:most]
        for place, chunk in enumerate(found):
            if chunk.id in self._damaged:
                found[place] = lost = chunk._replace(payload=None, counts={})
                if not quarantine:
                    del self.chunks[chunk.id]
                    moved = 99 * LANE + len(self.quarantined) + 1
                    self.quarantined[moved] = lost._replace(id=moved)
        return found

    async def ledger_rows(self, after: int = 0, *, most: int = 1000) -> list[LedgerRow]:
        return [row for row in self.rows if row.number > after][: min(most, 3)]

    def ledger_head(self) -> LedgerHead:
        return self.head

    async def rotate_key(self) -> int:
        self.keys += 1
        return self.keys

    def drain(self) -> None:
        self.draining = True
        if not self.chunks:
            self._empty.set()

    def end_drain(self) -> None:
        self.draining = False

    async def emptied(self) -> None:
        await self._empty.wait()


class ListedGateway:
    """A gateway around it."""

    def __init__(self, buffer: ListedBuffer) -> None:
        self.buffer = buffer
        self.faults: list[str] = []
        self.replayed: list[str | None] = []

    def status(self) -> dict[str, Any]:
        return {"gateway": "plant", "faults": self.faults}

    async def publish_ledger(self) -> int:
        return len(self.buffer.rows)

    async def replay_quarantine(self, link: str | None) -> AsyncGenerator[Answer, None]:
        self.replayed.append(link)
        yield progress(1, 2)
        yield {"replayed": {"frames": 2, "readings": 1, "still_bad": 1}}
