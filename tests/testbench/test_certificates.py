"""TLS with the bench's own authority."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority


async def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str | None:
    """Connect once; the TLS version the two agreed on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        version: str | None = writer.get_extra_info("ssl_object").version()
        writer.transport.abort()
        return version


@pytest.mark.parametrize("name", ["hub.example", "127.0.0.1"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_names_and_versions(authority: LocalAuthority, name: str, version: ssl.TLSVersion) -> None:
    """A client accepts each name and address, with TLS 1.2 and with TLS 1.3."""
    client = authority.client_context()
    client.minimum_version = client.maximum_version = version
    agreed = await handshake(authority.server_context(["hub.example", "127.0.0.1"]), client, name)
    assert agreed == version.name.replace("_", ".")


async def test_strict_verification(authority: LocalAuthority) -> None:
    """The certificates stand up to RFC 5280 to the letter, as newer Pythons check by default."""
    client = authority.client_context()
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    assert await handshake(authority.server_context(["127.0.0.1"]), client, "127.0.0.1")


async def test_wrong_name(authority: LocalAuthority) -> None:
    """A certificate for somebody else is refused."""
    server = authority.server_context(["other.example"])
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await handshake(server, authority.client_context(), "hub.example")


async def test_expired(authority: LocalAuthority) -> None:
    """A certificate that has ended is refused."""
    server = authority.server_context(["hub.example"], expired=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        await handshake(server, authority.client_context(), "hub.example")


async def test_other_authority(authority: LocalAuthority) -> None:
    """A certificate of another authority is refused: each is its own."""
    server = LocalAuthority().server_context(["hub.example"])
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server, authority.client_context(), "hub.example")


def test_kept_in_a_directory(tmp_path: Path) -> None:
    """An authority is the same at the next start, and only its owner can read its key."""
    first = LocalAuthority(tmp_path / "ca")
    assert LocalAuthority(tmp_path / "ca").ca_pem == first.ca_pem
    keys = [path for path in (tmp_path / "ca").iterdir() if "PRIVATE" in path.read_text()]
    assert [path.stat().st_mode & 0o777 for path in keys] == [0o600]


def test_damaged_directory(tmp_path: Path) -> None:
    """A directory that holds something else is an error that names it, not a new authority."""
    LocalAuthority(tmp_path)
    (tmp_path / "bench-ca.pem").write_text("nonsense")
    with pytest.raises(BenchError, match=str(tmp_path)):
        LocalAuthority(tmp_path)


def test_repr_hides_the_key(authority: LocalAuthority) -> None:
    """A private key does not show when a certificate is printed."""
    assert "PRIVATE" not in repr(authority.server_certificate(["hub.example"]))
