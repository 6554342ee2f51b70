"""The provisioning service over HTTPS, for devices and for services."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.front_door import FrontDoor
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.dps import SERVICE_POLICY, LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationRequest,
    BuiltInPolicy,
    Certificates,
    IndividualEnrolment,
    ReprovisionPolicy,
    drawn_keys,
)
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.cloud.tokens import sas_token

from .test_dps_challenge import SoftwareTpm

KEYS = SymmetricKeys(*(base64.b64encode(bytes([fill]) * 64).decode() for fill in (1, 2)))
API = {"api-version": "2021-10-01"}


class Bench:
    """A hub and a provisioning service behind one door."""

    def __init__(self, authority: LocalAuthority, address: str) -> None:
        self.authority = authority
        self.hub = LocalHub(host_name=address, rng=random.Random(1))
        self.dps = LocalDps(hubs=[self.hub], host_name=address, rng=random.Random(1))
        self.door = FrontDoor([self.hub, self.dps], authority=authority, address=address, mqtt_port=0, https_port=0)
        self.registrations = f"/{self.dps.id_scope}/registrations"

    def device_token(self, registration_id: str = "dev", key: str = KEYS.primary) -> str:
        return sas_token(f"{self.dps.id_scope}/registrations/{registration_id}", key, 4_000_000_000)

    def service_token(self) -> str:
        key = self.dps.connection_string().partition("SharedAccessKey=")[2]
        return sas_token(self.dps.host_name, key, 4_000_000_000, policy=SERVICE_POLICY)

    @asynccontextmanager
    async def client(
        self, token: str | None = None, certificate: DeviceCertificate | None = None
    ) -> AsyncIterator[aiohttp.ClientSession]:
        """A client that shows a token or a certificate with each request."""
        async with aiohttp.ClientSession(
            f"https://{self.door.address}:{self.door.ports()['https']}",
            connector=aiohttp.TCPConnector(ssl=self.authority.client_context(certificate)),
            headers={"Authorization": token} if token is not None else {},
        ) as client:
            yield client


@pytest.fixture
async def bench(authority: LocalAuthority, address: str) -> AsyncIterator[Bench]:
    bench = Bench(authority, address)
    async with bench.door:
        yield bench


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[aiohttp.ClientSession]:
    async with bench.client() as client:
        yield client


@pytest.fixture
async def service(bench: Bench) -> AsyncIterator[aiohttp.ClientSession]:
    async with bench.client(bench.service_token()) as client:
        yield client


async def told(response: aiohttp.ClientResponse, status: int = 200) -> Any:
    """The JSON of an answer that must have this status."""
    body = await response.read()
    assert response.status == status, body
    if not body:
        return None
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    return orjson.loads(body)


async def refused(response: aiohttp.ClientResponse, status: int, error_code: int) -> None:
    """The answer must be a refusal as the service writes them."""
    body = await told(response, status)
    assert body["errorCode"] == error_code
    assert response.headers["x-ms-error-code"] == str(error_code)
    assert body.keys() == {"errorCode", "trackingId", "message", "timestampUtc"}


# Devices


@pytest.mark.parametrize("api_version", ["2019-03-31", "2021-06-01", "2026-11-01"])
async def test_a_registration(bench: Bench, api_version: str) -> None:
    """A device registers, polls where it is told to, and can look its registration up."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    api = {"api-version": api_version}
    async with bench.client(bench.device_token()) as client:
        response = await client.put(f"{bench.registrations}/dev/register", params=api, json={"registrationId": "dev"})
        assert response.headers["retry-after"] == "3"
        operation_id = (await told(response, 202))["operationId"]
        assert response.headers["Location"] == f"{bench.registrations}/dev/operations/{operation_id}"
        last = await told(await client.get(response.headers["Location"], params=api))
        assert last["registrationState"]["assignedHub"] == bench.hub.host_name
        state = await told(await client.post(f"{bench.registrations}/dev", params=api, json={"registrationId": "dev"}))
        assert state["deviceId"] == "dev"


async def test_a_registration_by_certificate(bench: Bench) -> None:
    """A device with a certificate needs no token."""
    certificate = self_signed_certificate("dev")
    bench.dps.add_enrolment(IndividualEnrolment("dev", Thumbprints(certificate.sha1_thumbprint)))
    async with bench.client(certificate=certificate) as client:
        first = await told(await client.put(f"{bench.registrations}/dev/register", params=API, json={}), 202)
        last = await told(await client.get(f"{bench.registrations}/dev/operations/{first['operationId']}", params=API))
    assert last["registrationState"]["x509"]["certificateInfo"]["sha1Thumbprint"] == certificate.sha1_thumbprint
    assert bench.hub.identity("dev").authentication == Thumbprints(*[certificate.sha1_thumbprint] * 2)


async def test_refusals(bench: Bench) -> None:
    """A device that is not known, not readable, asks for what is not there or too often is told so."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    register, operation = f"{bench.registrations}/dev/register", f"{bench.registrations}/dev/operations/x"
    async with bench.client(bench.device_token(key=drawn_keys().primary)) as stranger:
        await refused(await stranger.put(register, json={}), 401, 401002)
        await refused(await stranger.get(operation), 401, 401002)
    async with bench.client() as nobody:
        await refused(await nobody.put(register, json={}), 401, 401002)
    async with bench.client(bench.device_token()) as client:
        await refused(await client.put(register, data=b"{"), 400, 400000)
        await refused(await client.put(f"{bench.registrations}/{quote('a/b', safe='')}/register"), 400, 400000)
        await refused(await client.get(operation), 404, 404000)
        await refused(await client.post(f"{bench.registrations}/dev"), 404, 404000)
        await refused(await client.put(register, data=io.BytesIO(bytes(3_000_000))), 413, 413000)
        bench.dps.throttle(1)
        response = await client.put(register, json={})
        await refused(response, 429, 429001)
        assert response.headers["retry-after"] == "3"


async def test_another_scope(bench: Bench) -> None:
    """A scope that is not the service's is not found."""
    async with bench.client(bench.device_token()) as client:
        response = await client.put("/0neFFFFFFFF/registrations/dev/register", json={})
        assert response.status == 404


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
        lambda name: name not in {".", ".."}  # clients take these as a way through the path
    ),
    body=st.binary(max_size=40),
    token=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
async def test_arbitrary_requests(
    bench: Bench, client: aiohttp.ClientSession, name: str, body: bytes, token: str
) -> None:
    """Any name, body and token of a device that is not enrolled end in a refusal."""
    path = f"{bench.registrations}/{quote(name, safe='')}/register"
    response = await client.put(path, data=body, headers={"Authorization": token})
    assert (await told(response, response.status))["errorCode"] in {400000, 401002}


# Services


INDIVIDUAL = {
    "registrationId": "dev",
    "deviceId": "boiler",
    "attestation": {
        "type": "symmetricKey",
        "symmetricKey": {"primaryKey": KEYS.primary, "secondaryKey": KEYS.secondary},
    },
    "capabilities": {"iotEdge": True},
    "initialTwin": {"tags": {"site": "north"}, "properties": {"desired": {"period_s": 5}}},
    "provisioningStatus": "disabled",
    "allocationPolicy": "static",
    "iotHubs": ["hub.example"],
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False},
}
WITHOUT_KEYS = INDIVIDUAL | {"attestation": {"type": "symmetricKey", "symmetricKey": {}}}


async def test_an_enrolment_is_put_and_got(bench: Bench, service: aiohttp.ClientSession) -> None:
    """What a service puts is in force, and is told again without its keys; those are told to who asks for them."""
    put = await told(await service.put("/enrollments/dev", params=API, json=INDIVIDUAL))
    assert put.items() >= WITHOUT_KEYS.items()
    assert await told(await service.get("/enrollments/DEV", params=API)) == put
    mechanism = await told(await service.post("/enrollments/dev/attestationmechanism", params=API))
    assert mechanism == INDIVIDUAL["attestation"]
    enrolment = bench.dps.enrolments.get("dev")
    assert enrolment.attestation == KEYS
    assert (enrolment.device_id, enrolment.edge, enrolment.enabled) == ("boiler", True, False)
    assert (enrolment.allocation, enrolment.hubs) == (BuiltInPolicy.STATIC, ("hub.example",))
    assert enrolment.reprovision == ReprovisionPolicy(migrate_device_data=False)
    assert (enrolment.initial_twin.tags, enrolment.initial_twin.desired) == ({"site": "north"}, {"period_s": 5})


async def test_the_least_of_an_enrolment(bench: Bench, service: aiohttp.ClientSession) -> None:
    """An id and the kind of attestation are enough; keys are drawn and members nobody knows passed over."""
    least = {"registrationId": "dev", "attestation": {"type": "symmetricKey"}, "credentialPolicyName": None}
    await told(await service.put("/enrollments/dev", json=least))
    enrolment = bench.dps.enrolments.get("dev")
    assert isinstance(enrolment.attestation, SymmetricKeys)
    assert (enrolment.enabled, enrolment.edge, enrolment.allocation) == (True, False, BuiltInPolicy.HASHED)


async def test_the_older_way_to_name_a_hub(bench: Bench, service: aiohttp.ClientSession) -> None:
    """One hub's name alone stands for a static policy."""
    await told(await service.put("/enrollments/dev", json=WITHOUT_KEYS | {"allocationPolicy": None, "iotHubs": None}))
    assert bench.dps.enrolments.get("dev").allocation is BuiltInPolicy.HASHED
    older = WITHOUT_KEYS | {"allocationPolicy": None, "iotHubs": None, "iotHubHostName": "hub.example"}
    await told(await service.put("/enrollments/dev", json=older, headers={"If-Match": "*"}))
    enrolment = bench.dps.enrolments.get("dev")
    assert (enrolment.allocation, enrolment.hubs) == (BuiltInPolicy.STATIC, ("hub.example",))


async def test_updates_and_removal_are_by_etag(bench: Bench, service: aiohttp.ClientSession) -> None:
    """What is there is only replaced or removed by who knows it; keys that are not written stay."""
    first = await told(await service.put("/enrollments/dev", json=INDIVIDUAL))
    await refused(await service.put("/enrollments/dev", json=INDIVIDUAL), 409, 409000)
    change = WITHOUT_KEYS | {"provisioningStatus": "enabled"}
    known = {"If-Match": first["etag"]}
    second = await told(await service.put("/enrollments/dev", json=change, headers=known))
    assert second["provisioningStatus"] == "enabled"
    assert bench.dps.enrolments.get("dev").attestation == KEYS
    await refused(await service.put("/enrollments/dev", json=change, headers=known), 412, 412000)
    await refused(await service.delete("/enrollments/dev", headers=known), 412, 412000)
    unquoted = {"If-Match": second["etag"].strip('"')}
    assert await told(await service.delete("/enrollments/dev", headers=unquoted), 204) is None
    for request in (service.get, service.delete):
        await refused(await request("/enrollments/dev"), 404, 404201)
    await refused(await service.put("/enrollments/dev", json=change, headers={"If-Match": "*"}), 404, 404201)


async def test_a_group(bench: Bench, service: aiohttp.ClientSession) -> None:
    """Groups are put, got and deleted alike; a device of theirs registers, and its registration is told."""
    document = {"enrollmentGroupId": "g", "attestation": INDIVIDUAL["attestation"]}
    put = await told(await service.put("/enrollmentGroups/g", json=document))
    assert put["enrollmentGroupId"] == "g"
    mechanism = await told(await service.post("/enrollmentgroups/g/attestationmechanism", params=API))
    assert mechanism == INDIVIDUAL["attestation"]
    key = bench.dps.groups.get("g").device_keys("dev").primary
    async with bench.client(bench.device_token(key=key)) as device:
        await told(await device.put(f"{bench.registrations}/dev/register", json={}), 202)
    state = await told(await service.get("/registrations/dev"))
    assert state["assignedHub"] == bench.hub.host_name
    await refused(await service.delete("/registrations/dev", headers={"If-Match": "x"}), 412, 412000)
    await told(await service.delete("/registrations/dev", headers={"If-Match": state["etag"]}), 204)
    await refused(await service.get("/registrations/dev"), 404, 404000)
    await told(await service.delete("/enrollmentGroups/g"), 204)
    assert len(bench.dps.groups) == 0


async def test_the_registration_is_told_with_its_enrolment(bench: Bench, service: aiohttp.ClientSession) -> None:
    """An individual enrolment shows what came of it."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    assert "registrationState" not in await told(await service.get("/enrollments/dev"))
    async with bench.client(bench.device_token()) as device:
        await told(await device.put(f"{bench.registrations}/dev/register", json={}), 202)
    assert (await told(await service.get("/enrollments/dev")))["registrationState"]["status"] == "assigned"


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def pem_in_base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode()


def der_in_base64(certificate: x509.Certificate) -> str:
    return base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()


@pytest.mark.parametrize("write", [pem, pem_in_base64, der_in_base64])
async def test_certificates(bench: Bench, service: aiohttp.ClientSession, write: Any) -> None:
    """Certificates are read in each form clients write them; what is told of them is enough to put them again."""
    own, other = (self_signed_certificate("dev").certificate for _ in range(2))
    pair = {"primary": {"certificate": write(own)}, "secondary": {"certificate": write(other)}}
    for path, name, kind, table in (
        ("/enrollments/dev", "registrationId", "clientCertificates", bench.dps.enrolments),
        ("/enrollmentGroups/dev", "enrollmentGroupId", "signingCertificates", bench.dps.groups),
    ):
        document = {name: "dev", "attestation": {"type": "x509", "x509": {kind: pair}}}
        put = await told(await service.put(path, json=document))
        shown = put["attestation"]["x509"][kind]["secondary"]["info"]
        assert shown["subjectName"] == "CN=dev"
        assert table.get("dev").attestation == Certificates(own, other)
        await told(await service.put(path, json=put, headers={"If-Match": put["etag"]}))
        assert table.get("dev").attestation == Certificates(own, other)


async def test_thumbprints(bench: Bench, service: aiohttp.ClientSession) -> None:
    """An enrolment that knows no more than a thumbprint tells that, and keeps it."""
    certificate = self_signed_certificate("dev")
    thumbprints = Thumbprints(certificate.sha256_thumbprint, certificate.sha1_thumbprint)
    bench.dps.add_enrolment(IndividualEnrolment("dev", thumbprints))
    document = await told(await service.get("/enrollments/dev"))
    assert document["attestation"]["x509"]["clientCertificates"] == {
        "primary": {"info": {"sha256Thumbprint": thumbprints.primary}},
        "secondary": {"info": {"sha1Thumbprint": thumbprints.secondary}},
    }
    await told(await service.put("/enrollments/dev", json=document, headers={"If-Match": "*"}))
    assert bench.dps.enrolments.get("dev").attestation == thumbprints


async def test_a_custom_policy_stays(bench: Bench, service: aiohttp.ClientSession) -> None:
    """A function given in Python is told as "custom" and survives an update; it cannot be given over HTTPS."""

    def policy(request: AllocationRequest) -> Allocation:
        return Allocation(request.hubs[0])

    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS, allocation=policy))
    document = await told(await service.get("/enrollments/dev"))
    assert document["allocationPolicy"] == "custom"
    await told(await service.put("/enrollments/dev", json=document, headers={"If-Match": "*"}))
    assert bench.dps.enrolments.get("dev").allocation is policy
    document["registrationId"] = "dev2"
    await refused(await service.put("/enrollments/dev2", json=document), 400, 400000)


SHORT_KEY = base64.b64encode(b"short").decode()


@pytest.mark.parametrize(
    "change",
    [
        {"registrationId": "other"},
        {"registrationId": None},
        {"attestation": None},
        {"attestation": {"type": "none"}},
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEYS.primary}}},
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": SHORT_KEY, "secondaryKey": SHORT_KEY}}},
        {"attestation": {"type": "tpm"}},
        {"attestation": {"type": "tpm", "tpm": {"endorsementKey": "!"}}},
        {"attestation": {"type": "tpm", "tpm": {"endorsementKey": "AAAA"}}},
        {"attestation": {"type": "x509"}},
        {"attestation": {"type": "x509", "x509": {"caReferences": {"primary": "root"}}}},
        {"attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": "AAAA"}}}}},
        {"allocationPolicy": "nearest"},
        {"allocationPolicy": "custom"},
        {"provisioningStatus": "perhaps"},
        {"initialTwin": {"properties": {"desired": {"a.b": 1}}}},
        {"iotHubs": "hub.example"},
    ],
    ids=str,
)
async def test_enrolments_that_are_refused(
    bench: Bench, service: aiohttp.ClientSession, change: dict[str, Any]
) -> None:
    """An enrolment that is not one changes nothing, and no key is told in the refusal."""
    response = await service.put("/enrollments/dev", json=INDIVIDUAL | change)
    assert KEYS.primary not in await response.text()
    await refused(response, 400, 400000)
    assert len(bench.dps.enrolments) == 0


async def test_a_tpm(bench: Bench, service: aiohttp.ClientSession) -> None:
    """A TPM is enrolled by its endorsement key, for one device and for no group."""
    tpm = SoftwareTpm()
    attestation = {"type": "tpm", "tpm": {"endorsementKey": base64.b64encode(tpm.endorsement_key).decode()}}
    document = {"registrationId": tpm.registration_id, "attestation": attestation}
    put = await told(await service.put(f"/enrollments/{tpm.registration_id}", json=document))
    assert put["attestation"] == attestation
    assert bench.dps.enrolments.get(tpm.registration_id).attestation == EndorsementKey.parse(tpm.endorsement_key)
    group = {"enrollmentGroupId": "g", "attestation": attestation}
    await refused(await service.put("/enrollmentGroups/g", json=group), 400, 400000)


async def test_a_group_under_another_name(service: aiohttp.ClientSession) -> None:
    """A group has the id of its path."""
    document = {"enrollmentGroupId": "other", "attestation": {"type": "symmetricKey"}}
    await refused(await service.put("/enrollmentGroups/g", json=document), 400, 400000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["registrationId", "attestation", "type", "symmetricKey", "x509", "initialTwin", "iotHubs"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=20) | JSON.map(orjson.dumps))
async def test_arbitrary_enrolments(bench: Bench, service: aiohttp.ClientSession, body: bytes) -> None:
    """Any bytes in an enrolment's place end in a refusal."""
    await refused(await service.put("/enrollments/dev", data=body), 400, 400000)


async def test_who_may(bench: Bench) -> None:
    """Devices and strangers may do nothing to enrolments."""
    bench.dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    for token in (None, bench.device_token(), "Bearer x"):
        async with bench.client(token) as client:
            await refused(await client.get("/enrollments/dev"), 401, 401002)
            await refused(await client.delete("/enrollments/dev"), 401, 401002)
            await refused(await client.put("/enrollmentGroups/g", json={}), 401, 401002)
            await refused(await client.get("/registrations/dev"), 401, 401002)
    assert "dev" in bench.dps.enrolments
