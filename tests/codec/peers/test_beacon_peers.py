"""RuuviTag, Ruuvi Air, Eddystone and iBeacon against ruuvitag-sensor and beacontools, on random payloads.

Both get the same bytes, and have to say the same, in the peer's units. These differences are known:

| What | Here | Peer | Why |
| --- | --- | --- | --- |
| Ruuvi temperature, humidity | in full, 0.005 and 0.0025 | rounded to 0.01 | ruuvitag-sensor's own choice |
| Ruuvi acceleration, one axis not available | the two others | none of them | each axis has its own code for that |
| Ruuvi movements 255 | null | 255 | the specification says "not available" |
| Ruuvi sequence, all bits set | that number | None | a frame counter here, and no value |
| Eddystone uptime | seconds, from 0.1 s | the count, named seconds | the specification says 0.1 s |
| Eddystone temperature below zero | signed | unsigned | the specification says signed 8.8 |
| Eddystone sealed TLM: salt and check | big-endian | little-endian | the specification is big-endian everywhere |
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.records import Sample
from tests.codec.peers.advertisements import differences, heard, peer, said, values_of

ruuvi = peer("ruuvitag_sensor.decoder")
beacontools = peer("beacontools")

RUUVI, APPLE, EDDYSTONE = 0x0499, 0x004C, 0xFEAA
STANDARD_GRAVITY = 9.80665

RUUVITAG = compile_profile(load_profile("ruuvitag"))
RUUVI_AIR = compile_profile(load_profile("ruuvi-air"))
EDDYSTONE_CODEC = compile_profile(load_profile("eddystone"))
IBEACON = compile_profile(load_profile("ibeacon"))

ROUNDED = {"temperature": 0.00501, "humidity": 0.00501}


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _tag_told_by_peer(told: dict[str, Any]) -> dict[str, Any]:
    """The values of formats 3 and 5 with our names and units."""
    return {
        "temperature": told["temperature"],
        "humidity": told["humidity"],
        "pressure": _scaled(told["pressure"], 100),
        "battery": _scaled(told["battery"], 0.001),
        **{f"acceleration_{axis}": _scaled(told[f"acceleration_{axis}"], STANDARD_GRAVITY / 1000) for axis in "xyz"},
    }


def _air_told_by_peer(told: dict[str, Any]) -> dict[str, Any]:
    """The values of formats 6 and E1 with our names and units."""
    names = {
        "temperature": "temperature",
        "humidity": "humidity",
        "pm_1": "pm1_0",
        "pm_2_5": "pm2_5",
        "pm_4": "pm4_0",
        "pm_10": "pm10",
        "co2": "co2",
        "voc": "voc_index",
        "nox": "nox_index",
        "luminosity": "illuminance",
        "calibration_in_progress": "calibrating",
    }
    ours = {names[key]: value for key, value in told.items() if key in names}
    return ours | {"pressure": _scaled(told["pressure"], 100)}


def _blank_axes(values: dict[str, Any]) -> dict[str, Any]:
    """All axes null if one is, as the peer has it."""
    axes = [f"acceleration_{axis}" for axis in "xyz"]
    return values | dict.fromkeys(axes) if any(values[axis] is None for axis in axes) else values


@given(st.binary(min_size=23, max_size=23) | st.just(b"\x80\x00" + 4 * b"\xff" + 3 * b"\x80\x00" + 11 * b"\xff"))
def test_ruuvitag_format_5(payload: bytes) -> None:
    """Format 5 means here what it means to ruuvitag-sensor."""
    data = b"\x05" + payload
    sample = said(RUUVITAG, heard(RUUVI, data))
    assert isinstance(sample, Sample)
    told = ruuvi.get_decoder(5).decode_data(data.hex())
    movements = None if told["movement_counter"] == 255 else told["movement_counter"]
    theirs = _tag_told_by_peer(told) | {"tx_power": told["tx_power"], "movements": movements}
    assert differences(_blank_axes(dict(sample.values)), theirs, ROUNDED) == {}
    assert sample.sequence == (
        65535 if told["measurement_sequence_number"] is None else told["measurement_sequence_number"]
    )


@given(st.binary(min_size=13, max_size=13), st.sampled_from([b"", bytes(4)]))
def test_ruuvitag_format_3(payload: bytes, padding: bytes) -> None:
    """Format 3, with and without the zeros of old firmware, means here what it means to ruuvitag-sensor."""
    data = b"\x03" + payload + padding
    ours = values_of(RUUVITAG, heard(RUUVI, data))
    theirs = _tag_told_by_peer(ruuvi.get_decoder(3).decode_data(data.hex()))
    assert differences(ours, theirs, ROUNDED) == {}


@given(st.binary(min_size=19, max_size=19) | st.just(b"\x80\x00" + 17 * b"\xff"))
def test_ruuvi_air_format_6(payload: bytes) -> None:
    """Format 6 means here what it means to ruuvitag-sensor."""
    data = b"\x06" + payload
    sample = said(RUUVI_AIR, heard(RUUVI, data))
    assert isinstance(sample, Sample)
    told = ruuvi.get_decoder(6).decode_data(data.hex())
    assert differences(sample.values, _air_told_by_peer(told), ROUNDED) == {}
    assert sample.sequence == told["measurement_sequence_number"]


@given(st.binary(min_size=39, max_size=39) | st.just(b"\x80\x00" + 37 * b"\xff"))
def test_ruuvi_air_format_e1(payload: bytes) -> None:
    """Format E1 means here what it means to ruuvitag-sensor."""
    data = b"\xe1" + payload
    sample = said(RUUVI_AIR, heard(RUUVI, data))
    assert isinstance(sample, Sample)
    told = ruuvi.get_decoder("E1").decode_data(data.hex())
    assert differences(sample.values, _air_told_by_peer(told), ROUNDED) == {}
    assert sample.sequence == payload[26]


def _advertised(ad_type: int, number: int, data: bytes) -> Any:
    """What beacontools makes of an advertisement with one structure."""
    body = bytes([ad_type]) + number.to_bytes(2, "little") + data
    return beacontools.parse_packet(bytes([len(body)]) + body)


@given(st.binary(min_size=21, max_size=21))
def test_ibeacon(payload: bytes) -> None:
    """An iBeacon is the same place here and to beacontools."""
    data = b"\x02\x15" + payload
    theirs = _advertised(0xFF, APPLE, data)
    assert values_of(IBEACON, heard(APPLE, data)) == {
        "uuid": theirs.uuid,
        "major": theirs.major,
        "minor": theirs.minor,
        "power_at_1m": theirs.tx_power,
    }


@given(st.integers(-100, 20), st.binary(min_size=16, max_size=16), st.sampled_from([b"", bytes(2)]))
def test_eddystone_uid(power_dbm: int, identifier: bytes, reserved: bytes) -> None:
    """A beacon's name is the same here and to beacontools, with and without the reserved bytes."""
    data = b"\x00" + power_dbm.to_bytes(1, "big", signed=True) + identifier + reserved
    theirs = _advertised(0x16, EDDYSTONE, data)
    assert values_of(EDDYSTONE_CODEC, heard(EDDYSTONE, data)) == {
        "power_at_0m": theirs.tx_power,
        "namespace": theirs.namespace,
        "instance": theirs.instance,
    }


URL_CHARACTERS = st.integers(0, 13) | st.integers(0x21, 0x7E)


@given(st.integers(0, 3), st.lists(URL_CHARACTERS, min_size=1, max_size=17).map(bytes))
def test_eddystone_url(scheme: int, url: bytes) -> None:
    """A beacon's page has the same address here and to beacontools, all its short forms written out."""
    data = bytes([0x10, 0xEE, scheme]) + url
    ours = values_of(EDDYSTONE_CODEC, heard(EDDYSTONE, data))
    assert ours["scheme"] + ours["url"] == _advertised(0x16, EDDYSTONE, data).url


@given(st.integers(1, 65535), st.integers(0, 32767), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_eddystone_tlm(voltage_mv: int, temperature: int, count: int, uptime: int) -> None:
    """A beacon's state is the same here and to beacontools, from 0 Cel on."""
    body = voltage_mv.to_bytes(2, "big") + temperature.to_bytes(2, "big") + count.to_bytes(4, "big")
    data = b"\x20\x00" + body + uptime.to_bytes(4, "big")
    theirs = _advertised(0x16, EDDYSTONE, data)
    told = {
        "battery": theirs.voltage / 1000,
        "temperature": theirs.temperature,
        "advertisements": theirs.advertising_count,
        "uptime": theirs.seconds_since_boot / 10,
    }
    ours = values_of(EDDYSTONE_CODEC, heard(EDDYSTONE, data))
    assert differences(ours, told) == {}


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=2, max_size=2), st.binary(min_size=2, max_size=2))
def test_eddystone_sealed_tlm(sealed: bytes, salt: bytes, check: bytes) -> None:
    """What is sealed is left as it is here and by beacontools."""
    data = b"\x20\x01" + sealed + salt + check
    theirs = _advertised(0x16, EDDYSTONE, data)
    assert values_of(EDDYSTONE_CODEC, heard(EDDYSTONE, data)) == {
        "sealed": theirs.encrypted_data.hex(),
        "salt": int.from_bytes(theirs.salt.to_bytes(2, "little"), "big"),
        "check": int.from_bytes(theirs.mic.to_bytes(2, "little"), "big"),
    }


@given(st.integers(-100, 20), st.binary(min_size=8, max_size=8))
def test_eddystone_eid(power_dbm: int, ephemeral_id: bytes) -> None:
    """A passing name is the same here and to beacontools."""
    data = b"\x30" + power_dbm.to_bytes(1, "big", signed=True) + ephemeral_id
    theirs = _advertised(0x16, EDDYSTONE, data)
    ours = values_of(EDDYSTONE_CODEC, heard(EDDYSTONE, data))
    assert ours == {"power_at_0m": theirs.tx_power, "ephemeral_id": theirs.eid.hex()}


@pytest.mark.parametrize(
    ("codec", "frame_name", "number", "head", "size_bytes"),
    [
        pytest.param(RUUVITAG, "rawv2", RUUVI, b"\x05", 23, id="ruuvitag"),
        pytest.param(IBEACON, "beacon", APPLE, b"\x02\x15", 21, id="ibeacon"),
        pytest.param(EDDYSTONE_CODEC, "uid", EDDYSTONE, b"\x00", 19, id="uid"),
        pytest.param(EDDYSTONE_CODEC, "tlm", EDDYSTONE, b"\x20\x00", 12, id="tlm"),
        pytest.param(EDDYSTONE_CODEC, "tlm-encrypted", EDDYSTONE, b"\x20\x01", 16, id="tlm-encrypted"),
        pytest.param(EDDYSTONE_CODEC, "eid", EDDYSTONE, b"\x30", 9, id="eid"),
    ],
)
@given(st.data())
def test_what_is_read_can_be_sent(
    codec: Codec, frame_name: str, number: int, head: bytes, size_bytes: int, data: st.DataObject
) -> None:
    """The values of any payload are sent as a frame that is read the same."""
    payload = data.draw(st.binary(min_size=size_bytes, max_size=size_bytes))
    sample = said(codec, heard(number, head + payload))
    assert isinstance(sample, Sample)
    assert said(codec, codec.encode(frame_name, sample.address, sample.sequence, sample.values)) == sample


@given(st.sampled_from([RUUVITAG, RUUVI_AIR, EDDYSTONE_CODEC, IBEACON]), st.binary(max_size=60))
def test_any_bytes_are_values_or_a_reject(codec: Codec, frame: bytes) -> None:
    """Whatever is heard, the codec answers with a sample or a reason, and never raises."""
    said(codec, frame)
