"""Whether a gateway runs on the data directory, which one, and how it is.

A running gateway is asked over its control socket. Whether another process has the buffer open is asked of the kernel:
the lock is looked at (F_GETLK) and never taken, so nobody notices. A process that has the buffer open itself must not
ask, as POSIX takes all its locks away when it closes the file; the doctor is a process of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from edge_gateway.api.control import NotRunning, ask_status
from edge_gateway.assembly import BUFFER_FILE
from edge_gateway.doctor.finding import Fault, Findings
from edge_gateway.doctor.holders import process_name
from edge_gateway.doctor.site import Site
from edge_gateway.errors import GatewayError

OTHER_GATEWAY: Final = Fault(
    "gateway.another",
    "another gateway, {other}, runs on the data directory {directory}",
    "Give {name} its own data_directory, or stop {other}",
)
HANGS: Final = Fault(
    "gateway.hangs",
    "a process has the buffer open and does not answer: {process}",
    "If it is just starting or stopping, try again in a moment. Otherwise end it: `sudo kill {pid}`; what is in the "
    "buffer stays",
)
IN_TROUBLE: Final = Fault(
    "gateway.in-trouble", "the running gateway says: {what}", "Look at its log: `journalctl -u edge-gateway`"
)

_FLOCK: Final = struct.Struct("@hhqqi")
"""`struct flock` with 64-bit offsets: type, whence, start, length, pid; aligned as C does."""
_SQLITE_LOCKS: Final = (0x40000000, 512)
"""First byte and number of the bytes that SQLite locks (os.h: PENDING_BYTE, SHARED_SIZE)."""
_ANSWERS_WITHIN_S: Final = 5.0
_MOST_TOLD: Final = 5


async def check_gateway(site: Site) -> Findings:
    """Ask the gateway, if one runs."""
    directory = site.data_directory
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            status = await ask_status(directory)
    except NotRunning as error:
        pid, evidence = lock_holder(directory / BUFFER_FILE), error.what
    except (GatewayError, TimeoutError) as error:
        if not directory.is_dir():
            return []  # nothing has run here yet
        pid, evidence = lock_holder(directory / BUFFER_FILE), str(error) or "no answer in time"
    else:
        site.learnt.status = status
        name, other = site.config.gateway.name, status["gateway"]
        return [] if name == other else [OTHER_GATEWAY.found(other=other, name=name, directory=directory)]
    if pid is None:
        return []
    return [HANGS.found(evidence, process=process_name(pid), pid=pid or "PID")]


async def check_trouble(site: Site) -> Findings:
    """What a running gateway says of itself; of its links, its keys and its hub the checks of those speak."""
    status = site.learnt.status or {}
    buffer = status.get("buffer", {}).get("fault", "")
    told = [buffer] if buffer else []
    if status.get("uplink", {}).get(
        "connected"
    ):  # without it all sensors are cut off, which is nobody's fault but one's
        elsewhere = {buffer, status.get("key_store", {}).get("fault", "")}
        links = tuple(f"{link['name']}: " for link in status.get("links", ()))
        told += [each for each in status.get("faults", ()) if each not in elsewhere and not each.startswith(links)]
    return [IN_TROUBLE.found("its status", what=each) for each in told[:_MOST_TOLD]]


def lock_holder(path: Path) -> int | None:
    """The process that has a SQLite database locked; 0 if it is in another container, None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *_SQLITE_LOCKS, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else pid
