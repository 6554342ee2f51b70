"""Fifty sensors with identities of their own at a hub that speaks as IoT Hub does, over TLS."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from edge_gateway.clock import SystemClock
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.keystore import Secret
from edge_gateway.testbench import DeliveryAccount, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.uplink.hub_commands import HubCommands
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafSessions
from edge_gateway.uplink.tls import client_context

from .far_sides import TIME_LIMIT_S, RecordingDownlink
from .leaf_queue import LeafBuffer
from .memory_keys import MemoryKeys

LEAVES = 50
DELIVERY = DeliverySettings(in_flight=4, connect_timeout_s=5, retry_first_s=0.2, retry_most_s=1)


def name(number: int) -> str:
    return f"sensor-{number}"


class Leaves:
    """The sensors' sessions, and the hub."""

    def __init__(self, hub: LocalHub, sessions: LeafSessions, queues: list[LeafBuffer], keys: MemoryKeys) -> None:
        self.hub = hub
        self.sessions = sessions
        self.queues = queues
        self.keys = keys

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds at the hub."""
        async with asyncio.timeout(TIME_LIMIT_S):
            await self.hub.until(condition)

    def connected(self) -> int:
        return sum(self.hub.is_connected(each) for each in self.hub.device_ids)

    def account(self) -> DeliveryAccount:
        """Of what is at the hub; each message has its own device's records only."""
        account = DeliveryAccount(first_seq=1)
        for message in self.hub.messages:
            assert f'"device":"{message.device_id}"'.encode() in message.body
            account.add(message)
        assert account.faults() == []
        return account

    def records(self) -> int:
        """At the hub, repeats left out."""
        return sum(self.account().records.values())


@pytest.fixture
async def hub(authority: LocalAuthority) -> AsyncIterator[LocalHub]:
    address = free_loopback_address(random.Random())  # not seeded: several runs may share the machine
    async with LocalHub(authority=authority, address=address, port=0, rng=random.Random(1)) as hub:
        for number in range(LEAVES):
            hub.add_device(name(number))
        yield hub


@asynccontextmanager
async def running(
    hub: LocalHub,
    authority: LocalAuthority,
    directory: Path,
    gateway: RecordingDownlink,
    limits: LeafLimits,
    *,
    hold: bool = False,
    token_lifetime_s: int = 3600,
) -> AsyncIterator[Leaves]:
    keys = MemoryKeys()
    (directory / "ca.pem").write_text(authority.ca_pem)
    tls = client_context(directory / "ca.pem", None, None)
    rng = random.Random(3)
    async with AsyncExitStack() as resources:
        threads = ThreadPoolExecutor(limits.most_connecting)
        resources.callback(threads.shutdown, wait=False)
        leaves, queues = [], []
        for number in range(LEAVES):
            device = name(number)
            keys.put(device, Secret(base64.b64decode(hub.identity(device).primary_key)))
            uplink = HubDevice(
                hub.host_name,
                device,
                device,
                DELIVERY,
                key_store=keys,
                clock=SystemClock(),
                rng=rng,
                tls=tls,
                threads=threads,
                commands=HubCommands(device, ["ping"]),
                port=hub.port,
                token_lifetime_s=token_lifetime_s,
            )
            queue = await resources.enter_async_context(LeafBuffer(device))
            queues.append(queue)
            leaves.append(Leaf(device, uplink, queue, gateway.downlink(), hold=hold))
        sessions = LeafSessions(leaves, DELIVERY, limits, rng)
        task = asyncio.create_task(sessions.run())
        try:
            yield Leaves(hub, sessions, queues, keys)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_each_sends_under_its_identity_and_bad_ones_hold_up_nobody(
    hub: LocalHub, authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink
) -> None:
    """With one identity disabled and one key wrong, the others deliver and are commanded; the two say what to do."""
    hub.set_enabled(name(7), False)
    limits = LeafLimits(connects_per_s=1000)
    async with running(hub, authority, tmp_path, gateway, limits, hold=True) as leaves:
        leaves.keys.put(name(9), Secret(bytes(32)))
        for queue in leaves.queues:
            await queue.measure(12)
        await leaves.until(lambda: leaves.records() == 12 * (LEAVES - 2))
        assert set(leaves.account().records.values()) == {12}
        for number in (7, 9):
            status = leaves.sessions.status(name(number))
            assert status.state == "faulty"
            assert "that the device is enabled, the key" in status.delivery.fault
        response = await hub.invoke_method(name(3), "ping")
        assert response.status == 200
        hub.set_enabled(name(7), True)
        leaves.keys.put(name(9), Secret(base64.b64decode(hub.identity(name(9)).primary_key)))
        await leaves.until(lambda: leaves.records() == 12 * LEAVES)
        assert leaves.sessions.sums().states == {"connected": LEAVES}
    assert [command.device for command in gateway.commands] == [name(3)]
    assert hub.statistics.taken_over == 0


async def test_a_hub_that_comes_back_sees_no_burst(
    hub: LocalHub, authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink
) -> None:
    """After an outage all connect again, no more in any second than was agreed, and nothing is lost."""
    limits = LeafLimits(connects_per_s=40)
    loop = asyncio.get_running_loop()
    async with running(hub, authority, tmp_path, gateway, limits, hold=True) as leaves:
        await leaves.until(lambda: leaves.connected() == LEAVES)
        hub.refuse(True)
        hub.drop_connections()
        for queue in leaves.queues:
            await queue.measure(3)
        await leaves.until(lambda: leaves.connected() == 0)
        await asyncio.sleep(0.5)
        hub.refuse(False)
        before = hub.statistics.connections
        seen_at_s: list[float] = []
        while (count := hub.statistics.connections - before) < LEAVES:
            seen_at_s += [loop.time()] * (count - len(seen_at_s))
            async with asyncio.timeout(TIME_LIMIT_S):
                await hub.change()
        for first_s in seen_at_s:
            assert sum(first_s <= at_s < first_s + 0.5 for at_s in seen_at_s) <= 20 + limits.most_connecting
        await leaves.until(lambda: leaves.records() == 3 * LEAVES)


async def test_fifty_deliver_through_twenty_sessions(
    hub: LocalHub, authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink
) -> None:
    """With fewer places than leaves all deliver, and the hub never sees more sessions than agreed."""
    limits = LeafLimits(most_sessions=20, connects_per_s=1000)
    most = 0
    async with running(hub, authority, tmp_path, gateway, limits) as leaves:
        for queue in leaves.queues:
            await queue.measure(6)

        def all_there() -> bool:
            nonlocal most
            most = max(most, leaves.connected())
            return leaves.records() == 6 * LEAVES

        await leaves.until(all_there)
        assert most == 20
        assert hub.statistics.connections == LEAVES


async def test_all_tokens_are_renewed(
    hub: LocalHub, authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink
) -> None:
    """Each token is renewed before it ends, at a moment of its own, while readings flow; none is lost or repeated."""
    limits = LeafLimits(connects_per_s=1000)
    async with running(hub, authority, tmp_path, gateway, limits, hold=True, token_lifetime_s=2) as leaves:
        await leaves.until(lambda: leaves.connected() == LEAVES)
        measured = 0
        while any(leaves.keys.signed.count(name(number)) < 2 for number in range(LEAVES)):
            for queue in leaves.queues:
                await queue.measure()
            measured += 1
            await asyncio.sleep(0.1)
        await leaves.until(lambda: leaves.records() == measured * LEAVES)
        assert leaves.account().repeated_messages == 0
    assert (hub.statistics.taken_over, hub.door.statistics.denied) == (0, 0)
