"""What became of the records of each device and lane, and how one transaction changes it.

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


class Change:
    """What a transaction does to the books.

    Args:
        books: as they are.
        whole_names: the name of each lane's own book, by the lane's number.
        seqs: the last seq of each device, over all lanes.
        hour: hours since 1970, for the ledger.
    """

    def __init__(
        self, books: Mapping[Key, Book], whole_names: Mapping[int, str], seqs: Mapping[str, int], hour: int
    ) -> None:
        self._before = books
        self._whole_names = whole_names
        self._seqs_before = seqs
        self._hour = hour
        self.books: dict[Key, Book] = {}
        self.seqs: dict[str, int] = {}
        """Of devices that got one in this transaction."""

    def book(self, lane: int, device: str) -> Book:
        """The book as this transaction leaves it; to be written to."""
        book = self.books.get((lane, device))
        if book is None:
            before = self._before.get((lane, device))
            self.books[lane, device] = book = Book() if before is None else before.copy()
        return book

    def whole(self, lane: int) -> Book:
        """A lane's own book; to be written to."""
        return self.book(lane, self._whole_names[lane])

    def seen_whole(self, lane: int) -> Book:
        """A lane's own book; to be read only."""
        name = self._whole_names[lane]
        return self.books.get((lane, name)) or self._before[lane, name]

    def next_seq(self, device: str) -> int:
        """Number a record."""
        seq = self.seqs.get(device)
        if seq is None:
            seq = self._seqs_before.get(device, 0)
        self.seqs[device] = seq = seq + 1
        return seq

    def count(self, lane: int, counts: Mapping[str, int], *columns: str, bytes_queued: int = 0) -> None:
        """Enter records of some devices in their books and in the lane's own; a negative count takes them out."""
        whole = self.whole(lane)
        whole.bytes += bytes_queued
        for device, records in counts.items():
            book = self.book(lane, device)
            for column in columns:
                setattr(book, column, getattr(book, column) + records)
                setattr(whole, column, getattr(whole, column) + records)
            book.last = max(book.last, self.seqs.get(device, 0))
            book.hour = book.hour or self._hour

    def rows(self) -> list[tuple[object, ...]]:
        """The changed rows of `book`."""
        return [with_crc((lane, device, *columns_of(book))) for (lane, device), book in self.books.items()]


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
