"""One transaction of the store: what leaves, what makes room, what comes in, and the books of all of it.

Everything is decided here and done in the database at once; the shelf in memory is changed only when the database has
committed. What has been given out to the uplink is never changed: `Lane.taken_to` tells what is on its way now, and
`Book.given` what may have been on its way before a crash, and leaves as a whole message or not at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import groupby
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

import orjson
import structlog

from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.books import TOTALS, Change, Key, total, with_crc
from edge_gateway.buffer.chunks import (
    DAMAGED,
    SURE,
    TOLD_UNSURE,
    UNSURE,
    Chunk,
    Damaged,
    are_numbers,
    context,
    counts_of,
    damaged_chunk,
    is_whole,
    payload_of,
)
from edge_gateway.buffer.corrections import age_s
from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.documents import Piece, pieces_of_bad_frames, pieces_of_records, thinned
from edge_gateway.buffer.lanes import (
    MOST_LANES,
    NUMBERS,
    Lane,
    LanePlan,
    lane_key,
    lane_number,
    name_on_disk,
)
from edge_gateway.buffer.ledger import LedgerRow, close_hour
from edge_gateway.buffer.rebuild import TO_RECONCILE
from edge_gateway.buffer.shelf import Moment, Shelf
from edge_gateway.clock import NS_PER_S
from edge_gateway.errors import BufferDamaged, KeyStoreError, LaneFull, PayloadDamaged
from edge_gateway.records import Event, Message, Reading

_log = structlog.get_logger()

PUT_CHUNK: Final = "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
PUT_BOOK: Final = "INSERT OR REPLACE INTO book VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_LEDGER: Final = "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
PUT_STORE: Final = "INSERT OR REPLACE INTO store VALUES (?, ?, ?)"
_REWRITE_CHUNK: Final = "UPDATE chunk SET records = ?, counts = ?, payload = ? WHERE id = ?"
_DROP_CHUNKS: Final = "DELETE FROM chunk WHERE id BETWEEN ? AND ?"
_UNSURE_ARE_TOLD: Final = "UPDATE chunk SET clock = ? WHERE id BETWEEN ? AND ? AND boot = ? AND clock = ?"
_OUTLINES: Final = "SELECT id, message, boot, uptime_ms, counts, length(payload) FROM chunk WHERE id > ? AND id <= ?"
_FIRST_OUTLINE: Final = f"{_OUTLINES} ORDER BY id LIMIT 1"
_LAST_OUTLINE: Final = f"{_OUTLINES} ORDER BY id DESC LIMIT 1"
_OUTLINES_OF_MESSAGE: Final = f"{_OUTLINES} AND message = ? ORDER BY id"
_CHUNK: Final = "SELECT * FROM chunk WHERE id > ? AND id <= ? ORDER BY id LIMIT 1"
_CHUNKS: Final = "SELECT * FROM chunk WHERE id BETWEEN ? AND ?"
_PRUNE_LEDGER: Final = "DELETE FROM ledger WHERE number < (SELECT min(number) FROM ledger WHERE hour >= ?)"

_HOUR_NS: Final = 3600 * NS_PER_S
_HOURS_A_DAY: Final = 24

_FRESH_BYTES: Final = 64 * 1024
"""What a transaction appended is kept in memory up to this size."""

_LOG_EVERY_S: Final = 60.0
"""A full lane drops with every transaction, which need not all be told."""

_SEAL_BYTES: Final = 64
"""Sealing adds less than this to a payload."""

_SPARE_PAGES: Final = 16
"""For books and branches, on top of what payloads need."""

_FEW_SPARE_PAGES: Final = 4
"""The same on a full disk, where lanes have to give them."""

_Records: TypeAlias = Sequence[Reading | Event]

Steps: TypeAlias = "Callable[[Transaction], list[LaneFull | None]]"
"""What a transaction shall do; returns for each batch appended None, or why its readings were not taken."""


class _Group(NamedTuple):
    """Chunks that leave together: a message that may have been given out, or a chunk of one that never was."""

    first_id: int
    last_id: int
    message: int
    counts: dict[str, int]
    bytes: int
    boot: int
    uptime_ms: int
    """Of the youngest."""


class Transaction:
    """What one transaction does. Make one after `BEGIN`; if anything raises, roll back and forget it.

    The methods are to be called in the order in which they stand.

    Args:
        shelf: the store as it is.
        moment: the clock.
    """

    def __init__(self, shelf: Shelf, moment: Moment) -> None:
        self._shelf = shelf
        self._db = shelf.db
        self._moment = moment
        self._uptime_s = moment.uptime_ns / NS_PER_S
        hour = moment.now_ns // _HOUR_NS
        self._hour = hour if moment.is_trusted and hour > 0 else shelf.open_hour or max(1, hour)
        self._lanes: dict[int, Lane] = {}
        """Those that this transaction writes to, and its new ones."""
        self._change = Change(shelf.books, shelf.sums, shelf.lanes, shelf.seqs, self._hour)
        self._opened_lanes: dict[tuple[str, str], int] = {}
        """The numbers of its new ones, by name and route."""
        self._placed: list[Chunk] = []
        self._placed_in: defaultdict[int, list[Chunk]] = defaultdict(list)
        """The same by lane."""
        self._rows: list[tuple[object, ...]] = []
        """The chunks placed, sealed."""
        self._placed_pages = 0
        self._offset_ns = shelf.boots[shelf.boot].offset_ns
        self._ledger: list[LedgerRow] = []
        self._notes: dict[str, str] = {}
        self._settled: Sequence[Message] = ()
        self._changed_old = False
        """Whether chunks left or changed that are held in memory."""
        self._dropped: Counter[tuple[str, str]] = Counter()
        """Records, by lane and reason, for the log."""

    def note_time(self) -> None:
        """Remember the boot's offset as soon as the clock is trusted, and close the ledger's hour when it is over."""
        shelf = self._shelf
        if self._offset_ns is None and self._moment.offset_ns is not None:
            self._offset_ns = self._moment.offset_ns
            name = shelf.boots[shelf.boot].name
            self._db.execute(PUT_STORE, with_crc((f"boot {shelf.boot}", f"{name} {self._offset_ns}")))
        if shelf.open_hour and shelf.open_hour != self._hour:
            self._close_hour()

    def _close_hour(self) -> None:
        shelf = self._shelf
        # A device may have been in several routes of a lane, but has one account there.
        changed = set()
        books = defaultdict(list)
        for (lane, device), book in shelf.books.items():
            place = shelf.lanes[lane].plan.name, device
            books[place].append(book)
            if book.hour:
                self._change.book(lane, device).hour = 0
                changed.add(place)
        entries = [(*place, total(books[place])) for place in changed]
        self._ledger = close_hour(shelf.open_hour * 3600, entries, shelf.ledger_number, shelf.ledger_digest)
        self._db.executemany(PUT_LEDGER, self._ledger)
        head = self._ledger[-1]
        self._db.execute(PUT_STORE, with_crc(("ledger", f"{head.number} {head.digest.hex()}")))
        self._db.execute(_PRUNE_LEDGER, ((self._hour - shelf.settings.ledger_days * _HOURS_A_DAY) * 3600,))

    # --- what leaves -----------------------------------------------------------------------------------------------

    def settle(self, messages: Sequence[Message]) -> None:
        """Drop what the hub has confirmed."""
        self._settled = messages
        numbers = self._shelf.numbers
        for lane, route, number in dict.fromkeys(
            (each.lane, each.route, each.number) for each in messages
        ):  # no repeats
            of_lane = numbers.get((lane, route), -1)
            taken = self._shelf.taken.get(of_lane, {}).get(number)
            if taken is not None:
                self._change.count(of_lane, taken.counts, "delivered", bytes_queued=-taken.bytes)
                self._db.execute(_DROP_CHUNKS, (taken.first_id, taken.last_id))

    def take_from_quarantine(self, chunk_ids: Iterable[int]) -> None:
        """Frames that are tried again leave the account they were in; whatever becomes of them comes in anew."""
        for chunk_id in chunk_ids:
            row = self._db.execute(_FIRST_OUTLINE, (chunk_id - 1, chunk_id)).fetchone()
            if row is not None and lane_number(chunk_id) == self._shelf.quarantine:
                _, origin, _, _, counts, size = row
                taken_out = {device: -records for device, records in counts_of(counts).items()}
                self._change.count(origin, taken_out, "received", "quarantined")
                self._change.add_bytes(self._shelf.quarantine, -size)
                self._db.execute(_DROP_CHUNKS, (chunk_id, chunk_id))

    def expire(self) -> None:
        """Drop what is older than its lane's time to live."""
        has_learnt = self._offset_ns != self._shelf.boots[self._shelf.boot].offset_ns
        for number in self._shelf.expiry.up_to(inf if has_learnt else self._uptime_s):
            lane = self._lane(number)
            ttl_s = lane.plan.ttl_s
            if ttl_s is None:
                continue
            lane.look_at_s = self._uptime_s + ttl_s
            while (oldest := self._outermost(lane)) is not None:
                age = self._age_s(oldest)
                if age <= ttl_s:
                    lane.look_at_s = self._uptime_s + ttl_s - age
                    break
                self._drop(lane, oldest, "expired")

    def set_aside(self, damaged: Sequence[Damaged]) -> None:
        """Move chunks that do not open to the quarantine as they are.

        What a damaged chunk says of itself may be wrong. Whose records were in it is what the books miss without it.
        """
        for number, of_lane in groupby(damaged, lambda each: lane_number(each[0].id)):
            self._set_aside(self._lane(number), list(of_lane))

    def _set_aside(self, lane: Lane, damaged: Sequence[Damaged]) -> None:
        self._changed_old = True
        lane.open_records = 0
        said: Counter[str] = Counter()
        for chunk, _ in damaged:
            self._db.execute(_DROP_CHUNKS, (chunk.id, chunk.id))
            said.update(counts_of(chunk.counts))
        if self.reconcile(lane.number) != said:
            return
        for chunk, sealed in damaged:
            self._quarantine(lane.number, chunk, sealed)

    def _quarantine(self, origin: int, chunk: Chunk, sealed: bytes) -> None:
        quarantine = self._lane(self._shelf.quarantine)
        if quarantine.plan.max_bytes and len(sealed) <= quarantine.plan.max_bytes:
            row = chunk._replace(id=self._next_id(quarantine), message=origin, clock=DAMAGED)
            self._change.add_bytes(quarantine.number, len(sealed))
            self._put(quarantine, row, sealed)
            self._make_lane_room(quarantine)
        else:
            self._give_up_frames(origin, counts_of(chunk.counts), 0)

    def reconcile_all(self) -> None:
        """Hold all books against what is there, after the store was rebuilt."""
        quarantine = self._shelf.lanes[self._shelf.quarantine]
        frames: Counter[Key] = Counter()
        size_bytes = 0
        span = (quarantine.chunk_id(0), quarantine.chunk_id(NUMBERS - 1))
        for _, origin, _, _, counts, size in self._db.execute(_OUTLINES, span):
            frames.update({(origin, source): count for source, count in counts_of(counts).items()})
            size_bytes += size
        for (origin, source), count in frames.items():
            unknown = count - self._change.book(origin, source).quarantined
            if unknown > 0:
                self._change.count(origin, {source: unknown}, "received", "quarantined")
        self._set_bytes(quarantine.number, size_bytes)
        devices: defaultdict[int, set[str]] = defaultdict(set)
        for number, device in self._shelf.books.keys() | self._change.books.keys():
            devices[number].add(device)
        for number in self._shelf.lanes.keys() - {quarantine.number}:
            self._reconcile(number, devices[number])
        self._db.execute("DELETE FROM store WHERE key = ?", (TO_RECONCILE,))

    def reconcile(self, number: int) -> Counter[str]:
        """Hold a lane's books against what is there, chunk by chunk; what is missing has been damaged.

        Returns:
            What is missing, by device.
        """
        keys = self._shelf.books.keys() | self._change.books.keys()
        return self._reconcile(number, {device for each, device in keys if each == number})

    def _reconcile(self, number: int, devices: Set[str]) -> Counter[str]:
        """The same, if the devices that have books are known."""
        lane = self._shelf.lanes[number]
        there: Counter[str] = Counter()
        size_bytes = 0
        for *_, counts, size in self._db.execute(_OUTLINES, (lane.chunk_id(0), lane.chunk_id(NUMBERS - 1))):
            there.update(counts_of(counts))
            size_bytes += size
        for chunk in self._placed_in[number]:  # not in the database yet
            there.update(counts_of(chunk.counts))
            size_bytes += chunk.stored_bytes
        self._set_bytes(number, size_bytes)
        missing: Counter[str] = Counter()
        for device in sorted(devices | there.keys()):
            lacks = self._change.book(number, device).queued - there[device]
            if lacks > 0:
                missing[device] = lacks
            elif lacks < 0:
                self._change.count(number, {device: -lacks}, "received")
        self._change.count(number, missing, "quarantined")
        if missing:
            self._dropped[lane.plan.name, "damaged"] += missing.total()
        whole = self._change.whole(number)
        books = [self._change.book(number, device) for device in devices | there.keys()]
        for column in TOTALS:
            setattr(whole, column, sum(getattr(book, column) for book in books))
        return missing

    def _set_bytes(self, number: int, size_bytes: int) -> None:
        self._change.add_bytes(number, size_bytes - self._change.seen_whole(number).bytes)

    # --- what comes in ---------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch]) -> list[LaneFull | None]:
        """Take in records, bad frames and counts.

        Returns:
            For each batch None, or why its readings were not taken.
        """
        shelf = self._shelf
        refused: list[LaneFull | None] = [None] * len(batches)
        by_place: dict[tuple[str, str], list[Reading | Event]] = {}
        origins: dict[tuple[str, str], list[int]] = {}
        for index, batch in enumerate(batches):
            for name, records in _by_lane(batch, shelf.settings.event_lane, shelf.settings.reading_lane):
                by_place.setdefault((name, batch.route), []).extend(records)
                origins.setdefault((name, batch.route), []).append(index)
        for place in sorted(by_place, key=lambda place: shelf.rank[place[0]]):
            lane = self._lane_at(*place)
            if not self._append_to(lane, by_place[place]):
                for index in origins[place]:
                    refused[index] = LaneFull(
                        f"the lane {lane.plan.name} is full and refuses more",
                        where=f"buffer lane {lane.plan.name}",
                        remedy="It takes more when the hub has taken some",
                    )
        for batch, error in zip(batches, refused, strict=True):
            if error is None:
                self._notes.update(batch.notes)
        reading_lane = shelf.numbers[shelf.settings.reading_lane, ""]
        for batch in batches:
            for source, count in batch.rejected:
                self._change.count(reading_lane, {source: count}, "received", "rejected")
        bad = [frame for batch in batches for frame in batch.bad]
        if bad:
            self._append_bad(reading_lane, bad)
        return refused

    def _lane_at(self, name: str, route: str) -> Lane:
        """The lane of a route, to be written to; a new one if it has none yet."""
        shelf, place = self._shelf, (name, route)
        number = shelf.numbers.get(place, self._opened_lanes.get(place))
        if number is None:
            number = shelf.next_number + len(self._opened_lanes)
            if number >= MOST_LANES:
                # Better under the gateway's identity than not at all.
                _log.error("buffer.too_many_routes", lane=name, route=route, most_lanes=MOST_LANES)
                return self._lane_at(name, "")
            self._opened_lanes[place] = number
            self._lanes[number] = Lane(shelf.plans[name], number, route, taken_to=shelf.number_floor)
            self._change.open(self._lanes[number], shelf.number_floor)
        return self._lane(number)

    def _append_to(self, lane: Lane, records: _Records) -> bool:
        """Place records, and make room for them; False if the lane is full and refuses."""
        shelf, plan = self._shelf, lane.plan
        if plan.ttl_s is not None and not self._change.seen_whole(lane.number).queued:
            lane.look_at_s = self._uptime_s + plan.ttl_s
        seqs = dict(self._change.seqs)
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
            if plan.max_bytes is not None and self._change.bytes(plan.name) + sum(sizes) > plan.max_bytes:
                return False
            if not self._make_disk_room(lane, sum(map(_pages, sizes))):
                return False
        self._change.seqs = seqs
        for piece in pieces:
            self._place(lane, piece)
        self._make_room(lane)
        return True

    def _append_bad(self, origin: int, frames: Sequence[BadFrame]) -> None:
        quarantine = self._lane(self._shelf.quarantine)
        for piece in pieces_of_bad_frames(
            frames,
            most_records=quarantine.plan.most_records,
            most_bytes=self._shelf.settings.max_message_bytes,
        ):
            self._change.count(origin, piece.counts, "received")
            if not quarantine.plan.max_bytes or not piece.payload:
                self._change.count(origin, piece.counts, "rejected")
                continue
            self._change.count(origin, piece.counts, "quarantined")
            chunk = self._seal(quarantine, origin, piece)
            self._change.add_bytes(quarantine.number, chunk.stored_bytes)
            self._make_room(quarantine)

    def _place(self, lane: Lane, piece: Piece) -> None:
        """Give a piece its place: in the open message if there is room, else in a new one."""
        if not piece.payload:
            self._change.count(lane.number, piece.counts, "received", "rejected")
            device = next(iter(piece.counts))
            _log.warning("buffer.record_rejected", device=device, reason="does not fit a message as JSON")
            return
        whole = self._change.whole(lane.number)
        records = sum(piece.counts.values())
        if (
            lane.open_records
            and lane.open_records + records <= lane.plan.most_records
            and lane.open_bytes + len(piece.payload) < self._shelf.settings.max_message_bytes
        ):
            lane.open_records += records
            lane.open_bytes += len(piece.payload) + 1
        else:
            whole.last += 1
            lane.open_first_chunk = whole.chunk + 1
            lane.open_records = records
            lane.open_bytes = len(piece.payload) + 2
            lane.open_since_s = self._uptime_s
        chunk = self._seal(lane, whole.last, piece)
        self._change.count(lane.number, piece.counts, "received", bytes_queued=chunk.stored_bytes)

    def _next_id(self, lane: Lane) -> int:
        whole = self._change.whole(lane.number)
        whole.chunk += 1
        return lane.chunk_id(whole.chunk)

    def _seal(self, lane: Lane, message: int, piece: Piece) -> Chunk:
        shelf, chunk_id = self._shelf, self._next_id(lane)
        records, counts = sum(piece.counts.values()), orjson.dumps(piece.counts)
        sealed = shelf.sealer.seal(piece.payload, context(chunk_id, message, records, counts))
        clock = SURE
        if not piece.is_sure:
            clock = TOLD_UNSURE if lane.route in shelf.giving and self._offset_ns is None else UNSURE
        uptime_ms = self._moment.uptime_ns // 1_000_000
        chunk = Chunk(chunk_id, message, records, shelf.boot, uptime_ms, clock, counts, piece.payload, len(sealed))
        self._put(lane, chunk, sealed)
        return chunk

    def _put(self, lane: Lane, chunk: Chunk, sealed: bytes) -> None:
        self._placed.append(chunk)
        self._placed_in[lane.number].append(chunk)
        self._placed_pages += _pages(chunk.stored_bytes)
        self._rows.append((*chunk[:7], sealed))

    def _take_back(self, lane: Lane, which: int) -> None:
        """There is no room for all that was just placed: one chunk of it counts as evicted.

        Args:
            lane: whose.
            which: 0 for the oldest, -1 for the newest.
        """
        chunk = self._placed_in[lane.number].pop(which)
        at = self._placed.index(chunk)
        del self._placed[at], self._rows[at]
        self._placed_pages -= _pages(chunk.stored_bytes)
        self._changed_old = True
        if lane.number == self._shelf.quarantine:
            self._give_up_frames(chunk.message, counts_of(chunk.counts), chunk.stored_bytes)
            return
        self._change.count(lane.number, counts_of(chunk.counts), "evicted", bytes_queued=-chunk.stored_bytes)
        self._dropped[lane.plan.name, "evicted"] += chunk.records
        lane.open_records = 0

    # --- making room -----------------------------------------------------------------------------------------------

    def _make_room(self, lane: Lane) -> None:
        """See that what was just placed has room, or is taken back."""
        self._make_lane_room(lane)
        if self._placed_in[lane.number]:
            self._make_disk_room(lane)

    def _make_lane_room(self, lane: Lane) -> None:
        """Bring a lane below its limit, which is that of all its routes together."""
        most_bytes = lane.plan.max_bytes
        while most_bytes is not None and self._change.bytes(lane.plan.name) > most_bytes:
            if not self._free(lane.plan, lane):
                return

    def _make_disk_room(self, lane: Lane, more_pages: int = 0) -> bool:
        """Have less urgent lanes, and this one last, give way until all that was placed has room.

        Args:
            lane: what needs room.
            more_pages: that are to have room as well.

        Returns:
            Whether it has; if not, there is nothing left that may give way.
        """
        if self._has_room(more_pages):
            return True
        plans = list(self._shelf.plans.values())
        rank = self._shelf.rank.get(lane.plan.name, len(plans))
        for plan in (self._shelf.lanes[self._shelf.quarantine].plan, *reversed(plans[rank:])):
            while self._free(plan, lane):
                if self._has_room(more_pages):
                    return True
        return False

    def _has_room(self, more_pages: int) -> bool:
        space = self._shelf.space
        spare_pages = _FEW_SPARE_PAGES if space.is_frozen else _SPARE_PAGES
        return space.has_room(self._placed_pages + more_pages + spare_pages)

    def _free(self, plan: LanePlan, needing: Lane) -> bool:
        """Have the route that holds most of a lane give something up: none is pushed out by what lies in another.

        Args:
            plan: of the lane that gives way; its policy says what goes.
            needing: the lane that something comes into.

        Returns:
            Whether there was anything.
        """
        largest = self._change.largest(plan.name)
        while (number := largest.first()) is not None:
            if self._give_way(self._lane(number), needing):
                return True
            largest.pass_over(number)
        return False

    def _give_way(self, lane: Lane, needing: Lane) -> bool:
        """Let a lane's policy free something; False if there is nothing to free."""
        placed = self._placed_in[lane.number]
        match lane.plan.when_full:
            case "refuse":
                group = None
                which = -1 if lane is needing else None
            case "drop-newest":
                which = -1
                # What is there goes only where something comes into the same lane, of a route that holds less.
                is_larger = lane.plan is needing.plan and lane is not needing
                group = self._outermost(lane, newest=True) if is_larger and not placed else None
            case _:
                if lane.plan.when_full == "thin" and self._thin(lane):
                    return True
                which = 0
                group = self._outermost(lane)
        if group is not None:
            self._drop(lane, group, "evicted")
        elif placed and which is not None:
            self._take_back(lane, which)
        else:
            return False
        return True

    def _thin(self, lane: Lane) -> bool:
        """Thin the next chunk of the round out; False if no chunk may be changed."""
        whole = self._change.whole(lane.number)
        end = lane.chunk_id(whole.chunk)
        for _ in range(2):
            start = lane.chunk_id(max(whole.thinned, whole.given))
            row = self._db.execute(_CHUNK, (start, end)).fetchone()
            if row is not None:
                break
            whole.thinned = 0
        else:
            return False
        chunk_id, message, records, *_, counts, sealed = row
        whole.thinned = lane.chunk_number(chunk_id)
        try:
            payload = payload_of(row, self._shelf.sealer)
        except PayloadDamaged:
            self.set_aside([damaged_chunk(row)])
            return True
        except KeyStoreError:
            return False  # what cannot be opened now cannot be thinned: the oldest has to go
        piece = thinned(payload, lane.plan.keep_every, lane.seen)
        before = counts_of(counts)
        gone = {device: n for device, count in before.items() if (n := count - piece.counts.get(device, 0))}
        if not gone:
            return True
        self._changed_old = True
        self._dropped[lane.plan.name, "thinned"] += sum(gone.values())
        lane.open_records = 0
        if not piece.payload:
            self._db.execute(_DROP_CHUNKS, (chunk_id, chunk_id))
            self._change.count(lane.number, gone, "evicted", bytes_queued=-len(sealed))
            return True
        records, counts = sum(piece.counts.values()), orjson.dumps(piece.counts)
        rewritten = self._shelf.sealer.seal(piece.payload, context(chunk_id, message, records, counts))
        self._db.execute(_REWRITE_CHUNK, (records, counts, rewritten, chunk_id))
        self._change.count(lane.number, gone, "evicted", bytes_queued=len(rewritten) - len(sealed))
        return True

    def _outermost(self, lane: Lane, *, newest: bool = False) -> _Group | None:
        """What is the oldest, or the newest, of what is not on its way now."""
        whole = self._change.seen_whole(lane.number)
        start, end = lane.chunk_id(lane.taken_to), lane.chunk_id(whole.chunk)
        found = self._db.execute(_LAST_OUTLINE if newest else _FIRST_OUTLINE, (start, end)).fetchone()
        if found is None:
            return None
        rows = [found]
        chunk_id, message = found[:2]
        if lane.chunk_number(chunk_id) <= whole.given and lane.number != self._shelf.quarantine:
            rows = self._db.execute(_OUTLINES_OF_MESSAGE, (start, end, message)).fetchall()
        counts: Counter[str] = Counter()
        for row in rows:
            is_lost = lane.number == self._shelf.quarantine and message not in self._shelf.lanes
            if is_lost or not are_numbers((*row[:4], row[5])):
                raise BufferDamaged("a chunk is damaged", where=f"chunk {row[0]}", remedy="It is set aside")
            counts.update(counts_of(row[4]))
        *_, boot, uptime_ms, _, _ = rows[-1]
        return _Group(rows[0][0], rows[-1][0], message, counts, sum(row[5] for row in rows), boot, uptime_ms)

    def _drop(self, lane: Lane, group: _Group, reason: str) -> None:
        """Take a group off the store and count it; what of it is damaged is set aside, and the rest looked at anew."""
        damaged = self._damaged_of(group)
        if damaged and lane.number != self._shelf.quarantine:
            self.set_aside(damaged)
            return
        self._changed_old = True
        self._db.execute(_DROP_CHUNKS, (group.first_id, group.last_id))
        if lane.number == self._shelf.quarantine:
            self._give_up_frames(group.message, group.counts, group.bytes)
            return
        if group.message == self._change.seen_whole(lane.number).last:
            lane.open_records = 0
        self._change.count(lane.number, group.counts, reason, bytes_queued=-group.bytes)
        self._dropped[lane.plan.name, reason] += sum(group.counts.values())

    def _damaged_of(self, group: _Group) -> list[Damaged]:
        """What of a group does not open, so that what it says of its records cannot be relied on."""
        rows: list[tuple[Any, ...]] = self._db.execute(_CHUNKS, (group.first_id, group.last_id)).fetchall()
        return [damaged_chunk(row) for row in rows if not is_whole(row, self._shelf.sealer)]

    def _give_up_frames(self, origin: int, counts: Mapping[str, int], size_bytes: int) -> None:
        """What the quarantine gives up has been rejected for good, in the account that it came from."""
        self._change.add_bytes(self._shelf.quarantine, -size_bytes)
        # A row that the disk has damaged may name others than those in whose account it is.
        counts = {name: n for name, n in counts.items() if n <= self._change.book(origin, name).quarantined}
        self._change.count(origin, {name: -records for name, records in counts.items()}, "quarantined")
        self._change.count(origin, counts, "rejected")

    def _age_s(self, group: _Group) -> float:
        shelf = self._shelf
        offsets = {number: boot.offset_ns for number, boot in shelf.boots.items()}
        offsets[shelf.boot] = self._offset_ns
        return age_s(group.boot, group.uptime_ms / 1000, shelf.boot, self._uptime_s, offsets)

    # --- the end ---------------------------------------------------------------------------------------------------

    def mark_given(self) -> None:
        """From now on any message of the routes that are taken may be given out, and must stay as it is."""
        shelf = self._shelf
        numbers = set(self._change.wholes)
        for route in shelf.to_mark:
            numbers.update(lane.number for lane in shelf.route_lanes(route))
        for number in sorted(numbers):
            whole = self._change.seen_whole(number)
            if whole.given == whole.chunk or number == shelf.quarantine:
                continue
            lane = self._lane(number)
            if lane.route not in shelf.giving:
                continue
            if self._offset_ns is None:
                first, last = lane.chunk_id(whole.given + 1), lane.chunk_id(whole.chunk)
                self._db.execute(_UNSURE_ARE_TOLD, (TOLD_UNSURE, first, last, self._shelf.boot, UNSURE))
                self._changed_old |= bool(self._db.changes())
            self._change.whole(number).given = whole.chunk

    def write(self) -> None:
        """Put in the database what is not there yet."""
        self._db.executemany(PUT_CHUNK, self._rows)
        self._db.executemany(PUT_BOOK, self._change.rows())
        if self._opened_lanes:
            lanes = self._opened_lanes.items()
            names = [with_crc((lane_key(number), name_on_disk(*place))) for place, number in lanes]
            self._db.executemany(PUT_STORE, names)
        if self._notes:
            self._db.executemany(PUT_STORE, [with_crc((f"note {name}", text)) for name, text in self._notes.items()])

    def finish(self) -> None:
        """The database has committed: change the shelf."""
        shelf, change = self._shelf, self._change
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
        shelf.notes.update(self._notes)
        shelf.boots[shelf.boot].offset_ns = self._offset_ns
        if self._ledger:
            shelf.ledger_number, shelf.ledger_digest = self._ledger[-1].number, self._ledger[-1].digest
        if any(book.hour for book in change.books.values()):
            shelf.open_hour = self._hour
        elif self._ledger:
            shelf.open_hour = 0
        if self._placed or self._settled or self._changed_old:
            keep = not self._changed_old and sum(len(chunk.payload) for chunk in self._placed) <= _FRESH_BYTES
            shelf.fresh = {chunk.id: chunk for chunk in self._placed} if keep else {}
        for message in self._settled:
            number = shelf.numbers.get((message.lane, message.route), -1)
            shelf.taken.get(number, {}).pop(message.number, None)
        if self._dropped:
            shelf.unlogged.update(self._dropped)
        if shelf.unlogged and self._uptime_s >= shelf.next_log_s:
            shelf.next_log_s = self._uptime_s + _LOG_EVERY_S
            for (lane, reason), records in shelf.unlogged.items():
                _log.warning("buffer.dropped", lane=lane, reason=reason, records=records)
            shelf.unlogged.clear()

    def _lane(self, number: int) -> Lane:
        """A lane, to be written to."""
        lane = self._lanes.get(number)
        if lane is None:
            self._lanes[number] = lane = self._shelf.lanes[number].copy()
        return lane


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


def _pages(size_bytes: int) -> int:
    """Pages that a payload fills, generously."""
    return size_bytes // PAGE_BYTES + 1
