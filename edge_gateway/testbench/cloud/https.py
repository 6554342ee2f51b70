"""HTTPS for the local cloud: an aiohttp application on connections that somebody else accepts and speaks TLS on.

A handler is a coroutine on a service's Python objects. It says no by raising, and one middleware puts that into IoT
Hub's words, `{"Message": "ErrorCode:DeviceNotFound;...", "ExceptionMessage": ""}`, with the code in the header
`iothub-errorcode` as well. A service with other words wraps its handlers in `answering`.

What is not HTTP, too large or not ASCII where it has to be ends in a refusal and at most a line in the debug log; only
an error of the bench's own is logged with its traceback, and no client ever sees one.

```python
service = HttpsService([web.get("/devices/{device_id}", show_device)])
await service.start()
...  # accept TLS connections with service.make_protocol
await service.stop()
```

Importing aiohttp costs 11 MB and 0.13 s: import this module only where HTTPS is asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import orjson
import structlog
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.typedefs import Handler, Middleware

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.refusals import (
    AccessDenied,
    DeviceNotOnline,
    EtagMismatch,
    IdentityExists,
    IdentityNotFound,
    LimitExceeded,
    MessageLockLost,
    MethodTimedOut,
    QueueFull,
    QuotaExceeded,
    Throttled,
)

_log = structlog.get_logger()

MAX_BODY_BYTES = 2 * 1024 * 1024
"""Of a request whose handler reads it whole. The largest the hub takes is a deployment of some modules."""
_MAX_LINE_BYTES = 16 * 1024
"""Of a request line or header: tokens and property values are short, and 256 KB of properties go into a body."""
_BODY_WITHIN_S = 30.0
_IDLE_S = 75.0
_STOP_WITHIN_S = 0.5
"""For requests under way when the service stops, twice: once to end, once to hear that they have to."""


class HttpRefused(BenchError):
    """A request is refused in words of the handler's choice, where no other refusal says it.

    Args:
        status: HTTP status, 400 or above.
        code: IoT Hub's name for it, e.g. `ArgumentInvalid`.
        what: one sentence for the client.
        where: what it is about, for the log.
    """

    def __init__(self, status: int, code: str, what: str, *, where: str = "") -> None:
        super().__init__(what, where=where)
        self.status = status
        self.code = code


class Failure(NamedTuple):
    """What a client is told when its request fails, whatever the form."""

    status: int
    code: str
    text: str
    headers: Mapping[str, str]


FailureForm: TypeAlias = Callable[[Failure], web.Response]

_ANSWERS: Mapping[type[BenchError], tuple[int, str]] = {
    IdentityNotFound: (404, "DeviceNotFound"),
    DeviceNotOnline: (404, "DeviceNotOnline"),
    IdentityExists: (409, "DeviceAlreadyExists"),
    EtagMismatch: (412, "PreconditionFailed"),
    MessageLockLost: (412, "DeviceMessageLockLost"),
    QueueFull: (403, "DeviceMaximumQueueDepthExceeded"),
    LimitExceeded: (413, "MessageTooLarge"),
    QuotaExceeded: (403, "IotHubQuotaExceeded"),
    MethodTimedOut: (504, "GatewayTimeout"),
}


def hub_form(failure: Failure) -> web.Response:
    """A failure as IoT Hub tells it. Clients take the code from between the first `:` and `;`."""
    return web.json_response(
        {"Message": f"ErrorCode:{failure.code};{failure.text}", "ExceptionMessage": ""},
        status=failure.status,
        headers={"iothub-errorcode": failure.code, **failure.headers},
        dumps=_dumps,
    )


def failure_of(error: BenchError | web.HTTPException) -> Failure:
    """What to tell a client about an error. The reason a client was denied stays in the log."""
    match error:
        case web.HTTPException():
            kept = {name: value for name, value in error.headers.items() if name in {"Allow", "Retry-After"}}
            return Failure(error.status, type(error).__name__.removeprefix("HTTP"), error.reason, kept)
        case HttpRefused():
            return Failure(error.status, error.code, error.what, {})
        case AccessDenied():
            return Failure(401, "IotHubUnauthorizedAccess", "Unauthorized", {})
        case Throttled():
            return Failure(429, "ThrottlingException", error.what, {"Retry-After": str(math.ceil(error.retry_after_s))})
    for kind, (status, code) in _ANSWERS.items():
        if isinstance(error, kind):
            return Failure(status, code, error.what, {})
    return Failure(400, "ArgumentInvalid", error.what, {})


def answering(handler: Handler, form: FailureForm) -> Handler:
    """A handler like the given one whose errors are answered in `form`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            _check_ascii(request)
            return await handler(request)
        except BenchError as error:
            _log.info("testbench.https.refused", method=request.method, path=request.path, reason=str(error))
            failure = failure_of(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            failure = failure_of(error)
        return form(failure)

    return handle


async def arriving(body: Awaitable[bytes]) -> bytes:
    """Wait for a body, or a part of one, that a client is sending.

    Raises:
        HttpRefused: it does not come in time. So it is with a client that is too slow, and with one that has sent what
            cannot be a part of a body, of which aiohttp does not tell.
    """
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            return await body
    except TimeoutError:
        raise HttpRefused(408, "RequestTimeout", f"the body has not come within {_BODY_WITHIN_S} s") from None


async def read_body(request: web.Request) -> bytes:
    """The request's whole body.

    Raises:
        HttpRefused: it does not come in time.
        web.HTTPRequestEntityTooLarge: it is larger than `MAX_BODY_BYTES`.
    """
    return await arriving(request.read())


async def read_json(request: web.Request) -> Any:
    """The request's body as JSON.

    Raises:
        HttpRefused: it is not JSON in UTF-8, or as for `read_body`.
        web.HTTPRequestEntityTooLarge: as for `read_body`.
    """
    try:
        return orjson.loads(await read_body(request))
    except orjson.JSONDecodeError:
        raise HttpRefused(400, "IotHubFormatError", "the body is not JSON", where=request.path) from None


def cut(transport: asyncio.WriteTransport) -> None:
    """Abort a connection that aiohttp may have closed already."""
    # A TLS transport that is closed twice, as aiohttp does after a WebSocket, forgets what there is to abort, and in
    # Python 3.11.2 stumbles over that. It ends all the same, after the time TLS gives its peer for closing.
    with suppress(AttributeError):
        transport.abort()


class HttpsService:
    """An aiohttp application without a socket of its own.

    Args:
        routes: what it answers; any other path is 404.
        middlewares: run around each handler, within the one that answers errors.
        form: of the answers to what no handler has put into its own words.
    """

    def __init__(
        self, routes: Iterable[web.RouteDef], *, middlewares: Sequence[Middleware] = (), form: FailureForm = hub_form
    ) -> None:
        @web.middleware
        async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await answering(handler, form)(request)

        application = web.Application(middlewares=[answer_errors, *middlewares], client_max_size=MAX_BODY_BYTES)
        application.add_routes(routes)
        # Bodies stay compressed if they come so: what is stored is what was sent, and nothing can swell.
        self._settings: dict[str, Any] = {
            "access_log_class": _AccessLog,
            "auto_decompress": False,
            "keepalive_timeout": _IDLE_S,
            "max_field_size": _MAX_LINE_BYTES,
            "max_line_size": _MAX_LINE_BYTES,
        }
        self._runner = web.AppRunner(application, shutdown_timeout=_STOP_WITHIN_S)
        self._form = form
        self._connections: set[_Connection] = set()
        self._deserted = asyncio.Event()
        self._deserted.set()

    async def start(self) -> None:
        """Be ready for connections."""
        await self._runner.setup()

    async def stop(self) -> None:
        """End all connections; requests under way have a moment to finish."""
        await self._runner.cleanup()
        for connection in list(self._connections):
            connection.abort()
        await self._deserted.wait()

    def make_protocol(self) -> asyncio.Protocol:
        """What speaks HTTP on one connection.

        Raises:
            BenchError: the service is not started.
        """
        server = self._runner.server
        if server is None:
            raise BenchError("the HTTPS service is not running", where="https", remedy="Start it first")
        return _Connection(self, server, self._settings)

    def _arrived(self, connection: _Connection) -> None:
        self._connections.add(connection)
        self._deserted.clear()

    def _gone(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._deserted.set()


class _Connection(web.RequestHandler):
    """aiohttp's side of one connection, with our words for what is no request, and known to its service."""

    def __init__(self, service: HttpsService, server: web.Server, settings: Mapping[str, Any]) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._service = service
        self._made: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = transport
        self._service._arrived(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._service._gone(self)

    def force_close(self) -> None:
        if self.transport is not None and self.transport.is_closing():
            self.transport = None  # closed twice, it could not be aborted any more; see `cut`
        super().force_close()

    def abort(self) -> None:
        """Cut it. aiohttp forgets a transport when it begins to close it, so this one is remembered here."""
        if isinstance(self._made, asyncio.WriteTransport):
            cut(self._made)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp passes it; it may quote the client's bytes
    ) -> web.StreamResponse:
        if request.transport is None and isinstance(exc, ConnectionError):
            raise exc  # the client has gone in the middle of its request; aiohttp knows what to do
        if status >= 500:
            _log.error("testbench.https.failed", method=request.method, path=request.path, exc_info=exc)
            failure = Failure(status, "ServerError", "the bench has failed, see its log", {})
        else:
            _log.debug("testbench.https.malformed", cause=type(exc).__name__)
            failure = Failure(status, "BadRequest", "this is not HTTP/1.1, or too long", {})
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = self._service._form(failure)
        response.force_close()
        return response


class _AccessLog(AbstractAccessLogger):
    """One event for each answer. Without the query, which may hold a signature."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        _log.debug(
            "testbench.https.answered",
            method=request.method,
            path=request.path,
            status=response.status,
            duration_s=round(time, 6),
        )


def _check_ascii(request: web.Request) -> None:
    """Refuse letters beyond ASCII in the request line and headers, which HTTP leaves without a meaning.

    aiohttp passes them on as half characters, on which the next `encode` would fail.
    """
    if not request.raw_path.isascii() or not all(value.isascii() for value in request.headers.values()):
        raise HttpRefused(400, "BadRequest", "a header or the path is not ASCII", where=request.method)


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
