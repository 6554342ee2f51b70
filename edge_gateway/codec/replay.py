"""Frames that were taken before: an attacker's recording played back, and the radio's own repetitions.

A tag proves that a device made a frame, not that it made it now. The device's counter does, if no counter is taken
twice. `ReplayGuard` judges the counters of one device: pure, a few integers of memory, one comparison for most frames.

It must not forget over a restart of the gateway, and writing every counter down would wear out the disk. So it
reserves ahead: what is on disk is a number a little beyond the last that was taken, and nothing needs writing until the
device passes it. After a crash everything up to that number counts as taken: a few frames may be lost, and none comes
twice. How far ahead is found for each device by itself: a minute or two of its frames.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pydantic import Field

from edge_gateway.codec.fields import FieldName, Misdeclared, WholeNumber
from edge_gateway.config.settings import Settings

ReplayPolicy: TypeAlias = Literal["newer", "newer-or-restarted", "repeats"]

RESTARTED_BELOW: Final = 1024
"""A counter less than this may be of a device that began to count anew; some of its first frames may go unheard."""

MOST_AHEAD: Final = 1000
"""Counters reserved at most: a device of 100 frames a second has one writing every ten seconds."""

_LEAST_AHEAD: Final = 2
_RESERVE_FOR_S: Final = 60.0
"""A reservation used up sooner was too small, and one that lasted four times as long too large."""


class ReplayRule(Settings):
    """Which field counts a device's frames, and what is done with a number that is not new."""

    counter: FieldName
    """The field: the profile's `sequence`, or a value. A frame without it is not judged."""
    policy: ReplayPolicy = "newer"
    """`newer`: only what is newer than everything before, and what `window` allows; for encrypted frames.
    `newer-or-restarted`: also a device that counts from 0 again. Whoever recorded its first frames can play them back.
    `repeats`: everything but the same number again; for counters that nothing protects, like a BTHome packet id."""
    window: int = Field(default=0, ge=0, le=64)
    """How many numbers a frame may be late, where frames overtake each other. Each is still taken once."""
    bits: int | None = Field(default=None, ge=2, le=64, examples=[32])
    """How wide the counter is, where its field does not say so (a computed one)."""


def counter_span(rule: ReplayRule, fields: Sequence[object] | None) -> int:
    """How many numbers a counter has before it begins at 0 again.

    Args:
        rule: whose counter it is.
        fields: the declarations of what goes by its name in the frames; with several widths, the smallest counts. None
            where the frames are not declared.

    Raises:
        Misdeclared: there is no such field, or nobody knows its width.
    """
    if fields is not None and not fields:
        raise Misdeclared(
            f"{rule.counter!r} is no value of a sample", key="counter", remedy="Name its sequence, or a value"
        )
    if rule.bits is not None:
        return 1 << rule.bits
    widths = fields or ()
    spans = [field.raw_range[1] + 1 for field in widths if isinstance(field, WholeNumber) and field.is_plain]
    if not spans or len(spans) < len(widths):
        raise Misdeclared(
            f"nothing says how wide {rule.counter!r} is",
            key="bits",
            remedy="Name a whole number without scale, enum or sentinel, or give `bits`, for instance 32",
        )
    return min(spans)


class Freshness(enum.StrEnum):
    """What a counter says about its frame. The value of one that is not taken is the word it is counted under."""

    FRESH = "fresh"
    """Not seen before: take it."""
    REPEATED = "repeated"
    """The same number as one taken lately, as the radio sends each advertisement several times."""
    REPLAYED = "replayed"
    """Older than what was taken: a recording, or a device that lost its count."""


class ReplayGuard:
    """The counters of one device.

    Args:
        rule: what to take.
        span: how many numbers the counter has before it begins at 0 again, 2 or more.
        last: what counts as taken from before, with everything older; None for a device never heard.
    """

    __slots__ = ("_ahead", "_left", "_policy", "_reserved_at_s", "_seen", "_seen_mask", "_span", "_window", "last")

    def __init__(self, rule: ReplayRule, span: int, last: int | None = None) -> None:
        self._policy = rule.policy
        # Half the span is older; a window that reached into the newer half would take every number.
        self._window = min(rule.window, span // 4)
        self._span = span
        self._seen_mask = (2 << self._window) - 1
        self._seen = self._seen_mask
        """Bit n: whether the number n before the last was taken."""
        self.last = last
        """The newest number taken."""
        self._left = 0
        """How many numbers may still be taken without writing; below 0 when one too many was."""
        self._ahead = _LEAST_AHEAD
        self._reserved_at_s: float | None = None

    def judge(self, counter: int) -> Freshness:
        """Whether to take the frame with this counter. A number is FRESH once; asking again gives another answer."""
        if not 0 <= counter < self._span:
            return Freshness.REPLAYED
        last = self.last
        if last is None:
            return self._begin(counter)
        ahead = (counter - last) % self._span
        if 0 < ahead < (self._span + 1) // 2:
            # Beyond the window nothing is remembered; without the limit a leap would make an integer of its width.
            self._seen = (self._seen << min(ahead, self._window + 1) | 1) & self._seen_mask
            self._left -= ahead
            self.last = counter
            return Freshness.FRESH
        behind = (last - counter) % self._span
        if behind <= self._window:
            if self._seen >> behind & 1:
                return Freshness.REPEATED
            self._seen |= 1 << behind
            return Freshness.FRESH
        if self._policy == "repeats" or (
            self._policy == "newer-or-restarted" and counter < min(RESTARTED_BELOW, self._span // 4)
        ):
            return self._begin(counter)
        return Freshness.REPLAYED

    def _begin(self, counter: int) -> Freshness:
        self.last = counter
        # What was before this device's first number is older for `newer`, and unknown for `repeats`.
        self._seen = 1 if self._policy == "repeats" else self._seen_mask
        self._left = -1
        return Freshness.FRESH

    @property
    def must_reserve(self) -> bool:
        """Whether a number was taken that nothing on disk covers: reserve before what came with it is handed on."""
        return self._left < 0 and self._policy != "repeats"

    @property
    def would_reserve(self) -> bool:
        """Whether half of the reservation is used up: worth another one if the disk is written anyway."""
        return self._left <= self._ahead // 2 and self._policy != "repeats" and self.last is not None

    def reserve(self, now_s: float) -> int:
        """The number to write to disk: everything up to it counts as taken by whoever reads it.

        Args:
            now_s: any clock that only goes forward, seconds.

        Raises:
            ValueError: nothing was ever taken.
        """
        if self.last is None:
            raise ValueError("a device never heard has nothing to reserve")
        if self._reserved_at_s is not None:
            lasted_s = now_s - self._reserved_at_s
            if lasted_s < _RESERVE_FOR_S:
                self._ahead = min(2 * self._ahead, MOST_AHEAD)
            elif lasted_s > 4 * _RESERVE_FOR_S:
                self._ahead = max(self._ahead // 2, _LEAST_AHEAD)
        self._reserved_at_s = now_s
        # What is reserved is refused after a crash; of a short counter a quarter at most, so that the device soon
        # passes it and never comes from behind.
        self._left = min(self._ahead, self._span // 4)
        return (self.last + self._left) % self._span
