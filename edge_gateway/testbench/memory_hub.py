"""A hub without a network: an uplink for whole gateways on virtual time.

It takes what a hub takes and can fail as one can: be away, drop a connection, take long, lose a confirmation. What
arrives goes into `messages` in the order of arrival, repeats included, as a receiver sees it.

```python
hub = MemoryHub(confirm_after_s=0.05)
async with open_gateway(parts, clock=clock, rng=rng, uplink=hub, offload=run_inline, ...) as gateway:
    ...
    hub.cut()
```
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from edge_gateway.errors import UplinkLost
from edge_gateway.records import Command, CommandResult, Message
from edge_gateway.uplink import Downlink, Session


class MemoryHub:
    """`Uplink` to itself.

    Args:
        confirm_after_s: how long a confirmation takes.
        on_message: called with each message as it arrives.
    """

    def __init__(self, *, confirm_after_s: float = 0.0, on_message: Callable[[Message], None] = lambda _: None) -> None:
        self.messages: list[Message] = []
        self.confirm_after_s = confirm_after_s
        self.confirming = True
        """Set to False and messages arrive without the sender learning of it."""
        self._on_message = on_message
        self._away = False
        self._sessions: set[_MemorySession] = set()
        self._downlink: Downlink | None = None

    @property
    def endpoint(self) -> str:
        """Says what it is."""
        return "memory"

    def cut(self) -> None:
        """Be away: the connection breaks and none can be made."""
        self._away = True
        for session in self._sessions:
            session.broken.set()

    def restore(self) -> None:
        """Be back."""
        self._away = False

    async def command(self, command: Command) -> CommandResult:
        """Send a command down the live session, and return how it ended.

        Raises:
            UplinkLost: no gateway is connected.
        """
        if self._downlink is None:
            raise UplinkLost("no gateway is connected", where=self.endpoint)
        return await self._downlink.run_command(command)

    async def desire(self, desired: Mapping[str, Any], *, whole: bool = False) -> None:
        """Send desired properties down the live session.

        Raises:
            UplinkLost: no gateway is connected.
        """
        if self._downlink is None:
            raise UplinkLost("no gateway is connected", where=self.endpoint)
        await self._downlink.apply_desired(desired, whole)

    def reported(self) -> Mapping[str, Any]:
        """What the gateway would report now.

        Raises:
            UplinkLost: no gateway is connected.
        """
        if self._downlink is None:
            raise UplinkLost("no gateway is connected", where=self.endpoint)
        return self._downlink.reported()

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        if self._away:
            raise UplinkLost("is away", where=self.endpoint)
        session = _MemorySession(self)
        self._sessions.add(session)
        self._downlink = downlink
        try:
            yield session
        finally:
            self._sessions.discard(session)
            self._downlink = None

    def arrive(self, message: Message) -> None:
        """A message has come."""
        self.messages.append(message)
        self._on_message(message)


class _MemorySession:
    """One connection."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub
        self.broken = asyncio.Event()

    def send(self, message: Message) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(message))

    async def _send(self, message: Message) -> None:
        self._hub.arrive(message)
        if not self._hub.confirming:
            await asyncio.Event().wait()
        await asyncio.sleep(self._hub.confirm_after_s)

    async def lost(self) -> None:
        await self.broken.wait()
        raise UplinkLost("the connection was lost", where=self._hub.endpoint)
