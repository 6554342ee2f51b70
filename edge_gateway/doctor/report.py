"""What was found, for people and for programs: causes first, each with its fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from edge_gateway.doctor.examination import Outcome
from edge_gateway.doctor.finding import Fault, Finding, Level

_PLACE: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_TOLD_THERE: Final = {
    "what": "what is wrong, in words",
    "remedy": "as it says",
    "edge_gateway": "edge-gateway",
    "bring": "import",
    "example": "a first configuration",
}
_NOT_TRIED: Final = "not tried"


def as_text(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Lines for a terminal."""
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    for finding in sorted(findings, key=_by_level):
        yield f"{finding.fault.level.value}: {_sentence(finding.cause)}  [{finding.id}]"
        yield f"  fix: {_sentence(finding.fix)}"
        if finding.evidence:
            yield f"  seen: {finding.evidence}"
    if findings:
        yield ""
    not_tried: dict[str, list[str]] = {}
    for group, state in _groups(outcomes):
        if state.startswith(_NOT_TRIED):
            not_tried.setdefault(state, []).append(group)
        else:
            yield f"{group}: {state}"
    yield from (f"{state}: {', '.join(groups)}" for state, groups in not_tried.items())


def as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A document for programs."""
    return {
        "ok": not any(outcome.findings and finding.is_fault for outcome in outcomes for finding in outcome.findings),
        "findings": [
            {
                "id": finding.id,
                "level": finding.fault.level.value,
                "check": outcome.check.id,
                "cause": finding.cause,
                "fix": finding.fix,
                "evidence": finding.evidence,
            }
            for outcome in outcomes
            for finding in outcome.findings
        ],
        "checks": {outcome.check.id: _state(outcome) for outcome in outcomes if outcome.applied},
        "not_tried": {outcome.check.id: list(outcome.blocked_by) for outcome in outcomes if outcome.blocked_by},
    }


def fault_table(faults: Sequence[Fault]) -> str:
    """All that can be found, as a table in Markdown; what is particular to a box stands in capitals."""
    lines = ["| Id | Cause | Fix |", "| --- | --- | --- |"]
    for fault in faults:
        cause, fix = (_PLACE.sub(_in_capitals, text.replace("|", "\\|")) for text in (fault.cause, fault.fix))
        told = f"`{fault.id}`" + (" (warning)" if fault.level is Level.WARNING else "")
        lines.append(f"| {told} | {_sentence(cause)} | {_sentence(fix)} |")
    return "\n".join(lines)


def _in_capitals(place: re.Match[str]) -> str:
    return _TOLD_THERE.get(place[1], place[1].upper())


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    applied = sorted((each for each in outcomes if each.applied), key=_group_order(outcomes))
    for group, members in groupby(applied, key=lambda outcome: outcome.check.group):
        told = list(members)
        found = list(dict.fromkeys(finding.id for outcome in told for finding in outcome.findings))
        causes = list(dict.fromkeys(cause for outcome in told for cause in outcome.blocked_by if cause not in found))
        if found:
            state = ", ".join(found)
        elif not causes:
            state = f"well ({len(told)} check{'s' if len(told) > 1 else ''})"
        else:
            tried = sum(not outcome.blocked_by for outcome in told)
            state = f"well as far as it was tried ({tried} of {len(told)} checks)" if tried else _NOT_TRIED
        yield group, state + (f", because of {', '.join(causes)}" if causes and not found else "")


def _group_order(outcomes: Sequence[Outcome]) -> Any:
    order = {group: place for place, group in enumerate(dict.fromkeys(each.check.group for each in outcomes))}
    return lambda outcome: order[outcome.check.group]


def _by_level(finding: Finding) -> int:
    return 0 if finding.fault.level is Level.FAULT else 1


def _state(outcome: Outcome) -> str:
    if outcome.blocked_by:
        return "not tried"
    if outcome.faults:
        return "fault"
    return "warning" if outcome.findings else "well"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
