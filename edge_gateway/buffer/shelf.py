"""What the store has in memory of what is on its disk, for its transactions to work on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import apsw

from edge_gateway.buffer.books import Book, Key, Sums
from edge_gateway.buffer.chunks import UNSURE, Chunk
from edge_gateway.buffer.corrections import correct
from edge_gateway.buffer.database import Space
from edge_gateway.buffer.lanes import QUARANTINE, Lane, LanePlan
from edge_gateway.buffer.ranking import Ranking
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferDamaged

INSTANT_S: Final = 1e-6
"""Two clocks that are each rounded differ by less; nobody waits for so little."""


class Moment(NamedTuple):
    """What the clock said when a transaction began."""

    uptime_ns: int
    now_ns: int
    is_trusted: bool
    offset_ns: int | None = None
    """Of the running boot, if the store did not know it and the clock is trusted."""


@dataclass(slots=True)
class Boot:
    """A start of the machine that records were stamped in."""

    name: str
    offset_ns: int | None = None
    """Wall time = offset + time since this boot; None until the clock was trusted. Then it never changes."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message given out: which chunks it was and whose records."""

    first_id: int
    last_id: int
    counts: dict[str, int]
    bytes: int


@dataclass(slots=True)
class Shelf:
    """The store's state. Only a finished transaction changes it, but for what is on its way.

    Nothing that is done for a record, a message or a transaction takes longer the more routes there are.
    """

    db: apsw.Connection
    space: Space
    sealer: Sealer
    settings: BufferSettings
    path: str
    """Of the database, for status and errors."""
    id: str
    """Of the store; begins every message id."""
    plans: dict[str, LanePlan]
    """Of the lanes that are taken from, by name, the most urgent first."""
    lanes: dict[int, Lane]
    """By number, those of all routes, the quarantine too."""
    books: dict[Key, Book]
    """Of devices."""
    sums: Sums
    """The lanes' own books."""
    boots: dict[int, Boot]
    boot: int
    """The running one."""
    ledger_number: int
    """Of the last row."""
    ledger_digest: bytes
    open_hour: int
    """Hours since 1970 of all changes that are not in the ledger; 0 if there are none."""
    notes: dict[str, str]
    number_floor: int
    """All numbers given out from now on are larger: more than 0 after the store was rebuilt."""
    is_rebuilt: bool
    """Whether the books have still to be held against the chunks."""
    seqs: dict[str, int] = field(default_factory=dict)
    """The last seq of each device, over all lanes."""
    taken: dict[int, dict[int, Taken]] = field(default_factory=dict)
    """Messages given out and not settled, by their number, of each lane, by its."""
    fresh: dict[int, Chunk] = field(default_factory=dict)
    """Chunks of the last transaction: they are nearly always taken next."""
    unlogged: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records dropped and not told in the log yet, by lane and reason."""
    next_log_s: float = 0.0
    """Uptime."""
    passed_over: set[int] = field(default_factory=set)
    """Lanes with damaged chunks that are still there, because the disk takes no writes."""
    is_in_doubt: bool = False
    """Whether a sync has failed, so that nobody knows what is on the disk until one has succeeded."""
    giving: set[str] = field(default_factory=set)
    """Routes whose messages are being taken, so that what is appended may leave at once."""
    to_mark: set[str] = field(default_factory=set)
    """Those of them whose lanes are not all marked yet; see `Transaction.mark_given`."""

    numbers: dict[tuple[str, str], int] = field(init=False)
    """The lanes' numbers by name and route."""
    rank: dict[str, int] = field(init=False)
    """Of a lane by its name; 0 is the most urgent."""
    quarantine: int = field(init=False)
    """The number of the lane of bad frames."""
    next_number: int = field(init=False)
    """Of a lane that is new; no number is used twice."""
    to_give: set[int] = field(init=False)
    """Lanes in which not all was given out."""
    expiry: Ranking = field(default_factory=Ranking)
    """Lanes in which something will expire, by the uptime at which to look, seconds."""

    def __post_init__(self) -> None:
        self.numbers = {lane.place: number for number, lane in self.lanes.items()}
        self.rank = {name: at for at, name in enumerate(self.plans)}
        self.quarantine = self.numbers[QUARANTINE, ""]
        self.next_number = max(self.lanes) + 1
        self.to_give = {number for number in self.lanes if number != self.quarantine and self.whole(number).chunk}
        for lane in self.lanes.values():
            self.note_expiry(lane)
        for (_, device), book in self.books.items():
            self.seqs[device] = max(book.last, self.seqs.get(device, self.number_floor))

    def whole(self, number: int) -> Book:
        """A lane's own book; to be read only."""
        return self.sums.wholes[number]

    def lane(self, number: int) -> Lane:
        """The lane that a row says it is of.

        Raises:
            BufferDamaged: there is none.
        """
        lane = self.lanes.get(number)
        if lane is None:
            raise BufferDamaged("there are rows of a lane that never was", where=f"lane {number}")
        return lane

    def documents_of(self, chunk: Chunk) -> bytes:
        """A chunk's documents, with the times put right that can be."""
        boot = self.boots.get(chunk.boot)
        if chunk.clock != UNSURE or boot is None or boot.offset_ns is None:
            return chunk.payload
        return correct(chunk.payload, boot.name, boot.offset_ns)

    def route_lanes(self, route: str) -> list[Lane]:
        """The lanes of a route, the most urgent first."""
        numbers = (self.numbers.get((name, route)) for name in self.plans)
        return [self.lanes[number] for number in numbers if number is not None]

    def unfinished(self, route: str) -> list[str]:
        """The lanes in which not all of a route was given out, the most urgent first."""
        return [name for name in self.plans if self.numbers.get((name, route)) in self.to_give]

    def may_give(self, route: str) -> bool:
        """Whether anything of a route was not given out."""
        for name in self.plans:  # noqa: SIM110  # asked twice for each reading; `any` would take a call for each lane
            if self.numbers.get((name, route)) in self.to_give:
                return True
        return False

    def give(self, lane: Lane, to_chunk: int) -> None:
        """A lane was given out as far as this chunk number."""
        lane.taken_to = to_chunk
        if to_chunk >= self.whole(lane.number).chunk:
            self.to_give.discard(lane.number)

    def begin_giving(self, route: str) -> None:
        """Messages of a route are taken."""
        if route not in self.giving:
            self.giving.add(route)
            self.to_mark.add(route)

    def rewind(self, route: str) -> None:
        """Start over with the oldest message of a route."""
        self.giving.discard(route)
        self.to_mark.discard(route)
        for lane in self.route_lanes(route):
            self.taken.pop(lane.number, None)
            self.passed_over.discard(lane.number)
            lane.taken_to = 0
            lane.look_at_s = 0.0
            if self.whole(lane.number).chunk:
                self.to_give.add(lane.number)
            self.note_expiry(lane)

    def note_expiry(self, lane: Lane) -> None:
        """Something in a lane has changed, or when to look at it."""
        if lane.plan.ttl_s is not None:
            self.expiry.put(lane.number, lane.look_at_s if self.whole(lane.number).queued else None)
