"""A gateway as a process that proves itself by a certificate whose key never leaves the TPM."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_gateway.testbench import LocalAuthority
from edge_gateway.uplink import tpm_tls
from tests.keystore.tpm.backend import why_not

from .site import GATEWAY
from .tpm_site import ends_well, tpm_site

pytestmark = pytest.mark.skipif(bool(why_not() or tpm_tls.why_not()), reason=why_not() or tpm_tls.why_not())


async def test_from_request_to_readings(tmp_path: Path, authority: LocalAuthority) -> None:
    """Requested, certified, provisioned and run by commands alone; readings flow, methods come, 0 are lost."""
    async with tpm_site(tmp_path, authority, by="x509") as site:
        status, answer = await site.command("publish-ledger")
        assert (status, "rows" in answer["answer"]) == (200, True)
        site.door.drop_connections(GATEWAY)
        await site.flows()
        await ends_well(site)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


async def test_keys_that_are_wiped_sign_no_handshake(tmp_path: Path, authority: LocalAuthority) -> None:
    """After `wipe-keys` the gateway has told its hub, is gone, and nothing in its directory proves anything."""
    async with tpm_site(tmp_path, authority, by="x509") as site:
        assert (await site.command("wipe-keys", confirm=GATEWAY))[0] == 200
        assert (await site.gateway.ended()).code == 2
        assert not list((site.gateway.data_directory / "keys").glob("*.tpm"))
