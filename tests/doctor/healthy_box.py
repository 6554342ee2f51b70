"""A gateway's box in which all is well, for tests to break one thing at a time: real files, port, key and hub."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import re
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.clock import SystemClock
from edge_gateway.doctor import CHECKS, Finding, Outcome, Site, examine
from edge_gateway.doctor.examination import OF_ALL_CHECKS
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench import LocalCloud, free_loopback_address
from edge_gateway.testbench.sensor_line import PtyLine

DEVICE = "gw-17"
KEY = base64.b64encode(bytes(range(32))).decode()


class ShiftedClock(SystemClock):
    """The system's clock, some seconds off."""

    def __init__(self, off_s: float) -> None:
        super().__init__()
        self._off_ns = round(off_s * 1e9)

    def now_ns(self) -> int:
        return super().now_ns() + self._off_ns


@dataclass
class HealthyBox:
    """Change `settings` or what is around before `find`."""

    directory: Path
    settings: dict[str, Any]
    cloud: LocalCloud | None = None

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def config_file(self) -> Path:
        return self.directory / "gateway.yaml"

    @property
    def port(self) -> Path:
        return self.directory / "ttyUSB0"

    @property
    def hub(self) -> LocalCloud:
        assert self.cloud is not None
        return self.cloud

    def write(self) -> Path:
        self.config_file.write_text(yaml.safe_dump(self.settings))
        return self.config_file

    def put_key(self, key: bytes, name: str = "gateway") -> None:
        with Secret(key) as secret:
            SoftwareKeyStore(self.data / "keys").put(name, secret)

    def site(self, **others: Any) -> Site:
        self.write()
        return Site(self.config_file, others.pop("clock", None) or SystemClock(), **others)

    async def examined(self, **others: Any) -> list[Outcome]:
        return declared(await examine(self.site(**others), CHECKS))

    async def find(self, **others: Any) -> list[Finding]:
        return [finding for outcome in await self.examined(**others) for finding in outcome.findings]

    async def find_on(self, group: str, **others: Any) -> list[Finding]:
        """What is found with the checks of a group, and those they need; for what has no hub around it."""
        wanted = [check.id for check in CHECKS if check.group == group]
        for check in reversed(CHECKS):
            if check.id in wanted:
                wanted += check.needs
        outcomes = declared(await examine(self.site(**others), [check for check in CHECKS if check.id in wanted]))
        return [finding for outcome in outcomes for finding in outcome.findings]


def declared(outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes, after a look that each check has found what it declares, and has told no key."""
    for outcome in outcomes:
        for finding in outcome.findings:
            assert finding.fault in (*outcome.check.faults, *OF_ALL_CHECKS)
            assert KEY not in repr(finding)
    return outcomes


def only(findings: Sequence[Finding], fault: str, *words: str) -> Finding:
    """The one finding, after a look that it is this fault and its text names what a person needs."""
    assert [finding.id for finding in findings] == [fault]
    [finding] = findings
    text = f"{finding.cause} {finding.fix}"
    for word in words:
        assert word in text
    assert finding.cause
    assert finding.fix
    assert "{" not in text.replace("{address}", "")
    return finding


def commands_of(finding: Finding) -> list[str]:
    """The commands that a fix names, as root types them."""
    return [
        re.sub(r"\bsudo (-u \S+ )?", "", command)
        for command in re.findall("`([^`]+)`", finding.fix)
        if command.startswith(("sudo ", "echo ")) or "edge-gateway " in command
    ]


async def follow(finding: Finding, number: int = 0, given: bytes = b"") -> None:
    """Do what a fix says: its first command or another one, with this on its standard input."""
    command = re.sub("^edge-gateway ", f"{sys.executable} -m edge_gateway ", commands_of(finding)[number])
    program = command.partition(" ")[0]
    if shutil.which(program) is None:
        pytest.skip(f"the fault is found as it should be; its fix takes {program}, which is not installed")
    shell = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await shell.communicate(given)
    assert shell.returncode == 0, f"{command}: {said.decode()}"


def footprint(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that can be seen of a directory's files: mode, time of change and content."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [directory, *sorted(directory.rglob("*"))]
    }


def settings_for(directory: Path, host: str) -> dict[str, Any]:
    return {
        "gateway": {"name": "plant-3", "data_directory": str(directory / "data")},
        "buffer": {"max_disk_bytes": 4 << 20},
        "links": [{"name": "port-a", "port": {"path": str(directory / "ttyUSB0")}, "profile": "reference-climate"}],
        "uplink": {
            "kind": "iot-hub",
            "host_name": host,
            "device_id": DEVICE,
            "ca_file": str(directory / "hub-ca.pem"),
        },
    }


def lone_box(directory: Path) -> HealthyBox:
    """A box without a hub: what is wrong with it has to be found without one."""
    box = HealthyBox(directory, settings_for(directory, "192.0.2.1"))
    del box.settings["uplink"]["ca_file"]
    box.data.mkdir(mode=0o700)
    box.put_key(base64.b64decode(KEY))
    return box


@asynccontextmanager
async def box_with_hub(directory: Path, **cloud_settings: Any) -> AsyncIterator[HealthyBox]:
    rng = random.Random(os.getpid())
    async with LocalCloud(address=free_loopback_address(rng), amqp_port=None, **cloud_settings) as cloud:
        cloud.hub.add_device(DEVICE, primary_key=KEY)
        (directory / "hub-ca.pem").write_text(cloud.authority.ca_pem)
        box = HealthyBox(directory, settings_for(directory, cloud.hub.host_name), cloud)
        box.data.mkdir(mode=0o700)
        box.put_key(base64.b64decode(KEY))
        with _plugged_in(box):
            yield box


def _plugged_in(box: HealthyBox) -> PtyLine:
    return PtyLine(box.port)
