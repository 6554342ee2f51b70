"""What a gateway with its keys in a TPM tells of it while it runs, and leaves behind in it when it stops."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml

from edge_gateway.testbench import LocalAuthority
from tests.keystore.tpm.backend import why_not

from .gateway_process import edge_gateway
from .tpm_site import ends_well, tpm_site

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


async def test_a_stopped_gateway_leaves_nothing(tmp_path: Path, authority: LocalAuthority) -> None:
    """A TPM has three places for sessions and for keys; the doctor finds none of them taken."""
    async with tpm_site(tmp_path, authority) as site:
        await ends_well(site)
        _, document, _ = await edge_gateway("doctor", "--config", str(site.gateway.config_file), "--json")
        assert orjson.loads(document)["checks"]["tpm.state"] == "well"


async def test_a_tamper_input_is_armed(tmp_path: Path, authority: LocalAuthority) -> None:
    """Who has put up the box and closed it sees in the status that it is watched from now on."""
    async with tpm_site(tmp_path, authority) as site:
        assert (await site.gateway.stop()).code == 0
        config = site.gateway.config_file
        document = yaml.safe_load(config.read_text())
        measured = {"name": "measured", "kind": "pcr", "pcrs": [16], "hold_s": 0.2, "look_every_s": 0.1}
        config.write_text(yaml.safe_dump({**document, "tamper": {"inputs": [measured]}}))
        await site.gateway.start_reading()
        await site.gateway.event("tamper.armed", input="measured")
        _, output, _ = await edge_gateway("status", "--config", str(config))
        assert "tamper input measured: untouched, armed" in output.splitlines()
