"""What every key store does. A new backend joins by one more entry in `backends`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_gateway.errors import KeyMissing, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import KeyStore, Secret

from .absences import AWAY
from .backends import ALL, OF_OUR_KEYS, Backend

KEY = bytes(range(32))


@pytest.fixture(params=OF_OUR_KEYS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return OF_OUR_KEYS[request.param]


@pytest.fixture
def store(backend: Backend, tmp_path: Path) -> Iterator[KeyStore]:
    with backend(tmp_path) as store:
        yield store


@pytest.fixture(params=ALL)
def any_backend(request: pytest.FixtureRequest) -> Backend:
    return ALL[request.param]


@pytest.fixture
def any_store(any_backend: Backend, tmp_path: Path) -> Iterator[KeyStore]:
    with any_backend(tmp_path) as store:
        yield store


# --- keys of ours -----------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(store: KeyStore) -> None:
    """Before the first key there are none, and asking is no error."""
    assert store.names() == []
    store.check()


@pytest.mark.parametrize("key_bytes", [16, 20, 32, 64])
def test_a_signature_is_the_hmac(store: KeyStore, key_bytes: int) -> None:
    """For keys of all lengths that a hub gives, and data of any length, signing gives HMAC-SHA256."""
    key = bytes(range(1, key_bytes + 1))
    store.put("k", Secret(key))
    for size_bytes in (0, 1, 63, 64, 1000, 1023, 1024, 1025, 5000):
        data = bytes(number % 251 for number in range(size_bytes))
        assert store.sign("k", data) == hmac.digest(key, data, hashlib.sha256)


def test_a_known_signature(store: KeyStore) -> None:
    """The example of RFC 4231, section 4.2, comes out as printed there."""
    store.put("rfc", Secret(b"\x0b" * 20))
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert store.sign("rfc", b"Hi There").hex() == expected


def test_keys_are_kept_over_a_restart(backend: Backend, tmp_path: Path) -> None:
    """Keys that were put or made, and what was sealed, are there when the store is opened again."""
    with backend(tmp_path) as store:
        store.put("gateway", Secret(KEY))
        store.create("made")
        signature = store.sign("made", b"x")
        sealed = store.seal(Secret(KEY[::-1]))
    with backend(tmp_path) as again:
        assert again.names() == ["gateway", "made"]
        assert again.sign("gateway", b"x") == hmac.digest(KEY, b"x", "sha256")
        assert again.sign("made", b"x") == signature
        assert again.unseal(sealed).reveal() == KEY[::-1]


def test_a_key_can_be_replaced(store: KeyStore) -> None:
    """The newest key under a name is the one that signs."""
    store.put("gateway", Secret(KEY))
    store.put("gateway", Secret(KEY[::-1]))
    assert store.names() == ["gateway"]
    assert store.sign("gateway", b"x") == hmac.digest(KEY[::-1], b"x", "sha256")


def test_keys_that_are_made_are_like_no_other(store: KeyStore) -> None:
    """Each signs in its own way, and making one under an old name makes a new key."""
    store.create("a")
    store.create("b")
    signatures = [store.sign(name, b"x") for name in ("a", "b", "a")]
    assert signatures[0] == signatures[2] != signatures[1]
    store.create("a")
    assert store.sign("a", b"x") not in signatures
    assert store.names() == ["a", "b"]


def test_names_are_sorted_and_told_apart(store: KeyStore) -> None:
    """Several keys live side by side, whatever order they came in, dots and all."""
    for number, name in enumerate(["zeta", "alpha", "a.b", "a", "a.key", "A_1-x"]):
        store.put(name, Secret(bytes([number]) * 16))
    assert store.names() == ["A_1-x", "a", "a.b", "a.key", "alpha", "zeta"]
    assert store.sign("a.b", b"") == hmac.digest(bytes([2]) * 16, b"", "sha256")
    assert store.sign("a.key", b"") == hmac.digest(bytes([4]) * 16, b"", "sha256")


@pytest.mark.parametrize("size_bytes", [0, 15, 65, 10_000])
def test_keys_of_other_sizes_are_refused(store: KeyStore, size_bytes: int) -> None:
    """A key too short to be one, or too long, is refused with its size, and nothing is stored."""
    with pytest.raises(KeyStoreError, match=rf"key 'k': a key of {size_bytes} bytes .* Give 16 to 64 bytes"):
        store.put("k", Secret(bytes(size_bytes)))
    assert store.names() == []


NO_NAMES = ["", ".", "..", ".hidden", "../k", "a/b", "a b", "a\x00", "a\n", "é", "x" * 65, "-a"]


def test_names_that_could_lead_elsewhere_are_refused(any_store: KeyStore) -> None:
    """A name is letters, digits, `.`, `_` and `-`; nothing else gets near the storage, whatever is asked."""
    before = any_store.names()
    for name in NO_NAMES:
        for call in (
            lambda name=name: any_store.put(name, Secret(KEY)),
            lambda name=name: any_store.create(name),
            lambda name=name: any_store.sign(name, b""),
            lambda name=name: any_store.remove(name),
        ):
            with pytest.raises(KeyStoreError, match=r"cannot be a key's name. Use letters, digits"):
                call()
    assert any_store.names() == before


def test_a_key_that_is_not_there_says_how_to_import_it(store: KeyStore) -> None:
    """Signing with an unknown key names the key and the command that would bring it."""
    with pytest.raises(KeyMissing, match=r"key 'gateway'.*there is no such key.*edge-gateway keys import gateway"):
        store.sign("gateway", b"")


def test_a_removed_key_is_gone(backend: Backend, tmp_path: Path) -> None:
    """It is not listed and signs nothing, after a restart either; the others stay; an unknown one is an error."""
    with backend(tmp_path) as store:
        store.put("gateway", Secret(KEY))
        store.put("leaf", Secret(KEY))
        store.remove("gateway")
    with backend(tmp_path) as again:
        assert again.names() == ["leaf"]
        assert again.sign("leaf", b"") == hmac.digest(KEY, b"", "sha256")
        for call in (lambda: again.sign("gateway", b""), lambda: again.remove("gateway")):
            with pytest.raises(KeyMissing, match="'gateway'"):
                call()


def test_a_wiped_store_is_empty(backend: Backend, tmp_path: Path) -> None:
    """No key is left, what was sealed does not open, wiping again is no error, and a new life can begin."""
    with backend(tmp_path) as store:
        store.put("gateway", Secret(KEY))
        store.create("made")
        sealed = store.seal(Secret(KEY))
        store.wipe()
        assert store.names() == []
        with pytest.raises(KeyMissing):
            store.sign("gateway", b"")
        store.wipe()
    with backend(tmp_path) as again:
        assert again.names() == []
        with pytest.raises(KeyStoreError):
            again.unseal(sealed)


def test_a_store_that_was_never_used_can_be_wiped(store: KeyStore) -> None:
    """There is nothing to destroy, and that is no error."""
    store.wipe()
    assert store.names() == []


@pytest.mark.parametrize("name", ["k", "../k", "", "x" * 65])
def test_nothing_of_a_key_is_told(store: KeyStore, name: str) -> None:
    """Whatever goes wrong, neither an error nor the store's repr holds the key, as bytes, hex or base64."""
    for key in (KEY, b"only twelve!", bytes(range(80))):
        told = []
        try:
            store.put(name, Secret(key))
            store.sign(name, b"")
            store.sign("other", b"")
        except KeyStoreError as error:
            told += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
        told += [repr(store), str(store), repr(vars(store))]
        for text in told:
            assert key.hex() not in text
            assert repr(key)[2:-1] not in text


# --- all --------------------------------------------------------------------------------------------------------------


def test_a_store_says_what_it_is(any_store: KeyStore) -> None:
    """By a fixed word, and a sentence that is empty for a TPM only."""
    assert any_store.kind in {"software", "tpm", "iot-edge"}
    assert (any_store.weakness == "") == (any_store.kind == "tpm")
    any_store.check()


@pytest.mark.parametrize("size_bytes", [1, 16, 32, 48, 64])
def test_what_is_sealed_opens(any_store: KeyStore, size_bytes: int) -> None:
    """Up to 64 bytes, as they were; what is kept does not contain them, and is never the same twice."""
    secret = bytes(range(200, 256))[:8] * 8
    sealed = any_store.seal(Secret(secret[:size_bytes]))
    assert any_store.unseal(sealed).reveal() == secret[:size_bytes]
    assert secret[:8] not in sealed
    assert any_store.seal(Secret(secret[:size_bytes])) != sealed


@pytest.mark.parametrize("size_bytes", [0, 65, 1000])
def test_what_is_no_secret_is_not_sealed(any_store: KeyStore, size_bytes: int) -> None:
    """Nothing, and more than 64 bytes, is refused with its size."""
    with pytest.raises(KeyStoreError, match=f"a secret of {size_bytes} bytes cannot be sealed"):
        any_store.seal(Secret(bytes(size_bytes)))


def test_what_was_changed_does_not_unseal(any_store: KeyStore) -> None:
    """A changed bit anywhere, a missing end or something else altogether is refused; the next one opens as ever."""
    sealed = any_store.seal(Secret(KEY))
    changed = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    for wrong in (*changed, sealed[:-1], sealed[:10], b"", b"x", bytes(100), bytes(100_000)):
        with pytest.raises(KeyStoreError) as refused:
            any_store.unseal(wrong)
        assert not isinstance(refused.value, KeyStoreUnavailable), "nobody is to wait for it"
    assert any_store.unseal(sealed).reveal() == KEY


def test_only_the_store_that_sealed_opens(any_backend: Backend, tmp_path: Path) -> None:
    """Another of the same kind refuses."""
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
    with any_backend(tmp_path / "here") as here, any_backend(tmp_path / "elsewhere") as elsewhere:
        elsewhere.seal(Secret(KEY))
        sealed = here.seal(Secret(KEY))
        with pytest.raises(KeyStoreError) as refused:
            elsewhere.unseal(sealed)
        assert not isinstance(refused.value, KeyStoreUnavailable)


@pytest.mark.parametrize("name", AWAY)
def test_what_is_sealed_waits_for_a_store_that_is_away(name: str, tmp_path: Path) -> None:
    """Its error says that it may pass, and what was sealed opens when the store, or the boot, is as it has to be."""
    with AWAY[name](tmp_path) as (store, go_away, come_back):
        sealed = store.seal(Secret(KEY))
        for _ in range(2):
            go_away()
            for call in (lambda: store.unseal(sealed), lambda: store.seal(Secret(KEY)), store.check):
                with pytest.raises(KeyStoreUnavailable):
                    call()
            come_back()
            assert store.unseal(sealed).reveal() == KEY


def test_threads_may_call_at_once(any_backend: Backend, any_store: KeyStore) -> None:
    """Eight of them sign and unseal, and each gets its own answer."""
    if any_backend in OF_OUR_KEYS.values():
        any_store.put("module", Secret(KEY))
    alone = [any_store.sign("module", bytes([number])) for number in range(8)]
    sealed = [any_store.seal(Secret(bytes([number]) * 16)) for number in range(8)]

    def work(number: int) -> bool:
        return any_store.sign("module", bytes([number])) == alone[number] and (
            any_store.unseal(sealed[number]).reveal() == bytes([number]) * 16
        )

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, [*range(8)] * 3)) == [True] * 24
