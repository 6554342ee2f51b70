"""What comes in: each record gets its number and its place, in the open message of its lane or in a new one.

Records are written as JSON here, once and for all. Lanes take them in the order of their urgency, so that what is more
urgent has room first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from edge_gateway.buffer import Batch
from edge_gateway.buffer.documents import Piece, pieces_of_records
from edge_gateway.buffer.lanes import Lane
from edge_gateway.buffer.transaction import quarantine
from edge_gateway.buffer.transaction.room import make_disk_room, make_room
from edge_gateway.buffer.transaction.working_copy import WorkingCopy, pages
from edge_gateway.errors import LaneFull
from edge_gateway.records import Event, Reading

_log = structlog.get_logger()

_SEAL_BYTES: Final = 64
"""Sealing adds less than this to a payload."""


def append(work: WorkingCopy, batches: Sequence[Batch]) -> list[LaneFull | None]:
    """Take in records, bad frames and counts.

    Returns:
        For each batch None, or why its readings were not taken.
    """
    shelf = work.shelf
    refused: list[LaneFull | None] = [None] * len(batches)
    by_place: dict[tuple[str, str], list[Reading | Event]] = {}
    origins: dict[tuple[str, str], list[int]] = {}
    for index, batch in enumerate(batches):
        for name, records in _by_lane(batch, shelf.settings.event_lane, shelf.settings.reading_lane):
            by_place.setdefault((name, batch.route), []).extend(records)
            origins.setdefault((name, batch.route), []).append(index)
    for place in sorted(by_place, key=lambda place: shelf.rank[place[0]]):
        lane = work.lane_at(*place)
        if not _append_to(work, lane, by_place[place]):
            for index in origins[place]:
                refused[index] = LaneFull(
                    f"the lane {lane.plan.name} is full and refuses more",
                    where=f"buffer lane {lane.plan.name}",
                    remedy="It takes more when the hub has taken some",
                )
    for batch, error in zip(batches, refused, strict=True):
        if error is None:
            work.notes.update(batch.notes)
    reading_lane = shelf.numbers[shelf.settings.reading_lane, ""]
    for batch in batches:
        for source, count in batch.rejected:
            work.change.count(reading_lane, {source: count}, "received", "rejected")
    bad = [frame for batch in batches for frame in batch.bad]
    if bad:
        quarantine.take_in(work, reading_lane, bad)
    return refused


def _by_lane(batch: Batch, event_lane: str, reading_lane: str) -> Iterator[tuple[str, Sequence[Reading | Event]]]:
    if not batch.records:
        return
    events = [record for record in batch.records if isinstance(record, Event)]
    if not events:
        yield batch.lane or reading_lane, batch.records
        return
    yield event_lane, events
    readings = [record for record in batch.records if isinstance(record, Reading)]
    if readings:
        yield batch.lane or reading_lane, readings


def _append_to(work: WorkingCopy, lane: Lane, records: Sequence[Reading | Event]) -> bool:
    """Place records, and make room for them; False if the lane is full and refuses."""
    shelf, change, plan = work.shelf, work.change, lane.plan
    if plan.ttl_s is not None and not change.seen_whole(lane.number).queued:
        lane.look_at_s = work.uptime_s + plan.ttl_s
    seqs = dict(change.seqs)
    pieces = list(
        pieces_of_records(
            records,
            shelf.seqs,
            seqs,
            floor=shelf.number_floor,
            boot=shelf.boots[shelf.boot].name,
            most_records=plan.most_records,
            most_bytes=shelf.settings.max_message_bytes,
        )
    )
    if plan.when_full == "refuse":
        sizes = [len(piece.payload) + _SEAL_BYTES for piece in pieces]
        if plan.max_bytes is not None and change.bytes(plan.name) + sum(sizes) > plan.max_bytes:
            return False
        if not make_disk_room(work, lane, sum(map(pages, sizes))):
            return False
    change.seqs = seqs
    for piece in pieces:
        _place(work, lane, piece)
    make_room(work, lane)
    return True


def _place(work: WorkingCopy, lane: Lane, piece: Piece) -> None:
    """Give a piece its place: in the open message if there is room, else in a new one."""
    change = work.change
    if not piece.payload:
        change.count(lane.number, piece.counts, "received", "rejected")
        device = next(iter(piece.counts))
        _log.warning("buffer.record_rejected", device=device, reason="does not fit a message as JSON")
        return
    whole = change.whole(lane.number)
    records = sum(piece.counts.values())
    if (
        lane.open_records
        and lane.open_records + records <= lane.plan.most_records
        and lane.open_bytes + len(piece.payload) < work.shelf.settings.max_message_bytes
    ):
        lane.open_records += records
        lane.open_bytes += len(piece.payload) + 1
    else:
        whole.last += 1
        lane.open_first_chunk = whole.chunk + 1
        lane.open_records = records
        lane.open_bytes = len(piece.payload) + 2
        lane.open_since_s = work.uptime_s
    chunk = work.seal(lane, whole.last, piece)
    change.count(lane.number, piece.counts, "received", bytes_queued=chunk.stored_bytes)
