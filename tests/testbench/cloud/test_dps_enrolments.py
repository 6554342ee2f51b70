"""Enrolments: ids, stores, who is let in by which, and where policies send devices."""

from __future__ import annotations

import base64
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.certificates import DeviceCertificate, self_signed_certificate
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Applicant,
    BuiltInPolicy,
    Certificates,
    Credentials,
    EnrolmentExists,
    EnrolmentGroup,
    EnrolmentNotFound,
    EnrolmentTable,
    IndividualAttestation,
    IndividualEnrolment,
    InitialTwin,
    allocated,
    attested,
    check_id,
    common_name,
    drawn_keys,
)
from edge_gateway.testbench.cloud.refusals import AccessDenied, EtagMismatch
from edge_gateway.testbench.cloud.tokens import derive_key, sas_token
from edge_gateway.testbench.cloud.twin import TwinRefused

SCOPE = "0ne00000001"
NOW_NS = time.time_ns()
DOCUMENTED_GROUP_KEY = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
DOCUMENTED_REGISTRATION_ID = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
DOCUMENTED_DEVICE_KEY = "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


class Book:
    """The enrolments of a service."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, IndividualEnrolment | EnrolmentGroup | None]] = []
        self.enrolments: EnrolmentTable[IndividualEnrolment] = EnrolmentTable(SystemClock(), self.noted)
        self.groups: EnrolmentTable[EnrolmentGroup] = EnrolmentTable(SystemClock(), self.noted)

    def noted(self, enrolment_id: str, enrolment: IndividualEnrolment | EnrolmentGroup | None) -> None:
        self.changes.append((enrolment_id, enrolment))

    def attested(
        self, registration_id: str, credentials: Credentials, nonce_key: str | None = None
    ) -> IndividualEnrolment | EnrolmentGroup:
        resource = f"{SCOPE}/registrations/{registration_id}"
        applicant = Applicant(registration_id, credentials, resource, NOW_NS, nonce_key)
        return attested(applicant, self.enrolments, self.groups)


@pytest.fixture
def book() -> Book:
    return Book()


def signed(registration_id: str, key: str, *, lifetime_s: int = 60) -> Credentials:
    return Credentials(sas_token(f"{SCOPE}/registrations/{registration_id}", key, NOW_NS // NS_PER_S + lifetime_s))


def shown(certificate: DeviceCertificate) -> Credentials:
    return Credentials(chain=x509.load_pem_x509_certificates(certificate.certificate_pem.encode()))


# Ids and values


@pytest.mark.parametrize("registration_id", ["a", "sn-007", "A.b_c:d-9", "x" * 128, "dash-"])
def test_ids(registration_id: str) -> None:
    """Letters, digits and some marks make an id."""
    check_id(registration_id)


@pytest.mark.parametrize("registration_id", ["", "-a", ".a", "a.", "a b", "a/b", "ü", "x" * 129, "a\n", "a$"])
def test_no_ids(registration_id: str) -> None:
    """Ids the cloud would not have are refused, for devices and groups."""
    with pytest.raises(BenchError):
        IndividualEnrolment(registration_id)
    with pytest.raises(BenchError):
        EnrolmentGroup(registration_id)


@given(st.text(max_size=140))
def test_arbitrary_ids(registration_id: str) -> None:
    """Any text is an id or refused as none, never another error."""
    with suppress(BenchError):
        check_id(registration_id)


def test_keys_are_drawn() -> None:
    """Who gives no keys gets new ones each time, of 64 bytes, and they do not show when printed."""
    first, second = IndividualEnrolment("a"), IndividualEnrolment("a")
    assert isinstance(first.attestation, SymmetricKeys)
    assert first.attestation != second.attestation
    assert len(base64.b64decode(first.attestation.primary)) == 64
    assert first.attestation.primary not in repr(first)


def test_what_no_hub_would_take_is_refused() -> None:
    """Device ids, keys, thumbprints and twins that a hub refuses are noticed at enrolling, not when a device comes."""
    short = base64.b64encode(b"x" * 15).decode()
    with pytest.raises(BenchError):
        IndividualEnrolment("a", SymmetricKeys(short, short))
    with pytest.raises(BenchError):
        EnrolmentGroup("a", SymmetricKeys(short, short))
    with pytest.raises(BenchError):
        IndividualEnrolment("a", Thumbprints("12:34"))
    with pytest.raises(BenchError):
        IndividualEnrolment("a", device_id="a b")
    with pytest.raises(TwinRefused):
        InitialTwin(desired={"a.b": 1})
    with pytest.raises(TwinRefused):
        InitialTwin(tags={"a": "x" * 5000})


def test_the_documented_derivation() -> None:
    """A group's device key is the one of the example in Azure's documentation."""
    group = EnrolmentGroup("g", SymmetricKeys(DOCUMENTED_GROUP_KEY, drawn_keys().secondary))
    assert group.device_keys(DOCUMENTED_REGISTRATION_ID).primary == DOCUMENTED_DEVICE_KEY
    with pytest.raises(BenchError):
        EnrolmentGroup("certificates", Certificates(self_signed_certificate("a").certificate)).device_keys("dev")


# The store


def test_an_enrolment_is_stored_under_its_id(book: Book) -> None:
    """An id is the same in upper and lower case, and taken once."""
    stored = book.enrolments.add(IndividualEnrolment("Sensor-1"))
    assert stored.etag
    assert stored.created_ns == stored.updated_ns
    assert book.enrolments.get("sensor-1") == stored
    with pytest.raises(EnrolmentExists):
        book.enrolments.add(IndividualEnrolment("SENSOR-1"))
    assert list(book.enrolments) == [stored]
    assert len(book.enrolments) == 1


def test_updates_are_by_etag(book: Book) -> None:
    """Who updates an old version is told so; without an etag the last one wins."""
    first = book.enrolments.add(IndividualEnrolment("a"))
    second = book.enrolments.update(replace(first, enabled=False), first.etag)
    assert second.etag != first.etag
    assert second.created_ns == first.created_ns
    with pytest.raises(EtagMismatch):
        book.enrolments.update(first, first.etag)
    assert book.enrolments.update(first).enabled


def test_removing(book: Book) -> None:
    """What is removed is gone, once."""
    stored = book.groups.add(EnrolmentGroup("g"))
    with pytest.raises(EtagMismatch):
        book.groups.remove("g", "another")
    book.groups.remove("G", stored.etag)
    for ask in (book.groups.get, book.groups.remove):
        with pytest.raises(EnrolmentNotFound):
            ask("g")
    with pytest.raises(EnrolmentNotFound):
        book.groups.update(stored)


def test_changes_are_told(book: Book) -> None:
    """Somebody hears of each change, by the id as it was stored; of nothing that was refused."""
    first = book.groups.add(EnrolmentGroup("Group"))
    second = book.groups.update(replace(first, enabled=False))
    with pytest.raises(EtagMismatch):
        book.groups.update(first, first.etag)
    book.groups.remove("group")
    assert book.changes == [("Group", first), ("Group", second), ("Group", None)]


# Who is it? By key


def test_either_key_lets_in(book: Book) -> None:
    """Both keys of an individual enrolment are good, and the id in upper case too."""
    stored = book.enrolments.add(IndividualEnrolment("dev"))
    assert isinstance(stored.attestation, SymmetricKeys)
    for key in (stored.attestation.primary, stored.attestation.secondary):
        assert book.attested("dev", signed("dev", key)) == stored
        assert book.attested("DEV", signed("dev", key)) == stored


@pytest.mark.parametrize("fault", ["key", "expired", "other-device", "none", "garbage"])
def test_bad_tokens(book: Book, fault: str) -> None:
    """A token that is not the device's, or over, or none, is denied."""
    keys = drawn_keys()
    book.enrolments.add(IndividualEnrolment("dev", keys))
    credentials = {
        "key": signed("dev", drawn_keys().primary),
        "expired": signed("dev", keys.primary, lifetime_s=-1),
        "other-device": signed("dev2", keys.primary),
        "none": Credentials(),
        "garbage": Credentials("Bearer x"),
    }[fault]
    with pytest.raises(AccessDenied):
        book.attested("dev", credentials)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"SharedAccessSignature {text}"))
def test_arbitrary_tokens(token: str) -> None:
    """Any text that is no token of the device is denied, whether it is enrolled, in a group or unknown."""
    book = Book()
    book.enrolments.add(IndividualEnrolment("dev"))
    book.groups.add(EnrolmentGroup("g"))
    for registration_id in ("dev", "other"):
        with pytest.raises(AccessDenied):
            book.attested(registration_id, Credentials(token))


def test_a_groups_device(book: Book) -> None:
    """A device with a key derived from any group's is let in by that group."""
    book.groups.add(EnrolmentGroup("certificates", Certificates(LocalAuthority().certificate)))
    book.groups.add(EnrolmentGroup("other"))
    keys = SymmetricKeys(DOCUMENTED_GROUP_KEY, drawn_keys().secondary)
    group = book.groups.add(EnrolmentGroup("g", keys))
    for key in (DOCUMENTED_DEVICE_KEY, derive_key(keys.secondary, DOCUMENTED_REGISTRATION_ID)):
        credentials = signed(DOCUMENTED_REGISTRATION_ID, key)
        assert book.attested(DOCUMENTED_REGISTRATION_ID, credentials) == group
    with pytest.raises(AccessDenied):
        book.attested("another", signed("another", DOCUMENTED_DEVICE_KEY))


def test_the_individual_enrolment_goes_before_the_group(book: Book) -> None:
    """A device with an enrolment of its own is not let in by its group's key."""
    group = book.groups.add(EnrolmentGroup("g"))
    book.enrolments.add(IndividualEnrolment("dev", enabled=False))
    with pytest.raises(AccessDenied):
        book.attested("dev", signed("dev", group.device_keys("dev").primary))


def test_nobody_is_enrolled(book: Book) -> None:
    """Without any enrolment nobody is let in."""
    with pytest.raises(AccessDenied):
        book.attested("dev", signed("dev", drawn_keys().primary))
    with pytest.raises(AccessDenied):
        book.attested("dev", shown(self_signed_certificate("dev")))


# Who is it? By certificate


@pytest.mark.parametrize("form", ["certificate", "second-certificate", "sha-1", "sha-256"])
def test_an_enrolled_certificate(book: Book, form: str) -> None:
    """A certificate is known as it is or by either thumbprint, primary or secondary."""
    certificate = self_signed_certificate("dev")
    attestations: dict[str, IndividualAttestation] = {
        "certificate": Certificates(certificate.certificate),
        "second-certificate": Certificates(self_signed_certificate("dev").certificate, certificate.certificate),
        "sha-1": Thumbprints(certificate.sha1_thumbprint),
        "sha-256": Thumbprints("", certificate.sha256_thumbprint.lower()),
    }
    stored = book.enrolments.add(IndividualEnrolment("dev", attestations[form]))
    assert book.attested("Dev", shown(certificate)) == stored


@pytest.mark.parametrize("fault", ["another", "other-name", "expired", "token"])
def test_bad_certificates(book: Book, authority: LocalAuthority, fault: str) -> None:
    """Another certificate than the enrolled, one for another device, or one that is over, is denied."""
    certificate = {
        "another": self_signed_certificate("dev"),
        "other-name": authority.device_certificate("dev2"),
        "expired": authority.device_certificate("dev", expired=True),
        "token": self_signed_certificate("dev"),
    }[fault]
    enrolled = self_signed_certificate("dev") if fault == "another" else certificate
    book.enrolments.add(IndividualEnrolment("dev", Certificates(enrolled.certificate)))
    credentials = signed("dev", drawn_keys().primary) if fault == "token" else shown(certificate)
    with pytest.raises(AccessDenied):
        book.attested("dev", credentials)


def test_a_groups_certificate(book: Book, authority: LocalAuthority) -> None:
    """A device is let in by the group of a root above it, or of an intermediate, whichever is enrolled."""
    factory = authority.intermediate("factory")
    line = factory.intermediate("line")
    certificate = line.device_certificate("dev")
    for signer in (authority, factory, line):
        group = book.groups.add(EnrolmentGroup("g", Certificates(LocalAuthority().certificate, signer.certificate)))
        assert book.attested("dev", shown(certificate)) == group
        book.groups.remove("g")
    book.groups.add(EnrolmentGroup("other", Certificates(LocalAuthority().certificate)))
    with pytest.raises(AccessDenied):
        book.attested("dev", shown(certificate))


def test_the_nearest_group_applies(book: Book, authority: LocalAuthority) -> None:
    """A disabled group for an intermediate shuts out what is below it, and nothing beside it."""
    factories = [authority.intermediate(f"factory {n}") for n in range(2)]
    everything = book.groups.add(EnrolmentGroup("all", Certificates(authority.certificate)))
    shut = book.groups.add(EnrolmentGroup("shut", Certificates(factories[0].certificate), enabled=False))
    assert book.attested("dev", shown(factories[0].device_certificate("dev"))) == shut
    assert book.attested("dev", shown(factories[1].device_certificate("dev"))) == everything
    assert book.attested("dev", shown(authority.device_certificate("dev"))) == everything


@pytest.mark.parametrize("fault", ["other-name", "expired"])
def test_bad_certificates_of_a_group(book: Book, authority: LocalAuthority, fault: str) -> None:
    """A certificate for another device, or one that is over, is denied though the group's CA has signed it."""
    book.groups.add(EnrolmentGroup("g", Certificates(authority.certificate)))
    name = "dev2" if fault == "other-name" else "dev"
    with pytest.raises(AccessDenied):
        book.attested("dev", shown(authority.device_certificate(name, expired=fault == "expired")))


def test_common_names(authority: LocalAuthority) -> None:
    """A certificate's common name is read; one without has the empty name."""
    assert common_name(authority.device_certificate("dev").certificate) == "dev"


# Where to?


def ask(policy: BuiltInPolicy, registration_id: str = "dev", hubs: tuple[str, ...] = ("a", "b", "c")) -> str:
    return allocated(policy, AllocationRequest(registration_id, None, hubs, "")).hub


def test_hashed_is_even_and_steady() -> None:
    """Devices are spread over all hubs; one device comes to the same hub each time, however its id is written."""
    hubs = Counter(ask(BuiltInPolicy.HASHED, f"dev-{n}") for n in range(300))
    assert min(hubs[hub] for hub in "abc") > 60
    assert {ask(BuiltInPolicy.HASHED, name) for name in ("dev", "DEV", "Dev")} == {ask(BuiltInPolicy.HASHED)}


def test_geo_latency_does_as_hashed() -> None:
    """On a bench all hubs are equally near."""
    for n in range(20):
        assert ask(BuiltInPolicy.GEO_LATENCY, f"dev-{n}") == ask(BuiltInPolicy.HASHED, f"dev-{n}")


def test_static_takes_the_first() -> None:
    """A static policy has one hub."""
    assert ask(BuiltInPolicy.STATIC, hubs=("c", "a")) == "c"


def test_custom_policies() -> None:
    """A function sees what the device sent and where it is, and may name any of the hubs and no other."""

    def by_payload(request: AllocationRequest) -> Allocation:
        assert request.current_hub == "a"
        return Allocation(str(request.payload), payload={"from": request.registration_id})

    request = AllocationRequest("dev", "b", ("a", "b"), "a")
    assert allocated(by_payload, request) == Allocation("b", {"from": "dev"})
    with pytest.raises(AllocationFailed):
        allocated(by_payload, request._replace(payload="elsewhere"))


@pytest.mark.parametrize("policy", BuiltInPolicy)
def test_no_hub(policy: BuiltInPolicy) -> None:
    """Where there is no hub none is chosen."""
    with pytest.raises(AllocationFailed):
        ask(policy, hubs=())
