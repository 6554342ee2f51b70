"""A hundred Bluetooth sensors by the parsers that Home Assistant uses, one well-kept package for each brand.

The packages are those built on `bluetooth-sensor-state-data`; `docs/decisions/0011` says why these. They come with the
extra `ble-devices`. What is not installed is left out, and one that is asked for by `brands` and missing is an error.

A frame is what a radio hears: the sender's address (6 bytes, in printed order), then the advertising data as on air,
each structure its length, type and data (Bluetooth Core Specification, Supplement, part A). Of the scan response, the
structures stand behind those of the advertisement.

A parser of this family is made for one device and remembers it. Here each frame gets parsers of its own, so that a
frame means the same whatever came before, and noise fills no memory. The strength of the signal is the radio's
business and no value. Values are given in SenML units; one that the parser says in words ("error") where a number
belongs is null.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from edge_gateway.codec.compile import Decoded
from edge_gateway.codec.decoders.ble_values import VALUES, in_senml
from edge_gateway.errors import CodecError
from edge_gateway.records import Reject, Sample, Value

if TYPE_CHECKING:  # it comes with the extra
    from bluetooth_sensor_state_data import BluetoothData
    from sensor_state_data import SensorUpdate

EXTRA: Final = "ble-devices"

BRANDS: Final[Mapping[str, tuple[str, str]]] = {
    "bluemaestro": ("bluemaestro_ble", "BlueMaestroBluetoothDeviceData"),
    "govee": ("govee_ble", "GoveeBluetoothDeviceData"),
    "inkbird": ("inkbird_ble", "INKBIRDBluetoothDeviceData"),
    "kegtron": ("kegtron_ble", "KegtronBluetoothDeviceData"),
    "leaone": ("leaone_ble", "LeaoneBluetoothDeviceData"),
    "moat": ("moat_ble", "MoatBluetoothDeviceData"),
    "mopeka": ("mopeka_iot_ble", "MopekaIOTBluetoothDeviceData"),
    "oral-b": ("oralb_ble", "OralBBluetoothDeviceData"),
    "qingping": ("qingping_ble", "QingpingBluetoothDeviceData"),
    "rapt": ("rapt_ble", "RAPTPillBluetoothDeviceData"),
    "sensirion": ("sensirion_ble", "SensirionBluetoothDeviceData"),
    "sensorpush": ("sensorpush_ble", "SensorPushBluetoothDeviceData"),
    "thermobeacon": ("thermobeacon_ble", "ThermoBeaconBluetoothDeviceData"),
    "thermopro": ("thermopro_ble", "ThermoProBluetoothDeviceData"),
    "tilt": ("tilt_ble", "TiltBluetoothDeviceData"),
    "xiaomi": ("xiaomi_ble", "XiaomiBluetoothDeviceData"),
}
"""Module and class of each brand's parser. The first that knows a frame is asked, in this order."""

_ADDRESS_BYTES: Final = 6

_NO_MEASUREMENT: Final = frozenset({"signal_strength", "packet_id"})
"""What parsers say of the radio, not of the device's world."""

_NO_RSSI_DBM: Final = -127
"""What Bluetooth scanners say of a signal they did not measure."""


class BleDevices:
    """The decoder `ble-devices`.

    Args:
        options: `brands`: which of `BRANDS` may be heard; all that are installed, unless given. Fewer are faster, and
            tell brands apart whose frames look alike.

    Raises:
        CodecError: the extra is not installed, or there is no such option or brand.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key != "brands":
                raise CodecError("there is no such option", where=str(key), remedy="Options: brands")
        self.values = VALUES
        self._parsers = list(_parsers(options.get("brands")))
        self._advertising = _installed("bluetooth_data_tools")
        self._info = _installed("habluetooth").BluetoothServiceInfoBleak
        self._device = _installed("bleak.backends.device").BLEDevice

    def decode(self, frames: Sequence[bytes], /) -> Decoded:
        """Decode advertisements, each with its sender's address in front."""
        decoded = Decoded([], [], [])
        for frame in frames:
            if len(frame) <= _ADDRESS_BYTES:
                decoded.rejects.append(Reject(frame, "length"))
                continue
            address = frame[:_ADDRESS_BYTES].hex(":")
            values = self._values(address, frame[_ADDRESS_BYTES:])
            if values:
                decoded.samples.append(Sample(address, None, values))
            else:
                decoded.rejects.append(Reject(frame, "unknown-frame"))
        return decoded

    def _values(self, address: str, advertising_data: bytes) -> dict[str, Value]:
        """What the first parser that knows the device says; nothing if none does.

        Raises:
            Exception: what a parser raised for it, if no other one knows it.
        """
        name, service_uuids, service_data, manufacturer_data, tx_power = (
            self._advertising.parse_advertisement_data_bytes(advertising_data)
        )
        # The parsers write addresses in capitals into names, and compare them so.
        address = address.upper()
        heard = self._info(
            name=name or address,
            address=address,
            rssi=_NO_RSSI_DBM,
            manufacturer_data=manufacturer_data,
            service_data=service_data,
            service_uuids=service_uuids,
            source="local",
            device=self._device(address, name, None),
            advertisement=None,
            connectable=False,
            time=0.0,
            tx_power=tx_power,
            raw=advertising_data,
        )
        failure: Exception | None = None
        for parser in self._parsers:
            try:
                values = _told(parser().update(heard))
            except Exception as error:  # noqa: BLE001 -- the next brand may know the frame; if none does, the door tells
                failure = failure or error
                continue
            if values:
                return values
        if failure is not None:
            raise failure
        return {}


def _parsers(brands: object) -> Iterator[type[BluetoothData]]:
    """The parsers of these brands; of all that are installed for None.

    Raises:
        CodecError: there is no such brand, or its parser is not installed, or none is.
    """
    if brands is None:
        brands = [brand for brand, (module, _) in BRANDS.items() if find_spec(module)] or list(BRANDS)
    if not isinstance(brands, list | tuple) or not brands:
        raise CodecError("is no list of brands", where="brands", remedy=f"Brands: {', '.join(BRANDS)}")
    for brand in brands:
        if brand not in BRANDS:
            raise CodecError(f"there is no brand {brand!r}", where="brands", remedy=f"Brands: {', '.join(BRANDS)}")
        module, name = BRANDS[brand]
        yield getattr(_installed(module), name)
        # They log a line for many a frame they cannot read, and strangers send frames without end.
        logging.getLogger(module).setLevel(logging.CRITICAL)


def _installed(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise CodecError(
            f"the package with {error.name!r} is not installed", remedy=f"pip install 'edge-gateway[{EXTRA}]'"
        ) from error


def _told(update: SensorUpdate) -> dict[str, Value]:
    """The values of an update, under names of our alphabet; empty if the parser does not know the device."""
    values: dict[str, Value] = {}
    for key, sensor in update.entity_values.items():
        if key.key not in _NO_MEASUREMENT:
            unit = update.entity_descriptions[key].native_unit_of_measurement
            _add(values, key, in_senml(sensor.native_value, unit))
    for key, binary in update.binary_entity_values.items():
        _add(values, key, binary.native_value)
    for key, event in update.events.items():
        _add(values, key, event.event_type)
    models = [device.model for device in update.devices.values() if device.model is not None]
    if values and models:
        values["model"] = str(models[0])
    return values


def _add(values: dict[str, Value], key: Any, value: Value) -> None:
    """Under the key's name and its part of the device; under `NAME_2` where a sensor and an event share a name."""
    name, place = _in_our_letters(key.key), _in_our_letters(key.device_id or "")
    if place and not name.endswith(place):
        name = f"{name}_{place}"
    values[name if name not in values else f"{name}_2"] = value


def _in_our_letters(text: object) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", str(text).lower()))
