"""What stands between the gateway and its hub is told with its cause, and all the while the lines are read.

A hub, or a certificate, that says no is told from a network that fails: trying again mends the one, a person the other.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

import orjson

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench import LocalAuthority

from .gateway_process import edge_gateway
from .site import GATEWAY, HubSite, hub_uplink, open_site

SENSORS = 2
GATEWAY_KEY: Final = "gateway"


async def told(site: HubSite, reason: str, *, refused: bool) -> None:
    """The cause is in the log and in the status, and the lines are read all the same."""
    event = await site.gateway.event("uplink.disconnected", refused=refused)
    assert reason in event["reason"]
    status = await site.gateway.status_where(lambda status: status["queue"]["normal"] >= 20)
    assert reason in status["uplink"]["fault"]
    assert status["uplink"]["fault"] in status["faults"]
    assert not status["uplink"]["connected"]


async def ends_well(site: HubSite) -> None:
    """What was queued arrives."""
    await site.gateway.event("uplink.connected")
    await site.settled()
    assert (await site.gateway.stop()).code == 0
    assert site.verdict() == []


async def test_a_hub_that_refuses_the_key(tmp_path: Path, authority: LocalAuthority) -> None:
    """The remedy names the key, and the right one, imported while the gateway runs, is enough."""
    async with open_site(tmp_path, authority, sensors=SENSORS) as site:
        keys = SoftwareKeyStore(site.gateway.data_directory / KEYS_DIRECTORY)
        keys.put("gateway", Secret(b"0123456789abcdef"))
        await site.gateway.start_reading()
        await told(site, "the hub refuses this device or its key. Check device_id", refused=True)
        assert site.hub.statistics.connections == 0
        keys.put("gateway", Secret(base64.b64decode(site.hub.identity(GATEWAY).primary_key)))
        await ends_well(site)


async def test_the_one_key_that_the_hub_takes_is_not_dropped(tmp_path: Path, authority: LocalAuthority) -> None:
    """While the gateway goes by an older key, as the newest is a wrong one, it is not left with that alone."""
    async with open_site(tmp_path, authority, sensors=SENSORS) as site:
        await site.gateway.start_reading()
        await site.gateway.event("uplink.connected")
        rotate = ("keys", "rotate", GATEWAY_KEY, "--config", str(site.gateway.config_file))
        wrong_key = base64.b64encode(b"0123456789abcdef")
        code, output, _ = await edge_gateway(*rotate, "--json", stdin=wrong_key)
        assert code == 0
        newest = orjson.loads(output)["newest"]
        await site.gateway.status_where(lambda status: status["key_store"]["refused"] == [newest])
        code, _, error = await edge_gateway(*rotate, "--drop-old")
        assert f"edge-gateway keys remove {newest}" in error
        assert code == 2
        await ends_well(site)


async def test_a_key_that_is_not_there(tmp_path: Path, authority: LocalAuthority) -> None:
    """The gateway starts all the same, and goes on when the key is imported."""
    async with open_site(tmp_path, authority, sensors=SENSORS) as site:
        (site.gateway.data_directory / KEYS_DIRECTORY / "gateway.key").unlink()
        await site.gateway.start_reading()
        await told(site, "there is no such key. Import it: edge-gateway keys import gateway", refused=True)
        keys = SoftwareKeyStore(site.gateway.data_directory / KEYS_DIRECTORY)
        keys.put("gateway", Secret(base64.b64decode(site.hub.identity(GATEWAY).primary_key)))
        await ends_well(site)


async def test_a_certificate_of_an_unknown_authority(tmp_path: Path, authority: LocalAuthority) -> None:
    """The hub is not spoken to, not a byte of a token; trusting its authority, after a restart, is enough."""
    async with open_site(tmp_path, authority, sensors=SENSORS) as site:
        ca_file = tmp_path / "ca.pem"
        ca_file.write_text(LocalAuthority().ca_pem)
        await site.gateway.start_reading()
        await told(site, "shows a certificate that cannot be trusted", refused=True)
        assert site.network.connections > 0
        assert (site.hub.statistics.connections, site.hub.door.statistics.denied) == (0, 0)
        assert (await site.gateway.stop()).code == 0
        ca_file.write_text(authority.ca_pem)
        await site.gateway.start_reading()
        await ends_well(site)


async def test_a_hub_name_that_does_not_resolve(tmp_path: Path, authority: LocalAuthority) -> None:
    """The cause is the name, and not just a connection that failed."""
    # RFC 6761, section 6.4: no such name will ever be.
    uplink: dict[str, Any] = hub_uplink(tmp_path, authority, "hub.invalid")
    async with open_site(tmp_path, authority, sensors=SENSORS, uplink=uplink) as site:
        await site.gateway.start_reading()
        await told(site, "this name does not resolve. Check the host name and the DNS server", refused=False)
        assert (await site.gateway.stop()).code == 0
        assert site.verdict() == []


async def test_a_key_store_that_goes_away(tmp_path: Path, authority: LocalAuthority) -> None:
    """One cause is one fault, however many parts suffer from it; when the key store is back, so are they."""
    stick = tmp_path / "stick"
    stick.touch(mode=0o600)
    stick.write_text(base64.b64encode(bytes(range(32))).decode())
    key_store = {"kind": "software", "wrapping_key_file": str(stick)}
    async with open_site(tmp_path, authority, sensors=SENSORS, key_store=key_store) as site:
        keys = SoftwareKeyStore(site.gateway.data_directory / KEYS_DIRECTORY, wrapping_key_file=stick)
        keys.put("gateway", Secret(base64.b64decode(site.hub.identity(GATEWAY).primary_key)))
        await site.gateway.start_reading()
        await site.gateway.event("uplink.connected")
        assert (await site.gateway.stop()).code == 0
        mark = len(site.gateway.events)
        stick.rename(tmp_path / "pocket")
        await site.gateway.start()
        await site.gateway.event("key_store.failing", since=mark)
        await site.gateway.event("uplink.disconnected", since=mark)
        status = await site.gateway.status_where(lambda status: status["uplink"]["fault"])
        assert [fault for fault in status["faults"] if str(stick) in fault] == [status["key_store"]["fault"]]
        (tmp_path / "pocket").rename(stick)
        await site.gateway.event("uplink.connected", since=mark)
        await ends_well(site)
