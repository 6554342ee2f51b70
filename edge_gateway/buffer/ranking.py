"""Which lane comes first by some figure of theirs, found without looking at all of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf


class Ranking:
    """Lanes in the order of a figure. To change one moves some pointers, which is nothing for thousands of lanes."""

    def __init__(self) -> None:
        self._figures: dict[int, float] = {}
        self.standing: list[tuple[float, int]] = []
        """Figure and number of each lane, the smallest first; to be read only."""

    def put(self, number: int, figure: float | None) -> None:
        """Give a lane its place; none if its figure is None."""
        before = self._figures.get(number)
        if before == figure:
            return
        if before is not None:
            del self.standing[bisect_left(self.standing, (before, number))]
        if figure is None:
            del self._figures[number]
        else:
            self._figures[number] = figure
            insort(self.standing, (figure, number))

    def up_to(self, figure: float) -> list[int]:
        """The lanes with no more than this."""
        return [number for _, number in self.standing[: bisect_right(self.standing, (figure, inf))]]


class LargestFirst:
    """Which lane holds most, in a transaction that changes what they hold, and may be rolled back.

    Args:
        standing: figure and number of each lane before the transaction, the smallest first; not changed here.
        bytes_of: what a lane holds now.
        changed: lanes that the transaction has changed so far.
    """

    def __init__(
        self, standing: Sequence[tuple[float, int]], bytes_of: Callable[[int], int], changed: Iterable[int]
    ) -> None:
        self._standing = standing
        self._rest = len(standing)
        """So many of them, the smallest, were not looked at yet."""
        self._bytes_of = bytes_of
        self._seen = [(-bytes_of(number), number) for number in changed]
        """A heap. An entry that does not say what its lane holds now is out of date."""
        heapify(self._seen)
        self._passed_over: set[int] = set()

    def note(self, number: int) -> None:
        """What a lane holds has changed."""
        self._passed_over.discard(number)
        heappush(self._seen, (-self._bytes_of(number), number))

    def pass_over(self, number: int) -> None:
        """A lane can give nothing, until something in it changes."""
        self._passed_over.add(number)

    def first(self) -> int | None:
        """The lane that holds most of those that may give something; None if there is none."""
        while True:
            if self._rest and (not self._seen or self._standing[self._rest - 1][0] >= -self._seen[0][0]):
                self._rest -= 1
                number = self._standing[self._rest][1]
                heappush(self._seen, (-self._bytes_of(number), number))
            elif not self._seen:
                return None
            else:
                size_bytes, number = self._seen[0]
                if size_bytes and -size_bytes == self._bytes_of(number) and number not in self._passed_over:
                    return number
                heappop(self._seen)
