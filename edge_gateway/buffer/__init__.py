"""Keeps what was accepted through outages and power cuts, in order, until the hub has it.

In come readings and events; out go messages, each the same bytes under the same id however often it is asked for.

The promise:

- When `append()` returns, the records survive power loss.
- A record leaves only after `settle()`, which means the hub confirmed it, or by a counted policy.
- For each device and lane, always: `received = delivered + queued + expired + evicted + rejected`.
- Order within a device and lane is kept. On the wire at least once; once after the receiver drops repeated message ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_gateway.errors import BufferUnavailable
from edge_gateway.records import Event, Lane, Message, Reading


@dataclass(slots=True)
class Account:
    """Where the records of one device and lane are. The books balance when `balance()` is 0."""

    received: int = 0
    delivered: int = 0
    queued: int = 0
    expired: int = 0
    evicted: int = 0
    rejected: int = 0

    def balance(self) -> int:
        """Records that came in and are nowhere (positive) or came out of nowhere (negative). Always 0."""
        return self.received - self.delivered - self.queued - self.expired - self.evicted - self.rejected


@dataclass(slots=True)
class BufferStatus:
    """What the buffer holds, cheap enough to ask for every second."""

    queued: dict[Lane, int] = field(default_factory=dict)
    """Records waiting, by lane."""
    totals: Account = field(default_factory=Account)
    """The account summed over devices and lanes."""
    fault: str = ""
    """Why records cannot be made durable now; empty while all is well."""


class Buffer(Protocol):
    """A durable queue with lanes and an account. Any task may call any method."""

    async def append(self, records: Sequence[Reading | Event], rejected: Sequence[tuple[str, int]] = ()) -> None:
        """Make records durable. Concurrent calls share one sync.

        Args:
            records: readings go to the normal lane, events to the alert lane.
            rejected: `(device, count)` of frames received that could not become readings, for the account.

        Raises:
            BufferUnavailable: nothing of this call was kept; calling again with the same records is safe.
        """
        ...

    def submit(
        self,
        records: Sequence[Reading | Event],
        rejected: Sequence[tuple[str, int]],
        done: Callable[[BufferUnavailable | None], None],
    ) -> None:
        """`append` for whoever goes on meanwhile: `done` is called, in the order of the calls, when it would return.

        Args:
            records: see `append`.
            rejected: see `append`.
            done: called in the event loop with None, or with the error `append` would raise.
        """
        ...

    async def take(self) -> Message:
        """Wait for the next message not taken yet, the lowest lane first, and return it."""
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

    def status(self) -> BufferStatus:
        """What is held now."""
        ...

    async def accounts(self) -> dict[tuple[str, Lane], Account]:
        """The account of every device and lane, from the store itself."""
        ...

    async def flush(self) -> None:
        """Return when everything settled so far is durable."""
        ...
