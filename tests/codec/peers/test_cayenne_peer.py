"""Cayenne payloads, read by us and by pycayennelpp.

pycayennelpp refuses a payload that has an unknown type or is cut short; we keep what came before. Whole ones of known
types mean the same to both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.records import Value

from .agreement import is_same, our_values

# Names and sizes in bytes by type.
TYPES: Final[dict[int, tuple[str, int]]] = {
    0: ("digital_input", 1),
    1: ("digital_output", 1),
    2: ("analog_input", 2),
    3: ("analog_output", 2),
    100: ("generic", 4),
    101: ("illuminance", 2),
    102: ("presence", 1),
    103: ("temperature", 2),
    104: ("humidity", 1),
    113: ("acceleration", 6),
    115: ("pressure", 2),
    116: ("voltage", 2),
    117: ("current", 2),
    118: ("frequency", 4),
    120: ("percentage", 1),
    121: ("altitude", 2),
    122: ("load", 3),
    125: ("concentration", 2),
    128: ("power", 2),
    130: ("distance", 4),
    131: ("energy", 4),
    132: ("direction", 2),
    133: ("time", 4),
    134: ("rotation", 6),
    135: ("colour", 3),
    136: ("position", 9),
    142: ("switch", 1),
}
TIME: Final = 133
PARTS: Final = {
    113: ("x", "y", "z"),
    134: ("x", "y", "z"),
    135: ("red", "green", "blue"),
    136: ("latitude", "longitude", "altitude"),
}


@st.composite
def _record(draw: st.DrawFn) -> tuple[int, int, bytes]:
    kind = draw(st.sampled_from(sorted(TYPES)))
    size_bytes = TYPES[kind][1]
    return draw(st.integers(0, 255)), kind, draw(st.binary(min_size=size_bytes, max_size=size_bytes))


_records: Final = st.lists(_record(), max_size=8, unique_by=lambda record: record[:2])


def _payload(records: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(bytes([channel, kind]) + data for channel, kind, data in records)


def _named(kind: int, value: tuple[float, ...]) -> Value:
    """A value of pycayennelpp as we say it: three axes by their names, and a time as text."""
    if kind in PARTS:
        return dict(zip(PARTS[kind], value, strict=True))
    return datetime.fromtimestamp(value[0], UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if kind == TIME else value[0]


@given(_records)
def test_payloads_mean_the_same(records: list[tuple[int, int, bytes]]) -> None:
    """Every record of a payload gives the same value under the same channel."""
    frames = pytest.importorskip("cayennelpp")
    ours = our_values("cayenne-lpp", _payload(records))
    theirs = {
        (item.channel, int(item.type)): _named(int(item.type), item.value)
        for item in frames.LppFrame.from_bytes(_payload(records)).data
    }
    assert len(ours) == len(theirs) == len(records)
    for (channel, kind), expected in theirs.items():
        found = ours[f"{TYPES[kind][0]}_{channel}"]
        if isinstance(expected, dict) and isinstance(found, dict):
            assert found.keys() == expected.keys()
            assert all(is_same(found[name], expected[name]) for name in expected)
        else:
            assert is_same(found, expected)


@given(_records, st.integers(0, 255), st.sampled_from([4, 99, 105, 200, 255]), st.binary(max_size=10))
def test_what_came_before_an_unknown_type_is_kept(
    records: list[tuple[int, int, bytes]], channel: int, unknown: int, rest: bytes
) -> None:
    """A record of a type nobody declared ends the reading, and takes nothing with it."""
    known = our_values("cayenne-lpp", _payload(records))
    assert our_values("cayenne-lpp", _payload(records) + bytes([channel, unknown]) + rest) == known


@given(_record(), st.data())
def test_a_record_cut_short_gives_no_value(record: tuple[int, int, bytes], data: st.DataObject) -> None:
    """A record that is not whole is left out."""
    payload = _payload([record])
    assert our_values("cayenne-lpp", payload[: data.draw(st.integers(1, len(payload) - 1))]) == {}
