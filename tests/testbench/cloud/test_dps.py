"""Registration: what becomes of a device, at its hub and in what it is told."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.provisioning.dps import SERVICE_POLICY, Answer, LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    BuiltInPolicy,
    Certificates,
    Credentials,
    EnrolmentGroup,
    IndividualEnrolment,
    InitialTwin,
    ReprovisionPolicy,
    drawn_keys,
)
from edge_gateway.testbench.cloud.provisioning.registrations import Outcome, RegistrationNotFound, Substatus
from edge_gateway.testbench.cloud.refusals import AccessDenied, EtagMismatch
from edge_gateway.testbench.cloud.tokens import sas_token

from .mqtt_client import ShiftedClock, soon

KEYS = drawn_keys()
RESET = ReprovisionPolicy(migrate_device_data=False)
NEVER = ReprovisionPolicy(update_hub_assignment=False)


class Device:
    """Registers as devices do, without a network."""

    def __init__(self, dps: LocalDps, registration_id: str = "dev", key: str = KEYS.primary) -> None:
        self.dps = dps
        self.registration_id = registration_id
        resource = f"{dps.id_scope}/registrations/{registration_id}"
        self.credentials = Credentials(sas_token(resource, key, 4_000_000_000))

    def register(self, payload: Any = None) -> Answer:
        body = {"registrationId": self.registration_id, "payload": payload}
        return self.dps.register(self.registration_id, self.credentials, orjson.dumps(body))

    def poll(self, operation_id: str) -> Answer:
        return self.dps.operation_status(self.registration_id, self.credentials, operation_id)

    def registered(self, payload: Any = None) -> Any:
        """Register and poll to the end; the registration state."""
        answer = self.register(payload)
        while answer.status == 202:
            answer = self.poll(str(answer.body["operationId"]))
        assert answer.status == 200, answer
        return answer.body["registrationState"]


@pytest.fixture
def hubs() -> list[LocalHub]:
    return [LocalHub(host_name=f"hub-{name}.example", rng=random.Random(1)) for name in "abc"]


@pytest.fixture
def dps(hubs: list[LocalHub]) -> LocalDps:
    return LocalDps(hubs=hubs, rng=random.Random(1))


def enrolled(dps: LocalDps, **settings: Any) -> Device:
    dps.add_enrolment(IndividualEnrolment("dev", KEYS, **settings))
    return Device(dps)


def to(hub: LocalHub) -> dict[str, Any]:
    """Settings that send a device to a hub."""
    return {"allocation": BuiltInPolicy.STATIC, "hubs": (hub.host_name,)}


def send_to(dps: LocalDps, hub: LocalHub) -> None:
    """Change the device's enrolment so that it belongs to a hub."""
    dps.enrolments.update(replace(dps.enrolments.get("dev"), **to(hub)))


# What the device is told


async def test_assigning_then_assigned(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A registration is answered with an operation, whose status becomes "assigned"."""
    device = enrolled(dps, **to(hubs[1]))
    first = device.register()
    assert (first.status, first.retry_after_s) == (202, 3)
    assert first.body["status"] == "assigning"
    assert first.body["registrationState"] == {"registrationId": "dev", "status": "assigning"}
    operation_id = str(first.body["operationId"])
    last = device.poll(operation_id)
    assert (last.status, last.retry_after_s, last.body["status"]) == (200, None, "assigned")
    state: Any = last.body["registrationState"]
    assert {name: state[name] for name in ("registrationId", "assignedHub", "deviceId", "status", "substatus")} == {
        "registrationId": "dev",
        "assignedHub": "hub-b.example",
        "deviceId": "dev",
        "status": "assigned",
        "substatus": "initialAssignment",
    }
    assert state["symmetricKey"] == {}
    assert state["createdDateTimeUtc"] == state["lastUpdatedDateTimeUtc"]
    assert device.poll(operation_id) == last


@pytest.mark.parametrize("polls", [0, 1, 3])
async def test_as_many_polls_as_said(hubs: list[LocalHub], polls: int) -> None:
    """The device asks as often as the service is told to want it; with 0 it has its answer at once."""
    dps = LocalDps(hubs=hubs, polls=polls, retry_after_s=7)
    device = enrolled(dps)
    answers = [device.register()]
    for _ in range(polls):
        answers.append(device.poll(str(answers[0].body["operationId"])))
    assert [answer.status for answer in answers] == [202] * polls + [200]
    assert [answer.retry_after_s for answer in answers] == [7] * polls + [None]


async def test_status_of_a_registration(dps: LocalDps) -> None:
    """What came of a registration can be asked for later, without the operation."""
    device = enrolled(dps)
    assert dps.registration_status("dev", device.credentials).status == 404
    state = device.registered()
    answer = dps.registration_status("dev", device.credentials)
    assert answer.status == 200
    assert answer.body["assignedHub"] == state["assignedHub"]


@pytest.mark.parametrize("operation_id", ["", "5.0.x"])
async def test_unknown_operation(dps: LocalDps, operation_id: str) -> None:
    """Another operation than the device's own is not found."""
    device = enrolled(dps)
    device.register()
    assert device.poll(operation_id).status == 404


async def test_denied(dps: LocalDps) -> None:
    """Who cannot prove who it is hears 401 to every request, and nothing of the reason."""
    enrolled(dps)
    stranger = Device(dps, key=drawn_keys().primary)
    answers = [stranger.register(), stranger.poll("x"), dps.registration_status("dev", stranger.credentials)]
    for answer in answers:
        assert answer.status == 401
        assert answer.body["errorCode"] == 401002
        assert answer.body["message"] == "Unauthorized"
        assert answer.body["trackingId"]
        assert answer.body["timestampUtc"]
    assert dps.statistics.denied == 3
    assert not list(dps.registrations)


async def test_a_token_that_ends(hubs: list[LocalHub]) -> None:
    """A token is judged by the service's clock with every request, not once for all."""
    clock = ShiftedClock(0.0)
    dps = LocalDps(hubs=hubs, clock=clock)
    device = enrolled(dps)
    token = sas_token(f"{dps.id_scope}/registrations/dev", KEYS.primary, clock.now_ns() // NS_PER_S + 60)
    device.credentials = Credentials(token)
    operation_id = str(device.register().body["operationId"])
    clock.ahead_s = 120.0
    assert device.poll(operation_id).status == 401


async def test_disabled(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A disabled enrolment is told so, and nothing is done for it; enabled again it works."""
    device = enrolled(dps, enabled=False)
    answer = device.register()
    assert answer.status == 200
    assert answer.body["status"] == "disabled"
    assert dps.statistics.disabled == 1
    assert not list(dps.registrations)
    assert not any(hub.device_ids for hub in hubs)
    dps.enrolments.update(replace(dps.enrolments.get("dev"), enabled=True))
    assert device.registered()["status"] == "assigned"


async def test_throttled(dps: LocalDps) -> None:
    """As many requests as wanted are answered 429 with the time to wait, the next one as usual."""
    device = enrolled(dps)
    dps.throttle(2)
    for _ in range(2):
        answer = device.register()
        assert (answer.status, answer.retry_after_s) == (429, 3)
        assert answer.body["errorCode"] == 429001
    assert device.register().status == 202
    assert dps.statistics.throttled == 2


BODIES = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["registrationId", "payload", "tpm", "csr", "endorsementKey"]), inner)
    ),
    max_leaves=8,
).map(lambda value: repr(value).replace("'", '"').replace("None", "null").encode())


@given(BODIES, st.text(max_size=20) | st.just("dev"))
async def test_arbitrary_bodies(body: bytes, registration_id: str) -> None:
    """Any bytes in a registration's place are answered, with a refusal if they are none."""
    dps = LocalDps(hubs=[LocalHub(host_name="hub.example")])
    device = enrolled(dps)
    answer = dps.register(registration_id, device.credentials, body)
    assert answer.status in {202, 400, 401}
    orjson.dumps(answer.body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 202),
        (b" \n", 202),
        (b"{}", 202),
        (b'{"registrationId":"DEV","payload":[1]}', 202),
        (b'{"registrationId":"dev","tpm":null,"csr":null}', 202),
        (b"[]", 400),
        (b"{", 400),
        (b'{"registrationId":"other"}', 400),
        (b'{"registrationId":1}', 400),
        (b'{"csr":"MIIB"}', 400),
        (b'{"tpm":1}', 400),
        (b'{"tpm":{}}', 400),
        (b'{"tpm":{"endorsementKey":"!","storageRootKey":""}}', 400),
        (b'{"tpm":{"endorsementKey":1,"storageRootKey":""}}', 400),
    ],
)
async def test_bodies(dps: LocalDps, body: bytes, status: int) -> None:
    """The body may say less than it could, but nothing that is wrong or not offered."""
    device = enrolled(dps)
    assert dps.register("dev", device.credentials, body).status == status


# What becomes of it at the hub


async def test_the_device_at_its_hub(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """The hub has the device with its keys, its own id, tags, desired properties and capability."""
    device = enrolled(
        dps,
        **to(hubs[0]),
        device_id="boiler-room",
        initial_twin=InitialTwin({"site": "north"}, {"period_s": 5}),
        edge=True,
    )
    assert device.registered()["deviceId"] == "boiler-room"
    identity = hubs[0].identity("boiler-room")
    assert identity.authentication == KEYS
    assert identity.edge
    twin = hubs[0].twin("boiler-room")
    assert (twin.tags, twin.desired) == ({"site": "north"}, {"period_s": 5})
    token = sas_token("hub-a.example/devices/boiler-room", KEYS.primary, 4_000_000_000)
    assert hubs[0].admit_device(IdentityName("boiler-room"), token=token)


async def test_a_group_device_at_its_hub(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A group's device gets its registration id for a name and the derived keys."""
    group = dps.add_group(EnrolmentGroup("g", **to(hubs[0])))
    keys = group.device_keys("Dev-7")
    state = Device(dps, "Dev-7", keys.primary).registered()
    assert state["deviceId"] == "Dev-7"
    assert state["symmetricKey"] == {"enrollmentGroupId": "g"}
    assert hubs[0].identity("Dev-7").authentication == keys
    assert dps.registrations.get("dev-7").group_id == "g"


@pytest.mark.parametrize("in_group", [False, True])
async def test_a_certificate_at_its_hub(
    dps: LocalDps, hubs: list[LocalHub], authority: LocalAuthority, in_group: bool
) -> None:
    """A device with a certificate connects to its hub with the same one."""
    certificate = authority.device_certificate("dev") if in_group else self_signed_certificate("dev")
    chain = tuple(x509.load_pem_x509_certificates(certificate.certificate_pem.encode()))
    if in_group:
        dps.add_group(EnrolmentGroup("g", Certificates(authority.certificate), **to(hubs[0])))
    else:
        dps.add_enrolment(IndividualEnrolment("dev", Certificates(certificate.certificate), **to(hubs[0])))
    device = Device(dps)
    device.credentials = Credentials(chain=chain)
    told = device.registered()["x509"]
    assert told["certificateInfo"]["sha256Thumbprint"] == certificate.sha256_thumbprint
    assert told["certificateInfo"]["subjectName"] == "CN=dev"
    assert told.get("enrollmentGroupId") == ("g" if in_group else None)
    assert hubs[0].admit_device(IdentityName("dev"), token=None, chain=chain)


async def test_both_certificates_at_the_hub(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """The second certificate of an enrolment is good for the hub as well, before the device shows it anywhere."""
    first, second = (self_signed_certificate("dev").certificate for _ in range(2))
    dps.add_enrolment(IndividualEnrolment("dev", Certificates(first, second), **to(hubs[0])))
    device = Device(dps)
    device.credentials = Credentials(chain=(first,))
    device.registered()
    for shown in (first, second):
        assert hubs[0].admit_device(IdentityName("dev"), token=None, chain=(shown,))


async def test_a_device_the_hub_has_already(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A device somebody has added before gets the enrolment's keys and twin."""
    hubs[0].add_device("dev")
    hubs[0].patch_desired("dev", {"old": 1})
    enrolled(dps, **to(hubs[0]), initial_twin=InitialTwin(desired={"new": 2})).registered()
    assert hubs[0].identity("dev").authentication == KEYS
    assert hubs[0].twin("dev").desired == {"new": 2}


async def test_keys_that_have_changed(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """After new keys are enrolled, registering again brings them to the hub and leaves the rest."""
    enrolled(dps, **to(hubs[0])).registered()
    hubs[0].patch_desired("dev", {"a": 1})
    keys = drawn_keys()
    dps.enrolments.update(replace(dps.enrolments.get("dev"), attestation=keys))
    assert Device(dps).register().status == 401
    Device(dps, key=keys.secondary).registered()
    assert hubs[0].identity("dev").authentication == keys
    assert hubs[0].twin("dev").desired == {"a": 1}


# Custom allocation


async def test_custom_allocation(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A function chooses by what the device sends, and answers it; its twin is the one that counts."""
    seen: list[AllocationRequest] = []

    def policy(request: AllocationRequest) -> Allocation:
        seen.append(request)
        return Allocation("hub-c.example", {"welcome": request.payload}, InitialTwin({"by": "policy"}))

    device = enrolled(dps, allocation=policy, initial_twin=InitialTwin({"by": "enrolment"}))
    state = device.registered({"model": "x"})
    assert state["assignedHub"] == "hub-c.example"
    assert state["payload"] == {"welcome": {"model": "x"}}
    assert hubs[2].twin("dev").tags == {"by": "policy"}
    device.registered()
    assert [request.current_hub for request in seen] == ["", "hub-c.example"]
    assert seen[0].hubs == ("hub-a.example", "hub-b.example", "hub-c.example")


def turn_away(request: AllocationRequest) -> Allocation:
    raise AllocationFailed("no room for it", where=request.registration_id)


def send_elsewhere(_: AllocationRequest) -> Allocation:
    return Allocation("hub-z.example")


@pytest.mark.parametrize(
    ("settings", "error_code"),
    [
        ({"allocation": turn_away}, 400209),
        ({"allocation": send_elsewhere}, 400209),
        ({"allocation": BuiltInPolicy.STATIC, "hubs": ("hub-z.example",)}, 401001),
    ],
    ids=["turned-away", "wrong-hub", "hub-not-linked"],
)
async def test_failed(dps: LocalDps, hubs: list[LocalHub], settings: dict[str, Any], error_code: int) -> None:
    """A device for which no hub is found is told that it failed, and why."""
    device = enrolled(dps, **settings)
    state = device.registered()
    assert state["status"] == "failed"
    assert state["errorCode"] == error_code
    assert state["errorMessage"]
    assert "assignedHub" not in state
    assert dps.statistics.failed == 1
    assert dps.registrations.get("dev").outcome is Outcome.FAILED
    send_to(dps, hubs[0])
    assert device.registered()["substatus"] == "initialAssignment"


async def test_a_failure_leaves_the_device_where_it_was(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """If registering again fails, the device stays at its hub and can move on later."""
    device = enrolled(dps, **to(hubs[0]))
    device.registered()
    dps.enrolments.update(replace(dps.enrolments.get("dev"), hubs=("hub-z.example",)))
    assert device.registered()["status"] == "failed"
    assert hubs[0].device_ids == ["dev"]
    send_to(dps, hubs[1])
    assert device.registered()["substatus"] == "deviceDataMigrated"
    assert hubs[0].device_ids == []


# Registering again


def live_there(hub: LocalHub) -> None:
    """What happens to a twin in its life."""
    hub.patch_tags("dev", {"site": "south"})
    hub.patch_desired("dev", {"period_s": 9})
    hub.twin("dev").patch_reported({"firmware": "2"})


INITIAL_TWIN = InitialTwin({"site": "north"}, {"period_s": 5})


async def test_again_at_the_same_hub(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """Registering again where nothing has changed changes nothing."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN)
    first = device.registered()
    identity = hubs[0].identity("dev")
    live_there(hubs[0])
    second = device.registered()
    assert second["substatus"] == "initialAssignment"
    assert second["createdDateTimeUtc"] == first["createdDateTimeUtc"]
    assert second["etag"] != first["etag"]
    assert hubs[0].identity("dev") == identity
    assert hubs[0].twin("dev").tags == {"site": "south"}


async def test_moved_with_its_data(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A device that is sent to another hub takes its twin along and is gone from the first."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN)
    device.registered()
    live_there(hubs[0])
    send_to(dps, hubs[1])
    state = device.registered()
    assert (state["assignedHub"], state["substatus"]) == ("hub-b.example", "deviceDataMigrated")
    assert hubs[0].device_ids == []
    twin = hubs[1].twin("dev")
    assert (twin.tags, twin.desired, twin.reported) == ({"site": "south"}, {"period_s": 9}, {"firmware": "2"})
    assert hubs[1].identity("dev").authentication == KEYS


async def test_moved_and_reset(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """With the reset policy it starts again from the initial twin."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN, reprovision=RESET)
    device.registered()
    live_there(hubs[0])
    send_to(dps, hubs[1])
    assert device.registered()["substatus"] == "deviceDataReset"
    assert hubs[0].device_ids == []
    twin = hubs[1].twin("dev")
    assert (twin.tags, twin.desired, twin.reported) == ({"site": "north"}, {"period_s": 5}, {})


async def test_reset_in_place(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """The reset policy is a factory reset where the hub stays the same."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN, reprovision=RESET)
    assert device.registered()["substatus"] == "initialAssignment"
    live_there(hubs[0])
    assert device.registered()["substatus"] == "deviceDataReset"
    assert hubs[0].twin("dev").tags == {"site": "north"}
    assert hubs[0].twin("dev").desired == {"period_s": 5}


async def test_never_moved(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """With the policy for it a device stays where it is, whatever its enrolment says."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN, reprovision=NEVER)
    device.registered()
    live_there(hubs[0])
    send_to(dps, hubs[1])
    state = device.registered()
    assert (state["assignedHub"], state["substatus"]) == ("hub-a.example", "initialAssignment")
    assert hubs[0].twin("dev").tags == {"site": "south"}


async def test_moved_back(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A device that comes back to a hub of before is told so."""
    device = enrolled(dps, **to(hubs[0]))
    device.registered()
    send_to(dps, hubs[1])
    device.registered()
    send_to(dps, hubs[0])
    assert device.registered()["substatus"] == "reprovisionedToInitialAssignment"
    assert (hubs[0].device_ids, hubs[1].device_ids) == (["dev"], [])


async def test_another_device_id(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """A device that is to have another id keeps its twin and loses the old name."""
    device = enrolled(dps, **to(hubs[0]))
    device.registered()
    live_there(hubs[0])
    dps.enrolments.update(replace(dps.enrolments.get("dev"), device_id="renamed"))
    device.registered()
    assert hubs[0].device_ids == ["renamed"]
    assert hubs[0].twin("renamed").tags == {"site": "south"}


@pytest.mark.parametrize("moves", [False, True])
async def test_removed_from_its_hub_by_hand(dps: LocalDps, hubs: list[LocalHub], moves: bool) -> None:
    """A device that somebody has removed is made anew with the initial twin."""
    device = enrolled(dps, **to(hubs[0]), initial_twin=INITIAL_TWIN)
    device.registered()
    hubs[0].remove_device("dev")
    hub = hubs[1] if moves else hubs[0]
    send_to(dps, hub)
    device.registered()
    assert hub.twin("dev").tags == {"site": "north"}


# For services


async def test_registrations(dps: LocalDps, hubs: list[LocalHub]) -> None:
    """Services see who is where; forgetting a registration makes the next one the first."""
    device = enrolled(dps, **to(hubs[0]))
    device.registered()
    registration = dps.registrations.get("DEV")
    assert (registration.hub, registration.device_id) == ("hub-a.example", "dev")
    assert registration.substatus is Substatus.INITIAL_ASSIGNMENT
    assert list(dps.registrations) == [registration]
    with pytest.raises(EtagMismatch):
        dps.registrations.remove("dev", "another")
    dps.registrations.remove("dev", registration.etag)
    with pytest.raises(RegistrationNotFound):
        dps.registrations.get("dev")
    send_to(dps, hubs[1])
    assert device.registered()["substatus"] == "initialAssignment"
    assert hubs[0].device_ids == ["dev"]


async def test_registrations_go_with_their_enrolment(dps: LocalDps) -> None:
    """Removing an enrolment or a group forgets its registrations and no others; the devices stay at their hubs."""
    enrolled(dps).registered()
    group = dps.add_group(EnrolmentGroup("dev"))  # of the same name as the enrolment, which is no matter
    Device(dps, "dev-2", group.device_keys("dev-2").primary).registered()
    dps.enrolments.remove("dev")
    assert [registration.registration_id for registration in dps.registrations] == ["dev-2"]
    dps.groups.remove("dev")
    assert len(dps.registrations) == 0


async def test_waiting(dps: LocalDps) -> None:
    """A test can wait for what it expects of the service."""
    device = enrolled(dps)
    waiting = asyncio.create_task(dps.until(lambda: dps.statistics.assigned == 1))
    await asyncio.sleep(0)
    device.registered()
    await soon(waiting)


def service_token(dps: LocalDps, *, policy: str = SERVICE_POLICY, resource: str = "", lifetime_s: int = 60) -> str:
    fields = dict(part.split("=", 1) for part in dps.connection_string().split(";"))
    expires_s = ShiftedClock(lifetime_s).now_ns() // NS_PER_S
    return sas_token(resource or fields["HostName"], fields["SharedAccessKey"], expires_s, policy=policy)


def test_services_are_let_in(dps: LocalDps) -> None:
    """A token made from the connection string lets a service in; one for elsewhere, over, or by no policy does not."""
    dps.admit_service(service_token(dps))
    for token in (
        "",
        service_token(dps, policy="iothubowner"),
        service_token(dps, policy=""),
        service_token(dps, resource="other.example"),
        service_token(dps, lifetime_s=-1),
    ):
        with pytest.raises(AccessDenied):
            dps.admit_service(token)


def test_no_keys_are_printed(dps: LocalDps) -> None:
    """Neither the service nor an enrolment shows its keys when printed."""
    key = dps.connection_string().partition("SharedAccessKey=")[2]
    assert len(key) > 40
    assert key not in repr(vars(dps))
