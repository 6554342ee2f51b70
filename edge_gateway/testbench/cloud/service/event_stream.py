"""What devices sent, for people and scripts: one JSON document a line, on a terminal or as an HTTP stream.

The stream is ours and not IoT Hub's, where events are read by AMQP: `GET /messages/events?from={sequence}` with a token
that may connect services. It goes on until the reader leaves.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from edge_gateway.clock import rfc3339
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.hub_messages import HubEvent
from edge_gateway.testbench.cloud.tokens import Right

if TYPE_CHECKING:  # aiohttp costs a third of the start and is needed for HTTPS only
    from aiohttp import web

_PATH = "/messages/events"


def event_line(event: HubEvent) -> bytes:
    """A message as one line of JSON, with its line feed.

    The body stands under `body` if it is JSON, under `text` if it is other UTF-8, and otherwise under `base64`.
    """
    message = event.message
    document: dict[str, Any] = {
        "sequence": event.sequence,
        "time": rfc3339(message.enqueued_ns),
        "device": message.device_id,
    }
    if message.module_id:
        document["module"] = message.module_id
    document["properties"] = message.properties
    document["system"] = message.system_properties
    document |= _body(message.body)
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def routes(hub: LocalHub) -> list[web.RouteDef]:
    """The stream of a hub's events."""
    from aiohttp import web

    from edge_gateway.testbench.cloud.https import HttpRefused

    async def stream(request: web.Request) -> web.StreamResponse:
        hub.admit_service(request.headers.get("Authorization", ""), Right.SERVICE_CONNECT, _PATH)
        begin = request.query.get("from")
        if begin is not None and not begin.isdecimal():
            raise HttpRefused(400, "ArgumentInvalid", "from is a sequence number, 0 or above", where=_PATH)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async for event in hub.events(int(begin) if begin is not None else None):
            await response.write(event_line(event))
        return response

    return [web.get(_PATH, stream)]


def _body(body: bytes) -> dict[str, Any]:
    try:
        return {"body": orjson.loads(body)}
    except orjson.JSONDecodeError:
        pass
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
