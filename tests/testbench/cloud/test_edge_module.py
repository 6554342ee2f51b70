"""Modules as real processes and as coroutines: how they start, end and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.testbench.cloud.edge.deployment_manifest import ModuleSpec
from edge_gateway.testbench.cloud.edge.module import (
    MAX_COOL_OFF_S,
    EdgeModule,
    ModuleState,
    RestartSettings,
    Runnable,
    wants_restart,
)
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

from .mqtt_client import ShiftedClock, soon

SETTINGS = RestartSettings(cool_off_unit_s=0.0, max_restarts=3)


def spec(**changes: Any) -> ModuleSpec:
    return ModuleSpec.model_validate(
        {
            "type": "docker",
            "status": "running",
            "restartPolicy": "never",
            "settings": {"image": "registry.example/m"},
            **changes,
        }
    )


class Watched:
    """A module, its lines, and waiting for its state."""

    def __init__(self, runnable: Runnable | None, settings: RestartSettings, **changes: Any) -> None:
        self.lines: list[tuple[int, str]] = []
        self.statuses: list[str] = []
        self._changed = asyncio.Event()
        self.module = EdgeModule(
            "m",
            spec(**changes),
            runnable,
            environment={"COLOUR": "green"},
            settings=settings,
            clock=ShiftedClock(0),
            on_change=self._on_change,
            on_line=self._on_line,
        )

    @property
    def state(self) -> ModuleState:
        return self.module.state

    def _on_change(self) -> None:
        self.statuses.append(self.module.state.status)
        self._changed.set()

    def _on_line(self, _: str, severity: int, line: str) -> None:
        self.lines.append((severity, line))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def started(
    runnable: Runnable | None, settings: RestartSettings = SETTINGS, **changes: Any
) -> AsyncIterator[Watched]:
    watched = Watched(runnable, settings, **changes)
    await soon(watched.module.start())
    try:
        yield watched
    finally:
        await soon(watched.module.stop())


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


FOREVER = python("import time; print('up'); time.sleep(60)")


async def test_process() -> None:
    """A process runs with its environment, its lines are handed on, and its end is known."""
    async with started(python("import os; print(os.environ['COLOUR']); raise SystemExit(3)")) as module:
        await module.until(lambda: module.state.status == "failed")
        assert (module.state.exit_code, module.lines) == (3, [(6, "green")])
        assert module.state.last_start_ns < module.state.last_exit_ns
        assert module.module.pid is None
    assert module.statuses[:2] == ["running", "failed"]


async def test_lines() -> None:
    """Lines come whole with their severity, also without an end of line, in other encodings, and when they are long."""
    code = (
        "import sys; w = sys.stdout.buffer.write;"
        r"w(b'<3> bad\n'); w(b'plain\r\n'); w(b'\xff\n'); w(b'x' * 40000 + b'\n'); w(b'<7>last')"
    )
    async with started(python(code)) as module:
        await module.until(lambda: module.state.status == "stopped")
    texts = [line for _, line in module.lines]
    assert texts[:3] == ["<3> bad", "plain", "\ufffd"]
    assert "".join(texts[3:-1]) == "x" * 40_000
    assert module.lines[-1] == (7, "<7>last")
    assert [severity for severity, _ in module.lines[:3]] == [3, 6, 6]


async def test_stop() -> None:
    """A module that is stopped is asked to end, and is not started again."""
    code = (
        "import signal, sys, time;"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)));"
        "print('up'); time.sleep(60)"
    )
    async with started(python(code), restartPolicy="always") as module:
        await module.until(lambda: bool(module.lines))
    assert [line for _, line in module.lines] == ["up", "bye"]
    assert (module.state.status, module.state.restarts) == ("stopped", 0)


async def test_killed() -> None:
    """A module that is killed starts again, in another process."""
    async with started(FOREVER, restartPolicy="always") as module:
        first = module.module.pid
        module.module.kill()
        await module.until(lambda: module.state.restarts == 1 and module.state.status == "running")
        assert module.module.pid not in (None, first)
        assert module.state.exit_code == -signal.SIGKILL
    assert module.statuses[:4] == ["running", "failed", "backoff", "running"]


async def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    """What a module leaves behind ends with it, and does not keep it from ending."""
    held = tmp_path / "held"  # its reader is done when nobody holds it open for writing any more
    os.mkfifo(held)
    reading = asyncio.create_task(asyncio.to_thread(held.read_text))
    code = f"import subprocess; subprocess.Popen(['sleep', '60'], stderr=open({str(held)!r}, 'w'))"
    async with started(python(code)) as module:
        await module.until(lambda: module.state.status == "stopped")
        assert await soon(reading) == ""


async def test_too_many_restarts() -> None:
    """After so many restarts a module stays failed, until it is restarted by hand."""
    async with started(python("raise SystemExit(1)"), restartPolicy="on-failure") as module:
        await module.until(lambda: module.state.status == "failed" and module.state.restarts == 3)
        assert module.state.description == "restarted 3 times"
        module.module.restart()
        await module.until(lambda: module.state.restarts == 4)


async def test_restart_by_hand() -> None:
    """A module that runs is stopped and started again, whatever its policy."""
    async with started(FOREVER) as module:
        first = module.module.pid
        module.module.restart()
        await module.until(lambda: module.state.restarts == 1 and module.state.status == "running")
        assert module.module.pid != first


async def test_no_such_command() -> None:
    """A command that is not there is a failed module, and no error of the host."""
    async with started(["/nowhere/module"]) as module:
        await module.until(lambda: module.state.status == "failed")
        assert module.state.exit_code == 127


@pytest.mark.parametrize(
    ("runnable", "changes", "status"), [(None, {}, "unknown"), (FOREVER, {"status": "stopped"}, "stopped")]
)
async def test_not_started(runnable: Runnable | None, changes: dict[str, Any], status: str) -> None:
    """A module without a command is not known to run; one that is to be stopped does not."""
    async with started(runnable, restartPolicy="always", **changes) as module:
        assert (module.state.status, module.module.pid) == (status, None)


async def test_coroutine() -> None:
    """A module may be a coroutine in the bench; it gets its environment and is cancelled to stop it."""
    seen: list[Mapping[str, str] | str] = []

    async def work(environment: Mapping[str, str]) -> None:
        seen.append(environment)
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("stopped")

    async with started(work) as module:
        assert module.state.status == "running"
        await asyncio.sleep(0)
    assert seen == [{"COLOUR": "green"}, "stopped"]


async def test_coroutine_that_fails() -> None:
    """A coroutine that raises is a failed module."""

    async def work(_: Mapping[str, str]) -> None:
        raise ValueError("broken")

    async with started(work) as module:
        await module.until(lambda: module.state.status == "failed")
        assert module.state.exit_code == 1


@pytest.mark.parametrize(
    ("policy", "after_success", "after_failure"),
    [("never", False, False), ("on-failure", False, True), ("on-unhealthy", False, True), ("always", True, True)],
)
def test_policies(policy: Any, after_success: bool, after_failure: bool) -> None:
    """Each policy says after which ends a module runs on."""
    assert wants_restart(policy, "stopped") is after_success
    assert wants_restart(policy, "failed") is after_failure


def test_cool_off() -> None:
    """The pause doubles with each restart, up to five minutes."""
    settings = RestartSettings()
    assert [settings.cool_off_s(restarts) for restarts in range(6)] == [10, 20, 40, 80, 160, MAX_COOL_OFF_S]
    assert settings.cool_off_s(5000) == MAX_COOL_OFF_S


def test_a_day_of_restarts() -> None:
    """A module that always ends is restarted ever more rarely, and given up; one that ran well is new again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        starts: list[float] = []
        runs_s = [0.0, 0.0, 700.0, *[0.0] * 30]

        async def work(_: Mapping[str, str]) -> None:
            starts.append(loop.time())
            await asyncio.sleep(runs_s[len(starts) - 1])

        module = EdgeModule(
            "m",
            spec(restartPolicy="always"),
            work,
            environment={},
            settings=RestartSettings(max_restarts=6),
            clock=VirtualClock(loop),
            on_change=lambda: None,
            on_line=lambda *_: None,
        )
        await module.start()
        await asyncio.sleep(24 * 3600)
        pauses_s = [round(later - earlier) for earlier, later in pairwise(starts)]
        assert pauses_s == [10, 20, 710, 20, 40, 80, 160, 300]
        assert module.state.status == "failed"
        await module.stop()

    run_virtual(main())
