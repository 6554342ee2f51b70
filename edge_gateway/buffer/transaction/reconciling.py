"""Holds the books against the chunks that are there: what the disk has damaged counts as quarantined.

What a damaged chunk says of itself may be wrong. Whose records were in it is what the books miss without it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from itertools import groupby

from edge_gateway.buffer.books import TOTALS
from edge_gateway.buffer.chunks import Damaged, counts_of
from edge_gateway.buffer.lanes import NUMBERS, lane_number
from edge_gateway.buffer.rebuild import TO_RECONCILE
from edge_gateway.buffer.transaction import quarantine
from edge_gateway.buffer.transaction.groups import DROP_CHUNKS, OUTLINES
from edge_gateway.buffer.transaction.working_copy import WorkingCopy


def set_aside(work: WorkingCopy, damaged: Sequence[Damaged]) -> None:
    """Move chunks that do not open to the quarantine as they are."""
    for number, of_lane in groupby(damaged, lambda each: lane_number(each[0].id)):
        _set_aside(work, number, list(of_lane))


def _set_aside(work: WorkingCopy, number: int, damaged: Sequence[Damaged]) -> None:
    work.has_changed_old = True
    work.lane(number).open_records = 0
    said: Counter[str] = Counter()
    for chunk, _ in damaged:
        work.db.execute(DROP_CHUNKS, (chunk.id, chunk.id))
        said.update(counts_of(chunk.counts))
    devices = {device for each, device in work.shelf.books.keys() | work.change.books.keys() if each == number}
    if _reconcile(work, number, devices) != said:
        return
    for chunk, sealed in damaged:
        quarantine.keep(work, number, chunk, sealed)


def reconcile_all(work: WorkingCopy) -> None:
    """Hold all books against what is there, after the store was rebuilt."""
    apart = work.shelf.quarantine
    _set_bytes(work, apart, quarantine.recount(work))
    devices: defaultdict[int, set[str]] = defaultdict(set)
    for number, device in work.shelf.books.keys() | work.change.books.keys():
        devices[number].add(device)
    for number in work.shelf.lanes.keys() - {apart}:
        _reconcile(work, number, devices[number])
    work.db.execute("DELETE FROM store WHERE key = ?", (TO_RECONCILE,))


def _reconcile(work: WorkingCopy, number: int, devices: Set[str]) -> Counter[str]:
    """Hold a lane's books against what is there, chunk by chunk; what is missing has been damaged.

    Args:
        work: the transaction's.
        number: of the lane.
        devices: that have books there.

    Returns:
        What is missing, by device.
    """
    change = work.change
    lane = work.shelf.lanes[number]
    there: Counter[str] = Counter()
    size_bytes = 0
    for *_, counts, size in work.db.execute(OUTLINES, (lane.chunk_id(0), lane.chunk_id(NUMBERS - 1))):
        there.update(counts_of(counts))
        size_bytes += size
    for chunk in work.placed_in[number]:  # not in the database yet
        there.update(counts_of(chunk.counts))
        size_bytes += chunk.stored_bytes
    _set_bytes(work, number, size_bytes)
    missing: Counter[str] = Counter()
    for device in sorted(devices | there.keys()):
        lacks = change.book(number, device).queued - there[device]
        if lacks > 0:
            missing[device] = lacks
        elif lacks < 0:
            change.count(number, {device: -lacks}, "received")
    change.count(number, missing, "quarantined")
    if missing:
        work.dropped[lane.plan.name, "damaged"] += missing.total()
    whole = change.whole(number)
    books = [change.book(number, device) for device in devices | there.keys()]
    for column in TOTALS:
        setattr(whole, column, sum(getattr(book, column) for book in books))
    return missing


def _set_bytes(work: WorkingCopy, number: int, size_bytes: int) -> None:
    work.change.add_bytes(number, size_bytes - work.change.seen_whole(number).bytes)
