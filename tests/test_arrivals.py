"""What a link knows of its devices' counters and clocks, from the profile's words to the verdict on a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.arrivals import Arrivals
from edge_gateway.clock import NS_PER_S, Stamp
from edge_gateway.codec import Profile, compile_profile, parse_profile
from edge_gateway.errors import ProfileError
from edge_gateway.offload import run_inline
from edge_gateway.records import Value
from edge_gateway.replay_ledger import ReplayLedger

NOW = Stamp(1_790_000_000 * NS_PER_S, True, None)
LOOP_S = 100.0
UNSET = Stamp(7 * NS_PER_S, False, 5 * NS_PER_S)
"""A box that started five seconds ago with a clock at 1970."""

PROBE: dict[str, Any] = {
    "name": "probe",
    "version": 1,
    "title": "A probe",
    "source": {"document": "none"},
    "framing": {"kind": "slip"},
    "identity": "who",
    "sequence": "number",
    "frames": {
        "only": {
            "role": "sample",
            "endian": "big",
            "fields": [
                {"name": "who", "type": "u8"},
                {"name": "number", "type": "u8"},
                {"name": "counter", "type": "u32"},
                {"name": "up", "type": "u16", "scale": 0.01, "unit": "s"},
                {"name": "at", "type": "u32", "epoch": "unix-s"},
                {"name": "silent", "type": "u8", "emit": False},
                {"name": "label", "type": "text", "length_bytes": 2},
                {"name": "twice", "type": "computed", "value": "number * 2"},
            ],
        }
    },
}


def probe(**more: Any) -> Profile:
    return parse_profile(yaml.safe_dump({**PROBE, **more}), "probe.yaml")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counters.json"


def arrivals(profile: Profile, path: Path) -> Arrivals:
    return Arrivals("air", profile, ReplayLedger(path, run_inline))


def test_counters_are_judged_by_device(path: Path) -> None:
    """Each device has its own numbers, and a sample without the counter is taken."""
    link = arrivals(probe(replay=[{"counter": "counter"}]), path)
    told = [link.refusal(who, None, {"counter": count}) for who, count in [(1, 5), (2, 5), (1, 5), (1, 4), (2, 6)]]
    assert told == ["", "", "repeated", "replayed", ""]
    assert link.refusal(1, None, {}) == ""


def test_the_sequence_is_a_counter_too(path: Path) -> None:
    """It is no value, and is judged by its own width, a byte."""
    link = arrivals(probe(replay=[{"counter": "number", "policy": "repeats"}]), path)
    assert [link.refusal(1, number, {}) for number in (255, 255, 0, 7, 3)] == ["", "repeated", "", "", ""]


def test_a_sample_has_to_pass_all_counters(path: Path) -> None:
    """New by one and old by the other is old."""
    link = arrivals(probe(replay=[{"counter": "counter"}, {"counter": "number", "policy": "repeats"}]), path)
    assert [link.refusal(1, number, {"counter": count}) for number, count in [(1, 1), (1, 2), (2, 2), (2, 3)]] == [
        "",
        "repeated",
        "repeated",
        "",
    ]


async def test_a_taken_counter_is_on_disk_before_its_sample_is_handed_on(path: Path) -> None:
    """Once the link has settled, a restart takes nothing again."""
    profile = probe(replay=[{"counter": "counter"}])
    link = arrivals(profile, path)
    link.refusal(1, None, {"counter": 5})
    assert not path.exists()
    await link.settle(0.0)
    assert arrivals(profile, path).refusal(1, None, {"counter": 5}) == "replayed"


async def test_without_a_ledger_each_run_begins_anew(path: Path) -> None:
    """A capture can be played as often as one likes; within one run its repetitions are found all the same."""
    profile = probe(replay=[{"counter": "counter"}])
    for _ in range(2):
        link = Arrivals("air", profile, None)
        assert [link.refusal(1, None, {"counter": 5}) for _ in range(2)] == ["", "repeated"]
        await link.settle(0.0)
        assert link.fault == ""


def test_an_uptime_is_read_as_its_field_is_declared(path: Path) -> None:
    """16 bits of hundredths of a second: 655.36 is 0 again, and a late frame lies where it was measured."""
    link = arrivals(probe(time={"field": "up", "kind": "uptime"}), path)
    times_ns = [
        link.moment(1, {"up": up}, NOW._replace(time_ns=NOW.time_ns + round(at_s * NS_PER_S)), at_s).time_ns
        for up, at_s in [(655.0, 10.0), (0.64, 14.0), (1.64, 12.0 + 3)]
    ]
    base_s = 1_790_000_000
    assert [round(each / NS_PER_S - base_s, 2) for each in times_ns] == [10.0, 11.0, 12.0]


def test_a_date_is_read_as_its_field_is_declared(path: Path) -> None:
    """Text of an `epoch` field; one that cannot be believed is counted, and its reading marked."""
    link = arrivals(probe(time={"field": "at", "kind": "epoch"}), path)
    assert link.moment(1, {"at": "2026-09-21T14:13:10Z"}, NOW, LOOP_S) == (NOW.time_ns - 10 * NS_PER_S, True, None)
    assert link.moment(1, {"at": "1970-01-01T00:00:10Z"}, NOW, LOOP_S) == (NOW.time_ns, False, None)
    assert link.moment(1, {"at": None}, NOW, LOOP_S) == NOW
    assert link.moment(1, {}, NOW, LOOP_S) == NOW
    assert link.unbelieved == 1


def test_before_the_clock_is_set_an_age_is_taken_from_the_uptime_too(path: Path) -> None:
    """What can be corrected later is the moment of the measurement, even one before the boot."""
    link = arrivals(probe(time={"field": "up", "kind": "age"}), path)
    assert link.moment(1, {"up": 6.0}, UNSET, LOOP_S) == (1 * NS_PER_S, False, -1 * NS_PER_S)
    assert link.moment(1, {}, UNSET, LOOP_S) == UNSET


def test_a_devices_own_date_is_never_corrected_by_the_gateways_clock(path: Path) -> None:
    """Before the clock is set it is kept if it can be true, and marked; if it cannot, nothing is known for good."""
    link = arrivals(probe(time={"field": "at", "kind": "epoch"}), path)
    assert link.moment(1, {"at": "2026-09-21T14:13:20Z"}, UNSET, LOOP_S) == (NOW.time_ns, False, None)
    assert link.moment(1, {"at": "1999-09-21T14:13:20Z"}, UNSET, LOOP_S) == (UNSET.time_ns, False, None)


def test_a_decoded_frame_carries_what_is_judged() -> None:
    """Counter and time are values of the sample, as the decoder gives them."""
    codec = compile_profile(probe(replay=[{"counter": "counter"}], time={"field": "up", "kind": "uptime"}))
    values: dict[str, Value] = {"counter": 77, "up": 1.25, "at": "2026-09-21T14:13:10Z", "label": "ab"}
    (sample,), _, rejects, *_ = codec.decode([codec.encode("only", 1, 9, values)])
    assert not rejects
    assert (sample.sequence, sample.values["counter"], sample.values["up"]) == (9, 77, 1.25)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"replay": [{"counter": "nothing"}]}, r"replay\[0\].counter: 'nothing' is no value of a sample"),
        ({"replay": [{"counter": "silent"}]}, r"replay\[0\].counter: 'silent' is no value of a sample"),
        ({"replay": [{"counter": "who"}]}, r"replay\[0\].counter: 'who' is no value of a sample"),
        ({"replay": [{"counter": "up"}]}, r"replay\[0\].bits: nothing says how wide 'up' is.*or give `bits`"),
        ({"replay": [{"counter": "label"}]}, r"replay\[0\].bits: nothing says how wide 'label' is"),
        ({"replay": [{"counter": "twice"}]}, r"replay\[0\].bits: nothing says how wide 'twice' is"),
        ({"replay": [{"counter": "counter", "policy": "new"}]}, r"replay\[0\].policy: "),
        ({"time": {"field": "nothing", "kind": "age"}}, r"time.field: 'nothing' is no value of a sample"),
        ({"time": {"field": "counter", "kind": "age"}}, r"time.unit: nothing says what 'counter' counts in"),
        ({"time": {"field": "at", "kind": "uptime"}}, r"time.field: 'at' is no number. Only an epoch can be text"),
        ({"time": {"field": "label", "kind": "age"}}, r"time.field: 'label' is no number"),
    ],
)
def test_what_cannot_be_judged_is_refused_at_load(more: dict[str, Any], told: str) -> None:
    """The error names the key of the profile and what would do."""
    with pytest.raises(ProfileError, match=told):
        probe(**more)


def test_a_computed_counter_says_how_wide_it_is(path: Path) -> None:
    """With `bits`, a counter put together from several fields is judged like any other."""
    link = arrivals(probe(replay=[{"counter": "twice", "bits": 8}]), path)
    assert [link.refusal(1, 1, {"twice": count}) for count in (254, 0, 254)] == ["", "", "replayed"]


def test_frames_that_count_differently_are_refused() -> None:
    """One name for milliseconds in one frame and seconds in another is no clock."""
    fields = [{"name": "who", "type": "u8"}, {"name": "up", "type": "u32", "unit": "ms"}]
    other = {"role": "sample", "endian": "big", "fields": fields}
    with pytest.raises(ProfileError, match=r"time.field: 'up' counts differently in different frames"):
        probe(time={"field": "up", "kind": "uptime"}, frames={**PROBE["frames"], "other": other})
