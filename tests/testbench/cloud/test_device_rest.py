"""What devices ask a hub for over HTTPS, asked by a plain HTTP client and by the device SDK."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from azure.iot.device import exceptions
from azure.iot.device.aio import IoTHubDeviceClient
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud import device_rest
from edge_gateway.testbench.cloud.cloud_messages import Outcome
from edge_gateway.testbench.cloud.device_rest import BATCH_CONTENT_TYPE, parse_batch
from edge_gateway.testbench.cloud.https import HttpRefused, HttpsService
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.mqtt.connection import MAX_MESSAGE_BYTES
from edge_gateway.testbench.cloud.storage import rest as blob_rest
from edge_gateway.testbench.cloud.storage.blob_store import BlobStore
from edge_gateway.testbench.cloud.throttle import Operation
from tests.log_events import log_events

from .https_peers import served
from .mqtt_client import ShiftedClock, soon

EVENTS = "/devices/dev/messages/events?api-version=2021-04-12"
DEVICEBOUND = "/devices/dev/messages/devicebound"
FILES = "/devices/dev/files"
VERSION = "?api-version=2021-04-12"


@pytest.fixture
async def rest_hub(authority: LocalAuthority, address: str) -> AsyncIterator[LocalHub]:
    blobs = BlobStore(rng=random.Random(1))
    async with LocalHub(authority=authority, address=address, https_port=443, blobs=blobs) as hub:
        hub.add_device("dev")
        yield hub


@asynccontextmanager
async def https_client(
    hub: LocalHub, authority: LocalAuthority, certificate: DeviceCertificate | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {} if certificate is not None else {"Authorization": hub.sas_token("dev")}
    connector = aiohttp.TCPConnector(ssl=authority.client_context(certificate))
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession(f"https://{hub.address}", connector=connector, headers=headers) as client,
    ):
        yield client


@pytest.fixture
async def client(rest_hub: LocalHub, authority: LocalAuthority) -> AsyncIterator[aiohttp.ClientSession]:
    async with https_client(rest_hub, authority) as client:
        yield client


async def failure(response: aiohttp.ClientResponse) -> tuple[int, str]:
    """The status and IoT Hub's code."""
    code = (await response.json())["Message"].partition(";")[0]
    assert code == f"ErrorCode:{response.headers['iothub-errorcode']}"
    return response.status, response.headers["iothub-errorcode"]


# Who is let in


async def test_denied(rest_hub: LocalHub, authority: LocalAuthority) -> None:
    """Without a token, with another device's, an old one, or for an unknown device, the answer is 401 and no more."""
    rest_hub.add_device("other")
    attempts: list[tuple[str, dict[str, str]]] = [
        ("dev", {}),
        ("dev", {"Authorization": "Basic ZGV2Og=="}),
        ("dev", {"Authorization": rest_hub.sas_token("other")}),
        ("dev", {"Authorization": rest_hub.sas_token("dev", lifetime_s=-1)}),
        ("unknown", {"Authorization": rest_hub.sas_token("dev")}),
    ]
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with aiohttp.ClientSession(f"https://{rest_hub.address}", connector=connector) as client:
        for device_id, headers in attempts:
            response = await client.post(EVENTS.replace("dev/", f"{device_id}/", 1), headers=headers, data=b"x")
            assert await failure(response) == (401, "IotHubUnauthorizedAccess")
    assert not rest_hub.messages


async def test_disabled(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A disabled device is denied with a good token."""
    rest_hub.set_enabled("dev", False)
    assert await failure(await client.post(EVENTS)) == (401, "IotHubUnauthorizedAccess")


async def test_client_certificate(rest_hub: LocalHub, authority: LocalAuthority) -> None:
    """A device is let in by the certificate it shows to TLS, and messages are marked so."""
    certificate = self_signed_certificate("cam")
    rest_hub.add_device("cam", authentication=Thumbprints(certificate.sha1_thumbprint))
    async with https_client(rest_hub, authority, certificate) as client:
        assert (await client.post(EVENTS.replace("dev/", "cam/", 1), data=b"x")).status == 204
        assert await failure(await client.post(EVENTS, data=b"x")) == (401, "IotHubUnauthorizedAccess")
    (message,) = rest_hub.messages
    assert orjson.loads(message.system_properties["iothub-connection-auth-method"])["type"] == "x509"


async def test_api_version(client: aiohttp.ClientSession) -> None:
    """A call that names no API version is refused."""
    response = await client.post("/devices/dev/messages/events", data=b"x")
    assert await failure(response) == (400, "InvalidProtocolVersion")


async def test_odd_device_id(rest_hub: LocalHub, authority: LocalAuthority) -> None:
    """Ids with letters that a path has to encode are understood."""
    device_id = "a%2B+#?d:1"
    rest_hub.add_device(device_id)
    async with https_client(rest_hub, authority) as client:
        headers = {"Authorization": rest_hub.sas_token(device_id)}
        url = f"https://{rest_hub.address}/devices/a%252B%2B%23%3Fd%3A1/messages/events?api-version=x"
        response = await client.post(URL(url, encoded=True), headers=headers)
        assert response.status == 204
    assert rest_hub.messages[0].device_id == device_id


# Telemetry


async def test_telemetry(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A message has its body, the application's properties and the system's, by the headers' names."""
    headers = {
        "iothub-to": "/devices/dev/messages/events",
        "IoTHub-MessageId": "m 1",
        "IoTHub-CorrelationId": "c",
        "IoTHub-UserId": "u",
        "iothub-contenttype": "application/json",
        "iothub-contentencoding": "utf-8",
        "iothub-interface-id": "urn:x",
        "iothub-app-Key": "v=1&2 3",
        "iothub-app-empty": "",
        "iothub-app-iothub-creation-time-utc": "2026-01-01T00:00:00Z",
        "dt-subject": "component",
        "X-Other": "left out",
    }
    assert (await client.post(EVENTS, data=b"\x00body", headers=headers)).status == 204
    (message,) = rest_hub.messages
    assert (message.device_id, message.message_id, message.body) == ("dev", "m 1", b"\x00body")
    assert message.properties == {
        "Key": "v=1&2 3",
        "empty": "",
        "iothub-creation-time-utc": "2026-01-01T00:00:00Z",
    }
    system = dict(message.system_properties)
    assert system.pop("iothub-connection-device-id") == "dev"
    stamps = {name: value for name, value in system.items() if name.startswith("iothub-connection-")}
    assert {name: value for name, value in system.items() if name not in stamps} == {
        "to": "/devices/dev/messages/events",
        "message-id": "m 1",
        "correlation-id": "c",
        "user-id": "u",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "interface-id": "urn:x",
        "dt-subject": "component",
    }


async def test_telemetry_limit(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A message of 256 KiB, properties included, is taken; one byte more is not."""
    body = bytes(MAX_MESSAGE_BYTES - 4)
    assert (await client.post(EVENTS, data=body, headers={"iothub-app-ab": "cd"})).status == 204
    response = await client.post(EVENTS, data=body, headers={"iothub-app-ab": "cde"})
    assert await failure(response) == (413, "MessageTooLarge")
    assert len(rest_hub.messages) == 1


async def test_somebody_waits(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """Who waits for a message with `until` is woken by one over HTTPS."""
    waiting = asyncio.create_task(rest_hub.until(lambda: bool(rest_hub.messages)))
    await client.post(EVENTS, data=b"x")
    await soon(waiting)


def batch(*items: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": orjson.dumps(items), "headers": {"Content-Type": BATCH_CONTENT_TYPE}}


async def test_batch(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A batch is as many messages, each with its properties, as the Node and C SDKs write them."""
    items: list[Mapping[str, Any]] = [
        {"body": base64.b64encode(b"\xffone").decode()},
        {"body": "dHdv", "properties": {"iothub-app-K": "v", "dt-subject": "s", "plain": "p", "iothub-messageid": "m"}},
        {"body": "text ä", "base64Encoded": False},
    ]
    assert (await client.post(EVENTS, **batch(*items))).status == 204
    assert [message.body for message in rest_hub.messages] == [b"\xffone", b"two", "text ä".encode()]
    assert [dict(message.properties) for message in rest_hub.messages] == [{}, {"K": "v", "plain": "p"}, {}]
    assert rest_hub.messages[1].message_id == "m"
    assert rest_hub.messages[1].system_properties["dt-subject"] == "s"


async def test_batch_is_all_or_nothing(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A batch over the limit, or with one bad message, is no message at all."""
    half = base64.b64encode(bytes(MAX_MESSAGE_BYTES * 3 // 8)).decode()
    assert await failure(await client.post(EVENTS, **batch({"body": half}, {"body": half}))) == (
        413,
        "MessageTooLarge",
    )
    assert await failure(await client.post(EVENTS, **batch({"body": ""}, {"body": "?"}))) == (400, "IotHubFormatError")
    assert not rest_hub.messages


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"body":1}]',
        b'[{"body":"a"}]',
        b'[{"body":"\xc3\xa4"}]',
        b'[{"body":"","properties":[]}]',
        b'[{"body":"","properties":{"a":1}}]',
        b"[" * 10_000,
    ],
)
def test_no_batch(body: bytes) -> None:
    """What is no batch is refused."""
    with pytest.raises(HttpRefused):
        parse_batch(body)


texts = st.text(max_size=8)
json = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | texts, lambda inner: st.lists(inner, max_size=3))
almost_items = st.fixed_dictionaries(
    {}, optional={"body": json, "properties": json | st.dictionaries(texts, json), "base64Encoded": json}
)


@given(st.binary(max_size=60) | st.lists(almost_items, max_size=3).map(orjson.dumps))
def test_arbitrary_batches(body: bytes) -> None:
    """Any bytes are a batch or refused, with no other error."""
    try:
        messages = parse_batch(body)
    except HttpRefused:
        return
    assert len(messages) == len(orjson.loads(body))


application_names = st.text("abcXYZ-0", min_size=1, max_size=6)


@given(st.lists(st.tuples(st.binary(max_size=20), st.dictionaries(application_names, texts, max_size=3)), max_size=4))
def test_batches_round_trip(sent: list[tuple[bytes, dict[str, str]]]) -> None:
    """What a client packs into a batch comes out of it."""
    items = [
        {
            "body": base64.b64encode(body).decode(),
            "properties": {f"iothub-app-{name}": value for name, value in properties.items()},
        }
        for body, properties in sent
    ]
    assert parse_batch(orjson.dumps(items)) == [(body, properties, {}) for body, properties in sent]


async def test_throttling(authority: LocalAuthority, address: str) -> None:
    """The tier's rates hold: telemetry waits, other calls are refused with the time to come again."""
    async with LocalHub(authority=authority, address=address, https_port=443, tier="S1") as hub:
        hub.add_device("dev")
        async with https_client(hub, authority) as client:
            statuses = [(await client.post(f"{FILES}{VERSION}", json={"blobName": "x"})) for _ in range(3)]
            assert statuses[0].status == 200
            assert await failure(statuses[-1]) == (429, "ThrottlingException")
            assert int(statuses[-1].headers["Retry-After"]) >= 1
            for _ in range(120):  # of 100 in a second
                hub.throttle.shape(Operation.D2C)
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            assert (await client.post(EVENTS)).status == 204
            assert loop.time() - begun_s > 0.1


async def test_quota(authority: LocalAuthority, address: str) -> None:
    """Past the day's messages, telemetry is refused."""
    async with LocalHub(authority=authority, address=address, https_port=443, tier="F1") as hub:
        hub.add_device("dev")
        hub.throttle.messages_today = 0
        hub.throttle.count_message(7_999 * 512, "dev")
        async with https_client(hub, authority) as client:
            assert (await client.post(EVENTS, data=b"x")).status == 204
            assert await failure(await client.post(EVENTS, data=b"x")) == (403, "IotHubQuotaExceeded")


# Cloud to device


async def test_receive_and_complete(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A device that asks gets the oldest message with its properties; completed, it is done."""
    sent = rest_hub.send_c2d(
        "dev",
        b"\x00hello",
        {"Plain": "a b", "ü %": "é%\n", "none": None},
        message_id="m%1",
        system_properties={"correlation-id": "c", "content-type": "text/plain"},
        ack="full",
    )
    response = await client.get(f"{DEVICEBOUND}{VERSION}")
    headers = response.headers
    assert (response.status, await response.read()) == (200, b"\x00hello")
    assert headers["iothub-app-Plain"] == "a b"
    assert headers["iothub-app-%C3%BC%20%25"] == "%C3%A9%%0A"
    assert headers["iothub-app-none"] == ""
    assert (headers["iothub-messageid"], headers["iothub-correlationid"]) == ("m%1", "c")
    assert (headers["ContentType"], headers["iothub-to"]) == ("text/plain", "/devices/dev/messages/devicebound")
    assert (headers["iothub-ack"], headers["iothub-deliverycount"]) == ("full", "0")
    enqueued = datetime.strptime(headers["iothub-enqueuedtime"], "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC)
    assert enqueued.timestamp() == sent.enqueued_ns // NS_PER_S
    assert (await client.get(f"{DEVICEBOUND}{VERSION}")).status == 204  # it is locked
    lock_token = headers["ETag"].strip('"')
    assert (await client.delete(f"{DEVICEBOUND}/{lock_token}{VERSION}")).status == 204
    assert sent.outcome is Outcome.SUCCESS


async def test_reject(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A message can be rejected."""
    sent = rest_hub.send_c2d("dev", b"x")
    lock_token = (await client.get(f"{DEVICEBOUND}{VERSION}")).headers["ETag"].strip('"')
    assert (await client.delete(f"{DEVICEBOUND}/{lock_token}{VERSION}&reject")).status == 204
    assert sent.outcome is Outcome.REJECTED


async def test_abandon(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """An abandoned message is handed out again, and counted."""
    rest_hub.send_c2d("dev", b"x")
    lock_token = (await client.get(f"{DEVICEBOUND}{VERSION}")).headers["ETag"].strip('"')
    assert (await client.post(f"{DEVICEBOUND}/{lock_token}/abandon{VERSION}")).status == 204
    again = await client.get(f"{DEVICEBOUND}{VERSION}")
    assert (again.status, again.headers["iothub-deliverycount"]) == (200, "1")
    assert again.headers["ETag"].strip('"') != lock_token


async def test_lock_lost(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A lock that is none is lost, whatever is wanted of it."""
    rest_hub.send_c2d("dev", b"x")
    for response in (
        await client.delete(f"{DEVICEBOUND}/nothing{VERSION}"),
        await client.delete(f"{DEVICEBOUND}/nothing{VERSION}&reject"),
        await client.post(f"{DEVICEBOUND}/nothing/abandon{VERSION}"),
    ):
        assert await failure(response) == (412, "DeviceMessageLockLost")


# File upload


async def test_upload(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A device asks where to put a file, puts it there and says so; the solution is notified."""
    begun = await client.post(f"{FILES}{VERSION}", json={"blobName": "logs/a b.txt"})
    upload = await begun.json()
    assert begun.status == 200
    assert upload.keys() == {"correlationId", "hostName", "containerName", "blobName", "sasToken"}
    assert (upload["hostName"], upload["blobName"]) == (rest_hub.address, "dev/logs/a b.txt")
    path = URL(
        f"https://{upload['hostName']}/{upload['containerName']}/dev/logs/a%20b.txt{upload['sasToken']}", encoded=True
    )
    put = await client.put(path, data=b"content", headers={"x-ms-blob-type": "BlockBlob"})
    assert put.status == 201
    waiting = asyncio.create_task(rest_hub.until(lambda: bool(rest_hub.blobs.file_notifications)))
    done = {"correlationId": upload["correlationId"], "isSuccess": True, "statusCode": 200, "statusDescription": "ok"}
    assert (await client.post(f"{FILES}/notifications{VERSION}", json=done)).status == 204
    await soon(waiting)
    (notification,) = rest_hub.blobs.file_notifications
    assert (notification.device_id, notification.blob_name) == ("dev", "dev/logs/a b.txt")
    assert notification.blob_uri == f"https://{rest_hub.address}/uploads/dev/logs/a%20b.txt"
    assert notification.size_bytes == 7
    assert rest_hub.blobs.read(notification.blob_name) == b"content"


@pytest.mark.parametrize("form", ["python", "c", "node"])
async def test_notification_forms(rest_hub: LocalHub, client: aiohttp.ClientSession, form: str) -> None:
    """The end of an upload is understood as each SDK tells it; a failed one notifies nobody."""
    path = f"{FILES}/{VERSION}" if form == "c" else f"{FILES}{VERSION}"
    correlation_id = (await (await client.post(path, json={"blobName": "x"})).json())["correlationId"]
    done: dict[str, Any] = {"isSuccess": False, "statusCode": 500, "statusDescription": "no"}
    if form == "node":
        encoded = correlation_id.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")
        path = f"{FILES}/notifications/{encoded}{VERSION}"
    else:
        done["correlationId"] = correlation_id
        path = f"{FILES}/notifications{'/' if form == 'c' else ''}{VERSION}"
    url = URL(f"https://{rest_hub.address}{path}", encoded=True)
    assert (await client.post(url, json=done)).status == 204
    assert rest_hub.blobs.open_uploads == []
    assert not rest_hub.blobs.file_notifications


async def test_eleventh_upload(client: aiohttp.ClientSession) -> None:
    """Ten uploads may be open; the eleventh is refused until one has ended."""
    uploads = [await (await client.post(f"{FILES}{VERSION}", json={"blobName": f"{n}"})).json() for n in range(10)]
    eleventh = await client.post(f"{FILES}{VERSION}", json={"blobName": "11"})
    assert await failure(eleventh) == (403, "DeviceMaximumActiveFileUploadLimitExceeded")
    done = {"correlationId": uploads[3]["correlationId"], "isSuccess": False}
    assert (await client.post(f"{FILES}/notifications{VERSION}", json=done)).status == 204
    assert (await client.post(f"{FILES}{VERSION}", json={"blobName": "11"})).status == 200


@pytest.mark.parametrize("body", [{}, {"blobName": 1}, {"blobName": ""}, {"blobName": "x" * 2000}, []])
async def test_bad_upload(client: aiohttp.ClientSession, body: object) -> None:
    """A request for an upload without a name that will do is refused."""
    assert await failure(await client.post(f"{FILES}{VERSION}", json=body)) == (400, "ArgumentInvalid")


async def test_bad_notification(rest_hub: LocalHub, client: aiohttp.ClientSession) -> None:
    """A notification of no upload, another device's, or one whose blob is not there, is refused."""
    rest_hub.add_device("other")
    others = rest_hub.blobs.begin_upload("other", "x")
    own = rest_hub.blobs.begin_upload("dev", "x")
    for body, code in (
        ({}, "ArgumentInvalid"),
        ({"isSuccess": True}, "IotHubFormatError"),
        ({"isSuccess": True, "correlationId": others.correlation_id}, "IotHubFormatError"),
        ({"isSuccess": True, "correlationId": own.correlation_id}, "InvalidStorageEndpointOrBlob"),
    ):
        assert await failure(await client.post(f"{FILES}/notifications{VERSION}", json=body)) == (400, code)
    assert len(rest_hub.blobs.open_uploads) == 2


async def test_no_storage(authority: LocalAuthority, address: str) -> None:
    """A hub without a storage account refuses uploads."""

    class PlainHub(LocalHub):
        def routes(self) -> list[web.RouteDef]:
            return device_rest.routes(self)

    async with PlainHub(authority=authority, address=address, https_port=443) as hub:
        hub.add_device("dev")
        async with https_client(hub, authority) as client:
            response = await client.post(f"{FILES}{VERSION}", json={"blobName": "x"})
            assert await failure(response) == (400, "BlobContainerValidationError")


# The device SDK


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning")  # the SDK's way to say 1.2
async def test_sdk_upload(rest_hub: LocalHub, authority: LocalAuthority, tmp_path: Path) -> None:
    """The unmodified device SDK and storage SDK upload a file as Microsoft's sample does."""
    storage = pytest.importorskip("azure.storage.blob", reason="the storage SDK is not installed (azure-storage-blob)")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(authority.ca_pem)
    client = IoTHubDeviceClient.create_from_connection_string(
        rest_hub.connection_string("dev"), server_verification_cert=authority.ca_pem
    )

    def upload(info: Mapping[str, str], content: bytes) -> None:
        url = f"https://{info['hostName']}/{info['containerName']}/{info['blobName']}{info['sasToken']}"
        with storage.BlobClient.from_blob_url(url, connection_verify=str(ca_file)) as blob:
            blob.upload_blob(content)

    try:
        info = await soon(client.get_storage_info_for_blob("photo.jpg"))
        await soon(asyncio.to_thread(upload, info, b"\xff\xd8" * 50_000))
        await soon(client.notify_blob_upload_status(info["correlationId"], True, 200, "done"))
        assert rest_hub.blobs.read("dev/photo.jpg") == b"\xff\xd8" * 50_000
        assert len(rest_hub.blobs.file_notifications) == 1
        with pytest.raises(exceptions.ClientError) as raised:
            await soon(client.notify_blob_upload_status(info["correlationId"], True, 200, "again"))
        assert "400" in str(raised.value.__cause__)
    finally:
        await client.shutdown()


# Anything else


def test_arbitrary_requests(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is asked of the hub's paths ends in an answer in its form or a closed connection."""
    letters = st.binary(max_size=12)
    paths = st.sampled_from([EVENTS, DEVICEBOUND, FILES, f"{FILES}/notifications", "/uploads/dev/x"]).map(str.encode)
    names = st.sampled_from(["Authorization", "Content-Type", "iothub-app-a", "Content-MD5", "x-ms-range"]).map(
        str.encode
    )

    with asyncio.Runner() as runner, log_events() as events:
        hub = LocalHub(host_name="hub", clock=ShiftedClock(0))
        hub.add_device("dev")
        blobs = BlobStore()
        token = hub.sas_token("dev").encode()
        query = blobs.begin_upload("dev", "x").sas_query.encode()
        serving = served(HttpsService([*device_rest.routes(hub, blobs), *blob_rest.routes(blobs)]))
        port = runner.run(serving.__aenter__())

        async def ask(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                return await soon(reader.read())
            finally:
                writer.transport.abort()

        @given(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]), paths, letters, names, letters, letters)
        @settings(max_examples=300, deadline=None)
        def answered(method: bytes, path: bytes, end: bytes, name: bytes, value: bytes, body: bytes) -> None:
            target = path + end.replace(b" ", b"").replace(b"\r", b"").replace(b"\n", b"")
            target += (b"&" if b"?" in target else query if path.startswith(b"/uploads") else b"?") + b"&api-version=1"
            value = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\x00", b"")
            lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: a", b"Connection: close"]
            if name != b"Authorization":
                lines.append(b"Authorization: " + token)
            lines += [b"%b: %b" % (name, value), b"Content-Length: %d" % len(body), b"", body]
            answer = runner.run(ask(b"\r\n".join(lines)))
            assert answer.startswith(b"HTTP/1.")

        answered()
        runner.run(serving.__aexit__(None, None, None))
    assert [event for event in events if event["log_level"] not in {"debug", "info"}] == []
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
