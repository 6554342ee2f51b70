"""Thermometers, tank sensors and GATT characteristics, read by us and by the libraries of others.

`EXPLAINED` lists every difference there is. Each peer gets frames with any content, so also such as no device sends.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.records import Value

from .agreement import Explained, Peer, Values, differences, unexplained

ADDRESS: Final = bytes.fromhex("a1b2c3d4e5f6")

# --- frames of any content -------------------------------------------------------------------------------------------


def heard(head: str, size_bytes: int, tail: str = "") -> st.SearchStrategy[bytes]:
    """The address, a fixed head, so many bytes of any content, and a fixed tail."""
    before, behind = ADDRESS + bytes.fromhex(head), bytes.fromhex(tail)
    return st.binary(min_size=size_bytes, max_size=size_bytes).map(lambda data: before + data + behind)


def _company(frame: bytes) -> int:
    return int.from_bytes(frame[6:8], "little")


# --- the libraries of the Bluetooth-Devices project ------------------------------------------------------------------


def _advertisement(frame: bytes, name: str, services: tuple[str, ...] = ()) -> Any:
    """Manufacturer data as these libraries take it."""
    models = pytest.importorskip("habluetooth")
    device = pytest.importorskip("bleak.backends.device").BLEDevice(ADDRESS.hex(":").upper(), name, None)
    return models.BluetoothServiceInfoBleak(
        name=name,
        address=ADDRESS.hex(":").upper(),
        rssi=-60,
        manufacturer_data={_company(frame): frame[8:]},
        service_data={},
        service_uuids=list(services),
        source="local",
        device=device,
        advertisement=None,
        connectable=False,
        time=0.0,
        tx_power=None,
    )


def _sensors(parser: Any, advertisement: Any, names: Mapping[str, str]) -> dict[str, Value]:
    """What such a parser gives, under our names; its word for an error is no value."""
    found = {key.key: each.native_value for key, each in parser.update(advertisement).entity_values.items()}
    return {ours: None if found.get(theirs) == "error" else found.get(theirs) for theirs, ours in names.items()}


CLIMATE: Final = {"temperature": "temperature", "humidity": "humidity", "battery": "battery"}


def read_govee(frame: bytes) -> Values:
    """govee-ble tells the models by company, length and name."""
    parser = pytest.importorskip("govee_ble").GoveeBluetoothDeviceData()
    name = {0xEC88: "unknown", 0x8801: "Govee_H5179_E5F6", 0x0001: "GV5179_E5F6"}[_company(frame)]
    return _sensors(parser, _advertisement(frame, name), CLIMATE)


def read_inkbird(frame: bytes) -> Values:
    """inkbird-ble, told that the device has a hygrometer, as `sps` says."""
    parser = pytest.importorskip("inkbird_ble").INKBIRDBluetoothDeviceData()
    return _sensors(parser, _advertisement(frame, "sps", ("0000fff0-0000-1000-8000-00805f9b34fb",)), CLIMATE)


def read_thermopro(frame: bytes) -> Values:
    """thermopro-ble."""
    parser = pytest.importorskip("thermopro_ble").ThermoProBluetoothDeviceData()
    return _sensors(parser, _advertisement(frame, "TP357 (E5F6)"), CLIMATE)


def read_mopeka(frame: bytes) -> Values:
    """mopeka-iot-ble, once for each of three things in the tank; its accelerometer bytes taken as signed."""
    module = pytest.importorskip("mopeka_iot_ble")
    advertisement = _advertisement(frame, "", ("0000fee5-0000-1000-8000-00805f9b34fb",))
    names = {
        "temperature": "temperature",
        "battery": "battery",
        "battery_voltage": "battery_voltage",
        "reading_quality_raw": "quality",
        "accelerometer_x": "acceleration_x",
        "accelerometer_y": "acceleration_y",
    }
    values: dict[str, Value] = {}
    for medium, ours in (("AIR", "gap_air"), ("FRESH_WATER", "level_water"), ("PROPANE", "level_propane")):
        parser = module.MopekaIOTBluetoothDeviceData(getattr(module.MediumType, medium))
        values |= _sensors(parser, advertisement, names | {"tank_level": ours})
    return values


# --- single ones -----------------------------------------------------------------------------------------------------


def _number(value: Any, none: float = -1) -> Value:
    return None if value == none else value


def read_aranet(frame: bytes) -> Values:
    """aranet4, which says -1 for no value."""
    client = pytest.importorskip("aranet4.client")
    company, data = _company(frame), frame[8:]
    kind = data[0] if len(data) == 24 else 0
    name = {0: "Aranet4 12345", 1: "Aranet2 12345", 2: "Aranet\u2622 12345", 3: "AranetRn+ 12345"}[kind]
    seen = client.Aranet4Advertisement(SimpleNamespace(name=name), SimpleNamespace(manufacturer_data={company: data}))
    said = seen.manufacturer_data
    values: dict[str, Value] = {"integrations": said.integrations, "firmware": str(said.version).lstrip("v")}
    reading = seen.readings
    if reading is None:
        return values
    values |= {"battery": reading.battery, "interval": reading.interval, "age": reading.ago}
    match kind:
        case 2:
            values |= {
                "radiation_total": reading.radiation_total / 1e9,
                "radiation_duration": reading.radiation_duration,
                "radiation_rate_nsv_per_h": reading.radiation_rate,
            }
        case _:
            values |= {"temperature": _number(reading.temperature), "humidity": _number(reading.humidity)}
    if kind in (0, 3):
        values |= {"pressure": _number(reading.pressure), "colour": reading.status.name.lower()}
    if kind == 0:
        values["co2"] = _number(reading.co2)
    if kind == 3:
        values["radon_bq_per_m3"] = _number(reading.radon_concentration)
    return values


def read_switchbot(frame: bytes) -> Values:
    """PySwitchbot, with the parts of the advertisement that are there."""
    parse = pytest.importorskip("switchbot.adv_parser").parse_advertisement_data
    service_bytes = 3 if frame[8] & 0x7F in b"w45" else 6
    service, manufacturer = frame[8 : 8 + service_bytes], frame[8 + service_bytes :]
    found = parse(
        SimpleNamespace(address=ADDRESS.hex(":").upper()),
        SimpleNamespace(
            service_data={"0000fd3d-0000-1000-8000-00805f9b34fb": service},
            manufacturer_data={0x0969: manufacturer[2:]} if manufacturer else {},
            rssi=-60,
        ),
    )
    data = found.data["data"]
    names = {"temperature": "temperature", "humidity": "humidity", "battery": "battery"}
    if frame[8] & 0x7F == 0x35:
        names["co2"] = "co2"
    return {ours: data.get(theirs) for theirs, ours in names.items()} | (
        {"shows_fahrenheit": data["fahrenheit"]} if data else {}
    )


@functools.cache
def _translator() -> Any:
    return pytest.importorskip("bluetooth_sig").BluetoothSIGTranslator()


def read_gatt(frame: bytes) -> Values:
    """bluetooth-sig, whose special values are errors."""
    sig = pytest.importorskip("bluetooth_sig")
    uuid = f"{_company(frame):04X}"
    try:
        value = _translator().parse_characteristic(uuid, frame[8:])
    except (sig.gatt.exceptions.CharacteristicParseError, sig.gatt.exceptions.SpecialValueDetectedError):
        value = None
    if uuid != "2A37":
        return {GATT_NAMES[uuid]: value}
    if value is None:
        return {"heart_rate": None}
    return {
        "heart_rate": value.heart_rate,
        "energy_expended": None if value.energy_expended is None else 1000 * value.energy_expended,
        "contact": CONTACTS[value.sensor_contact.name],
    } | ({"beat_intervals": list(value.rr_intervals)} if value.rr_intervals else {})


GATT_NAMES: Final = {
    "2A19": "battery",
    "2A6C": "elevation",
    "2A6D": "pressure",
    "2A6E": "temperature",
    "2A6F": "humidity",
    "2A70": "wind_speed",
    "2A71": "wind_direction",
    "2A76": "uv_index",
    "2A77": "irradiance",
    "2A78": "rainfall",
    "2A7B": "dew_point",
    "2AFB": "illuminance",
    "2B8C": "co2",
}
CONTACTS: Final = {"NOT_SUPPORTED": None, "NOT_DETECTED": False, "DETECTED": True}


def _theengs(frame: bytes, name: str, names: Mapping[str, str]) -> Values:
    decoder = pytest.importorskip("TheengsDecoder")
    told = {"id": ADDRESS.hex(":"), "name": name, "manufacturerdata": frame[6:].hex()}
    found = orjson.loads(decoder.decodeBLE(orjson.dumps(told).decode()) or "{}")
    return {ours: found.get(theirs) for theirs, ours in names.items()}


def read_theengs_govee(frame: bytes) -> Values:
    """Theengs Decoder."""
    name = {0xEC88: "Govee_H5074_E5F6", 0x8801: "Govee_H5179_E5F6"}[_company(frame)]
    return _theengs(frame, name, THEENGS_CLIMATE)


def read_theengs_inkbird(frame: bytes) -> Values:
    """Theengs Decoder."""
    return _theengs(frame, "sps", THEENGS_CLIMATE)


def read_theengs_thermopro(frame: bytes) -> Values:
    """Theengs Decoder, which says no battery level."""
    return _theengs(frame, "TP357 (E5F6)", {"tempc": "temperature", "hum": "humidity"})


def read_theengs_aranet(frame: bytes) -> Values:
    """Theengs Decoder."""
    return _theengs(frame, "Aranet4 12345", THEENGS_CLIMATE | {"co2": "co2", "pres": "pressure"})


THEENGS_CLIMATE: Final = {"tempc": "temperature", "hum": "humidity", "batt": "battery"}

# --- who is compared, and what differs -------------------------------------------------------------------------------

_INKBIRD: Final = st.builds(
    lambda *parts: ADDRESS + struct.pack("<hHBHBB", *parts),
    st.integers(-5000, 12000),
    st.integers(1, 10000),
    st.integers(0, 1),
    st.integers(0, 0xFFFF),
    st.integers(1, 100),
    st.just(6),
)
# A colour that is none stops aranet4.
_ARANET_4: Final = heard("0207", 22).map(lambda frame: frame[:24] + bytes([frame[24] & 3]) + frame[25:])
_ARANET_RADON: Final = heard("020703", 23).map(lambda frame: frame[:26] + bytes([frame[26] & 3]) + frame[27:])
_ARANET: Final = _ARANET_4 | _ARANET_RADON | heard("0207", 7) | heard("020701", 23) | heard("020702", 23)
# Theengs Decoder knows no sign of "no value".
_ARANET_AT_HOME: Final = st.builds(
    lambda *parts: ADDRESS + bytes.fromhex("020721") + struct.pack("<7xHHHBBBHHB", *parts),
    st.integers(0, 9999),
    st.integers(0, 2000),
    st.integers(3000, 11000),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(0, 3),
    st.integers(0, 600),
    st.integers(0, 600),
    st.integers(0, 255),
)
_METER: Final = heard("3dfd54", 5) | heard("3dfd69", 5)
_METER_PRO: Final = heard("3dfd340064" + "6909", 12) | heard("3dfd350064" + "6909", 16)
_CHARACTERISTICS: Final = st.one_of(
    *(
        heard(uuid[2:] + uuid[:2], size_bytes)
        for uuid, size_bytes in (
            *(("2A19", 1), ("2A6C", 3), ("2A6D", 4), ("2A6E", 2), ("2A6F", 2), ("2A70", 2), ("2A71", 2), ("2A76", 1)),
            *(("2A77", 2), ("2A78", 2), ("2A7B", 1), ("2AFB", 3), ("2B8C", 2)),
        )
    ),
    st.integers(0, 4).flatmap(lambda more: heard("372a", 2 + 2 * more) | heard("372a", 3 + 2 * more)),
)

PEERS: Final = (
    Peer("govee-ble", "govee_ble", "govee-h5074", heard("88ec", 7), read_govee),
    Peer("govee-ble", "govee_ble", "govee-h5075", heard("88ec", 6), read_govee),
    Peer("govee-ble", "govee_ble", "govee-h5179", heard("0188ec000101", 5) | heard("01000101", 4), read_govee),
    Peer("inkbird-ble", "inkbird_ble", "inkbird-ibs-th", heard("", 9), read_inkbird),
    Peer("thermopro-ble", "thermopro_ble", "thermopro-tp35x", heard("c2", 5) | heard("c2", 6), read_thermopro),
    Peer("mopeka-iot-ble", "mopeka_iot_ble", "mopeka-pro", heard("590008", 9) | heard("590012", 9), read_mopeka),
    Peer("PySwitchbot", "switchbot", "switchbot-meter", _METER | _METER_PRO, read_switchbot),
    Peer("aranet4", "aranet4", "aranet4", _ARANET, read_aranet),
    Peer("bluetooth-sig", "bluetooth_sig", "gatt-sensors", _CHARACTERISTICS, read_gatt),
    Peer("TheengsDecoder", "TheengsDecoder", "govee-h5074", heard("88ec00", 5, "02"), read_theengs_govee),
    Peer("TheengsDecoder", "TheengsDecoder", "govee-h5179", heard("0188ec000101", 5), read_theengs_govee),
    Peer("TheengsDecoder", "TheengsDecoder", "inkbird-ibs-th", _INKBIRD, read_theengs_inkbird),
    Peer("TheengsDecoder", "TheengsDecoder", "thermopro-tp35x", heard("c2", 5), read_theengs_thermopro),
    Peer("TheengsDecoder", "TheengsDecoder", "aranet4", _ARANET_AT_HOME, read_theengs_aranet),
)


def _we_have_none(ours: Value, theirs: Value) -> bool:
    return ours is None and theirs is not None


def _they_have_none(ours: Value, theirs: Value) -> bool:
    return ours is not None and theirs is None


def _another_sign(ours: Value, theirs: Value) -> bool:
    return isinstance(ours, int) and isinstance(theirs, int) and ours + 256 == theirs


def _near(tolerance: float) -> Callable[[Value, Value], bool]:
    return lambda ours, theirs: (
        isinstance(ours, float | int) and isinstance(theirs, float | int) and (abs(ours - theirs) <= tolerance)
    )


EXPLAINED: Final = (
    Explained(
        "inkbird-ble",
        "inkbird-ibs-th",
        "humidity",
        _we_have_none,
        "0 is what thermometers without a hygrometer send; inkbird-ble believes it of a device called sps",
        "a1b2c3d4e5f6 000000000000000000",
    ),
    Explained(
        "thermopro-ble",
        "thermopro-tp35x",
        "battery",
        lambda ours, theirs: (ours, theirs) == (0, 1),
        "the lowest of three steps is 0 % to us and 1 % to thermopro-ble; the device sends no percentage",
        "a1b2c3d4e5f6 c20000000000",
    ),
    *(
        Explained(
            package,
            "thermopro-tp35x",
            value,
            _we_have_none,
            f"a humidity of 255 means that there is no reading; {package} asks for {what}",
            "a1b2c3d4e5f6 c20bc8ff7396",
        )
        for package, what in (("thermopro-ble", "a temperature of -0.1 as well"), ("TheengsDecoder", "nothing"))
        for value in ("temperature", "humidity")
    ),
    Explained(
        "mopeka-iot-ble",
        "mopeka-pro",
        "battery_voltage",
        lambda ours, theirs: isinstance(ours, float) and theirs == ours + 4,
        "the highest bit is no part of the voltage (mopeka_pro_check says so); no battery has 4 V more",
        "a1b2c3d4e5f6 5900 08f2460030e0f509f0d8",
    ),
    Explained(
        "mopeka-iot-ble",
        "mopeka-pro",
        "battery",
        lambda ours, theirs: theirs == 100,
        "it follows from the voltage",
        "a1b2c3d4e5f6 5900 08c8460030e0f509f0d8",
    ),
    Explained(
        "mopeka-iot-ble",
        "mopeka-pro",
        "battery",
        _near(0.5),
        "we say whole percent, mopeka-iot-ble says tenths",
        "a1b2c3d4e5f6 5900 0850460030e0f509f0d8",
    ),
    *(
        Explained(
            "mopeka-iot-ble",
            "mopeka-pro",
            f"acceleration_{axis}",
            _another_sign,
            "an acceleration has a sign (Theengs Decoder says so); mopeka-iot-ble takes the byte as it is",
            "a1b2c3d4e5f6 5900 0872460030e0f509f0d8",
        )
        for axis in "xy"
    ),
    Explained(
        "PySwitchbot",
        "switchbot-meter",
        "battery",
        _they_have_none,
        "a meter that has measured nothing may know its battery; PySwitchbot gives nothing at all",
        "a1b2c3d4e5f6 3dfd 540064000000",
    ),
    Explained(
        "PySwitchbot",
        "switchbot-meter",
        "battery",
        _we_have_none,
        "no meter sends at 0 %",
        "a1b2c3d4e5f6 3dfd 540000069835",
    ),
    Explained(
        "PySwitchbot",
        "switchbot-meter",
        "co2",
        _they_have_none,
        "as with the battery, PySwitchbot gives nothing where temperature and humidity are 0",
        "a1b2c3d4e5f6 3dfd 350064 6909 00000000000000000000000000000102 00",
    ),
    Explained(
        "aranet4",
        "aranet4",
        "temperature",
        _near(0.0500001),
        "steps are 0.05 Cel, and aranet4 rounds to 0.1",
        "a1b2c3d4e5f6 0207 210503010005000143049f018b27350c023c00100055",
    ),
    Explained(
        "aranet4",
        "aranet4",
        "integrations",
        lambda ours, theirs: (ours, theirs) == (True, False),
        "old firmware sets the bit and sends no values; aranet4 takes the bit back, we show what was sent",
        "a1b2c3d4e5f6 0207 210a0400000000",
    ),
    *(
        Explained(
            "bluetooth-sig",
            "gatt-sensors",
            value,
            _we_have_none,
            "bytes that no flag announced: we refuse the frame, bluetooth-sig leaves them out",
            frame,
        )
        for value, frame in (
            ("heart_rate", "a1b2c3d4e5f6 372a 005000"),
            ("contact", "a1b2c3d4e5f6 372a 065000"),
            ("energy_expended", "a1b2c3d4e5f6 372a 0850010000"),
            ("beat_intervals", "a1b2c3d4e5f6 372a 1050000400"),
        )
    ),
)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_reads_the_same(peer: Peer) -> None:
    """Whatever a frame holds, the peer finds the same values in it, or the table says why not."""
    pytest.importorskip(peer.module)

    @settings(max_examples=150, deadline=None)  # a peer's first call takes its time
    @given(peer.frames)
    def read(frame: bytes) -> None:
        assert unexplained(peer, frame, EXPLAINED) == {}, frame.hex(" ")

    read()


@pytest.mark.parametrize("explained", EXPLAINED, ids=lambda each: f"{each.package}-{each.profile}-{each.value}")
def test_an_explained_difference_is_there(explained: Explained) -> None:
    """The table holds no reason for a difference that is gone."""
    peer = next(each for each in PEERS if (each.package, each.profile) == (explained.package, explained.profile))
    pytest.importorskip(peer.module)
    found = differences(peer, bytes.fromhex(explained.shown_by))
    assert explained.when(*found[explained.value]), explained.why
