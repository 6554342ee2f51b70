"""The list of all that can be asked, by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

from edge_gateway.api.control import Answer, Handler
from edge_gateway.api.ledger import publish_ledger, show_ledger, verify_ledger
from edge_gateway.api.quarantine import list_quarantine, replay_quarantine
from edge_gateway.api.records import OpenBuffer, drain, export, rotate_key, stats, verify


class OpenGateway(Protocol):
    """What is needed of a gateway; `Gateway` has it."""

    @property
    def buffer(self) -> OpenBuffer:
        """Where its records are."""
        ...

    def status(self) -> dict[str, Any]:
        """What it is doing, as JSON can say it. `faults` lists what is wrong, in sentences."""
        ...

    async def publish_ledger(self) -> int:
        """Send the ledger's rows that were not sent yet, and return how many they are."""
        ...

    def replay_quarantine(self, link: str | None) -> AsyncIterator[Answer]:
        """Try the frames of the quarantine once more; lines of `progress` and `replayed`. None is all links."""
        ...


async def status(of_now: Callable[[], dict[str, Any]]) -> AsyncGenerator[Answer, None]:
    """Say what the gateway is doing: a line `status`."""
    yield {"status": of_now()}


def buffer_handlers(buffer: OpenBuffer) -> dict[str, Handler]:
    """What can be asked of a buffer, whether its gateway runs or not."""
    return {
        "buffer.stats": Handler(partial(stats, buffer)),
        "buffer.verify": Handler(partial(verify, buffer)),
        "buffer.export": Handler(partial(export, buffer)),
        "buffer.rotate-key": Handler(partial(rotate_key, buffer)),
        "ledger.show": Handler(partial(show_ledger, buffer), {"device": str, "since_s": int}),
        "ledger.verify": Handler(partial(verify_ledger, buffer)),
        "quarantine.list": Handler(partial(list_quarantine, buffer), {"link": str}),
    }


def gateway_handlers(gateway: OpenGateway) -> dict[str, Handler]:
    """What can be asked of a gateway: all that can be asked of its buffer, and what takes more than that."""

    def faults() -> list[str]:
        told: list[str] = gateway.status()["faults"]
        return told

    return buffer_handlers(gateway.buffer) | {
        "status": Handler(partial(status, gateway.status)),
        "buffer.drain": Handler(partial(drain, gateway.buffer, faults), {"timeout_s": float}),
        "ledger.publish": Handler(partial(publish_ledger, gateway.publish_ledger)),
        "quarantine.replay": Handler(partial(replay_quarantine, gateway.replay_quarantine), {"link": str}),
    }
