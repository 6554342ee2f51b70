"""The database page by page, as its log leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

from edge_gateway.buffer.salvage.content import Content
from edge_gateway.buffer.salvage.log import read_log

_MOST_PAGES: Final = 1 << 24
"""64 GiB in pages of 4 KiB: a larger page number in the log is taken for damage, or memory would follow it."""


class Page(NamedTuple):
    """A page, whatever it holds."""

    data: bytes
    frame: int
    """Of the log, counted from 1, that it comes from; 0: it is the database's own. A larger one is newer."""
    is_stale: bool
    """Whether a newer version of it has been lost, or may have been."""


class Pages:
    """The pages of a database, counted from 1; those in its log instead of its own.

    Args:
        database: the file.
        log: its `-wal` file; empty if there is none.
        page_bytes: size of a page.
    """

    def __init__(self, database: Content, log: Content, page_bytes: int) -> None:
        self._database = database
        self._log, self._frames = read_log(log, page_bytes)
        self.page_bytes = page_bytes
        in_file = len(database) // page_bytes
        if self._log.pages and not self._log.lost and not self._log.lost_somewhere:
            count = self._log.pages  # which is less than there are in the file after a VACUUM
        else:
            count = max(in_file, self._log.pages, *self._log.newest, 0)
        self.count = min(count, _MOST_PAGES)
        """The largest number a page may have."""
        self._in_file = min(in_file, self.count)

    def numbers(self) -> Iterator[int]:
        """The pages there are."""
        only_in_log = (number for number in self._log.newest if self._in_file < number <= self.count)
        return chain(range(1, self._in_file + 1), sorted(only_in_log))

    def frame(self, number: int) -> int:
        """See `Page.frame`."""
        return self._log.newest.get(number, 0)

    def read(self, number: int) -> Page | None:
        """A page; None if there is no such page."""
        if not 0 < number <= self.count:
            return None
        frame = self.frame(number)
        if frame:
            data = self._frames.page(frame)
        elif number <= self._in_file:
            data = self._database[(number - 1) * self.page_bytes : number * self.page_bytes]
        else:
            return None
        return Page(data, frame, frame < max(self._log.lost.get(number, 0), self._log.lost_somewhere))
