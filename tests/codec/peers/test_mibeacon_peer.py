"""MiBeacon against xiaomi-ble, on every object both know, from every product that gives it a meaning of its own.

Both get the same service data. What the peer tells of it is brought to our names, units and words (`_told_by_peer`),
and then both have to say the same. These differences are known:

| What | Here | xiaomi-ble | Why |
| --- | --- | --- | --- |
| humidity of LYWSD03MMC and MHO-C401 | as sent, in 0.1 % | cut to whole percent | it smooths the steps of these two |
| humidity of object 0x4c08 | rounded to 0.1 | the float as it is | 49.1 is sent as 49.0999985 |
| voltage, whenever there is a battery level | none | worked out of the level | no device sends it |
| times in an object, `time_without_motion` | values | not told | they are in the frame |
| key of a lock or fingerprint | the number | a sentence | a number can be compared |
| `button` of products with one button | the number, mostly 0 | not told | other products may have more |
| illuminance of products it does not list | as sent | not told | so the specification defines the object |
| figures of a scale that mean "none" | null | not told | a value that is missing is said to be |
| doors, smoke | one word: `door: left-open` | several flags | it is one number on the air |
| versions 2 and 3, encrypted | rejected | opened without a check | what has no tag cannot be told from noise |
| I/O capability in the header | two bytes | one | the one recorded frame has two; left out of the test |
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.codec.fields import IntegerField
from edge_gateway.records import Sample
from tests.codec.peers.advertisements import ADDRESS, differences, heard, peer, said, values_of

parser = peer("xiaomi_ble.parser")
products_of_peer = peer("xiaomi_ble.devices").DEVICE_TYPES
BluetoothServiceInfo = peer("home_assistant_bluetooth").BluetoothServiceInfo

SERVICE = 0xFE95
KEY = bytes(range(16))
PROFILE = load_profile("xiaomi-mibeacon")
CODEC = compile_profile(PROFILE)
CODEC_WITH_KEY = compile_profile(PROFILE, lambda name, _: KEY if name == "bindkey" else None)

PLAIN_PRODUCT = "CGG1"
"""One that no object has a special meaning for."""
PRODUCT_IDS: dict[str, int] = {entry.model: number for number, entry in reversed(products_of_peer.items())}


def _tenths(least: int, most: int, per_unit: int = 10) -> st.SearchStrategy[bytes]:
    """Floats as devices send them: whole steps of what they measure."""
    return st.integers(least, most).map(lambda steps: struct.pack("<f", steps / per_unit))


def _codes(*codes: int) -> st.SearchStrategy[bytes]:
    return st.sampled_from(codes).map(lambda code: bytes([code]))


def _bytes(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


def _presses(buttons: int) -> st.SearchStrategy[bytes]:
    return st.tuples(st.integers(0, buttons - 1), st.integers(0, 255), st.integers(0, 2)).map(bytes)


class Object(NamedTuple):
    """Bodies of one kind of object, and the products to try it with."""

    bodies: st.SearchStrategy[bytes]
    products: tuple[str, ...] = (PLAIN_PRODUCT,)


TRUTH = _codes(0, 1)
LOCK_ACTIONS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 15)
LOCK_METHODS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15)
FOUR_BUTTONS = ("KS1", "KS1BP")

OBJECTS: dict[int, Object] = {
    0x0003: Object(_bytes(1), ("MUE4094RT",)),
    0x0006: Object(st.tuples(_bytes(4), _codes(*range(7))).map(b"".join), ("ZNMS16LM",)),
    0x0007: Object(_codes(*range(6)), ("loock.safe.v1",)),
    0x0008: Object(TRUTH, ("ZNMS16LM",)),
    0x000A: Object(_bytes(2).filter(any), ("MMC-W505",)),
    0x000B: Object(
        st.tuples(st.sampled_from(LOCK_ACTIONS), st.sampled_from(LOCK_METHODS), _bytes(8)).map(
            lambda each: bytes([each[0] | each[1] << 4]) + each[2]
        ),
        ("ZNMS16LM", "ZNMS17LM"),
    ),
    0x000F: Object(_bytes(3), ("MJYD02YL", "RTCGQ02LM", "CGPR1")),
    0x0010: Object(st.tuples(TRUTH, st.sampled_from([0, 1]).flatmap(_bytes)).map(b"".join), ("T700",)),
    0x1004: Object(_bytes(2)),
    0x1005: Object(st.tuples(TRUTH, _bytes(1)).map(b"".join), ("YM-K1501",)),
    0x1006: Object(_bytes(2)),
    0x1007: Object(_bytes(3) | st.just(b"\x64\0\0"), ("HHCCJCY01", "GCLS002", "MJYD02YL", "MCCGQ02HL")),
    0x1008: Object(_bytes(1)),
    0x1009: Object(_bytes(2)),
    0x100A: Object(_bytes(1)),
    0x100D: Object(_bytes(4)),
    0x100E: Object(_codes(0, 1, 8, 9), ("DSL-C08",)),
    0x100F: Object(TRUTH, ("loock.safe.v1",)),
    0x1010: Object(_bytes(2)),
    0x1012: Object(TRUTH),
    0x1013: Object(_bytes(1)),
    0x1014: Object(_bytes(1)),
    0x1015: Object(_codes(0, 1)),
    0x1017: Object(_bytes(4) | st.integers(0, 60).map(lambda s: s.to_bytes(4, "little"))),
    0x1018: Object(_bytes(1)),
    0x1019: Object(_codes(0, 1, 2)),
    0x101B: Object(_bytes(4)),
    0x2000: Object(
        st.tuples(st.integers(3200, 3900), st.integers(3200, 3900), st.integers(0, 100)).map(
            lambda each: struct.pack("<hhB", *each)
        ),
        ("MMC-T201-1",),
    ),
    0x3003: Object(st.tuples(TRUTH, _bytes(4), st.sampled_from([0, 1]).flatmap(_bytes)).map(b"".join), ("M1S-T500",)),
    0x4801: Object(_tenths(-400, 1250)),
    0x4802: Object(_bytes(1)),
    0x4803: Object(_bytes(1)),
    0x4804: Object(_codes(1, 2)),
    0x4805: Object(_tenths(0, 830000, 1)),
    0x4806: Object(_bytes(1), (PLAIN_PRODUCT, "SJWS02LM")),
    0x4808: Object(_tenths(0, 1000)),
    0x480C: Object(TRUTH),
    0x4818: Object(_bytes(2) | st.integers(0, 60).map(lambda s: s.to_bytes(2, "little"))),
    0x483C: Object(TRUTH, ("PS1BB",)),
    0x483D: Object(_bytes(4), ("PS1BB",)),
    0x483E: Object(_bytes(4), ("PS1BB",)),
    0x484E: Object(_codes(0, 1, 2), ("XMOSB01XS", "ES3")),
    0x4851: Object(_bytes(1)),
    0x4852: Object(_bytes(1)),
    0x487B: Object(_bytes(1), ("SJWS02LM",)),
    0x4A01: Object(TRUTH),
    0x4A08: Object(_tenths(0, 830000, 1)),
    0x4A0C: Object(TRUTH, ("XMWS01XS", "KS2BB")),
    0x4A0D: Object(TRUTH, ("XMWS01XS", "KS2BB")),
    0x4A0E: Object(TRUTH, ("XMWS01XS", "KS2BB")),
    0x4A0F: Object(_codes(1)),
    0x4A12: Object(_codes(1, 2)),
    0x4A13: Object(_codes(1)),
    0x4A1A: Object(_codes(1)),
    0x4A68: Object(_codes(0, 1, 2, 3), ("SJWS02LM",)),
    0x4C01: Object(_tenths(-4000, 12500, 100)),
    0x4C02: Object(_bytes(1)),
    0x4C03: Object(_bytes(1)),
    0x4C08: Object(_tenths(0, 1000)),
    0x4E01: Object(TRUTH),
    0x4E0C: Object(_codes(1, 2), ("XMWXKG01YL", "XMWXKG01LM")),
    0x4E0D: Object(_codes(1, 2), ("XMWXKG01YL", "XMWXKG01LM")),
    0x4E0E: Object(_codes(1, 2), ("XMWXKG01YL", "XMWXKG01LM")),
    0x4E16: Object(_bytes(9).filter(lambda body: any(body[1:5])), ("MJTZC02YM",)),
    0x5003: Object(_bytes(1)),
    0x5413: Object(_bytes(1), ("ES5BB",)),
    0x5422: Object(_codes(0, 1, 2)),
    0x560C: Object(_codes(1, 2, 3, 4), (*FOUR_BUTTONS, "KS2BB")),
    0x560D: Object(_codes(1, 2, 3, 4), (*FOUR_BUTTONS, "KS2BB")),
    0x560E: Object(_codes(1, 2, 3, 4), (*FOUR_BUTTONS, "KS2BB")),
    0x5810: Object(TRUTH),
    0x6461: Object(TRUTH),
    0x6E16: Object(_bytes(9).filter(lambda body: any(body[1:5])), ("MJTZC01YM", "MJTZC03YM")),
}
"""Every object of the profile but 0x1001 and what the test below says is not told by the peer."""

BUTTONS: dict[str, int] = {
    "RTCGQ02LM": 1,
    "XMMF01JQD": 2,
    "YLYK01YL": 6,
    "YLYK01YL-FANCL": 6,
    "YLYK01YL-VENFAN": 6,
    "YLYB01YL-BHFRC": 9,
    "K9B-1BTN": 1,
    "K9B-2BTN": 3,
    "K9B-3BTN": 7,
}
"""How many different buttons, or pairs of them, object 0x1001 knows, by product."""

NUMBERS = {
    "consumable": ("consumable", 1),
    "conductivity": ("conductivity", 1e-4),
    "counter": ("brushings", 1),
    "duration_cleared": ("time_vacant", 1),
    "duration_detected": ("time_occupied", 1),
    "formaldehyde": ("formaldehyde", 1000),
    "heart_rate": ("heart_rate_per_min", 1),
    "impedance_high": ("impedance", 1),
    "impedance_low": ("impedance", 1),
    "pressure_not_present_duration": ("time_not_pressed", 1),
    "pressure_present_duration": ("time_pressed", 1),
    "profile_id": ("person", 1),
}
"""Our names of the peer's numbers, where they differ, and what one of its units is in ours."""
STATES = {
    "battery": "battery_low",
    "bottom_submersion": "wet",
    "moisture": "wet",
    "occupancy_close_range": "occupancy_near",
    "toothbrush": "brushing",
    "top_splash": "wet_above",
}
"""Our names of the peer's yes-or-no values, where they differ."""
WORDS: dict[tuple[str, bool], tuple[str, str]] = {
    ("armed", True): ("armed", "armed"),
    ("armed", False): ("armed", "disarmed"),
    ("asleep", True): ("sleep", "asleep"),
    ("asleep", False): ("sleep", "awake"),
    ("smoke", True): ("smoke", "alarm"),
    ("smoke", False): ("smoke", "none"),
    ("wearing", True): ("wearing", "worn"),
    ("wearing", False): ("wearing", "not-worn"),
}
"""The peer's states that are words here."""
DOOR_FLAGS = {
    "device_forcibly_removed": "torn-off",
    "door_left_open": "left-open",
    "door_stuck": "stuck",
    "knock_on_the_door": "knock",
    "pry_the_door": "pried",
}
"""What the peer says of a door beside open or closed."""
LOCKS = {
    "abnormal": "abnormal",
    "lock_inside_the_door": "locked-inside",
    "lock_outside_the_door": "locked-outside",
    "locked": "locked",
    "release_the_antilock": "antilock-off",
    "turn_off_child_lock": "child-lock-off",
    "turn_on_antilock": "antilock-on",
    "turn_on_child_lock": "child-lock-on",
    "unlock_inside_the_door": "unlocked-inside",
    "unlock_outside_the_door": "unlocked-outside",
}
LOCK_WORDS = {
    "biometrics": "fingerprint",
    "coercion_method": "coercion",
    "key_method": "key",
    "manual": "by-hand",
    "nfc_method": "nfc",
    "one_time_password": "one-time-password",
    "turntable_method": "turntable",
    "two_step_verification": "two-steps",
}
FINGERPRINTS = {
    "insufficient_area": "too-small",
    "low_quality_too_light_fuzzy": "unclear",
    "match_failed": "not-matched",
    "match_successful": "matched",
    "skin_is_too_dry": "too-dry",
    "skin_is_too_wet": "too-wet",
    "timeout": "timeout",
}
PRESSES = {"press": "short", "double_press": "double", "long_press": "long"}
CHARGING = {"Charging": "charging", "Not Charging": "not-charging", "Full": "full"}
REMOTE_BUTTONS = {
    "air_exchange": "air-exchange",
    "color_temperature": "color-temperature",
    "decrease_speed": "slower",
    "decrease_wind_speed": "weaker",
    "increase_speed": "faster",
    "increase_wind_speed": "stronger",
    "M": "m",
    "mid_left": "mid-left",
    "mid_right": "mid-right",
    "min": "minus",
    "timer_30_minutes": "timer-30-min",
    "timer_60_minutes": "timer-60-min",
    "wind_mode": "wind-mode",
    "wind_speed": "wind-speed",
}

NOT_TOLD = {
    "armed_at",
    "brushing_at",
    "encryption_counter",
    "key_id",
    "locked_at",
    "product",
    "time_without_motion",
    "weighed_at",
}
"""Our values that the peer does not tell, or in a sentence."""

ROUNDED = {"humidity": 1e-5}
"""How far the peer's numbers may lie from ours."""


def _service_data(product: str, objects: bytes) -> bytes:
    """A plain frame of version 5 without the address in it."""
    return b"\x40\x50" + PRODUCT_IDS[product].to_bytes(2, "little") + b"\x07" + objects


def _sealed_service_data(product: str, counter: bytes, objects: bytes, *, with_address: bool) -> bytes:
    """The same sealed with `KEY`, as the protocol says; `counter` is the frame counter and the three bytes above it."""
    reversed_address = bytes.fromhex(ADDRESS.replace(":", ""))[::-1]
    product_id = PRODUCT_IDS[product].to_bytes(2, "little")
    nonce = reversed_address + product_id + counter
    sealed = AESCCM(KEY, tag_length=4).encrypt(nonce, objects, b"\x11")
    head = (b"\x58\x50" if with_address else b"\x48\x50") + product_id + counter[:1]
    return head + (reversed_address if with_address else b"") + sealed[:-4] + counter[1:] + sealed[-4:]


def _peer_update(data: bytes, key: bytes | None = None) -> Any:
    uuid = f"0000{SERVICE:04x}-0000-1000-8000-00805f9b34fb"
    return parser.XiaomiBluetoothDeviceData(key).update(
        BluetoothServiceInfo(
            name="sensor",
            address=ADDRESS.upper(),
            rssi=-60,
            manufacturer_data={},
            service_data={uuid: data},
            service_uuids=[uuid],
            source="",
        )
    )


def _told_by_peer(data: bytes, key: bytes | None = None) -> dict[str, Any]:
    """What the peer finds in service data, with our names, units and words."""
    update = _peer_update(data, key)
    states = {key.key: found.native_value for key, found in update.binary_entity_values.items()}
    told = _door(states)
    for name, value in states.items():
        word = WORDS.get((name, bool(value)))
        if word is not None:
            told[word[0]] = word[1]
        elif name == "childlock" and "lock" in states:
            told["child_lock"] = not value
        elif name == "lock" and "childlock" in states:
            told["locked"] = not value
        elif name not in ("antilock", "childlock", "fingerprint", "lock", "stabilized"):
            told[STATES.get(name, name)] = bool(value)
    for device_key, found in update.entity_values.items():
        name, value = device_key.key, found.native_value
        if name == "charging_state":
            told["charging"] = CHARGING[value]
        elif name == "lock_method":
            told["lock_method"] = LOCK_WORDS.get(value, value)
        elif name not in ("key_id", "signal_strength", "voltage"):
            our_name, factor = NUMBERS.get(name, (name, 1))
            told[our_name] = value * factor
    told |= _events(update)
    return told


def _door(states: dict[str, Any]) -> dict[str, Any]:
    """The one word for a door, of the flags that say so; they are taken out of `states`."""
    is_open = [states.pop(name) for name in ("door", "opening") if name in states]
    flags = [word for name, word in DOOR_FLAGS.items() if states.pop(name, False)]
    if not is_open:
        return {}
    return {"door": flags[0] if flags else "open" if is_open[0] else "closed"}


def _events(update: Any) -> dict[str, Any]:
    told: dict[str, Any] = {}
    buttons: list[str] = []
    for device_key, event in update.events.items():
        kind, _, button = device_key.key.partition("_")
        if kind == "button":
            told["press"] = PRESSES[event.event_type]
            if button:
                buttons.append(REMOTE_BUTTONS.get(button, button))
        elif kind == "motion":
            told["motion"] = True
        elif kind == "lock":
            told["lock"] = LOCKS[event.event_type]
        elif kind == "fingerprint":
            told["fingerprint"] = FINGERPRINTS[event.event_type]
        elif kind == "cube":
            told["rotation"] = event.event_type.removeprefix("rotate_")
    if buttons:
        told["button"] = "+".join(buttons)
    return told


def _ours(values: Mapping[str, Any]) -> dict[str, Any]:
    """Our values without what the peer does not tell."""
    told = {name: value for name, value in values.items() if name not in NOT_TOLD and value is not None}
    if told.get("button") in ("only", 0):
        del told["button"]
    water = {
        "below": ("wet", True),
        "gone-below": ("wet", False),
        "above": ("wet_above", True),
        "gone-above": ("wet_above", False),
    }
    if "water" in told:
        name, value = water[told.pop("water")]
        told[name] = value
    return told


@pytest.mark.parametrize(
    ("number", "product"),
    [(number, product) for number, each in OBJECTS.items() for product in each.products],
    ids=lambda value: value if isinstance(value, str) else f"{value:04x}",
)
@settings(max_examples=25)
@given(st.data())
def test_object(number: int, product: str, data: st.DataObject) -> None:
    """An object of a product means here what it means to the peer."""
    body = data.draw(OBJECTS[number].bodies)
    frame = _service_data(product, number.to_bytes(2, "little") + bytes([len(body)]) + body)
    values = values_of(CODEC, heard(SERVICE, frame))
    assert values["product"].partition("-")[0] == product.partition("-")[0]
    assert differences(_ours(values), _told_by_peer(frame), ROUNDED) == {}


@pytest.mark.parametrize("product", BUTTONS)
@settings(max_examples=25)
@given(st.data())
def test_buttons(product: str, data: st.DataObject) -> None:
    """A press on a product's button is a press on the same button to the peer."""
    body = data.draw(_presses(BUTTONS[product]))
    frame = _service_data(product, b"\x01\x10\x03" + body)
    ours, theirs = _ours(values_of(CODEC, heard(SERVICE, frame))), _told_by_peer(frame)
    theirs.pop("power", None)  # YLYK01YL: the peer keeps what its on and off buttons do as a state, too
    assert differences(ours, theirs) == {}


SEPARATE = (0x1004, 0x1006, 0x1008, 0x1009, 0x100A, 0x1010, 0x1013, 0x1014)
"""Objects with different names, so that the peer's are not overwritten by each other."""


@given(st.lists(st.sampled_from(SEPARATE), unique=True, min_size=1), st.data())
def test_several_objects(numbers: list[int], data: st.DataObject) -> None:
    """A frame of several objects means the same as to the peer, with those nobody knows passed over."""
    payload = b"\xfe\xfe\x02\x01\x02"
    for number in numbers:
        body = data.draw(OBJECTS[number].bodies)
        payload += number.to_bytes(2, "little") + bytes([len(body)]) + body
    frame = _service_data(PLAIN_PRODUCT, payload)
    assert differences(_ours(values_of(CODEC, heard(SERVICE, frame))), _told_by_peer(frame)) == {}


@given(st.sampled_from(sorted(OBJECTS)), _bytes(4), st.booleans(), st.data())
def test_encrypted(number: int, counter: bytes, with_address: bool, data: st.DataObject) -> None:
    """What was sealed with a device's key, by the standard's AES-CCM, opens to what the peer opens."""
    product = OBJECTS[number].products[0]
    body = data.draw(OBJECTS[number].bodies)
    payload = number.to_bytes(2, "little") + bytes([len(body)]) + body
    frame = _sealed_service_data(product, counter, payload, with_address=with_address)
    sample = said(CODEC_WITH_KEY, heard(SERVICE, frame))
    assert isinstance(sample, Sample), sample
    assert sample.sequence == counter[0]
    assert sample.values["encryption_counter"] == int.from_bytes(counter, "little")
    assert differences(_ours(sample.values), _told_by_peer(frame, KEY), ROUNDED) == {}


def test_products_are_those_of_the_peer() -> None:
    """Every product the peer knows has its name here; one of several numbers has the number behind it."""
    product = PROFILE.values_of("objects")["product"]
    assert isinstance(product, IntegerField)
    assert product.enum.keys() == products_of_peer.keys()
    for number, label in product.enum.items():
        model = products_of_peer[number].model
        assert label in (model, f"{model}-{number:04x}")


def test_a_plain_frame_of_a_device_with_a_key_is_refused() -> None:
    """Whoever has no key cannot speak for a device that has one."""
    frame = _service_data(PLAIN_PRODUCT, b"\x04\x10\x02\xe2\x00")
    assert said(CODEC_WITH_KEY, heard(SERVICE, frame)) == "unsealed"


def test_a_frame_with_the_address_of_another_is_refused() -> None:
    """Where the frame names a sender, it is the one that was heard, as the peer has it, too."""
    frame = (
        b"\x50\x50" + PRODUCT_IDS[PLAIN_PRODUCT].to_bytes(2, "little") + b"\x07" + bytes(6) + b"\x04\x10\x02\xe2\x00"
    )
    assert said(CODEC, heard(SERVICE, frame)) == "value"
    assert _told_by_peer(frame) == {}


@given(st.lists(st.sampled_from(SEPARATE), unique=True, min_size=1), st.data())
def test_what_is_read_can_be_sent(numbers: list[int], data: st.DataObject) -> None:
    """The values of any objects are sent as objects that are read the same, in clear and encrypted."""
    payload = b"".join(
        number.to_bytes(2, "little") + bytes([len(body)]) + body
        for number in numbers
        for body in [data.draw(OBJECTS[number].bodies)]
    )
    sample = said(CODEC, heard(SERVICE, _service_data(PLAIN_PRODUCT, payload)))
    assert isinstance(sample, Sample)
    values = {**sample.values, "version": 5}
    assert said(CODEC, CODEC.encode("objects", ADDRESS, sample.sequence, values)) == sample
    sealed = CODEC_WITH_KEY.encode("objects", ADDRESS, 7, {**values, "more_counter": 1})
    counted = sample._replace(sequence=7, values={**sample.values, "encryption_counter": 263})
    assert said(CODEC_WITH_KEY, sealed) == counted
    assert said(CODEC, sealed) == "no-key"


@given(st.binary(max_size=40))
def test_any_service_data_are_values_or_a_reject(data: bytes) -> None:
    """Whatever a sender says, the codec answers with a sample or a reason, and never raises."""
    said(CODEC_WITH_KEY, heard(SERVICE, data))
