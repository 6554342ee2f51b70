"""The order of a wipe: cut anywhere, it leaves a gateway that works or one that ends wiped."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.emergency import GatewayWiped, RevocableKeyStore, WipeReport
from edge_gateway.emergency.mark import parse_mark, read_mark, write_mark
from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from tests.emergency.cutter import Cutter
from tests.emergency.site import KEYS, PASSWORD, PAYLOAD_KEY, TLS_KEY, Site


@pytest.fixture
def cutter(monkeypatch: pytest.MonkeyPatch) -> Cutter:
    return Cutter(monkeypatch)


@pytest.fixture
def template(tmp_path: Path) -> Site:
    site = Site.of_software(tmp_path / "template")
    site.directory.mkdir(parents=True, mode=0o700)
    site.furnish()
    return site


def wipe_all(site: Site) -> WipeReport:
    wipe = site.wipe()
    wipe.begin("test")
    return wipe.finish()


def restart(site: Site) -> None:
    """What a gateway or a command does first."""
    site.wipe().refuse()


def test_everything_is_destroyed(template: Site) -> None:
    """After a wipe nothing signs, opens, or is known; the buffer's file is there and tells nothing."""
    secrets = [*KEYS.values(), PAYLOAD_KEY, TLS_KEY, PASSWORD, template.data_key()]
    wrapping_key = (template.directory / "keys" / "wrapping-key").read_bytes()
    before = template.abilities()
    assert before >= {"sign gateway", "unseal", "open data key", "identity ", "identity boiler", "read buffer"}
    assert template.secrets_on_disk([*secrets, wrapping_key]) == 3  # wrapping key, TLS key and password
    report = wipe_all(template)
    assert (report.done, report.left, report.reason) == (True, (), "test")
    again = Site.of_software(template.root)
    assert again.abilities() == set()
    assert again.secrets_on_disk([*secrets, wrapping_key]) == 0
    assert (again.directory / "buffer.db").exists()


def test_whoever_comes_later_is_refused(template: Site) -> None:
    """The error says when, why, and what to do; wiping again changes nothing."""
    wipe_all(template)
    with pytest.raises(GatewayWiped, match=r"were wiped on 20.* \(reason: test\)\. .*rm -r .*edge-gateway provision"):
        restart(Site.of_software(template.root))
    assert wipe_all(Site.of_software(template.root)).reason == "test"


def test_what_was_written_too_late_is_destroyed_by_who_comes_next(template: Site, tmp_path: Path) -> None:
    """A command that was stopped during the wipe, and died after it, has left a key and an identity."""
    late = tmp_path / "late"
    template.copy(late)
    wipe_all(template)
    shutil.copy(late / "data" / "keys" / "wrapping-key", template.directory / "keys")
    shutil.copy(late / "data" / "keys" / "gateway.key", template.directory / "keys")
    shutil.copy(late / "data" / "identities.json", template.directory)
    assert Site.of_software(template.root).abilities() >= {"sign gateway", "identity boiler"}
    with pytest.raises(GatewayWiped, match=r"\(reason: test\)"):
        restart(Site.of_software(template.root))
    assert Site.of_software(template.root).abilities() == set()


def test_nothing_is_kept_behind_the_mark(template: Site) -> None:
    """Whoever holds the store open signs until its key is gone, but brings none, makes none and seals none."""
    template.wipe().begin("test")
    store = template.store
    before = template.abilities()
    calls: list[Callable[[], object]] = [
        lambda: store.put("late", Secret(bytes(range(32)))),
        lambda: store.create("late"),
        lambda: store.put("gateway", Secret(bytes(range(32)))),
        lambda: template.payload_keys.put("late", Secret(bytes(range(16)))),
        template.data_keys.create,
    ]
    for call in calls:
        with pytest.raises(KeyStoreError, match="the keys of this gateway were wiped"):
            call()
    assert template.abilities() == before
    template.wipe().finish()
    for call in (*calls, lambda: store.sign("gateway", b"x")):
        with pytest.raises(KeyStoreError, match="the keys of this gateway were wiped"):
            call()
    assert Site.of_software(template.root).abilities() == set()


def test_a_key_written_while_the_mark_is_made_is_taken_back(template: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark may come between the writer's look and its write, and the whole wipe with it."""
    real = os.replace
    wipe = template.wipe()

    def wiped_before(source: Any, target: Any, **more: Any) -> None:
        monkeypatch.undo()
        wipe.begin("test")
        wipe.finish()
        Path(source).parent.mkdir(exist_ok=True)
        Path(source).write_bytes(b"late")  # the wipe has taken it
        real(source, target, **more)

    monkeypatch.setattr(Path, "replace", lambda self, to: wiped_before(self, to))
    with pytest.raises(KeyStoreError, match="the keys of this gateway were wiped"):
        template.store.put("late", Secret(bytes(range(32))))
    assert list((template.directory / "keys").iterdir()) == []


def test_without_a_mark_nobody_is_refused(template: Site) -> None:
    """And nothing is changed."""
    before = template.abilities()
    restart(template)
    assert template.abilities() == before
    assert template.wipe().found is None
    with pytest.raises(ConfigError, match="no wipe was begun"):
        template.wipe().finish()


class _Now:
    """Stands for the thread that wipes the key store, and is as fast as can be: it ends before the files are begun."""

    def __init__(self, *_: object, **__: object) -> None:
        self._calls: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[[], object]) -> Future[object]:
        done: Future[object] = Future()
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001  # as an executor does
            done.set_exception(error)
        return done


class _Last(_Now):
    """And this one as slow: it begins when the files are gone."""

    def submit(self, call: Callable[[], object]) -> Any:
        return SimpleNamespace(result=call)


@pytest.fixture(params=[_Now, _Last])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the wipe of the key store and that of files come to lie to each other."""
    monkeypatch.setattr("edge_gateway.emergency.wipe.ThreadPoolExecutor", request.param)


@pytest.mark.usefixtures("beside")
def test_a_wipe_cut_at_any_step_ends_wiped(template: Site, tmp_path: Path, cutter: Cutter) -> None:
    """Cut before every open, write, sync and rename, and cut again while it ends: never half alive."""
    secrets = [*KEYS.values(), PAYLOAD_KEY, TLS_KEY, PASSWORD, template.data_key()]
    secrets.append((template.directory / "keys" / "wrapping-key").read_bytes())
    all_abilities = template.abilities()
    marked = unmarked = 0
    for cut_at in range(1, 1000):
        site = Site.of_software(tmp_path / str(cut_at))
        template.copy(site.root)
        was_cut = cutter.cuts(lambda site=site: wipe_all(site), cut_at)  # type: ignore[misc]  # bound to this turn's
        if read_mark(site.directory) is None:
            unmarked += 1
            assert was_cut
            restart(Site.of_software(site.root))
            assert Site.of_software(site.root).abilities() == all_abilities
            continue
        marked += 1
        cutter.cuts(lambda site=site: _refused(site), at=1 + cut_at * 7 % 31)  # type: ignore[misc]  # as above
        with pytest.raises(GatewayWiped):
            restart(Site.of_software(site.root))
        assert read_mark(site.directory) == WipeReport("test", site.wipe().begin("").begun, done=True)
        dead = Site.of_software(site.root)
        assert dead.abilities() == set()
        assert dead.secrets_on_disk(secrets) == 0
        if not was_cut:
            break
    assert unmarked >= 3
    assert marked >= 40


def _refused(site: Site) -> None:
    with pytest.raises(GatewayWiped):
        restart(Site.of_software(site.root))


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_full_disk_gives_its_reserve_for_the_mark(template: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept free for a full disk makes room; without it the mark is missing and all else happens."""
    reserve = template.directory / "buffer.reserve"
    reserve.write_bytes(b"room")
    real = os.open

    def full(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", full)
    report = wipe_all(template)
    assert report.done
    assert read_mark(template.directory) == report
    assert not reserve.exists()


def test_a_disk_without_room_keeps_nobody_from_wiping(template: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mark can be written: everything is destroyed all the same, and the report says what is missing."""
    real = os.open

    def full(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", full)
    report = wipe_all(template)
    monkeypatch.undo()
    assert (report.done, len(report.left)) == (False, 1)
    assert "wipe.begun: No space left on device" in report.left[0]
    assert Site.of_software(template.root).abilities() == set()


def test_what_one_step_cannot_do_the_others_do(template: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot go is named, what says where it is stays, and the next start tries again."""
    real = os.unlink

    def stuck(path: Any, **more: Any) -> None:
        if str(path).endswith("tls.key"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        real(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", stuck)
        report = wipe_all(template)
        assert not report.done
        assert "tls.key (Operation not permitted). Destroy them as root: shred -u" in report.left[0]
        assert Site.of_software(template.root).abilities() == {"file tls.key", "identity ", "identity boiler"}
        assert TLS_KEY.hex() not in (template.root / "tls.key").read_text()  # overwritten, if not removed
    (template.root / "password").write_text("brought back")
    with pytest.raises(GatewayWiped) as caught:
        restart(Site.of_software(template.root))
    assert "could not be destroyed" not in str(caught.value)
    assert Site.of_software(template.root).abilities() == set()


class _Refusing(SoftwareKeyStore):
    """Stands for a TPM whose lockout password is another, or that does not answer."""

    error: KeyStoreError = KeyStoreError("the TPM could not be cleared", where="TPM", remedy="Clear it by hand")
    wipes = 0

    def wipe(self) -> None:
        super().wipe()
        self.wipes += 1
        raise self.error


def test_a_refusal_of_the_key_store_is_told_and_final(template: Site) -> None:
    """Everything else is destroyed; starts do not ask the TPM again, which would lock its password; a command does."""
    store = _Refusing(template.directory / "keys")
    report = wipe_all(Site(template.root, store))
    assert report.done
    assert report.left == ("TPM: the TPM could not be cleared. Clear it by hand",)
    assert Site.of_software(template.root).abilities() == set()
    with pytest.raises(GatewayWiped, match="could not be destroyed: TPM: the TPM could not be cleared"):
        restart(Site(template.root, store))
    assert store.wipes == 1
    assert wipe_all(Site.of_software(template.root)).left == ()


def test_a_key_store_that_does_not_answer_is_asked_at_the_next_start(template: Site) -> None:
    """Until it has answered, the wipe has not ended."""
    store = _Refusing(template.directory / "keys")
    store.error = KeyStoreUnavailable("the TPM does not answer", where="TPM", remedy="Wait")
    assert not wipe_all(Site(template.root, store)).done
    with pytest.raises(GatewayWiped, match="the TPM does not answer"):
        restart(Site(template.root, store))
    assert store.wipes == 2
    with pytest.raises(GatewayWiped):
        restart(Site.of_software(template.root))
    assert read_mark(template.directory) == template.wipe().found
    assert template.wipe().begin("").done


def test_keys_of_another_kind_of_store_go_too(template: Site) -> None:
    """What an earlier configuration left in the key directory is destroyed."""
    (template.directory / "keys" / "old.tpm").write_bytes(b"wrapped")
    wipe_all(template)
    assert list((template.directory / "keys").iterdir()) == []


def test_damaged_identities_are_destroyed_unread(template: Site) -> None:
    """The report says that files they may have named were not looked for."""
    (template.directory / "identities.json").write_text("{")
    report = wipe_all(template)
    assert "identities.json: private keys that it named were not looked for: cannot be" in report.left[0]
    assert not (template.directory / "identities.json").exists()
    assert not (template.root / "password").exists()


def test_nothing_to_wipe_is_said(tmp_path: Path) -> None:
    """A data directory that is not there is a mistake of the caller's."""
    with pytest.raises(ConfigError, match="there is nothing to wipe"):
        Site.of_software(tmp_path / "nowhere").wipe().begin("test")


# --- the mark ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_are_a_mark(content: bytes) -> None:
    """What cannot be understood is a wipe that has begun and not ended."""
    report = parse_mark(content)
    assert isinstance(report, WipeReport)
    if b'"done"' not in content:
        assert not report.done


@given(st.builds(WipeReport, *[st.text(max_size=50)] * 2, st.booleans(), st.lists(st.text(max_size=50)).map(tuple)))
def test_a_mark_says_what_was_written(tmp_path_factory: pytest.TempPathFactory, report: WipeReport) -> None:
    """Whatever the texts are."""
    directory = tmp_path_factory.mktemp("mark")
    try:
        write_mark(directory, report)
    except TypeError:  # a lone surrogate, which no sentence of ours has
        return
    assert read_mark(directory) == WipeReport(report.reason, report.begun, report.done, report.left[:50])


def test_an_empty_mark_or_one_of_another_user_counts(template: Site) -> None:
    """That it is there is what counts."""
    (template.directory / "wipe.begun").write_bytes(b"")
    with pytest.raises(GatewayWiped, match="as the mark cannot be read"):
        restart(template)
    assert Site.of_software(template.root).abilities() == set()


# --- revoked ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def revocable(tmp_path: Path) -> Iterator[RevocableKeyStore]:
    store = RevocableKeyStore(SoftwareKeyStore(tmp_path / "keys"))
    store.put("k", Secret(bytes(range(32))))
    yield store
    store.close()


def test_a_revoked_store_can_only_be_wiped(revocable: RevocableKeyStore, tmp_path: Path) -> None:
    """It is a key store like the one behind it until then; afterwards nothing signs, and no new key is made."""
    sealed = revocable.seal(Secret(bytes(range(16))))
    assert revocable.unseal(sealed).reveal() == bytes(range(16))
    assert (revocable.kind, revocable.names(), len(revocable.sign("k", b""))) == ("software", ["k"], 32)
    revocable.check()
    revocable.create("other")
    revocable.remove("other")
    revocable.revoke()
    calls: list[Callable[[], object]] = [
        lambda: revocable.sign("k", b""),
        lambda: revocable.put("k", Secret(bytes(range(32)))),
        lambda: revocable.create("k"),
        lambda: revocable.seal(Secret(bytes(range(32)))),
        lambda: revocable.unseal(sealed),
        lambda: revocable.remove("k"),
        revocable.names,
        revocable.check,
    ]
    for call in calls:
        with pytest.raises(KeyStoreError, match="the keys are being wiped"):
            call()
    revocable.wipe()
    assert list((tmp_path / "keys").iterdir()) == []
