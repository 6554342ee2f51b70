"""The workload API: what a module on an IoT Edge device asks its host for, over HTTP on a Unix socket.

A module holds no secret. It has its host sign tokens with its hub key, encrypt and decrypt what it stores, and issue
its certificates. Each module has a socket of its own, on which it can ask for itself only; the host keeps the sockets
where nobody else can open them, which takes the place of the container boundary that aziot-edged checks.

Behaviour follows aziot-edged 1.5 (edgelet/edgelet-http-workload): key id, algorithm and, for signing, the generation id
are read past; content types are not looked at; an eleventh request at a time is cut off without an answer.

What is encrypted can be decrypted on the same host only, by the same module, of the same generation. The caller chooses
the initialization vector and must never use one twice.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeAlias

import orjson
import structlog
from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.edge.ca import EdgeCa, IssuedCertificate
from edge_gateway.testbench.cloud.identity import Identity

_log = structlog.get_logger()

API_VERSIONS: Final = frozenset(
    {"2018-06-28", "2019-01-30", "2019-10-22", "2019-11-05", "2020-07-07", "2021-12-07", "2022-08-03"}
)
MAX_BODY_BYTES: Final = 256 * 1024
MAX_REQUESTS_AT_ONCE: Final = 10
ENCRYPTION_KEY_BYTES: Final = 32
_MAX_SOCKET_PATH_BYTES = 107
"""`sockaddr_un` of Linux."""
_CLOSE_WITHIN_S = 1.0
_MODULE = "/modules/{module}"
_GENERATION = f"{_MODULE}/genid/{{generation}}"


@dataclass(frozen=True, slots=True)
class EdgeSecrets:
    """What an edge device keeps from its modules and does for them."""

    hub_host_name: str
    device_id: str
    ca: EdgeCa
    encryption_key: bytes = field(repr=False)
    """`ENCRYPTION_KEY_BYTES`, from which what modules encrypt can be decrypted."""
    trust_bundle_pem: str
    """The roots a module trusts; empty if there are none."""
    manifest_trust_bundle_pem: str = ""


class ModuleHost(Protocol):
    """Whom the API asks about modules."""

    def module_identity(self, module_id: str) -> Identity:
        """The hub's entry of a module.

        Raises:
            BenchError: there is none.
        """

    def module_details(self) -> Sequence[Mapping[str, Any]]:
        """All modules: `id`, `name`, `type`, `config` and `status`, as `GET /modules` answers."""


_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refused(Exception):
    """A request is answered with an error.

    Args:
        status: of HTTP.
        message: for the module.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WorkloadApi:
    """The API of one module, served while it is entered as an async context manager.

    Args:
        module_id: who may ask, `$edgeAgent` and `$edgeHub` included.
        path: of the socket; one that is left from before is replaced.
        secrets: the edge device's.
        host: knows the modules.

    Raises:
        BenchError: the path is too long for a socket, or the socket cannot be made.
    """

    def __init__(self, module_id: str, path: Path, secrets: EdgeSecrets, host: ModuleHost) -> None:
        if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
            raise BenchError(
                f"a path of more than {_MAX_SOCKET_PATH_BYTES} bytes for a socket",
                where=str(path),
                remedy="Use a directory with a shorter path",
            )
        self.path = path
        self._module_id = module_id
        self._secrets = secrets
        self._host = host
        self._cipher = AESGCM(secrets.encryption_key)
        self._in_work = 0
        application = web.Application(
            middlewares=[self._admit, _answer_refusals, _check_version], client_max_size=MAX_BODY_BYTES
        )
        application.add_routes(
            [
                web.get("/trust-bundle", self._trust_bundle),
                web.get("/manifest-trust-bundle", self._manifest_trust_bundle),
                web.get("/modules", self._modules),
                web.get("/modules/", self._modules),  # some diagnostics images ask so
                web.post(f"{_GENERATION}/sign", self._sign),
                web.post(f"{_GENERATION}/encrypt", self._encrypt),
                web.post(f"{_GENERATION}/decrypt", self._decrypt),
                web.post(f"{_GENERATION}/certificate/server", self._server_certificate),
                web.post(f"{_MODULE}/certificate/identity", self._identity_certificate),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_CLOSE_WITHIN_S)

    @property
    def uri(self) -> str:
        """What the module finds in `IOTEDGE_WORKLOADURI`."""
        return f"unix://{self.path}"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.UnixSite(self._runner, self.path).start()
        except OSError as error:
            await self._runner.cleanup()
            raise BenchError(
                f"cannot listen: {error.strerror}", where=str(self.path), remedy="Use a directory that can be written"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        self.path.unlink(missing_ok=True)

    # What modules ask for

    async def _trust_bundle(self, _: web.Request) -> web.Response:
        if not self._secrets.trust_bundle_pem:
            raise _Refused(404, "certificate 'trust-bundle' not found")
        return _json({"certificate": self._secrets.trust_bundle_pem})

    async def _manifest_trust_bundle(self, _: web.Request) -> web.Response:
        return _json({"certificate": self._secrets.manifest_trust_bundle_pem})

    async def _modules(self, _: web.Request) -> web.Response:
        return _json({"modules": list(self._host.module_details())})

    async def _sign(self, request: web.Request) -> web.Response:
        data = _bytes(await self._body(request), "data")
        key = base64.b64decode(self._host.module_identity(self._module_id).primary_key)
        return _json({"digest": _base64(hmac.digest(key, data, hashlib.sha256))})

    async def _encrypt(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        plaintext, iv = _bytes(body, "plaintext"), _bytes(body, "initializationVector")
        try:
            ciphertext = self._cipher.encrypt(iv, plaintext, self._bound_to(request))
        except ValueError as error:
            raise _Refused(500, f"cannot encrypt: {error}") from None
        return _json({"ciphertext": _base64(ciphertext)})

    async def _decrypt(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        ciphertext, iv = _bytes(body, "ciphertext"), _bytes(body, "initializationVector")
        try:
            plaintext = self._cipher.decrypt(iv, ciphertext, self._bound_to(request))
        except InvalidTag:
            raise _Refused(500, "cannot decrypt: not encrypted here, for this module and generation") from None
        except ValueError as error:
            raise _Refused(500, f"cannot decrypt: {error}") from None
        return _json({"plaintext": _base64(plaintext)})

    async def _server_certificate(self, request: web.Request) -> web.Response:
        common_name = _text(await self._body(request), "commonName")
        return await self._issued(self._secrets.ca.server_certificate, common_name, self._module_id)

    async def _identity_certificate(self, request: web.Request) -> web.Response:
        self._check_caller(request)  # a body may come, with an expiration that is not obeyed
        uri = f"azureiot://{self._secrets.hub_host_name}/devices/{self._secrets.device_id}/modules/{self._module_id}"
        return await self._issued(self._secrets.ca.identity_certificate, self._module_id, uri)

    # How

    async def _issued(self, issue: Callable[[str, str], IssuedCertificate], name: str, other: str) -> web.Response:
        try:
            issued = await asyncio.to_thread(issue, name, other)  # an RSA key takes a tenth of a second or more
        except BenchError as error:
            raise _Refused(400, str(error)) from None
        _log.info("testbench.workload.issued", module=self._module_id, common_name=name)
        return _json(
            {
                "privateKey": {"type": "key", "bytes": issued.key_pem},
                "certificate": issued.certificate_pem,
                "expiration": issued.ends.isoformat(),
            },
            status=201,
        )

    def _bound_to(self, request: web.Request) -> bytes:
        """Additional data of the encryption: who may decrypt."""
        return f"{self._module_id}{request.match_info['generation']}".encode()

    async def _body(self, request: web.Request) -> Mapping[str, Any]:
        self._check_caller(request)
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            raise _Refused(400, "the body is not JSON") from None
        if not isinstance(body, dict):
            raise _Refused(400, "the body is not a JSON object")
        return body

    def _check_caller(self, request: web.Request) -> None:
        if request.match_info["module"] != self._module_id:
            raise _Refused(403, "forbidden")

    @web.middleware
    async def _admit(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if self._in_work >= MAX_REQUESTS_AT_ONCE:
            _log.warning("testbench.workload.throttled", module=self._module_id, at_once=MAX_REQUESTS_AT_ONCE)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()  # goes nowhere
        self._in_work += 1
        try:
            return await handler(request)
        finally:
            self._in_work -= 1


@web.middleware
async def _answer_refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refused as refused:
        return _json({"message": str(refused)}, status=refused.status)
    except web.HTTPException as refused:  # unknown path or method, or a body over the limit
        return _json({"message": refused.reason}, status=refused.status)
    except BenchError as error:
        return _json({"message": error.what}, status=500)


@web.middleware
async def _check_version(request: web.Request, handler: _Handler) -> web.StreamResponse:
    version = request.query.get("api-version")
    if version is None:
        raise _Refused(400, "api-version not specified")
    if version not in API_VERSIONS:
        raise _Refused(400, "invalid api-version")
    return await handler(request)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _Refused(400, f"`{name}` is missing or not text")
    return value


def _bytes(body: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_text(body, name), validate=True)
    except (binascii.Error, ValueError):
        raise _Refused(400, f"`{name}` is not base64") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(content: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")
