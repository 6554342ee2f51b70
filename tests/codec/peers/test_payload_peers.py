"""Payload formats against other programs: Cayenne LPP as `pycayennelpp` reads it, SenML as `kpn-senml` writes it.

`pycayennelpp` is a second reading of the same bytes. `kpn-senml` stands for a sender: it writes packs with base fields.
Its texts and data fail on Python 3, and its CBOR has another number for the base sum, so it is asked for neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.decoders.senml import SenmlDecoder
from edge_gateway.records import Value
from tests.codec.peers.agreement import Values

# --- Cayenne LPP -----------------------------------------------------------------------------------------------------

NAMES: Mapping[int, tuple[str, tuple[str, ...]]] = {
    0x00: ("digital_input", ()),
    0x01: ("digital_output", ()),
    0x02: ("analog_input", ()),
    0x03: ("analog_output", ()),
    0x64: ("generic", ()),
    0x65: ("illuminance", ()),
    0x66: ("presence", ()),
    0x67: ("temperature", ()),
    0x68: ("humidity", ()),
    0x71: ("acceleration", ("x", "y", "z")),
    0x73: ("pressure", ()),
    0x74: ("voltage", ()),
    0x75: ("current", ()),
    0x76: ("frequency", ()),
    0x78: ("percentage", ()),
    0x79: ("altitude", ()),
    0x7A: ("load", ()),
    0x7D: ("concentration", ()),
    0x80: ("power", ()),
    0x82: ("distance", ()),
    0x83: ("energy", ()),
    0x84: ("direction", ()),
    0x86: ("rotation", ("x", "y", "z")),
    0x87: ("colour", ("red", "green", "blue")),
    0x88: ("position", ("latitude", "longitude", "altitude")),
    0x8E: ("switch", ()),
}
"""What our profile calls the types `pycayennelpp` knows, and their parts. Not its time, which is a number there."""

SIZES_BYTES = (
    dict.fromkeys((0x00, 0x01, 0x66, 0x68, 0x78, 0x8E), 1)
    | dict.fromkeys((0x7A, 0x87), 3)
    | dict.fromkeys((0x64, 0x76, 0x82, 0x83), 4)
    | {0x71: 6, 0x86: 6, 0x88: 9}
)
"""Of a value; two where nothing is said."""


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Payloads of up to six different values."""
    kinds = st.tuples(st.integers(0, 255), st.sampled_from(sorted(NAMES)))
    payload = b""
    for channel, kind in draw(st.lists(kinds, min_size=1, max_size=6, unique=True)):
        size_bytes = SIZES_BYTES.get(kind, 2)
        payload += bytes([channel, kind]) + draw(st.binary(min_size=size_bytes, max_size=size_bytes))
    return payload


def by_pycayennelpp(payload: bytes) -> Values:
    values: dict[str, Value] = {}
    for item in import_module("cayennelpp").LppFrame.from_bytes(payload):
        name, parts = NAMES[int(item.type)]
        numbers: list[float] = list(item.value)
        for part, number in zip(parts or ("",), numbers, strict=True):
            values[f"{name}_{item.channel}.{part}".rstrip(".")] = number
    return values


def flat(values: Values) -> Values:
    """Values with the parts of groups beside the others, as `by_pycayennelpp` has them."""
    parts: dict[str, Value] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            parts |= {f"{name}.{part}": number for part, number in value.items()}
        else:
            parts[name] = value
    return parts


def test_pycayennelpp_reads_the_same() -> None:
    """Of any payload of known types, both find the same values on the same channels, and no others."""
    pytest.importorskip("cayennelpp")
    codec = compile_profile(load_profile("cayenne-lpp"))

    @settings(deadline=None)
    @given(payloads())
    def read(payload: bytes) -> None:
        (sample,) = codec.decode([payload]).samples
        ours, theirs = flat(sample.values), by_pycayennelpp(payload)
        assert set(ours) == set(theirs)
        assert all(math.isclose(number_of(ours[name]), number_of(theirs[name]), abs_tol=1e-9) for name in theirs)

    read()


def number_of(value: Value) -> float:
    assert isinstance(value, (int, float))
    return value


# --- SenML -----------------------------------------------------------------------------------------------------------

finite = st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
measured = st.fixed_dictionaries(
    {"value": finite | st.integers(-1000, 1000) | st.booleans()},
    optional={"unit": st.sampled_from(["Cel", "%RH", "V"])},
)


@st.composite
def devices(draw: st.DrawFn) -> dict[str, Any]:
    """A device's name, base fields and measurements, all at one time."""
    records = draw(st.dictionaries(st.sampled_from(["t", "rh", "u1", "door"]), measured, min_size=1))
    time_s = draw(st.none() | st.integers(2**28, 2**31))
    if time_s is not None:
        records = {name: record | {"time": time_s} for name, record in records.items()}
    return {
        "name": draw(st.sampled_from(["urn:dev:mac:0b92569229fc9e68:", "2001:db8::2/", "d-"])),
        "base_value": draw(st.none() | st.integers(1, 1000)),
        "base_unit": draw(st.none() | st.just("Cel")),
        "records": records,
    }


@pytest.mark.parametrize("kind", ["json", "cbor"])
def test_what_kpn_senml_writes_is_read(kind: str) -> None:
    """Packs another program writes, with base name, unit and value, give back what it was told to say."""
    kpn_senml = pytest.importorskip("kpn_senml")
    decoder = SenmlDecoder({"format": kind})

    @settings(deadline=None)
    @given(devices())
    def read(device: dict[str, Any]) -> None:
        pack = kpn_senml.SenmlPack(device["name"])
        pack.base_value, pack.base_unit = device["base_value"], device["base_unit"]
        for name, record in device["records"].items():
            pack.add(kpn_senml.SenmlRecord(name, **record))
        (sample,) = decoder.decode([pack.to_json().encode() if kind == "json" else pack.to_cbor()]).samples
        assert sample.address == device["name"]
        for name, record in device["records"].items():
            got, told = sample.values[name], record["value"]
            if isinstance(told, bool):
                assert got == told
            else:
                assert math.isclose(number_of(got), told, abs_tol=1e-6)
        units = {name: record.get("unit") or device["base_unit"] for name, record in device["records"].items()}
        assert sample.values.get("units", {}) == {name: unit for name, unit in units.items() if unit}
        assert ("time" in sample.values) == ("time" in next(iter(device["records"].values())))

    read()
