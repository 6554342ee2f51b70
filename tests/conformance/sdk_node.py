"""The device SDK for Node, over MQTT, WebSocket and HTTPS: one Node process (`node/client.js`) holds all its clients.

The process is started when it is first needed, and its packages are installed then, from the lock file, into
`node/node_modules`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.records import Value

from .client import (
    Access,
    Answer,
    Client,
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

_FOLDER = Path(__file__).with_name("node")
_INSTALL_WITHIN_S = 300
_NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT")
_LONGEST_LINE_BYTES = 16 * 1024 * 1024
_SYSTEM = {
    "message-id": "messageId",
    "correlation-id": "correlationId",
    "user-id": "userId",
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
}
"""System properties: long name to the SDK's field."""
_HEADER = "iothub-app-"


class NodeFailure(Exception):
    """What the SDK raised."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name


class NodeProcess:
    """The process, and the way to its clients."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._starting = asyncio.Lock()

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty if nothing."""
        missing = [tool for tool in ("node", "npm") if shutil.which(tool) is None]
        return f"{' and '.join(missing)} (Debian packages nodejs, npm)" if missing else ""

    async def install(self) -> None:
        """Install the packages of the lock file, unless they are."""
        async with self._starting:
            await install_modules()

    async def stop(self) -> None:
        """End the process, if it runs."""
        if self._process is not None and self._reading is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._reading

    def new_client(self, listener: Callable[[dict[str, Any]], None]) -> str:
        """A name for a client, whose events go to `listener`."""
        name = str(next(self._ids))
        self._listeners[name] = listener
        return name

    def forget(self, client: str) -> None:
        """Its events go nowhere from now on."""
        del self._listeners[client]

    async def ask(self, ca_pem: str, client: str, what: str, **fields: Any) -> Any:
        """Have something done.

        Raises:
            NodeFailure: the SDK could not.
        """
        process = await self._started(ca_pem)
        assert process.stdin is not None
        number = next(self._ids)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        request = {"id": number, "client": client, "do": what, **fields}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        return await answer

    async def _started(self, ca_pem: str) -> asyncio.subprocess.Process:
        async with self._starting:
            if self._process is None:
                self._process = await _start(ca_pem)
                self._reading = asyncio.create_task(self._read(self._process), name="node-sdk-reading")
            return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            told = json.loads(line)
            if "event" in told:
                listener = self._listeners.get(told["client"])
                if listener is not None:
                    listener(told)
                continue
            answer = self._answers.pop(told["id"])
            if answer.done():
                continue  # the test has given up
            if "error" in told:
                answer.set_exception(NodeFailure(told["error"]["name"], told["error"]["message"]))
            else:
                answer.set_result(told["result"])
        self._process = None  # by `stop`, or by an error that nobody caught: the next client gets another
        await process.wait()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(RuntimeError("the Node process has ended"))
        self._answers.clear()


class NodeSdk:
    """The SDK over one transport."""

    soon_renewed_s = 8
    """It renews when it is told to; `client.js` says after a quarter of the time."""

    def __init__(self, name: str, process: NodeProcess, transport: str, features: frozenset[Feature]) -> None:
        self.name = name
        self.features = features
        self._process = process
        self._transport = transport

    def missing(self) -> str:
        return self._process.missing()

    async def install(self) -> None:
        await self._process.install()

    async def client(self, access: Access) -> NodeSdkClient:
        return NodeSdkClient(self._process, self._transport, access)

    async def register(self, enrolment: Enrolment) -> Registration:
        try:
            state = await self._process.ask(
                enrolment.ca_pem,
                "",
                "register",
                transport=self._transport,
                address=enrolment.address,
                idScope=enrolment.id_scope,
                registrationId=enrolment.registration_id,
                key=enrolment.key,
                certificate=_certificate(enrolment),
                payload=enrolment.payload,
            )
        except NodeFailure as failure:
            raise _translated(failure) from failure
        return Registration(state["assignedHub"], state["deviceId"], state.get("payload"))


class NodeSdkClient(Client):
    """A device's or module's client."""

    def __init__(self, process: NodeProcess, transport: str, access: Access) -> None:
        self._process = process
        self._transport = transport
        self._access = access
        self._name = process.new_client(self._told)
        self._made = False
        self._disconnected = asyncio.Event()
        self._commands: Inbox[Message] = Inbox()
        self._patches: Inbox[dict[str, Value]] = Inbox()
        self._inputs: Inbox[tuple[str, Message]] = Inbox()
        self._answer: Answer | None = None
        self._answering: set[asyncio.Task[Any]] = set()

    async def connect(self) -> None:
        await self._ask("connect")

    async def send(self, message: Message) -> None:
        await self._ask("send", message=_to_node(message))

    async def send_batch(self, messages: Sequence[Message]) -> None:
        await self._ask("sendBatch", messages=[_to_node(message) for message in messages])

    async def send_output(self, output: str, message: Message) -> None:
        await self._ask("sendOutput", output=output, message=_to_node(message))

    async def close(self) -> None:
        await asyncio.gather(*self._answering)
        if self._made:
            await self._ask("close")
        self._process.forget(self._name)

    async def lost(self) -> None:
        await self._disconnected.wait()

    async def commands(self, ending: Ending = Ending.COMPLETE) -> Inbox[Message]:
        await self._ask("commands", ending=ending.value)
        return self._commands

    async def twin(self) -> Twin:
        twin: Twin = await self._ask("twin")
        return twin

    async def report(self, patch: Value) -> None:
        await self._ask("report", patch=patch)

    async def desired_patches(self) -> Inbox[dict[str, Value]]:
        await self._ask("desiredPatches")
        return self._patches

    async def answer_methods(self, names: Sequence[str], answer: Answer) -> None:
        self._answer = answer
        await self._ask("answerMethods", names=list(names))

    async def inputs(self) -> Inbox[tuple[str, Message]]:
        await self._ask("inputs")
        return self._inputs

    async def call(self, device_id: str, module_id: str, method: str, payload: Value) -> tuple[int, Value]:
        answer = await self._ask("call", device=device_id, module=module_id, name=method, payload=payload)
        return answer["status"], answer["payload"]

    async def upload(self, blob_name: str, content: bytes) -> None:
        await self._ask("upload", name=blob_name, body=base64.b64encode(content).decode())

    async def _ask(self, what: str, **fields: Any) -> Any:
        try:
            if not self._made:
                await self._make()
                self._made = True
            return await self._process.ask(self._access.ca_pem, self._name, what, **fields)
        except NodeFailure as failure:
            raise _translated(failure) from failure

    async def _make(self) -> None:
        await self._process.ask(
            self._access.ca_pem,
            self._name,
            "make",
            transport=self._transport,
            module=bool(self._access.module_id),
            connectionString=_connection_string(self._access),
            token=self._access.token,
            certificate=_certificate(self._access),
            tokenLifetimeS=self._access.token_lifetime_s,
            modelId=self._access.model_id,
            returns=self._access.returns,
            environment=dict(self._access.environment),
        )

    def _told(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "command", "message": message}:
                self._commands.put(_from_node(message))
            case {"event": "input", "input": name, "message": message}:
                self._inputs.put((name, _from_node(message)))
            case {"event": "patch", "patch": patch}:
                self._patches.put(patch)
            case {"event": "method", "request": request, "name": name}:
                assert self._answer is not None
                answered = self._answer(name, event.get("payload"))
                if answered is not None:
                    status, payload = answered
                    answering = asyncio.create_task(
                        self._ask("answer", request=request, status=status, payload=payload), name="node-sdk-method"
                    )
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
            case {"event": "disconnected"}:
                self._disconnected.set()
            case _:
                raise AssertionError(f"unexpected from the Node SDK: {event}")


async def _start(ca_pem: str) -> asyncio.subprocess.Process:
    with tempfile.NamedTemporaryFile("w", prefix="conformance-", suffix=".pem") as ca_file:
        ca_file.write(ca_pem)
        ca_file.flush()
        process = await asyncio.create_subprocess_exec(
            *("node", str(_FOLDER / "client.js")),
            env={**os.environ, "NODE_EXTRA_CA_CERTS": ca_file.name},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE_BYTES,
        )
        assert process.stdout is not None
        if not await process.stdout.readline():  # it has read the file
            raise RuntimeError(f"node ended with {await process.wait()}")
    return process


async def install_modules() -> None:
    wanted = (_FOLDER / "package-lock.json").read_bytes()
    installed = _FOLDER / "node_modules" / ".installed-lock.json"
    if installed.exists() and installed.read_bytes() == wanted:
        return
    process = await asyncio.create_subprocess_exec(
        *("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
        cwd=_FOLDER,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_INSTALL_WITHIN_S):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.terminate()
    if process.returncode:
        if any(code in output for code in _NO_NETWORK):
            pytest.skip("npm cannot reach its registry, so that the Node SDK is not installed")
        raise RuntimeError(f"npm ci failed:\n{output}")
    installed.write_bytes(wanted)


def _translated(failure: NodeFailure) -> Exception:
    match failure.name:
        case "UnauthorizedError":
            return NotAuthorised(str(failure))
        case "NotConnectedError" | "TimeoutError":
            return Lost(str(failure))
        case _:
            return Refused(str(failure))


def _connection_string(access: Access) -> str:
    parts = {"HostName": access.hub_name, "DeviceId": access.device_id}
    if access.module_id:
        parts["ModuleId"] = access.module_id
    if access.certificate is None:
        parts["SharedAccessKey"] = access.key
    else:
        parts["x509"] = "true"
    if access.address != access.hub_name:
        parts["GatewayHostName"] = access.address
    return ";".join(f"{name}={value}" for name, value in parts.items())


def _certificate(told: Access | Enrolment) -> Mapping[str, str] | None:
    if told.certificate is None:
        return None
    return {"cert": told.certificate.chain_pem, "key": told.certificate.key_pem}


def _to_node(message: Message) -> dict[str, Any]:
    return {
        "body": base64.b64encode(message.body).decode(),
        "properties": dict(message.properties),
        "system": {_SYSTEM[name]: value for name, value in message.system.items()},
    }


def _from_node(told: Mapping[str, Any]) -> Message:
    # Over HTTPS the SDK leaves the header's name before the property's.
    properties = {name.removeprefix(_HEADER): value for name, value in told["properties"].items()}
    system = {name: told["system"][field] for name, field in _SYSTEM.items() if field in told["system"]}
    return Message(base64.b64decode(told["body"]), properties, system)
