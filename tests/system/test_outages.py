from __future__ import annotations
import asyncio, random, signal
from pathlib import Path
from edge_gateway.testbench import LocalAuthority, ProxyMode
from .site import open_site
from .gateway_process import STOP_WITHIN_S


async def test_sigterm(tmp_path: Path, authority: LocalAuthority) -> None:
    """SIGTERM under load"""
    async with open_site(tmp_path, authority) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(600)
        ended = await site.gateway.stop()
        print(ended, site.receiver.records, site.gateway.told())
        assert ended.code == 0
        assert ended.took_s <= STOP_WITHIN_S
        print("STRAY", *site.gateway.stray_lines[:40], sep="\n"); print(*[e for e in site.gateway.events if e["event"] not in ("link.opened",)], sep="\n"); assert site.verdict() == []

async def test_sigkill(tmp_path: Path, authority: LocalAuthority) -> None:
    rng = random.Random(20)
    async with open_site(tmp_path, authority) as site:
        for _ in range(20):
            await site.gateway.start_reading()
            await asyncio.sleep(rng.uniform(0.3, 1.5))
            await site.gateway.kill()
            print(site.receiver.records, site.receiver.account.repeated_messages, sum(a.received for a in site.gateway.ledger().values()))
        await site.gateway.start_reading()
        await site.settled()
        ended = await site.gateway.stop()
        print(ended, site.receiver.records)
        print("STRAY", *site.gateway.stray_lines[:40], sep="\n"); print(*[e for e in site.gateway.events if e["event"] not in ("link.opened",)], sep="\n"); assert site.verdict() == []

async def test_silent_stop(tmp_path: Path, authority: LocalAuthority) -> None:
    async with open_site(tmp_path, authority) as site:
        await site.gateway.start_reading()
        await site.receiver.grows(100)
        site.network.mode = ProxyMode.SILENT
        await asyncio.sleep(1)
        ended = await site.gateway.stop()
        print('silent', ended)
        await site.gateway.start_reading()
        await asyncio.sleep(2)
        ended = await site.gateway.stop()
        print('silent connecting', ended)
        site.network.mode = ProxyMode.PASS
        await site.gateway.start_reading()
        await site.settled()
        ended = await site.gateway.stop()
        print(ended, site.receiver.records)
        print("STRAY", *site.gateway.stray_lines[:40], sep="\n"); print(*[e for e in site.gateway.events if e["event"] not in ("link.opened",)], sep="\n"); assert site.verdict() == []
