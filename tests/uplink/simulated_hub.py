"""A hub in memory that fails as it is told, one session after the other."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edge_gateway.errors import UplinkLost, UplinkRefused
from edge_gateway.records import Message
from edge_gateway.uplink import Downlink, Session


class Fate(enum.Enum):
    """How a session ends."""

    NEVER = enum.auto()
    """It does not."""
    UNREACHABLE = enum.auto()
    """It never begins: the network is away."""
    REFUSED = enum.auto()
    """It never begins: the hub says no."""
    DROPPED = enum.auto()
    """The connection breaks, and every message in flight with it."""
    SILENT = enum.auto()
    """From then on nothing is confirmed, though the connection stays."""
    UNCONFIRMED = enum.auto()
    """What is in flight arrives, and the connection breaks before a word of it comes back."""
    REJECTS = enum.auto()
    """The hub refuses a message and ends the connection."""
    RENEWED = enum.auto()
    """It ends on purpose."""


@dataclass(frozen=True, slots=True)
class Life:
    """One session: what becomes of it, and after how many confirmations."""

    fate: Fate
    confirms: int = 0
    confirm_after_s: float = 0.01
    connect_after_s: float = 0.1


GOOD = Life(Fate.NEVER)


class SimulatedHub:
    """`Uplink` and receiver in one.

    Args:
        lives: what becomes of each session, in order; all later ones are good.
    """

    endpoint = "simulated://hub"

    def __init__(self, lives: Iterable[Life] = ()) -> None:
        self._lives = iter(lives)
        self.arrived: list[Message] = []
        """Everything that came, repeats included, in order."""
        self.confirmed: list[str] = []
        """Ids of messages whose sender was told."""
        self.attempts_at_s: list[float] = []
        """When each connection was tried."""
        self.session: SimulatedSession | None = None
        """The one that lives now."""
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        self.attempts_at_s.append(asyncio.get_running_loop().time())
        life = next(self._lives, GOOD)
        await asyncio.sleep(life.connect_after_s)
        if life.fate is Fate.UNREACHABLE:
            raise UplinkLost("nothing listens there", where=self.endpoint)
        if life.fate is Fate.REFUSED:
            raise UplinkRefused("wrong key", where=self.endpoint, remedy="Check the key")
        assert self.session is None, "two sessions at once"
        self.session = SimulatedSession(self, life)
        try:
            yield self.session
        finally:
            self.session = None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is judged again whenever the hub notices something."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def note(self) -> None:
        self._changed.set()


class SimulatedSession:
    """One connection."""

    def __init__(self, hub: SimulatedHub, life: Life) -> None:
        self._hub = hub
        self._life = life
        self._left = life.confirms
        self._over = asyncio.Event()
        self.most_in_flight = 0
        self._in_flight = 0
        if not life.confirms and life.fate in (Fate.DROPPED, Fate.RENEWED):
            self._over.set()

    def send(self, message: Message) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._counted(message))

    async def _counted(self, message: Message) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self._send(message)
        finally:
            self._in_flight -= 1

    async def _send(self, message: Message) -> None:
        fate = self._life.fate
        if fate is not Fate.NEVER and not self._left:
            if fate is Fate.UNCONFIRMED:
                self._hub.arrived.append(message)
                await asyncio.sleep(self._life.confirm_after_s)
                self._over.set()
            if fate is Fate.REJECTS:
                self._over.set()
                await asyncio.sleep(0)  # `lost` speaks first
                raise UplinkRefused("does not want it", where=self._hub.endpoint)
            await asyncio.Event().wait()  # whoever waits for a confirmation now waits until the session is over
        self._left -= fate is not Fate.NEVER
        last = fate is not Fate.NEVER and not self._left
        self._hub.arrived.append(message)
        await asyncio.sleep(self._life.confirm_after_s)
        self._hub.confirmed.append(message.id)
        self._hub.note()
        if last and fate in (Fate.DROPPED, Fate.RENEWED):
            self._over.set()

    async def lost(self) -> None:
        await self._over.wait()
        raise UplinkLost("over", where=self._hub.endpoint, planned=self._life.fate is Fate.RENEWED)
