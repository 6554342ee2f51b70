"""All keys of a gateway that runs are destroyed, because somebody at the hub or on the box asks for it."""

from __future__ import annotations

from pathlib import Path

from edge_gateway.assembly import DATA_KEYS_DIRECTORY, KEYS_DIRECTORY
from edge_gateway.records import Value
from edge_gateway.testbench import LocalAuthority

from .gateway_process import edge_gateway
from .site import GATEWAY, HubSite, open_site

WIPED = 2
"""Exit code."""


def key_files(site: HubSite) -> list[Path]:
    directories = [site.gateway.data_directory / name for name in (KEYS_DIRECTORY, DATA_KEYS_DIRECTORY)]
    return [path for directory in directories if directory.exists() for path in directory.iterdir() if path.is_file()]


async def ends_wiped(site: HubSite) -> None:
    """The gateway ends by itself, has told its hub, and neither it nor any key comes back."""
    assert (await site.gateway.ended()).code == WIPED
    told = [event["values"] for event in site.receiver.events if event["event"] == "alert-raised"]
    assert [values.get("emergency") for values in told] == ["wipe"], site.gateway.told()
    assert key_files(site) == []
    code, _, error = await edge_gateway("run", "--config", str(site.gateway.config_file))
    assert code == WIPED
    assert "wiped" in error, error


async def test_a_direct_method_wipes_a_gateway_that_it_names(tmp_path: Path, authority: LocalAuthority) -> None:
    """Without the gateway's name nothing happens; with it the hub is answered and alerted, and all keys are gone."""
    async with open_site(tmp_path, authority, sensors=2) as site:
        await site.gateway.start_reading()
        await site.gateway.event("uplink.connected")
        assert key_files(site)
        for arguments, status in (({}, 400), ({"confirm": GATEWAY}, 200)):
            document: Value = {"device": GATEWAY, "command": "wipe-keys", "arguments": arguments}
            assert (await site.hub.invoke_method(GATEWAY, "command", document)).status == status
        await ends_wiped(site)
