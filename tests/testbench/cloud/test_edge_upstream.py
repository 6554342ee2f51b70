"""The way up: links to a hub that nobody else can connect to, in virtual time, and the twins of system modules."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edge_gateway.testbench import LocalHub, MethodResponse
from edge_gateway.testbench.cloud.edge.store import EdgeMessage
from edge_gateway.testbench.cloud.edge.system_twin import SystemTwin
from edge_gateway.testbench.cloud.edge.tasks import OwnedTasks
from edge_gateway.testbench.cloud.edge.upstream import LinkDown, TwinRequestRefused, Upstream, UpstreamLink
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.cloud.topics import DESIRED_PATCHES
from edge_gateway.testbench.cloud.twin import Section
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual

SENSOR = IdentityName("edge", "sensor")
HOUR_S = 3600.0


class Listener:
    """Somebody a link is for."""

    def __init__(self) -> None:
        self.heard: list[Publish] = []
        self.changed = asyncio.Event()

    def link_changed(self) -> None:
        self.changed.set()

    def told(self, packet: Publish) -> None:
        self.heard.append(packet)
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(HOUR_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Bench:
    def __init__(self, tier: str | None = None) -> None:
        clock = VirtualClock(asyncio.get_running_loop())
        self.hub = LocalHub(host_name="hub.example", clock=clock, rng=random.Random(1), tier=tier)
        self.hub.add_device("edge", edge=True)
        self.hub.add_module("edge", "sensor")
        self.upstream = Upstream(self.hub, clock)
        self.listener = Listener()

    async def connected(self) -> UpstreamLink:
        link = self.upstream.open(SENSOR, self.listener)
        await self.listener.until(lambda: link.connected)
        return link

    def drop(self) -> None:
        """Cut the link from the hub's side."""
        session = self.hub.record(SENSOR).session
        assert session is not None
        session.drop("fault injected")


def with_bench(test: Callable[[Bench], Awaitable[None]], tier: str | None = None) -> None:
    async def main() -> None:
        bench = Bench(tier)
        try:
            await test(bench)
        finally:
            bench.upstream.close()
            await asyncio.sleep(0.001)  # what a closed link has still to say

    run_virtual(main())


def message(body: bytes = b"x", **system: str) -> EdgeMessage:
    return EdgeMessage(SENSOR, {"a": "b c"}, {"message-id": "1", "output-name": "out", **system}, body)


def test_a_link_is_its_identity() -> None:
    """What goes over a link is the module's own to the hub, without what concerns the edge hub only."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        await link.send(message())
        received = bench.hub.messages[0]
        assert (received.device_id, received.module_id, received.body) == ("edge", "sensor", b"x")
        assert (received.message_id, received.properties) == ("1", {"a": "b c"})
        assert "output-name" not in received.system_properties
        link.close()
        assert not link.connected
        assert not bench.hub.is_connected(*SENSOR)

    with_bench(test)


def test_offline() -> None:
    """Offline nothing goes, and what was under way may have arrived; online the link is there by itself."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        bench.upstream.faults.pubacks_withheld = True
        sending = asyncio.create_task(link.send(message()))
        await bench.hub.until(lambda: len(bench.hub.messages) == 1)
        bench.upstream.go_offline()
        for _ in range(2):
            with pytest.raises(LinkDown):
                await sending
            sending = asyncio.create_task(link.send(message()))
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.sleep(HOUR_S)
        assert not link.connected
        assert not bench.hub.is_connected(*SENSOR)
        bench.upstream.faults.pubacks_withheld = False
        bench.upstream.go_online()
        await bench.listener.until(lambda: link.connected)
        await link.send(message())
        assert len(bench.hub.messages) == 2

    with_bench(test)


def test_opened_offline() -> None:
    """A link asked for while the way is offline is made when it is online."""

    async def test(bench: Bench) -> None:
        bench.upstream.go_offline()
        link = bench.upstream.open(SENSOR, bench.listener)
        await asyncio.sleep(HOUR_S)
        assert not link.connected
        bench.upstream.go_online()
        await bench.listener.until(lambda: link.connected)

    with_bench(test)


def test_cut_from_above() -> None:
    """A link the hub has cut comes back, with its subscriptions."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        link.subscribe(DESIRED_PATCHES)
        bench.drop()
        await bench.listener.until(lambda: not link.connected)
        await bench.listener.until(lambda: link.connected)
        await asyncio.sleep(1)
        bench.hub.patch_desired("edge", {"a": 1}, "sensor")
        await bench.listener.until(lambda: len(bench.listener.heard) == 1)
        link.unsubscribe(DESIRED_PATCHES)
        await asyncio.sleep(1)
        bench.hub.patch_desired("edge", {"a": 2}, "sensor")
        await asyncio.sleep(1)
        assert len(bench.listener.heard) == 1

    with_bench(test)


def test_turned_away() -> None:
    """An identity the hub does not let in is tried again, and is in when it may."""

    async def test(bench: Bench) -> None:
        bench.hub.set_enabled("edge", False)
        link = bench.upstream.open(SENSOR, bench.listener)
        await bench.listener.until(lambda: link.refused)
        await asyncio.sleep(60)
        assert not link.connected
        bench.hub.set_enabled("edge", True)
        await bench.listener.until(lambda: link.connected)
        assert not link.refused

    with_bench(test)


def test_days() -> None:
    """An idle link lasts until its token ends, and then is there again with another."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        await asyncio.sleep(23 * HOUR_S)
        assert bench.hub.statistics.connections == 1
        await asyncio.sleep(2 * HOUR_S)
        assert bench.hub.statistics.connections == 2
        assert link.connected

    with_bench(test)


def test_no_answer() -> None:
    """A hub that does not answer is given up, and connected to again."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        bench.upstream.faults.pubacks_withheld = True
        with pytest.raises(LinkDown):
            await link.send(message())
        await bench.listener.until(lambda: link.connected)
        assert bench.hub.statistics.connections == 2

    with_bench(test)


def test_slow_way() -> None:
    """A delay on the way up delays what comes back."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        bench.upstream.faults.delay_s = 2.0
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await link.send(message())
        assert loop.time() - started_s >= 2.0

    with_bench(test)


def test_twin_requests() -> None:
    """A link asks for its twin and changes it; what the hub refuses is told with the hub's status."""

    async def test(bench: Bench) -> None:
        link = await bench.connected()
        await link.patch_reported({"a": 1})
        assert (await link.get_twin())["reported"] == {"a": 1, "$version": 2}
        with pytest.raises(TwinRequestRefused) as refused:
            await link.patch_reported({"a.b": 1})
        assert refused.value.status == 400

    with_bench(test)


# Twins of system modules


class System:
    """A system module's twin, and what its owner is told."""

    def __init__(self, bench: Bench) -> None:
        self.desired: list[Any] = []
        self.twin = SystemTwin(
            bench.upstream,
            SENSOR,
            on_desired=self.desired.append,
            on_method=lambda name, payload: MethodResponse(200, {"name": name, "payload": payload}),
        )
        self.tasks = OwnedTasks("test")
        self.tasks.spawn(self.twin.run(), "twin")


def with_system(test: Callable[[Bench, System], Awaitable[None]], tier: str | None = None) -> None:
    async def main(bench: Bench) -> None:
        system = System(bench)
        try:
            await test(bench, system)
        finally:
            await system.tasks.end()

    with_bench(main, tier)


def reported(bench: Bench) -> Any:
    return bench.hub.twin(*SENSOR).reported


def test_state_goes_up() -> None:
    """The hub has what was reported last, without what was reported before and is no more."""

    async def test(bench: Bench, system: System) -> None:
        states: list[Section] = [{"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"c": 3}}, {"b": {"c": 3}, "e": []}]
        for state in states:
            system.twin.report(state)
            await bench.hub.until(lambda state=state: reported(bench) == state)  # type: ignore[misc]  # bound at once

    with_system(test)


def test_state_goes_up_later() -> None:
    """What is reported while the hub is out of reach is there when it is not."""

    async def test(bench: Bench, system: System) -> None:
        system.twin.report({"a": 1})
        await bench.hub.until(lambda: bool(reported(bench) == {"a": 1}))
        bench.upstream.go_offline()
        system.twin.report({"a": 2})
        await asyncio.sleep(HOUR_S)
        bench.upstream.go_online()
        await bench.hub.until(lambda: bool(reported(bench) == {"a": 2}))

    with_system(test)


def test_desired_comes_whole() -> None:
    """Each change of the desired properties is told whole, at once or after a time apart, and only once."""

    async def test(bench: Bench, system: System) -> None:
        await bench.hub.until(lambda: len(system.desired) == 1)
        bench.hub.patch_desired("edge", {"a": 1}, "sensor")
        await bench.hub.until(lambda: len(system.desired) == 2)
        bench.upstream.go_offline()
        bench.hub.patch_desired("edge", {"b": 2}, "sensor")
        bench.hub.patch_desired("edge", {"c": 3}, "sensor")
        bench.upstream.go_online()
        await bench.hub.until(lambda: len(system.desired) == 3)
        bench.drop()
        await asyncio.sleep(HOUR_S)
        assert system.desired == [
            {"$version": 1},
            {"a": 1, "$version": 2},
            {"a": 1, "b": 2, "c": 3, "$version": 4},
        ]

    with_system(test)


@pytest.mark.parametrize("turns", range(12))
def test_change_at_any_moment(turns: int) -> None:
    """A change that comes while the twin is being fetched or reported is not missed, in whatever turn it comes."""

    async def test(bench: Bench, system: System) -> None:
        await bench.hub.until(lambda: len(system.desired) == 1)
        system.twin.report({"a": turns})
        bench.hub.patch_desired("edge", {"first": 1}, "sensor")
        for _ in range(turns):
            await asyncio.sleep(0)
        bench.hub.patch_desired("edge", {"second": 2}, "sensor")
        await asyncio.sleep(1)
        assert system.desired[-1] == {"first": 1, "second": 2, "$version": 3}
        assert reported(bench) == {"a": turns}

    with_system(test)


def test_refused_report() -> None:
    """A report the hub does not take is not repeated; the next one is heard."""

    async def test(bench: Bench, system: System) -> None:
        system.twin.report({"a.b": 1})
        await asyncio.sleep(HOUR_S)
        assert reported(bench) == {}
        system.twin.report({"c": 1})
        await bench.hub.until(lambda: bool(reported(bench) == {"c": 1}))

    with_system(test)


def test_throttled_report() -> None:
    """A report that comes when the hub's rate is used up gets through later."""

    async def test(bench: Bench, system: System) -> None:
        for number in range(200):
            system.twin.report({"a": number})
            await asyncio.sleep(0.001)
        await asyncio.sleep(HOUR_S)
        assert reported(bench) == {"a": 199}

    with_system(test, tier="F1")


def test_methods() -> None:
    """A direct method is answered at once."""

    async def test(bench: Bench, system: System) -> None:
        answer = await bench.hub.invoke_method("edge", "ping", {"a": 1}, module_id="sensor", connect_timeout_s=10)
        assert answer == (200, {"name": "ping", "payload": {"a": 1}})
        assert system.desired

    with_system(test)


# Tasks


async def test_owned_tasks() -> None:
    """Tasks end with their owner, who hears of what failed in them."""
    ended: list[str] = []

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("goes on")

    async def fails() -> None:
        raise ValueError("broken")

    tasks = OwnedTasks("owner")
    tasks.spawn(goes_on(), "1")
    tasks.spawn(fails(), "2")
    await asyncio.sleep(0)
    assert {task.get_name() for task in asyncio.all_tasks()} >= {"owner-1"}
    with pytest.raises(BaseExceptionGroup) as raised:
        await tasks.end()
    assert [str(each) for each in raised.value.exceptions] == ["broken"]
    assert ended == ["goes on"]
