"""What a provisioning service remembers over a restart."""

from __future__ import annotations

import asyncio
import base64
import random
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.errors import BenchError
from edge_gateway.testbench import EnrolmentGroup, IndividualEnrolment, LocalAuthority, LocalCloud, LocalDps, LocalHub
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.dps import SERVICE_POLICY
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationRequest,
    BuiltInPolicy,
    Certificates,
    Credentials,
    InitialTwin,
    ReprovisionPolicy,
    drawn_keys,
)
from edge_gateway.testbench.cloud.provisioning.registrations import Outcome, Registration, Substatus
from edge_gateway.testbench.cloud.provisioning.state import DpsStateFile, dps_document, left_out, restore
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.cloud.tokens import sas_token
from edge_gateway.testbench.virtual_time import run_virtual

from .tpm_device import EK_ATTRIBUTES, G_X, G_Y, ecc_public, sized

KEYS = drawn_keys()
HUBS = [LocalHub(host_name=f"hub-{name}.example", rng=random.Random(1)) for name in "abc"]
"""For services that send no device there."""


def new_dps(hubs: list[LocalHub] | None = None, *, id_scope: str = "0ne00000001") -> LocalDps:
    return LocalDps(hubs=HUBS if hubs is None else hubs, id_scope=id_scope, host_name="dps.example", polls=0)


def kept(dps: LocalDps) -> Any:
    """The service's document, as it comes out of its file."""
    return orjson.loads(orjson.dumps(dps_document(dps)))


def restarted(dps: LocalDps, hubs: list[LocalHub] | None = None) -> LocalDps:
    again = new_dps(hubs)
    restore(again, kept(dps), "the file")
    return again


def registered(dps: LocalDps, registration_id: str = "dev", key: str = KEYS.primary) -> Any:
    """Register a device, without a network; its registration state."""
    token = sas_token(f"{dps.id_scope}/registrations/{registration_id}", key, 4_000_000_000)
    answer = dps.register(registration_id, Credentials(token), b"")
    assert answer.status == 200, answer
    return answer.body["registrationState"]


# Whatever a service can hold

IDS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,12}[A-Za-z0-9-])?", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
TIMES_NS = st.integers(0, 2**62)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**52), 2**52) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
HUB_NAMES = st.sampled_from([hub.host_name for hub in HUBS])
SYMMETRIC_KEYS = st.builds(SymmetricKeys, *[st.binary(min_size=16, max_size=64).map(lambda key: encoded(key))] * 2)
THUMBPRINTS = st.builds(Thumbprints, *[st.from_regex(r"([0-9A-Fa-f]{40}|[0-9a-f]{64})?", fullmatch=True)] * 2)
CERTIFICATE_POOL = [
    LocalAuthority().certificate,
    self_signed_certificate("sensor").certificate,
    self_signed_certificate("Fühler").certificate,
]
CERTIFICATES = st.builds(Certificates, *[st.sampled_from(CERTIFICATE_POOL)] * 2) | st.builds(
    Certificates, st.sampled_from(CERTIFICATE_POOL)
)
ENDORSEMENT_KEYS = st.binary(min_size=32, max_size=32).map(
    lambda policy: EndorsementKey.parse(sized(ecc_public(EK_ATTRIBUTES, policy, G_X, G_Y)))
)
COMMON: dict[str, Any] = {
    "enabled": st.booleans(),
    "allocation": st.sampled_from(BuiltInPolicy),
    "hubs": st.lists(HUB_NAMES | TEXT, max_size=3).map(tuple),
    "reprovision": st.builds(ReprovisionPolicy, st.booleans(), st.booleans()),
    "initial_twin": st.builds(InitialTwin, *[st.dictionaries(NAMES, JSON, max_size=3)] * 2),
    "edge": st.booleans(),
}
INDIVIDUALS = st.builds(
    IndividualEnrolment,
    IDS,
    SYMMETRIC_KEYS | THUMBPRINTS | CERTIFICATES | ENDORSEMENT_KEYS,
    st.just("") | IDS,
    **COMMON,
)
GROUPS = st.builds(EnrolmentGroup, IDS, SYMMETRIC_KEYS | CERTIFICATES, **COMMON)
REGISTRATIONS = st.builds(
    Registration,
    IDS,
    st.sampled_from(Outcome),
    TEXT,
    TIMES_NS,
    TIMES_NS,
    hub=st.just("") | HUB_NAMES,
    device_id=TEXT,
    substatus=st.sampled_from(Substatus),
    payload=JSON,
    error_code=st.integers(0, 999_999),
    error_message=TEXT,
    group_id=st.just("") | IDS,
    past_hubs=st.frozensets(HUB_NAMES | TEXT, max_size=3),
)


OWNER = {"format", "id_scope", "host_name"}
"""What in a document says whose it is."""


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@st.composite
def services(draw: st.DrawFn) -> LocalDps:
    """A service in which enrolments were added, changed and removed, and devices have registered."""
    dps = new_dps()
    for enrolment in draw(st.lists(INDIVIDUALS, max_size=3, unique_by=lambda each: each.enrolment_id.lower())):
        dps.add_enrolment(enrolment)
    for group in draw(st.lists(GROUPS, max_size=3, unique_by=lambda each: each.enrolment_id.lower())):
        dps.add_group(group)
    for enrolment in dps.enrolments:
        match draw(st.sampled_from(["leave", "change", "remove"])):
            case "change":
                dps.enrolments.update(replace(enrolment, enabled=not enrolment.enabled))
            case "remove":
                dps.enrolments.remove(enrolment.enrolment_id)
    registrations = draw(st.lists(REGISTRATIONS, max_size=3, unique_by=lambda each: each.registration_id.lower()))
    dps.registrations.restore(registrations, draw(st.integers(0, 2**40)))
    return dps


@given(services())
def test_everything_comes_back(dps: LocalDps) -> None:
    """Keys, enrolments, groups and registrations are the same in the service made from what was kept."""
    again = restarted(dps)
    assert kept(again) == kept(dps)
    assert again.service_keys == dps.service_keys
    assert list(again.enrolments) == list(dps.enrolments)
    assert list(again.groups) == list(dps.groups)
    assert list(again.registrations) == list(dps.registrations)


def places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to each value within a document."""
    members = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in members:
        yield (*path, name)
        if isinstance(value, dict | list):
            yield from places(value, (*path, name))


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """What was kept, still of the same service, with one value gone or another."""
    document = kept(draw(services()))
    *path, name = draw(st.sampled_from([place for place in places(document) if place[0] not in OWNER]))
    parent = document
    for step in path:
        parent = parent[step]
    if draw(st.booleans()):
        del parent[name]
    else:
        parent[name] = draw(JSON)
    return document


@given(damaged())
def test_damaged_documents(document: Any) -> None:
    """What one wrong or missing value has spoilt is refused and changes nothing; else the service can go on with it."""
    dps = new_dps()
    before = kept(dps)
    try:
        restore(dps, document, "the file")
    except BenchError:
        assert kept(dps) == before
        return
    dps.add_group(EnrolmentGroup("one-more-than-there-can-be"))
    for registration in dps.registrations:
        registration.document()
    assert restarted(dps).connection_string() == dps.connection_string()


# What follows from it


def test_services_need_no_new_key() -> None:
    """A token made with the connection string of before the restart is good after it."""
    dps = new_dps()
    key = dps.connection_string().partition("SharedAccessKey=")[2]
    restarted(dps).admit_service(sas_token("dps.example", key, 4_000_000_000, policy=SERVICE_POLICY))


def test_no_etag_comes_twice() -> None:
    """After the restart no etag is given that somebody could hold of something removed before it."""
    dps = new_dps()
    before = [dps.add_enrolment(IndividualEnrolment(name)).etag for name in ("a", "b")]
    before.append(dps.add_group(EnrolmentGroup("g")).etag)
    dps.enrolments.remove("b")
    dps.groups.remove("g")
    again = restarted(dps)
    assert again.add_enrolment(IndividualEnrolment("b")).etag not in before[:2]
    assert again.add_group(EnrolmentGroup("g")).etag != before[2]


@pytest.mark.parametrize(
    ("migrate", "visited", "substatus"),
    [
        (True, "a", "initialAssignment"),
        (True, "ab", "deviceDataMigrated"),
        (True, "aba", "reprovisionedToInitialAssignment"),
        (False, "a", "initialAssignment"),
        (False, "aa", "deviceDataReset"),
        (False, "ab", "deviceDataReset"),
    ],
)
async def test_registering_again(migrate: bool, visited: str, substatus: str) -> None:
    """A device is told the same and finds the same whether the service was restarted after each step or not."""

    def told(restarting: bool) -> list[Any]:
        hubs = [LocalHub(host_name=f"hub-{name}.example") for name in "ab"]
        dps = new_dps(hubs)
        policy = ReprovisionPolicy(migrate_device_data=migrate)
        twin = InitialTwin({"site": "north"})
        dps.add_enrolment(IndividualEnrolment("dev", KEYS, reprovision=policy, initial_twin=twin))
        states, created = [], set()
        for name in visited:
            enrolment = dps.enrolments.get("dev")
            dps.enrolments.update(replace(enrolment, allocation=BuiltInPolicy.STATIC, hubs=(f"hub-{name}.example",)))
            state = registered(dps)
            hub = next(hub for hub in hubs if hub.host_name == state["assignedHub"])
            states.append((state["assignedHub"], state["substatus"], state["etag"], hub.twin("dev").tags))
            created.add(state["createdDateTimeUtc"])
            hub.patch_tags("dev", {"site": "south"})
            if restarting:
                dps = restarted(dps, hubs)
        assert len(created) == 1
        return states

    states = told(restarting=True)
    assert states[-1][1] == substatus
    assert states == told(restarting=False)


async def test_an_operation_does_not_outlive_the_service() -> None:
    """A device that asks how its registration goes after a restart hears that there is none under way."""
    hubs = [LocalHub(host_name="hub.example")]
    dps = new_dps(hubs)
    dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    credentials = Credentials(sas_token(f"{dps.id_scope}/registrations/dev", KEYS.primary, 4_000_000_000))
    operation_id = str(dps.register("dev", credentials, b"").body["operationId"])
    again = restarted(dps, hubs)
    assert again.operation_status("dev", credentials, operation_id).status == 404
    assert again.registration_status("dev", credentials).body["status"] == "assigned"


def in_order(request: AllocationRequest) -> Allocation:
    return Allocation(request.hubs[0])


async def test_custom_allocation_is_left_out() -> None:
    """A function cannot be kept; with its enrolment added again, a device is where it was."""
    hubs = [LocalHub(host_name="hub.example")]
    dps = new_dps(hubs)
    policy = ReprovisionPolicy(migrate_device_data=False)
    by_function = IndividualEnrolment("dev", KEYS, allocation=in_order, reprovision=policy)
    dps.add_enrolment(by_function)
    dps.add_group(EnrolmentGroup("g", allocation=in_order))
    dps.add_group(EnrolmentGroup("kept"))
    assert [each.enrolment_id for each in left_out(dps)] == ["dev", "g"]
    assert registered(dps)["substatus"] == "initialAssignment"
    again = restarted(dps, hubs)
    assert [each.enrolment_id for each in (*again.enrolments, *again.groups)] == ["kept"]
    again.add_enrolment(by_function)
    assert registered(again)["substatus"] == "deviceDataReset"


# The file


def test_changes_are_written_while_the_service_runs(tmp_path: Path) -> None:
    """A change is in the file a second later, and the file is its owner's alone."""
    path = tmp_path / "provisioning.json"

    async def main() -> list[list[int]]:
        dps = new_dps([LocalHub(host_name="hub.example")])
        counts = []

        async def look() -> None:
            await asyncio.sleep(1)
            document = orjson.loads(path.read_bytes())
            counts.append([len(document[name]) for name in ("enrolments", "groups", "registrations")])

        async with DpsStateFile(path, dps):
            dps.add_enrolment(IndividualEnrolment("dev", KEYS))
            await look()
            dps.add_group(EnrolmentGroup("g"))
            await look()
            registered(dps)
            await look()
            dps.registrations.remove("dev")
            await look()
            dps.enrolments.remove("dev")
            await look()
        return counts

    assert run_virtual(main()) == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0], [0, 1, 0]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_left_out_is_told_once(tmp_path: Path) -> None:
    """However often the file is written, the log names each enrolment that is not in it once."""

    async def main() -> None:
        dps = new_dps()
        async with DpsStateFile(tmp_path / "provisioning.json", dps):
            dps.add_enrolment(IndividualEnrolment("same-name", allocation=in_order))
            await asyncio.sleep(1)
            dps.add_group(EnrolmentGroup("same-name", allocation=in_order))
            await asyncio.sleep(1)
            dps.add_group(EnrolmentGroup("kept"))
            await asyncio.sleep(1)

    with capture_logs() as events:
        run_virtual(main())
    told = [event for event in events if event["event"] == "testbench.dps.not_kept"]
    assert [event["enrolment"] for event in told] == ["same-name", "same-name"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 1, "id_scope": "0ne00000002", "host_name": "dps.example"}',
        b'{"format": 1, "id_scope": "0ne00000001", "host_name": "other.example"}',
        b'{"format": 2, "id_scope": "0ne00000001", "host_name": "dps.example"}',
        b'{"format": 1, "id_scope": "0ne00000001", "host_name": "dps.example"}',
    ],
)
async def test_a_file_that_is_not_this_services(tmp_path: Path, content: bytes) -> None:
    """A foreign or damaged file is an error that names it and says what to do, and is left as it is."""
    path = tmp_path / "provisioning.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"provisioning\.json.*(Remove|Start)"):
        async with DpsStateFile(path, new_dps()):
            pass
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Something else in the file's place is an error, too."""
    with pytest.raises(BenchError, match="Remove it"):
        asyncio.run(DpsStateFile(tmp_path, new_dps()).__aenter__())


def test_a_hub_that_is_no_longer_linked() -> None:
    """A device at a hub that the service has lost is an error: the device could not be told where it belongs."""
    dps = new_dps()
    dps.registrations.restore([Registration("dev", Outcome.ASSIGNED, "", 0, 0, hub="hub-c.example")], 1)
    with pytest.raises(BenchError, match="Link the hub"):
        restarted(dps, HUBS[:2])


def test_a_damaged_key_is_not_told() -> None:
    """The error about a key that is none does not show it."""
    dps = new_dps()
    dps.add_enrolment(IndividualEnrolment("dev", KEYS))
    for keys in ("service_keys", "attestation"):
        document = kept(dps)
        (document if keys in document else document["enrolments"][0])[keys]["primary"] = "?" + KEYS.primary
        with pytest.raises(BenchError, match="damaged") as raised:
            restore(new_dps(), document, "the file")
        assert KEYS.primary not in repr(raised.value)


# All of it together


def new_cloud(directory: Path, address: str) -> LocalCloud:
    return LocalCloud(directory=directory, address=address, mqtt_port=0, https_port=None, amqp_port=None)


async def test_a_cloud_started_again(tmp_path: Path, address: str) -> None:
    """With the same directory, services and devices find the hub, the group and their places as they were."""
    async with new_cloud(tmp_path, address) as cloud:
        cloud.dps.polls = 0
        keys = cloud.dps.add_group(EnrolmentGroup("plant")).device_keys("pump-7")
        before = registered(cloud.dps, "pump-7", keys.primary)
        identity = cloud.hub.identity("pump-7")
        connection_strings = cloud.dps.connection_string(), cloud.hub.service_connection_string()
    async with new_cloud(tmp_path, address) as cloud:
        cloud.dps.polls = 0
        assert (cloud.dps.connection_string(), cloud.hub.service_connection_string()) == connection_strings
        after = registered(cloud.dps, "pump-7", keys.primary)
        assert {name: after[name] for name in after if name not in {"etag", "lastUpdatedDateTimeUtc"}} == {
            name: before[name] for name in before if name not in {"etag", "lastUpdatedDateTimeUtc"}
        }
        assert cloud.hub.identity("pump-7") == identity


def test_connections_follow_both_services(tmp_path: Path, address: str) -> None:
    """A group or device added while the cloud runs is in the file that clients read a second later."""

    async def main() -> list[tuple[list[str], list[str]]]:
        seen = []
        async with new_cloud(tmp_path, address) as cloud:
            for add in (lambda: cloud.dps.add_group(EnrolmentGroup("plant")), lambda: cloud.hub.add_device("sensor-1")):
                await asyncio.sleep(1)
                add()
                await asyncio.sleep(1)
                connections = orjson.loads((tmp_path / "connections.json").read_bytes())
                seen.append((list(connections["provisioning"]["groups"]), list(connections["devices"])))
        return seen

    assert run_virtual(main()) == [(["plant"], []), (["plant"], ["sensor-1"])]
