"""The fixtures that other people's test suites get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parents[2] / "docs/how-to/develop-without-the-cloud.md"

USE = """
import aiohttp
import pytest
from azure.iot.device.aio import IoTHubDeviceClient


async def connect(hub, authority):
    hub.add_device("sensor-1")
    client = IoTHubDeviceClient.create_from_connection_string(
        hub.connection_string("sensor-1"), server_verification_cert=authority.ca_pem
    )
    await client.connect()
    await client.send_message("x")
    await client.shutdown()
    assert hub.statistics.messages == 1


@pytest.mark.asyncio
async def test_cloud(local_cloud):
    await connect(local_cloud.hub, local_cloud.authority)
    url = f"https://{local_cloud.door.address}:{local_cloud.door.ports()['https']}/devices"
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=local_cloud.authority.client_context()) as answer:
            assert answer.status == 401


@pytest.mark.asyncio
async def test_hub(local_hub, free_address):
    assert local_hub.host_name == free_address
    local_hub.add_device("sensor-1")
    assert not local_hub.is_connected("sensor-1")
"""


def test_a_suite_uses_the_fixtures(pytester: pytest.Pytester) -> None:
    """Installed, the plugin gives a suite a hub and a cloud that the device SDK connects to."""
    pytester.makepyfile(USE)
    result = pytester.runpytest_subprocess("-W", "ignore::ResourceWarning", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)


def test_nothing_is_imported_for_suites_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    """A suite without any of the fixtures does not pay for them."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            assert not {"aiohttp", "OpenSSL", "edge_gateway.testbench"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_documented_fixtures_exist(pytester: pytest.Pytester) -> None:
    """The how-to names fixtures that there are."""
    named = re.search(r"pytest has the fixtures (.*?):", PAGE.read_text())
    assert named is not None
    listed = pytester.runpytest_subprocess("--fixtures").stdout.str()
    for fixture in re.findall(r"`(\w+)`", named[1]):
        assert re.search(rf"^{fixture}\b", listed, re.MULTILINE)
