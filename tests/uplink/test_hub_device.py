"""A hub session without the device SDK: its own token, twin and commands, and an edge hub as the parent."""

from __future__ import annotations

import asyncio
import base64
import random
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import SystemClock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import KeyStoreUnavailable, UplinkLost, UplinkRefused
from edge_gateway.keystore import Secret
from edge_gateway.offload import run_inline
from edge_gateway.records import Command, CommandResult, CommandStatus, Message, Reading, Value
from edge_gateway.testbench import (
    DeliveryAccount,
    DeliveryState,
    LocalAuthority,
    LocalHub,
    ProxyMode,
    free_loopback_address,
)
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.cloud.edge.deployment_manifest import parse_hub
from edge_gateway.testbench.cloud.edge.hub import EdgeHub
from edge_gateway.testbench.cloud.edge.upstream import Upstream
from edge_gateway.testbench.cloud.identity import HUB
from edge_gateway.uplink import Downlink, Uplink
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.hub_commands import HubCommands
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.tls import client_context
from tests.log_events import log_events

from .far_sides import (
    GATEWAY,
    QUICK,
    TIME_LIMIT_S,
    HubDeviceFarSide,
    RecordingDownlink,
    failure_to_connect,
    hub_device_far_side,
    soon,
)
from .memory_keys import MemoryKeys

BOILER = HubCommands("boiler", ["set-relay", "ping"])


@pytest.fixture
async def hub(authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[HubDeviceFarSide]:
    async with hub_device_far_side(authority, tmp_path) as far_side:
        yield far_side


@asynccontextmanager
async def listening(uplink: Uplink, downlink: Downlink) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.timeout(TIME_LIMIT_S), uplink.connect(downlink) as session:
        lost = asyncio.create_task(session.lost())
        try:
            yield lost
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)


# --- tokens --------------------------------------------------------------------------------------------------------


async def test_a_token_is_signed_off_the_event_loop(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """A key store that takes its time, as a TPM does, holds up nothing: it is asked in a thread, once a session."""
    threads: list[str] = []
    sign = hub.keys.sign

    def noting(name: str, data: bytes) -> bytes:
        threads.append(threading.current_thread().name)
        return sign(name, data)

    hub.keys.sign = noting  # type: ignore[method-assign]  # what is asked of it is what this looks at
    async with listening(hub.uplink(), gateway.downlink()):
        pass
    assert len(threads) == 1
    assert threads[0].startswith("hub-devices")


async def test_a_key_that_is_not_there_is_a_refusal(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """A missing key does not end the gateway: it is told, with the command that imports it, and tried again."""
    error = await soon(failure_to_connect(hub.uplink(key="none"), gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what == "there is no such key"
    assert "edge-gateway keys import none" in error.remedy


@pytest.mark.parametrize("device_id", ["pump#3", "pump+3"])
async def test_an_id_that_no_topic_can_have_is_a_refusal(
    hub: HubDeviceFarSide, gateway: RecordingDownlink, device_id: str
) -> None:
    """A hub may know a device so; it is refused here, and ends neither the gateway nor what others deliver."""
    identity = hub.hub.add_device(device_id)
    hub.keys.put("odd", Secret(base64.b64decode(identity.primary_key)))
    uplink = HubDevice(
        hub.hub.host_name,
        device_id,
        "odd",
        QUICK,
        key_store=hub.keys,
        clock=SystemClock(),
        rng=random.Random(1),
        tls=client_context(None, None, None),
        threads=hub.threads,
    )
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkRefused)
    assert "cannot connect by MQTT" in error.what


async def test_a_key_store_that_is_away_is_a_loss(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """A TPM that does not answer now is nobody's fault: the session is tried again as after a broken connection."""

    def away(name: str, data: bytes) -> bytes:
        raise KeyStoreUnavailable("the TPM does not answer", where="tpm")

    hub.keys.sign = away  # type: ignore[method-assign]  # a store that fails
    error = await soon(failure_to_connect(hub.uplink(), gateway))
    assert isinstance(error, UplinkLost)
    assert error.what == "the TPM does not answer"


async def test_tokens_are_renewed_before_they_end_and_nothing_is_lost(
    hub: HubDeviceFarSide, gateway: RecordingDownlink
) -> None:
    """Over several renewals all records arrive once and in order, and no connection is taken over or mourned."""
    store = open_bench_store(":memory:", BufferSettings(max_message_age_s=0, max_records_per_message=5))
    appended = 0
    with log_events() as events:
        async with (
            asyncio.timeout(TIME_LIMIT_S),
            DurableBuffer(store, settle_within_s=0.05, commit_within_s=0.01, offload=run_inline) as buffer,
            asyncio.TaskGroup() as group,
        ):
            uplink = hub.uplink(token_lifetime_s=1)
            delivery = Delivery(uplink, buffer, gateway.downlink(), QUICK, random.Random(2))
            delivering = group.create_task(delivery.run())
            while hub.hub.statistics.connections < 4:
                await buffer.append(Batch([Reading("a", "climate", 0, {})]))
                appended += 1
                await asyncio.sleep(0.002)
            await hub.hub.until(lambda: sum(each.body.count(b'"seq"') for each in hub.hub.messages) >= appended)
            delivering.cancel()
    account = DeliveryAccount(first_seq=1)
    for message in hub.hub.messages:
        account.add(message)
    assert account.faults() == []
    assert sum(account.records.values()) == appended
    assert account.repeated_messages == 0
    assert (hub.hub.statistics.taken_over, hub.hub.door.statistics.denied) == (0, 0)
    assert len(hub.keys.signed) == hub.hub.statistics.connections
    names = [each["event"] for each in events]
    assert names.count("uplink.closed") >= 3
    assert "uplink.disconnected" not in names


async def test_a_command_under_way_is_answered_before_a_renewal(
    hub: HubDeviceFarSide, gateway: RecordingDownlink
) -> None:
    """A session whose token is due for renewal waits for the command that a sensor is carrying out."""
    release = asyncio.Event()

    async def slow(command: Command) -> CommandResult:
        await release.wait()
        return CommandResult(CommandStatus.ACKNOWLEDGED)

    downlink = Downlink(slow, gateway.downlink().report_result, gateway.downlink().apply_desired, dict)
    async with listening(hub.uplink(token_lifetime_s=1), downlink) as lost:
        asking = asyncio.create_task(hub.hub.invoke_method(GATEWAY, "command", {"device": "a", "command": "ping"}))
        await asyncio.wait([lost], timeout=0.93)  # the lot falls between 0.7 and 0.9
        assert not lost.done()
        release.set()
        assert (await asking).status == 200
        with pytest.raises(BaseExceptionGroup) as caught:
            await lost
    assert caught.group_contains(UplinkLost, match="the token is about to end")


# --- the connection ------------------------------------------------------------------------------------------------


async def test_keep_alive_notices_a_silent_link(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """When the network goes silent and nothing is sent, the session is lost within some keep-alives."""
    delivery = QUICK.model_copy(update={"keep_alive_s": 1})
    loop = asyncio.get_running_loop()
    async with listening(hub.uplink(delivery=delivery), gateway.downlink()) as lost:
        hub.proxy.mode = ProxyMode.SILENT
        began_s = loop.time()
        await asyncio.wait([lost])
        assert loop.time() - began_s < 10
        assert isinstance(lost.exception(), BaseExceptionGroup)
    hub.proxy.mode = ProxyMode.PASS


async def test_a_hub_that_hangs_up_while_it_connects_is_noticed_at_once(
    hub: HubDeviceFarSide, gateway: RecordingDownlink
) -> None:
    """A connection that breaks before the hub has answered does not wait for the time-out."""
    hub.hub.freeze(True)
    loop = asyncio.get_running_loop()
    connecting = asyncio.create_task(failure_to_connect(hub.uplink(), gateway))
    await asyncio.wait([connecting], timeout=0.5)
    began_s = loop.time()
    hub.proxy.reset()
    assert isinstance(await soon(connecting), UplinkLost)
    assert loop.time() - began_s < 2
    hub.hub.freeze(False)


async def test_a_message_from_the_cloud_waits_for_the_device(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """What is sent while a session is replaced reaches the next one, before it has asked for anything."""
    async with listening(hub.uplink(), gateway.downlink()):
        pass
    await soon(hub.hub.until(lambda: not hub.hub.is_connected(GATEWAY)))
    message = hub.hub.send_c2d(GATEWAY, b'{"device": "a", "command": "ping"}')
    assert message.state is DeliveryState.QUEUED
    async with listening(hub.uplink(), gateway.downlink()):
        await gateway.until(lambda: bool(gateway.results))


# --- a sensor's own identity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "payload"),
    [
        ("set-relay", {"state": 1}),
        ("command", {"command": "set-relay", "arguments": {"state": 1}}),
        ("command", {"device": "boiler", "command": "set-relay", "arguments": {"state": 1}}),
    ],
)
async def test_a_method_is_a_command_of_the_sensor(
    hub: HubDeviceFarSide, gateway: RecordingDownlink, method: str, payload: dict[str, object]
) -> None:
    """A method by a command's name, or the generic one with or without the device, reaches this sensor."""
    async with listening(hub.uplink(commands=BOILER), gateway.downlink()):
        response = await hub.hub.invoke_method(GATEWAY, method, payload)  # type: ignore[arg-type]  # JSON
    assert response == (200, {"status": "acknowledged", "detail": "", "answer": {"echo": "set-relay"}})
    (command,) = gateway.commands
    assert (command.device, command.name, command.arguments, command.source) == (
        "boiler",
        "set-relay",
        {"state": 1},
        "method",
    )


async def test_a_method_without_a_payload_has_no_arguments(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """A command that takes no arguments is called with nothing."""
    async with listening(hub.uplink(commands=BOILER), gateway.downlink()):
        assert (await hub.hub.invoke_method(GATEWAY, "ping", None)).status == 200
    assert gateway.commands[0].arguments == {}


@pytest.mark.parametrize(
    ("method", "payload", "status", "detail"),
    [
        (
            "command",
            {"device": "pump", "command": "ping"},
            400,
            "command: is for 'pump', and this is the identity of 'boiler'",
        ),
        ("command", {"device": 5, "command": "ping"}, 400, "command: is for '5', and this is"),
        ("command", [1], 400, "command: is not a JSON object"),
        ("ping", [1], 400, "ping: has a payload that is no JSON object"),
        ("reboot", {}, 404, "there is the method 'command', 'ping', 'set-relay'"),
    ],
)
async def test_what_is_not_for_this_sensor_is_refused(
    hub: HubDeviceFarSide,
    gateway: RecordingDownlink,
    method: str,
    payload: object,
    status: int,
    detail: str,
) -> None:
    """Whoever asks a sensor's identity for another device, or for what it has not, is told; nobody is commanded."""
    async with listening(hub.uplink(commands=BOILER), gateway.downlink()):
        response = await hub.hub.invoke_method(GATEWAY, method, payload)  # type: ignore[arg-type]  # JSON of any kind
    assert response.status == status
    assert isinstance(response.payload, dict)
    assert response.payload["status"] == "invalid"
    assert str(response.payload["detail"]).startswith(detail)
    assert gateway.commands == []


async def test_a_message_from_the_cloud_goes_to_the_sensor(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """A cloud-to-device message to a sensor's identity is a command to that sensor, which need not be named."""
    async with listening(hub.uplink(commands=BOILER), gateway.downlink()):
        hub.hub.send_c2d(GATEWAY, b'{"command": "ping"}', message_id="m 1+1")
        await gateway.until(lambda: bool(gateway.results))
    ((command, _),) = gateway.results
    assert (command.device, command.name, command.correlation_id) == ("boiler", "ping", "m 1+1")


# --- twin ----------------------------------------------------------------------------------------------------------


async def test_a_change_that_was_missed_is_fetched(hub: HubDeviceFarSide, gateway: RecordingDownlink) -> None:
    """When a version is missing between two changes, the whole document is asked for and handed on."""
    async with listening(hub.uplink(), gateway.downlink()):
        await gateway.until(lambda: len(gateway.desired) == 1)
        hub.hub.twin(GATEWAY).patch_desired({"missed": 1})  # the hub tells nobody
        hub.hub.patch_desired(GATEWAY, {"other": 2})
        await gateway.until(lambda: len(gateway.desired) == 2)
        hub.hub.patch_desired(GATEWAY, {"third": 3})
        await gateway.until(lambda: len(gateway.desired) == 3)
    assert gateway.desired[1:] == [
        ({"missed": 1, "other": 2, "$version": 3}, True),
        ({"third": 3, "$version": 4}, False),
    ]


# --- through a parent ----------------------------------------------------------------------------------------------


class Parent:
    """An edge hub with one device behind it."""

    def __init__(self, hub: LocalHub, edge: EdgeHub, threads: ThreadPoolExecutor, ca_file: Path) -> None:
        self.hub = hub
        self.edge = edge
        keys = MemoryKeys()
        keys.put("leaf", Secret(base64.b64decode(hub.identity("leaf").primary_key)))
        self.uplink = HubDevice(
            hub.host_name,
            "leaf",
            "leaf",
            QUICK,
            key_store=keys,
            clock=SystemClock(),
            rng=random.Random(5),
            tls=client_context(ca_file, None, None),
            threads=threads,
            commands=BOILER,
            gateway_host_name=edge.host_name,
            port=edge.door.ports()["mqtt"],
            report_every_s=0.02,
        )


@pytest.fixture
async def parent(authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[Parent]:
    rng = random.Random()  # not seeded: several runs may share the machine
    configuration: dict[str, Value] = {
        "schemaVersion": "1.1",
        "routes": {"up": "FROM /messages/* INTO $upstream"},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 7200},
    }
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    threads = ThreadPoolExecutor(2)
    async with LocalHub(authority=authority, address=free_loopback_address(rng), port=0) as hub:
        hub.add_device("edge", edge=True)
        hub.add_module("edge", HUB)
        hub.add_device("leaf", scope=hub.identity("edge").scope)
        hub.replace_desired("edge", configuration, HUB)
        async with EdgeHub(
            Upstream(hub, SystemClock()),
            "edge",
            parse_hub(configuration),
            authority=authority.intermediate("edge CA"),
            address=free_loopback_address(rng),
            mqtt_port=0,
            https_port=None,
            reported_sync_s=0.0,
        ) as edge:
            yield Parent(hub, edge, threads, tmp_path / "ca.pem")
    threads.shutdown(wait=False)


async def test_everything_goes_through_a_parent(parent: Parent, gateway: RecordingDownlink) -> None:
    """Behind an edge hub, messages, commands and the twin go as without one, under the device's own identity."""
    parent.hub.patch_desired("leaf", {"rate": 1})
    gateway.to_report = {"firmware": "1.2"}
    async with asyncio.timeout(TIME_LIMIT_S), parent.uplink.connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        await session.send(Message("5eed-n1", "normal", 1, 1, b"[]"))
        await parent.hub.until(lambda: len(parent.hub.messages) == 1)
        await gateway.until(lambda: bool(gateway.desired))
        await parent.hub.until(lambda: parent.hub.twin("leaf").reported == {"firmware": "1.2"})
        response = await parent.hub.invoke_method("leaf", "ping", None, connect_timeout_s=5)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    (message,) = parent.hub.messages
    assert (message.device_id, message.message_id, message.properties) == ("leaf", "5eed-n1", {"lane": "normal"})
    assert gateway.desired[0][0]["rate"] == 1
    assert response.status == 200
    assert parent.uplink.endpoint == f"mqtts://{parent.edge.host_name}/leaf"


async def test_a_parent_that_is_full_is_a_loss(parent: Parent, gateway: RecordingDownlink) -> None:
    """A hub that says it is not available now has refused nobody: the session is tried again."""
    parent.edge.max_clients = 0
    error = await soon(failure_to_connect(parent.uplink, gateway))
    assert isinstance(error, UplinkLost)
    assert error.what == "the hub is not available now"
