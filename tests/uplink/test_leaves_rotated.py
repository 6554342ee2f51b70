"""The keys of many sensors change at once: all go over, as planned, and no reading is lost or repeated."""

from __future__ import annotations

import asyncio
import base64
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

from edge_gateway.clock import SystemClock
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import Generations
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.symmetric_keys import keep_generation
from edge_gateway.testbench import DeliveryAccount, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafSessions
from edge_gateway.uplink.tls import client_context
from tests.log_events import log_events

from .far_sides import TIME_LIMIT_S, RecordingDownlink
from .leaf_queue import LeafBuffer

LEAVES = [f"sensor-{number}" for number in range(30)]
DELIVERY = DeliverySettings(in_flight=4, connect_timeout_s=5, retry_first_s=0.2, retry_most_s=1)


async def test_all_keys_at_once(authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink) -> None:
    """Thirty sensors are given their secondary keys in one moment, while each measures."""
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    tls = client_context(tmp_path / "ca.pem", None, None)
    store = SoftwareKeyStore(tmp_path / "keys")
    rng = random.Random(3)
    limits = LeafLimits(connects_per_s=1000)
    address = free_loopback_address(random.Random())  # not seeded: several runs may share the machine
    async with AsyncExitStack() as resources:
        hub = await resources.enter_async_context(
            LocalHub(authority=authority, address=address, port=0, rng=random.Random(1))
        )
        threads = ThreadPoolExecutor(limits.most_connecting)
        resources.callback(threads.shutdown, wait=False)
        keyring = Keyring(store, threads=threads, look_every_s=0.1, moves_per_s=20)
        leaves, queues = [], []
        for device in LEAVES:
            store.put(device, Secret(base64.b64decode(hub.add_device(device).primary_key)))
            uplink = HubDevice(
                hub.host_name,
                device,
                device,
                DELIVERY,
                key_store=store,
                clock=SystemClock(),
                rng=rng,
                tls=tls,
                threads=threads,
                port=hub.port,
                keyring=keyring,
            )
            queues.append(await resources.enter_async_context(LeafBuffer(device)))
            leaves.append(Leaf(device, uplink, queues[-1], gateway.downlink(), hold=True))
        sessions = asyncio.create_task(LeafSessions(leaves, DELIVERY, limits, rng).run())

        def records() -> int:
            account = DeliveryAccount(first_seq=1)
            for message in hub.messages:
                account.add(message)
            assert account.faults() == []
            assert account.repeated_messages == 0
            return sum(account.records.values())

        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                await hub.until(lambda: all(map(hub.is_connected, LEAVES)))
                with log_events() as events:
                    for device in LEAVES:
                        key = Secret(base64.b64decode(hub.identity(device).secondary_key))
                        await asyncio.to_thread(keep_generation, store, device, key)
                    measured = 0
                    while any(keyring.key(device).in_use == device for device in LEAVES):
                        for queue in queues:
                            await queue.measure()
                        measured += 1
                        await asyncio.sleep(0.05)
                await hub.until(lambda: records() == measured * len(LEAVES))
        finally:
            sessions.cancel()
            await asyncio.gather(sessions, return_exceptions=True)
        names = [each["event"] for each in events]
        assert names.count("uplink.closed") == len(LEAVES)
        assert "uplink.disconnected" not in names
        assert hub.door.statistics.denied == 0
        generations = Generations(store.names())
        assert all(generations.of(device) == [2, 1] for device in LEAVES)
