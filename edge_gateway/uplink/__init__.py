"""Takes messages from the buffer, delivers them, and brings commands and settings back.

An `Uplink` makes `Session`s. A session is one connection: it delivers until it is lost, and then it is over. Connecting
again, backing off and sending what was not confirmed is done in one place for all uplinks, in `uplink.delivery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from edge_gateway.records import Command, CommandResult, Message, Value


@dataclass(frozen=True, slots=True)
class Downlink:
    """What an uplink calls when something comes down from the hub. Handed in, so that no uplink knows the pipeline."""

    run_command: Callable[[Command], Awaitable[CommandResult]]
    """Bring a command to its device and say how it ended. Never raises."""
    report_result: Callable[[Command, CommandResult], Awaitable[None]]
    """Send a command's outcome up as an event, for askers that cannot wait for an answer (cloud-to-device)."""
    apply_desired: Callable[[Mapping[str, Value], bool], Awaitable[None]]
    """Desired properties came; the flag tells a whole document (True) from a patch."""
    reported: Callable[[], Mapping[str, Value]]
    """The properties to report now; asked for every few seconds, so cheap."""


class Session(Protocol):
    """One live connection to a hub or broker."""

    def send(self, message: Message) -> asyncio.Future[None]:
        """Begin to deliver one message; what is sent first is written first. Several may be under way.

        Returns:
            Done when the receiver has confirmed the message (PUBACK). Otherwise it raises UplinkLost, the connection
            is gone and the message may or may not have arrived, or UplinkRefused, the hub does not want it. Cancel
            what nobody waits for any more.
        """
        ...

    async def lost(self) -> None:
        """Wait until the connection is gone, then raise why.

        Raises:
            UplinkLost: always, in the end.
        """
        ...


class Uplink(Protocol):
    """A way to a hub or broker."""

    @property
    def endpoint(self) -> str:
        """Where this goes, for status and errors: host and port, never a secret."""
        ...

    def connect(self, downlink: Downlink) -> AbstractAsyncContextManager[Session]:
        """Open a session: name, TCP, TLS with the certificate verified, credentials, subscriptions.

        Entering raises UplinkLost or UplinkRefused with the cause. Leaving closes the connection and never hangs.
        """
        ...
