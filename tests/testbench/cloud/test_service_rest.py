"""The REST API that services call: identities, twins, queries, methods, messages, and who may call what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.cloud_messages import Outcome
from edge_gateway.testbench.cloud.identity import IdentityName, NoAuthentication, SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.mqtt.packets import Publish
from edge_gateway.testbench.cloud.service.documents import identity_from

from .mqtt_client import connected_client, soon
from .service_peer import Service, policy_token, service_of

KEY = "a2V5LWtleS1rZXkta2V5LWtleS1rZXk="
METHODS = "$iothub/methods/POST/#"


@pytest.fixture
async def service(hub: LocalHub) -> AsyncIterator[Service]:
    async with service_of(hub) as service:
        yield service


# Who may call


@pytest.mark.parametrize(
    ("policy", "method", "path", "allowed"),
    [
        ("registryRead", "GET", "/devices/d", True),
        ("registryRead", "PUT", "/devices/e", False),
        ("registryRead", "GET", "/twins/d", False),
        ("registryReadWrite", "PUT", "/devices/e", True),
        ("service", "GET", "/twins/d", True),
        ("service", "GET", "/devices/d", False),
        ("device", "GET", "/twins/d", False),
    ],
)
async def test_rights(service: Service, policy: str, method: str, path: str, allowed: bool) -> None:
    """A policy's token does what the policy has the right to, and no more."""
    service.hub.add_device("d")
    document = {"deviceId": "e"} if method == "PUT" else None
    if allowed:
        await service.call(method, path, document, policy=policy)
    else:
        await service.fails(401, "IotHubUnauthorizedAccess", method, path, document, policy=policy)


async def test_denied(service: Service) -> None:
    """Without a token, with a device's own, or with another hub's, nothing is told."""
    device = service.hub.add_device("d")
    other_key = service.hub.policies["service"].primary_key
    for token in ("", "nonsense", service.hub.sas_token(device.device_id), f"SharedAccessSignature {other_key}"):
        await service.fails(401, "IotHubUnauthorizedAccess", "GET", "/devices/d", headers={"Authorization": token})


async def test_api_version(service: Service) -> None:
    """A call has to say for which version of the API it was written; a service may have any."""
    service.hub.add_device("d")
    await service.call("GET", "/devices/d?api-version=2020-01-01")
    response = await service.session.get("/devices/d", headers={"Authorization": policy_token(service.hub)})
    assert response.status == 400


# Identities


async def test_device_life(service: Service) -> None:
    """A device is created, read, changed, listed and deleted; the registry has what the service wrote."""
    created = await service.call(
        "PUT", "/devices/d%231", {"deviceId": "d#1", "status": "disabled", "statusReason": "x"}
    )
    assert created["deviceId"] == "d#1"
    assert service.headers["ETag"] == f'"{created["etag"]}"'
    identity = service.hub.identity("d#1")
    assert (identity.enabled, identity.status_reason) == (False, "x")
    keys = created["authentication"]["symmetricKey"]
    assert (keys["primaryKey"], keys["secondaryKey"]) == (identity.primary_key, identity.secondary_key)
    assert await service.call("GET", "/devices/d%231") == created
    changed = await service.call(
        "PUT", "/devices/d%231", {**created, "status": "enabled"}, headers={"If-Match": f'"{created["etag"]}"'}
    )
    assert changed["authentication"] == created["authentication"]
    assert changed["generationId"] == created["generationId"]
    assert service.hub.identity("d#1").enabled
    for path in ("/devices", "/devices/", "/devices?top=5"):
        assert await service.call("GET", path) == [changed]
    await service.call("DELETE", "/devices/d%231", expect=204, headers={"If-Match": '"*"'})
    assert service.hub.device_ids == []


@pytest.mark.parametrize(
    ("authentication", "expected"),
    [
        ({"symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}, SymmetricKeys(KEY, KEY)),
        ({"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "ab" * 20}}, Thumbprints("AB" * 20)),
        ({"x509Thumbprint": {"secondaryThumbprint": "ab" * 32}}, Thumbprints("", "AB" * 32)),
        ({"type": "none"}, NoAuthentication()),
    ],
)
async def test_authentication(service: Service, authentication: dict[str, Any], expected: object) -> None:
    """Each way to prove oneself is taken as services write it, and given back."""
    created = await service.call("PUT", "/devices/d", {"deviceId": "d", "authentication": authentication})
    assert service.hub.identity("d").authentication == expected
    again = await service.call("PUT", "/devices/d", created, headers={"If-Match": "*"})
    assert again["authentication"] == created["authentication"]


async def test_drawn_keys_stay(service: Service) -> None:
    """Keys left out are drawn once and kept by later changes without keys."""
    blank = {"deviceId": "d", "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}}}
    created = await service.call("PUT", "/devices/d", blank)
    assert created["authentication"]["symmetricKey"]["primaryKey"]
    changed = await service.call("PUT", "/devices/d", blank, headers={"If-Match": "*"})
    assert changed["authentication"] == created["authentication"]


async def test_edge_device(service: Service) -> None:
    """An edge device has a scope and the two modules of the runtime; a device behind it names that scope."""
    edge = await service.call("PUT", "/devices/e", {"deviceId": "e", "capabilities": {"iotEdge": True}})
    assert edge["deviceScope"] == f"ms-azure-iot-edge://e-{edge['generationId']}"
    modules = await service.call("GET", "/devices/e/modules")
    assert [module["moduleId"] for module in modules] == ["$edgeAgent", "$edgeHub"]
    leaf = {"deviceId": "l", "deviceScope": edge["deviceScope"], "parentScopes": [edge["deviceScope"]]}
    assert (await service.call("PUT", "/devices/l", leaf))["parentScopes"] == [edge["deviceScope"]]
    assert service.hub.identity("l").scope == edge["deviceScope"]


async def test_module_life(service: Service) -> None:
    """A module is created, read, changed, listed and deleted like a device."""
    service.hub.add_device("d")
    created = await service.call("PUT", "/devices/d/modules/m", {"deviceId": "d", "moduleId": "m", "managedBy": "me"})
    assert await service.call("GET", "/devices/d/modules/m") == created
    changed = await service.call(
        "PUT", "/devices/d/modules/m", {**created, "managedBy": "you"}, headers={"If-Match": f'"{created["etag"]}"'}
    )
    assert (changed["managedBy"], changed["authentication"]) == ("you", created["authentication"])
    assert await service.call("GET", "/devices/d/modules") == [changed]
    await service.call("DELETE", "/devices/d/modules/m", expect=204)
    assert await service.call("GET", "/devices/d/modules") == []


async def test_identity_errors(service: Service) -> None:
    """What is missing, there already, changed since, or no identity is told by status and code."""
    service.hub.add_device("d")
    old = {"If-Match": '"AAAAAAAAAAA="'}
    await service.fails(404, "DeviceNotFound", "GET", "/devices/x")
    await service.fails(404, "DeviceNotFound", "GET", "/devices/d/modules/x")
    await service.fails(404, "DeviceNotFound", "PUT", "/devices/x", {}, headers={"If-Match": "*"})
    await service.fails(404, "DeviceNotFound", "PUT", "/devices/x/modules/m", {})
    await service.fails(409, "DeviceAlreadyExists", "PUT", "/devices/d", {})
    await service.fails(412, "PreconditionFailed", "PUT", "/devices/d", {}, headers=old)
    await service.fails(412, "PreconditionFailed", "DELETE", "/devices/d", headers=old)
    wrong: list[Any] = [
        [],
        {"deviceId": "other"},
        {"moduleId": "other"},
        {"status": "asleep"},
        {"status": 1},
        {"capabilities": True},
        {"authentication": "key"},
        {"authentication": {"type": "password"}},
        {"authentication": {"symmetricKey": {"primaryKey": "short"}}},
        {"authentication": {"symmetricKey": {"primaryKey": 5}}},
        {"authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "abc"}}},
        {"parentScopes": [5]},
    ]
    for document in wrong:
        await service.fails(400, "ArgumentInvalid", "PUT", "/devices/new", document)
    await service.fails(400, "ArgumentInvalid", "PUT", "/devices/a%20b", {})
    await service.fails(400, "IotHubFormatError", "PUT", "/devices/new", body=b"{")
    assert service.hub.device_ids == ["d"]


async def test_bulk(service: Service) -> None:
    """Of many devices each is changed or refused for itself, and the answer names those that were not."""
    hub = service.hub
    hub.add_device("old")
    hub.add_device("gone")
    answer = await service.call(
        "POST",
        "/devices",
        [
            {"id": "new", "importMode": "create", "tags": {"floor": 1}, "properties": {"desired": {"a": 1}}},
            {"id": "any", "status": "disabled"},
            {"id": "old", "importMode": "update", "status": "disabled"},
            {"id": "old", "importMode": "UpdateTwin", "tags": {"floor": 2}},
            {"id": "gone", "importMode": "Delete"},
        ],
    )
    assert answer == {"isSuccessful": True, "errors": [], "warnings": []}
    assert hub.device_ids == ["old", "new", "any"]
    assert (hub.identity("any").enabled, hub.identity("old").enabled) == (False, False)
    assert (hub.twin("new").tags, hub.twin("new").desired, hub.twin("old").tags) == (
        {"floor": 1},
        {"a": 1},
        {"floor": 2},
    )
    etag = hub.identity("old").etag
    answer = await service.call(
        "POST",
        "/devices",
        [
            {"id": "old", "importMode": "create"},
            {"id": "missing", "importMode": "update"},
            {"id": "new", "importMode": "updateIfMatchETag", "eTag": "AAAAAAAAAAA="},
            {"id": "new", "importMode": "deleteIfMatchETag"},
            {"id": "old", "importMode": "updateIfMatchETag", "eTag": etag, "status": "enabled"},
            {"id": "new", "importMode": "merge"},
            "new",
        ],
        expect=400,
    )
    assert [(error["deviceId"], error["errorCode"]) for error in answer["errors"]] == [
        ("old", "DeviceAlreadyExists"),
        ("missing", "DeviceNotFound"),
        ("new", "PreconditionFailed"),
        ("new", "PreconditionFailed"),
        ("new", "ArgumentInvalid"),
        (None, "ArgumentInvalid"),
    ]
    assert hub.identity("old").enabled
    too_many: list[Any] = [{}, [], [{"id": f"d{number}"} for number in range(101)]]
    for documents in too_many:
        await service.fails(400, "ArgumentInvalid", "POST", "/devices", documents)


async def test_statistics(service: Service, authority: LocalAuthority) -> None:
    """Devices are counted, as are connections."""
    service.hub.add_device("a")
    service.hub.set_enabled("a", False)
    async with connected_client(service.hub, authority, "b"):
        assert await service.call("GET", "/statistics/devices") == {
            "totalDeviceCount": 2,
            "enabledDeviceCount": 1,
            "disabledDeviceCount": 1,
        }
        assert await service.call("GET", "/statistics/service") == {"connectedDeviceCount": 1}


# Twins and queries


async def test_twin(service: Service, authority: LocalAuthority) -> None:
    """A twin is merged into by PATCH and replaced by PUT; the device hears of desired properties."""
    hub = service.hub
    async with connected_client(hub, authority, "d") as client:
        await client.subscribe("$iothub/twin/PATCH/properties/desired/#")
        patched = await service.call(
            "PATCH", "/twins/d", {"tags": {"floor": 1, "room": 2}, "properties": {"desired": {"a": 1, "b": 2}}}
        )
        assert (await client.receive(Publish)).payload == b'{"a":1,"b":2,"$version":2}'
        assert patched["tags"] == {"floor": 1, "room": 2}
        assert (patched["connectionState"], patched["status"], patched["version"]) == ("Connected", "enabled", 4)
        assert service.headers["ETag"] == f'"{patched["etag"]}"'
        assert await service.call("GET", "/twins/d") == patched
        patched["tags"] = {"floor": 3}
        del patched["properties"]["desired"]["b"]
        replaced = await service.call("PUT", "/twins/d", patched, headers={"If-Match": f'"{patched["etag"]}"'})
        assert (replaced["tags"], hub.twin("d").desired) == ({"floor": 3}, {"a": 1})
        assert b'"b"' not in (await client.receive(Publish)).payload
    await service.call("PATCH", "/twins/d", {"tags": {"floor": None}})
    assert (hub.twin("d").tags, hub.twin("d").desired) == ({}, {"a": 1})


async def test_module_twin(service: Service) -> None:
    """A module has a twin of its own."""
    service.hub.add_device("d")
    service.hub.add_module("d", "m")
    twin = await service.call("PATCH", "/twins/d/modules/m", {"properties": {"desired": {"a": 1}}})
    assert (twin["deviceId"], twin["moduleId"]) == ("d", "m")
    assert (service.hub.twin("d", "m").desired, service.hub.twin("d").desired) == ({"a": 1}, {})


async def test_twin_errors(service: Service) -> None:
    """A twin that is missing, has changed, or would break a limit is left alone, tags and all."""
    service.hub.add_device("d")
    await service.fails(404, "DeviceNotFound", "GET", "/twins/x")
    await service.fails(404, "DeviceNotFound", "PATCH", "/twins/x", {"tags": {}})
    await service.fails(412, "PreconditionFailed", "PATCH", "/twins/d", {}, headers={"If-Match": '"old"'})
    wrong: list[Any] = [
        [],
        {"tags": 5},
        {"properties": 5},
        {"properties": {"desired": 5}},
        {"tags": {"a": 1}, "properties": {"desired": {"b.c": 1}}},
        {"tags": {"a": "x" * 4097}, "properties": {"desired": {"b": 1}}},
    ]
    for document in wrong:
        await service.fails(400, "ArgumentInvalid", "PATCH", "/twins/d", document)
    assert (service.hub.twin("d").tags, service.hub.twin("d").desired) == ({}, {})


async def test_query(service: Service) -> None:
    """A query's rows come in pages of the asked size, with their type, until no continuation is left."""
    for number in range(5):
        service.hub.add_device(f"d{number}")
        service.hub.patch_tags(f"d{number}", {"even": number % 2 == 0})
    service.hub.add_module("d1", "m")
    query = {"query": "SELECT * FROM devices WHERE tags.even = true"}
    first = await service.call("POST", "/devices/query", query, headers={"x-ms-max-item-count": "2"})
    assert service.headers["x-ms-item-type"] == "Twin"
    assert first == [await service.call("GET", f"/twins/{device_id}") for device_id in ("d0", "d2")]
    await service.call("POST", "/devices/query", query, headers={"x-ms-max-item-count": "2"})
    continuation = service.headers["x-ms-continuation"]
    headers = {"x-ms-max-item-count": "2", "x-ms-continuation": continuation}
    last = await service.call("POST", "/devices/query", query, headers=headers)
    assert [row["deviceId"] for row in last] == ["d4"]
    assert "x-ms-continuation" not in service.headers
    rows = await service.call("POST", "/devices/query", {"query": "SELECT COUNT() AS n FROM devices"})
    assert (rows, service.headers["x-ms-item-type"]) == ([{"n": 5}], "Raw")
    rows = await service.call("POST", "/devices/query", {"query": "SELECT moduleId FROM devices.modules"})
    assert rows == [{"moduleId": "m"}]


async def test_query_errors(service: Service) -> None:
    """A wrong query is told with its place; a wrong page is told, too."""
    text = await service.fails(400, "ArgumentInvalid", "POST", "/devices/query", {"query": "SELECT * FROM nowhere ;"})
    assert "query, character 15" in text
    good = {"query": "SELECT * FROM devices"}
    await service.fails(400, "ArgumentInvalid", "POST", "/devices/query", {})
    for name in ("x-ms-max-item-count", "x-ms-continuation"):
        await service.fails(400, "ArgumentInvalid", "POST", "/devices/query", good, headers={name: "many"})


# Methods


async def test_method(service: Service, authority: LocalAuthority) -> None:
    """A method goes to the device and its answer comes back."""
    async with connected_client(service.hub, authority, "d") as client:
        await client.subscribe(METHODS)
        call = asyncio.create_task(
            service.call("POST", "/twins/d/methods", {"methodName": "reboot", "payload": {"in_s": 5}})
        )
        request = await client.receive(Publish)
        assert request.topic.startswith("$iothub/methods/POST/reboot/?$rid=")
        assert request.payload == b'{"in_s":5}'
        await client.publish(f"$iothub/methods/res/202/?{request.topic.partition('?')[2]}", b'{"ok":true}')
        assert await soon(call) == {"status": 202, "payload": {"ok": True}}


async def test_method_errors(service: Service) -> None:
    """A device that is missing or away, and times out of bounds, are told."""
    service.hub.add_device("d")
    service.hub.add_module("d", "m")
    call = {"methodName": "reboot"}
    await service.fails(404, "DeviceNotFound", "POST", "/twins/x/methods", call)
    await service.fails(404, "DeviceNotOnline", "POST", "/twins/d/methods", call)
    await service.fails(404, "DeviceNotOnline", "POST", "/twins/d/modules/m/methods", call)
    for document in (
        {},
        {"methodName": 5},
        {**call, "responseTimeoutInSeconds": 4},
        {**call, "responseTimeoutInSeconds": 301},
        {**call, "connectTimeoutInSeconds": -1},
        {**call, "connectTimeoutInSeconds": "1"},
    ):
        await service.fails(400, "ArgumentInvalid", "POST", "/twins/d/methods", document)


# Messages


async def test_message_and_feedback(service: Service) -> None:
    """A message sent over HTTP waits for its device; how it ended is read as feedback under a lock."""
    hub = service.hub
    device = hub.add_device("d")
    await service.call(
        "POST",
        "/devices/d/messages/devicebound",
        body=b"hello",
        expect=204,
        headers={
            "iothub-messageid": "m1",
            "iothub-ack": "full",
            "iothub-app-unit": "C",
            "iothub-contenttype": "text/plain",
            "iothub-expiry": "2999-01-01T00:00:00Z",
        },
    )
    message = hub.receive_c2d("d")
    assert message is not None
    assert (message.body, message.properties) == (b"hello", {"unit": "C"})
    assert message.system_properties["content-type"] == "text/plain"
    hub.complete_c2d("d", message.lock_token)
    feedback = "/messages/serviceBound/feedback"
    records = await service.call("GET", feedback)
    assert service.headers["Content-Type"] == "application/vnd.microsoft.iothub.feedback.json"
    assert [(record["originalMessageId"], record["statusCode"]) for record in records] == [("m1", "Success")]
    assert records[0]["deviceGenerationId"] == device.generation_id
    lock_token = service.headers["ETag"].strip('"')
    assert await service.call("GET", feedback, expect=204) is None
    await service.call("POST", f"{feedback}/{lock_token}/abandon", expect=204)
    assert await service.call("GET", feedback) == records
    lock_token = service.headers["ETag"].strip('"')
    await service.call("DELETE", f"{feedback}/{lock_token}", expect=204)
    assert not hub.feedback
    await service.fails(412, "DeviceMessageLockLost", "DELETE", f"{feedback}/{lock_token}")


async def test_feedback_is_handed_out_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that nobody completes come again when their lock has ended."""
    monkeypatch.setattr("edge_gateway.testbench.cloud.service.messages.FEEDBACK_LOCK_S", 0.0)
    service.hub.add_device("d")
    service.hub.send_c2d("d", b"x", message_id="m", ack="full")
    service.hub.purge_c2d("d")
    first = await service.call("GET", "/messages/serviceBound/feedback")
    assert first[0]["statusCode"] == Outcome.PURGED.value
    assert await service.call("GET", "/messages/serviceBound/feedback") == first


async def test_purge(service: Service) -> None:
    """Purging ends what waits for a device and says how much it was."""
    service.hub.add_device("d")
    for _ in range(3):
        await service.call("POST", "/devices/d/messages/devicebound", body=b"x", expect=204)
    purged = await service.call("DELETE", "/devices/d/commands")
    assert purged == {"deviceId": "d", "moduleId": None, "totalMessagesPurged": 3}


async def test_message_errors(service: Service) -> None:
    """An unknown device, a full queue, too large a message and wrong headers are told."""
    service.hub.add_device("d")
    path = "/devices/d/messages/devicebound"
    await service.fails(404, "DeviceNotFound", "POST", "/devices/x/messages/devicebound", body=b"x")
    await service.fails(404, "DeviceNotFound", "DELETE", "/devices/x/commands")
    await service.fails(413, "MessageTooLarge", "POST", path, body=b"x" * 65_537)
    await service.fails(400, "ArgumentInvalid", "POST", path, body=b"x", headers={"iothub-ack": "loud"})
    await service.fails(400, "ArgumentInvalid", "POST", path, body=b"x", headers={"iothub-expiry": "soon"})
    for _ in range(50):
        service.hub.send_c2d("d", b"x")
    await service.fails(403, "DeviceMaximumQueueDepthExceeded", "POST", path, body=b"x")


# All of it


MEMBERS = (  # noqa: SIM905  # a list of literals would take a page
    "deviceId status authentication symmetricKey primaryKey type capabilities iotEdge x509Thumbprint "
    "primaryThumbprint parentScopes deviceScope x"
).split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ad$.", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_identities(document: Any) -> None:
    """Any JSON is an identity or is refused, never another error."""
    hub = LocalHub(host_name="hub")
    try:
        identity = identity_from(hub, IdentityName("d"), document)
    except BenchError:
        return
    assert identity.device_id == "d"


CALLS = [
    ("PUT", "/devices/d"),
    ("PUT", "/devices/d/modules/m"),
    ("POST", "/devices"),
    ("PATCH", "/twins/d"),
    ("PUT", "/twins/d"),
    ("POST", "/twins/d/methods"),
    ("POST", "/devices/query"),
    ("PUT", "/configurations/c"),
    ("POST", "/configurations/testQueries"),
    ("POST", "/devices/d/applyConfigurationContent"),
    ("PUT", "/jobs/v2/j"),
]


async def test_no_call_fails_for_its_body(service: Service) -> None:
    """Whatever JSON a call gets, the answer is an answer and not a failure of the bench."""
    service.hub.add_device("d")
    bodies: list[Any] = [None, 5, "x", [], [5], [[]], {}, {"id": 5}, {"query": 5}, {"content": []}, {"tags": []}]
    bodies += [{"content": {"modulesContent": []}}, {"modulesContent": {"a": 5}}, {"updateTwin": 5}, {"type": []}]
    bodies += [{"content": {"deviceContent": {"properties.desired": 5}}}, {"content": {"x": 1}}, {"properties": []}]
    content = {"content": {"deviceContent": {"properties.desired.a": 1}}}
    bodies += [{**content, name: 5} for name in ("metrics", "labels", "targetCondition", "priority", "id")]
    bodies += [{**content, "metrics": {"queries": {"m": 5}}}, [{"id": "d", "moduleId": 5}], [{"id": "d", "tags": 5}]]
    job = {"type": "scheduleUpdateTwin", "queryCondition": "*", "updateTwin": {}}
    bodies += [{**job, name: {"a": 5}} for name in ("startTime", "queryCondition", "maxExecutionTimeInSeconds")]
    for method, path in CALLS:
        for body in bodies:
            sent = {"Authorization": policy_token(service.hub), "If-Match": "*"}
            response = await service.session.request(
                method, f"{path}?api-version=2021-04-12", data=orjson.dumps(body), headers=sent
            )
            assert response.status < 500, (method, path, body, await response.text())
