"""Payload keys and data keys on every key store: they open with the store that sealed them, and as what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.payload_keys import SealedPayloadKeys
from edge_gateway.keystore.sealed_files import read_sealed_file
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.testbench.memory_scan import find_secrets

from .backends import ALL, Backend, workload

KEY = bytes(range(100, 132))


@pytest.fixture(params=ALL)
def backend(request: pytest.FixtureRequest) -> Backend:
    return ALL[request.param]


@pytest.fixture
def store(tmp_path: Path) -> SoftwareKeyStore:
    return SoftwareKeyStore(tmp_path / "keys")


def test_keys_open_after_a_restart(backend: Backend, tmp_path: Path) -> None:
    """On every store; the files hold nothing of them."""
    data, payload = tmp_path / "data-keys", tmp_path / "payload-keys"
    with backend(tmp_path) as store:
        key_id = SealedDataKeys(data, store).create()
        key = SealedDataKeys(data, store).open(key_id).reveal()
        SealedPayloadKeys(payload, store).put("kitchen", Secret(KEY))
    for directory in (data, payload):
        assert find_secrets(directory, [key, KEY]).findings == ()
    with backend(tmp_path) as again:
        assert SealedDataKeys(data, again).open(key_id).reveal() == key
        assert SealedPayloadKeys(payload, again).open_key("kitchen").reveal() == KEY


def test_keys_of_another_store_do_not_open(backend: Backend, tmp_path: Path) -> None:
    """The error names the file, and says what to do for this kind of key; a new data key can be made."""
    data, payload = tmp_path / "data-keys", tmp_path / "payload-keys"
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    with backend(tmp_path / "here") as here, backend(tmp_path / "elsewhere") as elsewhere:
        SealedDataKeys(data, here).create()
        SealedPayloadKeys(payload, here).put("kitchen", Secret(KEY))
        elsewhere.unseal(elsewhere.seal(SealedDataKeys(data, here).open(1)))
        with pytest.raises(KeyStoreError, match=r"data-keys/1.key: does not unseal: .*Bring file and key store back"):
            SealedDataKeys(data, elsewhere).open(1)
        with pytest.raises(KeyStoreError, match=r"kitchen.key: does not unseal: .*keys import kitchen --payload"):
            SealedPayloadKeys(payload, elsewhere).open_key("kitchen")
        assert SealedDataKeys(data, elsewhere).ids() == [1]
        assert len(SealedDataKeys(data, elsewhere).open(SealedDataKeys(data, elsewhere).create())) == 32


def test_files_cannot_stand_in_for_each_other(store: KeyStore, tmp_path: Path) -> None:
    """Neither another key's file nor one of the other kind, though the same store has sealed them all."""
    data, payload = SealedDataKeys(tmp_path / "data", store), SealedPayloadKeys(tmp_path / "payload", store)
    data.create()
    data.create()
    payload.put("1", Secret(KEY))
    first = tmp_path / "data" / "1.key"
    for other in (tmp_path / "data" / "2.key", tmp_path / "payload" / "1.key"):
        first.write_bytes(other.read_bytes())
        with pytest.raises(KeyStoreError, match=r"1\.key: is not what was kept as data key '1'"):
            data.open(1)


def test_a_change_of_key_store_is_told_as_such(store: KeyStore, tmp_path: Path) -> None:
    """Who turns from files to another kind of store reads which one is needed."""
    SealedDataKeys(tmp_path / "data", store).create()
    told = "was sealed by a key store of kind software, and this one is iot-edge"
    with workload(tmp_path / "edge") as other, pytest.raises(KeyStoreError, match=told):
        SealedDataKeys(tmp_path / "data", other).open(1)


def test_a_store_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    """What may work later is not taken for a lost key: neither when opening nor when making one."""
    stick = tmp_path / "stick"
    stick.write_bytes(KEY)
    stick.chmod(0o600)
    store = SoftwareKeyStore(tmp_path / "keys", wrapping_key_file=stick)
    keys = SealedDataKeys(tmp_path / "data", store)
    keys.create()
    away = stick.rename(tmp_path / "away")
    with pytest.raises(KeyStoreUnavailable):
        keys.open(1)
    with pytest.raises(KeyStoreUnavailable):
        keys.create()
    assert keys.ids() == [1]
    away.rename(stick)
    assert len(keys.open(1)) == 32


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(
    content=st.binary(max_size=100)
    | st.binary(max_size=100).map(lambda rest: b"edge-gateway sealed " + rest)
    | st.binary(max_size=100).map(lambda rest: b"edge-gateway sealed 1 software\n" + rest)
)
def test_any_bytes_for_a_file_are_an_error(store: KeyStore, tmp_path: Path, content: bytes) -> None:
    """Whatever stands there, nothing but a key store's error comes of it; it stays listed, unless it is empty."""
    keys = SealedDataKeys(tmp_path / "data", store)
    if keys.ids() == []:
        keys.create()
    keys.create()
    (tmp_path / "data" / "1.key").write_bytes(content)
    with pytest.raises(KeyStoreError, match=r"data key 1 |1\.key"):
        keys.open(1)
    assert (1 in keys.ids()) == (content != b"")
    try:
        kind, sealed = read_sealed_file(content)
    except ValueError:
        return
    assert content == b"edge-gateway sealed 1 " + kind.encode() + b"\n" + sealed


def test_a_file_too_long_to_be_a_key_is_not_read(store: KeyStore, tmp_path: Path) -> None:
    """However long it is, a few kilobytes are looked at."""
    payload = SealedPayloadKeys(tmp_path / "payload", store)
    payload.put("kitchen", Secret(KEY))
    with (tmp_path / "payload" / "kitchen.key").open("ab") as file:
        file.truncate(10**10)
    with pytest.raises(KeyStoreError, match=r"kitchen.key: is too long to be a key"):
        payload.open_key("kitchen")


def test_wiped_keys_are_gone_whatever_the_store_still_opens(store: KeyStore, tmp_path: Path) -> None:
    """Where a key store cannot be wiped, as in a module, the files can; also those that somebody made readable."""
    data, payload = SealedDataKeys(tmp_path / "data", store), SealedPayloadKeys(tmp_path / "payload", store)
    for keys in (data, payload):
        keys.wipe()  # nothing there is no error
    data.create()
    payload.put("kitchen", Secret(KEY))
    (tmp_path / "payload").chmod(0o755)
    for keys in (data, payload):
        keys.wipe()
    assert (data.ids(), payload.names()) == ([], [])
    assert list((tmp_path / "data").iterdir()) + list((tmp_path / "payload").iterdir()) == []
