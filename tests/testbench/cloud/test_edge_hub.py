"""The edge hub: clients that say exactly what a test wants, over TLS, with a local IoT Hub above."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import pytest

from edge_gateway.clock import SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.certificates import DeviceCertificate
from edge_gateway.testbench.cloud.edge.deployment_manifest import parse_hub
from edge_gateway.testbench.cloud.edge.hub import EdgeHub
from edge_gateway.testbench.cloud.edge.upstream import Upstream
from edge_gateway.testbench.cloud.identity import HUB, CertificateAuthority, IdentityName, Thumbprints
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, Puback, Publish, Will
from edge_gateway.testbench.cloud.refusals import DeviceNotOnline, MethodTimedOut
from edge_gateway.testbench.cloud.tokens import sas_token
from edge_gateway.testbench.cloud.topics import DESIRED_PATCHES

from .mqtt_client import RawClient, soon

EDGE = "edge"
UP = {"up": "FROM /messages/* INTO $upstream"}
TO_ALARM = 'INTO BrokeredEndpoint("/modules/alarm/inputs/in")'


SENSOR = IdentityName(EDGE, "sensor")
LEAF = IdentityName("leaf")


def configuration(routes: dict[str, Any], ttl_s: int = 7200, **store: Any) -> dict[str, Any]:
    return {
        "schemaVersion": "1.1",
        "routes": routes,
        "storeAndForwardConfiguration": {"timeToLiveSecs": ttl_s, **store},
    }


class Bench:
    """An edge hub with two modules, a device behind it, and what tests do with them."""

    def __init__(self, hub: LocalHub, edge: EdgeHub, authority: LocalAuthority) -> None:
        self.hub, self.edge, self.authority = hub, edge, authority

    def token(self, name: IdentityName, host_name: str | None = None) -> str:
        key = self.hub.identity(*name).primary_key
        return sas_token(f"{host_name or self.hub.host_name}/{name.path}", key, 2_000_000_000)

    async def set_routes(self, routes: dict[str, Any], **changes: Any) -> None:
        """Deploy other routes and wait until the edge hub obeys them."""
        version = self.hub.replace_desired(EDGE, configuration(routes, **changes), HUB)
        await soon(self.hub.until(lambda: self.reported().get("lastDesiredVersion") == version))

    def reported(self) -> dict[str, Any]:
        """What the edge hub says of itself."""
        reported: dict[str, Any] = self.hub.twin(EDGE, HUB).reported
        return reported

    @asynccontextmanager
    async def unconnected(self, certificate: DeviceCertificate | None = None) -> AsyncIterator[RawClient]:
        """A client with TLS up and no CONNECT sent."""
        context = self.authority.client_context(certificate)
        door = self.edge.door
        reader, writer = await asyncio.open_connection(door.address, door.ports()["mqtt"], ssl=context)
        try:
            yield RawClient(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):  # the edge hub was first
                await writer.wait_closed()

    @asynccontextmanager
    async def client(self, module_id: str = "sensor", **connect: Any) -> AsyncIterator[RawClient]:
        """A module that is let in."""
        async with self.unconnected() as client:
            assert await self.connect(client, IdentityName(EDGE, module_id), **connect) == 0
            yield client

    @asynccontextmanager
    async def device(self, **connect: Any) -> AsyncIterator[RawClient]:
        """The device behind the edge hub, let in."""
        async with self.unconnected() as client:
            assert await self.connect(client, LEAF, **connect) == 0
            yield client

    async def connect(
        self,
        client: RawClient,
        name: IdentityName,
        *,
        token: str | None = None,
        user: str | None = None,
        clean_session: bool = True,
        will: Will | None = None,
    ) -> int:
        """Send CONNECT; the return code of the answer."""
        user = user if user is not None else f"{self.hub.host_name}/{name}/?api-version=2021-04-12"
        password = (token if token is not None else self.token(name)).encode()
        client.send(Connect(str(name), clean_session, 60, user, password or None, will))
        return (await client.receive(Connack)).return_code


@pytest.fixture
async def bench(hub: LocalHub, authority: LocalAuthority) -> AsyncIterator[Bench]:
    hub.add_device(EDGE, edge=True)
    for module_id in (HUB, "sensor", "alarm"):
        hub.add_module(EDGE, module_id)
    hub.add_device("leaf", scope=hub.identity(EDGE).scope)
    hub.replace_desired(EDGE, configuration(UP), HUB)
    edge = EdgeHub(
        Upstream(hub, SystemClock()),
        EDGE,
        parse_hub(configuration(UP)),
        authority=authority.intermediate("edge CA"),
        address=free_loopback_address(random.Random()),
        mqtt_port=0,
        https_port=0,
        reported_sync_s=0.0,
    )
    async with edge:
        yield Bench(hub, edge, authority)


EVENTS = f"devices/{EDGE}/modules/sensor/messages/events/"
INPUTS = f"devices/{EDGE}/modules/alarm/inputs/#"


def bodies(hub: LocalHub) -> list[bytes]:
    return [message.body for message in hub.messages]


async def test_upstream(bench: Bench) -> None:
    """A module's message arrives at the hub as the module's own, with its properties."""
    async with bench.client() as client:
        await client.publish(EVENTS + "%24.mid=1&%24.ct=application%2Fjson&%24.on=out&a=b", b"hello")
        await soon(bench.hub.until(lambda: len(bench.hub.messages) == 1))
    message = bench.hub.messages[0]
    assert (message.device_id, message.module_id, message.body) == (EDGE, "sensor", b"hello")
    assert (message.message_id, message.properties) == ("1", {"a": "b"})
    assert message.system_properties["content-type"] == "application/json"
    assert message.system_properties["iothub-connection-module-id"] == "sensor"
    assert "output-name" not in message.system_properties


async def test_confirmed_when_stored(bench: Bench) -> None:
    """A message is confirmed though the hub is out of reach, and goes up when it is there again."""
    async with bench.client() as client:
        bench.edge.go_offline()
        await client.publish(EVENTS, b"1")
        assert (bench.edge.waiting_upstream(), bodies(bench.hub)) == (1, [])
        bench.edge.go_online()
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"1"]))
        await soon(bench.edge.until(lambda: bench.edge.waiting() == 0))


async def test_module_to_module(bench: Bench) -> None:
    """A message reaches another module's input, with who sent it, though the hub is out of reach."""
    await bench.set_routes({"alarm": f"FROM /messages/modules/sensor/outputs/out {TO_ALARM}"})
    bench.edge.go_offline()
    async with bench.client() as sender, bench.client("alarm") as receiver:
        assert await receiver.subscribe(INPUTS) == 1
        await sender.publish(EVENTS + "%24.on=out/", b"hot")
        await sender.publish(EVENTS + "%24.on=other", b"dropped")
        delivered = await receiver.receive(Publish)
        assert delivered.topic.startswith(f"devices/{EDGE}/modules/alarm/inputs/in/")
        assert set(delivered.topic.rpartition("/")[2].split("&")) == {"%24.cdid=edge", "%24.cmid=sensor"}
        assert (delivered.payload, delivered.qos) == (b"hot", 1)
        assert bench.edge.waiting() == 1
        receiver.send(Puback(delivered.packet_id))
        await soon(bench.edge.until(lambda: bench.edge.waiting() == 0))
    assert bench.edge.unrouted == {SENSOR: 1}


async def test_input_waits_for_its_module(bench: Bench) -> None:
    """What comes while a module is away waits, and comes in order; what it has not confirmed comes again, marked."""
    await bench.set_routes({"alarm": f"FROM /messages/* {TO_ALARM}"})
    async with bench.client() as sender:
        for number in range(3):
            await sender.publish(EVENTS, b"%d" % number)
        async with bench.client("alarm") as receiver:
            await receiver.subscribe(INPUTS)
            first = await receiver.receive(Publish)
            receiver.send(Puback(first.packet_id))
            assert (first.payload, first.dup) == (b"0", False)
            assert (await receiver.receive(Publish)).payload == b"1"
        async with bench.client("alarm") as receiver:
            await receiver.subscribe(f"devices/{EDGE}/modules/alarm/#")
            again = await receiver.receive(Publish)
            assert (again.payload, again.dup) == (b"1", True)
            receiver.send(Puback(again.packet_id))
            assert (await receiver.receive(Publish)).payload == b"2"


async def test_input_without_confirmation(bench: Bench) -> None:
    """A module that subscribed with QoS 0 gets its messages without waiting."""
    await bench.set_routes({"alarm": f"FROM /messages/* {TO_ALARM}"})
    async with bench.client() as sender, bench.client("alarm") as receiver:
        assert await receiver.subscribe(INPUTS, 0) == 0
        for number in range(3):
            await sender.publish(EVENTS, b"%d" % number)
        delivered = [await receiver.receive(Publish) for _ in range(3)]
        assert [(each.payload, each.qos) for each in delivered] == [(b"0", 0), (b"1", 0), (b"2", 0)]
        assert bench.edge.waiting() == 0


async def test_several_ways(bench: Bench) -> None:
    """A message goes to every endpoint a route leads it to, and to each once."""
    await bench.set_routes(
        {
            **UP,
            "again": "FROM /messages/modules/sensor/* INTO $upstream",
            "alarm": f"FROM /messages/* WHERE level = 'high' {TO_ALARM}",
        }
    )
    bench.edge.go_offline()
    async with bench.client() as sender:
        await sender.publish(EVENTS + "level=low", b"1")
        await sender.publish(EVENTS + "level=high", b"2")
    assert (bench.edge.waiting_upstream(), bench.edge.waiting()) == (2, 3)


async def test_priorities(bench: Bench) -> None:
    """What waits goes up by the priority its route had when it came, and within one in the order it came."""
    await bench.set_routes(
        {
            "all": {"route": "FROM /messages/* INTO $upstream", "priority": 5},
            "alarms": {"route": "FROM /messages/modules/*/outputs/alarm INTO $upstream", "priority": 9},
        }
    )
    await bench.set_routes(
        {
            "rest": "FROM /messages/* INTO $upstream",
            "alarms": {"route": "FROM /messages/modules/alarm/* INTO $upstream", "priority": 0},
        }
    )
    bench.edge.go_offline()
    async with bench.client() as sensor, bench.client("alarm") as alarm:
        await sensor.publish(EVENTS, b"low 1")
        await alarm.publish(EVENTS.replace("sensor", "alarm"), b"high 1")
        await sensor.publish(EVENTS, b"low 2")
        await alarm.publish(EVENTS.replace("sensor", "alarm"), b"high 2")
    bench.edge.go_online()
    await soon(bench.hub.until(lambda: len(bench.hub.messages) == 4))
    assert bodies(bench.hub) == [b"high 1", b"high 2", b"low 1", b"low 2"]


async def test_time_to_live(bench: Bench) -> None:
    """A message that is too old is dropped and counted; a route's own time counts before the store's."""
    await bench.set_routes(
        {
            "short": "FROM /messages/modules/sensor/* INTO $upstream",
            "long": {"route": "FROM /messages/modules/alarm/* INTO $upstream", "timeToLiveSecs": 60},
        },
        ttl_s=0,
    )
    bench.edge.go_offline()
    async with bench.client() as sensor, bench.client("alarm") as alarm:
        await sensor.publish(EVENTS, b"too old at once")
        await alarm.publish(EVENTS.replace("sensor", "alarm"), b"kept")
    bench.edge.go_online()
    await soon(bench.hub.until(lambda: len(bench.hub.messages) == 1))
    assert bodies(bench.hub) == [b"kept"]
    assert bench.edge.store.statistics.expired == 1


async def test_full_store(bench: Bench) -> None:
    """A full store takes no more: the sender is cut off unconfirmed, and may come again when there is room."""
    await bench.set_routes(UP, storeLimits={"maxSizeBytes": 1000})
    bench.edge.go_offline()
    async with bench.client() as client:
        await client.publish(EVENTS, bytes(800))
        client.send(Publish(EVENTS, bytes(800), 1, 2))
        await client.closed()
    assert bench.edge.store.statistics.refused == 1
    bench.edge.go_online()
    await soon(bench.edge.until(lambda: bench.edge.waiting() == 0))
    async with bench.client() as client:
        await client.publish(EVENTS, bytes(800))


async def test_full_store_and_what_nobody_sends_again(bench: Bench) -> None:
    """Reported properties and wills find no room in a full store; the one is taken all the same, the other lost."""
    await bench.set_routes({"all": "FROM /* INTO $upstream"}, storeLimits={"maxSizeBytes": 10})
    bench.edge.go_offline()
    async with bench.client(will=Will(EVENTS, b"gone")) as client:
        await client.subscribe("$iothub/twin/res/#")
        assert await twin_request(client, REPORT, b'{"a":1}') == ("204", None)
    await soon(bench.edge.until(lambda: not bench.edge.is_connected(SENSOR)))
    assert (bench.edge.waiting(), bench.edge.store.statistics.refused) == (0, 2)


async def test_lost_confirmations(bench: Bench) -> None:
    """What the hub took and had not confirmed when the way was cut is sent again, in order and at least once."""
    async with bench.client() as client:
        bench.edge.upstream.faults.pubacks_withheld = True
        for number in range(3):
            await client.publish(EVENTS, b"%d" % number)
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"0"]))
        bench.edge.go_offline()
        bench.edge.upstream.faults.pubacks_withheld = False
        bench.edge.go_online()
        await soon(bench.edge.until(lambda: bench.edge.waiting() == 0))
    assert bodies(bench.hub) == [b"0", b"0", b"1", b"2"]


async def test_one_refused_holds_up_nobody(bench: Bench) -> None:
    """Messages of a device the hub does not let in wait; others pass them."""
    async with bench.client() as sensor, bench.device() as leaf:
        bench.edge.go_offline()
        await leaf.publish("devices/leaf/messages/events/", b"disabled")
        await sensor.publish(EVENTS, b"enabled")
        bench.hub.set_enabled("leaf", False)
        bench.edge.go_online()
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"enabled"]))
        await soon(bench.edge.until(lambda: bench.edge.waiting_upstream() == 1))


async def test_will(bench: Bench) -> None:
    """A module that goes without a word has its will delivered."""
    async with bench.client(will=Will(EVENTS, b"gone")):
        await soon(bench.hub.until(lambda: bench.hub.is_connected(EDGE, "sensor")))
    await soon(bench.hub.until(lambda: len(bench.hub.messages) == 1))
    assert bench.hub.messages[0].properties == {"iothub-MessageType": "Will"}


@pytest.mark.parametrize(
    "topic",
    ["devices/edge/modules/alarm/messages/events/", "devices/edge/messages/events/", "telemetry", f"{EVENTS}a=%ff"],
)
async def test_topics_of_others(bench: Bench, topic: str) -> None:
    """Who publishes to another's topic, or what nobody can read, is cut off."""
    async with bench.client() as client:
        client.send(Publish(topic, b"", 1, 1))
        await client.closed()
    assert bench.edge.received == 0


async def test_too_large(bench: Bench) -> None:
    """A message over the limit, or with properties no topic can hold, is not taken."""
    async with bench.client() as client:
        client.send(Publish(EVENTS, bytes(256 * 1024), 1, 1))
        await client.closed()
    async with bench.client() as client:
        client.send(Publish(EVENTS + "a=" + "/" * 40_000, b"", 1, 1))
        await client.closed()
    assert bench.edge.received == 0


# Twins


async def twin_request(client: RawClient, verb: str, payload: bytes = b"") -> tuple[str, Any]:
    """Status and body of the answer to a twin request."""
    client.send(Publish(f"$iothub/twin/{verb}/?$rid=7", payload))
    answer = await client.receive(Publish)
    status, _, request_id = answer.topic.removeprefix("$iothub/twin/res/").partition("/?$rid=")
    assert request_id == "7"
    return status, orjson.loads(answer.payload) if answer.payload else None


REPORT = "PATCH/properties/reported"


async def test_twin(bench: Bench) -> None:
    """A module reads its twin and is told of changes; what it reports arrives at the hub."""
    bench.hub.patch_desired(EDGE, {"period_s": 5}, "sensor")
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        assert await twin_request(client, "GET") == (
            "200",
            {"desired": {"period_s": 5, "$version": 2}, "reported": {"$version": 1}},
        )
        assert await twin_request(client, REPORT, b'{"period_s":5}') == ("204", None)
        await soon(bench.hub.until(lambda: bench.hub.twin(EDGE, "sensor").reported == {"period_s": 5}))
        bench.hub.patch_desired(EDGE, {"period_s": 7}, "sensor")
        patch = await client.receive(Publish)
        assert patch.topic == "$iothub/twin/PATCH/properties/desired/?$version=3"
        assert orjson.loads(patch.payload) == {"period_s": 7, "$version": 3}


async def test_twin_offline(bench: Bench) -> None:
    """Without the hub a twin comes from the copy, with what was reported since; later both learn what they missed."""
    bench.hub.patch_desired(EDGE, {"period_s": 5, "mode": "slow"}, "sensor")
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        await twin_request(client, "GET")
        bench.edge.go_offline()
        bench.hub.patch_desired(EDGE, {"period_s": 9, "mode": None}, "sensor")
        assert await twin_request(client, REPORT, b'{"a":{"b":1},"c":2}') == ("204", None)
        assert await twin_request(client, REPORT, b'{"a":null,"d":3}') == ("204", None)
        assert await twin_request(client, "GET") == (
            "200",
            {"desired": {"period_s": 5, "mode": "slow", "$version": 2}, "reported": {"c": 2, "d": 3, "$version": 1}},
        )
        bench.edge.go_online()
        missed = await client.receive(Publish)
        assert missed.topic == "$iothub/twin/PATCH/properties/desired/?$version=3"
        assert orjson.loads(missed.payload) == {"period_s": 9, "mode": None, "$version": 3}
        assert bench.hub.twin(EDGE, "sensor").reported == {"c": 2, "d": 3}


async def test_twin_that_changed_unheard(bench: Bench) -> None:
    """The copy has also those changes that came before its module listened to them."""
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        await twin_request(client, "GET")
        bench.hub.patch_desired(EDGE, {"unheard": 1}, "sensor")
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        await soon(bench.hub.until(lambda: has_subscribed(bench)))
        bench.hub.patch_desired(EDGE, {"heard": 2}, "sensor")
        assert orjson.loads((await client.receive(Publish)).payload) == {"heard": 2, "$version": 3}
        twin = bench.edge.client(SENSOR).twin
        await soon(bench.edge.until(lambda: "'heard': 2" in str(twin.document())))
        bench.edge.go_offline()
        _, document = await twin_request(client, "GET")
        assert document["desired"] == {"unheard": 1, "heard": 2, "$version": 3}


def has_subscribed(bench: Bench) -> bool:
    """Whether the hub knows that the module listens to changes."""
    session = bench.hub.record(SENSOR).session
    return session is not None and session.listens_to(DESIRED_PATCHES)


async def test_twin_without_copy(bench: Bench) -> None:
    """A client that comes for the first time while the hub is out of reach has no twin yet."""
    bench.edge.go_offline()
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        status, body = await twin_request(client, "GET")
        assert (status, body["errorCode"]) == ("503", 503)


@pytest.mark.parametrize("patch", [b"", b"{", b"[]", b'{"a.b":1}', b'{"a":"' + b"x" * 5000 + b'"}'])
async def test_reported_refused(bench: Bench, patch: bytes) -> None:
    """What the hub would not take as reported properties is refused at once."""
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        status, body = await twin_request(client, REPORT, patch)
        assert (status, body["errorCode"]) == ("400", 400)
    assert bench.hub.twin(EDGE, "sensor").reported == {}


async def test_reported_of_who_has_gone(bench: Bench) -> None:
    """Properties reported without the hub go up later though their module has gone."""
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        bench.edge.go_offline()
        await twin_request(client, REPORT, b'{"a":1}')
    await soon(bench.edge.until(lambda: not bench.edge.is_connected(SENSOR)))
    bench.edge.go_online()
    await soon(bench.hub.until(lambda: bench.hub.twin(EDGE, "sensor").reported == {"a": 1}))
    await soon(bench.hub.until(lambda: not bench.hub.is_connected(EDGE, "sensor")))


async def test_reported_over_the_rate(bench: Bench) -> None:
    """Reported properties the hub has no rate left for go up later; their client notices nothing."""
    bench.hub.use_tier("F1")
    async with bench.client() as client:
        await client.subscribe("$iothub/twin/res/#")
        for number in range(100):
            assert await twin_request(client, REPORT, b'{"a":%d}' % number) == ("204", None)
        await soon(bench.hub.until(lambda: bench.hub.twin(EDGE, "sensor").reported == {"a": 99}))


async def test_twin_change_notifications(bench: Bench) -> None:
    """A reported patch is a message of its own kind to routes."""
    await bench.set_routes({"changes": f"FROM /twinChangeNotifications {TO_ALARM}"})
    async with bench.client() as sensor, bench.client("alarm") as alarm:
        await alarm.subscribe(INPUTS)
        await sensor.subscribe("$iothub/twin/res/#")
        await twin_request(sensor, REPORT, b'{"a":1}')
        assert (await alarm.receive(Publish)).payload == b'{"a":1}'


# Methods


async def answer_method(client: RawClient, status: int, payload: bytes) -> Publish:
    """Answer the next method call."""
    call = await client.receive(Publish)
    request_id = call.topic.partition("$rid=")[2]
    client.send(Publish(f"$iothub/methods/res/{status}/?$rid={request_id}", payload))
    return call


async def test_method_from_the_hub(bench: Bench) -> None:
    """A direct method of a module is called from the hub and answered to it."""
    async with bench.client() as client:
        await client.subscribe("$iothub/methods/POST/#")
        calling = asyncio.create_task(
            bench.hub.invoke_method(EDGE, "blink", {"times": 3}, module_id="sensor", connect_timeout_s=5)
        )
        call = await answer_method(client, 200, b'{"done":true}')
        assert call.topic.startswith("$iothub/methods/POST/blink/?$rid=")
        assert orjson.loads(call.payload) == {"times": 3}
        assert await soon(calling) == (200, {"done": True})


async def test_method_of_who_is_away(bench: Bench) -> None:
    """The hub knows that a module does not listen."""
    with pytest.raises(DeviceNotOnline):
        await bench.hub.invoke_method(EDGE, "blink", module_id="sensor")
    async with bench.client():
        with pytest.raises(DeviceNotOnline):
            await bench.hub.invoke_method(EDGE, "blink", module_id="sensor")


async def test_method_given_up(bench: Bench) -> None:
    """A call ends with the client that does not answer it, or with its time."""
    async with bench.client() as client:
        await client.subscribe("$iothub/methods/POST/#")
        with pytest.raises(MethodTimedOut):
            await bench.edge.invoke_method(SENSOR, "blink", timeout_s=0.01)
        calling = asyncio.create_task(bench.edge.invoke_method(SENSOR, "blink"))
        await client.receive(Publish)
        await client.receive(Publish)
    with pytest.raises(DeviceNotOnline):
        await soon(calling)


async def test_method_answer_must_be_json(bench: Bench) -> None:
    """A client that answers something else is cut off, as at IoT Hub."""
    async with bench.client() as client:
        await client.subscribe("$iothub/methods/POST/#")
        calling = asyncio.create_task(bench.edge.invoke_method(SENSOR, "blink"))
        await answer_method(client, 200, b"{")
        await client.closed()
        with pytest.raises(DeviceNotOnline):
            await soon(calling)


async def post(bench: Bench, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
    """Status and answer of a call by HTTPS."""
    door = bench.edge.door
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post(
            f"https://{door.address}:{door.ports()['https']}{path}?api-version=2019-10-01",
            data=body if isinstance(body, bytes) else orjson.dumps(body),
            headers=headers,
            ssl=bench.authority.client_context(),
        ) as response,
    ):
        assert response.content_type == "application/json"
        return response.status, await response.json()


def actor(bench: Bench, name: IdentityName = SENSOR) -> dict[str, str]:
    return {"x-ms-edge-moduleId": str(name), "Authorization": bench.token(name)}


METHOD = {"methodName": "blink", "payload": {"times": 3}, "responseTimeoutInSeconds": 5, "connectTimeoutInSeconds": 0}


@pytest.mark.parametrize(("path", "target"), [("/twins/edge/modules/alarm", "alarm"), ("/twins/leaf", "leaf")])
async def test_method_of_another(bench: Bench, path: str, target: str) -> None:
    """A module calls a method of another module, or of a device, though the hub is out of reach."""
    bench.edge.go_offline()
    async with bench.device() if target == "leaf" else bench.client(target) as client:
        await client.subscribe("$iothub/methods/POST/#")
        calling = asyncio.create_task(post(bench, f"{path}/methods", METHOD, actor(bench)))
        call = await answer_method(client, 201, b"[1]")
        assert orjson.loads(call.payload) == {"times": 3}
        assert await soon(calling) == (200, {"status": 201, "payload": [1]})


async def test_method_waits_for_its_module(bench: Bench) -> None:
    """A call waits for a module that is not there yet if its caller allows for that."""
    calling = asyncio.create_task(
        post(bench, "/twins/edge/modules/alarm/methods", {**METHOD, "connectTimeoutInSeconds": 20}, actor(bench))
    )
    async with bench.client("alarm") as client:
        await client.subscribe("$iothub/methods/POST/#")
        await answer_method(client, 200, b"")
        assert await soon(calling) == (200, {"status": 200, "payload": None})


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"x-ms-edge-moduleId": ""}, METHOD, 400),
        ({"x-ms-edge-moduleId": "edge"}, METHOD, 400),
        ({"x-ms-edge-moduleId": "other/sensor"}, METHOD, 401),
        ({"x-ms-edge-moduleId": "edge/alarm"}, METHOD, 401),
        ({"Authorization": ""}, METHOD, 401),
        ({"Authorization": "SharedAccessSignature sr=a&sig=b&se=1"}, METHOD, 401),
        ({}, METHOD, 404),
        ({}, b"{", 400),
        ({}, [], 400),
        ({}, {**METHOD, "methodName": ""}, 400),
        ({}, {**METHOD, "methodName": "x" * 101}, 400),
        ({}, {**METHOD, "responseTimeoutInSeconds": 4}, 400),
        ({}, {**METHOD, "responseTimeoutInSeconds": True}, 400),
        ({}, {**METHOD, "connectTimeoutInSeconds": 301}, 400),
        ({}, {**METHOD, "payload": "x" * 128 * 1024}, 400),
    ],
)
async def test_method_refused(bench: Bench, headers: dict[str, str], body: Any, status: int) -> None:
    """Who may not call, calls wrongly, or calls somebody who is not there, is told so."""
    answered, answer = await post(bench, "/twins/edge/modules/alarm/methods", body, actor(bench) | headers)
    assert answered == status
    assert answer["message"]


# Devices behind the edge hub


async def test_device(bench: Bench) -> None:
    """A device sends under its own identity, by the route for what is no module's."""
    await bench.set_routes({"leaves": "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream"})
    async with bench.device() as leaf, bench.client() as module:
        await module.publish(EVENTS, b"module")
        await leaf.publish("devices/leaf/messages/events/a=b", b"leaf")
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"leaf"]))
    assert (bench.hub.messages[0].device_id, bench.hub.messages[0].properties) == ("leaf", {"a": "b"})


async def test_cloud_to_device(bench: Bench) -> None:
    """A message to a device is relayed, and completed at the hub when the device has confirmed it."""
    async with bench.device() as leaf:
        await leaf.subscribe("devices/leaf/messages/devicebound/#")
        sent = bench.hub.send_c2d("leaf", b"hello", {"a": "b"}, message_id="1")
        message = await leaf.receive(Publish)
        assert message.topic.startswith("devices/leaf/messages/devicebound/")
        assert {"a=b", "%24.mid=1"} <= set(message.topic.rpartition("/")[2].split("&"))
        assert (message.payload, sent.outcome) == (b"hello", None)
        leaf.send(Puback(message.packet_id))
        await soon(sent.completed())


async def test_cloud_to_device_is_not_lost(bench: Bench) -> None:
    """A message a device has not confirmed stays at the hub, and comes when the device is back."""
    async with bench.device() as leaf:
        await leaf.subscribe("devices/leaf/messages/devicebound/#")
        sent = bench.hub.send_c2d("leaf", b"hello")
        await leaf.receive(Publish)
    async with bench.device() as leaf:
        await leaf.subscribe("devices/leaf/messages/devicebound/#")
        leaf.send(Puback((await leaf.receive(Publish)).packet_id))
        await soon(sent.completed())


@pytest.mark.parametrize("kind", ["thumbprint", "authority"])
async def test_device_with_certificate(bench: Bench, kind: str) -> None:
    """A device that proves itself by a certificate does so at the edge hub, online or not, and its messages go up."""
    certificate = bench.authority.device_certificate("x509")
    authentication = Thumbprints(certificate.sha256_thumbprint) if kind == "thumbprint" else CertificateAuthority()
    bench.hub.trusted_cas.append(bench.authority.certificate)
    bench.hub.add_device("x509", authentication=authentication, scope=bench.hub.identity(EDGE).scope)
    bench.edge.go_offline()
    async with bench.unconnected(certificate) as client:
        assert await bench.connect(client, IdentityName("x509"), token="") == 0
        await client.publish("devices/x509/messages/events/", b"hello")
        bench.edge.go_online()
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"hello"]))
    async with bench.unconnected() as client:
        assert await bench.connect(client, IdentityName("x509"), token="") == 5


# Who may connect


async def test_who_may_connect(bench: Bench) -> None:
    """Modules of the device and devices behind it are let in by their own tokens, for the hub or for the gateway."""
    for name in (SENSOR, LEAF):
        for host_name in (bench.hub.host_name, bench.edge.host_name):
            async with bench.unconnected() as client:
                assert await bench.connect(client, name, token=bench.token(name, host_name)) == 0


async def test_auth_chain(bench: Bench) -> None:
    """The user name may say by which way a client comes; that is read past."""
    user = f"{bench.hub.host_name}/leaf/?api-version=2021-04-12&auth-chain=leaf;edge"
    async with bench.unconnected() as client:
        assert await bench.connect(client, LEAF, user=user) == 0


async def test_who_may_not(bench: Bench) -> None:
    """Others, and who cannot prove who they are, are turned away."""
    bench.hub.add_device("stranger")
    bench.hub.add_device("other-edge", edge=True)
    bench.hub.add_device("cousin", scope=bench.hub.identity("other-edge").scope)
    stranger, cousin = IdentityName("stranger"), IdentityName("cousin")
    host = bench.hub.host_name
    for name, token, user in [
        (stranger, bench.token(stranger), None),
        (cousin, bench.token(cousin), None),
        (IdentityName("edge", "nobody"), bench.token(SENSOR), None),
        (SENSOR, bench.token(LEAF), None),
        (SENSOR, "", None),
        (SENSOR, bench.token(SENSOR, "other.example"), None),
        (SENSOR, bench.token(SENSOR), f"{host}/edge/alarm/?api-version=2021-04-12"),
        (SENSOR, bench.token(SENSOR), f"{host}/edge/sensor/"),
        (SENSOR, bench.token(SENSOR), "other.example/edge/sensor/?api-version=2021-04-12"),
    ]:
        async with bench.unconnected() as client:
            assert await bench.connect(client, name, token=token, user=user) == 5
    assert bench.edge.door.statistics.denied == 9


async def test_who_may_connect_offline(bench: Bench) -> None:
    """Without the hub, those it knew last may connect, and nobody it has added since."""
    bench.edge.go_offline()
    bench.hub.add_device("late", scope=bench.hub.identity(EDGE).scope)
    late = IdentityName("late")
    sensors_token = bench.token(SENSOR)
    bench.hub.remove_module(EDGE, "sensor")
    async with bench.unconnected() as client:
        assert await bench.connect(client, late) == 5
    async with bench.unconnected() as client:
        assert await bench.connect(client, SENSOR, token=sensors_token) == 0
    bench.edge.go_online()
    async with bench.unconnected() as client:
        assert await bench.connect(client, late) == 0
    async with bench.unconnected() as client:
        assert await bench.connect(client, SENSOR, token=sensors_token) == 5


async def test_too_many_clients(bench: Bench) -> None:
    """There is room for so many clients; who is in may come again."""
    bench.edge.max_clients = 1
    async with bench.client() as first:
        async with bench.unconnected() as second:
            assert await bench.connect(second, LEAF) == 3
        async with bench.client():
            await first.closed()


async def test_kept_session(bench: Bench) -> None:
    """A client that keeps its session finds its subscriptions again; one that starts clean does not."""
    await bench.set_routes({"alarm": f"FROM /messages/* {TO_ALARM}"})
    async with bench.client("alarm", clean_session=False) as alarm:
        await alarm.subscribe(INPUTS)
    async with bench.client() as sensor:
        await sensor.publish(EVENTS, b"1")
        async with bench.client("alarm", clean_session=False) as alarm:
            assert (await alarm.receive(Publish)).payload == b"1"
        async with bench.client("alarm", clean_session=True) as alarm:
            await alarm.subscribe(INPUTS)
            assert (await alarm.receive(Publish)).payload == b"1"


async def test_refused_subscriptions(bench: Bench) -> None:
    """A client subscribes to its own topics and no others."""
    async with bench.client() as client:
        assert await client.subscribe("devices/edge/modules/alarm/inputs/#") is None
        assert await client.subscribe("#") is None
        client.send(Publish("$iothub/twin/GET/?$rid=1", b""))
        client.send(Publish(EVENTS, b"", 1, 9))
        assert await client.receive(Puback) == Puback(9)


# The edge hub's own twin


async def test_connection_states(bench: Bench) -> None:
    """The edge hub reports who is connected: modules stay listed when they go, devices do not."""
    async with bench.client(), bench.device():
        await soon(bench.hub.until(lambda: set(bench.reported().get("clients", ())) == {"edge/sensor", "leaf"}))
        assert {each["status"] for each in bench.reported()["clients"].values()} == {"Connected"}
        assert bench.hub.is_connected("leaf")
    await soon(bench.hub.until(lambda: bench.reported()["clients"].get("edge/sensor", {})["status"] == "Disconnected"))
    await soon(bench.hub.until(lambda: "leaf" not in bench.reported()["clients"]))
    sensor = bench.reported()["clients"]["edge/sensor"]
    assert sensor["lastConnectedTimeUtc"] < sensor["lastDisconnectedTimeUtc"]
    await soon(bench.hub.until(lambda: not bench.hub.is_connected("leaf")))


async def test_configuration_refused(bench: Bench) -> None:
    """Wrong desired properties are reported with their reason, and the routes stay as they were."""
    version = bench.hub.patch_desired(EDGE, {"routes": {"broken": "FROM nowhere"}}, HUB)
    await soon(bench.hub.until(lambda: bench.reported().get("lastDesiredVersion") == version))
    assert bench.reported()["lastDesiredStatus"]["code"] == 400
    assert "broken" in bench.reported()["lastDesiredStatus"]["description"]
    async with bench.client() as client:
        await client.publish(EVENTS, b"still up")
        await soon(bench.hub.until(lambda: bodies(bench.hub) == [b"still up"]))
    await bench.set_routes(UP)
    assert bench.reported()["lastDesiredStatus"] == {"code": 200, "description": ""}


async def test_configuration_after_a_time_apart(bench: Bench) -> None:
    """What was deployed while the hub was out of reach is obeyed when it is there again."""
    bench.edge.go_offline()
    version = bench.hub.patch_desired(EDGE, {"storeAndForwardConfiguration": {"timeToLiveSecs": 9}}, HUB)
    bench.edge.go_online()
    await soon(bench.hub.until(lambda: bench.reported().get("lastDesiredVersion") == version))


async def test_own_method(bench: Bench) -> None:
    """The edge hub answers methods it does not have."""
    status, _ = await soon(bench.hub.invoke_method(EDGE, "dance", module_id=HUB, connect_timeout_s=5))
    assert status == 404


async def test_address_in_use(bench: Bench) -> None:
    """An edge hub that finds its port taken says so and leaves nothing behind."""
    door = bench.edge.door
    before = asyncio.all_tasks()
    second = EdgeHub(
        Upstream(bench.hub, SystemClock()),
        EDGE,
        parse_hub(configuration(UP)),
        authority=bench.authority,
        address=door.address,
        mqtt_port=door.ports()["mqtt"],
        https_port=None,
    )
    with pytest.raises(BenchError, match="cannot listen"):
        async with second:
            pass
    assert asyncio.all_tasks() == before


async def test_many_messages_over_many_outages(bench: Bench) -> None:
    """Whatever the way up does, every confirmed message arrives, in order, once after the receiver's filter."""
    rng = random.Random(7)
    async with bench.client() as client:
        for number in range(300):
            await client.publish(f"{EVENTS}%24.mid={number}", b"%d" % number, packet_id=number + 1)
            if rng.random() < 0.1:
                bench.edge.go_offline()
            elif rng.random() < 0.2:
                bench.edge.go_online()
            bench.edge.upstream.faults.pubacks_withheld = rng.random() < 0.1
        bench.edge.upstream.faults.pubacks_withheld = False
        bench.edge.go_offline()
        bench.edge.go_online()
        await soon(bench.edge.until(lambda: bench.edge.waiting() == 0))
    unique = dict.fromkeys(int(message.message_id or -1) for message in bench.hub.messages)
    assert list(unique) == list(range(300))
