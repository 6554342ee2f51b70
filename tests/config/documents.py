"""Configurations: one to break in every way, and a strategy for all that are right."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge_gateway.config.devices import PortSettings

GOOD: dict[str, Any] = {
    "gateway": {"name": "plant-3"},
    "links": [
        {
            "name": "bus-1",
            "port": {"path": "/dev/ttyUSB0"},
            "profile": "reference-climate",
            "devices": [{"name": "boiler", "address": 1}, {"name": "attic", "address": 2}],
        }
    ],
    "uplink": {"kind": "mqtt", "host": "broker.example.com"},
    "rules": [
        {
            "name": "hot",
            "profile": "reference-climate",
            "value": "temperature",
            "raise_above": 30,
            "clear_below": 28,
            "on_raise": {"name": "set-relay", "arguments": {"state": 1}},
        }
    ],
}

IOT_HUB = {"kind": "iot-hub", "host_name": "plant.azure-devices.net", "device_id": "gw-17"}
REMOVED = object()


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The good configuration with one place different."""
    document = copy.deepcopy(GOOD)
    node: Any = document
    for step in path[:-1]:
        node = node[step]
    if value is REMOVED:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


def _settings(
    required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
_texts = st.text(min_size=1, max_size=20).filter(lambda text: "\x00" not in text)
_hosts = st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}", fullmatch=True)
_hexes = st.binary(max_size=4).map(bytes.hex)
_limits = st.integers(-1000, 1000) | st.floats(-1000, 1000)

_ports = (
    _settings({"path": _texts})
    | _settings(
        {
            "usb": _settings(
                {"vendor_id": st.integers(0, 0xFFFF), "product_id": st.integers(0, 0xFFFF)},
                serial_number=_texts | st.none(),
            )
        }
    )
    | _settings(
        {"replay": _texts},
        captured_link=_texts | st.none(),
        speed=st.none() | st.floats(0.1, 100),
    )
)

_frame_bytes = st.integers(1, 65_536)
_framings = (
    _settings({"kind": st.sampled_from(["cobs", "slip"])}, max_frame_bytes=_frame_bytes)
    | _settings({"kind": st.just("delimiter")}, delimiter=_hexes, start=_hexes, strip=_hexes)
    | _settings({"kind": st.just("block"), "end": _hexes}, start=_hexes, tail_bytes=st.integers(0, 255))
    | _settings({"kind": st.just("hex-text")}, start=_hexes, strip=_hexes, max_frame_bytes=_frame_bytes)
    | _settings({"kind": st.just("length-prefixed")}, sync=_hexes, length_bytes=st.sampled_from([1, 2, 4]))
    | _settings({"kind": st.just("fixed"), "frame_bytes": _frame_bytes}, silence_s=st.floats(0.01, 60) | st.none())
    | _settings({"kind": st.just("idle-gap")}, silence_s=st.floats(0.001, 60))
)

_lines = _settings(
    {},
    baud=st.integers(50, 4_000_000),
    data_bits=st.sampled_from([5, 6, 7, 8]),
    parity=st.sampled_from(["none", "even", "odd", "mark", "space"]),
    rs485=st.none() | _settings({}, rts_on_send=st.booleans(), delay_after_send_s=st.floats(0, 1)),
)

_commands = _settings(
    {"name": _texts},
    arguments=st.dictionaries(_texts, st.booleans() | st.integers(-9, 9) | _limits | _texts, max_size=3),
)


@st.composite
def _rules(draw: st.DrawFn, name: str) -> dict[str, Any]:
    low, high = sorted((draw(_limits), draw(_limits)))
    limits = draw(
        st.sampled_from([{"raise_above": high, "clear_below": low}, {"raise_below": low, "clear_above": high}])
    )
    rule = {"name": name, "profile": draw(_texts), "value": draw(_texts), **limits}
    return rule | draw(
        _settings({}, kind=st.just("threshold"), devices=st.lists(names, max_size=2), on_raise=_commands | st.none())
    )


_uplinks = _settings(
    {
        "kind": st.just("iot-hub"),
        "host_name": _hosts,
        "device_id": st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True),
    },
    key=names,
    ca_file=_texts | st.none(),
    token_lifetime_s=st.integers(300, 86_400),
) | _settings(
    {"kind": st.just("mqtt"), "host": _hosts},
    port=st.integers(1, 65_535),
    topic=st.sampled_from(["a/{message_id}", "{gateway}/{lane}/{message_id}"]),
    command_topic=st.sampled_from(["{gateway}/commands/+", "commands/#"]),
    username=_texts,
    certificate_file=_texts,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration that is right."""
    link_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    gateway_name, *device_names = draw(st.lists(names, min_size=7, max_size=7, unique=True))
    left_names = iter(device_names)
    ports = draw(
        st.lists(
            _ports,
            min_size=len(link_names),
            max_size=len(link_names),
            unique_by=TypeAdapter(PortSettings).validate_python,
        )
    )
    links = []
    for name, port in zip(link_names, ports, strict=True):
        addresses = draw(st.lists(st.integers(0, 99) | _texts, max_size=2, unique=True))
        devices = [{"name": next(left_names), "address": address} for address in addresses]
        optional = draw(
            _settings(
                {},
                line=_lines | st.none(),
                framing=_framings | st.none(),
                unknown_devices=st.sampled_from(["accept", "reject"]),
                answer_timeout_s=st.floats(0.01, 60),
            )
        )
        links.append({"name": name, "port": port, "profile": draw(_texts), "devices": devices} | optional)
    rules = [draw(_rules(name)) for name in draw(st.lists(names, max_size=3, unique=True))]
    document = {"gateway": {"name": gateway_name}, "links": links, "uplink": draw(_uplinks), "rules": rules}
    return document | draw(
        _settings(
            {},
            buffer=_settings({}, max_disk_bytes=st.integers(4 << 20, 1 << 40), max_message_age_s=st.floats(0, 3600)),
            delivery=_settings({}, in_flight=st.integers(1, 100), keep_alive_s=st.integers(5, 1177)),
        )
    )
