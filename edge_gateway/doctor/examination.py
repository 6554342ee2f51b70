"""Carries checks out in the order of their needs, and tells one cause once.

A check says which others it needs. If one of those has found a fault, or was itself not tried, it is not tried: what it
would find would be a consequence. Checks that need nothing of each other run at the same time, each with a time of its
own, and there is one for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.site import Site
from edge_gateway.errors import GatewayError

_CLOSES_WITHIN_S: Final = 2.0

_NO_END: Final = Fault(
    "doctor.no-end",
    "a look at the {group} ({check}) did not end within {within_s:g} s: a disk, a device or a server hangs",
    "Look at the kernel's log (`dmesg`) for what hangs, and try again; a device that hangs needs its power cut",
)
_UNFORESEEN: Final = Fault("doctor.unforeseen", "a check could not be carried out: {what}", "{remedy}")
OF_ALL_CHECKS: Final = (_NO_END, _UNFORESEEN)
"""What any check may find."""

Look: TypeAlias = Callable[[Site], Awaitable[Findings]]


def blocking(look: Callable[[Site], Findings]) -> Look:
    """A check that asks disks and devices, as one that does not hold up the others."""

    async def look_in_thread(site: Site) -> Findings:
        return await asyncio.to_thread(look, site)

    return look_in_thread


def _always(_: Site) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    id: str
    group: str
    """The part of the gateway it belongs to, for the report."""
    look: Look
    faults: tuple[Fault, ...]
    """All that it can find."""
    needs: tuple[str, ...] = ()
    """Checks without which it makes no sense; all of them stand before it in the list."""
    wanted: Callable[[Site], bool] = _always
    """Whether anybody wants to know; asked before what it needs."""
    applies: Callable[[Site], bool] = _always
    """Whether there is anything to look at; asked after what it needs."""
    within_s: float = 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a check."""

    check: Check
    findings: tuple[Finding, ...] = ()
    blocked_by: tuple[str, ...] = ()
    """Ids of the faults for which it was not tried."""
    applied: bool = True
    """False if there was nothing to look at."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Ids of the faults that keep others from being tried: its own, or those that kept it."""
        return self.blocked_by or tuple(dict.fromkeys(each.id for each in self.findings if each.is_fault))


async def examine(site: Site, checks: Sequence[Check], *, within_s: float = 27.0) -> list[Outcome]:
    """Carry out all checks that can be.

    Args:
        site: what is examined.
        checks: each after those it needs.
        within_s: what is not done by then is told as that.

    Returns:
        What became of each, in the order of the list.
    """
    tasks: dict[str, asyncio.Task[Outcome]] = {}
    end_s = asyncio.get_running_loop().time() + within_s
    async with asyncio.TaskGroup() as group:
        for check in checks:
            needed = [tasks[each] for each in check.needs]
            tasks[check.id] = group.create_task(_carry_out(check, needed, site, end_s), name=f"doctor {check.id}")
    if site.learnt.keys is not None:
        with suppress(TimeoutError, GatewayError):  # of a TPM that hangs has been told
            async with asyncio.timeout(_CLOSES_WITHIN_S):
                await asyncio.to_thread(site.learnt.keys.close)
    return [task.result() for task in tasks.values()]


async def _carry_out(check: Check, needed: Iterable[asyncio.Task[Outcome]], site: Site, end_s: float) -> Outcome:
    outcomes = [await each for each in needed]
    if not check.wanted(site):
        return Outcome(check, applied=False)
    in_the_way = dict.fromkeys(fault for outcome in outcomes for fault in outcome.faults)
    if in_the_way:
        return Outcome(check, blocked_by=tuple(in_the_way))
    if not check.applies(site):
        return Outcome(check, applied=False)
    now_s = asyncio.get_running_loop().time()
    within_s = min(check.within_s, max(0.0, end_s - now_s))
    try:
        async with asyncio.timeout(within_s):
            findings = await check.look(site)
    except TimeoutError:
        findings = [_NO_END.found(check=check.id, group=check.group, within_s=round(within_s, 1))]
    except GatewayError as error:
        findings = [_UNFORESEEN.found(error.where, what=error.what, remedy=error.remedy or "Look at the evidence")]
    except OSError as error:
        remedy = "Run this as the gateway's user; if it is that already, look at the file or device named"
        findings = [
            _UNFORESEEN.found(str(error.filename or check.id), what=error.strerror or str(error), remedy=remedy)
        ]
    return Outcome(check, tuple(findings))
