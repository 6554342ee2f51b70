"""One hub for each test, on a loopback address of its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from edge_gateway.testbench import LocalAuthority, LocalHub, free_loopback_address


@pytest.fixture(scope="session")
def authority() -> LocalAuthority:
    return LocalAuthority()


@pytest.fixture
def address() -> str:
    # Not seeded: several runs of the suite may share the machine.
    return free_loopback_address(random.Random())


@pytest.fixture
async def hub(authority: LocalAuthority, address: str) -> AsyncIterator[LocalHub]:
    async with LocalHub(authority=authority, address=address, rng=random.Random(1)) as hub:
        yield hub
