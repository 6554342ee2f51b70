"""Keys in gateway.yaml: names of keys, and never a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_gateway.assembly import check_parts
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import parse_config
from edge_gateway.errors import ConfigError

from .documents import GOOD, changed

KEY = "a115210eed7a88e50ad52662e732a9fb"


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_parts(parse_config(document, where="gateway.yaml", directory=Path()), clock=SystemClock())
    return str(caught.value)


@pytest.mark.parametrize("path", [("links", 0, "keys"), ("links", 0, "devices", 0, "keys")])
@pytest.mark.parametrize("value", [{"bindkey": KEY}, {"bindkey": KEY.upper()}, KEY, [KEY], {"bindkey": [KEY]}])
def test_a_key_itself_is_refused_and_not_repeated(path: tuple[str | int, ...], value: object) -> None:
    """Where a name belongs somebody put the secret: the error does not spread it."""
    told = refusal(changed(path, value))
    assert "keys" in told
    assert KEY not in told.lower()


def test_what_a_key_looks_like_is_told_with_a_way_out() -> None:
    """The error names the setting and the command that takes the key."""
    told = refusal(changed(("links", 0, "keys"), {"bindkey": KEY}))
    assert "`links[0].keys.bindkey`" in told
    assert "edge-gateway keys import kitchen --payload" in told


def test_a_key_that_the_profile_does_not_have_is_refused() -> None:
    """A word misspelt would be a sensor that is never understood."""
    told = refusal(changed(("links", 0, "devices", 0, "keys"), {"bindkey": "boiler"}))
    assert told.startswith("links: bus-1 boiler: reference-climate has no key 'bindkey'")
    assert "leave out `keys`" in told
    bthome = {**GOOD["links"][0], "profile": "bthome-v2", "framing": {"kind": "slip"}, "keys": {"bindky": "x"}}
    told = refusal({**changed(("links",), [bthome]), "rules": []})
    assert told == "links: bus-1: bthome-v2 has no key 'bindky'. Keys: bindkey"


@pytest.mark.parametrize("name", ["bindkey-{address}", "kitchen", "{address}"])
def test_names_and_places_are_taken(name: str) -> None:
    """A link may have one key for all, or one for each address."""
    document = changed(("links", 0, "keys"), {"bindkey": name})
    assert parse_config(document, where="test", directory=Path()).links[0].keys == {"bindkey": name}


@pytest.mark.parametrize("name", ["{adress}", "a b", "", "{address", "../x"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """Only `{address}` is filled in."""
    assert "not a name" in refusal(changed(("links", 0, "keys"), {"bindkey": name}))
