"""How long to wait before connecting again."""

from __future__ import annotations

import random


class Backoff:
    """Exponential and jittered, so that a thousand gateways do not return to a hub in the same second.

    Each pause is drawn evenly between half of its ceiling and the ceiling; the ceiling doubles from `first_s` up to
    `most_s`.
    """

    def __init__(self, first_s: float, most_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._most_s = max(first_s, most_s)
        self._rng = rng
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """The next pause, seconds."""
        pause_s = self._ceiling_s * (0.5 + 0.5 * self._rng.random())
        self._ceiling_s = min(self._ceiling_s * 2, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Start over: the connection proved good."""
        self._ceiling_s = self._first_s
