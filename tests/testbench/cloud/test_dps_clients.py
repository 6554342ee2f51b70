"""The device SDK, unmodified, registers at the provisioning service and goes on to its hub."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from azure.iot.device import X509, ProvisioningDeviceClient, exceptions
from azure.iot.device.aio import IoTHubDeviceClient
from azure.iot.device.aio import ProvisioningDeviceClient as AsyncProvisioningDeviceClient

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.front_door import FrontDoor
from edge_gateway.testbench.cloud.identity import SymmetricKeys
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Certificates,
    EnrolmentGroup,
    IndividualEnrolment,
    InitialTwin,
    drawn_keys,
)

pytestmark = [
    # The SDK asks for TLS 1.2 by a constant that Python has deprecated.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning"),
    # After a lost or refused connection the SDK's MQTT client leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <(ssl\.SSLS|socket\.s)ocket:pytest.PytestUnraisableExceptionWarning"
    ),
]

TIME_LIMIT_S = 30.0
KEYS = drawn_keys()
DOCUMENTED_GROUP_KEY = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
DOCUMENTED_REGISTRATION_ID = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
DOCUMENTED_DEVICE_KEY = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


@pytest.fixture(autouse=True)
def leaks_of_the_sdk() -> Iterator[None]:
    """Let sockets the SDK forgot be found within the test that ignores them, and not in a later one."""
    yield
    gc.collect()


def shut_down(client: Any) -> None:
    """End a client whose registration has not succeeded: it stays connected, and has no public way to end."""
    over = threading.Event()
    client._pipeline.shutdown(callback=lambda **_: over.set())
    assert over.wait(TIME_LIMIT_S)


class Bench:
    """A hub and a provisioning service behind one door, which answers at once: the SDK waits 2 s before it polls."""

    def __init__(self, authority: LocalAuthority, address: str) -> None:
        self.authority = authority
        self.address = address
        self.hub = LocalHub(host_name=address, rng=random.Random(1))
        self.dps = LocalDps(hubs=[self.hub], rng=random.Random(1), polls=0, retry_after_s=0)

    def settings(self, registration_id: str) -> dict[str, Any]:
        return {
            "provisioning_host": self.address,
            "registration_id": registration_id,
            "id_scope": self.dps.id_scope,
        }

    def with_key(self, kind: Any, key: str = KEYS.primary, registration_id: str = "dev", **more: Any) -> Any:
        settings = self.settings(registration_id) | {"symmetric_key": key} | more
        return kind.create_from_symmetric_key(**settings, server_verification_cert=self.authority.ca_pem)

    async def register(self, client: Any) -> Any:
        async with asyncio.timeout(TIME_LIMIT_S):
            try:
                return await client.register()
            except exceptions.ClientError:
                await asyncio.to_thread(shut_down, client)
                raise

    @asynccontextmanager
    async def at_the_hub(self, client: Any) -> AsyncIterator[None]:
        """Connect a client of the hub."""
        async with asyncio.timeout(TIME_LIMIT_S):
            try:
                await client.connect()
                yield
            finally:
                await client.shutdown()


@pytest.fixture
async def bench(authority: LocalAuthority, address: str) -> AsyncIterator[Bench]:
    bench = Bench(authority, address)
    async with FrontDoor([bench.hub, bench.dps], authority=authority, address=address):
        yield bench


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "websocket"])
async def test_key(bench: Bench, websockets: bool) -> None:
    """A device registers with its key, over MQTT and WebSocket, and connects to the hub it is told with the same."""
    bench.dps.add_enrolment(
        IndividualEnrolment("dev", KEYS, device_id="boiler", initial_twin=InitialTwin(desired={"period_s": 5}))
    )
    result = await bench.register(bench.with_key(AsyncProvisioningDeviceClient, websockets=websockets))
    assert result.status == "assigned"
    state = result.registration_state
    assert (state.assigned_hub, state.device_id, state.sub_status) == (bench.address, "boiler", "initialAssignment")
    client = IoTHubDeviceClient.create_from_symmetric_key(
        KEYS.primary, state.assigned_hub, state.device_id, server_verification_cert=bench.authority.ca_pem
    )
    async with bench.at_the_hub(client):
        assert (await client.get_twin())["desired"]["period_s"] == 5


async def test_polling(bench: Bench) -> None:
    """The SDK polls until it has the result, as often as it has to."""
    bench.dps.polls = 2
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    result = await bench.register(bench.with_key(AsyncProvisioningDeviceClient))
    assert result.status == "assigned"


async def test_the_sync_client(bench: Bench) -> None:
    """The SDK's blocking client registers as well."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    client = bench.with_key(ProvisioningDeviceClient, KEYS.secondary)
    async with asyncio.timeout(TIME_LIMIT_S):
        result = await asyncio.to_thread(client.register)
    assert result.registration_state.assigned_hub == bench.address


async def test_group_key(bench: Bench) -> None:
    """A device of a group registers with the key that Azure's documentation derives for it."""
    bench.dps.add_group(EnrolmentGroup("g", SymmetricKeys(DOCUMENTED_GROUP_KEY, KEYS.secondary)))
    client = bench.with_key(AsyncProvisioningDeviceClient, DOCUMENTED_DEVICE_KEY, DOCUMENTED_REGISTRATION_ID)
    result = await bench.register(client)
    assert result.registration_state.device_id == DOCUMENTED_REGISTRATION_ID
    assert bench.hub.identity(DOCUMENTED_REGISTRATION_ID).primary_key == DOCUMENTED_DEVICE_KEY


def x509(certificate: DeviceCertificate, directory: Path) -> X509:
    certificate_file, key_file = certificate.write(directory)
    return X509(cert_file=str(certificate_file), key_file=str(key_file))


@pytest.mark.parametrize("kind", ["self-signed", "group", "intermediate"])
async def test_certificate(bench: Bench, tmp_path: Path, kind: str) -> None:
    """A device registers with a certificate, its own or one of a group's CA, and connects to its hub with it."""
    if kind == "self-signed":
        certificate = self_signed_certificate("dev")
        bench.dps.add_enrolment(IndividualEnrolment("dev", Certificates(certificate.certificate)))
    else:
        signer = bench.authority.intermediate("factory") if kind == "intermediate" else bench.authority
        certificate = signer.device_certificate("dev")
        bench.dps.add_group(EnrolmentGroup("g", Certificates(bench.authority.certificate)))
    shown = x509(certificate, tmp_path)
    result = await bench.register(
        AsyncProvisioningDeviceClient.create_from_x509_certificate(
            **bench.settings("dev"), x509=shown, server_verification_cert=bench.authority.ca_pem
        )
    )
    assert result.registration_state.assigned_hub == bench.address
    client = IoTHubDeviceClient.create_from_x509_certificate(
        shown, bench.address, "dev", server_verification_cert=bench.authority.ca_pem
    )
    async with bench.at_the_hub(client):
        assert bench.hub.is_connected("dev")


async def test_custom_allocation(bench: Bench) -> None:
    """What the device sends comes to the policy, and the policy's answer to the device."""

    def greet(request: AllocationRequest) -> Allocation:
        assert request.payload == {"modelId": "dtmi:com:example;1"}
        return Allocation(request.hubs[0], {"welcome": request.registration_id})

    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS, allocation=greet))
    client = bench.with_key(AsyncProvisioningDeviceClient)
    client.provisioning_payload = {"modelId": "dtmi:com:example;1"}
    result = await bench.register(client)
    assert orjson.loads(result.registration_state.response_payload) == {"welcome": "dev"}


async def test_throttled(bench: Bench) -> None:
    """The SDK registers again by itself when it is told to wait."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    bench.dps.throttle(2)
    result = await bench.register(bench.with_key(AsyncProvisioningDeviceClient))
    assert result.status == "assigned"
    assert bench.dps.statistics.throttled == 2


@pytest.mark.parametrize("reason", ["wrong-key", "unknown", "disabled", "failed"])
async def test_not_assigned(bench: Bench, reason: str) -> None:
    """Whatever keeps a device from its hub is a service error in the SDK."""

    def turn_away(request: AllocationRequest) -> Allocation:
        raise AllocationFailed("no room", where=request.registration_id)

    if reason != "unknown":
        enrolment = IndividualEnrolment("dev", KEYS, enabled=reason != "disabled")
        if reason == "failed":
            enrolment = IndividualEnrolment("dev", KEYS, allocation=turn_away)
        bench.dps.add_enrolment(enrolment)
    key = drawn_keys().primary if reason == "wrong-key" else KEYS.primary
    with pytest.raises(exceptions.ClientError) as raised:
        await bench.register(bench.with_key(AsyncProvisioningDeviceClient, key))
    told = {"disabled": "disabled", "failed": "failed registration status"}.get(reason, "status code 401")
    assert told in str(raised.value.__cause__)
    assert bench.hub.device_ids == []
