"""What the durable buffer costs, beside bare SQLite on the same disk: throughput, latency, bytes written, a full queue.

The gateway's buffer takes turns with two bare `sqlite3` loops (see `durable_queues.py`): one stores a row for each
record ("rows"), one a row for each batch ("batches"). Compared are medians over the rounds; the ratios say more than
the figures, as what else the machine does touches all alike.

1. append: records/s by batch size. First the store alone, one transaction for each batch, as the bare loops do it; then
   the gateway's buffer, where batches of many producers share one;
2. latency: from a record's coming to its being durable; records come at random, to several producers at once;
3. bytes written for each byte of JSON: by batch size, and for lone records at 50/s, left queued or delivered at once.
   They are counted from opening to closing, and twice (proc(5)): as handed to the kernel, and in the whole pages of the
   file system. What that writes for itself, its journal, comes on top of both;
4. sealing: the same batches through the store's sealer alone, and what part of the store's time that is;
5. a full queue: a process with all of the gateway loaded fills it, another starts on it, a third drains it. How long
   that takes, and the most memory each ever had.

    python benchmarks/buffer.py --json result.json     # about six minutes

The disk measured is that of the current directory.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from durable_queues import (
    GATEWAY,
    QUEUES,
    Batch,
    DurableQueue,
    append_to_store,
    make_arrivals,
    make_batches,
    make_sealer,
)
from process_usage import peak_resident_mib, resident_mib

T = TypeVar("T")

STORE: Final = "store"
"""The gateway's store without event loop and thread."""

Figures: TypeAlias = dict[str, dict[str, dict[str, list[float]]]]
"""By case, contestant and figure: what each round gave."""

_SIZES: Final = (1, 10, 100, 500, 1000)
_SEALED_SIZES: Final = (1, 10, 100, 500)
"""No payload holds more records than a message does."""
_RATES_PER_S: Final = (200.0, 10_000.0)
_PER_PRODUCER_S: Final = 10.0
"""Records a second that one producer has."""
_PENDING_RECORDS: Final = 8_000
"""What producers may have in the gateway's buffer at once, as `buffer.pending_records` says."""
_TRICKLE_PER_S: Final = 50.0
_POOL_RECORDS: Final = 2_000
"""Records made beforehand, at least; they are appended again and again."""
_SEALS: Final = 200
_STARTS: Final = 9
_MOST_MIB: Final = 96
_MOST_START_RATIO: Final = 1.5
"""What a start on a full queue may take, in starts on an empty one, and still be called constant."""


class Load(NamedTuple):
    """How much a round is given."""

    commits: int
    """In an append turn, at most."""
    records: int
    """The same, in records."""
    paced_s: float
    trickled: int
    """Lone records."""
    queued: int
    """Records in a full queue."""
    queued_batch: int
    """Records appended together there."""


def no_figures() -> Figures:
    """For the first round."""
    return defaultdict(lambda: defaultdict(lambda: defaultdict(list)))


# --- the rounds ------------------------------------------------------------------------------------------------------


class Bench:
    """Measures on one disk.

    Args:
        directory: there.
        load: for each round.
    """

    def __init__(self, directory: Path, load: Load) -> None:
        self._directory = directory
        self._load = load

    def append(self, results: Figures, number: int) -> None:
        """Throughput and bytes written, by batch size."""
        for size in _SIZES:
            together = partial(GATEWAY.append, producers=_PENDING_RECORDS // size)
            # Many batches share a commit there, so it takes more of them to tell anything.
            appenders: list[tuple[str, int, Callable[[Path, Iterable[Batch]], float]]] = [
                (STORE, self._load.commits, append_to_store),
                (GATEWAY.name, 10 * self._load.commits, together),
                *((queue.name, self._load.commits, queue.append) for queue in QUEUES if queue is not GATEWAY),
            ]
            for name, most, append in _turned(appenders, number):
                batches = _batches(size, min(most, self._load.records // size))
                payload_bytes = sum(batch.payload_bytes for batch in batches)
                with self._fresh() as directory, _counted(payload_bytes, results[str(size)][name]):
                    seconds = append(directory, batches)
                results[str(size)][name]["records_per_s"].append(size * len(batches) / seconds)

    def latency(self, results: Figures, number: int) -> None:
        """From coming to durable."""
        for rate_per_s in _RATES_PER_S:
            arrivals = make_arrivals(rate_per_s, self._load.paced_s, random.Random(number))
            for queue in _turned(QUEUES, number):
                with self._fresh() as directory:
                    waits_s = queue.append_at(directory, arrivals, producers=round(rate_per_s / _PER_PRODUCER_S))
                turn = results[f"{rate_per_s:,.0f}/s"][queue.name]
                turn["p50_ms"].append(_percentile(waits_s, 50) * 1000)
                turn["p99_ms"].append(_percentile(waits_s, 99) * 1000)

    def trickle(self, results: Figures, number: int) -> None:
        """Bytes written for lone records."""
        batches = _batches(1, self._load.trickled)
        payload_bytes = sum(batch.payload_bytes for batch in batches)
        for case, delivering in (("queued", False), ("delivered", True)):
            for queue in _turned(QUEUES, number):
                with self._fresh() as directory, _counted(payload_bytes, results[case][queue.name]):
                    queue.trickle(directory, batches, _TRICKLE_PER_S, delivering=delivering)

    def sealing(self, results: Figures, number: int) -> None:  # noqa: ARG002  # nobody takes turns here
        """Time and bytes of sealing, by batch size."""
        with self._fresh() as directory:
            sealer = make_sealer(directory)
            for size in _SEALED_SIZES:
                payloads = [b",".join(batch.documents) for batch in _batches(size, _SEALS)]
                turn = results[str(size)][STORE]
                _timed(sealer.open, _timed(sealer.seal, payloads[:1])[0])  # makes the key, and loads what is needed
                sealed, seal_s = _timed(sealer.seal, payloads)
                _, open_s = _timed(sealer.open, sealed)
                turn["seal_us"].append(seal_s / _SEALS * 1e6)
                turn["open_us"].append(open_s / _SEALS * 1e6)
                turn["bytes_sealed"].append(sum(map(len, sealed)) / sum(map(len, payloads)))

    def full_queue(self, results: Figures, number: int) -> None:
        """Fill, start and drain, each in a process of its own."""
        for queue in _turned(QUEUES, number):
            with self._fresh() as full, self._fresh() as empty:
                turn = partial(_turn, results, queue)
                seconds = turn("fill", partial(_fill, queue, full, self._load.queued, self._load.queued_batch))
                results["fill"][queue.name]["records_per_s"].append(self._load.queued / seconds)
                results["fill"][queue.name]["disk_mib"].append(
                    sum(file.stat().st_size for file in full.iterdir()) / 2**20
                )
                for directory, start_s in turn("start", partial(_start, queue, (full, empty))).items():
                    which = "full_ms" if directory == full else "empty_ms"
                    results["start"][queue.name][which].append(start_s * 1000)
                drained, seconds = turn("drain", partial(queue.drain, full))
                if drained != self._load.queued + _STARTS:
                    raise SystemExit(f"{queue.name}: {drained} of {self._load.queued + _STARTS} records came out")
                results["drain"][queue.name]["records_per_s"].append(drained / seconds)

    @contextmanager
    def _fresh(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="queue-", dir=self._directory) as path:
            gc.collect()
            yield Path(path)


_SECTIONS: Final = {
    "append": Bench.append,
    "latency": Bench.latency,
    "trickle": Bench.trickle,
    "sealing": Bench.sealing,
    "queue": Bench.full_queue,
}


def _batches(size: int, count: int) -> list[Batch]:
    pool = make_batches(size, math.ceil(_POOL_RECORDS / size), random.Random(1))
    return list(islice(cycle(pool), count))


def _turned(contestants: Sequence[T], number: int) -> Sequence[T]:
    """In another order each round, so that nobody always finds the machine as the same other one left it."""
    first = number % len(contestants)
    return [*contestants[first:], *contestants[:first]]


@contextmanager
def _counted(payload_bytes: int, turn: dict[str, list[float]]) -> Iterator[None]:
    """Note what this process writes to files within, for each byte of payload."""
    before = _written_bytes()
    yield
    for figure, begun, ended in zip(("bytes_asked", "bytes_in_pages"), before, _written_bytes(), strict=True):
        turn[figure].append((ended - begun) / payload_bytes)


def _written_bytes() -> tuple[int, int]:
    """Since the process began: handed to the kernel, and in whole pages."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["wchar"]), int(counts["write_bytes"])


def _timed(step: Callable[[bytes, bytes], bytes], payloads: Sequence[bytes]) -> tuple[list[bytes], float]:
    """What a step of the sealer makes of the payloads, and the seconds it took."""
    began_s = time.perf_counter()
    made = [step(payload, b"context") for payload in payloads]
    return made, time.perf_counter() - began_s


def _percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


# --- in a process of its own -----------------------------------------------------------------------------------------


def _turn(results: Figures, queue: DurableQueue, phase: str, call: Callable[[], T]) -> T:
    """Run `call` in a fresh process, and note its memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        result, idle_mib, peak_mib = process.submit(_with_whole_gateway, call).result()
    results[phase][queue.name]["idle_mib"].append(idle_mib)
    results[phase][queue.name]["peak_mib"].append(peak_mib)
    return result


def _with_whole_gateway(call: Callable[[], T]) -> tuple[T, float, float]:
    """Run `call` where all is loaded that `edge-gateway run` loads; return memory before it and at most, too."""
    import edge_gateway.cli.run  # noqa: F401  # for its weight, which the parent need not bear

    gc.collect()
    gc.freeze()
    idle_mib = resident_mib(os.getpid())
    return call(), idle_mib, peak_resident_mib(os.getpid())


def _fill(queue: DurableQueue, directory: Path, records: int, size: int) -> float:
    pool = make_batches(size, math.ceil(_POOL_RECORDS / size), random.Random(1))
    return queue.append(directory, islice(cycle(pool), records // size), producers=_PENDING_RECORDS // size)


def _start(queue: DurableQueue, directories: Sequence[Path]) -> dict[Path, float]:
    """Seconds to the first durable record, median of some starts in turn."""
    (batch,) = make_batches(1, 1, random.Random(1))
    rounds_s = [[queue.start(directory, batch) for directory in directories] for _ in range(_STARTS)]
    return dict(zip(directories, map(statistics.median, zip(*rounds_s, strict=True)), strict=True))


# --- the result ------------------------------------------------------------------------------------------------------

Medians: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""As `Figures`."""


def report(results: dict[str, Figures], load: Load, sync_s: Sequence[float]) -> dict[str, Any]:
    """Print the tables, and return the same as a JSON document with every round in it."""
    medians = {section: _medians(figures) for section, figures in results.items()}
    goals = []
    if append := medians.get("append"):
        _table("store, a transaction for each batch, records/s", append, "records_per_s", STORE, 0)
        _table("  bytes written per byte", append, "bytes_asked", STORE, 2)
        _table("  bytes written per byte, in whole pages", append, "bytes_in_pages", STORE, 2)
        _table("buffer, batches together, records/s", append, "records_per_s", GATEWAY.name, 0)
    if latency := medians.get("latency"):
        _table("latency of append, p50, ms", latency, "p50_ms", GATEWAY.name, 2)
        _table("latency of append, p99, ms", latency, "p99_ms", GATEWAY.name, 2)
    if trickle := medians.get("trickle"):
        title = f"lone records at {_TRICKLE_PER_S:g}/s, bytes written per byte"
        _table(title, trickle, "bytes_asked", GATEWAY.name, 1)
        _table("  in whole pages", trickle, "bytes_in_pages", GATEWAY.name, 1)
    if sealing := medians.get("sealing"):
        _report_sealing(sealing, append)
    if queue := medians.get("queue"):
        goals = _report_queue(queue, results["queue"], load)
    p50_ms, p99_ms = (_percentile(sync_s, percent) * 1000 for percent in (50, 99))
    print(f"\nfdatasync of 4 KiB on this disk: p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms")
    load_1_min = os.getloadavg()[0]
    print(f"load of the machine over the last minute: {load_1_min:.1f} on {os.cpu_count()} cores")
    return {
        "medians": medians,
        "rounds": results,
        "goals": goals,
        "load": load._asdict(),
        "fdatasync_ms": {"p50": p50_ms, "p99": p99_ms},
        "machine": {
            "cores": os.cpu_count(),
            "load_1_min": load_1_min,
            "kernel": os.uname().release,
            "python": sys.version.split()[0],
        },
    }


def _report_sealing(sealing: Medians, append: Medians | None) -> None:
    print(f"\n{'sealing a batch':<48}{'seal, us':>11}{'open, us':>11}{'bytes':>7}{'of the store':>14}")
    for case, by_name in sealing.items():
        turn = by_name[STORE]
        share = ""
        if append is not None:
            batch_us = int(case) / append[case][STORE]["records_per_s"] * 1e6
            share = f"{turn['seal_us'] / batch_us:.0%}"
        print(f"{case:>48}{turn['seal_us']:>11,.1f}{turn['open_us']:>11,.1f}{turn['bytes_sealed']:>7.2f}{share:>14}")


def _report_queue(queue: Medians, rounds: Figures, load: Load) -> list[dict[str, Any]]:
    title = f"{load.queued:,} records in batches of {load.queued_batch}, records/s"
    _table(title, {case: queue[case] for case in ("fill", "drain")}, "records_per_s", GATEWAY.name, 0)
    _table("  on disk when full, MiB", {"fill": queue["fill"]}, "disk_mib", GATEWAY.name, 0)
    for which in ("empty", "full"):
        title = f"  start to first durable record, {which}, ms"
        _table(title, {"start": queue["start"]}, f"{which}_ms", GATEWAY.name, 2)
    print(f"\n{'resident memory of the gateway, MiB':<48}{'before':>11}{'peak':>11}")
    goals = []
    for phase, by_name in queue.items():
        idle_mib, peak_mib = by_name[GATEWAY.name]["idle_mib"], max(rounds[phase][GATEWAY.name]["peak_mib"])
        print(f"{phase:>48}{idle_mib:>11.1f}{peak_mib:>11.1f}")
        goals.append(
            {"goal": f"{phase}: peak memory <= {_MOST_MIB} MiB", "figure": peak_mib} | {"met": peak_mib <= _MOST_MIB}
        )
    start = queue["start"][GATEWAY.name]
    ratio = start["full_ms"] / start["empty_ms"]
    goals.append(
        {"goal": f"start: full <= {_MOST_START_RATIO} empty", "figure": ratio, "met": ratio <= _MOST_START_RATIO}
    )
    print()
    for goal in goals:
        print(f"{goal['goal']:<48}{goal['figure']:>11,.2f}  {'pass' if goal['met'] else 'FAIL'}")
    return goals


def _table(title: str, cases: Medians, figure: str, ours: str, digits: int) -> None:
    """One figure: a line for each case, and a column for each bare loop with our ratio to it."""
    bare = [queue.name for queue in QUEUES if queue is not GATEWAY]
    print(f"\n{title:<48}{ours:>11}" + "".join(f"{name:>11}{'ratio':>7}" for name in bare))
    for case, by_name in cases.items():
        our = by_name[ours][figure]
        line = f"{case:>48}{our:>11,.{digits}f}"
        for name in bare:
            their = by_name[name][figure]
            line += f"{their:>11,.{digits}f}{our / their:>7.2f}"
        print(line)


def _medians(figures: Figures) -> Medians:
    return {
        case: {
            name: {figure: statistics.median(each) for figure, each in turn.items()} for name, turn in by_name.items()
        }
        for case, by_name in figures.items()
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--queued", type=int, default=1_000_000, help="records in the full queue")
    parser.add_argument("--queued-batch", type=int, default=100, help="records appended together to it")
    parser.add_argument("--paced-s", type=float, default=8.0, help="seconds of each rate, in each turn")
    parser.add_argument("--only", choices=_SECTIONS, nargs="+", default=list(_SECTIONS), help="leave the rest out")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result, with every round, to this file")
    arguments = parser.parse_args()
    load = Load(2_000, 200_000, arguments.paced_s, 3_000, arguments.queued, arguments.queued_batch)
    if arguments.quick:
        arguments.rounds = 1
        load = Load(200, 20_000, 1.0, 300, min(arguments.queued, 50_000), arguments.queued_batch)

    from end_to_end import measure_sync  # the processes that fill and drain need none of its imports

    sections = {name: section for name, section in _SECTIONS.items() if name in arguments.only}
    results = {name: no_figures() for name in sections}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as path:
        bench = Bench(Path(path), load)
        sync_s = measure_sync(Path(path))
        for number in range(arguments.rounds):
            for name, section in sections.items():
                section(bench, results[name], number)
                print(f"round {number + 1}: {name}", flush=True)
        sync_s += measure_sync(Path(path))
    result = report(results, load, sync_s)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
