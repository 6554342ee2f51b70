"""Who is let in at the hub beside devices with keys: modules, certificates, and services by policy."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge_gateway.testbench import LocalAuthority, LocalHub, sas_token
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.identity import CertificateAuthority, NoAuthentication, Thumbprints
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, Publish
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.testbench.cloud.tokens import Right

from .mqtt_client import RawClient, connected_client, soon, tls_client

NAME = "?api-version=2021-04-12"


@asynccontextmanager
async def client_with(
    hub: LocalHub, authority: LocalAuthority, certificate: DeviceCertificate | None
) -> AsyncIterator[RawClient]:
    """A client that shows a certificate in TLS."""
    context = authority.client_context(certificate)
    reader, writer = await asyncio.open_connection(hub.address, hub.port, ssl=context)
    yield RawClient(reader, writer)
    writer.transport.abort()


async def connect_with(
    hub: LocalHub, authority: LocalAuthority, certificate: DeviceCertificate | None, device_id: str = "sensor-1"
) -> int:
    """Connect by certificate and without a password; return the code of CONNACK."""
    async with client_with(hub, authority, certificate) as client:
        client.send(Connect(device_id, username=f"{hub.host_name}/{device_id}/{NAME}"))
        return (await client.receive(Connack)).return_code


@pytest.fixture
def wrong_ca(authority: LocalAuthority) -> LocalAuthority:
    return LocalAuthority()


# Certificates


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("place", ["primary", "secondary"])
async def test_thumbprints(hub: LocalHub, authority: LocalAuthority, algorithm: str, place: str) -> None:
    """A device is known by either thumbprint of its certificate, self-signed or not; another certificate is refused."""
    certificate = self_signed_certificate("anything")
    thumbprint = getattr(certificate, f"{algorithm}_thumbprint")
    hub.add_device("sensor-1", authentication=Thumbprints(**{place: thumbprint}))
    assert await connect_with(hub, authority, certificate) == 0
    other = self_signed_certificate("sensor-1")
    assert await connect_with(hub, authority, other) == 5
    assert await connect_with(hub, authority, None) == 5


async def test_certificate_authority(hub: LocalHub, authority: LocalAuthority, wrong_ca: LocalAuthority) -> None:
    """A certificate of a CA the hub trusts lets the device in whose id it bears, also through an intermediate."""
    factory = LocalAuthority()
    hub.trusted_cas.append(factory.certificate)
    hub.add_device("sensor-1", authentication=CertificateAuthority())

    async def code(certificate: DeviceCertificate) -> int:
        return await connect_with(hub, authority, certificate)

    assert await code(factory.device_certificate("sensor-1")) == 0
    assert await code(factory.intermediate("line 3").device_certificate("sensor-1")) == 0
    assert await code(factory.device_certificate("sensor-2")) == 5
    assert await code(factory.device_certificate("sensor-1", expired=True)) == 5
    assert await code(wrong_ca.device_certificate("sensor-1")) == 5
    assert await code(self_signed_certificate("sensor-1")) == 5


async def test_a_certificate_does_not_stand_in_for_a_key(hub: LocalHub, authority: LocalAuthority) -> None:
    """A device that has keys, or nothing, is not let in by a certificate; one with a certificate not by a token."""
    certificate = self_signed_certificate("sensor-1")
    hub.add_device("sensor-1")
    hub.add_device("sensor-2", authentication=NoAuthentication())
    hub.add_device("sensor-3", authentication=Thumbprints(certificate.sha256_thumbprint))
    for device_id in ("sensor-1", "sensor-2"):
        assert await connect_with(hub, authority, certificate, device_id) == 5
    async with tls_client(hub, authority) as client:
        assert await client.connect(hub, "sensor-3", token=hub.sas_token("sensor-1")) == Connack(5)


async def test_the_hub_notes_how_a_device_proved_itself(hub: LocalHub, authority: LocalAuthority) -> None:
    """Each message bears the way its sender was let in."""
    certificate = self_signed_certificate("sensor-1")
    identity = hub.add_device("sensor-1", authentication=Thumbprints(certificate.sha256_thumbprint))
    async with client_with(hub, authority, certificate) as client:
        client.send(Connect("sensor-1", username=f"{hub.host_name}/sensor-1/{NAME}"))
        await client.receive(Connack)
        await client.publish("devices/sensor-1/messages/events/")
    stamps = hub.messages[0].system_properties
    assert stamps["iothub-connection-auth-method"] == '{"scope":"device","type":"x509","issuer":"iothub"}'
    assert stamps["iothub-connection-auth-generation-id"] == identity.generation_id


# Modules


async def test_module(hub: LocalHub, authority: LocalAuthority) -> None:
    """A module connects under its own identity, beside its device, and its messages bear both names."""
    hub.add_device("edge-1")
    hub.add_module("edge-1", "filter")
    async with connected_client(hub, authority, "edge-1") as device, tls_client(hub, authority) as client:
        token = hub.sas_token("edge-1", module_id="filter")
        assert await client.connect(hub, "edge-1/filter", token=token) == Connack(0)
        assert hub.is_connected("edge-1", "filter")
        await client.publish("devices/edge-1/modules/filter/messages/events/%24.on=alerts&k=v/")
        await device.publish("devices/edge-1/messages/events/")
    message = hub.messages[0]
    assert (message.device_id, message.module_id) == ("edge-1", "filter")
    assert message.properties == {"k": "v"}
    assert message.system_properties["output-name"] == "alerts"
    assert message.system_properties["iothub-connection-module-id"] == "filter"
    assert hub.statistics.taken_over == 0


async def test_module_topics_are_its_own(hub: LocalHub, authority: LocalAuthority) -> None:
    """A module may not send as its device, and not subscribe to another module's inputs."""
    hub.add_device("edge-1")
    hub.add_module("edge-1", "filter")
    async with tls_client(hub, authority) as client:
        await client.connect(hub, "edge-1/filter", token=hub.sas_token("edge-1", module_id="filter"))
        assert await client.subscribe("devices/edge-1/modules/filter/inputs/#") == 1
        assert await client.subscribe("devices/edge-1/modules/other/inputs/#") is None
        client.send(Publish("devices/edge-1/messages/events/", b"", 1, 1))
        await client.closed()


async def test_a_disabled_device_takes_its_modules_along(hub: LocalHub, authority: LocalAuthority) -> None:
    """A module of a disabled device is not let in."""
    hub.add_device("edge-1")
    hub.add_module("edge-1", "filter")
    hub.set_enabled("edge-1", False)
    async with tls_client(hub, authority) as client:
        token = hub.sas_token("edge-1", module_id="filter")
        assert await client.connect(hub, "edge-1/filter", token=token) == Connack(5)


async def test_removing_a_device_removes_its_modules(hub: LocalHub, authority: LocalAuthority) -> None:
    """The module's connection ends with the device's registration."""
    hub.add_device("edge-1")
    hub.add_module("edge-1", "filter")
    async with tls_client(hub, authority) as client:
        await client.connect(hub, "edge-1/filter", token=hub.sas_token("edge-1", module_id="filter"))
        hub.remove_device("edge-1")
        await client.closed()
    await soon(hub.until(lambda: not hub.device_ids))


# Policies


async def test_a_policy_with_the_right_may_act_as_any_device(hub: LocalHub, authority: LocalAuthority) -> None:
    """A token of the policies that may connect devices lets any device in; the others' do not."""
    hub.add_device("sensor-1")
    codes = {}
    for name, policy in hub.policies.items():
        token = sas_token(hub.host_name, policy.secondary_key, int(time.time()) + 60, policy=name)
        async with tls_client(hub, authority) as client:
            codes[name] = (await client.connect(hub, "sensor-1", token=token)).return_code
    assert codes == {"iothubowner": 0, "service": 5, "device": 0, "registryRead": 5, "registryReadWrite": 5}


def test_service_rights(hub: LocalHub) -> None:
    """A service may do what its policy says, with a token for the hub or the part of it that it asks for."""
    end_s = int(time.time()) + 60
    key = hub.policies["registryRead"].primary_key
    token = sas_token(hub.host_name, key, end_s, policy="registryRead")
    hub.admit_service(token, Right.REGISTRY_READ)
    hub.admit_service(token, Right.REGISTRY_READ, "/devices/sensor-1")
    part = sas_token(f"{hub.host_name}/devices", key, end_s, policy="registryRead")
    hub.admit_service(part, Right.REGISTRY_READ, "/devices/sensor-1")
    for refused, right, path in [
        (token, Right.REGISTRY_WRITE, ""),
        (part, Right.REGISTRY_READ, "/twins/sensor-1"),
        (part, Right.REGISTRY_READ, ""),
        (sas_token(hub.host_name, key, end_s), Right.REGISTRY_READ, ""),
        (sas_token(hub.host_name, key, end_s, policy="service"), Right.SERVICE_CONNECT, ""),
        (sas_token(hub.host_name, key, end_s - 120, policy="registryRead"), Right.REGISTRY_READ, ""),
        ("", Right.REGISTRY_READ, ""),
    ]:
        with pytest.raises(AccessDenied):
            hub.admit_service(refused, right, path)


def test_connection_strings(hub: LocalHub) -> None:
    """What SDKs are configured with names host, identity and key."""
    hub.add_device("edge-1")
    module = hub.add_module("edge-1", "filter")
    assert hub.connection_string("edge-1", "filter") == (
        f"HostName={hub.host_name};DeviceId=edge-1;ModuleId=filter;SharedAccessKey={module.primary_key}"
    )
    assert hub.service_connection_string("service").startswith(
        f"HostName={hub.host_name};SharedAccessKeyName=service;SharedAccessKey="
    )


def test_context_is_real(authority: LocalAuthority) -> None:
    """The bench's clients check the hub's certificate and name."""
    context = authority.client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
