"""What an expression costs for each reading, against the same written by hand in Python.

Both are functions of a mapping of values, as a rule would call them, and give the same. Each figure is the least of
several rounds: what is above it was another program's doing.

    python benchmarks/cel.py
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from edge_gateway.cel import (
    DOUBLE,
    INT,
    STRING,
    Type,
    check,
    compile_expression,
    list_of,
    nullable,
    parse,
    python_source,
)


class Case(NamedTuple):
    """An expression and its equal."""

    title: str
    text: str
    by_hand: Callable[[Mapping[str, Any]], Any]


VARIABLES: Mapping[str, Type] = {
    "temperature": DOUBLE,
    "humidity": DOUBLE,
    "indoor": nullable(DOUBLE),
    "outdoor": nullable(DOUBLE),
    "high": INT.within(0, 65535),
    "low": INT.within(0, 65535),
    "total": INT,
    "state": STRING,
    "samples": list_of(DOUBLE),
}
VALUES: Mapping[str, Any] = {
    "temperature": 31.5,
    "humidity": 38.25,
    "indoor": 21.5,
    "outdoor": 3.0,
    "high": 513,
    "low": 77,
    "total": 123_456,
    "state": "running",
    "samples": [1.0, 2.5, 4.0, 8.5],
}


def _either(v: Mapping[str, Any]) -> bool:
    try:
        if v["total"] // v["low"] > 9999:
            return True
    except ZeroDivisionError:
        return bool(v["total"] // v["high"] > 9)
    return bool(v["total"] // v["high"] > 9)


def _nulls(v: Mapping[str, Any]) -> bool:
    indoor, outdoor = v["indoor"], v["outdoor"]
    return indoor is not None and outdoor is not None and indoor > 20.0 and outdoor < 5.0


CASES = (
    Case(
        "a condition",
        "temperature > 30.0 && humidity < 40.0",
        lambda v: v["temperature"] > 30.0 and v["humidity"] < 40.0,
    ),
    Case("a formula", "temperature * 1.8 + 32.0", lambda v: v["temperature"] * 1.8 + 32.0),
    Case("values that may be null", "indoor > 20.0 && outdoor < 5.0", _nulls),
    Case("two 16-bit fields", "high * 65536 + low", lambda v: v["high"] * 65536 + v["low"]),
    Case("an int that may overflow", "total * 1000 + 1", lambda v: v["total"] * 1000 + 1),
    Case(
        "text and choice",
        "state == 'running' ? temperature / humidity : 0.0",
        lambda v: v["temperature"] / v["humidity"] if v["state"] == "running" else 0.0,
    ),
    Case("four samples", "samples.exists(s, s > 8.0)", lambda v: any(s > 8.0 for s in v["samples"])),
    Case("either side may fail", "total / low > 9999 || total / high > 9", _either),
)


def main() -> None:
    """Print a row for each case; with `--source` also the Python it became."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of a round")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--source", action="store_true", help="show the generated Python")
    given = parser.parse_args()
    print(f"{'':26}{'CEL':>8}{'by hand':>9}{'ratio':>7}")
    for case in CASES:
        compiled = compile_expression(case.text, VARIABLES)
        if compiled(VALUES) != case.by_hand(VALUES):
            raise SystemExit(f"{case.text}: {compiled(VALUES)} is not {case.by_hand(VALUES)}")
        ours, theirs = _nanoseconds((compiled, case.by_hand), given.calls, given.rounds)
        print(f"{case.title:26}{ours:5.0f} ns{theirs:6.0f} ns{ours / theirs:7.2f}  {case.text}")
        if given.source:
            checked = check(parse(case.text), VARIABLES)
            print(f"    {python_source(checked, {name: name for name in checked.variables})[0]}")


def _nanoseconds(calls: Sequence[Callable[[Mapping[str, Any]], Any]], count: int, rounds: int) -> list[float]:
    """Of one call each, by turns, so that all have the same neighbours on the machine."""
    timers = [timeit.Timer("call(values)", globals={"call": call, "values": VALUES}) for call in calls]
    measured = [[timer.timeit(count) for timer in timers] for _ in range(rounds)]
    return [min(times) / count * 1e9 for times in zip(*measured, strict=True)]


if __name__ == "__main__":
    main()
