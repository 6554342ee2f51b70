"""A real TPM 2.0 for tests and demonstrations: swtpm, in a directory of its own.

```python
async with VirtualTpm() as tpm:
    ...  # tpm2-pytss and tpm2-tools reach it by tpm.tcti
    await tpm.restart()  # the box reboots: keys and counters stay, what was loaded is gone
    await tpm.kill()  # the power fails
```

swtpm runs under a *guard*, a shell that switches it on and off on command. The guard's input is a pipe from us, which
the kernel closes however we end. So the guard notices even our SIGKILL, ends swtpm and deletes its temporary directory.

swtpm listens on Unix sockets in that directory, which only our user may enter: there is no port that somebody else
could have, and nobody else gets at the TPM. It serves one connection at a time; clients connect anew for each command.

A new TPM is blank: it has no certificates, and the passwords of its hierarchies are empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from edge_gateway.errors import BenchError

_log = structlog.get_logger()

_START_WITHIN_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.005
"""swtpm says nothing when it is ready; starting takes it some 10 ms."""
_SHUT_DOWN_WITHIN_S: Final = 2.0
_ANSWER_WITHIN_S: Final = 60.0
"""Making an RSA key takes longest, some 50 ms on an idle machine."""
_HEADER_BYTES: Final = 10
_LONGEST_ANSWER_BYTES: Final = 4096
_LONGEST_SOCKET_PATH_BYTES: Final = 107
"""Linux's sockaddr_un, without the zero byte at its end."""

_READ_CLOCK: Final = bytes.fromhex("8001 0000000a 00000181")
_SHUTDOWN_CLEAR: Final = bytes.fromhex("8001 0000000c 00000145 0000")

# $0 is the temporary directory, the arguments are swtpm's command. Each run gives two lines: swtpm's last words when it
# has ended, by itself or not, and "off" when its process is gone, after it was switched off.
#
# swtpm says a line for each connection: `tail` always reads, so that it never waits for us to take them. A named pipe
# opens when both sides have come, and either may be killed before; so 3 is both sides until they are there. When we
# are gone, nobody hears the lines: that must not end the guard before its time.
_GUARD: Final = """
trap '' PIPE
off() {
    [ "$tpm" ] || return
    kill -KILL "$tpm"
    wait
    tpm=
    echo off
}
while read -r order; do
    case $order in
    on)
        exec 3<>"$0/words"
        { tail -c 500 | tr '\\n' ' '; echo; } <"$0/words" 3>&- &
        "$@" >"$0/words" 2>&1 3>&- &
        tpm=$!
        exec 3>&-
        ;;
    off) off ;;
    esac
done
off
rm -rf -- "$0"
"""


def find_swtpm() -> str | None:
    """The program's path; None if it is not installed."""
    return shutil.which("swtpm")


class VirtualTpm:
    """Runs swtpm as a process. Use it as an async context manager.

    Args:
        directory: keeps the TPM's state, also for the next `VirtualTpm`; made with mode 0700 if it is not there. One
            process at a time can use it. None: the state goes with the context.

    Raises:
        BenchError: on entering, swtpm is not installed or does not start; the text has what it said.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._run: asyncio.Task[None] | None = None
        """From on to off."""
        self._ended = asyncio.Event()
        self._last_words = ""

    async def __aenter__(self) -> Self:
        program = find_swtpm()
        if program is None:
            raise BenchError("swtpm is not installed", remedy="On Debian and Ubuntu: apt-get install swtpm")
        private = Path(tempfile.mkdtemp(prefix="bench-tpm-"))
        try:
            await self._start_guard(program, private)
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        try:
            await self._switch_on()
        except BaseException:
            await self._release_guard()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._shut_down()
        finally:
            await self._release_guard()

    @property
    def tcti(self) -> str:
        """How tpm2-pytss and tpm2-tools reach it, e.g. `swtpm:path=/tmp/bench-tpm-x/s`. The same over restarts."""
        return f"swtpm:path={self._socket}"

    @property
    def running(self) -> bool:
        """False after `kill`, and when swtpm has ended by itself."""
        return self._run is not None and not self._ended.is_set()

    async def command(self, command: bytes) -> bytes:
        """Give the TPM a command as Part 3 of the TPM 2.0 Library writes it, and return its response.

        Raises:
            BenchError: there is no answer: it is off, has ended, or another connection is in the way.
        """
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                return await self._exchange(command)
        except (OSError, EOFError) as error:  # TimeoutError is an OSError
            raise BenchError(
                f"the TPM does not answer: {error!r}", where=self.tcti, remedy="Switch it on by `restart`"
            ) from error

    async def restart(self) -> None:
        """Reboot: TPM2_Shutdown, off and on. After `kill`, or if swtpm has ended by itself, on.

        Raises:
            BenchError: it does not start again.
        """
        await self._shut_down()
        await self._switch_off()
        await self._switch_on()

    async def kill(self) -> None:
        """Cut the power: without TPM2_Shutdown, which the TPM notices when it is switched on again."""
        await self._switch_off()
        _log.info("testbench.tpm.killed", tcti=self.tcti)

    async def _start_guard(self, program: str, private: Path) -> None:
        self._socket = _socket_in(private)
        self._state = self._directory or private / "state"
        try:
            self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.mkfifo(private / "words", mode=0o600)
            self._guard = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _GUARD, str(private)),
                *(program, "socket", "--tpm2", "--tpmstate", "dir=."),
                *("--server", f"type=unixio,path={self._socket}"),
                *("--ctrl", f"type=unixio,path={self._socket}.ctrl"),  # where clients look for it
                *("--flags", "not-need-init,startup-clear"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=self._state,  # so that its path may have a comma, which separates swtpm's settings
                start_new_session=True,  # Ctrl-C is for us; the TPM goes when we have no more use for it
            )
        except OSError as error:
            raise BenchError(f"swtpm cannot be started: {error.strerror}", where=str(error.filename)) from error

    async def _switch_on(self) -> None:
        self._ended.clear()
        self._order("on")
        self._run = asyncio.create_task(self._follow_run(), name="testbench-tpm-run")
        try:
            async with asyncio.timeout(_START_WITHIN_S):
                response = await self._first_response()
        except TimeoutError:
            raise BenchError(f"swtpm is not ready after {_START_WITHIN_S:.0f} s", where=str(self._state)) from None
        if response[6:_HEADER_BYTES] != bytes(4):
            raise BenchError(f"the TPM has failed: it answers {response.hex()}", where=str(self._state))
        _log.info("testbench.tpm.started", tcti=self.tcti, state=str(self._state))

    async def _follow_run(self) -> None:
        assert self._guard.stdout is not None  # noqa: S101 -- asked for when it was started
        self._last_words = (await self._guard.stdout.readline()).decode(errors="replace").strip()
        self._ended.set()
        await self._guard.stdout.readline()  # "off"

    async def _first_response(self) -> bytes:
        while not self._ended.is_set():
            try:
                return await self._exchange(_READ_CLOCK)
            except (OSError, EOFError):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN_S):
                        await self._ended.wait()
        raise BenchError(
            f"swtpm does not start: {self._last_words}",
            where=str(self._state),
            remedy="See that no other swtpm uses the directory and that its files are whole",
        )

    async def _shut_down(self) -> None:
        """Say that the power goes, as a box does that is switched off."""
        if not self.running:
            return
        try:
            async with asyncio.timeout(_SHUT_DOWN_WITHIN_S):
                await self._exchange(_SHUTDOWN_CLEAR)
        except (OSError, EOFError) as error:  # the same to the TPM as a power cut, which it has to bear
            _log.info("testbench.tpm.not_shut_down", tcti=self.tcti, cause=repr(error))

    async def _switch_off(self) -> None:
        if self._run is not None:
            self._order("off")
            await asyncio.wait({self._run})

    async def _release_guard(self) -> None:
        """End swtpm if it runs, and delete what was kept for it."""
        assert self._guard.stdin is not None  # noqa: S101 -- asked for when it was started
        self._guard.stdin.close()
        if self._run is not None:
            await asyncio.wait({self._run})
        await self._guard.communicate()  # asyncio is done with a process only when its pipes have ended, too

    def _order(self, word: str) -> None:
        assert self._guard.stdin is not None  # noqa: S101 -- asked for when it was started
        self._guard.stdin.write(f"{word}\n".encode())

    async def _exchange(self, command: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(command)
            header = await reader.readexactly(_HEADER_BYTES)
            size_bytes = int.from_bytes(header[2:6], "big")
            if not _HEADER_BYTES <= size_bytes <= _LONGEST_ANSWER_BYTES:
                raise ConnectionError(f"an answer of {size_bytes} bytes")
            return header + await reader.readexactly(size_bytes - _HEADER_BYTES)
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # it may have gone first
                await writer.wait_closed()


def _socket_in(directory: Path) -> Path:
    path = directory / "s"
    if len(os.fsencode(f"{path}.ctrl")) > _LONGEST_SOCKET_PATH_BYTES or "," in str(path):
        raise BenchError(
            "sockets cannot be in this directory",
            where=str(directory),
            remedy="Set TMPDIR to a short path without a comma, e.g. /tmp",
        )
    return path
