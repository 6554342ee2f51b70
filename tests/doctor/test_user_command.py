"""The doctor as another user than root: what such a user may really do, and may not."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.healthy_box import HealthyBox
from tests.doctor.test_doctor_command import RUN, Ended, doctor, needs_namespaces, network

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")

NOBODY = 65534
DIALOUT, TSS = 20, 110
IMPORTS = "import os, encodings.ascii, encodings.idna, cryptography.hazmat.primitives.ciphers.algorithms;"
"""What is otherwise imported when it is needed: an interpreter may be where only root may read."""
BECOME_NOBODY = f"{IMPORTS} os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY});"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


async def as_nobody(box: HealthyBox, *arguments: str, around: tuple[str, ...] = ()) -> Ended:
    """The doctor of the user `nobody`."""
    return await doctor(box, "--json", *arguments, around=around, program=RUN + BECOME_NOBODY)


def give_away(box: HealthyBox) -> None:
    """Make the data directory nobody's, as that of a gateway that runs as nobody."""
    for path in (box.data, *box.data.rglob("*")):
        os.chown(path, NOBODY, NOBODY)


async def test_all_is_well(healthy: HealthyBox) -> None:
    """A gateway of another user than root is examined by that user, and has no findings."""
    give_away(healthy)
    healthy.port.resolve().chmod(0o666)
    ended = await as_nobody(healthy)
    assert (ended.code, ended.ids) == (0, [])
    assert ended.document["checks"]["hub.admission"] == "well"


async def test_somebody_elses_data_directory(lone: HealthyBox) -> None:
    """A user who may not look into the data directory hears whose it is, and nothing else of it."""
    lone.settings["uplink"]["host_name"] = "no-such-hub.invalid"
    ended = await as_nobody(lone)
    assert [each for each in ended.ids if not each.startswith("dns.")] == ["data.other-owner"]
    assert ended.document["findings"][0]["fix"].count("sudo -u root") == 1


async def test_a_configuration_that_may_not_be_read(lone: HealthyBox) -> None:
    """A configuration that is root's alone is told with what opens it."""
    lone.write().chmod(0o600)
    ended = await as_nobody(lone)
    assert ended.ids == ["configuration.closed"]
    assert f"sudo chmod a+r {lone.config_file}" in ended.document["findings"][0]["fix"]


def with_groups(box: HealthyBox, members: str) -> tuple[str, ...]:
    """A system whose table of groups has these members, and which has no network."""
    table = box.directory / "group"
    table.write_text(f"root:x:0:\ndialout:x:{DIALOUT}:{members}\ntss:x:{TSS}:{members}\nnogroup:x:{NOBODY}:\n")
    table.chmod(0o644)
    return network(box, f"mount --bind {table} /etc/group")


@needs_namespaces
@pytest.mark.parametrize(
    ("members", "mode", "way"),
    [("", 0o660, "not-in-group"), ("nobody", 0o660, "group-not-in-force"), ("nobody", 0o600, "not-allowed")],
)
async def test_closed_devices(lone: HealthyBox, members: str, mode: int, way: str) -> None:
    """A port and a TPM that are closed to the user are two causes, each with its own remedy; so is the network."""
    for name, number, group in (("ttyUSB9", (188, 200), DIALOUT), ("tpmrm0", (10, 224), TSS)):
        path = lone.directory / name
        os.mknod(path, stat.S_IFCHR, os.makedev(*number))
        os.chown(path, 0, group)
        path.chmod(mode)
    lone.settings["links"][0]["port"]["path"] = str(lone.directory / "ttyUSB9")
    lone.settings["key_store"] = {"kind": "tpm", "tcti": f"device:{lone.directory}/tpmrm0"}
    give_away(lone)
    ended = await as_nobody(lone, around=with_groups(lone, members))
    assert ended.ids == [f"serial.{way}", f"tpm.{way}", "net.no-route"]


async def test_a_device_that_lets_one_in_at_a_time(lone: HealthyBox) -> None:
    """A chip's own device, /dev/tpm0, lets one program in at a time, and says EBUSY to the next: as this one does."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCEXCL)
        path = Path(os.ttyname(slave))
        path.chmod(0o666)
        lone.settings["key_store"] = {"kind": "tpm", "tcti": f"device:{path}"}
        lone.settings["links"][0]["port"]["path"] = str(path)
        give_away(lone)
        ended = await as_nobody(lone)
        assert {"tpm.busy", "serial.busy"} <= set(ended.ids)
        [fix] = [each["fix"] for each in ended.document["findings"] if each["id"] == "tpm.busy"]
        assert "device:/dev/tpmrm0" in fix
    finally:
        os.close(master)
        os.close(slave)
