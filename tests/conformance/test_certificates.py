"""Devices that prove themselves by a certificate instead of a key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.identity import Authentication, CertificateAuthority, Thumbprints

from .bench import CONFORMANCE, Bench
from .client import Access, ClientCertificate, ClientKind, Feature, Message
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.CERTIFICATE)
@pytest.mark.parametrize("place", ["primary", "secondary"])
async def test_thumbprint(bench: Bench, kind: ClientKind, place: str) -> None:
    """A device is let in by the thumbprint of a certificate that nobody but itself has signed."""
    device_id = bench.new_id("device")
    certificate = self_signed_certificate(device_id)
    thumbprints = Thumbprints(**{place: certificate.sha256_thumbprint})
    device = _device(bench, device_id, certificate, thumbprints)
    async with bench.client(kind, device) as client:
        await client.send(Message(b"[1]"))
    [message] = bench.telemetry(device)
    assert message.body == b"[1]"
    assert '"type":"x509"' in message.system_properties["iothub-connection-auth-method"]


@clients_with(Feature.CERTIFICATE)
async def test_sha1_thumbprint(bench: Bench, kind: ClientKind) -> None:
    """A thumbprint may be the shorter one."""
    device_id = bench.new_id("device")
    certificate = self_signed_certificate(device_id)
    device = _device(bench, device_id, certificate, Thumbprints(certificate.sha1_thumbprint))
    async with bench.client(kind, device) as client:
        await client.send(Message(b"[1]"))
    assert bench.telemetry(device)


@clients_with(Feature.CERTIFICATE)
async def test_chain(bench: Bench, kind: ClientKind) -> None:
    """A device is let in by a certificate in its name whose chain, which it sends along, ends at an authority known."""
    device_id = bench.new_id("device")
    authority = bench.authority.intermediate("factory").intermediate("line 7")
    device = _device(bench, device_id, authority.device_certificate(device_id), CertificateAuthority())
    bench.hub.trusted_cas.append(bench.authority.certificate)
    try:
        async with bench.client(kind, device) as client:
            await client.send(Message(b"[1]"))
    finally:
        bench.hub.trusted_cas.clear()
    assert bench.telemetry(device)


@clients_with(Feature.CERTIFICATE)
@pytest.mark.parametrize("fault", ["other device's", "expired", "unknown authority"])
async def test_wrong_chain(bench: Bench, kind: ClientKind, fault: str) -> None:
    """A certificate that is another's, has expired, or comes from an authority unknown to the hub lets nobody in."""
    device_id = bench.new_id("device")
    authority = bench.authority.intermediate("factory")
    certificate = authority.device_certificate(
        "somebody" if fault == "other device's" else device_id, expired=fault == "expired"
    )
    device = _device(bench, device_id, certificate, CertificateAuthority())
    if fault != "unknown authority":
        bench.hub.trusted_cas.append(authority.certificate)
    try:
        await bench.turns_away(kind, device)
    finally:
        bench.hub.trusted_cas.clear()


@clients_with(Feature.CERTIFICATE)
async def test_other_certificate(bench: Bench, kind: ClientKind) -> None:
    """A certificate with another thumbprint lets nobody in."""
    device_id = bench.new_id("device")
    thumbprints = Thumbprints(self_signed_certificate(device_id).sha256_thumbprint)
    await bench.turns_away(kind, _device(bench, device_id, self_signed_certificate(device_id), thumbprints))


@clients_with(Feature.CERTIFICATE)
async def test_certificate_for_a_key(bench: Bench, kind: ClientKind) -> None:
    """A device with keys is not let in by a certificate."""
    device = bench.device()
    certificate = self_signed_certificate(device.device_id)
    await bench.turns_away(kind, replace(device, key="", certificate=_for_client(certificate)))


@clients_with(Feature.CERTIFICATE)
async def test_key_for_a_certificate(bench: Bench, kind: ClientKind) -> None:
    """A device with a certificate is not let in by a key."""
    device_id = bench.new_id("device")
    certificate = self_signed_certificate(device_id)
    device = _device(bench, device_id, certificate, Thumbprints(certificate.sha256_thumbprint))
    await bench.turns_away(kind, replace(device, certificate=None, key=bench.hub.new_key()))


@clients_with(Feature.MODULE_CERTIFICATE)
async def test_module(bench: Bench, kind: ClientKind) -> None:
    """A module may have a certificate, too."""
    device = bench.device()
    certificate = self_signed_certificate("module")
    identity = bench.hub.add_module(
        device.device_id, bench.new_id("module"), authentication=Thumbprints(certificate.sha256_thumbprint)
    )
    module = replace(device, module_id=identity.module_id, key="", certificate=_for_client(certificate))
    async with bench.client(kind, module) as client:
        await client.send(Message(b"[1]"))
    assert bench.telemetry(module)


def _device(bench: Bench, device_id: str, certificate: DeviceCertificate, authentication: Authentication) -> Access:
    bench.hub.add_device(device_id, authentication=authentication)
    return Access(
        bench.door.address,
        bench.hub.host_name,
        device_id,
        certificate=_for_client(certificate),
        ca_pem=bench.authority.ca_pem,
    )


def _for_client(certificate: DeviceCertificate) -> ClientCertificate:
    return ClientCertificate(certificate.certificate_pem, certificate.key_pem)
