"""What tests do with a transport: read until they have seen enough."""

from __future__ import annotations

import asyncio

from edge_gateway.errors import LinkLost
from edge_gateway.records import Chunk
from edge_gateway.transport import Transport

PATIENCE_S = 20
"""Long beyond need; only a hang takes it."""


async def read_bytes(transport: Transport, count: int) -> bytes:
    """Read until `count` bytes have come, and return all that have."""
    received = bytearray()
    async with asyncio.timeout(PATIENCE_S):
        while len(received) < count:
            for chunk in await transport.read():
                received += chunk.data
    return bytes(received)


async def read_until_lost(transport: Transport) -> list[Chunk]:
    """Read until the link is lost, and return what came before."""
    chunks: list[Chunk] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                chunks += await transport.read()
            except LinkLost:
                return chunks


async def until_up(transport: Transport) -> float:
    """Wait for the link to come up; return the event loop's time."""
    async with asyncio.timeout(PATIENCE_S):
        while not transport.is_up:  # noqa: ASYNC110 - the protocol has no event for it
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time()


async def until_down(transport: Transport) -> float:
    """Wait for the link to go down; return the event loop's time."""
    async with asyncio.timeout(PATIENCE_S):
        while transport.is_up:  # noqa: ASYNC110 - the protocol has no event for it
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time()


async def until_read(transport: Transport, count: int) -> None:
    """Wait until the link has read `count` bytes from its port, without taking them."""
    async with asyncio.timeout(PATIENCE_S):
        while transport.counters.bytes_read < count:  # noqa: ASYNC110 - the protocol has no event for it
            await asyncio.sleep(0.001)
