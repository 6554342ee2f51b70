"""Clients that know nothing of IoT Hub, over any MQTT library (`mqtt_links.py`).

Topics, user names and tokens are made by hand, as the documentation has them. Nothing of the product is used, not even
its tokens and property bags: one mistake made twice would agree with itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote, unquote

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
    Message,
    Refused,
    Registration,
    Twin,
)

Arrived: TypeAlias = Callable[[str, bytes], None]
"""Called in the event loop's thread with the topic and the payload of each message."""

_OF_SDKS = {
    Feature.RENEWAL,
    Feature.RETURN,
    Feature.SETTLING,
    Feature.BATCH,
    Feature.UPLOAD,
    Feature.PATIENCE,
    Feature.EDGE,
}
_WIRE_NAMES = {
    "message-id": "$.mid",
    "correlation-id": "$.cid",
    "user-id": "$.uid",
    "content-type": "$.ct",
    "content-encoding": "$.ce",
    "output-name": "$.on",
}
_LONG_NAMES = {wire: name for name, wire in _WIRE_NAMES.items()}
COMMANDS = "/messages/devicebound/"
"""Below the device's own topics."""
DESIRED_PATCHES = "$iothub/twin/PATCH/properties/desired/"

_TWIN_RESPONSES = "$iothub/twin/res/"
_METHODS = "$iothub/methods/POST/"
_REGISTRATIONS = "$dps/registrations/"
_RETRY_AFTER_S = 2
"""Where the provisioning service does not say."""


@dataclass(frozen=True, slots=True)
class Login:
    """What an MQTT library is told."""

    address: str
    client_id: str
    user_name: str
    password: str | None = field(repr=False)
    """None for a client with a certificate."""
    certificate: ClientCertificate | None
    ca_pem: str
    clean_session: bool = True


class Link(Protocol):
    """An MQTT connection, by some library."""

    async def open(self) -> None:
        """Connect. Raises `NotAuthorised`, `Lost`."""
        ...

    async def publish(self, topic: str, payload: bytes) -> None:
        """Publish, QoS 1; returns when it is confirmed. Raises `Lost`."""
        ...

    async def subscribe(self, topic_filter: str) -> None:
        """Subscribe, QoS 1; returns when it is confirmed. Raises `Refused`."""
        ...

    async def lost(self) -> None:
        """Wait until the library has noticed that the connection is gone."""
        ...

    async def close(self) -> None:
        """Disconnect; nothing happens if it never was, or is not any more."""
        ...


class TopicKind:
    """IoT Hub's topics over one library and transport."""

    def __init__(self, name: str, link: Callable[[Login, Arrived], Link]) -> None:
        self.name = name
        self.features = frozenset(Feature) - _OF_SDKS
        self._link = link

    def missing(self) -> str:
        return ""

    @property
    def soon_renewed_s(self) -> int:
        raise NotImplementedError

    async def install(self) -> None:
        pass

    async def client(self, access: Access) -> TopicClient:
        return TopicClient(access, self._link)

    async def register(self, enrolment: Enrolment) -> Registration:
        resource = f"{enrolment.id_scope}/registrations/{enrolment.registration_id}"
        login = Login(
            enrolment.address,
            client_id=enrolment.registration_id,
            user_name=f"{resource}/api-version=2019-03-31",
            password=None if enrolment.certificate is not None else token(resource, enrolment.key, 3600),
            certificate=enrolment.certificate,
            ca_pem=enrolment.ca_pem,
        )
        answers: asyncio.Queue[tuple[int, dict[str, str], Any]] = asyncio.Queue()

        def arrived(topic: str, payload: bytes) -> None:
            answers.put_nowait((int(topic.split("/")[3]), parameters_of(topic), json.loads(payload)))

        link = self._link(login, arrived)
        await link.open()
        try:
            await link.subscribe(f"{_REGISTRATIONS}res/#")
            body: dict[str, Value] = {"registrationId": enrolment.registration_id}
            if enrolment.payload is not None:
                body["payload"] = enrolment.payload
            await link.publish(f"{_REGISTRATIONS}PUT/iotdps-register/?$rid=1", json.dumps(body).encode())
            status, parameters, answer = await answers.get()
            while status == 202:
                await asyncio.sleep(int(parameters.get("retry-after", _RETRY_AFTER_S)))
                query = f"$rid=1&operationId={answer['operationId']}"
                await link.publish(f"{_REGISTRATIONS}GET/iotdps-get-operationstatus/?{query}", b"")
                status, parameters, answer = await answers.get()
        finally:
            await link.close()
        if status >= 300 or answer["status"] != "assigned":
            raise Refused(f"registration answered with {status}: {answer}")
        state = answer["registrationState"]
        return Registration(state["assignedHub"], state["deviceId"], state.get("payload"))


class TopicClient(Client):
    """A device or module."""

    def __init__(self, access: Access, link: Callable[[Login, Arrived], Link]) -> None:
        self._own = topics_of(access)
        self._keeps_session = access.keeps_session
        self._connected = False
        self._request_ids = itertools.count(1)
        self._twin_responses: dict[str, asyncio.Future[tuple[int, bytes]]] = {}
        self._twin_subscribed = False
        self._commands: Inbox[Message] | None = None
        self._desired: Inbox[dict[str, Value]] | None = None
        self._inputs: Inbox[tuple[str, Message]] | None = None
        self._answer: Answer | None = None
        self._responses: set[asyncio.Task[None]] = set()
        self._link = link(login(access), self._arrived)

    async def connect(self) -> None:
        await self._link.open()
        self._connected = True
        if self._commands is not None and not self._keeps_session:
            await self._subscribe_to_commands()

    async def send(self, message: Message) -> None:
        bag = format_bag(message.properties, message.system)
        await self._link.publish(f"{self._own}/messages/events/{bag}", message.body)

    async def send_output(self, output: str, message: Message) -> None:
        bag = format_bag(message.properties, {**message.system, "output-name": output})
        await self._link.publish(f"{self._own}/messages/events/{bag}", message.body)

    async def close(self) -> None:
        await asyncio.gather(*self._responses)
        await self._link.close()

    async def lost(self) -> None:
        await self._link.lost()

    async def commands(self, ending: Ending = Ending.COMPLETE) -> Inbox[Message]:
        self._commands = Inbox()
        if self._connected:
            await self._subscribe_to_commands()
        return self._commands

    async def twin(self) -> Twin:
        twin: Twin = json.loads(await self._ask_twin("GET/", b""))
        return twin

    async def report(self, patch: Value) -> None:
        await self._ask_twin("PATCH/properties/reported/", json.dumps(patch).encode())

    async def desired_patches(self) -> Inbox[dict[str, Value]]:
        self._desired = Inbox()
        await self._link.subscribe(f"{DESIRED_PATCHES}#")
        return self._desired

    async def answer_methods(self, names: Sequence[str], answer: Answer) -> None:
        self._answer = answer
        await self._link.subscribe(f"{_METHODS}#")

    async def inputs(self) -> Inbox[tuple[str, Message]]:
        self._inputs = Inbox()
        await self._link.subscribe(f"{self._own}/inputs/#")
        return self._inputs

    def _arrived(self, topic: str, payload: bytes) -> None:
        path = topic.partition("?")[0]
        parameters = parameters_of(topic)
        if path.startswith(f"{self._own}{COMMANDS}") and self._commands is not None:
            self._commands.put(read_message(topic.rpartition("/")[2], payload))
        elif path.startswith(f"{self._own}/inputs/") and self._inputs is not None:
            name, _, bag = topic.removeprefix(f"{self._own}/inputs/").partition("/")
            self._inputs.put((unquote(name), read_message(bag, payload)))
        elif path.startswith(_TWIN_RESPONSES):
            status = int(path.removeprefix(_TWIN_RESPONSES).rstrip("/"))
            self._twin_responses.pop(parameters["$rid"]).set_result((status, payload))
        elif path.startswith(DESIRED_PATCHES) and self._desired is not None:
            self._desired.put(read_patch(parameters, payload))
        elif path.startswith(_METHODS) and self._answer is not None:
            name = unquote(path.removeprefix(_METHODS).rstrip("/"))
            answered = self._answer(name, json.loads(payload) if payload else None)
            if answered is not None:
                self._respond(parameters["$rid"], *answered)
        else:
            raise AssertionError(f"nobody asked for {topic}")

    async def _subscribe_to_commands(self) -> None:
        await self._link.subscribe(f"{self._own}{COMMANDS}#")

    def _respond(self, request_id: str, status: int, payload: Value) -> None:
        topic = f"$iothub/methods/res/{status}/?$rid={request_id}"
        sending = asyncio.create_task(self._link.publish(topic, json.dumps(payload).encode()), name="by-hand-method")
        self._responses.add(sending)
        sending.add_done_callback(self._responses.discard)

    async def _ask_twin(self, what: str, payload: bytes) -> bytes:
        if not self._twin_subscribed:
            await self._link.subscribe(f"{_TWIN_RESPONSES}#")
            self._twin_subscribed = True
        request_id = str(next(self._request_ids))
        response: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._twin_responses[request_id] = response
        await self._link.publish(f"$iothub/twin/{what}?$rid={request_id}", payload)
        status, document = await response
        if status >= 300:
            raise Refused(f"twin request answered with {status}: {document.decode()}")
        return document


def login(access: Access) -> Login:
    """How a device or module logs in."""
    return Login(
        access.address,
        client_id="/".join(filter(None, (access.device_id, access.module_id))),
        user_name="/".join(filter(None, (access.hub_name, access.device_id, access.module_id, _query(access)))),
        password=_password(access),
        certificate=access.certificate,
        ca_pem=access.ca_pem,
        clean_session=not access.keeps_session,
    )


def _query(access: Access) -> str:
    model = f"&model-id={quote(access.model_id, safe='')}" if access.model_id else ""
    return f"?api-version=2021-04-12{model}"


def _password(access: Access) -> str | None:
    if access.certificate is not None:
        return None
    return access.token or token(f"{access.hub_name}/{topics_of(access)}", access.key, access.token_lifetime_s)


def token(resource: str, key: str, lifetime_s: float) -> str:
    """A shared access signature; it ends at a full second."""
    resource, end = quote(resource, safe=""), int(time.time() + lifetime_s)
    signature = hmac.digest(base64.b64decode(key), f"{resource}\n{end}".encode(), hashlib.sha256)
    return f"SharedAccessSignature sig={quote(base64.b64encode(signature), safe='')}&se={end}&sr={resource}"


def topics_of(access: Access) -> str:
    """Where the device's or module's own topics begin."""
    module = f"/modules/{access.module_id}" if access.module_id else ""
    return f"devices/{access.device_id}{module}"


def format_bag(properties: Mapping[str, str | None], system: Mapping[str, str]) -> str:
    """Properties for the end of a topic."""
    named = {_WIRE_NAMES[name]: value for name, value in system.items()} | dict(properties)
    return "&".join(
        quote(name, safe="") if value is None else f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in named.items()
    )


def read_message(bag: str, body: bytes) -> Message:
    """A message by the end of its topic and its payload."""
    properties: dict[str, str | None] = {}
    system: dict[str, str] = {}
    for part in filter(None, bag.split("&")):
        name, equals, value = map(unquote, part.partition("="))
        if name in _LONG_NAMES:
            system[_LONG_NAMES[name]] = value
        elif not name.startswith("$."):
            properties[name] = value if equals else None
    return Message(body, properties, system)


def read_patch(parameters: Mapping[str, str], payload: bytes) -> dict[str, Value]:
    """A change of the desired properties, whose version stands in topic and payload."""
    patch: dict[str, Value] = json.loads(payload)
    assert patch["$version"] == int(parameters["$version"]), "topic and payload differ"
    return patch


def parameters_of(topic: str) -> dict[str, str]:
    """What stands behind a topic's question mark."""
    return dict(part.partition("=")[::2] for part in topic.partition("?")[2].split("&"))
