"""`edge-gateway doctor` as a process: exit codes, JSON, other users, and networks that are really broken."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.doctor.healthy_box import HealthyBox

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="only root makes network namespaces, by unshare and ip",
)

RUN = "import typer; from edge_gateway.cli.doctor import command; a = typer.Typer(); a.command()(command);"
NOBODY = 65534
BECOME_NOBODY = f"import os, encodings.idna; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY});"
"""After the imports: an interpreter may be where only root may read."""


class Ended(NamedTuple):
    code: int
    output: str
    took_s: float

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.output)
        return document

    @property
    def ids(self) -> list[str]:
        return [finding["id"] for finding in self.document["findings"]]


async def doctor(box: HealthyBox, *arguments: str, around: tuple[str, ...] = (), program: str = RUN) -> Ended:
    started_s = time.monotonic()
    ended = await asyncio.to_thread(
        subprocess.run,
        [*around, sys.executable, "-c", f"{program} a()", "--config", str(box.write()), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stderr == ""
    return Ended(ended.returncode, ended.stdout, time.monotonic() - started_s)


async def test_all_is_well(healthy: HealthyBox) -> None:
    """A healthy box ends with 0 and a line for each group."""
    ended = await doctor(healthy)
    assert ended.code == 0
    assert "fault" not in ended.output
    assert "hub: well (6 checks)" in ended.output


async def test_something_is_wrong(healthy: HealthyBox) -> None:
    """A fault ends with 1, the cause first, its fix below it."""
    healthy.hub.hub.set_enabled("gw-17", False)
    ended = await doctor(healthy)
    assert ended.code == 1
    cause, fix, *_ = ended.output.splitlines()
    assert cause.startswith("fault: The hub")
    assert cause.endswith("[hub.refused]")
    assert fix.startswith("  fix: See in the portal")


async def test_as_json(healthy: HealthyBox, tmp_path: Path) -> None:
    """With --json the same is a document; the registry's connection string is read from a file and not told."""
    healthy.hub.hub.set_enabled("gw-17", False)
    secret = healthy.hub.hub.service_connection_string("registryRead")
    (tmp_path / "registry.txt").write_text(secret)
    ended = await doctor(healthy, "--json", "--registry", str(tmp_path / "registry.txt"))
    assert ended.code == 1
    assert ended.ids == ["hub.device-disabled"]
    assert secret.rpartition("SharedAccessKey=")[2] not in ended.output


async def test_nothing_is_left_in_the_data_directory(healthy: HealthyBox) -> None:
    """The doctor leaves the data directory as it was."""
    before = sorted(path.name for path in healthy.data.rglob("*"))
    await doctor(healthy)
    assert sorted(path.name for path in healthy.data.rglob("*")) == before


def network(box: HealthyBox, setup: str, nameservers: str = "") -> tuple[str, ...]:
    """A network of its own around a process, made by shell commands, with these DNS servers."""
    resolv = box.directory / "resolv.conf"
    resolv.write_text(nameservers)
    script = f'mount --bind {resolv} /etc/resolv.conf && ip link set lo up && {setup} && exec "$@"'
    return ("unshare", "--mount", "--net", "sh", "-c", script, "sh")


@needs_namespaces
@pytest.mark.parametrize(
    ("host", "setup", "nameservers", "fault"),
    [
        ("192.0.2.1", "true", "", "net.no-route"),
        ("192.0.2.1", "ip -6 route add default dev lo", "", "net.ipv6-only"),
        ("plant.azure-devices.net", "true", "", "dns.no-server"),
        ("plant.azure-devices.net", "true", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", "dns.no-answer"),
    ],
)
async def test_a_broken_network(lone: HealthyBox, host: str, setup: str, nameservers: str, fault: str) -> None:
    """A box without a way out, with IPv6 only, without a DNS server, and with one that is silent, are told apart."""
    lone.settings["uplink"]["host_name"] = host
    ended = await doctor(lone, "--json", around=network(lone, setup, nameservers))
    assert ended.ids == [fault]
    assert ended.took_s < 30


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
async def test_as_a_user_without_rights(lone: HealthyBox) -> None:
    """A user who may not look into the data directory hears whose it is, and nothing else of it."""
    for path in (lone.directory, *lone.directory.parents):
        if path.stat().st_mode & 0o077 == 0:
            path.chmod(0o711)
    lone.settings["uplink"]["host_name"] = "no-such-hub.invalid"
    lone.write().chmod(0o644)
    ended = await doctor(lone, "--json", program=RUN + BECOME_NOBODY)
    assert [each for each in ended.ids if not each.startswith("dns.")] == ["data.other-owner"]
    assert ended.document["findings"][0]["fix"].count("sudo -u root") == 1


async def test_beside_a_gateway(tmp_path: Path, healthy: HealthyBox) -> None:
    """A gateway that runs has nothing to do with a doctor: it keeps its connection, its port and its buffer."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_gateway", "run", "--config", str(healthy.write())),
        stderr=asyncio.subprocess.DEVNULL,
    )
    hub = healthy.hub.hub
    try:
        async with asyncio.timeout(30):
            await hub.until(lambda: hub.is_connected("gw-17"))
            ended = await doctor(healthy, "--json")
        assert ended.ids == []
        assert ended.code == 0
        assert hub.statistics.connections == 1
        assert hub.is_connected("gw-17")
    finally:
        running.terminate()
        await running.wait()
