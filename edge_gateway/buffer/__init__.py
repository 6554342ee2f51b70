"""Keeps what was accepted through outages and power cuts, in order, until the hub has it.

In come readings, events and bad frames; out go messages, each the same bytes under the same id however often it is
asked for. A sensor with an identity of its own has messages of its own, given out by an `Outlet` of its own: its name
is their *route*. All else goes under the gateway's identity, by the route "".

The promise:

- When `append()` returns, the batch survives power loss.
- A record leaves only after `settle()`, which means the hub confirmed it, or by a counted policy.
- For each device and lane, always:
  `received = delivered + queued + expired + evicted + rejected + quarantined`.
- Order within a device and lane is kept, as long as the device keeps its route. On the wire at least once; once after
  the receiver drops repeated message ids.
- What lies in one route holds up no other. Where there is too much, the route that holds most gives way first.
- What rots on the disk costs the batches that it is in and no others, and is counted.

The way of a record, file by file:

```
intake.py -> durable.py -> store.py -> transaction/           in: one visit to the store, and one sync, for many batches
routes.py <- durable.py <- store.py <- giving.py              out: a message, for the route that is taken from
documents.py, chunks.py, sealing.py, corrections.py           what it is on the disk: JSON, in chunks, sealed
books.py, ledger.py, inspection.py, bulletins/                what became of it, and who is told
lanes.py, ranking.py, shelf.py                                where it stands, in memory
store_file.py, loading.py, database.py, rebuild.py, salvage/  the file, and what is whole of a damaged one
reserve.py, upkeep.py                                         the room it takes
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple, Protocol

from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.records import Event, Message, Reading


@dataclass(slots=True)
class Account:
    """Where the records of one device and lane are. The books balance when `balance()` is 0."""

    received: int = 0
    delivered: int = 0
    queued: int = 0
    expired: int = 0
    """Dropped because they were older than their lane's time to live."""
    evicted: int = 0
    """Dropped because their lane or the disk was full."""
    rejected: int = 0
    """Never kept, or given up by the quarantine."""
    quarantined: int = 0
    """Frames that could not become readings, and batches that the disk has damaged."""

    def balance(self) -> int:
        """Records that came in and are nowhere (positive) or came out of nowhere (negative). Always 0."""
        gone = self.delivered + self.expired + self.evicted + self.rejected + self.quarantined
        return self.received - self.queued - gone


ACCOUNT_COLUMNS: Final = tuple(each.name for each in fields(Account))
"""In the order in which people read them."""


class BadFrame(NamedTuple):
    """A frame that could not become a reading, for the quarantine."""

    source: str
    """The link it came over, in whose account it is."""
    reason: str
    data: bytes
    time_ns: int
    """Nanoseconds since 1970-01-01T00:00:00Z."""
    time_trusted: bool = True


class Batch(NamedTuple):
    """What came in together and becomes durable together."""

    records: Sequence[Reading | Event] = ()
    """Events go to the lane for events, readings to `lane`."""
    lane: str = ""
    """Of the readings; the configured `reading_lane` if empty."""
    bad: Sequence[BadFrame] = ()
    rejected: Sequence[tuple[str, int]] = ()
    """`(source, count)` of frames that are lost, for the account."""
    replays: Sequence[int] = ()
    """Chunks of the quarantine whose frames have been tried again: what they held is in this batch."""
    notes: Mapping[str, str] = {}
    """Short texts to remember, by name."""
    route: str = ""
    """Of the records: the sensor under whose identity they go; the gateway's own if empty. What else is in the batch
    stays with the gateway."""


class StoredChunk(NamedTuple):
    """A piece of the store, as it was appended."""

    id: int
    lane: str
    message: int
    records: int
    counts: Mapping[str, int]
    """Records by device; by link in the quarantine."""
    payload: bytes | None
    """The records as JSON documents joined by commas; None if the disk has damaged them."""
    route: str = ""


@dataclass(slots=True)
class BufferStatus:
    """What the buffer holds, cheap enough to ask for every second."""

    queued: dict[str, int] = field(default_factory=dict)
    """Records waiting, by lane, in order of priority."""
    totals: Account = field(default_factory=Account)
    """The account summed over devices and lanes."""
    fault: str = ""
    """Why records cannot be made durable now, or what the disk has done; empty while all is well."""
    state: str = "ok"
    """`ok`, `disk-full`, `read-only`, `io-error` or `damaged`."""


class Outlet(Protocol):
    """Where the messages of one route come out. Any task may call any method."""

    async def take(self) -> Message:
        """Wait for the next message not taken yet, and return it.

        The most urgent lane goes first, but one that waits has its turn after a few messages of the others.
        """
        ...

    def settle(self, message: Message) -> None:
        """The hub has confirmed `message`: drop it and count its records delivered.

        Returns at once; made durable together with a later append or after a short while. A crash before that sends
        the message again under the same id.
        """
        ...

    def rewind(self) -> None:
        """Forget what was taken and not settled, so that `take` starts over with the oldest message still here."""
        ...


class Buffer(Outlet, Protocol):
    """A durable queue with lanes and an account; itself the outlet of the gateway's own route.

    Any task may call any method.
    """

    async def append(self, batch: Batch) -> None:
        """Make a batch durable. Concurrent calls share one sync.

        Raises:
            BufferUnavailable: nothing of this batch was kept; calling again with the same is safe.
            LaneFull: the readings were not taken, because their lane refuses when it is full; all else was.
        """
        ...

    def submit(self, batch: Batch, done: Callable[[BufferUnavailable | LaneFull | None], None]) -> None:
        """`append` for whoever goes on meanwhile: `done` is called, in the order of the calls, when it would return.

        If one is unavailable, so are all that were submitted after it and not answered yet: so that whoever tries again
        keeps the order.

        Args:
            batch: what came in.
            done: called in the event loop with None, or with the error `append` would raise.
        """
        ...

    def status(self) -> BufferStatus:
        """What is held now."""
        ...

    async def accounts(self) -> dict[tuple[str, str], Account]:
        """The account of every device and lane, from the store itself."""
        ...

    async def flush(self) -> None:
        """Return when everything settled so far is durable."""
        ...
