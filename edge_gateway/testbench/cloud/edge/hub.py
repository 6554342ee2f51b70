"""The edge hub of an edge device: the hub its modules, and the devices behind it, connect to in place of IoT Hub.

```
module or device --routes--> store --> input of a module
                                   --> $upstream: IoT Hub, under the sender's identity
```

A message is confirmed when it is in the store. From there it goes its ways, each in order and at least once, when there
is somebody at the other end: see `edge_store` for what is kept how long. `go_offline` cuts the way up; the life below
goes on, with twins from copies and with who may connect as last known. See `edge_session` for one client's side of it.

In the place of RocksDB there is memory, and of AMQP and nested edge hubs nothing. Facts: iotedge's doc/edgehub-api.md
and the sources of Hub.Core.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import orjson
import structlog
from cryptography import x509

from edge_gateway import __version__
from edge_gateway.clock import Clock, SystemClock, rfc3339
from edge_gateway.records import Value
from edge_gateway.testbench.certificates import LocalAuthority
from edge_gateway.testbench.cloud.edge.deployment_manifest import HubConfiguration, ManifestRefused, parse_hub
from edge_gateway.testbench.cloud.edge.routes import TWIN_CHANGES, ModuleInput, message_source
from edge_gateway.testbench.cloud.edge.routes import Upstream as UpstreamSink
from edge_gateway.testbench.cloud.edge.scope import EdgeScope
from edge_gateway.testbench.cloud.edge.session import EdgeClient, EdgeSession
from edge_gateway.testbench.cloud.edge.store import EdgeMessage, EndpointQueue, MessageStore, StoredMessage
from edge_gateway.testbench.cloud.edge.system_twin import SystemTwin
from edge_gateway.testbench.cloud.edge.tasks import OwnedTasks
from edge_gateway.testbench.cloud.edge.upstream import LinkDown, TwinRequestRefused, Upstream
from edge_gateway.testbench.cloud.front_door import HTTPS_PORT, MQTT_PORT, FrontDoor
from edge_gateway.testbench.cloud.hub_session import MethodResponse
from edge_gateway.testbench.cloud.identity import HUB, Identity, IdentityName
from edge_gateway.testbench.cloud.introduction import hub_named, introduction
from edge_gateway.testbench.cloud.mqtt.connection import UNAVAILABLE, ConnectRefused, MqttConnection
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.testbench.cloud.refusals import AccessDenied, DeviceNotOnline, LimitExceeded, MethodTimedOut
from edge_gateway.testbench.cloud.topics import METHODS
from edge_gateway.testbench.cloud.twin import Section
from edge_gateway.testbench.cloud.watched import Watched

if TYPE_CHECKING:  # aiohttp is needed for HTTPS only
    from aiohttp import web

_log = structlog.get_logger()

MAX_CLIENTS: Final = 100
"""Beside the edge hub itself; `MaxConnectedClients` in its environment, less one."""
REPORTED_SYNC_S: Final = 5.0
"""`ReportedPropertiesSyncFrequencySecs`."""
_CONFIRMED_WITHIN_S: Final = 30.0
"""After this a message to a module is sent again (`MessageAckTimeoutSecs`)."""
_AGAIN_AFTER_S: Final = 1.0
"""After IoT Hub refused reported properties: it may have been throttling."""
_STAYS_FROM_INPUTS: Final = frozenset({"output-name", "interface-id"})
_REPORTED_SCHEMA = "1.0"
_OK = 200
_NOT_FOUND = 404


class EdgeHub(Watched):
    """An edge hub. Use it as an async context manager.

    Args:
        upstream: its way to IoT Hub; closed with it.
        device_id: the edge device, which the hub has with its module `$edgeHub`.
        configuration: routes and how long messages are kept, until the twin of `$edgeHub` says otherwise.
        authority: signs the certificate; an `intermediate`, as the Edge CA of a device is.
        address: the IPv4 address to listen on; see `free_loopback_address`.
        host_name: what clients know it by, `address` if None.
        mqtt_port: 8883 is the only one the SDKs connect to; 0 takes a free one.
        https_port: for methods between modules and MQTT over WebSocket; None offers neither.
        clock: wall time, by which tokens end.
        max_clients: how many may be connected at a time.
        reported_sync_s: how often reported properties go up, in seconds.

    Raises:
        BenchError: on entering, the address cannot be used.
    """

    def __init__(
        self,
        upstream: Upstream,
        device_id: str,
        configuration: HubConfiguration,
        *,
        authority: LocalAuthority,
        address: str = "127.0.0.1",
        host_name: str | None = None,
        mqtt_port: int = MQTT_PORT,
        https_port: int | None = HTTPS_PORT,
        clock: Clock | None = None,
        max_clients: int = MAX_CLIENTS,
        reported_sync_s: float = REPORTED_SYNC_S,
    ) -> None:
        super().__init__()
        self.device_id = device_id
        self.host_name = host_name if host_name is not None else address
        self.upstream = upstream
        self.received = 0
        """Messages taken from clients. Only ever grows."""
        self.unrouted: Counter[IdentityName] = Counter()
        """Of these, how many no route wanted, by sender."""
        self.store = MessageStore(loop_time=lambda: asyncio.get_running_loop().time())
        self._clock = clock if clock is not None else SystemClock()
        self._scope = EdgeScope(upstream.hub, device_id, self.host_name, self._clock)
        self.max_clients = max_clients
        self.reported_sync_s = reported_sync_s
        self._clients: dict[IdentityName, EdgeClient] = {}
        self._up = EndpointQueue(self.store)
        self._inputs: dict[ModuleInput, EndpointQueue] = {}
        self._unsynced = asyncio.Event()
        self._tasks = OwnedTasks(f"testbench-edge-hub-{device_id}")
        self._desired_status: Section = {}
        self._connections: dict[str, Section] = {}
        self._own_twin: SystemTwin | None = None
        self._configure(configuration)
        self.door = FrontDoor(
            [self],
            authority=authority,
            address=address,
            mqtt_port=mqtt_port,
            https_port=https_port,
            clock=self._clock,
        )
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        name = IdentityName(self.device_id, HUB)
        self._own_twin = SystemTwin(
            self.upstream, name, on_desired=self._take_desired, on_method=self._answer_own_method
        )
        self._report()
        self.spawn(self._own_twin.run(), "twin")
        self.spawn(self._forward_up(), "upstream")
        self.spawn(self._sync_reported(), "reported")
        self._resources.push_async_callback(self._tasks.end)
        self._resources.callback(self.upstream.close)
        try:
            await self._resources.enter_async_context(self.door)
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    # The switch, and looking on

    def go_offline(self) -> None:
        """Cut the way to IoT Hub. Who may connect stays as it is now."""
        if self.upstream.online:
            self._scope.keep()
            self.upstream.go_offline()

    def go_online(self) -> None:
        """Open the way to IoT Hub again: what waits goes up."""
        self._scope.follow()
        self.upstream.go_online()

    def waiting(self) -> int:
        """How many messages are in the store, counted once for each endpoint."""
        return len(self._up) + sum(len(queue) for queue in self._inputs.values())

    def waiting_upstream(self) -> int:
        """How many messages are on their way to IoT Hub."""
        return len(self._up)

    def is_connected(self, name: IdentityName) -> bool:
        """Whether a module or device has a connection now."""
        return name in self._clients and self._clients[name].session is not None

    async def invoke_method(
        self,
        name: IdentityName,
        method: str,
        payload: Value = None,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 0.0,
    ) -> MethodResponse:
        """Call a direct method of a module or device here, as modules do of each other. The hub has no part in it.

        Args:
            name: whose method.
            method: its name.
            payload: JSON for it.
            timeout_s: how long it may take to answer.
            connect_timeout_s: how long to wait for a client that does not listen.

        Raises:
            DeviceNotOnline: it does not listen, or left without an answer.
            MethodTimedOut: it did not answer in time.
        """

        def listening() -> EdgeSession | None:
            session = self._clients[name].session if name in self._clients else None
            return session if session is not None and session.listens_to(METHODS) else None

        try:
            async with asyncio.timeout(connect_timeout_s):
                await self.until(lambda: listening() is not None)
        except TimeoutError:
            raise DeviceNotOnline(f"Client {name} not found", where=str(name)) from None
        session = listening()
        if session is None:
            raise DeviceNotOnline(f"Client {name} not found", where=str(name))
        try:
            async with asyncio.timeout(timeout_s):
                return await session.call_method(method, orjson.dumps(payload))
        except TimeoutError:
            raise MethodTimedOut(
                f"no answer to {method} within {timeout_s} s", where=str(name), remedy="Allow for more time"
            ) from None

    # front_door.Service

    def accepts(self, _: Connect) -> bool:
        """An edge hub stands alone behind its door: whoever comes means it."""
        return True

    def admit(self, connect: Connect, connection: MqttConnection) -> EdgeSession:
        """Let a module or device in."""
        if hub_named(connect) not in (self.host_name.lower(), self.upstream.hub.host_name.lower()):
            raise AccessDenied("the user name is for another hub", where=connect.client_id)
        # A nested edge device adds an `auth-chain` to the query; this hub has no other below it and reads past it.
        name, token, _ = introduction(connect)
        _, expires_s = self.admit_client(name, token=token, chain=connection.client_chain)
        connected = sum(client.session is not None for client in self._clients.values())
        if connected >= self.max_clients and not self.is_connected(name):
            raise ConnectRefused(UNAVAILABLE, f"{connected} clients are connected already")
        return EdgeSession(self, self.client(name), connect, expires_s)

    def routes(self) -> Sequence[web.RouteDef]:
        """What it answers over HTTPS."""
        from edge_gateway.testbench.cloud.edge import rest as edge_rest

        return edge_rest.routes(self)

    def admit_client(
        self, name: IdentityName, *, token: str | None, chain: Sequence[x509.Certificate] = ()
    ) -> tuple[Identity, int | None]:
        """Decide whether a client is who it says it is and belongs here; see `LocalHub.admit_device`."""
        return self._scope.admit(name, token=token, chain=chain)

    # What clients and their sessions ask for

    def client(self, name: IdentityName) -> EdgeClient:
        """What is known about a module or device."""
        if name not in self._clients:
            self._clients[name] = EdgeClient(self, name)
        return self._clients[name]

    def client_connected(self, client: EdgeClient) -> None:
        """A session is open."""
        client.open_link()
        self._connections[_twin_key(client.name)] = {
            **self._connections.get(_twin_key(client.name), {}),
            "status": "Connected",
            "lastConnectedTimeUtc": self.now_text(),
        }
        self._report()
        self.subscriptions_changed(client)

    def client_gone(self, client: EdgeClient) -> None:
        """A session has ended. A device's connection is forgotten, a module's is reported as over."""
        key = _twin_key(client.name)
        if client.name.module_id:
            gone = {"status": "Disconnected", "lastDisconnectedTimeUtc": self.now_text()}
            self._connections[key] = {**self._connections.get(key, {}), **gone}
        else:
            self._connections.pop(key, None)
        self._report()
        client.follow_subscriptions()
        self._close_idle_link(client)
        self.changed()

    def subscriptions_changed(self, client: EdgeClient) -> None:
        """A client listens to something it did not listen to before."""
        for sink, queue in self._inputs.items():
            if client.name == IdentityName(self.device_id, sink.module_id):
                queue.wake()
        self.changed()

    def link_changed(self) -> None:
        """A link to the hub is there, or gone, or turned away."""
        self._up.wake()
        self._unsynced.set()
        self.changed()

    def take(self, message: EdgeMessage, source: str | None = None) -> None:
        """Take a message in: it is stored for every endpoint its routes lead to.

        Args:
            message: what came.
            source: where routes say it comes from; None for the module or device itself.

        Raises:
            LimitExceeded: the store is full; it is stored for nobody.
        """
        if source is None:
            source = message_source(message.sender.module_id, message.system_properties.get("output-name", ""))
        self.received += 1
        matches = self._configuration.routes.matches(
            source, message.properties, message.system_properties, message.body
        )
        if not matches:
            self.unrouted[message.sender] += 1
            _log.debug("testbench.edge.unrouted", sender=str(message.sender), source=source)
        self.store.admit(message, len(matches))
        for match in matches:
            queue = self._up if isinstance(match.sink, UpstreamSink) else self._input(match.sink)
            queue.put(message, match.priority, match.ttl_s if match.ttl_s is not None else self._ttl_s)
        self.changed()

    def take_if_room(self, message: EdgeMessage, source: str | None = None) -> None:
        """Take a message in that nobody sends again: if the store is full it is lost. Arguments as for `take`."""
        try:
            self.take(message, source)
        except LimitExceeded as error:
            _log.warning("testbench.edge.dropped", sender=str(message.sender), reason=error.what)

    def reported_changed(self, client: EdgeClient, patch: bytes) -> None:
        """A client has reported properties: they go up soon, and as a notice to who wants it by a route."""
        self._unsynced.set()
        system = {
            "connection-device-id": client.name.device_id,
            "message-schema": "twinChangeNotification",
            **({"connection-module-id": client.name.module_id} if client.name.module_id else {}),
        }
        self.take_if_room(EdgeMessage(client.name, {}, system, patch), TWIN_CHANGES)

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Do something beside; what fails in it is raised when the edge hub is left."""
        self._tasks.spawn(work, name)

    def now_text(self) -> str:
        """Wall time as twins have it."""
        return rfc3339(self._clock.now_ns())

    # Endpoints

    def _input(self, sink: ModuleInput) -> EndpointQueue:
        queue = self._inputs.get(sink)
        if queue is None:
            queue = self._inputs[sink] = EndpointQueue(self.store)
            self.spawn(self._feed_input(sink, queue), f"input-{sink.module_id}-{sink.input_name}")
        return queue

    async def _forward_up(self) -> None:
        """Send what waits for IoT Hub, one after the other, each as its sender."""
        while True:
            refused = {
                client.name for client in self._clients.values() if client.link is not None and client.link.refused
            }
            stored = self._up.head(refused)
            if stored is None:
                await self._up.changed()
                continue
            client = self.client(stored.message.sender)
            link = client.open_link()
            if not link.connected:
                await self._up.changed()
                continue
            try:
                await link.send(stored.message)
            except LinkDown:
                continue
            self._delivered(self._up, stored)
            self._close_idle_link(client)

    async def _feed_input(self, sink: ModuleInput, queue: EndpointQueue) -> None:
        """Send what waits for an input of a module, one after the other, each when the one before is confirmed."""
        client = self.client(IdentityName(self.device_id, sink.module_id))
        prefix = f"{client.name.path}/inputs/{quote(sink.input_name, safe='')}/"
        last: StoredMessage | None = None
        while True:
            stored, session = queue.head(), client.session
            wanted = session.inputs_filter if session is not None else None
            if stored is None or session is None or wanted is None:
                await queue.changed()
                continue
            message, again, last = stored.message, stored is last, stored
            topic = prefix + format_property_bag(message.properties, _for_inputs(message.system_properties))
            try:
                async with asyncio.timeout(_CONFIRMED_WITHIN_S):
                    await session.deliver(wanted, topic, message.body, again=again)
            except (DeviceNotOnline, TimeoutError):
                continue
            self._delivered(queue, stored)

    def _delivered(self, queue: EndpointQueue, stored: StoredMessage) -> None:
        queue.done(stored)
        self.changed()

    def _close_idle_link(self, client: EdgeClient) -> None:
        """Close the link of a client that has gone, unless something of its has to go up."""
        if client.session is None and not client.twin.pending and client.name not in self._up.senders():
            client.close_link()

    async def _sync_reported(self) -> None:
        while True:
            await self._unsynced.wait()
            self._unsynced.clear()
            pause_s = self.reported_sync_s
            for client in [each for each in self._clients.values() if each.twin.pending]:
                try:
                    await client.sync_reported()
                except LinkDown:
                    continue  # a new connection starts this again
                except TwinRequestRefused as error:
                    _log.info("testbench.edge.reported_waits", client=str(client.name), reason=error.what)
                    self._unsynced.set()
                    pause_s = max(pause_s, _AGAIN_AFTER_S)
                self._close_idle_link(client)
                self.changed()
            await asyncio.sleep(pause_s)

    # Its own twin

    def _configure(self, configuration: HubConfiguration) -> None:
        store = configuration.store_and_forward
        self._configuration = configuration
        self._ttl_s = store.time_to_live_s if store.time_to_live_s >= 0 else None
        self.store.max_size_bytes = store.store_limits.max_size_bytes if store.store_limits is not None else None

    def _take_desired(self, desired: Section) -> None:
        """Obey new desired properties, or report what is wrong with them and go on as before."""
        code, description = _OK, ""
        try:
            self._configure(parse_hub(desired))
        except ManifestRefused as refused:
            code, description = refused.code, str(refused)
        _log.info("testbench.edge.configured", version=desired.get("$version"), code=code)
        self._desired_status = {
            "lastDesiredVersion": desired.get("$version"),
            "lastDesiredStatus": {"code": code, "description": description},
        }
        self._report()
        self.changed()

    def _answer_own_method(self, name: str, _: Value) -> MethodResponse:
        return MethodResponse(_NOT_FOUND, {"message": f"Method {name} is not supported"})

    def _report(self) -> None:
        if self._own_twin is not None:
            state: Section = {"schemaVersion": _REPORTED_SCHEMA, "version": {"version": __version__}}
            self._own_twin.report({**state, **self._desired_status, "clients": dict(self._connections)})


def _for_inputs(system_properties: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in system_properties.items() if name not in _STAYS_FROM_INPUTS}


def _twin_key(name: IdentityName) -> str:
    """An identity's name as a key in a twin, where a dot, a dollar sign and a space may not stand."""
    return str(name).replace(".", "%2E").replace("$", "%24").replace(" ", "%20")
