"""What devices ask a hub for over HTTPS: telemetry, cloud-to-device messages, file uploads.

Every call names its device in the path and an API version in the query, and is let in by a token in `Authorization` or
by the client certificate of the TLS below. Any API version will do; a call without one is refused, as edgeHub does.

Properties of messages are headers: `iothub-app-{name}` for the application's, others for the system's. The
documentation allows names and values only some ASCII letters, and gives an example beyond them (a time, with colons);
taken here is any ASCII that a header may have. Whether the service is stricter is UNVERIFIED, as is its answer to most
wrong requests.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import orjson
from aiohttp import web

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.cloud.cloud_messages import CloudMessage
from edge_gateway.testbench.cloud.https import HttpRefused, read_body, read_json
from edge_gateway.testbench.cloud.identity import Identity, IdentityName
from edge_gateway.testbench.cloud.mqtt.connection import MAX_MESSAGE_BYTES
from edge_gateway.testbench.cloud.refusals import LimitExceeded
from edge_gateway.testbench.cloud.storage.blob_store import (
    BlobStore,
    StorageRefused,
    UploadLimitReached,
    UploadNotFound,
)
from edge_gateway.testbench.cloud.throttle import Operation
from edge_gateway.testbench.cloud.tls import client_chain

if TYPE_CHECKING:  # the hub imports this module
    from edge_gateway.testbench.cloud.hub import LocalHub

BATCH_CONTENT_TYPE = "application/vnd.microsoft.iothub.json"
_APP_PREFIX = "iothub-app-"
_SYSTEM_HEADERS = {
    "iothub-messageid": "message-id",
    "iothub-correlationid": "correlation-id",
    "iothub-userid": "user-id",
    "iothub-to": "to",
    "iothub-contenttype": "content-type",
    "iothub-contentencoding": "content-encoding",
    "iothub-expiry": "absolute-expiry-time",
    "iothub-interface-id": "interface-id",
    "dt-subject": "dt-subject",
}
"""Header of a message from a device, in lower case, to name of the system property."""
_DEVICEBOUND_HEADERS = {
    "iothub-messageid": "message-id",
    "iothub-correlationid": "correlation-id",
    "iothub-userid": "user-id",
    "iothub-to": "to",
    "ContentType": "content-type",
    "ContentEncoding": "content-encoding",
}
"""Header of a message to a device to name of the system property; the last two are as the C SDK reads them."""
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
"""What stays as it is in a header's value: the SDKs do not decode any of it."""
_NAME_LETTERS = "!#$&'*+-.^_`|~"
"""What does so in a header's name, beside letters and digits (RFC 9110, 5.6.2)."""

_Call: TypeAlias = Callable[[web.Request, Identity], Coroutine[Any, Any, web.Response]]


def routes(hub: LocalHub, blobs: BlobStore | None = None) -> list[web.RouteDef]:
    """A hub's answers to its devices.

    Args:
        hub: whose devices.
        blobs: where their files go; None is a hub without a storage account, which refuses uploads. The calls on the
            storage itself are `storage.rest.routes`.
    """
    calls = _DeviceCalls(hub, blobs)
    device = "/devices/{device_id}"
    devicebound = f"{device}/messages/devicebound"
    notifications = f"{device}/files/notifications"
    table: list[tuple[str, str, _Call]] = [
        ("POST", f"{device}/messages/events", calls.send),
        ("GET", devicebound, calls.receive),
        ("DELETE", f"{devicebound}/{{lock_token}}", calls.complete_or_reject),
        ("POST", f"{devicebound}/{{lock_token}}/abandon", calls.abandon),
        ("POST", f"{device}/files", calls.begin_upload),
        ("POST", f"{device}/files/", calls.begin_upload),  # as the C SDK writes it
        ("POST", notifications, calls.end_upload),
        ("POST", f"{notifications}/", calls.end_upload),  # the C SDK, too
        ("POST", f"{notifications}/{{correlation_id}}", calls.end_upload),  # the Node SDK
    ]
    return [web.RouteDef(method, path, _admitted(hub, call), {}) for method, path, call in table]


def _admitted(hub: LocalHub, call: _Call) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
    """A handler that lets only the device itself in."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if "api-version" not in request.query:
            raise HttpRefused(400, "InvalidProtocolVersion", "there is no api-version", where=request.path)
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        name = IdentityName(request.match_info["device_id"])
        token = request.headers.get("Authorization")
        identity, _ = hub.admit_device(name, token=token, chain=client_chain(request.transport))
        return await call(request, identity)

    return handle


class _DeviceCalls:
    """The calls, each for a device that has been let in."""

    def __init__(self, hub: LocalHub, blobs: BlobStore | None) -> None:
        self._hub = hub
        self._blobs = blobs

    async def send(self, request: web.Request, identity: Identity) -> web.Response:
        hub = self._hub
        body = await read_body(request)
        stamps = hub.stamps(identity, x509="Authorization" not in request.headers)
        if len(body) > MAX_MESSAGE_BYTES:  # a batch counts as it is sent, in base64 and with its braces
            raise LimitExceeded(
                f"{len(body)} bytes", where=str(identity.name), remedy=f"Send at most {MAX_MESSAGE_BYTES}"
            )
        if request.content_type == BATCH_CONTENT_TYPE:
            sent = parse_batch(body)
        else:
            sent = [(body, *_split_properties(request.headers.items()))]
        messages = [
            hub.message_from(identity, properties, system, content, stamps=stamps)
            for content, properties, system in sent
        ]
        for message in messages:
            hub.throttle.count_message(len(message.body), str(identity.name))
        wait_s = 0.0
        for message in messages:
            hub.receive(message)
            wait_s = hub.throttle.shape(Operation.D2C)
        hub.changed()
        if wait_s:
            await asyncio.sleep(wait_s)
        return web.Response(status=204)

    async def receive(self, _request: web.Request, identity: Identity) -> web.Response:
        self._hub.throttle.admit(Operation.C2D_RECEIVE, identity.device_id)
        message = self._hub.receive_c2d(identity.device_id)
        if message is None:
            return web.Response(status=204)
        return web.Response(body=message.body, headers=_message_headers(message))

    async def complete_or_reject(self, request: web.Request, identity: Identity) -> web.Response:
        lock_token = request.match_info["lock_token"]
        if "reject" in request.query:
            self._hub.reject_c2d(identity.device_id, lock_token)
        else:
            self._hub.complete_c2d(identity.device_id, lock_token)
        return web.Response(status=204)

    async def abandon(self, request: web.Request, identity: Identity) -> web.Response:
        self._hub.abandon_c2d(identity.device_id, request.match_info["lock_token"])
        return web.Response(status=204)

    async def begin_upload(self, request: web.Request, identity: Identity) -> web.Response:
        self._hub.throttle.admit(Operation.FILE_UPLOAD, identity.device_id)
        match await read_json(request):
            case {"blobName": str(file_name)}:
                pass
            case _:
                raise HttpRefused(400, "ArgumentInvalid", "there is no blobName", where=identity.device_id)
        try:
            upload = self._storage(identity).begin_upload(identity.device_id, file_name, request.host)
        except UploadLimitReached as error:
            raise HttpRefused(
                403, "DeviceMaximumActiveFileUploadLimitExceeded", error.what, where=identity.device_id
            ) from error
        return web.Response(
            body=orjson.dumps(
                {
                    "correlationId": upload.correlation_id,
                    "hostName": upload.host_name,
                    "containerName": upload.container,
                    "blobName": upload.blob_name,
                    "sasToken": upload.sas_query,
                }
            ),
            content_type="application/json",
        )

    async def end_upload(self, request: web.Request, identity: Identity) -> web.Response:
        """The id is in the body (Python, C) or in the path (Node)."""
        match await read_json(request):
            case {"isSuccess": bool(success), **others}:
                correlation_id = request.match_info.get("correlation_id", others.get("correlationId"))
            case _:
                raise HttpRefused(400, "ArgumentInvalid", "there is no isSuccess", where=identity.device_id)
        try:
            self._storage(identity).end_upload(identity.device_id, str(correlation_id), success=success)
        except UploadNotFound as error:
            raise HttpRefused(400, "IotHubFormatError", error.what, where=identity.device_id) from error
        except StorageRefused as error:
            raise HttpRefused(400, "InvalidStorageEndpointOrBlob", error.what, where=identity.device_id) from error
        self._hub.changed()
        return web.Response(status=204)

    def _storage(self, identity: Identity) -> BlobStore:
        if self._blobs is None:
            raise HttpRefused(400, "BlobContainerValidationError", "the hub has no storage", where=identity.device_id)
        return self._blobs


def parse_batch(body: bytes) -> list[tuple[bytes, dict[str, str], dict[str, str]]]:
    """The messages of a batch: body, application's and system's properties of each.

    Args:
        body: `[{"body": "{base64}", "properties": {"iothub-app-{name}": "{value}"}}]`. With `"base64Encoded": false`
            the body is the text itself (C SDK). Properties have the names of headers; any other is the application's.

    Raises:
        HttpRefused: it is something else.
    """
    try:
        items = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _no_batch() from None
    if not isinstance(items, list):
        raise _no_batch()
    return [_parse_item(item) for item in items]


def _parse_item(item: object) -> tuple[bytes, dict[str, str], dict[str, str]]:
    match item:
        case {"body": str(text), **others}:
            properties = others.get("properties", {})
        case _:
            raise _no_batch()
    if others.get("base64Encoded") is False:
        content = text.encode()
    else:
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:
            raise _no_batch() from None
    if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
        raise _no_batch()
    application, system = _split_properties(properties.items())
    for name, value in properties.items():
        if not name.lower().startswith(_APP_PREFIX) and name.lower() not in _SYSTEM_HEADERS:
            application[name] = value
    return content, application, system


def _no_batch() -> HttpRefused:
    return HttpRefused(400, "IotHubFormatError", "the body is not a batch of messages", where=BATCH_CONTENT_TYPE)


def _split_properties(headers: Iterable[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """The application's and the system's properties among headers; what is neither is left out."""
    application: dict[str, str] = {}
    system: dict[str, str] = {}
    for header, value in headers:
        name = header.lower()
        if name.startswith(_APP_PREFIX):
            application[header[len(_APP_PREFIX) :]] = value
        elif name in _SYSTEM_HEADERS:
            system[_SYSTEM_HEADERS[name]] = value
    return application, system


def _message_headers(message: CloudMessage) -> dict[str, str]:
    """A cloud-to-device message's properties; what a header cannot have is percent-encoded.

    Names as the service's command line tool reads them: all are there, some empty. That the sequence number counts for
    each device is UNVERIFIED, as is the form of `iothub-expiry`.
    """
    headers = {
        "ETag": f'"{message.lock_token}"',
        "iothub-ack": message.ack.value,
        "iothub-deliverycount": str(message.attempts - 1),
        "iothub-enqueuedtime": _us_time(message.enqueued_ns),
        "iothub-expiry": _us_time(message.expires_ns),
        "iothub-sequencenumber": str(message.packet_id),
    }
    for header, name in _DEVICEBOUND_HEADERS.items():
        headers[header] = quote(message.system_properties.get(name, ""), safe=_PRINTABLE)
    for name, value in message.properties.items():
        headers[f"{_APP_PREFIX}{quote(name, safe=_NAME_LETTERS)}"] = quote(value or "", safe=_PRINTABLE)
    return headers


def _us_time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // NS_PER_S, UTC).strftime("%m/%d/%Y %I:%M:%S %p")
