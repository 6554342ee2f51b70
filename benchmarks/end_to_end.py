"""How close the gateway comes to the least that Python can do: serial frames to a TLS broker, each frame durable.

The gateway takes turns in one run with `handwritten_loop.py` in its two ways of storing, on the same ports, broker and
disk, and the result is their ratio: what else the machine does touches all alike. Each turn is one process:

1. start, while a frame comes every 5 ms: seconds until the first is at a subscriber, and so was durable before;
2. idle: resident memory;
3. frames at a pace: CPU, and time from write to subscriber;
4. frames as fast as they are taken, nobody subscribed: time from the first write to the last PUBACK, CPU, peak memory.

Before the first turn, both once bring a load to a subscriber who checks every value: what is measured is also right.

    python benchmarks/end_to_end.py --json result.json

Needs mosquitto. The disk measured is that of the current directory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from broker import Broker, running_broker
from feeder import Arrivals, feed
from process_usage import cpu_s, peak_resident_mib, resident_mib

from edge_gateway.api.control import ask_status

_PACE_PER_S = 50.0
_IDLE_S = 1.0
"""Left alone for so long, a product is idle, and has deleted what was confirmed."""
_POLL_S = 0.01
"""Between two looks at a product's progress at full load; the error of the time measured."""
_STALLED_S = 30.0
_SYNCS = 200


# --- the two products ------------------------------------------------------------------------------------------------


class Product(NamedTuple):
    """One of the two that are measured: how to start it, and how to ask what it has delivered."""

    name: str
    command: Callable[[Path, Sequence[str], Broker], list[str]]
    """From a fresh directory, the ports and the broker."""
    confirmed_records: Callable[[Path], int]


def _gateway_command(directory: Path, ports: Sequence[str], broker: Broker) -> list[str]:
    config = {
        "gateway": {"name": "benchmark", "data_directory": str(directory / "data"), "log_level": "warning"},
        "links": [
            {
                "name": f"port-{number}",
                "port": {"path": port},
                "profile": "reference-climate",
                "devices": [{"name": f"sensor-{number}", "address": number}],
            }
            for number, port in enumerate(ports, 1)
        ],
        # A rule that looks at every reading and never fires: a gateway in the field has some.
        "rules": [
            {
                "name": "hot",
                "profile": "reference-climate",
                "value": "temperature",
                "raise_above": 80,
                "clear_below": 75,
            }
        ],
        "uplink": {"kind": "mqtt", "host": "localhost", "port": broker.port, "ca_file": str(broker.ca_file)},
        "buffer": {"max_message_age_s": 0, "max_records_per_message": 500},
    }
    config_file = directory / "gateway.yaml"
    config_file.write_text(json.dumps(config))  # JSON is YAML
    return [sys.executable, "-m", "edge_gateway", "run", "--config", str(config_file)]


def _gateway_confirmed(directory: Path) -> int:
    return int(asyncio.run(ask_status(directory / "data"))["uplink"]["records"])


def _handwritten_command(store: str, directory: Path, ports: Sequence[str], broker: Broker) -> list[str]:
    program = str(Path(__file__).with_name("handwritten_loop.py"))
    options = ["--directory", str(directory), "--broker-port", str(broker.port), "--ca-file", str(broker.ca_file)]
    return [sys.executable, program, *options, "--store", store, *ports]


def _handwritten_confirmed(directory: Path) -> int:
    return int.from_bytes((directory / "confirmed").read_bytes(), "little")


GATEWAY = Product("gateway", _gateway_command, _gateway_confirmed)
HANDWRITTEN = Product("by-hand", partial(_handwritten_command, "readings"), _handwritten_confirmed)
TIGHTEST = Product("tightest", partial(_handwritten_command, "messages"), _handwritten_confirmed)
PRODUCTS = (GATEWAY, HANDWRITTEN, TIGHTEST)


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one turn of one product gave."""

    frames_per_s: float
    cpu_s_per_10k: float
    paced_cpu_percent: float
    """Of one core."""
    latency_p50_ms: float
    latency_p99_ms: float
    idle_mib: float
    peak_mib: float
    first_delivery_s: float


class Load(NamedTuple):
    """How much a turn is given."""

    flood_frames: int
    paced_frames: int


class Bench:
    """The ports, the broker and the feeder that both products share.

    Args:
        directory: a fresh one, on the disk to be measured.
        broker: running.
        connection: to the feeder.
    """

    def __init__(self, directory: Path, broker: Broker, connection: Connection) -> None:
        self._directory = directory
        self._broker = broker
        self._feeder = connection
        self._ports: list[str] = connection.recv()

    def verify(self, product: Product, frames: int) -> Arrivals:
        """Have `product` bring `frames` frames to a subscriber, who compares them with what was written."""
        self._ask("prepare", frames)
        with self._started(product) as (_, _, _):
            arrivals: Arrivals = self._ask("flood_and_verify")
        return arrivals

    def measure(self, product: Product, load: Load) -> Figures:
        """One turn of `product`."""
        self._ask("prepare", load.flood_frames)
        with self._started(product) as (process, directory, first_delivery_s):
            idle_mib = resident_mib(process.pid)

            before_s, began_s = cpu_s(process.pid), time.monotonic()
            arrivals: Arrivals = self._ask("pace", load.paced_frames, _PACE_PER_S, load.flood_frames)
            paced_cpu_percent = 100 * (cpu_s(process.pid) - before_s) / (time.monotonic() - began_s)
            if arrivals.missing or arrivals.wrong:
                raise SystemExit(f"{product.name}: of a paced load {arrivals.missing} missing, {arrivals.wrong} wrong")

            time.sleep(_IDLE_S)
            before, before_s = product.confirmed_records(directory), cpu_s(process.pid)
            self._feeder.send(("flood",))
            last_puback_s = _wait_for(product, directory, before + load.flood_frames)
            first_write_s: float = self._feeder.recv()
            time.sleep(_IDLE_S)  # the last deletions belong to the work
            flood_cpu_s = cpu_s(process.pid) - before_s
            return Figures(
                frames_per_s=load.flood_frames / (last_puback_s - first_write_s),
                cpu_s_per_10k=flood_cpu_s / load.flood_frames * 10_000,
                paced_cpu_percent=paced_cpu_percent,
                latency_p50_ms=_percentile(arrivals.latencies_s, 50) * 1000,
                latency_p99_ms=_percentile(arrivals.latencies_s, 99) * 1000,
                idle_mib=idle_mib,
                peak_mib=peak_resident_mib(process.pid),
                first_delivery_s=first_delivery_s,
            )

    @contextmanager
    def _started(self, product: Product) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
        """A process of `product` that delivers and is idle, its directory, and how long its first delivery took."""
        with tempfile.TemporaryDirectory(prefix=f"{product.name}-", dir=self._directory) as path:
            directory = Path(path)
            command = product.command(directory, self._ports, self._broker)
            self._ask("probe")
            spawned_s = time.monotonic()
            process = subprocess.Popen(command)
            try:
                if not self._feeder.poll(_STALLED_S):
                    raise SystemExit(f"{product.name} delivers nothing within {_STALLED_S:g} s of its start")
                first_delivery_s = self._feeder.recv() - spawned_s
                time.sleep(_IDLE_S)
                yield process, directory, first_delivery_s
            finally:
                _stop(product, process)

    def _ask(self, *request: Any) -> Any:
        self._feeder.send(request)
        return self._feeder.recv()


@contextmanager
def running_bench(directory: Path, links: int) -> Iterator[Bench]:
    """Broker and feeder; leaving ends them."""
    with running_broker() as broker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=feed, args=(theirs, links, broker.port, broker.ca_file), daemon=True)
        process.start()
        theirs.close()
        try:
            yield Bench(directory, broker, ours)
        finally:
            process.terminate()
            process.join()


def _stop(product: Product, process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STALLED_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise SystemExit(f"{product.name} did not end within {_STALLED_S:g} s of SIGTERM") from None


def _wait_for(product: Product, directory: Path, records: int) -> float:
    """When `product` had so many records confirmed."""
    seen, since_s = -1, time.monotonic()
    while True:
        confirmed, now_s = product.confirmed_records(directory), time.monotonic()
        if confirmed >= records:
            return now_s
        if confirmed > seen:
            seen, since_s = confirmed, now_s
        elif now_s > since_s + _STALLED_S:
            raise SystemExit(f"{product.name} stopped at {confirmed} of {records} records")
        time.sleep(_POLL_S)


def measure_sync(directory: Path) -> list[float]:
    """Seconds that a write of 4 KiB and its fdatasync take on this disk, sorted.

    The file has its full length before, as SQLite's log has after its first round, so no sync waits for a new length.
    """
    durations_s = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(bytes(4096 * _SYNCS))
        os.fsync(file.fileno())
        file.seek(0)
        for _ in range(_SYNCS):
            began_s = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            durations_s.append(time.perf_counter() - began_s)
    return sorted(durations_s)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


# --- the result ------------------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """A row of the table, and what it shall be."""

    figure: str
    title: str
    digits: int
    bound: str
    """The goal in words."""
    is_met: Callable[[float, float], bool]
    """By the gateway's figure, given the hand-written loop's."""


GOALS = (
    Goal("frames_per_s", "frames/s, first write to last PUBACK", 0, ">= 60 %", lambda ours, limit: ours >= 0.6 * limit),
    Goal("cpu_s_per_10k", "CPU-seconds for 10,000 frames", 3, "<= 0.12", lambda ours, _: ours <= 0.12),
    Goal("paced_cpu_percent", "CPU at 50 frames/s, % of a core", 1, "<= 2 x", lambda ours, limit: ours <= 2 * limit),
    Goal("latency_p50_ms", "latency at 50 frames/s, p50, ms", 2, "<= 3", lambda ours, _: ours <= 3),
    Goal("latency_p99_ms", "latency at 50 frames/s, p99, ms", 2, "<= 15", lambda ours, _: ours <= 15),
    Goal("idle_mib", "resident memory idle, MiB", 1, "<= 60", lambda ours, _: ours <= 60),
    Goal("peak_mib", "resident memory, peak, MiB", 1, "<= 96", lambda ours, _: ours <= 96),
    Goal("first_delivery_s", "start to first record at subscriber, s", 2, "<= 1.0", lambda ours, _: ours <= 1.0),
)
"""DESIGN section 5. Compared are medians over the rounds."""


def report(rounds: dict[str, list[Figures]], verified: dict[str, Arrivals], sync_s: Sequence[float]) -> dict[str, Any]:
    """Print the table, and return the same as a JSON document with every round in it."""
    title = f"median of {len(rounds[GATEWAY.name])} rounds"
    print(f"\n{title:<40}{'gateway':>10}{'by hand':>10}{'ratio':>8}{'tightest':>10}{'ratio':>8}  goal")
    rows = []
    for goal in GOALS:
        ours, limit, tightest = (
            statistics.median(getattr(figures, goal.figure) for figures in rounds[product.name]) for product in PRODUCTS
        )
        met = goal.is_met(ours, limit)
        print(
            f"{goal.title:<40}{ours:>10,.{goal.digits}f}{limit:>10,.{goal.digits}f}{ours / limit:>8.2f}"
            f"{tightest:>10,.{goal.digits}f}{ours / tightest:>8.2f}  {goal.bound:<14}{'pass' if met else 'FAIL'}"
        )
        rows.append(
            {"figure": goal.figure, "gateway": ours, "by_hand": limit, "tightest": tightest, "ratio": ours / limit}
            | {"goal": goal.bound, "met": met}
        )
    p50_ms, p99_ms = (_percentile(sync_s, percent) * 1000 for percent in (50, 99))
    print(f"fdatasync of 4 KiB on this disk: p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    for name, arrivals in verified.items():
        print(
            f"{name}: of {len(arrivals.latencies_s) + arrivals.missing:,} frames {arrivals.missing} missing, "
            f"{arrivals.repeated} repeated, {arrivals.wrong} wrong"
        )
    return {
        "medians": rows,
        "rounds": {name: [asdict(figures) for figures in each] for name, each in rounds.items()},
        "fdatasync_ms": {"p50": p50_ms, "p99": p99_ms},
        "verified": {
            name: {"missing": each.missing, "repeated": each.repeated, "wrong": each.wrong}
            for name, each in verified.items()
        },
        "machine": {"cores": os.cpu_count(), "kernel": os.uname().release, "python": sys.version.split()[0]},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200_000, help="frames at full load, in each turn")
    parser.add_argument("--links", type=int, default=20, help="serial ports")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each product")
    parser.add_argument("--paced-s", type=float, default=20.0, help="seconds at 50 frames/s, in each turn")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result, with every round, to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.rounds, arguments.paced_s = 40_000, 1, 4.0
    load = Load(arguments.frames, int(arguments.paced_s * _PACE_PER_S))

    rounds: dict[str, list[Figures]] = {product.name: [] for product in PRODUCTS}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as path:
        directory = Path(path)
        with running_bench(directory, arguments.links) as bench:
            verified = {product.name: bench.verify(product, 20_000) for product in PRODUCTS}
            sync_s = measure_sync(directory)
            for number in range(arguments.rounds):
                # The order changes too, so that neither always finds the machine as the other left it.
                for product in PRODUCTS if number % 2 == 0 else PRODUCTS[::-1]:
                    figures = bench.measure(product, load)
                    rounds[product.name].append(figures)
                    print(
                        f"round {number + 1}, {product.name}: {figures.frames_per_s:,.0f} frames/s, "
                        f"{figures.latency_p50_ms:.2f} ms",
                        flush=True,
                    )
            sync_s = sorted([*sync_s, *measure_sync(directory)])
    result = report(rounds, verified, sync_s)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if any(each.missing or each.wrong for each in verified.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
