"""Gives messages out: which is next, and how it is put together from its chunks.

Why a repeated message has the same bytes under the same id: a chunk gets its message number when it is appended. A
number is closed, in memory, when the message is first taken or full; later chunks get the next one. After a restart the
first chunk gets a fresh number. So no message ever grows after its first sending, and that costs no extra sync.

It does not shrink either, and its times stay: before a message is given out for the first time, it is marked on the
disk as one that may have been (`Transaction.mark_given`). While a route is taken from, each transaction does that for
what it brings; only what lay there before costs a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing

import orjson

from edge_gateway.buffer.chunks import CHUNKS, Chunk, Damaged, opened
from edge_gateway.buffer.lanes import Lane, name_on_disk
from edge_gateway.buffer.shelf import INSTANT_S, Shelf, Taken
from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import BufferDamaged, BufferUnavailable, DiskFull, DiskReadOnly
from edge_gateway.records import Message


class Giving:
    """Gives a message out. Make one for each.

    Args:
        shelf: from where.
        clock: tells how young a message is.
        mark: does a transaction, so that what may be given out is marked; `BufferUnavailable` if it cannot.
        set_aside: does a transaction that moves damaged chunks to the quarantine; the same error.
    """

    def __init__(
        self,
        shelf: Shelf,
        clock: Clock,
        *,
        mark: Callable[[], object],
        set_aside: Callable[[Sequence[Damaged]], None],
    ) -> None:
        self._shelf = shelf
        self._clock = clock
        self._mark = mark
        self._set_aside = set_aside

    def take(self, places: Collection[tuple[str, str]], *, wait_for_more: bool) -> Message | float | None:
        """See `Store.take`.

        Args:
            places: lanes and routes.
            wait_for_more: let a young message wait for more records, as its lane says.
        """
        wait_s: float | None = None
        for number in self._unfinished(places):
            lane = self._shelf.lanes[number]
            while number in self._shelf.to_give:
                young_s = self._still_waits_s(lane) if wait_for_more else 0.0
                if young_s > 0:
                    wait_s = young_s if wait_s is None else min(wait_s, young_s)
                    break
                message = self._give(number)
                if message is not None:
                    return message
                lane = self._shelf.lanes[number]
        return wait_s

    def _unfinished(self, places: Collection[tuple[str, str]]) -> list[int]:
        """Which of these lanes have something to give, the most urgent first."""
        shelf = self._shelf
        numbers = [number for place in places if (number := shelf.numbers.get(place)) in shelf.to_give]
        if len(numbers) > 1:
            numbers.sort(key=lambda number: (shelf.rank[shelf.lanes[number].plan.name], number))
        return numbers

    def _still_waits_s(self, lane: Lane) -> float:
        """How long the next message of a lane still waits for company."""
        if not lane.open_records or lane.taken_to < lane.open_first_chunk - 1:
            return 0.0
        if lane.open_records >= lane.plan.most_records:
            return 0.0
        wait_s = lane.open_since_s + lane.plan.wait_s - self._clock.uptime_ns() / NS_PER_S
        return wait_s if wait_s > INSTANT_S else 0.0

    def _give(self, number: int) -> Message | None:
        """The next message of a lane; None if there is none any more, or it was damaged."""
        found = self._read_message(number)
        if found is None:
            return None
        message, taken = found
        lane = self._shelf.lanes[number]
        if lane.chunk_number(taken.last_id) > self._shelf.whole(number).given:
            self._mark_given(number)
            found = self._read_message(number)  # with the marks that are there now
            if found is None:
                return None
            message, taken = found
            lane = self._shelf.lanes[number]
        self._shelf.taken.setdefault(number, {})[message.number] = taken
        self._shelf.give(lane, lane.chunk_number(taken.last_id))
        if message.number == self._shelf.whole(number).last:
            lane.open_records = 0
        return message

    def _mark_given(self, number: int) -> None:
        """From now on what is on the store may be with the hub, and stays as it is."""
        try:
            self._mark()
        except BufferUnavailable:
            if self._shelf.is_in_doubt:
                raise
            # A disk that takes no writes must not keep the backlog from the hub. Only if the power fails too before it
            # does again, a message may come back thinned or corrected.
            whole = self._shelf.whole(number)
            whole.given = whole.chunk

    def _read_message(self, number: int) -> tuple[Message, Taken] | None:
        """Put the next message of a lane together; None if there is none. Damaged chunks are set aside."""
        lane = self._shelf.lanes[number]
        chunks: list[Chunk] = []
        damaged: list[Damaged] = []
        with closing(self._chunks_after(lane, damaged)) as following:
            for chunk in following:
                if chunks and chunk.message != chunks[0].message:
                    break
                chunks.append(chunk)
        if damaged:
            try:
                self._set_aside(damaged)
            except (DiskFull, DiskReadOnly):
                # A disk that takes no writes must not keep what is whole from the hub.
                self._shelf.passed_over.add(number)
            lane = self._shelf.lanes[number]
        if not chunks:
            self._miss_none(lane)
            self._shelf.give(lane, self._shelf.whole(number).chunk)
            return None
        return self._compose(lane, chunks)

    def _chunks_after(self, lane: Lane, damaged: list[Damaged]) -> Generator[Chunk, None, None]:
        """The chunks of a lane not given out, in order; from memory if the last transaction appended them all.

        Args:
            lane: which.
            damaged: gets those that do not open.
        """
        shelf = self._shelf
        first, last = lane.chunk_id(lane.taken_to + 1), lane.chunk_id(shelf.whole(lane.number).chunk)
        fresh = shelf.fresh
        if first in fresh:
            for chunk_id in range(first, last + 1):
                yield fresh[chunk_id]
            return
        last_id = first - 1
        with closing(shelf.db.execute(CHUNKS, (last_id, last))) as rows:
            for row in rows:
                if row[0] <= last_id:
                    raise BufferDamaged("chunks are not in order", where=f"chunk {row[0]} behind {last_id}")
                last_id = row[0]
                chunk, sealed = opened(row, shelf.sealer)
                if sealed is not None:
                    damaged.append((chunk, sealed))
                else:
                    yield chunk

    def _compose(self, lane: Lane, chunks: Sequence[Chunk]) -> tuple[Message, Taken]:
        """The message that these chunks are."""
        shelf, first = self._shelf, chunks[0]
        counts: dict[str, int] = {}
        for chunk in chunks:
            for device, count in orjson.loads(chunk.counts).items():
                counts[device] = counts.get(device, 0) + count
        body = b"[" + b",".join(map(shelf.documents_of, chunks)) + b"]"
        taken = Taken(first.id, chunks[-1].id, counts, sum(chunk.stored_bytes for chunk in chunks))
        message = Message(
            f"{shelf.id}-{lane.number}-{first.message}",
            lane.plan.name,
            first.message,
            sum(chunk.records for chunk in chunks),
            body,
            lane.route,
        )
        return message, taken

    def _miss_none(self, lane: Lane) -> None:
        """At the end of a lane: see that the disk has not swallowed chunks without a word."""
        queued = self._shelf.whole(lane.number).queued
        taken = self._shelf.taken.get(lane.number, {}).values()
        given = sum(sum(each.counts.values()) for each in taken)
        if queued != given and lane.number not in self._shelf.passed_over:
            raise BufferDamaged(f"{queued - given} records are missing", where=f"lane {name_on_disk(*lane.place)}")
