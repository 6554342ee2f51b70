"""`python -m edge_gateway.testbench.power_cut`: many images, or one of them again.

Exits with 0 if every promise held, with 1 if one was broken, with 2 if there is no such image.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Final, Literal

import structlog
import typer

from edge_gateway.testbench.power_cut import Conditions, Outcome, Place, cut_everywhere, replay
from edge_gateway.testbench.power_cut.memory_disk import Written

Synchronous = Literal["FULL", "NORMAL", "OFF"]

_COMMAND: Final = "python -m edge_gateway.testbench.power_cut"


def main(
    images: Annotated[int, typer.Option(min=1, help="Different images to judge, at least.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Draws everything; the same seed gives the same images.")] = 1,
    synchronous: Annotated[
        Synchronous, typer.Option(help="SQLite's setting. The product's is FULL; with others the machine finds losses.")
    ] = "FULL",
    until_broken: Annotated[bool, typer.Option("--until-broken", help="Stop at the first broken promise.")] = False,
    place: Annotated[
        str, typer.Option("--replay", help="Judge one image again: SEED/CHAIN/LIFE/CUT/FATE, as a finding names it.")
    ] = "",
    keep: Annotated[Path | None, typer.Option(help="With --replay: write the image's files into this folder.")] = None,
) -> None:
    """Cut the power under the buffer between any two operations of the disk, and judge all that may be left."""
    # The store's own warnings, of evictions by the thousand, are part of the workload.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    conditions = Conditions(synchronous=synchronous)
    held = _replay(place, conditions, keep) if place else _run(images, seed, conditions, until_broken=until_broken)
    raise typer.Exit(0 if held else 1)


def _run(images: int, seed: int, conditions: Conditions, *, until_broken: bool) -> bool:
    began_s = time.monotonic()

    def progress(outcome: Outcome) -> None:
        spent_s = time.monotonic() - began_s
        print(f"{outcome.images:>9} images, {outcome.broken} broken, {spent_s:.0f} s", file=sys.stderr, flush=True)

    outcome = cut_everywhere(images, seed, conditions=conditions, until_broken=until_broken, progress=progress)
    print(
        f"{outcome.images} different images from {outcome.cuts} cuts in {outcome.lives} lives, judged "
        f"{outcome.judgements} times in {time.monotonic() - began_s:.0f} s: {outcome.broken} broke a promise"
    )
    for kind, finding in outcome.first.items():
        print(f"\n{kind}: {outcome.by_kind[kind]} times, first:")
        for problem in finding.problems:
            print(f"  {problem.kind}: {problem.detail}")
        print(f"  {_COMMAND} --synchronous {conditions.synchronous} --replay {finding.place}")
    return not outcome.broken


def _replay(text: str, conditions: Conditions, keep: Path | None) -> bool:
    try:
        found = replay(Place.parse(text), conditions=conditions)
    except (LookupError, ValueError) as error:
        print(f"{text}: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    print("pending at the cut, and what became of it:")
    for operation, fate in zip(found.operations, found.fates, strict=True):
        what = (
            f"Written(inode={operation.inode}, offset={operation.offset}, bytes={len(operation.data)})"
            if isinstance(operation, Written)
            else str(operation)
        )
        print(f"  {what}: {'there' if fate is True else 'not there' if fate is False else f'pieces {fate}'}")
    for name, data in found.files.items():
        print(f"left: {name}, {len(data)} bytes")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / Path(name).name).write_bytes(data)
    for problem in found.problems:
        print(f"{problem.kind}: {problem.detail}")
    print("a promise is broken" if found.problems else "every promise holds")
    return not found.problems


if __name__ == "__main__":
    typer.run(main)
