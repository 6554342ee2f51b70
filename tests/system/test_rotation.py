"""A gateway whose TPM proves it gets new keys while it runs: because somebody asks for it, or because it has to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edge_gateway.keystore.generations import generation_name
from edge_gateway.testbench import LocalAuthority
from tests.keystore.tpm.backend import why_not

from .site import GATEWAY
from .tpm_site import ends_well, told, tpm_site

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


async def test_all_keys_by_a_direct_method(tmp_path: Path, authority: LocalAuthority) -> None:
    """New keys at the hub and for the disk while readings flow: none is lost, the old key stays as predecessor."""
    async with tpm_site(tmp_path, authority) as site:
        before = site.hub.identity(GATEWAY).primary_key
        status, answer = await site.command("rotate-keys")
        assert (status, answer["answer"]) == (
            200,
            {"rotated": ["gateway", "buffer"], "failed": {}, "left": [], "left_count": 0},
        )
        await site.gateway.event("uplink.closed", reason="there is a newer key")
        await site.gateway.event("key.rotated", key="gateway")
        assert site.hub.identity(GATEWAY).primary_key != before
        await ends_well(site)
        assert await site.keys() == [generation_name("gateway", 2), "gateway"]


async def test_one_key_by_a_direct_method_and_by_command(tmp_path: Path, authority: LocalAuthority) -> None:
    """Only that one; what there is not is said; on the box `keys rotate` does the same, and nobody brings a key."""
    async with tpm_site(tmp_path, authority) as site:
        status, answer = await site.command("rotate-keys", key="buffer")
        assert (status, answer["answer"]["rotated"]) == (200, ["buffer"])
        status, answer = await site.command("rotate-keys", key="gatewya")
        assert status == 400
        assert "there is no such key" in answer["detail"]
        rotated = await told("keys", "rotate", "gateway", "--config", str(site.gateway.config_file))
        assert rotated["newest"] == generation_name("gateway", 2)
        await site.gateway.event("uplink.closed", reason="there is a newer key")
        await ends_well(site)


async def test_a_key_that_never_arrived_is_asked_for_again(tmp_path: Path, authority: LocalAuthority) -> None:
    """The hub has a newer key than the TPM, as after a power cut amid rotation: the gateway mends it by itself."""
    async with tpm_site(tmp_path, authority) as site:
        site.hub.rotate_keys(GATEWAY)
        await site.gateway.event("uplink.registered")
        await ends_well(site)
        assert generation_name("gateway", 2) in await site.keys()


async def test_by_the_calendar(tmp_path: Path, authority: LocalAuthority) -> None:
    """Keys that are older than they may be are replaced without anybody's doing, and status has nothing to say."""
    async with tpm_site(tmp_path, authority, rotate_after_days=30) as site:
        assert (await site.gateway.stop()).code == 0
        age(site.gateway.data_directory, days=31)
        await site.gateway.start_reading()
        for key in ("gateway", "buffer"):
            await site.gateway.event("key.rotated", key=key)
        await ends_well(site)
        assert await site.keys() == [generation_name("gateway", 2), "gateway"]


def age(data_directory: Path, *, days: int) -> None:
    """Date all keys back."""
    then_s = time.time() - days * 86_400
    for directory in ("keys", "data-keys"):
        for path in (data_directory / directory).iterdir():
            os.utime(path, (then_s, then_s))
