"""Twin documents: merging, versions and limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.records import Value
from edge_gateway.testbench.cloud.twin import Twin, TwinRefused

names = st.text("abcd", min_size=1, max_size=2)
leaves: st.SearchStrategy[Value] = st.none() | st.booleans() | st.integers(-9, 9) | st.text("xy", max_size=3)
patches = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8), max_size=4
)


def without_nulls(value: Value) -> Value:
    if isinstance(value, dict):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    return value


@given(patches)
def test_patch_of_an_empty_section(patch: dict[str, Value]) -> None:
    """Merged into nothing, a patch is itself without its nulls (RFC 7396)."""
    twin = Twin()
    twin.patch_desired(patch)
    assert twin.desired == without_nulls(patch)


@given(patches, patches)
def test_patching_twice_is_patching_once(first: dict[str, Value], second: dict[str, Value]) -> None:
    """The same patch again changes nothing but the version."""
    twin = Twin()
    twin.patch_reported(first)
    twin.patch_reported(second)
    once = twin.reported
    assert twin.patch_reported(second) == 4
    assert twin.reported == once


def test_merge() -> None:
    """Null deletes, objects merge, everything else replaces."""
    twin = Twin()
    twin.patch_desired({"keep": 1, "go": 2, "deep": {"a": 1, "b": [1, 2]}, "flat": 1})
    twin.patch_desired({"go": None, "deep": {"b": [3], "c": None}, "flat": {"x": 1}})
    assert twin.desired == {"keep": 1, "deep": {"a": 1, "b": [3]}, "flat": {"x": 1}}
    assert twin.document()["desired"] == {**twin.desired, "$version": 3}


def test_sections_are_apart() -> None:
    """Each section has its own content and version."""
    twin = Twin()
    twin.patch_desired({"a": 1})
    assert (twin.reported, twin.reported_version, twin.desired_version) == ({}, 1, 2)


def test_copies() -> None:
    """Changing what a twin was given or gave out does not change the twin."""
    twin = Twin()
    patch: dict[str, Value] = {"a": [1]}
    twin.patch_desired(patch)
    patch["a"] = 2
    twin.desired["a"] = 3
    assert twin.desired == {"a": [1]}


def nested(levels: int) -> Value:
    value: Value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "patch",
    [
        [1],
        None,
        "text",
        {"a.b": 1},
        {"$a": 1},
        {"a b": 1},
        {"a\n": 1},
        {"": 1},
        {"a": {"b.c": None}},
        {"k" * 1025: 1},
        {"a": "x" * 4097},
        {"a": 2**52 + 1},
        nested(11),
        {f"k{number}": "x" * 4000 for number in range(9)},
    ],
    ids=str,
)
def test_limits(patch: Value) -> None:
    """A patch over a limit is refused and changes nothing."""
    twin = Twin()
    with pytest.raises(TwinRefused):
        twin.patch_reported(patch)
    assert (twin.reported, twin.reported_version) == ({}, 1)


def test_within_limits() -> None:
    """What is just within the limits is taken."""
    twin = Twin()
    twin.patch_reported(nested(10))
    twin.patch_reported({"s": "x" * 4096, "n": -(2**52), "f": 1e300, "k" * 1024: True})
