"""`edge-gateway buffer`, `ledger` and `quarantine`, of a gateway that runs and of one that is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import random
import stat
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.api.control import NotRunning, serve_control
from edge_gateway.api.handlers import gateway_handlers
from edge_gateway.assembly import BUFFER_FILE, open_buffer
from edge_gateway.buffer import BadFrame, Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.cli.app import collect
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.errors import BufferInUse, ConfigError, GatewayError
from edge_gateway.records import Reading
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.broker import MosquittoBroker
from tests.api.listed_buffer import ListedBuffer, ListedGateway, bad_frame, reading

TIME_NS = 1_777_636_800_000_000_000


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, {"kind": "mqtt", "host": "127.0.0.1", "port": 1})


def write_config(directory: Path, uplink: dict[str, Any]) -> Path:
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "line", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
        "uplink": uplink,
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    (directory / "data").mkdir()
    return path


@contextlib.contextmanager
def running(config: Path, gateway: ListedGateway) -> Iterator[None]:
    """A gateway that answers meanwhile, in a thread of its own."""
    serving, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serve_control(config.parent / "data", gateway_handlers(gateway)):
            serving.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert serving.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def stopped(config: Path, fill: Callable[[DurableBuffer], Awaitable[None]]) -> None:
    """What a gateway left that has been stopped."""

    async def open_and_fill() -> None:
        async with open_buffer(load_config(config), clock=SystemClock(), rng=random.Random(1)) as buffer:
            await fill(buffer)

    asyncio.run(open_and_fill())


async def some_records(buffer: DurableBuffer) -> None:
    """Five readings and thirty bad frames, each durable by itself."""
    for number in range(5):
        await buffer.append(Batch([Reading(f"boiler-{number % 2}", "p", TIME_NS, {"t": number})]))
    for number in range(30):
        await buffer.append(Batch(bad=[BadFrame("line", "checksum", bytes([number]), TIME_NS)]))


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(collect(words[0]), [*words, "--config", str(config)])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def error_of(result: Result) -> GatewayError:
    assert isinstance(result.exception, GatewayError)
    return result.exception


# --- stopped --------------------------------------------------------------------------------------------------------


def test_stats_of_a_stopped_gateway(config: Path) -> None:
    """What its store says, as JSON and as tables."""
    stopped(config, some_records)
    stats = orjson.loads(run(config, "buffer", "stats", "--json").stdout)
    [normal] = [lane for lane in stats["lanes"] if lane["name"] == "normal"]
    assert (normal["queued"], normal["quarantined"]) == (5, 30)
    shown = run(config, "buffer", "stats")
    assert shown.exit_code == 0
    assert "drop-oldest" in shown.stdout


def test_verify_of_a_stopped_gateway(config: Path) -> None:
    """0 where all is whole, and everything was looked at."""
    stopped(config, some_records)
    result = run(config, "buffer", "verify", "--json")
    [line] = lines(result)
    assert result.exit_code == 0
    assert (line["verified"]["records"], line["verified"]["damaged"]) == (35, 0)
    assert run(config, "buffer", "verify").stdout.startswith("35 records are whole, 0 were found damaged")


def test_export_of_a_stopped_gateway(config: Path) -> None:
    """The records as the hub would get them, one a line, in order; and they are there the next time as well."""
    stopped(config, some_records)
    for _ in range(2):
        result = run(config, "buffer", "export")
        assert result.exit_code == 0
        assert [record["values"] for record in lines(result)] == [{"t": number} for number in range(5)]
        assert "5 records are copied" in result.stderr


def test_export_to_a_file(config: Path, tmp_path: Path) -> None:
    """The file is new and its owner's alone; with `--json` what became of it is told as JSON."""
    stopped(config, some_records)
    copy = tmp_path / "copy.jsonl"
    [line] = lines(run(config, "buffer", "export", "--to", str(copy), "--json"))
    assert line == {"exported": {"records": 5, "damaged": 0, "file": str(copy)}}
    assert [orjson.loads(each)["seq"] for each in copy.read_bytes().splitlines()] == [1, 1, 2, 2, 3]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    again = error_of(run(config, "buffer", "export", "--to", str(copy)))
    assert "file exists. Name a file that is not there yet" in str(again)


def test_an_export_that_fails_leaves_no_file(config: Path, tmp_path: Path) -> None:
    """A file that is there is whole."""
    error_of(run(config, "buffer", "export", "--to", str(tmp_path / "copy.jsonl")))
    assert not (tmp_path / "copy.jsonl").exists()


def test_a_new_key_for_a_stopped_gateway(config: Path) -> None:
    """What was sealed with the old one can still be read."""
    stopped(config, some_records)
    assert lines(run(config, "buffer", "rotate-key", "--json")) == [{"rotated": {"key": 2}}]
    assert run(config, "buffer", "rotate-key").stdout == "what comes from now on is sealed with key 3\n"
    assert len(lines(run(config, "buffer", "export"))) == 5


def test_ledger_of_a_stopped_gateway(config: Path) -> None:
    """One that has not run for an hour has no rows, and a header all the same."""
    stopped(config, some_records)
    assert run(config, "ledger", "show").stdout.split()[:3] == ["hour", "received", "delivered"]
    assert lines(run(config, "ledger", "show", "--json")) == []


def test_quarantine_of_a_stopped_gateway(config: Path) -> None:
    """Every frame with its bytes; none of a link that sent none."""
    stopped(config, some_records)
    frames = lines(run(config, "quarantine", "list", "--json"))
    assert [frame["frame"] for frame in frames] == [f"{number:02x}" for number in range(30)]
    first = run(config, "quarantine", "list").stdout.splitlines()[0]
    assert first == "2026-05-01T12:00:00.000000Z  line  checksum  00"
    assert lines(run(config, "quarantine", "list", "--json", "--link", "other")) == []


def test_only_a_running_gateway_publishes(config: Path) -> None:
    """A stopped one has no way to the hub; the error says what to do."""
    stopped(config, some_records)
    error = error_of(run(config, "ledger", "publish"))
    assert isinstance(error, NotRunning)
    assert "Start it: edge-gateway run" in str(error)


@pytest.mark.parametrize("words", ["buffer stats", "buffer drain", "ledger verify", "quarantine replay"])
def test_where_there_is_no_buffer(config: Path, words: str) -> None:
    """Nothing is made by looking, and the error asks for the right directory."""
    error = error_of(run(config, *words.split()))
    assert isinstance(error, ConfigError)
    assert "there is no buffer here" in str(error)
    assert list((config.parent / "data").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_buffer_of_another_user(config: Path) -> None:
    """Root does not leave keys and files in it that the gateway's user could not read."""
    stopped(config, some_records)
    os.chown(config.parent / "data" / BUFFER_FILE, 12_345, -1)
    error = error_of(run(config, "buffer", "rotate-key"))
    assert isinstance(error, ConfigError)
    assert "belongs to the user #12345" in str(error)
    assert "sudo -u '#12345' edge-gateway" in error.remedy


def test_a_buffer_that_is_open_while_nobody_answers(config: Path) -> None:
    """It is told that the store is locked, by whom that may be, and how to find out."""

    async def look(_: DurableBuffer) -> None:
        error = error_of(await asyncio.to_thread(run, config, "buffer", "stats"))
        assert isinstance(error, BufferInUse)
        assert "open in another process, but no gateway answers" in error.what
        assert f"fuser -v {config.parent / 'data' / BUFFER_FILE}" in error.remedy

    stopped(config, look)


# --- running --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> ListedGateway:
    buffer = ListedBuffer()
    for number in range(40):
        buffer.add("normal", reading("boiler", number))
    buffer.add_bad(bad_frame("line", "0102"))
    for hour in range(3):
        buffer.close_hour(3600 * 24 * hour, boiler=hour)
    return ListedGateway(buffer)


def test_a_running_gateway_answers_itself(config: Path, gateway: ListedGateway) -> None:
    """Nothing is opened: there is not even a store."""
    with running(config, gateway):
        assert orjson.loads(run(config, "buffer", "stats", "--json").stdout)["id"] == "ab12"
        assert [record["seq"] for record in lines(run(config, "buffer", "export"))] == list(range(40))
        assert lines(run(config, "buffer", "verify", "--json"))[-1]["verified"]["records"] == 41
        assert lines(run(config, "buffer", "rotate-key", "--json")) == [{"rotated": {"key": 2}}]
        assert [row["device"] for row in lines(run(config, "ledger", "show", "--json"))] == ["boiler"] * 3
        assert lines(run(config, "ledger", "verify", "--json")) == [{"chain": {"rows": 3, "faults": 0, "last": 3}}]
        assert run(config, "ledger", "publish").stdout == "3 rows are on their way\n"
        assert lines(run(config, "quarantine", "list", "--json")) == [bad_frame("line", "0102")]
        replayed = run(config, "quarantine", "replay", "--link", "line")
        assert replayed.stdout == "replayed: 2 frames, 1 readings, 1 still_bad\n"
    assert gateway.replayed == ["line"]
    assert list((config.parent / "data").iterdir()) == []


def test_damage_is_exit_code_1(config: Path, gateway: ListedGateway) -> None:
    """Of records and of the ledger, and each is named; what was set aside before is told and is no news."""
    gateway.buffer.damage(gateway.buffer.add("alert", reading("boiler", 41)))
    gateway.buffer.rows[1] = gateway.buffer.rows[1]._replace(delivered=7)
    with running(config, gateway):
        result = run(config, "buffer", "verify")
        assert result.exit_code == 1
        assert "damaged, and set aside now: lane alert, chunk" in result.stdout
        assert "ledger: " in result.stdout
        result = run(config, "ledger", "verify")
        assert result.exit_code == 1
        assert "row 2 (normal, boiler): changed: " in result.stdout
        gateway.buffer.rows.clear()
        gateway.buffer.head = type(gateway.buffer.head)()
        result = run(config, "buffer", "verify")
        assert result.exit_code == 0
        assert "damaged, in the quarantine: " in result.stdout


def test_an_export_without_what_is_damaged(config: Path, gateway: ListedGateway) -> None:
    """1, with all that is whole on standard output and the rest told on standard error."""
    gateway.buffer.damage(gateway.buffer.add("alert", reading("boiler", 41)))
    with running(config, gateway):
        result = run(config, "buffer", "export")
    assert result.exit_code == 1
    assert len(lines(result)) == 40
    assert "damaged, and set aside now" in result.stderr


def test_the_ledger_since_a_day(config: Path, gateway: ListedGateway) -> None:
    """`--since` is UTC, wherever the box stands; `--device` chooses one."""
    with running(config, gateway):
        result = run(config, "ledger", "show", "--since", "1970-01-02", "--device", "boiler")
        assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == [
            "1970-01-02T00:00:00Z",
            "1970-01-03T00:00:00Z",
        ]
        assert lines(run(config, "ledger", "show", "--json", "--device", "pump")) == []


def test_an_error_of_the_gateway_is_the_commands(config: Path, gateway: ListedGateway) -> None:
    """A request that a gateway of another version does not know ends the command with what it does know."""
    handlers = gateway_handlers

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "gateway_handlers", lambda each: {"status": handlers(each)["status"]})
        with running(config, gateway):
            error = error_of(run(config, "buffer", "stats"))
    assert "'buffer.stats' is not known. This gateway knows status" in str(error)


# --- draining: a process of its own, which leaves connections behind it at once --------------------------------------


async def drain(config: Path, *words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_gateway", "buffer", "drain", "--config", str(config), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_drain_of_a_running_gateway(config: Path, gateway: ListedGateway) -> None:
    """0 when all is delivered; 1, with why, when it is not in time."""
    async with serve_control(config.parent / "data", gateway_handlers(gateway)):
        gateway.faults = ["no route"]
        code, output, _ = await drain(config, "--timeout-s", "0.1")
        assert (code, output.splitlines()) == (1, ["40 records are still queued after 0.1 s", "fault: no route"])
        gateway.buffer.deliver()
        code, output, _ = await drain(config, "--json")
        assert (code, orjson.loads(output)) == (0, {"drained": {"queued": 0, "faults": []}})


@contextlib.asynccontextmanager
async def filled(config: Path) -> AsyncIterator[None]:
    async with open_buffer(load_config(config), clock=SystemClock(), rng=random.Random(1)) as buffer:
        await some_records(buffer)
    yield


async def test_drain_of_a_stopped_gateway(tmp_path: Path) -> None:
    """It is started without its links, delivers everything, and is stopped again; its port need not be there."""
    async with MosquittoBroker(authority=LocalAuthority()) as broker:
        uplink = {"kind": "mqtt", "host": broker.address, "port": broker.port, "ca_file": str(broker.ca_file)}
        config = write_config(tmp_path, uplink)
        async with filled(config):
            code, output, errors = await drain(config)
        assert (code, output) == (0, "everything is delivered\n"), errors
    async with open_buffer(load_config(config), clock=SystemClock(), rng=random.Random(1)) as buffer:
        assert buffer.status().totals.delivered == 5
        assert not any(buffer.status().queued.values())


async def test_drain_of_a_stopped_gateway_without_a_hub(config: Path) -> None:
    """1 after the time given, with what is left and why; nothing is lost."""
    async with filled(config):
        code, output, _ = await drain(config, "--timeout-s", "1")
    assert code == 1
    assert output.startswith("5 records are still queued after 1 s\nfault: ")
    async with open_buffer(load_config(config), clock=SystemClock(), rng=random.Random(1)) as buffer:
        assert buffer.status().totals.queued == 5


# --- what is shown on a terminal -------------------------------------------------------------------------------------


async def test_progress_is_shown_on_a_terminal_only(config: Path, gateway: ListedGateway) -> None:
    """It is drawn on standard error, and standard output has the answer and nothing else."""
    ours, terminal = pty.openpty()
    async with serve_control(config.parent / "data", gateway_handlers(gateway)):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "edge_gateway", "buffer", "verify", "--json", "--config", str(config)),
            stdout=asyncio.subprocess.PIPE,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm"},
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    os.close(terminal)
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal ends that nobody has open any more
        while part := os.read(ours, 65536):
            drawn += part
    os.close(ours)
    assert [[*orjson.loads(line)] for line in output.splitlines()] == [["verified"]]
    assert b"verifying" in drawn
    assert b"3/3" in drawn
