"""A hub's AMQP endpoint: a connection for each client that a front door has shaken hands with."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import cast

import structlog

from edge_gateway.testbench.cloud.amqp.composites import Error
from edge_gateway.testbench.cloud.amqp.connection import Connection
from edge_gateway.testbench.cloud.amqp.service import HubService, Offer, Readers
from edge_gateway.testbench.cloud.amqp.values import Symbol
from edge_gateway.testbench.cloud.hub import LocalHub

_log = structlog.get_logger()

_SILENCE_S = 240.0
"""After which a client is given up; asked is for half of it (amqp-core-transport-v1.0, 2.4.5)."""


class AmqpEndpoint:
    """Serves the service side of a hub by AMQP 1.0: messages to devices, their feedback, what devices sent.

    ```python
    endpoint = AmqpEndpoint(hub)
    door.offer("amqp", AMQP_PORT, endpoint.make_connection)
    ```

    Args:
        hub: whose.
        event_hub: the name under which devices' messages are read ("Event Hubs-compatible name").
        consumer_groups: that may read them.
        gather_feedback_s: how long a first feedback record waits for others to share its message. IoT Hub waits 15 s.
    """

    def __init__(
        self,
        hub: LocalHub,
        *,
        event_hub: str = "events",
        consumer_groups: Collection[str] = ("$Default",),
        gather_feedback_s: float = 0.0,
    ) -> None:
        readers = {group.lower(): Readers() for group in consumer_groups}
        self._offer = Offer(hub, event_hub, readers, gather_feedback_s)
        self._connections: set[AmqpConnection] = set()

    def make_connection(self) -> AmqpConnection:
        """A connection for a client that is about to speak AMQP."""
        return AmqpConnection(HubService(self._offer), self._connections)

    def event_hubs_connection_string(self, policy: str = "service") -> str:
        """What an Event Hubs SDK is configured with to read what devices sent. Contains the policy's primary key."""
        hub = self._offer.hub
        key = hub.policies[policy].primary_key
        return (
            f"Endpoint=sb://{hub.host_name}/;SharedAccessKeyName={policy};SharedAccessKey={key}"
            f";EntityPath={self._offer.event_hub}"
        )

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._connections):
            connection.close("the hub is closing")


class AmqpConnection(asyncio.Protocol):
    """One client: its bytes and the time.

    Args:
        service: what is behind it.
        connections: where it keeps itself while it is there.
    """

    def __init__(self, service: HubService, connections: set[AmqpConnection]) -> None:
        self._service = service
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._amqp = Connection(service, self._gather, _SILENCE_S / 2)
        self._outgoing: list[bytes] = []
        self._heard_s = self._loop.time()
        self._remote_idle_s: float | None = None
        self._watching: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        self._transport = cast("asyncio.Transport", transport)  # TCP and WebSockets are streams
        self._connections.add(self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it with this name
        """Nothing can be read or written any more."""
        self._connections.discard(self)
        self._amqp.end()
        self._service.closed()
        if self._watching is not None:
            self._watching.cancel()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        self._heard_s = self._loop.time()
        self._amqp.receive(data)
        if self._amqp.remote_idle_s != self._remote_idle_s:  # the client has opened
            self._remote_idle_s = self._amqp.remote_idle_s
            self._watch()
        if self._amqp.over:
            self._flush()
            self._transport.close()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self._amqp.writable = False

    def resume_writing(self) -> None:
        """The client keeps up again."""
        self._amqp.resume()

    def close(self, why: str) -> None:
        """End the connection; the client hears why."""
        self._amqp.close(Error(Symbol("amqp:connection:forced"), why))
        self._flush()
        self._transport.close()

    def _gather(self, data: bytes) -> None:
        """Write in the loop's next turn, all that has come together until then."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        if self._outgoing:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            if not self._transport.is_closing():
                self._transport.write(data)

    def _watch(self) -> None:
        """Be heard by the client in time, and give it up if it is silent for too long."""
        if self._watching is not None:
            self._watching.cancel()
        if self._heard_s + _SILENCE_S <= self._loop.time():
            _log.info("testbench.amqp.dropped", reason="silent")
            self._transport.abort()
            return
        self._amqp.beat()
        interval_s = min(_SILENCE_S, self._remote_idle_s or _SILENCE_S) / 2
        self._watching = self._loop.call_later(interval_s, self._watch)
