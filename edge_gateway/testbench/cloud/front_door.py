"""Where clients come in: the listening sockets that the services at one address share.

Azure tells its services apart by host name; clients on a bench may reach all of them at one address, because the SDKs
hard-code their ports. So the door takes the TLS connection, reads the first packet and hands the client to the service
it names. Faults that hit a connection whatever it is for are switched here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, cast

import structlog

from edge_gateway.clock import Clock, SystemClock
from edge_gateway.testbench.certificates import LocalAuthority, ServerCertificate
from edge_gateway.testbench.cloud.faults import Faults
from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection, Session
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.testbench.cloud.tls import ServerTls, client_chain
from edge_gateway.testbench.listener import Listener

if TYPE_CHECKING:  # aiohttp costs a third of the start and is needed for HTTPS only
    from aiohttp import web

    from edge_gateway.testbench.cloud.https import HttpsService

_log = structlog.get_logger()

MQTT_PORT = 8883
HTTPS_PORT = 443
AMQP_PORT = 5671
_TLS_WITHIN_S = 10.0
_CLOSE_WITHIN_S = 1.0
"""For the peer's part of a TLS close; one that is silent is cut off."""


class Service(Protocol):
    """What stands behind a front door: a hub, a provisioning service, an edge hub."""

    host_name: str

    def accepts(self, connect: Connect) -> bool:
        """Whether a CONNECT is meant for this service; it may still be refused."""

    def admit(self, connect: Connect, connection: MqttConnection) -> Session:
        """Let a client in.

        Raises:
            AccessDenied: it may not come in.
            ConnectRefused: it is turned away for another reason.
        """

    def routes(self) -> Sequence[web.RouteDef]:
        """What it answers over HTTPS. Asked for when the first client comes by it."""

    def changed(self) -> None:
        """Something may have happened that somebody waits for."""


@dataclass(slots=True)
class DoorStatistics:
    """What happened at the door since it was made. Only ever grows."""

    denied: int = 0
    """CONNECTs not let in."""
    violations: int = 0
    """Connections cut because the client broke MQTT or a service's rules."""


class FrontDoor:
    """Serves MQTT and HTTPS for some services at one address. Use it as an async context manager.

    Args:
        services: who is behind it; a CONNECT goes to the first that accepts it, or to the first of all to be refused.
        authority: signs the door's certificate, for the address and the services' host names.
        address: the IPv4 address to listen on; see `free_loopback_address`.
        mqtt_port: 8883 is the only one the SDKs connect to; 0 takes a free one.
        https_port: for HTTPS and MQTT over WebSocket; None offers neither.
        certificate: shown to clients in place of one that is in order, to test that they refuse it.
        clock: wall time, by which tokens end.
        faults: the faults it obeys.

    Raises:
        BenchError: on entering, the address cannot be used.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        authority: LocalAuthority,
        address: str = "127.0.0.1",
        mqtt_port: int = MQTT_PORT,
        https_port: int | None = HTTPS_PORT,
        certificate: ServerCertificate | None = None,
        clock: Clock | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.statistics = DoorStatistics()
        self.faults = faults if faults is not None else Faults()
        self.address = address
        self._services = list(services)
        self._clock = clock if clock is not None else SystemClock()
        self.names = list(dict.fromkeys((*(service.host_name for service in services), address)))
        """What its certificate is for."""
        self._own_certificate = certificate if certificate is not None else authority.server_certificate(self.names)
        self._tls = ServerTls(self._own_certificate, client_certificates=True)
        self._listeners: dict[str, Listener] = {}
        self._https_port = https_port
        self._connections: set[MqttConnection] = set()
        self._deserted = asyncio.Event()
        self._deserted.set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._https: HttpsService | None = None
        self._preparing_https = asyncio.Lock()
        self.offer("mqtt", mqtt_port, self.make_connection)

    async def __aenter__(self) -> Self:
        if self._https_port is not None:
            self.offer("https", self._https_port, self._make_https, prepare=self._prepare_https)
        try:
            for listener in self._listeners.values():
                listener.open()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    def ports(self) -> dict[str, int]:
        """Where it listens, by what is spoken there; free ones are known after entering."""
        return {spoken: listener.port for spoken, listener in self._listeners.items()}

    def offer(
        self,
        spoken: str,
        port: int,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Speak a protocol behind TLS on a port of its own, from entering on.

        Args:
            spoken: its name, e.g. `amqp`.
            port: 0 takes a free one.
            make_protocol: makes the protocol for one connection.
            prepare: awaited before each client's handshake, for what is made only if one comes.
        """
        self._listeners[spoken] = Listener(
            self.address, port, lambda accepted: self._arrive(accepted, make_protocol, prepare)
        )

    def make_connection(self) -> MqttConnection:
        """A connection for a client that is about to speak MQTT."""
        return MqttConnection(self, self._clock, client_chain)

    # Faults

    def refuse(self, on: bool) -> None:
        """Refuse new TCP connections. Those there are stay; see `drop_connections`.

        Raises:
            BenchError: switched off, the address cannot be used any more.
        """
        for listener in self._listeners.values():
            if on:
                listener.close()
            else:
                listener.open()

    def drop_connections(self, label: str | None = None) -> None:
        """Cut the MQTT connection of one client, or all, without a word."""
        for connection in list(self._connections):
            if label is None or connection.label == label:
                connection.drop("fault injected")

    def expire_tokens(self, label: str | None = None) -> None:
        """Cut off one client, or all, as at the end of its token; those without a token stay."""
        for connection in list(self._connections):
            if label is None or connection.label == label:
                connection.expire()

    def freeze(self, on: bool) -> None:
        """Read nothing and answer nothing on all MQTT connections, and shake no hands, until switched off again.

        Nothing times out on this side in between. What there is to say waits, and is said afterwards.
        """
        self.faults.frozen = on
        if on:
            self._thawed.clear()
        else:
            self._thawed.set()
        for connection in self._connections:
            connection.freeze(on)

    def withhold_pubacks(self, on: bool) -> None:
        """Take messages in and do not confirm them; switched off, those still connected get their confirmations."""
        self.faults.pubacks_withheld = on
        if not on:
            for connection in self._connections:
                connection.release_pubacks()

    def present(self, certificate: ServerCertificate | None) -> None:
        """Show new clients another certificate, e.g. one they must refuse; None shows the door's own again."""
        self._tls.use(certificate if certificate is not None else self._own_certificate)

    # What connections need

    def admit(self, connect: Connect, connection: MqttConnection) -> Session:
        """Hand a client to the service it names."""
        for service in self._services:
            if service.accepts(connect):
                return service.admit(connect, connection)
        raise AccessDenied("the user name is for no service here", where=connect.client_id)

    def arrived(self, connection: MqttConnection) -> None:
        """Know a connection."""
        self._connections.add(connection)
        self._deserted.clear()

    def gone(self, connection: MqttConnection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._deserted.set()

    def denied(self) -> None:
        """Count a client that was not let in."""
        self.statistics.denied += 1

    def violated(self) -> None:
        """Count a client that was cut off."""
        self.statistics.violations += 1

    def changed(self) -> None:
        """Tell the services that something may have happened."""
        for service in self._services:
            service.changed()

    def _arrive(
        self,
        accepted: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        prepare: Callable[[], Awaitable[None]] | None,
    ) -> None:
        handshake = asyncio.create_task(
            self._shake_hands(accepted, make_protocol, prepare), name=f"testbench-tls-{self.address}"
        )
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _shake_hands(
        self,
        accepted: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        prepare: Callable[[], Awaitable[None]] | None,
    ) -> None:
        try:
            await self._thawed.wait()
            if prepare is not None:
                await prepare()
        except BaseException:
            accepted.close()
            raise
        try:
            await self._tls.accept(
                accepted, make_protocol, handshake_timeout_s=_TLS_WITHIN_S, shutdown_timeout_s=_CLOSE_WITHIN_S
            )
        except OSError as error:  # TLS errors are OSErrors, too; the client sees its own side of it
            _log.info("testbench.tls.failed", cause=str(error))

    async def _prepare_https(self) -> None:
        """Make what answers HTTPS when the first client comes: few benches have one, and all would pay for it."""
        async with self._preparing_https:
            if self._https is not None:
                return
            # Most of the cost, 11 MiB and 0.1 s. In a thread: MQTT goes on meanwhile.
            await asyncio.to_thread(import_module, "aiohttp.web")
            from edge_gateway.testbench.cloud.https import HttpsService
            from edge_gateway.testbench.cloud.mqtt.websocket import websocket_route

            routes = [route for service in self._services for route in service.routes()]
            https = HttpsService([*routes, websocket_route(self.make_connection)])
            await https.start()
            self._https = https

    def _make_https(self) -> asyncio.Protocol:
        return cast("HttpsService", self._https).make_protocol()  # prepared before

    async def _leave(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        handshakes = list(self._handshakes)
        for handshake in handshakes:
            handshake.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        for connection in list(self._connections):
            connection.drop("service closed")
        await self._deserted.wait()
        if self._https is not None:
            await self._https.stop()
