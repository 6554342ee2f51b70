"""`edge-gateway keys rotate` and what else of `keys` knows generations; and a power cut at every step of it."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.assembly import KEYS_DIRECTORY, key_store
from edge_gateway.cli import keys
from edge_gateway.config.load import load_config
from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import MOST_GENERATIONS, Generations, generation_name, newest_generation
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning.group_key import GROUP_KEY
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.provisioning.leaf_table import leaves_of
from edge_gateway.provisioning.leaves import LeafProvisioner
from edge_gateway.provisioning.symmetric_keys import deriving, holds, keep_generation, keep_key, read_key, signing_with
from edge_gateway.testbench.cloud.identity import SymmetricKeys
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, drawn_keys
from tests.provisioning.conftest import Site

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
NEW_TEXT = base64.b64encode(NEW).decode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return gateway(tmp_path)


def gateway(directory: Path) -> Path:
    """A configuration whose gateway has a key, in a directory of its own."""
    document: dict[str, Any] = {
        "gateway": {"name": "plant-3", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
        "uplink": {"kind": "iot-hub"},
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    store_of(path).put("gateway", Secret(OLD))
    return path


def store_of(config: Path) -> SoftwareKeyStore:
    store = key_store(load_config(config))
    assert isinstance(store, SoftwareKeyStore)
    return store


def run(config: Path, *words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(keys.app, [*words, "--config", str(config)], input=given)


def done(config: Path, *words: str, given: str | None = None) -> str:
    result = run(config, *words, given=given)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


# --- one key ----------------------------------------------------------------------------------------------------------


def test_a_new_key_stands_beside_the_old_one(config: Path) -> None:
    """By standard input; the old one signs as before. The same key again changes nothing."""
    second = generation_name("gateway", 2)
    for _ in range(2):
        assert done(config, "rotate", "gateway", given=f"{NEW_TEXT}\n") == f"key 'gateway': the newest is {second}\n"
    store = store_of(config)
    assert store.names() == ["gateway", second]
    assert holds(store, "gateway", Secret(OLD))
    assert holds(store, second, Secret(NEW))


def test_the_file_it_came_in_is_erased(config: Path, tmp_path: Path) -> None:
    """As by provisioning, when the key is safe; unless it is to be kept."""
    path = tmp_path / "key.txt"
    for options, is_there in ((("--keep-file",), True), ((), False)):
        path.write_text(NEW_TEXT)
        path.chmod(0o600)
        told = orjson.loads(done(config, "rotate", "gateway", "--from-file", str(path), *options, "--json"))
        assert path.exists() == is_there
    assert told == {"key": "gateway", "newest": generation_name("gateway", 2), "notes": [f"{path} is erased"]}


def test_what_is_no_key_leaves_all_as_it_was(config: Path, tmp_path: Path) -> None:
    """The file is there to be corrected, the error does not repeat it, and there is no new generation."""
    path = tmp_path / "key.txt"
    path.write_text("no base64 at all")
    result = run(config, "rotate", "gateway", "--from-file", str(path))
    assert isinstance(result.exception, ConfigError)
    assert "no base64" not in str(result.exception)
    assert path.exists()
    assert store_of(config).names() == ["gateway"]


def test_a_key_that_is_not_there(config: Path) -> None:
    """The first key is no rotation, and the error says what would bring it."""
    result = run(config, "rotate", "gatewya", given=NEW_TEXT)
    assert isinstance(result.exception, KeyMissing)
    assert "Keys there: gateway. The first is brought by `edge-gateway keys import`" in str(result.exception)


@pytest.mark.parametrize("words", [(), ("gateway", "--all")])
def test_which_keys_has_to_be_said(config: Path, words: tuple[str, ...]) -> None:
    """One by its name, or all: neither and both are refused."""
    result = run(config, "rotate", *words, given=NEW_TEXT)
    assert "Name one, or give --all" in str(result.exception)


def test_older_ones_are_dropped_when_told(config: Path) -> None:
    """The newest is the only one then; again, there is nothing to drop."""
    done(config, "rotate", "gateway", given=NEW_TEXT)
    assert done(config, "rotate", "gateway", "--drop-old") == "key 'gateway': destroyed gateway\n"
    assert store_of(config).names() == [generation_name("gateway", 2)]
    again = orjson.loads(done(config, "rotate", "gateway", "--drop-old", "--json"))
    assert again == {"key": "gateway", "destroyed": []}


def test_too_many_wrong_keys(config: Path) -> None:
    """Who goes on bringing keys that no hub takes is told, and one of them can be removed by its full name."""
    for number in range(2, MOST_GENERATIONS + 1):
        done(config, "rotate", "gateway", given=base64.b64encode(bytes([number]) * 32).decode())
    result = run(config, "rotate", "gateway", given=NEW_TEXT)
    assert isinstance(result.exception, KeyStoreError)
    assert "keys list --generations" in str(result.exception)
    done(config, "remove", generation_name("gateway", 5))
    done(config, "rotate", "gateway", given=NEW_TEXT)
    assert Generations(store_of(config).names()).of("gateway") == [9, 8, 7, 6, 4, 3, 2, 1]


def test_two_who_bring_keys_at_once_do_not_lose_one(tmp_path: Path) -> None:
    """A command and the gateway's own rotation may count at the same moment: who is told that a key is kept, has it."""
    for number in range(20):
        store = SoftwareKeyStore(tmp_path / str(number))
        store.put("k", Secret(OLD))
        brought = [bytes([each]) * 32 for each in (1, 2, 3)]
        together = threading.Barrier(len(brought))

        def bring(key: bytes, store: SoftwareKeyStore = store, together: threading.Barrier = together) -> str:
            together.wait()
            return keep_generation(store, "k", Secret(key))

        with ThreadPoolExecutor(len(brought)) as threads:
            stored = list(threads.map(bring, brought))
        assert Generations(store.names()).of("k") == [4, 3, 2, 1]
        assert all(holds(store, name, Secret(key)) for name, key in zip(stored, brought, strict=True))


# --- the other commands -----------------------------------------------------------------------------------------------


def test_keys_are_listed_by_their_names(config: Path) -> None:
    """As ever, once each; generations only where they are asked for, with ages."""
    done(config, "rotate", "gateway", given=NEW_TEXT)
    done(config, "rotate", "gateway", "--drop-old")
    done(config, "rotate", "gateway", given=base64.b64encode(bytes(32)).decode())
    assert done(config, "list") == "gateway\n"
    assert orjson.loads(done(config, "list", "--json")) == ["gateway"]
    third, second = generation_name("gateway", 3), generation_name("gateway", 2)
    assert done(config, "list", "--generations") == f"{third}  0 days\n{second}  0 days\n"
    ages = orjson.loads(done(config, "list", "--generations", "--json"))["gateway"]
    assert list(ages) == [third, second]
    assert all(0 <= age_s < 60 for age_s in ages.values())
    assert orjson.loads(done(config, "status", "--json"))["identity_keys"] == 1


def test_a_long_name_is_listed_by_its_identity(config: Path, tmp_path: Path) -> None:
    """A key whose name does not fit into its generations' is known by the identity that has it."""
    name = "leaf." + "x" * 59
    Identities(tmp_path / "data" / IDENTITIES_FILE).put(Identity("x" * 59, "hub.example", "id", name, "csv"))
    store_of(config).put(generation_name(name, 2), Secret(NEW))
    assert done(config, "list") == f"gateway\n{name}\n"


def test_a_removed_key_is_gone_with_all_generations(config: Path) -> None:
    """Nothing of it is left, not even where the first generation had gone before."""
    done(config, "rotate", "gateway", given=NEW_TEXT)
    done(config, "remove", "gateway")
    assert store_of(config).names() == []
    result = run(config, "remove", "gateway")
    assert isinstance(result.exception, KeyMissing)


def test_nothing_is_imported_behind_a_newer_key(config: Path) -> None:
    """`import` would put it where it is not used, so it says which command would do; `create` makes none either."""
    done(config, "rotate", "gateway", given=NEW_TEXT)
    done(config, "rotate", "gateway", "--drop-old")
    result = run(config, "import", "gateway", given=NEW_TEXT)
    assert "edge-gateway keys rotate gateway" in str(result.exception)
    assert "is there already" in str(run(config, "create", "gateway").exception)


# --- power cuts -------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """From here on nothing happens."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the power before the step of that number among those that reach the disk."""
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > step:
                raise PowerCut
            return function(*arguments, **options)

        return call

    for owner, name in (
        (os, "fsync"),
        (os, "pwrite"),
        (os, "open"),
        (os, "write"),
        (Path, "unlink"),
        (Path, "replace"),
    ):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def test_a_power_cut_never_leaves_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step the old key signs; and the new one does, or its file is as it was. Done again, it ends well."""
    cuts = 0
    for step in range(200):
        directory = tmp_path / str(step)
        directory.mkdir()
        config = gateway(directory)
        path = directory / "key.txt"
        path.write_text(NEW_TEXT)
        with monkeypatch.context() as patches:
            cut_at(step, patches)
            try:
                result = run(config, "rotate", "gateway", "--from-file", str(path))
            except PowerCut:
                cuts += 1
            else:
                assert result.exit_code == 0
                break
        store = store_of(config)
        assert holds(store, "gateway", Secret(OLD))
        is_new_there = holds(store, newest_generation(store, "gateway"), Secret(NEW))
        assert is_new_there or path.read_text() == NEW_TEXT
        if path.exists() and b"\0" not in path.read_bytes():
            done(config, "rotate", "gateway", "--from-file", str(path))
            assert not path.exists()
            assert holds(store, newest_generation(store, "gateway"), Secret(NEW))
    assert cuts > 15


def test_a_power_cut_when_older_ones_are_destroyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub has taken the third key: at every step it signs, and the next session brings the rest to its end."""
    cuts = 0
    for step in range(200):
        store = SoftwareKeyStore(tmp_path / str(step))
        for number in (1, 2, 3):
            store.put(generation_name("k", number), Secret(bytes([number]) * 32))

        async def take(step: int = step, store: SoftwareKeyStore = store) -> None:
            key = Keyring(store).key("k")
            await key.to_try()
            with monkeypatch.context() as patches:
                cut_at(step, patches)
                await key.note_accepted(3)

        try:
            asyncio.run(take())
        except PowerCut:
            cuts += 1
            was_cut = True
        else:
            was_cut = False
        again = SoftwareKeyStore(tmp_path / str(step))
        assert holds(again, generation_name("k", 3), Secret(b"\3" * 32))
        assert holds(again, generation_name("k", 2), Secret(b"\2" * 32))
        asyncio.run(take(step=200, store=again))
        assert Generations(again.names()).of("k") == [3, 2]
        if not was_cut:
            break
    assert cuts >= 5


# --- all --------------------------------------------------------------------------------------------------------------


GROUP = EnrolmentGroup("sensors", drawn_keys())


def group_key(group: EnrolmentGroup) -> str:
    assert isinstance(group.attestation, SymmetricKeys)
    return group.attestation.primary


async def provision(site: Site, config: Path) -> tuple[SoftwareKeyStore, Identities]:
    """Twenty sensors by a group's key, which is kept."""
    site.dps.add_group(GROUP)
    store = store_of(config)
    identities = Identities(config.parent / "data" / IDENTITIES_FILE)
    key = read_key(group_key(GROUP).encode(), where="test")
    keep_key(store, GROUP_KEY, key)
    sensors = leaves_of([f"s{number}" for number in range(20)], registration_id="{gateway}-{device}", gateway="p")
    async with site.client() as client:
        derive = deriving(signing_with(key))
        await LeafProvisioner(store, identities, client=client, derive=derive).run(sensors)
    return store, identities


async def rotate_all(site: Site, config: Path, *words: str, given: str) -> Result:
    options = ("--host", site.door.address, "--port", str(site.port), "--ca-file", str(site.ca_file))
    words = ("rotate", "--all", "--id-scope", site.dps.id_scope, "--group-key", "-", *options, *words)
    return await asyncio.to_thread(run, config, *words, given=given)


async def test_all_sensors_of_a_group(site: Site, config: Path) -> None:
    """The group's key was changed: all sensors get keys from the new one, and a kept group's key is replaced.

    What did not come by the group is named, with the command that brings its next key.
    """
    store, identities = await provision(site, config)
    identities.put(Identity("", site.hub.host_name, "plant-3", "gateway", "connection-string"))
    group = site.dps.groups.update(replace(GROUP, attestation=drawn_keys()))
    result = await rotate_all(site, config, "--json", given=group_key(group))
    assert result.exit_code == 0, (result.output, result.exception)
    told = orjson.loads(result.stdout)
    assert (told["rotated"], told["refused"], told["left"]) == (20, {}, ["gateway"])
    for leaf in identities.leaves.values():
        assert Generations(store.names()).of(leaf.key) == [2, 1]
        assert site.admits(leaf.device_id, store, leaf.key)
    assert holds(store, newest_generation(store, GROUP_KEY), read_key(group_key(group).encode(), where="test"))
    again = await rotate_all(site, config, given=group_key(group))
    assert "20 rotated, 0 refused" in again.stdout
    assert "key 'gateway' was brought otherwise" in again.stdout
    assert Generations(store.names()).of("leaf.s0") == [2, 1]


async def test_a_sensor_with_an_enrolment_of_its_own_is_not_the_groups(site: Site, config: Path) -> None:
    """It came by the same service, and its key by nobody's derivation: it keeps that, and is named."""
    store, identities = await provision(site, config)
    own = Identity("own", site.hub.host_name, "p-own", "leaf.own", "dps-symmetric-key")
    identities.put(own)
    keep_key(store, "leaf.own", Secret(OLD))
    told = orjson.loads((await rotate_all(site, config, "--json", given=group_key(GROUP))).stdout)
    assert (told["rotated"], told["left"]) == (20, ["leaf.own"])
    assert Identities(config.parent / "data" / IDENTITIES_FILE).leaves["own"] == own
    assert holds(store, "leaf.own", Secret(OLD))


async def test_sensors_behind_a_parent_stay_there(site: Site, config: Path) -> None:
    """A new key is no new way to the hub: who goes through an IoT Edge device does so afterwards."""
    _, identities = await provision(site, config)
    identities.put(*(replace(each, gateway_host_name="edge.example") for each in identities.leaves.values()))
    assert (await rotate_all(site, config, given=group_key(GROUP))).exit_code == 0
    after = Identities(config.parent / "data" / IDENTITIES_FILE)
    assert {each.gateway_host_name for each in after.leaves.values()} == {"edge.example"}


@pytest.mark.filterwarnings(
    # The run ends in the middle of other requests, and the command with it: their sockets are left to its process.
    r"ignore:Exception ignored in. <(ssl\.SSLS|socket\.s)ocket:pytest.PytestUnraisableExceptionWarning",
    r"ignore:Exception ignored in. <function _SelectorTransport:pytest.PytestUnraisableExceptionWarning",
)
async def test_a_wrong_group_key_changes_nothing(site: Site, config: Path) -> None:
    """The service refuses the first few, the run ends, and all keys are as they were."""
    store, _ = await provision(site, config)
    before = store.names()
    result = await rotate_all(site, config, given=NEW_TEXT)
    assert "the first 8 are all refused" in str(result.exception)
    gc.collect()
    assert store.names() == before
    assert holds(store, GROUP_KEY, read_key(group_key(GROUP).encode(), where="test"))


def test_all_needs_the_service(config: Path) -> None:
    """Which one is said by its id scope."""
    assert "--id-scope: is needed" in str(run(config, "rotate", "--all", given=NEW_TEXT).exception)


def test_keys_are_where_ages_look(config: Path, tmp_path: Path) -> None:
    """The directory whose files tell ages is that of the configured store."""
    assert (tmp_path / "data" / KEYS_DIRECTORY / "gateway.key").exists()
    assert orjson.loads(done(config, "list", "--generations", "--json"))["gateway"]["gateway"] is not None
