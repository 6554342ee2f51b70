"""An IoT Hub on the own machine, that unmodified clients connect to.

It keeps to the hub's rules where a gateway could stumble over them: who may connect and until when, one connection a
device, keep-alive, sizes, topics, and, if it is given a tier, rates and the daily quota. What breaks MQTT or these
rules is disconnected without a reason, as at IoT Hub.

- Device to cloud: each message goes to `on_message` and into `messages`, then it is confirmed.
- Cloud to device: `send_c2d` queues; a message is done when the device has confirmed it; a reconnect sends it again.
- Twins: GET, reported patches, desired patches. Direct methods: `invoke_method`.
- Faults are the front door's, switched while it runs; the hub passes the usual ones on (`refuse`, `freeze`, ...).
- Tests wait for what they expect with `until`, never by sleeping.

By itself the hub opens a front door of its own. Several services share one: `FrontDoor([hub, dps], ...)`.

State lives in one event loop; nothing here is thread-safe. The device SDK blocks the thread that sets one of its
handlers (`on_message_received` and the like) until the hub has answered: where client and hub share an event loop, set
them from another thread, with `asyncio.to_thread(setattr, client, ...)`.

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
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, cast
from urllib.parse import parse_qs

import orjson
from cryptography import x509

from edge_gateway.clock import NS_PER_S, Clock, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.certificates import LocalAuthority, ServerCertificate
from edge_gateway.testbench.cloud.access import AccessControl
from edge_gateway.testbench.cloud.cloud_messages import (
    LIFETIME_NS,
    MAX_C2D_BYTES,
    Ack,
    CloudMessage,
    CloudQueue,
    Outcome,
)
from edge_gateway.testbench.cloud.front_door import MQTT_PORT, FrontDoor
from edge_gateway.testbench.cloud.hub_session import DeviceRecord, HubSession, MethodResponse
from edge_gateway.testbench.cloud.identity import (
    Authentication,
    Identity,
    IdentityName,
    IdentityRegistry,
    SymmetricKeys,
)
from edge_gateway.testbench.cloud.mqtt.connection import MAX_MESSAGE_BYTES, MqttConnection
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.refusals import (
    AccessDenied,
    DeviceNotOnline,
    LimitExceeded,
    MethodTimedOut,
    Throttled,
)
from edge_gateway.testbench.cloud.storage.blob_store import BlobStore
from edge_gateway.testbench.cloud.throttle import Operation, Throttle
from edge_gateway.testbench.cloud.tokens import POLICY_RIGHTS, Policy, Right, sas_token
from edge_gateway.testbench.cloud.topics import METHODS
from edge_gateway.testbench.cloud.twin import Twin
from edge_gateway.testbench.receiver import ReceivedMessage

if TYPE_CHECKING:  # aiohttp costs a third of the start and is needed for HTTPS only
    from aiohttp import web

    from edge_gateway.testbench.cloud.service.configurations import Configurations
    from edge_gateway.testbench.cloud.service.jobs import Jobs

MAX_METHOD_PAYLOAD_BYTES = 128 * 1024
_LONGEST_TIMER_S = 24 * 3600.0


@dataclass(slots=True)
class HubStatistics:
    """What the hub saw since it was made. Only ever grows."""

    connections: int = 0
    """CONNECTs accepted."""
    taken_over: int = 0
    """Connections dropped because their device connected again."""
    messages: int = 0
    """Device-to-cloud messages, repeats included."""


class HubEvent(NamedTuple):
    """A device-to-cloud message as readers of the hub's events get it."""

    sequence: int
    """Grows by one with each message, from 0."""
    message: ReceivedMessage


class FeedbackRecord(NamedTuple):
    """How a cloud-to-device message ended whose sender wanted to know."""

    original_message_id: str
    enqueued_ns: int
    """When it ended; wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    outcome: Outcome
    device_id: str
    generation_id: str


class LocalHub:
    """An IoT Hub for tests, development and demonstrations. Use it as an async context manager.

    Args:
        authority: signs the certificate of the hub's own front door; not needed behind another.
        address: the IPv4 address to listen on; see `free_loopback_address`.
        port: for MQTT; 8883 is the only one the device SDK connects to; 0 takes a free one.
        https_port: for HTTPS and MQTT over WebSocket; None offers neither.
        host_name: the hub's name in user names and tokens; `address` if None, because clients that do not resolve names
            connect to the address by that name.
        certificate: shown to clients in place of one that is in order, to test that they refuse it.
        clock: wall time, by which tokens end.
        rng: makes the keys of devices that are added without.
        on_message: called with each device-to-cloud message before it is confirmed. It must not raise.
        keep_messages: how many of the newest messages `messages` holds; None holds all.
        tier: whose rates and quota hold, e.g. `S1`; None allows everything.
        units: how many of that tier.
        blobs: where devices' files go; a store in memory if None. Offered with HTTPS only.

    Raises:
        BenchError: on entering, the address cannot be used, or there is no authority.
    """

    def __init__(
        self,
        *,
        authority: LocalAuthority | None = None,
        address: str = "127.0.0.1",
        port: int = MQTT_PORT,
        https_port: int | None = None,
        host_name: str | None = None,
        certificate: ServerCertificate | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_message: Callable[[ReceivedMessage], None] | None = None,
        keep_messages: int | None = None,
        tier: str | None = None,
        units: int = 1,
        blobs: BlobStore | None = None,
    ) -> None:
        self.host_name = host_name if host_name is not None else address
        self.statistics = HubStatistics()
        self.messages: deque[ReceivedMessage] = deque(maxlen=keep_messages)
        """Device-to-cloud messages, oldest first, repeats included."""
        self.feedback: deque[FeedbackRecord] = deque()
        """Ends of cloud-to-device messages that their senders wanted to hear of; taken by who reads them."""
        self.trusted_cas: list[x509.Certificate] = []
        """Whose device certificates are accepted for identities that prove themselves by a CA."""
        self.blobs = blobs if blobs is not None else BlobStore(clock=clock, rng=rng)
        self.registry = IdentityRegistry(self._identity_changed)
        self._authority, self._certificate = authority, certificate
        self._address, self._port, self._https_port = address, port, https_port
        self.clock = clock if clock is not None else SystemClock()
        """Wall time, by which tokens end."""
        self._rng = rng if rng is not None else random.SystemRandom()
        self._on_message = on_message
        self._records: dict[IdentityName, DeviceRecord] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._requests = itertools.count(1)
        self._locks = itertools.count(1)
        self.policies = {
            name: Policy(name, rights, self.new_key(), self.new_key()) for name, rights in POLICY_RIGHTS.items()
        }
        self._access = AccessControl(self.host_name, self.registry, self.policies, self.trusted_cas, self.clock)
        self.use_tier(tier, units)
        self._configurations: Configurations | None = None
        self._jobs: Jobs | None = None
        self._door: FrontDoor | None = None
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._authority is None:
            raise BenchError("nobody to sign the hub's certificate", where=self.host_name, remedy="Pass an authority")
        self._door = FrontDoor(
            [self],
            authority=self._authority,
            address=self._address,
            mqtt_port=self._port,
            https_port=self._https_port,
            certificate=self._certificate,
            clock=self.clock,
        )
        await self._resources.enter_async_context(self._door)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await self._resources.aclose()

    @property
    def door(self) -> FrontDoor:
        """The hub's own front door.

        Raises:
            BenchError: it has none: it was not entered, or stands behind another's.
        """
        if self._door is None:
            raise BenchError("the hub has no front door of its own", where=self.host_name, remedy="Enter the hub")
        return self._door

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    @property
    def port(self) -> int:
        """Where it listens for MQTT; known after entering if a free one was asked for."""
        return self.door.ports()["mqtt"]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the hub holds; it is judged again at each change. The caller sets a time limit."""
        while not condition():
            await self.change()

    async def change(self) -> None:
        """Wait for the next moment at which something may have changed."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(change)
        try:
            await change
        finally:
            self._waiters.discard(change)

    # Identity registry

    def add_device(
        self,
        device_id: str,
        primary_key: str | None = None,
        secondary_key: str | None = None,
        *,
        authentication: Authentication | None = None,
        edge: bool = False,
        scope: str = "",
    ) -> Identity:
        """Register a device; keys are base64, drawn if not given.

        Args:
            device_id: its id.
            primary_key: with `secondary_key`, for a device that signs tokens.
            secondary_key: see there.
            authentication: for one that proves itself otherwise; keys are then not taken.
            edge: it may host modules and be a parent.
            scope: the parent's, for a device behind one; an edge device gets its own.

        Raises:
            IdentityExists: the id is taken.
            BenchError: the id is not valid, or a key is not.
        """
        generation_id = str(self.clock.now_ns())
        if edge and not scope:
            scope = f"ms-azure-iot-edge://{device_id}-{generation_id}"
        if authentication is None:
            authentication = SymmetricKeys(
                primary_key if primary_key is not None else self.new_key(),
                secondary_key if secondary_key is not None else self.new_key(),
            )
        return self.registry.add(
            Identity(IdentityName(device_id), authentication, generation_id, edge=edge, scope=scope)
        )

    def add_module(
        self,
        device_id: str,
        module_id: str,
        *,
        authentication: Authentication | None = None,
        managed_by: str = "",
    ) -> Identity:
        """Register a module on a device, with drawn keys if nothing else is given.

        Raises:
            IdentityExists: the id is taken.
            IdentityNotFound: no such device.
            BenchError: the id is not valid, or the device has as many modules as it may have.
        """
        if authentication is None:
            authentication = SymmetricKeys(self.new_key(), self.new_key())
        name = IdentityName(device_id, module_id)
        return self.registry.add(Identity(name, authentication, str(self.clock.now_ns()), managed_by=managed_by))

    def remove_device(self, device_id: str) -> None:
        """Forget a device, with its modules, twins and queue, and drop its connections."""
        self.registry.remove(IdentityName(device_id))

    def remove_module(self, device_id: str, module_id: str) -> None:
        """Forget a module, with its twin, and drop its connection."""
        self.registry.remove(IdentityName(device_id, module_id))

    def set_enabled(self, device_id: str, enabled: bool) -> None:
        """Let a device connect, or drop its connection and turn it away."""
        self.registry.update(replace(self.identity(device_id), enabled=enabled))

    @property
    def device_ids(self) -> list[str]:
        """All registered devices, in the order they were added."""
        return [identity.device_id for identity in self.registry.devices()]

    def identity(self, device_id: str, module_id: str = "") -> Identity:
        """A device's or module's registry entry."""
        return self.registry.get(IdentityName(device_id, module_id))

    def record(self, name: IdentityName) -> DeviceRecord:
        """What the hub knows about a device or module beside its identity.

        Raises:
            IdentityNotFound: there is none of that name.
        """
        self.registry.get(name)
        return self._records[name]

    def connection_string(self, device_id: str, module_id: str = "") -> str:
        """What a device SDK is configured with. Contains the device's or module's primary key."""
        identity = self.identity(device_id, module_id)
        module = f"ModuleId={module_id};" if module_id else ""
        return f"HostName={self.host_name};DeviceId={device_id};{module}SharedAccessKey={identity.primary_key}"

    def service_connection_string(self, policy: str = "iothubowner") -> str:
        """What a service SDK is configured with. Contains the policy's primary key."""
        key = self.policies[policy].primary_key
        return f"HostName={self.host_name};SharedAccessKeyName={policy};SharedAccessKey={key}"

    def sas_token(self, device_id: str, lifetime_s: float = 3600, module_id: str = "") -> str:
        """A token as the device itself would make it, for clients that cannot sign."""
        identity = self.identity(device_id, module_id)
        expires_s = int(self.clock.now_ns() / NS_PER_S + lifetime_s)
        return sas_token(f"{self.host_name}/{identity.name.path}", identity.primary_key, expires_s)

    def is_connected(self, device_id: str, module_id: str = "") -> bool:
        """Whether the device or module has a connection now."""
        return self.record(IdentityName(device_id, module_id)).session is not None

    def new_key(self) -> str:
        """A key for a device or policy, base64."""
        return base64.b64encode(self._rng.randbytes(32)).decode()

    def rotate_keys(self, device_id: str, module_id: str = "") -> Identity:
        """Give a device or module new keys and drop its connection.

        Raises:
            IdentityNotFound: no such device or module.
            BenchError: it has no keys.
        """
        identity = self.identity(device_id, module_id)
        if not isinstance(identity.authentication, SymmetricKeys):
            raise BenchError("it has no keys", where=str(identity.name), remedy="It proves itself by certificate")
        keys = SymmetricKeys(self.new_key(), self.new_key())
        identity = self.registry.update(replace(identity, authentication=keys))
        session = self._records[identity.name].session
        if session is not None:
            session.drop("keys rotated")
        return identity

    def use_tier(self, tier: str | None, units: int = 1) -> None:
        """Hold devices and services to a tier's rates and quota from now on; None to none."""
        self.throttle = Throttle(tier, units, clock=self.clock, loop_time=lambda: asyncio.get_running_loop().time())

    def forget_state(self) -> None:
        """Forget what the hub knows about devices but for their identities: twins, queues, sessions that are kept.

        For a hub that comes back from a disaster; those connected are dropped.
        """
        for name, record in self._records.items():
            if record.session is not None:
                record.session.drop("state lost")
            self._records[name] = DeviceRecord(Twin(self.clock), CloudQueue(self._c2d_ended))
        self.changed()

    # Who may do what

    def admit_device(
        self, name: IdentityName, *, token: str | None, chain: Sequence[x509.Certificate] = ()
    ) -> tuple[Identity, int | None]:
        """Decide whether a client is the device or module it says it is.

        Args:
            name: who it says it is.
            token: its SAS token, if it has one.
            chain: its certificates, its own first, that TLS has seen it has the key of.

        Returns:
            The identity, and the Unix second the client's token ends at, None if it has a certificate.

        Raises:
            AccessDenied: it is not, or may not connect.
        """
        return self._access.admit_device(name, token=token, chain=chain)

    def admit_service(self, token: str, right: Right, path: str = "") -> None:
        """Decide whether a caller has a right, by a token of one of the hub's policies.

        Args:
            token: its SAS token.
            right: what it needs for what it asks for.
            path: of what it asks for, below the host name, for tokens that are for a part of the hub only.

        Raises:
            AccessDenied: it has not.
        """
        self._access.admit_service(token, right, path)

    # Device to cloud

    def stamps(self, identity: Identity, *, x509: bool = False, model_id: str = "") -> dict[str, str]:
        """What the hub notes on each message of a client about its connection."""
        method = {"scope": "module" if identity.module_id else "device", "type": "x509" if x509 else "sas"}
        stamps = {
            "iothub-connection-device-id": identity.device_id,
            "iothub-connection-auth-generation-id": identity.generation_id,
            "iothub-connection-auth-method": orjson.dumps({**method, "issuer": "iothub"}).decode(),
        }
        if identity.module_id:
            stamps["iothub-connection-module-id"] = identity.module_id
        if model_id:
            stamps["dt-dataschema"] = model_id
        return stamps

    def message_from(
        self,
        identity: Identity,
        properties: Mapping[str, str],
        system_properties: Mapping[str, str],
        body: bytes,
        *,
        stamps: Mapping[str, str] | None = None,
    ) -> ReceivedMessage:
        """A message as the hub takes it from a client.

        Args:
            identity: who sent it.
            properties: the application's.
            system_properties: by their long names.
            body: what was sent.
            stamps: the hub's notes on the connection, where they are at hand.

        Raises:
            LimitExceeded: body and properties are more than 256 KiB together.
        """
        size_bytes = len(body) + _properties_bytes(properties.items()) + _properties_bytes(system_properties.items())
        if size_bytes > MAX_MESSAGE_BYTES:
            raise LimitExceeded(
                f"message of {size_bytes} bytes", where=str(identity.name), remedy=f"Send at most {MAX_MESSAGE_BYTES}"
            )
        return ReceivedMessage(
            identity.device_id,
            system_properties.get("message-id"),
            properties,
            {**system_properties, **(stamps if stamps is not None else self.stamps(identity))},
            body,
            asyncio.get_running_loop().time(),
            self.clock.now_ns(),
            identity.module_id,
        )

    def receive(self, message: ReceivedMessage) -> None:
        """Take a device-to-cloud message in, whatever way it came."""
        record = self._records.get(IdentityName(message.device_id, message.module_id))
        if record is not None:
            record.last_activity_ns = message.enqueued_ns
        self.statistics.messages += 1
        self.messages.append(message)
        if self._on_message is not None:
            self._on_message(message)
        self.changed()

    async def events(self, from_sequence: int | None = None) -> AsyncGenerator[HubEvent, None]:
        """Device-to-cloud messages as they come, without end.

        Args:
            from_sequence: begin with this one, or with the oldest that is held; None begins with the next to come.
        """
        wanted = self.statistics.messages if from_sequence is None else from_sequence
        while True:
            while self.statistics.messages <= wanted:
                await self.change()
            first = self.statistics.messages - len(self.messages)
            wanted = max(wanted, first)
            for message in list(itertools.islice(self.messages, wanted - first, None)):
                yield HubEvent(wanted, message)
                wanted += 1

    # Cloud to device

    def send_c2d(
        self,
        device_id: str,
        body: bytes,
        properties: Mapping[str, str | None] | None = None,
        *,
        message_id: str | None = None,
        system_properties: Mapping[str, str] | None = None,
        expires_ns: int | None = None,
        ack: Ack | str = Ack.NONE,
    ) -> CloudMessage:
        """Send a cloud-to-device message now or as soon as the device listens.

        Args:
            device_id: to whom.
            body: what.
            properties: the application's; None is a name without a value.
            message_id: the sender's own, by which feedback names the message.
            system_properties: others of the system's, by their long names.
            expires_ns: wall time, nanoseconds since 1970-01-01T00:00:00Z; None is an hour from now.
            ack: of which ends the sender wants to hear by `feedback`.

        Raises:
            IdentityNotFound: no such device.
            QueueFull: fifty messages wait for it already.
            LimitExceeded: the message is too large.
            Throttled: too many messages for the hub's tier.
        """
        queue = self.record(IdentityName(device_id)).c2d
        properties = properties if properties is not None else {}
        size_bytes = len(body) + _properties_bytes(properties.items())
        if size_bytes > MAX_C2D_BYTES:
            raise LimitExceeded(
                f"{size_bytes} bytes to a device", where=device_id, remedy=f"Send at most {MAX_C2D_BYTES}"
            )
        self.throttle.admit(Operation.C2D, device_id)
        system = {"to": f"/devices/{device_id}/messages/devicebound", **(system_properties or {})}
        if message_id is not None:
            system["message-id"] = message_id
        now_ns = self.clock.now_ns()
        message = CloudMessage(
            device_id,
            self.identity(device_id).generation_id,
            body,
            properties,
            system,
            queue.next_packet_id(),
            now_ns,
            expires_ns if expires_ns is not None else now_ns + LIFETIME_NS,
            Ack(ack),
        )
        queue.expire(now_ns)
        self.enqueue_c2d(message)
        session = self.record(IdentityName(device_id)).session
        if session is not None:
            session.send_c2d()
        self.changed()
        return message

    def enqueue_c2d(self, message: CloudMessage) -> None:
        """Let a message wait for its device, which hears nothing of it yet.

        Raises:
            QueueFull: fifty messages wait for it already.
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(message.device_id)).c2d
        queue.add(message)
        left_s = max(0.0, (message.expires_ns - self.clock.now_ns()) / NS_PER_S)
        asyncio.get_running_loop().call_later(min(left_s, _LONGEST_TIMER_S), self._expire_c2d, queue)

    def receive_c2d(self, device_id: str) -> CloudMessage | None:
        """Hand out the oldest waiting message under a lock of a minute, for a device that asks by HTTPS.

        Raises:
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(device_id)).c2d
        return queue.take(self.clock.now_ns(), asyncio.get_running_loop().time(), self.next_lock_token())

    def complete_c2d(self, device_id: str, lock_token: str) -> None:
        """Be done with a message a device has taken.

        Raises:
            MessageLockLost: the lock has ended.
            IdentityNotFound: no such device.
        """
        queue = self.record(IdentityName(device_id)).c2d
        queue.end(queue.held(lock_token), Outcome.SUCCESS)
        self.changed()

    def reject_c2d(self, device_id: str, lock_token: str) -> None:
        """Be done with a message a device does not want. Errors as for `complete_c2d`."""
        queue = self.record(IdentityName(device_id)).c2d
        queue.end(queue.held(lock_token), Outcome.REJECTED)
        self.changed()

    def abandon_c2d(self, device_id: str, lock_token: str) -> None:
        """Take a message back, to hand it out again; after ten times it is over. Errors as for `complete_c2d`."""
        queue = self.record(IdentityName(device_id)).c2d
        queue.abandon(queue.held(lock_token))
        self.changed()

    def purge_c2d(self, device_id: str) -> int:
        """End all of a device's messages; return how many there were.

        Raises:
            IdentityNotFound: no such device.
        """
        return self.record(IdentityName(device_id)).c2d.purge()

    def next_lock_token(self) -> str:
        """A name for a lock on a message."""
        return f"{next(self._locks):08x}-0000-0000-0000-000000000000"

    # Twins

    def twin(self, device_id: str, module_id: str = "") -> Twin:
        """A device's or module's twin; use `patch_desired` and the like to change what the device is told of."""
        return self.record(IdentityName(device_id, module_id)).twin

    def patch_desired(self, device_id: str, patch: Mapping[str, Value], module_id: str = "") -> int:
        """Merge a patch into desired properties, tell the device, and return the new version.

        Raises:
            TwinRefused: the patch breaks a limit; nothing was changed.
            IdentityNotFound: no such device or module.
        """
        record = self.record(IdentityName(device_id, module_id))
        version = record.twin.patch_desired(patch)
        if record.session is not None:
            record.session.notify_desired(patch, version)
        self.changed()
        return version

    def replace_desired(self, device_id: str, members: Mapping[str, Value], module_id: str = "") -> int:
        """Put other desired properties in place of all there are, tell the device, and return the new version.

        Raises:
            TwinRefused: they break a limit; nothing was changed.
            IdentityNotFound: no such device or module.
        """
        record = self.record(IdentityName(device_id, module_id))
        version = record.twin.replace_desired(members)
        if record.session is not None:
            record.session.notify_desired(record.twin.desired, version)
        self.changed()
        return version

    def patch_tags(self, device_id: str, patch: Mapping[str, Value], module_id: str = "") -> None:
        """Merge a patch into a twin's tags.

        Raises:
            TwinRefused: the patch breaks a limit; nothing was changed.
            IdentityNotFound: no such device or module.
        """
        self.twin(device_id, module_id).patch_tags(patch)
        self.changed()

    # Direct methods

    async def invoke_method(
        self,
        device_id: str,
        name: str,
        payload: Value = None,
        *,
        module_id: str = "",
        timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResponse:
        """Call a direct method and wait for the device's answer.

        Args:
            device_id: whose method.
            name: the method.
            payload: JSON for the method.
            module_id: whose, if it is a module's.
            timeout_s: how long the device may take to answer.
            connect_timeout_s: how long to wait for a device that is not connected.

        Raises:
            DeviceNotOnline: the device is not listening, or left without an answer.
            MethodTimedOut: it did not answer in time.
            IdentityNotFound: no such device or module.
            LimitExceeded: the payload is too large.
        """
        record = self.record(IdentityName(device_id, module_id))
        where = str(IdentityName(device_id, module_id))
        body = orjson.dumps(payload)
        if len(body) > MAX_METHOD_PAYLOAD_BYTES:
            raise LimitExceeded(
                f"{len(body)} bytes of method payload", where=where, remedy=f"Send at most {MAX_METHOD_PAYLOAD_BYTES}"
            )

        def listens() -> bool:
            return record.session is not None and record.session.listens_to(METHODS)

        try:
            async with asyncio.timeout(connect_timeout_s):
                await self.until(listens)
        except TimeoutError:
            raise DeviceNotOnline(
                "the device does not listen to methods", where=where, remedy="Connect and subscribe it"
            ) from None
        # `listens` has just said that there is one, in this very step of the event loop.
        session = cast("HubSession", record.session)
        answer = session.request_method(f"{next(self._requests):x}", name, body)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise MethodTimedOut(
                f"no answer to {name} within {timeout_s} s", where=where, remedy="Allow for more time"
            ) from None

    # Faults, of the hub's own front door

    def refuse(self, on: bool) -> None:
        """Refuse new TCP connections. Those there are stay; see `drop_connections`."""
        self.door.refuse(on)

    def drop_connections(self, device_id: str | None = None) -> None:
        """Cut the connection of one device, or all, without a word."""
        self.door.drop_connections(device_id)

    def freeze(self, on: bool) -> None:
        """Read nothing and answer nothing on all connections, new ones included, until switched off again."""
        self.door.freeze(on)

    def withhold_pubacks(self, on: bool) -> None:
        """Take messages in and do not confirm them; switched off, those still connected get their confirmations."""
        self.door.withhold_pubacks(on)

    def duplicate_pubacks(self, on: bool) -> None:
        """Confirm each message twice."""
        self.door.faults.puback_copies = 2 if on else 1

    # front_door.Service

    def accepts(self, connect: Connect) -> bool:
        """Whether the user name is for this hub."""
        return (connect.username or "").partition("/")[0].lower() == self.host_name.lower()

    def admit(self, connect: Connect, connection: MqttConnection) -> HubSession:
        """Let a device or module in."""
        # Today's `{hub}/{client id}/?api-version=...`, and the older form without the question mark.
        rest = (connect.username or "").partition("/")[2]
        if not connect.client_id or not rest.startswith(f"{connect.client_id}/"):
            raise AccessDenied("the user name is not for this client id", where=connect.client_id)
        query = parse_qs(rest[len(connect.client_id) + 1 :].removeprefix("?"))
        if "api-version" not in query:
            raise AccessDenied("the user name has no api-version", where=connect.client_id)
        name = IdentityName(*connect.client_id.partition("/")[::2])
        token = connect.password.decode(errors="replace") if connect.password is not None else None
        try:
            self.throttle.admit(Operation.CONNECT, str(name))
        except Throttled as error:
            raise AccessDenied(error.what, where=str(name)) from None
        identity, expires_s = self.admit_device(name, token=token, chain=connection.client_chain)
        record = self._records[name]
        record.model_id = query.get("model-id", [record.model_id])[0]
        return HubSession(self, identity, record, connect, expires_s, record.model_id)

    def routes(self) -> Sequence[web.RouteDef]:
        """What the hub answers over HTTPS, to devices and to services."""
        from edge_gateway.testbench.cloud import device_rest
        from edge_gateway.testbench.cloud.service import event_stream
        from edge_gateway.testbench.cloud.service import rest as service_rest
        from edge_gateway.testbench.cloud.service.configurations import Configurations
        from edge_gateway.testbench.cloud.service.jobs import Jobs
        from edge_gateway.testbench.cloud.storage import rest as blob_rest

        # One of each for the hub's whole life: a front door that is opened again finds what was planned before.
        self._configurations = self._configurations or Configurations(self)
        self._jobs = self._jobs or Jobs(self)
        return [
            *device_rest.routes(self, self.blobs),
            *blob_rest.routes(self.blobs),
            *event_stream.routes(self),
            *service_rest.routes(self, configurations=self._configurations, jobs=self._jobs),
        ]

    async def close(self) -> None:
        """Give up what services have planned; for who has put the hub behind a front door that is shared."""
        if self._jobs is not None:
            await self._jobs.close()

    def changed(self) -> None:
        """Have those who wait with `until` look again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def now_ns(self) -> int:
        """The hub's wall time, nanoseconds since 1970-01-01T00:00:00Z."""
        return self.clock.now_ns()

    # Own matters

    def _identity_changed(self, name: IdentityName, identity: Identity | None) -> None:
        record = self._records.get(name)
        if identity is None and record is not None:
            record.c2d.purge()
            del self._records[name]
        elif record is None:
            self._records[name] = DeviceRecord(Twin(self.clock), CloudQueue(self._c2d_ended))
        if record is not None and record.session is not None and (identity is None or not identity.enabled):
            record.session.drop("removed" if identity is None else "disabled")
        self.changed()

    def _expire_c2d(self, queue: CloudQueue) -> None:
        queue.expire(self.clock.now_ns())
        self.changed()

    def _c2d_ended(self, message: CloudMessage) -> None:
        outcome = message.outcome
        if outcome is None or not message.ack.wants(outcome):
            return
        self.feedback.append(
            FeedbackRecord(
                message.system_properties.get("message-id", ""),
                self.clock.now_ns(),
                outcome,
                message.device_id,
                message.generation_id,
            )
        )


def _properties_bytes(properties: Iterable[tuple[str, str | None]]) -> int:
    return sum(len(name) + len(value or "") for name, value in properties)
