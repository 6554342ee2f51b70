"""A wire between a program and its TPM, with somebody who listens: all bytes of both directions are kept.

Other than `bus`, which stands inside the program, this one shares nothing with it but a socket, as a probe on a bus.
"""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer
from typing import Self

_MOST_BYTES = 65_536


class Relay:
    """Two sockets in front of those of swtpm, one for commands and one for control. A context manager.

    Args:
        path: of the new socket; a short one.
        tcti: of the TPM behind it, `swtpm:path=...`.
    """

    def __init__(self, path: Path, tcti: str) -> None:
        self.tcti = f"swtpm:path={path}"
        behind = tcti.removeprefix("swtpm:path=")
        self._heard: list[bytes] = []
        self._servers = [_server(f"{path}{suffix}", f"{behind}{suffix}", self._heard) for suffix in ("", ".ctrl")]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def heard(self) -> bytes:
        """Everything, in the order it came."""
        return b"".join(self._heard)


def _server(path: str, behind: str, heard: list[bytes]) -> ThreadingUnixStreamServer:
    class Wire(BaseRequestHandler):
        """One connection."""

        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as tpm:
                tpm.connect(behind)
                other_end = {self.request: tpm, tpm: self.request}
                while True:
                    for end in select.select(list(other_end), (), ())[0]:
                        data = end.recv(_MOST_BYTES)
                        if not data:
                            return
                        heard.append(data)
                        other_end[end].sendall(data)

    return ThreadingUnixStreamServer(path, Wire)
