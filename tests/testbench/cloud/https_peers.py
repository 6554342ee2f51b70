"""An HTTPS service on a port of its own, mostly plain: TLS is the front door's matter and tested there."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from edge_gateway.testbench.cloud.https import HttpsService


@asynccontextmanager
async def served(service: HttpsService, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A running service; the port of 127.0.0.1 it is on."""
    await service.start()
    server = await asyncio.get_running_loop().create_server(service.make_protocol, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await service.stop()


@asynccontextmanager
async def http_client(routes: Iterable[web.RouteDef]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a service that has these routes."""
    async with served(HttpsService(routes)) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield client


def reset(writer: asyncio.StreamWriter) -> None:
    """Go as a machine goes that has crashed: without a word, and with a reset for what still comes."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
