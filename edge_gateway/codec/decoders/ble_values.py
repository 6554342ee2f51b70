"""What the values of the Bluetooth parsers are called and in which units, for `ble_devices.py`.

The parsers use the units of Home Assistant. Here each name has one SenML unit, whatever a brand's parser counts in.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from edge_gateway.records import Value


class _Unit(NamedTuple):
    """A unit of the parsers in SenML: `number * scale + offset` is in `code`."""

    code: str
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)


_UNITS: Final[Mapping[str, _Unit]] = {
    "°C": _Unit("Cel"),
    "°F": _Unit("Cel", Decimal(5) / 9, Decimal(-160) / 9),
    "mbar": _Unit("hPa"),
    "µg/m³": _Unit("ug/m3"),
    "mg/m³": _Unit("ug/m3", Decimal(1000)),
    "ohm": _Unit("Ohm"),
    "L": _Unit("m3", Decimal("0.001")),
    "µS/cm": _Unit("S/m", Decimal("0.0001")),
    **{code: _Unit(code) for code in ("V", "hPa", "lx", "ppm", "kg", "mm", "s", "min")},
}
"""Of another unit, the number is given as it is."""

_MEASURED: Final[Mapping[str, str]] = {
    "battery": "%EL",
    "battery_voltage": "V",
    "carbon_dioxide": "ppm",
    "case_battery": "%EL",
    "conductivity": "S/m",
    "consumable": "/100",
    "dew_point": "Cel",
    "formaldehyde": "ug/m3",
    "humidity": "%RH",
    "illuminance": "lx",
    "impedance": "Ohm",
    "mass": "kg",
    "mass_non_stabilized": "kg",
    "moisture": "/100",
    "non_stabilized_mass": "kg",
    "pm10": "ug/m3",
    "pm25": "ug/m3",
    "pressure": "hPa",
    "probe_battery": "%EL",
    "reading_quality": "/100",
    "station_battery": "%EL",
    "tank_level": "mm",
    "temperature": "Cel",
    "temperature_ambient": "Cel",
    "temperature_probe": "Cel",
    "voltage": "V",
}

_OF_PROBES: Final[Mapping[str, str]] = {
    "ambient_temperature": "Cel",
    "battery": "%EL",
    "humidity": "%RH",
    "internal_center_temperature": "Cel",
    "internal_end_temperature": "Cel",
    "internal_temperature": "Cel",
    "low_temperature_alarm": "Cel",
    "temperature": "Cel",
    "temperature_alarm": "Cel",
}
"""Of thermometers for meat and kilns, which have up to six probes."""

_OF_BOXES: Final[Mapping[str, str]] = {"battery": "%EL", "humidity": "%RH", "temperature": "Cel"}
"""Of a sensor with a second box outdoors."""

_OF_KEGS: Final[Mapping[str, str | None]] = {
    "keg_size": "m3",
    "keg_type": None,
    "port_name": None,
    "port_state": None,
    "volume_dispensed": "m3",
    "volume_start": "m3",
}

_STATES: Final = """
accelerometer_x accelerometer_y armed brushing button button_0 button_1 button_left button_middle button_on
button_pressed button_right counter cube door door_left_open fingerprint fingerprint_2 heart_rate key_id light lock
lock_2 lock_method mode model motion motion_2 none_door_left_open number_of_sectors occupancy opening port_count power
presence reading_quality_raw score sector sector_timer specific_gravity specific_gravity_velocity stabilized time
toothbrush toothbrush_state vibration window
"""
"""Names without a unit."""

VALUES: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(_STATES.split()),
    **_MEASURED,
    **{f"{name}_probe_{probe}": unit for name, unit in _OF_PROBES.items() for probe in range(1, 7)},
    **{f"{name}_{place}": unit for name, unit in _OF_BOXES.items() for place in ("primary", "remote")},
    **{f"{name}{port}": unit for name, unit in _OF_KEGS.items() for port in ("", "_port_1", "_port_2")},
}
"""The names the parsers use, with their units."""


def in_senml(value: object, unit: str | None) -> Value:
    """A parser's value in the SenML unit that belongs to its own.

    Args:
        value: what the parser says; no number but a word, like "error", where it could not measure.
        unit: as the parser names it; None for a state or a count.

    Returns:
        The value; None for a word in place of a number, and for what is neither number, word nor truth.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if unit is None else None
    if not isinstance(value, int | float):
        return None
    known = _UNITS.get(str(unit))
    if known is None or (known.scale == 1 and not known.offset):
        return value
    return float(round(Decimal(repr(value)) * known.scale + known.offset, 6))
