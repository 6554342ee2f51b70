"""The hub's rules, seen by a client that can break each of them."""

from __future__ import annotations

import asyncio
import base64
import random
import time

import pytest

from edge_gateway.clock import NS_PER_S
from edge_gateway.errors import BenchError
from edge_gateway.testbench import (
    DeliveryState,
    DeviceNotOnline,
    LocalAuthority,
    LocalHub,
    MethodResponse,
    MethodTimedOut,
    sas_token,
)
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    Will,
)

from .mqtt_client import ShiftedClock, connected_client, soon, tls_client

EVENTS = "devices/sensor-1/messages/events/"
DEVICEBOUND = "devices/sensor-1/messages/devicebound/#"
METHODS = "$iothub/methods/POST/#"
TWIN_RESPONSES = "$iothub/twin/res/#"


# Who may connect


async def test_accepted(hub: LocalHub, authority: LocalAuthority) -> None:
    """A registered device with a good token is let in."""
    async with connected_client(hub, authority):
        assert hub.is_connected("sensor-1")
        assert hub.statistics.connections == 1


async def test_secondary_key(hub: LocalHub, authority: LocalAuthority) -> None:
    """The secondary key is as good as the primary."""
    device = hub.add_device("sensor-1")
    token = sas_token(f"{hub.host_name}/devices/sensor-1", device.secondary_key, int(time.time()) + 60)
    async with tls_client(hub, authority) as client:
        assert await client.connect(hub, "sensor-1", token=token) == Connack(0)


async def test_username_forms(hub: LocalHub, authority: LocalAuthority) -> None:
    """Each client's way of writing the user name is understood; the host is free in upper and lower case."""
    hub.add_device("sensor-1")
    for query in (
        "?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0",
        "?api-version=2021-04-12&model-id=dtmi:com:x;1&DeviceClientType=a%20(b)",
        "api-version=2016-11-14",
    ):
        async with tls_client(hub, authority) as client:
            username = f"{hub.host_name.upper()}/sensor-1/{query}"
            assert await client.connect(hub, "sensor-1", username=username) == Connack(0)


@pytest.mark.parametrize(
    "username",
    [
        "",
        "HOST",
        "HOST/sensor-1",
        "HOST/sensor-1/",
        "HOST/sensor-1/?DeviceClientType=x",
        "HOST/sensor-2/?api-version=2021-04-12",
        "other.example/sensor-1/?api-version=2021-04-12",
        "HOST/sensor-1/module/?api-version=2021-04-12",
    ],
)
async def test_username_not_for_this_hub(hub: LocalHub, authority: LocalAuthority, username: str) -> None:
    """A user name that is for another hub or device, or has no API version, is not authorised."""
    hub.add_device("sensor-1")
    async with tls_client(hub, authority) as client:
        username = username.replace("HOST", hub.host_name)
        assert await client.connect(hub, "sensor-1", username=username) == Connack(5)
        await client.closed()


async def test_not_authorised(hub: LocalHub, authority: LocalAuthority) -> None:
    """Unknown and disabled devices, foreign and missing tokens get return code 5 and are cut off."""
    hub.add_device("sensor-1")
    hub.add_device("sensor-2")
    hub.add_device("disabled")
    hub.set_enabled("disabled", False)
    attempts = [
        ("unknown", hub.sas_token("sensor-1")),
        ("disabled", hub.sas_token("disabled")),
        ("sensor-1", hub.sas_token("sensor-2")),
        ("sensor-1", hub.sas_token("sensor-1", lifetime_s=-1)),
        ("sensor-1", ""),
    ]
    for device_id, token in attempts:
        async with tls_client(hub, authority) as client:
            assert await client.connect(hub, device_id, token=token) == Connack(5)
            await client.closed()
    async with tls_client(hub, authority) as client:
        client.send(Connect("sensor-1", username=f"{hub.host_name}/sensor-1/?api-version=2021-04-12"))
        assert await client.receive(Connack) == Connack(5)
    assert hub.door.statistics.denied == 6
    assert hub.statistics.connections == 0


async def test_enabled_again(hub: LocalHub, authority: LocalAuthority) -> None:
    """Disabling a device drops its connection; enabled again it may come back."""
    async with connected_client(hub, authority) as client:
        hub.set_enabled("sensor-1", False)
        await client.closed()
    hub.set_enabled("sensor-1", True)
    async with connected_client(hub, authority):
        pass


async def test_removed(hub: LocalHub, authority: LocalAuthority) -> None:
    """Removing a device drops its connection and turns it away."""
    async with connected_client(hub, authority) as client:
        token = hub.sas_token("sensor-1")
        hub.remove_device("sensor-1")
        await client.closed()
    async with tls_client(hub, authority) as client:
        assert await client.connect(hub, "sensor-1", token=token) == Connack(5)


async def test_token_end(authority: LocalAuthority, address: str) -> None:
    """A connection is dropped when its token ends."""
    clock = ShiftedClock(0.0)
    async with LocalHub(authority=authority, address=address, clock=clock) as hub:
        hub.add_device("sensor-1")
        token = hub.sas_token("sensor-1", lifetime_s=3600)
        expires_s = int(token.rpartition("se=")[2])
        clock.ahead_s = expires_s - 0.2 - time.time()
        async with tls_client(hub, authority) as client:
            assert await client.connect(hub, "sensor-1", token=token) == Connack(0)
            await client.closed()
        assert clock.now_ns() / NS_PER_S >= expires_s


async def test_take_over(hub: LocalHub, authority: LocalAuthority) -> None:
    """A device has one connection: the newest."""
    async with connected_client(hub, authority) as old, connected_client(hub, authority) as new:
        await old.closed()
        await new.publish(EVENTS)
        assert hub.is_connected("sensor-1")
        assert hub.statistics.taken_over == 1


async def test_keep_alive(hub: LocalHub, authority: LocalAuthority) -> None:
    """A client that is silent for one and a half times its keep-alive is dropped; a ping is a sign of life."""
    loop = asyncio.get_running_loop()
    async with connected_client(hub, authority, keep_alive_s=1) as client:
        await asyncio.sleep(0.5)
        client.send(Pingreq())
        assert await client.receive(Pingresp) == Pingresp()
        pinged_s = loop.time()
        await client.closed()
        assert 1.4 <= loop.time() - pinged_s < 5


async def test_leaving(hub: LocalHub, authority: LocalAuthority) -> None:
    """After DISCONNECT the hub closes the connection and the device is away."""
    async with connected_client(hub, authority) as client:
        client.send(Disconnect())
        await client.closed()
        await soon(hub.until(lambda: not hub.is_connected("sensor-1")))


# What closes a connection


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        Pingreq().encode(),
        Publish(EVENTS, b"").encode(),
        bytes.fromhex("100c 0004 4d515454 05 02 003c 0000"),
    ],
    ids=["http", "ping-first", "publish-first", "mqtt-5"],
)
async def test_not_connect_first(hub: LocalHub, authority: LocalAuthority, data: bytes) -> None:
    """Whoever does not begin with an MQTT 3.1.1 CONNECT is cut off without an answer."""
    async with tls_client(hub, authority) as client:
        client.send_bytes(data)
        await client.closed()
    assert hub.door.statistics.violations == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",
        Connect("sensor-1").encode(),
        Connack(0).encode(),
        Pubrec(1).encode(),
        Publish(EVENTS, b"", 2, 1).encode(),
        Publish("devices/sensor-2/messages/events/", b"", 1, 1).encode(),
        Publish("anything", b"", 1, 1).encode(),
        Publish(EVENTS, bytes(256 * 1024 + 1), 1, 1).encode(),
        Publish(f"{EVENTS}a=%ff", b"", 1, 1).encode(),
    ],
    ids=["bytes", "connect", "connack", "pubrec", "qos-2", "other-device", "topic", "size", "bag"],
)
async def test_violations(hub: LocalHub, authority: LocalAuthority, data: bytes) -> None:
    """What MQTT or the hub forbids closes the connection, after all that came before it was served."""
    async with connected_client(hub, authority) as client:
        client.send_bytes(Publish(EVENTS, b"before", 1, 7).encode() + data)
        assert await client.receive(Puback) == Puback(7)
        await soon(hub.until(lambda: hub.door.statistics.violations == 1))
        await soon(hub.until(lambda: not hub.is_connected("sensor-1")))
    assert [message.body for message in hub.messages] == [b"before"]


async def test_noise_instead_of_tls(hub: LocalHub, authority: LocalAuthority) -> None:
    """Bytes that are not TLS are turned away, and the hub goes on."""
    _, writer = await asyncio.open_connection(hub.address, hub.port)
    writer.write(Connect("sensor-1").encode())
    writer.close()
    await writer.wait_closed()
    async with connected_client(hub, authority) as client:
        await client.publish(EVENTS)


# Device to cloud


async def test_telemetry(hub: LocalHub, authority: LocalAuthority) -> None:
    """A message is received with its properties and stamped by the hub before it is confirmed."""
    async with connected_client(hub, authority) as client:
        await client.publish(f"{EVENTS}%24.mid=m%201&$.ct=application%2Fjson&a%26b=c%3Dd/", b"[1]")
    message = hub.messages[0]
    assert (message.device_id, message.message_id, message.body) == ("sensor-1", "m 1", b"[1]")
    assert message.properties == {"a&b": "c=d"}
    assert message.system_properties["content-type"] == "application/json"
    assert message.system_properties["iothub-connection-device-id"] == "sensor-1"
    assert abs(message.enqueued_ns - time.time_ns()) < 10 * NS_PER_S


async def test_largest_message(hub: LocalHub, authority: LocalAuthority) -> None:
    """Body and properties may have 256 KB together."""
    async with connected_client(hub, authority) as client:
        await client.publish(f"{EVENTS}key=value", bytes(256 * 1024 - len("keyvalue")))
    assert hub.statistics.messages == 1


async def test_qos_0_and_retain(hub: LocalHub, authority: LocalAuthority) -> None:
    """QoS 0 is taken without an answer; the retain flag becomes a property."""
    async with connected_client(hub, authority) as client:
        client.send(Publish(EVENTS, b"", retain=True), Pingreq())
        assert await client.receive(Pingresp) == Pingresp()
    assert hub.messages[0].properties == {"mqtt-retain": "true"}


async def test_callback_and_bounded_memory(authority: LocalAuthority, address: str) -> None:
    """`on_message` sees every message, `messages` the newest ones."""
    bodies: list[bytes] = []
    async with (
        LocalHub(
            authority=authority,
            address=address,
            on_message=lambda message: bodies.append(message.body),
            keep_messages=2,
        ) as hub,
        connected_client(hub, authority) as client,
    ):
        for number in range(3):
            await client.publish(EVENTS, b"%d" % number)
    assert bodies == [b"0", b"1", b"2"]
    assert [message.body for message in hub.messages] == [b"1", b"2"]


@pytest.mark.parametrize("polite", [True, False])
async def test_will(hub: LocalHub, authority: LocalAuthority, polite: bool) -> None:
    """A will becomes a message if the client goes without a word, and only then."""
    will = Will(f"{EVENTS}reason=power", b"gone")
    async with connected_client(hub, authority, will=will) as client:
        if polite:
            client.send(Disconnect())
            await client.closed()
    await soon(hub.until(lambda: not hub.is_connected("sensor-1")))
    bodies = [(message.body, dict(message.properties)) for message in hub.messages]
    assert bodies == ([] if polite else [(b"gone", {"reason": "power", "iothub-MessageType": "Will"})])


# Subscriptions


async def test_subscriptions(hub: LocalHub, authority: LocalAuthority) -> None:
    """The documented filters are granted at QoS 1 at most, others are refused; unsubscribing is confirmed."""
    async with connected_client(hub, authority) as client:
        client.send(
            Subscribe(
                9,
                (
                    Subscription(DEVICEBOUND, 2),
                    Subscription(METHODS, 0),
                    Subscription("#", 1),
                    Subscription("devices/sensor-2/messages/devicebound/#", 1),
                ),
            )
        )
        assert await client.receive(Suback) == Suback(9, (1, 0, None, None))
        client.send(Unsubscribe(10, (METHODS,)))
        assert await client.receive(Unsuback) == Unsuback(10)
        with pytest.raises(DeviceNotOnline):
            await hub.invoke_method("sensor-1", "reboot")


# Cloud to device


async def test_c2d(hub: LocalHub, authority: LocalAuthority) -> None:
    """A message waits for the subscription, is with the device until confirmed, and then complete."""
    async with connected_client(hub, authority) as client:
        sent = hub.send_c2d("sensor-1", b"hello", {"a b": "1", "null": None, "empty": ""}, message_id="m")
        states = [sent.state]
        await client.subscribe(DEVICEBOUND)
        packet = await client.receive(Publish)
        assert packet.topic == (
            "devices/sensor-1/messages/devicebound/"
            "%24.to=%2Fdevices%2Fsensor-1%2Fmessages%2Fdevicebound&%24.mid=m&a%20b=1&null&empty="
        )
        assert (packet.payload, packet.qos, packet.dup) == (b"hello", 1, False)
        states.append(sent.state)
        client.send(Puback(packet.packet_id))
        await soon(sent.completed())
        assert [*states, sent.state] == [DeliveryState.QUEUED, DeliveryState.SENT, DeliveryState.COMPLETED]


async def test_c2d_again(hub: LocalHub, authority: LocalAuthority) -> None:
    """Messages that were not confirmed are sent again after a reconnect, in order, to a kept session at once."""
    async with connected_client(hub, authority, clean_session=False) as client:
        await client.subscribe(DEVICEBOUND)
        sent = [hub.send_c2d("sensor-1", body) for body in (b"1", b"2")]
        packets = [await client.receive(Publish) for _ in sent]
    await soon(hub.until(lambda: not hub.is_connected("sensor-1")))
    sent.append(hub.send_c2d("sensor-1", b"3"))
    async with tls_client(hub, authority) as client:
        assert await client.connect(hub, "sensor-1", clean_session=False) == Connack(0, session_present=True)
        again = [await client.receive(Publish) for _ in sent]
        client.send(*(Puback(packet.packet_id) for packet in again))
        await soon(sent[-1].completed())
    assert [packet.payload for packet in again] == [b"1", b"2", b"3"]
    assert [packet.dup for packet in again] == [True, True, False]
    assert [packet.packet_id for packet in again[:2]] == [packet.packet_id for packet in packets]
    assert [message.attempts for message in sent] == [2, 2, 1]


async def test_c2d_clean_session(hub: LocalHub, authority: LocalAuthority) -> None:
    """A clean session forgets the subscription and keeps the queue."""
    async with connected_client(hub, authority, clean_session=False) as client:
        await client.subscribe(DEVICEBOUND)
    async with connected_client(hub, authority) as client:
        hub.send_c2d("sensor-1", b"1")
        client.send(Pingreq())
        assert await client.receive(Pingresp) == Pingresp()
        await client.subscribe(DEVICEBOUND)
        assert (await client.receive(Publish)).payload == b"1"


async def test_c2d_qos_0(hub: LocalHub, authority: LocalAuthority) -> None:
    """Subscribed with QoS 0, a message is complete when it is sent."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(DEVICEBOUND, qos=0)
        sent = hub.send_c2d("sensor-1", b"1")
        assert sent.state is DeliveryState.COMPLETED
        assert (await client.receive(Publish)).qos == 0


async def test_c2d_limits(hub: LocalHub) -> None:
    """Fifty messages of 64 KB may wait, and no more."""
    hub.add_device("sensor-1")
    with pytest.raises(BenchError):
        hub.send_c2d("sensor-1", bytes(64 * 1024), {"a": ""})
    for _ in range(50):
        hub.send_c2d("sensor-1", bytes(64 * 1024))
    with pytest.raises(BenchError):
        hub.send_c2d("sensor-1", b"")


# Twin


async def test_twin(hub: LocalHub, authority: LocalAuthority) -> None:
    """A device reads its twin, patches what it reports, and is told of desired changes while it listens."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(TWIN_RESPONSES)
        hub.patch_desired("sensor-1", {"period_s": 5})
        await client.publish("$iothub/twin/GET/?$rid=a b", b" ")
        response = await client.receive(Publish)
        assert response.topic == "$iothub/twin/res/200/?$rid=a b"
        assert response.payload == b'{"desired":{"period_s":5,"$version":2},"reported":{"$version":1}}'

        await client.publish("$iothub/twin/PATCH/properties/reported/?$rid=7", b'{"up":true}')
        response = await client.receive(Publish)
        assert (response.topic, response.payload) == ("$iothub/twin/res/204/?$rid=7&$version=2", b"")
        assert hub.twin("sensor-1").reported == {"up": True}

        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        hub.patch_desired("sensor-1", {"period_s": None})
        patch = await client.receive(Publish)
        assert patch.topic == "$iothub/twin/PATCH/properties/desired/?$version=3"
        assert patch.payload == b'{"period_s":null,"$version":3}'


@pytest.mark.parametrize("payload", [b"", b"[1]", b'{"a.b":1}', b"\xff"])
async def test_twin_refused(hub: LocalHub, authority: LocalAuthority, payload: bytes) -> None:
    """A patch that cannot be applied is answered with 400 and a reason, and the connection stays."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(TWIN_RESPONSES)
        await client.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", payload)
        response = await client.receive(Publish)
        assert response.topic == "$iothub/twin/res/400/?$rid=1"
        assert b'"errorCode":400' in response.payload
        await client.publish(EVENTS)
    assert hub.twin("sensor-1").reported_version == 1


# Direct methods


async def test_method(hub: LocalHub, authority: LocalAuthority) -> None:
    """A method's answer comes back to the caller; a late or unknown one is dropped."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(METHODS)
        call = asyncio.create_task(hub.invoke_method("sensor-1", "reboot", {"in_s": 5}))
        request = await client.receive(Publish)
        assert request.topic.startswith("$iothub/methods/POST/reboot/?$rid=")
        assert request.payload == b'{"in_s":5}'
        request_id = request.topic.partition("$rid=")[2]
        await client.publish("$iothub/methods/res/200/?$rid=unknown", b"{}")
        await client.publish(f"$iothub/methods/res/202/?$rid={request_id}", b'{"ok":true}')
        await client.publish(f"$iothub/methods/res/200/?$rid={request_id}", b"{}")
        assert await soon(call) == MethodResponse(202, {"ok": True})


async def test_method_without_payload(hub: LocalHub, authority: LocalAuthority) -> None:
    """No payload is null in the request, and null from the answer."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(METHODS)
        call = asyncio.create_task(hub.invoke_method("sensor-1", "ping"))
        request = await client.receive(Publish)
        assert request.payload == b"null"
        await client.publish(f"$iothub/methods/res/200/?{request.topic.partition('?')[2]}")
        assert await soon(call) == MethodResponse(200, None)


async def test_method_not_online(hub: LocalHub, authority: LocalAuthority) -> None:
    """A device that is away, does not listen, or leaves without an answer is not online."""
    hub.add_device("sensor-1")
    with pytest.raises(DeviceNotOnline):
        await hub.invoke_method("sensor-1", "ping")
    async with connected_client(hub, authority) as client:
        with pytest.raises(DeviceNotOnline):
            await hub.invoke_method("sensor-1", "ping")
        await client.subscribe(METHODS)
        call = asyncio.create_task(hub.invoke_method("sensor-1", "ping"))
        await client.receive(Publish)
    with pytest.raises(DeviceNotOnline):
        await soon(call)


async def test_method_waits_for_the_device(hub: LocalHub, authority: LocalAuthority) -> None:
    """With time to connect, a call waits for a device that is still away."""
    hub.add_device("sensor-1")
    call = asyncio.create_task(hub.invoke_method("sensor-1", "ping", connect_timeout_s=10))
    async with connected_client(hub, authority) as client:
        await client.subscribe(METHODS)
        request = await client.receive(Publish)
        await client.publish(f"$iothub/methods/res/200/?{request.topic.partition('?')[2]}", b"1")
        assert await soon(call) == MethodResponse(200, 1)


async def test_method_time_out(hub: LocalHub, authority: LocalAuthority) -> None:
    """A device that does not answer in time leaves the caller with a time-out."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(METHODS)
        with pytest.raises(MethodTimedOut):
            await hub.invoke_method("sensor-1", "ping", timeout_s=0.05)


async def test_method_answer_is_not_json(hub: LocalHub, authority: LocalAuthority) -> None:
    """An answer that is not JSON closes the connection."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(METHODS)
        call = asyncio.create_task(hub.invoke_method("sensor-1", "ping"))
        request = await client.receive(Publish)
        client.send(Publish(f"$iothub/methods/res/200/?{request.topic.partition('?')[2]}", b"{"))
        with pytest.raises(DeviceNotOnline):
            await soon(call)


# Faults


async def test_refuse(hub: LocalHub, authority: LocalAuthority) -> None:
    """New connections are refused, those there stay; switched off, the hub is where it was."""
    async with connected_client(hub, authority) as client:
        hub.refuse(True)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(hub.address, hub.port)
        await client.publish(EVENTS)
        hub.refuse(False)
        async with connected_client(hub, authority, "sensor-2"):
            pass


async def test_drop_connections(hub: LocalHub, authority: LocalAuthority) -> None:
    """One device's connection is cut, or all."""
    async with connected_client(hub, authority, "a") as a, connected_client(hub, authority, "b") as b:
        hub.drop_connections("a")
        await a.closed()
        assert hub.is_connected("b")
        hub.drop_connections()
        await b.closed()


async def test_freeze(hub: LocalHub, authority: LocalAuthority) -> None:
    """A frozen hub takes nothing in and says nothing, to new clients either; thawed, it goes on where it was."""
    async with connected_client(hub, authority) as client:
        await client.subscribe(DEVICEBOUND)
        hub.freeze(True)
        client.send(Publish(EVENTS, b"1", 1, 5))
        hub.send_c2d("sensor-1", b"down")
        newcomer = asyncio.create_task(tls_client(hub, authority).__aenter__())
        answer = asyncio.create_task(client.receive(Publish))
        done, _ = await asyncio.wait([newcomer, answer], timeout=0.1)
        assert not done
        assert hub.statistics.messages == 0
        hub.freeze(False)
        assert (await soon(answer)).payload == b"down"
        assert await client.receive(Puback) == Puback(5)
        await soon(newcomer)


async def test_frozen_hub_does_not_count_time(hub: LocalHub, authority: LocalAuthority) -> None:
    """Silence while the hub was frozen is not held against a client."""
    async with connected_client(hub, authority, keep_alive_s=1) as client:
        hub.freeze(True)
        await asyncio.sleep(1.7)
        hub.freeze(False)
        await client.publish(EVENTS)


async def test_leaving_while_frozen(authority: LocalAuthority, address: str) -> None:
    """A frozen hub ends as quickly as any other, with connections in every state."""
    async with LocalHub(authority=authority, address=address) as hub, connected_client(hub, authority) as client:
        hub.freeze(True)
        waiting = asyncio.create_task(tls_client(hub, authority).__aenter__())
        await asyncio.sleep(0)
        await hub.__aexit__(None, None, None)
        await client.closed()
        with pytest.raises(OSError):  # noqa: PT011 - reset or end of file, as the kernel likes
            await waiting


async def test_withheld_pubacks(hub: LocalHub, authority: LocalAuthority) -> None:
    """Messages arrive and are not confirmed; confirmations come when the fault is over."""
    async with connected_client(hub, authority) as client:
        hub.withhold_pubacks(True)
        client.send(Publish(EVENTS, b"", 1, 1), Publish(EVENTS, b"", 1, 2), Pingreq())
        assert await client.receive(Pingresp) == Pingresp()
        assert hub.statistics.messages == 2
        hub.withhold_pubacks(False)
        assert [await client.receive(Puback) for _ in range(2)] == [Puback(1), Puback(2)]


async def test_duplicate_pubacks(hub: LocalHub, authority: LocalAuthority) -> None:
    """Each message is confirmed twice."""
    async with connected_client(hub, authority) as client:
        hub.duplicate_pubacks(True)
        client.send(Publish(EVENTS, b"", 1, 1))
        assert [await client.receive(Puback) for _ in range(2)] == [Puback(1), Puback(1)]


# Registry


async def test_registry(hub: LocalHub) -> None:
    """Devices have keys of their own, drawn from the generator that was handed in; ids are taken once."""
    key = base64.b64encode(b"k" * 32).decode()
    assert hub.add_device("a", primary_key=key).primary_key == key
    assert hub.connection_string("a") == f"HostName={hub.host_name};DeviceId=a;SharedAccessKey={key}"
    assert hub.add_device("b").primary_key != hub.identity("a").secondary_key
    assert hub.device_ids == ["a", "b"]
    with pytest.raises(BenchError):
        hub.add_device("a")
    for unknown in (hub.identity, hub.twin, hub.is_connected, hub.remove_device):
        with pytest.raises(BenchError):
            unknown("c")


async def test_seed(authority: LocalAuthority) -> None:
    """The same seed gives the same keys."""
    hubs = [LocalHub(authority=authority, rng=random.Random(7)) for _ in range(2)]
    assert len({hub.add_device("a").primary_key for hub in hubs}) == 1


async def test_address_in_use(hub: LocalHub, authority: LocalAuthority) -> None:
    """An address that is taken is an error that names it."""
    with pytest.raises(BenchError, match=hub.address):
        async with LocalHub(authority=authority, address=hub.address):
            pass


async def test_many_clients_at_once(hub: LocalHub, authority: LocalAuthority) -> None:
    """Clients that all come at once are all served."""

    async def one(device_id: str) -> None:
        async with connected_client(hub, authority, device_id) as client:
            await client.publish(f"devices/{device_id}/messages/events/")

    await asyncio.gather(*(one(f"sensor-{number}") for number in range(100)))
    assert hub.statistics.messages == 100


async def test_order(hub: LocalHub, authority: LocalAuthority) -> None:
    """Messages and confirmations stay in order however many are written at once."""
    async with connected_client(hub, authority) as client:
        client.send(*(Publish(EVENTS, b"%d" % number, 1, number) for number in range(1, 2001)))
        assert [await client.receive(Puback) for _ in range(2000)] == [Puback(n) for n in range(1, 2001)]
    assert [message.body for message in hub.messages] == [b"%d" % number for number in range(1, 2001)]


async def test_a_kept_session_has_its_subscriptions(hub: LocalHub, authority: LocalAuthority) -> None:
    """Who comes back without CleanSession listens to what it listened to; CleanSession ends that."""
    async with connected_client(hub, authority, clean_session=False) as client:
        await client.subscribe(METHODS)
        await client.subscribe(TWIN_RESPONSES)
        client.send(Unsubscribe(2, (TWIN_RESPONSES,)))
        await client.receive(Unsuback)
    async with connected_client(hub, authority, clean_session=False) as client:
        calling = asyncio.create_task(hub.invoke_method("sensor-1", "ping"))
        request = await client.receive(Publish)
        client.send(Publish(f"$iothub/methods/res/200/?$rid={request.topic.partition('$rid=')[2]}", b"", 1, 3))
        assert (await soon(calling)).status == 200
    async with connected_client(hub, authority, clean_session=True):
        with pytest.raises(DeviceNotOnline):
            await hub.invoke_method("sensor-1", "ping")
    async with connected_client(hub, authority, clean_session=False):
        with pytest.raises(DeviceNotOnline):
            await hub.invoke_method("sensor-1", "ping")
