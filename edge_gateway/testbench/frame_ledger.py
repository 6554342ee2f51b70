"""What became of every frame a sensor sent, told from what came out at the hub.

A serial line confirms nothing, so the sensor itself cannot know. But the hub's end can be compared with it, because no
two frames of a sensor that are on their way together hold the same values. Within one opening of the line, frames are
read in order and kept in order, so what arrives of it is its beginning; what is cut off are its last frames:

- *arrived*: the hub has a reading with exactly these values, in the order of sending;
- *lost on the wire*: known to the sensor, as the port was closed or the gateway did not read, or *cut off*: sent less
  than `IN_TRANSIT_S` before the port closed, with nothing sent after it in the same opening having arrived;
- *missing*: anything else. There must be none, and it is told as a fault, as is a reading nobody sent.

Broken frames leave no reading. One that was sent before a frame that arrived was read for certain and has to be among
the gateway's rejects; of one before a frame that was cut off nobody can tell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from edge_gateway.records import Value

IN_TRANSIT_S: Final = 2.0
"""How long a frame may be between a sensor and the gateway's disk. Usually milliseconds; the rest is for a machine busy
with other things. What was sent earlier than this before a port closed and did not arrive is the gateway's loss."""

MOST_FAULTS: Final = 20
"""Sentences kept for one sensor; a gateway that loses everything need not be told so a million times."""


class _Frame(NamedTuple):
    opening: int
    sent_s: float
    values: Mapping[str, Value]
    broken_before: int


class FrameLedger:
    """The account of one sensor's frames.

    Args:
        device: the sensor's name, for the sentences.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.arrived = 0
        self.lost_closed = 0
        """Frames due while no gateway had the port open."""
        self.lost_unread = 0
        """Frames that did not fit, because the gateway had the port open and did not read it."""
        self.lost_cut_off = 0
        self.missing = 0
        self.broken = 0
        """Broken frames sent."""
        self.broken_read = 0
        """Those of them the gateway has read for certain."""
        self.broken_cut_off = 0
        """Those it may or may not have read."""
        self.faults: list[str] = []
        """What breaks the promise, in words."""
        self._pending: deque[_Frame] = deque()
        self._closed_s: dict[int, float] = {}
        """When each opening that still has frames pending ended."""
        self._sent_good = 0

    @property
    def sent(self) -> int:
        """Frames the sensor made, good and broken."""
        return self._sent_good + self.broken

    @property
    def lost_good(self) -> int:
        """Good frames lost on the wire."""
        return self.lost_closed + self.lost_unread + self.lost_cut_off

    @property
    def awaited(self) -> int:
        """Frames that were sent while the port was open, and the port has not been closed since: they have to come."""
        return sum(1 for frame in self._pending if frame.opening not in self._closed_s)

    def sent_into_void(self) -> None:
        """A frame was due while the port was closed."""
        self._sent_good += 1
        self.lost_closed += 1

    def found_no_room(self) -> None:
        """A frame was due and the line would not take it."""
        self._sent_good += 1
        self.lost_unread += 1

    def wrote(self, opening: int, at_s: float, values: Mapping[str, Value], broken_before: int = 0) -> None:
        """A frame was written whole.

        Args:
            opening: the line's count of openings.
            at_s: event loop time.
            values: what the frame decodes to.
            broken_before: broken frames written with it, before it.
        """
        self._sent_good += 1
        self.broken += broken_before
        self._pending.append(_Frame(opening, at_s, values, broken_before))

    def closed(self, opening: int, at_s: float) -> None:
        """An opening of the line ended."""
        if self._pending and self._pending[-1].opening == opening:
            self._closed_s[opening] = at_s

    def arrive(self, seq: int, values: Mapping[str, Any]) -> None:
        """The hub has a reading of this sensor that it did not have before. Never raises.

        Args:
            seq: the gateway's number of the reading, for the sentences.
            values: what it says.
        """
        place = next((place for place, frame in enumerate(self._pending) if frame.values == values), None)
        if place is None:
            self._tell(f"seq {seq} is none of the frames on their way")
            return
        skipped = [self._pending.popleft() for _ in range(place)]
        frame = self._pending.popleft()
        for each in skipped:
            self._give_up(each, same_opening=each.opening == frame.opening)
        self.arrived += 1
        self.broken_read += frame.broken_before
        for opening in [each for each in self._closed_s if each < frame.opening]:
            del self._closed_s[opening]

    def settle(self) -> None:
        """Nothing more will arrive: judge what is still pending."""
        while self._pending:
            self._give_up(self._pending.popleft(), same_opening=False)

    def _give_up(self, frame: _Frame, *, same_opening: bool) -> None:
        self.broken_cut_off += frame.broken_before
        closed_s = self._closed_s.get(frame.opening)
        if not same_opening and closed_s is not None and closed_s - frame.sent_s < IN_TRANSIT_S:
            self.lost_cut_off += 1
            return
        self.missing += 1
        if same_opening:
            why = "though one sent after it did"
        elif closed_s is None:
            why = "though the port stayed open"
        else:
            why = f"though the port stayed open for {closed_s - frame.sent_s:.1f} s more"
        self._tell(f"a frame sent at {frame.sent_s:.3f} s never came, {why}")

    def _tell(self, fault: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(f"{self.device}: {fault}")
