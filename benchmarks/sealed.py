"""How much sealing, counting and time-keeping add to a frame: microseconds for each step, and for a whole frame.

- open: the decryption alone, by algorithm and length of tag, with the right key and with a wrong one;
- frame: a packaged profile's published encrypted frame from bytes to a sample, and the same values sent in clear;
- judge, age: the verdict on a counter, and the placing of an uptime.

Medians of the rounds; each round turns the order around, so that what else the machine does touches all alike.

    python benchmarks/sealed.py --json result.json
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.device_time import UptimeClock
from edge_gateway.codec.payload_keys import same_payload_keys
from edge_gateway.codec.replay import ReplayGuard, ReplayRule
from edge_gateway.codec.sealed import PayloadSeal, SealAlgorithm

_KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
_SEALED = bytes.fromhex("5448e68f80a5 d2fc 41 e445f3c9962b 33221100 6c7c4519")
"""bthome.io, encryption: temperature and humidity."""
_CLEAR = bytes.fromhex("5448e68f80a5 d2fc 40 02ca0903bf13")

_SHAPES: tuple[tuple[SealAlgorithm, int], ...] = (("aes-ccm", 4), ("aes-gcm", 4), ("aes-gcm", 16))


def opening(algorithm: SealAlgorithm, tag_bytes: int, *, key_is_right: bool) -> Callable[[], object]:
    """Opens 12 bytes, as an advertisement has."""
    seal, nonce = PayloadSeal(algorithm, tag_bytes), bytes(13 if algorithm == "aes-ccm" else 12)
    data, tag = seal.seal(_KEY, nonce, bytes(12))
    key = _KEY if key_is_right else _KEY[::-1]
    return lambda: seal.open(key, nonce, data, tag)


def decoding(frame: bytes, keys: dict[str, bytes]) -> Callable[[], object]:
    """Decodes one frame, alone in its batch as radio frames are."""
    codec = compile_profile(load_profile("bthome-v2"), same_payload_keys(keys))
    if codec.decode([frame]).rejects:
        raise SystemExit("the frame is rejected")
    return lambda: codec.decode([frame])


def judging() -> Callable[[], object]:
    """Judges a counter that grows by one."""
    guard = ReplayGuard(ReplayRule(counter="counter"), 1 << 32)
    numbers = iter(range(1 << 32))
    return lambda: guard.judge(next(numbers))


def placing() -> Callable[[], object]:
    """Places an uptime in milliseconds, a frame a second."""
    clock = UptimeClock(Fraction(1_000_000), 1 << 32)
    seconds = iter(range(1 << 32))

    def place() -> object:
        second = next(seconds)
        return clock.age_ns(1000 * second % (1 << 32), 1_000_000_000 * second)

    return place


def steps() -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    return {
        **{f"open {name}, tag of {tag}": opening(name, tag, key_is_right=True) for name, tag in _SHAPES},
        **{f"open {name}, tag of {tag}, wrong key": opening(name, tag, key_is_right=False) for name, tag in _SHAPES},
        "frame in clear": decoding(_CLEAR, {}),
        "frame sealed": decoding(_SEALED, {"bindkey": _KEY}),
        "judge a counter": judging(),
        "age of an uptime": placing(),
    }


def us_each(step: Callable[[], object], calls: int) -> float:
    """One turn. The garbage collector rests, as its turns would fall on whom they may."""
    gc.collect()
    gc.disable()
    try:
        began_s = time.perf_counter()
        for _ in range(calls):
            step()
        return (time.perf_counter() - began_s) / calls * 1e6
    finally:
        gc.enable()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000, help="in each turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="three short rounds, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.calls, arguments.rounds = 2_000, 3
    measured = steps()
    results: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(arguments.rounds):
        for name in measured if number % 2 == 0 else reversed(measured):
            results[name].append(us_each(measured[name], arguments.calls))
    medians = {name: statistics.median(each) for name, each in results.items()}
    for name, median in medians.items():
        print(f"{name:<36}{median:>8.2f} us")
    load = os.getloadavg()[0]
    print(f"load of the machine over the last minute: {load:.1f} on {os.cpu_count()} cores")
    if arguments.json is not None:
        document = {"medians_us": medians, "rounds_us": results, "python": sys.version.split()[0], "load_1_min": load}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
