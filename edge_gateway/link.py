"""A link with the devices behind it: bytes become frames here, and commands go out.

`pipeline` joins links with all the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Container
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edge_gateway.arrivals import Arrivals
from edge_gateway.codec import Codec, Request
from edge_gateway.config.devices import LinkSettings
from edge_gateway.errors import CodecError, LinkEnded, LinkLost, LinkUnavailable
from edge_gateway.framing import Framer
from edge_gateway.records import Chunk, CommandResult, CommandStatus, Reading
from edge_gateway.transport import Transport

if TYPE_CHECKING:
    from edge_gateway.polling import PolledLine


@dataclass(slots=True)
class Device:
    """One sensor behind a link, and what is known of it since the process started."""

    name: str
    address: int | str | None
    link: Link
    lane: str = ""
    """Of the buffer; the configured one for readings if empty."""
    route: str = ""
    """Its own name if the hub knows it by an identity of its own; else empty, and it speaks under the gateway's."""
    readings: int = 0
    missed: int = 0
    """Frames its own sequence says it sent and that never came."""
    expected_sequence: int | None = None
    last: Reading | None = None
    last_at_s: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a command is carried out: a device does one thing after the other."""
    waiting_commands: int = 0

    def count_missed(self, sequence: int, span: int) -> None:
        """A gap in the device's own numbers is frames it sent in vain; half the span or more is one that restarted."""
        if self.expected_sequence is not None:
            gap = (sequence - self.expected_sequence) % span
            if gap < span // 2:
                self.missed += gap

    def status(self, now_s: float) -> dict[str, Any]:
        """What is known of it, as JSON can say it.

        Args:
            now_s: event loop time.
        """
        asked = None if self.link.polled is None else self.link.polled.devices.get(self.address)
        return {
            "name": self.name,
            "link": self.link.name,
            "profile": self.link.codec.profile.name,
            "readings": self.readings,
            "missed": self.missed,
            "age_s": round(now_s - self.last_at_s, 3) if self.last else None,
            "values": self.last.values if self.last else None,
            **({} if asked is None else {"polls": dict(asked.counts)}),
        }


class Link:
    """One transport with its framing, its profile and the devices behind it.

    Args:
        settings: names, and what to do with a device nobody listed.
        transport: the bytes.
        framer: finds frames in them.
        codec: knows what frames mean.
        polled: asks the devices, where they speak only when asked.
        arrivals: says which samples are new and when they were measured, where the profile does.
        routes: names of devices, here and elsewhere, that have an identity of their own.
        ready: waits for what decoding needs; at once if it is there.
    """

    def __init__(
        self,
        settings: LinkSettings,
        transport: Transport,
        framer: Framer,
        codec: Codec,
        polled: PolledLine | None = None,
        arrivals: Arrivals | None = None,
        routes: Container[str] = (),
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.name = settings.name
        self.transport = transport
        self.framer = framer
        self.codec = codec
        self.polled = polled
        self.arrivals = arrivals
        self.decode = codec.decode if polled is None else polled.decode
        self.lane = settings.lane or ""
        """Of readings whose device has no other."""
        self._routes = routes
        self._ready = ready
        self.has_places = False
        """Whether some device has a lane or a route of its own."""
        self.devices: dict[int | str | None, Device] = {}
        for device in settings.devices:
            self.add(device.name, device.address, device.lane or self.lane)
        self.rejects: Counter[str] = Counter()
        """Frames that could not become readings, by reason."""
        self.versions: Counter[str] = Counter()
        """Frames of an `older` or a `newer` version than the profile describes, which became readings all the same."""
        self.failure = ""
        """Why this link was given up; empty for all that work or wait for their port."""
        self.is_silent = False
        """Whether the reader waits for bytes; it holds nothing then, and may be ended."""
        self.stopping = False
        """Set to have the reader end after what it has in hand."""
        self.waiting: list[tuple[Request, asyncio.Future[CommandResult]]] = []
        """Commands written to the link whose answer has not come."""

    def add(self, name: str, address: int | str | None, lane: str) -> Device:
        """Take in a device."""
        device = Device(name, address, self, lane, name if name in self._routes else "")
        self.devices[address] = device
        self.has_places |= bool(device.route) or device.lane != self.lane
        return device

    @property
    def fault(self) -> str:
        """Why nothing comes from here, with what to do about it; empty if something may."""
        return self.failure or self.transport.fault

    async def frames(self) -> AsyncIterator[list[bytes]]:
        """Whole frames as they come, many at once if many came; ends when the link does, or after `stopping` is set."""
        silence_s = self.framer.silence_s
        last_byte_s = 0.0
        pending = False
        while not self.stopping:
            try:
                chunks = await self._read(silence_s if pending else None)
            except LinkLost:
                self.framer.reset()
                if self.polled is not None:
                    self.polled.link_lost()
                pending = False
                continue
            except LinkEnded:
                # By the link's own time, which runs ahead of the loop's when a capture is played fast.
                yield self.framer.flush(last_byte_s + (silence_s or 0.0))
                return
            if chunks:
                if self._ready is not None:  # what was read waits, and the port is open meanwhile
                    await self._ready()
                last_byte_s = chunks[-1].at_s
                frames = self.framer.feed(chunks)
                pending = silence_s is not None
            else:
                frames = self.framer.flush(asyncio.get_running_loop().time())
                pending = False
            if frames:
                yield frames

    async def _read(self, within_s: float | None) -> list[Chunk]:
        """What the transport read; nothing if it was silent for `within_s`."""
        self.is_silent = True
        try:
            if within_s is None:
                return await self.transport.read()
            async with asyncio.timeout(within_s):
                return await self.transport.read()
        except TimeoutError:
            return []
        finally:
            self.is_silent = False

    async def request(self, request: Request) -> CommandResult:
        """Write a command, wait for its answer, and say how it ended. Never raises."""
        try:
            if self.polled is not None:
                return await self.polled.command(request, self.settings.answer_timeout_s)
            return await self._request(request)
        except CodecError as error:  # the framing cannot carry it, which may depend on its arguments
            return CommandResult(CommandStatus.INVALID, str(error))
        except LinkUnavailable as error:
            return CommandResult(CommandStatus.UNREACHABLE, str(error))
        except LinkLost as error:
            return CommandResult(CommandStatus.NO_ANSWER, str(error))
        except TimeoutError:
            return CommandResult(
                CommandStatus.NO_ANSWER, f"the device did not answer within {self.settings.answer_timeout_s:g} s"
            )

    async def _request(self, request: Request) -> CommandResult:
        answered: asyncio.Future[CommandResult] = asyncio.get_running_loop().create_future()
        waiting = (request, answered)
        if request.answer_frame is not None:
            self.waiting.append(waiting)
        try:
            await self.transport.write(self.framer.encode(request.payload))
            if request.answer_frame is None:
                return CommandResult(CommandStatus.SENT)
            async with asyncio.timeout(self.settings.answer_timeout_s):
                return await answered
        finally:
            if waiting in self.waiting:
                self.waiting.remove(waiting)

    def status(self) -> dict[str, Any]:
        """What is known of it, as JSON can say it."""
        return {
            "name": self.name,
            "profile": self.codec.profile.name,
            "up": self.transport.is_up,
            "fault": self.fault,
            **asdict(self.transport.counters),
            **asdict(self.framer.counters),
            "rejects": dict(self.rejects),
            **({"versions": dict(self.versions)} if self.versions else {}),
            **({} if self.polled is None else {"polling": dict(self.polled.counts)}),
            **({} if self.arrivals is None else {"times_unbelieved": self.arrivals.unbelieved}),
        }
