"""An IoT Hub on the own machine, for devices with symmetric keys: MQTT 3.1.1 over TLS as IoT Hub speaks it.

Unmodified clients connect to it: the device SDK, any MQTT client that follows the documented topics, the gateway. It
keeps to the hub's rules where a gateway could stumble over them: who may connect and until when, one connection a
device, keep-alive, sizes, topics. What breaks MQTT or these rules is disconnected without a reason, as at IoT Hub.

- Device to cloud: each message goes to `on_message` and into `messages`, then it is confirmed.
- Cloud to device: `send_c2d` queues; a message is done when the device has confirmed it; a reconnect sends it again.
- Twin: GET, reported patches, desired patches. Direct methods: `invoke_method`.
- Faults, switched while it runs: `refuse`, `freeze`, `drop_connections`, `withhold_pubacks`, `duplicate_pubacks`.
- Tests wait for what they expect with `until`, never by sleeping.

State lives in memory and in one event loop; nothing here is thread-safe. The device SDK blocks the thread that sets
one of its handlers (`on_message_received` and the like) until the hub has answered: where client and hub share an event
loop, set them from another thread, with `asyncio.to_thread(setattr, client, ...)`.

```python
authority = LocalAuthority()
async with LocalHub(authority=authority, address=free_loopback_address(rng)) as hub:
    device = hub.add_device("sensor-1")
    ...  # a client that trusts authority.ca_pem connects to hub.host_name with device.primary_key
    await hub.until(lambda: hub.statistics.messages == 1)
```
"""

from __future__ import annotations

import asyncio
import base64
import enum
import random
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import parse_qs

import orjson
import structlog

from edge_gateway.clock import NS_PER_S, Clock, SystemClock, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.certificates import LocalAuthority, ServerCertificate
from edge_gateway.testbench.cloud.identity import AccessDenied, DeviceIdentity, check_token, sas_token
from edge_gateway.testbench.cloud.mqtt_packets import (
    Connack,
    Connect,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketReader,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edge_gateway.testbench.cloud.property_bag import format_property_bag, parse_property_bag
from edge_gateway.testbench.cloud.twin import Twin, TwinRefused
from edge_gateway.testbench.listener import Listener
from edge_gateway.testbench.receiver import ReceivedMessage

_log = structlog.get_logger()

MQTT_PORT = 8883
MAX_D2C_BYTES = 256 * 1024
"""Body, names and values of properties together."""
MAX_C2D_BYTES = 64 * 1024
MAX_C2D_QUEUED = 50
MAX_METHOD_PAYLOAD_BYTES = 128 * 1024
_MAX_PACKET_BYTES = MAX_D2C_BYTES + 65_535 + 16
"""A message of the largest size under the longest topic MQTT has."""
_CONNECT_WITHIN_S = 30.0
_TLS_WITHIN_S = 10.0
_CLOSE_WITHIN_S = 1.0
"""For the peer's part of a TLS close; one that is silent is cut off."""
_KEEP_ALIVE_FACTOR = 1.5
_MAX_SILENCE_S = 1767.0
_NOT_AUTHORISED = 5

_TWIN_RESPONSES = "$iothub/twin/res/#"
_DESIRED_PATCHES = "$iothub/twin/PATCH/properties/desired/#"
_METHODS = "$iothub/methods/POST/#"
_TWIN_GET = "$iothub/twin/GET/?$rid="
_REPORTED_PATCH = "$iothub/twin/PATCH/properties/reported/?$rid="
_METHOD_RESPONSE = re.compile(r"\$iothub/methods/res/(-?\d{1,9})/\?\$rid=([^&]+)")


class DeviceNotOnline(BenchError):
    """A direct method's device is not connected, has not subscribed to methods, or left before it answered."""


class MethodTimedOut(BenchError):
    """A direct method's device did not answer in time."""


class MethodResponse(NamedTuple):
    """A device's answer to a direct method."""

    status: int
    payload: Value


class DeliveryState(enum.Enum):
    """Where a cloud-to-device message is."""

    QUEUED = "queued"
    """Waits for the device to connect and subscribe."""
    SENT = "sent"
    """Is with the device, which has not confirmed it."""
    COMPLETED = "completed"
    """The device has confirmed it."""


class CloudMessage:
    """A cloud-to-device message and its way to the device."""

    def __init__(self, packet_id: int, topic: str, body: bytes) -> None:
        self._publish = Publish(topic, body, 1, packet_id)
        self._completed = asyncio.get_running_loop().create_future()
        self.state = DeliveryState.QUEUED
        self.attempts = 0
        """How often it was sent."""

    async def completed(self) -> None:
        """Wait until the device has confirmed the message."""
        await asyncio.shield(self._completed)

    def _packet(self, qos: int) -> Publish:
        self.state = DeliveryState.SENT
        self.attempts += 1
        if not qos:
            return self._publish._replace(qos=0, packet_id=0)
        return self._publish._replace(dup=self.attempts > 1)

    def _complete(self) -> None:
        self.state = DeliveryState.COMPLETED
        self._completed.set_result(None)


@dataclass(slots=True)
class HubStatistics:
    """What the hub saw since it was made. Only ever grows."""

    connections: int = 0
    """CONNECTs accepted."""
    denied: int = 0
    """CONNECTs answered with "not authorised"."""
    taken_over: int = 0
    """Connections dropped because their device connected again."""
    violations: int = 0
    """Connections closed because the client broke MQTT or the hub's rules."""
    messages: int = 0
    """Device-to-cloud messages, repeats included."""


class _Device:
    """What the hub knows about one device, connected or not."""

    def __init__(self, identity: DeviceIdentity) -> None:
        self.identity = identity
        self.twin = Twin()
        self.connection: _Connection | None = None
        self.session_kept = False
        self.kept_c2d_qos: int | None = None
        """QoS of the cloud-to-device subscription that a session without CleanSession keeps over connections."""
        self.c2d: deque[CloudMessage] = deque()
        """Not yet completed, oldest first."""
        self._packet_ids = 0

    def next_packet_id(self) -> int:
        """At most `MAX_C2D_QUEUED` are in use at a time, so that going round never meets one that is."""
        self._packet_ids = self._packet_ids % 0xFFFF + 1
        return self._packet_ids


class LocalHub:
    """An IoT Hub for tests and demonstrations. Use it as an async context manager.

    Args:
        authority: signs the hub's certificate, for `host_name` and `address`.
        address: the IPv4 address to listen on; see `free_loopback_address`.
        port: 8883 is the only one the device SDK connects to; 0 takes a free one.
        host_name: the hub's name in user names and tokens; `address` if None, because clients that do not resolve names
            connect to the address by that name.
        certificate: shown to clients in place of one that is in order, to test that they refuse it.
        clock: wall time, by which tokens end.
        rng: makes the keys of devices that are added without.
        on_message: called with each device-to-cloud message before it is confirmed. It must not raise.
        keep_messages: how many of the newest messages `messages` holds; None holds all.

    Raises:
        BenchError: on entering, the address cannot be used.
    """

    def __init__(
        self,
        *,
        authority: LocalAuthority,
        address: str = "127.0.0.1",
        port: int = MQTT_PORT,
        host_name: str | None = None,
        certificate: ServerCertificate | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_message: Callable[[ReceivedMessage], None] | None = None,
        keep_messages: int | None = None,
    ) -> None:
        self.host_name = host_name if host_name is not None else address
        self.statistics = HubStatistics()
        self.messages: deque[ReceivedMessage] = deque(maxlen=keep_messages)
        """Device-to-cloud messages, oldest first, repeats included."""
        if certificate is None:
            certificate = authority.server_certificate(dict.fromkeys((self.host_name, address)))
        self._tls = certificate.context()
        self._listener = Listener(address, port, self._arrive)
        self._clock = clock if clock is not None else SystemClock()
        self._rng = rng if rng is not None else random.SystemRandom()
        self._on_message = on_message
        self._devices: dict[str, _Device] = {}
        self._connections: set[_Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._waiters: list[asyncio.Future[None]] = []
        self._requests = 0
        self._puback_copies = 1
        self._pubacks_withheld = False

    async def __aenter__(self) -> Self:
        self._listener.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        handshakes = list(self._handshakes)
        for handshake in handshakes:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        for connection in list(self._connections):
            connection.drop("hub closed")
        await self.until(lambda: not self._connections)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._listener.address

    @property
    def port(self) -> int:
        """Where it listens; known after entering if a free one was asked for."""
        return self._listener.port

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the hub holds; it is judged again at each change. The caller sets a time limit."""
        while not condition():
            change = asyncio.get_running_loop().create_future()
            self._waiters.append(change)
            await change

    # Identity registry

    def add_device(
        self, device_id: str, primary_key: str | None = None, secondary_key: str | None = None
    ) -> DeviceIdentity:
        """Register a device; keys are base64, drawn if not given.

        Raises:
            BenchError: the id is taken or not valid, or a key is not.
        """
        if device_id in self._devices:
            raise BenchError("the device exists already", where=device_id, remedy="Remove it first")
        identity = DeviceIdentity(
            device_id,
            primary_key if primary_key is not None else self._new_key(),
            secondary_key if secondary_key is not None else self._new_key(),
            generation_id=str(self._clock.now_ns()),
        )
        self._devices[device_id] = _Device(identity)
        return identity

    def remove_device(self, device_id: str) -> None:
        """Forget a device, with its twin and queue, and drop its connection."""
        device = self._device(device_id)
        del self._devices[device_id]
        if device.connection is not None:
            device.connection.drop("removed")

    def set_enabled(self, device_id: str, enabled: bool) -> None:
        """Let a device connect, or drop its connection and turn it away."""
        device = self._device(device_id)
        device.identity = replace(device.identity, enabled=enabled)
        if not enabled and device.connection is not None:
            device.connection.drop("disabled")

    @property
    def device_ids(self) -> list[str]:
        """All registered devices, in the order they were added."""
        return list(self._devices)

    def identity(self, device_id: str) -> DeviceIdentity:
        """A device's registry entry."""
        return self._device(device_id).identity

    def connection_string(self, device_id: str) -> str:
        """What a device SDK is configured with. Contains the device's primary key."""
        identity = self.identity(device_id)
        return f"HostName={self.host_name};DeviceId={device_id};SharedAccessKey={identity.primary_key}"

    def sas_token(self, device_id: str, lifetime_s: float = 3600) -> str:
        """A token as the device itself would make it, for clients that cannot sign."""
        expires_s = int(self._clock.now_ns() / NS_PER_S + lifetime_s)
        return sas_token(f"{self.host_name}/devices/{device_id}", self.identity(device_id).primary_key, expires_s)

    def is_connected(self, device_id: str) -> bool:
        """Whether the device has a connection now."""
        return self._device(device_id).connection is not None

    # Service side

    def send_c2d(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None] | None = None,
        *,
        message_id: str | None = None,
    ) -> CloudMessage:
        """Send a cloud-to-device message now or as soon as the device listens.

        Raises:
            BenchError: no such device, its queue is full, or the message is too large.
        """
        device = self._device(device_id)
        properties = properties if properties is not None else {}
        size_bytes = len(body) + _properties_bytes(properties.items())
        if size_bytes > MAX_C2D_BYTES:
            raise BenchError(f"{size_bytes} bytes to a device", where=device_id, remedy=f"Send at most {MAX_C2D_BYTES}")
        if len(device.c2d) >= MAX_C2D_QUEUED:
            raise BenchError(
                f"{MAX_C2D_QUEUED} messages wait for the device already",
                where=device_id,
                remedy="Let the device confirm some",
            )
        system = {"to": f"/devices/{device_id}/messages/devicebound"}
        if message_id is not None:
            system["message-id"] = message_id
        topic = f"devices/{device_id}/messages/devicebound/{format_property_bag(properties, system)}"
        message = CloudMessage(device.next_packet_id(), topic, body)
        device.c2d.append(message)
        if device.connection is not None:
            device.connection.send_queued_c2d()
            device.connection.flush()
        return message

    def twin(self, device_id: str) -> Twin:
        """A device's twin, to read. Change desired properties with `patch_desired`."""
        return self._device(device_id).twin

    def patch_desired(self, device_id: str, patch: Mapping[str, Value]) -> int:
        """Change desired properties, tell the device if it listens, and return their new version.

        Raises:
            TwinRefused: the patch breaks a limit; nothing was changed.
        """
        device = self._device(device_id)
        version = device.twin.patch_desired(patch)
        if device.connection is not None:
            topic = f"$iothub/twin/PATCH/properties/desired/?$version={version}"
            body = orjson.dumps({**patch, "$version": version})
            device.connection.publish(_DESIRED_PATCHES, topic, body)
            device.connection.flush()
        self._changed()
        return version

    async def invoke_method(
        self,
        device_id: str,
        name: str,
        payload: Value = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResponse:
        """Call a direct method and wait for the device's answer.

        Args:
            device_id: whose method.
            name: the method.
            payload: JSON for the method.
            timeout_s: how long the device may take to answer.
            connect_timeout_s: how long to wait for a device that is not connected.

        Raises:
            DeviceNotOnline: the device is not listening, or left without an answer.
            MethodTimedOut: it did not answer in time.
            BenchError: no such device, or the payload is too large.
        """
        device = self._device(device_id)
        body = orjson.dumps(payload)
        if len(body) > MAX_METHOD_PAYLOAD_BYTES:
            raise BenchError(
                f"{len(body)} bytes of method payload",
                where=device_id,
                remedy=f"Send at most {MAX_METHOD_PAYLOAD_BYTES}",
            )

        def listens() -> bool:
            return device.connection is not None and device.connection.listens_to(_METHODS)

        try:
            async with asyncio.timeout(connect_timeout_s):
                await self.until(listens)
        except TimeoutError:
            raise DeviceNotOnline(
                "the device does not listen to methods", where=device_id, remedy="Connect and subscribe it"
            ) from None
        # `listens` has just said that there is one, in this very step of the event loop.
        connection = cast("_Connection", device.connection)
        answer = connection.request_method(self._next_request_id(), name, body)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise MethodTimedOut(
                f"no answer to {name} within {timeout_s} s", where=device_id, remedy="Allow for more time"
            ) from None

    # Faults

    def refuse(self, on: bool) -> None:
        """Refuse new TCP connections. Those there are stay; see `drop_connections`."""
        if on:
            self._listener.close()
        else:
            self._listener.open()

    def drop_connections(self, device_id: str | None = None) -> None:
        """Cut the connection of one device, or all, without a word."""
        for connection in list(self._connections):
            if device_id is None or connection.device_id == device_id:
                connection.drop("fault injected")

    def freeze(self, on: bool) -> None:
        """Read nothing and answer nothing on all connections, new ones included, until switched off again.

        Nothing times out on the hub's side in between. What it has to say waits, and is said afterwards.
        """
        if on:
            self._thawed.clear()
        else:
            self._thawed.set()
        for connection in self._connections:
            connection.freeze(on)

    def withhold_pubacks(self, on: bool) -> None:
        """Take messages in and do not confirm them; switched off, those still connected get their confirmations."""
        self._pubacks_withheld = on
        if not on:
            for connection in self._connections:
                connection.release_pubacks()

    def duplicate_pubacks(self, on: bool) -> None:
        """Confirm each message twice."""
        self._puback_copies = 2 if on else 1

    # What connections need

    @property
    def _frozen(self) -> bool:
        return not self._thawed.is_set()

    def _arrive(self, accepted: socket.socket) -> None:
        handshake = asyncio.create_task(self._shake_hands(accepted), name=f"testbench-hub-tls-{self.address}")
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            await self._thawed.wait()
        except asyncio.CancelledError:
            accepted.close()
            raise
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Connection(self, self._clock),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=_TLS_WITHIN_S,
                ssl_shutdown_timeout=_CLOSE_WITHIN_S,
            )
        except OSError as error:  # TLS errors are OSErrors, too; the client sees its own side of it
            _log.info("testbench.hub.tls_failed", cause=str(error))

    def _admit(self, packet: Connect) -> tuple[_Device, int]:
        """Decide whether a client may connect; return its device and the Unix second its token ends at.

        Raises:
            AccessDenied: it may not.
        """
        # Today's `{hub}/{device}/?api-version=...`, and the older form without the question mark.
        host_name, _, rest = (packet.username or "").partition("/")
        device_id, _, query = rest.partition("/")
        if host_name.lower() != self.host_name.lower() or device_id != packet.client_id:
            raise AccessDenied("the user name is not for this hub and client id", where=packet.client_id)
        if "api-version" not in parse_qs(query.removeprefix("?")):
            raise AccessDenied("the user name has no api-version", where=device_id)
        device = self._devices.get(device_id)
        if device is None:
            raise AccessDenied("no such device", where=device_id)
        if not device.identity.enabled:
            raise AccessDenied("the device is disabled", where=device_id)
        if packet.password is None:
            raise AccessDenied("no password", where=device_id)
        token = packet.password.decode(errors="replace")
        return device, check_token(token, device.identity, self.host_name, self._clock.now_ns() / NS_PER_S)

    def _receive(self, message: ReceivedMessage) -> None:
        self.statistics.messages += 1
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)

    def _changed(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _device(self, device_id: str) -> _Device:
        try:
            return self._devices[device_id]
        except KeyError:
            raise BenchError("no such device", where=device_id, remedy="Add it to the hub") from None

    def _next_request_id(self) -> str:
        self._requests += 1
        return f"{self._requests:x}"

    def _new_key(self) -> str:
        return base64.b64encode(self._rng.randbytes(32)).decode()


class _RuleBroken(Exception):
    """A client did what the hub does not allow; its connection is closed."""


class _Connection(asyncio.Protocol):
    """One client, from TLS handshake to end.

    Replies are gathered while a batch of bytes is worked through and written at once: a TLS record and a system call
    for each of them would cost more than all the rest.
    """

    def __init__(self, hub: LocalHub, clock: Clock) -> None:
        self._hub = hub
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(_MAX_PACKET_BYTES)
        self._outgoing: list[bytes] = []
        self._withheld: list[bytes] = []
        self._device: _Device | None = None
        self._over = False
        self._heard_s = self._loop.time()
        self._silence_s = _CONNECT_WITHIN_S
        self._token_ends_s: float | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._backed_up = False
        self._clean = True
        self._will: ReceivedMessage | None = None
        """What is received if the client goes without DISCONNECT."""
        self._subscriptions: dict[str, int] = {}
        self._c2d_unconfirmed: dict[int, CloudMessage] = {}
        self._method_calls: dict[str, asyncio.Future[MethodResponse]] = {}
        self._events = self._devicebound = ""
        self._stamps: dict[str, str] = {}

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP is a stream
        self._hub._connections.add(self)
        self.freeze(self._hub._frozen)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it with this name
        self._end()
        self._hub._connections.discard(self)
        self._hub._changed()

    def pause_writing(self) -> None:
        self._backed_up = True
        self._steer_reading()

    def resume_writing(self) -> None:
        self._backed_up = False
        self._steer_reading()

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        broken: Exception | None = None
        try:
            packets = self._reader.feed(data)
        except MalformedPacket as error:
            packets, broken = list(error.packets), error
        try:
            for packet in packets:
                if self._over:
                    return
                self._handle(packet)
        except _RuleBroken as error:
            broken = error
        self.flush()
        if broken is not None and not self._over:
            self._hub.statistics.violations += 1
            self.drop(f"violation: {broken.args[0]}")
        self._hub._changed()

    # What the hub asks for

    @property
    def device_id(self) -> str:
        """Whose connection it is; empty before CONNECT."""
        return self._device.identity.device_id if self._device is not None else ""

    def listens_to(self, topic_filter: str) -> bool:
        """Whether the client has subscribed."""
        return topic_filter in self._subscriptions

    def publish(self, topic_filter: str, topic: str, payload: bytes) -> None:
        """Send to a subscriber, at most once; nothing happens if it is none."""
        if topic_filter in self._subscriptions:
            self._outgoing.append(Publish(topic, payload).encode())

    def send_queued_c2d(self) -> None:
        """Send what waits for the device if it listens."""
        qos = self._subscriptions.get(self._devicebound)
        if qos is None or self._device is None:
            return
        for message in [queued for queued in self._device.c2d if queued.state is DeliveryState.QUEUED]:
            packet = message._packet(qos)
            self._outgoing.append(packet.encode())
            if qos:
                self._c2d_unconfirmed[packet.packet_id] = message
            else:
                self._complete_c2d(message)

    def request_method(self, request_id: str, name: str, body: bytes) -> asyncio.Future[MethodResponse]:
        """Call a direct method; the future has the answer, or DeviceNotOnline."""
        answer = self._method_calls[request_id] = self._loop.create_future()
        answer.add_done_callback(lambda _: self._method_calls.pop(request_id, None))
        self.publish(_METHODS, f"$iothub/methods/POST/{name}/?$rid={request_id}", body)
        self.flush()
        return answer

    def release_pubacks(self) -> None:
        """Send the confirmations that were withheld."""
        self._outgoing += self._withheld
        self._withheld.clear()
        self.flush()

    def freeze(self, on: bool) -> None:
        """Stop or go on reading, writing and watching the time."""
        self._steer_reading()
        if self._watching is not None:
            self._watching.cancel()
        if not on and not self._over:
            self._heard_s = self._loop.time()
            self.flush()
            self._watch()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._outgoing and not self._over and not self._hub._frozen:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    def drop(self, reason: str) -> None:
        """Cut the connection without a word to the client."""
        if not self._over:
            _log.info("testbench.hub.dropped", device=self.device_id, reason=reason)
        self._end()
        self._transport.abort()

    # Packets

    def _handle(self, packet: Packet) -> None:
        if self._device is None:
            if not isinstance(packet, Connect):
                raise _RuleBroken("the first packet is not CONNECT")
            self._connect(packet)
            return
        match packet:
            case Publish():
                self._published(self._device, packet)
            case Puback():
                message = self._c2d_unconfirmed.pop(packet.packet_id, None)
                if message is not None:
                    self._complete_c2d(message)
            case Subscribe():
                self._subscribe(self._device, packet)
            case Unsubscribe():
                for topic_filter in packet.topic_filters:
                    self._subscriptions.pop(topic_filter, None)
                self._keep_session(self._device)
                self._outgoing.append(Unsuback(packet.packet_id).encode())
            case Pingreq():
                self._outgoing.append(Pingresp().encode())
            case Disconnect():
                self._will = None
                self._close()
            case _:
                raise _RuleBroken(f"{type(packet).__name__} from a client")

    def _connect(self, packet: Connect) -> None:
        try:
            device, self._token_ends_s = self._hub._admit(packet)
        except AccessDenied as error:
            _log.info("testbench.hub.denied", client_id=packet.client_id, reason=error.what)
            self._hub.statistics.denied += 1
            self._outgoing.append(Connack(_NOT_AUTHORISED).encode())
            self._close()
            return
        device_id = device.identity.device_id
        self._events = f"devices/{device_id}/messages/events/"
        self._devicebound = f"devices/{device_id}/messages/devicebound/#"
        self._stamps = {
            "iothub-connection-device-id": device_id,
            "iothub-connection-auth-generation-id": device.identity.generation_id,
            "iothub-connection-auth-method": '{"scope":"device","type":"sas","issuer":"iothub"}',
        }
        if (will := packet.will) is not None:
            if not will.topic.startswith(self._events):
                raise _RuleBroken("will for another topic than the device's events")
            message = self._message(will.topic, will.payload, will.retain)
            self._will = message._replace(properties={**message.properties, "iothub-MessageType": "Will"})
        if device.connection is not None:
            self._hub.statistics.taken_over += 1
            device.connection.drop("connected again")
        self._clean = packet.clean_session
        session_present = device.session_kept and not self._clean
        device.session_kept = not self._clean
        if not session_present:
            device.kept_c2d_qos = None
        elif device.kept_c2d_qos is not None:
            self._subscriptions[self._devicebound] = device.kept_c2d_qos
        self._device, device.connection = device, self
        self._hub.statistics.connections += 1
        keep_alive_s = packet.keep_alive_s * _KEEP_ALIVE_FACTOR
        self._silence_s = min(keep_alive_s, _MAX_SILENCE_S) if keep_alive_s else _MAX_SILENCE_S
        self._watch()
        self._outgoing.append(Connack(0, session_present).encode())
        self.send_queued_c2d()
        _log.info("testbench.hub.connected", device=device_id, session_present=session_present)

    def _published(self, device: _Device, packet: Publish) -> None:
        topic = packet.topic
        if packet.qos > 1:
            raise _RuleBroken("QoS 2")
        if topic.startswith(self._events):
            self._hub._receive(self._message(topic, packet.payload, packet.retain))
            if packet.qos:
                self._confirm(packet.packet_id)
            return
        if packet.qos:
            self._outgoing.append(Puback(packet.packet_id).encode())
        if topic.startswith(_TWIN_GET):
            self._respond_twin(200, topic.removeprefix(_TWIN_GET), None, device.twin.document())
        elif topic.startswith(_REPORTED_PATCH):
            self._patch_reported(device, topic.removeprefix(_REPORTED_PATCH), packet.payload)
        elif (answer := _METHOD_RESPONSE.fullmatch(topic)) is not None:
            self._answer_method(answer[2], int(answer[1]), packet.payload)
        else:
            raise _RuleBroken(f"publish to {topic}")

    def _message(self, topic: str, payload: bytes, retain: bool) -> ReceivedMessage:
        try:
            properties, system = parse_property_bag(topic[len(self._events) :])
        except ValueError:
            raise _RuleBroken("property bag is not percent-encoded UTF-8") from None
        if retain:
            properties["mqtt-retain"] = "true"
        size_bytes = len(payload) + _properties_bytes(properties.items()) + _properties_bytes(system.items())
        if size_bytes > MAX_D2C_BYTES:
            raise _RuleBroken(f"message of {size_bytes} bytes")
        message_id = system.get("message-id")
        system.update(self._stamps)
        return ReceivedMessage(
            self._stamps["iothub-connection-device-id"],
            message_id,
            properties,
            system,
            payload,
            self._heard_s,
            self._clock.now_ns(),
        )

    def _confirm(self, packet_id: int) -> None:
        target = self._withheld if self._hub._pubacks_withheld else self._outgoing
        target += [Puback(packet_id).encode()] * self._hub._puback_copies

    def _subscribe(self, device: _Device, packet: Subscribe) -> None:
        allowed = (self._devicebound, _TWIN_RESPONSES, _DESIRED_PATCHES, _METHODS)
        granted: list[int | None] = []
        for topic_filter, qos in packet.subscriptions:
            if topic_filter in allowed:
                self._subscriptions[topic_filter] = min(qos, 1)
                granted.append(min(qos, 1))
            else:
                granted.append(None)
        self._keep_session(device)
        self._outgoing.append(Suback(packet.packet_id, tuple(granted)).encode())
        self.send_queued_c2d()

    def _keep_session(self, device: _Device) -> None:
        device.kept_c2d_qos = None if self._clean else self._subscriptions.get(self._devicebound)

    def _patch_reported(self, device: _Device, request_id: str, payload: bytes) -> None:
        try:
            version = device.twin.patch_reported(orjson.loads(payload))
        except (orjson.JSONDecodeError, TwinRefused) as error:
            failure = {
                "errorCode": 400,
                "trackingId": request_id,
                "message": str(error),
                "timestampUtc": rfc3339(self._clock.now_ns()),
            }
            self._respond_twin(400, request_id, None, failure)
        else:
            self._respond_twin(204, request_id, version, None)

    def _respond_twin(
        self, status: int, request_id: str, version: int | None, document: Mapping[str, Any] | None
    ) -> None:
        suffix = "" if version is None else f"&$version={version}"
        body = b"" if document is None else orjson.dumps(document)
        self.publish(_TWIN_RESPONSES, f"$iothub/twin/res/{status}/?$rid={request_id}{suffix}", body)

    def _answer_method(self, request_id: str, status: int, payload: bytes) -> None:
        answer = self._method_calls.get(request_id)
        if answer is None or answer.done():
            return  # late: the caller has given up
        try:
            answer.set_result(MethodResponse(status, orjson.loads(payload) if payload else None))
        except orjson.JSONDecodeError:
            raise _RuleBroken("method response is not JSON") from None

    def _complete_c2d(self, message: CloudMessage) -> None:
        if self._device is not None:
            self._device.c2d.remove(message)
        message._complete()

    # Time and end

    def _steer_reading(self) -> None:
        if self._hub._frozen or self._backed_up:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _watch(self) -> None:
        """End a client that was silent too long or whose token has ended; look again when that may be so."""
        if self._watching is not None:
            self._watching.cancel()
        look_s = self._heard_s + self._silence_s
        if look_s <= self._loop.time():
            self.drop("silent")
            return
        if self._token_ends_s is not None:
            left_s = self._token_ends_s - self._clock.now_ns() / NS_PER_S
            if left_s <= 0:
                self.drop("token ended")
                return
            look_s = min(look_s, self._loop.time() + left_s)
        self._watching = self._loop.call_at(look_s, self._watch)

    def _close(self) -> None:
        """Say what is to be said, then close in order."""
        self.flush()
        self._end()
        self._transport.close()

    def _end(self) -> None:
        """Leave the device as it is without this connection. May be called again."""
        if self._over:
            return
        self._over = True
        if self._watching is not None:
            self._watching.cancel()
        if self._device is not None and self._device.connection is self:
            self._device.connection = None
        for message in self._c2d_unconfirmed.values():
            message.state = DeliveryState.QUEUED
        for answer in list(self._method_calls.values()):
            if not answer.done():
                answer.set_exception(DeviceNotOnline("the device left without an answer", where=self.device_id))
        if self._will is not None and self._device is not None:
            now_s, now_ns = self._loop.time(), self._clock.now_ns()
            self._hub._receive(self._will._replace(received_s=now_s, enqueued_ns=now_ns))
        self._hub._changed()


def _properties_bytes(properties: Iterable[tuple[str, str | None]]) -> int:
    return sum(len(name) + len(value or "") for name, value in properties)
