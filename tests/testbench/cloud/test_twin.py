"""Twin documents: merging, versions and limits."""

from __future__ import annotations

from typing import Any

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


@given(patches, patches)
def test_replacing_leaves_nothing_of_the_old(old: dict[str, Value], new: dict[str, Value]) -> None:
    """Replaced, desired properties and tags are the new ones, whatever was there, and a version older by one change."""
    twin = Twin()
    twin.patch_desired(old)
    twin.replace_desired(new)
    twin.replace_tags(old)
    twin.replace_tags(new)
    assert twin.desired == without_nulls(new)
    assert twin.tags == without_nulls(new)
    assert twin.desired_version == 3


def test_metadata() -> None:
    """Each member bears the version at which it was last set, and so does each object that was changed below."""
    twin = Twin()
    twin.patch_desired({"a": {"x": 1, "y": 1}, "b": 1})
    twin.patch_desired({"a": {"y": 2}})
    twin.patch_desired({"b": None})
    metadata: Any = twin.service_document()["properties"]
    metadata = metadata["desired"]["$metadata"]
    versions = {"": metadata, "a": metadata["a"], "a/x": metadata["a"]["x"], "a/y": metadata["a"]["y"]}
    assert {path: node["$lastUpdatedVersion"] for path, node in versions.items()} == {"": 4, "a": 3, "a/x": 2, "a/y": 3}
    assert "b" not in metadata


def test_tags_are_not_for_the_device() -> None:
    """Tags count in the twin's version and etag, have a limit of their own, and are not in what a device gets."""
    twin = Twin()
    before = twin.etag
    twin.patch_tags({"plant": "x" * 4000})
    assert twin.etag != before
    assert "tags" not in twin.document()
    with pytest.raises(TwinRefused):
        twin.patch_tags({"more": "x" * 4000, "and": "y" * 4000})
    assert list(twin.tags) == ["plant"]


@given(patches, patches)
def test_a_twin_comes_back_from_its_state(first: dict[str, Value], second: dict[str, Value]) -> None:
    """Restored, a twin is the same, metadata and versions included."""
    twin = Twin()
    twin.patch_desired(first)
    twin.patch_reported(second)
    twin.patch_tags(second)
    assert Twin.restored(twin.state()).service_document() == twin.service_document()
