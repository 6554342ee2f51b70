"""TLS: what is wrong with a file, and why a connection could not be made."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path

import pytest

from edge_gateway.errors import ConfigError, UplinkLost, UplinkRefused
from edge_gateway.testbench import LocalAuthority
from edge_gateway.uplink.tls import client_context, connection_error


@pytest.fixture
def files(authority: LocalAuthority, tmp_path: Path) -> Path:
    """CA, a certificate with its key, a key of another, and what is none of these."""
    one, other = authority.server_certificate(["a"]), authority.server_certificate(["b"])
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    (tmp_path / "cert.pem").write_text(one.certificate_pem)
    (tmp_path / "key.pem").write_text(one.key_pem)
    (tmp_path / "both.pem").write_text(one.key_pem + one.certificate_pem)
    (tmp_path / "other-key.pem").write_text(other.key_pem)
    (tmp_path / "garbage.pem").write_text("garbage")
    (tmp_path / "empty.pem").touch()
    return tmp_path


def test_the_server_is_always_checked(files: Path) -> None:
    """Certificate and name are verified, by TLS 1.2 at least, with a CA of one's own as without."""
    for context in (client_context(files / "ca.pem", None, None), client_context(None, None, None)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_client_certificate_comes_in_one_file_or_two(files: Path) -> None:
    """The key may stand beside the certificate or in a file of its own."""
    client_context(files / "ca.pem", files / "cert.pem", files / "key.pem")
    client_context(files / "ca.pem", files / "both.pem", None)


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "named"),
    [
        ("none.pem", None, None, "none.pem: there is no such file. Give the path of a PEM file"),
        (".", None, None, "there is no such file"),
        ("ca.pem", "none.pem", "key.pem", "none.pem: there is no such file"),
        ("ca.pem", "cert.pem", "none.pem", "none.pem: there is no such file"),
        ("garbage.pem", None, None, "garbage.pem: cannot be used as PEM certificate or key"),
        ("empty.pem", None, None, "empty.pem: cannot be used as PEM certificate or key"),
        ("ca.pem", "garbage.pem", "key.pem", "cannot be used as PEM certificate or key"),
        ("ca.pem", "cert.pem", "other-key.pem", "other-key.pem: cannot be used as PEM certificate or key"),
        ("ca.pem", "cert.pem", None, "cert.pem: cannot be used as PEM certificate or key"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    files: Path, ca: str, certificate: str | None, key: str | None, named: str
) -> None:
    """What is missing or no PEM is the configuration's fault, and the error names the file and nothing in it."""
    with pytest.raises(ConfigError) as caught:
        client_context(files / ca, files / certificate if certificate else None, files / key if key else None)
    assert named in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


def wrapped(error: Exception) -> Exception:
    """An error as a client library hands it on: twice wrapped, once hiding its cause."""
    try:
        try:
            try:
                raise error
            except Exception as inner:
                raise RuntimeError("library") from inner
        except RuntimeError as inner:
            raise ValueError(str(inner)) from None
    except ValueError as outer:
        return outer


def verification_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (verification_error(), UplinkRefused, "shows a certificate that cannot be trusted: certificate has expired"),
        (socket.gaierror(-2, "Name or service not known"), UplinkLost, "this name does not resolve"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), UplinkLost, "nothing listens there"),
        (ssl.SSLError(1, "wrong version number"), UplinkLost, "the TLS handshake failed (broken off)"),
        (TimeoutError(), UplinkLost, "does not answer"),
        (
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            UplinkLost,
            "cannot be reached (Network is unreachable)",
        ),
        (RuntimeError("what a library says may hold a secret"), UplinkLost, "the connection failed (ValueError)"),
    ],
)
def test_why_a_connection_could_not_be_made(error: Exception, kind: type[Exception], what: str) -> None:
    """The cause is found however a library has wrapped it, and only what is known to be harmless is told of it."""
    told = connection_error(wrapped(error), "mqtts://h:8883")
    assert type(told) is kind
    assert told.what == what
    assert told.where == "mqtts://h:8883"


def test_a_circle_of_causes_ends() -> None:
    """Errors that are each other's cause do not hang the search."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert connection_error(one, "e").what == "the connection failed (ValueError)"
