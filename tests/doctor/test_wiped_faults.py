"""A gateway whose keys were wiped, or are half wiped. The doctor only looks: a wipe is ended by whoever means to."""

from __future__ import annotations

import asyncio

from edge_gateway.assembly.emergencies import make_wipe
from edge_gateway.assembly.keys import make_key_store
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.emergency import Wipe
from tests.doctor.healthy_box import HealthyBox, follow, footprint, only


def wipe_of(box: HealthyBox) -> Wipe:
    config = load_config(box.write())
    return make_wipe(config, make_key_store(config), SystemClock())


async def test_a_wipe_that_was_cut_short(healthy: HealthyBox) -> None:
    """A wipe of which only the mark is there is told, and not a byte of the keys is touched; the fix ends it."""
    wipe_of(healthy).begin("tamper input lid")
    before = footprint(healthy.data)
    finding = only(await healthy.find(), "keys.wipe-unfinished", "tamper input lid", "keys wipe")
    assert footprint(healthy.data) == before
    await follow(finding)
    assert not (healthy.data / "keys" / "gateway.key").exists()
    only(await healthy.find(), "keys.wiped", "tamper input lid")


async def test_a_gateway_that_was_wiped(healthy: HealthyBox) -> None:
    """A gateway without keys, because they were wiped, hears that alone; what is wrong beside it is told too."""
    wipe = wipe_of(healthy)
    await asyncio.to_thread(wipe.begin, "lost on the road")
    await asyncio.to_thread(wipe.finish)
    finding = only(await healthy.find(), "keys.wiped", "lost on the road", "rm -r", "provision")
    healthy.port.unlink()
    assert {each.id for each in await healthy.find()} == {"keys.wiped", "serial.none-present"}
    await follow(finding)
    assert [each.id for each in await healthy.find_on("keys")] == ["keys.not-imported"]
