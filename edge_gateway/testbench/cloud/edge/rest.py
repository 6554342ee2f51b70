"""What modules ask their edge hub for over HTTPS: direct methods of each other, and of devices behind it.

Only modules of the edge device may, and they say who they are twice, in a header and by a token. Answers are those of
edgeHub's TwinsController: the method's own status and payload with 200, or a `message`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from aiohttp import web

from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.refusals import AccessDenied, DeviceNotOnline, MethodTimedOut

if TYPE_CHECKING:  # the edge hub imports this module when it needs it
    from edge_gateway.testbench.cloud.edge.hub import EdgeHub

_log = structlog.get_logger()

_ACTOR_HEADER = "x-ms-edge-moduleId"
_MAX_NAME_CHARACTERS: Final = 100
_MAX_PAYLOAD_BYTES: Final = 128 * 1024
_RESPONSE_S: Final = (5, 300)
"""Shortest and longest time a method may take to answer."""
_CONNECT_S: Final = (0, 300)
_DEFAULT_RESPONSE_S: Final = 30


class _Refused(Exception):
    """A call is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def routes(hub: EdgeHub) -> list[web.RouteDef]:
    """An edge hub's answers to its modules."""

    async def call(request: web.Request) -> web.Response:
        try:
            _check_caller(hub, request)
            return _json(200, await _invoke(hub, request))
        except _Refused as refused:
            return _json(refused.status, {"message": str(refused)})

    return [
        web.post("/twins/{device_id}/methods", call),
        web.post("/twins/{device_id}/modules/{module_id}/methods", call),
    ]


def _check_caller(hub: EdgeHub, request: web.Request) -> None:
    """Check that a module of the edge device is calling.

    Raises:
        _Refused: it is somebody else.
    """
    device_id, _, module_id = request.headers.get(_ACTOR_HEADER, "").partition("/")
    if not device_id or not module_id:
        raise _Refused(400, f"Invalid header value for {_ACTOR_HEADER}")
    if device_id != hub.device_id:
        raise _Refused(401, "Only modules on the same device can invoke DirectMethods")
    try:
        hub.admit_client(IdentityName(device_id, module_id), token=request.headers.get("Authorization", ""))
    except AccessDenied as error:
        _log.info("testbench.edge.denied", module=module_id, reason=error.what)
        raise _Refused(401, "Unauthorized") from None


async def _invoke(hub: EdgeHub, request: web.Request) -> dict[str, Any]:
    target = IdentityName(request.match_info["device_id"], request.match_info.get("module_id", ""))
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise _Refused(400, "the body is not JSON") from None
    match body:
        case {"methodName": str(name)} if 1 <= len(name) <= _MAX_NAME_CHARACTERS:
            timeout_s = _seconds(body, "responseTimeoutInSeconds", _RESPONSE_S, _DEFAULT_RESPONSE_S)
            connect_timeout_s = _seconds(body, "connectTimeoutInSeconds", _CONNECT_S, 0)
        case _:
            raise _Refused(400, f"methodName is missing, not text, or longer than {_MAX_NAME_CHARACTERS} characters")
    payload = body.get("payload")
    if len(orjson.dumps(payload)) > _MAX_PAYLOAD_BYTES:
        raise _Refused(400, f"the payload is larger than {_MAX_PAYLOAD_BYTES} bytes")
    try:
        response = await hub.invoke_method(
            target, name, payload, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s
        )
    except DeviceNotOnline as error:
        raise _Refused(404, error.what) from None
    except MethodTimedOut as error:
        raise _Refused(504, error.what) from None
    return {"status": response.status, "payload": response.payload}


def _seconds(body: dict[str, Any], name: str, allowed: tuple[int, int], default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not allowed[0] <= value <= allowed[1]:
        raise _Refused(400, f"{name} has to be between {allowed[0]} and {allowed[1]}")
    return value


def _json(status: int, content: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json", charset="utf-8")
