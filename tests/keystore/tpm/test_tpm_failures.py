"""A TPM that is busy, full, locked, restarted, exchanged or impersonated: what a key store on it does."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore, worker
from edge_gateway.keystore.tpm.public_areas import SRK_HANDLE, key_template
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.bus import (
    CLEAR,
    CREATE,
    CREATE_PRIMARY,
    FLUSH,
    HMAC,
    HMAC_START,
    LOAD,
    READ_CLOCK,
    READ_PUBLIC,
    SEQUENCE_UPDATE,
    START_AUTH_SESSION,
    Bus,
)
from tests.keystore.tpm.stranger import Stranger
from tests.log_events import log_events

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

ESYS_TR: Any = pytest.importorskip("tpm2_pytss").ESYS_TR  # not imported above, where its absence would be an error

KEY = bytes(range(100, 132))
LIBRARY_TRIES = 5
"""The TSS repeats a command that is to be repeated, without a pause."""


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def ignore(_: int) -> None:
    pass


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def pauses_s() -> list[float]:
    return []


@pytest.fixture
def store(tpm: BlockingTpm, bus: Bus, pauses_s: list[float], tmp_path: Path) -> Iterator[TpmKeyStore]:
    """With the key `k` in it."""
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect, sleep=pauses_s.append)
    store.put("k", Secret(KEY))
    yield store
    store.close()


@pytest.mark.parametrize("code", [0x922, 0x90A, 0x920, 0x923, 0x128])
def test_a_busy_tpm_is_waited_for(store: TpmKeyStore, bus: Bus, pauses_s: list[float], code: int) -> None:
    """RETRY, TESTING, NV_RATE and NV_UNAVAILABLE: tried again after 10, 20, ... ms, and then all is well."""
    bus.answers[LOAD] = [code] * (2 * LIBRARY_TRIES if code in (0x922, 0x90A) else 2)
    assert store.sign("k", b"x") == mac(KEY, b"x")
    assert pauses_s == [0.01, 0.02]


def test_a_tpm_that_stays_busy_is_told(store: TpmKeyStore, bus: Bus, pauses_s: list[float]) -> None:
    """After 150 ms the store is unavailable; the next call tries anew."""
    bus.always[LOAD] = 0x922
    with pytest.raises(KeyStoreUnavailable, match="key 'k': the TPM is busy"):
        store.sign("k", b"x")
    assert pauses_s == [0.01, 0.02, 0.04, 0.08]
    bus.always.clear()
    assert store.sign("k", b"x") == mac(KEY, b"x")


@pytest.mark.parametrize("code", [0x902, 0x903, 0x901])
def test_a_full_tpm_is_cleared_of_what_is_ours(store: TpmKeyStore, bus: Bus, code: int) -> None:
    """Without room for a key or session ours are given up first, and the work is done again."""
    bus.answers[LOAD] = [code]
    assert store.sign("k", b"x") == mac(KEY, b"x")


def test_what_a_crash_left_in_our_own_tpm_is_cleared(store: TpmKeyStore, tpm: BlockingTpm, tmp_path: Path) -> None:
    """Three objects that a dead process left in the simulator are in nobody's way."""
    with Stranger(tpm) as dead:
        dead.fill_the_tpm()
    assert store.sign("k", b"x") == mac(KEY, b"x")


def test_a_locked_tpm_is_not_tried_again(store: TpmKeyStore, bus: Bus, pauses_s: list[float]) -> None:
    """LOCKOUT is told at once, with the time after which the TPM forgives."""
    bus.always[LOAD] = 0x921
    bus.commands.clear()
    with pytest.raises(
        KeyStoreUnavailable, match=r"is locked after too many wrong passwords; it forgives one every \d+ s"
    ):
        store.sign("k", b"x")
    assert bus.commands.count(LOAD) == 1
    assert pauses_s == []


def test_a_wrong_password_is_not_tried_again(store: TpmKeyStore, bus: Bus) -> None:
    """AUTH_FAIL is counted by the TPM, so that one try is all it gets."""
    bus.always[LOAD] = 0x98E
    bus.commands.clear()
    with pytest.raises(KeyStoreError, match="says that a password is wrong, and counts it"):
        store.sign("k", b"x")
    assert bus.commands.count(LOAD) == 1


@pytest.mark.parametrize(("code", "told"), [(0x100, "not started by the firmware"), (0x101, "failure mode")])
def test_a_tpm_that_cannot_work_is_told(store: TpmKeyStore, bus: Bus, code: int, told: str) -> None:
    """The error says which of its states it is in, and what to switch."""
    bus.always[LOAD] = code
    with pytest.raises(KeyStoreUnavailable, match=told):
        store.sign("k", b"x")


def test_an_unknown_code_is_told_as_it_is(store: TpmKeyStore, bus: Bus) -> None:
    """What no table knows is given with its number."""
    bus.always[LOAD] = 0x12F
    with pytest.raises(KeyStoreError, match=r"key 'k': the TPM refuses \(0x12f\). `tpm2_rc_decode 0x12f`"):
        store.sign("k", b"x")


def test_a_dead_tpm_is_told_and_used_again_when_it_is_back(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """While it is off every call says so; afterwards the store works without being made anew."""
    tpm.kill()
    for _ in range(2):
        with pytest.raises(KeyStoreUnavailable, match="the TPM cannot be reached"):
            store.sign("k", b"x")
    with pytest.raises(KeyStoreUnavailable):
        store.check()
    tpm.restart()
    assert store.sign("k", b"x") == mac(KEY, b"x")


@pytest.mark.parametrize("at", [LOAD, HMAC, HMAC_START, SEQUENCE_UPDATE, CREATE, START_AUTH_SESSION, FLUSH])
@pytest.mark.parametrize("end", [BlockingTpm.restart, BlockingTpm.power_cut])
def test_a_restart_at_any_command_is_noticed(
    store: TpmKeyStore, tpm: BlockingTpm, bus: Bus, at: int, end: Callable[[BlockingTpm], None]
) -> None:
    """Wherever the TPM restarts, in order or by a power cut, what comes out is right, and a log line says it."""

    def restart_once(command: int) -> None:
        if command == at:
            bus.before = ignore
            end(tpm)

    store.check()  # ends the session
    bus.before = restart_once
    with log_events() as events:
        assert store.sign("k", b"x" * 2000) == mac(KEY, b"x" * 2000)
        assert store.sign("k", b"x") == mac(KEY, b"x")
        store.put("other", Secret(KEY[::-1]))
        assert store.sign("other", b"x") == mac(KEY[::-1], b"x")
    assert bus.before is ignore
    store.check()
    assert ("keystore.tpm.lost" in [event["event"] for event in events]) == (at != START_AUTH_SESSION)


def test_a_restart_is_no_failure_of_a_check(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """Between two checks a TPM may restart; the check finds that it works."""
    store.sign("k", b"x")
    tpm.restart()
    store.check()


@pytest.mark.parametrize("data", [b"x", b"x" * 5000])
def test_another_key_in_our_keys_place_signs_nothing(
    store: TpmKeyStore, tpm: BlockingTpm, bus: Bus, data: bytes
) -> None:
    """The worst restart: between load and use the TPM restarts and gives our handle to another's HMAC key."""
    with Stranger(tpm) as stranger:

        def take_the_handle(command: int) -> None:
            if command in (HMAC, HMAC_START):
                bus.before = ignore
                tpm.power_cut()
                stranger.fill_the_tpm()

        bus.before = take_the_handle
        assert store.sign("k", data) == mac(KEY, data)
        assert stranger.handles == [0x80000000, 0x80000001, 0x80000002]


def test_another_key_without_a_restart_signs_nothing(store: TpmKeyStore, tpm: BlockingTpm, bus: Bus) -> None:
    """Another program that throws our key out and loads its own at the same handle is found out as well.

    The session lives on, so only its HMAC over the key's Name can tell.
    """
    with Stranger(tpm) as stranger:

        def take_the_handle(command: int) -> None:
            if command == HMAC:
                bus.before = ignore
                stranger.empty_the_tpm()
                stranger.fill_the_tpm()

        bus.before = take_the_handle
        with log_events() as events:
            assert store.sign("k", b"x") == mac(KEY, b"x")
    assert [event["code"] for event in events if event["event"] == "keystore.tpm.lost"] == ["0x9a2"]


def test_a_changed_signature_is_not_believed(store: TpmKeyStore, bus: Bus) -> None:
    """A bit that falls over on the way back is found by the session, and the signature made again."""
    broken: list[bytes] = []

    def changed(command: int, answer: bytes) -> bytes:
        if command != HMAC or broken:
            return answer
        broken.append(answer)
        return answer[:20] + bytes([answer[20] ^ 1]) + answer[21:]

    bus.changed = changed
    assert store.sign("k", b"x") == mac(KEY, b"x")
    assert broken


def test_no_wrong_signature_under_kills(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """Threads sign with many keys while the TPM is killed and started: each signature is right, or there is none."""
    keys = {f"k{number}": bytes([number]) * 32 for number in range(8)}
    for name, key in keys.items():
        store.put(name, Secret(key))
    stop = threading.Event()
    right: list[str] = []
    wrong: list[str] = []

    def sign_on(names: list[str]) -> None:
        turn = 0
        while not stop.is_set():
            name, data = names[turn % len(names)], turn.to_bytes(4, "big")
            turn += 1
            try:
                (right if store.sign(name, data) == mac(keys[name], data) else wrong).append(name)
            except KeyStoreUnavailable:
                stop.wait(0.002)

    threads = [threading.Thread(target=sign_on, args=(sorted(keys)[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        signed = len(right)
        give_up_at_s = time.monotonic() + 30
        while len(right) < signed + 20 and time.monotonic() < give_up_at_s:
            stop.wait(0.002)
        tpm.kill()
        tpm.restart()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(right) >= 120
    assert store.sign("k0", b"x") == mac(keys["k0"], b"x")


def test_no_secret_is_on_the_bus(store: TpmKeyStore, bus: Bus) -> None:
    """Who listens between the gateway and its TPM hears no key and no sealed secret, coming or going."""
    secrets = [bytes(range(1, 33)), bytes(range(33, 65))]
    store.put("listened", Secret(secrets[0]))
    assert store.unseal(store.seal(Secret(secrets[1]))).reveal() == secrets[1]
    for secret in secrets:
        assert secret[:8] not in bus.heard
        assert secret[-8:] not in bus.heard
    assert store.sign("listened", b"heard!") in bus.heard  # a listener hears at all


@pytest.mark.parametrize("lies", [(True, True), (True, False), (False, True)])
def test_a_root_offered_by_an_impostor_is_refused(
    store: TpmKeyStore, bus: Bus, tpm: BlockingTpm, tmp_path: Path, lies: tuple[bool, bool]
) -> None:
    """Who offers a root of his own, to have secrets encrypted for it, is refused, whichever question he answers."""
    with BlockingTpm() as other:
        foreign = TpmKeyStore(tmp_path / "other", tcti=other.tcti)
        offered = foreign.storage_root_key()
        foreign.close()
    questions = iter(lies)

    def changed(command: int, answer: bytes) -> bytes:
        if command != READ_PUBLIC or not next(questions):
            return answer
        own_bytes = 2 + int.from_bytes(answer[10:12], "big")
        assert own_bytes == len(offered)
        return answer[:10] + offered + answer[10 + own_bytes :]  # under the name of the right one

    bus.changed = changed
    bus.commands.clear()
    again = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    with pytest.raises(KeyStoreError, match=r"belong to another TPM|something else is where"):
        again.put("secret", Secret(KEY))
    assert START_AUTH_SESSION not in bus.commands
    again.close()


def test_a_foreign_root_is_not_touched(bus: Bus, tpm: BlockingTpm, tmp_path: Path) -> None:
    """What others keep where the root belongs stays, and the error says how to look at it."""
    with Stranger(tpm) as stranger:
        stranger.persist(stranger.make(key_template(made_inside=True)), SRK_HANDLE)
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    with pytest.raises(KeyStoreError, match=r"something else .* tpm2_readpublic -c 0x81000001"):
        store.put("k", Secret(KEY))
    assert not (tmp_path / "keys").exists()
    store.close()


@pytest.mark.parametrize("kind", ["ecc", "rsa"])
def test_a_root_of_either_kind_serves(tpm: BlockingTpm, tmp_path: Path, kind: str) -> None:
    """A store made for one kind uses what it finds: the roots of Azure's tools are RSA."""
    made = TpmKeyStore(tmp_path / "a", tcti=tpm.tcti, srk="rsa" if kind == "rsa" else "ecc")
    made.put("k", Secret(KEY))
    found = TpmKeyStore(tmp_path / "b", tcti=tpm.tcti, srk="ecc" if kind == "rsa" else "rsa")
    found.put("k", Secret(KEY))
    assert found.storage_root_key() == made.storage_root_key()
    assert len(made.storage_root_key()) == (316 - 32 if kind == "rsa" else 92)
    assert found.sign("k", b"x") == made.sign("k", b"x") == mac(KEY, b"x")
    made.close()
    found.close()


def test_a_root_that_was_evicted_is_made_again(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """The same TPM makes the same root: nothing is lost."""
    root = store.storage_root_key()
    with Stranger(tpm) as stranger:
        stranger.evict(SRK_HANDLE)
    assert store.sign("k", b"x") == mac(KEY, b"x")
    assert store.storage_root_key() == root


def test_an_owner_password_is_needed_only_to_make_the_root(tpm: BlockingTpm, tmp_path: Path) -> None:
    """A wrong one is told, the right one makes the root; afterwards the store works without."""
    with Stranger(tpm) as stranger:
        stranger.set_password(ESYS_TR.OWNER, b"owner's")
    for password, told in (
        (None, "the TPM's owner has a password"),
        (lambda: Secret(b"wrong"), "owner password is another"),
    ):
        store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, owner_auth=password)
        with pytest.raises(KeyStoreError, match=told):
            store.check()
        store.close()
    bus = Bus()
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, owner_auth=lambda: Secret(b"owner's"), connect=bus.connect)
    store.put("k", Secret(KEY))
    store.close()
    assert b"owner's" not in bus.heard
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
    assert store.sign("k", b"x") == mac(KEY, b"x")
    store.close()


@pytest.mark.parametrize(
    ("code", "told"), [(0x9A2, "lockout password is another"), (0x120, "switched off"), (0x921, "is locked")]
)
def test_a_tpm_that_refuses_to_be_cleared(store: TpmKeyStore, bus: Bus, tmp_path: Path, code: int, told: str) -> None:
    """The key files go all the same, and the error says that copies still work and how to clear; it asked once."""
    bus.always[CLEAR] = code
    with pytest.raises(KeyStoreError, match=rf"could not be cleared: .*{told}.*copies made before still work"):
        store.wipe()
    assert list((tmp_path / "keys").iterdir()) == []
    assert bus.commands.count(CLEAR) == 1
    bus.always.clear()
    store.put("k", Secret(KEY))
    store.wipe()


def test_a_wipe_needs_the_lockout_password(tpm: BlockingTpm, tmp_path: Path) -> None:
    """With the TPM's own the wipe works."""
    with Stranger(tpm) as stranger:
        stranger.set_password(ESYS_TR.LOCKOUT, b"lockout's")
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, lockout_auth=lambda: Secret(b"lockout's"))
    store.put("k", Secret(KEY))
    store.wipe()
    store.close()


def test_a_root_cannot_be_made_with_a_failing_tpm(bus: Bus, tpm: BlockingTpm, tmp_path: Path) -> None:
    """Failing to make the root leaves nothing; the next call makes it."""
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    bus.answers[CREATE_PRIMARY] = [0x101]
    with pytest.raises(KeyStoreUnavailable, match="failure mode"):
        store.check()
    store.put("k", Secret(KEY))
    assert store.sign("k", b"x") == mac(KEY, b"x")
    store.close()


def test_a_clock_that_cannot_be_read_is_an_error_of_opening(bus: Bus, tpm: BlockingTpm, tmp_path: Path) -> None:
    """Whatever fails while the connection is opened is told like everything else."""
    bus.always[READ_CLOCK] = 0x101
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    with pytest.raises(KeyStoreUnavailable, match="failure mode"):
        store.check()
    store.close()


def test_a_tpm_that_hangs_is_told_and_used_again_when_it_goes_on(
    store: TpmKeyStore, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers do not wait for ever, nor does closing; what nobody waits for any more is not done."""
    monkeypatch.setattr(worker, "ANSWER_WITHIN_S", 0.1)
    monkeypatch.setattr(worker, "CLOSE_WITHIN_S", 0.1)
    goes_on = threading.Event()
    bus.before = lambda command: goes_on.wait(30)
    bus.commands.clear()
    for _ in range(2):
        with pytest.raises(KeyStoreUnavailable, match="key 'k': the TPM does not answer within 0 s"):
            store.sign("k", b"x")
    monkeypatch.setattr(worker, "ANSWER_WITHIN_S", 30.0)
    goes_on.set()
    assert store.sign("k", b"x") == mac(KEY, b"x")
    assert bus.commands.count(HMAC) == 2


def test_closing_does_not_wait_for_a_tpm_that_hangs(
    tpm: BlockingTpm, bus: Bus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A gateway is stopped even then."""
    monkeypatch.setattr(worker, "ANSWER_WITHIN_S", 0.1)
    monkeypatch.setattr(worker, "CLOSE_WITHIN_S", 0.1)
    goes_on = threading.Event()
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    bus.before = lambda command: goes_on.wait(30)
    with pytest.raises(KeyStoreUnavailable, match="does not answer"):
        store.check()
    store.close()
    goes_on.set()
