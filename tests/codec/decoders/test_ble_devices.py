"""A hundred Bluetooth devices by the parsers of others: what their tests say holds, and no frame does harm."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.decoders.ble_devices import BRANDS, BleDevices
from edge_gateway.codec.decoders.ble_values import VALUES, in_senml
from edge_gateway.codec.door import Door
from edge_gateway.codec.profile import DecoderVector
from edge_gateway.codec.units import SENML_UNITS
from edge_gateway.errors import CodecError, ProfileError
from edge_gateway.records import Reject, Sample
from tests.log_events import log_events

if find_spec("bluetooth_sensor_state_data") is None:
    pytest.skip("needs the extra ble-devices", allow_module_level=True)

PROFILE = load_profile("ble-devices")
VECTORS = [vector for vector in PROFILE.vectors if isinstance(vector, DecoderVector)]
MODELS = {vector.samples[0].values["model"] for vector in VECTORS}

DECLARED = {"H5072", "H5074", "H5075", "H5179", "IBS-TH", "IBS-TH2/P01B", "TP357", "TP358", "M1015", "M1017"}
"""Models of the same brands that a profile of ours declares."""

ADDRESS = bytes.fromhex("a4c138000001")
GOVEE_H5100 = bytes.fromhex("c435333377380d09475648353130305f37373338030388ec09ff0100010103465464")


@pytest.fixture(scope="module")
def decoder() -> BleDevices:
    return BleDevices({})


def test_many_more_devices_are_read_than_declared() -> None:
    """The vectors show more than fifty models of nearly every brand that no profile declares."""
    assert len(MODELS - DECLARED) > 50
    assert MODELS.isdisjoint(DECLARED)


def test_every_brand_is_installed_by_the_extra() -> None:
    """A brand that has no parser where the extra is installed is a mistake in its name."""
    decoder = BleDevices({"brands": list(BRANDS)})
    assert len(decoder._parsers) == len(BRANDS)


def test_every_value_of_the_vectors_is_known_by_name() -> None:
    """Rules can name each value the vectors show."""
    assert {name for vector in VECTORS for sample in vector.samples for name in sample.values} <= set(VALUES)
    assert {unit for unit in VALUES.values() if unit is not None} <= SENML_UNITS
    assert compile_profile(PROFILE).value_names == frozenset(VALUES)


def test_a_frame_means_the_same_whatever_came_before(decoder: BleDevices) -> None:
    """In any order and any number of times, a frame gives the same values: nothing is remembered."""
    frames = [vector.frame_bytes for vector in VECTORS]
    once = decoder.decode(frames)
    again = decoder.decode([*reversed(frames), *frames])
    assert again.samples == [*reversed(once.samples), *once.samples]


def test_the_senders_address_is_the_devices(decoder: BleDevices) -> None:
    """The first six bytes are the address, in the order in which they are printed."""
    (sample,) = decoder.decode([GOVEE_H5100]).samples
    assert sample == Sample(
        "c4:35:33:33:77:38", None, {"temperature": 21.4, "humidity": 61.2, "battery": 100, "model": "H5100"}
    )


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "length"),
        (ADDRESS, "length"),
        (ADDRESS + b"\x02\x01\x06", "unknown-frame"),
        (ADDRESS + b"\x05\xff\x4c\x00\x10\x05", "unknown-frame"),
    ],
)
def test_what_no_parser_knows_is_rejected(decoder: BleDevices, frame: bytes, reason: str) -> None:
    """Phones and the rest of the neighbourhood are counted, and no values."""
    assert decoder.decode([frame]).rejects == [Reject(frame, reason)]


def test_only_the_brands_asked_for_are_heard() -> None:
    """With `brands`, the frame of another brand is unknown."""
    assert BleDevices({"brands": ["govee"]}).decode([GOVEE_H5100]).samples
    assert BleDevices({"brands": ["oral-b", "tilt"]}).decode([GOVEE_H5100]).rejects


@pytest.mark.parametrize(
    ("options", "where"), [({"brand": "govee"}, "brand"), ({"brands": ["acme"]}, "brands"), ({"brands": []}, "brands")]
)
def test_a_wrong_option_is_named(options: dict[str, object], where: str) -> None:
    """An option or a brand that is none is an error that lists what there is."""
    with pytest.raises(CodecError) as caught:
        BleDevices(options)
    assert caught.value.where == where
    assert "rands" in caught.value.remedy


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no parser is installed, the profile does not compile, and the error names the extra."""
    for module, _ in BRANDS.values():
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ProfileError) as caught:
        compile_profile(PROFILE)
    assert str(caught.value).startswith("ble-devices: options: the package with 'bluemaestro_ble' is not installed")
    assert caught.value.remedy == "pip install 'edge-gateway[ble-devices]'"


def test_parsers_that_are_installed_do_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One brand's package alone is enough for that brand."""
    for brand, (module, _) in BRANDS.items():
        if brand != "govee":
            monkeypatch.setitem(sys.modules, module, None)
    assert BleDevices({}).decode([GOVEE_H5100]).samples


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (21.5, "°C", 21.5),
        (212, "°F", 100.0),
        (-40.0, "°F", -40.0),
        (599, "µS/cm", 0.0599),
        (1.25, "mg/m³", 1250.0),
        (1013.2, "mbar", 1013.2),
        (18.927, "L", 0.018927),
        ("error", "°C", None),
        ("idle", None, "idle"),
        (True, None, True),
        (None, "mm", None),
        (7, "parsec", 7),
    ],
)
def test_values_come_in_senml_units(value: object, unit: str | None, told: object) -> None:
    """Fahrenheit is Celsius, a litre a thousandth of a cubic metre, and a word in place of a number null."""
    assert in_senml(value, unit) == told


def test_the_parsers_log_nothing(decoder: BleDevices, caplog: pytest.LogCaptureFixture) -> None:
    """Frames that a parser complains of fill no log."""
    complained_of = bytes.fromhex("c2c7018d00e10a3313fa4200c0fa429af9fa426c54737744f8")
    with caplog.at_level(logging.WARNING):
        decoder.decode([ADDRESS + bytes([len(complained_of) + 1, 0xFF]) + complained_of])
    assert caplog.records == []


@given(st.binary(max_size=70))
def test_no_bytes_come_through_as_an_error(data: bytes) -> None:
    """Any advertising data from any address is a sample or a reject."""
    decoded = Door("ble-devices", BleDevices({})).decode([data])
    assert len(decoded.samples) + len(decoded.rejects) == 1


@given(st.sampled_from(VECTORS), st.data())
def test_no_damaged_frame_comes_through_as_an_error(vector: DecoderVector, data: st.DataObject) -> None:
    """A real frame with some bytes changed or cut off is a sample or a reject, too."""
    frame = bytearray(vector.frame_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with log_events():
        decoded = Door("ble-devices", BleDevices({})).decode([bytes(frame[: data.draw(st.integers(0, len(frame)))])])
    assert len(decoded.samples) + len(decoded.rejects) == 1
