"""azure-iot-device, in its asyncio and its blocking form, over MQTT and over WebSocket.

The two forms share one adapter: a blocking call runs in a thread, and so does setting a handler in both, because the
SDK blocks there until the hub has answered, which lives in the caller's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import azure.iot.device
import azure.iot.device.aio
from azure.iot.device import X509, MethodResponse, exceptions
from azure.iot.device import Message as SdkMessage

from edge_gateway.records import Value

from .client import (
    Access,
    Answer,
    Client,
    ClientCertificate,
    Ending,
    Enrolment,
    Feature,
    Inbox,
    Lost,
    Message,
    NotAuthorised,
    Refused,
    Registration,
    Twin,
)

_SYSTEM = {
    "message-id": "message_id",
    "correlation-id": "correlation_id",
    "user-id": "user_id",
    "content-type": "content_type",
    "content-encoding": "content_encoding",
}
"""System properties: long name to the SDK's field."""


class PythonSdk:
    """The SDK in one form, over one transport."""

    soon_renewed_s = 122
    """It renews 120 s before the end."""

    def __init__(self, name: str, *, asynchronous: bool, websockets: bool = False) -> None:
        self.name = name
        self.features = frozenset(Feature) - {Feature.SETTLING, Feature.BATCH}
        self._module: ModuleType = azure.iot.device.aio if asynchronous else azure.iot.device
        self._asynchronous = asynchronous
        self._websockets = websockets

    def missing(self) -> str:
        return ""

    async def install(self) -> None:
        pass

    async def client(self, access: Access) -> PythonSdkClient:
        options = {
            "server_verification_cert": access.ca_pem,
            "websockets": self._websockets,
            "connection_retry": access.returns,
            "connection_retry_interval": 1,
        }
        if access.model_id:
            options["product_info"] = access.model_id
        files = contextlib.ExitStack()
        is_module = bool(access.module_id)
        factory = self._module.IoTHubModuleClient if is_module else self._module.IoTHubDeviceClient
        if access.environment:
            del options["server_verification_cert"]  # the workload API has it
            with _environment(access.environment):
                sdk = await asyncio.to_thread(factory.create_from_edge_environment, **options)
        elif access.token:
            sdk = factory.create_from_sastoken(access.token, **options)
        elif access.certificate is None:
            options["sastoken_ttl"] = access.token_lifetime_s
            sdk = factory.create_from_connection_string(_connection_string(access), **options)
        else:
            names = {"device_id": access.device_id} | ({"module_id": access.module_id} if is_module else {})
            certificate = files.enter_context(_loadable(access.certificate))
            sdk = factory.create_from_x509_certificate(
                x509=certificate, hostname=access.hub_name, gateway_hostname=_gateway(access), **names, **options
            )
        return PythonSdkClient(sdk, access, self._asynchronous, files)

    async def register(self, enrolment: Enrolment) -> Registration:
        factory = self._module.ProvisioningDeviceClient
        where = {
            "provisioning_host": enrolment.address,
            "registration_id": enrolment.registration_id,
            "id_scope": enrolment.id_scope,
            "server_verification_cert": enrolment.ca_pem,
            "websockets": self._websockets,
        }
        with contextlib.ExitStack() as files, _errors_translated():
            if enrolment.certificate is None:
                sdk = factory.create_from_symmetric_key(symmetric_key=enrolment.key, **where)
            else:
                certificate = files.enter_context(_loadable(enrolment.certificate))
                sdk = factory.create_from_x509_certificate(x509=certificate, **where)
            if enrolment.payload is not None:
                sdk.provisioning_payload = enrolment.payload
            try:
                result = await (sdk.register() if self._asynchronous else asyncio.to_thread(sdk.register))
            except (exceptions.ClientError, exceptions.ServiceError):
                await _shut_down(sdk)
                raise
        if result.status != "assigned":
            await _shut_down(sdk)
            raise Refused(f"registration is {result.status}")
        state = result.registration_state
        return Registration(state.assigned_hub, state.device_id, json.loads(state.response_payload))


class PythonSdkClient(Client):
    """A device's or module's client; `files` are what it has been given as files."""

    def __init__(self, sdk: Any, access: Access, asynchronous: bool, files: contextlib.ExitStack) -> None:
        self._sdk = sdk
        self._files = files
        self._access = access
        self._asynchronous = asynchronous
        self._answering: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._disconnected = asyncio.Event()

    async def connect(self) -> None:
        self._sdk.on_connection_state_change = self._connection_changed
        await self._call("connect")

    async def send(self, message: Message) -> None:
        try:
            await self._call("send_message", _to_sdk(message))
        except ValueError as error:  # too large
            raise Refused(str(error)) from error

    async def close(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
        with self._files:
            await self._call("shutdown")

    async def lost(self) -> None:
        await self._disconnected.wait()

    async def commands(self, ending: Ending = Ending.COMPLETE) -> Inbox[Message]:
        inbox: Inbox[Message] = Inbox()
        await self._set_handler("on_message_received", lambda message: inbox.put(_from_sdk(message)))
        return inbox

    async def twin(self) -> Twin:
        twin: Twin = await self._call("get_twin")
        return twin

    async def report(self, patch: Value) -> None:
        await self._call("patch_twin_reported_properties", patch)

    async def desired_patches(self) -> Inbox[dict[str, Value]]:
        inbox: Inbox[dict[str, Value]] = Inbox()
        await self._set_handler("on_twin_desired_properties_patch_received", inbox.put)
        return inbox

    async def answer_methods(self, names: Sequence[str], answer: Answer) -> None:
        requests: Inbox[Any] = Inbox()
        self._answering = asyncio.create_task(self._answer_methods(requests, answer), name="python-sdk-methods")
        await self._set_handler("on_method_request_received", requests.put)

    async def send_output(self, output: str, message: Message) -> None:
        await self._call("send_message_to_output", _to_sdk(message), output)

    async def inputs(self) -> Inbox[tuple[str, Message]]:
        inbox: Inbox[tuple[str, Message]] = Inbox()
        await self._set_handler(
            "on_message_received", lambda message: inbox.put((message.input_name, _from_sdk(message)))
        )
        return inbox

    async def call(self, device_id: str, module_id: str, method: str, payload: Value) -> tuple[int, Value]:
        parameters = {"methodName": method, "payload": payload, "responseTimeoutInSeconds": 10}
        answer = await self._call("invoke_method", parameters, device_id, module_id)
        return answer["status"], answer["payload"]

    async def upload(self, blob_name: str, content: bytes) -> None:
        storage = await self._call("get_storage_info_for_blob", blob_name)
        blob = quote(f"{storage['containerName']}/{storage['blobName']}")
        url = f"https://{storage['hostName']}/{blob}{storage['sasToken']}"
        request = urllib.request.Request(url, content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")
        context = ssl.create_default_context(cadata=self._access.ca_pem)
        with await asyncio.to_thread(urllib.request.urlopen, request, context=context) as answer:
            status = answer.status
        await self._call("notify_blob_upload_status", storage["correlationId"], True, status, "stored")

    async def _answer_methods(self, requests: Inbox[Any], answer: Answer) -> None:
        while True:
            request = await requests.get()
            answered = answer(request.name, request.payload)
            if answered is not None:
                await self._call("send_method_response", MethodResponse.create_from_method_request(request, *answered))

    async def _call(self, method: str, *arguments: Any) -> Any:
        function = getattr(self._sdk, method)
        with _errors_translated():
            return await (function(*arguments) if self._asynchronous else asyncio.to_thread(function, *arguments))

    async def _set_handler(self, name: str, handler: Callable[[Any], None]) -> None:
        with _errors_translated():
            await asyncio.to_thread(setattr, self._sdk, name, handler)

    def _connection_changed(self) -> None:
        if not self._sdk.connected:
            self._loop.call_soon_threadsafe(self._disconnected.set)


async def _shut_down(provisioning: Any) -> None:
    """End a provisioning client that was refused; the SDK has no public way, and it would stay connected for ever."""
    over = threading.Event()
    provisioning._pipeline.shutdown(callback=lambda *_, **__: over.set())
    await asyncio.to_thread(over.wait)


@contextlib.contextmanager
def _errors_translated() -> Iterator[None]:
    """The SDK's errors as the contract has them; a mistaken argument stays what it is."""
    try:
        yield
    except exceptions.CredentialError as error:
        raise NotAuthorised(str(error)) from error
    except (exceptions.ConnectionDroppedError, exceptions.NoConnectionError) as error:
        raise Lost(str(error)) from error
    except (exceptions.ClientError, exceptions.ServiceError) as error:
        raise Refused(f"{error}: {error.__cause__}") from error


def _connection_string(access: Access) -> str:
    parts = {"HostName": access.hub_name, "DeviceId": access.device_id, "SharedAccessKey": access.key}
    if access.module_id:
        parts["ModuleId"] = access.module_id
    if (gateway := _gateway(access)) is not None:
        parts["GatewayHostName"] = gateway
    return ";".join(f"{name}={value}" for name, value in parts.items())


def _gateway(access: Access) -> str | None:
    return access.address if access.address != access.hub_name else None


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _loadable(certificate: ClientCertificate) -> Iterator[X509]:
    """The certificate as files, which is how the SDK takes it."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        chain, key = Path(directory, "chain.pem"), Path(directory, "key.pem")
        chain.write_text(certificate.chain_pem)
        key.write_text(certificate.key_pem)
        yield X509(cert_file=str(chain), key_file=str(key))


def _to_sdk(message: Message) -> SdkMessage:
    sdk = SdkMessage(message.body)
    sdk.custom_properties = dict(message.properties)
    for name, value in message.system.items():
        setattr(sdk, _SYSTEM[name], value)
    return sdk


def _from_sdk(sdk: Any) -> Message:
    properties = dict(sdk.custom_properties)
    if sdk.ack is not None:  # an application's property that the SDK gives a field of its own
        properties["iothub-ack"] = sdk.ack
    system = {name: getattr(sdk, field) for name, field in _SYSTEM.items()}
    return Message(sdk.data, properties, {name: value for name, value in system.items() if value is not None})
