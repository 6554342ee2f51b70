"""A Device Provisioning Service on the own machine: devices ask it which hub they belong to.

A device proves who it is, by key, certificate or TPM; the service finds its enrolment, chooses a hub, creates or moves
the device there, and tells it where to go. Devices come over MQTT (`dps_session`) or HTTPS (`dps_rest`); both end in
`register` and `operation_status` here and get an `Answer` to put into their own words.

1. `register`: 202 with an operation id, status "assigning" (401 with a challenge before that, for a TPM).
2. `operation_status`, as often as `polls` says: 202 "assigning", at last 200 "assigned" or "failed".

The whole work is done within `register`; "assigning" is told only so that clients have to wait as in the cloud.
Credentials are judged with each request and not when a device connects: as in the cloud, whoever writes the user name
as it has to be can connect, and gets a 401 to what it then asks for.

State lives in memory (`dps_state` keeps it in a file) and in one event loop; nothing here is thread-safe.

```python
dps = LocalDps(hubs=[hub])
dps.add_enrolment(IndividualEnrolment("sensor-1", SymmetricKeys(key, other_key)))
async with FrontDoor([hub, dps], authority=authority, address=address):
    ...  # a client registers at `address`, under dps.id_scope, with the key
```

Sources: the REST specification of api-version 2021-10-01, the documentation, and what clients were seen to get. Error
codes other than 401002, 404201, 401001 and 400209 are UNVERIFIED; so is what a disabled enrolment answers.
"""

from __future__ import annotations

import asyncio
import base64
import random
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from edge_gateway.clock import NS_PER_S, Clock, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import Authentication, SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Applicant,
    Certificates,
    Credentials,
    EnrolmentExists,
    EnrolmentGroup,
    EnrolmentNotFound,
    EnrolmentTable,
    IndividualEnrolment,
    RegistrationIdRefused,
    attested,
    check_id,
    drawn_keys,
    thumbprint,
)
from edge_gateway.testbench.cloud.provisioning.registrations import (
    Outcome,
    Registration,
    RegistrationNotFound,
    Registrations,
    timestamp,
)
from edge_gateway.testbench.cloud.provisioning.session import DpsSession
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import (
    EndorsementKey,
    StorageRootKey,
    TpmKeyRefused,
    authentication_key_blob,
)
from edge_gateway.testbench.cloud.refusals import AccessDenied, EtagMismatch, Throttled
from edge_gateway.testbench.cloud.tokens import check, parse
from edge_gateway.testbench.cloud.twin import Section
from edge_gateway.testbench.cloud.watched import Watched

if TYPE_CHECKING:  # aiohttp is slow to import and wanted for HTTPS only
    from aiohttp import web

_log = structlog.get_logger()

SERVICE_POLICY = "provisioningserviceowner"
_TPM_KEY_BYTES = 32


class RequestMalformed(BenchError):
    """A request cannot be read, or asks for what is not offered."""


_REFUSALS: dict[type[BenchError], tuple[int, int]] = {
    RequestMalformed: (400, 400000),
    RegistrationIdRefused: (400, 400000),
    TpmKeyRefused: (400, 400000),
    AccessDenied: (401, 401002),
    EnrolmentNotFound: (404, 404201),
    RegistrationNotFound: (404, 404000),
    EnrolmentExists: (409, 409000),
    EtagMismatch: (412, 412000),
    Throttled: (429, 429001),
}
"""HTTP status and the service's own error code."""


class Answer(NamedTuple):
    """What a device is told, over MQTT and HTTPS alike."""

    status: int
    """HTTP's."""
    body: Section
    retry_after_s: int | None = None


@dataclass(slots=True)
class DpsStatistics:
    """What the service saw since it was made. Only ever grows."""

    assigned: int = 0
    failed: int = 0
    disabled: int = 0
    """Registrations for which the enrolment is disabled."""
    denied: int = 0
    """Requests whose proof did not hold."""
    challenged: int = 0
    """TPMs asked to prove themselves."""
    throttled: int = 0


@dataclass(slots=True)
class _Operation:
    """A registration in the device's eyes, from its request to the answer it polls for."""

    operation_id: str
    registration: Registration
    proof: Section
    """What the answer says of how the device proved itself."""
    polls_left: int


@dataclass(frozen=True, slots=True)
class _Nonce:
    """A challenge to a TPM."""

    key: str = field(repr=False)
    """Base64."""
    storage_root_key: StorageRootKey
    ends_s: float
    """Event loop time."""


class LocalDps(Watched):
    """A provisioning service for tests and demonstrations; a `FrontDoor` puts it on the network.

    Args:
        hubs: the linked hubs, at least one. A device is told the host name of one of them.
        id_scope: tells the service from others at the same address.
        host_name: its own name in services' tokens and connection strings. The cloud has one name for devices and one
            for services; a bench makes no difference.
        clock: wall time, by which tokens end.
        rng: makes operation and tracking ids.
        polls: how often a device has to ask for the status of its registration until it gets the result; 0 tells it at
            once.
        retry_after_s: how long it is told to wait before it asks. The device SDK for Python waits 2 s before its first
            question, whatever it is told.
        challenge_lifetime_s: how long a TPM has for its registration, polls included. The cloud's limit is not known.
    """

    def __init__(
        self,
        *,
        hubs: Sequence[LocalHub],
        id_scope: str = "0ne00000001",
        host_name: str = "127.0.0.1",
        clock: Clock | None = None,
        rng: random.Random | None = None,
        polls: int = 1,
        retry_after_s: int = 3,
        challenge_lifetime_s: float = 120.0,
    ) -> None:
        super().__init__()
        self.id_scope = id_scope
        self.host_name = host_name
        self.polls = polls
        self.retry_after_s = retry_after_s
        self.challenge_lifetime_s = challenge_lifetime_s
        self.statistics = DpsStatistics()
        self._clock = clock if clock is not None else SystemClock()
        self._rng = rng if rng is not None else random.SystemRandom()
        self.service_keys = drawn_keys()
        """Of `SERVICE_POLICY`, the only one there is."""
        self.enrolments: EnrolmentTable[IndividualEnrolment] = EnrolmentTable(self._clock, self._enrolment_changed)
        """Individual enrolments."""
        self.groups: EnrolmentTable[EnrolmentGroup] = EnrolmentTable(self._clock, self._group_changed)
        self.registrations = Registrations(hubs, self._clock, self.changed)
        self._operations: dict[str, _Operation] = {}
        """The last of each device that has registered, by its registration id."""
        self._nonces: dict[str, _Nonce] = {}
        self._throttled_requests = 0

    # For services

    def add_enrolment(self, enrolment: IndividualEnrolment) -> IndividualEnrolment:
        """Let one device register; returned with its etag.

        Raises:
            EnrolmentExists: the registration id is taken.
        """
        return self.enrolments.add(enrolment)

    def add_group(self, group: EnrolmentGroup) -> EnrolmentGroup:
        """Let the devices of a group register; returned with its etag.

        Raises:
            EnrolmentExists: the group's id is taken.
        """
        return self.groups.add(group)

    def connection_string(self) -> str:
        """What a provisioning service SDK is configured with. Contains a key."""
        key = self.service_keys.primary
        return f"HostName={self.host_name};SharedAccessKeyName={SERVICE_POLICY};SharedAccessKey={key}"

    def admit_service(self, token: str) -> None:
        """Check that a service may read and change enrolments.

        Raises:
            AccessDenied: the token does not say so.
        """
        parsed = parse(token, self.host_name)
        if parsed.policy != SERVICE_POLICY:
            raise AccessDenied("no such policy", where=self.host_name, remedy=f"Use {SERVICE_POLICY}")
        keys = (self.service_keys.primary, self.service_keys.secondary)
        check(parsed, keys=keys, resource=self.host_name, now_s=self._clock.now_ns() / NS_PER_S)

    def throttle(self, requests: int) -> None:
        """Answer that many of the next requests of devices with 429; 0 ends it."""
        self._throttled_requests = requests

    # front_door.Service

    def accepts(self, connect: Connect) -> bool:
        """Whether a CONNECT is meant for this service: its user name begins with the id scope."""
        return (connect.username or "").startswith(f"{self.id_scope}/registrations/")

    def admit(self, connect: Connect, connection: MqttConnection) -> DpsSession:
        """Let a device ask.

        Raises:
            AccessDenied: its CONNECT is not written as it has to be.
        """
        return DpsSession.admitted(self, connect, connection)

    def routes(self) -> Sequence[web.RouteDef]:
        """What it answers over HTTPS, to devices and services."""
        from edge_gateway.testbench.cloud.provisioning.rest import routes

        return routes(self)

    # For devices

    def register(self, registration_id: str, credentials: Credentials, body: bytes) -> Answer:
        """Register a device, or challenge its TPM.

        Args:
            registration_id: who it says it is.
            credentials: what it shows for that.
            body: JSON (DeviceRegistration), or nothing.
        """

        def registered() -> Answer:
            request = _read_request(registration_id, body)
            if credentials.token is None and request.tpm is not None:
                return self._challenge(registration_id, request.tpm)
            enrolment = self._attested(registration_id, credentials)
            if not enrolment.enabled:
                return self._turned_away(registration_id)
            authentication, proof = self._proven(enrolment, registration_id, credentials)
            registration = self.registrations.assign(enrolment, registration_id, request.payload, authentication)
            if registration.outcome is Outcome.ASSIGNED:
                self.statistics.assigned += 1
            else:
                self.statistics.failed += 1
            operation = _Operation(self._new_operation_id(), registration, proof, self.polls)
            self._operations[registration_id.lower()] = operation
            return self._progress(operation)

        return self._answered(registration_id, registered)

    def operation_status(self, registration_id: str, credentials: Credentials, operation_id: str) -> Answer:
        """Tell a device how its registration goes."""

        def told() -> Answer:
            self._attested(registration_id, credentials)
            operation = self._operations.get(registration_id.lower())
            if operation is None or operation.operation_id != operation_id:
                raise RegistrationNotFound("no such operation", where=registration_id, remedy="Register the device")
            operation.polls_left = max(0, operation.polls_left - 1)
            return self._progress(operation)

        return self._answered(registration_id, told)

    def registration_status(self, registration_id: str, credentials: Credentials) -> Answer:
        """Tell a device what came of its last registration."""

        def told() -> Answer:
            self._attested(registration_id, credentials)
            return Answer(200, self.registrations.get(registration_id).document())

        return self._answered(registration_id, told)

    def refusal(self, error: BenchError) -> Answer:
        """What is said in place of what was asked for.

        Args:
            error: the reason, one of those the service raises for what clients do.

        Raises:
            BenchError: the same error, if it is the bench's own fault.
        """
        if type(error) not in _REFUSALS:
            raise error
        status, error_code = _REFUSALS[type(error)]
        answer = self.failure(status, error_code, "Unauthorized" if status == 401 else error.what)
        return answer._replace(retry_after_s=self.retry_after_s) if status == 429 else answer

    def failure(self, status: int, error_code: int, message: str) -> Answer:
        """An answer that says no (ProvisioningServiceErrorDetails).

        Args:
            status: HTTP's.
            error_code: the service's own; begins with the status.
            message: for a person.
        """
        time = timestamp(self._clock.now_ns())
        body: Section = {
            "errorCode": error_code,
            "trackingId": self._new_id(),
            "message": message,
            "timestampUtc": time,
        }
        return Answer(status, body)

    def _answered(self, registration_id: str, work: Callable[[], Answer]) -> Answer:
        """Do what a device asks for; what it is refused for becomes the answer."""
        try:
            if self._throttled_requests > 0:
                self._throttled_requests -= 1
                self.statistics.throttled += 1
                raise Throttled("too many requests", where=self.id_scope, retry_after_s=self.retry_after_s)
            answer = work()
        except AccessDenied as error:
            self.statistics.denied += 1
            _log.info("testbench.dps.denied", registration_id=registration_id, reason=error.what)
            answer = self.refusal(error)
        except BenchError as error:
            answer = self.refusal(error)
            _log.info("testbench.dps.refused", registration_id=registration_id, reason=error.what, status=answer.status)
        self.changed()
        return answer

    def _progress(self, operation: _Operation) -> Answer:
        if operation.polls_left:
            state: Section = {"registrationId": operation.registration.registration_id, "status": "assigning"}
            body: Section = {"operationId": operation.operation_id, "status": "assigning", "registrationState": state}
            return Answer(202, body, self.retry_after_s)
        state = {**operation.registration.document(), **operation.proof}
        status = operation.registration.outcome.value
        return Answer(200, {"operationId": operation.operation_id, "status": status, "registrationState": state})

    def _turned_away(self, registration_id: str) -> Answer:
        self.statistics.disabled += 1
        _log.info("testbench.dps.disabled", registration_id=registration_id)
        state: Section = {"registrationId": registration_id, "status": "disabled"}
        return Answer(200, {"operationId": self._new_operation_id(), "status": "disabled", "registrationState": state})

    # Who is it?

    def _attested(self, registration_id: str, credentials: Credentials) -> IndividualEnrolment | EnrolmentGroup:
        nonce = self._nonces.get(registration_id.lower())
        if nonce is not None and nonce.ends_s <= asyncio.get_running_loop().time():
            nonce = None
        applicant = Applicant(
            registration_id,
            credentials,
            resource=f"{self.id_scope}/registrations/{registration_id}",
            now_ns=self._clock.now_ns(),
            nonce_key=nonce.key if nonce is not None else None,
        )
        return attested(applicant, self.enrolments, self.groups)

    def _challenge(self, registration_id: str, tpm: _Tpm) -> Answer:
        """Send a TPM a key that only it can use, to sign its next request with."""
        enrolled = registration_id in self.enrolments
        if not enrolled or self.enrolments.get(registration_id).attestation != tpm.endorsement_key:
            raise AccessDenied("no enrolment for this endorsement key", where=registration_id)
        key = secrets.token_bytes(_TPM_KEY_BYTES)
        ends_s = asyncio.get_running_loop().time() + self.challenge_lifetime_s
        self._nonces[registration_id.lower()] = _Nonce(_base64(key), tpm.storage_root_key, ends_s)
        self.statistics.challenged += 1
        _log.info("testbench.dps.challenged", registration_id=registration_id)
        blob = authentication_key_blob(tpm.endorsement_key, tpm.storage_root_key, key)
        return Answer(401, {"authenticationKey": _base64(blob), "keyName": "registration"})

    def _proven(
        self, enrolment: IndividualEnrolment | EnrolmentGroup, registration_id: str, credentials: Credentials
    ) -> tuple[Authentication, Section]:
        """How a device that has proved itself will do so at its hub, and what it is told about that."""
        group: Section = {"enrollmentGroupId": enrolment.group_id} if isinstance(enrolment, EnrolmentGroup) else {}
        match enrolment.attestation:
            case EndorsementKey() as endorsement_key:
                keys = drawn_keys(_TPM_KEY_BYTES)
                storage_root_key = self._nonces[registration_id.lower()].storage_root_key
                blob = authentication_key_blob(endorsement_key, storage_root_key, base64.b64decode(keys.primary))
                return keys, {"tpm": {"authenticationKey": _base64(blob)}}
            case SymmetricKeys() as keys:
                if isinstance(enrolment, EnrolmentGroup):
                    keys = enrolment.device_keys(registration_id)
                return keys, {"symmetricKey": group}
            case Thumbprints(primary, secondary):
                thumbprints = Thumbprints(primary or secondary, secondary or primary)
            case Certificates() as certificates:
                # A group's device is entered at the hub by its leaf, too, as if that were self-signed.
                enrolled = credentials.chain[:1] if isinstance(enrolment, EnrolmentGroup) else certificates.all
                thumbprints = Thumbprints(thumbprint(enrolled[0]), thumbprint(enrolled[-1]))
        return thumbprints, {"x509": {"certificateInfo": certificate_info(credentials.chain[0]), **group}}

    # Bookkeeping

    def _enrolment_changed(self, registration_id: str, enrolment: IndividualEnrolment | None) -> None:
        name = registration_id.lower()
        if enrolment is None:
            self.registrations.forget(lambda each: not each.group_id and each.registration_id.lower() == name)
        self.changed()

    def _group_changed(self, group_id: str, group: EnrolmentGroup | None) -> None:
        if group is None:
            self.registrations.forget(lambda each: each.group_id.lower() == group_id.lower())
        self.changed()

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _new_operation_id(self) -> str:
        return f"5.{self._rng.getrandbits(64):016x}.{self._new_id()}"


# How things are written


def certificate_info(certificate: x509.Certificate) -> Section:
    """What the service tells about a certificate (X509CertificateInfo)."""
    return {
        "subjectName": certificate.subject.rfc4514_string(),
        "sha1Thumbprint": certificate.fingerprint(hashes.SHA1()).hex().upper(),  # noqa: S303 - a name, no protection
        "sha256Thumbprint": thumbprint(certificate),
        "issuerName": certificate.issuer.rfc4514_string(),
        "notBeforeUtc": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "notAfterUtc": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "serialNumber": f"{certificate.serial_number:X}",
        "version": certificate.version.value + 1,
    }


class _Tpm(NamedTuple):
    endorsement_key: EndorsementKey
    storage_root_key: StorageRootKey


class _Request(NamedTuple):
    """The body of a registration."""

    payload: Value
    tpm: _Tpm | None


def _read_request(registration_id: str, body: bytes) -> _Request:
    """Read the body of a registration (DeviceRegistration); an empty one says nothing.

    Raises:
        RequestMalformed: it cannot be read, or asks for what is not offered.
        RegistrationIdRefused: the registration id is none.
        TpmKeyRefused: a key is not that of a TPM.
    """
    try:
        check_id(registration_id)
        document: Any = orjson.loads(body) if body.strip() else {}
        if not isinstance(document, dict):
            raise _malformed("the body is not a JSON object", registration_id)
        named = document.get("registrationId", registration_id)
        if not isinstance(named, str) or named.lower() != registration_id.lower():
            raise _malformed("the body is for another registration id", registration_id)
        if document.get("csr") is not None:
            raise _malformed("certificates are not issued here", registration_id)
        tpm = document.get("tpm")
        if tpm is None:
            return _Request(document.get("payload"), None)
        if not isinstance(tpm, dict):
            raise _malformed("tpm is not a JSON object", registration_id)
        keys = _Tpm(
            EndorsementKey.parse(base64.b64decode(tpm.get("endorsementKey", ""), validate=True)),
            StorageRootKey.parse(base64.b64decode(tpm.get("storageRootKey", ""), validate=True)),
        )
    except (TypeError, ValueError) as error:
        raise _malformed(f"the body is not JSON, or a key in it not base64: {error}", registration_id) from error
    return _Request(document.get("payload"), keys)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _malformed(what: str, where: str) -> RequestMalformed:
    return RequestMalformed(what, where=where, remedy="See DeviceRegistration in the REST specification")
