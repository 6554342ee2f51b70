"""HTTPS at the front door is made when the first client comes by it, and not before."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import aiohttp

from edge_gateway.testbench import FrontDoor, LocalAuthority, LocalHub

from .mqtt_client import TIME_LIMIT_S, soon

AT_ONCE = 5
CLOUD = "edge_gateway.testbench.cloud"
FOR_HTTPS = {"aiohttp", "xml.etree.ElementTree", f"{CLOUD}.provisioning.rest", f"{CLOUD}.service.rest"}
FOR_FEW = {"yaml", f"{CLOUD}.edge.deployment_manifest", f"{CLOUD}.fault_script"}
"""Needed by some calls, or by the command with some options."""
ONE_HTTPS_CLIENT = """
import asyncio, sys
from edge_gateway.testbench.cloud.local_cloud import LocalCloud

async def main():
    async with LocalCloud(mqtt_port=0, https_port=0, amqp_port=0) as cloud:
        print(*sys.modules, file=sys.stderr)
        tls = cloud.authority.client_context()
        reader, writer = await asyncio.open_connection("127.0.0.1", cloud.door.ports()["https"], ssl=tls)
        writer.write(b"GET /devices HTTP/1.1\\r\\nHost: hub\\r\\nConnection: close\\r\\n\\r\\n")
        print((await reader.read()).partition(b"\\r\\n")[0].decode(), file=sys.stderr)
        writer.close()
        print(*sys.modules, file=sys.stderr)

asyncio.run(main())
"""


def test_memory_is_taken_by_those_who_need_it() -> None:
    """A cloud has loaded nothing that is for HTTPS only until a client comes by it, who finds it complete."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_HTTPS_CLIENT], capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True
    )
    before, answer, after = done.stderr.splitlines()  # what the cloud logs goes to standard output
    assert not (FOR_HTTPS | FOR_FEW) & set(before.split())
    assert answer == "HTTP/1.1 401 Unauthorized"
    assert set(after.split()) >= FOR_HTTPS
    assert not FOR_FEW & set(after.split())


async def test_clients_that_come_first_together(authority: LocalAuthority, address: str) -> None:
    """Clients that come while HTTPS is made for the first of them are all served."""
    async with (
        LocalHub(authority=authority, address=address, https_port=0) as hub,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.client_context(), force_close=True)) as web,
    ):
        url = f"https://{address}:{hub.door.ports()['https']}/devices/d"
        answers = await soon(asyncio.gather(*(web.get(url) for _ in range(AT_ONCE))))
        assert [answer.status for answer in answers] == [401] * AT_ONCE
        assert all([(await soon(answer.json()))["Message"].startswith("ErrorCode:") for answer in answers])


async def test_leaving_while_something_is_prepared(authority: LocalAuthority, address: str) -> None:
    """A door that is left does not wait for what it has begun to make for a client; the client is cut off."""
    hub = LocalHub(authority=authority, address=address)
    door = FrontDoor([hub], authority=authority, address=address, mqtt_port=0, https_port=None)
    preparing = asyncio.Event()

    async def prepare() -> None:
        preparing.set()
        await asyncio.Event().wait()

    door.offer("slow", 0, asyncio.Protocol, prepare=prepare)
    async with door:
        reader, writer = await soon(asyncio.open_connection(address, door.ports()["slow"]))
        await soon(preparing.wait())
    assert await soon(reader.read()) == b""
    writer.close()
