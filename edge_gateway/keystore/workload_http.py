"""Requests to the workload API of an IoT Edge host: blocking, one at a time, bounded in size and time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import orjson

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore.secret import Secret

MOST_ANSWER_BYTES: Final = 64 * 1024
"""A digest or a secret takes a few hundred."""

_MOST_MESSAGE_CHARACTERS: Final = 200

_OK: Final = 200
_FORBIDDEN: Final = 403
_SERVER_FAULT: Final = 500


class HostFailed(KeyStoreUnavailable):
    """The host was reached and could not do it; whose fault it is, it does not say."""


class WorkloadHttp:
    """Asks for one module.

    A host answers ten requests at a time and cuts off the eleventh, of all who ask in the module; so from here comes
    one at a time, and one that is cut off is `KeyStoreUnavailable`.

    Args:
        uri: `unix:///path/of.sock` or `http://host:port`.
        module_id: the module's name.
        generation_id: of its identity in the hub.
        api_version: of the API.
        timeout_s: for each step of a request.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, uri: str, *, module_id: str, generation_id: str, api_version: str, timeout_s: float) -> None:
        self.uri: Final = uri
        self._connection = _connector(uri, timeout_s)
        self._path = f"/modules/{quote(module_id, safe='')}/genid/{quote(generation_id, safe='')}"
        self._query = f"api-version={quote(api_version, safe='')}"
        self._one_at_a_time = threading.Lock()

    def ask(self, what: str, request: Mapping[str, str], wanted: str) -> Secret:
        """Put a request and return one value of the answer, decoded from base64.

        Args:
            what: `sign`, `encrypt` or `decrypt`.
            request: its body.
            wanted: the value's name.

        Raises:
            HostFailed: the host could not do it.
            KeyStoreUnavailable: it does not answer.
            KeyStoreError: it refuses, or answers something else.
        """
        with self._one_at_a_time:
            status, content = self._exchange(f"{self._path}/{what}?{self._query}", orjson.dumps(request))
        if status != _OK:
            raise self._refused(status, content)
        try:
            return Secret.from_base64(_parsed(content)[wanted].encode("ascii"))
        except (ValueError, KeyError, AttributeError):  # no JSON or base64; not there; no text
            raise self.misunderstood(f"no {wanted} in base64") from None

    def misunderstood(self, what: str) -> KeyStoreError:
        """The error for an answer that makes no sense."""
        return KeyStoreError(
            f"the IoT Edge host answers with {what}",
            where=self.uri,
            remedy="See that IOTEDGE_WORKLOADURI is the address of a workload API",
        )

    def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            content = response.read(MOST_ANSWER_BYTES + 1)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._unavailable("cut the request off; it may have too many at once") from error
        except TimeoutError as error:
            raise self._unavailable("does not answer in time") from error
        except OSError as error:
            raise self._unavailable(f"cannot be reached: {error.strerror or error}") from error
        except http.client.HTTPException as error:
            raise self.misunderstood(f"what is no HTTP ({type(error).__name__})") from error
        finally:
            connection.close()
        if len(content) > MOST_ANSWER_BYTES:
            raise self.misunderstood(f"more than {MOST_ANSWER_BYTES} bytes")
        return response.status, content

    def _refused(self, status: int, content: bytes) -> KeyStoreError:
        try:
            message = str(_parsed(content)["message"])[:_MOST_MESSAGE_CHARACTERS]
        except (ValueError, KeyError):
            message = "no reason given"
        what = f"the IoT Edge host refuses: {message} (status {status})"
        if status >= _SERVER_FAULT:
            return HostFailed(what, where=self.uri, remedy="Look at it: iotedge system logs")
        if status == _FORBIDDEN:
            return KeyStoreError(what, where=self.uri, remedy="Each module may only ask for itself, on its own socket")
        return KeyStoreError(
            what, where=self.uri, remedy="See that module, generation and IOTEDGE_APIVERSION are right"
        )

    def _unavailable(self, what: str) -> KeyStoreUnavailable:
        return KeyStoreUnavailable(
            f"the IoT Edge host {what}", where=self.uri, remedy="See that IoT Edge runs: iotedge system status"
        )


def _parsed(content: bytes) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none.
    """
    document = orjson.loads(content)
    if not isinstance(document, dict):
        raise ValueError("no object")
    return document


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connector(uri: str, timeout_s: float) -> Callable[[], http.client.HTTPConnection]:
    """Makes connections to an address.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise _no_address(uri) from None
    if parts.scheme == "unix" and not parts.netloc and parts.path:
        path = unquote(parts.path)
        return lambda: _UnixConnection(path, timeout_s)
    if parts.scheme == "http" and parts.hostname:
        host = parts.hostname
        return lambda: http.client.HTTPConnection(host, port, timeout=timeout_s)
    raise _no_address(uri)


def _no_address(uri: str) -> ConfigError:
    return ConfigError(
        "is no address of a workload API",
        where=f"IOTEDGE_WORKLOADURI {uri!r}",
        remedy="unix:///var/run/iotedge/workload.sock would do",
    )
