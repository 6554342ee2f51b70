"""A thousand leaves share places and moments to connect; on virtual time, against a hub in memory for each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.records import Command, CommandResult, CommandStatus
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.uplink import Downlink, Session
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafSessions, LeafState

from .far_sides import RecordingDownlink
from .leaf_queue import LeafBuffer
from .simulated_hub import Fate, Life, SimulatedHub

DELIVERY = DeliverySettings(retry_first_s=1, retry_most_s=300)
OPEN = LeafLimits(most_sessions=1000, most_connecting=1000, connects_per_s=1e6, idle_s=60)


class CalledHub(SimulatedHub):
    """A hub that can also call a method."""

    downlink: Downlink

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        self.downlink = downlink
        async with super().connect(downlink) as session:
            yield session


class Site:
    """Leaves named `s0`, `s1`, ... each with a hub of its own."""

    def __init__(self, limits: LeafLimits, lives: Iterable[Iterable[Life]], *, hold: bool) -> None:
        self.hubs = [CalledHub(each) for each in lives]
        self.queues = [LeafBuffer(f"s{number}") for number in range(len(self.hubs))]
        self.command_takes_s = 0.0
        gateway = RecordingDownlink(lambda _: CommandResult(CommandStatus.ACKNOWLEDGED)).downlink()
        downlink = replace(gateway, run_command=self._run_command)
        self.sessions = LeafSessions(
            [
                Leaf(f"s{number}", hub, queue, downlink, hold=hold)
                for number, (hub, queue) in enumerate(zip(self.hubs, self.queues, strict=True))
            ],
            DELIVERY,
            limits,
            random.Random(1),
        )

    async def _run_command(self, _: Command) -> CommandResult:
        await asyncio.sleep(self.command_takes_s)
        return CommandResult(CommandStatus.ACKNOWLEDGED)

    def connected(self) -> list[int]:
        """Who is, by number."""
        return [number for number, hub in enumerate(self.hubs) if hub.session is not None]

    def states(self) -> list[LeafState]:
        return [status.state for status in self.sessions.statuses().values()]


def on_site(
    scene: Callable[[Site], Coroutine[Any, Any, None]],
    lives: Iterable[Iterable[Life]],
    limits: LeafLimits = OPEN,
    *,
    hold: bool = False,
) -> None:
    async def main() -> None:
        site = Site(limits, lives, hold=hold)
        async with AsyncExitStack() as resources:
            for queue in site.queues:
                await resources.enter_async_context(queue)
            running = asyncio.create_task(site.sessions.run())
            await scene(site)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert site.connected() == []

    run_virtual(main())


def test_on_demand_a_leaf_connects_when_something_is_queued_and_leaves() -> None:
    """Without anything to send nobody connects; a session ends when it has been idle, and nothing is mourned."""

    async def scene(site: Site) -> None:
        await asyncio.sleep(3600)
        assert site.hubs[0].attempts_at_s == []
        assert site.states() == ["idle", "idle"]
        await site.queues[1].measure()
        await asyncio.sleep(30)
        assert (site.connected(), site.states()) == ([1], ["idle", "connected"])
        await site.queues[1].measure()
        await asyncio.sleep(59)
        assert site.connected() == [1]
        await asyncio.sleep(2)
        assert site.connected() == []
        assert len(site.hubs[1].attempts_at_s) == 1
        status = site.sessions.status("s1")
        assert (status.state, status.delivery.fault, status.delivery.messages) == ("idle", "", 2)

    on_site(scene, [[], []])


def test_a_command_keeps_a_session() -> None:
    """A session that is not held does not end while its sensor carries out a command, nor for a while after."""

    async def scene(site: Site) -> None:
        site.command_takes_s = 100
        await site.queues[0].measure()
        await asyncio.sleep(1)
        result = await site.hubs[0].downlink.run_command(Command("s0", "ping"))
        assert result.status is CommandStatus.ACKNOWLEDGED
        await asyncio.sleep(58)
        assert site.connected() == [0]
        await asyncio.sleep(60)
        assert site.connected() == []

    on_site(scene, [[]])


def test_a_held_leaf_stays_connected() -> None:
    """A leaf that is held is connected though nothing is queued, and again after a loss."""

    async def scene(site: Site) -> None:
        await asyncio.sleep(7200)
        assert site.states() == ["connected"]
        assert len(site.hubs[0].attempts_at_s) == 2

    on_site(scene, [[Life(Fate.DROPPED)]], hold=True)


def test_starts_are_spread() -> None:
    """A thousand leaves do not connect at once: so many a second, and so many at a time."""

    async def scene(site: Site) -> None:
        await asyncio.sleep(60)
        assert site.sessions.sums().states == {"connected": 1000}
        starts_s = sorted(at_s for hub in site.hubs for at_s in hub.attempts_at_s)
        assert min(after - before for before, after in pairwise(starts_s)) > 0.049
        assert all(later - earlier >= 0.099 for earlier, later in zip(starts_s, starts_s[8:], strict=False))

    limits = LeafLimits(most_connecting=8, connects_per_s=20)
    on_site(scene, [[Life(Fate.NEVER, connect_after_s=0.1)] for _ in range(1000)], limits, hold=True)


def test_only_so_many_connect_at_a_time() -> None:
    """While a hub is slow to answer, others wait for their turn to be asked."""

    async def scene(site: Site) -> None:
        await asyncio.sleep(9)
        assert sum(bool(hub.attempts_at_s) for hub in site.hubs) == 3
        await asyncio.sleep(10)
        assert sum(bool(hub.attempts_at_s) for hub in site.hubs) == 6

    limits = LeafLimits(most_connecting=3, connects_per_s=1e6)
    on_site(scene, [[Life(Fate.NEVER, connect_after_s=10)] for _ in range(9)], limits, hold=True)


def test_a_dead_host_holds_up_no_other() -> None:
    """Whatever number of leaves waits in vain for an answer there, those at another host connect at once."""
    timed_out, good = [Life(Fate.UNREACHABLE, connect_after_s=30.0)] * 20, [Life(Fate.NEVER)]
    lives = [timed_out] * 50 + [good] * 5

    async def scene(site: Site) -> None:
        for hub in site.hubs[:50]:
            hub.endpoint = "simulated://dead/device"
        await asyncio.sleep(5)
        assert site.connected() == [50, 51, 52, 53, 54]

    on_site(scene, lives, replace(OPEN, most_connecting=2), hold=True)


def test_a_refused_leaf_holds_up_no_other() -> None:
    """Who is refused tries again, after minutes in the end, with the reason in its status; others deliver."""

    async def scene(site: Site) -> None:
        for queue in site.queues:
            await queue.measure()
        await asyncio.sleep(3600)
        assert site.states() == ["faulty", "idle"]
        assert "wrong key" in site.sessions.status("s0").delivery.fault
        attempts_s = site.hubs[0].attempts_at_s
        assert 150 <= attempts_s[-1] - attempts_s[-2] <= 301
        assert len(attempts_s) < 30
        sums = site.sessions.sums()
        assert (sums.leaves, sums.sessions, sums.messages, sums.records) == (2, 1, 1, 1)

    on_site(scene, [[Life(Fate.REFUSED)] * 100, []])


def test_who_was_idle_longest_gives_way() -> None:
    """If all places are taken, a session that is idle leaves for who has something to send; a busy one stays."""

    async def scene(site: Site) -> None:
        for number in (0, 1):
            await site.queues[number].measure()
            await asyncio.sleep(2)
        await site.queues[2].measure()
        await asyncio.sleep(2)
        assert site.connected() == [1, 2]
        await site.queues[0].measure()
        await asyncio.sleep(2)
        assert site.connected() == [0, 2]

    on_site(scene, [[], [], []], LeafLimits(most_sessions=2))


def test_a_held_leaf_gives_way_and_comes_back_to_a_free_place() -> None:
    """Held leaves beyond the cap wait; who has something to send has its place, and nobody is chased about for it."""

    async def scene(site: Site) -> None:
        await asyncio.sleep(600)
        assert len(site.connected()) == 2
        assert sum(len(hub.attempts_at_s) for hub in site.hubs) == 2
        waiting = next(number for number in range(4) if number not in site.connected())
        await site.queues[waiting].measure()
        await asyncio.sleep(600)
        assert waiting in site.connected()
        assert len(site.connected()) == 2
        assert sum(len(hub.attempts_at_s) for hub in site.hubs) == 3

    on_site(scene, [[]] * 4, LeafLimits(most_sessions=2), hold=True)


def test_busy_leaves_take_turns() -> None:
    """With more busy leaves than places each has its turn, and all is delivered, once and in order."""

    async def scene(site: Site) -> None:
        for queue in site.queues:
            await queue.measure(1500)
        await asyncio.sleep(60)
        assert all(hub.confirmed for hub in site.hubs)
        await asyncio.sleep(300)
        for hub in site.hubs:
            assert len(hub.attempts_at_s) > 1
            assert len(hub.confirmed) == 300
            assert len({message.id for message in hub.arrived}) == len(hub.arrived)

    slow = Life(Fate.NEVER, confirm_after_s=0.5)
    on_site(scene, [[slow] * 50 for _ in range(4)], LeafLimits(most_sessions=1, turn_s=5))


def test_all_deliver_through_few_places() -> None:
    """Fifty leaves with twenty places deliver all they have, and never more than twenty are connected."""

    async def scene(site: Site) -> None:
        most = 0
        for _ in range(3):
            for queue in site.queues:
                await queue.measure(7)
            while any(queue.has_queued for queue in site.queues):
                await asyncio.sleep(0.05)
                most = max(most, len(site.connected()))
        assert most == 20
        sums = site.sessions.sums()
        assert (sums.records, sums.leaves) == (50 * 21, 50)

    on_site(scene, [[]] * 50, LeafLimits(most_sessions=20, connects_per_s=1e6))


class SlowHub(SimulatedHub):
    """A hub that is a long way off."""

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        await asyncio.sleep(1000)
        async with super().connect(downlink) as session:
            yield session


@pytest.mark.parametrize("after_s", [0.5, 5, 1001])
def test_all_end_at_once_whatever_they_wait_for(after_s: float) -> None:
    """A gateway that stops while leaves connect and others wait for their places stops without an error."""

    async def main() -> None:
        async with AsyncExitStack() as resources:
            queues = [await resources.enter_async_context(LeafBuffer(f"s{number}")) for number in range(6)]
            downlink = RecordingDownlink(lambda _: CommandResult(CommandStatus.ACKNOWLEDGED)).downlink()
            leaves = [Leaf(f"s{number}", SlowHub(), queue, downlink) for number, queue in enumerate(queues)]
            limits = LeafLimits(most_sessions=2, most_connecting=1, connects_per_s=1)
            running = asyncio.create_task(LeafSessions(leaves, DELIVERY, limits, random.Random(1)).run())
            for queue in queues:
                await queue.measure()
            await asyncio.sleep(after_s)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    run_virtual(main())
