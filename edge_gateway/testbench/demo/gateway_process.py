"""The gateway under test: the real program in a process of its own, which can be killed as a power cut would."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, Final

from edge_gateway.api.control import ask_status
from edge_gateway.errors import BenchError, GatewayError

_CONNECTS_WITHIN_S: Final = 30.0
_STOPS_WITHIN_S: Final = 15.0
_ASK_AGAIN_S: Final = 0.05
_LOG_TAIL_BYTES: Final = 1000


class GatewayProcess:
    """`edge-gateway run` as a child.

    Args:
        config_file: its configuration.
        data_directory: as the configuration says; where its status is asked for.
        log_file: gets its standard error.
    """

    def __init__(self, config_file: Path, data_directory: Path, log_file: Path) -> None:
        self._config_file = config_file
        self._data_directory = data_directory
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0
        self.kills = 0

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and return at once."""
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "edge_gateway", "run", "--json", "--config", str(self._config_file)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the demo, which stops the gateway in its own time.
                start_new_session=True,
            )
        self.starts += 1

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
            self.kills += 1

    async def stop(self) -> int | None:
        """SIGTERM; return the exit code, or None if it had to be killed because it did not stop."""
        if self._process is None:
            return None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOPS_WITHIN_S):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return None

    async def status(self) -> dict[str, Any] | None:
        """What it says about itself; None if it does not answer now."""
        try:
            return await ask_status(self._data_directory)
        except GatewayError:
            return None

    async def connected(self) -> None:
        """Wait until it is connected to the hub.

        Raises:
            BenchError: it ended, or did not get there in time.
        """
        try:
            async with asyncio.timeout(_CONNECTS_WITHIN_S):
                while (status := await self.status()) is None or not status["uplink"]["connected"]:
                    if self.pid is None:
                        raise self._failed("the gateway ended by itself")
                    await asyncio.sleep(_ASK_AGAIN_S)
        except TimeoutError:
            raise self._failed(f"the gateway was not connected after {_CONNECTS_WITHIN_S:g} s") from None

    def last_words(self) -> str:
        """The end of its log."""
        return self._log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def _failed(self, what: str) -> BenchError:
        return BenchError(what, where="edge-gateway run", remedy=f"It said: {self.last_words()}")
