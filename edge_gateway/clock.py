"""The only way to wall time, and to the time since the boot.

Durations, time-outs and intervals use the event loop's monotonic time and never this: a wall clock steps, by a day when
a box without a battery first reaches a time server. Wall time only stamps records.

What is stamped before the clock was set has a wrong time. It carries the time since the boot as well, which needs no
setting, so that it can be corrected once the same boot has learnt the wall time; see `buffer/corrections.py`.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from edge_gateway.errors import ConfigError

NS_PER_S = 1_000_000_000

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # UTC, as everything here; without a zone it prints without an offset

EARLIEST_PLAUSIBLE_NS = 1_767_225_600 * NS_PER_S
"""2026-01-01: this software did not exist before, so a clock that says so has not been set."""

ClockTrust: TypeAlias = Literal["plausible", "synchronized"]
"""When a wall clock is believed: `plausible` once it shows a date at which this software existed; `synchronized` once
the kernel says as well that a time service has set it."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_ASK_AGAIN_NS: Final = NS_PER_S
"""How long an answer of the kernel holds while it is no; asking costs twenty times as much as reading the time."""

_TIMEX_HEAD: Final = "@Illl"
"""The first members of `struct timex`: modes, offset, freq, maxerror."""

_TIMEX_BYTES: Final = 512
"""More than the 208 bytes `struct timex` has on Linux."""

_MAX_ERROR_US: Final = 16_000_000
"""The kernel's word for not synchronized: the bound of the clock's error is no longer kept (NTP_PHASE_LIMIT)."""


class Clock(Protocol):
    """Wall time, whether to believe it, and the time since the boot, which always can be."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z. May step in either direction between two calls."""
        ...

    @property
    def trusted(self) -> bool:
        """False while the wall time is not to be relied on. Cheap enough to ask for every batch."""
        ...

    @property
    def boot_id(self) -> str:
        """Names this run of the machine; another after each restart of it, the same for each process until then."""
        ...

    def uptime_ns(self) -> int:
        """Nanoseconds since the boot, suspended time included. Only grows, by the same clock for each process."""
        ...


class Stamp(NamedTuple):
    """When something was, as far as is known, and how good that is; fields of every record."""

    time_ns: int
    """Nanoseconds since 1970-01-01T00:00:00Z."""
    time_trusted: bool
    """Whether that is to be believed."""
    uptime_ns: int | None
    """Nanoseconds since the boot, by which the time can be corrected later; None if it needs no correction or there can
    be none."""


def stamp(clock: Clock) -> Stamp:
    """Now, by a clock that may be set at any moment, also between two questions.

    Whether it is believed is asked first: a clock that is set in between then costs a correction that was not needed,
    and never lets a wrong time pass for a good one.
    """
    if clock.trusted:
        return Stamp(clock.now_ns(), True, None)
    return Stamp(clock.now_ns(), False, clock.uptime_ns())


def boot_offset_ns(clock: Clock) -> int | None:
    """What to add to a time since this boot to have wall time, nanoseconds; None while the clock is not trusted.

    It is noted once for a whole boot, and the two clocks cannot be read at the same moment: of a few tries that one
    counts in which least time went by in between.
    """
    if not clock.trusted:
        return None
    tries = []
    for _ in range(3):
        before_ns, now_ns, after_ns = clock.uptime_ns(), clock.now_ns(), clock.uptime_ns()
        tries.append((after_ns - before_ns, now_ns - (before_ns + after_ns) // 2))
    return min(tries)[1]


def kernel_is_synchronized() -> bool:
    """Whether a time service keeps the system's clock right, as the kernel sees it: adjtimex(2), used to read only.

    Asked is for the bound of the error, as `timedatectl` does for its `System clock synchronized`, and not for the flag
    STA_UNSYNC. Without `rtcsync` chrony leaves the flag set, and so does systemd-timesyncd where the hardware clock
    runs in local time, as both mean to keep the kernel from setting that. BusyBox's ntpd tells the kernel no bound.

    Raises:
        ConfigError: the kernel does not answer, as in a container that forbids it.
    """
    import ctypes  # only here: most gateways never ask, and need not carry it

    answer = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zero, so `modes` says to change nothing
    if ctypes.CDLL(None, use_errno=True).adjtimex(answer) < 0:
        raise ConfigError(
            f"the kernel does not say whether the clock is synchronized: {os.strerror(ctypes.get_errno())}",
            where="gateway.clock_trust",
            remedy="Allow adjtimex(2) to the gateway, or set `plausible`",
        )
    max_error_us: int = struct.unpack_from(_TIMEX_HEAD, answer)[3]
    return max_error_us < _MAX_ERROR_US


class SystemClock:
    """The operating system's wall clock.

    Once believed it stays so until it shows an impossible date, also when the time service has lost its servers. Such a
    clock is good for days (a crystal drifts some seconds a day), while the kernel, which reckons with 500 millionths,
    withdraws its word after nine hours (at 16 s); marking good times as bad would help nobody. After an impossible
    date, or a restart of the gateway, `synchronized` waits for the service's next word. What is stamped meanwhile can
    be corrected all the same: the offset of a boot, once learnt, stays known.

    Args:
        trust: when to believe it.
        is_synchronized: answers for the kernel; for tests.

    Raises:
        ConfigError: `synchronized` is asked for, and the kernel does not say whether it is.
    """

    def __init__(
        self, trust: ClockTrust = "plausible", *, is_synchronized: Callable[[], bool] = kernel_is_synchronized
    ) -> None:
        self._is_synchronized = is_synchronized if trust == "synchronized" else None
        self._is_believed = self._is_synchronized is None or self._is_synchronized()
        self._ask_at_ns = 0
        """Uptime before which the kernel is not asked again."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        return time.time_ns()

    @property
    def trusted(self) -> bool:
        """False while the clock shows a date before this software existed, or waits to be synchronized."""
        if time.time_ns() < EARLIEST_PLAUSIBLE_NS:
            self._is_believed = self._is_synchronized is None
            return False
        return self._is_believed or self._ask()

    def _ask(self) -> bool:
        uptime_ns = self.uptime_ns()
        if self._is_synchronized is not None and uptime_ns >= self._ask_at_ns:
            self._ask_at_ns = uptime_ns + _ASK_AGAIN_NS
            self._is_believed = self._is_synchronized()
        return self._is_believed

    @cached_property
    def boot_id(self) -> str:
        """The kernel's name for this boot, see random(4).

        Raises:
            ConfigError: there is no /proc.
        """
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError as error:
            raise ConfigError(
                f"the kernel does not name this boot: {error.strerror}", where=str(_BOOT_ID), remedy="Mount /proc"
            ) from error

    def uptime_ns(self) -> int:
        """Nanoseconds since the boot, by CLOCK_BOOTTIME."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def rfc3339(time_ns: int) -> str:
    """Write a wall time as RFC 3339 in UTC with microseconds, e.g. `2026-05-01T12:00:00.250000Z`."""
    moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def time_ns_of(text: str) -> int:
    """Read what `rfc3339` wrote, to the microsecond.

    Raises:
        ValueError: it is no such time.
    """
    passed = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ") - _EPOCH  # noqa: DTZ007  # UTC, as `_EPOCH`
    return (passed // timedelta(microseconds=1)) * 1000
