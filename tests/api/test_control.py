"""Asking a running gateway."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.api import control
from edge_gateway.api.control import (
    LONGEST_REQUEST_BYTES,
    MOST_ASKERS,
    SOCKET_NAME,
    Answer,
    Handler,
    NotRunning,
    ask,
    ask_status,
    serve_control,
)
from edge_gateway.errors import BufferUnavailable, GatewayError


class Gateway:
    """Answers, and remembers what became of its work."""

    def __init__(self, **more: object) -> None:
        self.asked = 0
        self.sent = 0
        self.ended = asyncio.Event()
        self._more = more
        self.handlers = {
            "status": Handler(self.status),
            "echo": Handler(self.echo, {"text": str, "number": int, "seconds": float}),
            "endless": Handler(self.endless),
            "wait": Handler(self.wait),
            "fail": Handler(self.fail),
        }

    async def status(self) -> AsyncGenerator[Answer, None]:
        self.asked += 1
        yield {"status": {"asked": self.asked, **self._more}}

    async def echo(self, **arguments: object) -> AsyncGenerator[Answer, None]:
        for name, value in arguments.items():
            yield {"argument": [name, value]}

    async def endless(self) -> AsyncGenerator[Answer, None]:
        try:
            while True:
                self.sent += 1
                yield {"line": "x" * 10_000}
        finally:
            self.ended.set()

    async def wait(self) -> AsyncGenerator[Answer, None]:
        yield {"waiting": True}
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def fail(self) -> AsyncGenerator[Answer, None]:
        yield {"line": 1}
        raise BufferUnavailable("the disk is full", where="buffer.db", remedy="Make room")


async def answers(directory: Path, request: str, **arguments: object) -> list[Answer]:
    return [answer async for answer in ask(directory, request, **arguments)]


def short(directory: Path) -> str:
    return os.path.relpath(directory / SOCKET_NAME)


async def told(directory: Path, request: bytes) -> list[dict[str, Any]]:
    """What the gateway sends to somebody who sends just these bytes, and then listens only."""
    reader, writer = await asyncio.open_unix_connection(short(directory))
    writer.write(request)
    writer.write_eof()
    try:
        return [orjson.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.close()


async def test_every_asker_gets_the_status_of_that_moment(tmp_path: Path) -> None:
    """Two askers one after the other see two moments."""
    async with serve_control(tmp_path, Gateway().handlers):
        assert await ask_status(tmp_path) == {"asked": 1}
        assert await ask_status(tmp_path) == {"asked": 2}


async def test_many_ask_at_once(tmp_path: Path) -> None:
    """Askers do not wait for each other, and none gets half an answer, however long it is."""
    text = "x" * 3_000_000
    async with serve_control(tmp_path, Gateway(text=text).handlers):
        statuses = await asyncio.gather(*(ask_status(tmp_path) for _ in range(8)))
    assert sorted(each["asked"] for each in statuses) == list(range(1, 9))
    assert {each["text"] for each in statuses} == {text}


async def test_an_answer_of_many_lines(tmp_path: Path) -> None:
    """Every line comes, in order, and arguments arrive as they were given; None is the same as nothing."""
    async with serve_control(tmp_path, Gateway().handlers):
        given = {"text": "ä\n", "number": -3, "seconds": 2}
        assert await answers(tmp_path, "echo", **given) == [{"argument": [*each]} for each in given.items()]
        assert await answers(tmp_path, "echo", text=None, seconds=0.5) == [{"argument": ["seconds", 0.5]}]


async def test_an_error_is_the_same_for_the_asker(tmp_path: Path) -> None:
    """It has the type and the texts it had in the gateway, and what came before it was answered."""
    async with serve_control(tmp_path, Gateway().handlers):
        lines = ask(tmp_path, "fail")
        assert await anext(lines) == {"line": 1}
        with pytest.raises(BufferUnavailable) as raised:
            await anext(lines)
    assert (raised.value.what, raised.value.where, raised.value.remedy) == (
        "the disk is full",
        "buffer.db",
        "Make room",
    )


@pytest.mark.parametrize(
    ("request_line", "complaint"),
    [
        (b"what?\n", "is not JSON"),
        (b'{"request": "status"', "is not JSON"),
        (b"[1]\n", "does not say what is asked for"),
        (b'{"request": 7}\n', "does not say what is asked for"),
        (b'{"request": "dance"}\n', "'dance' is not known"),
        (b'{"request": "status", "loud": true}\n', "status has no argument 'loud'"),
        (b'{"request": "echo", "text": 1}\n', "echo: text is not of type str"),
        (b'{"request": "echo", "number": 1.5}\n', "echo: number is not of type int"),
        (b'{"request": "echo", "seconds": true}\n', "echo: seconds is not of type float"),
    ],
)
async def test_a_request_that_is_none(tmp_path: Path, request_line: bytes, complaint: str) -> None:
    """It is refused with what is wrong with it, and nothing is done."""
    async with serve_control(tmp_path, Gateway().handlers):
        [answer] = await told(tmp_path, request_line)
    assert answer["error"]["kind"] == "RequestInvalid"
    assert complaint in answer["error"]["what"]


async def test_a_request_without_end(tmp_path: Path) -> None:
    """More than a request may have is not read, and the next asker is answered."""
    async with serve_control(tmp_path, Gateway().handlers):
        reader, writer = await asyncio.open_unix_connection(short(tmp_path))
        writer.write(b"x" * (3 * LONGEST_REQUEST_BYTES))
        try:
            received = await reader.read()
        except ConnectionResetError:
            received = b""  # how the kernel tells that not all was read
        assert b'"done"' not in received
        writer.close()
        assert await ask_status(tmp_path) == {"asked": 1}


async def test_a_request_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects and asks nothing is left after a while."""
    monkeypatch.setattr(control, "_ASKS_WITHIN_S", 0.01)
    async with serve_control(tmp_path, Gateway().handlers):
        reader, writer = await asyncio.open_unix_connection(short(tmp_path))
        assert await reader.read() == b""
        writer.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.dictionaries(st.text(), st.text() | st.none()).map(orjson.dumps))
def test_whatever_is_asked_is_answered(tmp_path: Path, request_line: bytes) -> None:
    """Any bytes at all get lines of JSON of which the last is an end."""

    async def serve_and_ask() -> list[dict[str, Any]]:
        async with serve_control(tmp_path, Gateway().handlers):
            return await told(tmp_path, request_line + b"\n")

    *_, last = asyncio.run(serve_and_ask())
    assert last.keys() <= {"done", "error"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["kind", "what", "where", "remedy"]), st.text() | st.none()).map(
        lambda error: orjson.dumps({"error": error}) + b"\n"
    )
)
def test_whatever_is_answered_is_an_answer_or_an_error(tmp_path: Path, answered: bytes) -> None:
    """Any bytes at all come out as lines, and in the end as nothing or as an error raised on purpose."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answered)
        writer.close()

    async def serve_and_ask() -> None:
        (tmp_path / SOCKET_NAME).unlink(missing_ok=True)
        async with await asyncio.start_unix_server(answer, short(tmp_path)):
            await answers(tmp_path, "status")

    if b'{"done":true}' not in answered:
        with pytest.raises(GatewayError):
            asyncio.run(serve_and_ask())


async def test_an_asker_who_reads_nothing_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Its own answer stands still after some lines; others are answered, and it ends when the asker goes."""
    gateway = Gateway()
    async with serve_control(tmp_path, gateway.handlers):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as idle:
            idle.connect(short(tmp_path))
            idle.sendall(b'{"request": "endless"}\n')
            sent = -1
            while sent < gateway.sent or sent < 1:
                sent = gateway.sent
                assert await ask_status(tmp_path)
            assert 10_000 * sent < 4_000_000
            assert not gateway.ended.is_set()
        await asyncio.wait_for(gateway.ended.wait(), 10)


async def test_an_asker_who_never_reads_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After minutes of nothing the work for it ends."""
    monkeypatch.setattr(control, "_READS_WITHIN_S", 0.05)
    gateway = Gateway()
    async with serve_control(tmp_path, gateway.handlers):
        _, writer = await asyncio.open_unix_connection(short(tmp_path), limit=1)
        writer.write(b'{"request": "endless"}\n')
        await asyncio.wait_for(gateway.ended.wait(), 10)
        writer.close()


async def test_an_asker_who_leaves_ends_the_work(tmp_path: Path) -> None:
    """What was done for it is closed at its next line, and the gateway serves on."""
    gateway = Gateway()
    async with serve_control(tmp_path, gateway.handlers):
        lines = ask(tmp_path, "endless")
        assert await anext(lines)
        await lines.aclose()
        await asyncio.wait_for(gateway.ended.wait(), 10)
        assert await ask_status(tmp_path) == {"asked": 1}


async def test_a_gateway_that_stops_ends_the_work(tmp_path: Path) -> None:
    """Going down does not wait for askers, and they are told that the answer is not whole."""
    gateway = Gateway()
    async with serve_control(tmp_path, gateway.handlers):
        lines = ask(tmp_path, "wait")
        assert await anext(lines) == {"waiting": True}
    assert gateway.ended.is_set()
    with pytest.raises(GatewayError, match="does not answer, or broke off its answer"):
        await anext(lines)


async def test_too_many_askers(tmp_path: Path) -> None:
    """Beyond a number they are told to come back, and can when others have gone."""
    gateway = Gateway()
    async with serve_control(tmp_path, gateway.handlers):
        crowd = [ask(tmp_path, "wait") for _ in range(MOST_ASKERS)]
        for each in crowd:
            await anext(each)
        with pytest.raises(GatewayError, match=f"{MOST_ASKERS} others ask already. Try again in a moment"):
            await ask_status(tmp_path)
        for each in crowd:
            await each.aclose()


async def test_a_directory_with_a_long_path(tmp_path: Path) -> None:
    """The data directory may lie deeper than a socket's address reaches."""
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    async with serve_control(directory, Gateway().handlers):
        assert await ask_status(directory) == {"asked": 1}


async def test_the_socket_is_the_owners_alone(tmp_path: Path) -> None:
    """Whoever may not read the gateway's data may not ask for it, and other files keep their usual modes."""
    mask = os.umask(0)
    try:
        async with serve_control(tmp_path, Gateway().handlers):
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
        async with serve_control(tmp_path, Gateway().handlers):
            await ask_status(tmp_path)

    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- numbers, not paths
    asyncio.run(serve_and_ask())
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 -- numbers, not paths


async def test_what_a_killed_gateway_left_is_not_in_the_way(tmp_path: Path) -> None:
    """A socket file without a gateway is replaced at the next start."""
    (tmp_path / SOCKET_NAME).write_text("stale")
    async with serve_control(tmp_path, Gateway().handlers):
        assert await ask_status(tmp_path) == {"asked": 1}


async def test_nobody_there(tmp_path: Path) -> None:
    """Without a gateway the asker is told at once, and what to do; also if a killed one left its socket."""
    with pytest.raises(NotRunning, match=r"no gateway answers here. Start it: edge-gateway run"):
        await ask_status(tmp_path)
    async with serve_control(tmp_path, Gateway().handlers):
        (tmp_path / SOCKET_NAME).rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / SOCKET_NAME)
    with pytest.raises(NotRunning, match="no gateway answers here"):
        await ask_status(tmp_path)


async def test_no_such_directory(tmp_path: Path) -> None:
    """A wrong data directory is told from a gateway that does not run."""
    with pytest.raises(GatewayError, match=r"none: cannot be opened: No such file or directory. Check data_directory"):
        await ask_status(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user for a moment")
async def test_another_user_is_told_so() -> None:
    """Whoever may not ask is told that, and not that no gateway runs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        async with serve_control(directory, Gateway().handlers):
            os.seteuid(65_534)
            try:
                with pytest.raises(GatewayError, match=r"this user may not ask the gateway. Ask as the user"):
                    await ask_status(directory)
            finally:
                os.seteuid(0)


async def test_a_gateway_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the request and says nothing is not waited for for ever, and is not taken for a stopped one."""
    monkeypatch.setattr(control, "_ANSWERS_WITHIN_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(short(tmp_path))
        hung.listen()
        with pytest.raises(GatewayError, match="does not answer") as raised:
            await ask_status(tmp_path)
    assert not isinstance(raised.value, NotRunning)
