"""Clients nobody here wrote, against the hub: the device SDK, aiomqtt, mosquitto's tools."""

from __future__ import annotations

import asyncio
import base64
import gc
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from azure.iot.device import Message, MethodResponse, exceptions
from azure.iot.device.aio import IoTHubDeviceClient

from edge_gateway.testbench import FaultProxy, LocalAuthority, LocalHub, ProxyMode, free_loopback_address

from .mqtt_client import ShiftedClock, soon

pytestmark = [
    # The SDK asks for TLS 1.2 by a constant that Python has deprecated.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning"),
    # After a lost or refused connection the SDK's MQTT client leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <(ssl\.SSLS|socket\.s)ocket:pytest.PytestUnraisableExceptionWarning"
    ),
]

TIME_LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def leaks_of_the_sdk() -> Iterator[None]:
    """Let sockets the SDK forgot be found within the test that ignores them, and not in a later one."""
    yield
    gc.collect()


@asynccontextmanager
async def sdk_client(client: Any) -> AsyncIterator[Any]:
    async with asyncio.timeout(TIME_LIMIT_S):
        try:
            yield client
        finally:
            await client.shutdown()


def symmetric_key_client(hub: LocalHub, authority: LocalAuthority, key: str) -> Any:
    return IoTHubDeviceClient.create_from_symmetric_key(
        key, hub.host_name, "dev", server_verification_cert=authority.ca_pem, connection_retry=False
    )


async def set_handler(client: Any, name: str, handler: Callable[[Any], Any]) -> None:
    """Set a handler from another thread: the SDK blocks until the hub, which lives in this one, has answered."""
    await asyncio.to_thread(setattr, client, name, handler)


class Inbox:
    """Hands what the SDK's threads receive to the test's event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> Any:
        return await self._queue.get()


async def test_sdk_everything(hub: LocalHub, authority: LocalAuthority) -> None:
    """The device SDK sends, receives, patches, is patched and answers methods."""
    device = hub.add_device("dev")
    async with sdk_client(symmetric_key_client(hub, authority, device.primary_key)) as client:
        await client.connect()

        message = Message('[{"a":1}]', content_encoding="utf-8", content_type="application/json")
        message.message_id = "id 1/2"
        message.custom_properties["key & name"] = "a=b+c d/é"
        await client.send_message(message)
        received = hub.messages[0]
        assert (received.device_id, received.message_id, received.body) == ("dev", "id 1/2", b'[{"a":1}]')
        assert received.properties == {"key & name": "a=b+c d/é"}
        assert received.system_properties["content-type"] == "application/json"
        assert received.system_properties["content-encoding"] == "utf-8"

        await client.patch_twin_reported_properties({"firmware": {"version": "1.0"}})
        assert hub.twin("dev").reported == {"firmware": {"version": "1.0"}}
        hub.patch_desired("dev", {"period_s": 5})
        assert await client.get_twin() == {
            "desired": {"period_s": 5, "$version": 2},
            "reported": {"firmware": {"version": "1.0"}, "$version": 2},
        }

        patches = Inbox()
        await set_handler(client, "on_twin_desired_properties_patch_received", patches.put)
        hub.patch_desired("dev", {"period_s": 7})
        assert await patches.get() == {"period_s": 7, "$version": 3}

        async def answer(request: Any) -> None:
            payload = {"name": request.name, "echo": request.payload}
            await client.send_method_response(MethodResponse.create_from_method_request(request, 201, payload))

        await set_handler(client, "on_method_request_received", answer)
        response = await hub.invoke_method("dev", "reboot", {"in_s": 5})
        assert response == (201, {"name": "reboot", "echo": {"in_s": 5}})

        commands = Inbox()
        await set_handler(client, "on_message_received", commands.put)
        sent = hub.send_c2d("dev", b"hello", {"a b": "c&d", "none": None}, message_id="m")
        command = await commands.get()
        assert (command.data, command.message_id) == (b"hello", "m")
        assert command.custom_properties == {"a b": "c&d", "none": None}
        await soon(sent.completed())

        with pytest.raises(exceptions.ClientError) as raised:
            await client.patch_twin_reported_properties({"not.allowed": 1})
        assert "status 400" in str(raised.value.__cause__)


async def test_sdk_with_a_token(hub: LocalHub, authority: LocalAuthority) -> None:
    """The SDK connects with a token somebody else made, and gets what was queued while it was away."""
    hub.add_device("dev")
    sent = hub.send_c2d("dev", b"queued")
    client = IoTHubDeviceClient.create_from_sastoken(
        hub.sas_token("dev"), server_verification_cert=authority.ca_pem, connection_retry=False
    )
    async with sdk_client(client):
        await client.connect()
        commands = Inbox()
        await set_handler(client, "on_message_received", commands.put)
        assert (await commands.get()).data == b"queued"
        await soon(sent.completed())


async def test_sdk_wrong_key(hub: LocalHub, authority: LocalAuthority) -> None:
    """A wrong key is a credential error at the device."""
    hub.add_device("dev")
    key = base64.b64encode(bytes(32)).decode()
    async with sdk_client(symmetric_key_client(hub, authority, key)) as client:
        with pytest.raises(exceptions.CredentialError):
            await client.connect()
    assert hub.door.statistics.denied == 1


async def test_sdk_expired_token(authority: LocalAuthority, address: str) -> None:
    """A token that has ended by the hub's clock is a credential error at the device."""
    async with LocalHub(authority=authority, address=address, clock=ShiftedClock(7200)) as hub:
        device = hub.add_device("dev")
        async with sdk_client(symmetric_key_client(hub, authority, device.primary_key)) as client:
            with pytest.raises(exceptions.CredentialError):
                await client.connect()


@pytest.mark.parametrize("fault", ["expired", "wrong-name", "other-authority"])
async def test_sdk_refuses_the_hub(authority: LocalAuthority, address: str, fault: str) -> None:
    """The SDK does not talk to a hub whose certificate is not in order."""
    signer = LocalAuthority() if fault == "other-authority" else authority
    name = "other.example" if fault == "wrong-name" else address
    certificate = signer.server_certificate([name], expired=fault == "expired")
    async with LocalHub(authority=authority, address=address, certificate=certificate) as hub:
        device = hub.add_device("dev")
        async with sdk_client(symmetric_key_client(hub, authority, device.primary_key)) as client:
            with pytest.raises(exceptions.ClientError, match="TLS"):
                await client.connect()
        assert hub.statistics.connections == 0


async def test_sdk_notices_the_loss(hub: LocalHub, authority: LocalAuthority) -> None:
    """A dropped connection is a disconnection at the device, which comes back by itself if it is told to."""
    device = hub.add_device("dev")
    async with sdk_client(symmetric_key_client(hub, authority, device.primary_key)) as client:
        await client.connect()
        changes = Inbox()
        client.on_connection_state_change = lambda: changes.put(client.connected)
        hub.drop_connections("dev")
        assert await changes.get() is False
        await client.connect()
        assert hub.is_connected("dev")


async def test_sdk_through_a_proxy(authority: LocalAuthority) -> None:
    """A hub named after a proxy's address is reached through it; what silence held back arrives once."""
    rng = random.Random()
    near, far = free_loopback_address(rng), free_loopback_address(rng)
    async with (
        LocalHub(authority=authority, address=far, host_name=near) as hub,
        FaultProxy(hub.address, hub.port, near, hub.port) as proxy,
    ):
        device = hub.add_device("dev")
        async with sdk_client(symmetric_key_client(hub, authority, device.primary_key)) as client:
            await client.send_message("1")
            proxy.mode = ProxyMode.SILENT
            sending = asyncio.create_task(client.send_message("2"))
            done, _ = await asyncio.wait([sending], timeout=0.1)
            assert not done
            assert hub.statistics.messages == 1
            proxy.mode = ProxyMode.PASS
            await sending
        assert [message.body for message in hub.messages] == [b"1", b"2"]
        assert proxy.connections == 1


@asynccontextmanager
async def aiomqtt_client(hub: LocalHub, authority: LocalAuthority, device_id: str) -> AsyncIterator[aiomqtt.Client]:
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        aiomqtt.Client(
            hub.address,
            hub.port,
            identifier=device_id,
            username=f"{hub.host_name}/{device_id}/?api-version=2021-04-12",
            password=hub.sas_token(device_id),
            tls_context=authority.client_context(),
            clean_session=True,
        ) as client,
    ):
        yield client


async def test_aiomqtt(hub: LocalHub, authority: LocalAuthority) -> None:
    """Aiomqtt publishes with confirmation and gets commands and desired properties."""
    hub.add_device("dev")
    async with aiomqtt_client(hub, authority, "dev") as client:
        await asyncio.gather(
            *(client.publish(f"devices/dev/messages/events/%24.mid={n}", b"x", qos=1) for n in range(20))
        )
        assert sorted(int(message.message_id or 0) for message in hub.messages) == list(range(20))
        await client.subscribe("devices/dev/messages/devicebound/#", qos=1)
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        sent = hub.send_c2d("dev", b"hello")
        assert (await anext(client.messages)).payload == b"hello"
        await soon(sent.completed())
        hub.patch_desired("dev", {"a": 1})
        assert (await anext(client.messages)).payload == b'{"a":1,"$version":2}'


async def test_aiomqtt_two_hubs(authority: LocalAuthority) -> None:
    """A hub with a name of its own and one by address run side by side."""
    rng = random.Random()
    async with (
        LocalHub(authority=authority, address=free_loopback_address(rng), host_name="hub.example") as named,
        LocalHub(authority=authority, address=free_loopback_address(rng)) as plain,
    ):
        for hub in (named, plain):
            hub.add_device("dev")
            async with aiomqtt_client(hub, authority, "dev") as client:
                await client.publish("devices/dev/messages/events/", qos=1)
        assert (named.statistics.messages, plain.statistics.messages) == (1, 1)


async def run_tool(name: str, hub: LocalHub, ca_file: Path, *arguments: str) -> tuple[int, bytes]:
    """Run a mosquitto client as device `dev`; its exit code and output."""
    tool = shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed (Debian package mosquitto-clients)")
    process = await asyncio.create_subprocess_exec(
        *(tool, "-V", "mqttv311", "-h", hub.address, "-p", str(hub.port), "--cafile", str(ca_file)),
        *("-i", "dev", "-u", f"{hub.host_name}/dev/?api-version=2021-04-12", "-P", hub.sas_token("dev")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIME_LIMIT_S):
        output, _ = await process.communicate()
    return process.returncode or 0, output


@pytest.fixture
def ca_file(authority: LocalAuthority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(authority.ca_pem)
    return path


async def test_mosquitto_pub(hub: LocalHub, ca_file: Path) -> None:
    """mosquitto_pub delivers a message with confirmation."""
    hub.add_device("dev")
    code, output = await run_tool(
        "mosquitto_pub", hub, ca_file, "-q", "1", "-t", "devices/dev/messages/events/a=b", "-m", "hello"
    )
    assert code == 0, output
    assert [(message.body, message.properties) for message in hub.messages] == [(b"hello", {"a": "b"})]


async def test_mosquitto_sub(hub: LocalHub, ca_file: Path) -> None:
    """mosquitto_sub gets a queued message."""
    hub.add_device("dev")
    sent = hub.send_c2d("dev", b"hello")
    code, output = await run_tool(
        "mosquitto_sub", hub, ca_file, "-q", "1", "-t", "devices/dev/messages/devicebound/#", "-C", "1"
    )
    assert (code, output) == (0, b"hello\n")
    await soon(sent.completed())


async def test_mosquitto_not_authorised(hub: LocalHub, ca_file: Path) -> None:
    """mosquitto_pub says that it is not authorised."""
    hub.add_device("dev")
    hub.set_enabled("dev", False)
    code, output = await run_tool("mosquitto_pub", hub, ca_file, "-t", "devices/dev/messages/events/", "-n")
    assert code == 5
    assert b"not authorised" in output
