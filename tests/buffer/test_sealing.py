"""What is sealed opens again in its place and nowhere else, and no nonce comes twice."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer import sealing
from edge_gateway.buffer.sealing import MOST_PAYLOAD_BYTES, OVERHEAD_BYTES, Sealer, key_id_of
from edge_gateway.errors import KeyStoreError, PayloadDamaged
from edge_gateway.keystore import Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.software import SoftwareKeyStore
from tests.log_events import log_events

PLAIN, ZSTD = 1, 2
"""The format bytes."""

CONTEXT = b"store 1 2 3"


class MemoryDataKeys:
    """`DataKeys` in memory, which outlives the sealers on it, counts how often a key is opened, and can fail."""

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {}
        self.opened: list[int] = []
        self.failing: frozenset[str] = frozenset()
        self._last = 0

    def ids(self) -> list[int]:
        self._may_fail("ids")
        return list(self.keys)

    def create(self) -> int:
        self._may_fail("create")
        self._last += 1
        self.keys[self._last] = random.Random(self._last).randbytes(32)
        return self._last

    def open(self, key_id: int) -> Secret:
        self._may_fail("open")
        self.opened.append(key_id)
        if key_id not in self.keys:
            raise KeyStoreError("there is no such key", where=f"data key {key_id}")
        return Secret(self.keys[key_id])

    def destroy(self, key_id: int) -> None:
        self._may_fail("destroy")
        del self.keys[key_id]

    def _may_fail(self, call: str) -> None:
        if call in self.failing:
            raise KeyStoreError(f"cannot {call} now")


@pytest.fixture
def keys() -> MemoryDataKeys:
    return MemoryDataKeys()


@pytest.fixture
def sealer(keys: MemoryDataKeys) -> Sealer:
    return Sealer(keys)


def readings(records: int) -> bytes:
    """JSON documents as the store joins them."""
    rng = random.Random(records)
    documents = [
        {
            "device": f"boiler-{seq % 4}",
            "profile": "reference-climate",
            "seq": 1234 + seq,
            "time": f"2026-11-22T12:00:{seq % 60:02d}.{rng.randrange(1000):03d}000Z",
            "values": {"temperature": round(rng.uniform(18, 25), 2), "humidity": round(rng.uniform(30, 60), 1)},
        }
        for seq in range(records)
    ]
    return b",".join(map(orjson.dumps, documents))


payloads = st.binary(max_size=600) | st.binary(max_size=8).map(lambda some: some * 100)
"""Short and long, those that compression helps and those it does not."""


# --- what comes back --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(payload=payloads, context=st.binary(max_size=80))
def test_what_was_sealed_opens(payload: bytes, context: bytes) -> None:
    """Any payload comes back under its context, before a restart and after it, and is never much longer sealed."""
    keys = MemoryDataKeys()
    sealer = Sealer(keys)
    sealed = sealer.seal(payload, context)
    assert sealer.open(sealed, context) == payload
    assert Sealer(keys).open(sealed, context) == payload
    assert len(sealed) <= len(payload) + OVERHEAD_BYTES


def test_a_restart_reads_what_was_sealed_with_keys_in_files(tmp_path: Path) -> None:
    """The whole way, with keys on a disk: another process with the same directory opens what the first has sealed."""
    payload = readings(20)
    store = SoftwareKeyStore(tmp_path / "keys")
    sealed = Sealer(SealedDataKeys(tmp_path / "data-keys", store)).seal(payload, CONTEXT)
    assert Sealer(SealedDataKeys(tmp_path / "data-keys", store)).open(sealed, CONTEXT) == payload
    with pytest.raises(KeyStoreError, match=r"data key 1 in .*there is no such key"):
        Sealer(SealedDataKeys(tmp_path / "other", store)).open(sealed, CONTEXT)


def opened_by_hand(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """What the module's docstring says, written a second time with the library's own HKDF."""
    salt, counter = sealed[5:21], sealed[21:25]
    derived = HKDF(SHA256(), 32, salt, b"edge-gateway buffer payload aes-256-gcm").derive(key)
    data = AESGCM(derived).decrypt(bytes(8) + counter, sealed[29:], sealed[:29] + context)
    return data if sealed[0] == PLAIN else zstandard.ZstdDecompressor().decompress(data)


@settings(deadline=None)
@given(payloads=st.lists(payloads, min_size=1, max_size=5), context=st.binary(max_size=80))
def test_the_format_is_as_described(payloads: Sequence[bytes], context: bytes) -> None:
    """A second implementation, made from the description alone, opens what the first seals."""
    keys = MemoryDataKeys()
    sealer = Sealer(keys)
    for payload in payloads:
        sealed = sealer.seal(payload, context)
        assert opened_by_hand(keys.keys[1], sealed, context) == payload


@pytest.mark.parametrize(
    ("payload", "recorded"),
    [
        (
            b'{"device":"boiler-3"}',
            "0100000001000102030405060708090a0b0c0d0e0f000000005621d6e32e3594b42ec976c8930fa848b6822f30dd12b7"
            "2e5caf911b942921bb64032ef06678bd8a78",
        ),
        (
            b'{"device":"boiler-3"},' * 20,
            "0200000001000102030405060708090a0b0c0d0e0f0000000114cb50262c2b3403050ea1dbd557b4a67df926a239d593"
            "648abe6d9d5aebb91118ae2d9207c0e095477aa045e26776fe2b9f123faa481e17bb7c39",
        ),
    ],
    ids=["plain", "compressed"],
)
def test_what_earlier_versions_sealed_opens(keys: MemoryDataKeys, payload: bytes, recorded: str) -> None:
    """The bytes of the first version, recorded, open for ever."""
    keys.keys[1] = bytes(range(32))
    assert Sealer(keys).open(bytes.fromhex(recorded), CONTEXT) == payload


# --- what does not ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 20], ids=["plain", "compressed"])
def stored(request: pytest.FixtureRequest) -> tuple[Sealer, bytes]:
    """A sealer and what it sealed, of either format."""
    sealer = Sealer(MemoryDataKeys())
    sealed = sealer.seal(readings(request.param), CONTEXT)
    assert sealed[0] == (PLAIN if request.param == 1 else ZSTD)
    return sealer, sealed


def assert_damaged(sealer: Sealer, sealed: bytes, context: bytes = CONTEXT) -> None:
    with pytest.raises(PayloadDamaged, match=f"sealed payload of {len(sealed)} bytes: ") as caught:
        sealer.open(sealed, context)
    assert caught.value.what


def test_every_flipped_bit_is_found(stored: tuple[Sealer, bytes]) -> None:
    """Wherever a bit rots, in the key id too, the payload is known as damaged."""
    sealer, sealed = stored
    for at in range(len(sealed)):
        for bit in range(8):
            rotten = bytearray(sealed)
            rotten[at] ^= 1 << bit
            assert_damaged(sealer, bytes(rotten))


def test_every_cut_is_found(stored: tuple[Sealer, bytes]) -> None:
    """However many bytes are left, or come to it behind."""
    sealer, sealed = stored
    for length in range(len(sealed)):
        assert_damaged(sealer, sealed[:length])
    assert_damaged(sealer, sealed + b"\x00")


@given(context=st.binary(max_size=40).filter(lambda context: context != CONTEXT))
def test_a_payload_opens_in_its_place_only(stored: tuple[Sealer, bytes], context: bytes) -> None:
    """Under any other context it is damaged: what is moved is found as what is changed is."""
    sealer, sealed = stored
    assert_damaged(sealer, sealed, context)


@given(at=st.integers(0, 500), new=st.binary(min_size=1, max_size=600))
def test_overwritten_bytes_are_found(stored: tuple[Sealer, bytes], at: int, new: bytes) -> None:
    """Whatever is written over a part of it: another sector, zeros, noise."""
    sealer, sealed = stored
    at %= len(sealed)
    rotten = sealed[:at] + new + sealed[at + len(new) :]
    if rotten != sealed:
        assert_damaged(sealer, rotten)


@given(noise=st.binary(max_size=200))
def test_noise_is_damaged_and_nothing_else(noise: bytes) -> None:
    """Arbitrary bytes ask for no key and raise nothing but the one error."""
    keys = MemoryDataKeys()
    assert_damaged(Sealer(keys), noise)
    with pytest.raises(PayloadDamaged):
        key_id_of(noise)
    assert keys.opened == []


def test_parts_of_two_payloads_make_none(sealer: Sealer) -> None:
    """The header of one before the data of another under the same context does not open."""
    first, second = sealer.seal(readings(1), CONTEXT), sealer.seal(readings(1), CONTEXT)
    assert_damaged(sealer, first[:29] + second[29:])


def sealed_by_hand(key: bytes, data: bytes) -> bytes:
    """Any compressed data, sealed by somebody who has the key."""
    header = bytes.fromhex("0200000001") + bytes(16) + bytes(4)
    header += zlib.crc32(header).to_bytes(4, "big")
    derived = HKDF(SHA256(), 32, bytes(16), b"edge-gateway buffer payload aes-256-gcm").derive(key)
    return header + AESGCM(derived).encrypt(bytes(12), data, header + CONTEXT)


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("28b52ffde06c06060663636363"),
        zstandard.ZstdCompressor(level=19).compress(bytes(MOST_PAYLOAD_BYTES + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000)),
        zstandard.ZstdCompressor().compress(readings(10))[:-1],
        zstandard.ZstdCompressor().compress(b""),
        b"no frame",
        b"",
    ],
    ids=["claims an exabyte", "a byte too long", "of unknown length", "cut short", "empty", "no frame", "nothing"],
)
def test_a_hostile_length_takes_no_memory(sealer: Sealer, keys: MemoryDataKeys, data: bytes) -> None:
    """Even of what was sealed with the key, no more is unpacked than a payload may be."""
    sealed = sealed_by_hand(keys.keys[sealer.key_id], data)
    sealer.open(sealer.seal(readings(10), b""), b"")
    tracemalloc.start()
    try:
        assert_damaged(sealer, sealed)
        assert tracemalloc.get_traced_memory()[1] < MOST_PAYLOAD_BYTES
    finally:
        tracemalloc.stop()


def test_the_longest_payload_is_an_argument(keys: MemoryDataKeys) -> None:
    """As long as allowed is sealed and opens; a byte more is refused, by one who allows less not unpacked either."""
    sealer = Sealer(keys, most_payload_bytes=1000)
    sealed = sealer.seal(bytes(1000), CONTEXT)
    assert sealer.open(sealed, CONTEXT) == bytes(1000)
    with pytest.raises(ValueError, match="a payload of 1001 bytes is longer than 1000"):
        sealer.seal(bytes(1001), CONTEXT)
    assert_damaged(Sealer(keys, most_payload_bytes=999), sealed)


# --- compression ------------------------------------------------------------------------------------------------------


def test_readings_are_compressed_when_there_are_several(sealer: Sealer) -> None:
    """A lone reading stays as it is, two shrink, and a full message is less than a seventh."""
    lone, two, full = (sealer.seal(readings(records), CONTEXT) for records in (1, 2, 500))
    assert (lone[0], len(lone)) == (PLAIN, len(readings(1)) + OVERHEAD_BYTES)
    assert (two[0], len(two) < 0.8 * len(readings(2))) == (ZSTD, True)
    assert (full[0], len(full) < len(readings(500)) / 7) == (ZSTD, True)


def test_what_does_not_shrink_is_left_alone(sealer: Sealer) -> None:
    """Noise is stored as it came."""
    noise = random.Random(1).randbytes(5000)
    sealed = sealer.seal(noise, CONTEXT)
    assert (sealed[0], len(sealed)) == (PLAIN, 5000 + OVERHEAD_BYTES)


# --- nonces -----------------------------------------------------------------------------------------------------------


class NonceWatch:
    """Notes under which key and nonce anything is encrypted, and can fail at it."""

    def __init__(self) -> None:
        self.used: list[tuple[bytes, bytes]] = []
        self.failing = False

    def cipher(self, key: bytes) -> WatchedCipher:
        return WatchedCipher(self, key)


class WatchedCipher:
    """AES-GCM under the eyes of a `NonceWatch`."""

    def __init__(self, watch: NonceWatch, key: bytes) -> None:
        self._watch = watch
        self._key = key
        self._real = AESGCM(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        self._watch.used.append((self._key, nonce))
        if self._watch.failing:
            raise MemoryError
        return self._real.encrypt(nonce, data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return self._real.decrypt(nonce, data, associated_data)


@contextmanager
def nonces_watched() -> Iterator[NonceWatch]:
    """For sealers made within; their counters are soon used up."""
    watch = NonceWatch()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(aead, "AESGCM", watch.cipher)
        monkeypatch.setattr(sealing, "_MOST_SEALS", 3)
        yield watch


@pytest.fixture
def watch() -> Iterator[NonceWatch]:
    with nonces_watched() as watch:
        yield watch


steps_of_a_life = st.sampled_from(["seal", "seal", "seal long", "restart", "rotate", "retire", "read"]) | (
    st.sampled_from(["fail ids", "fail create", "fail open", "fail encrypt", "fail nothing"])
)


@settings(deadline=None, max_examples=300)
@given(steps=st.lists(steps_of_a_life, max_size=60), seed=st.integers(0, 2**32))
def test_no_nonce_comes_twice(steps: Sequence[str], seed: int) -> None:
    """Over restarts, changes of key, used-up counters and failures of key store and cipher, each is used once."""
    with nonces_watched() as watch:
        keys = MemoryDataKeys()
        rng = random.Random(seed)
        sealer = Sealer(keys, random_bytes=rng.randbytes)
        kept: list[bytes] = []
        for step in steps:
            with suppress(KeyStoreError, MemoryError), log_events():
                match step.split():
                    case ["seal", *long]:
                        kept.append(sealer.seal(b"x" * (300 if long else 10), CONTEXT))
                    case ["restart"]:
                        sealer = Sealer(keys, random_bytes=rng.randbytes)
                    case ["rotate"]:
                        sealer.rotate()
                    case ["retire"]:
                        sealer.retire(min(map(key_id_of, kept), default=sealer.key_id))
                    case ["read"]:
                        assert {len(sealer.open(sealed, CONTEXT)) for sealed in kept} <= {10, 300}
                    case ["fail", what]:
                        keys.failing = frozenset([what])
                        watch.failing = what == "encrypt"
        assert len(set(watch.used)) == len(watch.used)
        headers = [sealed[1:25] for sealed in kept]
        assert len(set(headers)) == len(headers)


def test_the_nonce_watch_can_fail(watch: NonceWatch, keys: MemoryDataKeys) -> None:
    """With the same salt after a restart, the same watch sees a nonce twice: it is the salt that helps."""
    for _ in range(2):
        Sealer(keys, random_bytes=bytes).seal(b"x", CONTEXT)
    assert len(set(watch.used)) < len(watch.used)


def test_a_used_up_counter_draws_a_new_salt(watch: NonceWatch, keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Under one salt no more is sealed than the counter holds; what follows opens as well."""
    sealed = [sealer.seal(b"x", CONTEXT) for _ in range(7)]
    assert [int.from_bytes(each[21:25], "big") for each in sealed] == [0, 1, 2, 0, 1, 2, 0]
    assert len({each[5:21] for each in sealed}) == 3
    assert {sealer.open(each, CONTEXT) for each in sealed} == {b"x"}


def test_a_data_key_encrypts_nothing_itself(watch: NonceWatch, keys: MemoryDataKeys, sealer: Sealer) -> None:
    """The key in use is derived, and another for every restart."""
    sealer.seal(b"x", CONTEXT)
    Sealer(keys).seal(b"x", CONTEXT)
    used = {key for key, _ in watch.used}
    assert len(used) == 2
    assert keys.keys[1] not in used


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_first_key_is_made_when_it_is_needed(keys: MemoryDataKeys) -> None:
    """A sealer asks for nothing until it seals; a restart goes on with the key there is."""
    sealer = Sealer(keys)
    assert keys.keys == {}
    sealed = sealer.seal(b"x", CONTEXT)
    assert (key_id_of(sealed), sealer.key_id, sealer.key_ids()) == (1, 1, [1])
    assert Sealer(keys).key_id == 1
    assert list(keys.keys) == [1]


def test_a_key_made_just_before_a_power_cut_is_used(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Nobody knew of it yet; the next start takes it, as the highest."""
    sealer.seal(b"x", CONTEXT)
    keys.create()
    assert key_id_of(Sealer(keys).seal(b"x", CONTEXT)) == 2


def test_rotating_changes_the_key_from_now_on(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """New payloads need the new key, after a restart too; old ones open as before."""
    old = sealer.seal(b"old", CONTEXT)
    assert sealer.rotate() == sealer.key_id == 2
    new = sealer.seal(b"new", CONTEXT)
    assert [key_id_of(each) for each in (old, new)] == [1, 2]
    for each in (sealer, Sealer(keys)):
        assert [each.open(sealed, CONTEXT) for sealed in (old, new)] == [b"old", b"new"]
        assert each.key_id == 2


@pytest.mark.parametrize("call", ["create", "open"])
def test_a_failed_rotation_changes_nothing(keys: MemoryDataKeys, sealer: Sealer, call: str) -> None:
    """The key in use stays, and sealing goes on."""
    sealer.seal(b"x", CONTEXT)
    keys.failing = frozenset([call])
    with pytest.raises(KeyStoreError, match=f"cannot {call} now"):
        sealer.rotate()
    assert key_id_of(sealer.seal(b"x", CONTEXT)) == sealer.key_id == 1


def test_keys_nobody_needs_are_destroyed(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Those below the lowest needed go, and what they sealed no longer opens here; the rest stays."""
    sealed = [sealer.seal(b"x", CONTEXT)]
    for _ in range(3):
        sealer.rotate()
        sealed.append(sealer.seal(b"x", CONTEXT))
    assert sealer.retire(3) == [1, 2]
    assert sealer.key_ids() == [3, 4]
    for each in sealed[:2]:
        with pytest.raises(KeyStoreError, match=f"data key {key_id_of(each)}: there is no such key"):
            sealer.open(each, CONTEXT)
    assert [sealer.open(each, CONTEXT) for each in sealed[2:]] == [b"x", b"x"]
    assert sealer.retire(3) == []


def test_the_key_in_use_is_never_destroyed(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Whatever the caller thinks is needed, also by a sealer that has not sealed yet."""
    sealer.seal(b"x", CONTEXT)
    sealer.rotate()
    assert Sealer(keys).retire(1000) == [1]
    assert sealer.retire(1000) == []
    assert sealer.key_ids() == [2]


def test_a_key_store_that_fails_for_a_while(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Sealing and opening raise its error as long as it fails, and work from then on; no key was made meanwhile."""
    sealed = sealer.seal(b"x", CONTEXT)
    sealer = Sealer(keys)
    keys.failing = frozenset(["open", "create"])
    with log_events() as events, pytest.raises(KeyStoreError, match="cannot create now"):
        sealer.seal(b"x", CONTEXT)
    assert events == []
    with pytest.raises(KeyStoreError, match="cannot open now"):
        sealer.open(sealed, CONTEXT)
    keys.failing = frozenset()
    assert sealer.open(sealed, CONTEXT) == b"x"
    assert key_id_of(sealer.seal(b"x", CONTEXT)) == 1


def test_a_lost_key_does_not_keep_new_records_out() -> None:
    """Where the newest key cannot be opened and a new one can be made, sealing goes on under that one, and says so."""

    class Lost(MemoryDataKeys):
        def open(self, key_id: int) -> Secret:
            if key_id == 1:
                raise KeyStoreError("the TPM was cleared", where="data key 1")
            return super().open(key_id)

    lost = Lost()
    lost.create()
    with log_events() as events:
        assert key_id_of(Sealer(lost).seal(b"x", CONTEXT)) == 2
    [event] = events
    assert (event["event"], event["log_level"]) == ("buffer.data_key_replaced", "error")
    assert (event["key"], event["by"]) == (1, 2)
    assert "the TPM was cleared" in event["reason"]


def test_a_key_is_opened_once(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """However much is sealed and read, over rotations and the payloads of many starts: a TPM is slow."""
    sealed = [sealer.seal(b"x", CONTEXT)]
    sealer.rotate()
    sealed += [Sealer(keys).seal(b"x", CONTEXT) for _ in range(20)]
    keys.opened.clear()
    sealer = Sealer(keys)
    for _ in range(3):
        for each in sealed:
            assert sealer.open(each, CONTEXT) == b"x"
        sealer.seal(b"x", CONTEXT)
    assert sorted(keys.opened) == [1, 2]


def test_nothing_of_a_key_is_told(keys: MemoryDataKeys, sealer: Sealer) -> None:
    """Neither a sealer's text nor its errors hold a key; the error for a missing key names its number."""
    sealed = sealer.seal(readings(1), CONTEXT)
    key = keys.keys[1]
    told = [repr(sealer), repr(vars(sealer))]

    def refuse(sealed: bytes, context: bytes, sealer: Sealer) -> None:
        with pytest.raises((KeyStoreError, PayloadDamaged)) as caught:
            sealer.open(sealed, context)
        told.extend([str(caught.value), repr(caught.value), repr(caught.value.__context__)])

    refuse(sealed, b"elsewhere", sealer)
    refuse(sealed[:-1], CONTEXT, sealer)
    refuse(sealed, CONTEXT, Sealer(MemoryDataKeys()))
    assert told[-3] == "data key 1: there is no such key"
    for text in told:
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
