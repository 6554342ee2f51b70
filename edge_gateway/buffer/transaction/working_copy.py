"""What a transaction works on: the shelf as it will be, beside the shelf as it is.

Everything is decided here and done in the database at once; the shelf in memory is changed only when the database has
committed. A transaction that fails leaves no trace: whoever has its working copy forgets it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import orjson
import structlog

from edge_gateway.buffer.books import Change, with_crc
from edge_gateway.buffer.chunks import SURE, TOLD_UNSURE, UNSURE, Chunk, context
from edge_gateway.buffer.database import PAGE_BYTES, PUT_BOOK, PUT_CHUNK, PUT_STORE
from edge_gateway.buffer.documents import Piece
from edge_gateway.buffer.lanes import MOST_LANES, Lane, lane_key, name_on_disk
from edge_gateway.buffer.ledger import LedgerRow
from edge_gateway.buffer.shelf import Moment, Shelf
from edge_gateway.clock import NS_PER_S
from edge_gateway.records import Message

_log = structlog.get_logger()

_HOUR_NS: Final = 3600 * NS_PER_S

_FRESH_BYTES: Final = 64 * 1024
"""What a transaction appended is kept in memory up to this size."""

_LOG_EVERY_S: Final = 60.0
"""A full lane drops with every transaction, which need not all be told."""

_SPARE_PAGES: Final = 16
"""For books and branches, on top of what payloads need."""

_FEW_SPARE_PAGES: Final = 4
"""The same on a full disk, where lanes have to give them."""


class WorkingCopy:
    """A shelf with the changes of one transaction, which is under way in the database.

    Args:
        shelf: the store as it is.
        moment: the clock.
    """

    def __init__(self, shelf: Shelf, moment: Moment) -> None:
        self.shelf = shelf
        self.db = shelf.db
        self.moment = moment
        self.uptime_s = moment.uptime_ns / NS_PER_S
        hour = moment.now_ns // _HOUR_NS
        self.hour = hour if moment.is_trusted and hour > 0 else shelf.open_hour or max(1, hour)
        """Since 1970, for the ledger."""
        self.offset_ns = shelf.boots[shelf.boot].offset_ns
        """Of the running boot; see `Boot`."""
        self.change = Change(shelf.books, shelf.sums, shelf.lanes, self.hour)
        """To the books."""
        self.placed_in: defaultdict[int, list[Chunk]] = defaultdict(list)
        """The chunks that came in, by lane; `write` puts them in the database."""
        self.notes: dict[str, str] = {}
        self.ledger: list[LedgerRow] = []
        """Those of an hour that was closed."""
        self.settled: Sequence[Message] = ()
        self.has_changed_old = False
        """Whether chunks left or changed that are held in memory."""
        self.dropped: Counter[tuple[str, str]] = Counter()
        """Records, by lane and reason, for the log."""
        self._lanes: dict[int, Lane] = {}
        """Those that this transaction writes to, and its new ones."""
        self._opened_lanes: dict[tuple[str, str], int] = {}
        """The numbers of its new ones, by name and route."""
        self._placed: list[Chunk] = []
        self._rows: list[tuple[object, ...]] = []
        """The chunks placed, sealed."""
        self._placed_pages = 0

    # --- lanes -----------------------------------------------------------------------------------------------------

    def lane(self, number: int) -> Lane:
        """A lane, to be written to."""
        lane = self._lanes.get(number)
        if lane is None:
            self._lanes[number] = lane = self.shelf.lanes[number].copy()
        return lane

    def lane_at(self, name: str, route: str) -> Lane:
        """The lane of a route, to be written to; a new one if it has none yet."""
        shelf, place = self.shelf, (name, route)
        number = shelf.numbers.get(place, self._opened_lanes.get(place))
        if number is None:
            number = shelf.next_number + len(self._opened_lanes)
            if number >= MOST_LANES:
                # Better under the gateway's identity than not at all.
                _log.error("buffer.too_many_routes", lane=name, route=route, most_lanes=MOST_LANES)
                return self.lane_at(name, "")
            self._opened_lanes[place] = number
            self._lanes[number] = Lane(shelf.plans[name], number, route, taken_to=shelf.number_floor)
            self.change.open(self._lanes[number], shelf.number_floor)
        return self.lane(number)

    # --- chunks ----------------------------------------------------------------------------------------------------

    def seal(self, lane: Lane, message: int, piece: Piece) -> Chunk:
        """Place a piece as the next chunk of a lane."""
        shelf, chunk_id = self.shelf, self.next_id(lane)
        records, counts = sum(piece.counts.values()), orjson.dumps(piece.counts)
        sealed = shelf.sealer.seal(piece.payload, context(chunk_id, message, records, counts))
        clock = SURE
        if not piece.is_sure:
            clock = TOLD_UNSURE if lane.route in shelf.giving and self.offset_ns is None else UNSURE
        uptime_ms = self.moment.uptime_ns // 1_000_000
        chunk = Chunk(chunk_id, message, records, shelf.boot, uptime_ms, clock, counts, piece.payload, len(sealed))
        self.put(lane, chunk, sealed)
        return chunk

    def next_id(self, lane: Lane) -> int:
        """The id of the next chunk of a lane."""
        whole = self.change.whole(lane.number)
        whole.chunk += 1
        return lane.chunk_id(whole.chunk)

    def put(self, lane: Lane, chunk: Chunk, sealed: bytes) -> None:
        """Place a chunk that is sealed already."""
        self._placed.append(chunk)
        self.placed_in[lane.number].append(chunk)
        self._placed_pages += pages(chunk.stored_bytes)
        self._rows.append((*chunk[:7], sealed))

    def take_back(self, lane: Lane, which: int) -> Chunk:
        """There is no room for all that was just placed: give one chunk of it up. The books are the caller's.

        Args:
            lane: whose.
            which: 0 for the oldest, -1 for the newest.
        """
        chunk = self.placed_in[lane.number].pop(which)
        at = self._placed.index(chunk)
        del self._placed[at], self._rows[at]
        self._placed_pages -= pages(chunk.stored_bytes)
        self.has_changed_old = True
        return chunk

    def has_room(self, more_pages: int = 0) -> bool:
        """Whether the disk's limit leaves room for what was placed, and so many pages more."""
        space = self.shelf.space
        spare_pages = _FEW_SPARE_PAGES if space.is_frozen else _SPARE_PAGES
        return space.has_room(self._placed_pages + more_pages + spare_pages)

    # --- the end ---------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Put in the database what is not there yet."""
        self.db.executemany(PUT_CHUNK, self._rows)
        self.db.executemany(PUT_BOOK, self.change.rows())
        if self._opened_lanes:
            lanes = self._opened_lanes.items()
            names = [with_crc((lane_key(number), name_on_disk(*place))) for place, number in lanes]
            self.db.executemany(PUT_STORE, names)
        if self.notes:
            self.db.executemany(PUT_STORE, [with_crc((f"note {name}", text)) for name, text in self.notes.items()])

    def finish(self) -> None:
        """The database has committed: change the shelf."""
        shelf, change = self.shelf, self.change
        shelf.lanes.update(self._lanes)  # first: what else there is of them is looked at by another thread
        shelf.sums.update(change.wholes, shelf.lanes)
        if self._opened_lanes:
            shelf.numbers.update(self._opened_lanes)
            shelf.next_number += len(self._opened_lanes)
        shelf.books.update(change.books)
        shelf.to_mark.clear()
        for number in self._lanes.keys() | change.wholes.keys():
            at_work = shelf.lanes[number]
            shelf.note_expiry(at_work)
            if at_work.taken_to < shelf.whole(number).chunk and number != shelf.quarantine:
                shelf.to_give.add(number)
        shelf.seqs.update(change.seqs)
        shelf.notes.update(self.notes)
        shelf.boots[shelf.boot].offset_ns = self.offset_ns
        if self.ledger:
            shelf.ledger_number, shelf.ledger_digest = self.ledger[-1].number, self.ledger[-1].digest
        if any(book.hour for book in change.books.values()):
            shelf.open_hour = self.hour
        elif self.ledger:
            shelf.open_hour = 0
        if self._placed or self.settled or self.has_changed_old:
            keep = not self.has_changed_old and sum(len(chunk.payload) for chunk in self._placed) <= _FRESH_BYTES
            shelf.fresh = {chunk.id: chunk for chunk in self._placed} if keep else {}
        for message in self.settled:
            number = shelf.numbers.get((message.lane, message.route), -1)
            shelf.taken.get(number, {}).pop(message.number, None)
        self._log_dropped()

    def _log_dropped(self) -> None:
        shelf = self.shelf
        if self.dropped:
            shelf.unlogged.update(self.dropped)
        if shelf.unlogged and self.uptime_s >= shelf.next_log_s:
            shelf.next_log_s = self.uptime_s + _LOG_EVERY_S
            for (lane, reason), records in shelf.unlogged.items():
                _log.warning("buffer.dropped", lane=lane, reason=reason, records=records)
            shelf.unlogged.clear()


def pages(size_bytes: int) -> int:
    """Pages that a payload fills, generously."""
    return size_bytes // PAGE_BYTES + 1
