"""TLS for servers that ask for a client certificate and take any.

IoT Hub and DPS meet certificates they have never seen: a self-signed one is known by its thumbprint, and whose it has
to be turns out only when the device has said who it is. So the handshake lets every certificate through and passes it
on. What it does prove is that the client has the key. Whom to believe is for the server to say; `chains_to` helps.

Python's `ssl` refuses such certificates and cannot be told otherwise, so this is pyOpenSSL. asyncio drives it as it
drives `ssl`: all it wants of a TLS context is `wrap_bio`, and of what that returns a few methods of `ssl.SSLObject`.

```python
tls = ServerTls(authority.server_certificate(["127.0.0.1"]), client_certificates=True)
await tls.accept(sock, make_protocol, handshake_timeout_s=10.0, shutdown_timeout_s=1.0)
...  # from connection_made() on, a protocol may ask for client_chain(transport) and server_name(transport)
```
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import ParamSpec, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError
from OpenSSL import SSL, crypto

from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import ServerCertificate

P = ParamSpec("P")
T = TypeVar("T")

_RECORD_BYTES = 16 * 1024
"""What OpenSSL gives out at once: no record of TLS holds more (RFC 8446 section 5.1)."""
_SENT_AT_ONCE_BYTES = 32 * 1024


class ServerTls:
    """TLS 1.2 and 1.3 for accepted sockets.

    Args:
        certificate: what clients are shown; EC or RSA.
        client_certificates: ask clients for theirs. Those that have none are let in as well.

    Raises:
        BenchError: the certificate cannot be used.
    """

    def __init__(self, certificate: ServerCertificate, *, client_certificates: bool) -> None:
        self._client_certificates = client_certificates
        self.use(certificate)

    def use(self, certificate: ServerCertificate) -> None:
        """Show this certificate to clients from now on; connections that are there stay.

        Raises:
            BenchError: it cannot be used; the one before remains.
        """
        self._context = _Context(certificate, client_certificates=self._client_certificates)

    async def accept(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        *,
        handshake_timeout_s: float,
        shutdown_timeout_s: float,
    ) -> None:
        """Shake hands with a client; its protocol's `connection_made` is called before this returns.

        Args:
            sock: accepted and non-blocking; closed by the connection, or here if this fails.
            make_protocol: makes the protocol; called before the handshake, whose failure the protocol does not hear of.
            handshake_timeout_s: how long the client may take until TLS stands.
            shutdown_timeout_s: how long a close waits for the client's goodbye.

        Raises:
            OSError: the handshake failed: `ssl.SSLError` if TLS was broken, others if the client went or fell silent.
        """
        await asyncio.get_running_loop().connect_accepted_socket(
            make_protocol,
            sock,
            ssl=cast("ssl.SSLContext", self._context),  # enough of one for asyncio
            ssl_handshake_timeout=handshake_timeout_s,
            ssl_shutdown_timeout=shutdown_timeout_s,
        )


def client_chain(transport: asyncio.BaseTransport) -> tuple[x509.Certificate, ...]:
    """The certificates a client has shown, its own first; empty if it has shown none.

    It has proved that it has the key of the first. Nothing else is checked, neither names nor dates nor signatures.
    """
    connection = transport.get_extra_info("ssl_object")
    return connection.client_chain if isinstance(connection, _Connection) else ()


def server_name(transport: asyncio.BaseTransport) -> str:
    """The host name a client has asked for (RFC 6066 section 3); empty if it has named none, as for an address."""
    connection = transport.get_extra_info("ssl_object")
    return connection.server_name if isinstance(connection, _Connection) else ""


def chains_to(chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], now: datetime) -> bool:
    """Whether one of the authorities vouches for a client's certificate.

    Checked are signatures, dates, and that authorities are such and with no more below them than they allow. Names and
    key usages are not: devices have a common name and little else.

    Args:
        chain: as from `client_chain`; what comes after the first helps to find the way and is believed nothing.
        authorities: who is believed; roots, or any below them.
        now: with its time zone.
    """
    if not chain or not authorities:
        return False
    verifier = (
        PolicyBuilder()
        .store(Store(list(authorities)))
        .time(now)
        .extension_policies(
            ca_policy=ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None),
            ee_policy=ExtensionPolicy.permit_all(),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(chain[0], list(chain[1:]))
    except VerificationError:
        return False
    return True


class _Context:
    """What asyncio wants of an `ssl.SSLContext`."""

    def __init__(self, certificate: ServerCertificate, *, client_certificates: bool) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_2_VERSION)
        # Each connection shakes hands in full: a session taken up again would come without the client's chain.
        self._context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
        self._context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        self._context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # as `ssl` does: an idle connection keeps less memory
        if client_certificates:
            self._context.set_verify(SSL.VERIFY_PEER, _let_through)
        try:
            own, *above = x509.load_pem_x509_certificates(certificate.certificate_pem.encode())
            key = serialization.load_pem_private_key(certificate.key_pem.encode(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
                raise TypeError("neither an EC nor an RSA key")
            self._context.use_certificate(own)
            self._context.use_privatekey(key)
            for authority in above:
                self._context.add_extra_chain_cert(authority)
        except (ValueError, TypeError, UnsupportedAlgorithm, SSL.Error) as error:
            raise BenchError(
                f"cannot use this certificate: {_reason(error)}",
                where="TLS server",
                remedy="Give a certificate and its key, both PEM, the key without a password",
            ) from error

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **_server: object) -> _Connection:
        """The TLS of a new connection."""
        return _Connection(self._context, incoming, outgoing)


class _Connection:
    """What asyncio wants of an `ssl.SSLObject`; bytes go in and out by asyncio's buffers, errors are those of `ssl`."""

    def __init__(self, context: SSL.Context, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._tls = SSL.Connection(context)
        self._tls.set_accept_state()
        self.client_chain: tuple[x509.Certificate, ...] = ()
        self.server_name = ""

    def do_handshake(self) -> None:
        self._step(self._tls.do_handshake)
        self.server_name = (self._tls.get_servername() or b"").decode("ascii", "replace")
        try:
            self.client_chain = _shown_to(self._tls)
        except (ValueError, KeyError, x509.InvalidVersion) as error:  # OpenSSL is not as strict as cryptography
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"unreadable client certificate: {error}") from error

    def read(self, size: int, buffer: memoryview | None = None) -> bytes | int:
        """Up to `size` bytes, or their number if they go into `buffer`; none once the client has said goodbye."""
        try:
            if buffer is not None:
                return self._step(self._tls.recv_into, buffer, size)
            return self._step(self._tls.recv, min(size, _RECORD_BYTES))
        except ssl.SSLZeroReturnError:
            return b"" if buffer is None else 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        return self._step(self._tls.send, data) if data else 0

    def unwrap(self) -> None:
        if not self._step(self._tls.shutdown):  # says goodbye
            self._step(self._tls.shutdown)  # looks for the client's, and raises if it has yet to come

    def getpeercert(self) -> None:
        """Nothing: `ssl` shows what it has checked."""

    def cipher(self) -> tuple[str | None, str | None, int | None]:
        return self._tls.get_cipher_name(), self._tls.get_cipher_version(), self._tls.get_cipher_bits()

    def compression(self) -> None:
        """Nothing: no bytes are compressed."""

    def _step(self, operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._incoming.pending:
            self._tls.bio_write(self._incoming.read())
        try:
            return operation(*args, **kwargs)
        except SSL.WantReadError:
            raise ssl.SSLWantReadError from None
        except SSL.ZeroReturnError:
            raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the client has closed TLS") from None
        except SSL.Error as error:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, _reason(error)) from error
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give what TLS has to say to asyncio: also where nothing was written, for instance an alert."""
        with suppress(SSL.WantReadError):
            while True:
                data = self._tls.bio_read(_SENT_AT_ONCE_BYTES)
                self._outgoing.write(data)
                if len(data) < _SENT_AT_ONCE_BYTES:
                    break  # there is no more; asking would be an exception, at a price for each message


def _let_through(*_certificate: object) -> bool:
    """Take a certificate; called for each one, and for each thing OpenSSL finds wrong with it."""
    # A failed check leaves its reason in a queue that all connections of the thread share. Before OpenSSL 4.0 the next
    # of them to wait for bytes would be told of it as its own error. pyOpenSSL empties the queue only when it reports
    # an error, so it is given one to report.
    with suppress(crypto.Error):
        crypto.load_certificate(crypto.FILETYPE_ASN1, b"")
    return True


def _shown_to(tls: SSL.Connection) -> tuple[x509.Certificate, ...]:
    with warnings.catch_warnings(action="ignore"):  # of oddities that do not matter here, such as a serial number of 0
        own = tls.get_peer_certificate(as_cryptography=True)
        if own is None:
            return ()
        above = tls.get_peer_cert_chain(as_cryptography=True) or ()  # at a server, OpenSSL keeps these apart
        for certificate in (own, *above):
            # Names are parsed when first asked for: a fault in one is to show here, and not in the midst of a service.
            _ = certificate.subject, certificate.issuer
        return (own, *above)


def _reason(error: Exception) -> str:
    match error.args:
        case ([*reports],) if reports:  # OpenSSL's own words: library, function, reason
            return ", ".join(reason for _, _, reason in reports)
        case _:
            return str(error) or type(error).__name__
