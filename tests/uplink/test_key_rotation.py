"""Keys change while messages flow, at the hub and here, in any order: no message is lost, and all arrive in order."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import SystemClock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import MOST_GENERATIONS, Generations, generation_name
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.offload import run_inline
from edge_gateway.provisioning.symmetric_keys import keep_generation, signing_with
from edge_gateway.records import Reading
from edge_gateway.testbench import DeliveryAccount, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.cloud.identity import IdentityName, SymmetricKeys
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.uplink import Uplink
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.sas import sas_token
from edge_gateway.uplink.tls import client_context
from tests.log_events import log_events

from .far_sides import GATEWAY, TIME_LIMIT_S, RecordingDownlink

KEY = "own"
DELIVERY = DeliverySettings(
    in_flight=8, confirm_timeout_s=5, keep_alive_s=5, connect_timeout_s=10, retry_first_s=0.05, retry_most_s=0.2
)


class Plant:
    """A gateway that sends, its key store, and its hub."""

    def __init__(
        self, hub: LocalHub, store: SoftwareKeyStore, buffer: DurableBuffer, make: Callable[[Keyring], Delivery]
    ) -> None:
        self.hub = hub
        self.store = store
        self.buffer = buffer
        self.appended = 0
        self._make = make
        self._begin()

    def _begin(self) -> None:
        self.keyring = Keyring(self.store, look_every_s=0.05)
        self.delivery = self._make(self.keyring)
        self.delivering = asyncio.create_task(self.delivery.run())

    async def restart(self) -> None:
        """As after a crash: what was learned of keys is forgotten, and what was not confirmed is sent again."""
        await self.stop()
        self.buffer.rewind()
        self._begin()

    async def stop(self) -> None:
        self.delivering.cancel()
        await asyncio.gather(self.delivering, return_exceptions=True)

    # What somebody does.

    def regenerate(self, which: str) -> str:
        """A new primary or secondary key at the hub, whose sessions go on, as IoT Hub has it."""
        key = self.hub.new_key()
        identity = self.hub.identity(GATEWAY)
        assert isinstance(identity.authentication, SymmetricKeys)
        keys = replace(identity.authentication, **{which: key})
        self.hub.registry.update(replace(identity, authentication=keys))
        return key

    def drop(self) -> None:
        self.hub.drop_connections(GATEWAY)

    async def bring(self, key: str) -> str:
        """The key into the store, as `keys rotate` does."""
        return await asyncio.to_thread(keep_generation, self.store, KEY, Secret(base64.b64decode(key)))

    # What is seen.

    def generations(self) -> list[int]:
        return Generations(self.store.names()).of(KEY)[::-1]

    def admitted(self) -> set[str]:
        """The keys in the store that the hub would take now."""
        taken = set()
        for number in self.generations():
            stored = generation_name(KEY, number)
            try:
                token = sas_token(self.store, stored, f"{self.hub.host_name}/devices/{GATEWAY}", 4_000_000_000)
                self.hub.admit_device(IdentityName(GATEWAY), token=token)
            except (AccessDenied, KeyStoreError):  # the latter if it is just destroyed
                continue
            taken.add(stored)
        return taken

    @property
    def in_use(self) -> str | None:
        return self.keyring.key(KEY).in_use

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIME_LIMIT_S):
            while not condition():  # noqa: ASYNC110  # what is waited for is in the store, the log and the hub
                await asyncio.sleep(0.005)

    async def flows(self, messages: int = 5) -> None:
        """Wait until so many more have been confirmed."""
        goal = self.delivery.status.messages + messages
        await self.until(lambda: self.delivery.status.messages >= goal)

    async def goes_over(self, stored: str) -> None:
        """Wait until the gateway sends by this key."""
        await self.until(lambda: self.in_use == stored)
        await self.flows()

    def judge(self) -> DeliveryAccount:
        account = DeliveryAccount(first_seq=1)
        for message in self.hub.messages:
            account.add(message)
        assert account.faults() == []
        return account


def make_uplink(
    sdk: bool, hub: LocalHub, ca_file: Path, store: SoftwareKeyStore, keyring: Keyring, threads: ThreadPoolExecutor
) -> Uplink:
    clock = SystemClock()
    if sdk:
        settings = IotHubUplink(host_name=hub.host_name, device_id=GATEWAY, key=KEY, ca_file=ca_file)
        return IotHub(settings, DELIVERY, key_store=store, clock=clock, keyring=keyring)
    return HubDevice(
        hub.host_name,
        GATEWAY,
        KEY,
        DELIVERY,
        key_store=store,
        clock=clock,
        rng=random.Random(5),
        tls=client_context(ca_file, None, None),
        threads=threads,
        keyring=keyring,
    )


@asynccontextmanager
async def sending(
    sdk: bool, authority: LocalAuthority, directory: Path, gateway: RecordingDownlink
) -> AsyncIterator[Plant]:
    """A gateway under load, whose first key is the hub's primary. In the end all has arrived, or the test fails."""
    ca_file = directory / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    store = SoftwareKeyStore(directory / "keys")
    threads = ThreadPoolExecutor(2)
    address = free_loopback_address(random.Random())  # not seeded: several runs may share the machine
    async with LocalHub(authority=authority, address=address, rng=random.Random(1)) as hub:
        store.put(KEY, Secret(base64.b64decode(hub.add_device(GATEWAY).primary_key)))
        bench_store = open_bench_store(":memory:", BufferSettings(max_message_age_s=0, max_records_per_message=5))
        async with DurableBuffer(bench_store, settle_within_s=0.05, commit_within_s=0.01, offload=run_inline) as buffer:

            def make(keyring: Keyring) -> Delivery:
                uplink = make_uplink(sdk, hub, ca_file, store, keyring, threads)
                return Delivery(uplink, buffer, gateway.downlink(), DELIVERY, random.Random(2))

            plant = Plant(hub, store, buffer, make)

            stopping = asyncio.Event()

            async def load() -> None:
                while not stopping.is_set():  # cancelled, it might have appended what it has not counted
                    await buffer.append(Batch([Reading("a", "climate", 0, {})]))
                    plant.appended += 1
                    await asyncio.sleep(0.002)

            loading = asyncio.create_task(load())
            try:
                await plant.flows()
                yield plant
                await plant.flows()
                stopping.set()
                await loading
                await plant.until(lambda: sum(plant.judge().records.values()) >= plant.appended)
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
                await plant.stop()
                threads.shutdown()
        account = plant.judge()
        assert sum(account.records.values()) == plant.appended
        assert account.repeated_records == []


@pytest.fixture(params=[True, False], ids=["sdk", "no-sdk"])
async def plant(
    request: pytest.FixtureRequest, authority: LocalAuthority, tmp_path: Path, gateway: RecordingDownlink
) -> AsyncIterator[Plant]:
    async with sending(request.param, authority, tmp_path, gateway) as plant:
        yield plant


async def test_a_key_that_the_hub_has_is_used_within_seconds(plant: Plant) -> None:
    """The hub's secondary key, brought while messages flow: the session ends as planned and goes on by the new key."""
    with log_events() as events:
        new = await plant.bring(plant.hub.identity(GATEWAY).secondary_key)
        await plant.goes_over(new)
    names = [each["event"] for each in events]
    assert "uplink.disconnected" not in names
    assert [each["reason"] for each in events if each["event"] == "uplink.closed"] == ["there is a newer key"]
    assert plant.judge().repeated_messages == 0
    assert plant.hub.door.statistics.denied == 0
    assert plant.generations() == [1, 2]  # the predecessor stays


async def test_the_key_here_first_and_then_the_hub(plant: Plant) -> None:
    """A key that the hub does not know yet is refused, and the old one used on; when the hub has it, the new one is."""
    key = base64.b64encode(random.Random(7).randbytes(32)).decode()
    new = await plant.bring(key)
    await plant.until(lambda: plant.keyring.key(KEY).refused == [new])
    await plant.flows()
    assert plant.in_use == KEY
    identity = plant.hub.identity(GATEWAY)
    assert isinstance(identity.authentication, SymmetricKeys)
    keys = SymmetricKeys(key, plant.hub.new_key())
    plant.hub.registry.update(replace(identity, authentication=keys))
    await plant.flows()
    plant.drop()
    await plant.goes_over(new)
    assert plant.generations() == [1, 2]


async def test_the_hub_first_and_then_the_key_here(plant: Plant) -> None:
    """What the gateway cannot send, as its key is no more at the hub, it sends when the new one is brought."""
    plant.hub.rotate_keys(GATEWAY)
    await plant.until(lambda: "refuses this device or its key" in plant.delivery.status.fault)
    assert plant.admitted() == set()
    await plant.goes_over(await plant.bring(plant.hub.identity(GATEWAY).primary_key))


async def test_a_wrong_key_costs_one_attempt(plant: Plant) -> None:
    """It is tried once and not again; sessions come up by the old key at once, without a pause."""
    with log_events() as events:
        wrong = await plant.bring(plant.hub.new_key())
        await plant.until(lambda: plant.keyring.key(KEY).refused == [wrong])
        await plant.flows()
        plant.drop()
        await plant.flows(20)
    assert plant.in_use == KEY
    assert plant.hub.door.statistics.denied == 1
    assert [each["event"] for each in events].count("uplink.key_refused") == 1
    right = await plant.bring(plant.hub.identity(GATEWAY).secondary_key)
    await plant.goes_over(right)
    assert plant.generations() == [1, 3]  # the wrong one is gone, the last that worked is not


async def test_a_new_key_that_is_damaged(plant: Plant, tmp_path: Path) -> None:
    """What the store cannot sign with is passed over like a key that the hub refuses."""
    damaged = generation_name(KEY, 2)
    (tmp_path / "keys" / f"{damaged}.key").write_bytes(b"half a key")
    (tmp_path / "keys" / f"{damaged}.key").chmod(0o600)
    await plant.until(lambda: plant.keyring.key(KEY).refused == [damaged])
    await plant.flows()
    assert plant.in_use == KEY
    assert plant.hub.door.statistics.denied == 0


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_changes(plant: Plant, seed: int) -> None:
    """Whatever is done in whatever order: a key that the hub takes is never destroyed for one that it refuses."""
    rng = random.Random(seed)
    for _ in range(12):
        admitted = plant.admitted()
        crowded = len(plant.generations()) > MOST_GENERATIONS - 3  # nobody brings more who sees that none is taken
        match rng.randrange(4, 7) if crowded else rng.randrange(7):
            case 0 | 1:  # as one should: the key that is not in use is changed, and brought
                in_use = await asyncio.to_thread(plant.store.sign, plant.in_use or KEY, b"x")
                secondary = Secret(base64.b64decode(plant.hub.identity(GATEWAY).secondary_key))
                is_primary = in_use != signing_with(secondary)(b"x")
                await plant.bring(plant.regenerate("secondary" if is_primary else "primary"))
            case 2:
                await plant.bring(plant.hub.new_key())
            case 3:
                await plant.bring(plant.hub.identity(GATEWAY).primary_key)
            case 4:
                plant.drop()
            case 5:
                await plant.restart()
            case 6:
                await asyncio.sleep(rng.random() * 0.2)
        await plant.flows(rng.randrange(4))
        assert not admitted or plant.admitted()
    await plant.goes_over(await plant.bring(plant.hub.identity(GATEWAY).primary_key))
