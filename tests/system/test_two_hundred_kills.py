"""Two hundred kills: the process dies at any moment under load, and the account at the hub is as if it never had.

A few sites side by side, each with its own sensors, hub and data directory, so that the machine is busy all the time.
A life of the gateway ends by SIGKILL: sometimes while it is still starting, mostly soon after it has begun to read, now
and then after it has delivered for a while. The next one goes on with what is on the disk.

After each kill the files are copied as they were left, and read with plain SQLite: what the books say was received has
been acknowledged, and may never become less.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from edge_gateway.assembly import BUFFER_FILE
from edge_gateway.testbench import LocalAuthority

from .gateway_process import STOP_WITHIN_S
from .site import Site, open_site

KILLS: Final = 200

SITES: Final = 4
"""At the same time. Starting is what takes the time, and a site that starts leaves the sensors of others alone."""

SENSORS: Final = 5
"""Of each site, with 10 frames/s each."""


async def end_at_a_random_moment(site: Site, rng: random.Random) -> None:
    """One life of the gateway."""
    if rng.random() < 0.15:
        await site.gateway.start()
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        await site.gateway.kill()
        # It may have read for a moment or not at all: the absence before has gone on, as far as can be said.
        site.gateway.absences.pop()
        site.gateway.absences[-1].to_s.clear()
    else:
        await site.gateway.start_reading()
        await asyncio.sleep(rng.choice((rng.uniform(0.0, 0.3), rng.uniform(0.3, 1.5))))
        await site.gateway.kill()


def acknowledged_records(site: Site, aside: Path) -> int:
    """What the books say was received, by the files as the kill left them; these are left to the next life."""
    aside.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        file = site.gateway.data_directory / f"{BUFFER_FILE}{suffix}"
        (aside / file.name).unlink(missing_ok=True)
        if file.exists():
            shutil.copy(file, aside)
    with closing(sqlite3.connect(aside / BUFFER_FILE)) as books:
        if not books.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'book'").fetchone()[0]:
            return 0
        (received,) = books.execute("SELECT sum(received) FROM book").fetchone()
    return received or 0


async def killed_again_and_again(directory: Path, authority: LocalAuthority, seed: int, kills: int) -> int:
    """Kill one site's gateway, judge it in the end, and return how many lives had acknowledged something."""
    directory.mkdir()
    rng = random.Random(seed)
    acknowledged = productive = 0
    async with open_site(directory, authority, sensors=SENSORS) as site:
        for _ in range(kills):
            await end_at_a_random_moment(site, rng)
            received = acknowledged_records(site, directory / "aside")
            assert received >= acknowledged, "the books have forgotten what was acknowledged"
            productive += received > acknowledged
            acknowledged = received
        await site.gateway.start_reading()
        await site.settled()
        ended = await site.gateway.stop()
        assert ended.code == 0, site.gateway.told()
        assert ended.took_s <= STOP_WITHIN_S
        assert site.verdict() == []
        ledger = site.gateway.ledger().values()
        assert sum(account.queued for account in ledger) == 0
        assert sum(account.delivered for account in ledger) == site.receiver.records
        assert sum(account.rejected + account.expired + account.evicted for account in ledger) == 0
    return productive


async def test_two_hundred_kills_lose_nothing(tmp_path: Path, authority: LocalAuthority) -> None:
    """Of all that was acknowledged nothing is lost, nothing comes twice, order is kept, and the account balances."""
    async with asyncio.TaskGroup() as sites:
        lives = [
            sites.create_task(
                killed_again_and_again(tmp_path / f"site-{number}", authority, number, KILLS // SITES),
                name=f"site {number}",
            )
            for number in range(SITES)
        ]
    assert sum(life.result() for life in lives) >= KILLS // 2, "most kills had nothing to lose"
