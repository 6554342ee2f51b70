"""HTTPS to the provisioning service, for any number of devices at once.

TLS is always verified. A proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`) is used. When the service
throttles one request (429), all wait; a few faults of its own (5xx) are borne. Answers are bounded.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

import aiohttp
import structlog
import yarl

from edge_gateway import __version__
from edge_gateway.provisioning.dps_answers import MOST_BODY_BYTES, not_understood
from edge_gateway.provisioning.dps_faults import connection_fault

_log = structlog.get_logger()

_REQUEST_WITHIN_S: Final = 30.0
_ASK_AGAIN_AFTER_S: Final = 2.0
"""Unless the service says otherwise; as the SDKs have it."""
_LONGEST_WAIT_S: Final = 120.0
_JITTER: Final = 0.25
"""By how much a wait may be longer than asked for, so that devices that began together do not stay together."""
_FAULTS_BORNE: Final = 3
"""Answers 5xx to one request."""
_THROTTLED: Final = 429
_FAULTY: Final = 500


class Reply(NamedTuple):
    """An answer, whatever its status."""

    status: int
    body: bytes
    date: str
    """The service's time as it writes it; empty if it does not."""
    wait_s: float
    """How long to wait before asking again."""


class DpsHttp:
    """One service. Use it as an async context manager.

    Args:
        host: the service's.
        port: the service's.
        tls: checks its certificate.
        rng: jitter.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext, rng: random.Random) -> None:
        self._origin = f"https://{host}" if port == 443 else f"https://{host}:{port}"
        # Not aiohttp's `trust_env`, which would look for passwords in ~/.netrc, too.
        self._proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
        self._tls = tls
        self._rng = rng
        self._session: aiohttp.ClientSession
        self._ask_not_before_s = 0.0
        """Event loop time, put off by a throttled service."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_WITHIN_S),
            headers={"User-Agent": f"edge-gateway/{__version__}", "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, where: str) -> Reply:
        """Send one request, again where the service asks for patience.

        It does not end by itself while the service throttles: the caller sets the limit.

        Args:
            method: HTTP's.
            path: with the query, percent-encoded.
            headers: besides those that every request has.
            body: JSON, or None.
            where: the service and the device, for errors.

        Raises:
            ProvisioningUnavailable: there is no answer, or one that is too long.
            ProvisioningRefused: the service's certificate cannot be trusted.
        """
        loop = asyncio.get_running_loop()
        faults_left = _FAULTS_BORNE
        while True:
            while (wait_s := self._ask_not_before_s - loop.time()) > 0:  # noqa: ASYNC110  # for a time, not an event
                await asyncio.sleep(wait_s + self._rng.uniform(0, _JITTER * wait_s))
            reply = await self._once(method, path, headers=headers, body=body, where=where)
            if reply.status == _THROTTLED:
                _log.warning("provisioning.throttled", where=where, wait_s=round(reply.wait_s, 1))
                self._ask_not_before_s = max(self._ask_not_before_s, loop.time() + reply.wait_s)
            elif reply.status >= _FAULTY and faults_left:
                faults_left -= 1
                _log.warning("provisioning.faulty_answer", where=where, status=reply.status)
                await asyncio.sleep(reply.wait_s)
            else:
                return reply

    async def _once(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, where: str
    ) -> Reply:
        try:
            async with self._session.request(
                method,
                yarl.URL(self._origin + path, encoded=True),
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as response:
                content = await _read_bounded(response, where)
                return Reply(response.status, content, response.headers.get("Date", ""), self._wait_s(response.headers))
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # time-outs are OSErrors
            raise connection_fault(error, where) from error

    def _wait_s(self, headers: Mapping[str, str]) -> float:
        told = headers.get("retry-after", "")
        wait_s = min(float(told), _LONGEST_WAIT_S) if told.isascii() and told.isdigit() else _ASK_AGAIN_AFTER_S
        return wait_s * (1 + self._rng.uniform(0, _JITTER))


async def _read_bounded(response: aiohttp.ClientResponse, where: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_chunked(MOST_BODY_BYTES):
        content += chunk
        if len(content) > MOST_BODY_BYTES:
            raise not_understood(f"it is longer than {MOST_BODY_BYTES} bytes", where)
    return bytes(content)
