"""The provisioning service over MQTT, seen by a client that can break each of its rules."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.front_door import FrontDoor
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Certificates,
    EnrolmentGroup,
    IndividualEnrolment,
    drawn_keys,
)
from edge_gateway.testbench.cloud.tokens import sas_token

from .mqtt_client import RawClient

KEYS = drawn_keys()
RESPONSES = "$dps/registrations/res/#"
REGISTER = "$dps/registrations/PUT/iotdps-register/"
STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"


class Bench:
    """A hub and a provisioning service behind one door."""

    def __init__(self, authority: LocalAuthority, address: str) -> None:
        self.authority = authority
        self.hub = LocalHub(host_name=address, rng=random.Random(1))
        self.dps = LocalDps(hubs=[self.hub], rng=random.Random(1))
        self.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
        self.door = FrontDoor([self.hub, self.dps], authority=authority, address=address, mqtt_port=0, https_port=None)

    @asynccontextmanager
    async def client(self, certificate: DeviceCertificate | None = None) -> AsyncIterator[RawClient]:
        """A client with TLS up and no CONNECT sent."""
        context = self.authority.client_context(certificate)
        reader, writer = await asyncio.open_connection(self.door.address, self.door.ports()["mqtt"], ssl=context)
        try:
            yield RawClient(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError, ssl.SSLError):  # the service was first
                await writer.wait_closed()

    @asynccontextmanager
    async def connected(self, certificate: DeviceCertificate | None = None) -> AsyncIterator[RawClient]:
        """A client the service has accepted and that listens to answers."""
        async with self.client(certificate) as client:
            token = None if certificate is not None else self.token()
            assert await connect(client, self.dps, token=token) == Connack(0)
            assert await client.subscribe(RESPONSES) == 1
            yield client

    def token(self, registration_id: str = "dev", key: str = KEYS.primary) -> str:
        return sas_token(f"{self.dps.id_scope}/registrations/{registration_id}", key, 4_000_000_000)


@pytest.fixture
async def bench(authority: LocalAuthority, address: str) -> AsyncIterator[Bench]:
    bench = Bench(authority, address)
    async with bench.door:
        yield bench


async def connect(
    client: RawClient,
    dps: LocalDps,
    *,
    client_id: str = "dev",
    username: str | None = None,
    token: str | None = None,
) -> Connack:
    if username is None:
        username = f"{dps.id_scope}/registrations/dev/api-version=2019-03-31"
    client.send(Connect(client_id, False, 60, username, token.encode() if token is not None else None))
    return await client.receive(Connack)


async def ask(client: RawClient, topic: str, body: bytes = b"") -> tuple[str, Any]:
    """Publish a request; the answer's topic and content."""
    await client.publish(topic, body)
    answer = await client.receive(Publish)
    assert answer.qos == 0
    return answer.topic, orjson.loads(answer.payload)


async def test_a_registration(bench: Bench) -> None:
    """A device registers, polls and is told its hub; topics and bodies are as clients read them."""
    async with bench.connected() as client:
        topic, told = await ask(client, f"{REGISTER}?$rid=r1", b'{"registrationId":"dev","payload":null}')
        assert topic == "$dps/registrations/res/202/?$rid=r1&retry-after=3"
        assert told["status"] == "assigning"
        operation_id = quote(told["operationId"], safe="")
        topic, told = await ask(client, f"{STATUS}?$rid=r2&operationId={operation_id}", b" ")
        assert topic == "$dps/registrations/res/200/?$rid=r2"
        assert told["status"] == "assigned"
        assert told["registrationState"]["assignedHub"] == bench.hub.host_name
    assert bench.hub.identity("dev").authentication == KEYS


async def test_by_certificate(bench: Bench) -> None:
    """A device with a certificate needs no password, here and at its hub."""
    certificate = self_signed_certificate("cert-dev")
    bench.dps.add_enrolment(IndividualEnrolment("cert-dev", Certificates(certificate.certificate)))
    async with bench.client(certificate) as client:
        username = f"{bench.dps.id_scope}/registrations/cert-dev/api-version=2019-03-31&ClientVersion=x"
        assert await connect(client, bench.dps, client_id="cert-dev", username=username) == Connack(0)
        await client.subscribe(RESPONSES)
        _, told = await ask(client, f"{REGISTER}?$rid=1")
        await ask(client, f"{STATUS}?$rid=2&operationId={told['operationId']}")
    async with bench.client(certificate) as client:
        username = f"{bench.hub.host_name}/cert-dev/?api-version=2021-04-12"
        assert await connect(client, bench.dps, client_id="cert-dev", username=username) == Connack(0)


async def test_an_intermediate_in_the_chain(bench: Bench) -> None:
    """A certificate below an intermediate is let in by the root's group if the chain is sent."""
    bench.dps.add_group(EnrolmentGroup("g", Certificates(bench.authority.certificate)))
    certificate = bench.authority.intermediate("factory").device_certificate("cert-dev")
    async with bench.client(certificate) as client:
        username = f"{bench.dps.id_scope}/registrations/cert-dev/api-version=2019-03-31"
        await connect(client, bench.dps, client_id="cert-dev", username=username)
        await client.subscribe(RESPONSES)
        topic, _ = await ask(client, f"{REGISTER}?$rid=1")
        assert topic.startswith("$dps/registrations/res/202/")


@pytest.mark.parametrize(
    "username",
    [
        "SCOPE/registrations/dev/api-version=2019-03-31&ClientVersion=azure-iot-device%2F2.14",
        "SCOPE/registrations/dev/?api-version=2021-06-01",
        "SCOPE/registrations/DEV/api-version=2019-03-31",
    ],
)
async def test_user_names(bench: Bench, username: str) -> None:
    """Each client's way of writing the user name is understood."""
    async with bench.client() as client:
        username = username.replace("SCOPE", bench.dps.id_scope)
        assert await connect(client, bench.dps, username=username, token=bench.token()) == Connack(0)


@pytest.mark.parametrize(
    "username",
    [
        "SCOPE/registrations/",
        "SCOPE/registrations/dev",
        "SCOPE/registrations/dev/",
        "SCOPE/registrations/dev/ClientVersion=1",
        "SCOPE/registrations/dev/api-version=",
        "SCOPE/registrations/other/api-version=2019-03-31",
        "SCOPE/registrations/-/api-version=2019-03-31",
        "SCOPE/registrations/a%2Fb/api-version=2019-03-31",
        "0neFFFFFFFF/registrations/dev/api-version=2019-03-31",
    ],
)
async def test_bad_user_names(bench: Bench, username: str) -> None:
    """A user name for another scope or device, or without an API version, is not authorised."""
    async with bench.client() as client:
        username = username.replace("SCOPE", bench.dps.id_scope)
        assert await connect(client, bench.dps, username=username, token=bench.token()) == Connack(5)
        await client.closed()


async def test_neither_token_nor_certificate(bench: Bench) -> None:
    """Who shows nothing at all is not authorised."""
    async with bench.client() as client:
        assert await connect(client, bench.dps) == Connack(5)
    assert bench.door.statistics.denied == 1


async def test_a_wrong_key_is_noticed_at_registering(bench: Bench) -> None:
    """A bad token can connect and hears 401 when it registers, as in the cloud; asked again it hears it again."""
    async with bench.client() as client:
        assert await connect(client, bench.dps, token=bench.token(key=drawn_keys().primary)) == Connack(0)
        await client.subscribe(RESPONSES)
        for request in (f"{REGISTER}?$rid=1", f"{STATUS}?$rid=1&operationId=x"):
            topic, told = await ask(client, request)
            assert topic == "$dps/registrations/res/401/?$rid=1"
            assert told["errorCode"] == 401002


async def test_throttled(bench: Bench) -> None:
    """A client that asks too often is told when to ask again."""
    bench.dps.throttle(1)
    async with bench.connected() as client:
        topic, _ = await ask(client, f"{REGISTER}?$rid=1")
        assert topic == "$dps/registrations/res/429/?$rid=1&retry-after=3"
        topic, _ = await ask(client, f"{REGISTER}?$rid=2")
        assert topic.startswith("$dps/registrations/res/202/")


async def test_nothing_is_said_to_who_does_not_listen(bench: Bench) -> None:
    """Without the subscription, and after it, requests are confirmed and done, and not answered."""
    async with bench.client() as client:
        await connect(client, bench.dps, token=bench.token())
        await client.publish(f"{REGISTER}?$rid=1")
        assert bench.dps.statistics.assigned == 1
        await client.subscribe(RESPONSES)
        await ask(client, f"{REGISTER}?$rid=2")
        client.send(Unsubscribe(1, (RESPONSES,)))
        assert await client.receive(Unsuback) == Unsuback(1)
        await client.publish(f"{REGISTER}?$rid=3")
        client.send(Disconnect())
        await client.closed()
    assert bench.dps.statistics.assigned == 3


async def test_subscriptions(bench: Bench) -> None:
    """Answers can be subscribed to at QoS 0 and 1, and nothing else."""
    async with bench.client() as client:
        await connect(client, bench.dps, token=bench.token())
        filters = ((RESPONSES, 0), (RESPONSES, 2), ("$dps/#", 1), ("$iothub/twin/res/#", 0), ("#", 1))
        client.send(Subscribe(1, tuple(Subscription(*each) for each in filters)))
        assert await client.receive(Suback) == Suback(1, (0, 1, None, None, None))


@pytest.mark.parametrize(
    "topic",
    [
        "a",
        "devices/dev/messages/events/",
        "$dps/registrations/PUT/iotdps-register/",
        "$dps/registrations/PUT/iotdps-register/?rid=1",
        "$dps/registrations/PUT/iotdps-register/?$rid=",
        "$dps/registrations/PUT/iotdps-register/?$rid=a$b",
        f"$dps/registrations/PUT/iotdps-register/?$rid={'1' * 129}",
        "$dps/registrations/PUT/other/?$rid=1",
        "$dps/registrations/GET/iotdps-get-operationstatus?$rid=1",
    ],
)
async def test_topics_that_are_not_the_services(bench: Bench, topic: str) -> None:
    """Who publishes elsewhere, or without a request id, is cut off."""
    async with bench.connected() as client:
        client.send(Publish(topic, b"{}", 1, 1))
        await client.closed()
    assert bench.door.statistics.violations == 1


async def test_qos_0(bench: Bench) -> None:
    """A request of QoS 0 is answered and not confirmed."""
    async with bench.connected() as client:
        client.send(Publish(f"{REGISTER}?$rid=1", b"{}"))
        assert (await client.receive(Publish)).topic.startswith("$dps/registrations/res/202/")


TOPICS = st.one_of(
    st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.tuples(st.sampled_from([REGISTER, STATUS]), st.text("$rid=&?operationId%1Fé", max_size=20)).map("?".join),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(topic=TOPICS, body=st.binary(max_size=40))
async def test_arbitrary_requests(bench: Bench, topic: str, body: bytes) -> None:
    """Any topic with any body is answered or ends the connection, and the service goes on."""
    async with bench.connected() as client:
        client.send(Publish(topic, body, 1, 7))
        try:
            assert await client.receive(Puback) == Puback(7)
            status = (await client.receive(Publish)).topic.split("/")[3]
            assert status in {"202", "400", "404"}
        except ConnectionResetError:
            pass
