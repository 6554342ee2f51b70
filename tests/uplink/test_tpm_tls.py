"""A client certificate whose key stays in the TPM: at a broker that asks for one, and at the hub by its thumbprint."""

from __future__ import annotations

import _ssl
import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiomqtt
import pytest

from edge_gateway.errors import ConfigError, KeyStoreUnavailable
from edge_gateway.keystore.tpm import CertificateKey, TpmKeyStore
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.broker import find_mosquitto
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.uplink import tpm_tls
from edge_gateway.uplink.paho_losses import mend_paho
from edge_gateway.uplink.tls import client_context
from tests.keystore.tpm.backend import tpm_key_store, why_not
from tests.log_events import log_events

from .far_sides import TIME_LIMIT_S, CertificateBroker, HubFarSide, certified, thumbprint

needs_tpm = pytest.mark.skipif(bool(why_not()), reason=why_not())
needs_interpreter = pytest.mark.skipif(bool(tpm_tls.why_not()), reason=tpm_tls.why_not())
needs_broker = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
NAME = "gateway-17"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TpmKeyStore]:
    with tpm_key_store(tmp_path) as store:
        yield store


@pytest.fixture
def key(store: TpmKeyStore) -> CertificateKey:
    return store.create_certificate_key("tls")


@pytest.fixture
def ca_file(authority: LocalAuthority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(authority.ca_pem)
    return path


def context_of(ca_file: Path, certificate: Path, key: tpm_tls.HeldKey, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = client_context(ca_file, certificate, key)
    context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture
async def broker(authority: LocalAuthority) -> AsyncIterator[CertificateBroker]:
    mend_paho()
    async with CertificateBroker(authority=authority) as broker:
        yield broker


@asynccontextmanager
async def connected(broker: CertificateBroker, context: ssl.SSLContext) -> AsyncIterator[aiomqtt.Client]:
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        aiomqtt.Client(broker.address, broker.port, identifier="g", tls_context=context) as client,
    ):
        yield client


@needs_tpm
@needs_interpreter
@needs_broker
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_broker_believes_the_key_in_the_tpm(
    broker: CertificateBroker,
    authority: LocalAuthority,
    key: CertificateKey,
    ca_file: Path,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    """The broker asks for a certificate and knows the client by it; a message goes through, with either TLS."""
    context = context_of(ca_file, certified(authority, key, NAME, tmp_path), key, version)
    for _ in range(2):  # a context serves each connection anew
        async with connected(broker, context) as client:
            await client.publish("a", b"x", qos=1)
        await broker.logged(f"u'{NAME}'")


@needs_tpm
@needs_interpreter
@needs_broker
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_certificate_without_its_key_gets_nobody_in(
    broker: CertificateBroker,
    authority: LocalAuthority,
    store: TpmKeyStore,
    key: CertificateKey,
    ca_file: Path,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    """Signatures by another key in the same TPM are refused: the broker does check them."""
    other = store.create_certificate_key("other")
    impostor = CertificateKey("tls", key.point, other.sign_digest)
    context = context_of(ca_file, certified(authority, key, NAME, tmp_path), impostor, version)
    with pytest.raises(aiomqtt.MqttError):
        async with connected(broker, context) as client:
            await client.publish("a", b"x", qos=1)


@needs_tpm
@needs_interpreter
@pytest.mark.parametrize("version", VERSIONS)
async def test_the_hub_knows_the_device_by_its_thumbprint(
    hub: HubFarSide, key: CertificateKey, tmp_path: Path, authority: LocalAuthority, version: ssl.TLSVersion
) -> None:
    """A device with a certificate sends no token; its message arrives under its identity."""
    mend_paho()
    certificate_file = certified(authority, key, NAME, tmp_path)
    hub.hub.add_device(NAME, authentication=Thumbprints(thumbprint(certificate_file)))
    context = context_of(hub.ca_file, certificate_file, key, version)
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        aiomqtt.Client(
            hub.hub.host_name,
            hub.hub.port,
            identifier=NAME,
            username=f"{hub.hub.host_name}/{NAME}/?api-version=2021-04-12",
            tls_context=context,
        ) as client,
    ):
        await client.publish(f"devices/{NAME}/messages/events/", b"x", qos=1)
    assert [(each.device_id, each.body) for each in hub.hub.messages] == [(NAME, b"x")]


class FailingKey:
    """A key whose TPM is away, or that answers with something else."""

    name = "failing"

    def __init__(self, key: CertificateKey, answer: bytes | Exception) -> None:
        self.point = key.point
        self._answer = answer

    def sign_digest(self, digest: bytes) -> bytes:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@needs_tpm
@needs_interpreter
@needs_broker
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (KeyStoreUnavailable("the TPM does not answer", where="tpm"), "tpm: the TPM does not answer"),
        (RuntimeError("unexpected"), "RuntimeError"),
        (bytes(73), "a signature of 73 bytes"),
        (b"", "a signature of 0 bytes"),
    ],
)
async def test_a_key_that_does_not_sign_fails_the_handshake_only(
    broker: CertificateBroker,
    authority: LocalAuthority,
    key: CertificateKey,
    ca_file: Path,
    tmp_path: Path,
    answer: bytes | Exception,
    reason: str,
) -> None:
    """The log says why, nothing is written past OpenSSL's room, and the next handshake with a sound key succeeds."""
    certificate = certified(authority, key, NAME, tmp_path)
    failing = context_of(ca_file, certificate, FailingKey(key, answer), ssl.TLSVersion.TLSv1_3)
    with log_events() as events, pytest.raises(aiomqtt.MqttError):
        async with connected(broker, failing):
            raise AssertionError("connected")
    assert [each["reason"] for each in events if each["event"] == "uplink.tls_key_failed"] == [reason]
    async with connected(broker, context_of(ca_file, certificate, key, ssl.TLSVersion.TLSv1_3)) as client:
        await client.publish("a", b"x", qos=1)


@needs_tpm
@needs_interpreter
def test_a_certificate_that_does_not_fit_is_told(
    authority: LocalAuthority, store: TpmKeyStore, key: CertificateKey, ca_file: Path, tmp_path: Path
) -> None:
    """One for another key, or none at all, is the configuration's fault; the error names file and key."""
    other = store.create_certificate_key("other")
    certificate = certified(authority, key, NAME, tmp_path)
    with pytest.raises(ConfigError, match=r"tls\.pem: the certificate is not for the key 'other'.*keys csr other"):
        client_context(ca_file, certificate, other)
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be used as PEM certificate"):
        client_context(ca_file, tmp_path / "none.pem", key)
    with pytest.raises(ConfigError, match=r"gone\.pem: there is no such file"):
        client_context(ca_file, tmp_path / "gone.pem", key)
    client_context(ca_file, certificate, key)


@needs_interpreter
def test_a_point_off_the_curve_is_refused(authority: LocalAuthority, ca_file: Path, tmp_path: Path) -> None:
    """A public part that is none never reaches a handshake."""
    key = CertificateKey("odd", b"\x04" + b"\x01" * 64, lambda digest: digest)
    certificate, _ = authority.device_certificate(NAME).write(tmp_path)
    with pytest.raises(ConfigError, match="key 'odd': its public part is no point on P-256"):
        client_context(ca_file, certificate, key)


# --- where it does not hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("implementation", "version", "is_free_threaded", "told"),
    [
        ("pypy", (3, 11), False, "it is pypy 3.11, which nobody has tried"),
        ("cpython", (3, 14), False, "it is cpython 3.14, which nobody has tried"),
        ("cpython", (3, 13), True, "it is a free-threaded build"),
    ],
)
def test_interpreters_that_nobody_has_tried_are_refused(
    implementation: str, version: tuple[int, int], is_free_threaded: bool, told: str
) -> None:
    """Their memory is not looked into."""
    assert told in tpm_tls._refusal(implementation, version, is_free_threaded)


@pytest.mark.parametrize(
    ("module", "name", "value", "told"),
    [
        (ssl, "OPENSSL_VERSION", "LibreSSL 3.3.6", "it is built with LibreSSL 3.3.6, and this needs OpenSSL 3"),
        (ssl, "OPENSSL_VERSION", "OpenSSL 1.1.1w  11 Sep 2023", "it is built with OpenSSL 1.1.1w"),
        (ssl, "OPENSSL_VERSION", "OpenSSL 3.99.0 1 Jan 2031", "its OpenSSL is not the one that was found"),
        (_ssl, "__file__", "/nowhere/_ssl.so", "its OpenSSL cannot be called"),
        (_ssl, "__file__", None, "its OpenSSL is built in"),
    ],
)
@needs_interpreter
def test_an_openssl_that_is_not_the_systems_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    ca_file: Path,
    authority: LocalAuthority,
    tmp_path: Path,
    module: object,
    name: str,
    value: str | None,
    told: str,
) -> None:
    """The error says why, and what to do; no context is touched."""
    if value is None:
        monkeypatch.delattr(module, name)
    else:
        monkeypatch.setattr(module, name, value)
    tpm_tls._openssl.cache_clear()
    try:
        assert told in tpm_tls.why_not()
        certificate, _ = authority.device_certificate(NAME).write(tmp_path)
        with pytest.raises(ConfigError, match=r"cannot be used with this Python.*Run the gateway with the system's"):
            client_context(ca_file, certificate, CertificateKey("k", b"", lambda digest: digest))
    finally:
        tpm_tls._openssl.cache_clear()


@needs_interpreter
def test_a_key_in_software_can_be_held_likewise(authority: LocalAuthority, ca_file: Path, tmp_path: Path) -> None:
    """Nothing here knows of TPMs: whoever signs will do, in a process that has never seen one, and it ends cleanly."""
    program = f"""
import asyncio, ssl, sys
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from edge_gateway.testbench import LocalAuthority
from edge_gateway.uplink.tls import client_context

class Held:
    name = "held"
    def __init__(self, pem):
        self._key = serialization.load_pem_private_key(pem, None)
        form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        self.point = self._key.public_key().public_bytes(*form)
    def sign_digest(self, digest):
        return self._key.sign(digest[:32], ec.ECDSA(utils.Prehashed(SHA256())))

async def main(directory):
    authority = LocalAuthority()
    device = authority.device_certificate("d")
    certificate, _ = device.write(directory)
    (directory / "ca.pem").write_text(authority.ca_pem)
    server = authority.server_context(["127.0.0.1"])
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(directory / "ca.pem")
    async def serve(reader, writer):
        writer.write(writer.get_extra_info("peercert")["subject"][0][0][1].encode() + b"\\n")
        writer.close()
        await writer.wait_closed()
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        context = client_context(directory / "ca.pem", certificate, Held(device.key_pem.encode()))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        print((await reader.readline()).decode().strip(), "tpm2_pytss" in sys.modules)
        writer.close()
        await writer.wait_closed()

asyncio.run(main(Path({str(tmp_path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "d False\n"), done.stderr
