"""What is wrong with serial ports. They are pseudo-terminals, and device files where no driver is needed."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_gateway.api.control import serve_control
from edge_gateway.doctor.user import User
from tests.doctor.healthy_box import HealthyBox, only
from tests.doctor.test_box_faults import status_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
DIALOUT = 20
SOMEBODY = 65_000


def adapters(directory: Path, *names: str) -> Path:
    """A /dev with these adapters in it."""
    by_id = directory / "dev" / "serial" / "by-id"
    by_id.mkdir(parents=True)
    for name in names:
        (by_id / name).touch()
    return directory / "dev"


async def test_a_port_that_works(lone: HealthyBox) -> None:
    """A port that is there and nobody's has no findings, and is free again afterwards."""
    assert await lone.find_on("links") == []
    assert await lone.find_on("links") == []


async def test_a_port_that_is_gone(lone: HealthyBox) -> None:
    """A path that leads nowhere is told with the adapters that are there now, the most similar first."""
    lone.settings["links"][0]["port"]["path"] = "/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0"
    devices = adapters(lone.directory, "usb-FTDI_FT232R_A50285BX-if00-port0", "usb-Prolific_2303-if00-port0")
    finding = only(await lone.find_on("links", devices=devices), "serial.gone", "A50285BI", "A50285BX", "Prolific")
    assert finding.fix.index("FTDI") < finding.fix.index("Prolific")


async def test_no_adapter_at_all(lone: HealthyBox) -> None:
    """Where no adapter is plugged in, that is what is told."""
    lone.settings["links"][0]["port"]["path"] = "/dev/ttyUSB7"
    only(await lone.find_on("links", devices=lone.data), "serial.none-present", "ttyUSB7", "Plug")


async def test_a_usb_adapter_that_is_not_there(lone: HealthyBox) -> None:
    """An adapter named by its USB ids is looked for by them."""
    lone.settings["links"][0]["port"] = {"usb": {"vendor_id": 0x1209, "product_id": 0x1}}
    only(await lone.find_on("links"), "serial.usb-not-found", "no such USB adapter")


async def test_a_file_is_no_port(lone: HealthyBox) -> None:
    """A path to something else is named."""
    lone.settings["links"][0]["port"]["path"] = str(lone.config_file)
    only(await lone.find_on("links"), "serial.not-a-port", str(lone.config_file))


@needs_root
async def test_a_port_without_hardware(lone: HealthyBox) -> None:
    """A device file with no device behind it, as for a UART that is switched off."""
    path = lone.directory / "ttyS31"
    os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(4, 64 + 31))
    lone.settings["links"][0]["port"]["path"] = str(path)
    only(await lone.find_on("links"), "serial.no-device", str(path))


@needs_root
async def test_a_device_that_is_no_port(lone: HealthyBox) -> None:
    """A character device of another kind cannot be used as a port."""
    path = lone.directory / "full"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    lone.settings["links"][0]["port"]["path"] = str(path)
    only(await lone.find_on("links"), "serial.refused", "not a serial port")


@pytest.mark.parametrize(
    ("enrolled", "mode", "fault", "fix"),
    [
        (frozenset[int](), 0o660, "serial.not-in-group", "usermod -aG dialout somebody"),
        (frozenset({DIALOUT}), 0o660, "serial.group-not-in-force", "Log in again"),
        (frozenset({DIALOUT}), 0o600, "serial.not-allowed", "udev"),
    ],
)
@needs_root
async def test_no_permission(lone: HealthyBox, enrolled: frozenset[int], mode: int, fault: str, fix: str) -> None:
    """What keeps a user from a port is the group, its not being in force, or the mode; each has its own remedy."""
    path = lone.directory / "ttyUSB9"
    os.mknod(path, stat.S_IFCHR, os.makedev(188, 200))
    os.chown(path, 0, DIALOUT)
    path.chmod(mode)
    lone.settings["links"][0]["port"]["path"] = str(path)
    somebody = User("somebody", SOMEBODY, frozenset({SOMEBODY}), enrolled)
    for each in (lone.data, lone.data / "keys", *(lone.data / "keys").iterdir()):
        os.chown(each, SOMEBODY, SOMEBODY)
    only(await lone.find_on("links", user=somebody), fault, fix, "somebody")


HOLD = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has a port open, as ModemManager does."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        yield holder
        assert holder.stdin is not None
        holder.stdin.close()


async def test_a_busy_port(lone: HealthyBox) -> None:
    """A port that another program has open is not opened; the program is named with its number."""
    with held(lone.port) as holder:
        only(await lone.find_on("links"), "serial.busy", f"process {holder.pid}", "ModemManager")


async def test_a_locked_port(lone: HealthyBox) -> None:
    """A port that a program has locked is busy, also where /proc does not show who it is."""
    mine = os.open(lone.port, os.O_RDWR | os.O_NOCTTY)  # of this very process, which is not taken for another
    try:
        fcntl.flock(mine, fcntl.LOCK_EX)
        only(await lone.find_on("links"), "serial.busy", "another program")
    finally:
        os.close(mine)


async def test_two_links_on_one_port(lone: HealthyBox) -> None:
    """Two paths to the same port are one port."""
    alias = lone.directory / "by-id"
    alias.symlink_to(lone.port)
    lone.settings["links"].append({"name": "port-b", "port": {"path": str(alias)}, "profile": "reference-climate"})
    only(await lone.find_on("links"), "serial.shared", "port-a", "port-b")


async def test_a_capture_that_is_not_there(lone: HealthyBox) -> None:
    """A link that plays a capture needs it."""
    lone.settings["links"][0]["port"] = {"replay": "night.capture"}
    only(await lone.find_on("links"), "link.no-capture", "night.capture")


async def test_the_links_of_a_running_gateway(lone: HealthyBox) -> None:
    """A link that is up is not looked at; of one that is down what the gateway says is told, and no port is opened."""
    up = [{"name": "port-a", "up": True, "fault": ""}]
    with held(lone.port):
        async with serve_control(lone.data, status_of("plant-3", links=up)):
            assert await lone.find_on("links") == []
    down = [{"name": "port-a", "up": False, "fault": "the port does not support 7 baud"}]
    async with serve_control(lone.data, status_of("plant-3", links=down)):
        only(await lone.find_on("links"), "link.down", "7 baud")
