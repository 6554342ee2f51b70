"""One hub for the whole suite; what a case needs of it is in `bench.py`."""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator

import pytest_asyncio

from edge_gateway.testbench import free_loopback_address
from edge_gateway.testbench.cloud.front_door import HTTPS_PORT
from edge_gateway.testbench.cloud.local_cloud import LocalCloud
from edge_gateway.testbench.listener import may_listen
from tests.testbench.cloud.mqtt_client import ShiftedClock

from .bench import Bench
from .kinds import NODE


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bench() -> AsyncIterator[Bench]:
    clock = ShiftedClock(0.0)
    # Not seeded: several runs of the suite may share the machine.
    address = free_loopback_address(random.Random())
    https_port = HTTPS_PORT if may_listen(HTTPS_PORT) else None
    async with LocalCloud(address=address, https_port=https_port, amqp_port=None, clock=clock) as cloud:
        cloud.dps.polls, cloud.dps.retry_after_s = 0, 1  # one case wants polls, and nobody wants to wait for long
        # Each case looks for sockets that its client forgot; it need not look through all that was there before.
        gc.collect()
        gc.freeze()
        yield Bench(cloud, clock)
        gc.unfreeze()
        await NODE.stop()
