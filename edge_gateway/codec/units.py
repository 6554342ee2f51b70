"""The unit codes of SenML, the registry every value's unit comes from.

A receiver can convert and compare only what it can name, so a profile says `Cel` and not `°C`, `degC` or `celsius`. The
registry is kept at https://www.iana.org/assignments/senml/; these are the codes of RFC 8428 section 12.1 without those
it advises against, and the primary and secondary codes RFC 8798 added.
"""

from __future__ import annotations

_RFC_8428 = (
    "m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat m2 m3 m/s m/s2 m3/s W/m2 cd/m2 "
    "bit bit/s lat lon pH dB dBW count / %RH %EL EL 1/s S/m"
)
_RFC_8798_PRIMARY = "B VA VAs var vars J/m kg/m3 deg NTU"
_RFC_8798_SECONDARY = (
    "ms min h MHz kW kVA kvar Ah Wh kWh varh kvarh kVAh Wh/km KiB GB Mbit/s B/s MB/s mV mA dBm ug/m3 mm/h m/h ppm /100 "
    "/1000 hPa mm cm km km/h"
)

SENML_UNITS = frozenset(f"{_RFC_8428} {_RFC_8798_PRIMARY} {_RFC_8798_SECONDARY}".split())
"""Every code a profile may use."""

MISTAKEN_UNITS = {
    "%": "/100",
    "°C": "Cel",
    "degC": "Cel",
    "celsius": "Cel",
    "°": "deg",
    "lux": "lx",
    "ohm": "Ohm",
    "µg/m3": "ug/m3",
    "µg/m³": "ug/m3",
    "rh": "%RH",
}
"""What people write, and the code they mean."""
