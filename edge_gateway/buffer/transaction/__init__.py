"""One transaction of the store: what leaves, what makes room, what comes in, and the books of all of it.

| Step | Where |
| --- | --- |
| `settle` | here: what the hub has confirmed |
| `take_from_quarantine` | `quarantine.py`: bad frames, and damaged chunks |
| `expire` | `leaving.py`: what is too old, evicted or thinned out; `groups.py`: what leaves together or not at all |
| `set_aside`, `reconcile_all` | `reconciling.py`: the books against what is there |
| `append` | `appending.py`: records get their places; `room.py`: who gives way to them |
| `mark_given` | here: what may be with the hub from now on, and never changes again |
| `write`, `finish` | `working_copy.py`: the shelf as it will be, taken over once the database has committed |

Each of these modules is some plain functions on the working copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from edge_gateway.buffer import Batch
from edge_gateway.buffer.books import total, with_crc
from edge_gateway.buffer.chunks import TOLD_UNSURE, UNSURE, Damaged
from edge_gateway.buffer.database import PUT_LEDGER, PUT_STORE
from edge_gateway.buffer.ledger import close_hour
from edge_gateway.buffer.shelf import Moment, Shelf
from edge_gateway.buffer.transaction import appending, leaving, quarantine, reconciling
from edge_gateway.buffer.transaction.groups import DROP_CHUNKS
from edge_gateway.buffer.transaction.working_copy import WorkingCopy
from edge_gateway.errors import LaneFull
from edge_gateway.records import Message

Steps: TypeAlias = "Callable[[Transaction], list[LaneFull | None]]"
"""What a transaction shall do; returns for each batch appended None, or why its readings were not taken."""

_UNSURE_ARE_TOLD: Final = "UPDATE chunk SET clock = ? WHERE id BETWEEN ? AND ? AND boot = ? AND clock = ?"
_PRUNE_LEDGER: Final = "DELETE FROM ledger WHERE number < (SELECT min(number) FROM ledger WHERE hour >= ?)"
_HOURS_A_DAY: Final = 24
_HOUR_S: Final = 3600


class Transaction:
    """What one transaction does. Make one after `BEGIN`; if anything raises, roll back and forget it.

    The methods are to be called in the order in which they stand.

    Args:
        shelf: the store as it is.
        moment: the clock.
    """

    def __init__(self, shelf: Shelf, moment: Moment) -> None:
        self._shelf = shelf
        self._work = WorkingCopy(shelf, moment)

    def note_time(self) -> None:
        """Remember the boot's offset as soon as the clock is trusted, and close the ledger's hour when it is over."""
        shelf, work = self._shelf, self._work
        if work.offset_ns is None and work.moment.offset_ns is not None:
            work.offset_ns = work.moment.offset_ns
            name = shelf.boots[shelf.boot].name
            work.db.execute(PUT_STORE, with_crc((f"boot {shelf.boot}", f"{name} {work.offset_ns}")))
        if shelf.open_hour and shelf.open_hour != work.hour:
            self._close_hour()

    def _close_hour(self) -> None:
        shelf, work = self._shelf, self._work
        # A device may have been in several routes of a lane, but has one account there.
        changed = set()
        books = defaultdict(list)
        for (lane, device), book in shelf.books.items():
            place = shelf.lanes[lane].plan.name, device
            books[place].append(book)
            if book.hour:
                work.change.book(lane, device).hour = 0
                changed.add(place)
        entries = [(*place, total(books[place])) for place in changed]
        work.ledger = close_hour(shelf.open_hour * _HOUR_S, entries, shelf.ledger_number, shelf.ledger_digest)
        work.db.executemany(PUT_LEDGER, work.ledger)
        head = work.ledger[-1]
        work.db.execute(PUT_STORE, with_crc(("ledger", f"{head.number} {head.digest.hex()}")))
        work.db.execute(_PRUNE_LEDGER, ((work.hour - shelf.settings.ledger_days * _HOURS_A_DAY) * _HOUR_S,))

    def settle(self, messages: Sequence[Message]) -> None:
        """Drop what the hub has confirmed."""
        shelf, work = self._shelf, self._work
        work.settled = messages
        for lane, route, number in dict.fromkeys(
            (each.lane, each.route, each.number) for each in messages
        ):  # no repeats
            of_lane = shelf.numbers.get((lane, route), -1)
            taken = shelf.taken.get(of_lane, {}).get(number)
            if taken is not None:
                work.change.count(of_lane, taken.counts, "delivered", bytes_queued=-taken.bytes)
                work.db.execute(DROP_CHUNKS, (taken.first_id, taken.last_id))

    def take_from_quarantine(self, chunk_ids: Iterable[int]) -> None:
        """Frames that are tried again leave the account they were in; whatever becomes of them comes in anew."""
        quarantine.take_out(self._work, chunk_ids)

    def expire(self) -> None:
        """Drop what is older than its lane's time to live."""
        leaving.expire(self._work)

    def set_aside(self, damaged: Sequence[Damaged]) -> None:
        """Move chunks that do not open to the quarantine as they are."""
        reconciling.set_aside(self._work, damaged)

    def reconcile_all(self) -> None:
        """Hold all books against what is there, after the store was rebuilt."""
        reconciling.reconcile_all(self._work)

    def append(self, batches: Sequence[Batch]) -> list[LaneFull | None]:
        """Take in records, bad frames and counts.

        Returns:
            For each batch None, or why its readings were not taken.
        """
        return appending.append(self._work, batches)

    def mark_given(self) -> None:
        """From now on any message of the routes that are taken may be given out, and must stay as it is."""
        shelf, work = self._shelf, self._work
        numbers = set(work.change.wholes)
        for route in shelf.to_mark:
            numbers.update(lane.number for lane in shelf.route_lanes(route))
        for number in sorted(numbers):
            whole = work.change.seen_whole(number)
            if whole.given == whole.chunk or number == shelf.quarantine:
                continue
            lane = work.lane(number)
            if lane.route not in shelf.giving:
                continue
            if work.offset_ns is None:
                first, last = lane.chunk_id(whole.given + 1), lane.chunk_id(whole.chunk)
                work.db.execute(_UNSURE_ARE_TOLD, (TOLD_UNSURE, first, last, shelf.boot, UNSURE))
                work.has_changed_old |= bool(work.db.changes())
            work.change.whole(number).given = whole.chunk

    def write(self) -> None:
        """Put in the database what is not there yet."""
        self._work.write()

    def finish(self) -> None:
        """The database has committed: change the shelf."""
        self._work.take_over()
