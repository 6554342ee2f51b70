"""The box itself: its clock and its randomness."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, rfc3339
from edge_gateway.doctor.finding import Fault, Findings
from edge_gateway.doctor.site import Site
from edge_gateway.errors import ConfigError

CLOCK_UNSET: Final = Fault(
    "clock.unset",
    "the clock has never been set: it says {time}",
    "Set it (`sudo timedatectl set-time 'YYYY-MM-DD hh:mm'`) or let a time service do it (`sudo timedatectl set-ntp "
    "true`); if it is wrong after each start, the battery of the box's clock is empty or missing",
)
CLOCK_NOT_SYNCHRONIZED: Final = Fault(
    "clock.not-synchronized",
    "no time service has set the clock, and the configuration believes no other (gateway.clock_trust)",
    "Start a time service that reaches its server (`sudo timedatectl set-ntp true`, then `timedatectl "
    "timesync-status`), or set clock_trust to `plausible`",
)
CLOCK_UNKNOWN: Final = Fault("clock.no-answer", "nobody says whether the clock is right: {what}", "{remedy}")
NO_ENTROPY: Final = Fault(
    "box.no-entropy",
    "the kernel has no randomness yet, so TLS and key making wait",
    "Wait a minute after the start; give the box a source: `sudo apt install haveged`, or switch its hardware "
    "generator on",
)


def check_clock(site: Site) -> Findings:
    """Whether the clock is one to believe."""
    now_ns = site.clock.now_ns()
    if now_ns < EARLIEST_PLAUSIBLE_NS:
        return [CLOCK_UNSET.found(time=rfc3339(now_ns))]
    if site.config.gateway.clock_trust == "synchronized":
        try:
            is_synchronized = site.is_synchronized()
        except ConfigError as error:
            return [CLOCK_UNKNOWN.found(error.where, what=error.what, remedy=error.remedy)]
        if not is_synchronized:
            return [CLOCK_NOT_SYNCHRONIZED.found("adjtimex(2) gives no bound for the clock's error")]
    return []


def check_entropy(_: Site, draw: Callable[[int, int], bytes] = os.getrandom) -> Findings:
    """Whether the kernel's randomness is ready, see getrandom(2)."""
    try:
        draw(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return [NO_ENTROPY.found("getrandom(2) would block")]
    return []
