"""When a gateway asks the provisioning service who it is. All on virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from edge_gateway.errors import UplinkError, UplinkLost
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.uplink.reregistering import Reregistering
from tests.log_events import log_events

from .simulated_hub import GOOD, Fate, Life, SimulatedHub
from .test_delivery import NOTHING_COMES_DOWN

REFUSED, AWAY = Life(Fate.REFUSED), Life(Fate.UNREACHABLE)


class Service:
    """A provisioning service; takes as long and says what it is told."""

    def __init__(self) -> None:
        self.asked_at_s: list[float] = []
        self.is_known = True
        self.fault: Exception | None = None
        self.takes_s = 1.0

    async def register(self) -> bool:
        self.asked_at_s.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        return self.is_known


class Attempts:
    """Connects to a hub now and then, as `Delivery` does."""

    def __init__(self, *lives: Life) -> None:
        self.service = Service()
        self.uplink = Reregistering(SimulatedHub(lives), self.service.register)
        self.errors: list[UplinkError] = []

    async def connect(self, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        try:
            async with self.uplink.connect(NOTHING_COMES_DOWN):
                pass
        except UplinkError as error:
            self.errors.append(error)


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtual(test())


def test_a_refusal_is_reason_to_ask_at_once() -> None:
    """The refusal is told all the same; the next attempt goes by what the service said."""

    async def test() -> None:
        attempts = Attempts(REFUSED)
        with log_events() as events:
            await attempts.connect()
            await attempts.connect()
        assert len(attempts.service.asked_at_s) == 1
        assert [str(error.what) for error in attempts.errors] == ["wrong key"]
        assert [each["event"] for each in events] == ["uplink.registered"]

    virtual(test)


def test_a_hub_that_goes_on_refusing() -> None:
    """The service is asked once an hour and no more often."""

    async def test() -> None:
        attempts = Attempts(*[REFUSED] * 30)
        for _ in range(30):
            await attempts.connect(after_s=300.0)
        asked = attempts.service.asked_at_s
        assert len(asked) == 3
        assert all(later - earlier >= 3600 for earlier, later in itertools.pairwise(asked))

    virtual(test)


def test_a_hub_that_is_not_there_for_an_hour() -> None:
    """An outage is no reason; one that lasts may be a hub that is gone."""

    async def test() -> None:
        attempts = Attempts(AWAY, AWAY, GOOD, *[AWAY] * 20)
        await attempts.connect()
        await attempts.connect(after_s=3000.0)
        await attempts.connect(after_s=1200.0)  # it was there, so the hour begins anew
        began_s = asyncio.get_running_loop().time()
        for _ in range(20):
            await attempts.connect(after_s=300.0)
        first_s, *_ = attempts.service.asked_at_s
        assert 3600 <= first_s - began_s <= 4000

    virtual(test)


def test_a_session_that_ends_is_no_reason() -> None:
    """Whatever ended it: only the next attempt shows whether the hub wants the gateway."""

    async def test() -> None:
        attempts = Attempts(GOOD)
        with pytest.raises(UplinkLost):
            async with attempts.uplink.connect(NOTHING_COMES_DOWN):
                raise UplinkLost("reset by peer")
        assert attempts.service.asked_at_s == []

    virtual(test)


def test_a_service_that_says_no_changes_nothing() -> None:
    """Its reason is in the log, and the error is still the hub's."""

    async def test() -> None:
        attempts = Attempts(REFUSED)
        attempts.service.fault = ProvisioningRefused("the enrolment is disabled")
        with log_events() as events:
            await attempts.connect()
        assert [each["event"] for each in events] == ["uplink.not_registered"]
        assert "the enrolment is disabled" in events[0]["reason"]
        assert [str(error.what) for error in attempts.errors] == ["wrong key"]

    virtual(test)


def test_a_service_that_takes_for_ever() -> None:
    """The gateway tries its hub again after two minutes."""

    async def test() -> None:
        attempts = Attempts(REFUSED)
        attempts.service.takes_s = 1e6
        await attempts.connect()
        assert asyncio.get_running_loop().time() < 200

    virtual(test)


def test_a_gateway_that_came_by_no_service() -> None:
    """Nothing is said: somebody has to bring the key."""

    async def test() -> None:
        attempts = Attempts(REFUSED)
        attempts.service.is_known = False
        with log_events() as events:
            await attempts.connect()
        assert events == []

    virtual(test)
