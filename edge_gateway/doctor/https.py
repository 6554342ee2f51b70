"""Asks a service of the cloud one thing over HTTPS, verified."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from edge_gateway.doctor.site import Site
from edge_gateway.uplink.tls import client_context, connection_error

_ANSWERS_WITHIN_S: Final = 8.0
_MOST_BODY_BYTES: Final = 64 * 1024


class Answer(NamedTuple):
    """What a service says."""

    status: int
    body: Mapping[str, Any]
    """Empty if it is no JSON object."""


async def ask(
    site: Site,
    method: str,
    url: str,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    ca_file: Path | None,
) -> Answer:
    """Send a request and read the answer.

    Raises:
        UplinkError: there is none, and why.
        ConfigError: `ca_file` cannot be used.
    """
    import aiohttp  # only here: most examinations do without
    from aiohttp.abc import AbstractResolver, ResolveResult

    class KnownAddresses(AbstractResolver):
        async def resolve(
            self,
            host: str,
            port: int = 0,
            family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002 - aiohttp passes it
        ) -> list[ResolveResult]:
            return [
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=0,
                    flags=0,
                )
                for address in await site.resolve(host)
            ]

        async def close(self) -> None:
            """Nothing is open."""

    context = client_context(ca_file, None, None)
    sent = dict(headers or {}) | ({"Authorization": token} if token is not None else {})
    connector = aiohttp.TCPConnector(ssl=context, resolver=KnownAddresses())
    try:
        async with (
            asyncio.timeout(_ANSWERS_WITHIN_S),
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, headers=sent, data=body, allow_redirects=False) as response,
        ):
            return Answer(response.status, _object(await response.content.read(_MOST_BODY_BYTES)))
    except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
        raise connection_error(error.__cause__ or error, url.partition("?")[0]) from error


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
