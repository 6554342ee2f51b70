"""`edge-gateway demo` as a person or a script calls it: it balances, with faults too, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

ENDS_WITHIN_S = 100.0
SEES_WITHIN_S = 60.0
_STYLES = re.compile(r"\x1b\[[0-9;]*m")
DEMO = (sys.executable, "-m", "edge_gateway", "demo")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A directory for temporary files; a test that left one there, or a process that uses it, fails."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert _processes_about(str(tmp_path)) == []


def _processes_about(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command:
                found.append(command)
    return found


def demo(temporary: Path, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [*DEMO, "--json", "--seed", "1", *arguments],
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout.decode() + done.stderr.decode()
    document: dict[str, Any] = orjson.loads(done.stdout)
    return document


def test_five_seconds_balance(temporary: Path) -> None:
    """Twelve sensors of four profiles, noise and broken frames, alerts with commands: all of it accounted for."""
    document = demo(temporary, "--seconds", "5")
    assert document["balanced"]
    assert document["imbalances"] == []
    assert len(document["devices"]) == 12
    profiles = {device["profile"] for device in document["devices"].values()}
    assert profiles == {"reference-climate", "pms5003", "sds011", "tfmini"}
    for device in document["devices"].values():
        assert device["sent"] == device["received"] > 10
        assert device["broken"] == device["rejected"]
        assert device["delivered"] == device["at_hub"] == device["received"] - device["rejected"]
    total = document["total"]
    assert total["broken"] > 0
    assert (total["lost_on_wire"], total["queued"], total["expired"], total["evicted"]) == (0, 0, 0, 0)
    assert document["alerts"]["raised"] > 0
    assert document["commands"]["by_rule"]["acknowledged"] > 0
    assert document["latency_ms"]["p50"] <= document["latency_ms"]["p99"]


def test_a_cut_link_a_killed_gateway_and_a_pulled_cable_balance_too(temporary: Path) -> None:
    """What faults cost is known frame by frame: nothing the gateway kept is lost, and the rest has its reason."""
    document = demo(temporary, "--seconds", "9", "--faults", "unplug@0.5-2,command@1,cut@2-5.5,kill@4,kill@7")
    assert document["balanced"]
    assert document["gateway"] == {"starts": 3, "kills": 2}
    assert document["lost"]["port_closed"] > 0
    assert document["total"]["lost_on_wire"] == sum(document["lost"].values())
    assert document["total"]["at_hub"] > 0
    assert document["commands"]["by_hub"] == ["503 unreachable"]
    assert len(document["history"]) == 7


def test_a_command_from_the_hub_is_answered_by_the_sensor(temporary: Path) -> None:
    """The way down works in the same run: method, gateway, serial line, sensor, and back."""
    document = demo(temporary, "--seconds", "2", "--sensors", "1", "--faults", "command@1")
    assert document["commands"]["by_hub"] == ["200 acknowledged"]


def test_an_interrupted_run_ends_in_order(temporary: Path) -> None:
    """SIGTERM and Ctrl-C stop it early; the account is drawn all the same, and nothing stays behind."""
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen(
            [*DEMO, "--json", "--seconds", "600", "--sensors", "3"],
            env=os.environ | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
        )
        _until(lambda: any(temporary.glob("edge-gateway-demo-*/data/control.sock")))
        process.send_signal(number)
        output, _ = process.communicate(timeout=ENDS_WITHIN_S)
        assert process.returncode == 0
        assert orjson.loads(output)["balanced"]


def test_a_wrong_script_is_refused_before_anything_starts(temporary: Path) -> None:
    """A fault that cannot be read is an error of the call."""
    document = demo(temporary, "--faults", "burn@3", exit_code=2)
    assert document["where"] == "--faults"


def test_the_live_view_fits_a_small_terminal_and_obeys_its_keys(temporary: Path) -> None:
    """On a terminal of 80 by 24 all devices and keys are seen, keys act, and `q` ends in a balanced account."""
    with Terminal([*DEMO, "--seed", "1"], temporary) as terminal:
        terminal.wait_for("smoke-2", "[c] cut link", "[q] quit", "fault")
        terminal.press("u")
        terminal.wait_for("plug in climate-1", "climate-1 is unplugged")
        terminal.press("c")
        terminal.wait_for("restore link")
        terminal.press("uc")
        terminal.wait_for("the link to the hub is back")
        terminal.press("k")
        terminal.wait_for("killed 1x")
        terminal.press("q")
        terminal.wait_for("The account balances.")
        assert terminal.exit_code() == 0


def test_running_a_gateway_does_not_pay_for_the_demo() -> None:
    """What only the bench and the view need is not imported by the command line itself."""
    script = (
        "import sys, edge_gateway.cli.run, edge_gateway.cli.app; "
        "heavy = ('edge_gateway.testbench', 'rich.live', 'azure'); "
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout == b"[]\n"


def _until(condition: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + SEES_WITHIN_S
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.02)


class Terminal:
    """A program on a terminal of 80 by 24 characters."""

    def __init__(self, command: list[str], temporary: Path) -> None:
        self._fd, far_end = os.openpty()
        fcntl.ioctl(far_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(temporary), "TERM": "xterm-256color", "PYTHONUTF8": "1"},
            stdin=far_end,
            stdout=far_end,
            stderr=far_end,
            start_new_session=True,
        )
        os.close(far_end)
        self._unseen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(ENDS_WITHIN_S)
        os.close(self._fd)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, *texts: str) -> None:
        """Wait until each of the texts has been seen since the last wait."""
        ends_s = time.monotonic() + SEES_WITHIN_S
        while missing := [text for text in texts if text not in self._text()]:
            assert time.monotonic() < ends_s, f"{missing} not in {self._text()[-4000:]}"
            if select.select([self._fd], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # EIO: it has ended, and all it wrote has been read
                    self._unseen += os.read(self._fd, 65_536)
        self._unseen = b""

    def exit_code(self) -> int:
        return self._process.wait(ENDS_WITHIN_S)

    def _text(self) -> str:
        """What came, without colours."""
        return _STYLES.sub("", self._unseen.decode(errors="replace"))
