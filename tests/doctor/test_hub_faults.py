"""What is wrong with the way to the hub, or with what the hub thinks of us; the hub is a real one on this machine."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from edge_gateway.api.control import serve_control
from edge_gateway.doctor import network, server
from edge_gateway.doctor.site import Resolver
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import generation_name
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.testbench import FaultProxy, LocalAuthority, ProxyMode, ServerCertificate, free_loopback_address
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.identity import Thumbprints
from tests.doctor.healthy_box import DEVICE, HealthyBox, ShiftedClock, box_with_hub, follow, only
from tests.doctor.test_box_faults import status_of

HUB = "plant.azure-devices.net"


def leads_to(*addresses: str) -> Resolver:
    async def resolve(host: str) -> list[str]:
        return list(addresses)

    return resolve


def fails_with(error: Exception) -> Resolver:
    async def resolve(host: str) -> list[str]:
        raise error

    return resolve


async def test_nothing_is_found_where_nothing_is_wrong(healthy: HealthyBox) -> None:
    """A healthy box has no findings, every check was tried, and the hub has let it in once."""
    outcomes = await healthy.examined()
    assert [finding for outcome in outcomes for finding in outcome.findings] == []
    assert [outcome.check.id for outcome in outcomes if outcome.blocked_by] == []
    assert healthy.hub.hub.statistics.connections == 1
    assert healthy.hub.hub.statistics.messages == 0


async def test_a_message_is_sent_only_if_asked(healthy: HealthyBox) -> None:
    """With `sends` the hub gets one message, and takes it."""
    assert await healthy.find(sends=True) == []
    assert healthy.hub.hub.statistics.messages == 1


async def test_a_used_up_quota(healthy: HealthyBox) -> None:
    """A hub that has taken its day's messages is told as that."""
    healthy.hub.hub.use_tier("F1")
    healthy.hub.hub.throttle.count_message(512 * 8000, "another device")
    only(await healthy.find(sends=True), "hub.quota", "midnight UTC")


async def test_a_refusal_without_a_reason(healthy: HealthyBox) -> None:
    """A hub that says no, and a registry that nobody may read, are told as a choice of three."""
    healthy.hub.hub.set_enabled(DEVICE, False)
    only(await healthy.find(), "hub.refused", "--registry", "enabled")


def registry_of(box: HealthyBox) -> Secret:
    return Secret(box.hub.hub.service_connection_string("registryRead").encode())


async def test_a_disabled_device(healthy: HealthyBox) -> None:
    """The registry says that the device is disabled."""
    healthy.hub.hub.set_enabled(DEVICE, False)
    only(await healthy.find(registry=registry_of(healthy)), "hub.device-disabled", "Enable it", DEVICE)


async def test_a_wrong_key(healthy: HealthyBox) -> None:
    """The registry's keys are neither of them ours; none of them is in what is told."""
    healthy.put_key(bytes(32))
    finding = only(await healthy.find(registry=registry_of(healthy)), "hub.key-wrong", "keys import gateway")
    identity = healthy.hub.hub.identity(DEVICE)
    assert identity.primary_key not in repr(finding)


async def test_a_key_that_the_hub_is_not_told_of_yet(healthy: HealthyBox) -> None:
    """The gateway goes by the key before it, so that is no fault, and a message gets through; it is told."""
    healthy.put_key(bytes(32), generation_name("gateway", 2))
    for registry in (None, registry_of(healthy)):
        findings = await healthy.find(registry=registry, sends=True)
        finding = only(findings, "hub.newest-key-refused", f"keys remove {generation_name('gateway', 2)}")
        assert not finding.is_fault
    assert healthy.hub.hub.statistics.messages == 2
    up, refused = {"connected": True, "fault": ""}, {"refused": [generation_name("gateway", 2)]}
    async with serve_control(healthy.data, status_of("plant-3", uplink=up, key_store=refused)):
        only(await healthy.find(), "hub.newest-key-refused", "older one, gateway")
    await follow(finding)
    assert await healthy.find() == []


async def test_a_key_that_the_provisioning_service_has_made_anew(healthy: HealthyBox) -> None:
    """For the TPM that proves the gateway it makes another one: nobody is asked to paste it."""
    host_name = healthy.settings["uplink"].pop("host_name")
    device_id = healthy.settings["uplink"].pop("device_id")
    registration = "https://dps.example/0ne1/registrations/gw-17"
    identities = Identities(healthy.data / "identities.json")
    identities.put(Identity("", host_name, device_id, "gateway", "dps-tpm", registration=registration))
    healthy.put_key(bytes(32))
    finding = only(await healthy.find(registry=registry_of(healthy)), "hub.tpm-key-wrong", "keys rotate gateway")
    assert "paste" not in finding.fix


async def test_a_device_nobody_has_added(healthy: HealthyBox) -> None:
    """The registry does not know the device."""
    healthy.hub.hub.remove_device(DEVICE)
    only(await healthy.find(registry=registry_of(healthy)), "hub.no-device", "device_id")


async def test_a_device_that_proves_itself_otherwise(healthy: HealthyBox) -> None:
    """The registry wants a certificate of the device."""
    healthy.hub.hub.remove_device(DEVICE)
    thumbprint = self_signed_certificate(DEVICE).sha256_thumbprint
    healthy.hub.hub.add_device(DEVICE, authentication=Thumbprints(thumbprint, thumbprint))
    only(await healthy.find(registry=registry_of(healthy)), "hub.other-proof", "certificate")


async def test_a_registry_that_may_not_be_read(healthy: HealthyBox) -> None:
    """A connection string without the right is told as that, with the policy that would do."""
    healthy.hub.hub.set_enabled(DEVICE, False)
    registry = Secret(healthy.hub.hub.service_connection_string("device").encode())
    only(await healthy.find(registry=registry), "hub.registry-closed", "registryRead")


async def test_no_connection_string_at_all(healthy: HealthyBox) -> None:
    """What is no connection string is told without being shown."""
    healthy.hub.hub.set_enabled(DEVICE, False)
    finding = only(await healthy.find(registry=Secret(b"hunter2")), "doctor.unforeseen", "registryRead")
    assert "hunter2" not in repr(finding)


@pytest.mark.parametrize(("off_s", "way"), [(-1200, "behind"), (86_400 * 3, "ahead")])
async def test_a_wrong_clock(healthy: HealthyBox, off_s: float, way: str) -> None:
    """A clock that is off by more than minutes is the one cause, with how far and which way."""
    only(await healthy.find(clock=ShiftedClock(off_s)), "clock.wrong", way, "timedatectl")


async def test_tokens_that_have_expired(healthy: HealthyBox) -> None:
    """A clock behind by more than a token's life makes tokens that have expired."""
    only(await healthy.find(clock=ShiftedClock(-7300)), "hub.token-expired", "2 hours behind")


async def test_a_clock_some_seconds_off_is_no_fault(healthy: HealthyBox) -> None:
    """A minute does no harm, and is not told."""
    assert await healthy.find(clock=ShiftedClock(60)) == []


async def test_an_expired_certificate(healthy: HealthyBox) -> None:
    """The hub's certificate has expired, and the box's clock is right."""
    host = healthy.hub.hub.host_name
    healthy.hub.door.present(healthy.hub.authority.server_certificate([host], expired=True))
    only(await healthy.find(), "tls.certificate-expired", "renew", host)


async def test_a_certificate_of_tomorrow(healthy: HealthyBox) -> None:
    """A certificate that is not valid yet points to the clock."""
    host = healthy.hub.hub.host_name
    authority = LocalAuthority(clock=ShiftedClock(5 * 86_400))
    # The root is of tomorrow too, and OpenSSL looks at it first.
    (healthy.directory / "hub-ca.pem").write_text(authority.ca_pem)
    healthy.hub.door.present(authority.server_certificate([host]))
    only(await healthy.find(), "tls.certificate-not-yet-valid", "Set the clock")


async def test_an_unknown_authority(healthy: HealthyBox) -> None:
    """A certificate of an authority that ca_file does not hold names that authority and ca_file."""
    (healthy.directory / "hub-ca.pem").write_text(LocalAuthority().ca_pem)
    only(await healthy.find(), "tls.unknown-authority", "ca_file", "bench authority")


async def test_no_authorities_at_all(healthy: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A box without the package of authorities trusts nobody, and is told how to get it."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    del healthy.settings["uplink"]["ca_file"]
    only(await healthy.find(), "tls.no-authorities", "ca-certificates")


async def test_a_certificate_that_is_not_for_servers(healthy: HealthyBox) -> None:
    """What else OpenSSL finds wrong with a certificate is told in its words."""
    certificate = healthy.hub.authority.device_certificate(healthy.hub.hub.host_name)
    healthy.hub.door.present(ServerCertificate(certificate.certificate_pem, certificate.key_pem))
    only(await healthy.find(), "tls.untrusted", "purpose")


@asynccontextmanager
async def saying(box: HealthyBox, status: int) -> AsyncIterator[None]:
    """The hub's HTTPS says this to everything; its MQTT is as before."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    box.hub.door._listeners["https"].close()
    context = box.hub.authority.server_context([box.hub.door.address])
    async with await asyncio.start_server(answer, box.hub.door.address, 443, ssl=context):
        yield


@pytest.mark.parametrize(
    ("status", "fault"), [(403, "hub.quota"), (429, "hub.throttled"), (503, "hub.message-refused")]
)
async def test_a_message_that_is_not_taken(healthy: HealthyBox, status: int, fault: str) -> None:
    """What the hub answers to a message has its own cause each."""
    async with saying(healthy, status):
        only(await healthy.find(sends=True), fault)


async def test_a_hub_without_https(healthy: HealthyBox) -> None:
    """Where port 443 is closed only the message cannot be sent; MQTT is well."""
    healthy.hub.door._listeners["https"].close()
    only(await healthy.find(sends=True), "hub.no-https", "443")
    assert await healthy.find() == []


async def test_a_certificate_for_another_name(healthy: HealthyBox) -> None:
    """A certificate for another host names both."""
    healthy.hub.door.present(healthy.hub.authority.server_certificate(["portal.example.com"]))
    only(await healthy.find(), "tls.wrong-name", "portal.example.com", healthy.hub.hub.host_name)


async def test_intercepted_tls(tmp_path: Path) -> None:
    """A certificate for an Azure host by somebody who is no public authority: the connection is opened on its way."""
    async with box_with_hub(tmp_path, host_name=HUB) as box:
        del box.settings["uplink"]["ca_file"]
        findings = await box.find(resolve=leads_to(box.hub.door.address))
        only(findings, "tls.intercepted", "exempted", "bench authority")


async def test_a_name_that_leads_there_is_well(tmp_path: Path) -> None:
    """A hub known by a name is reached at the address the name leads to."""
    async with box_with_hub(tmp_path, host_name=HUB) as box:
        assert await box.find(resolve=leads_to(box.hub.door.address)) == []


async def test_a_port_that_speaks_no_tls(healthy: HealthyBox) -> None:
    """A server that answers in clear text is told as no TLS."""
    listening = await asyncio.start_server(_clear_text, healthy.hub.door.address, 0)
    async with listening:
        healthy.settings["uplink"] = _broker(healthy, listening.sockets[0].getsockname()[1])
        only(await healthy.find(), "tls.not-spoken", "8883")


async def test_a_cut_handshake(healthy: HealthyBox) -> None:
    """A firewall that cuts connections once it sees TLS is told as that."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    listening = await asyncio.start_server(cut, healthy.hub.door.address, 0)
    async with listening:
        healthy.settings["uplink"] = _broker(healthy, listening.sockets[0].getsockname()[1])
        only(await healthy.find(), "tls.cut", "inspection")


async def test_a_port_that_a_firewall_refuses(healthy: HealthyBox) -> None:
    """Port 8883 closed and 443 open is a firewall, and is told so."""
    healthy.hub.door._listeners["mqtt"].close()
    only(await healthy.find(), "net.port-blocked", "port 8883", "443")


async def test_a_port_that_a_firewall_drops(healthy: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most firewalls say nothing at all to what they keep back."""
    monkeypatch.setattr(network, "_CONNECTS_WITHIN_S", 0.5)
    healthy.hub.door._listeners["mqtt"].close()
    with deaf(healthy.hub.door.address, 8883):
        finding = only(await healthy.find(), "net.port-blocked", "port 8883", "443")
    assert "silent" in finding.evidence


async def test_a_port_where_nothing_listens(lone: HealthyBox) -> None:
    """A host that refuses the port, and 443 as well, runs no hub."""
    lone.settings["uplink"]["host_name"] = free_loopback_address(random.Random(os.getpid() + 1))
    finding = only(await lone.find(), "net.refused", "Check host and port")
    assert "refused" in finding.evidence


async def test_a_host_that_is_silent(lone: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that answers neither on the hub's port nor on 443 is told with both."""
    monkeypatch.setattr(network, "_CONNECTS_WITHIN_S", 0.2)
    address = free_loopback_address(random.Random(os.getpid() + 2))
    with deaf(address, 8883), deaf(address, 443):
        lone.settings["uplink"]["host_name"] = address
        only(await lone.find(), "net.no-answer", "8883", "443")


@contextmanager
def deaf(address: str, port: int) -> Iterator[None]:
    """A port whose queue of connections is full, so that the kernel lets nobody hear anything."""
    with socket.socket() as listening, ExitStack() as waiting:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the hub's was open there just now
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((address, port))
        yield


async def test_a_proxy_in_the_way(lone: HealthyBox) -> None:
    """Where the environment names a proxy and the direct way is closed, it is the cause; its password is not told."""
    lone.settings["uplink"]["host_name"] = free_loopback_address(random.Random(os.getpid() + 3))
    environment = {"https_proxy": "http://ann:secret@proxy.plant:3128"}
    finding = only(await lone.find(environment=environment), "net.proxy", "proxy.plant:3128")
    assert "secret" not in repr(finding)


async def test_a_name_that_leads_nowhere_useful(lone: HealthyBox) -> None:
    """A name that a filter leads to 0.0.0.0, or to this box where nothing listens, is told as that."""
    lone.settings["uplink"]["host_name"] = HUB
    only(await lone.find(resolve=leads_to("0.0.0.0")), "dns.useless-address", "/etc/hosts")
    only(
        await lone.find(resolve=leads_to(free_loopback_address(random.Random(os.getpid())))),
        "dns.useless-address",
        "/etc/hosts",
    )


async def test_a_name_nobody_knows(lone: HealthyBox) -> None:
    """A name that DNS denies, and one that can be none, are told as unknown."""
    lone.settings["uplink"]["host_name"] = "no-such-hub.invalid"
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    only(await lone.find(resolve=fails_with(error)), "dns.unknown-name", "no-such-hub.invalid")
    lone.settings["uplink"]["host_name"] = "a" * 70 + ".example.com"
    only(await lone.find(), "dns.unknown-name")


async def test_what_follows_from_a_cause_is_not_told(lone: HealthyBox) -> None:
    """With DNS broken the hub's other checks are not tried, and say because of what."""
    lone.settings["uplink"]["host_name"] = HUB
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    outcomes = {each.check.id: each for each in await lone.examined(resolve=fails_with(error))}
    for check in ("hub.port", "hub.clock", "hub.certificate", "hub.admission"):
        assert outcomes[check].blocked_by == ("dns.unknown-name",)


async def test_a_frozen_hub(healthy: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that takes connections and says nothing is found within the time of the check."""
    monkeypatch.setattr(server, "_SHAKES_WITHIN_S", 0.5)
    async with FaultProxy(healthy.hub.door.address, 8883, healthy.hub.door.address) as proxy:
        healthy.settings["uplink"] = _broker(healthy, proxy.port)
        proxy.mode = ProxyMode.SILENT
        async with asyncio.timeout(20):
            only(await healthy.find(), "tls.not-spoken", "silent")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"\x20\x02\x00\x05", "broker.login-wrong"),
        (b"\x20\x02\x00\x04", "broker.login-wrong"),
        (b"\x20\x02\x00\x03", "hub.unavailable"),
        (b"\x20\x02\x00\x02", "broker.client-id-refused"),
        (b"HTTP", "hub.login-no-answer"),
        (b"", "hub.hangs-up"),
    ],
)
async def test_what_a_broker_answers(healthy: HealthyBox, answer: bytes, fault: str) -> None:
    """Each return code of a broker, and what is none, has its own cause."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    address = healthy.hub.door.address
    context = healthy.hub.authority.server_context([address])
    listening = await asyncio.start_server(respond, address, 0, ssl=context)
    async with listening:
        healthy.settings["uplink"] = _broker(healthy, listening.sockets[0].getsockname()[1])
        only(await healthy.find(), fault)


async def test_a_device_that_has_a_certificate(healthy: HealthyBox) -> None:
    """A gateway that proves itself to the hub by a certificate needs no key, and is let in by it."""
    certificate = self_signed_certificate(DEVICE)
    file, key = certificate.write(healthy.directory)
    healthy.hub.hub.remove_device(DEVICE)
    thumbprint = certificate.sha256_thumbprint
    healthy.hub.hub.add_device(DEVICE, authentication=Thumbprints(thumbprint, thumbprint))
    healthy.settings["uplink"] |= {"certificate_file": str(file), "private_key_file": str(key)}
    (healthy.data / "keys" / "gateway.key").unlink()
    assert await healthy.find() == []
    assert healthy.hub.hub.statistics.connections == 1


async def test_an_expired_certificate_of_our_own(healthy: HealthyBox) -> None:
    """The gateway's own certificate for a broker has expired, and nothing else is wrong."""
    certificate, key = healthy.hub.authority.device_certificate("plant-3", expired=True).write(healthy.directory)
    address = healthy.hub.door.address

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.close()

    listening = await asyncio.start_server(let_in, address, 0, ssl=healthy.hub.authority.server_context([address]))
    async with listening:
        uplink = _broker(healthy, listening.sockets[0].getsockname()[1])
        uplink |= {"certificate_file": str(certificate), "private_key_file": str(key)}
        healthy.settings["uplink"] = uplink
        only(await healthy.find(), "hub.client-certificate-expired", str(certificate))


async def test_a_certificate_of_our_own_that_is_about_to_expire(healthy: HealthyBox) -> None:
    """Weeks before the gateway's own certificate expires there is a warning; it is let in meanwhile."""
    certificate = self_signed_certificate(DEVICE, clock=ShiftedClock(-345 * 86_400))  # it is valid for a year
    file, key = certificate.write(healthy.directory)
    healthy.hub.hub.remove_device(DEVICE)
    thumbprint = certificate.sha256_thumbprint
    healthy.hub.hub.add_device(DEVICE, authentication=Thumbprints(thumbprint, thumbprint))
    healthy.settings["uplink"] |= {"certificate_file": str(file), "private_key_file": str(key)}
    assert not only(await healthy.find(), "hub.client-certificate-ends", str(file)).is_fault
    assert healthy.hub.hub.statistics.connections == 1


async def test_a_certificate_of_our_own_without_its_key(healthy: HealthyBox) -> None:
    """A certificate beside another's key, which provisioning has noted, cannot be used."""
    one, other = self_signed_certificate(DEVICE), self_signed_certificate(DEVICE)
    file, _ = one.write(healthy.directory)
    (healthy.directory / "other").mkdir()
    _, key = other.write(healthy.directory / "other")
    uplink = healthy.settings["uplink"]
    host = uplink.pop("host_name")
    del uplink["device_id"]
    own = Identity("", host, DEVICE, "", "dps-x509", certificate_file=str(file), private_key_file=str(key))
    Identities(healthy.data / "identities.json").put(own)
    only(await healthy.find(), "hub.client-certificate-unusable", str(file))
    key.unlink()
    only(await healthy.find(), "hub.client-certificate-unusable", str(file), "no such file")


def _broker(box: HealthyBox, port: int) -> dict[str, object]:
    return {
        "kind": "mqtt",
        "host": box.hub.door.address,
        "port": port,
        "ca_file": str(box.directory / "hub-ca.pem"),
        "username": "plant-3",
    }


async def _clear_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"220 mail.example.com ESMTP\r\n" * 3)
    writer.close()
