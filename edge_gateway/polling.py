"""Asks the devices of one line, one after the other, and says whose answer came.

On a line of polled devices nobody speaks unasked, and one request is outstanding at a time. What comes after it is
judged as its answer (`codec.exchange`) and never by its looks alone:

- an answer is waited for as long as the profile says and once more as long; what comes in that second time is taken,
  and counted as late. Whatever comes with no request outstanding is nobody's answer and is rejected;
- after a request that had to be repeated, its device rests for a while, so that an answer to the first of them cannot
  be taken for one to the next request;
- a frame from another address, or one that is no answer, does not end the wait;
- what comes back exactly as it was sent is the echo of an adapter that hears itself. Some answers look the same (a
  Modbus write of one register), so a line is known as one that echoes once any other request came back.

A device that does not answer is asked once, without repetition, after a pause that doubles up to a minute, so that it
costs the others little. Commands take turns with the polls. Waiting is done by the event loop, so that all of this runs
on virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from edge_gateway.codec import Codec, Decoded, Request
from edge_gateway.codec.exchange import Heard, PreparedPoll, Verdict
from edge_gateway.config.link import IdleGapFraming, ModbusRtuFraming, SerialLine
from edge_gateway.errors import LinkLost, LinkUnavailable
from edge_gateway.framing import Framer
from edge_gateway.records import CommandResult, CommandStatus, Reject

_log = structlog.get_logger()

Address: TypeAlias = int | str | None

LONGEST_PAUSE_S: Final = 60.0
"""How long a device that does not answer is left alone at most, unless it is asked less often anyway."""

_SILENT_CHARACTERS: Final = 3.5
_FAST_BAUD: Final = 19_200
_FAST_SILENCE_S: Final = 0.00175
"""MODBUS over Serial Line V1.02, 2.5.1.1: 3.5 characters of silence before a frame, and 1.75 ms above 19200 bit/s."""

_LINK_DOWN_S: Final = 0.5
"""How long a link that is down is left alone; as often as a serial port tries to open."""

_MOST_DOUBLINGS: Final = 16

_COMMAND_ANSWER_BYTES: Final = 64
"""Allowed for the answer to a command on its way over the line; at 9600 baud, 70 ms."""

SILENT: Final = "silent"
"""What is counted of a request that nothing came after."""

UNASKED: Final = "unasked"
"""The reason of a frame that came while nothing was asked."""


@dataclass(frozen=True, slots=True)
class LineTiming:
    """How long things take on a line."""

    character_s: float
    """One character, with its start, parity and stop bits."""
    gap_s: float
    """The silence that belongs before a frame."""

    @classmethod
    def of(cls, line: SerialLine, framing: object) -> LineTiming:
        """The timing of a serial line.

        Args:
            line: its parameters.
            framing: how frames are told apart on it; those that are told apart by silence need some.
        """
        character_s = line.character_bits / line.baud
        if not isinstance(framing, ModbusRtuFraming | IdleGapFraming):
            return cls(character_s, 0.0)
        return cls(character_s, _FAST_SILENCE_S if line.baud > _FAST_BAUD else _SILENT_CHARACTERS * character_s)


@dataclass(slots=True)
class PolledDevice:
    """One device that is asked, and how it has answered since the process started."""

    name: str
    address: Address
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by what became of them, and frames that could not be used by reason."""
    troubles: dict[str, str] = field(default_factory=dict)
    """What is wrong, by poll; empty while all is well."""
    started: set[str] = field(default_factory=set)
    """Commands that go before the first poll, and went."""
    failed_rounds: int = 0
    """How often in a row it was asked in vain."""
    not_before_s: float = 0.0
    """It is left alone until then, in event loop seconds."""


@dataclass(slots=True)
class _Job:
    device: PolledDevice
    poll: PreparedPoll
    request: bytes
    every_s: float
    due_s: float = 0.0


@dataclass(slots=True)
class _Exchange:
    """One request, and what came after it."""

    payload: bytes
    judge: Callable[[bytes], Heard]
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    heard: Heard | None = None
    """The answer, if one came."""
    on_time_until_s: float = float("inf")
    is_late: bool = False
    reason: str = SILENT
    """Why there is no answer."""
    echoed: bool = False
    is_link_lost: bool = False

    @property
    def is_good(self) -> bool:
        """Whether the device answered, and can be understood."""
        return self.heard is not None and self.heard.verdict is not Verdict.DAMAGED


class _CommandJudge:
    """What a frame says that came after a command."""

    def __init__(self, codec: Codec, request: Request) -> None:
        self.result: CommandResult | None = None
        self._request = request
        self._decode = codec.decoder_of(request.answer_frames)

    def __call__(self, frame: bytes) -> Heard:
        _, answers, rejects, *_ = self._decode([frame])
        if rejects:
            return Heard(Verdict.STRANGE, reject=rejects[0])
        self.result = self._request.judge(answers[0])
        if self.result is None:
            return Heard(Verdict.STRANGE, reject=Reject(frame, UNASKED))
        return Heard(Verdict.ANSWERED)


class PolledLine:
    """One line of polled devices.

    Args:
        link: the link's name.
        codec: the profile all of them speak.
        framer: the line's, which is fed by whoever reads it.
        write: sends bytes; raises LinkUnavailable or LinkLost.
        devices: names by address.
        timing: the line's.
        every_s: seconds between two requests of the same poll to a device, instead of what the profile says.

    Raises:
        CodecError: no device of this profile can have one of these addresses.
    """

    def __init__(
        self,
        link: str,
        codec: Codec,
        framer: Framer,
        write: Callable[[bytes], Awaitable[None]],
        devices: Mapping[Address, str],
        *,
        timing: LineTiming,
        every_s: float | None = None,
    ) -> None:
        self.devices = {address: PolledDevice(name, address) for address, name in devices.items()}
        self.counts: Counter[str] = Counter()
        """What came and belongs to no device: `echo`, `unasked`, `another-address`."""
        self._link = link
        self._codec = codec
        self._framer = framer
        self._write = write
        self._timing = timing
        polls = [PreparedPoll(codec, name) for name in codec.profile.polls]
        self._jobs = [
            _Job(device, poll, poll.request(device.address), every_s or poll.settings.every_s)
            for device in self.devices.values()
            for poll in polls
        ]
        self._turn = asyncio.Lock()
        """Held while a request is outstanding. Fair, so that a command waits for one request and not for a round."""
        self._exchange: _Exchange | None = None
        self._quiet_since_s = float("-inf")
        self._has_echo = False

    def requests(self) -> list[bytes]:
        """All that is sent without anybody's command: requests, and what goes before the first of them."""
        starts = [
            self._codec.encode_command(job.poll.settings.start, {}, job.device.address).payload
            for job in self._jobs
            if job.poll.settings.start is not None
        ]
        return [*(job.request for job in self._jobs), *starts]

    # --- asking ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until cancelled."""
        loop = asyncio.get_running_loop()
        for job in self._jobs:
            job.due_s = loop.time()
        while True:
            job = min(self._jobs, key=_next_s)
            await asyncio.sleep(_next_s(job) - loop.time())
            try:
                await self._poll(job)
            except (LinkUnavailable, LinkLost):
                await asyncio.sleep(_LINK_DOWN_S)
            else:
                # A line that is too slow for its schedule leaves requests out instead of falling behind.
                job.due_s = max(job.due_s + job.every_s, loop.time())

    async def command(self, request: Request, timeout_s: float) -> CommandResult:
        """Send a command in its turn, and wait for its answer.

        Args:
            request: the encoded command.
            timeout_s: how long the device may take to begin its answer.

        Raises:
            CodecError: the framing cannot carry it; nothing was written.
            LinkUnavailable: the link is down; nothing was written.
            LinkLost: it went down before the answer came.
            TimeoutError: no answer came.
        """
        if request.answer_frame is None:
            async with self._turn:
                await self._send(request.payload, self._timing.gap_s)
            return CommandResult(CommandStatus.SENT)
        judge = _CommandJudge(self._codec, request)
        exchange = _Exchange(request.payload, judge)
        answer_s = self._timing.character_s * _COMMAND_ANSWER_BYTES
        async with self._turn:
            await self._ask(exchange, self._timing.gap_s, timeout_s + answer_s, 0.0)
        if judge.result is None:
            raise TimeoutError
        return judge.result

    async def _poll(self, job: _Job) -> None:
        """Ask one device one thing, again if need be, and take note of how it went."""
        device, poll = job.device, job.poll.settings
        if poll.start is not None and poll.start not in device.started and not await self._start(job, poll.start):
            self._note_failure(job, SILENT)
            return
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for attempt in range(1 if device.failed_rounds else 1 + poll.retries):
            exchange = await self._ask_once(job)
            if attempt > 0:
                # If this was the answer to the first of them, the last one's takes as long.
                device.not_before_s = 2 * loop.time() - began_s + poll.timeout_s
            if exchange.is_good:
                break
        if exchange.heard is None:
            self._note_failure(job, exchange.reason)
            return
        device.failed_rounds = 0
        if not exchange.is_good:
            self._note_garbled(job, exchange.reason)
        elif exchange.heard.verdict is Verdict.REFUSED:
            if poll.start is not None:
                device.started.discard(poll.start)
            self._note_trouble(job, f"refuses {job.poll.name} ({exchange.heard.detail})")
        elif device.troubles.pop(job.poll.name, ""):
            _log.info("poll.recovered", link=self._link, device=device.name, poll=job.poll.name)

    async def _start(self, job: _Job, command: str) -> bool:
        """Send what goes before the first poll; a device that refuses it has been started already."""
        device, timeout_s = job.device, job.poll.settings.timeout_s
        request = self._codec.encode_command(command, {}, device.address)
        try:
            result = await self.command(request, 2 * timeout_s)
        except TimeoutError:
            device.counts[SILENT] += 1
            return False
        device.started.add(command)
        _log.info("poll.started", link=self._link, device=device.name, command=command, status=result.status.value)
        return True

    async def _ask_once(self, job: _Job) -> _Exchange:
        """One request of a poll, counted."""
        device, prepared = job.device, job.poll
        poll, timing = prepared.settings, self._timing
        exchange = _Exchange(job.request, lambda frame: prepared.judge(frame, device.address))
        on_time_s = poll.timeout_s + prepared.longest_answer_bytes * timing.character_s
        async with self._turn:
            await self._ask(exchange, max(poll.gap_s, timing.gap_s), on_time_s, poll.timeout_s)
        if exchange.heard is not None and exchange.is_good:
            device.counts[exchange.heard.verdict.value] += 1
            if exchange.is_late:
                device.counts["late"] += 1
        else:
            device.counts[exchange.reason] += 1
        return exchange

    async def _ask(self, exchange: _Exchange, gap_s: float, on_time_s: float, late_s: float) -> None:
        """Send one request and wait; the turn is the caller's.

        Args:
            exchange: what to send; it says afterwards what came.
            gap_s: the silence before it.
            on_time_s: how long the answer may take.
            late_s: how much longer it is waited for.

        Raises:
            LinkUnavailable: the link is down; nothing was written.
            LinkLost: it went down before the answer came.
        """
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        try:
            sent_s = await self._send(exchange.payload, gap_s)
            exchange.on_time_until_s = sent_s + on_time_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(sent_s + on_time_s + late_s):
                    await exchange.finished.wait()
        finally:
            self._exchange = None
            self._quiet_since_s = max(self._quiet_since_s, loop.time())
        if exchange.is_link_lost:
            raise LinkLost("the link was lost before the answer came", where=self._link)

    async def _send(self, payload: bytes, gap_s: float) -> float:
        """Write a frame after a silence; gives the time at which it is out on the line."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._quiet_since_s + gap_s - loop.time())
        self._framer.reset()
        wire = self._framer.encode(payload)
        await self._write(wire)
        self._quiet_since_s = loop.time() + len(wire) * self._timing.character_s
        return self._quiet_since_s

    # --- hearing ---------------------------------------------------------------------------------------------------

    def decode(self, frames: Sequence[bytes]) -> Decoded:
        """Give the frames that came to whoever asked; what they are to the rest of the gateway."""
        decoded = Decoded([], [], [])
        for frame in frames:
            exchange = self._exchange
            if exchange is None or exchange.finished.is_set():
                self.counts[UNASKED] += 1
                decoded.rejects.append(Reject(frame, UNASKED))
            elif not self._is_echo(exchange, frame):
                self._hear(exchange, frame, decoded)
        return decoded

    def link_lost(self) -> None:
        """Say that the link went down: nobody answers any more, and devices may have lost their power with it."""
        for device in self.devices.values():
            device.started.clear()
        if self._exchange is not None:
            self._exchange.is_link_lost = True
            self._exchange.finished.set()

    def _is_echo(self, exchange: _Exchange, frame: bytes) -> bool:
        if frame != exchange.payload or exchange.echoed:
            return False
        if not self._has_echo and exchange.judge(frame).verdict is Verdict.ANSWERED:
            return False
        self._has_echo = exchange.echoed = True
        self.counts["echo"] += 1
        return True

    def _hear(self, exchange: _Exchange, frame: bytes, decoded: Decoded) -> None:
        heard = exchange.judge(frame)
        if heard.sample is not None:
            decoded.samples.append(heard.sample)
        if heard.reject is not None:
            decoded.rejects.append(heard.reject)
            exchange.reason = heard.reject.reason
        if heard.verdict is Verdict.ANOTHER_ADDRESS:
            self.counts[Verdict.ANOTHER_ADDRESS.value] += 1
        elif heard.verdict is not Verdict.STRANGE:
            exchange.heard = heard
            exchange.is_late = asyncio.get_running_loop().time() > exchange.on_time_until_s
            exchange.finished.set()

    # --- trouble ---------------------------------------------------------------------------------------------------

    @property
    def faults(self) -> list[str]:
        """What is wrong with which device, with what to do about it."""
        return [
            f"{device.name}: {trouble}"
            for device in self.devices.values()
            for trouble in dict.fromkeys(device.troubles.values())
        ]

    def _note_failure(self, job: _Job, reason: str) -> None:
        """Leave a device alone for longer and longer that cannot be understood."""
        device = job.device
        device.started.clear()
        pause_s = min(job.every_s * 2 ** min(device.failed_rounds, _MOST_DOUBLINGS), LONGEST_PAUSE_S)
        device.failed_rounds += 1
        device.not_before_s = max(device.not_before_s, asyncio.get_running_loop().time() + pause_s)
        if reason == SILENT:
            self._note_trouble(job, "does not answer. Check its power, its address, the wiring and the baud rate")
        else:
            self._note_garbled(job, reason)

    def _note_garbled(self, job: _Job, reason: str) -> None:
        self._note_trouble(job, f"cannot be understood ({reason}). Check the profile, the baud rate and the wiring")

    def _note_trouble(self, job: _Job, trouble: str) -> None:
        device, poll = job.device, job.poll.name
        if device.troubles.get(poll) != trouble:
            device.troubles[poll] = trouble
            _log.warning("poll.failing", link=self._link, device=device.name, poll=poll, reason=trouble)


def _next_s(job: _Job) -> float:
    """When a job's turn comes."""
    return max(job.due_s, job.device.not_before_s)
