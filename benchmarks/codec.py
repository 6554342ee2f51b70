"""How much a declaration costs: the reference frame from bytes to JSON, by its profile, by hand, and by `construct`.

Frames of 18 bytes with a CRC-16 are taken in batches, as a link delivers them, by

- gateway: the compiled profile's batch decoder,
- by hand: one `struct`, the same CRC library and a dictionary literal, written for this frame alone,
- construct: the declarative library (https://construct.readthedocs.io), with its own checksum field,

each of them to the end of three ways:

- records: a JSON array of device, profile, time and values; the gateway makes a `Reading` of each sample on the way, as
  it does in the field, the others go straight;
- json: a JSON array of the values, which is the codec and nothing else of the gateway;
- values: Python values, without the JSON that costs all the same.

Before the first round all three must give the same bytes, and refuse the same damage. Then they take turns, so that
what else the machine does touches all alike; compared are medians of the rounds.

    python benchmarks/codec.py --json result.json

Needs construct (`pip install construct`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import construct  # type: ignore[import-untyped] # it ships no types
import fastcrc
import orjson

from edge_gateway.clock import rfc3339
from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.records import Reading, Value, record

Values: TypeAlias = dict[str, Value]
Decoded: TypeAlias = list[tuple[int, Values]]
"""Address and values of each frame that was taken."""

_TIME_NS = 1_780_000_000_000_000_000
_DEVICES = {address: f"sensor-{address}" for address in range(1, 21)}
_PROFILE = "reference-climate"
_CONSTRUCT_SHARE = 0.1
"""It is given fewer frames, or most of the time would be its own."""

_crc16 = fastcrc.crc16.ibm_3740


# --- the three -------------------------------------------------------------------------------------------------------

_codec = compile_profile(load_profile(_PROFILE))


def gateway_values(frames: Sequence[bytes]) -> Any:
    """The compiled profile."""
    return _codec.decode(frames).samples


def gateway_json(frames: Sequence[bytes]) -> bytes:
    """The compiled profile, to JSON."""
    return orjson.dumps([sample.values for sample in _codec.decode(frames).samples])


def gateway_records(frames: Sequence[bytes]) -> bytes:
    """The compiled profile, and what `pipeline.py` and `buffer/store.py` make of its samples."""
    readings = [
        record(Reading, (_DEVICES[address], _PROFILE, _TIME_NS, values, True))
        for address, _, values in _codec.decode(frames).samples
        if address in _DEVICES
    ]
    time_text = rfc3339(_TIME_NS)
    return orjson.dumps(
        [
            {"device": reading.device, "profile": reading.profile, "time": time_text, "values": reading.values}
            for reading in readings
        ]
    )


_unpack = struct.Struct("<BHHIhHHBH").unpack
_MODES = ("idle", "measure", "fault", "3")


def by_hand_values(frames: Sequence[bytes]) -> Decoded:
    """What one would write for this one sensor."""
    decoded: Decoded = []
    for frame in frames:
        if len(frame) != 18 or frame[0] != 0x01:
            continue
        _, address, _, uptime_ms, temperature, humidity, battery, flags, crc = _unpack(frame)
        if _crc16(frame[:16]) != crc:
            continue
        decoded.append(
            (
                address,
                {
                    "uptime_ms": uptime_ms,
                    "temperature": None if temperature == -32768 else temperature / 100,
                    "humidity": None if humidity == 65535 else humidity / 100,
                    "battery": battery / 1000,
                    "door_open": flags & 1 != 0,
                    "low_battery": flags & 2 != 0,
                    "mode": _MODES[flags >> 2 & 3],
                },
            )
        )
    return decoded


def by_hand_json(frames: Sequence[bytes]) -> bytes:
    """The same, to JSON."""
    return orjson.dumps([values for _, values in by_hand_values(frames)])


def by_hand_records(frames: Sequence[bytes]) -> bytes:
    """The same, to records without a tuple between."""
    time_text = rfc3339(_TIME_NS)
    return orjson.dumps(
        [
            {"device": _DEVICES[address], "profile": _PROFILE, "time": time_text, "values": values}
            for address, values in by_hand_values(frames)
            if address in _DEVICES
        ]
    )


def _scaled(kind: Any, divisor: int, no_value: int | None = None) -> Any:
    return construct.ExprAdapter(
        kind,
        lambda raw, _: None if raw == no_value else raw / divisor,
        lambda value, _: no_value if value is None else round(value * divisor),
    )


_construct = construct.Struct(
    "body"
    / construct.RawCopy(
        construct.Struct(
            "kind" / construct.Const(b"\x01"),
            "address" / construct.Int16ul,
            "sequence" / construct.Int16ul,
            "uptime_ms" / construct.Int32ul,
            "temperature" / _scaled(construct.Int16sl, 100, -32768),
            "humidity" / _scaled(construct.Int16ul, 100, 65535),
            "battery" / _scaled(construct.Int16ul, 1000),
            "flags"
            / construct.BitStruct(
                construct.Padding(4),
                "mode" / construct.Mapping(construct.BitsInteger(2), {name: code for code, name in enumerate(_MODES)}),
                "low_battery" / construct.Flag,
                "door_open" / construct.Flag,
            ),
        )
    ),
    "crc" / construct.Checksum(construct.Int16ul, _crc16, construct.this.body.data),
    construct.Terminated,
)


def construct_values(frames: Sequence[bytes]) -> Decoded:
    """A declaration that is interpreted for every frame."""
    decoded: Decoded = []
    for frame in frames:
        try:
            body = _construct.parse(frame).body.value
        except construct.ConstructError:
            continue
        flags = body.flags
        decoded.append(
            (
                body.address,
                {
                    "uptime_ms": body.uptime_ms,
                    "temperature": body.temperature,
                    "humidity": body.humidity,
                    "battery": body.battery,
                    "door_open": flags.door_open,
                    "low_battery": flags.low_battery,
                    "mode": flags.mode,
                },
            )
        )
    return decoded


def construct_json(frames: Sequence[bytes]) -> bytes:
    """The same, to JSON."""
    return orjson.dumps([values for _, values in construct_values(frames)])


def construct_records(frames: Sequence[bytes]) -> bytes:
    """The same, to records."""
    time_text = rfc3339(_TIME_NS)
    return orjson.dumps(
        [
            {"device": _DEVICES[address], "profile": _PROFILE, "time": time_text, "values": values}
            for address, values in construct_values(frames)
            if address in _DEVICES
        ]
    )


class Contestant(NamedTuple):
    """One that is measured."""

    name: str
    ways: dict[str, Callable[[Sequence[bytes]], Any]]
    """By table."""
    share: float = 1.0
    """Of the frames."""


GATEWAY = Contestant("gateway", {"records": gateway_records, "json": gateway_json, "values": gateway_values})
BY_HAND = Contestant("by-hand", {"records": by_hand_records, "json": by_hand_json, "values": by_hand_values})
CONSTRUCT = Contestant(
    "construct",
    {"records": construct_records, "json": construct_json, "values": construct_values},
    _CONSTRUCT_SHARE,
)
CONTESTANTS = (GATEWAY, BY_HAND, CONSTRUCT)
TABLES = {"records": "bytes to records", "json": "bytes to JSON", "values": "bytes to values"}


# --- measuring -------------------------------------------------------------------------------------------------------


def make_frames(count: int, rng: random.Random) -> list[bytes]:
    """So many reference frames, all different; of the temperatures one in fifty is no value."""
    frames = []
    for number in range(count):
        body = struct.pack(
            "<BHHIhHHB",
            0x01,
            rng.randint(1, len(_DEVICES)),
            number & 0xFFFF,
            number * 100,
            -32768 if rng.random() < 0.02 else rng.randint(-4_000, 8_500),
            rng.randint(0, 10_000),
            rng.randint(2_400, 3_300),
            rng.randrange(16),
        )
        frames.append(body + struct.pack("<H", _crc16(body)))
    return frames


def verify(frames: Sequence[bytes]) -> None:
    """Stop unless all three give the same JSON and refuse the same damage."""
    damaged = frames[0][:-1] + bytes([frames[0][-1] ^ 1])
    cut = frames[1][:-1]
    given = [*frames[:1000], damaged, cut, b""]
    for way in ("records", "json"):
        expected = BY_HAND.ways[way](given)
        if len(orjson.loads(expected)) != len(frames[:1000]):
            raise SystemExit("the hand-written decoder takes damaged frames or loses sound ones")
        for contestant in CONTESTANTS:
            if contestant.ways[way](given) != expected:
                raise SystemExit(f"{contestant.name} gives other {way} than the hand-written decoder")


def frames_per_s(work: Callable[[Sequence[bytes]], Any], batches: Sequence[Sequence[bytes]]) -> float:
    """One turn. The garbage collector rests, as its turns would fall on whom they may."""
    gc.collect()
    gc.disable()
    try:
        began_s = time.perf_counter()
        for batch in batches:
            work(batch)
        elapsed_s = time.perf_counter() - began_s
    finally:
        gc.enable()
    return sum(map(len, batches)) / elapsed_s


def measure(batches: Sequence[Sequence[bytes]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Frames/s of every round, by table and contestant; each round turns the order around."""
    results: dict[str, dict[str, list[float]]] = {
        table: {contestant.name: [] for contestant in CONTESTANTS} for table in TABLES
    }
    for number in range(rounds):
        for contestant in CONTESTANTS if number % 2 == 0 else CONTESTANTS[::-1]:
            share = batches[: max(1, int(len(batches) * contestant.share))]
            for table in TABLES:
                results[table][contestant.name].append(frames_per_s(contestant.ways[table], share))
    return results


# --- the result ------------------------------------------------------------------------------------------------------

_LEAST_RATIO = 0.7
_LEAST_FRAMES_PER_S = 150_000


def report(results: dict[str, dict[str, list[float]]], batch_frames: int) -> dict[str, Any]:
    """Print the tables, and return the same as a JSON document with every round in it."""
    rounds = len(results["records"][GATEWAY.name])
    medians = {
        table: {name: statistics.median(each) for name, each in by_name.items()} for table, by_name in results.items()
    }
    for table, title in TABLES.items():
        print(f"\n{title}, frames/s; median of {rounds} rounds, batches of {batch_frames}")
        print(f"{'':<12}{'median':>12}{'least':>12}{'most':>12}{'of by hand':>12}")
        for name, each in results[table].items():
            ratio = medians[table][name] / medians[table][BY_HAND.name]
            print(f"{name:<12}{medians[table][name]:>12,.0f}{min(each):>12,.0f}{max(each):>12,.0f}{ratio:>12.0%}")
    goals: list[dict[str, Any]] = []
    for table in ("records", "json"):
        # Ratios of neighbours in time: a busy moment touches both.
        turns = zip(results[table][GATEWAY.name], results[table][BY_HAND.name], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in turns)
        goals.append(
            {"goal": f"{TABLES[table]}: >= {_LEAST_RATIO:.0%} of by hand", "figure": ratio}
            | {"met": ratio >= _LEAST_RATIO}
        )
    slowest = medians["records"][GATEWAY.name]
    goals.append(
        {"goal": f"bytes to records: > {_LEAST_FRAMES_PER_S:,} frames/s on an idle core", "figure": slowest}
        | {"met": slowest > _LEAST_FRAMES_PER_S}
    )
    print()
    for goal in goals:
        figure = f"{goal['figure']:,.2f}" if goal["figure"] < 100 else f"{goal['figure']:,.0f}"
        print(f"{goal['goal']:<56}{figure:>12}  {'pass' if goal['met'] else 'FAIL'}")
    load = os.getloadavg()[0]
    print(f"load of the machine over the last minute: {load:.1f} on {os.cpu_count()} cores")
    return {
        "medians": medians,
        "rounds": results,
        "goals": goals,
        "machine": {
            "cores": os.cpu_count(),
            "load_1_min": load,
            "kernel": os.uname().release,
            "python": sys.version.split()[0],
        },
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=100_000, help="in each turn; construct takes a tenth")
    parser.add_argument("--batch", type=int, default=200, help="frames handed over at once")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each")
    parser.add_argument("--quick", action="store_true", help="three short rounds, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result, with every round, to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.frames, arguments.rounds = 10_000, 3
    frames = make_frames(arguments.frames, random.Random(1))
    verify(frames)
    batches = [frames[start : start + arguments.batch] for start in range(0, len(frames), arguments.batch)]
    result = report(measure(batches, arguments.rounds), arguments.batch)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
