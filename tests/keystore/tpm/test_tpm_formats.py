"""What needs no TPM: TCTI strings, response codes, keys as bytes, and what is said when the extra is missing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.keystore.tpm.public_areas import (
    is_endorsement_key,
    is_hmac_key,
    is_storage_root,
    key_template,
    name_of,
    sealed_template,
    sized,
    srk_template,
)
from edge_gateway.keystore.tpm.response_codes import Course, base_code, failure_of
from edge_gateway.keystore.tpm.tcti import Tcti
from edge_gateway.keystore.tpm.wrapped import LONGEST_WRAPPED_BYTES, Wrapped


@pytest.mark.parametrize(
    "text",
    ["device:/dev/tpmrm0", "swtpm:path=/run/s", "swtpm:host=::1,port=2321", "mssim:", "tabrmd:bus_type=session"],
)
def test_the_four_kinds_of_tcti_are_taken(text: str) -> None:
    """Each is kept as it was given."""
    assert str(Tcti.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "device",
        "device:tpm0",
        "cmd:rm -rf /",
        "cmd:true",
        "../evil:x",
        "swtpm:a b",
        "swtpm:é",
        "swtpm:" + "x" * 256,
    ],
)
def test_another_tcti_is_refused(text: str) -> None:
    """A string that would have another library loaded, or a program run, is refused with strings that would do."""
    with pytest.raises(ConfigError, match=r"tcti: .* Give .*device:/dev/tpmrm0"):
        Tcti.parse(text)


@given(st.text())
def test_any_text_is_a_tcti_or_refused(text: str) -> None:
    """Nothing else comes of it."""
    with contextlib.suppress(ConfigError):
        assert str(Tcti.parse(text)) == text


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        (errno.EACCES, KeyStoreError, "may not use the TPM. Add the user to the device's group"),
        (errno.EPERM, KeyStoreError, "may not use the TPM"),
        (errno.EBUSY, KeyStoreUnavailable, "another program uses the TPM. Give device:/dev/tpmrm0"),
        (errno.ENOENT, KeyStoreUnavailable, "there is no TPM. Switch it on"),
        (errno.EIO, KeyStoreUnavailable, "cannot be opened: Input/output error"),
    ],
)
def test_why_a_device_cannot_be_opened_is_told(
    monkeypatch: pytest.MonkeyPatch, code: int, kind: type[KeyStoreError], told: str
) -> None:
    """Permission, other users, absence: the error names the device and what to do."""

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind, match=rf"/dev/tpmrm0: .*{told}") as caught:
        Tcti.parse("device:/dev/tpmrm0").check_device()
    assert type(caught.value) is kind


def test_a_missing_device_is_told_by_the_store(tmp_path: Path) -> None:
    """The whole way: from the store's first use to the device's name."""
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edge-gateway[tpm]")
    store = TpmKeyStore(tmp_path, tcti=f"device:{tmp_path}/tpm")
    with pytest.raises(KeyStoreUnavailable, match=r"/tpm: there is no TPM"):
        store.check()
    store.close()


def test_without_the_extra_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tpm2-pytss is missing, making the store says how to get it; names and types need it not."""
    for name in [name for name in sys.modules if name.startswith("edge_gateway.keystore.tpm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tpm2_pytss", None)
    with pytest.raises(ConfigError, match=r"tpm2-pytss cannot be used: .*libtss2-dev.*pip install edge-gateway\[tpm\]"):
        TpmKeyStore(tmp_path, tcti="device:/dev/tpmrm0")


@pytest.mark.parametrize(
    ("code", "base"),
    [(0x1DF, 0x9F), (0x3DF, 0x9F), (0x98E, 0x8E), (0x9A2, 0xA2), (0x18B, 0x8B), (0x922, 0x922), (0xB0902, 0x902)],
)
def test_a_code_is_told_without_what_it_is_about(code: int, base: int) -> None:
    """The numbers of parameters, handles and sessions, and a resource manager's layer, are taken off."""
    assert base_code(code) == base


@pytest.mark.parametrize(
    ("code", "course", "kind"),
    [
        (0x922, Course.WAIT, KeyStoreUnavailable),
        (0x920, Course.WAIT, KeyStoreUnavailable),
        (0x902, Course.REOPEN, KeyStoreUnavailable),
        (0xB0902, Course.REOPEN, KeyStoreUnavailable),
        (0x910, Course.REOPEN, KeyStoreUnavailable),
        (0x918, Course.REOPEN, KeyStoreUnavailable),
        (0x9A2, Course.REOPEN, KeyStoreUnavailable),
        (0xA000A, Course.REOPEN, KeyStoreUnavailable),
        (0x921, Course.STOP, KeyStoreUnavailable),
        (0x98E, Course.STOP, KeyStoreError),
        (0x1DF, Course.STOP, KeyStoreError),
        (0x99D, Course.STOP, KeyStoreUnavailable),
    ],
)
def test_the_table_of_codes(code: int, course: Course, kind: type[KeyStoreError]) -> None:
    """What is done about a code, and whether trying later may help."""
    failure = failure_of(code)
    assert (failure.course, failure.kind) == (course, kind)


@given(st.integers(min_value=1, max_value=0xFFFFFFFF))
def test_any_code_has_an_answer(code: int) -> None:
    """Whatever a TPM or the TSS returns, there is something to do and something to say."""
    failure = failure_of(code)
    assert failure.what
    assert failure.remedy
    assert failure.course is Course.WAIT or issubclass(failure.kind, KeyStoreError)


labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}|", fullmatch=True)
parts = st.builds(Wrapped, labels, st.binary(max_size=510).map(sized), st.binary(max_size=1022).map(sized))


@given(parts)
def test_a_wrapped_key_comes_back(wrapped: Wrapped) -> None:
    """What was written is read, and nothing else fits the file."""
    data = wrapped.to_bytes()
    assert len(data) <= LONGEST_WRAPPED_BYTES
    assert Wrapped.from_bytes(data, label=wrapped.label, where="here") == wrapped


@given(parts, st.data())
def test_a_wrapped_key_that_was_cut_or_changed_is_refused(wrapped: Wrapped, data: st.DataObject) -> None:
    """Any cut, any addition and any flipped bit is found."""
    whole = wrapped.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for damaged in (whole[:at], flipped, whole + b"\0"):
        with pytest.raises(KeyStoreError):
            Wrapped.from_bytes(damaged, label=wrapped.label, where="here")


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_wrapped_key_or_refused(content: bytes, signed: bool) -> None:
    """Even with a head and a checksum that are right, garbage raises the key store's error and no other."""
    if signed:
        content = b"EGTK\1" + content
        content += hashlib.sha256(content).digest()
    with pytest.raises(KeyStoreError, match=r"^here: "):
        Wrapped.from_bytes(content, label="never so", where="here")


def test_a_later_version_is_told() -> None:
    """A file of a newer gateway is not called damaged."""
    content = b"EGTK\2" + bytes(100)
    with pytest.raises(KeyStoreError, match="it is of version 2; this gateway reads 1"):
        Wrapped.from_bytes(content, label="k", where="here")


@given(st.binary(max_size=600))
def test_any_bytes_are_a_public_area_or_not(public: bytes) -> None:
    """The checks of what a TPM or a service sends answer yes or no, whatever it is."""
    for check in (is_storage_root, is_endorsement_key, is_hmac_key):
        assert check(public) in (True, False)


def test_each_template_is_what_it_is_for() -> None:
    """A root is taken for a root, and nothing else is; names have 34 bytes."""
    others = [key_template(made_inside=True), key_template(made_inside=False), sealed_template(bytes(32))]
    assert [is_storage_root(srk_template("ecc")), is_storage_root(srk_template("rsa"))] == [True, True]
    assert not any(map(is_storage_root, others))
    assert not any(map(is_endorsement_key, others))
    assert len(name_of(others[0])) == 34
