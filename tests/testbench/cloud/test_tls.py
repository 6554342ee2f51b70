"""TLS that takes any client certificate: the handshake, what it proves, and whom `chains_to` believes."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import cast

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import (
    DeviceCertificate,
    LocalAuthority,
    ServerCertificate,
    self_signed_certificate,
)
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, PacketReader, Puback, Publish
from edge_gateway.testbench.cloud.tls import ServerTls, chains_to, client_chain, server_name
from edge_gateway.testbench.listener import Listener

TIME_LIMIT_S = 20.0
"""Far beyond what anything here takes, so that a fault fails a test and does not hang it."""
HANDSHAKE_S = 10.0
SHUTDOWN_S = 5.0

NOW = datetime.now(UTC)
AUTHORITY = LocalAuthority()
FACTORY = AUTHORITY.intermediate("factory")
LINE = FACTORY.intermediate("line 2")
DEVICE = LINE.device_certificate("dev")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl (apt-get install openssl) is missing"
)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and keeps what the tests ask about."""

    def __init__(self) -> None:
        self.opened = False
        self.received = bytearray()
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.opened = True
        self.transport = cast("asyncio.Transport", transport)
        self.chain = client_chain(transport)
        self.server_name = server_name(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(exc)


@dataclass
class Client:
    """An open connection, both ends."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Echo

    async def echoed(self, data: bytes) -> bool:
        self.writer.write(data)
        return await self.reader.readexactly(len(data)) == data


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls(AUTHORITY.server_certificate(["127.0.0.1", "hub.example"]), client_certificates=True)


def settings_for(certificate: DeviceCertificate | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = AUTHORITY.client_context(certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def socket_pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


async def accept(
    tls: ServerTls,
    near: socket.socket,
    make_protocol: Callable[[], asyncio.BaseProtocol] = Echo,
    *,
    handshake_timeout_s: float = HANDSHAKE_S,
    shutdown_timeout_s: float = SHUTDOWN_S,
) -> None:
    await tls.accept(
        near, make_protocol, handshake_timeout_s=handshake_timeout_s, shutdown_timeout_s=shutdown_timeout_s
    )


@asynccontextmanager
async def connected(tls: ServerTls, context: ssl.SSLContext, host_name: str = "127.0.0.1") -> AsyncIterator[Client]:
    """A client of the standard library on the other end of a socket pair."""
    near, far = socket_pair()
    server = Echo()
    async with asyncio.timeout(TIME_LIMIT_S):
        _, (reader, writer) = await asyncio.gather(
            accept(tls, near, lambda: server),
            asyncio.open_connection(sock=far, ssl=context, server_hostname=host_name),
        )
        try:
            yield Client(reader, writer, server)
        finally:
            writer.transport.abort()
            await asyncio.wait([server.closed])


async def refused(tls: ServerTls, talk: Callable[[socket.socket], Awaitable[object]]) -> OSError:
    """What `accept` raises for a client that does this, whatever becomes of the client."""
    near, far = socket_pair()
    server = Echo()
    async with asyncio.timeout(TIME_LIMIT_S):
        with far:
            talking = asyncio.ensure_future(talk(far))
            with pytest.raises(OSError) as failed:  # noqa: PT011 - which one is what the caller asks
                await accept(tls, near, lambda: server)
            await asyncio.wait([talking])
    assert not server.opened
    return failed.value


async def handshake_of(context: ssl.SSLContext, far: socket.socket) -> None:
    """A client's handshake, and a wait for what the server makes of it."""
    with suppress(OSError):
        reader, writer = await asyncio.open_connection(sock=far, ssl=context, server_hostname="127.0.0.1")
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()


async def speak(
    far: socket.socket, context: ssl.SSLContext, send: Callable[[bytes], Awaitable[None]] | None = None
) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """A client's handshake over a socket that stays open; `send` may do to its flights what it likes.

    Returns:
        The client, and what it has yet to send.
    """
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    standing = False
    while not standing:
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
            standing = True
        if outgoing.pending:
            await send(outgoing.read()) if send is not None else await loop.sock_sendall(far, outgoing.read())
        if not standing:
            answer = await loop.sock_recv(far, 65_536)
            incoming.write(answer) if answer else incoming.write_eof()
    return client, outgoing


def chain_of(certificate: DeviceCertificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(certificate.certificate_pem.encode())


def pem(certificates: Sequence[x509.Certificate]) -> str:
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def without_its_key(certificate: DeviceCertificate) -> DeviceCertificate:
    """The certificate with another key that claims to belong to it: client libraries compare public halves only."""
    public = certificate.certificate.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    other = ec.generate_private_key(ec.SECP256R1())
    other_public = other.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    other_der = other.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    claimed_der = other_der.replace(other_public, public)
    assert claimed_der != other_der
    claimed_pem = ssl.DER_cert_to_PEM_cert(claimed_der).replace("CERTIFICATE", "PRIVATE KEY")
    return DeviceCertificate(certificate.certificate_pem, claimed_pem)


def rsa_chain_with_a_wrong_signature() -> DeviceCertificate:
    """A certificate that names its issuer, and the issuer's, which has not signed it."""
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(3)]

    def signed(subject: str, key: rsa.RSAPrivateKey, signer: rsa.RSAPrivateKey, *, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder(name("issuer"), name(subject), key.public_key(), 1, NOW, NOW + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )

    chain = [signed("dev", keys[0], keys[1], ca=False), signed("issuer", keys[2], keys[2], ca=True)]
    return DeviceCertificate(pem(chain), key_pem(keys[0]))


def for_servers() -> DeviceCertificate:
    """A certificate that is not meant for clients."""
    certificate = AUTHORITY.server_certificate(["dev"])
    return DeviceCertificate(certificate.certificate_pem, certificate.key_pem)


# The handshake


@each_version
async def test_without_a_certificate(tls: ServerTls, version: ssl.TLSVersion) -> None:
    """A client that has no certificate is let in, and its chain is empty."""
    async with connected(tls, settings_for(None, version)) as client:
        assert client.server.chain == ()
        assert await client.echoed(b"hello")


@each_version
@pytest.mark.parametrize(
    "certificate",
    [
        self_signed_certificate("dev"),
        self_signed_certificate("dev", expired=True),
        AUTHORITY.device_certificate("dev"),
        LocalAuthority().device_certificate("dev"),
        LINE.device_certificate("dev"),
        rsa_chain_with_a_wrong_signature(),
        for_servers(),
    ],
    ids=["self-signed", "expired", "known authority", "unknown authority", "chain", "wrong signature", "for servers"],
)
async def test_any_certificate(tls: ServerTls, version: ssl.TLSVersion, certificate: DeviceCertificate) -> None:
    """Every certificate gets through, and the protocol has the chain as the client sent it, its own first."""
    async with connected(tls, settings_for(certificate, version)) as client:
        assert await client.echoed(b"hello")
        assert client.server.chain[0] == certificate.certificate
        # Where a chain is missing, OpenSSL's clients send what they find among those they trust.
        assert pem(client.server.chain) in (certificate.certificate_pem, certificate.certificate_pem + AUTHORITY.ca_pem)


@each_version
async def test_a_certificate_without_its_key(tls: ServerTls, version: ssl.TLSVersion) -> None:
    """A client that shows a certificate and cannot sign with its key is refused in the handshake."""
    liar = without_its_key(AUTHORITY.device_certificate("dev"))
    failure = await refused(tls, lambda far: handshake_of(settings_for(liar, version), far))
    assert isinstance(failure, ssl.SSLError)
    assert "bad signature" in str(failure)


async def test_an_odd_certificate(tls: ServerTls) -> None:
    """What is odd about a certificate and harms nobody is let through without a word."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(name("dev"), name("dev"), key.public_key(), 1, NOW, NOW + timedelta(days=1))
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    serial_number_0 = der.replace(b"\x02\x01\x02\x02\x01\x01", b"\x02\x01\x02\x02\x01\x00")
    assert serial_number_0 != der
    certificate = DeviceCertificate(ssl.DER_cert_to_PEM_cert(serial_number_0), key_pem(key))
    async with connected(tls, settings_for(certificate)) as client:
        assert await client.echoed(b"hello")
        assert pem(client.server.chain) == certificate.certificate_pem


@pytest.mark.parametrize(
    ("field", "damaged"),
    [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05"), (b"\x0c\x03dev", b"\x0b\x03dev")],
    ids=["version", "name"],
)
async def test_an_unreadable_certificate(tls: ServerTls, field: bytes, damaged: bytes) -> None:
    """A certificate that OpenSSL takes and Python cannot read ends the handshake, before a protocol sees it."""
    good = self_signed_certificate("dev")
    der = good.certificate.public_bytes(serialization.Encoding.DER).replace(field, damaged)
    bad = DeviceCertificate(ssl.DER_cert_to_PEM_cert(der), good.key_pem)
    failure = await refused(tls, lambda far: handshake_of(settings_for(bad), far))
    assert "unreadable client certificate" in str(failure)


async def test_no_end_of_certificates(tls: ServerTls) -> None:
    """A chain of more than 100 kB ends the handshake: what a stranger may make the server keep is limited."""
    one = self_signed_certificate("dev")
    many = DeviceCertificate(one.certificate_pem * 300, one.key_pem)
    failure = await refused(tls, lambda far: handshake_of(settings_for(many), far))
    assert "excessive message size" in str(failure)


async def test_not_asked_for() -> None:
    """A server that does not ask for certificates is not shown any."""
    tls = ServerTls(AUTHORITY.server_certificate(["127.0.0.1"]), client_certificates=False)
    async with connected(tls, settings_for(self_signed_certificate("dev"))) as client:
        assert await client.echoed(b"hello")
        assert client.server.chain == ()


@each_version
@pytest.mark.parametrize(("host_name", "asked_for"), [("hub.example", "hub.example"), ("127.0.0.1", "")])
async def test_server_name(tls: ServerTls, version: ssl.TLSVersion, host_name: str, asked_for: str) -> None:
    """The host name a client asks for is known; a client that goes to an address names none."""
    async with connected(tls, settings_for(None, version), host_name) as client:
        assert client.server.server_name == asked_for


async def test_without_tls() -> None:
    """A transport without TLS has no chain and no server name."""
    near, far = socket_pair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
    with far:
        assert (client_chain(transport), server_name(transport)) == ((), "")
        transport.abort()


@each_version
@pytest.mark.parametrize("client_certificates", [True, False])
async def test_no_session_is_taken_up_again(version: ssl.TLSVersion, client_certificates: bool) -> None:
    """A client that comes back with its session shakes hands in full, so that its chain is there again."""
    tls = ServerTls(AUTHORITY.server_certificate(["127.0.0.1"]), client_certificates=client_certificates)
    context = settings_for(DEVICE, version)
    session: ssl.SSLSession | None = None
    servers: list[Echo] = []

    def next_server() -> Echo:
        servers.append(Echo())
        return servers[-1]

    def visit(far: socket.socket) -> bool | None:
        nonlocal session
        with context.wrap_socket(far, server_hostname="127.0.0.1", session=session) as client:
            client.sendall(b"hello")
            client.recv(5)  # what makes a session comes with, or before, the first bytes
            session = client.session
            reused = client.session_reused
            client.unwrap().close()  # without a goodbye, no server would take the session up again
            return reused

    for _ in range(2):
        near, far = socket_pair()
        far.setblocking(True)
        async with asyncio.timeout(TIME_LIMIT_S):
            _, reused = await asyncio.gather(accept(tls, near, next_server), asyncio.to_thread(visit, far))
            await servers[-1].closed
        assert not reused
    assert [len(server.chain) for server in servers] == ([3, 3] if client_certificates else [0, 0])


# Changing the certificate


async def test_another_certificate() -> None:
    """Connections from then on are shown the other certificate, with its chain; one that is there goes on."""
    tls = ServerTls(LINE.server_certificate(["127.0.0.1"]), client_certificates=True)
    async with connected(tls, settings_for()) as before:
        tls.use(AUTHORITY.server_certificate(["127.0.0.1"], expired=True))
        assert await before.echoed(b"still here")
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            async with connected(tls, settings_for()):
                pass
        tls.use(AUTHORITY.server_certificate(["other.example"]))
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            async with connected(tls, settings_for()):
                pass


async def test_a_long_chain_of_the_server() -> None:
    """What a server has to say in its handshake reaches the client whole, however long it is."""
    short = LINE.server_certificate(["127.0.0.1"])
    long = ServerCertificate(short.certificate_pem + AUTHORITY.ca_pem * 100, short.key_pem)
    async with connected(ServerTls(long, client_certificates=True), settings_for()) as client:
        assert await client.echoed(b"hello")


def with_a_foreign_key() -> ServerCertificate:
    one, other = (AUTHORITY.server_certificate(["127.0.0.1"]) for _ in range(2))
    return ServerCertificate(one.certificate_pem, other.key_pem)


def with_an_unusual_key() -> ServerCertificate:
    return ServerCertificate(AUTHORITY.ca_pem, key_pem(ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "certificate",
    [
        ServerCertificate("", ""),
        ServerCertificate(AUTHORITY.ca_pem, "no key"),
        with_a_foreign_key(),
        with_an_unusual_key(),
    ],
    ids=["empty", "no key", "foreign key", "unusual key"],
)
async def test_unusable_certificate(tls: ServerTls, certificate: ServerCertificate) -> None:
    """A certificate that cannot be used is refused where it is given, and the one before stays in use."""
    with pytest.raises(BenchError, match="cannot use this certificate"):
        tls.use(certificate)
    async with connected(tls, settings_for()) as client:
        assert await client.echoed(b"hello")


# The connection


@each_version
async def test_much_data(tls: ServerTls, version: ssl.TLSVersion) -> None:
    """Megabytes go both ways and arrive as they were sent."""
    async with connected(tls, settings_for(None, version)) as client:
        sent = bytes(range(256)) * 8192
        assert await client.echoed(sent)
        assert client.server.received == sent


async def test_a_server_that_does_not_read(tls: ServerTls) -> None:
    """While the server has paused reading, the client cannot send without limit; nothing is lost."""
    async with connected(tls, settings_for()) as client:
        assert await client.echoed(b"hello")
        client.server.transport.pause_reading()
        sent_bytes, full = 0, False
        while not full:
            client.writer.write(bytes(10_000))
            sent_bytes += 10_000
            assert sent_bytes < 20_000_000
            full = not (await asyncio.wait([asyncio.ensure_future(client.writer.drain())], timeout=0.2))[0]
        assert client.server.received == b"hello"
        client.server.transport.resume_reading()
        assert await client.reader.readexactly(sent_bytes) == bytes(sent_bytes)


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self._buffer = bytearray(100)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._transport.write(bytes(self._buffer[:nbytes]))


@pytest.mark.parametrize("kind", ["buffered", "streams"])
async def test_other_protocols(tls: ServerTls, kind: str) -> None:
    """Protocols with a buffer of their own and asyncio's streams work as over `ssl`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines([b"", await reader.readexactly(1000)])
        await writer.drain()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    def streams() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), answer)

    near, far = socket_pair()
    async with asyncio.timeout(TIME_LIMIT_S):
        _, (reader, writer) = await asyncio.gather(
            accept(tls, near, streams if kind == "streams" else BufferedEcho),
            asyncio.open_connection(sock=far, ssl=settings_for(), server_hostname="127.0.0.1"),
        )
        writer.write(b"x" * 1000)
        assert await reader.readexactly(1000) == b"x" * 1000
        writer.close()
        await writer.wait_closed()


@each_version
@pytest.mark.parametrize("first", ["server", "client"])
async def test_goodbye(tls: ServerTls, version: ssl.TLSVersion, first: str) -> None:
    """Whoever closes says so in TLS, and the other side answers: neither takes it for a cut."""
    near, far = socket_pair()
    far.setblocking(True)
    server = Echo()

    def visit() -> None:
        context = settings_for(None, version)
        with context.wrap_socket(far, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
            if first == "server":
                loop.call_soon_threadsafe(server.transport.close)
                assert client.recv(1) == b""  # without a goodbye this is ssl.SSLEOFError
            client.unwrap().close()

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIME_LIMIT_S):
        await asyncio.gather(accept(tls, near, lambda: server), asyncio.to_thread(visit))
        assert await server.closed is None


async def test_a_goodbye_that_waits(tls: ServerTls) -> None:
    """A client's goodbye that came while the server had paused reading counts when the server closes."""
    near, far = socket_pair()
    server = Echo()
    async with asyncio.timeout(TIME_LIMIT_S):
        with far:
            standing = asyncio.ensure_future(accept(tls, near, lambda: server, shutdown_timeout_s=TIME_LIMIT_S))
            client, outgoing = await speak(far, settings_for())
            await standing
            server.transport.pause_reading()
            with suppress(ssl.SSLWantReadError):
                client.unwrap()
            far.send(outgoing.read())
            with suppress(BlockingIOError):
                while near.recv(1, socket.MSG_PEEK):  # noqa: ASYNC110 - no event tells that a socket was read
                    await asyncio.sleep(0)
            server.transport.close()
            assert await server.closed is None


async def test_a_cut_connection(tls: ServerTls) -> None:
    """A client that goes without goodbye ends the connection."""
    async with connected(tls, settings_for()) as client:
        assert await client.echoed(b"hello")
        client.writer.transport.abort()
        await client.server.closed


async def test_a_client_that_does_not_say_goodbye(tls: ServerTls) -> None:
    """A close waits for the client's goodbye as long as it was told to, then the connection is cut."""
    near, far = socket_pair()
    far.setblocking(True)
    server = Echo()
    async with asyncio.timeout(TIME_LIMIT_S):
        _, client = await asyncio.gather(
            accept(tls, near, lambda: server, shutdown_timeout_s=0.05),
            asyncio.to_thread(settings_for().wrap_socket, far, server_hostname="127.0.0.1"),
        )
        with client:
            server.transport.close()
            assert isinstance(await server.closed, TimeoutError)


async def test_noise_within_a_connection(tls: ServerTls) -> None:
    """Bytes that are no TLS end a connection that stood."""
    near, far = socket_pair()
    server = Echo()
    async with asyncio.timeout(TIME_LIMIT_S):
        with far:
            standing = asyncio.ensure_future(accept(tls, near, lambda: server))
            await speak(far, settings_for())
            await standing
            await asyncio.get_running_loop().sock_sendall(far, b"noise" * 10)
            assert isinstance(await server.closed, ssl.SSLError)


@each_version
async def test_one_client_does_not_disturb_another(tls: ServerTls, version: ssl.TLSVersion) -> None:
    """What OpenSSL finds wrong with one client's chain is not taken for a fault of another connection."""
    async with connected(tls, settings_for(None, version)) as neighbour:
        near, far = socket_pair()
        server = Echo()

        async def one_by_one(flight: bytes) -> None:
            for byte in flight:
                far.send(bytes([byte]))
                await asyncio.sleep(0)  # the server's turn

        with far:
            standing = asyncio.ensure_future(accept(tls, near, lambda: server))
            await speak(far, settings_for(rsa_chain_with_a_wrong_signature(), version), one_by_one)
            assert await neighbour.echoed(b"hello")
            await standing
            assert not chains_to(server.chain, server.chain[1:], NOW)
            assert await neighbour.echoed(b"hello")
        assert len(server.chain) == 2
        await server.closed


async def test_nothing_is_left(tls: ServerTls) -> None:
    """Connections leave nothing in memory once they have ended, whether they stood or were refused."""
    gc.collect()
    before = sum(isinstance(thing, SSL.Connection) for thing in gc.get_objects())
    for _ in range(5):
        async with connected(tls, settings_for(self_signed_certificate("dev"))) as client:
            await client.echoed(b"hello")
        await refused(tls, noise(b"noise" * 100))
    del client
    gc.collect()
    assert sum(isinstance(thing, SSL.Connection) for thing in gc.get_objects()) == before


# Clients that do not speak TLS


def noise(data: bytes) -> Callable[[socket.socket], Awaitable[None]]:
    async def talk(far: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(far, data)
        far.shutdown(socket.SHUT_WR)

    return talk


def first_flight(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="hub.example")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


CLIENT_HELLO = first_flight(settings_for())


def flip(data: bytes, bit: int) -> bytes:
    at = bit // 8 % len(data)
    return data[:at] + bytes([data[at] ^ 1 << bit % 8]) + data[at + 1 :]


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=300)
    | st.integers(0, len(CLIENT_HELLO)).map(lambda size_bytes: CLIENT_HELLO[:size_bytes])
    | st.integers(0, 8 * len(CLIENT_HELLO)).map(lambda bit: flip(CLIENT_HELLO, bit))
)
@example(b"GET / HTTP/1.1\r\n\r\n")
@example(b"\x16\x03\x01\xff\xff" + bytes(1000))
async def test_noise(tls: ServerTls, data: bytes) -> None:
    """Whatever a client says in place of TLS, or of a part of it, accepting it fails with an OSError."""
    await refused(tls, noise(data))


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(VERSIONS), st.integers(0, 2**20))
async def test_a_damaged_certificate(tls: ServerTls, version: ssl.TLSVersion, bit: int) -> None:
    """A second flight with a bit changed fails with an OSError, or the bit means nothing, as in a record's version."""
    near, far = socket_pair()
    server = Echo()
    flights = 0

    async def damage_the_second(flight: bytes) -> None:
        nonlocal flights
        flights += 1
        far.send(flight if flights == 1 else flip(flight, bit))
        if flights == 2:
            far.shutdown(socket.SHUT_WR)

    async with asyncio.timeout(TIME_LIMIT_S):
        with far:
            accepting = asyncio.ensure_future(accept(tls, near, lambda: server))
            with suppress(OSError):
                await speak(far, settings_for(DEVICE, version), damage_the_second)
            with suppress(OSError):
                await accepting
        if server.opened:
            assert server.chain[0] == DEVICE.certificate
            await server.closed


@pytest.mark.parametrize("size_bytes", [0, 1, len(CLIENT_HELLO) // 2, len(CLIENT_HELLO)])
async def test_half_a_handshake(tls: ServerTls, size_bytes: int) -> None:
    """A client that falls silent within the handshake is let go after the time it was given."""
    near, far = socket_pair()
    with far:
        far.send(CLIENT_HELLO[:size_bytes])
        async with asyncio.timeout(TIME_LIMIT_S):
            with pytest.raises(ConnectionAbortedError, match="handshake"):
                await accept(tls, near, handshake_timeout_s=0.05)


# Clients nobody here wrote


@asynccontextmanager
async def listening(tls: ServerTls, make_protocol: Callable[[], asyncio.BaseProtocol]) -> AsyncIterator[int]:
    """Accepts connections; gives the port."""
    async with asyncio.timeout(TIME_LIMIT_S), asyncio.TaskGroup() as accepting:

        def start(near: socket.socket) -> None:
            accepting.create_task(accept(tls, near, make_protocol))

        listener = Listener("127.0.0.1", 0, start)
        listener.open()
        try:
            yield listener.port
        finally:
            listener.close()


class OneAnswer(Echo):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.close()


@needs_openssl
@pytest.mark.parametrize("certificate", [None, LINE.device_certificate("dev")], ids=["without", "with"])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_openssl(tls: ServerTls, tmp_path: Path, certificate: DeviceCertificate | None, version: str) -> None:
    """OpenSSL's own client connects with and without a certificate, and is not told which authorities are wanted."""
    (tmp_path / "ca.pem").write_text(AUTHORITY.ca_pem)
    arguments = ["-CAfile", str(tmp_path / "ca.pem"), "-verify_return_error", f"-tls{version.replace('.', '_')}"]
    if certificate is not None:
        certificate_file, key_file = map(str, certificate.write(tmp_path))
        (tmp_path / "above.pem").write_text(pem(chain_of(certificate)[1:]))
        arguments += ["-cert", certificate_file, "-cert_chain", str(tmp_path / "above.pem"), "-key", key_file]
    server = OneAnswer()
    async with listening(tls, lambda: server) as port:
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await client.communicate(b"hello from outside\n"))[0].decode()
        await server.closed
    assert client.returncode == 0, output
    assert f"Protocol  : TLSv{version}" in output or f"New, TLSv{version}" in output
    assert "No client certificate CA names sent" in output
    assert output.count("hello from outside") == 1
    assert pem(server.chain) == ("" if certificate is None else certificate.certificate_pem)


class Broker(asyncio.Protocol):
    """As much of one as a publisher needs."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._packets = PacketReader()
        self.chain = client_chain(transport)

    def data_received(self, data: bytes) -> None:
        for packet in self._packets.feed(data):
            match packet:
                case Connect():
                    self._transport.write(Connack(0).encode())
                case Publish(packet_id=packet_id):
                    self._transport.write(Puback(packet_id).encode())


async def test_paho(tls: ServerTls, tmp_path: Path) -> None:
    """Paho publishes with confirmation under a certificate the server has never seen."""
    (tmp_path / "ca.pem").write_text(AUTHORITY.ca_pem)
    certificate = self_signed_certificate("dev")
    certificate_file, key_file = map(str, certificate.write(tmp_path))
    broker = Broker()
    async with listening(tls, lambda: broker) as port:

        def publish() -> bool:
            client = paho.Client("dev")
            client.tls_set(str(tmp_path / "ca.pem"), certificate_file, key_file, tls_version=ssl.PROTOCOL_TLS_CLIENT)
            client.connect("127.0.0.1", port)
            client.loop_start()
            sent = client.publish("devices/dev/messages/events/", b"hello", qos=1)
            sent.wait_for_publish(TIME_LIMIT_S)
            client.disconnect()
            client.loop_stop()
            return sent.is_published()

        assert await asyncio.to_thread(publish)
    assert broker.chain == (certificate.certificate,)


# Whom to believe

CHAIN = chain_of(DEVICE)
OTHER = LocalAuthority()


@pytest.mark.parametrize(
    ("chain", "authorities", "believed"),
    [
        (CHAIN, [AUTHORITY], True),
        ([CHAIN[0], CHAIN[2], CHAIN[1]], [AUTHORITY], True),
        ([*CHAIN, AUTHORITY.certificate], [AUTHORITY], True),
        ([*CHAIN, OTHER.certificate], [OTHER, AUTHORITY], True),
        (CHAIN, [FACTORY], True),
        (CHAIN[:1], [LINE], True),
        (chain_of(AUTHORITY.device_certificate("dev")), [AUTHORITY], True),
        (chain_of(AUTHORITY.device_certificate("dev", expired=True)), [AUTHORITY], False),
        (CHAIN[:1], [AUTHORITY], False),
        (CHAIN[:2], [AUTHORITY], False),
        (CHAIN, [OTHER], False),
        (CHAIN, [FACTORY.intermediate("line 3")], False),
        (chain_of(self_signed_certificate("dev")), [AUTHORITY], False),
        ([OTHER.certificate], [AUTHORITY], False),
        (CHAIN, [], False),
        ([], [AUTHORITY], False),
    ],
)
def test_who_is_believed(chain: list[x509.Certificate], authorities: list[LocalAuthority], believed: bool) -> None:
    """A chain has to lead to one of the authorities, a root or any below one, without a gap and within its dates."""
    assert chains_to(chain, [authority.certificate for authority in authorities], NOW) is believed


@pytest.mark.parametrize(("days", "believed"), [(-2, False), (0, True), (366, False), (3651, False)])
def test_dates(days: int, believed: bool) -> None:
    """It is the given time that counts, in whatever time zone it is told."""
    now = NOW + timedelta(days=days)
    for zone in (UTC, timezone(timedelta(hours=-23)), timezone(timedelta(hours=23))):
        assert chains_to(CHAIN, [AUTHORITY.certificate], now.astimezone(zone)) is believed


def issued(
    below: x509.Certificate, key_of_it: ec.EllipticCurvePrivateKey, constraints: x509.BasicConstraints | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate with a name, dates and no more than these constraints."""
    key = ec.generate_private_key(ec.SECP256R1())
    start, end = NOW - timedelta(days=1), NOW + timedelta(days=1)
    builder = x509.CertificateBuilder(below.subject, name("issued"), key.public_key(), 1, start, end)
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key_of_it, hashes.SHA256()), key


@pytest.mark.parametrize(
    ("constraints", "believed"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.BasicConstraints(ca=False, path_length=None), False),
        (None, False),
    ],
    ids=str,
)
def test_only_authorities_issue(constraints: x509.BasicConstraints | None, believed: bool) -> None:
    """What a device signs with its key is not believed, though the device is; a device needs no extensions at all."""
    issuer, issuer_key = issued(AUTHORITY.certificate, AUTHORITY.key, constraints)
    device, _ = issued(issuer, issuer_key, None)
    assert chains_to([issuer], [AUTHORITY.certificate], NOW)
    assert chains_to([device, issuer], [AUTHORITY.certificate], NOW) is believed


def test_no_more_below_than_allowed() -> None:
    """An authority that may have no authority below it vouches for devices, and for nobody's through another one."""
    last, last_key = issued(AUTHORITY.certificate, AUTHORITY.key, x509.BasicConstraints(ca=True, path_length=0))
    beyond, beyond_key = issued(last, last_key, x509.BasicConstraints(ca=True, path_length=None))
    device, _ = issued(beyond, beyond_key, None)
    assert not chains_to([device, beyond, last], [AUTHORITY.certificate], NOW)
    assert chains_to([device, beyond], [beyond], NOW)


def test_authorities_of_one_name() -> None:
    """Two authorities with the same name are told apart by their keys."""
    assert OTHER.certificate.subject == AUTHORITY.certificate.subject
    for authorities in ([OTHER, AUTHORITY], [AUTHORITY, OTHER]):
        assert chains_to(CHAIN, [authority.certificate for authority in authorities], NOW)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # serial numbers below 0
@given(st.integers(0, 8 * len(CHAIN[0].public_bytes(serialization.Encoding.DER)) - 1))
def test_changed_certificates(bit: int) -> None:
    """A certificate with any bit changed is not believed."""
    der = CHAIN[0].public_bytes(serialization.Encoding.DER)
    try:
        changed = x509.load_der_x509_certificate(flip(der, bit))
    except (ValueError, x509.InvalidVersion):
        assume(False)
    assert not chains_to([changed, *CHAIN[1:]], [AUTHORITY.certificate], NOW)
