"""The lanes: which there are, what each is told, and whose turn it is.

A sensor with an identity of its own has messages of its own. So what is one lane in the configuration and to the
outside is on disk one for each *route*: the sensor's name, or "" for the gateway's own identity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from edge_gateway.config.buffer import BufferSettings, LaneSettings

QUARANTINE: Final = "(quarantine)"
"""The lane of bad frames, which is never taken from; no lane of a configuration can have this name."""

NUMBERS: Final = 1 << 48
"""Chunk numbers a lane can use up; at a thousand a second enough for nine thousand years."""

MOST_LANES: Final = (1 << 63) // NUMBERS
"""There can be over the whole life of a store, those of all routes counted: 32,768, as SQLite's keys have 63 bits."""

_PATIENCE: Final = 8
"""Messages of others that a lane lets pass before it has its turn."""


@dataclass(frozen=True, slots=True)
class LanePlan:
    """What a lane is told by the configuration, nothing left open."""

    name: str
    ttl_s: float | None
    max_bytes: int | None
    when_full: Literal["drop-oldest", "drop-newest", "thin", "refuse"]
    keep_every: int
    most_records: int
    """In a message."""
    wait_s: float
    """How long a message waits for more records."""


def plans(settings: BufferSettings, known: Sequence[str] = ()) -> list[LanePlan]:
    """The lanes in order of priority: those configured, then those that a store still knows.

    Args:
        settings: of the buffer.
        known: names of lanes there are on disk, of whatever route.
    """
    configured = [lane.name for lane in settings.lanes]
    names = dict.fromkeys(lane_and_route(name)[0] for name in known)
    former = [LaneSettings(name=name) for name in names if name not in configured and name != QUARANTINE]
    return [
        LanePlan(
            lane.name,
            lane.ttl_s,
            lane.max_bytes,
            lane.when_full,
            lane.keep_every,
            lane.max_records_per_message or settings.max_records_per_message,
            settings.max_message_age_s if lane.max_message_age_s is None else lane.max_message_age_s,
        )
        for lane in (*settings.lanes, *former)
    ]


def quarantine_plan(settings: BufferSettings) -> LanePlan:
    """The lane of bad frames."""
    return LanePlan(QUARANTINE, None, settings.quarantine_bytes, "drop-oldest", 2, 1000, 0.0)


def name_on_disk(lane: str, route: str) -> str:
    """What a lane of one route is called on disk. Neither name has a slash."""
    return f"{lane}/{route}" if route else lane


def lane_and_route(name_on_disk: str) -> tuple[str, str]:
    """The inverse."""
    lane, _, route = name_on_disk.partition("/")
    return lane, route


def lane_key(number: int) -> str:
    """Under which the table `store` says once more what a sensor's lane is called.

    A book that the disk has damaged must not cost a lane its route: messages would go under the wrong identity.
    """
    return f"lane {number}"


@dataclass(slots=True)
class Lane:
    """A lane of one route at work: its plan, and what only this process needs to know of it."""

    plan: LanePlan
    """Which all its routes share, with the limit in it."""
    number: int
    """Its own on disk, for as long as the store lives."""
    route: str = ""
    taken_to: int = 0
    """Number of the last chunk given out; where `take` goes on."""
    open_first_chunk: int = 0
    """Where the message starts that chunks may still join."""
    open_records: int = 0
    """Records in that message; 0 if there is none."""
    open_bytes: int = 0
    open_since_s: float = 0.0
    look_at_s: float = 0.0
    """Uptime, seconds, before which nothing can have expired."""
    seen: dict[str, int] = field(default_factory=dict)
    """While thinning: records of each device since the last one kept."""

    def copy(self) -> Lane:
        """For a transaction to work on."""
        return Lane(
            self.plan,
            self.number,
            self.route,
            self.taken_to,
            self.open_first_chunk,
            self.open_records,
            self.open_bytes,
            self.open_since_s,
            self.look_at_s,
            self.seen.copy(),
        )

    @property
    def place(self) -> tuple[str, str]:
        """The lane's name and the route."""
        return self.plan.name, self.route

    def chunk_id(self, number: int) -> int:
        """The key of a chunk in the table `chunk`."""
        return self.number * NUMBERS + number

    def chunk_number(self, chunk_id: int) -> int:
        """The inverse."""
        return chunk_id - self.number * NUMBERS


def lane_number(chunk_id: int) -> int:
    """Which lane a chunk is of."""
    return chunk_id // NUMBERS


class Turns:
    """Whose turn it is: the most urgent lane's, unless another has let too many pass.

    Of `_PATIENCE + n` messages, each of `n` lanes that always have something gets at least one.
    """

    def __init__(self) -> None:
        self._let_pass: Counter[str] = Counter()

    def next(self, waiting: Sequence[str]) -> str:
        """Choose among the lanes that have something to give.

        Args:
            waiting: their names, the most urgent first; at least one.
        """
        impatient = [name for name in waiting if self._let_pass[name] >= _PATIENCE]
        chosen = max(impatient, key=lambda name: self._let_pass[name]) if impatient else waiting[0]
        for name in waiting:
            self._let_pass[name] += 1
        self._let_pass[chosen] = 0
        return chosen
