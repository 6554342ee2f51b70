"""What a hub sends to solutions on links of theirs: a task for each link, no faster than its client takes it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import orjson
import structlog

from edge_gateway.clock import rfc3339
from edge_gateway.testbench.cloud.amqp.composites import Accepted, Error, Properties, Rejected, State
from edge_gateway.testbench.cloud.amqp.message import Message
from edge_gateway.testbench.cloud.amqp.sessions import OutgoingLink
from edge_gateway.testbench.cloud.amqp.values import Symbol, Timestamp
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.hub_messages import FeedbackRecord

_log = structlog.get_logger()

_MAX_FEEDBACK_RECORDS = 64
NS_PER_MS = 1_000_000


class Feed:
    """Sends on a link what a coroutine makes.

    Args:
        link: to the client.
        run: the coroutine, called with this feed; ends when the link does.
    """

    def __init__(self, link: OutgoingLink, run: Callable[[Feed], Coroutine[Any, Any, None]]) -> None:
        self._link = link
        self._room = asyncio.Event()
        self._task = asyncio.create_task(run(self), name=f"testbench-amqp-{link.address}")
        self._task.add_done_callback(self._finished)

    async def room(self) -> None:
        """Wait until the client takes a message."""
        while not self._link.ready:
            self._room.clear()
            await self._room.wait()

    async def send(self, message: Message, on_settled: Callable[[State], None] | None = None) -> None:
        """Send a message; see `OutgoingLink.send`."""
        self._link.send(message.encode(), on_settled)
        await asyncio.sleep(0)  # lets what was gathered be written, and the transport say that it is enough

    def wake(self) -> None:
        """See `Outlet`."""
        self._room.set()

    def closed(self) -> None:
        """See `Outlet`."""
        self._task.cancel()

    def _finished(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("testbench.amqp.feed_failed", address=self._link.address, exc_info=error)
            self._link.detach(Error(Symbol("amqp:internal-error"), "the log of the bench says more"))


async def feed_feedback(feed: Feed, hub: LocalHub, gather_s: float) -> None:
    """Send how cloud-to-device messages ended, up to 64 records in a message.

    Args:
        feed: the link's.
        hub: whose.
        gather_s: how long a first record waits for company. IoT Hub waits up to 15 s.
    """
    while True:
        await feed.room()
        await hub.until(lambda: bool(hub.feedback))
        try:
            async with asyncio.timeout(gather_s):
                await hub.until(lambda: len(hub.feedback) >= _MAX_FEEDBACK_RECORDS)
        except TimeoutError:
            pass
        records = [hub.feedback.popleft() for _ in range(min(len(hub.feedback), _MAX_FEEDBACK_RECORDS))]
        if records:  # another reader may have been first
            message = _to_service(
                hub, "feedback", "application/vnd.microsoft.iothub.feedback.json", [_feedback(each) for each in records]
            )
            await feed.send(message, _unless_given_back(hub, hub.feedback, records))


async def feed_file_notifications(feed: Feed, hub: LocalHub) -> None:
    """Send what devices have uploaded, one message each. That the content type is IoT Hub's is UNVERIFIED."""
    notifications = hub.blobs.file_notifications
    while True:
        await feed.room()
        await hub.until(lambda: bool(notifications))
        one = notifications.popleft()
        message = _to_service(
            hub,
            "filenotifications",
            "application/vnd.microsoft.iothub.filenotification.json",
            {
                "deviceId": one.device_id,
                "blobUri": one.blob_uri,
                "blobName": one.blob_name,
                "lastUpdatedTime": rfc3339(one.last_updated_ns),
                "blobSizeInBytes": one.size_bytes,
                "enqueuedTimeUtc": rfc3339(one.enqueued_ns),
            },
        )
        await feed.send(message, _unless_given_back(hub, notifications, [one]))


def _feedback(record: FeedbackRecord) -> dict[str, str]:
    return {
        "originalMessageId": record.original_message_id,
        "enqueuedTimeUtc": rfc3339(record.enqueued_ns),
        "statusCode": record.outcome.value,
        "description": record.outcome.value,
        "deviceId": record.device_id,
        "deviceGenerationId": record.generation_id,
    }


def _to_service(hub: LocalHub, queue: str, content_type: str, content: Any) -> Message:
    enqueued = Timestamp(hub.now_ns() // NS_PER_MS)
    properties = Properties(
        user_id=hub.host_name.encode(), to=f"/messages/serviceBound/{queue}", content_type=Symbol(content_type)
    )
    return Message(orjson.dumps(content), None, properties, annotations={Symbol("iothub-enqueuedtime"): enqueued})


def _unless_given_back(hub: LocalHub, queue: deque[Any], items: Iterable[Any]) -> Callable[[State], None]:
    """Puts items back at the front of their queue unless the client took or refused them for good."""

    def settled(state: State) -> None:
        if not isinstance(state, Accepted | Rejected):
            queue.extendleft(reversed(list(items)))
            hub.changed()

    return settled
