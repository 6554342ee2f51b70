"""The JSON Schema of the configuration says the same as the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from edge_gateway.config.load import parse_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import ConfigError

from .documents import GOOD, IOT_HUB, REMOVED, changed, documents

SCHEMA = GatewayConfig.model_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    """What `edge-gateway schema` prints is JSON Schema itself."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for each in node.values():
            yield from _objects(each)
    elif isinstance(node, list):
        for each in node:
            yield from _objects(each)


def test_no_object_takes_a_key_nobody_knows() -> None:
    """At every depth a misspelt key is refused and not ignored."""
    objects = list(_objects(SCHEMA))
    assert len(objects) > 15
    assert [each["title"] for each in objects if each.get("additionalProperties") is not False] == []


def test_every_setting_is_described_or_speaks_for_itself() -> None:
    """A setting without an obvious value has an example, from which errors take what would do."""
    silent = [
        f"{each['title']}.{key}"
        for each in _objects(SCHEMA)
        for key, setting in each["properties"].items()
        if setting.get("default") is None
        and not {"$ref", "anyOf", "oneOf", "items", "const", "examples"} & set(setting)
    ]
    assert silent == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_what_is_right_is_right_for_both(document: dict[str, Any]) -> None:
    """Any configuration the gateway takes is valid by the schema, and comes back the same through JSON."""
    VALIDATOR.validate(document)
    config = GatewayConfig.model_validate(document)
    again = json.loads(config.model_dump_json(exclude_unset=True))
    VALIDATOR.validate(again)
    assert GatewayConfig.model_validate(again) == config


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.data())
def test_a_key_too_many_is_wrong_for_both(document: dict[str, Any], data: st.DataObject) -> None:
    """Wherever a mapping of settings gets one key more, schema and gateway refuse it."""
    places = list(_mappings(document, GatewayConfig.model_validate(document)))
    data.draw(st.sampled_from(places))["unheard_of"] = 1
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ConfigError, match="unheard_of` is not a setting"):
        parse_config(document, where="g", directory=Path("/"))


def _mappings(document: Any, settings: Any) -> Iterator[dict[str, Any]]:
    """The mappings of a document that settings were made from."""
    if isinstance(settings, BaseModel):
        yield document
        for key in settings.model_fields_set:
            yield from _mappings(document[key], getattr(settings, key))
    elif isinstance(settings, tuple):
        for item, setting in zip(document, settings, strict=True):
            yield from _mappings(item, setting)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("gateway", "name"), REMOVED),
        (("gateway", "name"), "a b"),
        (("gateway", "log_level"), "warn"),
        (("links",), []),
        (("links", 0, "port"), {}),
        (("links", 0, "port"), {"path": "a", "replay": "b"}),
        (("links", 0, "framing"), {"kind": "fixed"}),
        (("uplink", "kind"), "coap"),
        (("uplink", "port"), 0),
        (("uplink", "host"), "mqtts://a.b"),
        (("uplink",), IOT_HUB | {"device_id": "a/b"}),
        (("uplink",), IOT_HUB | {"key": "a b"}),
        (("rules", 0, "on_raise", "arguments"), {"a": None}),
        (("delivery",), {"in_flight": 101}),
    ],
)
def test_what_is_wrong_in_form_is_wrong_for_both(path: tuple[str | int, ...], value: object) -> None:
    """An editor that knows the schema marks what the gateway would refuse."""
    document = changed(path, value)
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(ConfigError):
        parse_config(document, where="g", directory=Path("/"))


def test_the_example_to_break_is_whole() -> None:
    """The configuration that the tests break is right before."""
    VALIDATOR.validate(GOOD)
    assert parse_config(GOOD, where="g", directory=Path("/")).gateway.name == "plant-3"
