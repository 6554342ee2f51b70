"""The status of a running gateway, for `edge-gateway status` and the demo: one JSON document over a Unix socket.

The socket lies in the data directory with mode 0600, so whoever may read the gateway's data may ask for its status and
nobody else.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from edge_gateway.errors import GatewayError

SOCKET_NAME: Final = "status.sock"
_ANSWER_WITHIN_S: Final = 5.0


@asynccontextmanager
async def serve_status(data_directory: Path, status: Callable[[], dict[str, Any]]) -> AsyncIterator[None]:
    """Answer every connection with the status of that moment, and close it."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(orjson.dumps(status()))
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # an asker who left needs no answer
        finally:
            writer.close()

    path = data_directory / SOCKET_NAME
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, sock=_bound(data_directory))
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


def _bound(directory: Path) -> socket.socket:
    """A socket in `directory`, with mode 0600 from its first moment on."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        bound.bind(_short_path(descriptor))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
        os.close(descriptor)
    return bound


def _short_path(directory: int) -> str:
    """The socket in an open directory. A path may have 107 bytes; this one is short however deep the directory."""
    return f"/proc/self/fd/{directory}/{SOCKET_NAME}"


async def ask_status(data_directory: Path) -> dict[str, Any]:
    """The status of the gateway that runs on `data_directory`.

    Raises:
        GatewayError: none runs there, or it does not answer.
    """
    where = str(data_directory)
    try:
        directory = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GatewayError(
            f"cannot be opened: {error.strerror}", where=where, remedy="Check data_directory, and who may read it"
        ) from error
    try:
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(_short_path(directory))
            try:
                document: dict[str, Any] = orjson.loads(await reader.read())
            finally:
                writer.close()
    except (OSError, TimeoutError, orjson.JSONDecodeError) as error:
        raise GatewayError(
            "no gateway answers here", where=where, remedy="Start it: edge-gateway run --config gateway.yaml"
        ) from error
    finally:
        os.close(directory)
    return document
