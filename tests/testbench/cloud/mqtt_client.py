"""An MQTT client that does exactly what a test says, right or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Packet,
    PacketReader,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Will,
)

P = TypeVar("P", bound=Packet)
T = TypeVar("T")

TIME_LIMIT_S = 20.0
"""Far beyond what anything here takes, so that a fault fails a test and does not hang it."""


class ShiftedClock(SystemClock):
    """The real time and a difference."""

    def __init__(self, ahead_s: float) -> None:
        super().__init__()
        self.ahead_s = ahead_s

    def now_ns(self) -> int:
        return super().now_ns() + int(self.ahead_s * NS_PER_S)


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait, within the time limit."""
    async with asyncio.timeout(TIME_LIMIT_S):
        return await awaitable


class RawClient:
    """Packets over TLS; no pings, no answers, no retries but the test's own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream = reader
        self._writer = writer
        self._packets = PacketReader()
        self._received: list[Packet] = []

    def send(self, *packets: Packet) -> None:
        self._writer.write(b"".join(packet.encode() for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self, kind: type[P]) -> P:
        """The next packet, which must be of this kind."""
        while not self._received:
            data = await soon(self._stream.read(65_536))
            if not data:
                raise ConnectionResetError("the hub has closed the connection")
            self._received += self._packets.feed(data)
        packet = self._received.pop(0)
        assert isinstance(packet, kind), packet
        return packet

    async def closed(self) -> None:
        """Wait until the hub closes the connection; it must say nothing before."""
        with suppress(ConnectionResetError):
            assert await soon(self._stream.read(1)) == b""

    async def subscribe(self, topic_filter: str, qos: int = 1) -> int | None:
        self.send(Subscribe(1, (Subscription(topic_filter, qos),)))
        return (await self.receive(Suback)).granted[0]

    async def publish(self, topic: str, payload: bytes = b"", packet_id: int = 1) -> None:
        self.send(Publish(topic, payload, 1, packet_id))
        assert await self.receive(Puback) == Puback(packet_id)

    async def connect(
        self,
        hub: LocalHub,
        device_id: str,
        *,
        username: str | None = None,
        token: str | None = None,
        clean_session: bool = True,
        keep_alive_s: int = 60,
        will: Will | None = None,
    ) -> Connack:
        if username is None:
            username = f"{hub.host_name}/{device_id}/?api-version=2021-04-12"
        if token is None:
            token = hub.sas_token(device_id)
        self.send(Connect(device_id, clean_session, keep_alive_s, username, token.encode(), will))
        return await self.receive(Connack)


@asynccontextmanager
async def tls_client(hub: LocalHub, authority: LocalAuthority) -> AsyncIterator[RawClient]:
    """A client with TLS up and no CONNECT sent."""
    reader, writer = await asyncio.open_connection(hub.address, hub.port, ssl=authority.client_context())
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):  # the hub was first
            await writer.wait_closed()


@asynccontextmanager
async def connected_client(
    hub: LocalHub,
    authority: LocalAuthority,
    device_id: str = "sensor-1",
    *,
    clean_session: bool = True,
    keep_alive_s: int = 60,
    will: Will | None = None,
) -> AsyncIterator[RawClient]:
    """A client the hub has accepted; the device is added if the hub does not know it."""
    if device_id not in hub.device_ids:
        hub.add_device(device_id)
    async with tls_client(hub, authority) as client:
        connack = await client.connect(
            hub, device_id, clean_session=clean_session, keep_alive_s=keep_alive_s, will=will
        )
        assert connack.return_code == 0
        yield client
