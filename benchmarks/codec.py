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

Frames of no fixed length have a table of their own, gateway against by hand, to JSON: BTHome's tagged items, and a
heart rate whose flags say what follows. Both decoders know all that the frames carry and check all lengths; the one by
hand knows a dozen of BTHome's kinds of items, the gateway all of them.

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
    """The compiled profile, and what `pipeline.py` and `buffer/documents.py` make of its samples."""
    readings = [
        record(Reading, (_DEVICES[address], _PROFILE, _TIME_NS, values, True, None))
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


# --- frames of no fixed length ---------------------------------------------------------------------------------------

_tagged = compile_profile(load_profile("bthome-v2"))
_conditional = compile_profile(load_profile("gatt-sensors"))
_SENDER = bytes.fromhex("a1b2c3d4e5f6")
_OBJECTS = {
    0x00: ("packet_id", 1, False, 1),
    0x01: ("battery", 1, False, 1),
    0x02: ("temperature", 2, True, 100),
    0x03: ("humidity", 2, False, 100),
    0x04: ("pressure", 3, False, 100),
    0x05: ("illuminance", 3, False, 100),
    0x08: ("dew_point", 2, True, 100),
    0x0A: ("energy", 3, False, 1000),
    0x0B: ("power", 3, False, 100),
    0x0C: ("voltage", 2, False, 1000),
    0x12: ("co2", 2, False, 1),
    0x43: ("current", 2, False, 1000),
}
"""Name, bytes, whether it has a sign, and divisor of some of BTHome's objects."""


def gateway_tagged(frames: Sequence[bytes]) -> bytes:
    """BTHome by its profile."""
    return orjson.dumps([sample.values for sample in _tagged.decode(frames).samples])


def by_hand_tagged(frames: Sequence[bytes]) -> bytes:
    """BTHome by a table of its objects."""
    decoded = []
    for frame in frames:
        end = len(frame)
        if end < 9 or frame[6:8] != b"\xd2\xfc" or frame[8] >> 5 != 2 or frame[8] & 3:
            continue
        values: Values = {"trigger_based": frame[8] & 4 != 0}
        at = 9
        while at < end:
            known = _OBJECTS.get(frame[at])
            if known is None:
                break
            name, size_bytes, is_signed, divisor = known
            start, at = at + 1, at + 1 + size_bytes
            if at > end:
                break
            raw = int.from_bytes(frame[start:at], "little", signed=is_signed)
            if name in values:
                count = 2
                while f"{name}_{count}" in values:
                    count += 1
                name = f"{name}_{count}"
            values[name] = raw if divisor == 1 else raw / divisor
        values.pop("packet_id", None)
        decoded.append(values)
    return orjson.dumps(decoded)


def gateway_conditional(frames: Sequence[bytes]) -> bytes:
    """A heart rate by the profile of all standard characteristics."""
    return orjson.dumps([sample.values for sample in _conditional.decode(frames).samples])


_u16 = struct.Struct("<H").unpack_from


def by_hand_conditional(frames: Sequence[bytes]) -> bytes:
    """A heart rate, and nothing else."""
    decoded = []
    for frame in frames:
        end = len(frame)
        if end < 10 or frame[6:8] != b"\x37\x2a":
            continue
        flags = frame[8]
        values: Values = {}
        if flags & 1:
            if end < 11:
                continue
            (values["heart_rate"],), at = _u16(frame, 9), 11
        else:
            values["heart_rate"], at = frame[9], 10
        values["contact"] = flags & 2 != 0 if flags & 4 else None
        if flags & 8:
            if at + 2 > end:
                continue
            values["energy_expended"], at = _u16(frame, at)[0] * 1000, at + 2
        if flags & 16:
            if (end - at) % 2:
                continue
            intervals = struct.unpack(f"<{(end - at) // 2}H", frame[at:])
            values["beat_intervals"], at = [interval / 1024 for interval in intervals], end
        if at == end:
            decoded.append(values)
    return orjson.dumps(decoded)


class Planned(NamedTuple):
    """A kind of frame of no fixed length, and the two that read it."""

    make: Callable[[random.Random], bytes]
    gateway: Callable[[Sequence[bytes]], bytes]
    by_hand: Callable[[Sequence[bytes]], bytes]


def make_tagged(rng: random.Random) -> bytes:
    """A thermometer's advertisement: packet, battery, temperature, humidity, voltage."""
    packet, battery, values = rng.randbytes(1), rng.randbytes(1), rng.randbytes(6)
    objects = b"\0" + packet + b"\1" + battery + b"\2" + values[:2] + b"\3" + values[2:4] + b"\x0c" + values[4:]
    return _SENDER + b"\xd2\xfc\x40" + objects


def make_conditional(rng: random.Random) -> bytes:
    """A chest strap's notification: rate, contact, and one to three intervals."""
    return _SENDER + b"\x37\x2a\x16" + rng.randbytes(1 + 2 * rng.randint(1, 3))


PLANNED = {
    "tagged items": Planned(make_tagged, gateway_tagged, by_hand_tagged),
    "by conditions": Planned(make_conditional, gateway_conditional, by_hand_conditional),
}


def measure_planned(count: int, batch_frames: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Frames/s of gateway and by hand, of every round; both give the same JSON, of damaged frames too."""
    results: dict[str, list[tuple[float, float]]] = {}
    for name, planned in PLANNED.items():
        rng = random.Random(1)
        frames = [planned.make(rng) for _ in range(count)]
        given = [*frames[:1000], *(frame[: rng.randint(0, len(frame))] for frame in frames[:1000])]
        if planned.gateway(given) != planned.by_hand(given):
            raise SystemExit(f"{name}: gateway and hand-written decoder differ")
        batches = [frames[start : start + batch_frames] for start in range(0, len(frames), batch_frames)]
        results[name] = [
            (frames_per_s(planned.gateway, batches), frames_per_s(planned.by_hand, batches)) for _ in range(rounds)
        ]
    return results


def report_planned(results: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table."""
    print("\nframes of no fixed length, bytes to JSON, frames/s")
    print(f"{'':<16}{'gateway':>12}{'by hand':>12}{'of by hand':>12}")
    for name, turns in results.items():
        ours, theirs = (statistics.median(each) for each in zip(*turns, strict=True))
        ratio = statistics.median(our / their for our, their in turns)
        print(f"{name:<16}{ours:>12,.0f}{theirs:>12,.0f}{ratio:>12.0%}")


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
    result["planned"] = measure_planned(arguments.frames, arguments.batch, arguments.rounds)
    report_planned(result["planned"])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
