"""Calls a running local hub as a service would, for the command line: REST with the token of a policy.

Where the hub is and what its key is stands in the directory that it was started with.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from edge_gateway.clock import NS_PER_S, Clock, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import CA_FILE
from edge_gateway.testbench.cloud.local_cloud import CONNECTIONS_FILE
from edge_gateway.testbench.cloud.tokens import sas_token

_API_VERSION = "2021-04-12"
_TOKEN_LIFETIME_S = 3600
_ANSWER_WITHIN_S = 330.0
"""A direct method may take 300 s."""
_MAX_ANSWER_BYTES = 16 << 20


class HubClient:
    """Speaks to the hub that was started with a directory.

    Args:
        directory: the hub's.
        clock: wall time, for tokens.

    Raises:
        BenchError: no hub has been started with it.
    """

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._where = str(directory)
        try:
            connections = orjson.loads((directory / CONNECTIONS_FILE).read_bytes())
            self._tls = ssl.create_default_context(cafile=str(directory / CA_FILE))
        except (OSError, orjson.JSONDecodeError) as error:
            raise BenchError(
                f"no local hub to be found: {error}",
                where=self._where,
                remedy="Start one with `edge-gateway hub --directory`, and name the same directory here",
            ) from error
        self._connections: dict[str, Any] = connections

    def token(self, device_id: str, module_id: str = "") -> str:
        """A token as the device or module itself would make it, good for an hour.

        Raises:
            BenchError: the hub has no keys for it.
        """
        module = f"/modules/{module_id}" if module_id else ""
        resource = f"{self._connections['hub']}/devices/{device_id}{module}"
        return self._signed(resource, self._connection_string(device_id, module_id))

    def key(self, device_id: str, module_id: str = "") -> str:
        """The primary key of a device or module, base64.

        Raises:
            BenchError: the hub has no keys for it.
        """
        return _parts(self._connection_string(device_id, module_id))["SharedAccessKey"]

    def call(self, method: str, path: str, document: Any = None, body: bytes | None = None) -> Any:
        """Make a call and return what the answer holds, as JSON has it; None for nothing.

        Args:
            method: of HTTP.
            path: with everything in it encoded.
            document: sent as JSON.
            body: sent as it is, in place of a document.

        Raises:
            BenchError: the hub is not there, or refuses.
        """
        if document is not None:
            body = orjson.dumps(document)
        with closing(self._connection()) as connection:
            answer = self._request(connection, method, f"{path}?api-version={_API_VERSION}", body)
            content = answer.read(_MAX_ANSWER_BYTES)
        return orjson.loads(content) if content else None

    def events(self, from_sequence: int | None) -> Iterator[bytes]:
        """The hub's events as lines of JSON, until it ends.

        Raises:
            BenchError: the hub is not there.
        """
        query = "" if from_sequence is None else f"?from={from_sequence}"
        with closing(self._connection(timeout_s=None)) as connection:
            yield from self._request(connection, "GET", f"/messages/events{query}", None)

    def _connection(self, timeout_s: float | None = _ANSWER_WITHIN_S) -> http.client.HTTPSConnection:
        port = self._connections["ports"].get("https")
        if port is None:
            raise BenchError("the hub has no HTTPS", where=self._where, remedy="Start it with --https-port")
        return http.client.HTTPSConnection(self._connections["address"], port, timeout=timeout_s, context=self._tls)

    def _request(
        self, connection: http.client.HTTPSConnection, method: str, target: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": self._signed(self._connections["hub"], self._connections["service"])}
        if body is not None:
            headers["Content-Type"] = "application/json; charset=utf-8"
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(
                f"the hub cannot be reached: {error}", where=self._where, remedy="Is it running?"
            ) from error
        if answer.status >= 300:
            raise BenchError(_reason(answer), where=target.partition("?")[0], remedy="See the hub's log")
        return answer

    def _connection_string(self, device_id: str, module_id: str) -> str:
        name = f"{device_id}/{module_id}" if module_id else device_id
        known = self._connections["modules" if module_id else "devices"]
        if name not in known:
            raise BenchError("no such device or module, or it has no keys", where=name, remedy="Add it to the hub")
        connection_string: str = known[name]
        return connection_string

    def _signed(self, resource: str, connection_string: str) -> str:
        parts = _parts(connection_string)
        expires_s = self._clock.now_ns() // NS_PER_S + _TOKEN_LIFETIME_S
        return sas_token(resource, parts["SharedAccessKey"], expires_s, policy=parts.get("SharedAccessKeyName", ""))


def _parts(connection_string: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in connection_string.split(";"))


def identity_path(name: str) -> str:
    """`device` or `device/module` as calls on twins name it."""
    device_id, _, module_id = name.partition("/")
    module = f"/modules/{quote(module_id, safe='')}" if module_id else ""
    return f"/twins/{quote(device_id, safe='')}{module}"


def _reason(answer: http.client.HTTPResponse) -> str:
    content = answer.read(_MAX_ANSWER_BYTES)
    try:
        message = orjson.loads(content)["Message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        message = answer.reason
    return f"the hub refuses ({answer.status}): {message}"
