"""What every store of data keys does. A new backend joins by one more entry in `BACKENDS`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import DATA_KEY_BYTES, DataKeys, Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.software import SoftwareKeyStore

OpenKeys = Callable[[Path], DataKeys]


def open_software(directory: Path) -> SealedDataKeys:
    store = SoftwareKeyStore(directory.parent / "store" / "keys")
    store.seal(Secret(b"makes the wrapping key"))
    return SealedDataKeys(directory, store)


BACKENDS: dict[str, OpenKeys] = {
    "software": lambda directory: open_software(directory / "data-keys"),
}
"""Each makes a store on a directory; twice on the same directory is the same store after a restart."""


@pytest.fixture(params=BACKENDS)
def open_keys(request: pytest.FixtureRequest) -> OpenKeys:
    return BACKENDS[request.param]


@pytest.fixture
def keys(open_keys: OpenKeys, tmp_path: Path) -> DataKeys:
    return open_keys(tmp_path)


# --- every backend ----------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(keys: DataKeys) -> None:
    """Before the first key there are none, and asking is no error."""
    assert keys.ids() == []


def test_keys_are_numbered_from_one(keys: DataKeys) -> None:
    """Each new key is the highest; all are listed in order, also beyond the first digit."""
    assert [keys.create() for _ in range(11)] == list(range(1, 12))
    assert keys.ids() == list(range(1, 12))


def test_each_key_is_its_own(keys: DataKeys) -> None:
    """Every key is of 32 bytes and like no other."""
    made = [keys.open(keys.create()).reveal() for _ in range(5)]
    assert {len(key) for key in made} == {DATA_KEY_BYTES}
    assert len(set(made)) == 5


def test_keys_are_kept_over_a_restart(open_keys: OpenKeys, tmp_path: Path) -> None:
    """A key that was made is there, the same, when the store is opened again."""
    keys = open_keys(tmp_path)
    key = keys.open(keys.create()).reveal()
    again = open_keys(tmp_path)
    assert again.ids() == [1]
    assert again.open(1).reveal() == key


def test_a_destroyed_key_is_gone(open_keys: OpenKeys, tmp_path: Path) -> None:
    """Neither listed nor opened, after a restart either; the others stay."""
    keys = open_keys(tmp_path)
    kept = {key_id: keys.open(key_id).reveal() for key_id in (keys.create(), keys.create(), keys.create())}
    keys.destroy(2)
    for each in (keys, open_keys(tmp_path)):
        assert each.ids() == [1, 3]
        assert [each.open(key_id).reveal() for key_id in (1, 3)] == [kept[1], kept[3]]
        with pytest.raises(KeyStoreError, match=r"data key 2 in .*there is no such key. Keys there: 1, 3"):
            each.open(2)


@pytest.mark.parametrize("key_id", [0, 1, 3, -1, 10**30])
def test_what_was_never_made_is_neither_opened_nor_destroyed(keys: DataKeys, key_id: int) -> None:
    """The error names the number, and those there are."""
    keys.create()
    keys.create()
    keys.destroy(1)
    with pytest.raises(KeyStoreError, match=rf"data key {key_id} in .*there is no such key. Keys there: 2\."):
        keys.open(key_id)
    with pytest.raises(KeyStoreError, match=rf"data key {key_id} in .*there is no such key"):
        keys.destroy(key_id)
    assert keys.ids() == [2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(steps=st.lists(st.sampled_from(["create", "destroy oldest", "destroy newest", "restart"]), max_size=20))
def test_a_number_never_comes_twice(
    open_keys: OpenKeys, tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Numbers only grow, whichever keys are destroyed and however often the store is opened anew."""
    directory = tmp_path_factory.mktemp("keys")
    keys = open_keys(directory)
    made: list[int] = []
    left: list[int] = []
    for step in steps:
        if step == "restart":
            keys = open_keys(directory)
        elif step == "create":
            key_id = keys.create()
            assert key_id == max(made, default=0) + 1
            made.append(key_id)
            left.append(key_id)
        elif left:
            keys.destroy(left.pop(0 if step == "destroy oldest" else -1))
        assert keys.ids() == left


def test_nothing_of_a_key_is_told(keys: DataKeys) -> None:
    """Neither an error nor the text of the store or of what it opens holds a key, as bytes or hex."""
    secret = keys.open(keys.create())
    told = [repr(keys), str(keys), repr(vars(keys)), repr(secret), str([secret])]
    for key_id in (0, 2):
        with pytest.raises(KeyStoreError) as caught:
            keys.open(key_id)
        told += [str(caught.value), repr(caught.value), repr(caught.value.__context__)]
    for text in told:
        assert secret.reveal().hex() not in text
        assert repr(secret.reveal())[2:-1] not in text


# --- in files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data-keys"


class SyncWatch:
    """What `os.fsync` made safe: each path with what it held at that moment."""

    def __init__(self) -> None:
        self.synced: list[tuple[Path, object]] = []
        self._fsync = os.fsync

    def __call__(self, file: int) -> None:
        path = Path(f"/proc/self/fd/{file}").readlink()
        held = sorted(each.name for each in path.iterdir()) if path.is_dir() else path.read_bytes()
        self.synced.append((path, held))
        self._fsync(file)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> SyncWatch:
    watch = SyncWatch()
    monkeypatch.setattr(os, "fsync", watch)
    return watch


def test_files_are_the_owners_alone(directory: Path) -> None:
    """Mode 0600 in a directory of mode 0700, whatever the process would let others do."""
    before = os.umask(0)
    try:
        open_software(directory).create()
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_a_key_that_others_can_read_is_not_opened(directory: Path) -> None:
    """It stays listed, the error says what to do, and a new key can be made beside it."""
    keys = open_software(directory)
    keys.create()
    (directory / "1.key").chmod(0o644)
    with pytest.raises(KeyStoreError, match=r"1.key: can be read by others \(mode 0644\). chmod go-rwx"):
        keys.open(1)
    assert keys.create() == 2
    assert keys.ids() == [1, 2]


def test_a_file_cut_short_is_no_key(directory: Path) -> None:
    """What a person broke is found when it is opened, and not by a cipher later."""
    keys = open_software(directory)
    keys.create()
    (directory / "1.key").write_bytes(bytes(9))
    with pytest.raises(KeyStoreError, match=r"1.key: is no sealed key. Bring file and key store back"):
        keys.open(1)
    assert keys.ids() == [1]


@pytest.mark.parametrize("name", ["old", "007", "0", "-1", "1.5", "٣", "9" * 10])
def test_other_files_are_not_ours(directory: Path, name: str) -> None:
    """What is called like none of our keys is neither listed nor counted on from."""
    keys = open_software(directory)
    keys.create()
    (directory / f"{name}.key").write_bytes(bytes(32))
    assert keys.ids() == [1]
    assert keys.create() == 2


def test_a_key_is_on_disk_when_create_returns(directory: Path, watch: SyncWatch) -> None:
    """Its bytes, its name, and the name of a directory that is new, each synced when it was there, in this order."""
    keys = open_software(directory)
    watch.synced.clear()
    key_id = keys.create()
    [(aside, key), named, parent] = watch.synced
    assert aside.parent == directory
    assert key == (directory / f"{key_id}.key").read_bytes()
    assert named == (directory, ["1.key"])
    assert parent == (directory.parent, ["data-keys", "store"])


def test_a_key_is_off_the_disk_when_destroy_returns(directory: Path, watch: SyncWatch) -> None:
    """It was overwritten, and no power cut brings it back: of the highest number the name is all that is left."""
    keys = open_software(directory)
    keys.create()
    keys.create()
    size_bytes = (directory / "1.key").stat().st_size
    for key_id, left in ((1, {"2.key": size_bytes}), (2, {"2.key": 0})):
        watch.synced.clear()
        keys.destroy(key_id)
        assert watch.synced[0] == (directory / f"{key_id}.key", bytes(size_bytes))
        assert (directory, ["2.key"]) in watch.synced
        assert {file.name: file.stat().st_size for file in directory.iterdir()} == left


def test_every_directory_made_on_the_way_survives_a_power_cut(tmp_path: Path, watch: SyncWatch) -> None:
    """Each new name is synced in the directory above it."""
    SealedDataKeys(tmp_path / "a" / "b" / "keys", SoftwareKeyStore(tmp_path / "store")).create()
    above = {tmp_path: "a", tmp_path / "a": "b", tmp_path / "a" / "b": "keys"}
    for directory, name in above.items():
        assert any(path == directory and name in str(held) for path, held in watch.synced)


def test_a_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """Where a file stands in the way, the error names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyStoreError, match=r"1.key: cannot be written: Not a directory. Check the directory's owner"):
        SealedDataKeys(tmp_path / "file" / "keys", SoftwareKeyStore(tmp_path / "keys")).create()


def test_a_disk_that_cannot_sync_says_so(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key whose directory may not survive a power cut is not given out."""
    fsync = os.fsync

    def failing(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink() == directory.parent:
            raise OSError(5, "Input/output error")
        fsync(file)

    keys = open_software(directory)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(KeyStoreError, match=r"1\.key: cannot be written: Input/output error"):
        keys.create()
