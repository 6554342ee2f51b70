"""Fixtures for test suites of one's own; pytest finds them by itself where Edge Gateway is installed with `[bench]`.

```python
async def test_my_device(local_cloud: LocalCloud) -> None:
    identity = local_cloud.hub.add_device("sensor-1")
    ...  # connect the client under test to local_cloud.hub.host_name; it has to trust local_cloud.authority.ca_pem
    await local_cloud.hub.until(lambda: local_cloud.hub.statistics.messages == 1)
```

It stands outside the bench so that the bench is imported only when a fixture is asked for.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from edge_gateway.testbench.cloud.hub import LocalHub
    from edge_gateway.testbench.cloud.local_cloud import LocalCloud


@pytest.fixture
def free_address() -> str:
    """A loopback address on which the ports are free that SDKs connect to. Another one for each test."""
    from edge_gateway.testbench.listener import free_loopback_address

    # Not seeded: several suites may run on the machine at once.
    return free_loopback_address(random.SystemRandom())


@pytest_asyncio.fixture
async def local_hub(free_address: str) -> AsyncIterator[LocalHub]:
    """An IoT Hub for the test, over MQTT. It is gone when the test ends."""
    from edge_gateway.testbench.certificates import LocalAuthority
    from edge_gateway.testbench.cloud.hub import LocalHub

    async with LocalHub(authority=LocalAuthority(), address=free_address) as hub:
        yield hub


@pytest_asyncio.fixture
async def local_cloud(free_address: str) -> AsyncIterator[LocalCloud]:
    """A hub and a provisioning service for the test, over MQTT, AMQP and HTTPS; the last on 443 if this user may."""
    from edge_gateway.testbench.cloud.local_cloud import LocalCloud
    from edge_gateway.testbench.listener import may_listen

    https_port = 443 if may_listen(443) else 0
    async with LocalCloud(address=free_address, https_port=https_port) as cloud:
        yield cloud
