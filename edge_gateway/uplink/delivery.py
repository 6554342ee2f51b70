"""Brings messages from the buffer to the hub, whatever the hub does.

Several messages are in flight at once, started in the buffer's order. A message is settled only after its confirmation.
When a session ends, everything not confirmed is sent again, in order, under the same ids, in the next one. Between
sessions the pause grows and is jittered; it starts over once a session has confirmed something.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from edge_gateway.buffer import Outlet
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.errors import UplinkError, UplinkLost, UplinkRefused
from edge_gateway.records import Message
from edge_gateway.uplink import Downlink, Session, Uplink
from edge_gateway.uplink.backoff import Backoff

_log = structlog.get_logger()


@dataclass(slots=True)
class DeliveryStatus:
    """How delivery is going, for status and the twin."""

    connected: bool = False
    since_s: float = 0.0
    """Event loop time of the last change of `connected`."""
    fault: str = ""
    """Why it is not connected, with what to do; empty while it is."""
    sessions: int = 0
    messages: int = 0
    """Messages confirmed since the process started."""
    records: int = 0
    in_flight: int = 0


class Delivery:
    """Runs until cancelled. Use `run` as a task.

    Args:
        uplink: where messages go.
        buffer: where they come from.
        downlink: called when something comes back down.
        settings: window, time-outs and pauses.
        rng: jitter.
    """

    def __init__(
        self, uplink: Uplink, buffer: Outlet, downlink: Downlink, settings: DeliverySettings, rng: random.Random
    ) -> None:
        self._uplink = uplink
        self._buffer = buffer
        self._downlink = downlink
        self._settings = settings
        self._backoff = Backoff(settings.retry_first_s, settings.retry_most_s, rng)
        self.status = DeliveryStatus()

    async def run(self) -> None:
        """Deliver, and connect again whenever the session ends."""
        task = asyncio.current_task()
        while True:
            error = await self._session()
            if task is not None and task.cancelling():
                # Before Python 3.13 a task group that fails in the moment it is cancelled forgets that it was:
                # https://github.com/python/cpython/issues/116720
                raise asyncio.CancelledError
            self._buffer.rewind()
            pause_s = 0.0 if error.planned else self._backoff.next_s()
            self._went_down(error, pause_s)
            await asyncio.sleep(pause_s)

    async def _session(self) -> UplinkError:
        """One connection from beginning to end; returns why it ended."""
        ended_by: list[UplinkError] = []
        try:
            async with self._uplink.connect(self._downlink) as session:
                self._came_up()
                flight = _Flight(session, self._settings, self._uplink.endpoint, self._confirmed)
                ended_by = flight.errors
                try:
                    await self._pump(session, flight)
                finally:
                    flight.abandon()
        except* UplinkError as errors:
            ended_by += _leaves(errors)
        finally:
            self.status.connected = False
            self.status.in_flight = 0
        # Several sends fail together when a connection goes; a refusal among them says more than the loss.
        return next((each for each in ended_by if isinstance(each, UplinkRefused)), ended_by[0])

    async def _pump(self, session: Session, flight: _Flight) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.lost(), name="uplink-lost")
            group.create_task(flight.failed(), name="uplink-failed")
            while True:
                await flight.room()
                flight.send(await self._buffer.take())
                self.status.in_flight = len(flight)

    def _confirmed(self, message: Message) -> None:
        self.status.in_flight -= 1
        self._buffer.settle(message)
        self._backoff.reset()
        self.status.messages += 1
        self.status.records += message.records

    def _came_up(self) -> None:
        self.status.connected = True
        self.status.since_s = asyncio.get_running_loop().time()
        self.status.fault = ""
        self.status.sessions += 1
        _log.info("uplink.connected", endpoint=self._uplink.endpoint)

    def _went_down(self, error: UplinkError, pause_s: float) -> None:
        self.status.since_s = asyncio.get_running_loop().time()
        if error.planned:
            _log.info("uplink.closed", endpoint=self._uplink.endpoint, reason=error.what)
            return
        self.status.fault = str(error)
        _log.warning(
            "uplink.disconnected",
            endpoint=self._uplink.endpoint,
            refused=isinstance(error, UplinkRefused),
            reason=str(error),
            retry_s=round(pause_s, 3),
        )


class _Flight:
    """What is on its way in one session and not confirmed.

    No task for each message: most of what a lone reading costs here would be that.

    Args:
        session: what sends.
        settings: how many at once, and how long a confirmation may take.
        endpoint: for errors.
        on_confirmed: called with each message that was confirmed.
    """

    def __init__(
        self, session: Session, settings: DeliverySettings, endpoint: str, on_confirmed: Callable[[Message], None]
    ) -> None:
        self._session = session
        self._most = settings.in_flight
        self._timeout_s = settings.confirm_timeout_s
        self._endpoint = endpoint
        self._on_confirmed = on_confirmed
        self._loop = asyncio.get_running_loop()
        self._sent: dict[asyncio.Future[None], tuple[Message, float]] = {}
        """By the future of its confirmation, with the time that has to come by; oldest first."""
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._room = asyncio.Event()
        self._watching: asyncio.TimerHandle | None = None
        self.errors: list[UplinkError] = []
        """Why messages were not confirmed."""

    def __len__(self) -> int:
        return len(self._sent)

    async def room(self) -> None:
        """Wait until another message may be sent."""
        while len(self._sent) >= self._most:
            self._room.clear()
            await self._room.wait()

    def send(self, message: Message) -> None:
        """Send a message."""
        sent = self._session.send(message)
        self._sent[sent] = (message, self._loop.time() + self._timeout_s)
        sent.add_done_callback(self._ended)
        if self._watching is None:
            self._watch()

    async def failed(self) -> None:
        """Wait until a message fails, then raise why."""
        await self._failed

    def abandon(self) -> None:
        """The session is over: nobody waits for confirmations any more."""
        if self._watching is not None:
            self._watching.cancel()
        for sent in list(self._sent):
            sent.cancel()

    def _ended(self, sent: asyncio.Future[None]) -> None:
        message, _ = self._sent.pop(sent)
        self._room.set()
        if sent.cancelled():
            return
        error = sent.exception()
        if error is None:
            self._on_confirmed(message)
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, UplinkError):
            self.errors.append(error)
        if not self._failed.done():
            self._failed.set_exception(error)

    def _watch(self) -> None:
        """Fail if the oldest has waited too long; look again when that may be so."""
        self._watching = None
        if not self._sent:
            return
        _, due_s = next(iter(self._sent.values()))
        if due_s > self._loop.time():
            self._watching = self._loop.call_at(due_s, self._watch)
        else:
            self._fail(
                UplinkLost(
                    f"confirmed nothing for {self._timeout_s:g} s",
                    where=self._endpoint,
                    remedy="The gateway connects anew",
                )
            )


def _leaves(group: BaseExceptionGroup[UplinkError]) -> list[UplinkError]:
    leaves: list[UplinkError] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves
