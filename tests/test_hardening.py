"""What the process and its files show to others."""

from __future__ import annotations

import base64
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError
from edge_gateway.hardening import MOST_FILES, check_modes, list_admits_others, shared_with_others
from edge_gateway.keystore.generations import MOST_GENERATIONS
from edge_gateway.provisioning.identities import MOST_IDENTITIES

OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 65534


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """As the kernel keeps it: tag, permissions, and whose."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def for_user(user_id: int) -> bytes:
    """What systemd gives a credential: the owner reads, and one user."""
    anybody = 0xFFFFFFFF
    return access_list(
        (OWNER, 4, anybody), (USER, 4, user_id), (GROUP, 0, anybody), (MASK, 4, anybody), (OTHER, 0, anybody)
    )


def run_python(code: str) -> Sequence[str]:
    """What a process prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_hardened_process_leaves_no_core_and_shares_no_files(tmp_path: Path) -> None:
    """Core size, dumpable and umask are as said, and a process started from it is as careful."""
    lines = run_python(
        "import ctypes, os, pathlib, resource, subprocess\n"
        "from edge_gateway.hardening import harden_process\n"
        "harden_process()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
        f"pathlib.Path({str(tmp_path / 'file')!r}).write_text('')\n"
        "print(subprocess.run(['sh', '-c', 'ulimit -c; umask'], capture_output=True, text=True, check=True).stdout)\n"
    )
    assert lines[:4] == ["(0, 0)", "0", "0", "0077"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_files_of_the_owner_alone_are_well(tmp_path: Path) -> None:
    """Nothing is told of a data directory as a gateway leaves it, nor of one that is not there."""
    data = tmp_path / "data"
    assert check_modes(data) == []
    (data / "keys").mkdir(parents=True)
    for directory in (data, data / "keys"):
        directory.chmod(0o700)
    (data / "keys" / "gateway.key").touch(mode=0o600)
    (data / "link").symlink_to("/etc/passwd")
    assert check_modes(data) == []


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o666])
def test_a_file_that_others_reach_is_named_with_its_remedy(tmp_path: Path, mode: int) -> None:
    """Readable or writable, by group or all: its path, its mode, and the command."""
    tmp_path.chmod(0o700)
    (tmp_path / "buffer.db").touch()
    (tmp_path / "buffer.db").chmod(mode)
    [problem] = check_modes(tmp_path)
    path = tmp_path / "buffer.db"
    assert str(problem) == f"{path}: others can reach it (mode {mode:04o}). chmod go-rwx {path}"


def test_the_directories_themselves_are_looked_at(tmp_path: Path) -> None:
    """Also the one that was asked for."""
    (tmp_path / "data" / "keys").mkdir(parents=True)
    for directory in (tmp_path / "data", tmp_path / "data" / "keys"):
        directory.chmod(0o755)
    assert [problem.path for problem in check_modes(tmp_path / "data")] == [tmp_path / "data", tmp_path / "data/keys"]


def test_a_directory_behind_a_link_is_looked_at(tmp_path: Path) -> None:
    """A data directory may be a link to another disk; what it leads to has to be the gateway's alone as well."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert [problem.path for problem in check_modes(tmp_path / "data")] == [tmp_path / "disk"]


def test_what_is_somebody_elses_is_named(tmp_path: Path) -> None:
    """By the number of the user, with the command that mends it."""
    tmp_path.chmod(0o700)
    me = os.geteuid()
    [problem] = check_modes(tmp_path, user_id=me + 1)
    assert problem.what == f"belongs to user {me} and not {me + 1}"
    assert problem.remedy == f"chown {me + 1} {tmp_path}"


def test_a_directory_that_is_not_a_gateways_is_not_searched_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More files than a gateway has: it says so."""
    monkeypatch.setattr("edge_gateway.hardening.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(ConfigError, match="holds more than 3 files"):
        check_modes(tmp_path)
    assert MOST_FILES >= MOST_IDENTITIES * (MOST_GENERATIONS + 1)


def test_a_credential_of_systemd_is_the_users_alone(tmp_path: Path) -> None:
    """Mode 0440 with an access list that names this user is no group's; without the list it is."""
    path = tmp_path / "credential"
    path.touch()
    path.chmod(0o440)
    assert shared_with_others(path)
    try:
        os.setxattr(path, "system.posix_acl_access", for_user(os.geteuid()))
    except OSError as error:
        pytest.skip(f"this file system keeps no access lists: {error.strerror}")
    assert not shared_with_others(path)
    os.setxattr(path, "system.posix_acl_access", for_user(NOBODY))
    assert shared_with_others(path)


def test_an_access_list_that_admits_others_is_seen() -> None:
    """Another user, any group; not an entry that permits nothing."""
    assert not list_admits_others(for_user(1000), 1000)
    assert not list_admits_others(access_list((USER, 0, 7), (NAMED_GROUP, 0, 7)), 1000)
    assert list_admits_others(for_user(1001), 1000)
    assert list_admits_others(access_list((GROUP, 4, 0)), 1000)
    assert list_admits_others(access_list((NAMED_GROUP, 4, 7)), 1000)


@given(st.binary(max_size=100))
def test_what_is_no_access_list_is_not_trusted(content: bytes) -> None:
    """Any bytes are told apart without an error, and what is of no known version counts as open."""
    assert isinstance(list_admits_others(content, 1000), bool)
    if content[:4] != b"\x02\0\0\0":
        assert list_admits_others(content, 1000)


@pytest.mark.parametrize("command", ["provision", "keys"])
def test_a_command_that_is_given_keys_is_hardened(tmp_path: Path, command: str) -> None:
    """Killed while it has a key in memory it leaves no core; what it makes on its way is its own alone."""
    config = tmp_path / "gateway.yaml"
    config.write_text(
        f"gateway: {{name: plant-3, data_directory: {tmp_path}/new/parent/data}}\n"
        "links: [{name: a, port: {path: /dev/null}, profile: reference-climate}]\n"
        "uplink: {kind: iot-hub}\n"
    )
    key = base64.b64encode(bytes(range(32))).decode()
    words, text = {
        "provision": (("connection-string",), f"HostName=hub.example;DeviceId=plant-3;SharedAccessKey={key}"),
        "keys": (("import", "gateway"), key),
    }[command]
    code = (
        "import os, resource, sys\n"
        "os.umask(0)\n"
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
        f"sys.argv = {['edge-gateway', command, *words, '--config', str(config)]}\n"
        "from edge_gateway.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=text, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "(0, 0)"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "parent").stat().st_mode) == 0o700
