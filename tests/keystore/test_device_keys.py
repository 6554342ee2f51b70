"""From the profile's word and a device's address to its key: by the names of the configuration, at the time of need."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.config.devices import LinkSettings
from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.device_keys import (
    LOOK_AGAIN_S,
    OPENED_WITHIN_S,
    DeviceKeys,
    key_names,
    meant_names,
    missing_keys,
    own_keys,
)
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.offload import Done, Worker
from edge_gateway.testbench.virtual_time import run_virtual

KITCHEN, HALL = "a4:c1:38:56:53:84", "a4:c1:38:0e:fd:78"
KEYS = [bytes([number]) * 16 for number in range(5)]


def link(**more: Any) -> LinkSettings:
    return LinkSettings.model_validate({"name": "air", "port": {"path": "/dev/x"}, "profile": "bthome-v2", **more})


class CountedStore(SealedPayloadKeys):
    """Counts how often somebody looked."""

    looks = 0
    reads = 0

    def names(self) -> list[str]:
        self.looks += 1
        return super().names()

    def open_key(self, name: str) -> Any:
        self.reads += 1
        return super().open_key(name)


def right_here(call: Callable[[], None], done: Done, /) -> None:
    call()
    done(None)


class Plant:
    """A link's keys with a clock that a test turns."""

    def __init__(self, directory: Path, settings: LinkSettings) -> None:
        self.store = CountedStore(directory / "payload-keys", SoftwareKeyStore(directory / "keys"))
        self.now_s = 0.0
        self.keys = DeviceKeys(
            self.store,
            key_names(settings),
            lambda: self.now_s,
            own_keys(settings),
            meant=meant_names(settings),
            offload=right_here,
        )


@pytest.fixture
def own(tmp_path: Path) -> Plant:
    """The kitchen's sensor names its key, all others have one by their address."""
    kitchen = {"name": "kitchen", "address": KITCHEN, "keys": {"bindkey": "kitchen"}}
    return Plant(tmp_path, link(devices=[kitchen], keys={"bindkey": "bindkey-{address}"}))


def test_a_devices_own_name_goes_before_the_links(own: Plant) -> None:
    """Each device gets its key, one that is not listed by its address without colons, a number as it is."""
    own.store.put("kitchen", Secret(KEYS[0]))
    own.store.put("bindkey-a4c1380efd78", Secret(KEYS[1]))
    own.store.put("bindkey-7", Secret(KEYS[2]))
    own.store.put(f"bindkey-{KITCHEN.replace(':', '')}", Secret(KEYS[3]))
    assert [own.keys("bindkey", address) for address in (KITCHEN, HALL, 7, 8)] == [KEYS[0], KEYS[1], KEYS[2], None]


def test_a_word_that_nothing_names_has_no_key(own: Plant) -> None:
    """Another word of the profile is not answered with this one's key."""
    own.store.put("kitchen", Secret(KEYS[0]))
    assert own.keys("network_key", KITCHEN) is None


def test_a_key_is_read_once(own: Plant) -> None:
    """Frame after frame the disk is left alone."""
    own.store.put("kitchen", Secret(KEYS[0]))
    assert [own.keys("bindkey", KITCHEN) for _ in range(100)] == [KEYS[0]] * 100
    assert (own.store.looks, own.store.reads) == (1, 1)


def test_a_key_may_be_imported_while_the_gateway_runs(own: Plant) -> None:
    """It is found with the next look, a few seconds later; until then the device is known to have one."""
    assert own.keys("bindkey", KITCHEN) == b""
    own.store.put("kitchen", Secret(KEYS[0]))
    assert own.keys("bindkey", KITCHEN) == b""
    own.now_s = LOOK_AGAIN_S
    assert own.keys("bindkey", KITCHEN) == KEYS[0]


def test_a_storm_of_strangers_costs_one_look(own: Plant) -> None:
    """A thousand unknown addresses, some that no key can be called after: one look into the store, a bounded log."""
    with capture_logs() as logs:
        for number in range(3000):
            assert own.keys("bindkey", f"../{number}\x00" if number % 3 else number) is None
    assert (own.store.looks, own.store.reads) == (1, 0)
    assert len(logs) == 1000


def test_a_missing_key_is_told_once_with_the_command_that_brings_it(own: Plant) -> None:
    """One log event for each name."""
    with capture_logs() as logs:
        for _ in range(5):
            own.now_s += LOOK_AGAIN_S
            own.keys("bindkey", KITCHEN)
    assert logs == [
        {
            "event": "key.missing",
            "log_level": "warning",
            "key": "kitchen",
            "address": KITCHEN,
            "remedy": "edge-gateway keys import kitchen --payload",
        }
    ]


def test_a_key_that_cannot_be_used_is_told_and_raises_nothing(own: Plant, tmp_path: Path) -> None:
    """A frame's decoder gets no key; the log says why; it is not tried for every frame."""
    own.store.put("kitchen", Secret(KEYS[0]))
    (tmp_path / "payload-keys" / "kitchen.key").chmod(0o644)
    with capture_logs() as logs:
        assert [own.keys("bindkey", KITCHEN) for _ in range(3)] == [b""] * 3
    assert [(each["event"], "can be read by others" in each["remedy"]) for each in logs] == [("key.unusable", True)]
    assert own.store.reads == 1
    with pytest.raises(KeyStoreError):
        own.store.open_key("kitchen")


def test_a_store_that_cannot_be_listed_raises_nothing(own: Plant, tmp_path: Path) -> None:
    """What stands in the directory's place is told in the log at most."""
    (tmp_path / "payload-keys").write_text("not a directory")
    assert own.keys("bindkey", KITCHEN) == b""


def test_a_device_known_to_encrypt_is_not_believed_in_clear(own: Plant) -> None:
    """Not even while its key is missing; a device that the configuration does not list is."""
    codec = compile_profile(load_profile("bthome-v2"), own.keys)
    clear = bytes.fromhex("d2fc 40 02ca09")
    assert [reject.reason for reject in codec.decode([bytes.fromhex(KITCHEN.replace(":", "")) + clear]).rejects] == [
        "unsealed"
    ]
    assert len(codec.decode([bytes.fromhex("a4c138ffffff") + clear]).samples) == 1


def test_check_tells_what_listed_devices_lack() -> None:
    """A sentence for each: a name that nobody gives, a key that is not there, with the command that brings it."""
    kitchen = {"name": "kitchen", "address": KITCHEN, "keys": {"bindkey": "kitchen"}}
    hall = {"name": "hall", "address": HALL}
    assert missing_keys(link(devices=[kitchen, hall]), {"bindkey"}, ["other"]) == [
        "there is no key 'kitchen' yet, the `bindkey` of kitchen; import it: "
        "edge-gateway keys import kitchen --payload",
        "nothing names the `bindkey` of hall; add it: keys: {bindkey: NAME}",
    ]
    assert missing_keys(link(devices=[kitchen]), {"bindkey"}, ["kitchen"]) == []
    assert missing_keys(link(devices=[hall], keys={"bindkey": "k-{address}"}), {"bindkey"}, ["k-a4c1380efd78"]) == []
    assert missing_keys(link(keys={"bindkey": "for-all"}), {"bindkey"}, []) == [
        "there is no key 'for-all' yet, the `bindkey` of its devices; import it: "
        "edge-gateway keys import for-all --payload"
    ]
    assert missing_keys(link(keys={"bindkey": "k-{address}"}), {"bindkey"}, []) == []
    assert missing_keys(link(), set(), []) == []


# --- ahead, and off the event loop ------------------------------------------------------------------------------------


def test_what_is_meant_is_opened_ahead(own: Plant) -> None:
    """A look opens the keys of listed devices, and of those the link may hear; and no other link's."""
    for number, name in enumerate(("kitchen", "bindkey-a4c1380efd78", "bindkey-7", "of-another-link", "bindkey")):
        own.store.put(name, Secret(KEYS[number]))
    own.keys.open_ahead()
    assert (own.store.looks, own.store.reads) == (1, 3)
    assert [own.keys("bindkey", address) for address in (KITCHEN, HALL, 7)] == KEYS[:3]
    assert (own.store.looks, own.store.reads) == (1, 3)


@given(st.integers() | st.text(max_size=20) | st.none(), st.sampled_from(["k", "k-{address}", "a.{address}.b"]))
def test_whatever_a_device_needs_is_meant(address: int | str | None, name: str) -> None:
    """The name of any device's key is among those opened ahead."""
    settings = link(keys={"bindkey": name})
    needed = key_names(settings)("bindkey", address)
    assert needed is not None
    assert meant_names(settings).fullmatch(needed)


class SlowStore(CountedStore):
    """Opens a key when it is let, in whichever thread."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "payload-keys", SoftwareKeyStore(directory / "keys"))
        self.may_open = threading.Event()
        self.threads: set[str] = set()

    def open_key(self, name: str) -> Any:
        self.threads.add(threading.current_thread().name)
        assert self.may_open.wait(30)
        return super().open_key(name)


KITCHEN_LINK = link(devices=[{"name": "kitchen", "address": KITCHEN, "keys": {"bindkey": "kitchen"}}])


async def test_a_slow_store_holds_up_nobody(tmp_path: Path) -> None:
    """While a key is being opened whoever asks is told at once that it is not there yet; then it is at hand."""
    store = SlowStore(tmp_path)
    store.put("kitchen", Secret(KEYS[0]))
    now_s = asyncio.get_running_loop().time
    with Worker("keys") as offload:
        keys = DeviceKeys(
            store,
            key_names(KITCHEN_LINK),
            now_s,
            own_keys(KITCHEN_LINK),
            meant=meant_names(KITCHEN_LINK),
            offload=offload,
        )
        keys.open_ahead()
        waiting = asyncio.create_task(keys.opened())
        for _ in range(100):
            assert keys("bindkey", KITCHEN) == b""
            await asyncio.sleep(0)
        assert not waiting.done()
        store.may_open.set()
        await waiting
        assert keys("bindkey", KITCHEN) == KEYS[0]
    assert (store.looks, store.reads, store.threads) == (1, 1, {"keys"})


class AwayStore(CountedStore):
    """A TPM that is away, until it is back."""

    is_away = True

    def open_key(self, name: str) -> Any:
        self.reads += 1
        if self.is_away:
            raise KeyStoreUnavailable("the TPM cannot be reached", where="swtpm", remedy="Wait")
        return SealedPayloadKeys.open_key(self, name)


def test_a_store_that_is_away_at_the_start_is_asked_again(tmp_path: Path) -> None:
    """Its first refusal ends the look, so that a hundred keys do not wait for it one by one; told once, found later."""
    plant = Plant(tmp_path, link(keys={"bindkey": "{address}"}))
    store = AwayStore(tmp_path / "payload-keys", SoftwareKeyStore(tmp_path / "keys"))
    plant.keys = DeviceKeys(
        store, lambda _, address: str(address), lambda: plant.now_s, meant=meant_names(KITCHEN_LINK), offload=right_here
    )
    for name in ("kitchen", "hall", "cellar"):
        store.put(name, Secret(KEYS[1]))
    with capture_logs() as logs:
        plant.keys.open_ahead()
        assert store.reads == 1
        for turn in range(20):
            plant.now_s = turn * LOOK_AGAIN_S / 4
            assert plant.keys("bindkey", "kitchen") is None
        assert store.looks <= 6
        store.is_away = False
        plant.now_s += LOOK_AGAIN_S
        assert plant.keys("bindkey", "kitchen") == KEYS[1]
    assert [(each["event"], each["key"]) for each in logs] == [("key.unusable", "kitchen")]


def test_a_store_that_hangs_is_waited_for_seconds_only(tmp_path: Path) -> None:
    """Then the link is read without its keys."""

    async def waited_s() -> float:
        loop = asyncio.get_running_loop()
        store = CountedStore(tmp_path / "payload-keys", SoftwareKeyStore(tmp_path / "keys"))
        keys = DeviceKeys(
            store,
            key_names(KITCHEN_LINK),
            loop.time,
            meant=meant_names(KITCHEN_LINK),
            offload=lambda _call, _done: None,
        )
        keys.open_ahead()
        begun_s = loop.time()
        for _ in range(5):  # as often as something is read
            await keys.opened()
        return loop.time() - begun_s

    assert run_virtual(waited_s()) == pytest.approx(OPENED_WITHIN_S)


async def test_a_link_without_keys_waits_for_none(tmp_path: Path) -> None:
    """Its profile knows encryption, and nobody has configured any: the store is not asked."""
    store = CountedStore(tmp_path / "payload-keys", SoftwareKeyStore(tmp_path / "keys"))
    keys = DeviceKeys(
        store,
        key_names(link()),
        asyncio.get_running_loop().time,
        meant=meant_names(link()),
        offload=lambda _call, _done: None,
    )
    keys.open_ahead()
    await keys.opened()
    assert (store.looks, store.reads) == (0, 0)
