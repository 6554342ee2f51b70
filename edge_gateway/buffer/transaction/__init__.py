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


class Transaction(WorkingCopy):
    """What one transaction does. Make one after `BEGIN`; if anything raises, roll back and forget it.

    The steps are to be called in the order in which they stand, and at the end `write` and `finish`.
    """

    def note_time(self) -> None:
        """Remember the boot's offset as soon as the clock is trusted, and close the ledger's hour when it is over."""
        shelf = self.shelf
        if self.offset_ns is None and self.moment.offset_ns is not None:
            self.offset_ns = self.moment.offset_ns
            name = shelf.boots[shelf.boot].name
            self.db.execute(PUT_STORE, with_crc((f"boot {shelf.boot}", f"{name} {self.offset_ns}")))
        if shelf.open_hour and shelf.open_hour != self.hour:
            self._close_hour()

    def _close_hour(self) -> None:
        shelf = self.shelf
        # A device may have been in several routes of a lane, but has one account there.
        changed = set()
        books = defaultdict(list)
        for (lane, device), book in shelf.books.items():
            place = shelf.lanes[lane].plan.name, device
            books[place].append(book)
            if book.hour:
                self.change.book(lane, device).hour = 0
                changed.add(place)
        entries = [(*place, total(books[place])) for place in changed]
        self.ledger = close_hour(shelf.open_hour * _HOUR_S, entries, shelf.ledger_number, shelf.ledger_digest)
        self.db.executemany(PUT_LEDGER, self.ledger)
        head = self.ledger[-1]
        self.db.execute(PUT_STORE, with_crc(("ledger", f"{head.number} {head.digest.hex()}")))
        self.db.execute(_PRUNE_LEDGER, ((self.hour - shelf.settings.ledger_days * _HOURS_A_DAY) * _HOUR_S,))

    def settle(self, messages: Sequence[Message]) -> None:
        """Drop what the hub has confirmed."""
        shelf = self.shelf
        self.settled = messages
        for lane, route, number in dict.fromkeys(
            (each.lane, each.route, each.number) for each in messages
        ):  # no repeats
            of_lane = shelf.numbers.get((lane, route), -1)
            taken = shelf.taken.get(of_lane, {}).get(number)
            if taken is not None:
                self.change.count(of_lane, taken.counts, "delivered", bytes_queued=-taken.bytes)
                self.db.execute(DROP_CHUNKS, (taken.first_id, taken.last_id))

    def take_from_quarantine(self, chunk_ids: Iterable[int]) -> None:
        """Frames that are tried again leave the account they were in; whatever becomes of them comes in anew."""
        quarantine.take_out(self, chunk_ids)

    def expire(self) -> None:
        """Drop what is older than its lane's time to live."""
        leaving.expire(self)

    def set_aside(self, damaged: Sequence[Damaged]) -> None:
        """Move chunks that do not open to the quarantine as they are."""
        reconciling.set_aside(self, damaged)

    def reconcile_all(self) -> None:
        """Hold all books against what is there, after the store was rebuilt."""
        reconciling.reconcile_all(self)

    def append(self, batches: Sequence[Batch]) -> list[LaneFull | None]:
        """Take in records, bad frames and counts.

        Returns:
            For each batch None, or why its readings were not taken.
        """
        return appending.append(self, batches)

    def mark_given(self) -> None:
        """From now on any message of the routes that are taken may be given out, and must stay as it is."""
        shelf = self.shelf
        numbers = set(self.change.wholes)
        for route in shelf.to_mark:
            numbers.update(lane.number for lane in shelf.route_lanes(route))
        for number in sorted(numbers):
            whole = self.change.seen_whole(number)
            if whole.given == whole.chunk or number == shelf.quarantine:
                continue
            lane = self.lane(number)
            if lane.route not in shelf.giving:
                continue
            if self.offset_ns is None:
                first, last = lane.chunk_id(whole.given + 1), lane.chunk_id(whole.chunk)
                self.db.execute(_UNSURE_ARE_TOLD, (TOLD_UNSURE, first, last, shelf.boot, UNSURE))
                self.has_changed_old |= bool(self.db.changes())
            self.change.whole(number).given = whole.chunk
