"""The tree of checks: what follows from a cause is not told, and nothing takes for ever."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from edge_gateway.clock import SystemClock
from edge_gateway.doctor import CHECKS, Check, Fault, Level, Outcome, Site, all_faults, as_json, as_text, examine
from edge_gateway.doctor.examination import blocking
from edge_gateway.doctor.finding import Findings
from edge_gateway.errors import GatewayError

BROKEN = Fault("test.broken", "the {thing} is broken", "Mend the {thing}")
WORN = Fault("test.worn", "the {thing} is worn", "Buy a {thing}", Level.WARNING)


async def well(_: Site) -> Findings:
    return []


async def broken(_: Site) -> Findings:
    return [BROKEN.found("a crack", thing="cable")]


async def worn(_: Site) -> Findings:
    return [WORN.found(thing="plug")]


def check(name: str, look: object = well, *needs: str, within_s: float = 5.0) -> Check:
    return Check(name, name.partition(".")[0], look, (), needs=needs, within_s=within_s)  # type: ignore[arg-type]  # fakes


async def outcomes_of(*checks: Check) -> list[Outcome]:
    return await examine(Site(Path("gateway.yaml"), SystemClock()), checks)


async def test_consequences_are_not_tried() -> None:
    """A check whose need has a fault is not tried, nor what needs that; each says because of what."""
    first, second, third, other = await outcomes_of(
        check("a.cable", broken), check("b.port", well, "a.cable"), check("b.hub", well, "b.port"), check("c.disk")
    )
    assert [each.id for each in first.findings] == ["test.broken"]
    assert second.blocked_by == third.blocked_by == ("test.broken",)
    assert other.blocked_by == ()


async def test_a_warning_stands_in_nobodys_way() -> None:
    """What works for now does not keep others from being tried."""
    _, second = await outcomes_of(check("a.plug", worn), check("b.port", broken, "a.plug"))
    assert [each.id for each in second.findings] == ["test.broken"]


async def test_a_check_that_hangs_is_told() -> None:
    """A check has its time, also one that waits for a disk; the others do not wait for it."""

    def hang(_: Site) -> Findings:
        time.sleep(0.3)
        return []

    [hanging] = await outcomes_of(check("a.disk", blocking(hang), within_s=0.05))
    assert [each.id for each in hanging.findings] == ["doctor.no-end"]


async def test_the_whole_has_its_time() -> None:
    """However many checks take their time one after the other, all of it ends in time."""

    async def dawdle(_: Site) -> Findings:
        await asyncio.sleep(0.15)
        return []

    names = [f"a.{number}" for number in range(6)]
    checks = [check(name, dawdle, *names[:number]) for number, name in enumerate(names)]
    site = Site(Path("gateway.yaml"), SystemClock())
    async with asyncio.timeout(3):
        outcomes = await examine(site, checks, within_s=0.2)
    assert [finding.id for outcome in outcomes for finding in outcome.findings] == ["doctor.no-end"]
    assert outcomes[-1].blocked_by == ("doctor.no-end",)


async def test_an_error_of_ours_is_told() -> None:
    """An error that a check does not know becomes a finding with its remedy."""

    async def fail(_: Site) -> Findings:
        raise GatewayError("no such thing", where="there", remedy="Look elsewhere")

    [outcome] = await outcomes_of(check("a.thing", fail))
    [finding] = outcome.findings
    assert (finding.id, finding.fix) == ("doctor.unforeseen", "Look elsewhere")
    assert "no such thing" in finding.cause


async def test_what_does_not_apply_is_no_part_of_the_report() -> None:
    """A check that has nothing to look at is neither well nor faulty."""
    outcomes = await outcomes_of(Check("a.tpm", "a", broken, (), applies=lambda _: False))
    assert as_json(outcomes) == {"ok": True, "findings": [], "checks": {}, "not_tried": {}}


async def test_independent_checks_run_at_the_same_time() -> None:
    """Two checks that wait for each other both come to an end."""
    met = asyncio.Barrier(2)

    async def meet(_: Site) -> Findings:
        await met.wait()
        return []

    assert all(not each.findings for each in await outcomes_of(check("a.one", meet), check("b.two", meet)))


async def test_the_report_tells_causes_first() -> None:
    """Faults, then warnings, each with its fix; then a line for each group, with what was not tried and why."""
    outcomes = await outcomes_of(
        check("plug.look", worn),
        check("cable.look", broken),
        check("hub.name", well, "cable.look"),
        check("disk.room"),
        check("links.ports", well, "cable.look"),
    )
    assert list(as_text(outcomes)) == [
        "fault: The cable is broken  [test.broken]",
        "  fix: Mend the cable",
        "  seen: a crack",
        "warning: The plug is worn  [test.worn]",
        "  fix: Buy a plug",
        "",
        "plug: test.worn",
        "cable: test.broken",
        "disk: well (1 check)",
        "not tried, because of test.broken: hub, links",
    ]
    document = as_json(outcomes)
    assert document["ok"] is False
    assert document["not_tried"] == {"hub.name": ["test.broken"], "links.ports": ["test.broken"]}


def test_the_tree_is_in_order() -> None:
    """A check needs only checks that stand before it, so there is no circle; ids are there once."""
    seen: list[str] = []
    for each in CHECKS:
        assert set(each.needs) <= set(seen)
        assert each.id not in seen
        seen.append(each.id)
    ids = [fault.id for fault in all_faults()]
    assert len(ids) == len(set(ids))


def test_every_fault_has_a_cause_and_a_fix() -> None:
    """No declaration lacks a text, and texts have no full stop of their own: the report puts them together."""
    for fault in all_faults():
        assert fault.cause
        assert fault.fix
        assert not fault.cause.endswith(".")
