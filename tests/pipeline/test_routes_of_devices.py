"""Readings and events of a sensor with an identity of its own go to its route; all else stays with the gateway."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import orjson
import pytest

from edge_gateway.pipeline import Link
from edge_gateway.testbench.virtual_time import run_virtual

from .virtual_plant import books, running_plant


def test_what_a_sensor_says_goes_to_its_own_route(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two sensors has an identity: its readings and alerts wait in its route, and the hub gets the other's."""
    monkeypatch.setattr("edge_gateway.assembly.Link", partial(Link, routes=("climate-1",)))
    warm = {
        "name": "warm",
        "profile": "reference-climate",
        "value": "temperature",
        "raise_above": -99,
        "clear_below": -99,
    }

    async def main() -> None:
        async with running_plant(tmp_path, seed=1, sensors=2, rules=[warm]) as plant:
            await asyncio.sleep(1800)
            outlet = plant.gateway.buffer.route("climate-1")
            lanes = set()
            while outlet.has_queued:
                message = await outlet.take()
                lanes.add(message.lane)
                assert {each["device"] for each in orjson.loads(message.body)} == {"climate-1"}
                outlet.settle(message)
                await plant.gateway.buffer.flush()
            assert lanes == {"alert", "normal"}
        assert {device for device, _ in plant.account.records} == {"climate-2"}

    run_virtual(main())
    accounts = books(tmp_path)
    assert accounts["climate-1", "normal"].delivered > 5
    assert accounts["port-climate-1", "normal"].received > 0
