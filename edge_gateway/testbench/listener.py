"""Listening sockets that can be switched off and on, and loopback addresses nobody uses.

A server that is off closes its socket, so that clients see what they see of a stopped service: connection refused. What
asyncio's servers do not give, the bench needs: the accepted socket before any byte of TLS is spoken.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import structlog

from edge_gateway.errors import BenchError

_log = structlog.get_logger()

_BACKLOG = 512
"""Every sensor's session reconnects at once after an outage; the kernel keeps them until they are accepted."""
_ACCEPT_PAUSE_S = 0.1
"""After a failed accept, usually for want of file descriptors: trying again at once would spin."""
_FIRST_FREE_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Listener:
    """Accepts TCP connections on one IPv4 address while it is open. Needs a running event loop.

    Args:
        address: the address to listen on.
        port: the port, or 0 for a free one, which is kept over closing and opening.
        on_accept: called with each accepted socket, non-blocking, which it then owns.
    """

    def __init__(self, address: str, port: int, on_accept: Callable[[socket.socket], None]) -> None:
        self.address = address
        self.port = port
        self._on_accept = on_accept
        self._socket: socket.socket | None = None
        self._resuming: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Accept connections from now on; nothing happens if it does already.

        Raises:
            BenchError: the address cannot be used.
        """
        if self._socket is not None:
            return
        self._socket = _bound(self.address, self.port)
        self.port = self._socket.getsockname()[1]
        self._socket.listen(_BACKLOG)
        self._watch(self._socket)

    def close(self) -> None:
        """Refuse connections from now on. Those accepted stay."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        if self._resuming is not None:
            self._resuming.cancel()
        self._socket.close()
        self._socket = None

    def _watch(self, listening: socket.socket) -> None:
        self._resuming = None
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client has gone in the meantime
        except OSError as error:
            _log.warning("testbench.accept.failed", address=self.address, port=self.port, cause=str(error))
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            self._resuming = loop.call_later(_ACCEPT_PAUSE_S, self._watch, listening)
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._on_accept(accepted)


def reset_on_close(transport: asyncio.Transport) -> None:
    """Make closing send RST in place of FIN and drop what was not sent: the peer sees a connection reset."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def free_loopback_address(rng: random.Random, port: int = 8883) -> str:
    """Pick an address in 127.0.0.0/8 on which `port` is free now.

    The device SDK connects to port 8883 and no other, so that several hubs on one box need an address each. All of
    127.0.0.0/8 is the own machine on Linux; elsewhere most of it has to be set up first.

    Raises:
        BenchError: no free address was found.
    """
    for _ in range(100):
        address = f"127.{rng.randint(1, 254)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
        try:
            _bound(address, port).close()
        except BenchError:
            continue
        return address
    raise BenchError(
        f"no free loopback address for port {port}",
        where="127.0.0.0/8",
        remedy="Linux serves all of it; add addresses to the loopback interface on other systems",
    )


def may_listen(port: int) -> bool:
    """Whether this user may listen on a port; on Linux, ports below 1024 are for root unless the system says else."""
    if os.geteuid() == 0:
        return True
    try:
        return port >= int(_FIRST_FREE_PORT.read_text())
    except (OSError, ValueError):
        return port >= 1024


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)
    try:
        bound.bind((address, port))
    except OSError as error:
        bound.close()
        raise BenchError(
            f"cannot listen: {error.strerror}",
            where=f"{address}:{port}",
            remedy="Choose another loopback address or port",
        ) from error
    return bound
