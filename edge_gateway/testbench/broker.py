"""A real MQTT broker for tests and demonstrations: mosquitto, with TLS, on a port of its own.

```python
async with MosquittoBroker(authority=LocalAuthority()) as broker:
    ...  # a client that trusts broker.ca_file connects to broker.address and broker.port
    await broker.logged("New client connected")
```
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import LocalAuthority

_START_WITHIN_S: Final = 10.0
_STOP_WITHIN_S: Final = 5.0
_MOST_ATTEMPTS: Final = 5
_LONGEST_LOG_LINES: Final = 1000
_HASH_ROUNDS: Final = 101
"""What mosquitto_passwd takes; the broker reads the number from the file."""


def find_mosquitto() -> str | None:
    """The broker's program, which Debian keeps where users do not look; None if it is not installed."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


class MosquittoBroker:
    """Runs mosquitto as a process of its own, without persistence. Use it as an async context manager.

    Args:
        authority: signs the broker's certificate.
        address: the IPv4 address to listen on.
        names: what else clients call it, for the certificate, e.g. a proxy's address.
        users: passwords by user name; whoever has none of them is refused. None lets everybody in.
        rng: salts the passwords.

    Raises:
        BenchError: on entering, mosquitto is not installed or does not start.
    """

    def __init__(
        self,
        *,
        authority: LocalAuthority,
        address: str = "127.0.0.1",
        names: Iterable[str] = (),
        users: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.address = address
        self.port = 0
        """Where it listens; known after entering."""
        self._authority = authority
        self._names = [address, *names]
        self._users = users
        self._rng = rng if rng is not None else random.SystemRandom()
        self._log: list[str] = []
        self._grown = asyncio.Event()

    async def __aenter__(self) -> Self:
        program = find_mosquitto()
        if program is None:
            raise BenchError("mosquitto is not installed", remedy="On Debian and Ubuntu: apt-get install mosquitto")
        async with contextlib.AsyncExitStack() as started:
            directory = started.enter_context(tempfile.TemporaryDirectory(prefix="bench-broker-"))
            self._directory = Path(directory)
            self._write_files()
            for attempt in range(_MOST_ATTEMPTS):
                self.port = _free_port(self.address)
                if await self._start(program, started):
                    break
                # Somebody else may have taken the port in the meantime.
                if attempt == _MOST_ATTEMPTS - 1:
                    raise BenchError(f"mosquitto does not start: {'; '.join(self._log[-3:])}", where=program)
            self._running = started.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    @property
    def ca_file(self) -> Path:
        """What a client has to trust (PEM)."""
        return self._directory / "ca.pem"

    async def logged(self, text: str, times: int = 1) -> None:
        """Wait until the broker has said something that often since it started. The caller sets a time limit."""
        while self.times_logged(text) < times:
            self._grown.clear()
            await self._grown.wait()

    def times_logged(self, text: str) -> int:
        """How often the broker has said something, within its newest thousand lines."""
        return sum(text in line for line in self._log)

    def _write_files(self) -> None:
        certificate = self._authority.server_certificate(self._names)
        self.ca_file.write_text(self._authority.ca_pem)
        (self._directory / "broker.pem").write_text(certificate.certificate_pem)
        (self._directory / "broker.key").touch(mode=0o600)
        (self._directory / "broker.key").write_text(certificate.key_pem)
        if self._users is not None:
            lines = [f"{name}:{self._hashed(password)}\n" for name, password in self._users.items()]
            (self._directory / "users").touch(mode=0o600)
            (self._directory / "users").write_text("".join(lines))

    def _hashed(self, password: str) -> str:
        """A password as mosquitto keeps it: PBKDF2 with SHA-512, salted (its password file's type 7)."""
        salt = self._rng.randbytes(12)
        digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
        return f"$7${_HASH_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"

    def _settings(self) -> list[str]:
        settings = [
            f"listener {self.port} {self.address}",
            f"certfile {self._directory / 'broker.pem'}",
            f"keyfile {self._directory / 'broker.key'}",
            "log_dest stderr",
            # No limits: what a slow subscriber has not taken yet is kept for it.
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "set_tcp_nodelay true",
        ]
        if self._users is None:
            settings.append("allow_anonymous true")
        else:
            settings.append(f"password_file {self._directory / 'users'}")
        if os.geteuid() == 0:
            settings.append("user root")  # it would become the user mosquitto, who cannot read the key
        return settings

    async def _start(self, program: str, started: contextlib.AsyncExitStack) -> bool:
        """Start the process; False if it ended at once."""
        config = self._directory / "mosquitto.conf"
        config.write_text("\n".join(self._settings()) + "\n")
        process = await asyncio.create_subprocess_exec(
            program, "-c", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None  # noqa: S101 -- asked for in the line above
        reading = asyncio.create_task(self._read(process.stderr), name=f"testbench-broker-log {self.port}")
        started.push_async_callback(_stop, process, reading)
        ready = asyncio.create_task(self.logged(" running"), name=f"testbench-broker-ready {self.port}")
        try:
            await asyncio.wait({reading, ready}, timeout=_START_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            return ready.done()
        finally:
            ready.cancel()

    async def _read(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            self._log.append(line.decode(errors="replace").rstrip())
            del self._log[:-_LONGEST_LOG_LINES]
            self._grown.set()


async def _stop(process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    await reading


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
