"""Which generation of a key is used: the newest that the hub takes. What is destroyed then, and who is told when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import Generations, generation_name
from edge_gateway.keystore.keyring import KeyInUse, Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench.virtual_time import run_virtual
from tests.log_events import log_events


class Inline(Executor):
    """No thread, so that time may be virtual."""

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call(*arguments, **options))
        except Exception as error:  # noqa: BLE001  # as threads do
            done.set_exception(error)
        return done


@pytest.fixture
def store(tmp_path: Path) -> SoftwareKeyStore:
    return SoftwareKeyStore(tmp_path / "keys")


def put(store: SoftwareKeyStore, *numbers: int, name: str = "k") -> None:
    for number in numbers:
        store.put(generation_name(name, number), Secret(bytes([number]) * 32))


def there(store: SoftwareKeyStore) -> list[int]:
    return Generations(store.names()).of("k")[::-1]


async def connects(key: KeyInUse, *taken: int) -> list[int]:
    """What a session tries at a hub that takes these; the last is the one it is up with."""
    tried = []
    for number in await key.to_try():
        tried.append(number)
        if number in taken:
            await key.note_accepted(number)
            return tried
        key.note_refused(number)
    return [*tried, 0]


def play(keyring: Keyring, scene: Callable[[KeyInUse], Awaitable[None]]) -> None:
    async def scenes() -> None:
        await scene(keyring.key("k"))

    run_virtual(scenes())


# --- which ------------------------------------------------------------------------------------------------------------


def test_without_any_the_first_is_tried(store: SoftwareKeyStore) -> None:
    """So that the store says itself that there is no such key, and how to import it."""

    async def scene(key: KeyInUse) -> None:
        assert await key.to_try() == [1]
        assert key.in_use is None

    play(Keyring(store, threads=Inline()), scene)


def test_the_newest_is_tried_first(store: SoftwareKeyStore) -> None:
    """What the hub takes is used from then on; one older stays, and those before it are destroyed."""
    put(store, 1, 2, 3)

    async def scene(key: KeyInUse) -> None:
        assert await connects(key, 1, 2, 3) == [3]
        assert key.in_use == generation_name("k", 3)
        assert there(store) == [2, 3]
        assert await connects(key, 1, 2, 3) == [3]

    play(Keyring(store, threads=Inline()), scene)


def test_one_that_is_refused_stands_back(store: SoftwareKeyStore) -> None:
    """The next is tried at once. The refused one is not, until the others are refused, or an hour has passed."""
    put(store, 1, 2)

    async def scene(key: KeyInUse) -> None:
        assert await connects(key, 1) == [2, 1]
        assert key.refused == [generation_name("k", 2)]
        assert await connects(key, 1) == [1]
        assert await connects(key, 2) == [1, 2]
        assert await connects(key, 1) == [2, 1]
        await asyncio.sleep(3601)
        assert await connects(key, 1, 2) == [2]
        assert (key.refused, there(store)) == ([], [1, 2])

    play(Keyring(store, threads=Inline()), scene)


def test_nothing_is_destroyed_while_all_are_refused(store: SoftwareKeyStore) -> None:
    """A hub that takes none, as of a device that is disabled, costs no key; whichever it takes later is there."""
    put(store, 1, 2, 3)

    async def scene(key: KeyInUse) -> None:
        for _ in range(3):
            assert sorted(await connects(key)) == [0, 1, 2, 3]
        assert there(store) == [1, 2, 3]
        assert (await connects(key, 1))[-1] == 1
        assert there(store) == [1, 2, 3]

    play(Keyring(store, threads=Inline()), scene)


def test_a_wrong_key_in_between_is_no_predecessor(store: SoftwareKeyStore) -> None:
    """After a wrong key and then the right one, the last that worked stays and the wrong one goes."""
    put(store, 1, 2)

    async def scene(key: KeyInUse) -> None:
        assert await connects(key, 1) == [2, 1]
        put(store, 3)
        assert await connects(key, 3) == [3]
        assert there(store) == [1, 3]

    play(Keyring(store, threads=Inline()), scene)


def test_a_predecessor_may_have_a_time(store: SoftwareKeyStore) -> None:
    """When the key after it is old enough it is destroyed, at the next session; never before that key was taken."""
    put(store, 1, 2)
    ages = {generation_name("k", 2): 9.0}

    async def scene(key: KeyInUse) -> None:
        assert (await connects(key, 2), there(store)) == ([2], [1, 2])
        ages[generation_name("k", 2)] = 10.0
        assert (await connects(key, 1), there(store)) == ([2, 1], [1, 2])
        assert (await connects(key, 2), there(store)) == ([1, 2], [2])

    play(Keyring(store, threads=Inline(), predecessor_s=10.0, age_s=ages.get), scene)


def test_what_cannot_be_destroyed_holds_up_nothing(store: SoftwareKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session goes on, the log says so, and the next session tries again."""
    put(store, 1, 2, 3)

    def fails(name: str) -> None:
        raise KeyStoreError("cannot be written", where=name)

    async def scene(key: KeyInUse) -> None:
        with monkeypatch.context() as patches, log_events() as events:
            patches.setattr(store, "remove", fails)
            assert await connects(key, 3) == [3]
            assert [each["event"] for each in events] == ["key.not_destroyed"]
        assert await connects(key, 3) == [3]
        assert there(store) == [2, 3]

    play(Keyring(store, threads=Inline()), scene)


# --- when -------------------------------------------------------------------------------------------------------------


def test_a_session_is_told_of_a_newer_key(store: SoftwareKeyStore) -> None:
    """Within a look, once for each; not of a key that it has tried, and not when it has ended."""
    put(store, 1)
    told: list[float] = []

    async def scene(key: KeyInUse) -> None:
        loop = asyncio.get_running_loop()
        await connects(key, 1)
        with key.watching(lambda: told.append(loop.time())):
            await asyncio.sleep(20)
            assert told == []
            put(store, 2)
            began_s = loop.time()
            await asyncio.sleep(20)
            assert [round(at_s - began_s) <= 2 for at_s in told] == [True]
        put(store, 3)
        await asyncio.sleep(20)
        assert await connects(key, 1) == [3, 2, 1]
        with key.watching(lambda: told.append(loop.time())):
            await asyncio.sleep(20)
            assert len(told) == 1

    play(Keyring(store, threads=Inline()), scene)


def test_a_key_that_comes_while_a_session_begins(store: SoftwareKeyStore) -> None:
    """What was put after the names were read and before the session was up is not missed, whoever looks meanwhile."""
    put(store, 1)
    put(store, 1, name="other")
    told: list[str] = []

    async def scene(key: KeyInUse) -> None:
        with keyring.key("other").watching(lambda: told.append("other")):
            await connects(keyring.key("other"), 1)
            await key.to_try()
            put(store, 2)
            await asyncio.sleep(10)
            with key.watching(lambda: told.append("k")):
                await asyncio.sleep(10)
        assert told == ["k"]

    keyring = Keyring(store, threads=Inline())
    play(keyring, scene)


def test_many_are_told_one_after_the_other(store: SoftwareKeyStore) -> None:
    """When the keys of a hundred sessions change at once, ten go over in a second; who comes later waits too."""
    names = [f"leaf.{number}" for number in range(100)]
    for name in [*names, "late"]:
        put(store, 1, name=name)
    told: list[float] = []

    async def scene(_: KeyInUse) -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as sessions:
            for name in [*names, "late"]:
                await connects(keyring.key(name), 1)
                sessions.enter_context(keyring.key(name).watching(lambda: told.append(loop.time())))
            for name in names:
                put(store, 2, name=name)
            await asyncio.sleep(3)
            put(store, 2, name="late")
            await asyncio.sleep(30)
        assert len(told) == 101
        for first_s in told:
            assert sum(first_s <= at_s < first_s + 1 for at_s in told) <= 11
        assert told[-1] - told[0] < 11

    keyring = Keyring(store, threads=Inline())
    play(keyring, scene)


def test_a_store_that_is_away_for_a_while(store: SoftwareKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking goes on, and what came meanwhile is told of when the store is back."""
    put(store, 1)
    told: list[str] = []

    def away() -> list[str]:
        raise KeyStoreUnavailable("the TPM does not answer", where="tpm")

    async def scene(key: KeyInUse) -> None:
        await connects(key, 1)
        with key.watching(lambda: told.append("newer")):
            with monkeypatch.context() as patches:
                patches.setattr(store, "names", away)
                put(store, 2)
                await asyncio.sleep(10)
                assert told == []
            await asyncio.sleep(10)
            assert told == ["newer"]

    play(Keyring(store, threads=Inline()), scene)
