"""What a process and its children take of the machine, as the kernel counts it (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_USER_TICKS, _SYSTEM_TICKS, _PARENT = 11, 12, 1
"""Places in /proc/PID/stat, counted from after the program's name."""


def cpu_s(pid: int) -> float:
    """CPU-seconds, user and system, of a process, its threads, and its children that live."""
    parents, ticks = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # The name stands in parentheses and may hold anything, parentheses included.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
            parents[int(entry.name)] = int(fields[_PARENT])
            ticks[int(entry.name)] = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(ticks[member] for member in family) / _TICKS_PER_S


def resident_mib(pid: int) -> float:
    """Memory a process has in RAM now (VmRSS), MiB."""
    return _status_kib(pid, "VmRSS") / 1024


def peak_resident_mib(pid: int) -> float:
    """The most memory it has had in RAM since it started (VmHWM), MiB."""
    return _status_kib(pid, "VmHWM") / 1024


def _status_kib(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise ProcessLookupError(f"process {pid} has ended")
