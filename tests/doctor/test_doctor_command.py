"""`edge-gateway doctor` as a process: exit codes, JSON, secrets, and networks that are really broken."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.doctor import CHECKS, Site, examine
from tests.doctor.healthy_box import HealthyBox, follow, footprint

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None,
    reason="only root makes network namespaces, by unshare and ip",
)

RUN = "import typer; from edge_gateway.cli.doctor import command; a = typer.Typer(); a.command()(command);"
DNS_AROUND = Path(__file__).parent / "dns_around.py"


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


def named(box: HealthyBox) -> tuple[str, ...]:
    return "--config", str(box.write())


async def doctor(
    box: HealthyBox,
    *arguments: str,
    around: tuple[str, ...] = (),
    program: str = RUN,
    config: Callable[[HealthyBox], tuple[str, ...]] | None = named,
    environment: dict[str, str] | None = None,
) -> Ended:
    started_s = time.monotonic()
    ended = await asyncio.to_thread(
        subprocess.run,
        [*around, sys.executable, "-c", f"{program} a()", *(config(box) if config else ()), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert not ended.stderr, ended.stderr
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


async def test_nothing_is_changed_in_the_data_directory(healthy: HealthyBox) -> None:
    """The doctor leaves the data directory as it was: names, modes, times and content."""
    before = footprint(healthy.data)
    await doctor(healthy)
    assert footprint(healthy.data) == before


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


BLACK_HOLE = (
    "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up "
    "&& ip address add 192.0.2.2/24 dev v0 && ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev v0 "
    "&& ip route add default via 192.0.2.1"
)
"""A way out on which whatever is sent is lost."""


@needs_namespaces
async def test_a_network_that_answers_nothing(lone: HealthyBox) -> None:
    """Where everything that is sent is lost, all of it ends in time, and names the first cause of each way."""
    lone.settings["uplink"]["host_name"] = "203.0.113.9"
    registry = lone.directory / "registry.txt"
    registry.write_text("HostName=203.0.113.9;SharedAccessKeyName=registryRead;SharedAccessKey=MDEy")
    asked = ("--registry", str(registry), "--send", "--id-scope", "0ne1", "--registration-id", "gw")
    around = network(lone, BLACK_HOLE, "nameserver 198.51.100.53\n")
    ended = await doctor(lone, "--json", *asked, around=around)
    assert ended.ids == ["net.no-answer", "dps.unreachable"]
    assert ended.took_s < 30


@needs_namespaces
@pytest.mark.parametrize(
    ("answer", "fault"),
    [("nxdomain", "dns.unknown-name"), ("servfail", "dns.no-answer"), ("0.0.0.0", "dns.useless-address")],
)
async def test_what_a_dns_server_answers(lone: HealthyBox, answer: str, fault: str) -> None:
    """A name that DNS denies, one it cannot look up, and one that a filter leads nowhere, are told apart."""
    lone.settings["uplink"]["host_name"] = "plant.azure-devices.net"
    around = (*network(lone, "true", "nameserver 127.0.0.1\n"), sys.executable, str(DNS_AROUND), answer)
    assert (await doctor(lone, "--json", around=around)).ids == [fault]


@needs_namespaces
async def test_two_causes_at_once(lone: HealthyBox) -> None:
    """A missing key, an adapter that is out and a DNS that is down are three causes, and nothing else is told."""
    lone.settings["uplink"] |= {"host_name": "plant.azure-devices.net", "key": "plant"}
    lone.settings["links"][0]["port"]["path"] = "/dev/ttyUSB7"
    around = (*network(lone, "true", "nameserver 127.0.0.1\n"), sys.executable, str(DNS_AROUND), "nxdomain")
    ended = await doctor(lone, "--json", around=around)
    assert set(ended.ids) == {"keys.not-imported", "serial.none-present", "dns.unknown-name"}
    assert ended.document["not_tried"]["hub.port"] == ["dns.unknown-name"]
    assert ended.document["not_tried"]["keys.data"] == ["keys.not-imported"]


async def test_no_configuration(lone: HealthyBox, tmp_path: Path) -> None:
    """On a box with no configuration the usual place is told, and a command that puts a first one there."""
    ended = await doctor(lone, "--json", config=None)
    assert ended.ids == ["configuration.missing"]
    assert "/etc/edge-gateway/gateway.yaml" in ended.document["findings"][0]["cause"]
    site = Site(tmp_path / "etc" / "gateway.yaml", SystemClock())
    [outcome, *_] = await examine(site, CHECKS)
    [finding] = outcome.findings
    await follow(finding)
    assert load_config(site.config_file).gateway.name == "plant-3"


async def test_the_document_is_stable(healthy: HealthyBox) -> None:
    """What programs read has these members and no others."""
    healthy.settings["buffer"]["max_disk_bytes"] = 1 << 50
    healthy.hub.hub.set_enabled("gw-17", False)
    document = (await doctor(healthy, "--json")).document
    assert set(document) == {"ok", "findings", "checks", "not_tried"}
    assert document["ok"] is False
    assert [(each["id"], each["level"]) for each in document["findings"]] == [
        ("disk.small", "warning"),
        ("hub.refused", "fault"),
    ]
    assert all(set(each) == {"id", "level", "check", "cause", "fix", "evidence"} for each in document["findings"])
    assert set(document["checks"].values()) <= {"well", "warning", "fault", "not tried"}
    assert document["checks"]["data.disk"] == "warning"
    assert document["checks"]["hub.admission"] == "fault"
    assert document["not_tried"] == {}


async def test_a_wrong_call(lone: HealthyBox) -> None:
    """A file that is not there ends with 2, before anything is looked at."""
    program = "import sys; from edge_gateway.cli import main; sys.argv[0:1] = ['edge-gateway', 'doctor']; a = main;"
    ended = await doctor(lone, "--json", "--registry", "/nowhere", program=program)
    assert ended.code == 2
    assert ended.document["where"] == "/nowhere"


async def test_no_secret_is_told(healthy: HealthyBox) -> None:
    """Whatever is wrong, neither passwords, nor keys, nor what opens a registry are in what is said."""
    secrets = ["hunter2-of-the-broker", "hunter2-of-the-proxy", "aHVudGVyMi1vZi10aGUtcmVnaXN0cnk="]
    (healthy.directory / "password").write_text(secrets[0])
    (healthy.directory / "registry").write_text(
        f"HostName=x;SharedAccessKeyName=registryRead;SharedAccessKey={secrets[2]}"
    )
    healthy.settings["uplink"] = {
        "kind": "mqtt",
        "host": healthy.hub.door.address,
        "port": 1,
        "username": "plant-3",
        "password_file": str(healthy.directory / "password"),
    }
    environment = {**os.environ, "https_proxy": f"http://ann:{secrets[1]}@proxy.plant:3128"}
    registry = ("--registry", str(healthy.directory / "registry"))
    ended = await doctor(healthy, *registry, environment=environment)
    assert "[net.proxy]" in ended.output
    healthy.settings["uplink"] = {"kind": "iot-hub", "key": f"HostName=x;DeviceId=y;SharedAccessKey={secrets[2]}"}
    broken = await doctor(healthy, *registry, environment=environment)
    assert "[configuration.invalid]" in broken.output
    assert not [each for each in secrets if each in ended.output + broken.output]


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
