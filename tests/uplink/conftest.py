"""Both far sides, one at a time, and what the device SDK leaves behind."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edge_gateway.records import CommandResult, CommandStatus
from edge_gateway.testbench import LocalAuthority

from .far_sides import (
    FAR_SIDES,
    BrokerFarSide,
    FarSide,
    HubFarSide,
    RecordingDownlink,
    broker_far_side,
    hub_far_side,
)

OF_THE_SDK = (
    # It asks for TLS 1.2 by a constant that Python has deprecated.
    "ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning",
    # After a lost or refused connection its MQTT client leaves its sockets to the garbage collector.
    r"ignore:Exception ignored in. <(ssl\.SSLS|socket\.s)ocket:pytest.PytestUnraisableExceptionWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for ignored in OF_THE_SDK:
                item.add_marker(pytest.mark.filterwarnings(ignored))


@pytest.fixture(scope="session")
def authority() -> LocalAuthority:
    return LocalAuthority()


@pytest.fixture(params=FAR_SIDES)
async def far_side(request: pytest.FixtureRequest, authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[FarSide]:
    async with FAR_SIDES[request.param](authority, tmp_path) as far_side:
        yield far_side


@pytest.fixture
async def hub(authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[HubFarSide]:
    async with hub_far_side(authority, tmp_path) as far_side:
        yield far_side


@pytest.fixture
async def broker(authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[BrokerFarSide]:
    async with broker_far_side(authority, tmp_path) as far_side:
        yield far_side


@pytest.fixture
async def gateway() -> RecordingDownlink:
    """The gateway's side of what comes down; it obeys."""
    return RecordingDownlink(lambda command: CommandResult(CommandStatus.ACKNOWLEDGED, "", {"echo": command.name}))


@pytest.fixture(autouse=True)
def leaks_of_the_sdk() -> Iterator[None]:
    """Let sockets the SDK forgot be found within the test that ignores them, and not in a later one."""
    yield
    gc.collect()
