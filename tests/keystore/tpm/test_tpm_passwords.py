"""The TPM's passwords come from files that nobody else can read, when they are needed and for no longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edge-gateway[tpm]")

from tpm2_pytss import ESYS_TR

from edge_gateway.assembly import key_store
from edge_gateway.config.load import parse_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import PasswordFile
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.stranger import Stranger

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


def config_of(directory: Path, **key_store: object) -> GatewayConfig:
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
        "uplink": {"kind": "mqtt", "host": "unused"},
        "key_store": key_store,
    }
    return parse_config(document, where="test", directory=directory)


def password_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [b"open sesame", b"open sesame\n", b"open sesame\r\n"])
def test_a_password_is_what_stands_in_its_file(tmp_path: Path, content: bytes) -> None:
    """Without the end of the line, which an editor puts there."""
    assert PasswordFile(password_file(tmp_path / "p", content))().reveal() == b"open sesame"


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (b"secret", 0o640, r"can be read by others|open to others|mode"),
        (b"", 0o600, "is no password of a TPM. Give 1 to 32 bytes"),
        (b"\n", 0o600, "is no password of a TPM"),
        (b"s" * 33, 0o600, "is no password of a TPM"),
        (b"s" * 500, 0o600, "is no password of a TPM"),
        (None, 0, "the TPM's password cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, content: bytes | None, mode: int, told: str) -> None:
    """By its path, and nothing of what is in it."""
    path = tmp_path / "owner"
    if content is not None:
        password_file(path, content, mode)
    with pytest.raises(KeyStoreError, match=told) as refused:
        PasswordFile(path)()
    assert str(path) in str(refused.value)
    assert "secret" not in str(refused.value)


def test_both_passwords_come_from_the_files_that_are_configured(tpm: BlockingTpm, tmp_path: Path) -> None:
    """The owner's makes the root, the lockout's wipes; a relative path starts at the configuration's directory."""
    with Stranger(tpm) as stranger:
        stranger.set_password(ESYS_TR.OWNER, b"owner's")
        stranger.set_password(ESYS_TR.LOCKOUT, b"lockout's")
    password_file(tmp_path / "owner", b"owner's\n")
    password_file(tmp_path / "lockout", b"lockout's\n")
    config = config_of(
        tmp_path, kind="tpm", tcti=tpm.tcti, owner_password_file="owner", lockout_password_file="lockout"
    )
    with closing(key_store(config)) as store:
        store.put("k", Secret(b"k" * 32))
        assert len(store.sign("k", b"x")) == 32
        (tmp_path / "owner").unlink()  # needed once
        assert len(store.sign("k", b"x")) == 32
        store.wipe()


def test_a_password_that_is_missing_is_told_with_its_setting(tpm: BlockingTpm, tmp_path: Path) -> None:
    """An owner with a password and none configured: the error names the setting."""
    with Stranger(tpm) as stranger:
        stranger.set_password(ESYS_TR.OWNER, b"owner's")
    with (
        closing(key_store(config_of(tmp_path, kind="tpm", tcti=tpm.tcti))) as store,
        pytest.raises(KeyStoreError, match=r"the TPM's owner has a password.*key_store\.owner_password_file"),
    ):
        store.check()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"owner_password_file": "p"}, "`owner_password_file` means nothing with kind: software"),
        ({"lockout_password_file": "p"}, "`lockout_password_file` means nothing with kind: software"),
        ({"boot": {"release_key_file": "k", "approvals_file": "a"}}, "`boot` means nothing with kind: software"),
        ({"kind": "tpm", "boot": {"release_key_file": "k"}}, "approvals_file"),
        (
            {"kind": "tpm", "boot": {"release_key_file": "k", "approvals_file": "a", "pcrs": [24]}},
            "key_store.boot.pcrs",
        ),
        ({"kind": "tpm", "boot": {"release_key_file": "k", "approvals_file": "a", "pcrs": []}}, "key_store.boot.pcrs"),
        (
            {"kind": "tpm", "boot": {"release_key_file": "k", "approvals_file": "a", "pcrs": [7, 0, 7]}},
            r"a register is there twice; \[0, 7\] would do",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, settings: dict[str, object], told: str) -> None:
    """What only a TPM has is not asked of another store, and registers are some that a TPM has, once each."""
    with pytest.raises(ConfigError, match=told):
        config_of(tmp_path, **settings)


def test_a_release_key_that_is_missing_is_told_before_anything_opens(tpm: BlockingTpm, tmp_path: Path) -> None:
    """A gateway does not start without the check that it was asked for."""
    boot = {"release_key_file": str(tmp_path / "none.pem"), "approvals_file": str(tmp_path / "a.json")}
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read"):
        key_store(config_of(tmp_path, kind="tpm", tcti=tpm.tcti, boot=boot))
