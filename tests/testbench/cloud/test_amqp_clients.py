"""The official service SDKs, unmodified, against the hub's AMQP: Python's and Node's, told a host and a CA only."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.amqp import AmqpEndpoint
from edge_gateway.testbench.cloud.front_door import AMQP_PORT
from edge_gateway.testbench.cloud.storage.blob_store import FileNotification

from .mqtt_client import soon

TIME_LIMIT_S = 30.0
NODE_SCRIPT = Path(__file__).with_name("test_amqp_node.js")
NODE_PACKAGES = ("azure-iothub@1.16.6", "azure-iot-common@1.13.3", "@azure/event-hubs@6.0.4")
NPM_WITHIN_S = 300
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT")


@pytest.fixture
def ca_file(authority: LocalAuthority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(authority.ca_pem)
    return path


@pytest.fixture
async def hub(address: str) -> LocalHub:
    """On an address of its own, because the SDKs know no port but 5671."""
    hub = LocalHub(address=address, rng=random.Random(1))
    hub.add_device("dev")
    return hub


@pytest.fixture
async def amqp(hub: LocalHub, authority: LocalAuthority) -> AsyncIterator[AmqpEndpoint]:
    amqp = AmqpEndpoint(hub)
    door = FrontDoor([hub], authority=authority, address=hub.address, mqtt_port=0, https_port=None)
    door.offer("amqp", AMQP_PORT, amqp.make_connection)
    async with door:
        yield amqp
        amqp.close()


def telemetry(hub: LocalHub, count: int) -> None:
    """Have device `dev` send numbered messages."""
    for _ in range(count):
        body = orjson.dumps({"n": hub.statistics.messages})
        system = {"message-id": f"m{hub.statistics.messages}", "content-type": "application/json"}
        hub.receive(hub.message_from(hub.identity("dev"), {"k": "é"}, system, body))
    hub.changed()


async def somebody_waits(hub: LocalHub) -> None:
    """Wait until a reader has got all there is and waits for more."""
    async with asyncio.timeout(TIME_LIMIT_S):
        while all(waiter.done() for waiter in hub._waiters):  # noqa: ASYNC110 - nobody tells when somebody begins to wait
            await asyncio.sleep(0.01)


# Python: azure-iot-hub


@asynccontextmanager
async def registry_manager(hub: LocalHub, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    azure = pytest.importorskip("azure.iot.hub", reason="pip: azure-iot-hub with uamqp and six, CPython 3.11")
    # It has no setting for a CA and trusts the bundle that certifi names.
    monkeypatch.setattr("certifi.where", lambda: str(ca_file))
    manager = await asyncio.to_thread(
        azure.IoTHubRegistryManager.from_connection_string, hub.service_connection_string()
    )
    async with asyncio.timeout(TIME_LIMIT_S):
        yield manager
        await asyncio.to_thread(manager.amqp_svc_client.disconnect_sync)


async def test_python_sends_messages(
    hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`send_c2d_message` delivers body, system and application properties, and raises where the hub refuses."""
    async with registry_manager(hub, ca_file, monkeypatch) as manager:
        properties = {"messageId": "m", "correlationId": "c", "contentType": "text/plain", "iothub-ack": "full", "n": 5}
        await asyncio.to_thread(manager.send_c2d_message, "dev", "hello é", properties)
        message = hub.receive_c2d("dev")
        assert message is not None
        assert message.body == "hello é".encode()
        assert message.properties == {"iothub-ack": "full", "n": "5"}
        assert message.system_properties == {
            "to": "/devices/dev/messages/devicebound",
            "message-id": "m",
            "correlation-id": "c",
            "content-type": "text/plain",
        }
        assert message.ack.value == "full"
        with pytest.raises(Exception, match="C2D message send failure"):
            await asyncio.to_thread(manager.send_c2d_message, "nobody", "hello", {})


# Python: azure-eventhub


def consumer(amqp: AmqpEndpoint, ca_file: Path, **settings: Any) -> Any:
    aio = pytest.importorskip("azure.eventhub.aio", reason="pip: azure-eventhub")
    return aio.EventHubConsumerClient.from_connection_string(
        settings.pop("connection_string", amqp.event_hubs_connection_string()),
        consumer_group=settings.pop("consumer_group", "$Default"),
        connection_verify=str(ca_file),
        retry_total=0,
        **settings,
    )


async def read(client: Any, count: int, **settings: Any) -> list[Any]:
    """The next events of a client, which is told to stop then."""
    events: list[Any] = []
    enough = asyncio.Event()

    async def take(_: Any, event: Any) -> None:
        events.append(event)
        if len(events) == count:
            enough.set()

    async def fail(_: Any, error: Exception) -> None:
        events.append(error)
        enough.set()

    reading = asyncio.create_task(client.receive(take, on_error=fail, partition_id="0", **settings))
    async with asyncio.timeout(TIME_LIMIT_S):
        await enough.wait()
        reading.cancel()  # closing the client alone would have it look at its partitions once more, half a minute later
        await asyncio.gather(reading, return_exceptions=True)
        await client.close()
    return events


async def test_python_reads_events(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path) -> None:
    """Event Hubs' client learns the partitions and reads what devices sent, with the hub's notes on it."""
    telemetry(hub, 3)
    client = consumer(amqp, ca_file)
    assert (await client.get_eventhub_properties())["partition_ids"] == ["0"]
    properties = await client.get_partition_properties("0")
    assert (properties["last_enqueued_sequence_number"], properties["is_empty"]) == (2, False)
    events = await read(client, 3, starting_position="-1", track_last_enqueued_event_properties=True)
    assert [event.body_as_json() for event in events] == [{"n": 0}, {"n": 1}, {"n": 2}]
    [event] = events[1:2]
    assert (event.sequence_number, event.offset, event.message_id) == (1, "1", "m1")
    assert event.properties == {b"k": "é".encode()}
    assert event.system_properties[b"iothub-connection-device-id"] == b"dev"
    assert event.content_type == "application/json"
    assert abs(event.enqueued_time.timestamp() - hub.messages[1].enqueued_ns / 1e9) < 0.01


async def test_python_begins_where_it_wants(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path) -> None:
    """Event Hubs' client begins behind an offset, at a sequence number or at a time, and goes on with new events."""
    telemetry(hub, 3)
    behind, at, at_time = await asyncio.gather(
        read(consumer(amqp, ca_file), 2, starting_position="0"),
        read(consumer(amqp, ca_file), 2, starting_position=1, starting_position_inclusive=True),
        read(consumer(amqp, ca_file), 3, starting_position=datetime(2026, 1, 1, tzinfo=UTC)),
    )
    assert [event.sequence_number for event in behind] == [1, 2]
    assert [event.sequence_number for event in at] == [1, 2]
    assert [event.sequence_number for event in at_time] == [0, 1, 2]
    reading = asyncio.create_task(read(consumer(amqp, ca_file), 1, starting_position="@latest"))
    await somebody_waits(hub)
    telemetry(hub, 1)
    assert [event.sequence_number for event in await reading] == [3]


async def test_python_large_event(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path) -> None:
    """An event of nearly the largest size reaches Event Hubs' client whole."""
    body = random.Random(1).randbytes(250_000)
    hub.receive(hub.message_from(hub.identity("dev"), {}, {}, body))
    [event] = await read(consumer(amqp, ca_file), 1, starting_position="-1")
    assert b"".join(event.body) == body


async def test_python_is_refused(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path) -> None:
    """A wrong key is an authentication error at Event Hubs' client."""
    exceptions = pytest.importorskip("azure.eventhub.exceptions", reason="pip: azure-eventhub")
    wrong = amqp.event_hubs_connection_string().replace("SharedAccessKey=", "SharedAccessKey=A")
    async with consumer(amqp, ca_file, connection_string=wrong) as client:
        with pytest.raises(exceptions.AuthenticationError):
            await client.get_eventhub_properties()


async def test_python_owners(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path) -> None:
    """A second owner of a partition takes it from the first, which hears who took it."""
    telemetry(hub, 1)
    first = asyncio.create_task(read(consumer(amqp, ca_file), 2, starting_position="-1", owner_level=1))
    await somebody_waits(hub)
    assert len(await read(consumer(amqp, ca_file), 1, starting_position="-1", owner_level=2)) == 1
    assert "amqp:link:stolen" in str((await first)[-1])


# Node: azure-iothub, @azure/event-hubs


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where Node's SDKs are: a cache directory of the user's, into which they are installed once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Debian packages nodejs and npm are needed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "edge-gateway-tests" / "amqp"
    directory.mkdir(parents=True, exist_ok=True)
    installed = directory / "installed"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs may install at once
        if not installed.exists() or installed.read_text().split() != list(NODE_PACKAGES):
            command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(directory), *NODE_PACKAGES]
            npm = subprocess.run(command, capture_output=True, text=True, timeout=NPM_WITHIN_S, check=False)
            if npm.returncode and any(reason in npm.stderr for reason in NO_NETWORK):
                pytest.skip("npm cannot reach its registry")
            assert npm.returncode == 0, npm.stderr
            installed.write_text(" ".join(NODE_PACKAGES))
    return directory / "node_modules"


class NodeScript:
    """A Node program that prints a line of JSON for each thing that happens, and ends when it is told to."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stdin is not None
        self._output, self._input = process.stdout, process.stdin

    async def next(self) -> Any:
        line = await soon(self._output.readline())
        assert line, "the script has ended"
        return orjson.loads(line)

    def tell(self, line: str) -> None:
        self._input.write(line.encode() + b"\n")


@asynccontextmanager
async def node(what: str, connection_string: str, ca_file: Path, node_modules: Path) -> AsyncIterator[NodeScript]:
    environment = {
        **os.environ,
        "NODE_PATH": str(node_modules),
        "NODE_EXTRA_CA_CERTS": str(ca_file),  # the SDKs have no other setting for a CA
        "NODE_NO_WARNINGS": "1",
        "CONNECTION_STRING": connection_string,
    }
    process = await asyncio.create_subprocess_exec(
        *("node", str(NODE_SCRIPT), what),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        script = NodeScript(process)
        yield script
        script.tell("close")
        assert await script.next() == ["closed"]
        assert await soon(process.wait()) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_node_sends_messages(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path, node_modules: Path) -> None:
    """`Client.send` delivers, hears of errors by their kind, and gets feedback and file notifications."""
    hub.add_device("a%b")
    async with node("service", hub.service_connection_string(), ca_file, node_modules) as client:
        assert await client.next() == ["sent", "MessageEnqueued"]
        message = hub.receive_c2d("a%b")
        assert message is not None
        assert (message.body, message.ack.value) == (b"hello", "full")
        assert message.properties == {"iothub-ack": "full", "k": "é"}
        assert message.system_properties["message-id"] == "9f8b8d1e-0000-4000-8000-000000000001"
        assert message.system_properties["content-type"] == "text/plain"
        assert await client.next() == ["refused", "DeviceNotFoundError"]
        assert await client.next() == ["ready"]
        hub.complete_c2d("a%b", message.lock_token)
        kind, [record] = await client.next()
        assert (kind, record["originalMessageId"]) == ("feedback", "9f8b8d1e-0000-4000-8000-000000000001")
        assert (record["statusCode"], record["deviceId"]) == ("Success", "a%b")
        hub.blobs.file_notifications.append(FileNotification("dev", "https://h/c/dev/a", "dev/a", 0, 5, 0))
        hub.changed()
        kind, notification = await client.next()
        assert (kind, notification["blobName"], notification["blobSizeInBytes"]) == ("file", "dev/a", 5)
        await soon(hub.until(lambda: not hub.feedback and not hub.blobs.file_notifications))


async def test_node_is_refused(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path, node_modules: Path) -> None:
    """A policy without the right is an unauthorised error at Node's client."""
    async with node("service", hub.service_connection_string("registryRead"), ca_file, node_modules) as client:
        assert await client.next() == ["failed", "UnauthorizedError"]


async def test_node_reads_events(hub: LocalHub, amqp: AmqpEndpoint, ca_file: Path, node_modules: Path) -> None:
    """Event Hubs' client for Node learns the partitions and reads what devices sent and send."""
    telemetry(hub, 2)
    async with node("events", amqp.event_hubs_connection_string(), ca_file, node_modules) as client:
        assert await client.next() == ["properties", "events", ["0"], 1]
        for number in range(2):
            kind, event = await client.next()
            assert (kind, event["body"], event["sequenceNumber"]) == ("event", {"n": number}, number)
            assert event["properties"] == {"k": "é"}
            assert event["systemProperties"]["iothub-connection-device-id"] == "dev"
        telemetry(hub, 1)
        assert (await client.next())[1]["body"] == {"n": 2}
