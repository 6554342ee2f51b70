"""The wipe of a key store in a TPM, cut before any step that changes the disk: the next one ends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_gateway.errors import KeyMissing, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from tests.emergency.cutter import Cutter
from tests.keystore.tpm.backend import BlockingTpm, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

KEY = bytes(range(100, 132))
NAMES = ("boiler", "gateway")


def test_a_cut_wipe_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut before the mark nothing has happened; behind it the store does nothing but wipe, and then is as new.

    Wherever it was cut, what was copied before opens nothing once the wipe has ended.
    """
    cutter = Cutter(monkeypatch)
    template = tmp_path / "template"
    with BlockingTpm(template / "tpm") as tpm:
        store = TpmKeyStore(template / "keys", tcti=tpm.tcti)
        for name in NAMES:
            store.put(name, Secret(KEY))
        sealed = store.seal(Secret(KEY))
        store.close()
    untouched = being_wiped = ended = 0
    for cut_at in range(1, 100):
        root = tmp_path / str(cut_at)
        shutil.copytree(template, root)
        with BlockingTpm(root / "tpm") as tpm:
            store = TpmKeyStore(root / "keys", tcti=tpm.tcti)
            was_cut = cutter.cuts(store.wipe, cut_at)
            store.close()
            tpm.power_cut()
            store = TpmKeyStore(root / "keys", tcti=tpm.tcti)
            if (root / "keys" / "wipe.begun").exists():
                being_wiped += 1
                with pytest.raises(KeyStoreError, match="a wipe was begun and has not ended"):
                    store.check()
                with pytest.raises(KeyStoreError, match=r"a wipe was begun and has not ended|no such key"):
                    store.sign(NAMES[0], b"x")
            elif store.names():
                untouched += 1
                assert len(store.sign(NAMES[0], b"x")) == 32
            else:
                ended += 1
            store.wipe()
            assert list((root / "keys").iterdir()) == []
            store.put("new", Secret(KEY))
            with pytest.raises(KeyMissing):
                store.sign(NAMES[0], b"x")
            store.close()
            thief = TpmKeyStore(shutil.copytree(template / "keys", root / "copy"), tcti=tpm.tcti)
            with pytest.raises(KeyStoreError, match="this one has been cleared"):
                thief.sign(NAMES[0], b"x")
            with pytest.raises(KeyStoreError, match="this one has been cleared"):
                thief.unseal(sealed)
            thief.close()
        if not was_cut:
            break
    assert untouched >= 3
    assert being_wiped >= 6
    assert ended >= 1
