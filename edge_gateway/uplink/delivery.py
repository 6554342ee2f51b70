"""Brings messages from the buffer to the hub, whatever the hub does.

Several messages are in flight at once, started in the buffer's order. A message is settled only after its confirmation.
When a session ends, everything not confirmed is sent again, in order, under the same ids, in the next one. Between
sessions the pause grows and is jittered; it starts over once a session has confirmed something.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog

from edge_gateway.buffer import Buffer
from edge_gateway.config.model import DeliverySettings
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
        self, uplink: Uplink, buffer: Buffer, downlink: Downlink, settings: DeliverySettings, rng: random.Random
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
                await self._pump(session)
        except* UplinkError as errors:
            ended_by = _leaves(errors)
        finally:
            self.status.connected = False
            self.status.in_flight = 0
        # Several sends fail together when a connection goes; a refusal among them says more than the loss.
        return next((each for each in ended_by if isinstance(each, UplinkRefused)), ended_by[0])

    async def _pump(self, session: Session) -> None:
        window = asyncio.Semaphore(self._settings.in_flight)
        async with asyncio.TaskGroup() as group:
            group.create_task(session.lost(), name="uplink-lost")
            while True:
                await window.acquire()
                message = await self._buffer.take()
                group.create_task(self._send(session, message, window), name=f"uplink-send {message.id}")

    async def _send(self, session: Session, message: Message, window: asyncio.Semaphore) -> None:
        self.status.in_flight += 1
        try:
            async with asyncio.timeout(self._settings.confirm_timeout_s):
                await session.send(message)
        except TimeoutError:
            raise UplinkLost(
                f"confirmed nothing for {self._settings.confirm_timeout_s:g} s",
                where=self._uplink.endpoint,
                remedy="The gateway connects anew",
            ) from None
        finally:
            self.status.in_flight -= 1
            window.release()
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
            _log.info("uplink.renewing", endpoint=self._uplink.endpoint, reason=error.what)
            return
        self.status.fault = str(error)
        _log.warning(
            "uplink.disconnected",
            endpoint=self._uplink.endpoint,
            refused=isinstance(error, UplinkRefused),
            reason=str(error),
            retry_s=round(pause_s, 3),
        )


def _leaves(group: BaseExceptionGroup[UplinkError]) -> list[UplinkError]:
    leaves: list[UplinkError] = []
    for error in group.exceptions:
        leaves.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves
