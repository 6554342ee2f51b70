"""`edge-gateway keys wipe`, on a gateway that is stopped and on one that runs."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.api.control import Answer, Handler, serve_control
from edge_gateway.cli.app import collect
from edge_gateway.emergency import GatewayWiped
from edge_gateway.emergency.mark import WipeReport, read_mark, write_mark
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore

KEY = bytes(range(32))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    link: dict[str, Any] = {"name": "air", "port": {"path": "/dev/null"}, "profile": "bthome-v2"}
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [link | {"framing": {"kind": "slip"}}],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    (tmp_path / "data").mkdir(mode=0o700)
    SoftwareKeyStore(tmp_path / "data" / "keys").put("gateway", Secret(KEY))
    return path


def run(config: Path, *words: str) -> Result:
    return CliRunner().invoke(collect("keys"), ["keys", *words, "--config", str(config)])


def keys_of(config: Path) -> list[Path]:
    return list((config.parent / "data" / "keys").iterdir())


def test_a_stopped_gateway_is_wiped(config: Path) -> None:
    """Nothing is left, the mark says why, and every other command on keys is refused from then on."""
    result = run(config, "wipe", "--yes")
    assert (result.exit_code, result.output) == (
        0,
        "all keys are destroyed; disable the gateway and its sensors at the hub, too\n",
    )
    assert keys_of(config) == []
    mark = read_mark(config.parent / "data")
    assert mark is not None
    assert (mark.reason, mark.done) == ("edge-gateway keys wipe", True)
    for words in (("list",), ("create", "k"), ("status",)):
        refused = run(config, *words)
        assert isinstance(refused.exception, GatewayWiped)
    assert keys_of(config) == []
    assert orjson.loads(run(config, "wipe", "--yes", "--json").output)["done"] is True


def test_a_command_ends_a_wipe_that_was_cut(config: Path) -> None:
    """And is refused then."""
    write_mark(config.parent / "data", WipeReport("tamper input lid", "2026-11-23T01:36:37Z"))
    refused = run(config, "list")
    assert "wiped on 2026-11-23T01:36:37Z (reason: tamper input lid)" in str(refused.exception)
    assert keys_of(config) == []


def test_without_yes_and_a_terminal_it_is_refused(config: Path) -> None:
    """A script has to say that it means it."""
    result = run(config, "wipe")
    assert isinstance(result.exception, ConfigError)
    assert "there is nobody to ask. To mean it, give --yes" in str(result.exception)
    assert read_mark(config.parent / "data") is None


@pytest.mark.parametrize(("typed", "code"), [("plant\n", 0), ("yes\n", 2)])
def test_on_a_terminal_the_name_has_to_be_typed(config: Path, typed: str, code: int) -> None:
    """Anything else changes nothing, and the exit code is that of a wrong call."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "edge_gateway", "keys", "wipe", "--config", str(config)]
    with subprocess.Popen(arguments, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        output, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code, output
    assert b"Type its name to go on" in output
    assert bool(keys_of(config)) == bool(code)


def test_what_is_left_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code of work whose outcome is bad."""
    (config.parent / "data" / "identities.json").write_text("{")
    result = run(config, "wipe", "--yes")
    assert result.exit_code == 1
    assert result.output.startswith("could not be destroyed, all else is:\n  ")
    assert "private keys that it named were not looked for" in result.output


def test_no_data_directory_is_a_wrong_call(config: Path) -> None:
    """There is nothing to wipe, and no directory is made for it."""
    (config.parent / "data").rename(config.parent / "away")
    result = run(config, "wipe", "--yes")
    assert isinstance(result.exception, ConfigError)
    assert not (config.parent / "data").exists()


class RunningGateway:
    """Answers the control socket in a thread of its own, in one of three ways."""

    def __init__(self, directory: Path, how: str) -> None:
        self._directory = directory
        self._how = how
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self.was_asked = False

    def __enter__(self) -> RunningGateway:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        handlers = {} if self._how == "older" else {"keys.wipe": Handler(self._wipe)}
        async with serve_control(self._directory, handlers):
            self._ready.set()
            await self._stop.wait()

    async def _wipe(self) -> AsyncGenerator[Answer, None]:
        self.was_asked = True
        report = WipeReport("asked", "2026-11-23T01:36:37Z", done=self._how == "wipes", left=())
        write_mark(self._directory, report)
        yield {"progress": {"done": 0, "of": 1}}
        if self._how == "dies":
            raise RuntimeError("the gateway is gone")


@pytest.mark.parametrize("how", ["wipes", "dies", "older"])
def test_a_running_gateway_is_asked(config: Path, how: str) -> None:
    """It does it itself; where it cannot, or breaks off, the command ends it, so that it is wiped in any case."""
    with RunningGateway(config.parent / "data", how) as gateway:
        result = run(config, "wipe", "--yes")
    assert result.exit_code == 0
    assert gateway.was_asked == (how != "older")
    mark = read_mark(config.parent / "data")
    assert mark is not None
    assert mark.done
    assert bool(keys_of(config)) == (how == "wipes")  # this one says so without doing it: nobody else did it either
    assert ("the running gateway did not tell how its wipe ended" in result.stderr) == (how != "wipes")
