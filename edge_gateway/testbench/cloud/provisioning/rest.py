"""The provisioning service over HTTPS: what devices ask it, and what the service SDKs do to its enrolments.

Devices register (TPMs can only do so here) and ask for the status of an operation or of their registration. Services
get, put and delete enrolments, groups and registrations, one at a time. Any `api-version` will do.

Left out: queries, bulk operations, certificates uploaded beforehand (`caReferences`), and custom allocation by webhook,
which on a bench is a function (`enrolments.CustomPolicy`) and can only be given in Python.

Source: the REST specification of api-version 2021-10-01, device and service. UNVERIFIED: that an enrolment which exists
can only be put with `If-Match`, and that one put without keys or certificates keeps those it has.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar

import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from cryptography import x509
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.https import Failure, answering
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.dps import Answer, LocalDps, RequestMalformed, certificate_info
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    BuiltInPolicy,
    Certificates,
    Credentials,
    CustomPolicy,
    EnrolmentGroup,
    EnrolmentTable,
    IndividualAttestation,
    IndividualEnrolment,
    InitialTwin,
    ReprovisionPolicy,
    drawn_keys,
)
from edge_gateway.testbench.cloud.provisioning.registrations import RegistrationNotFound, timestamp
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.cloud.tls import client_chain
from edge_gateway.testbench.cloud.twin import Section

_log = structlog.get_logger()

_ID = "{id:[^/]+}"
"""Whatever is written in an id's place, so that the service refuses it in its own words."""
_GROUPS = "{kind:(?i:enrollmentGroups)}"
"""In upper or lower case: the Node.js SDK writes it in one way here and in the other there."""
_SHA1_DIGITS = 40
E = TypeVar("E", IndividualEnrolment, EnrolmentGroup)


def routes(dps: LocalDps) -> list[web.RouteDef]:
    """Everything the service answers over HTTPS."""
    device, service = _DeviceCalls(dps), _ServiceCalls(dps)
    registration = f"/{dps.id_scope}/registrations/{_ID}"
    return [
        web.put(f"{registration}/register", device.answered(device.register)),
        web.get(f"{registration}/operations/{{operation_id:[^/]+}}", device.answered(device.operation_status)),
        web.post(registration, device.answered(device.registration_status)),
        web.get(f"/registrations/{_ID}", service.answered(service.get_registration)),
        web.delete(f"/registrations/{_ID}", service.answered(service.delete_registration)),
        *service.enrolment_routes(f"/enrollments/{_ID}", dps.enrolments, _read_individual),
        *service.enrolment_routes(f"/{_GROUPS}/{_ID}", dps.groups, _read_group),
    ]


class _DeviceCalls:
    """The calls of the device SDKs (RuntimeRegistration)."""

    def __init__(self, dps: LocalDps) -> None:
        self._dps = dps

    def answered(self, handler: Handler) -> Handler:
        return _in_own_words(self._dps, handler)

    async def register(self, request: web.Request) -> web.Response:
        registration_id = request.match_info["id"]
        answer = self._dps.register(registration_id, _credentials(request), await request.read())
        if answer.status != 202:
            return _response(answer)
        operation = f"{request.path.removesuffix('/register')}/operations/{answer.body['operationId']}"
        return _response(answer, {"Location": operation})

    async def operation_status(self, request: web.Request) -> web.Response:
        registration_id, operation_id = request.match_info["id"], request.match_info["operation_id"]
        return _response(self._dps.operation_status(registration_id, _credentials(request), operation_id))

    async def registration_status(self, request: web.Request) -> web.Response:
        return _response(self._dps.registration_status(request.match_info["id"], _credentials(request)))


class _ServiceCalls:
    """The calls of the service SDKs (DeviceRegistrationState, IndividualEnrollment, EnrollmentGroup)."""

    def __init__(self, dps: LocalDps) -> None:
        self._dps = dps

    def answered(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                self._dps.admit_service(request.headers.get("Authorization", ""))
                return await handler(request)
            except BenchError as error:
                _log.info("testbench.dps.refused", path=request.path, reason=error.what)
                return _response(self._dps.refusal(error))

        return _in_own_words(self._dps, handle)

    async def get_registration(self, request: web.Request) -> web.Response:
        return _response(Answer(200, self._dps.registrations.get(request.match_info["id"]).document()))

    async def delete_registration(self, request: web.Request) -> web.Response:
        self._dps.registrations.remove(request.match_info["id"], _expected_etag(request))
        return web.Response(status=204)

    def enrolment_routes(
        self, path: str, table: EnrolmentTable[E], read: Callable[[str, _Enrolment, E | None], E]
    ) -> list[web.RouteDef]:
        """What can be done to one kind of enrolment."""

        async def get(request: web.Request) -> web.Response:
            return _response(Answer(200, self._document(table.get(request.match_info["id"]))))

        async def put(request: web.Request) -> web.Response:
            enrolment_id = request.match_info["id"]
            known = table.get(enrolment_id) if enrolment_id in table else None
            try:
                enrolment = read(enrolment_id, _Enrolment.model_validate_json(await request.read()), known)
            except ValidationError as error:
                raise _malformed(str(error)) from error
            except BenchError as error:
                raise _malformed(error.what) from error
            if "If-Match" in request.headers:
                enrolment = table.update(enrolment, _expected_etag(request))
            else:
                enrolment = table.add(enrolment)
            return _response(Answer(200, self._document(enrolment)))

        async def delete(request: web.Request) -> web.Response:
            table.remove(request.match_info["id"], _expected_etag(request))
            return web.Response(status=204)

        async def attestation_mechanism(request: web.Request) -> web.Response:
            return _response(Answer(200, _written_attestation(table.get(request.match_info["id"]), with_keys=True)))

        return [
            web.get(path, self.answered(get)),
            web.put(path, self.answered(put)),
            web.delete(path, self.answered(delete)),
            web.post(f"{path}/attestationmechanism", self.answered(attestation_mechanism)),
        ]

    def _document(self, enrolment: IndividualEnrolment | EnrolmentGroup) -> Section:
        document = _written(enrolment)
        if isinstance(enrolment, IndividualEnrolment):
            with suppress(RegistrationNotFound):
                document["registrationState"] = self._dps.registrations.get(enrolment.registration_id).document()
        return document


def _in_own_words(dps: LocalDps, handler: Handler) -> Handler:
    """A handler whose requests are refused in the service's words even if they fail before the service sees them."""

    def refused(failure: Failure) -> web.Response:
        return _response(dps.failure(failure.status, failure.status * 1000, failure.text), failure.headers)

    return answering(handler, refused)


def _response(answer: Answer, headers: Mapping[str, str] | None = None) -> web.Response:
    told = dict(headers or {})
    if answer.retry_after_s is not None:
        told["retry-after"] = str(answer.retry_after_s)
    if "errorCode" in answer.body:
        told["x-ms-error-code"] = str(answer.body["errorCode"])
    return web.Response(
        body=orjson.dumps(answer.body),
        status=answer.status,
        headers=told,
        content_type="application/json",
        charset="utf-8",
    )


def _credentials(request: web.Request) -> Credentials:
    chain = client_chain(request.transport) if request.transport is not None else ()
    return Credentials(request.headers.get("Authorization"), chain)


def _expected_etag(request: web.Request) -> str | None:
    """The etag the client knows; None if any will do. Clients write it with quotes and without."""
    etag = request.headers.get("If-Match", "*").strip('"')
    return None if etag == "*" else etag


# Enrolments as services write them


class _Document(BaseModel):
    """Members nobody knows are passed over: services of other versions send some."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", hide_input_in_errors=True)


class _Keys(_Document):
    primary_key: str | None = None
    secondary_key: str | None = None


class _Certificate(_Document):
    certificate: str | None = None
    """PEM, or PEM or DER in base64."""


class _CertificatePair(_Document):
    primary: _Certificate | None = None
    secondary: _Certificate | None = None


class _X509(_Document):
    client_certificates: _CertificatePair | None = None
    """Of an individual enrolment."""
    signing_certificates: _CertificatePair | None = None
    """Of a group."""


class _Tpm(_Document):
    endorsement_key: str


class _Attestation(_Document):
    type: Literal["symmetricKey", "x509", "tpm"]
    symmetric_key: _Keys | None = None
    x509: _X509 | None = None
    tpm: _Tpm | None = None


class _Capabilities(_Document):
    iot_edge: bool = False


class _Properties(_Document):
    desired: dict[str, Any] | None = None


class _InitialTwin(_Document):
    tags: dict[str, Any] | None = None
    properties: _Properties | None = None


class _ReprovisionPolicy(_Document):
    update_hub_assignment: bool = True
    migrate_device_data: bool = True


class _Enrolment(_Document):
    """IndividualEnrollment and EnrollmentGroup of the specification."""

    registration_id: str | None = None
    """Of an individual enrolment."""
    enrollment_group_id: str | None = None
    """Of a group."""
    device_id: str | None = None
    attestation: _Attestation
    capabilities: _Capabilities | None = None
    allocation_policy: Literal["hashed", "geoLatency", "static", "custom"] | None = None
    iot_hub_host_name: str | None = None
    """The one hub to go to, as older clients write it."""
    iot_hubs: list[str] | None = None
    initial_twin: _InitialTwin | None = None
    provisioning_status: Literal["enabled", "disabled"] | None = None
    reprovision_policy: _ReprovisionPolicy | None = None


def _read_individual(
    registration_id: str, document: _Enrolment, known: IndividualEnrolment | None
) -> IndividualEnrolment:
    if document.registration_id != registration_id:
        raise _malformed("the path and the enrolment name different registration ids")
    attestation = _read_attestation(document.attestation, known)
    return IndividualEnrolment(registration_id, attestation, document.device_id or "", **_read_rest(document, known))


def _read_group(group_id: str, document: _Enrolment, known: EnrolmentGroup | None) -> EnrolmentGroup:
    if document.enrollment_group_id != group_id:
        raise _malformed("the path and the enrolment name different groups")
    attestation = _read_attestation(document.attestation, known)
    if not isinstance(attestation, SymmetricKeys | Certificates):
        raise _malformed("TPMs are enrolled one by one")
    return EnrolmentGroup(group_id, attestation, **_read_rest(document, known))


def _read_rest(document: _Enrolment, known: IndividualEnrolment | EnrolmentGroup | None) -> dict[str, Any]:
    """What individual enrolments and groups have in common, as arguments for either."""
    one_hub = document.iot_hub_host_name
    policy = document.allocation_policy or ("static" if one_hub else "hashed")
    allocation: BuiltInPolicy | CustomPolicy
    if policy != "custom":
        allocation = BuiltInPolicy(policy)
    elif known is not None and not isinstance(known.allocation, BuiltInPolicy):
        allocation = known.allocation
    else:
        raise _malformed("a custom allocation policy is a function here and has to be given in Python")
    twin = document.initial_twin or _InitialTwin()
    desired = twin.properties.desired if twin.properties is not None else None
    reprovision = document.reprovision_policy or _ReprovisionPolicy()
    return {
        "enabled": document.provisioning_status != "disabled",
        "allocation": allocation,
        "hubs": tuple(document.iot_hubs or ([one_hub] if one_hub else [])),
        "reprovision": ReprovisionPolicy(reprovision.update_hub_assignment, reprovision.migrate_device_data),
        "initial_twin": InitialTwin(twin.tags or {}, desired or {}),
        "edge": document.capabilities is not None and document.capabilities.iot_edge,
    }


def _read_attestation(
    document: _Attestation, known: IndividualEnrolment | EnrolmentGroup | None
) -> IndividualAttestation:
    """Read how devices prove themselves; keys and certificates that are not written stay as they are."""
    kept = known.attestation if known is not None else None
    if document.type == "tpm":
        if document.tpm is None:
            raise _malformed("no endorsement key")
        return EndorsementKey.parse(_unbase64(document.tpm.endorsement_key))
    if document.type == "symmetricKey":
        keys = document.symmetric_key or _Keys()
        if keys.primary_key and keys.secondary_key:
            return SymmetricKeys(keys.primary_key, keys.secondary_key)
        if keys.primary_key or keys.secondary_key:
            raise _malformed("one key without the other")
        return kept if isinstance(kept, SymmetricKeys) else drawn_keys()
    written = document.x509 or _X509()
    pair = written.client_certificates or written.signing_certificates or _CertificatePair()
    certificates = [
        _read_certificate(each.certificate) for each in (pair.primary, pair.secondary) if each and each.certificate
    ]
    if certificates:
        return Certificates(*certificates)
    if not isinstance(kept, Certificates | Thumbprints):
        raise _malformed("no certificate")
    return kept


def _read_certificate(text: str) -> x509.Certificate:
    data = text.encode() if text.startswith("-----BEGIN") else _unbase64(text)
    try:
        return (
            x509.load_pem_x509_certificate(data)
            if data.startswith(b"-----BEGIN")
            else x509.load_der_x509_certificate(data)
        )
    except ValueError as error:
        raise _malformed("a certificate cannot be read") from error


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _malformed("a key or certificate is not base64") from error


def _written(enrolment: IndividualEnrolment | EnrolmentGroup) -> Section:
    allocation = enrolment.allocation
    named: Section = {"enrollmentGroupId": enrolment.enrolment_id}
    if isinstance(enrolment, IndividualEnrolment):
        named = {"registrationId": enrolment.registration_id}
        if enrolment.device_id:
            named["deviceId"] = enrolment.device_id
    return {
        **named,
        "attestation": _written_attestation(enrolment, with_keys=False),
        "capabilities": {"iotEdge": enrolment.edge},
        "allocationPolicy": allocation.value if isinstance(allocation, BuiltInPolicy) else "custom",
        "iotHubs": list(enrolment.hubs),
        "initialTwin": {
            "tags": enrolment.initial_twin.tags,
            "properties": {"desired": enrolment.initial_twin.desired},
        },
        "provisioningStatus": "enabled" if enrolment.enabled else "disabled",
        "reprovisionPolicy": {
            "updateHubAssignment": enrolment.reprovision.update_hub_assignment,
            "migrateDeviceData": enrolment.reprovision.migrate_device_data,
        },
        "etag": f'"{enrolment.etag}"',
        "createdDateTimeUtc": timestamp(enrolment.created_ns),
        "lastUpdatedDateTimeUtc": timestamp(enrolment.updated_ns),
    }


def _written_attestation(enrolment: IndividualEnrolment | EnrolmentGroup, *, with_keys: bool) -> Section:
    """How devices prove themselves. Keys are told only to who asks for the attestation mechanism."""
    match enrolment.attestation:
        case SymmetricKeys(primary, secondary):
            keys: Section = {"primaryKey": primary, "secondaryKey": secondary} if with_keys else {}
            return {"type": "symmetricKey", "symmetricKey": keys}
        case EndorsementKey() as key:
            return {"type": "tpm", "tpm": {"endorsementKey": base64.b64encode(key.public).decode()}}
        case Thumbprints(primary, secondary):
            infos: list[Section] = [
                {"sha1Thumbprint" if len(each) == _SHA1_DIGITS else "sha256Thumbprint": each}
                for each in (primary, secondary)
                if each
            ]
        case Certificates() as certificates:
            infos = [certificate_info(each) for each in certificates.all]
    places = ("primary", "secondary")
    pair: Section = {place: {"info": info} for place, info in zip(places, infos, strict=False)}
    kind = "clientCertificates" if isinstance(enrolment, IndividualEnrolment) else "signingCertificates"
    return {"type": "x509", "x509": {kind: pair}}


def _malformed(what: str) -> RequestMalformed:
    return RequestMalformed(what, where="enrolment", remedy="See the REST specification")
