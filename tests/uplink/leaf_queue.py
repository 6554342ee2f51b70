"""What is queued for one leaf, in a durable buffer of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import BufferUnavailable, LaneFull
from edge_gateway.offload import run_inline
from edge_gateway.records import Message, Reading
from edge_gateway.testbench.bench_store import open_bench_store


class LeafBuffer(DurableBuffer):
    """`LeafQueue` with a store in memory, to be entered.

    Args:
        device: whose readings are queued.
    """

    def __init__(self, device: str) -> None:
        limits = BufferSettings(max_message_age_s=0, max_records_per_message=5)
        store = open_bench_store(":memory:", limits, rng=random.Random(device))
        super().__init__(store, settle_within_s=0.05, commit_within_s=0.01, offload=run_inline)
        self._device = device
        self._unsettled = 0
        self._has_some = asyncio.Event()

    async def measure(self, count: int = 1) -> None:
        """Append some readings."""
        await self.append(Batch([Reading(self._device, "climate", 0, {}) for _ in range(count)]))

    def submit(self, batch: Batch, done: Callable[[BufferUnavailable | LaneFull | None], None]) -> None:
        self._unsettled += len(batch.records)
        if self._unsettled:
            self._has_some.set()
        super().submit(batch, done)

    def settle(self, message: Message) -> None:
        super().settle(message)
        self._unsettled -= message.records
        if not self._unsettled:
            self._has_some.clear()

    @property
    def has_queued(self) -> bool:
        return self._has_some.is_set()

    async def wait_queued(self) -> None:
        await self._has_some.wait()
