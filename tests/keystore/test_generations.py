"""The names of a key's generations, which never are those of another key, and which of them are destroyed."""

from __future__ import annotations

import asyncio
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.clock import SystemClock
from edge_gateway.errors import KeyMissing, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import (
    MOST_GENERATIONS,
    Generations,
    age_s,
    destroy_before,
    generation_name,
    newest_generation,
    next_generation,
)
from edge_gateway.keystore.key_files import check_name
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.identities import leaf_key_name
from edge_gateway.testbench.virtual_time import VirtualClock

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
IN_2026_S = 1_770_000_000
NUMBERS = st.sets(st.integers(1, 99_999_999), min_size=1, max_size=5)


@pytest.fixture
def store(tmp_path: Path) -> SoftwareKeyStore:
    return SoftwareKeyStore(tmp_path / "keys")


# --- names ------------------------------------------------------------------------------------------------------------


@given(name=NAMES, number=st.integers(1, 99_999_999))
def test_a_generations_name_is_a_keys_name(name: str, number: int) -> None:
    """However long the key's name is, the store takes those of all its generations; the first is the name itself."""
    check_name(generation_name(name, number))
    assert generation_name(name, 1) == name


@given(keys=st.dictionaries(NAMES, NUMBERS, max_size=4))
def test_generations_are_found_again(keys: dict[str, set[int]]) -> None:
    """Of whatever keys, with whatever generations: each has its own, the newest first."""
    stored = [generation_name(name, number) for name, numbers in keys.items() for number in numbers]
    generations = Generations(stored)
    for name, numbers in keys.items():
        assert generations.of(name) == sorted(numbers, reverse=True)
        assert generations.newest(name) == generation_name(name, max(numbers))
    assert generations.keys(keys) == {name: sorted(numbers, reverse=True) for name, numbers in sorted(keys.items())}


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80) | NAMES, max_size=20))
def test_any_names_are_sorted_into_keys(names: list[str]) -> None:
    """Whatever is in the store, each name belongs to one key, and none is passed over."""
    generations = Generations(names)
    assert sum(len(numbers) for numbers in generations.keys().values()) == len(set(names))


def test_a_name_that_looks_like_a_generation() -> None:
    """A sensor `boiler.g2` is not the second key of a sensor `boiler`, and both may have several."""
    boiler, other = leaf_key_name("boiler"), leaf_key_name("boiler.g2")
    names = [boiler, other, generation_name(boiler, 2), generation_name(other, 2)]
    assert len(set(names)) == 4
    assert Generations(names).keys() == {boiler: [2, 1], other: [2, 1]}


def test_long_names_that_begin_alike() -> None:
    """Names of 64 characters that differ in the last one have generations of their own."""
    first, second = "x" * 63 + "a", "x" * 63 + "b"
    generations = Generations([first, second, generation_name(first, 2), generation_name(second, 3)])
    assert generations.keys() == {first: [2, 1], second: [3, 1]}


def test_a_long_name_without_its_first_generation() -> None:
    """It is found by who knows the name; otherwise the stored name stands for itself."""
    name = "x" * 64
    generations = Generations([generation_name(name, 2), generation_name(name, 3)])
    assert generations.keys([name]) == {name: [3, 2]}
    assert len(generations.keys()) == 2
    short = generation_name("gateway", 2)
    assert Generations([short]).keys() == {"gateway": [2]}


def test_a_sequence_of_digits_and_dots() -> None:
    """What is no generation of anything is a key like any other."""
    names = ["a.g2", "a.g2.", "a.g0.0123456789ab", "a.g1.0123456789ab", "a.g2.0123456789ab", *string.ascii_letters]
    assert Generations(names).keys() == {name: [1] for name in sorted(names)}


# --- in a store -------------------------------------------------------------------------------------------------------


def put(store: SoftwareKeyStore, *numbers: int, name: str = "k") -> None:
    for number in numbers:
        store.put(generation_name(name, number), Secret(bytes([number]) * 32))


def test_numbers_go_up(store: SoftwareKeyStore) -> None:
    """The first key has the plain name; each that comes is higher than all there are, also after the first is gone."""
    assert newest_generation(store, "k") == "k"
    for number in (1, 2, 3):
        assert next_generation(store, "k") == generation_name("k", number)
        put(store, number)
        assert newest_generation(store, "k") == generation_name("k", number)
    store.remove("k")
    assert next_generation(store, "k") == generation_name("k", 4)


def test_there_are_not_too_many(store: SoftwareKeyStore) -> None:
    """Who brings wrong keys over and over is told what to do."""
    put(store, *range(1, MOST_GENERATIONS + 1))
    with pytest.raises(KeyStoreError, match=r"key 'k': there are 8 keys of this name already.*--generations"):
        next_generation(store, "k")


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, [4]), (2, [3, 4]), (9, [1, 3, 4])])
def test_the_oldest_go(store: SoftwareKeyStore, keep: int, left: list[int]) -> None:
    """As many of the newest stay as are asked for; other keys are not touched."""
    put(store, 1, 3, 4)
    put(store, 1, 2, name="other")
    destroy_before(store, "k", keep=keep)
    generations = Generations(store.names())
    assert generations.of("k") == left[::-1]
    assert generations.of("other") == [2, 1]


def test_one_that_is_just_gone(store: SoftwareKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two may destroy the same at once."""
    put(store, 1, 2)

    def gone(name: str) -> None:
        raise KeyMissing("there is no such key", where=name)

    monkeypatch.setattr(store, "remove", gone)
    assert destroy_before(store, "k", keep=1) == ["k"]


def test_a_keys_age(store: SoftwareKeyStore, tmp_path: Path) -> None:
    """It is that of its file, never less than nothing; what is in no file has none."""
    put(store, 1, 2)
    file = tmp_path / "keys" / "k.key"
    os.utime(file, (IN_2026_S, IN_2026_S))
    clock = SystemClock()
    age = age_s(tmp_path / "keys", "k", clock)
    assert age is not None
    assert abs(age - (clock.now_ns() / 1e9 - IN_2026_S)) < 10
    os.utime(file, (8_000_000_000, 8_000_000_000))
    assert age_s(tmp_path / "keys", "k", clock) == 0
    assert age_s(tmp_path / "keys", "other", clock) is None


async def test_an_age_by_a_clock_that_is_not_set(store: SoftwareKeyStore, tmp_path: Path) -> None:
    """Nobody knows it: a key is not old because the box believed in 1970 when it came, or believes in 2099 now."""
    put(store, 1)
    assert age_s(tmp_path / "keys", "k", VirtualClock(asyncio.get_running_loop(), trusted=False)) is None
    os.utime(tmp_path / "keys" / "k.key", (1_000_000, 1_000_000))
    assert age_s(tmp_path / "keys", "k", SystemClock()) is None
