"""The receiving end: a mosquitto of the benchmark's own, on a free port, with TLS and nothing in the way.

Its limits on messages in flight and queued are off, so that it never decides the outcome. TCP_NODELAY is on: otherwise
mosquitto's side of the connection holds a delivery back until the one before it was acknowledged by TCP, and a figure
of latency would tell of that.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_gateway.testbench.certificates import LocalAuthority

_START_WITHIN_S = 10.0


class Broker(NamedTuple):
    """Where a running broker listens on this machine, and whom its clients trust."""

    port: int
    ca_file: Path


@contextmanager
def running_broker(directory: Path) -> Iterator[Broker]:
    """Start mosquitto with its files in `directory`; leaving stops it.

    Raises:
        SystemExit: it is not installed, or does not start.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("The benchmark needs the broker mosquitto. On Debian and Ubuntu: apt-get install mosquitto")
    authority = LocalAuthority()
    certificate = authority.server_certificate(["localhost"])
    ca_file, chain_file, key_file = (directory / name for name in ("ca.pem", "broker.pem", "broker-key.pem"))
    ca_file.write_text(authority.ca_pem)
    chain_file.write_text(certificate.certificate_pem)
    key_file.touch(mode=0o600)
    key_file.write_text(certificate.key_pem)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config_file = directory / "mosquitto.conf"
    settings = [
        f"listener {port} 127.0.0.1",
        f"certfile {chain_file}",
        f"keyfile {key_file}",
        "allow_anonymous true",
        "max_inflight_messages 0",
        "max_queued_messages 0",
        "set_tcp_nodelay true",
    ]
    if os.geteuid() == 0:
        settings.append("user root")  # otherwise it becomes the user mosquitto, who cannot read the key
    config_file.write_text("\n".join(settings) + "\n")
    with (directory / "mosquitto.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config_file)], stdout=log, stderr=log)
    try:
        _wait_until_listening(process, port, directory / "mosquitto.log")
        yield Broker(port, ca_file)
    finally:
        process.terminate()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit(f"mosquitto does not start: {log.read_text().strip()}")
