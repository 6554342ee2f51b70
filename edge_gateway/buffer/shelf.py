"""What the store has in memory of what is on its disk, for its transactions to work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import apsw
import orjson

from edge_gateway.buffer.books import WHOLE_LANE, Book, Key
from edge_gateway.buffer.database import PAGE_BYTES, Space
from edge_gateway.buffer.lanes import QUARANTINE, Lane
from edge_gateway.buffer.sealing import Sealer
from edge_gateway.config.model import BufferSettings
from edge_gateway.errors import BufferDamaged, PayloadDamaged

SURE: Final = 0
"""A chunk whose times are right, as far as the gateway knows."""
UNSURE: Final = 1
"""A chunk stamped before the clock was trusted, to be corrected when it is given out."""
TOLD_UNSURE: Final = 2
"""The same, given out before it could be corrected; it stays as it is, because a message never changes."""
DAMAGED: Final = 3
"""A chunk in the quarantine that the disk has damaged."""


_ON_ONE_PAGE_BYTES: Final = PAGE_BYTES - 128
"""Of a chunk's counts and payload, at most: the rest of its row and of the page takes less than 128 bytes."""


class Moment(NamedTuple):
    """What the clock said when a transaction began."""

    uptime_ns: int
    now_ns: int
    is_trusted: bool
    offset_ns: int | None = None
    """Of the running boot, if the store did not know it and the clock is trusted."""


class Chunk(NamedTuple):
    """A row of `chunk` as it goes in or out: with its payload in the open."""

    id: int
    message: int
    records: int
    boot: int
    uptime_ms: int
    clock: int
    counts: bytes
    """Records by device, as JSON."""
    payload: bytes
    stored_bytes: int
    """Of the payload as it is on disk."""


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
    """The store's state. Only a finished transaction changes it."""

    db: apsw.Connection
    space: Space
    sealer: Sealer
    settings: BufferSettings
    id: str
    """Of the store; begins every message id."""
    lanes: dict[int, Lane]
    """By number, the quarantine too."""
    order: list[int]
    """Numbers of the lanes that are taken from, the most urgent first."""
    books: dict[Key, Book]
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
    taken: dict[tuple[str, int], Taken] = field(default_factory=dict)
    """Messages given out and not settled, by lane and number."""
    fresh: dict[int, Chunk] = field(default_factory=dict)
    """Chunks of the last transaction: they are nearly always taken next."""
    unlogged: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records dropped and not told in the log yet, by lane and reason."""
    next_log_s: float = 0.0
    """Uptime."""
    passed_over: set[int] = field(default_factory=set)
    """Lanes with damaged chunks that are still there, because the disk takes no writes."""
    is_giving: bool = False
    """Whether messages are being taken, so that what is appended may leave at once."""

    numbers: dict[str, int] = field(init=False)
    """The lanes' numbers by name."""
    whole_names: dict[int, str] = field(init=False)
    """The names of the lanes' own books."""
    quarantine: int = field(init=False)
    """The number of the lane of bad frames."""

    def __post_init__(self) -> None:
        self.numbers = {lane.plan.name: number for number, lane in self.lanes.items()}
        self.whole_names = {number: WHOLE_LANE + lane.plan.name for number, lane in self.lanes.items()}
        self.quarantine = self.numbers[QUARANTINE]
        for (_, device), book in self.books.items():
            if not device.startswith(WHOLE_LANE):
                self.seqs[device] = max(book.last, self.seqs.get(device, self.number_floor))

    def whole(self, number: int) -> Book:
        """A lane's own book; to be read only."""
        return self.books[number, self.whole_names[number]]


def context(chunk_id: int, message: int, records: int, counts: bytes) -> bytes:
    """What a sealed payload is bound to: its place, and whose records it holds."""
    return b"%d %d %d %s" % (chunk_id, message, records, counts)


def payload_of(row: Sequence[Any], sealer: Sealer) -> bytes:
    """The payload of a row of `chunk`, in the open.

    Raises:
        PayloadDamaged: the row is not as it was written.
        KeyStoreError: there is no key for it.
    """
    *head, counts, sealed = row
    if not (is_sound(head) and isinstance(counts, bytes) and isinstance(sealed, bytes)):
        raise PayloadDamaged("is no chunk", where=f"chunk {row[0]}")
    chunk_id, message, records = head[:3]
    return sealer.open(sealed, context(chunk_id, message, records, counts))


def damaged_chunk(row: Sequence[Any]) -> tuple[Chunk, bytes]:
    """A row of `chunk` whose payload does not open, and that payload, sealed.

    Raises:
        BufferDamaged: it is no chunk at all, or goes over several pages. Which pages those are may be what is damaged,
            and to remove the row would free pages that are another's.
    """
    *head, counts, sealed = row
    if not (is_sound(head) and isinstance(counts, bytes) and isinstance(sealed, bytes)):
        raise BufferDamaged("a row is no chunk", where=f"chunk {row[0]}")
    if len(counts) + len(sealed) > _ON_ONE_PAGE_BYTES:
        raise BufferDamaged("a chunk is damaged that goes over several pages", where=f"chunk {row[0]}")
    return keyless_chunk(row)


def keyless_chunk(row: Sequence[Any]) -> tuple[Chunk, bytes]:
    """A row of `chunk` that is whole, but whose key is gone for good, and its payload, sealed."""
    return Chunk._make((*row[:-1], b"", len(row[-1]))), row[-1]


def counts_of(text: str | bytes) -> dict[str, int]:
    """Records by device, as a chunk says; nothing if the disk has damaged it."""
    try:
        counts = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    is_whole = isinstance(counts, dict) and all(isinstance(count, int) and count > 0 for count in counts.values())
    return counts if is_whole else {}


def is_sound(numbers: Sequence[object]) -> bool:
    """Whether the columns of a row that should be whole numbers are; SQLite does not look when it reads."""
    return all(type(each) is int for each in numbers)
