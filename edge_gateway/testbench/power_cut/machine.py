"""Lives the workload, cuts the power between all operations of the disk, and judges what may be left.

A *chain* is a few lives, one after the other: each begins with what a cut of the one before left. So cuts while the
store recovers from a cut come up as well, and files with remains of earlier ones. Chains know nothing of each other;
any image is named by seed, chain, life, cut and fate, and found again by these alone.

Between two operations of the disk the possible images are the same at any moment. So there is one cut in each gap: it
has to hold what was promised until the gap's end, and may hold what had begun at its start.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, NamedTuple

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.power_cut.disk_model import Fate, Files, Platter
from edge_gateway.testbench.power_cut.look import Seen, look
from edge_gateway.testbench.power_cut.memory_disk import (
    Began,
    Given,
    KeysAre,
    MemoryDisk,
    Operation,
    Promised,
    memory_disk,
)
from edge_gateway.testbench.power_cut.state import Problem
from edge_gateway.testbench.power_cut.verdict import judge
from edge_gateway.testbench.power_cut.workload import Beginning, Conditions, Life, live

LIVES: Final = 3
"""In a chain."""

_IMAGES_PER_CUT: Final = 5
"""Of all the fates of a cut, at most: everything there, nothing there, and a seeded choice of the others."""


_POWER_AWAY_NS: Final = 600 * NS_PER_S
"""From the end of a life, which is after its cut, to the next."""


class Place(NamedTuple):
    """Names an image."""

    seed: int
    chain: int
    life: int
    cut: int
    """Operations of the disk before it."""
    fate: int

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read what `str` wrote.

        Raises:
            ValueError: it is not five whole numbers.
        """
        seed, chain, life, cut, fate = map(int, text.split("/"))
        return cls(seed, chain, life, cut, fate)


class Finding(NamedTuple):
    """An image that breaks promises."""

    place: Place
    problems: list[Problem]


@dataclass
class Outcome:
    """What a run has found so far."""

    images: int = 0
    """Different by content."""
    judgements: int = 0
    """Images judged; one that is left by several cuts has to hold something else at each."""
    cuts: int = 0
    lives: int = 0
    broken: int = 0
    """Judgements that found a promise broken."""
    by_kind: Counter[str] = field(default_factory=Counter)
    """The same by kind of problem."""
    first: dict[str, Finding] = field(default_factory=dict)
    """The first finding of each kind."""


class Replayed(NamedTuple):
    """An image found again."""

    operations: Sequence[Operation]
    """Those before the cut that were pending."""
    fates: Sequence[Fate]
    files: Files
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A moment between two operations of a life."""

    number: int
    platter: Platter
    begun: int
    promised: int
    given: dict[str, Given]
    """Shared by the cuts of a life: valid until the next one is asked for."""
    key_ids: tuple[int, ...]


def cut_everywhere(
    images: int,
    seed: int,
    *,
    conditions: Conditions | None = None,
    until_broken: bool = False,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Run chains until there are enough different images.

    Args:
        images: so many at least; the life that reaches them is finished, so that all its cuts are seen.
        seed: draws everything; the same seed gives the same images.
        conditions: what it is done with; the product's own by default.
        until_broken: stop at the first image that breaks a promise.
        progress: called after each life.
    """
    conditions = conditions or Conditions()
    outcome = Outcome()
    known: set[bytes] = set()
    with memory_disk("power-cut") as disk:
        for chain in count():
            for number, beginning, life in _lives(disk, seed, chain, conditions):
                for _ in _judge_life(disk, (seed, chain, number), beginning, life, outcome, known):
                    if until_broken and outcome.broken:
                        return outcome
                outcome.lives += 1
                progress(outcome)
                if outcome.images >= images:
                    return outcome
    raise AssertionError("chains do not end")


def replay(place: Place, *, conditions: Conditions | None = None) -> Replayed:
    """Find an image again and judge it.

    Args:
        place: which.
        conditions: as in the run that named it.

    Raises:
        LookupError: a run with this seed and these conditions has no such image.
    """
    with memory_disk("power-cut") as disk:
        for number, beginning, life in _lives(disk, place.seed, place.chain, conditions or Conditions()):
            if number != place.life:
                continue
            for cut in _cuts(beginning, life):
                fates = _fates(cut, place[:3])
                if cut.number == place.cut and place.fate < len(fates):
                    files = cut.platter.image(fates[place.fate])
                    problems, _ = judge(look(disk, files, cut.key_ids), life.states, cut.promised, cut.begun, cut.given)
                    return Replayed(cut.platter.pending, fates[place.fate], files, problems)
    raise LookupError(f"no image {place}")


def _lives(disk: MemoryDisk, seed: int, chain: int, conditions: Conditions) -> Iterator[tuple[int, Beginning, Life]]:
    """The lives of a chain. It ends early if a life would have to begin with a broken image."""
    beginning: Beginning | None = Beginning()
    for number in range(LIVES):
        if beginning is None:
            return
        life = live(disk, beginning, f"{seed}/{chain}/{number}", conditions=conditions)
        yield number, beginning, life
        beginning = _after_a_cut(disk, (seed, chain, number), beginning, life)


def _after_a_cut(disk: MemoryDisk, where: tuple[int, ...], beginning: Beginning, life: Life) -> Beginning | None:
    """What one cut, drawn from those with something pending, leaves."""
    rng = _rng(*where, "next")
    at = rng.choice([cut.number for cut in _cuts(beginning, life) if cut.platter.pending])
    cut = next(cut for cut in _cuts(beginning, life) if cut.number == at)
    files = cut.platter.image(rng.choice(_fates(cut, where)))
    problems, state = judge(look(disk, files, cut.key_ids), life.states, cut.promised, cut.begun, cut.given)
    if problems or state is None:
        return None
    return replace(
        beginning,
        files=files,
        state=state,
        given=dict(cut.given),
        key_ids=cut.key_ids,
        true_ns=life.end_ns + _POWER_AWAY_NS,
    )


def _judge_life(
    disk: MemoryDisk,
    where: tuple[int, int, int],
    beginning: Beginning,
    life: Life,
    outcome: Outcome,
    known: set[bytes],
) -> Iterator[None]:
    """Judge the images of all cuts of a life, one cut at each step.

    Args:
        disk: a disk to open them on.
        where: seed, chain and life.
        beginning: what the life began with.
        life: what happened in it.
        outcome: is added to.
        known: digests of the images of earlier lives; is added to.
    """
    looked: dict[tuple[bytes, tuple[int, ...]], Seen] = {}
    for cut in _cuts(beginning, life):
        outcome.cuts += 1
        fates = _fates(cut, where)
        judged: set[bytes] = set()
        for index in _chosen(len(fates), _rng(*where, cut.number, "choice")):
            files = cut.platter.image(fates[index])
            digest = _digest(files)
            if digest in judged:
                continue
            judged.add(digest)
            seen = looked.get((digest, cut.key_ids))
            if seen is None:
                seen = looked[digest, cut.key_ids] = look(disk, files, cut.key_ids)
            problems, _ = judge(seen, life.states, cut.promised, cut.begun, cut.given)
            outcome.judgements += 1
            if problems:
                outcome.broken += 1
                outcome.by_kind.update({problem.kind for problem in problems})
                finding = Finding(Place(*where, cut.number, index), problems)
                for problem in problems:
                    outcome.first.setdefault(problem.kind, finding)
        known |= judged
        outcome.images = len(known)
        yield


def _cuts(beginning: Beginning, life: Life) -> Iterator[_Cut]:
    platter = Platter(beginning.files)
    given = dict(beginning.given)
    key_ids = beginning.key_ids
    number = begun = begun_before_gap = promised = 0
    for entry in life.log:
        match entry:
            case Began():
                begun = entry.number
            case Promised():
                promised = max(promised, entry.number)
            case Given():
                given[entry.id] = entry
            case KeysAre():
                key_ids = entry.ids
            case _:
                yield _Cut(number, platter, begun_before_gap, promised, given, key_ids)
                platter.do(entry)
                number += 1
                begun_before_gap = begun
    yield _Cut(number, platter, begun_before_gap, promised, given, key_ids)


def _fates(cut: _Cut, where: Sequence[int]) -> list[Sequence[Fate]]:
    return list(cut.platter.fates(_rng(*where, cut.number)))


def _chosen(fates: int, rng: random.Random) -> Sequence[int]:
    if fates <= _IMAGES_PER_CUT:
        return range(fates)
    return [0, 1, *sorted(rng.sample(range(2, fates), _IMAGES_PER_CUT - 2))]


def _rng(*parts: object) -> random.Random:
    return random.Random("/".join(map(str, parts)))  # noqa: S311  # repeatable on purpose


def _digest(files: Files) -> bytes:
    digest = hashlib.sha256()
    for name, data in files.items():
        digest.update(f"{name} {len(data)} ".encode())
        digest.update(data)
    return digest.digest()
