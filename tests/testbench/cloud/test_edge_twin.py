"""The edge hub's copy of a twin: patches merge as they would at the hub, whenever they get there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.edge.twin import TwinCopy, patch_between
from edge_gateway.testbench.cloud.twin import Twin, TwinRefused

names = st.text("ab", min_size=1, max_size=1)
leaves: st.SearchStrategy[Value] = st.none() | st.integers(0, 3)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=6), max_size=3
)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return value


def known(hub: Twin) -> TwinCopy:
    copy = TwinCopy()
    copy.refresh(hub.document())
    return copy


def members(section: Any) -> dict[str, Any]:
    return {name: member for name, member in section.items() if name != "$version"}


@given(objects, st.lists(st.tuples(objects, st.booleans()), max_size=6))
def test_reported_later_is_reported_now(base: dict[str, Any], patches: list[tuple[dict[str, Any], bool]]) -> None:
    """Patches that wait and merge do to the hub's twin what they would have done one by one, whenever some go up.

    And the copy shows at any time what the hub will have.
    """
    at_once, later = Twin(), Twin()
    at_once.patch_reported(base)
    later.patch_reported(base)
    copy = known(later)
    under_way: dict[str, Any] | None = None
    for patch, goes_up in patches:
        copy.patch_reported(patch)
        at_once.patch_reported(patch)
        assert members(copy.document()["reported"]) == at_once.reported
        if under_way is not None:  # it arrived while the client went on
            later.patch_reported(under_way)
            copy.sent(under_way)
            under_way = None
        if goes_up:
            under_way = copy.pending
        assert members(copy.document()["reported"]) == at_once.reported
    if under_way is not None:
        later.patch_reported(under_way)
        copy.sent(under_way)
    later.patch_reported(copy.pending)
    assert later.reported == at_once.reported


@given(objects, objects)
def test_difference(old: dict[str, Any], new: dict[str, Any]) -> None:
    """The patch between two sections makes the second of the first."""
    twin = Twin()
    twin.patch_desired(old)
    wanted = without_nulls(new)
    twin.patch_desired(patch_between(twin.desired, wanted))
    assert twin.desired == wanted


def test_what_was_missed() -> None:
    """After a time apart the copy tells what desired properties changed by; the first time nothing is told."""
    hub = Twin()
    hub.patch_desired({"a": 1, "b": {"c": 2, "d": 3}})
    copy = TwinCopy()
    assert not copy.known
    assert copy.refresh(hub.document()) == {}
    hub.patch_desired({"a": None, "b": {"c": 4}, "e": 5})
    assert copy.refresh(hub.document()) == {"a": None, "b": {"c": 4}, "e": 5, "$version": 3}
    assert copy.refresh(hub.document()) == {}


def test_desired_patches() -> None:
    """What the hub tells while it is there is in the copy, unless something before it was not told."""
    hub = Twin()
    hub.patch_desired({"a": 1})
    copy = known(hub)
    hub.patch_desired({"a": None, "b": 2})
    assert copy.patch_desired({"a": None, "b": 2, "$version": 3})
    assert copy.document() == hub.document()
    assert not copy.patch_desired({"c": 3, "$version": 5})
    assert copy.document() == hub.document()
    assert not TwinCopy().patch_desired({"a": 1, "$version": 2})


@pytest.mark.parametrize("patch", [None, [], {"a.b": 1}, {"a": "x" * 5000}])
def test_refused(patch: Any) -> None:
    """A patch the hub would not take is refused at once, and nothing waits."""
    copy = known(Twin())
    with pytest.raises(TwinRefused):
        copy.patch_reported(patch)
    assert copy.pending == {}


def test_too_much_together() -> None:
    """Patches that are too much only together are refused when they become so."""
    copy = known(Twin())
    for number in range(8):
        copy.patch_reported({f"k{number}": "x" * 4000})
    with pytest.raises(TwinRefused):
        copy.patch_reported({"k8": "x" * 4000})
    assert len(copy.pending) == 8


def test_copies_are_apart() -> None:
    """Changing what a copy gave out does not change it."""
    hub = Twin()
    hub.patch_desired({"a": {"b": 1}})
    copy = known(hub)
    copy.document()["desired"].clear()  # type: ignore[union-attr]  # a section is a dict
    assert copy.document() == hub.document()
