"""Which sensors shall have identities, and what they have them by: a table (CSV), or names of the configuration.

```
device,device_id,key                      device,registration_id
boiler-room,plant-3-boiler,bWFkZSB1cC4=   boiler-room,plant-3-boiler-room
```

A row with a key and a `device_id` is a device that somebody has made at the hub. One with a `registration_id` is had
from the provisioning service, by the row's key, or where it has none by one derived from a group's. The whole table is
read before anything is done, and all that is wrong is told with its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.provisioning.identities import MOST_IDENTITIES, is_device_id, is_device_name, is_registration_id
from edge_gateway.provisioning.symmetric_keys import MOST_KEY_CHARACTERS, read_key

MOST_TABLE_BYTES: Final = 4 << 20
"""Ten thousand of the longest rows that make sense."""

_COLUMNS: Final = ("device", "device_id", "key", "registration_id")
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class WantedLeaf:
    """A sensor that shall have an identity."""

    device: str
    """Its name in the configuration."""
    device_id: str = ""
    """At the hub; empty if the provisioning service decides, which takes the registration id unless told otherwise."""
    registration_id: str = ""
    """At the provisioning service; empty if the sensor does not come by it."""
    key: Secret | None = field(default=None, compare=False)
    """None if it is derived from a group's."""
    line: int = field(default=0, compare=False)
    """In the table."""

    @property
    def expected_id(self) -> str:
        """What its id at the hub is going to be, as far as anybody can know."""
        return self.device_id or self.registration_id


def read_table(content: bytes | bytearray, *, where: str) -> list[WantedLeaf]:
    """Read a table of sensors.

    Args:
        content: CSV in UTF-8 with a line of column names.
        where: the file or stream, for errors.

    Raises:
        ConfigError: something in it is wrong; the text has lines and reasons, and no key.
    """
    if len(content) > MOST_TABLE_BYTES:
        raise _wrong([f"it is larger than {MOST_TABLE_BYTES} bytes"], where)
    try:
        text = content.decode("utf-8-sig")  # as spreadsheets write it
    except UnicodeDecodeError as error:
        raise _wrong(["it is not UTF-8"], where) from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    leaves: list[WantedLeaf] = []
    faults: list[str] = []
    try:
        columns = [each.strip() for each in next(rows, [])]
        _check_columns(columns, where)
        for cells in rows:
            if not cells:
                continue  # an empty line
            if len(leaves) == MOST_IDENTITIES:
                raise _wrong([f"it has more than {MOST_IDENTITIES} rows"], where)
            if len(cells) != len(columns):
                faults.append(f"line {rows.line_num} has {len(cells)} cells in place of {len(columns)}")
                continue
            row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
            reasons = list(_faults(row))
            faults += [f"line {rows.line_num}: {reason}" for reason in reasons]
            if not reasons:
                leaves.append(_leaf(row, rows.line_num))
    except csv.Error as error:
        faults.append(f"line {rows.line_num} is no CSV: {error}")
    faults += [
        f"line {again.line}: its {what} is that of line {first.line}, too" for first, again, what in doubles(leaves)
    ]
    if faults:
        raise _wrong(faults, where)
    if not leaves:
        raise _wrong(["it has no row"], where)
    return leaves


def leaves_of(devices: Iterable[str], *, registration_id: str, gateway: str) -> list[WantedLeaf]:
    """The sensors of these names, to be had from the provisioning service by keys derived from a group's.

    Args:
        devices: their names in the configuration.
        registration_id: theirs at the service; `{gateway}` and `{device}` are filled in, in lower case.
        gateway: the gateway's name.

    Raises:
        ConfigError: there is none, a name is none, or two would be the same.
    """
    leaves = [
        WantedLeaf(
            device,
            registration_id=registration_id.replace("{gateway}", gateway.lower()).replace("{device}", device.lower()),
        )
        for device in dict.fromkeys(devices)
    ]
    faults = [
        f"{leaf.device}: {reason}"
        for leaf in leaves
        for reason in _faults({"device": leaf.device, "registration_id": leaf.registration_id})
    ]
    faults += [f"{again.device}: its {what} is that of {first.device}, too" for first, again, what in doubles(leaves)]
    if faults:
        raise _wrong(faults, "the sensors' registration ids")
    if not leaves:
        raise ConfigError(
            "no sensor is named", where="the configuration", remedy="List devices under `links`, or give --device NAME"
        )
    return leaves


def doubles(leaves: Iterable[WantedLeaf]) -> Iterator[tuple[WantedLeaf, WantedLeaf, str]]:
    """Sensors that would have the same name or identity: the first, the other, and what is the same.

    The provisioning service takes upper and lower case for the same, so ids may not differ in that alone.
    """
    owners: dict[tuple[str, str], WantedLeaf] = {}
    for leaf in leaves:
        for what, value in (
            ("device", leaf.device),
            ("id at the hub", leaf.expected_id.lower()),
            ("registration_id", leaf.registration_id.lower()),
        ):
            first = owners.setdefault((what, value), leaf)
            if value and first is not leaf:
                yield first, leaf, what
                break


def _check_columns(columns: list[str], where: str) -> None:
    known = ", ".join(_COLUMNS)
    if len(set(columns)) != len(columns):
        raise _wrong(["line 1: a column is there twice"], where)
    # Not repeated: a table without names in its first line has a key there.
    if "device" not in columns or not set(columns) <= set(_COLUMNS):
        raise _wrong([f"line 1 has to name the columns, with commas between them: device and some of {known}"], where)


def _faults(row: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a row by itself."""
    device, device_id = row["device"], row.get("device_id", "")
    key, registration_id = row.get("key", ""), row.get("registration_id", "")
    if not is_device_name(device):
        yield "device is no name that the configuration could have"
    if device_id and not is_device_id(device_id):
        yield "device_id cannot be an id at a hub, or has + or #, with which no device can connect by MQTT"
    if registration_id and not is_registration_id(registration_id):
        yield "registration_id cannot be one: at most 128 letters, digits and -._: with a letter or digit at both ends"
    if key:
        try:
            _key(key).wipe()
        except ConfigError as error:
            yield f"{error.what}: {error.remedy}"
    if not registration_id and not (key and device_id):
        yield "either registration_id is needed, or both key and device_id"


def _leaf(row: Mapping[str, str], line: int) -> WantedLeaf:
    key = row.get("key", "")
    return WantedLeaf(
        row["device"], row.get("device_id", ""), row.get("registration_id", ""), _key(key) if key else None, line
    )


def _key(text: str) -> Secret:
    # What is longer is no key; cut, it is not decoded for nothing and still none.
    return read_key(text[: MOST_KEY_CHARACTERS + 1].encode("ascii", errors="replace"), where="key")


def _wrong(faults: list[str], where: str) -> ConfigError:
    told = faults[:_MOST_TOLD]
    if len(faults) > len(told):
        told.append(f"and {len(faults) - len(told)} more")
    return ConfigError("; ".join(told), where=where, remedy="Nothing was done. Correct it and give it again")
