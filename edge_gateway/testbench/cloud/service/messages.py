"""The calls of services on messages to devices: sending, purging, and hearing how they ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.testbench.cloud.cloud_messages import Ack
from edge_gateway.testbench.cloud.https import HttpRefused
from edge_gateway.testbench.cloud.refusals import MessageLockLost
from edge_gateway.testbench.cloud.service.requests import answer

if TYPE_CHECKING:  # the hub imports this module
    from edge_gateway.testbench.cloud.hub import LocalHub
    from edge_gateway.testbench.cloud.hub_messages import FeedbackRecord

FEEDBACK_CONTENT_TYPE = "application/vnd.microsoft.iothub.feedback.json"
MAX_FEEDBACK_RECORDS = 64
"""In one answer."""
FEEDBACK_LOCK_S = 60.0
_APP_PREFIX = "iothub-app-"
_SYSTEM_HEADERS = {
    "iothub-correlationid": "correlation-id",
    "iothub-userid": "user-id",
    "iothub-contenttype": "content-type",
    "iothub-contentencoding": "content-encoding",
}


@dataclass(frozen=True, slots=True)
class _LockedFeedback:
    records: list[FeedbackRecord]
    until_s: float
    """Event loop time."""


class MessageCalls:
    """Messages to devices, and how they ended."""

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._locked: dict[str, _LockedFeedback] = {}

    async def send(self, request: web.Request) -> web.Response:
        """A message to a device, in headers and body as the device will have them."""
        device_id = request.match_info["device_id"]
        ack = request.headers.get("iothub-ack", Ack.NONE.value).lower()
        if ack not in {each.value for each in Ack}:
            raise HttpRefused(400, "ArgumentInvalid", "iothub-ack is none, positive, negative or full", where=device_id)
        properties = {
            name[len(_APP_PREFIX) :]: value
            for name, value in request.headers.items()
            if name.lower().startswith(_APP_PREFIX)
        }
        system = {
            name: request.headers[header] for header, name in _SYSTEM_HEADERS.items() if header in request.headers
        }
        self._hub.send_c2d(
            device_id,
            await request.read(),
            properties,
            message_id=request.headers.get("iothub-messageid"),
            system_properties=system,
            expires_ns=_expiry_ns(request.headers.get("iothub-expiry"), device_id),
            ack=ack,
        )
        return web.Response(status=204)

    async def purge(self, request: web.Request) -> web.Response:
        """End all messages that wait for a device."""
        device_id = request.match_info["device_id"]
        purged = self._hub.purge_c2d(device_id)
        return answer({"deviceId": device_id, "moduleId": None, "totalMessagesPurged": purged})

    async def receive_feedback(self, _request: web.Request) -> web.Response:
        """The oldest records under a lock; what nobody completes in a minute is handed out again."""
        now_s = asyncio.get_running_loop().time()
        for lock_token in [token for token, locked in self._locked.items() if locked.until_s <= now_s]:
            self._release(lock_token)
        feedback = self._hub.feedback
        records = [feedback.popleft() for _ in range(min(len(feedback), MAX_FEEDBACK_RECORDS))]
        if not records:
            return web.Response(status=204)
        lock_token = self._hub.next_lock_token()
        self._locked[lock_token] = _LockedFeedback(records, now_s + FEEDBACK_LOCK_S)
        body = orjson.dumps([_feedback_document(record) for record in records])
        return web.Response(body=body, headers={"Content-Type": FEEDBACK_CONTENT_TYPE, "ETag": f'"{lock_token}"'})

    async def complete_feedback(self, request: web.Request) -> web.Response:
        """Be done with records that were handed out."""
        self._held(request)
        del self._locked[request.match_info["lock_token"]]
        return web.Response(status=204)

    async def abandon_feedback(self, request: web.Request) -> web.Response:
        """Have records handed out again."""
        self._held(request)
        self._release(request.match_info["lock_token"])
        return web.Response(status=204)

    def _held(self, request: web.Request) -> None:
        if request.match_info["lock_token"] not in self._locked:
            raise MessageLockLost("no feedback is held under this lock", where="feedback", remedy="Receive it again")

    def _release(self, lock_token: str) -> None:
        self._hub.feedback.extendleft(reversed(self._locked.pop(lock_token).records))
        self._hub.changed()


def _expiry_ns(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * NS_PER_S)
    except (ValueError, OverflowError):
        raise HttpRefused(400, "ArgumentInvalid", "iothub-expiry is no time of ISO 8601", where=where) from None


def _feedback_document(record: FeedbackRecord) -> dict[str, str]:
    return {
        "originalMessageId": record.original_message_id,
        "enqueuedTimeUtc": rfc3339(record.enqueued_ns),
        "statusCode": record.outcome.value,
        "description": record.outcome.value,
        "deviceId": record.device_id,
        "deviceGenerationId": record.generation_id,
    }
