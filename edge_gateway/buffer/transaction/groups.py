"""What leaves together: a message that may have been given out, or a chunk of one that never was.

What has been given out to the uplink is never changed: `Lane.taken_to` tells what is on its way now, and `Book.given`
what may have been on its way before a crash, and leaves as a whole message or not at all.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from edge_gateway.buffer.chunks import Damaged, are_numbers, counts_of, damaged_chunk, is_whole
from edge_gateway.buffer.lanes import Lane
from edge_gateway.buffer.transaction.working_copy import WorkingCopy
from edge_gateway.errors import BufferDamaged

OUTLINES: Final = "SELECT id, message, boot, uptime_ms, counts, length(payload) FROM chunk WHERE id > ? AND id <= ?"
"""Chunks without their payloads, which may be large."""
FIRST_OUTLINE: Final = f"{OUTLINES} ORDER BY id LIMIT 1"
DROP_CHUNKS: Final = "DELETE FROM chunk WHERE id BETWEEN ? AND ?"
_LAST_OUTLINE: Final = f"{OUTLINES} ORDER BY id DESC LIMIT 1"
_OUTLINES_OF_MESSAGE: Final = f"{OUTLINES} AND message = ? ORDER BY id"
_CHUNKS: Final = "SELECT * FROM chunk WHERE id BETWEEN ? AND ?"


class Group(NamedTuple):
    """Chunks that leave together."""

    first_id: int
    last_id: int
    message: int
    counts: dict[str, int]
    bytes: int
    boot: int
    uptime_ms: int
    """Of the youngest."""


def outermost(work: WorkingCopy, lane: Lane, *, newest: bool = False) -> Group | None:
    """What is the oldest, or the newest, of what is in the database and not on its way now.

    Raises:
        BufferDamaged: what a chunk of it says of itself is nothing that can be.
    """
    whole = work.change.seen_whole(lane.number)
    start, end = lane.chunk_id(lane.taken_to), lane.chunk_id(whole.chunk)
    found = work.db.execute(_LAST_OUTLINE if newest else FIRST_OUTLINE, (start, end)).fetchone()
    if found is None:
        return None
    rows = [found]
    chunk_id, message = found[:2]
    is_quarantine = lane.number == work.shelf.quarantine
    if lane.chunk_number(chunk_id) <= whole.given and not is_quarantine:
        rows = work.db.execute(_OUTLINES_OF_MESSAGE, (start, end, message)).fetchall()
    counts: Counter[str] = Counter()
    for row in rows:
        is_lost = is_quarantine and message not in work.shelf.lanes
        if is_lost or not are_numbers((*row[:4], row[5])):
            raise BufferDamaged("a chunk is damaged", where=f"chunk {row[0]}", remedy="It is set aside")
        counts.update(counts_of(row[4]))
    *_, boot, uptime_ms, _, _ = rows[-1]
    return Group(rows[0][0], rows[-1][0], message, counts, sum(row[5] for row in rows), boot, uptime_ms)


def damaged_of(work: WorkingCopy, group: Group) -> list[Damaged]:
    """What of a group does not open, so that what it says of its records cannot be relied on.

    Raises:
        BufferDamaged: its row cannot even be removed; see `damaged_chunk`.
    """
    rows: list[tuple[Any, ...]] = work.db.execute(_CHUNKS, (group.first_id, group.last_id)).fetchall()
    return [damaged_chunk(row) for row in rows if not is_whole(row, work.shelf.sealer)]


def remove(work: WorkingCopy, group: Group) -> None:
    """Take a group off the store. The books are the caller's."""
    work.has_changed_old = True
    work.db.execute(DROP_CHUNKS, (group.first_id, group.last_id))
