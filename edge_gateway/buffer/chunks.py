"""Chunks: what was appended together, as a row of the table `chunk`, and how a damaged one is told from a whole one.

A chunk's payload is sealed, and bound to its place and to whose records it holds. So a row that the disk has damaged or
swapped shows when it is opened, whatever it says of itself. SQLite does not look: in a damaged row any column may hold
anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.sealing import Sealer, key_id_of
from edge_gateway.errors import BufferDamaged, DataKeyMissing, KeyStoreError, PayloadDamaged

CHUNKS: Final = "SELECT * FROM chunk WHERE id > ? AND id <= ? ORDER BY id"
"""Rows of `chunk`, whole, between two ids."""

SURE: Final = 0
"""A chunk whose times are right, as far as the gateway knows."""
UNSURE: Final = 1
"""A chunk stamped before the clock was trusted, to be corrected when it is given out."""
TOLD_UNSURE: Final = 2
"""The same, given out before it could be corrected; it stays as it is, because a message never changes."""
DAMAGED: Final = 3
"""A chunk in the quarantine that the disk has damaged."""

_ON_ONE_PAGE_BYTES: Final = PAGE_BYTES - 128
"""Of a chunk's counts and payload, at most: the rest of its row and of the page takes less than 128 bytes."""


class Chunk(NamedTuple):
    """A row of `chunk` as it goes in or out: with its payload in the open."""

    id: int
    message: int
    records: int
    boot: int
    uptime_ms: int
    clock: int
    counts: bytes
    """Records by device, as JSON."""
    payload: bytes
    stored_bytes: int
    """Of the payload as it is on disk."""


Damaged: TypeAlias = tuple[Chunk, bytes]
"""A chunk that does not open, without its payload, and its payload, sealed."""


def context(chunk_id: int, message: int, records: int, counts: bytes) -> bytes:
    """What a sealed payload is bound to: its place, and whose records it holds."""
    return b"%d %d %d %s" % (chunk_id, message, records, counts)


def payload_of(row: Sequence[Any], sealer: Sealer) -> bytes:
    """The payload of a row of `chunk`, in the open.

    Raises:
        PayloadDamaged: the row is not as it was written.
        KeyStoreError: there is no key for it.
    """
    if not _is_chunk(row):
        raise PayloadDamaged("is no chunk", where=f"chunk {row[0]}")
    chunk_id, message, records, *_, counts, sealed = row
    return sealer.open(sealed, context(chunk_id, message, records, counts))


def is_whole(row: Sequence[Any], sealer: Sealer) -> bool:
    """Whether a row of `chunk` is as it was written, as far as that can be told: without its key nobody can say now."""
    try:
        payload_of(row, sealer)
    except PayloadDamaged:
        return False
    except KeyStoreError:
        return True
    return True


def opened(row: Sequence[Any], sealer: Sealer) -> tuple[Chunk, bytes | None]:
    """A row of `chunk` with its payload in the open; if it will never open, with the sealed payload beside it.

    Raises:
        BufferDamaged: see `damaged_chunk`.
        DataKeyMissing: it cannot be opened now.
    """
    try:
        payload = payload_of(row, sealer)
    except PayloadDamaged:
        return damaged_chunk(row)
    except KeyStoreError as error:
        if _is_lost(key_id_of(row[-1]), sealer):
            return _sealed_chunk(row)
        raise DataKeyMissing(error.what, where=error.where, remedy=error.remedy) from error
    return Chunk._make((*row[:-1], payload, len(row[-1]))), None


def damaged_chunk(row: Sequence[Any]) -> Damaged:
    """A row of `chunk` whose payload does not open.

    Raises:
        BufferDamaged: it is no chunk at all, or goes over several pages. Which pages those are may be what is damaged,
            and to remove the row would free pages that are another's.
    """
    if not _is_chunk(row):
        raise BufferDamaged("a row is no chunk", where=f"chunk {row[0]}")
    *_, counts, sealed = row
    if len(counts) + len(sealed) > _ON_ONE_PAGE_BYTES:
        raise BufferDamaged("a chunk is damaged that goes over several pages", where=f"chunk {row[0]}")
    return _sealed_chunk(row)


def counts_of(text: str | bytes) -> dict[str, int]:
    """Records by device, as a chunk says; nothing if the disk has damaged it."""
    try:
        counts = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    is_sound = isinstance(counts, dict) and all(isinstance(count, int) and count > 0 for count in counts.values())
    return counts if is_sound else {}


def are_numbers(columns: Sequence[object]) -> bool:
    """Whether the columns of a row that should be whole numbers are."""
    return all(type(each) is int for each in columns)


def _is_chunk(row: Sequence[Any]) -> bool:
    *numbers, counts, sealed = row
    return are_numbers(numbers) and isinstance(counts, bytes) and isinstance(sealed, bytes)


def _is_lost(key_id: int, sealer: Sealer) -> bool:
    """Whether a key will never come back, so that what is sealed with it is as good as damaged."""
    try:
        return key_id not in sealer.key_ids()
    except KeyStoreError:
        return False


def _sealed_chunk(row: Sequence[Any]) -> Damaged:
    return Chunk._make((*row[:-1], b"", len(row[-1]))), row[-1]
