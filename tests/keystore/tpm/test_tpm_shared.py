"""One TPM and many who want it: our threads, a process of ours that has died, and somebody who guesses passwords."""

from __future__ import annotations

import hmac
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.bus import Bus
from tests.keystore.tpm.stranger import Stranger

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

pytss: Any = pytest.importorskip("tpm2_pytss")  # not imported above, where its absence would be an error

KEY = bytes(range(100, 132))
RC_OBJECT_MEMORY, RC_SESSION_MEMORY, RC_LOCKOUT, RC_AUTH_FAIL = 0x902, 0x903, 0x921, 0x98E

FILL_AND_DIE = """
import os, signal, sys
from tpm2_pytss import *
esys = ESAPI(sys.argv[1])
public = TPM2B_PUBLIC.parse("hmac", objectAttributes="userwithauth|fixedtpm|fixedparent|sensitivedataorigin|sign")
try:
    while True:
        if sys.argv[2] == "objects":
            esys.create_primary(TPM2B_SENSITIVE_CREATE(), public)
        else:
            symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
            esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, symmetric, TPM2_ALG.SHA256)
except TSS2_Exception:
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def mac(data: bytes) -> bytes:
    return hmac.digest(KEY, data, "sha256")


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def store(tpm: BlockingTpm, tmp_path: Path) -> Iterator[TpmKeyStore]:
    """With the key `k` in it, and a connection that is open."""
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
    store.put("k", Secret(KEY))
    yield store
    store.close()


def test_one_thread_talks_to_the_tpm(tpm: BlockingTpm, tmp_path: Path) -> None:
    """However many call, and whatever for: each command comes from the same thread, one after the other's answer."""
    bus = Bus()
    threads: set[threading.Thread] = set()
    bus.before = lambda _: threads.add(threading.current_thread())
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect)
    store.put("k", Secret(KEY))
    sealed = store.seal(Secret(KEY))

    def work(number: int) -> None:
        data = bytes([number])
        assert store.sign("k", data) == mac(data)
        assert store.unseal(sealed).reveal() == KEY
        store.check()

    with ThreadPoolExecutor(8) as callers:
        list(callers.map(work, range(16)))
    store.close()
    assert [each.name for each in threads] == ["tpm"]


@pytest.mark.parametrize("what", ["objects", "sessions"])
@pytest.mark.parametrize("when", ["before we come", "while we are connected"])
def test_what_a_killed_process_has_left_is_in_nobodys_way(
    store: TpmKeyStore, tpm: BlockingTpm, tmp_path: Path, what: str, when: str
) -> None:
    """It has filled all places of the TPM; who comes next, or was there, makes room."""
    if when == "before we come":
        store.close()
    died = subprocess.run([sys.executable, "-c", FILL_AND_DIE, tpm.tcti, what], capture_output=True, timeout=60)
    assert died.returncode == -9, died.stderr.decode()
    full = RC_OBJECT_MEMORY if what == "objects" else RC_SESSION_MEMORY
    with Stranger(tpm) as other, pytest.raises(pytss.TSS2_Exception) as refused:
        other.take_a_place(what)
    assert refused.value.rc == full, "there is really no room"
    ours = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti) if when == "before we come" else store
    assert ours.sign("k", b"x") == mac(b"x")
    assert ours.unseal(ours.seal(Secret(KEY))).reveal() == KEY
    ours.close()


def test_a_tpm_that_is_locked_still_serves_us(store: TpmKeyStore, tpm: BlockingTpm) -> None:
    """Somebody has guessed passwords until the TPM locked itself: nothing of ours has one, so all goes on."""
    sealed = store.seal(Secret(KEY))
    with Stranger(tpm) as guesser:
        codes = guesser.guess_until_locked()
    assert codes[0] == RC_AUTH_FAIL
    assert codes[-1] == RC_LOCKOUT
    assert store.sign("k", b"x") == mac(b"x")
    assert store.unseal(sealed).reveal() == KEY
    store.put("another", Secret(KEY))
    store.create("made")
    store.check()
