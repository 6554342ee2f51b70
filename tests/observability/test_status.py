"""Asking a running gateway how it is."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.errors import GatewayError
from edge_gateway.observability.status import SOCKET_NAME, ask_status, serve_status


class Gateway:
    """Counts how often it was asked."""

    def __init__(self, **more: object) -> None:
        self.asked = 0
        self._more = more

    def status(self) -> dict[str, Any]:
        self.asked += 1
        return {"asked": self.asked, **self._more}


async def test_every_asker_gets_the_status_of_that_moment(tmp_path: Path) -> None:
    """Two askers one after the other see two moments."""
    async with serve_status(tmp_path, Gateway().status):
        assert await ask_status(tmp_path) == {"asked": 1}
        assert await ask_status(tmp_path) == {"asked": 2}


async def test_many_ask_at_once(tmp_path: Path) -> None:
    """Askers do not wait for each other, and none gets half an answer, however long it is."""
    text = "x" * 3_000_000
    async with serve_status(tmp_path, Gateway(text=text).status):
        answers = await asyncio.gather(*(ask_status(tmp_path) for _ in range(8)))
    assert sorted(each["asked"] for each in answers) == list(range(1, 9))
    assert {each["text"] for each in answers} == {text}


async def test_an_asker_who_reads_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A connection that nobody reads from does not stop others from being answered."""
    async with serve_status(tmp_path, Gateway(text="x" * 3_000_000).status):
        _, writer = await asyncio.open_unix_connection(_short(tmp_path))
        assert (await ask_status(tmp_path))["text"]
        writer.close()
        await writer.wait_closed()


def _short(directory: Path) -> str:
    return os.path.relpath(directory / SOCKET_NAME)


async def test_a_directory_with_a_long_path(tmp_path: Path) -> None:
    """The data directory may lie deeper than a socket's address reaches."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    async with serve_status(directory, Gateway().status):
        assert await ask_status(directory) == {"asked": 1}


async def test_the_socket_is_the_owners_alone(tmp_path: Path) -> None:
    """Whoever may not read the gateway's data may not ask for its status, and other files keep their usual modes."""
    mask = os.umask(0)
    try:
        async with serve_status(tmp_path, Gateway().status):
            mode = (tmp_path / SOCKET_NAME).stat().st_mode
            (tmp_path / "other").touch()
    finally:
        os.umask(mask)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o666


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """After serving, the directory is as it was, and so are the process's open files."""

    async def serve_and_ask() -> None:
        async with serve_status(tmp_path, Gateway().status):
            await ask_status(tmp_path)

    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- numbers, not paths
    asyncio.run(serve_and_ask())
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 -- numbers, not paths


async def test_what_a_killed_gateway_left_is_not_in_the_way(tmp_path: Path) -> None:
    """A socket file without a gateway is replaced at the next start."""
    (tmp_path / SOCKET_NAME).write_text("stale")
    async with serve_status(tmp_path, Gateway().status):
        assert await ask_status(tmp_path) == {"asked": 1}


async def test_nobody_there(tmp_path: Path) -> None:
    """Without a gateway the asker is told at once, and what to do; also if a killed one left its socket."""
    with pytest.raises(GatewayError, match=r"no gateway answers here. Start it: edge-gateway run"):
        await ask_status(tmp_path)
    async with serve_status(tmp_path, Gateway().status):
        (tmp_path / SOCKET_NAME).rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / SOCKET_NAME)
    with pytest.raises(GatewayError, match="no gateway answers here"):
        await ask_status(tmp_path)


async def test_no_such_directory(tmp_path: Path) -> None:
    """A wrong data directory is told from a gateway that does not run."""
    with pytest.raises(GatewayError, match=r"none: cannot be opened: No such file or directory. Check data_directory"):
        await ask_status(tmp_path / "none")


async def test_half_an_answer_is_no_answer(tmp_path: Path) -> None:
    """A gateway that dies while it answers is one that does not answer."""

    async def break_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"gateway": "pla')
        writer.close()

    async with await asyncio.start_unix_server(break_off, _short(tmp_path)):
        with pytest.raises(GatewayError, match="no gateway answers here"):
            await ask_status(tmp_path)
