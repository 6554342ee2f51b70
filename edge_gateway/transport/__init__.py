"""Bytes to and from devices; knows nothing of their meaning.

In come a port, a capture file or a radio; out go `Chunk`s with the time each was read. A transport outlives its cable:
it waits for a port that is not there yet, notices one that goes away, and takes it up again by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from edge_gateway.records import Chunk


@dataclass(slots=True)
class LinkCounters:
    """What happened on a link since the process started. Only ever grows."""

    bytes_read: int = 0
    bytes_written: int = 0
    opened: int = 0
    """How often the link came up."""
    lost: int = 0
    """How often it went away while open."""
    overruns: int = 0
    """Times the UART or the kernel dropped bytes because nobody fetched them in time."""
    framing_errors: int = 0
    """Characters without a valid stop bit: wrong baud rate, or noise."""
    parity_errors: int = 0
    breaks: int = 0


class Transport(Protocol):
    """One link to one or more devices.

    Use it as an async context manager; leaving closes the link and releases its lock. One task reads; any may write.
    """

    @property
    def name(self) -> str:
        """The link's name in the configuration, in logs and in status."""
        ...

    @property
    def is_up(self) -> bool:
        """Whether bytes can flow now."""
        ...

    @property
    def fault(self) -> str:
        """Why the link is not up, with what to do about it; empty while it is up."""
        ...

    @property
    def counters(self) -> LinkCounters:
        """Counts since the process started."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def read(self) -> list[Chunk]:
        """Wait for bytes and return all that have come, in order, one chunk for each read of the port.

        Waits for the link to come up while it is down, however long. What arrives while nobody reads is held up to a
        bound; beyond it the port is not read, so a pipe's writer waits and a UART's overrun counts.

        Raises:
            LinkLost: the link was up and is gone; once for each loss, so that a half-received frame can be dropped.
                Call again to wait for its return.
            LinkEnded: nothing more will ever come.
            TransportError: of another kind: the link is beyond mending by itself, e.g. a capture that breaks off.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Hand bytes to the link; return when the operating system has them all.

        Raises:
            LinkUnavailable: the link is down; nothing was written.
            LinkLost: the link went down while writing.
        """
        ...
