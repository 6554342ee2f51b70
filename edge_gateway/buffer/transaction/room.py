"""Makes room for what comes in: which lane gives way, which of its routes, and what of that.

- A lane is full: it gives way itself, by its own policy. Its limit is that of all its routes together.
- The disk's limit is reached: the quarantine gives way first, then the lanes, the least urgent first, and the one that
  something comes into last.
- Of a lane the route gives way that holds most, so that none is pushed out by what lies in another.

What was just placed may be what goes.
"""

from __future__ import annotations

from edge_gateway.buffer.chunks import counts_of
from edge_gateway.buffer.lanes import Lane, LanePlan
from edge_gateway.buffer.transaction import quarantine
from edge_gateway.buffer.transaction.groups import outermost
from edge_gateway.buffer.transaction.leaving import drop, thin
from edge_gateway.buffer.transaction.working_copy import WorkingCopy


def make_room(work: WorkingCopy, lane: Lane) -> None:
    """See that what was just placed in a lane has room, or is taken back."""
    most_bytes = lane.plan.max_bytes
    while most_bytes is not None and work.change.bytes(lane.plan.name) > most_bytes:
        if not _free(work, lane.plan, lane):
            break
    if work.placed_in[lane.number]:
        make_disk_room(work, lane)


def make_disk_room(work: WorkingCopy, lane: Lane, more_pages: int = 0) -> bool:
    """Have the quarantine, less urgent lanes, and this one last, give way until all that was placed has room.

    Args:
        work: the transaction's.
        lane: what needs room.
        more_pages: that are to have room as well.

    Returns:
        Whether it has; if not, there is nothing left that may give way.
    """
    if work.has_room(more_pages):
        return True
    while quarantine.give_up_oldest(work):
        if work.has_room(more_pages):
            return True
    plans = list(work.shelf.plans.values())
    for plan in reversed(plans[work.shelf.rank[lane.plan.name] :]):
        while _free(work, plan, lane):
            if work.has_room(more_pages):
                return True
    return False


def _free(work: WorkingCopy, plan: LanePlan, needing: Lane) -> bool:
    """Have the route that holds most of a lane give something up.

    Args:
        work: the transaction's.
        plan: of the lane that gives way; its policy says what goes.
        needing: the lane that something comes into.

    Returns:
        Whether there was anything.
    """
    largest = work.change.largest(plan.name)
    while (number := largest.first()) is not None:
        if _give_way(work, work.lane(number), needing):
            return True
        largest.pass_over(number)
    return False


def _give_way(work: WorkingCopy, lane: Lane, needing: Lane) -> bool:
    """Let a lane's policy free something; False if there is nothing to free."""
    placed = work.placed_in[lane.number]
    match lane.plan.when_full:
        case "refuse":
            group = None
            which = -1 if lane is needing else None
        case "drop-newest":
            which = -1
            # What is there goes only where something comes into the same lane, of a route that holds less.
            is_larger = lane.plan is needing.plan and lane is not needing
            group = outermost(work, lane, newest=True) if is_larger and not placed else None
        case _:
            if lane.plan.when_full == "thin" and thin(work, lane):
                return True
            which = 0
            group = outermost(work, lane)
    if group is not None:
        drop(work, lane, group, "evicted")
    elif placed and which is not None:
        _take_back(work, lane, which)
    else:
        return False
    return True


def _take_back(work: WorkingCopy, lane: Lane, which: int) -> None:
    """One chunk of what was just placed counts as evicted."""
    chunk = work.take_back(lane, which)
    work.change.count(lane.number, counts_of(chunk.counts), "evicted", bytes_queued=-chunk.stored_bytes)
    work.dropped[lane.plan.name, "evicted"] += chunk.records
    lane.open_records = 0
