"""SenML, the measurements of devices that speak for themselves (RFC 8428, versions by RFC 9100).

A pack is a list of records. Base fields (`bn`, `bt`, `bu`, `bv`, `bs`) hold from the record they are in until they are
set again; a record's own name, time, value and sum are added to them. Out of the door comes one sample for each device
(its address is the base name) and each time in the pack:

```
[{"bn":"urn:dev:mac:0b92569229fc9e68/","bt":1.7e9,"n":"t","u":"Cel","v":21.5},{"n":"door","vb":true}]
address urn:dev:mac:0b92569229fc9e68/
values  {"time": "2023-11-14T22:13:20.000Z", "t": 21.5, "door": true, "units": {"t": "Cel"}}
```

- `time` is the record's own, if it has one. A time relative to now becomes `age_s`, seconds ago.
- A value's name is the record's `n`; without one, its unit, or `value`. With the option `names: resolved`, it is the
  whole name (`bn` and `n`). The sum of `temp` is `temp_sum`. A name that comes again in a sample gets `_2`, `_3`.
- `units` has the unit of each value that has one, unless the option `values` says it already.

A pack is taken as a whole or not at all: one record that breaks a rule rejects it (`value`), and bytes that are no
list of records are an `unknown-frame`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from edge_gateway.codec.compile import Decoded
from edge_gateway.codec.decoders.senml_wire import NoPack, Record, records_of_cbor, records_of_json
from edge_gateway.codec.fields.timestamps import rfc3339_ms
from edge_gateway.codec.units import SENML_UNITS
from edge_gateway.errors import CodecError
from edge_gateway.records import Reject, Sample, Value

MOST_RECORDS: Final = 1_000
"""Of one pack."""

_MOST_OF_ONE_NAME: Final = 99
"""Values of one name, device and time."""

_FORMATS: Final[Mapping[str, Callable[[bytes], list[Record]]]] = {"json": records_of_json, "cbor": records_of_cbor}
_NAMES: Final = ("local", "resolved")

_RESOLVED_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]{0,254}")
"""RFC 8428 section 4.5.1; the length is ours."""

_VERSIONS: Final = frozenset({*range(11), 26})
"""Up to 10 as RFC 8428 has it, and 26, which is 10 with the units of RFC 8798 (RFC 9100 section 5)."""

_RELATIVE_BELOW_S: Final = 2**28
"""A time before this many seconds is relative to now (RFC 8428 section 4.5.3)."""

_VALUE_LABELS: Final = ("v", "vs", "vb", "vd")


class _Broken(ValueError):
    """A record breaks a rule of SenML."""


class _Measurement(NamedTuple):
    """A record with the base fields worked in."""

    device: str
    """The base name; empty for none."""
    name: str
    """The record's own name; may be empty."""
    unit: str | None
    time_s: Decimal
    values: list[tuple[str, Value]]
    """What it says, with what the value's name ends with: nothing, or `_sum`."""


class SenmlDecoder:
    """The decoder `senml`.

    Args:
        options: `format`: `json` or `cbor`. `names`: `local` (unless given) or `resolved`. `values`: names of values
            and their units, or null for values without one; a record of such a name with another unit is wrong.

    Raises:
        CodecError: an option is missing, unknown or wrong.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in ("format", "names", "values"):
                raise CodecError("there is no such option", where=str(key), remedy="Options: format, names, values")
        kind, names = str(options.get("format")), options.get("names", "local")
        if kind not in _FORMATS:
            raise CodecError(f"{kind!r} is no format", where="format", remedy=f"Possible: {', '.join(_FORMATS)}")
        if names not in _NAMES:
            raise CodecError(f"{names!r} is not possible", where="names", remedy=f"Possible: {', '.join(_NAMES)}")
        self._records = _FORMATS[kind]
        self._whole_names = names == "resolved"
        self._units = _checked_units(options.get("values"))
        self.values = self._units or None

    def decode(self, frames: Sequence[bytes], /) -> Decoded:
        """Decode packs, one in each frame."""
        decoded = Decoded([], [], [])
        for frame in frames:
            try:
                decoded.samples.extend(self._samples(_resolved(self._records(frame))))
            except NoPack:
                decoded.rejects.append(Reject(frame, "unknown-frame"))
            except _Broken:
                decoded.rejects.append(Reject(frame, "value"))
        return decoded

    def _samples(self, measurements: Iterable[_Measurement]) -> Iterable[Sample]:
        """One sample for each device and time, in the order in which they first come."""
        together: dict[tuple[str, Decimal], tuple[dict[str, Value], dict[str, Value]]] = {}
        for each in measurements:
            values, units = together.setdefault((each.device, each.time_s), (_time_values(each.time_s), {}))
            own_name = f"{each.device}{each.name}" if self._whole_names else each.name
            for ending, value in each.values:
                name = _free_name(f"{own_name or each.unit or 'value'}{ending}", values)
                values[name] = value
                if name in self._units and self._units[name] != each.unit:
                    raise _Broken("another unit than the profile says")
                if each.unit is not None and name not in self._units:
                    units[name] = each.unit
        for (device, _), (values, units) in together.items():
            if units:
                values[_free_name("units", values)] = units
            yield Sample(device or None, None, values)


def _checked_units(units: object) -> dict[str, str | None]:
    if units is None:
        return {}
    if not isinstance(units, Mapping):
        raise CodecError("is no mapping of names to units", where="values", remedy="For instance: {temp: Cel}")
    for name, unit in units.items():
        if unit is not None and unit not in SENML_UNITS:
            raise CodecError(
                f"{unit!r} is not a SenML unit code", where=f"values.{name}", remedy="Codes that would do: Cel, %RH, V"
            )
    return dict(units)


def _resolved(records: Sequence[Record]) -> Iterable[_Measurement]:
    """The measurements of a pack, in its order (RFC 8428 section 4.6).

    Raises:
        _Broken: a record breaks a rule.
    """
    if len(records) > MOST_RECORDS:
        raise _Broken("too many records")
    base_name, base_unit = "", None
    base_time, base_value, base_sum = Decimal(0), Decimal(0), Decimal(0)
    version: int | None = None
    for record in records:
        _check_labels(record)
        if "bver" in record:
            if (
                type(record["bver"]) is not int
                or record["bver"] not in _VERSIONS
                or version not in (None, record["bver"])
            ):
                raise _Broken("a version we do not know, or a second one")
            version = record["bver"]
        base_name = _text(record, "bn") if "bn" in record else base_name
        base_unit = _text(record, "bu") if "bu" in record else base_unit
        base_time = _number(record, "bt") if "bt" in record else base_time
        base_value = _number(record, "bv") if "bv" in record else base_value
        base_sum = _number(record, "bs") if "bs" in record else base_sum
        held = [label for label in _VALUE_LABELS if label in record]
        if not held and "s" not in record:
            continue
        if len(held) > 1:
            raise _Broken("two values in one record")
        name = _text(record, "n") if "n" in record else ""
        if not _RESOLVED_NAME.fullmatch(base_name + name):
            raise _Broken("a name that is none")
        values = [("", _value(record, label, base_value)) for label in held]
        if "s" in record:
            values.append(("_sum", _json_number(base_sum + _number(record, "s"))))
        time_s = base_time + (_number(record, "t") if "t" in record else 0)
        unit = _text(record, "u") if "u" in record else base_unit
        yield _Measurement(base_name, name, unit or None, time_s, values)


def _check_labels(record: Record) -> None:
    if any(label.endswith("_") for label in record):
        raise _Broken("a label that must be understood, and is not")


def _text(record: Record, label: str) -> str:
    text = record[label]
    if not isinstance(text, str):
        raise _Broken(f"{label} is no text")
    return text


def _number(record: Record, label: str) -> Decimal:
    """A number as the decimal that was sent, so that sums with a base field are exact."""
    number = record[label]
    if type(number) not in (int, float) or not math.isfinite(number):
        raise _Broken(f"{label} is no number")
    return Decimal(repr(number))


def _value(record: Record, label: str, base_value: Decimal) -> Value:
    if label == "v":
        return _json_number(base_value + _number(record, "v"), record["v"] if not base_value else None)
    value = record[label]
    match label:
        case "vs" if isinstance(value, str):
            return value
        case "vb" if isinstance(value, bool):
            return value
        case "vd" if isinstance(value, bytes):
            return value.hex()
    raise _Broken(f"{label} is of another type")


def _json_number(number: Decimal, as_sent: int | float | None = None) -> int | float:
    """A number for JSON: as it was sent if nothing was added to it, else whole if it is and fits 64 bits."""
    if as_sent is not None:
        return as_sent if -(2**63) <= as_sent < 2**64 or isinstance(as_sent, float) else float(as_sent)
    whole = int(number) if number == number.to_integral_value() else None
    return whole if whole is not None and -(2**63) <= whole < 2**64 else float(number)


def _time_values(time_s: Decimal) -> dict[str, Value]:
    if not time_s:
        return {}
    if time_s < _RELATIVE_BELOW_S:
        return {"age_s": _json_number(-time_s)}
    return {"time": rfc3339_ms(int((time_s * 1000).to_integral_value()))}


def _free_name(name: str, taken: Mapping[str, Value]) -> str:
    if name not in taken:
        return name
    for number in range(2, _MOST_OF_ONE_NAME + 1):
        if f"{name}_{number}" not in taken:
            return f"{name}_{number}"
    raise _Broken("too many values of one name at one time")
