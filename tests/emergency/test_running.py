"""A wipe of a gateway that runs: who may ask, what is told, and that nothing holds it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_gateway.api.control import ask, serve_control
from edge_gateway.api.keys import key_handlers
from edge_gateway.clock import SystemClock
from edge_gateway.emergency import Emergency, RevocableKeyStore, Wipe
from edge_gateway.emergency.mark import read_mark
from edge_gateway.emergency.tamper import InputUnreadable
from edge_gateway.emergency.tamper.arming import Arming
from edge_gateway.emergency.tamper.watch import TamperWatch
from edge_gateway.errors import KeyStoreError, UplinkLost
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.records import Command, CommandStatus, Event


@dataclass
class Running:
    """Stands for the pipeline."""

    directory: Path
    keys: RevocableKeyStore
    alerts: list[Event] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    hangs: bool = False
    error: Exception | None = None

    async def alert(self, event: Event) -> None:
        self.alerts.append(event)
        assert read_mark(self.directory) is not None
        self.order.append(f"alert, signing {len(self.keys.sign('gateway', b'x'))}")
        await self._trouble()

    async def fall_silent(self) -> None:
        self.order.append("silent")
        await self._trouble()

    async def _trouble(self) -> None:
        if self.error is not None:
            raise self.error
        while self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.order.append("clings")


class Lid:
    """A tamper input that a test opens and breaks."""

    def __init__(self) -> None:
        self.is_open = False
        self.is_broken = False
        self.looks = 0
        self.closed = 0

    def is_tampered(self) -> bool:
        self.looks += 1
        if self.is_broken:
            raise InputUnreadable("the wire is off", where="lid", remedy="Look at it")
        return self.is_open

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def running(directory: Path) -> Running:
    keys = RevocableKeyStore(SoftwareKeyStore(directory / "keys"))
    keys.put("gateway", Secret(bytes(range(32))))
    return Running(directory, keys)


def emergency_of(running: Running, *watches: TamperWatch, alert_within_s: float = 5.0) -> Emergency:
    wipe = Wipe(
        running.directory,
        running.keys,
        (),
        key_directories=[running.directory / "keys"],
        credential_files=[],
        spare_file=running.directory / "spare",
        clock=SystemClock(),
    )
    return Emergency("plant", wipe, running.keys, watches, clock=SystemClock(), alert_within_s=alert_within_s)


def watch_of(lid: Lid, directory: Path, *, hold_s: float = 0.02) -> TamperWatch:
    arming = Arming(directory / "tamper.armed", frozenset(["lid"]))
    return TamperWatch("lid", lid, hold_s=hold_s, look_every_s=0.005, arming=arming, settings="lid")


def command(source: str, **arguments: str) -> Command:
    return Command("plant", "wipe-keys", arguments, source=source)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.002)


async def test_the_alert_goes_out_before_the_keys(running: Running) -> None:
    """Marked, told while the key still signs, silent, then wiped; the gateway is stopped last."""
    emergency = emergency_of(running)
    stop = asyncio.Event()
    task = asyncio.create_task(emergency.run(running, stop))
    await emergency.begin("a test", source="test")
    assert read_mark(running.directory) is not None
    report = await emergency.ended()
    await task
    assert stop.is_set()
    assert running.order == ["alert, signing 32", "silent"]
    [alert] = running.alerts
    assert (alert.device, alert.source, alert.kind) == ("plant", "test", "alert-raised")
    assert alert.values == {"emergency": "wipe", "reason": "a test"}
    assert (report.done, report.left) == (True, ())
    assert list((running.directory / "keys").iterdir()) == []
    with pytest.raises(KeyStoreError, match="the keys are being wiped"):
        running.keys.create("data-key")  # whoever is still at work in this process makes no new one
    assert emergency.status()["wipe"] == {"reason": "a test", "done": True}


@pytest.mark.parametrize("hangs", [True, False])
async def test_nothing_holds_up_a_wipe(running: Running, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    """Not a hub that does not answer, not one that refuses, and not what clings to its cancellation."""
    monkeypatch.setattr("edge_gateway.emergency.running._FALLS_SILENT_WITHIN_S", 0.01)
    running.hangs = hangs
    running.error = None if hangs else UplinkLost("no way", where="hub")
    emergency = emergency_of(running, alert_within_s=0.01)
    await emergency.begin("a test", source="test")
    stop = asyncio.Event()
    async with asyncio.timeout(10):
        await emergency.run(running, stop)
    assert emergency.report is not None
    assert emergency.report.done
    assert stop.is_set()
    running.hangs = False


@pytest.mark.parametrize("error", [RuntimeError("a bug"), None])
async def test_a_wipe_that_is_broken_off_is_ended_first(running: Running, error: Exception | None) -> None:
    """A bug in what it calls, or a gateway that is told to stop meanwhile, leaves no key."""
    running.error, running.hangs = error, error is None
    emergency = emergency_of(running)
    await emergency.begin("a test", source="test")
    task = asyncio.create_task(emergency.run(running, asyncio.Event()))
    await until(lambda: bool(running.alerts))
    running.hangs = False
    task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError if error is None else RuntimeError)
    assert emergency.report is not None
    assert emergency.report.done
    assert list((running.directory / "keys").iterdir()) == []


async def test_a_direct_method_has_to_name_the_gateway(running: Running) -> None:
    """Without the name, or with another, nothing happens and the answer says what would do; a rule needs none."""
    emergency = emergency_of(running)
    for asked in (command("method"), command("c2d", confirm="other"), command("")):
        result = await emergency.run_command(asked)
        assert result.status is CommandStatus.INVALID
        assert '{"confirm": "plant"}' in result.detail
    assert read_mark(running.directory) is None
    result = await emergency.run_command(command("method", confirm="plant"))
    assert result.status is CommandStatus.ACKNOWLEDGED
    mark = read_mark(running.directory)
    assert mark is not None
    assert mark.reason == "command wipe-keys by method"


async def test_a_rule_needs_no_confirmation(running: Running) -> None:
    """It names the gateway as the device already."""
    result = await emergency_of(running).run_command(command("rule:shaken"))
    assert result.status is CommandStatus.ACKNOWLEDGED


async def test_a_lost_data_directory_is_told(running: Running) -> None:
    """Nothing can be begun then, and the asker learns it."""
    emergency = emergency_of(running)
    (running.directory).rename(running.directory.with_name("away"))
    result = await emergency.run_command(command("rule:shaken"))
    assert result.status is CommandStatus.REFUSED
    assert "there is nothing to wipe" in result.detail


async def test_over_the_control_socket(running: Running) -> None:
    """The asker hears how it ended."""
    emergency = emergency_of(running)
    stop = asyncio.Event()
    async with serve_control(running.directory, key_handlers(emergency)):
        task = asyncio.create_task(emergency.run(running, stop))
        lines = [line async for line in ask(running.directory, "keys.wipe")]
        await task
    assert lines[-1]["wiped"] | {"begun": ""} == {
        "reason": "edge-gateway keys wipe",
        "begun": "",
        "done": True,
        "left": [],
    }


# --- tamper inputs ----------------------------------------------------------------------------------------------------


async def test_an_opened_lid_wipes(running: Running) -> None:
    """Armed by being closed, it wipes when it was open for as long as it has to be."""
    lid = Lid()
    emergency = emergency_of(running, watch_of(lid, running.directory))
    task = asyncio.create_task(emergency.run(running, asyncio.Event()))
    await until(lambda: bool(emergency.status()["inputs"][0]["armed"]))
    assert emergency.faults == []
    lid.is_open = True
    async with asyncio.timeout(10):
        await task
    assert [alert.source for alert in running.alerts] == ["tamper:lid"]
    assert emergency.report is not None
    assert (emergency.report.reason, emergency.report.done) == ("tamper input lid", True)
    assert lid.closed == 1


async def test_an_open_lid_at_the_start_is_a_fault(running: Running) -> None:
    """Whoever puts the box up has it open; it is armed when it is closed, also over a restart."""
    lid = Lid()
    lid.is_open = True
    emergency = emergency_of(running, watch_of(lid, running.directory))
    task = asyncio.create_task(emergency.run(running, asyncio.Event()))
    await until(lambda: lid.looks > 20)
    assert "tamper input lid: it is tampered with, and is not armed" in emergency.faults[0]
    lid.is_open = False
    await until(lambda: bool(emergency.status()["inputs"][0]["armed"]))
    assert emergency.faults == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert read_mark(running.directory) is None
    lid.is_open = True
    restarted = emergency_of(running, watch_of(lid, running.directory))
    async with asyncio.timeout(10):
        await restarted.run(running, asyncio.Event())
    assert restarted.report is not None
    assert restarted.report.done


async def test_an_input_that_cannot_be_read_is_a_fault(running: Running) -> None:
    """It never wipes, and is told until it is back."""
    lid = Lid()
    emergency = emergency_of(running, watch_of(lid, running.directory))
    task = asyncio.create_task(emergency.run(running, asyncio.Event()))
    await until(lambda: bool(emergency.status()["inputs"][0]["armed"]))
    lid.is_broken = True
    looks = lid.looks
    await until(lambda: lid.looks > looks + 20)
    assert emergency.faults == ["tamper input lid: lid: the wire is off. Look at it"]
    assert emergency.status()["inputs"][0]["state"] == "unknown"
    lid.is_broken = False
    await until(lambda: not emergency.faults)
    assert read_mark(running.directory) is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_inputs_that_are_armed_at_once_are_all_armed(directory: Path) -> None:
    """Each is remembered, whichever thread comes first."""
    path, names = directory / "tamper.armed", [f"input {number}" for number in range(16)]
    arming = Arming(path, frozenset(names))
    await asyncio.gather(*(asyncio.to_thread(arming.arm, name) for name in names))
    assert all(Arming(path, frozenset(names)).is_armed(name) for name in names)


async def test_other_settings_disarm(directory: Path) -> None:
    """A contact whose meaning was turned round in the configuration is as one never seen."""
    path = directory / "tamper.armed"
    Arming(path, frozenset(["open"])).arm("open")
    assert Arming(path, frozenset(["open"])).is_armed("open")
    turned = Arming(path, frozenset(["closed"]))
    assert not turned.is_armed("closed")
    turned.arm("closed")
    assert not Arming(path, frozenset(["open"])).is_armed("open")
