"""Registration with the provisioning service, and what a device finds at the hub it is sent to."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from typing import Any

import pytest

from edge_gateway.records import Value
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Certificates,
    EnrolmentGroup,
    IndividualAttestation,
    IndividualEnrolment,
    InitialTwin,
)

from .bench import CONFORMANCE, Bench, soon
from .client import (
    Access,
    ClientCertificate,
    ClientKind,
    Enrolment,
    Feature,
    Message,
    NotAuthorised,
    Refused,
    Registration,
)
from .kinds import clients_with

pytestmark = CONFORMANCE

KEY = base64.b64encode(b"primary key of an enrolment......").decode()
OTHER_KEY = base64.b64encode(b"secondary key of an enrolment....").decode()
KEYS = SymmetricKeys(KEY, OTHER_KEY)


@clients_with(Feature.PROVISIONING)
@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["primary", "secondary"])
async def test_own_key(bench: Bench, kind: ClientKind, key: str) -> None:
    """A device with an enrolment of its own is assigned to the hub and let in there by the same key."""
    device_id = bench.new_id("device")
    _enrol(bench, device_id, KEYS)
    registration = await _register(bench, kind, device_id, key=key)
    assert registration == Registration(bench.hub.host_name, device_id)
    await _sends(bench, kind, registration, key=key)


@clients_with(Feature.PROVISIONING)
async def test_group_key(bench: Bench, kind: ClientKind) -> None:
    """A device of a group registers by the key derived from the group's for its registration id."""
    device_id = bench.new_id("sn-007")
    bench.dps.add_group(EnrolmentGroup(group_id=bench.new_id("group"), attestation=KEYS))
    derived = base64.b64encode(hmac.digest(base64.b64decode(KEY), device_id.encode(), hashlib.sha256)).decode()
    registration = await _register(bench, kind, device_id, key=derived)
    await _sends(bench, kind, registration, key=derived)


@clients_with(Feature.PROVISIONING, Feature.CERTIFICATE)
async def test_own_certificate(bench: Bench, kind: ClientKind) -> None:
    """A device registers by the thumbprint of its certificate, and is let in at the hub by it."""
    device_id = bench.new_id("device")
    certificate = self_signed_certificate(device_id)
    _enrol(bench, device_id, Thumbprints(certificate.sha256_thumbprint))
    registration = await _register(bench, kind, device_id, certificate=certificate)
    await _sends(bench, kind, registration, certificate=certificate)


@clients_with(Feature.PROVISIONING, Feature.CERTIFICATE)
async def test_group_certificate(bench: Bench, kind: ClientKind) -> None:
    """A device of a group registers by a certificate that the group's authority has signed."""
    device_id = bench.new_id("device")
    factory = bench.authority.intermediate("factory")
    bench.dps.add_group(EnrolmentGroup(group_id=bench.new_id("group"), attestation=Certificates(factory.certificate)))
    certificate = factory.device_certificate(device_id)
    registration = await _register(bench, kind, device_id, certificate=certificate)
    await _sends(bench, kind, registration, certificate=certificate)


@clients_with(Feature.PROVISIONING, by_websocket=False)
async def test_waiting(bench: Bench, kind: ClientKind) -> None:
    """A device that is told to wait asks again until it is assigned."""
    device_id = bench.new_id("device")
    _enrol(bench, device_id, KEYS)
    bench.dps.polls = 1
    try:
        assert (await _register(bench, kind, device_id, key=KEY)).device_id == device_id
    finally:
        bench.dps.polls = 0


@clients_with(Feature.PROVISIONING)
async def test_name_at_the_hub(bench: Bench, kind: ClientKind) -> None:
    """A device may be called otherwise at the hub, and finds the twin there that was prepared for it."""
    registration_id, device_id = bench.new_id("registration"), bench.new_id("device")
    twin = InitialTwin(tags={"line": 7}, desired={"period_s": 5})
    _enrol(bench, registration_id, KEYS, device_id=device_id, initial_twin=twin)
    assert (await _register(bench, kind, registration_id, key=KEY)).device_id == device_id
    assert bench.hub.twin(device_id).desired == {"period_s": 5}
    assert bench.hub.twin(device_id).tags == {"line": 7}


@clients_with(Feature.PROVISIONING)
async def test_payload(bench: Bench, kind: ClientKind) -> None:
    """What a device sends along reaches the policy that allocates it, whose answer reaches the device."""
    device_id = bench.new_id("device")
    seen = []

    def policy(request: AllocationRequest) -> Allocation:
        seen.append(request.payload)
        return Allocation(request.hubs[0], {"told": ["plain text", 1]})

    _enrol(bench, device_id, KEYS, allocation=policy)
    payload: Value = {"modelId": "dtmi:com:example:sensor;1", "deep": {"a": [None, "Grüße"]}}
    registration = await _register(bench, kind, device_id, key=KEY, payload=payload)
    assert seen == [payload]
    assert registration.payload == {"told": ["plain text", 1]}


@clients_with(Feature.PROVISIONING)
async def test_again(bench: Bench, kind: ClientKind) -> None:
    """A device that registers again comes to the same hub, and its twin is what it was."""
    device_id = bench.new_id("device")
    _enrol(bench, device_id, KEYS, initial_twin=InitialTwin(desired={"a": 1}))
    first = await _register(bench, kind, device_id, key=KEY)
    bench.hub.patch_desired(device_id, {"a": 2})
    assert await _register(bench, kind, device_id, key=KEY) == first
    assert bench.hub.twin(device_id).desired == {"a": 2}


@clients_with(Feature.PROVISIONING)
@pytest.mark.parametrize("fault", ["wrong key", "unknown", "disabled", "failed", "other scope"])
async def test_refused(bench: Bench, kind: ClientKind, fault: str) -> None:
    """A device that is unknown, does not prove itself, is shut out, or finds no hub, is told so and is nowhere."""

    def no_hub(_: AllocationRequest) -> Allocation:
        raise AllocationFailed("no hub today")

    device_id = bench.new_id("device")
    if fault == "failed":
        _enrol(bench, device_id, KEYS, allocation=no_hub)
    elif fault != "unknown":
        _enrol(bench, device_id, KEYS, enabled=fault != "disabled")
    enrolment = _enrolment(bench, device_id, key=bench.hub.new_key() if fault == "wrong key" else KEY)
    if fault == "other scope":
        enrolment = replace(enrolment, id_scope="0ne0000FFFF")
    with pytest.raises((NotAuthorised, Refused)):
        await soon(kind.register(enrolment))
    assert device_id not in bench.hub.device_ids


@clients_with(Feature.PATIENCE, by_websocket=False)
async def test_throttled(bench: Bench, kind: ClientKind) -> None:
    """A device that is told to come back later does."""
    device_id = bench.new_id("device")
    _enrol(bench, device_id, KEYS)
    bench.dps.throttle(1)
    before = bench.dps.statistics.throttled
    assert (await _register(bench, kind, device_id, key=KEY)).device_id == device_id
    assert bench.dps.statistics.throttled == before + 1


def _enrol(bench: Bench, registration_id: str, attestation: IndividualAttestation, **others: Any) -> None:
    bench.dps.add_enrolment(IndividualEnrolment(registration_id=registration_id, attestation=attestation, **others))


async def _register(
    bench: Bench,
    kind: ClientKind,
    registration_id: str,
    *,
    key: str = "",
    certificate: DeviceCertificate | None = None,
    payload: Value = None,
) -> Registration:
    enrolment = _enrolment(bench, registration_id, key=key, certificate=certificate, payload=payload)
    return await soon(kind.register(enrolment))


def _enrolment(
    bench: Bench,
    registration_id: str,
    *,
    key: str = "",
    certificate: DeviceCertificate | None = None,
    payload: Value = None,
) -> Enrolment:
    return Enrolment(
        bench.door.address,
        bench.dps.id_scope,
        registration_id,
        key,
        _for_client(certificate),
        bench.authority.ca_pem,
        payload,
    )


async def _sends(
    bench: Bench,
    kind: ClientKind,
    registration: Registration,
    *,
    key: str = "",
    certificate: DeviceCertificate | None = None,
) -> None:
    device = Access(
        bench.door.address,
        registration.hub_name,
        registration.device_id,
        key=key,
        certificate=_for_client(certificate),
        ca_pem=bench.authority.ca_pem,
    )
    async with bench.client(kind, device) as client:
        await client.send(Message(b"[1]"))
    assert [message.body for message in bench.telemetry(device)] == [b"[1]"]


def _for_client(certificate: DeviceCertificate | None) -> ClientCertificate | None:
    return None if certificate is None else ClientCertificate(certificate.certificate_pem, certificate.key_pem)
