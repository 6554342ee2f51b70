"""What is wrong with the configuration, the box, its disk, or another gateway on it. Disks are real ones."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_gateway.api.control import Answer, Handler, serve_control
from edge_gateway.assembly.keys import data_keys
from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.doctor import CHECKS, Site, box, data_directory, examine
from edge_gateway.doctor.running import lock_holder
from edge_gateway.doctor.user import User
from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.identities import Identities, Identity
from tests.doctor.healthy_box import HealthyBox, ShiftedClock, only

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts disks and gives files away")
NOBODY = 65534


@contextmanager
def disk(at: Path, options: str) -> Iterator[None]:
    """A disk in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def make_read_only(mount: Path) -> None:
    """What the kernel does with a disk that fails."""
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)


async def test_a_configuration_that_is_none(lone: HealthyBox) -> None:
    """A wrong setting is named with one that would do, and nothing else is told."""
    lone.settings["gateway"]["nmae"] = "plant-3"
    only(await lone.find(), "configuration.invalid", "nmae", "`name` would do")


async def test_a_directory_in_the_configurations_place(lone: HealthyBox) -> None:
    """A path that leads to no file is told with what the system says of it."""
    site = Site(lone.directory, SystemClock())
    findings = [finding for outcome in await examine(site, CHECKS) for finding in outcome.findings]
    only(findings, "configuration.invalid", "Is a directory")


async def test_a_profile_that_is_not_there(lone: HealthyBox) -> None:
    """A profile that nobody has is named with its link; the rest is looked at all the same."""
    lone.settings["links"][0]["profile"] = "no-such-sensor"
    only(await lone.find_on("configuration"), "configuration.profile", "no-such-sensor", "port-a")


async def test_a_configuration_that_contradicts_itself(lone: HealthyBox) -> None:
    """What no setting alone shows is found by putting the parts together."""
    lone.settings["links"][0]["poll_every_s"] = 5
    only(await lone.find_on("configuration"), "configuration.contradiction", "poll_every_s")


async def test_a_clock_that_was_never_set(lone: HealthyBox) -> None:
    """A box without a battery says 1970, or the date of its software."""
    off_s = (EARLIEST_PLAUSIBLE_NS - SystemClock().now_ns()) / 1e9 - 3600
    only(await lone.find_on("box", clock=ShiftedClock(off_s)), "clock.unset", "battery")


async def test_a_clock_that_no_service_has_set(lone: HealthyBox) -> None:
    """Where the configuration believes only a synchronized clock, one that is not is a fault; otherwise it is none."""
    assert await lone.find_on("box", is_synchronized=lambda: False) == []
    lone.settings["gateway"]["clock_trust"] = "synchronized"
    only(await lone.find_on("box", is_synchronized=lambda: False), "clock.not-synchronized", "timedatectl")
    assert await lone.find_on("box", is_synchronized=lambda: True) == []


async def test_a_kernel_that_does_not_say(lone: HealthyBox) -> None:
    """A container may forbid the question."""

    def forbidden() -> bool:
        raise ConfigError("the kernel does not say", where="gateway.clock_trust", remedy="Set `plausible`")

    lone.settings["gateway"]["clock_trust"] = "synchronized"
    only(await lone.find_on("box", is_synchronized=forbidden), "clock.no-answer", "plausible")


def test_a_kernel_without_randomness(lone: HealthyBox) -> None:
    """A box that has just started may have none."""

    def draw(size_bytes: int, flags: int) -> bytes:
        raise BlockingIOError

    only(box.check_entropy(lone.site(), draw), "box.no-entropy", "haveged")


@needs_root
async def test_a_full_disk(lone: HealthyBox) -> None:
    """A disk that others have filled is told as full, and says where."""
    with disk(lone.data, "size=2m,mode=700"):
        (lone.data / "ballast").write_bytes(bytes((2 << 20) - 8192))
        only(await lone.find_on("data directory"), "disk.full", str(lone.data))


@needs_root
async def test_a_disk_with_too_little_room(lone: HealthyBox) -> None:
    """A disk on which the buffer cannot grow as large as it may is a warning."""
    with disk(lone.data, "size=3m,mode=700"):
        finding = only(await lone.find_on("data directory"), "disk.small", "max_disk_bytes")
        assert not finding.is_fault


@needs_root
async def test_a_disk_without_inodes(lone: HealthyBox) -> None:
    """A disk with room and without inodes is not called full."""
    with disk(lone.data, "size=16m,nr_inodes=4,mode=700"):
        for number in range(3):
            (lone.data / str(number)).touch()
        only(await lone.find_on("data directory"), "disk.no-inodes", "inodes")


@needs_root
async def test_a_read_only_disk(lone: HealthyBox) -> None:
    """A disk that the kernel has made read-only is told as that."""
    with disk(lone.data, "size=16m,mode=700"):
        make_read_only(lone.data)
        only(await lone.find_on("data directory"), "disk.read-only", "dmesg", "remount,rw")


@needs_root
async def test_a_directory_of_another_user(lone: HealthyBox) -> None:
    """A data directory that the gateway's user may not write names its owner and both ways out."""
    somebody = User("somebody", NOBODY - 1, frozenset({NOBODY - 1}), frozenset())
    only(await lone.find_on("data directory", user=somebody), "data.other-owner", "root", "chown", "somebody")


@needs_root
async def test_files_that_root_has_left(lone: HealthyBox) -> None:
    """A file that somebody made as root in the gateway's directory is found."""
    os.chown(lone.data, NOBODY, NOBODY)
    for path in (lone.data / "keys").iterdir():
        os.chown(path, NOBODY, NOBODY)
    os.chown(lone.data / "keys", NOBODY, NOBODY)
    (lone.data / "identities.json").touch(mode=0o600)
    finding = only(await lone.find_on("data directory"), "data.foreign-files", "chown -R nobody", "root")
    assert "identities.json" in finding.evidence
    lone.port.unlink()
    assert {each.id for each in await lone.find_on("links")} == {"serial.none-present"}


@needs_root
async def test_root_asks_for_a_gateway_of_another_user(lone: HealthyBox) -> None:
    """With sudo the doctor looks with the eyes of the directory's owner, and finds nothing wrong."""
    for path in (lone.data, lone.data / "keys", *(lone.data / "keys").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    assert await lone.find_on("data directory") == []


@needs_root
async def test_a_directory_that_cannot_be_made(lone: HealthyBox) -> None:
    """A data directory that is not there is no fault if it can be made, and one if it cannot."""
    lone.settings["gateway"]["data_directory"] = str(lone.directory / "new" / "data")
    assert await lone.find_on("data directory") == []
    somebody = User("somebody", NOBODY - 1, frozenset({NOBODY - 1}), frozenset())
    only(await lone.find_on("data directory", user=somebody), "data.cannot-be-made", "install -d", "somebody")


async def test_a_file_in_the_directorys_place(lone: HealthyBox) -> None:
    """A file where the data directory belongs is named."""
    (lone.directory / "file").touch()
    lone.settings["gateway"]["data_directory"] = str(lone.directory / "file")
    only(await lone.find_on("data directory"), "data.not-a-directory", str(lone.directory / "file"))


@pytest.mark.parametrize(
    ("number", "fault", "fix"), [(errno.EDQUOT, "disk.over-quota", "edquota"), (errno.EIO, "disk.failing", "replace")]
)
async def test_a_disk_that_does_not_write(
    lone: HealthyBox, monkeypatch: pytest.MonkeyPatch, number: int, fault: str, fix: str
) -> None:
    """A quota that is used up and a disk that fails are told apart from a full one."""
    monkeypatch.setattr(data_directory, "_write_error", lambda _: OSError(number, os.strerror(number)))
    only(await lone.find_on("data directory"), fault, fix)


async def test_a_gateway_that_is_not_provisioned(lone: HealthyBox) -> None:
    """A hub that the configuration leaves open is the one that provisioning has found; before that there is none."""
    del lone.settings["uplink"]["host_name"], lone.settings["uplink"]["device_id"]
    only(await lone.find_on("keys"), "hub.not-provisioned", "edge-gateway provision")
    own = Identity("", "plant.azure-devices.net", "gw-17", "gateway", "connection-string")
    Identities(lone.data / "identities.json").put(own)
    assert await lone.find_on("keys") == []
    (lone.data / "identities.json").write_text("{")
    only(await lone.find_on("keys"), "hub.identities-unreadable", "identities.json")


async def test_a_sensor_without_its_key(lone: HealthyBox) -> None:
    """A sensor that has an identity, and whose key is not in the key store, is named."""
    leaf = Identity("boiler-room", "plant.azure-devices.net", "boiler-room", "leaf.boiler-room", "csv")
    Identities(lone.data / "identities.json").put(leaf)
    only(await lone.find_on("keys"), "keys.leaf-missing", "boiler-room", "provision leaves")
    lone.put_key(bytes(32), "leaf.boiler-room")
    assert await lone.find_on("keys") == []


async def test_a_key_store_that_lacks_its_wrapping_key(lone: HealthyBox) -> None:
    """Where the wrapping key is on a stick that is not there, the key store says so."""
    lone.settings["key_store"] = {"kind": "software", "wrapping_key_file": str(lone.directory / "stick" / "key")}
    only(await lone.find_on("keys"), "keys.unusable", "gateway")


async def test_what_is_kept_and_does_not_open(lone: HealthyBox) -> None:
    """A key of what is kept on the disk that another key store has sealed is told before the gateway needs it."""
    data_keys(load_config(lone.write()), SoftwareKeyStore(lone.data / "keys")).create()
    assert await lone.find_on("keys") == []
    stranger = SoftwareKeyStore(lone.directory / "stranger")
    data_keys(load_config(lone.write()), stranger).create()
    only(await lone.find_on("keys"), "keys.data-closed", "unseal", "key store back")


async def test_a_key_store_that_this_box_cannot_have(lone: HealthyBox) -> None:
    """A key store of the IoT Edge runtime, on a box that is no module of it, is told once."""
    lone.settings["key_store"] = {"kind": "iot-edge"}
    only(await lone.find_on("keys"), "keys.store-unusable", "IoT Edge", "kind: tpm or software")
    assert await lone.find_on("configuration") == []


async def test_what_a_running_gateway_says_of_its_keys(lone: HealthyBox) -> None:
    """What a running gateway says of its key store is taken from there."""
    fault = {"kind": "software", "weakness": "", "fault": "the wrapping key is not there"}
    async with serve_control(lone.data, status_of("plant-3", key_store=fault)):
        only(await lone.find_on("keys"), "keys.store-unusable", "wrapping key")


async def test_a_key_store_that_cannot_be_listed(lone: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key store that does not even give names is told with what it says."""

    def fail(_: SoftwareKeyStore) -> list[str]:
        raise KeyStoreError("cannot be listed: Input/output error", where="keys")

    monkeypatch.setattr(SoftwareKeyStore, "names", fail)
    only(await lone.find_on("keys"), "keys.store-unusable", "cannot be listed")


async def test_a_sensors_key_that_is_missing(lone: HealthyBox) -> None:
    """A key that the configuration names for a sensor and nobody has imported is a warning: it may come later."""
    lone.settings["links"][0] |= {"profile": "bthome-v2", "keys": {"bindkey": "kitchen"}}
    finding = only(await lone.find_on("keys"), "keys.payload-missing", "keys import kitchen --payload")
    assert not finding.is_fault


async def test_a_key_that_others_may_read(lone: HealthyBox) -> None:
    """A key with a mode that opens it to others is named, with what mends it."""
    (lone.data / "keys" / "gateway.key").chmod(0o644)
    only(await lone.find_on("keys"), "keys.open-to-others", "chmod go-rwx", "gateway.key")


async def test_a_key_that_was_not_imported(lone: HealthyBox) -> None:
    """The key that the configuration names is not there, and what to type is."""
    lone.settings["uplink"]["key"] = "plant"
    only(await lone.find_on("keys"), "keys.not-imported", "keys import plant", "gateway")


async def test_a_damaged_key(lone: HealthyBox) -> None:
    """A key whose file is not as it was written cannot be used."""
    path = lone.data / "keys" / "gateway.key"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    only(await lone.find_on("keys"), "keys.unusable", "gateway")


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has a database open and says nothing."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        yield holder
        assert holder.stdin is not None
        holder.stdin.close()


async def test_a_gateway_that_hangs(lone: HealthyBox) -> None:
    """A process that has the buffer and does not answer is named with its number, and keeps its lock."""
    with locked(lone.data / "buffer.db") as holder:
        only(await lone.find_on("gateway"), "gateway.hangs", f"process {holder.pid}", f"kill {holder.pid}")
        assert lock_holder(lone.data / "buffer.db") == holder.pid
    assert await lone.find_on("gateway") == []


def status_of(name: str, **others: object) -> dict[str, Handler]:
    async def status() -> AsyncGenerator[Answer, None]:
        yield {"status": {"gateway": name, "links": [], "buffer": {"state": "ok", "fault": ""}} | others}

    return {"status": Handler(status)}


async def test_another_gateway_on_the_directory(lone: HealthyBox) -> None:
    """A gateway of another name on the same data directory is named."""
    async with serve_control(lone.data, status_of("plant-4")):
        only(await lone.find_on("gateway"), "gateway.another", "plant-4", "plant-3")


async def test_the_gateway_itself_may_run(lone: HealthyBox) -> None:
    """The gateway of this configuration is no fault; what it says of its buffer is told."""
    async with serve_control(lone.data, status_of("plant-3")):
        assert await lone.find_on("gateway") == []
    trouble = {"state": "io-error", "fault": "buffer.db: disk I/O error. Look at the disk"}
    async with serve_control(lone.data, status_of("plant-3", buffer=trouble)):
        only(await lone.find_on("gateway"), "gateway.in-trouble", "disk I/O error")


async def test_what_a_running_gateway_says_of_its_sensors(lone: HealthyBox) -> None:
    """A sensor that the hub refuses is told, and none of them while the gateway itself is cut off."""
    told: dict[str, object] = {
        "faults": ["boiler-room: the hub refuses this device or its key", "port-a: no such port"]
    }
    told["links"] = [{"name": "port-a", "up": False, "fault": "no such port"}]
    async with serve_control(lone.data, status_of("plant-3", uplink={"connected": True}, **told)):
        only(await lone.find_on("gateway"), "gateway.in-trouble", "boiler-room")
    async with serve_control(lone.data, status_of("plant-3", uplink={"connected": False}, **told)):
        assert await lone.find_on("gateway") == []


async def test_a_running_gateway_is_not_imitated(healthy: HealthyBox) -> None:
    """Beside a gateway that runs, nobody logs in under its name: what it says of its connection is taken."""
    up = {"connected": True, "fault": ""}
    async with serve_control(healthy.data, status_of("plant-3", uplink=up)):
        assert await healthy.find() == []
    assert healthy.hub.hub.statistics.connections == 0
    down = {"connected": False, "fault": "the hub refuses this device or its key"}
    async with serve_control(healthy.data, status_of("plant-3", uplink=down)):
        only(await healthy.find(), "hub.offline", "refuses this device")
    assert healthy.hub.hub.statistics.connections == 0
