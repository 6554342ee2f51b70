"""A wipe with the keys in a TPM: cut or failing at every command it is sent, it ends wiped.

A cut is a process of its own that ends without a word, just before a command goes to the TPM.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.emergency import GatewayWiped
from edge_gateway.emergency.mark import read_mark
from edge_gateway.keystore.tpm import TpmKeyStore
from tests.emergency.site import KEYS, PAYLOAD_KEY, Site
from tests.keystore.tpm.backend import BlockingTpm, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

if not why_not():
    from tests.keystore.tpm.bus import CLEAR, Bus

_CUT = 77
_TPM_RC_FAILURE = 0x101
_TPM_RC_AUTH_FAIL_ON_LOCKOUT = 0x98E
"""TPM_RC_AUTH_FAIL of the first session."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A furnished gateway, and the state of its TPM, switched off."""
    root = tmp_path_factory.mktemp("template")
    (root / "data").mkdir(mode=0o700)
    with BlockingTpm(root / "tpm") as tpm:
        store = TpmKeyStore(root / "data" / "keys", tcti=tpm.tcti)
        site = Site(root, store)
        site.furnish()
        assert len(site.abilities()) == 11
        store.close()
    return root


@pytest.fixture
def roots(template: Path, tmp_path: Path) -> Iterator[Path]:
    """Copies of it, as many as are asked for."""

    def copies() -> Iterator[Path]:
        for number in range(1000):
            root = tmp_path / str(number)
            Site.of_software(template).copy(root)
            shutil.copytree(template / "tpm", root / "tpm")
            yield root

    return copies()


def store_of(root: Path, tpm: BlockingTpm, bus: Bus | None = None) -> TpmKeyStore:
    return TpmKeyStore(root / "data" / "keys", tcti=tpm.tcti, connect=None if bus is None else bus.connect)


def wipe_and_die(root: Path, tpm: BlockingTpm, cut_at: int) -> bool:
    """Wipe in a process that ends before it sends its TPM a command; whether it came so far."""
    with warnings.catch_warnings():
        # From 3.12 on Python warns of forks with threads about: the child leaves those alone, and ends soon.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            bus = Bus()
            bus.before = lambda command: os._exit(_CUT) if len(bus.commands) == cut_at else None
            wipe = Site(root, store_of(root, tpm, bus)).wipe()
            wipe.begin("test")
            wipe.finish()
        except BaseException:  # noqa: BLE001  # nothing of the parent's may run in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, _CUT)
    return os.waitstatus_to_exitcode(status) == _CUT


def assert_wiped(root: Path, tpm: BlockingTpm, template: Path, tmp_path: Path) -> None:
    """Nothing works, and what somebody has copied before does not either."""
    store = store_of(root, tpm)
    assert Site(root, store).abilities() == set()
    assert Site(root, store).secrets_on_disk([*KEYS.values(), PAYLOAD_KEY]) == 0
    store.close()
    copied = tmp_path / f"{root.name}-thief"
    Site.of_software(template).copy(copied)
    thief = store_of(copied, tpm)
    able = Site(copied, thief).abilities()
    thief.close()
    assert able <= {"identity ", "identity boiler", "file tls.key", "file password"}


def test_a_wipe_cut_at_any_command_ends_wiped(template: Path, roots: Iterator[Path], tmp_path: Path) -> None:
    """And the power of the TPM goes with the process; a copy of the directory is worth nothing afterwards, too."""
    cuts = 0
    for root in roots:
        with BlockingTpm(root / "tpm") as tpm:
            was_cut = wipe_and_die(root, tpm, cut_at=cuts + 1)
            assert list((root / "data" / "keys").glob("*.tpm")) == [], "before the TPM is asked for anything"
            tpm.power_cut()
            store = store_of(root, tpm)
            with pytest.raises(GatewayWiped):
                Site(root, store).wipe().refuse()
            store.close()
            mark = read_mark(root / "data")
            assert mark is not None
            assert (mark.done, mark.left) == (True, ())
            assert_wiped(root, tpm, template, tmp_path)
        if not was_cut:
            break
        cuts += 1
    assert cuts >= 2


def test_a_tpm_that_fails_at_any_command_is_wiped_at_the_next_start(
    template: Path, roots: Iterator[Path], tmp_path: Path
) -> None:
    """Whatever it fails at, the files are gone at once, and the TPM is cleared when it works again."""
    for failing in range(1, 100):
        root = next(roots)
        with BlockingTpm(root / "tpm") as tpm:
            bus = Bus()

            def fail(command: int, bus: Bus = bus, failing: int = failing) -> None:
                if len(bus.commands) >= failing:
                    bus.always[command] = _TPM_RC_FAILURE

            bus.before = fail
            store = store_of(root, tpm, bus)
            wipe = Site(root, store).wipe()
            wipe.begin("test")
            report = wipe.finish()
            failed = bool(bus.always)
            store.close()
            assert list((root / "data" / "keys").glob("*.tpm")) == []
            assert list((root / "data" / "data-keys").iterdir()) == []
            store = store_of(root, tpm)
            with pytest.raises(GatewayWiped):
                Site(root, store).wipe().refuse()
            store.close()
            mark = read_mark(root / "data")
            assert mark is not None
            assert mark.done
            if CLEAR in bus.commands or not report.done:
                assert_wiped(root, tpm, template, tmp_path)
        if not failed:
            break
    assert failing >= 3


def test_a_tpm_that_hangs_keeps_nothing_alive(template: Path, roots: Iterator[Path], tmp_path: Path) -> None:
    """Somebody holds its bus: while it does not answer all files go, and when it does the wipe ends."""
    root = next(roots)
    with BlockingTpm(root / "tpm") as tpm:
        bus, let_go = Bus(), threading.Event()
        bus.before = lambda _: let_go.wait(60)
        store = store_of(root, tpm, bus)
        wipe = Site(root, store).wipe()
        wipe.begin("test")
        with ThreadPoolExecutor(1) as beside:
            report = beside.submit(wipe.finish)
            try:
                wait_until(lambda: not alive(root))
                assert not report.done()
                assert CLEAR not in bus.commands
            finally:
                let_go.set()
            assert (report.result().done, report.result().left) == (True, ())
        store.close()
        assert_wiped(root, tpm, template, tmp_path)


def alive(root: Path) -> list[Path]:
    """Files that a wipe destroys."""
    data = root / "data"
    sealed = [*(data / "keys").glob("*.tpm"), *(data / "data-keys").iterdir(), *(data / "payload-keys").iterdir()]
    others = [root / "tls.key", root / "password", data / "identities.json"]
    return sealed + [each for each in others if each.exists()]


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_at_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up_at_s
        time.sleep(0.005)


@pytest.mark.parametrize("trouble", ["full", "mode"])
def test_what_keeps_the_store_from_being_used_keeps_nobody_from_clearing_the_tpm(
    template: Path, roots: Iterator[Path], tmp_path: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a mark, or a directory that others can read."""
    root = next(roots)
    with BlockingTpm(root / "tpm") as tpm:
        store = store_of(root, tpm)
        wipe = Site(root, store).wipe()
        real = os.open

        def full(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & os.O_CREAT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, flags, *more, **named)

        wipe.begin("test")
        if trouble == "full":
            monkeypatch.setattr(os, "open", full)
        else:
            (root / "data" / "keys").chmod(0o755)
        report = wipe.finish()
        monkeypatch.undo()
        assert report.done == (trouble == "mode")  # on a full disk, for its own mark
        store.close()
        assert_wiped(root, tpm, template, tmp_path)


def test_a_tpm_that_refuses_is_told_of_and_all_else_destroyed(roots: Iterator[Path]) -> None:
    """Its lockout password is another: the report says what to do, and no start asks it again."""
    root = next(roots)
    with BlockingTpm(root / "tpm") as tpm:
        bus = Bus()
        bus.always[CLEAR] = _TPM_RC_AUTH_FAIL_ON_LOCKOUT
        store = store_of(root, tpm, bus)
        wipe = Site(root, store).wipe()
        wipe.begin("test")
        report = wipe.finish()
        assert report.done
        assert "the TPM could not be cleared: its lockout password is another" in report.left[0]
        assert Site(root, store).abilities() == set()
        # The TPM itself still opens what was sealed: for who has kept a copy of it, as this test has.
        thief = TpmKeyStore(root / "elsewhere", tcti=tpm.tcti)
        assert thief.unseal((root / "sealed").read_bytes()).reveal() == PAYLOAD_KEY * 2
        thief.close()
        asked = bus.commands.count(CLEAR)
        with pytest.raises(GatewayWiped, match="its lockout password is another"):
            Site(root, store).wipe().refuse()
        assert bus.commands.count(CLEAR) == asked
        store.close()
