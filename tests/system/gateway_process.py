"""The gateway as its users run it: a process with a configuration file, signals, log events and a status socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from edge_gateway.api.control import ask_status
from edge_gateway.assembly import BUFFER_FILE
from edge_gateway.buffer import Account
from edge_gateway.config.load import load_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import GatewayError
from edge_gateway.testbench.bench_store import open_bench_store

PATIENCE_S: Final = 60.0
"""How long anything may take before a test gives up. It bounds a hanging test and says nothing about the product."""

STOP_WITHIN_S: Final = 5.0
"""What the gateway promises after SIGTERM."""

IN_HAND_AT_KILL_S: Final = 0.5
IN_HAND_AT_STOP_S: Final = 0.2
"""A frame written to the line so shortly before the end may not have become a record, and then it is nobody's.

What passes between the write and the end of the commit takes some 10 ms. The rest is for a machine that is busy with
other tests: at 10 frames/s it allows for 5 frames a sensor and kill, and for 2 a sensor and stop, as a stop commits
all that was read.
"""

_LOOK_EVERY_S: Final = 0.05


class Ended(NamedTuple):
    """How a process went."""

    code: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which nobody read the links, in event loop seconds."""

    from_s: float
    in_hand_s: float
    """What was written so shortly before it may have come too late."""
    to_s: dict[str, float] = field(default_factory=dict)
    """For each link, when it was seen to be open again. A link that is not in here never was."""


class GatewayProcess:
    """`edge-gateway run`, started, watched and ended. An async context manager: leaving kills what still runs.

    Args:
        config: the configuration file.
        arguments: more of them, after `run --config`.
        environment: added to this process's own.
    """

    def __init__(
        self, config: Path, *, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self.config_file = config
        self.config: GatewayConfig = load_config(config)
        self.arguments = list(arguments)
        self.events: list[dict[str, Any]] = []
        """Log events of all runs."""
        self.stray_lines: list[str] = []
        """What came on standard error and is no log event, such as a traceback. Nothing should."""
        self.absences: list[Absence] = []
        """When nobody read the links, from the beginning on."""
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            await self.kill()

    @property
    def data_directory(self) -> Path:
        return self.config.gateway.data_directory

    @property
    def running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the gateway was not started, or was stopped"
        return self._process

    async def start(self) -> None:
        if not self.absences:
            self.absences.append(Absence(0.0, 0.0))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_gateway", "run", "--json", "--config", str(self.config_file)),
            *self.arguments,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._listening = asyncio.create_task(self._listen(self._process), name="gateway log")

    async def start_reading(self) -> None:
        """Start, and wait until all links are open."""
        mark = len(self.events)
        await self.start()
        for link in self.config.links:
            await self.event("link.opened", since=mark, link=link.name)

    async def stop(self) -> Ended:
        """SIGTERM, as a service manager does it."""
        return await self._end(signal.SIGTERM, IN_HAND_AT_STOP_S)

    async def kill(self) -> Ended:
        """SIGKILL: what a power cut leaves of a process."""
        return await self._end(signal.SIGKILL, IN_HAND_AT_KILL_S)

    async def ended(self) -> Ended:
        """Wait until it has ended by itself."""
        return await self._end(None, IN_HAND_AT_STOP_S)

    async def _end(self, number: signal.Signals | None, in_hand_s: float) -> Ended:
        process, loop = self.running, asyncio.get_running_loop()
        asked_s = loop.time()
        self.absences.append(Absence(asked_s, in_hand_s))
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself; its exit code tells
            if number is not None:
                process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            code = await process.wait()
        took_s = loop.time() - asked_s
        assert self._listening is not None
        await self._listening
        self._process = None
        return Ended(code, took_s)

    async def event(
        self, name: str, *, since: int = 0, within_s: float = PATIENCE_S, **fields: object
    ) -> dict[str, Any]:
        """Wait for a log event, and return it.

        Args:
            name: the event.
            since: how many of `events` are not to be looked at.
            within_s: how long to wait.
            fields: what it must say, besides other things.
        """
        looked_at = since
        try:
            async with asyncio.timeout(within_s):
                while True:
                    for event in self.events[looked_at:]:
                        if event["event"] == name and fields.items() <= event.items():
                            return event
                    looked_at = len(self.events)
                    if self._listening is not None and self._listening.done():
                        raise AssertionError(f"the gateway has ended without {name} {fields}: {self.told()}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {name} {fields} within {within_s} s; it logged {self.told()}") from None

    def told(self) -> str:
        """The end of the log, for an assertion's message."""
        return "\n".join([*map(str, self.events[-15:]), *self.stray_lines[-30:]])

    async def status(self) -> dict[str, Any]:
        return await ask_status(self.data_directory)

    async def status_where(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Ask for the status until it is as wanted, and return it. It is asked for because it is not announced."""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    with contextlib.suppress(GatewayError):  # it is just starting
                        status = await self.status()
                        if condition(status):
                            return status
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            gist = {key: status.get(key) for key in ("queue", "account", "buffer", "uplink", "faults")}
            raise AssertionError(f"the status never was as wanted; last: {gist}; it logged {self.told()}") from None

    def ledger(self) -> dict[tuple[str, str], Account]:
        """The account of each device and lane as it stands on disk. The gateway must not be running."""
        assert self._process is None, "the gateway has its store open"
        store = open_bench_store(self.data_directory / BUFFER_FILE, self.config.buffer)
        try:
            return store.accounts()
        finally:
            store.close()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while line := await process.stderr.readline():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                self.stray_lines.append(line.decode(errors="replace").rstrip("\n"))
            else:
                self.events.append(event)
                if event["event"] == "link.opened":
                    self.absences[-1].to_s.setdefault(event["link"], asyncio.get_running_loop().time())
            self._news.set()
        self._news.set()


async def edge_gateway(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a subcommand to its end; return exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_gateway", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
    )
    async with asyncio.timeout(PATIENCE_S):
        output, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()
