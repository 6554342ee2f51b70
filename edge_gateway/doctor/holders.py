"""Which program has a device open, as /proc shows it to this user. The device itself is not touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_UNIX98_PTY_MAJORS: Final = range(136, 144)
"""Of pseudo-terminal slaves (Linux, Documentation/admin-guide/devices.txt)."""


def holders(path: Path) -> Iterator[str]:
    """The other programs that have a device open, as far as this user may see.

    Raises:
        OSError: there is no such device.
    """
    device = _identity(path.stat())
    for process in _PROC.iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid() and _has_open(process, device):
            yield process_name(int(process.name))


def process_name(pid: int) -> str:
    """What a process is called, with its number."""
    with suppress(OSError):
        name = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        return f"{name} (process {pid})"
    return f"process {pid}" if pid else "a process in another container"


def _identity(info: os.stat_result) -> tuple[int, int]:
    """What makes two device files the same device, in whatever container: the number, which drivers give once.

    Pseudo-terminals are numbered by each container for itself, so for them the place counts as well.
    """
    return info.st_rdev, info.st_dev if os.major(info.st_rdev) in _UNIX98_PTY_MAJORS else 0


def _has_open(process: Path, device: tuple[int, int]) -> bool:
    try:
        return any(_device_of(each) == device for each in (process / "fd").iterdir())
    except OSError:
        return False  # another user's, or it has ended


def _device_of(descriptor: Path) -> tuple[int, int] | None:
    try:
        info = descriptor.stat()
    except OSError:
        return None
    return _identity(info) if stat.S_ISCHR(info.st_mode) else None
