"""The hub that all cases share, each with a device of its own, and the clients they let loose on it."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import pytest

from edge_gateway.testbench import ReceivedMessage
from edge_gateway.testbench.cloud.local_cloud import LocalCloud
from tests.testbench.cloud.mqtt_client import ShiftedClock

from .client import Access, Client, ClientKind, Message, NotAuthorised

T = TypeVar("T")

TEXTS = (
    "two words",
    "a+b",
    "100%",
    "%41",
    "a&b=c",
    "a/b/",
    "?a",
    "#a",
    "$a",
    "Grüße",
    "温度 🌡",
    "'\"\\",
    "a\tb",
    "!()*,:;@[]{}|~^`",
)
"""What property names and values may be, and what has a meaning to some part on the way."""
TIME_LIMIT_S = 30.0
"""Far beyond what a case takes, so that a fault fails it and does not hang it."""

CONFORMANCE = [
    pytest.mark.asyncio(loop_scope="session"),
    # The SDK asks for TLS 1.2 by a constant that Python has deprecated.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning"),
    # After a lost or refused connection MQTT libraries leave their sockets to the garbage collector.
    pytest.mark.filterwarnings(
        r"ignore:Exception ignored in. <(ssl\.SSLS|socket\.s)ocket:pytest.PytestUnraisableExceptionWarning"
    ),
]
"""Marks of every module of cases: they share one event loop, because they share the hub."""


class Bench:
    """What a case asks for."""

    def __init__(self, cloud: LocalCloud, clock: ShiftedClock) -> None:
        self.hub = cloud.hub
        self.dps = cloud.dps
        self.door = cloud.door
        self.authority = cloud.authority
        self.clock = clock
        """The hub's; a case that moves it moves it back."""
        self._numbers = itertools.count(1)

    def new_id(self, kind: str) -> str:
        """An id nobody has had in this run."""
        return f"{kind}-{next(self._numbers)}"

    def device(self) -> Access:
        """A new device with keys."""
        identity = self.hub.add_device(self.new_id("device"))
        return Access(
            self.door.address,
            self.hub.host_name,
            identity.device_id,
            key=identity.primary_key,
            ca_pem=self.authority.ca_pem,
        )

    def module(self) -> Access:
        """A new module with keys, on a new device."""
        device = self.device()
        identity = self.hub.add_module(device.device_id, self.new_id("module"))
        return replace(device, module_id=identity.module_id, key=identity.primary_key)

    def telemetry(self, access: Access) -> list[ReceivedMessage]:
        """What the hub has received from a device or module, oldest first."""
        sender = access.device_id, access.module_id
        return [message for message in self.hub.messages if (message.device_id, message.module_id) == sender]

    @asynccontextmanager
    async def client(self, kind: ClientKind, access: Access) -> AsyncIterator[Client]:
        """A client that has connected; it is closed afterwards."""
        async with self.unconnected(kind, access) as client:
            await client.connect()
            yield client

    async def turns_away(self, kind: ClientKind, access: Access) -> None:
        """See that a client is told that it is not authorised, and that nothing of it is received."""

        async def come_in(client: Client) -> None:
            await client.connect()
            await client.send(Message())  # without a connection it is told now

        async with self.unconnected(kind, access) as client:
            with pytest.raises(NotAuthorised):
                await come_in(client)
        assert not self.telemetry(access)

    @asynccontextmanager
    async def unconnected(self, kind: ClientKind, access: Access) -> AsyncIterator[Client]:
        """A client that has not connected yet; it is closed afterwards."""
        await kind.install()
        async with asyncio.timeout(TIME_LIMIT_S):
            client = await kind.client(access)
            try:
                yield client
            finally:
                await soon(client.close())
                gc.collect()  # sockets that a library forgot are found in the case that made them


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait, within the time limit."""
    async with asyncio.timeout(TIME_LIMIT_S):
        return await awaitable
