"""BTHome against bthome-ble, the reference decoder, on random objects, plain and encrypted.

Both get the same service data. What the peer says is brought to our names and units (`_told_by_peer`), and then both
have to say the same. These differences are known:

| What | Here | bthome-ble | Why |
| --- | --- | --- | --- |
| temperature of object 0x58, in steps of 0.35 | exact | rounded to 0.1 | it counts one digit in `3.5e-01` |
| two units of one name, as in 0x40 and 0x41 | both, one as `_2` | the last | its keys have no unit; left out |
| a second packet id in one frame | a value, `packet_id_2` | drops what follows | no device does; left out |
| text that is not UTF-8 | dropped, with what follows | dropped alone | reading stops where something does not fit |
| text or bytes of length 0 | `""` | the object is dropped | nothing is what the device said; tested below |
| an event of a number nobody defined | the number, as text | no event | a new firmware is seen and not silent |
| an encrypted frame of a wrong key | `decryption` | no values | a reject is counted |
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import assume, example, given
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.records import Sample
from tests.codec.peers.advertisements import ADDRESS, differences, heard, peer, said

parser = peer("bthome_ble.parser")
objects_of_peer = peer("bthome_ble.const").MEAS_TYPES
BluetoothServiceInfo = peer("habluetooth").BluetoothServiceInfoBleak

SERVICE = 0xFCD2
KEY = bytes(range(16))
CODEC_WITHOUT_KEY = compile_profile(load_profile("bthome-v2"))
CODEC = compile_profile(load_profile("bthome-v2"), lambda name, _: KEY if name == "bindkey" else None)

NAMES = {
    "carbon_dioxide": "co2",
    "gyroscope": "gyroscope_deg_per_s",
    "pm25": "pm2_5",
    "rotational_speed": "rotations_per_min",
    "volatile_organic_compounds": "tvoc",
    "volume_flow_rate": "volume_flow_m3_per_h",
}
"""Our names of the peer's numbers, where they differ."""
STATE_NAMES = {
    "battery": "battery_low",
    "gas": "gas_detected",
    "lock": "unlocked",
    "moisture": "wet",
    "plug": "plugged_in",
    "power": "power_on",
    "safety": "safe",
}
"""Our names of the peer's yes-or-no values, where they differ."""
UNITS = {"lb": 0.45359237, "L": 1e-3, "mL": 1e-6, "µS/cm": 1e-4}
"""What one of the peer's units is in ours, where SenML has another one."""
LIGHT_LEVELS = {0: "dark", 1: "twilight", 2: "bright"}
HEADER = ("trigger_based", "encryption_counter")
ONE_OF_EACH = ({0x00}, {0x06, 0x07}, {0x40, 0x41}, {0x47, 0x48, 0x4E}, {0xF0}, {0xF1, 0xF2})
"""Objects of which the peer tells one in a frame; see above."""


def _body_of(number: int) -> st.SearchStrategy[bytes]:
    kind = objects_of_peer[number]
    if number == 0x3A:
        return st.sampled_from([*range(7), 0x80, 0x81]).map(lambda code: bytes([code]))
    if number == 0x3B:
        return st.tuples(st.integers(0, 4), st.binary(max_size=3)).map(
            lambda each: bytes([len(each[1]), each[0], *each[1]])
        )
    if number == 0x3C:
        return st.tuples(st.integers(0, 2), st.integers(0, 255)).map(bytes)
    if number == 0x53:
        return st.text(min_size=1, max_size=12).map(str.encode).map(lambda text: bytes([len(text)]) + text)
    if number == 0x54:
        return st.binary(min_size=1, max_size=12).map(lambda raw: bytes([len(raw)]) + raw)
    if hasattr(kind.meas_format, "native_unit_of_measurement") or kind.meas_format is None:
        return st.binary(min_size=kind.data_length, max_size=kind.data_length)
    return st.sampled_from([b"\x00", b"\x01"])


def _told_once(numbers: list[int]) -> bool:
    return all(sum(number in group for number in numbers) <= 1 for group in ONE_OF_EACH)


@st.composite
def object_lists(draw: st.DrawFn) -> tuple[list[int], bytes]:
    """Numbers of up to eight objects, and these with random bodies."""
    numbers = draw(st.lists(st.sampled_from(sorted(objects_of_peer)), min_size=1, max_size=8).filter(_told_once))
    return numbers, b"".join(bytes([number]) + draw(_body_of(number)) for number in numbers)


def _peer_update(data: bytes, key: bytes | None = None) -> Any:
    uuid = f"0000{SERVICE:04x}-0000-1000-8000-00805f9b34fb"
    info = BluetoothServiceInfo(
        name="sensor",
        address=ADDRESS.upper(),
        rssi=-60,
        manufacturer_data={},
        service_data={uuid: data},
        service_uuids=[uuid],
        source="",
        device=None,
        advertisement=None,
        connectable=False,
        time=0.0,
        tx_power=None,
    )
    device = parser.BTHomeBluetoothDeviceData(key)
    return device.update(info), device.device_type_id


def _numbered(key: str) -> tuple[str, str]:
    """A name and our ending for its number: the peer numbers from `_1`, we from `_2`."""
    name, _, number = key.rpartition("_")
    if not number.isdecimal() or name == "pm":
        return key, ""
    return name, "" if number == "1" else f"_{number}"


def _told_by_peer(data: bytes, key: bytes | None = None) -> tuple[int | None, dict[str, Any]]:
    """The packet id and the values the peer finds in service data, with our names and units."""
    update, device_type = _peer_update(data, key)
    told: dict[str, Any] = {}
    packet_id = None
    for device_key, found in update.entity_values.items():
        name, ending = _numbered(device_key.key)
        value, unit = found.native_value, update.entity_descriptions[device_key].native_unit_of_measurement
        if name == "packet_id":
            packet_id = value
        elif name != "signal_strength":
            if name == "light_level":
                value = LIGHT_LEVELS.get(value, str(value))
            elif name == "distance" and unit == "mm":
                value /= 1000
            elif isinstance(value, datetime):
                value = value.strftime("%Y-%m-%dT%H:%M:%SZ")
            elif isinstance(value, int | float):
                value *= UNITS.get(unit, 1)
            told[NAMES.get(name, name) + ending] = value
    for device_key, found in update.binary_entity_values.items():
        name, ending = _numbered(device_key.key)
        told[STATE_NAMES.get(name, name) + ending] = found.native_value
    for device_key, event in update.events.items():
        name, ending = _numbered(device_key.key)
        told[name + ending] = event.event_type
        for more, value in (event.event_properties or {}).items():
            if value != "":
                told[{"args": "arguments", "steps": "dimmer_steps"}[more] + ending] = value
    if device_type is not None:
        told["device_type"] = device_type
    version = update.devices[None].sw_version if update.devices else None
    if version and not version.startswith("BTHome"):
        told["firmware_version"] = version
    return packet_id, told


def _without_nothing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Our values without what the peer does not tell: the header's, and events that did not happen."""
    told = {name: value for name, value in values.items() if value is not None and name not in HEADER}
    return {name: value for name, value in told.items() if not name.startswith("dimmer_steps") or _turned(name, told)}


def _turned(name: str, told: Mapping[str, Any]) -> bool:
    return name.replace("_steps", "") in told


def _assert_same(sample: Sample | str, data: bytes, numbers: list[int], key: bytes | None = None) -> None:
    assert isinstance(sample, Sample), sample
    packet_id, told = _told_by_peer(data, key)
    assert sample.sequence == packet_id
    rounded = {name: 0.0501 for name in told if name.startswith("temperature")} if 0x58 in numbers else {}
    ours = _without_nothing(sample.values)
    assert differences(ours, told, rounded) == {}


@given(object_lists(), st.booleans())
@example(([0x58], bytes.fromhex("58ea")), False)
def test_plain_objects(objects: tuple[list[int], bytes], trigger_based: bool) -> None:
    """Any objects of the specification, in any order and number, mean here what they mean to the peer."""
    numbers, payload = objects
    data = bytes([0x44 if trigger_based else 0x40]) + payload
    sample = said(CODEC_WITHOUT_KEY, heard(SERVICE, data))
    _assert_same(sample, data, numbers)
    assert isinstance(sample, Sample)
    assert sample.values["trigger_based"] is trigger_based


@given(object_lists(), st.binary(min_size=4, max_size=4))
@example(([0x3B, 0x3B], bytes.fromhex("3b00003b010000")), b"\0\0\0\0")
def test_encrypted_objects(objects: tuple[list[int], bytes], counter: bytes) -> None:
    """What was sealed with a device's key, by the standard's AES-CCM, opens to what the peer opens."""
    numbers, payload = objects
    nonce = bytes.fromhex(ADDRESS.replace(":", "")) + SERVICE.to_bytes(2, "little") + b"\x41" + counter
    sealed = AESCCM(KEY, tag_length=4).encrypt(nonce, payload, None)
    data = b"\x41" + sealed[:-4] + counter + sealed[-4:]
    sample = said(CODEC, heard(SERVICE, data))
    _assert_same(sample, data, numbers, KEY)
    assert isinstance(sample, Sample)
    assert sample.values["encryption_counter"] == int.from_bytes(counter, "little")


@given(object_lists(), st.binary(max_size=6))
def test_the_same_objects_are_left_of_a_cut_frame(objects: tuple[list[int], bytes], rest: bytes) -> None:
    """Behind an unknown number nothing is read, by neither of the two."""
    numbers, payload = objects
    data = b"\x40" + payload + b"\xee" + rest
    _assert_same(said(CODEC_WITHOUT_KEY, heard(SERVICE, data)), data, numbers)


def test_a_cut_object_is_dropped_by_both() -> None:
    """An object that ends too early is dropped, and those before it stay."""
    data = bytes.fromhex("4002ca0903bf")
    _assert_same(said(CODEC_WITHOUT_KEY, heard(SERVICE, data)), data, [0x02])


def test_text_that_is_none_ends_the_frame() -> None:
    """Bytes that are not UTF-8 end the frame here, where the peer drops that object alone."""
    data = bytes.fromhex("4001645301ff0161")
    sample = said(CODEC_WITHOUT_KEY, heard(SERVICE, data))
    assert isinstance(sample, Sample)
    assert sample.values == {"trigger_based": False, "battery": 100}
    assert _told_by_peer(data) == (None, {"battery": 100, "battery_2": 97})


def test_empty_text_is_a_value() -> None:
    """A text of no characters is one here, where the peer drops it."""
    data = bytes.fromhex("4001645300")
    sample = said(CODEC_WITHOUT_KEY, heard(SERVICE, data))
    assert isinstance(sample, Sample)
    assert sample.values == {"trigger_based": False, "battery": 100, "text": ""}
    assert _told_by_peer(data) == (None, {"battery": 100})


@given(object_lists())
def test_what_is_read_can_be_sent(objects: tuple[list[int], bytes]) -> None:
    """The values of any objects, but of a computed firmware version, are sent as objects that are read the same."""
    numbers, payload = objects
    assume(not {0xF1, 0xF2} & {*numbers})
    sample = said(CODEC_WITHOUT_KEY, heard(SERVICE, b"\x40" + payload))
    assert isinstance(sample, Sample)
    again = CODEC_WITHOUT_KEY.encode("objects", sample.address, sample.sequence, sample.values)
    assert said(CODEC_WITHOUT_KEY, again) == sample
    counted = sample._replace(values={**sample.values, "encryption_counter": 7})
    sealed = CODEC.encode("objects", counted.address, counted.sequence, counted.values)
    assert said(CODEC, sealed) == counted
    assert said(CODEC_WITHOUT_KEY, sealed) == "no-key"


@given(st.binary(max_size=30))
def test_any_service_data_are_values_or_a_reject(data: bytes) -> None:
    """Whatever a sender says, the codec answers with a sample or a reason, and never raises."""
    said(CODEC, heard(SERVICE, data))
