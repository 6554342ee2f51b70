"""A microcontroller on a serial port, running the firmware of `tests/firmware` in simavr.

It is compiled once per process and sensor address, into a folder that is removed when the process ends. Each board is
freshly powered up and runs as a process of its own; leaving the context switches it off.

```python
with FirmwareBoard() as board, serial.Serial(board.port, BAUD) as port:
    ...
```
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from edge_gateway.errors import BenchError

FIRMWARE_SOURCES = Path(__file__).parent.parent / "firmware"
DEFAULT_ADDRESS = 7
BAUD = 38_400

_START_TIMEOUT_S = 20.0
"""Starting takes some 10 ms; the rest is for a machine that is busy with other tests."""
_STOP_TIMEOUT_S = 10.0


class ToolsMissing(BenchError):
    """The compilers or libraries that the firmware needs are not installed."""


class _Need(NamedTuple):
    """A header that a compiler must find, and the Debian packages that bring the two."""

    compiler: str
    header: str
    packages: str


_NEEDS = (
    _Need("cc", "simavr/sim_avr.h", "gcc libsimavr-dev"),
    _Need("avr-gcc", "avr/interrupt.h", "gcc-avr avr-libc"),
)


def require_tools() -> None:
    """Check that all it takes to build and run a board is installed.

    Raises:
        ToolsMissing: something is not; the remedy is the command that installs it.
    """
    missing = [need.packages for need in _NEEDS if not _is_met(need)]
    if shutil.which("make") is None:
        missing.append("make")
    if missing:
        raise ToolsMissing(
            "tools to build the firmware are missing",
            where=str(FIRMWARE_SOURCES),
            remedy=f"On Debian: apt-get install {' '.join(missing)}",
        )


def _is_met(need: _Need) -> bool:
    if shutil.which(need.compiler) is None:
        return False
    probe = subprocess.run(
        [need.compiler, "-E", "-x", "c", "-"],
        input=f"#include <{need.header}>\n",
        capture_output=True,
        text=True,
        check=False,
    )
    return probe.returncode == 0


def run_make(target: str, folder: Path, *, address: int = DEFAULT_ADDRESS) -> str:
    """Make `target` of the firmware's Makefile into `folder`; return what was printed.

    Raises:
        BenchError: it failed; the text ends with what was printed.
    """
    made = subprocess.run(
        ["make", "--directory", FIRMWARE_SOURCES, f"OUT={folder}", f"ADDRESS={address}", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise BenchError(
            f"make {target} ended with exit code {made.returncode}",
            where=str(FIRMWARE_SOURCES),
            remedy=f"Mend what it complains about:\n{made.stdout}",
        )
    return made.stdout


@functools.cache
def build_firmware(address: int) -> Path:
    """Compile the runner, and the firmware of a sensor with `address`.

    Returns:
        The folder with `simavr_pty`, `climate_sensor.elf` and `dying.elf`; the same one at each call.

    Raises:
        ToolsMissing: compilers or libraries are not installed.
        BenchError: the sources do not compile.
    """
    require_tools()
    folder = Path(tempfile.mkdtemp(prefix="edge-gateway-firmware-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run_make("all", folder, address=address)
    return folder


class FirmwareBoard:
    """A simulated ATmega328P whose UART is a port that any serial program can open.

    Use it as a context manager. Entering raises `ToolsMissing` where compilers or libraries are not installed and
    `BenchError` if the board does not start; leaving raises `BenchError` if its microcontroller crashed meanwhile.

    Args:
        address: the sensor's address, 0..65535.
        firmware: the ELF file to run; `dying.elf` is one that crashes at once.
    """

    _runner: subprocess.Popen[str]
    _complaints: IO[str]
    _resources: contextlib.ExitStack

    def __init__(self, *, address: int = DEFAULT_ADDRESS, firmware: str = "climate_sensor.elf") -> None:
        self._address = address
        self._firmware = firmware
        self._port = ""

    @property
    def port(self) -> str:
        """Path of the serial port, e.g. `/dev/pts/3`, for 38400 baud 8N1. What is sent while it is closed is lost."""
        return self._port

    def __enter__(self) -> Self:
        folder = build_firmware(self._address)
        with contextlib.ExitStack() as resources:
            # A file and not a pipe: nobody reads it while the board runs, and a full pipe would stop the board.
            self._complaints = resources.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
            self._runner = subprocess.Popen(
                [folder / "simavr_pty", folder / self._firmware],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                text=True,
            )
            resources.callback(_switch_off, self._runner)
            self._port = _announced_port(self._runner)
            if not self._port:
                raise self._ended_early()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            if _switch_off(self._runner) != 0 and error is None:
                raise self._ended_early()

    def _ended_early(self) -> BenchError:
        exit_code = _switch_off(self._runner)
        self._complaints.seek(0)
        return BenchError(
            f"the board ended with exit code {exit_code}",
            where=self._firmware,
            remedy=f"Its runner said: {self._complaints.read().strip() or 'nothing'}",
        )


def _announced_port(runner: subprocess.Popen[str]) -> str:
    """The path in the runner's `READY` line; empty if it ended, or said nothing for too long."""
    assert runner.stdout is not None
    readable, _, _ = select.select([runner.stdout], [], [], _START_TIMEOUT_S)
    return runner.stdout.readline().removeprefix("READY ").strip() if readable else ""


def _switch_off(runner: subprocess.Popen[str]) -> int:
    """End the runner and return its exit code: 0 unless something went wrong before. May be called again."""
    with runner:
        assert runner.stdin is not None
        runner.stdin.close()
        try:
            return runner.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            runner.kill()
            return runner.wait()
