"""What identities cost: a session for each of a thousand sensors at the hub, from connecting to a renewed token.

And what a signature costs, by a key in a TPM and in a file: see `signatures.py`.

The gateway's sessions take turns with two others on the same machine (see `leaf_sessions.py`): TLS and MQTT by hand,
which is the least work there is, and the device SDK, which is what there was. Client and hub are processes of their
own, on the same two cores. Compared are medians over the rounds; the ratios say more than the figures.

- `connect_s`, `connect_cpu_ms`: until all are connected, eight at a time; CPU of the client for each.
- `session_kib`: memory in RAM for each, once all are connected and what was needed for it is collected.
- `rest_percent`: of a core, with all connected and nothing to do.
- `send_s`, `send_cpu_ms`: one message from each, until all are confirmed.
- `renew_s`, `renew_cpu_ms`: from the first renewal to the last; they spread over a fifth of a token's life by design.

    python benchmarks/keys.py --only sessions --json result.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from leaf_sessions import CONTESTANTS, Place, compete, process, serve_hub

Figures: TypeAlias = dict[str, dict[str, list[float]]]
"""By contestant and figure: what each round gave."""

_MOST_SDK: Final = 20
"""Each has a dozen threads."""


def sessions(arguments: argparse.Namespace, results: Figures) -> None:
    """One round of all contestants, each with a hub of its own."""
    for name in CONTESTANTS:
        count = min(arguments.sessions, _MOST_SDK) if name == "sdk" else arguments.sessions
        with process(serve_hub, count) as hub:
            place: Place = hub.recv()
            with process(compete, name, place, arguments.token_lifetime_s) as contestant:
                figures: dict[str, float] = contestant.recv()
            hub.send(True)
            connections, messages, denied = hub.recv()
        if messages != count or denied:
            raise SystemExit(f"{name}: {messages} of {count} messages came, and {denied} connections were denied")
        for figure, value in figures.items():
            results[name][figure].append(value)
        print(f"  {name}: {connections} connections, {messages} messages", flush=True)


def signatures(arguments: argparse.Namespace, results: Figures) -> None:
    """One round of all that sign."""
    import signatures as signing  # needs the extra `tpm`, which sessions do not

    for name in signing.CONTESTANTS:
        for figure, value in signing.measure(name, arguments.signatures).items():
            results[name][figure].append(value)


_SECTIONS: Final[dict[str, Callable[[argparse.Namespace, Figures], None]]] = {
    "sessions": sessions,
    "signatures": signatures,
}


def report(results: dict[str, Figures]) -> dict[str, Any]:
    """Print medians, and what each is in the gateway's; return both."""
    document: dict[str, Any] = {}
    for section, contestants in results.items():
        medians = {
            name: {figure: statistics.median(values) for figure, values in figures.items()}
            for name, figures in contestants.items()
        }
        names = list(medians)
        print(
            f"\n{section:16}" + "".join(f"{name:>12}" for name in names) + "".join(f"{f'/{n}':>9}" for n in names[1:])
        )
        for figure in medians[names[0]]:
            values = [medians[name].get(figure) for name in names]
            ratios = [values[0] / each if values[0] is not None and each else None for each in values[1:]]
            print(
                f"{figure:16}"
                + "".join(f"{'-' if each is None else f'{each:.3g}':>12}" for each in values)
                + "".join(f"{'-' if each is None else f'{each:.2f}':>9}" for each in ratios)
            )
        document[section] = {"medians": medians, "rounds": contestants}
    return document


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--sessions", type=int, default=1000, help="at once")
    parser.add_argument("--signatures", type=int, default=1000, help="one after the other")
    parser.add_argument("--token-lifetime-s", type=int, default=60, help="how long a token lives; renewed from 70 %%")
    parser.add_argument("--only", choices=_SECTIONS, nargs="+", default=list(_SECTIONS), help="leave the rest out")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result, with every round, to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.sessions, arguments.token_lifetime_s = 1, min(arguments.sessions, 50), 12
        arguments.signatures = min(arguments.signatures, 50)
    results: dict[str, Figures] = {name: defaultdict(lambda: defaultdict(list)) for name in arguments.only}
    for number in range(arguments.rounds):
        for name in arguments.only:
            print(f"round {number + 1}: {name}", flush=True)
            _SECTIONS[name](arguments, results[name])
    document = report(results)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
