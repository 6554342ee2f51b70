"""What became of the records of each device and lane, and how one transaction changes it.

Each lane of each route has a book of its own, which sums up those of its devices. What all routes of a lane hold
together is summed up in memory, because that is what its limit and its status are about.

A transaction works on copies, which take the place of the originals when it is durable and are forgotten when it fails.
So the books in memory always say what the disk says.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, TypeAlias

from edge_gateway.buffer import Account
from edge_gateway.buffer.lanes import Lane, name_on_disk
from edge_gateway.buffer.ranking import LargestFirst, Ranking

WHOLE_LANE: Final = "="
"""Begins the name under which a lane's own book is kept, before the lane's name; no device can have such a name."""

Key: TypeAlias = tuple[int, str]
"""Number of the lane; device."""


@dataclass(slots=True)
class Book:
    """What is known of one device in one lane, or of a lane as a whole. A row of the table `book`."""

    last: int = 0
    """The last seq given to the device; of a lane, the last message number."""
    chunk: int = 0
    """Of a lane: the last chunk number. No number is used twice."""
    given: int = 0
    """Of a lane: up to this chunk, messages may have been given out and must never change again."""
    thinned: int = 0
    """Of a lane: how far the present round of thinning has come, as a chunk number."""
    bytes: int = 0
    """Of a lane: payload bytes queued, as they are on disk."""
    received: int = 0
    delivered: int = 0
    expired: int = 0
    evicted: int = 0
    rejected: int = 0
    quarantined: int = 0
    hour: int = 0
    """Hours since 1970 of the changes that the ledger has not got yet; 0 if it has all."""

    def copy(self) -> Book:
        """For a transaction to work on."""
        return Book(*columns_of(self))

    @property
    def queued(self) -> int:
        """Records waiting."""
        gone = self.delivered + self.expired + self.evicted + self.rejected + self.quarantined
        return self.received - gone

    def account(self) -> Account:
        """For the outside."""
        return Account(
            received=self.received,
            delivered=self.delivered,
            queued=self.queued,
            expired=self.expired,
            evicted=self.evicted,
            rejected=self.rejected,
            quarantined=self.quarantined,
        )


COLUMNS: Final = tuple(each.name for each in fields(Book))
"""Of the table `book`, behind lane and device."""

TOTALS: Final = ("received", "delivered", "expired", "evicted", "rejected", "quarantined")
"""Those that a lane's own book sums up."""

_EMPTY: Final = Book()

columns_of: Final[Any] = attrgetter(*COLUMNS)
"""The row of a book: a tuple of whole numbers."""


def with_crc(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as it is written: its last column says whether it is still what was written."""
    return (*row, zlib.crc32(repr(row).encode()))


def checked_row(row: Sequence[Any]) -> tuple[Any, ...] | None:
    """What `with_crc` was given; None if the disk has damaged it."""
    *columns, crc = row
    plain = tuple(columns)
    return plain if zlib.crc32(repr(plain).encode()) == crc else None


class Sums:
    """The lanes' own books, and what follows from them: kept up with each transaction, however many routes there are.

    Args:
        wholes: the book of each lane by its number.
        lanes: by number.
    """

    def __init__(self, wholes: dict[int, Book], lanes: Mapping[int, Lane]) -> None:
        self.wholes: dict[int, Book] = {}
        """Each lane's own book, by number."""
        self.by_name: dict[str, Book] = {}
        """All routes of a lane of the configuration together, by its name: bytes and counters."""
        self.by_bytes: dict[str, Ranking] = {}
        """The routes of a lane by the bytes they hold; those that hold nothing are left out."""
        for number, whole in wholes.items():
            self.update({number: whole}, lanes)

    def update(self, changed: Mapping[int, Book], lanes: Mapping[int, Lane]) -> None:
        """Some lanes have new books. Nobody ever sees half of one: status is asked for by another thread."""
        sums: dict[str, Book] = {}
        for number, now in changed.items():
            name = lanes[number].plan.name
            before = self.wholes.get(number, _EMPTY)
            of_all = sums.get(name)
            if of_all is None:
                sums[name] = of_all = self.by_name.get(name, _EMPTY).copy()
            of_all.received += now.received - before.received
            of_all.delivered += now.delivered - before.delivered
            of_all.expired += now.expired - before.expired
            of_all.evicted += now.evicted - before.evicted
            of_all.rejected += now.rejected - before.rejected
            of_all.quarantined += now.quarantined - before.quarantined
            of_all.bytes += now.bytes - before.bytes
            if name not in self.by_bytes:
                self.by_bytes[name] = Ranking()
            self.by_bytes[name].put(number, now.bytes if now.bytes > 0 else None)
        self.wholes.update(changed)
        self.by_name.update(sums)


class Change:
    """What a transaction does to the books.

    Args:
        books: of devices, as they are.
        sums: the lanes' own books, as they are.
        lanes: by number, as they are.
        hour: hours since 1970, for the ledger.
    """

    def __init__(self, books: Mapping[Key, Book], sums: Sums, lanes: Mapping[int, Lane], hour: int) -> None:
        self._before = books
        self._sums = sums
        self._lanes = lanes
        self._hour = hour
        self.books: dict[Key, Book] = {}
        """Of devices."""
        self.wholes: dict[int, Book] = {}
        """The lanes' own, by number."""
        self.seqs: dict[str, int] = {}
        """Of devices that got one in this transaction."""
        self._grown: dict[str, int] = {}
        """Bytes, by the lane's name."""
        self._largest: dict[str, LargestFirst] = {}
        self.opened: dict[int, Lane] = {}
        """New lanes, by number."""

    def book(self, lane: int, device: str) -> Book:
        """The book as this transaction leaves it; to be written to."""
        book = self.books.get((lane, device))
        if book is None:
            before = self._before.get((lane, device))
            self.books[lane, device] = book = Book() if before is None else before.copy()
        return book

    def whole(self, lane: int) -> Book:
        """A lane's own book; to be written to, but for its bytes."""
        whole = self.wholes.get(lane)
        if whole is None:
            self.wholes[lane] = whole = self._sums.wholes[lane].copy()
        return whole

    def seen_whole(self, lane: int) -> Book:
        """A lane's own book; to be read only."""
        return self.wholes.get(lane) or self._sums.wholes[lane]

    def open(self, lane: Lane, floor: int) -> None:
        """There is a new lane, whose numbers are all to be larger than `floor`."""
        self.opened[lane.number] = lane
        self.wholes[lane.number] = Book(last=floor, chunk=floor, given=floor)

    def _lane(self, number: int) -> Lane:
        return self._lanes.get(number) or self.opened[number]

    def add_bytes(self, lane: int, size_bytes: int) -> None:
        """A lane holds so much more."""
        self.whole(lane).bytes += size_bytes
        name = self._lane(lane).plan.name
        self._grown[name] = self._grown.get(name, 0) + size_bytes
        if name in self._largest:
            self._largest[name].note(lane)

    def bytes(self, name: str) -> int:
        """What all routes of a lane hold."""
        return self._sums.by_name[name].bytes + self._grown.get(name, 0)

    def largest(self, name: str) -> LargestFirst:
        """The routes of a lane, by what they hold."""
        largest = self._largest.get(name)
        if largest is None:
            changed = [number for number in self.wholes if self._lane(number).plan.name == name]
            standing = self._sums.by_bytes[name].standing
            self._largest[name] = largest = LargestFirst(standing, lambda lane: self.seen_whole(lane).bytes, changed)
        return largest

    def count(self, lane: int, counts: Mapping[str, int], *columns: str, bytes_queued: int = 0) -> None:
        """Enter records of some devices in their books and in the lane's own; a negative count takes them out."""
        whole = self.whole(lane)
        if bytes_queued:
            self.add_bytes(lane, bytes_queued)
        for device, records in counts.items():
            book = self.book(lane, device)
            for column in columns:
                setattr(book, column, getattr(book, column) + records)
                setattr(whole, column, getattr(whole, column) + records)
            book.last = max(book.last, self.seqs.get(device, 0))
            book.hour = book.hour or self._hour

    def rows(self) -> list[tuple[object, ...]]:
        """The changed rows of `book`."""
        rows = [(lane, device, *columns_of(book)) for (lane, device), book in self.books.items()]
        rows += [(lane, name_of_whole(self._lane(lane)), *columns_of(book)) for lane, book in self.wholes.items()]
        return [with_crc(row) for row in rows]


def name_of_whole(lane: Lane) -> str:
    """In the place of a device, the name under which a lane's own book is kept."""
    return WHOLE_LANE + name_on_disk(*lane.place)


def total(books: Iterable[Book]) -> Account:
    """The sum of some accounts."""
    books = list(books)
    return Account(
        received=sum(book.received for book in books),
        delivered=sum(book.delivered for book in books),
        queued=sum(book.queued for book in books),
        expired=sum(book.expired for book in books),
        evicted=sum(book.evicted for book in books),
        rejected=sum(book.rejected for book in books),
        quarantined=sum(book.quarantined for book in books),
    )
