"""What a lane's policy allows to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Final, NamedTuple

from edge_gateway.config.buffer import LaneSettings
from edge_gateway.testbench.power_cut.contents import Entry, Frame, MessageKey
from edge_gateway.testbench.power_cut.state import Problem

_ROUNDED_S: Final = 0.002
"""The store keeps milliseconds."""


class RouteChoice(NamedTuple):
    """What has gone from one route of a lane."""

    before: Sequence[Entry]
    """All that could go, in order, with what the transaction brought."""
    gone: Sequence[Entry]


class LaneChoice(NamedTuple):
    """What has gone from a lane in one transaction without having been delivered."""

    lane: str
    plan: LaneSettings | None
    """None for a lane that is no longer configured."""
    routes: Sequence[RouteChoice]
    expired: Counter[str]
    """By device, as the store has counted."""
    evicted: Counter[str]


def check_choice(
    choice: LaneChoice,
    *,
    in_flight: Set[int],
    new: Set[int],
    given: Mapping[int, MessageKey],
    ages_s: Mapping[int, float],
) -> list[Problem]:
    """Say what was counted wrongly or should have stayed.

    Args:
        choice: what has gone.
        in_flight: numbers of the records that are on their way.
        new: numbers of the records that this transaction brought.
        given: the message of each record that was ever given out.
        ages_s: how long ago each that is gone was stamped, seconds.
    """
    lane = choice.lane
    before = [entry for route in choice.routes for entry in route.before]
    gone = [entry for route in choice.routes for entry in route.gone]
    problems = []
    counted = choice.expired + choice.evicted
    uncounted = Counter(entry.device for entry in gone)
    if counted != uncounted:
        problems.append(Problem("lost", f"{lane}: gone are {dict(uncounted)}, counted are {dict(counted)}"))
    numbers = {entry.number for entry in gone}
    if numbers & in_flight:
        problems.append(_illegal(lane, f"{sorted(numbers & in_flight)} are gone and on their way"))
    halves = {given[entry.number] for entry in gone if entry.number in given} & {
        given[entry.number] for entry in before if entry.number in given and entry.number not in numbers
    }
    if halves:
        problems.append(_illegal(lane, f"messages {sorted(halves)} were given out once and are there in part"))
    ttl_s = choice.plan.ttl_s if choice.plan is not None else None
    old = Counter(entry.device for entry in gone if ttl_s is not None and ages_s[entry.number] > ttl_s - _ROUNDED_S)
    if choice.expired - old:
        problems.append(_illegal(lane, f"{dict(choice.expired)} have expired, and old enough were {dict(old)}"))
    when_full = choice.plan.when_full if choice.plan is not None else "drop-oldest"
    for route in choice.routes:
        if not _may_go(when_full, route, in_flight=in_flight, new=new, given=given, is_alone=len(choice.routes) == 1):
            numbers_gone = [entry.number for entry in route.gone]
            problems.append(_illegal(lane, f"{when_full} does not let {numbers_gone} go"))
    return problems


def _may_go(
    when_full: str,
    route: RouteChoice,
    *,
    in_flight: Set[int],
    new: Set[int],
    given: Mapping[int, MessageKey],
    is_alone: bool,
) -> bool:
    """Whether a policy allows what has gone from a route. Which route has to go first is not looked at."""
    gone = list(route.gone)
    numbers = {entry.number for entry in gone}
    waiting = [entry for entry in route.before if entry.number not in in_flight]
    match when_full:
        case "drop-oldest":
            return waiting[: len(gone)] == gone
        case "drop-newest":
            # What is there goes where something comes into another route.
            return waiting[len(waiting) - len(gone) :] == gone and (numbers <= new or not is_alone)
        case "refuse":
            return not gone
        case "thin":
            # Of what was given out once whole messages, the oldest first; of all else any.
            once_given = [entry for entry in waiting if entry.number in given]
            count = sum(entry.number in given for entry in gone)
            return {entry.number for entry in once_given[:count]} == numbers & given.keys()
    raise AssertionError(when_full)


def check_evicted_frames(before: Sequence[Frame], gone: Sequence[Frame]) -> list[Problem]:
    """The quarantine gives up its oldest frames; new ones only if they find no room in all of it.

    Args:
        before: what was there, but for what was replayed.
        gone: what is not there any more and could have been, in order.
    """
    old = [frame for frame in gone if frame in before]
    if list(before[: len(old)]) != old or (len(old) < len(gone) and len(old) < len(before)):
        return [_illegal("the quarantine", f"of {before} it gave up {gone}")]
    return []


def _illegal(lane: str, what: str) -> Problem:
    return Problem("against-policy", f"{lane}: {what}")
