"""Says whether what was found in an image breaks a promise.

Looking is done once for each different image (`look`); judging as often as the image comes up, because what it has to
hold grows with what was promised before the cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from edge_gateway.testbench.power_cut.contents import Contents, frames_of, queues_of
from edge_gateway.testbench.power_cut.look import Seen
from edge_gateway.testbench.power_cut.memory_disk import Given
from edge_gateway.testbench.power_cut.offers import DEVICES
from edge_gateway.testbench.power_cut.settings import LANES
from edge_gateway.testbench.power_cut.state import NEVER, Problem, State

_PARTS: Final = {
    "chunks": "half-done",
    "quarantine": "half-done",
    "accounts": "unbalanced",
    "notes": "half-done",
    "ledger": "ledger",
}
"""The parts of `Contents`, and what it is called when one of them does not go with those before."""


def judge(
    seen: Seen, states: Sequence[State], promised: int, begun: int, given: Mapping[str, Given]
) -> tuple[list[Problem], State | None]:
    """Hold what was found against what was promised.

    Args:
        seen: what was found.
        states: what the store may hold, by transaction.
        promised: the last transaction somebody was told is safe.
        begun: the last that had begun.
        given: messages that had left the store at any time before the cut, by id.

    Returns:
        The promises broken, and the state the store is in if it is one it may be in.
    """
    if seen.refused:
        return [Problem("refused", seen.refused)], None
    problems = list(seen.faults)
    for message_id, body in seen.messages:
        if message_id in given and given[message_id].body != body:
            problems.append(Problem("id-reused", f"message {message_id} has other bytes than when it was taken before"))
    if promised == NEVER:
        return [*problems, Problem("never-written", "something was acknowledged that was in no transaction")], None
    # A transaction that changes nothing is promised without the disk having done anything since it began.
    allowed = states[promised : max(begun, promised) + 1]
    state = next((each for each in reversed(allowed) if each.contents == seen.contents), None)
    if state is None:
        return [*problems, *_differences(seen.contents, [each.contents for each in allowed])], None
    problems += state.wrong
    for device, seq in seen.next_seqs:
        if seq != state.last_seq.get(device, 0) + 1:
            problems.append(Problem("seq-reused", f"{device} goes on with {seq} after {state.last_seq.get(device, 0)}"))
    return problems, state


def _differences(found: Contents, allowed: Sequence[Contents]) -> list[Problem]:
    """Say in terms of the promise in what an image differs from all that it may hold."""
    problems = []
    queues = _numbers(found)
    possible = [_numbers(each) for each in allowed]
    for lane, numbers in queues.items():
        sets = [set(each[lane]) for each in possible]
        if lost := sorted(sets[0].intersection(*sets) - set(numbers)):
            problems.append(Problem("lost", f"{lane}: records {lost} were acknowledged and are gone"))
        if back := sorted(set(numbers) - set[int]().union(*sets)):
            problems.append(Problem("came-back", f"{lane}: records {back} should not be there"))
        if len(set(numbers)) < len(numbers):
            problems.append(Problem("repeated", f"{lane}: {len(numbers) - len(set(numbers))} records are there twice"))
    for place, entries in queues_of(found.chunks).items():
        for device in DEVICES:
            seqs = [entry.seq for entry in entries if entry.device == device]
            if seqs != sorted(set(seqs)):
                problems.append(Problem("out-of-order", f"{place}, {device}: {seqs}"))
    if problems:
        return problems
    for part, kind in _PARTS.items():
        matching = [each for each in allowed if getattr(each, part) == getattr(found, part)]
        if not matching:
            return [Problem(kind, f"the {part} are neither as before nor as after the transaction under way")]
        allowed = matching
    raise AssertionError("contents that differ in nothing")


def _numbers(contents: Contents) -> dict[str, list[int]]:
    """Numbers of the records of each lane, and of the frames in quarantine."""
    queues = queues_of(contents.chunks)
    return {
        lane: [entry.number for (name, _), entries in queues.items() if name == lane for entry in entries]
        for lane in LANES
    } | {"the quarantine": [frame.number for frame in frames_of(contents.quarantine)]}
