"""The workload API, asked by HTTP clients on its socket and by the device SDK's own client for it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import random
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from azure.iot.device.iothub.edge_hsm import IoTEdgeHsm
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.clock import SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.cloud.edge.ca import EdgeCa
from edge_gateway.testbench.cloud.edge.workload_api import (
    API_VERSIONS,
    ENCRYPTION_KEY_BYTES,
    MAX_BODY_BYTES,
    MAX_REQUESTS_AT_ONCE,
    EdgeSecrets,
    WorkloadApi,
)
from edge_gateway.testbench.cloud.identity import Identity, IdentityName, NoAuthentication, SymmetricKeys
from edge_gateway.testbench.cloud.tls import chains_to

from .mqtt_client import soon

KEY = base64.b64encode(bytes(range(32))).decode()
OWN = "/modules/sensor/genid/g1"
VECTOR = base64.b64encode(b"0123456789ab").decode()
"""An initialization vector."""


class Host:
    """Knows one module."""

    def __init__(self) -> None:
        self.authentication: SymmetricKeys | NoAuthentication = SymmetricKeys(KEY, KEY)
        self.details: Sequence[Mapping[str, Any]] = [{"id": "id", "name": "sensor", "type": "docker"}]

    def module_identity(self, module_id: str) -> Identity:
        return Identity(IdentityName("edge", module_id), self.authentication, "g1")

    def module_details(self) -> Sequence[Mapping[str, Any]]:
        return self.details


@pytest.fixture
def edge_ca(authority: LocalAuthority) -> EdgeCa:
    return EdgeCa(authority.intermediate("edge CA of edge"), SystemClock())


@pytest.fixture
def secrets(edge_ca: EdgeCa) -> EdgeSecrets:
    return EdgeSecrets(
        "hub.example", "edge", edge_ca, random.Random(1).randbytes(ENCRYPTION_KEY_BYTES), edge_ca.root_pem
    )


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def api(tmp_path: Path, secrets: EdgeSecrets, host: Host) -> AsyncIterator[WorkloadApi]:
    async with WorkloadApi("sensor", tmp_path / "sensor.sock", secrets, host) as api:
        yield api


@asynccontextmanager
async def client(api: WorkloadApi) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        "http://host",
        connector=aiohttp.UnixConnector(path=str(api.path), limit=0),
        timeout=aiohttp.ClientTimeout(total=20),
    ) as session:
        yield session


async def ask(
    api: WorkloadApi, method: str, path: str, body: Any = None, version: str | None = "2018-06-28"
) -> tuple[int, dict[str, Any]]:
    """Status and answer of one request."""
    query = {} if version is None else {"api-version": version}
    async with client(api) as session, session.request(method, path, params=query, json=body) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_device_sdk(api: WorkloadApi, authority: LocalAuthority) -> None:
    """The SDK's client gets the trust bundle and a digest that the module's hub key makes."""
    hsm = IoTEdgeHsm("sensor", "g1", api.uri, "2022-08-03")
    assert await asyncio.to_thread(hsm.get_certificate) == authority.ca_pem
    digest = await asyncio.to_thread(hsm.sign, "hub.example\n1800000000")
    expected = hmac.digest(base64.b64decode(KEY), b"hub.example\n1800000000", hashlib.sha256)
    assert digest == b64(expected)


@pytest.mark.parametrize("version", sorted(API_VERSIONS))
async def test_versions(api: WorkloadApi, version: str) -> None:
    """Every version of the API is served alike."""
    status, _ = await ask(api, "GET", "/trust-bundle", version=version)
    assert status == 200


@pytest.mark.parametrize("version", [None, "", "2018-06-29", "1.0"])
async def test_unknown_versions(api: WorkloadApi, version: str | None) -> None:
    """A request without a known version is refused, whatever it is for."""
    for path in ("/trust-bundle", "/nothing"):
        status, answer = await ask(api, "GET", path, version=version)
        assert status == 400
        assert "api-version" in answer["message"]


async def test_content_type_does_not_matter(api: WorkloadApi) -> None:
    """A body is JSON whatever its type says, as the SDK sends none that does."""
    async with client(api) as session:
        data = f'{{"keyId":"primary","algo":"HMACSHA256","data":"{b64(b"x")}"}}'.encode()
        headers = {"Content-Type": "text/plain"}
        async with session.post(f"{OWN}/sign?api-version=2018-06-28", data=data, headers=headers) as response:
            assert response.status == 200


async def test_sign_without_key(api: WorkloadApi, host: Host) -> None:
    """A module whose hub identity has no key cannot sign."""
    host.authentication = NoAuthentication()
    status, answer = await ask(api, "POST", f"{OWN}/sign", {"data": b64(b"x")})
    assert (status, answer) == (500, {"message": "it has no keys"})


async def test_encryption(api: WorkloadApi) -> None:
    """What a module encrypts it gets back, with its initialization vector and generation and not with others."""
    status, answer = await ask(
        api, "POST", f"{OWN}/encrypt", {"plaintext": b64(b"secret"), "initializationVector": VECTOR}
    )
    assert status == 200
    assert b"secret" not in base64.b64decode(answer["ciphertext"])
    body = {"ciphertext": answer["ciphertext"], "initializationVector": VECTOR}
    assert await ask(api, "POST", f"{OWN}/decrypt", body) == (200, {"plaintext": b64(b"secret")})
    for path, changed in [
        ("/modules/sensor/genid/g2", body),
        (OWN, {**body, "initializationVector": b64(b"another vector")}),
        (OWN, {**body, "ciphertext": b64(b"something else altogether")}),
    ]:
        status, answer = await ask(api, "POST", f"{path}/decrypt", changed)
        assert status == 500
        assert "cannot decrypt" in answer["message"]


async def test_encryption_is_the_modules_own(
    api: WorkloadApi, tmp_path: Path, secrets: EdgeSecrets, host: Host
) -> None:
    """One module cannot decrypt what another has encrypted, though the host's key is one."""
    _, answer = await ask(api, "POST", f"{OWN}/encrypt", {"plaintext": "", "initializationVector": VECTOR})
    async with WorkloadApi("other", tmp_path / "other.sock", secrets, host) as other:
        body = {"ciphertext": answer["ciphertext"], "initializationVector": VECTOR}
        status, _ = await ask(other, "POST", "/modules/other/genid/g1/decrypt", body)
    assert status == 500


@pytest.mark.parametrize("vector", [b"", b"short", bytes(200)])
async def test_unusable_vector(api: WorkloadApi, vector: bytes) -> None:
    """An initialization vector of a length the cipher does not take is an error and no crash."""
    body = {"plaintext": "", "ciphertext": "", "initializationVector": b64(vector)}
    for verb in ("encrypt", "decrypt"):
        status, answer = await ask(api, "POST", f"{OWN}/{verb}", body)
        assert status == 500
        assert f"cannot {verb}" in answer["message"]


def chain_of(answer: Mapping[str, Any]) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(answer["certificate"].encode())


@pytest.mark.parametrize("name", ["gateway.example", "127.0.0.1"])
async def test_server_certificate(api: WorkloadApi, authority: LocalAuthority, name: str) -> None:
    """A server certificate is for the name asked for and the module's own, and chains to the trust bundle."""
    status, answer = await ask(
        api, "POST", f"{OWN}/certificate/server", {"commonName": name, "expiration": "2030-01-01T00:00:00Z"}
    )
    assert status == 201
    leaf, *others = chain_of(answer)
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == name
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names)[1:] == [x509.DNSName("sensor")]
    if name[0].isdigit():
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(name)]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert chains_to([leaf, *others], [authority.certificate], datetime.now(UTC))
    assert answer["privateKey"]["type"] == "key"
    key = load_pem_private_key(answer["privateKey"]["bytes"].encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    assert key.public_key() == leaf.public_key()
    assert datetime.fromisoformat(answer["expiration"]) == leaf.not_valid_after_utc


async def test_served_certificate(api: WorkloadApi, tmp_path: Path, authority: LocalAuthority) -> None:
    """A client that trusts the bundle talks TLS with a server that shows such a certificate."""
    _, answer = await ask(api, "POST", f"{OWN}/certificate/server", {"commonName": "127.0.0.1"})
    file = tmp_path / "server.pem"
    file.write_text(answer["privateKey"]["bytes"] + answer["certificate"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
        assert await soon(reader.read()) == b""
        writer.close()
        await writer.wait_closed()


async def test_identity_certificate(api: WorkloadApi, authority: LocalAuthority) -> None:
    """An identity certificate names the module, and hub and device in the form aziot-edged has for it."""
    status, answer = await ask(api, "POST", "/modules/sensor/certificate/identity", {"expiration": "2030-01-01"})
    assert status == 201
    leaf, *others = chain_of(answer)
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "sensor"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["URI: azureiot://hub.example/devices/edge/modules/sensor"]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert chains_to([leaf, *others], [authority.certificate], datetime.now(UTC))


@pytest.mark.parametrize("name", ["", "x" * 65, "tür.example", 5])
async def test_unusable_name(api: WorkloadApi, name: object) -> None:
    """A name that cannot stand in a certificate is the caller's fault."""
    status, _ = await ask(api, "POST", f"{OWN}/certificate/server", {"commonName": name})
    assert status == 400


async def test_bundles(tmp_path: Path, secrets: EdgeSecrets, host: Host, edge_ca: EdgeCa) -> None:
    """A missing trust bundle is 404, a missing manifest trust bundle an empty text."""
    bare = EdgeSecrets("hub.example", "edge", edge_ca, secrets.encryption_key, "")
    async with WorkloadApi("sensor", tmp_path / "bare.sock", bare, host) as api:
        status, answer = await ask(api, "GET", "/trust-bundle")
        assert status == 404
        assert "not found" in answer["message"]
        assert await ask(api, "GET", "/manifest-trust-bundle") == (200, {"certificate": ""})


@pytest.mark.parametrize("path", ["/modules", "/modules/"])
async def test_modules(api: WorkloadApi, host: Host, path: str) -> None:
    """All modules of the device are listed, also for those who write a slash behind."""
    assert await ask(api, "GET", path) == (200, {"modules": host.details})


async def test_only_for_itself(api: WorkloadApi) -> None:
    """On its socket a module can ask for itself and for no other."""
    for path in (
        "other/genid/g1/sign",
        "other/genid/g1/decrypt",
        "other/certificate/identity",
        "%24edgeHub/genid/1/sign",
    ):
        assert await ask(api, "POST", f"/modules/{path}", {"data": ""}) == (403, {"message": "forbidden"})


async def test_system_module(tmp_path: Path, secrets: EdgeSecrets, host: Host) -> None:
    """A system module's name stands in paths with its dollar sign, encoded, and in certificates without."""
    async with WorkloadApi("$edgeHub", tmp_path / "edgeHub.sock", secrets, host) as api:
        hsm = IoTEdgeHsm("$edgeHub", "g1", api.uri, "2022-08-03")
        await asyncio.to_thread(hsm.sign, "x")
        path = f"/modules/{quote('$edgeHub', safe='')}/genid/g1/certificate/server"
        _, answer = await ask(api, "POST", path, {"commonName": "gateway.example"})
    names = chain_of(answer)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gateway.example", "edgeHub"]


@pytest.mark.parametrize(
    ("path", "status"), [("/", 404), ("/modules/sensor/sign", 404), (f"{OWN}/sign/", 404), ("/modules", 405)]
)
async def test_unknown_calls(api: WorkloadApi, path: str, status: int) -> None:
    """What the API does not have is refused in its own form."""
    answered, answer = await ask(api, "POST", path, {})
    assert answered == status
    assert answer["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"data":1}', b'{"data":"a"}', b'{"data":"\xff"}', b'{"data":"a b="}']
)
async def test_bad_bodies(api: WorkloadApi, body: bytes) -> None:
    """A body that is not what the call wants is the caller's fault."""
    async with client(api) as session, session.post(f"{OWN}/sign?api-version=2018-06-28", data=body) as response:
        assert response.status == 400
        assert (await response.json())["message"]


async def test_too_large(api: WorkloadApi) -> None:
    """A body over the limit is refused."""
    status, answer = await ask(api, "POST", f"{OWN}/sign", {"data": "A" * MAX_BODY_BYTES})
    assert status == 413
    assert answer["message"]


async def test_too_many_at_once(api: WorkloadApi) -> None:
    """Beyond ten requests at a time a connection is cut without an answer; with fewer, all is well again."""
    head = f"POST {OWN}/sign?api-version=2018-06-28 HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n".encode()
    pending = [await asyncio.open_unix_connection(str(api.path)) for _ in range(MAX_REQUESTS_AT_ONCE)]
    for _, writer in pending:
        writer.write(head)
    with capture_logs() as events:
        while True:  # the ten are in work once an eleventh is cut
            reader, writer = await asyncio.open_unix_connection(str(api.path))
            writer.write(b"GET /modules?api-version=2018-06-28 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            cut = await soon(reader.read()) == b""
            writer.close()
            if cut:
                break
    assert [event["event"] for event in events] == ["testbench.workload.throttled"]
    for reader, writer in pending:
        writer.write(b'{"data":"QUI="}')
        assert (await soon(reader.readline())).startswith(b"HTTP/1.1 200")
        writer.close()
    status, _ = await ask(api, "GET", "/modules")
    assert status == 200


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=200) | st.builds(lambda text: b"POST /" + text + b" HTTP/1.1\r\n\r\n", st.binary(max_size=50))
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, secrets: EdgeSecrets, data: bytes) -> None:
    """Whatever bytes come, the connection is answered or closed and the next request is served."""

    async def throw() -> None:
        directory = tmp_path_factory.mktemp("any")
        async with WorkloadApi("sensor", directory / "s", secrets, Host()) as api:
            reader, writer = await asyncio.open_unix_connection(str(api.path))
            writer.write(data)
            writer.write_eof()
            await soon(reader.read())
            writer.close()
            assert (await ask(api, "GET", "/modules"))[0] == 200

    asyncio.run(throw())


async def test_sockets(tmp_path: Path, secrets: EdgeSecrets, host: Host) -> None:
    """A socket left by a killed host is replaced; on leaving the socket is gone."""
    path = tmp_path / "sensor.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with WorkloadApi("sensor", path, secrets, host) as api:
        assert (await ask(api, "GET", "/modules"))[0] == 200
    assert not path.exists()


async def test_socket_errors(tmp_path: Path, secrets: EdgeSecrets, host: Host) -> None:
    """A path no socket can have, and a directory that is not there, are told with the path."""
    with pytest.raises(BenchError, match="shorter path"):
        WorkloadApi("sensor", tmp_path / ("x" * 120), secrets, host)
    with pytest.raises(BenchError, match=r"nowhere/sensor\.sock: cannot listen"):
        async with WorkloadApi("sensor", tmp_path / "nowhere" / "sensor.sock", secrets, host):
            pass


def test_secrets_are_not_shown(secrets: EdgeSecrets) -> None:
    """The encryption key is not in the repr."""
    assert repr(secrets.encryption_key) not in repr(secrets)
