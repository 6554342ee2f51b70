"""What the gateway has acknowledged arrives, once and in order, whatever happens in between.

Each scenario is a whole site of 20 sensors and 200 frames/s. Outages last as long as in the field, so the scenarios run
at the same time, a few together: all that were selected are started with the first test, and each test waits for its
own.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import pytest_asyncio

from edge_gateway.assembly import BUFFER_FILE
from edge_gateway.testbench import LocalAuthority, ProxyMode

from .gateway_process import STOP_WITHIN_S, edge_gateway
from .receiver import verdict
from .site import QUICK, Site, open_broker_site, open_site, sensor_links, write_config

AT_ONCE: Final = 3
"""Sites that run at the same time. One takes about a quarter of a core, and there may be only two."""

LIBFAKETIME: Final = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""Shifts a process's clock, where the package `faketime` put it."""

Scenario: TypeAlias = Callable[[Path, LocalAuthority], Awaitable[None]]

FIELD: Final[Mapping[str, Any]] = {"buffer": {"max_message_age_s": 0.2}, "delivery": {}}
"""The pauses and time-outs that a gateway in the field has."""


async def stop_under_load(site: Site) -> None:
    """SIGTERM while frames come, and the promise of it."""
    ended = await site.gateway.stop()
    assert ended.code == 0, site.gateway.told()
    assert ended.took_s <= STOP_WITHIN_S


async def catch_up(site: Site) -> None:
    """Wait until the backlog is delivered, as far as that can be said while frames come."""
    await site.gateway.status_where(lambda status: sum(status["queue"].values()) < 100)


async def finish(site: Site, at_least: int) -> None:
    """Stop under load, and hold the books against each other."""
    await catch_up(site)
    await stop_under_load(site)
    assert site.verdict() == []
    assert sum(account.queued for account in site.gateway.ledger().values()) == 0
    assert site.receiver.records >= at_least


def readings(status: dict[str, Any]) -> int:
    """Readings that came from the links, whatever became of them."""
    return sum(device["readings"] for device in status["devices"])


async def days_ahead(site: Site) -> int:
    """How far the gateway's clock is from the right one."""
    time = datetime.fromisoformat((await site.gateway.status())["time"])
    return round((time - datetime.now(UTC)) / timedelta(days=1))


async def silent_for_60_s(directory: Path, authority: LocalAuthority) -> None:
    """The link to the hub falls silent for 60 s: no connection breaks and not a byte passes; then a router resets all.

    With the time-outs of the field: the gateway notices by itself, and is back when the link is.
    """
    async with open_site(directory, authority, **FIELD) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(400)
        mark = len(site.gateway.events)
        site.network.mode = ProxyMode.SILENT
        await asyncio.sleep(60)
        lost = await site.gateway.event("uplink.disconnected", since=mark, within_s=1)
        assert lost["refused"] is False
        site.network.mode = ProxyMode.PASS
        site.network.reset()
        await site.gateway.event("uplink.connected", since=mark)
        await finish(site, at_least=12_000)


async def killed_at_20_moments(directory: Path, authority: LocalAuthority) -> None:
    """SIGKILL at any moment, 20 times on one data directory, loses nothing that was acknowledged."""
    rng = random.Random(20)
    acknowledged, runs_with_records = 0, 0
    async with open_site(directory, authority) as site:
        for _ in range(20):
            await site.gateway.start_reading()
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await site.gateway.kill()
            received = sum(account.received for account in site.gateway.ledger().values())
            assert received >= acknowledged, "the ledger has forgotten what it had acknowledged"
            runs_with_records += received > acknowledged
            acknowledged = received
        # A disk that is busy with other tests may take longer for its first commit than a run lasts.
        assert runs_with_records >= 15, "most kills had nothing to lose"
        await site.gateway.start_reading()
        await site.settled()
        await finish(site, at_least=acknowledged)


async def hub_down_for_20_s(directory: Path, authority: LocalAuthority) -> None:
    """The hub is down for 20 s, and the gateway is stopped and started again meanwhile."""
    async with open_site(directory, authority, **FIELD) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(400)
        mark = len(site.gateway.events)
        site.hub.refuse(True)
        site.hub.drop_connections()
        await asyncio.sleep(10)
        lost = await site.gateway.event("uplink.disconnected", since=mark, within_s=1)
        assert lost["refused"] is False
        await stop_under_load(site)
        await site.gateway.start_reading()
        await asyncio.sleep(10)
        mark = len(site.gateway.events)
        site.hub.refuse(False)
        await site.gateway.event("uplink.connected", since=mark)
        await finish(site, at_least=4_000)


async def stopped_under_load(directory: Path, authority: LocalAuthority) -> None:
    """SIGTERM while frames come, with all well, again and again: it takes no frame that was read, and no time."""
    async with open_site(directory, authority) as site:
        for records in (200, 400, 600):
            await site.gateway.start_reading()
            await site.receiver.grows(records)
            await stop_under_load(site)
            assert site.verdict() == []
        assert site.receiver.account.repeated_messages == 0


async def stopped_while_silent(directory: Path, authority: LocalAuthority) -> None:
    """A silent link does not hold up a stop: neither while a session is open nor while one is being opened."""
    async with open_site(directory, authority) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(400)
        site.network.mode = ProxyMode.SILENT
        arrived = site.receiver.records
        await site.gateway.status_where(lambda status: status["queue"]["normal"] >= 200)
        await stop_under_load(site)
        connections = site.network.connections
        await site.gateway.start_reading()
        await site.gateway.status_where(lambda status: site.network.connections > connections)
        await stop_under_load(site)
        assert site.receiver.records == arrived
        site.network.mode = ProxyMode.PASS
        await site.gateway.start_reading()
        await finish(site, at_least=arrived + 200)


async def unconfirmed_at_a_kill(directory: Path, authority: LocalAuthority) -> None:
    """What had arrived and was not confirmed at a kill comes again under the same ids, with the same bytes."""
    async with open_site(directory, authority) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(400)
        site.hub.withhold_pubacks(True)
        await site.receiver.grows(100)
        await site.gateway.kill()
        site.hub.withhold_pubacks(False)
        await site.gateway.start_reading()
        await site.settled()
        await finish(site, at_least=500)
        assert site.receiver.account.repeated_messages > 0


async def broker_behind_a_bad_network(directory: Path, authority: LocalAuthority) -> None:
    """Over plain MQTT the promise is the same: through kills, a silent link, a cut one, and a stop."""
    rng = random.Random(5)
    delivery = {"retry_first_s": 0.2, "retry_most_s": 1.0, "confirm_timeout_s": 3.0, "connect_timeout_s": 3.0}
    async with open_broker_site(directory, authority, delivery=delivery) as site:
        for _ in range(5):
            await site.gateway.start_reading()
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await site.gateway.kill()
        await site.gateway.start_reading()
        await site.receiver.grows(400)
        mark = len(site.gateway.events)
        site.network.mode = ProxyMode.SILENT
        await site.gateway.event("uplink.disconnected", since=mark)
        await stop_under_load(site)
        site.network.mode = ProxyMode.PASS
        await site.gateway.start_reading()
        await catch_up(site)
        mark = len(site.gateway.events)
        site.network.reset()
        await site.gateway.event("uplink.connected", since=mark)
        await finish(site, at_least=1_000)


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """A disk of 16 MiB: room for the store and its log, and soon full."""
    disk = directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Take all the space there is left, and give it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def lost_some(status: dict[str, Any]) -> bool:
    """Whether records gave way, or were never kept."""
    return bool(status["account"]["evicted"] + status["account"]["rejected"])


async def disk_full_for_a_while(directory: Path, authority: LocalAuthority) -> None:
    """The disk fills up while the hub is away: what gives way is counted, and all goes on by itself."""
    with small_disk(directory) as disk:
        buffer = {**QUICK["buffer"], "pending_records": 100}
        async with open_site(directory, authority, data_directory=disk / "data", buffer=buffer) as site:
            await site.gateway.start_reading()
            await site.receiver.grows(400)
            mark = len(site.gateway.events)
            with filled(disk):
                site.network.mode = ProxyMode.REFUSE
                site.network.reset()
                await site.gateway.event("buffer.disk_full", since=mark)
                status = await site.gateway.status()
                assert status["buffer"]["state"] == "disk-full"
                assert "the disk is full" in status["buffer"]["fault"]
                assert status["buffer"]["fault"] in status["faults"]
                await site.gateway.status_where(lost_some)
            await site.gateway.event("buffer.disk_has_room", since=mark)
            site.network.mode = ProxyMode.PASS
            await site.receiver.grows(400)
            await finish(site, at_least=800)


async def cannot_start_for_the_first_time(directory: Path, data_directory: Path) -> None:
    """Where there is no store yet and no room for one, a gateway cannot keep anything, and says so."""
    directory.mkdir()
    config = write_config(
        directory,
        uplink={"kind": "mqtt", "host": "127.0.0.1"},
        links=sensor_links(directory, 1),
        data_directory=data_directory,
    )
    code, _, errors = await edge_gateway("run", "--config", str(config))
    assert code == 3
    assert "the disk is full. Free some space" in errors


async def disk_full_at_start(directory: Path, authority: LocalAuthority) -> None:
    """On a full disk the gateway starts if it has a store, delivers what is queued, and says what is wrong.

    It stops in time, too, and goes on when there is space again.
    """
    with small_disk(directory) as disk:
        async with open_site(directory, authority, data_directory=disk / "data") as site:
            site.network.mode = ProxyMode.REFUSE
            await site.gateway.start_reading()
            await site.gateway.status_where(lambda status: status["queue"]["normal"] >= 400)
            await stop_under_load(site)
            site.network.mode = ProxyMode.PASS
            with filled(disk):
                await cannot_start_for_the_first_time(directory / "another", disk / "another")
                await site.gateway.start_reading()
                await site.receiver.grows(400)
                await site.gateway.status_where(lambda status: "the disk is full" in status["buffer"]["fault"])
                await stop_under_load(site)
            await site.gateway.start_reading()
            await site.settled()
            await stop_under_load(site)
            # What was read while the disk was full was never acknowledged, so the sensors' book is left out.
            assert verdict(site.receiver, site.gateway.ledger()) == []


async def clock_stepped_by_a_day(directory: Path, authority: LocalAuthority) -> None:
    """The wall clock steps a day forward, then two back: nothing waits for it, and a token of yesterday costs nothing.

    The hub's clock stays right. A token made by a clock that is a day behind has ended long ago, so the hub refuses it,
    and the gateway says so and keeps everything until the clock is right again.
    """
    offset = directory / "clock-offset"

    def step(text: str) -> None:
        """Set the gateway's clock that far from the right time, in one piece, for it is read all the time."""
        aside = directory / "clock-offset.new"
        aside.write_text(f"{text}\n")
        aside.replace(offset)

    step("+0")
    environment = {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # As a step of the wall clock does it: monotonic time, which the event loop goes by, runs on.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with open_site(directory, authority, environment=environment) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(400)

        step("+1d")
        await site.receiver.grows(400)
        assert await days_ahead(site) == 1
        mark = len(site.gateway.events)
        site.network.reset()
        await site.gateway.event("uplink.connected", since=mark)
        await site.receiver.grows(400)

        step("-1d")
        await site.receiver.grows(400)
        assert await days_ahead(site) == -1
        mark = len(site.gateway.events)
        site.network.reset()
        refused = await site.gateway.event("uplink.disconnected", since=mark, refused=True)
        assert "this box's clock" in refused["reason"]
        await site.gateway.status_where(lambda status: status["queue"]["normal"] >= 400)

        step("+0")
        await site.gateway.event("uplink.connected", since=mark)
        await finish(site, at_least=2_000)


# The longest first, so that the short ones fill up the time.
SCENARIOS: Final[list[Scenario]] = [
    silent_for_60_s,
    killed_at_20_moments,
    hub_down_for_20_s,
    broker_behind_a_bad_network,
    stopped_while_silent,
    stopped_under_load,
    clock_stepped_by_a_day,
    disk_full_for_a_while,
    disk_full_at_start,
    unconfirmed_at_a_kill,
]

_MISSING: Final[Mapping[Scenario, str]] = {
    broker_behind_a_bad_network: ""
    if shutil.which("mosquitto") and shutil.which("mosquitto_sub")
    else "mosquitto and mosquitto_sub, from the packages mosquitto and mosquitto-clients",
    clock_stepped_by_a_day: "" if LIBFAKETIME else "libfaketime, from the package faketime",
    disk_full_for_a_while: "" if os.geteuid() == 0 else "root, to mount a small disk",
    disk_full_at_start: "" if os.geteuid() == 0 else "root, to mount a small disk",
}
"""What each scenario needs and this machine does not have."""


def _marks(scenario: Scenario) -> list[pytest.MarkDecorator]:
    missing = _MISSING.get(scenario)
    return [pytest.mark.skip(reason=f"needs {missing}")] if missing else []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, authority: LocalAuthority
) -> AsyncIterator[dict[Scenario, asyncio.Task[None]]]:
    """All scenarios whose tests are going to run, started."""
    selected = [item for item in request.session.items if not item.get_closest_marker("skip")]
    wanted = [item.callspec.params.get("scenario") for item in selected if hasattr(item, "callspec")]
    places = asyncio.Semaphore(AT_ONCE)

    async def run(scenario: Scenario) -> None:
        async with places:
            await scenario(tmp_path_factory.mktemp(scenario.__name__), authority)

    tasks = {each: asyncio.create_task(run(each), name=each.__name__) for each in SCENARIOS if each in wanted}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.__name__, marks=_marks(each)) for each in SCENARIOS])
async def test_nothing_acknowledged_is_lost(scenario: Scenario, running: dict[Scenario, asyncio.Task[None]]) -> None:
    """Nothing acknowledged is lost, nothing comes twice after the receiver's filter, and each device keeps order."""
    await running[scenario]


async def test_the_verdict_finds_what_was_lost(tmp_path: Path, authority: LocalAuthority) -> None:
    """Chunks that vanish from the store, which no kill may do, are found: the checks above can fail."""
    async with open_site(tmp_path, authority, sensors=2) as site:
        site.network.mode = ProxyMode.REFUSE
        await site.gateway.start_reading()
        await site.gateway.status_where(lambda status: status["queue"]["normal"] >= 40)
        await stop_under_load(site)
        assert site.verdict() == []

        with closing(sqlite3.connect(site.gateway.data_directory / BUFFER_FILE)) as store:
            chunks = [number for (number,) in store.execute("SELECT id FROM chunk WHERE id >> 48 = 2 ORDER BY id")]
            for gone in (chunks[len(chunks) // 2], chunks[-1]):
                store.execute("DELETE FROM chunk WHERE id = ?", (gone,))
            store.commit()
        assert any("are not in the store any more" in fault for fault in site.verdict())

        site.network.mode = ProxyMode.PASS
        await site.gateway.start_reading()
        await site.receiver.grows(len(chunks))
        await stop_under_load(site)
        faults = site.verdict()
        assert any("are not in the store any more" in fault for fault in faults)
        assert any("missing" in fault for fault in faults)
        assert any("were sent while the gateway was there" in fault for fault in faults)
