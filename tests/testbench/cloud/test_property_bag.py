"""Property bags as clients in the field write them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.property_bag import SYSTEM_NAMES, format_property_bag, parse_property_bag

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(lambda name: bool(name) and not name.startswith("$."))


@given(st.dictionaries(names, texts), st.dictionaries(st.sampled_from(sorted(SYSTEM_NAMES.values())), texts))
def test_round_trip(properties: dict[str, str], system: dict[str, str]) -> None:
    """What is written is read back, whatever the letters."""
    assert parse_property_bag(format_property_bag(properties, system)) == (properties, system)


@given(st.text(max_size=100))
def test_arbitrary_text(bag: str) -> None:
    """Any text is read or refused with `ValueError`, never another error."""
    with suppress(ValueError):
        parse_property_bag(bag)


@pytest.mark.parametrize(
    ("bag", "properties", "system"),
    [
        ("", {}, {}),
        ("a=1&b=2", {"a": "1", "b": "2"}, {}),
        ("a=1/", {"a": "1"}, {}),
        ("?a=1", {"a": "1"}, {}),
        ("a=1+2%2B3%203", {"a": "1+2+3 3"}, {}),
        ("%24.mid=x&$.ct=application%2Fjson", {}, {"message-id": "x", "content-type": "application/json"}),
        ("alone&empty=", {"alone": "", "empty": ""}, {}),
        ("a=b=c", {"a": "b=c"}, {}),
        ("%24.tracestate=timestamp%3d1", {}, {"$.tracestate": "timestamp=1"}),
    ],
)
def test_forms_seen_in_the_field(bag: str, properties: dict[str, str], system: dict[str, str]) -> None:
    """Each client's way of writing is understood."""
    assert parse_property_bag(bag) == (properties, system)


def test_no_value() -> None:
    """A property without a value is its name alone."""
    assert format_property_bag({"k": None, "e": ""}, {}) == "k&e="
