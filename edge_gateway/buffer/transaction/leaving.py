"""What leaves by a policy: what is too old, what has to give way, and what is thinned out. All of it is counted."""

from __future__ import annotations

from math import inf
from typing import Final

import orjson

from edge_gateway.buffer.chunks import CHUNKS, context, counts_of, damaged_chunk, payload_of
from edge_gateway.buffer.corrections import age_s
from edge_gateway.buffer.documents import thinned
from edge_gateway.buffer.lanes import Lane
from edge_gateway.buffer.transaction.groups import DROP_CHUNKS, Group, damaged_of, outermost, remove
from edge_gateway.buffer.transaction.reconciling import set_aside
from edge_gateway.buffer.transaction.working_copy import WorkingCopy
from edge_gateway.errors import KeyStoreError, PayloadDamaged

_FIRST_CHUNK: Final = f"{CHUNKS} LIMIT 1"
_REWRITE_CHUNK: Final = "UPDATE chunk SET records = ?, counts = ?, payload = ? WHERE id = ?"


def expire(work: WorkingCopy) -> None:
    """Drop what is older than its lane's time to live."""
    shelf = work.shelf
    has_learnt = work.offset_ns != shelf.boots[shelf.boot].offset_ns
    for number in shelf.expiry.up_to(inf if has_learnt else work.uptime_s):
        lane = work.lane(number)
        ttl_s = lane.plan.ttl_s
        if ttl_s is None:
            continue
        lane.look_at_s = work.uptime_s + ttl_s
        while (oldest := outermost(work, lane)) is not None:
            age = _age_s(work, oldest)
            if age <= ttl_s:
                lane.look_at_s = work.uptime_s + ttl_s - age
                break
            drop(work, lane, oldest, "expired")


def drop(work: WorkingCopy, lane: Lane, group: Group, reason: str) -> None:
    """Take a group off the store and count it; what of it is damaged is set aside, and the rest looked at anew.

    Args:
        work: the transaction's.
        lane: whose; not the quarantine.
        group: of that lane.
        reason: the column of the account, `expired` or `evicted`.
    """
    damaged = damaged_of(work, group)
    if damaged:
        set_aside(work, damaged)
        return
    remove(work, group)
    if group.message == work.change.seen_whole(lane.number).last:
        lane.open_records = 0
    work.change.count(lane.number, group.counts, reason, bytes_queued=-group.bytes)
    work.dropped[lane.plan.name, reason] += sum(group.counts.values())


def thin(work: WorkingCopy, lane: Lane) -> bool:
    """Thin the next chunk of the lane's round out; False if no chunk may be changed."""
    whole = work.change.whole(lane.number)
    end = lane.chunk_id(whole.chunk)
    for _ in range(2):
        start = lane.chunk_id(max(whole.thinned, whole.given))
        row = work.db.execute(_FIRST_CHUNK, (start, end)).fetchone()
        if row is not None:
            break
        whole.thinned = 0
    else:
        return False
    chunk_id, message, records, *_, counts, sealed = row
    whole.thinned = lane.chunk_number(chunk_id)
    sealer = work.shelf.sealer
    try:
        payload = payload_of(row, sealer)
    except PayloadDamaged:
        set_aside(work, [damaged_chunk(row)])
        return True
    except KeyStoreError:
        return False  # what cannot be opened now cannot be thinned: the oldest has to go
    piece = thinned(payload, lane.plan.keep_every, lane.seen)
    before = counts_of(counts)
    gone = {device: n for device, count in before.items() if (n := count - piece.counts.get(device, 0))}
    if not gone:
        return True
    work.has_changed_old = True
    work.dropped[lane.plan.name, "thinned"] += sum(gone.values())
    lane.open_records = 0
    if not piece.payload:
        work.db.execute(DROP_CHUNKS, (chunk_id, chunk_id))
        work.change.count(lane.number, gone, "evicted", bytes_queued=-len(sealed))
        return True
    records, counts = sum(piece.counts.values()), orjson.dumps(piece.counts)
    rewritten = sealer.seal(piece.payload, context(chunk_id, message, records, counts))
    work.db.execute(_REWRITE_CHUNK, (records, counts, rewritten, chunk_id))
    work.change.count(lane.number, gone, "evicted", bytes_queued=len(rewritten) - len(sealed))
    return True


def _age_s(work: WorkingCopy, group: Group) -> float:
    shelf = work.shelf
    offsets_ns = {number: boot.offset_ns for number, boot in shelf.boots.items()}
    offsets_ns[shelf.boot] = work.offset_ns
    return age_s(group.boot, group.uptime_ms / 1000, shelf.boot, work.uptime_s, offsets_ns)
