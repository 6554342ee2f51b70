"""What goes wrong on one line is told, is mended without a restart, and leaves the other lines alone.

One gateway serves all of these tests; each has a line of its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from edge_gateway.testbench import LocalAuthority

from .feeder import Sensor, sample, stuff
from .site import HubSite, open_site

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Lines(NamedTuple):
    """A running gateway, and what is the matter with its lines."""

    site: HubSite
    good: Sensor
    missing: Sensor
    in_use: Sensor
    noisy: Sensor
    other_program: ExitStack
    """Has the port in use until it is closed."""


@contextmanager
def locked(sensor: Sensor) -> Iterator[None]:
    """Have a port as another program has it."""
    port = os.open(sensor.port, os.O_RDWR | os.O_NOCTTY)
    try:
        fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(port)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lines(tmp_path_factory: pytest.TempPathFactory, authority: LocalAuthority) -> AsyncIterator[Lines]:
    async with open_site(tmp_path_factory.mktemp("site"), authority, sensors=4) as site:
        good, missing, in_use, noisy = site.sensors
        missing.unplug()
        with ExitStack() as other_program:
            other_program.enter_context(locked(in_use))
            await site.gateway.start()
            await site.gateway.event("uplink.connected")
            yield Lines(site, good, missing, in_use, noisy, other_program)
        assert (await site.gateway.stop()).code == 0
        assert site.receiver.faults() == []
        assert site.gateway.stray_lines == []


async def link_status(lines: Lines, sensor: Sensor) -> dict[str, Any]:
    status = await lines.site.gateway.status()
    return next(link for link in status["links"] if link["name"] == sensor.name)


async def arrives(lines: Lines, *sensors: Sensor) -> None:
    """Wait until some more frames of each of these sensors are at the hub."""
    frames = lines.site.receiver.frames
    goals = {sensor.name: len(frames[sensor.name]) + 5 for sensor in sensors}
    await lines.site.receiver.until(lambda: all(len(frames[name]) >= goal for name, goal in goals.items()))


async def told(lines: Lines, sensor: Sensor, reason: str) -> None:
    """A line's fault is in the log, with the line and among all that is faulty."""
    event = await lines.site.gateway.event("link.unavailable", link=sensor.name)
    assert reason in event["fault"]
    link = await link_status(lines, sensor)
    assert not link["up"]
    assert reason in link["fault"]
    assert any(
        fault.startswith(f"{sensor.name}: ") and reason in fault
        for fault in (await lines.site.gateway.status())["faults"]
    )


async def test_a_missing_port_is_waited_for(lines: Lines) -> None:
    """It is named with what to do, the others are read meanwhile, and it is taken up when it is plugged in."""
    await told(lines, lines.missing, "there is no such port. Plug the adapter in")
    await arrives(lines, lines.good)
    lines.missing.plug_in()
    await lines.site.gateway.event("link.opened", link=lines.missing.name)
    await arrives(lines, lines.missing, lines.good)
    assert (await link_status(lines, lines.missing))["fault"] == ""


async def test_a_port_in_use_is_waited_for(lines: Lines) -> None:
    """The other program keeps it, is told of, and once it is done the gateway takes the port."""
    await told(lines, lines.in_use, "in use by another program. Stop that program")
    await arrives(lines, lines.good)
    lines.other_program.close()
    await lines.site.gateway.event("link.opened", link=lines.in_use.name)
    await arrives(lines, lines.in_use, lines.good)


async def test_a_wrong_checksum_is_counted_and_the_next_frame_read(lines: Lines) -> None:
    """The frame never arrives, the line's count and the account say why, and nothing else is touched."""
    before = await lines.site.gateway.status()
    spoilt = bytearray(sample(lines.noisy.address, 1_000_000))
    spoilt[9] ^= 1
    assert lines.noisy.write(stuff(bytes(spoilt)))
    await arrives(lines, lines.noisy, lines.good)
    after = await lines.site.gateway.status_where(
        lambda status: status["account"]["quarantined"] == before["account"]["quarantined"] + 1
    )
    assert (await link_status(lines, lines.noisy))["rejects"] == {"checksum": 1}
    assert (await link_status(lines, lines.good))["rejects"] == {}
    assert after["faults"] == [fault for fault in after["faults"] if lines.noisy.name not in fault]
    assert 1_000_000 not in lines.site.receiver.frames[lines.noisy.name]


async def test_an_oversized_frame_is_skipped_and_the_next_frame_read(lines: Lines) -> None:
    """More bytes without a delimiter than a frame may have are noise, counted, up to the delimiter."""
    before = await link_status(lines, lines.noisy)
    assert lines.noisy.write(bytes([0x55]) * 500 + b"\0")
    await arrives(lines, lines.noisy, lines.good)
    after = await link_status(lines, lines.noisy)
    assert after["oversized"] == before["oversized"] + 1
    assert after["noise_bytes"] == before["noise_bytes"] + 501
    assert (await link_status(lines, lines.good))["noise_bytes"] == 0
