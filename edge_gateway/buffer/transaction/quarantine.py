"""The quarantine: frames that could not become readings, and chunks that the disk has damaged.

Its chunks are in a lane of their own, which is never taken from. In the place of a message's number they have that of
the lane they came from, in whose account, as quarantined, their frames or records are. What the quarantine has no room
for is given up, the oldest first, and counted as rejected there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from edge_gateway.buffer import BadFrame
from edge_gateway.buffer.books import Key
from edge_gateway.buffer.chunks import DAMAGED, Chunk, counts_of
from edge_gateway.buffer.documents import pieces_of_bad_frames
from edge_gateway.buffer.lanes import NUMBERS, Lane, lane_number
from edge_gateway.buffer.transaction.groups import (
    DROP_CHUNKS,
    FIRST_OUTLINE,
    OUTLINES,
    damaged_of,
    outermost,
    remove,
)
from edge_gateway.buffer.transaction.working_copy import WorkingCopy


def take_in(work: WorkingCopy, origin: int, frames: Sequence[BadFrame]) -> None:
    """Keep bad frames.

    Args:
        work: the transaction's.
        origin: number of the lane in whose account they are.
        frames: in order.
    """
    lane = work.lane(work.shelf.quarantine)
    for piece in pieces_of_bad_frames(
        frames,
        most_records=lane.plan.most_records,
        most_bytes=work.shelf.settings.max_message_bytes,
    ):
        work.change.count(origin, piece.counts, "received")
        if not lane.plan.max_bytes or not piece.payload:
            work.change.count(origin, piece.counts, "rejected")
            continue
        work.change.count(origin, piece.counts, "quarantined")
        chunk = work.seal(lane, origin, piece)
        work.change.add_bytes(lane.number, chunk.stored_bytes)
        _make_lane_room(work, lane)
        if work.placed_in[lane.number]:
            _make_disk_room(work)


def keep(work: WorkingCopy, origin: int, chunk: Chunk, sealed: bytes) -> None:
    """Keep a damaged chunk as it is, whose records count as quarantined already.

    Args:
        work: the transaction's.
        origin: number of the lane that it was in.
        chunk: as it was there.
        sealed: its payload.
    """
    lane = work.lane(work.shelf.quarantine)
    if lane.plan.max_bytes and len(sealed) <= lane.plan.max_bytes:
        row = chunk._replace(id=work.next_id(lane), message=origin, clock=DAMAGED)
        work.change.add_bytes(lane.number, len(sealed))
        work.put(lane, row, sealed)
        _make_lane_room(work, lane)
    else:
        _reject(work, origin, counts_of(chunk.counts), 0)


def take_out(work: WorkingCopy, chunk_ids: Iterable[int]) -> None:
    """Frames that are tried again leave the account they were in; whatever becomes of them comes in anew."""
    for chunk_id in chunk_ids:
        row = work.db.execute(FIRST_OUTLINE, (chunk_id - 1, chunk_id)).fetchone()
        if row is not None and lane_number(chunk_id) == work.shelf.quarantine:
            _, origin, _, _, counts, size_bytes = row
            taken_out = {device: -records for device, records in counts_of(counts).items()}
            work.change.count(origin, taken_out, "received", "quarantined")
            work.change.add_bytes(work.shelf.quarantine, -size_bytes)
            work.db.execute(DROP_CHUNKS, (chunk_id, chunk_id))


def give_up_oldest(work: WorkingCopy) -> bool:
    """Make some room; False if there is nothing to give up."""
    lane = work.lane(work.shelf.quarantine)
    if not work.change.seen_whole(lane.number).bytes:
        return False
    group = outermost(work, lane)
    if group is not None:
        damaged_of(work, group)  # what does not open goes as well, unless its row must not be removed
        remove(work, group)
        _reject(work, group.message, group.counts, group.bytes)
    elif work.placed_in[lane.number]:
        chunk = work.take_back(lane, 0)
        _reject(work, chunk.message, counts_of(chunk.counts), chunk.stored_bytes)
    else:
        return False
    return True


def recount(work: WorkingCopy) -> int:
    """Count as quarantined what is here and in no account, after the store was rebuilt; how many bytes there are."""
    lane = work.shelf.lanes[work.shelf.quarantine]
    frames: Counter[Key] = Counter()
    size_bytes = 0
    for _, origin, _, _, counts, size in work.db.execute(OUTLINES, (lane.chunk_id(0), lane.chunk_id(NUMBERS - 1))):
        frames.update({(origin, source): count for source, count in counts_of(counts).items()})
        size_bytes += size
    for (origin, source), count in frames.items():
        unknown = count - work.change.book(origin, source).quarantined
        if unknown > 0:
            work.change.count(origin, {source: unknown}, "received", "quarantined")
    return size_bytes


def _make_lane_room(work: WorkingCopy, lane: Lane) -> None:
    most_bytes = lane.plan.max_bytes
    while most_bytes is not None and work.change.bytes(lane.plan.name) > most_bytes:
        if not give_up_oldest(work):
            return


def _make_disk_room(work: WorkingCopy) -> None:
    """Nothing else gives way to the quarantine."""
    while not work.has_room():
        if not give_up_oldest(work):
            return


def _reject(work: WorkingCopy, origin: int, counts: Mapping[str, int], size_bytes: int) -> None:
    """What the quarantine gives up has been rejected for good, in the account that it came from."""
    work.change.add_bytes(work.shelf.quarantine, -size_bytes)
    # A row that the disk has damaged may name others than those in whose account it is.
    counts = {name: n for name, n in counts.items() if n <= work.change.book(origin, name).quarantined}
    work.change.count(origin, {name: -records for name, records in counts.items()}, "quarantined")
    work.change.count(origin, counts, "rejected")
