"""One transaction of the store: what leaves, what makes room, what comes in, and the books of all of it.

Everything is decided here and done in the database at once; the shelf in memory is changed only when the database has
committed. What has been given out to the uplink is never changed: `Lane.taken_to` tells what is on its way now, and
`Book.given` what may have been on its way before a crash, and leaves as a whole message or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import structlog

from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.books import TOTALS, WHOLE_LANE, Change, Key, with_crc
from edge_gateway.buffer.corrections import age_s
from edge_gateway.buffer.database import PAGE_BYTES
from edge_gateway.buffer.documents import Piece, pieces_of_bad_frames, pieces_of_records, thinned
from edge_gateway.buffer.lanes import NUMBERS, Lane, lane_number
from edge_gateway.buffer.ledger import LedgerRow, close_hour
from edge_gateway.buffer.rebuild import TO_RECONCILE
from edge_gateway.buffer.shelf import (
    DAMAGED,
    SURE,
    TOLD_UNSURE,
    UNSURE,
    Chunk,
    Moment,
    Shelf,
    context,
    counts_of,
    damaged_chunk,
    is_sound,
    payload_of,
)
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
        self._change = Change(shelf.books, shelf.whole_names, shelf.seqs, self._hour)
        self._lanes: dict[int, Lane] = {}
        self._placed: list[Chunk] = []
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
        entries = []
        for lane, device in sorted(key for key, book in shelf.books.items() if book.hour):
            book = self._change.book(lane, device)
            book.hour = 0
            entries.append((shelf.lanes[lane].plan.name, device, book.account()))
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
        for place in dict.fromkeys((message.lane, message.number) for message in messages):  # one may be there twice
            taken = self._shelf.taken.get(place)
            if taken is not None:
                lane = numbers[place[0]]
                self._change.count(lane, taken.counts, "delivered", bytes_queued=-taken.bytes)
                self._db.execute(_DROP_CHUNKS, (taken.first_id, taken.last_id))

    def take_from_quarantine(self, chunk_ids: Iterable[int]) -> None:
        """Frames that are tried again leave the account they were in; whatever becomes of them comes in anew."""
        for chunk_id in chunk_ids:
            row = self._db.execute(_FIRST_OUTLINE, (chunk_id - 1, chunk_id)).fetchone()
            if row is not None and lane_number(chunk_id) == self._shelf.quarantine:
                _, origin, _, _, counts, size = row
                taken_out = {device: -records for device, records in counts_of(counts).items()}
                self._change.count(origin, taken_out, "received", "quarantined")
                self._change.whole(self._shelf.quarantine).bytes -= size
                self._db.execute(_DROP_CHUNKS, (chunk_id, chunk_id))

    def expire(self) -> None:
        """Drop what is older than its lane's time to live."""
        has_learnt = self._offset_ns != self._shelf.boots[self._shelf.boot].offset_ns
        for number in self._shelf.order:
            lane = self._shelf.lanes[number]
            ttl_s = lane.plan.ttl_s
            if ttl_s is None or (self._uptime_s < lane.look_at_s and not has_learnt):
                continue
            lane = self._lane(number)
            lane.look_at_s = self._uptime_s + ttl_s
            while (oldest := self._oldest(lane)) is not None:
                age = self._age_s(oldest)
                if age <= ttl_s:
                    lane.look_at_s = self._uptime_s + ttl_s - age
                    break
                self._drop(lane, oldest, "expired")

    def set_aside(self, damaged: Sequence[tuple[Chunk, bytes]]) -> None:
        """Chunks of one lane do not open: move them to the quarantine as they are.

        What a damaged chunk says of itself may be wrong. Whose records were in it is what the books miss without it.

        Args:
            damaged: each with its payload, sealed.
        """
        lane = self._lane(lane_number(damaged[0][0].id))
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
            self._change.whole(quarantine.number).bytes += len(sealed)
            self._rows.append((*row[:7], sealed))
            self._placed.append(row)
            self._make_lane_room(quarantine, [row])
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
        self._change.whole(quarantine.number).bytes = size_bytes
        for number in self._shelf.order:
            self.reconcile(number)
        self._db.execute("DELETE FROM store WHERE key = ?", (TO_RECONCILE,))

    def reconcile(self, number: int) -> Counter[str]:
        """Hold a lane's books against what is there, chunk by chunk; what is missing has been damaged.

        Returns:
            What is missing, by device.
        """
        lane = self._shelf.lanes[number]
        there: Counter[str] = Counter()
        size_bytes = 0
        for *_, counts, size in self._db.execute(_OUTLINES, (lane.chunk_id(0), lane.chunk_id(NUMBERS - 1))):
            there.update(counts_of(counts))
            size_bytes += size
        for chunk in self._placed:  # not in the database yet
            if lane_number(chunk.id) == number:
                there.update(counts_of(chunk.counts))
                size_bytes += chunk.stored_bytes
        self._change.whole(number).bytes = size_bytes
        keys = self._shelf.books.keys() | self._change.books.keys()
        devices = {device for each, device in keys if each == number and not device.startswith(WHOLE_LANE)}
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

    # --- what comes in ---------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch]) -> list[LaneFull | None]:
        """Take in records, bad frames and counts.

        Returns:
            For each batch None, or why its readings were not taken.
        """
        shelf, numbers = self._shelf, self._shelf.numbers
        refused: list[LaneFull | None] = [None] * len(batches)
        by_lane: dict[int, list[Reading | Event]] = {}
        origins: dict[int, list[int]] = {}
        for index, batch in enumerate(batches):
            for name, records in _by_lane(batch, shelf.settings.event_lane, shelf.settings.reading_lane):
                number = numbers[name]
                by_lane.setdefault(number, []).extend(records)
                origins.setdefault(number, []).append(index)
        for number in shelf.order:
            if number in by_lane and not self._append_to(self._lane(number), by_lane[number]):
                name = shelf.lanes[number].plan.name
                for index in origins[number]:
                    refused[index] = LaneFull(
                        f"the lane {name} is full and refuses more",
                        where=f"buffer lane {name}",
                        remedy="It takes more when the hub has taken some",
                    )
        for batch, error in zip(batches, refused, strict=True):
            if error is None:
                self._notes.update(batch.notes)
        reading_lane = numbers[shelf.settings.reading_lane]
        for batch in batches:
            for source, count in batch.rejected:
                self._change.count(reading_lane, {source: count}, "received", "rejected")
        bad = [frame for batch in batches for frame in batch.bad]
        if bad:
            self._append_bad(reading_lane, bad)
        return refused

    def _append_to(self, lane: Lane, records: Sequence[Reading | Event]) -> bool:
        """Place records, and make room for them; False if the lane is full and refuses."""
        shelf, plan = self._shelf, lane.plan
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
            size_bytes = self._change.seen_whole(lane.number).bytes + sum(sizes)
            if plan.max_bytes is not None and size_bytes > plan.max_bytes:
                return False
            if not self._make_disk_room(lane, sum(map(_pages, sizes))):
                return False
        self._change.seqs = seqs
        placed = [chunk for piece in pieces if (chunk := self._place(lane, piece)) is not None]
        self._make_lane_room(lane, placed)
        while placed and not self._make_disk_room(lane, sum(_pages(chunk.stored_bytes) for chunk in placed)):
            self._take_back(lane, placed)
        self._placed_pages += sum(_pages(chunk.stored_bytes) for chunk in placed)
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
            chunk = self._seal(self._next_id(quarantine), origin, piece)
            self._change.whole(quarantine.number).bytes += chunk.stored_bytes
            placed = [chunk]
            self._make_lane_room(quarantine, placed)
            pages = sum(_pages(each.stored_bytes) for each in placed)
            if placed and not self._make_disk_room(quarantine, pages):
                self._take_back(quarantine, placed)
            else:
                self._placed_pages += pages

    def _place(self, lane: Lane, piece: Piece) -> Chunk | None:
        """Give a piece its place: in the open message if there is room, else in a new one."""
        if not piece.payload:
            self._change.count(lane.number, piece.counts, "received", "rejected")
            device = next(iter(piece.counts))
            _log.warning("buffer.record_rejected", device=device, reason="does not fit a message as JSON")
            return None
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
        chunk = self._seal(self._next_id(lane), whole.last, piece)
        self._change.count(lane.number, piece.counts, "received", bytes_queued=chunk.stored_bytes)
        return chunk

    def _next_id(self, lane: Lane) -> int:
        whole = self._change.whole(lane.number)
        whole.chunk += 1
        return lane.chunk_id(whole.chunk)

    def _seal(self, chunk_id: int, message: int, piece: Piece) -> Chunk:
        shelf = self._shelf
        records, counts = sum(piece.counts.values()), orjson.dumps(piece.counts)
        sealed = shelf.sealer.seal(piece.payload, context(chunk_id, message, records, counts))
        clock = SURE
        if not piece.is_sure:
            clock = TOLD_UNSURE if shelf.is_giving and self._offset_ns is None else UNSURE
        uptime_ms = self._moment.uptime_ns // 1_000_000
        chunk = Chunk(chunk_id, message, records, shelf.boot, uptime_ms, clock, counts, piece.payload, len(sealed))
        self._placed.append(chunk)
        self._rows.append((*chunk[:7], sealed))
        return chunk

    def _take_back(self, lane: Lane, placed: list[Chunk]) -> None:
        """There is no room for all that was just placed: one chunk of it, as the lane says, counts as evicted."""
        chunk = placed.pop(-1 if lane.plan.when_full == "drop-newest" else 0)
        at = self._placed.index(chunk)
        del self._placed[at], self._rows[at]
        self._changed_old = True
        if lane.number == self._shelf.quarantine:
            self._give_up_frames(chunk.message, counts_of(chunk.counts), chunk.stored_bytes)
            return
        self._change.count(lane.number, counts_of(chunk.counts), "evicted", bytes_queued=-chunk.stored_bytes)
        self._dropped[lane.plan.name, "evicted"] += chunk.records
        lane.open_records = 0

    # --- making room -----------------------------------------------------------------------------------------------

    def _make_lane_room(self, lane: Lane, placed: list[Chunk]) -> None:
        """Bring a lane below its own limit."""
        if lane.plan.max_bytes is None:
            return
        whole = self._change.whole(lane.number)
        while whole.bytes > lane.plan.max_bytes:
            if not self._free(lane):
                if not placed:
                    return
                self._take_back(lane, placed)

    def _make_disk_room(self, lane: Lane, pages: int) -> bool:
        """Have less urgent lanes, and this one last, give way until so many pages are free; False if they cannot."""
        shelf = self._shelf
        wanted = self._placed_pages + pages + (_FEW_SPARE_PAGES if shelf.space.is_frozen else _SPARE_PAGES)
        if shelf.space.has_room(wanted):
            return True
        rank = shelf.order.index(lane.number) if lane.number in shelf.order else len(shelf.order)
        for number in (shelf.quarantine, *reversed(shelf.order[rank:])):
            victim = self._lane(number)
            while self._free(victim):
                if shelf.space.has_room(wanted):
                    return True
        return False

    def _free(self, lane: Lane) -> bool:
        """Let the lane's policy free something; False if there is nothing to free."""
        if lane.plan.when_full == "thin" and self._thin(lane):
            return True
        if lane.plan.when_full in ("drop-newest", "refuse"):
            return False
        oldest = self._oldest(lane)
        if oldest is not None:
            self._drop(lane, oldest, "evicted")
        return oldest is not None

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

    def _oldest(self, lane: Lane) -> _Group | None:
        """What would leave first: of what is not on its way now."""
        whole = self._change.seen_whole(lane.number)
        start, end = lane.chunk_id(lane.taken_to), lane.chunk_id(whole.chunk)
        first = self._db.execute(_FIRST_OUTLINE, (start, end)).fetchone()
        if first is None:
            return None
        rows = [first]
        chunk_id, message = first[:2]
        if lane.chunk_number(chunk_id) <= whole.given and lane.number != self._shelf.quarantine:
            rows = self._db.execute(_OUTLINES_OF_MESSAGE, (start, end, message)).fetchall()
        counts: Counter[str] = Counter()
        for row in rows:
            is_lost = lane.number == self._shelf.quarantine and message not in self._shelf.lanes
            if is_lost or not is_sound((*row[:4], row[5])):
                raise BufferDamaged("a chunk is damaged", where=f"chunk {row[0]}", remedy="It is set aside")
            counts.update(counts_of(row[4]))
        *_, boot, uptime_ms, _, _ = rows[-1]
        return _Group(chunk_id, rows[-1][0], message, counts, sum(row[5] for row in rows), boot, uptime_ms)

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

    def _damaged_of(self, group: _Group) -> list[tuple[Chunk, bytes]]:
        """What of a group does not open, so that what it says of its records cannot be relied on."""
        rows: list[tuple[Any, ...]] = self._db.execute(_CHUNKS, (group.first_id, group.last_id)).fetchall()
        return [damaged_chunk(row) for row in rows if not self._opens(row)]

    def _opens(self, row: tuple[Any, ...]) -> bool:
        try:
            payload_of(row, self._shelf.sealer)
        except PayloadDamaged:
            return False
        except KeyStoreError:
            return True  # nobody can say now
        return True

    def _give_up_frames(self, origin: int, counts: Mapping[str, int], size_bytes: int) -> None:
        """What the quarantine gives up has been rejected for good, in the account that it came from."""
        self._change.whole(self._shelf.quarantine).bytes -= size_bytes
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
        """From now on any message on the store may be given out, and must stay as it is."""
        for number in self._shelf.order:
            whole = self._change.seen_whole(number)
            if whole.given == whole.chunk:
                continue
            lane = self._lane(number)
            if self._offset_ns is None:
                first, last = lane.chunk_id(whole.given + 1), lane.chunk_id(whole.chunk)
                self._db.execute(_UNSURE_ARE_TOLD, (TOLD_UNSURE, first, last, self._shelf.boot, UNSURE))
                self._changed_old |= bool(self._db.changes())
            self._change.whole(number).given = whole.chunk

    def write(self) -> None:
        """Put in the database what is not there yet."""
        self._db.executemany(PUT_CHUNK, self._rows)
        self._db.executemany(PUT_BOOK, self._change.rows())
        if self._notes:
            self._db.executemany(PUT_STORE, [with_crc((f"note {name}", text)) for name, text in self._notes.items()])

    def finish(self) -> None:
        """The database has committed: change the shelf."""
        shelf, change = self._shelf, self._change
        shelf.books.update(change.books)
        shelf.lanes.update(self._lanes)
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
            shelf.taken.pop((message.lane, message.number), None)
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
