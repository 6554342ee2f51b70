"""What a hub offers by AMQP, seen by a client on the wire: rights, messages to devices, feedback, events."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.amqp import AmqpEndpoint, endpoint
from edge_gateway.testbench.cloud.amqp.composites import (
    Accepted,
    Begin,
    Close,
    Detach,
    Modified,
    Open,
    Properties,
    Rejected,
    Released,
    State,
    Transfer,
)
from edge_gateway.testbench.cloud.amqp.events import Position, position
from edge_gateway.testbench.cloud.amqp.frames import AMQP_HEADER
from edge_gateway.testbench.cloud.amqp.message import Message
from edge_gateway.testbench.cloud.amqp.sessions import Refused
from edge_gateway.testbench.cloud.amqp.values import Symbol, Timestamp, Uint, Value
from edge_gateway.testbench.cloud.cloud_messages import MAX_C2D_BYTES, MAX_C2D_QUEUED
from edge_gateway.testbench.cloud.storage.blob_store import FileNotification
from edge_gateway.testbench.cloud.tokens import sas_token

from .amqp_client import SELECTOR, AmqpClient, Refusal, amqp_client
from .mqtt_client import ShiftedClock, soon

DEVICE_BOUND = "/messages/devicebound"
FEEDBACK = "/messages/serviceBound/feedback"
FILES = "/messages/serviceBound/filenotifications"
PARTITION = "events/ConsumerGroups/$Default/Partitions/0"
UNAUTHORISED = "amqp:unauthorized-access"


class Bench:
    """A hub with AMQP behind a front door, and clients of it."""

    def __init__(self, hub: LocalHub, amqp: AmqpEndpoint, door: FrontDoor, authority: LocalAuthority) -> None:
        self.hub, self.amqp, self.door, self._authority = hub, amqp, door, authority

    def token(self, policy: str = "service", *, resource: str | None = None, lifetime_s: int = 600) -> str:
        expires_s = self.hub.now_ns() // 10**9 + lifetime_s
        key = self.hub.policies[policy].primary_key
        return sas_token(resource if resource is not None else self.hub.host_name, key, expires_s, policy=policy)

    def events_token(self, path: str = "events", policy: str = "service") -> str:
        """As Event Hubs' clients make it: `sb://` in front, and signed with the key's text."""
        key = base64.b64encode(self.hub.policies[policy].primary_key.encode()).decode()
        return sas_token(f"sb://{self.hub.host_name}/{path}", key, int(time.time()) + 600, policy=policy)

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[AmqpClient]:
        async with amqp_client(self.door.address, self.door.ports()["amqp"], self._authority) as client:
            yield client

    @asynccontextmanager
    async def client(self, *, token: str | None = None) -> AsyncIterator[AmqpClient]:
        """A client that has the rights of a service."""
        async with self.raw() as client:
            await client.open()
            assert await client.put_token(token if token is not None else self.token()) == 200
            yield client

    def telemetry(self, count: int = 1, **system: str) -> None:
        """Have device `dev` send numbered messages."""
        device = self.hub.identity("dev")
        for _ in range(count):
            body = b"%d" % self.hub.statistics.messages
            self.hub.receive(
                self.hub.message_from(device, {"k": "é"}, {k.replace("_", "-"): v for k, v in system.items()}, body)
            )
        self.hub.changed()


@asynccontextmanager
async def bench_of(hub: LocalHub, authority: LocalAuthority, **settings: Any) -> AsyncIterator[Bench]:
    amqp = AmqpEndpoint(hub, **settings)
    door = FrontDoor([hub], authority=authority, address=hub.address, mqtt_port=0, https_port=None)
    door.offer("amqp", 0, amqp.make_connection)
    async with door:
        yield Bench(hub, amqp, door, authority)
        amqp.close()


@pytest.fixture
async def bench(authority: LocalAuthority, address: str) -> AsyncIterator[Bench]:
    hub = LocalHub(address=address, rng=random.Random(1))
    hub.add_device("dev")
    async with bench_of(hub, authority) as bench:
        yield bench


def condition(state: State) -> str:
    """Why a message was rejected."""
    assert isinstance(state, Rejected)
    assert state.error is not None
    return state.error.condition


def to_device(body: bytes = b"hello", device: str = "dev", **fields: Any) -> Message:
    application = fields.pop("application", {})
    to = f"/devices/{device}/messages/devicebound"
    return Message(body, None, Properties(to=to, **fields), application)


# Rights


@pytest.mark.parametrize("node", [DEVICE_BOUND, FEEDBACK, FILES, PARTITION, "$management"])
async def test_nothing_without_a_token(bench: Bench, node: str) -> None:
    """Without a token there is nothing but `$cbs`."""
    async with bench.raw() as client:
        await client.open()
        with pytest.raises(Refusal) as refusal:
            await client.receiver(node) if node != DEVICE_BOUND else await client.sender(node)
        assert refusal.value.condition == UNAUTHORISED


@pytest.mark.parametrize("policy", ["service", "iothubowner"])
async def test_service_policies(bench: Bench, policy: str) -> None:
    """Tokens of the policies that may connect as a service give the rights."""
    async with bench.client(token=bench.token(policy)) as client:
        await client.sender(DEVICE_BOUND)


@pytest.mark.parametrize(
    "fault", ["device", "registryRead", "expired", "host", "key", "none", "kind", "events-host", "events-device"]
)
async def test_tokens_that_do_not_do(bench: Bench, fault: str) -> None:
    """A token that is not for this, by policy, time, host or key, is answered with 401; another kind with 400."""
    token, kind = bench.token(), "servicebus.windows.net:sastoken"
    match fault:
        case "device" | "registryRead":
            token = bench.token(fault)
        case "expired":
            token = bench.token(lifetime_s=-5)
        case "host":
            token = bench.token(resource="other.example")
        case "key":
            token = sas_token(
                bench.hub.host_name, base64.b64encode(bytes(32)).decode(), int(time.time()) + 60, policy="service"
            )
        case "none":
            token = "hunter2"
        case "kind":
            kind = "jwt"
        case "events-host":
            token = bench.events_token().replace("sb%3A%2F%2F127", "sb%3A%2F%2F126")
        case "events-device":
            token = bench.events_token(policy="device")
    async with bench.raw() as client:
        await client.open()
        assert await client.put_token(token, kind) == (400 if fault == "kind" else 401)
        with pytest.raises(Refusal):
            await client.sender(DEVICE_BOUND)


async def test_token_for_a_part(bench: Bench) -> None:
    """An Event Hubs token for a partition gives the right to read it, and to nothing else."""
    async with bench.client(token=bench.events_token(PARTITION)) as client:
        await client.receiver(PARTITION)
        await client.receiver("$management")
        with pytest.raises(Refusal):
            await client.sender(DEVICE_BOUND)


async def test_rights_end_with_the_token(authority: LocalAuthority, address: str) -> None:
    """When the token ends, the links that need it are detached; a new one gives the rights again."""
    ahead_s = 0.7 - time.time() % 1  # so that the next full second by the hub's clock is 0.3 s away
    hub = LocalHub(address=address, clock=ShiftedClock(ahead_s))
    async with bench_of(hub, authority) as bench, bench.client(token=bench.token(lifetime_s=1)) as client:
        await client.sender(DEVICE_BOUND)
        detach = await soon(client.hear())
        assert isinstance(detach, Detach)
        assert detach.error is not None
        assert detach.error.condition == UNAUTHORISED
        with pytest.raises(Refusal):
            await client.sender(DEVICE_BOUND)
        assert await client.put_token(bench.token()) == 200
        await client.sender(DEVICE_BOUND)


@pytest.mark.parametrize(
    ("password", "code"), [("key", 0), ("token", 0), ("a2V5", 1), ("not base64", 1), ("two\0parts", 1)]
)
async def test_plain(bench: Bench, password: str, code: int) -> None:
    """A policy's name with its key or a token does by SASL PLAIN; anything else ends the connection."""
    known = {"key": bench.hub.policies["service"].primary_key, "token": bench.token()}
    async with bench.raw() as client:
        user = f"service@sas.root.{bench.hub.host_name}"
        assert await client.sasl("PLAIN", f"\0{user}\0{known.get(password, password)}".encode()) == code
        if code:
            assert await client.closed() == []
        else:
            await client.open()
            await client.sender(DEVICE_BOUND)


async def test_request_without_a_reply_link(bench: Bench) -> None:
    """A request that cannot be answered is rejected."""
    async with bench.raw() as client:
        await client.open()
        cbs = await client.sender("$cbs")
        assert condition(await client.put(cbs, Message(value="x"))) == "amqp:precondition-failed"


async def test_replies_are_bounded(bench: Bench) -> None:
    """Who takes no replies cannot pile them up."""
    async with bench.raw() as client:
        await client.open()
        await client.receiver("$cbs", credit=0)
        cbs = await client.sender("$cbs")
        states = [await client.put(cbs, Message(value="x")) for _ in range(17)]
        assert states[:16] == [Accepted()] * 16
        assert condition(states[16]) == "amqp:resource-limit-exceeded"


# Messages to devices


async def test_message_to_a_device(bench: Bench) -> None:
    """A message arrives at the device's queue with all that was said about it."""
    async with bench.client() as client:
        link = await client.sender(f"amqps://{bench.hub.host_name}{DEVICE_BOUND}")
        expires_ms = Timestamp(bench.hub.now_ns() // 10**6 + 60_000)
        message = to_device(
            message_id="m",
            correlation_id="c",
            user_id=b"me",
            content_type=Symbol("application/json"),
            content_encoding=Symbol("utf-8"),
            absolute_expiry_time=expires_ms,
            application={
                "text": "é",
                "number": 5,
                "flag": True,
                "none": None,
                "at": Timestamp(0),
                "iothub-ack": "full",
            },
        )
        assert await client.put(link, message) == Accepted()
    received = bench.hub.receive_c2d("dev")
    assert received is not None
    assert received.body == b"hello"
    assert received.properties == {
        "text": "é",
        "number": "5",
        "flag": "true",
        "none": None,
        "at": "1970-01-01T00:00:00.000000Z",
        "iothub-ack": "full",
    }
    assert received.expires_ns == expires_ms * 10**6
    assert received.ack.value == "full"
    expiry = received.system_properties["absolute-expiry-time"]
    assert received.system_properties == {
        "message-id": "m",
        "correlation-id": "c",
        "user-id": "me",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "absolute-expiry-time": expiry,
        "to": "/devices/dev/messages/devicebound",
    }


@pytest.mark.parametrize("written", ["a%25b", "a%b"])
async def test_device_ids_may_be_encoded(bench: Bench, written: str) -> None:
    """A device's id is understood with and without percent-encoding: the SDKs differ."""
    bench.hub.add_device("a%b")
    async with bench.client() as client:
        assert await client.put(await client.sender(DEVICE_BOUND), to_device(device=written)) == Accepted()
    assert bench.hub.receive_c2d("a%b") is not None


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (to_device(device="nobody"), "amqp:not-found"),
        (Message(b"x"), "amqp:not-found"),
        (Message(b"x", properties=Properties(to="/devices/dev/elsewhere")), "amqp:not-found"),
        (Message(value="x", properties=to_device().properties), "amqp:not-implemented"),
        (to_device(bytes(MAX_C2D_BYTES + 1)), "amqp:link:message-size-exceeded"),
        (to_device(application={"iothub-ack": "often"}), "com.microsoft:argument-error"),
    ],
)
async def test_messages_that_cannot_be_sent(bench: Bench, message: Message, why: str) -> None:
    """A message that cannot be sent is rejected with the reason, and the link goes on."""
    async with bench.client() as client:
        link = await client.sender(DEVICE_BOUND)
        assert condition(await client.put(link, message)) == why
        assert await client.put(link, to_device()) == Accepted()


async def test_full_queue(bench: Bench) -> None:
    """More messages than a device's queue holds are rejected."""
    async with bench.client() as client:
        link = await client.sender(DEVICE_BOUND)
        for _ in range(MAX_C2D_QUEUED):
            assert await client.put(link, to_device()) == Accepted()
        assert condition(await client.put(link, to_device())) == "amqp:resource-limit-exceeded"


async def test_too_many_messages(authority: LocalAuthority, address: str) -> None:
    """More messages than the hub's tier allows are rejected."""
    hub = LocalHub(address=address, tier="S1")
    hub.add_device("dev")
    async with bench_of(hub, authority) as bench, bench.client() as client:
        link = await client.sender(DEVICE_BOUND)
        states = [await client.put(link, to_device()) for _ in range(3)]
        assert condition(states[-1]) == "com.microsoft:device-container-throttled"


async def test_link_to_nowhere(bench: Bench) -> None:
    """A link to an address where nothing is is refused."""
    async with bench.client() as client:
        with pytest.raises(Refusal) as refusal:
            await client.sender("/messages/elsewhere")
        assert refusal.value.condition == "amqp:not-found"


# Feedback and file notifications


async def done(bench: Bench, *message_ids: str) -> None:
    """Have the device complete messages whose sender wants to know."""
    for message_id in message_ids:
        bench.hub.send_c2d("dev", b"x", message_id=message_id, ack="full")
        message = bench.hub.receive_c2d("dev")
        assert message is not None
        bench.hub.complete_c2d("dev", message.lock_token)


def originals(message: Message) -> list[str]:
    assert message.data is not None
    return [record["originalMessageId"] for record in orjson.loads(message.data)]


async def test_feedback(bench: Bench) -> None:
    """Feedback comes as JSON, and is gone when it was accepted."""
    async with bench.client() as client:
        await client.receiver(FEEDBACK)
        await done(bench, "m")
        delivery, message = await client.take()
        assert message.properties.content_type == "application/vnd.microsoft.iothub.feedback.json"
        assert message.properties.user_id == bench.hub.host_name.encode()
        [record] = orjson.loads(message.data or b"")
        assert record.pop("enqueuedTimeUtc").endswith("Z")
        assert record == {
            "originalMessageId": "m",
            "statusCode": "Success",
            "description": "Success",
            "deviceId": "dev",
            "deviceGenerationId": bench.hub.identity("dev").generation_id,
        }
        client.settle(delivery, Accepted())
        await done(bench, "n")
        assert originals((await client.take())[1]) == ["n"]


async def test_feedback_in_batches(authority: LocalAuthority, address: str) -> None:
    """Records that wait go together, up to 64 in a message; the rest gathers company for as long as was asked for."""
    hub = LocalHub(address=address)
    hub.add_device("dev")
    async with bench_of(hub, authority, gather_feedback_s=30.0) as bench, bench.client() as client:
        await done(bench, *map(str, range(100)))
        await client.receiver(FEEDBACK)
        assert originals((await client.take())[1]) == [str(n) for n in range(64)]
        await done(bench, *map(str, range(100, 128)))
        assert originals((await client.take())[1]) == [str(n) for n in range(64, 128)]


@pytest.mark.parametrize("way", ["released", "modified", "detached", "lost"])
async def test_feedback_that_is_given_back(bench: Bench, way: str) -> None:
    """Feedback that was not taken is handed out again, in order."""
    async with bench.client() as client:
        link = await client.receiver(FEEDBACK, credit=2)
        for message_id in ("1", "2"):
            await done(bench, message_id)
            delivery, _ = await client.take()
        await done(bench, "3")
        match way:
            case "released":
                client.settle(delivery, Released(), first=delivery - 1)
            case "modified":
                client.settle(delivery, Modified(), first=delivery - 1)
            case "detached":
                client.send(Detach(Uint(link), closed=True))
    await soon(bench.hub.until(lambda: len(bench.hub.feedback) == 3))
    async with bench.client() as client:
        await client.receiver(FEEDBACK)
        assert originals((await client.take())[1]) == ["1", "2", "3"]


async def test_feedback_that_was_settled_by_sending(bench: Bench) -> None:
    """A reader that wants messages settled gets them once."""
    async with bench.client() as client:
        await client.receiver(FEEDBACK, settled=True)
        await done(bench, "1")
        await client.take()
    await soon(bench.hub.until(lambda: not bench.hub.feedback))


async def test_file_notifications(bench: Bench) -> None:
    """What a device has uploaded is told as JSON, each file for itself; a rejected note is gone."""
    async with bench.client() as client:
        await client.receiver(FILES)
        for name in ("a", "b"):
            bench.hub.blobs.file_notifications.append(
                FileNotification("dev", f"https://host/c/dev/{name}", f"dev/{name}", 10**9, 5, 2 * 10**9)
            )
        bench.hub.changed()
        delivery, message = await client.take()
        assert orjson.loads(message.data or b"") == {
            "deviceId": "dev",
            "blobUri": "https://host/c/dev/a",
            "blobName": "dev/a",
            "lastUpdatedTime": "1970-01-01T00:00:01.000000Z",
            "blobSizeInBytes": 5,
            "enqueuedTimeUtc": "1970-01-01T00:00:02.000000Z",
        }
        client.settle(delivery, Rejected())
        await client.take()
        assert not bench.hub.blobs.file_notifications


# Events


def reading() -> dict[str, Value]:
    return {"operation": "READ", "name": "events", "type": "com.microsoft:partition", "partition": "0"}


async def test_event_hub_properties(bench: Bench) -> None:
    """`$management` tells of the event hub and its one partition, empty and not."""
    async with bench.client(token=bench.events_token()) as client:
        asked: dict[str, Value] = {"operation": "READ", "name": "events", "type": "com.microsoft:eventhub"}
        reply = await client.request("$management", Message(b"", application_properties=asked))
        assert reply.application_properties["status-code"] == 200
        assert isinstance(reply.value, dict)
        assert (reply.value["name"], reply.value["partition_ids"]) == ("events", ["0"])
        empty = await client.request("$management", Message(b"", application_properties=reading()))
        bench.telemetry(3)
        full = await client.request("events/$management", Message(b"", application_properties=reading()))
        told = [(reply.value or {}) for reply in (empty, full)]
        names = ("begin_sequence_number", "last_enqueued_sequence_number", "last_enqueued_offset", "is_partition_empty")
        assert [[each[name] for name in names] for each in told if isinstance(each, dict)] == [
            [0, -1, "-1", True],
            [0, 2, "2", False],
        ]


@pytest.mark.parametrize(
    "change", [{"operation": "WRITE"}, {"name": "other"}, {"name": None}, {"type": "x"}, {"partition": "1"}]
)
async def test_management_knows_no_more(bench: Bench, change: dict[str, Value]) -> None:
    """Other requests to `$management` are answered with 404."""
    async with bench.client() as client:
        reply = await client.request("$management", Message(b"", application_properties={**reading(), **change}))
        assert reply.application_properties["status-code"] == 404


async def test_event(bench: Bench) -> None:
    """An event carries the device's message and what the hub knows about it."""
    async with bench.client() as client:
        await client.receiver(PARTITION)
        bench.telemetry(
            message_id="m",
            correlation_id="c",
            user_id="u",
            content_type="application/json",
            content_encoding="ü",
            creation_time_utc="2026-01-01T00:00:00Z",
            absolute_expiry_time="never",
            dt_subject="part",
        )
        _, message = await client.take()
    sent = bench.hub.messages[0]
    assert message.data == b"0"
    assert message.application_properties == {"k": "é"}
    assert message.properties == Properties(
        message_id="m",
        user_id=b"u",
        correlation_id="c",
        content_type=Symbol("application/json"),
        creation_time=Timestamp(1_767_225_600_000),
    )
    enqueued = sent.enqueued_ns // 10**6
    assert message.annotations == {
        "x-opt-sequence-number": 0,
        "x-opt-offset": "0",
        "x-opt-enqueued-time": enqueued,
        "iothub-enqueuedtime": enqueued,
        "iothub-message-source": "Telemetry",
        "dt-subject": "part",
        "iothub-connection-device-id": "dev",
        "iothub-connection-auth-generation-id": bench.hub.identity("dev").generation_id,
        "iothub-connection-auth-method": '{"scope":"device","type":"sas","issuer":"iothub"}',
    }


@pytest.mark.parametrize(
    ("selector", "first"),
    [
        (None, 0),
        ("amqp.annotation.x-opt-offset > '-1'", 0),
        ("amqp.annotation.x-opt-offset > '1'", 2),
        ("amqp.annotation.x-opt-offset >= '1'", 1),
        ("amqp.annotation.x-opt-sequence-number > '2'", 3),
        ("amqp.annotation.x-opt-sequence-number >= 2", 2),
        ("amqp.annotation.x-opt-offset > '@latest'", 4),
        ("amqp.annotation.x-opt-offset >= '@latest'", 3),
        ("amqp.annotation.x-opt-enqueued-time > '0'", 0),
        ("amqp.annotation.x-opt-enqueued-time > '9999999999999'", None),
    ],
)
async def test_where_to_begin(bench: Bench, selector: str | None, first: int | None) -> None:
    """A reader begins where its filter says, and goes on with what comes."""
    bench.telemetry(4)
    async with bench.client() as client:
        await client.receiver("messages/events/consumergroups/$default/partitions/0", selector=selector)
        await client.put_token(bench.token())  # so that the reader is there before what comes
        bench.telemetry()
        if first is None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.take()
        else:
            assert [(await client.take())[1].data for _ in range(5 - first)] == [b"%d" % n for n in range(first, 5)]


@pytest.mark.parametrize(
    ("node", "selector", "why"),
    [
        ("events/ConsumerGroups/$Default/Partitions/1", None, "amqp:not-found"),
        ("events/ConsumerGroups/other/Partitions/0", None, "amqp:not-found"),
        ("other/ConsumerGroups/$Default/Partitions/0", None, "amqp:not-found"),
        ("events", None, "amqp:not-found"),
        (PARTITION, "amqp.annotation.x-opt-offset = '5'", "com.microsoft:argument-error"),
    ],
)
async def test_readers_that_are_refused(bench: Bench, node: str, selector: str | None, why: str) -> None:
    """A partition, group or event hub that is not there, or a filter that cannot be read, is refused."""
    async with bench.client() as client:
        with pytest.raises(Refusal) as refusal:
            await client.receiver(node, selector=selector)
        assert refusal.value.condition == why


@given(
    st.text(max_size=80) | st.from_regex(r"amqp\.annotation\.x-opt-(offset|enqueued-time) >=? '.*'"), st.integers(-1, 9)
)
def test_any_filter(text: str, last_sequence: int) -> None:
    """Any text is a position or refused, never another error."""
    try:
        found = position({SELECTOR: text}, last_sequence)
    except Refused:
        return
    assert isinstance(found, Position)


async def test_consumer_groups(authority: LocalAuthority, address: str) -> None:
    """Each consumer group reads all events for itself."""
    hub = LocalHub(address=address)
    hub.add_device("dev")
    async with (
        bench_of(hub, authority, event_hub="telemetry", consumer_groups=("one", "Two")) as bench,
        bench.client() as client,
    ):
        bench.telemetry()
        for group in ("ONE", "two"):
            await client.receiver(f"telemetry/ConsumerGroups/{group}/Partitions/0")
            assert (await client.take())[1].data == b"0"


async def test_metrics(bench: Bench) -> None:
    """A reader that asks for it hears with each event which is the newest."""
    bench.telemetry(3)
    async with bench.client() as client:
        await client.receiver(PARTITION, wants="com.microsoft:enable-receiver-runtime-metric")
        _, message = await client.take()
    assert message.delivery_annotations["last_enqueued_sequence_number"] == 2
    assert message.delivery_annotations["last_enqueued_offset"] == "2"
    assert "runtime_info_retrieval_time_utc" in message.delivery_annotations


async def test_credit_is_kept_to(bench: Bench) -> None:
    """A reader gets as many events as it gives credit for."""
    bench.telemetry(5)
    async with bench.client() as client:
        link = await client.receiver(PARTITION, credit=2)
        await client.take()
        await client.take()
        await client.put_token(bench.token())
        client.grant(link, 3)
        assert [(await client.take())[1].data for _ in range(3)] == [b"2", b"3", b"4"]


async def test_large_event(bench: Bench) -> None:
    """An event of the largest size gets through small frames."""
    body = random.Random(1).randbytes(250_000)
    async with bench.raw() as client:
        await client.open(max_frame_bytes=600)
        await client.put_token(bench.token())
        await client.receiver(PARTITION)
        bench.hub.receive(bench.hub.message_from(bench.hub.identity("dev"), {}, {}, body))
        bench.hub.changed()
        assert (await client.take())[1].data == body


async def test_slow_reader(bench: Bench) -> None:
    """A reader that stops reading holds up nobody and fills no memory, and gets everything when it reads again."""
    device = bench.hub.identity("dev")
    for _ in range(200):
        bench.hub.receive(bench.hub.message_from(device, {}, {}, bytes(100_000)))
    async with bench.client() as slow, bench.client() as quick:
        await slow.receiver(PARTITION, credit=1000)
        await quick.receiver(PARTITION, credit=1000)
        for _ in range(200):
            await quick.take()
        waiting = [connection._transport.get_write_buffer_size() for connection in bench.amqp._connections]
        assert max(waiting) < 1_000_000
        for _ in range(200):
            await slow.take()


async def test_owners(bench: Bench) -> None:
    """An owner sends all others away but an owner of a higher level, and keeps out who is none."""
    epoch = "com.microsoft:epoch"
    async with bench.client() as one, bench.client() as two:
        await one.receiver(PARTITION)
        await two.receiver(PARTITION, properties={epoch: 1})
        with pytest.raises(Refusal) as away:
            await one.take()
        assert away.value.condition == "amqp:link:stolen"
        for level in (None, 0):
            with pytest.raises(Refusal) as refusal:
                await one.receiver(PARTITION, properties={epoch: level})
            assert refusal.value.condition == "amqp:link:stolen"
        await one.receiver(PARTITION, properties={epoch: 1})
        with pytest.raises(Refusal):
            await two.take()


async def test_five_readers(bench: Bench) -> None:
    """Five readers share a group; a sixth is refused until one has gone."""
    async with bench.client() as client:
        links = [await client.receiver(PARTITION) for _ in range(5)]
        with pytest.raises(Refusal) as refusal:
            await client.receiver(PARTITION)
        assert refusal.value.condition == "amqp:resource-limit-exceeded"
        client.send(Detach(Uint(links[0]), closed=True))
        with pytest.raises(Refusal):
            await client.take()  # the answer to the detach
        await client.receiver(PARTITION)


async def test_fault_in_a_feed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the bench's own ends the link with a word on it, and is logged."""

    def fail(_: int | None) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench.hub, "events", fail)
    with capture_logs() as logs:
        async with bench.client() as client:
            await client.receiver(PARTITION)
            with pytest.raises(Refusal) as refusal:
                await client.take()
    assert refusal.value.condition == "amqp:internal-error"
    assert "testbench.amqp.feed_failed" in [each["event"] for each in logs]


# Connections


async def test_closing(bench: Bench) -> None:
    """An endpoint that closes says so to its clients."""
    async with bench.client() as client:
        await client.receiver(PARTITION)
        bench.amqp.close()
        [close] = await client.closed()
        assert isinstance(close, Close)
        assert close.error is not None
        assert close.error.condition == "amqp:connection:forced"


async def test_client_that_wants_to_hear(bench: Bench) -> None:
    """A client that gives up on silence is kept company."""
    async with bench.raw() as client:
        client._writer.write(AMQP_HEADER)
        client.send(Open("test", idle_time_out=Uint(200)))
        data = b""
        async with asyncio.timeout(10):
            while not data.endswith(bytes.fromhex("0000000802000000") * 2):
                data += await client._stream.read(1000)


async def test_silent_client(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is silent for too long is cut off."""
    monkeypatch.setattr(endpoint, "_SILENCE_S", 0.2)
    async with bench.raw() as client:
        await client.open()
        assert await client.closed() == []


@pytest.mark.parametrize("seed", range(10))
async def test_noise(bench: Bench, seed: int) -> None:
    """Whatever comes, the connection ends in order or waits for more, and the hub serves others."""
    rng = random.Random(seed)
    async with bench.raw() as client:
        client._writer.write(AMQP_HEADER + rng.randbytes(5000))
        await client.closed()
    async with bench.client() as client:
        client.send(Begin(None, Uint(0), Uint(0), Uint(0)), rng.randbytes(50))
        client.send(Transfer(Uint(rng.randrange(9)), Uint(0)), rng.randbytes(50))
    async with bench.client() as client:
        await client.sender(DEVICE_BOUND)
