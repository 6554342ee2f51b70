"""An IoT Hub on the own machine, that unmodified clients connect to.

It keeps to the hub's rules where a gateway could stumble over them: who may connect and until when, one connection a
device, keep-alive, sizes, topics, and, if it is given a tier, rates and the daily quota. What breaks MQTT or these
rules is disconnected without a reason, as at IoT Hub.

- Device to cloud: each message goes to `on_message` and into `messages`, then it is confirmed.
- Cloud to device: `send_c2d` queues; a message is done when the device has confirmed it; a reconnect sends it again.
- Twins: GET, reported patches, desired patches. Direct methods: `invoke_method`.
- Faults are the front door's, switched while it runs; the hub passes the usual ones on (`refuse`, `freeze`, ...).
- Tests wait for what they expect with `until`, never by sleeping.

It is made in layers: `hub_devices.py` knows who there is, `hub_messages.py` passes messages both ways, and here are
twins, direct methods and the door. What a client says and hears while it is connected is in `hub_session.py`.

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
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import orjson

from edge_gateway.clock import Clock, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.certificates import LocalAuthority, ServerCertificate
from edge_gateway.testbench.cloud.front_door import MQTT_PORT, FrontDoor
from edge_gateway.testbench.cloud.hub_messages import MessageHub
from edge_gateway.testbench.cloud.hub_session import HubSession, MethodResponse
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.introduction import hub_named, introduction
from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.refusals import (
    AccessDenied,
    DeviceNotOnline,
    LimitExceeded,
    MethodTimedOut,
    Throttled,
)
from edge_gateway.testbench.cloud.storage.blob_store import BlobStore
from edge_gateway.testbench.cloud.throttle import Operation
from edge_gateway.testbench.cloud.topics import METHODS
from edge_gateway.testbench.cloud.twin import Twin
from edge_gateway.testbench.receiver import ReceivedMessage

if TYPE_CHECKING:  # aiohttp costs a third of the start and is needed for HTTPS only
    from aiohttp import web

    from edge_gateway.testbench.cloud.service.configurations import Configurations
    from edge_gateway.testbench.cloud.service.jobs import Jobs

MAX_METHOD_PAYLOAD_BYTES = 128 * 1024


class LocalHub(MessageHub):
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
        clock = clock if clock is not None else SystemClock()
        self.blobs = blobs if blobs is not None else BlobStore(clock=clock, rng=rng)
        super().__init__(
            host_name if host_name is not None else address,
            clock=clock,
            rng=rng if rng is not None else random.SystemRandom(),
            on_message=on_message,
            keep_messages=keep_messages,
            tier=tier,
            units=units,
        )
        self._authority, self._certificate = authority, certificate
        self._address, self._port, self._https_port = address, port, https_port
        self._requests = itertools.count(1)
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
        return hub_named(connect) == self.host_name.lower()

    def admit(self, connect: Connect, connection: MqttConnection) -> HubSession:
        """Let a device or module in."""
        name, token, query = introduction(connect)
        try:
            self.throttle.admit(Operation.CONNECT, str(name))
        except Throttled as error:
            raise AccessDenied(error.what, where=str(name)) from None
        identity, expires_s = self.admit_device(name, token=token, chain=connection.client_chain)
        record = self.record(name)
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
