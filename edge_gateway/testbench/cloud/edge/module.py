"""One module of an edge device: it runs as a process or a coroutine, and starts again by its restart policy.

A module that ended is `stopped` if it did so without error and `failed` if not. If its policy wants it to run on, it is
in `backoff` for a time that doubles with each restart, up to five minutes; after too many restarts it stays `failed`. A
module that ran well for some minutes is new again. Figures and states are edgeAgent's (RestartPolicyManager.cs).

Each line a process writes is handed on. A line may start with its severity in the form of IoT Edge, `<6> 2026-05-01
12:00:00.000 +00:00 [INF] - message`, by which log pulls filter.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import structlog

from edge_gateway.clock import Clock
from edge_gateway.testbench.cloud.edge.deployment_manifest import ModuleSpec, RestartPolicy

_log = structlog.get_logger()

RuntimeStatus: TypeAlias = Literal["unknown", "backoff", "running", "stopped", "failed"]
ModuleFunction: TypeAlias = Callable[[Mapping[str, str]], Awaitable[None]]
"""A module in the bench's own process: it gets its environment, and is cancelled to stop it."""
Runnable: TypeAlias = Sequence[str] | ModuleFunction
"""How a module runs: by a command line, or by calling it."""

MAX_COOL_OFF_S: Final = 300.0
_MANY_RESTARTS = 64
"""More make no difference, and at some time too large a number."""
_STOP_WITHIN_S = 10.0
"""After SIGTERM; then comes SIGKILL, as from Docker."""
_LAST_LINES_WITHIN_S = 1.0
"""Of a process that has ended, when something it left behind keeps its output open."""
_MAX_LINE_BYTES = 16 * 1024
"""A longer line is handed on in pieces."""
_SEVERITY = re.compile(rb"<([0-7])> ?")
_COMMAND_NOT_FOUND = 127
_ANOTHER_HUBS = ("IOTEDGE_", "EdgeHubConnectionString", "IotHubConnectionString", "EdgeModuleCACertificateFile")


@dataclass(frozen=True, slots=True)
class RestartSettings:
    """When modules are started again. The names in the environment of edgeAgent stand beside."""

    cool_off_unit_s: float = 10.0
    """The first pause (`CoolOffTimeUnitInSeconds`)."""
    max_restarts: int = 20
    """`MaxRestartCount`."""
    intensive_care_s: float = 600.0
    """After so long a module counts as healthy (`IntensiveCareTimeInMinutes`)."""

    def cool_off_s(self, restarts: int) -> float:
        """How long a module pauses that was started again so often."""
        return min(self.cool_off_unit_s * 2.0 ** min(restarts, _MANY_RESTARTS), MAX_COOL_OFF_S)


@dataclass(slots=True)
class ModuleState:
    """How a module is. Times are wall time, nanoseconds since 1970-01-01T00:00:00Z, 0 for never."""

    status: RuntimeStatus = "unknown"
    description: str = ""
    exit_code: int = 0
    last_start_ns: int = 0
    last_exit_ns: int = 0
    restarts: int = 0
    last_restart_ns: int = 0


def wants_restart(policy: RestartPolicy, status: RuntimeStatus) -> bool:
    """Whether a module that has ended is to run on. Nothing here makes one unhealthy: that is as `on-failure`."""
    return policy == "always" or (policy in ("on-failure", "on-unhealthy") and status == "failed")


class EdgeModule:
    """A module. Started and stopped by its host.

    Args:
        name: the module's id.
        spec: what the deployment says about it.
        runnable: how it runs; None for one that cannot be run here, which stays `unknown`.
        environment: what it finds in its environment, beside what the host's own processes find.
        settings: when it is started again.
        clock: wall time, for its state.
        on_change: called when its state has changed.
        on_line: called with each line it writes, and its severity from 0 to 7.
    """

    def __init__(
        self,
        name: str,
        spec: ModuleSpec,
        runnable: Runnable | None,
        *,
        environment: Mapping[str, str],
        settings: RestartSettings,
        clock: Clock,
        on_change: Callable[[], None],
        on_line: Callable[[str, int, str], None],
    ) -> None:
        self.name = name
        self.spec = spec
        self.state = ModuleState()
        self._runnable = runnable
        self._environment = environment
        self._settings = settings
        self._clock = clock
        self._on_change, self._on_line = on_change, on_line
        self._process: asyncio.subprocess.Process | None = None
        self._runs: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._restart = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process, while it is one and runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start it, unless it is to be stopped; return when it was started once."""
        if self._runnable is None:
            self._enter("unknown", "its image is not run here; name a command for it")
        elif self.spec.status == "stopped":
            self._enter("stopped", "stopped by the deployment")
        else:
            self._runs = asyncio.create_task(self._run_on(self._runnable), name=f"testbench-module-{self.name}")
            await self._started.wait()

    async def stop(self) -> None:
        """Stop it, and do not start it again."""
        if self._runs is not None:
            runs, self._runs = self._runs, None
            runs.cancel()
            await asyncio.wait([runs])
            if not runs.cancelled():
                runs.result()  # it has no end of its own but a fault
            self._enter("stopped", "stopped by the host")

    def restart(self) -> None:
        """Start it again at once, whatever its policy; a running one is stopped first. Ignored if it cannot run."""
        self._restart.set()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send its process, and those it has started, a signal."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._process.pid, number)

    async def _run_on(self, runnable: Runnable) -> None:
        while True:
            self._restart.clear()
            asked = await self._run_once(runnable)
            if not asked and wants_restart(self.spec.restart_policy, self.state.status):
                if self.state.restarts < self._settings.max_restarts:
                    pause_s = self._settings.cool_off_s(self.state.restarts)
                    self._enter("backoff", f"exit code {self.state.exit_code}, starts again in {pause_s:g} s")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._restart.wait()
                else:
                    self._enter("failed", f"restarted {self.state.restarts} times")
                    await self._restart.wait()
            elif not asked:
                await self._restart.wait()
            self.state.restarts += 1
            self.state.last_restart_ns = self._clock.now_ns()

    async def _run_once(self, runnable: Runnable) -> bool:
        """Run it until it ends; return whether that was because a restart was asked for."""
        self.state.last_start_ns = self._clock.now_ns()
        running = asyncio.create_task(self._running(runnable), name=f"testbench-module-{self.name}-run")
        asked = asyncio.create_task(self._restart.wait())
        care = asyncio.get_running_loop().call_later(self._settings.intensive_care_s, self._count_as_healthy)
        try:
            await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            was_asked = not running.done()
            care.cancel()
            for task in (running, asked):
                task.cancel()
            await asyncio.wait([running, asked])
            self._started.set()
            self._ended(running)
        return was_asked

    def _ended(self, running: asyncio.Task[int]) -> None:
        failure = None if running.cancelled() else running.exception()
        if running.cancelled():
            exit_code = 0
        elif failure is not None:
            _log.error("testbench.module.crashed", module=self.name, exc_info=failure)
            exit_code = 1
        else:
            exit_code = running.result()
        self.state.exit_code = exit_code
        self.state.last_exit_ns = self._clock.now_ns()
        self._enter("failed" if exit_code else "stopped", f"exit code {exit_code}")

    async def _running(self, runnable: Runnable) -> int:
        """Run it; return its exit code, negative for a signal."""
        if callable(runnable):
            self._has_started()
            await runnable(self._environment)
            return 0
        # With a pipe of its own making, asyncio waits for whoever else holds it; with this one, for the process only.
        reading, writing = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *runnable,
                env={**_inherited(), **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,  # what it starts ends with it, and a Ctrl-C is the host's
            )
        except OSError as error:
            _log.error("testbench.module.not_started", module=self.name, command=runnable[0], cause=error.strerror)
            os.close(reading)
            return _COMMAND_NOT_FOUND
        except asyncio.CancelledError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._has_started()
        handing_on = asyncio.create_task(self._hand_on(reading), name=f"testbench-module-{self.name}-lines")
        try:
            return await self._process.wait()
        finally:
            await self._end_process(self._process)
            await asyncio.wait([handing_on], timeout=_LAST_LINES_WITHIN_S)
            handing_on.cancel()

    async def _end_process(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            self.kill(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_WITHIN_S):
                    await process.wait()
        self.kill(signal.SIGKILL)  # what is left of its group
        await process.wait()
        self._process = None

    async def _hand_on(self, pipe: int) -> None:
        stream = asyncio.StreamReader(_MAX_LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(pipe, "rb")
        )
        rest = b""
        try:
            while data := await stream.read(_MAX_LINE_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._hand_on_line(line)
                if len(rest) > _MAX_LINE_BYTES:
                    self._hand_on_line(rest)
                    rest = b""
            if rest:
                self._hand_on_line(rest)
        finally:
            transport.close()

    def _hand_on_line(self, line: bytes) -> None:
        severity = _SEVERITY.match(line)
        self._on_line(self.name, int(severity[1]) if severity else 6, line.decode(errors="replace").rstrip("\r"))

    def _has_started(self) -> None:
        self._enter("running", "running")
        self._started.set()

    def _count_as_healthy(self) -> None:
        self.state.restarts = 0
        self._on_change()

    def _enter(self, status: RuntimeStatus, description: str) -> None:
        self.state.status, self.state.description = status, description
        _log.info("testbench.module.state", module=self.name, status=status, description=description)
        self._on_change()


def _inherited() -> dict[str, str]:
    """The host's environment, without what would make a module take the host's own hub for its own."""
    return {name: text for name, text in os.environ.items() if not name.startswith(_ANOTHER_HUBS)}
