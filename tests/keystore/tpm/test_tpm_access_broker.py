"""A TPM that its access broker (tpm2-abrmd) has to itself and shares: `tcti: "tabrmd:bus_type=session"`."""

from __future__ import annotations

import hashlib
import hmac
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_gateway.errors import KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore

from .backend import BlockingTpm, why_not

_PROGRAMS = ("tpm2-abrmd", "dbus-daemon")
_LACKING = ", ".join(name for name in _PROGRAMS if shutil.which(name) is None)
pytestmark = pytest.mark.skipif(
    bool(why_not() or _LACKING), reason=why_not() or f"not installed: {_LACKING}; apt-get install tpm2-abrmd dbus"
)

TCTI = "tabrmd:bus_type=session"
KEY = bytes(range(32))


class Broker:
    """tpm2-abrmd on a bus of its own; started and killed by the test."""

    def __init__(self, tpm: BlockingTpm) -> None:
        self._command = ["tpm2-abrmd", "--session", f"--tcti={tpm.tcti}"]
        if os.geteuid() == 0:
            self._command.append("--allow-root")

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def session_bus() -> Iterator[None]:
    """One for all the tests here: GLib keeps the connection to the first that a process has asked for."""
    words = ("dbus-daemon", "--session", "--nofork", "--print-address")
    with (
        pytest.MonkeyPatch.context() as environment,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bus,
    ):
        assert bus.stdout is not None
        environment.setenv("DBUS_SESSION_BUS_ADDRESS", bus.stdout.readline().strip())
        try:
            yield
        finally:
            bus.kill()


@pytest.fixture
def broker(session_bus: None) -> Iterator[Broker]:
    with BlockingTpm() as tpm:
        broker = Broker(tpm)
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


@pytest.fixture
def store(broker: Broker, tmp_path: Path) -> Iterator[TpmKeyStore]:
    store = TpmKeyStore(tmp_path / "keys", tcti=TCTI)
    yield store
    store.close()


def patiently(store: TpmKeyStore) -> None:
    """Wait until the broker has its name on the bus."""
    give_up_at_s = time.monotonic() + 30
    while True:
        try:
            store.endorsement_key()
        except KeyStoreUnavailable:
            if time.monotonic() > give_up_at_s:
                raise
            time.sleep(0.05)
        else:
            return


def test_keys_behind_the_broker(store: TpmKeyStore) -> None:
    """Brought in, made, signed with, sealed, opened and wiped, as with the TPM itself."""
    patiently(store)
    store.put("brought", Secret(KEY))
    store.create("made")
    assert store.sign("brought", b"data") == hmac.digest(KEY, b"data", hashlib.sha256)
    assert store.names() == ["brought", "made"]
    with store.unseal(store.seal(Secret(KEY))) as opened:
        assert opened.reveal() == KEY
    store.check()
    store.wipe()
    assert store.names() == []


def test_a_broker_that_is_killed(broker: Broker, store: TpmKeyStore) -> None:
    """While it is gone the store says so and how to mend it; when it is back, the same store signs again."""
    patiently(store)
    store.put("k", Secret(KEY))
    broker.kill()
    with pytest.raises(KeyStoreUnavailable, match=r"cannot be reached.*libtss2-tcti-tabrmd0"):
        store.sign("k", b"data")
    broker.start()
    patiently(store)
    assert store.sign("k", b"data") == hmac.digest(KEY, b"data", hashlib.sha256)
