"""A TCP proxy that fails on command: stands between a gateway and its hub and plays the network.

`PASS` forwards. `SILENT` is the failure that takes longest to notice: connections stay open, new ones are accepted,
and not a byte goes either way. `REFUSE` turns new connections away and leaves those there are. `reset()` cuts all at
once, as a rebooting router does. TLS passes through untouched: the hub's certificate has to be for the proxy's address,
which it is if the hub is named after it.

```python
near, far = free_loopback_address(rng), free_loopback_address(rng)
async with (
    LocalHub(authority=authority, address=far, host_name=near) as hub,
    FaultProxy(hub.address, hub.port, near, hub.port) as proxy,
):
    ...  # a client connects to hub.host_name
    proxy.mode = ProxyMode.SILENT
```
"""

from __future__ import annotations

import asyncio
import enum
import socket
from types import TracebackType
from typing import Self, cast

import structlog

from edge_gateway.testbench.listener import Listener, reset_on_close

_log = structlog.get_logger()


class ProxyMode(enum.Enum):
    """What the network does."""

    PASS = "pass"  # noqa: S105 - a word for letting through, not a password
    SILENT = "silent"
    REFUSE = "refuse"


class FaultProxy:
    """Forwards TCP connections to one target, or fails them. Use it as an async context manager.

    Args:
        target_host: where connections go.
        target_port: where connections go.
        listen_host: the IPv4 address to listen on.
        listen_port: the port to listen on; 0 takes a free one.

    Raises:
        BenchError: on entering, the address cannot be used.
    """

    def __init__(
        self, target_host: str, target_port: int, listen_host: str = "127.0.0.1", listen_port: int = 0
    ) -> None:
        self._target_host = target_host
        self._target_port = target_port
        self._listener = Listener(listen_host, listen_port, self._arrive)
        self._mode = ProxyMode.PASS
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._joining: set[asyncio.Task[None]] = set()
        self._ends: set[_End] = set()
        self.connections = 0
        """How many were accepted. Only ever grows."""

    async def __aenter__(self) -> Self:
        self._listener.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        joining = list(self._joining)
        self.reset()
        await asyncio.gather(*joining, return_exceptions=True)
        self.reset()  # a connection may have come up before its task was cancelled
        await asyncio.gather(*(end.gone for end in self._ends))

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._listener.address

    @property
    def port(self) -> int:
        """Where it listens; known after entering if a free one was asked for."""
        return self._listener.port

    @property
    def mode(self) -> ProxyMode:
        """What the network does now; set it to change that, for the connections there are as well."""
        return self._mode

    @mode.setter
    def mode(self, mode: ProxyMode) -> None:
        self._mode = mode
        if mode is ProxyMode.REFUSE:
            self._listener.close()
        else:
            self._listener.open()
        if mode is ProxyMode.SILENT:
            self._speaking.clear()
        else:
            self._speaking.set()
        for end in self._ends:
            end.steer_reading()

    def reset(self) -> None:
        """Cut every connection with a TCP reset, towards both ends."""
        for joining in self._joining:
            joining.cancel()
        for end in list(self._ends):
            end.cut()

    def _arrive(self, accepted: socket.socket) -> None:
        self.connections += 1
        task = asyncio.create_task(self._join(accepted), name=f"testbench-proxy-{self.address}:{self.port}")
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _, near = await loop.connect_accepted_socket(lambda: _End(self), accepted)
        try:
            await self._speaking.wait()
            _, far = await loop.create_connection(lambda: _End(self), self._target_host, self._target_port)
        except OSError as error:
            _log.info("testbench.proxy.no_target", cause=str(error))
            near.cut()
        else:
            near.peer, far.peer = far, near
            near.steer_reading()
            far.steer_reading()

    @property
    def _silent(self) -> bool:
        return not self._speaking.is_set()


class _End(asyncio.Protocol):
    """One of the two sockets of a forwarded connection. Reads only while its peer can take what it reads."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy
        self._backed_up = False
        self._ended = False
        self.peer: _End | None = None
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP is a stream
        self._proxy._ends.add(self)
        # Not now: before Python 3.11.4 a transport paused in here starts to read all the same, right afterwards
        # (https://github.com/python/cpython/issues/103607). In the next turn, nothing has been read yet.
        asyncio.get_running_loop().call_soon(self.steer_reading)

    def data_received(self, data: bytes) -> None:
        if self.peer is not None and not self.peer._transport.is_closing():
            self.peer._transport.write(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self.peer is None or self.peer._ended:
            return False
        if not self.peer._transport.is_closing():
            self.peer._transport.write_eof()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy._ends.discard(self)
        self.gone.set_result(None)
        if self.peer is None:
            return
        if exc is not None:
            self.peer.cut()
        else:
            self.peer._transport.close()

    def pause_writing(self) -> None:
        self._backed_up = True
        if self.peer is not None:
            self.peer.steer_reading()

    def resume_writing(self) -> None:
        self._backed_up = False
        if self.peer is not None:
            self.peer.steer_reading()

    def steer_reading(self) -> None:
        """Read if what is read may go on to the peer."""
        if self.peer is None or self.peer._backed_up or self._proxy._silent:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def cut(self) -> None:
        """Send a reset and be gone."""
        if not self._transport.is_closing():
            reset_on_close(self._transport)
        self._transport.abort()
