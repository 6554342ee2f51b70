"""Enrolments: which devices may register with the provisioning service, by what proof, and what becomes of them.

An individual enrolment is for one registration id. A group is for every device that has a key derived from the group's,
or a certificate that one of the group's certificates vouches for. Both are values: changing one puts another in its
place, with a new etag.

The most specific enrolment that fits a device applies, enabled or not: its individual one, else the group whose
certificate is nearest to the leaf in the device's chain. So a disabled enrolment shuts out one device of an enabled
group, or one branch below an enabled root.

Registration ids are the same in upper and lower case.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.identity import (
    Identity,
    IdentityName,
    NoAuthentication,
    SymmetricKeys,
    Thumbprints,
    etag,
)
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.cloud.refusals import AccessDenied, EtagMismatch
from edge_gateway.testbench.cloud.tls import chains_to
from edge_gateway.testbench.cloud.tokens import check, derive_key
from edge_gateway.testbench.cloud.twin import Twin

_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9-])?")
_KEY_BYTES = 64
"""Of keys the service draws; documentation of symmetric key attestation."""


class RegistrationIdRefused(BenchError):
    """Something is no registration id, and no group's."""


class EnrolmentNotFound(BenchError):
    """No enrolment has this id."""


class EnrolmentExists(BenchError):
    """An enrolment has this id already."""


class AllocationFailed(BenchError):
    """No hub could be found for a device. A custom policy may raise it, too: the registration then ends as failed."""


# How a device proves itself


@dataclass(frozen=True, slots=True)
class Certificates:
    """One of two certificates, so that they can be changed one at a time.

    In an individual enrolment the device's own; in a group those that sign, a root or an intermediate.
    """

    primary: x509.Certificate
    secondary: x509.Certificate | None = None

    @property
    def all(self) -> tuple[x509.Certificate, ...]:
        """Those that are there."""
        return (self.primary,) if self.secondary is None else (self.primary, self.secondary)


IndividualAttestation: TypeAlias = SymmetricKeys | Thumbprints | Certificates | EndorsementKey
"""An endorsement key stands for the TPM that has it."""
GroupAttestation: TypeAlias = SymmetricKeys | Certificates


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a device shows with a request."""

    token: str | None = field(default=None, repr=False)
    chain: Sequence[x509.Certificate] = ()
    """Of its TLS connection, leaf first."""


# Where it goes, and what it finds there


@dataclass(frozen=True, slots=True)
class InitialTwin:
    """What a device's twin starts with.

    Raises:
        TwinRefused: no hub would take it.
    """

    tags: Mapping[str, Value] = field(default_factory=dict)
    desired: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        twin = Twin()
        twin.patch_tags(self.tags)
        twin.patch_desired(self.desired)


class BuiltInPolicy(enum.Enum):
    """Ways of choosing a hub that the service brings with it."""

    HASHED = "hashed"
    """Spread evenly by registration id; the same id always comes to the same of the same hubs."""
    GEO_LATENCY = "geoLatency"
    """In the cloud the nearest. On a bench all are equally near, so it does as `HASHED`, as the cloud does then."""
    STATIC = "static"
    """The first of the enrolment's hubs."""


class AllocationRequest(NamedTuple):
    """What a custom policy decides by."""

    registration_id: str
    payload: Value
    """What the device sent along; None for nothing."""
    hubs: Sequence[str]
    """Host names it may choose from."""
    current_hub: str
    """Where the device is now; empty if nowhere."""


class Allocation(NamedTuple):
    """What a custom policy decides."""

    hub: str
    """Host name."""
    payload: Value = None
    """Told to the device."""
    initial_twin: InitialTwin | None = None
    """In place of the enrolment's, and of what the device had at another hub."""


CustomPolicy: TypeAlias = Callable[[AllocationRequest], Allocation]
"""Takes the place of the cloud's webhook. Raises `AllocationFailed` to turn a device away."""


def allocated(policy: BuiltInPolicy | CustomPolicy, request: AllocationRequest) -> Allocation:
    """Choose a hub for a device.

    Raises:
        AllocationFailed: there is none to choose, or a custom policy names another, or none.
    """
    if not request.hubs:
        raise AllocationFailed("no hub to choose", where=request.registration_id, remedy="Link a hub to the service")
    if policy is BuiltInPolicy.STATIC:
        return Allocation(request.hubs[0])
    if isinstance(policy, BuiltInPolicy):
        digest = hashlib.sha256(request.registration_id.lower().encode()).digest()
        return Allocation(request.hubs[int.from_bytes(digest, "big") % len(request.hubs)])
    allocation = policy(request)
    if allocation.hub not in request.hubs:
        raise AllocationFailed(
            f"{allocation.hub} is none of the hubs", where=request.registration_id, remedy="Name one of those asked for"
        )
    return allocation


@dataclass(frozen=True, slots=True)
class ReprovisionPolicy:
    """What happens when a device registers again."""

    update_hub_assignment: bool = True
    """The hub is chosen anew; if false, it never changes."""
    migrate_device_data: bool = True
    """The twin goes with the device to another hub; if false, it starts again from the initial one, even if the hub
    stays the same (a factory reset)."""


# Enrolments


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What individual enrolments and groups have in common."""

    enabled: bool = True
    allocation: BuiltInPolicy | CustomPolicy = BuiltInPolicy.HASHED
    hubs: tuple[str, ...] = ()
    """Host names of the hubs to choose from; none for all that are linked."""
    reprovision: ReprovisionPolicy = ReprovisionPolicy()
    initial_twin: InitialTwin = field(default_factory=InitialTwin)
    edge: bool = False
    """The device becomes an edge device. One that is at its hub already stays what it is."""
    etag: str = ""
    created_ns: int = 0
    updated_ns: int = 0
    """Etag and times, Unix nanoseconds, are stamped when the enrolment is stored."""

    @property
    def enrolment_id(self) -> str:
        """What it is stored under."""
        raise NotImplementedError


def drawn_keys(size_bytes: int = _KEY_BYTES) -> SymmetricKeys:
    """New keys, drawn by the operating system."""
    return SymmetricKeys(*(base64.b64encode(secrets.token_bytes(size_bytes)).decode() for _ in range(2)))


@dataclass(frozen=True, slots=True)
class IndividualEnrolment(Enrolment):
    """One device.

    Raises:
        RegistrationIdRefused: the registration id is not one.
        BenchError: the device id, a key or a thumbprint is not one.
    """

    registration_id: str
    attestation: IndividualAttestation = field(default_factory=drawn_keys)
    device_id: str = ""
    """At the hub; empty for the registration id."""

    def __post_init__(self) -> None:
        check_id(self.registration_id)
        _check_at_hub(self.device_id or self.registration_id, self.attestation)

    @property
    def enrolment_id(self) -> str:
        """The registration id."""
        return self.registration_id


@dataclass(frozen=True, slots=True)
class EnrolmentGroup(Enrolment):
    """All devices that prove themselves by something derived from the same origin.

    Raises:
        RegistrationIdRefused: the group's id is not one.
        BenchError: a key is not one.
    """

    group_id: str
    attestation: GroupAttestation = field(default_factory=drawn_keys)

    def __post_init__(self) -> None:
        check_id(self.group_id)
        _check_at_hub(self.group_id, self.attestation)

    @property
    def enrolment_id(self) -> str:
        """The group's id."""
        return self.group_id

    def device_keys(self, registration_id: str) -> SymmetricKeys:
        """What the device's keys are in a group with symmetric keys.

        Raises:
            BenchError: the group's devices have certificates.
        """
        if not isinstance(self.attestation, SymmetricKeys):
            raise BenchError("the group has no keys", where=self.group_id, remedy="Its devices have certificates")
        primary, secondary = self.attestation.primary, self.attestation.secondary
        return SymmetricKeys(derive_key(primary, registration_id), derive_key(secondary, registration_id))


def check_id(enrolment_id: str) -> None:
    """Check a registration id, or a group's.

    Raises:
        RegistrationIdRefused: it is not one.
    """
    if not _ID.fullmatch(enrolment_id):
        raise RegistrationIdRefused(
            "not a registration id",
            where=repr(enrolment_id),
            remedy="Use 1 to 128 ASCII letters, digits and . _ : - that begin with a letter or digit",
        )


def _check_at_hub(device_id: str, attestation: IndividualAttestation) -> None:
    """Check what a hub would refuse when the device registers, long after the mistake."""
    if isinstance(attestation, SymmetricKeys | Thumbprints):
        Identity(IdentityName(device_id), attestation, generation_id="")
    else:
        Identity(IdentityName(device_id), NoAuthentication(), generation_id="")


E = TypeVar("E", bound=Enrolment)


class EnrolmentTable(Generic[E]):
    """The individual enrolments of a service, or its groups.

    Args:
        clock: stamps them.
        on_change: called after each change with the id and the new enrolment, None if it was removed.
    """

    def __init__(self, clock: Clock, on_change: Callable[[str, E | None], None]) -> None:
        self._clock = clock
        self._on_change = on_change
        self._enrolments: dict[str, E] = {}
        self.etags = 0
        """How many etags were given; never less, or an old one could come again."""

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._enrolments.values()))

    def __len__(self) -> int:
        return len(self._enrolments)

    def __contains__(self, enrolment_id: str) -> bool:
        return enrolment_id.lower() in self._enrolments

    def get(self, enrolment_id: str) -> E:
        """Look one up.

        Raises:
            EnrolmentNotFound: there is none of that id.
        """
        enrolment = self._enrolments.get(enrolment_id.lower())
        if enrolment is None:
            raise EnrolmentNotFound("no such enrolment", where=enrolment_id, remedy="Add it to the service")
        return enrolment

    def add(self, enrolment: E) -> E:
        """Take a new one; returned with its etag.

        Raises:
            EnrolmentExists: the id is taken.
        """
        if enrolment.enrolment_id in self:
            raise EnrolmentExists("it exists already", where=enrolment.enrolment_id, remedy="Update or remove it")
        return self._put(enrolment)

    def update(self, enrolment: E, etag: str | None = None) -> E:
        """Put one in the place of that of its id; returned with its new etag.

        Args:
            enrolment: the new one.
            etag: of the one the caller knows; None takes any.

        Raises:
            EnrolmentNotFound: there is none of that id.
            EtagMismatch: it has changed since.
        """
        return self._put(enrolment, self._expect(enrolment.enrolment_id, etag))

    def remove(self, enrolment_id: str, etag: str | None = None) -> None:
        """Forget one. Devices stay at their hubs.

        Raises:
            EnrolmentNotFound: there is none of that id.
            EtagMismatch: it has changed since.
        """
        removed = self._expect(enrolment_id, etag)
        del self._enrolments[enrolment_id.lower()]
        self._on_change(removed.enrolment_id, None)

    def restore(self, enrolments: Iterable[E], etags: int) -> None:
        """Hold these and no others, as they were stored once, after so many etags. Nobody is told."""
        self._enrolments = {each.enrolment_id.lower(): each for each in enrolments}
        self.etags = etags

    def _expect(self, enrolment_id: str, etag: str | None) -> E:
        enrolment = self.get(enrolment_id)
        if etag is not None and etag != enrolment.etag:
            raise EtagMismatch("it has changed in the meantime", where=enrolment_id, remedy="Read it again")
        return enrolment

    def _put(self, enrolment: E, old: E | None = None) -> E:
        self.etags += 1
        now_ns = self._clock.now_ns()
        created_ns = now_ns if old is None else old.created_ns
        enrolment = replace(enrolment, etag=etag(self.etags), created_ns=created_ns, updated_ns=now_ns)
        self._enrolments[enrolment.enrolment_id.lower()] = enrolment
        self._on_change(enrolment.enrolment_id, enrolment)
        return enrolment


# Who is it?


@dataclass(frozen=True, slots=True)
class Applicant:
    """A device that wants to register, or asks how its registration goes."""

    registration_id: str
    credentials: Credentials
    resource: str
    """What its token has to be for."""
    now_ns: int
    nonce_key: str | None = field(default=None, repr=False)
    """The key it was challenged to get out of its TPM, base64."""


def attested(
    applicant: Applicant, enrolments: EnrolmentTable[IndividualEnrolment], groups: EnrolmentTable[EnrolmentGroup]
) -> IndividualEnrolment | EnrolmentGroup:
    """Find the enrolment that applies to a device and check that the device is who it says.

    Raises:
        AccessDenied: no enrolment fits, or the proof does not hold. The enrolment may be disabled all the same.
    """
    if applicant.registration_id in enrolments:
        enrolment = enrolments.get(applicant.registration_id)
        match enrolment.attestation:
            case SymmetricKeys(primary, secondary):
                _check_token(applicant, [primary, secondary])
            case EndorsementKey():
                _check_token(applicant, [] if applicant.nonce_key is None else [applicant.nonce_key])
            case Thumbprints(primary, secondary):
                _check_leaf(applicant, {primary.upper(), secondary.upper()})
            case Certificates() as certificates:
                _check_leaf(applicant, {thumbprint(certificate) for certificate in certificates.all})
        return enrolment
    if applicant.credentials.token is not None:
        return _group_by_key(applicant, groups)
    return _group_by_chain(applicant, groups)


def thumbprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER, upper-case hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex().upper()


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; empty if there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _group_by_key(applicant: Applicant, groups: EnrolmentTable[EnrolmentGroup]) -> EnrolmentGroup:
    reason: AccessDenied | None = None
    for group in groups:
        if isinstance(group.attestation, SymmetricKeys):
            keys = group.device_keys(applicant.registration_id)
            try:
                _check_token(applicant, [keys.primary, keys.secondary])
            except AccessDenied as error:
                reason = error
                continue
            return group
    raise reason or _denied(applicant, "no enrolment for this id")


def _group_by_chain(applicant: Applicant, groups: EnrolmentTable[EnrolmentGroup]) -> EnrolmentGroup:
    chain = applicant.credentials.chain
    if not chain:
        raise _denied(applicant, "neither a token nor a certificate")
    _check_name(applicant, chain[0])
    for length in range(1, len(chain) + 1):  # who vouches for the shortest part is nearest to the leaf
        for group in groups:
            if isinstance(group.attestation, Certificates) and chains_to(
                chain[:length], group.attestation.all, _date(applicant)
            ):
                return group
    raise _denied(applicant, "no enrolment for this certificate")


def _check_token(applicant: Applicant, keys: Sequence[str]) -> None:
    if applicant.credentials.token is None:
        raise _denied(applicant, "no token")
    check(applicant.credentials.token, keys=keys, resource=applicant.resource, now_s=applicant.now_ns / NS_PER_S)


def _check_leaf(applicant: Applicant, thumbprints: set[str]) -> None:
    if not applicant.credentials.chain:
        raise _denied(applicant, "no client certificate")
    leaf = applicant.credentials.chain[0]
    _check_name(applicant, leaf)
    if not {thumbprint(leaf), leaf.fingerprint(hashes.SHA1()).hex().upper()} & thumbprints:  # noqa: S303 - Azure's
        raise _denied(applicant, "another certificate than the enrolled one")
    if not leaf.not_valid_before_utc <= _date(applicant) <= leaf.not_valid_after_utc:
        raise _denied(applicant, "the certificate is not valid now")


def _check_name(applicant: Applicant, leaf: x509.Certificate) -> None:
    if common_name(leaf).lower() != applicant.registration_id.lower():
        raise _denied(applicant, "the certificate has another common name")


def _date(applicant: Applicant) -> datetime:
    return datetime.fromtimestamp(applicant.now_ns // NS_PER_S, UTC)


def _denied(applicant: Applicant, what: str) -> AccessDenied:
    return AccessDenied(what, where=applicant.registration_id)
