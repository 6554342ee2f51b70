"""swtpm, started for a test: what it keeps, what it loses, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_gateway.errors import BenchError
from edge_gateway.testbench import virtual_tpm
from edge_gateway.testbench.virtual_tpm import VirtualTpm, find_swtpm
from tests.log_events import log_events

needs_swtpm = pytest.mark.skipif(
    find_swtpm() is None, reason="swtpm is not installed; on Debian and Ubuntu: apt-get install swtpm"
)
needs_tpm2_tools = pytest.mark.skipif(
    shutil.which("tpm2_getrandom") is None,
    reason="tpm2-tools is not installed; on Debian and Ubuntu: apt-get install tpm2-tools",
)

READ_CLOCK = bytes.fromhex("8001 0000000a 00000181")
OWNER = 0x40000001


class ClockInfo(NamedTuple):
    resets: int
    safe: bool


async def clock_info(tpm: VirtualTpm) -> ClockInfo:
    """TPM2_ReadClock: how often the TPM was reset, and whether it was shut down in order before."""
    response = await tpm.command(READ_CLOCK)
    assert response[6:10] == bytes(4)
    resets, _, safe = struct.unpack_from(">IIB", response, 10 + 16)
    return ClockInfo(resets, bool(safe))


async def define_counter(tpm: VirtualTpm) -> bytes:
    """TPM2_NV_DefineSpace of a counter; the response code is 0 once and then TPM_RC_NV_DEFINED (0x14c)."""
    public = struct.pack(">IHIHH", 0x01800001, 0x000B, 0x02040014, 0, 8)
    parameters = struct.pack(">HH", 0, len(public)) + public
    password = bytes.fromhex("00000009 40000009 0000 00 0000")
    size_bytes = 10 + 4 + len(password) + len(parameters)
    header = struct.pack(">HII", 0x8002, size_bytes, 0x12A)
    return (await tpm.command(header + struct.pack(">I", OWNER) + password + parameters))[6:10]


def socket_path(tcti: str) -> Path:
    return Path(tcti.removeprefix("swtpm:path="))


def process_id(tcti: str) -> int:
    """Of swtpm: who listens on its socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_path(tcti)))
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- the end of a process that is not our child is no event
            await asyncio.sleep(0.002)


@needs_swtpm
async def test_it_is_a_tpm_as_long_as_the_context() -> None:
    """It answers within the context; afterwards its process and its files are gone."""
    async with VirtualTpm() as tpm:
        assert (await tpm.command(READ_CLOCK))[:2] == b"\x80\x01"
        pid = process_id(tpm.tcti)
        assert socket_path(tpm.tcti).parent.stat().st_mode & 0o077 == 0
    assert not is_there(pid)
    assert not socket_path(tpm.tcti).parent.exists()


@needs_swtpm
async def test_a_restart_is_a_reboot() -> None:
    """Its state stays, it counts a reset, and it has been told before; the address is the same."""
    async with VirtualTpm() as tpm:
        tcti, before = tpm.tcti, await clock_info(tpm)
        assert await define_counter(tpm) == bytes(4)
        await tpm.restart()
        assert await clock_info(tpm) == ClockInfo(before.resets + 1, True)
        assert await define_counter(tpm) == bytes.fromhex("0000014c")
        assert tpm.tcti == tcti


@needs_swtpm
async def test_a_kill_is_a_power_cut() -> None:
    """It does not answer until it is restarted; its state stays, and it knows that it was not shut down."""
    async with VirtualTpm() as tpm:
        before = await clock_info(tpm)
        assert await define_counter(tpm) == bytes(4)
        pid = process_id(tpm.tcti)
        await tpm.kill()
        assert not tpm.running
        assert not is_there(pid)
        with pytest.raises(BenchError, match="the TPM does not answer"):
            await tpm.command(READ_CLOCK)
        await tpm.kill()  # nothing more happens
        await tpm.restart()
        assert tpm.running
        assert await clock_info(tpm) == ClockInfo(before.resets + 1, False)
        assert await define_counter(tpm) == bytes.fromhex("0000014c")


@needs_swtpm
async def test_a_tpm_that_died_is_seen_and_restarted() -> None:
    """When swtpm ends by itself, `running` says so, and `restart` brings it back."""
    async with VirtualTpm() as tpm:
        os.kill(process_id(tpm.tcti), signal.SIGKILL)
        await until(lambda: not tpm.running)
        await tpm.restart()
        assert (await clock_info(tpm)).safe is False


@needs_swtpm
async def test_a_directory_of_ones_own_keeps_the_tpm(tmp_path: Path) -> None:
    """The state in a given directory, whatever its name, is that of the next TPM there, shut down in order."""
    directory = tmp_path / "a, b" / "state"
    async with VirtualTpm(directory) as tpm:
        assert await define_counter(tpm) == bytes(4)
        before = await clock_info(tpm)
    assert directory.stat().st_mode & 0o077 == 0
    async with VirtualTpm(directory) as tpm:
        assert await define_counter(tpm) == bytes.fromhex("0000014c")
        assert await clock_info(tpm) == ClockInfo(before.resets + 1, True)


@needs_swtpm
async def test_several_run_side_by_side() -> None:
    """Each is a TPM of its own."""
    async with VirtualTpm() as one, VirtualTpm() as two:
        assert [await define_counter(one), await define_counter(two)] == [bytes(4), bytes(4)]
        await one.kill()
        assert two.running


@needs_swtpm
async def test_a_directory_in_use_is_told(tmp_path: Path) -> None:
    """Two TPMs cannot share their state; the second says why and leaves the first alone."""
    async with VirtualTpm(tmp_path) as tpm:
        with pytest.raises(BenchError, match=r"swtpm does not start: .*[Ll]ock.*See that no other swtpm"):
            async with VirtualTpm(tmp_path):
                pass
        assert await define_counter(tpm) == bytes(4)


@needs_swtpm
async def test_a_damaged_state_is_told(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has swtpm's own words; the damaged file stays, and nothing else does."""
    damaged = tmp_path / "tpm2-00.permall"
    damaged.write_bytes(b"not a TPM's state")
    temporary = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(BenchError, match=r"swtpm does not start: .*libtpms"):
        async with VirtualTpm(tmp_path):
            pass
    assert damaged.read_bytes() == b"not a TPM's state"
    assert list(temporary.iterdir()) == []


@needs_swtpm
async def test_a_file_in_place_of_the_directory_is_told(tmp_path: Path) -> None:
    """The error names it."""
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=r"/file: swtpm cannot be started: File exists"):
        async with VirtualTpm(tmp_path / "file"):
            pass


@needs_swtpm
@pytest.mark.parametrize("name", ["long" * 25, "a,b"])
async def test_a_temporary_directory_without_room_for_sockets_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Sockets have short paths, and clients separate settings by commas; the error says what to set."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(BenchError, match="Set TMPDIR to a short path"):
        async with VirtualTpm():
            pass
    assert list((tmp_path / name).iterdir()) == []


async def test_without_swtpm_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed, the error says how to get it."""
    monkeypatch.setattr(virtual_tpm, "find_swtpm", lambda: None)
    with pytest.raises(BenchError, match=r"swtpm is not installed. On Debian and Ubuntu: apt-get install swtpm"):
        async with VirtualTpm():
            pass


@needs_swtpm
async def test_a_busy_tpm_is_switched_off_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps its connection hears the power go; that the TPM was not told is logged."""
    monkeypatch.setattr(virtual_tpm, "_SHUT_DOWN_WITHIN_S", 0.05)
    async with VirtualTpm() as tpm:
        reader, writer = await asyncio.open_unix_connection(socket_path(tpm.tcti))
        writer.write(READ_CLOCK)
        assert await reader.readexactly(2) == b"\x80\x01"
        with log_events() as events:
            await tpm.restart()
        assert [event["event"] for event in events] == ["testbench.tpm.not_shut_down", "testbench.tpm.started"]
        assert len(await reader.read()) > 0
        writer.close()
        assert (await clock_info(tpm)).safe is False


@needs_swtpm
async def test_a_blocked_event_loop_does_not_stop_it() -> None:
    """Synchronous clients may call as often as they like: what swtpm has to say about it is never in the way."""
    async with VirtualTpm() as tpm:
        for _ in range(3000):  # a pipe takes what swtpm says about some 2,000
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(socket_path(tpm.tcti)))
                client.sendall(READ_CLOCK)
                assert client.recv(100)[:2] == b"\x80\x01"


@needs_swtpm
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # asyncio drops the transport of a process whose start is cancelled; better here than in a later test
async def test_a_start_that_is_given_up_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever starting is cancelled, what was there already goes again."""
    temporary = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for milliseconds in range(20):
        async with asyncio.timeout(30):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(milliseconds / 1000), VirtualTpm():
                    pass
            await until(lambda: not list(temporary.iterdir()))
    gc.collect()


OWNER_PROGRAM = """
import asyncio
import signal
from edge_gateway.testbench.virtual_tpm import VirtualTpm

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests in the background ignores it

async def main() -> None:
    async with VirtualTpm() as tpm:
        print(tpm.tcti, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@needs_swtpm
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_nothing_is_left_of_a_killed_owner(end: signal.Signals) -> None:
    """However the process ends that runs a TPM, swtpm ends too and its temporary directory goes."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER_PROGRAM, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert owner.stdout is not None
    async with asyncio.timeout(30):
        while not (line := (await owner.stdout.readline()).decode()).startswith("swtpm:"):
            assert line, "the owner has ended"
        directory, pid = socket_path(line.strip()).parent, process_id(line.strip())
        owner.send_signal(end)
        await owner.communicate()
    await until(lambda: not directory.exists() and not is_there(pid))


@needs_swtpm
@needs_tpm2_tools
async def test_tpm2_tools_reach_it_by_its_tcti() -> None:
    """The TCTI string is what the TSS's tools and libraries take."""
    async with VirtualTpm() as tpm:
        tool = await asyncio.create_subprocess_exec(
            *("tpm2_getrandom", "-T", tpm.tcti, "--hex", "8"), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(tool.communicate(), 30)
    assert tool.returncode == 0
    assert len(bytes.fromhex(output.decode())) == 8
