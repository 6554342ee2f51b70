"""Tells a state that holds from one that bounces. Pure: time comes in as an argument."""

from __future__ import annotations


class Hold:
    """Whether something was the same at every look for a while.

    Args:
        hold_s: for how long.
        most_gap_s: longer gaps between two looks count as this much: nobody knows what was in between.
    """

    def __init__(self, hold_s: float, most_gap_s: float) -> None:
        self._hold_s = hold_s
        self._most_gap_s = most_gap_s
        self._held_s: float | None = None
        self._last_s = 0.0

    def look(self, is_so: bool, now_s: float) -> bool:
        """Take in a look.

        Args:
            is_so: what it saw; False also where nothing could be seen.
            now_s: when; any clock that only goes forward.

        Returns:
            Whether it has held long enough.
        """
        if not is_so:
            self._held_s = None
            return False
        if self._held_s is None:
            self._held_s = 0.0
        else:
            self._held_s += min(now_s - self._last_s, self._most_gap_s)
        self._last_s = now_s
        return self._held_s >= self._hold_s
