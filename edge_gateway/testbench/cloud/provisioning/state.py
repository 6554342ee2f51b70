"""What a provisioning service has to remember to be the same at its next start: a JSON document, and a file for it.

In it are the keys of services, enrolments and groups, and registrations. Not in it are

- enrolments and groups with a custom allocation policy, because a function cannot be written down. Their devices'
  registrations are: if the enrolment is added again, its devices are where they were.
- registrations and challenges under way. The device is told that there are none, and has to begin again.

The file is written a moment after each change and at the end; who kills the process loses that moment. It holds keys,
so that only its owner can read it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.kept_file import KeptFile
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    BuiltInPolicy,
    Certificates,
    Enrolment,
    EnrolmentGroup,
    GroupAttestation,
    IndividualAttestation,
    IndividualEnrolment,
    InitialTwin,
    ReprovisionPolicy,
)
from edge_gateway.testbench.cloud.provisioning.registrations import Outcome, Registration, Substatus
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.cloud.tokens import check_key

_log = structlog.get_logger()

FORMAT = 1


def dps_document(dps: LocalDps) -> dict[str, Any]:
    """All a service has to remember, as JSON has it; what `left_out` tells is not in it."""
    return {
        "format": FORMAT,
        "id_scope": dps.id_scope,
        "host_name": dps.host_name,
        "service_keys": _attestation_document(dps.service_keys),
        "etags": [dps.enrolments.etags, dps.groups.etags, dps.registrations.etags],
        "enrolments": [_individual_document(each) for each in dps.enrolments if not _has_custom_policy(each)],
        "groups": [_group_document(each) for each in dps.groups if not _has_custom_policy(each)],
        "registrations": [_registration_document(each) for each in dps.registrations],
    }


def left_out(dps: LocalDps) -> Iterator[Enrolment]:
    """Enrolments and groups that cannot be written down."""
    yield from filter(_has_custom_policy, dps.enrolments)
    yield from filter(_has_custom_policy, dps.groups)


def restore(dps: LocalDps, document: Any, where: str) -> None:
    """Make a service the one whose document this is.

    Args:
        dps: the service.
        document: of `dps_document`.
        where: what it was read from, for errors.

    Raises:
        BenchError: it is another service's, of another format, or damaged; nothing was changed.
    """
    if (
        not isinstance(document, Mapping)
        or document.get("format") != FORMAT
        or (document.get("id_scope"), document.get("host_name")) != (dps.id_scope, dps.host_name)
    ):
        raise BenchError(
            f"the state is not that of provisioning service {dps.id_scope} at {dps.host_name}, or of another format",
            where=where,
            remedy="Start with the same id scope and host name, or in another directory",
        )
    try:
        state = _state(document)
    except (BenchError, TypeError, ValueError) as error:
        raise BenchError(f"the state is damaged: {error}", where=where, remedy="Remove it") from error
    etags, group_etags, registration_etags = state.etags
    dps.registrations.restore(state.registrations, registration_etags)
    dps.enrolments.restore(state.enrolments, etags)
    dps.groups.restore(state.groups, group_etags)
    dps.service_keys = state.service_keys


class DpsStateFile(KeptFile):
    """Keeps a service's state in a file. Enter it before the service's front door, as an async context manager.

    Args:
        path: the file; made if it is not there.
        dps: whose state.

    Raises:
        BenchError: on entering, the file cannot be read or written, or is not this service's.
    """

    def __init__(self, path: Path, dps: LocalDps) -> None:
        super().__init__(path, self._written_down, dps.change, partial(restore, dps))
        self._dps = dps
        self._told: set[tuple[type[Enrolment], str]] = set()

    def _written_down(self) -> bytes:
        for enrolment in left_out(self._dps):
            name = (type(enrolment), enrolment.enrolment_id.lower())
            if name not in self._told:
                self._told.add(name)
                _log.warning("testbench.dps.not_kept", enrolment=enrolment.enrolment_id, cause="custom allocation")
        return orjson.dumps(dps_document(self._dps), option=orjson.OPT_INDENT_2)


def _has_custom_policy(enrolment: Enrolment) -> bool:
    return not isinstance(enrolment.allocation, BuiltInPolicy)


class _State(NamedTuple):
    """A document that has been read. Everything in it is whole, so that restoring it is done or not, never half."""

    service_keys: SymmetricKeys
    etags: list[int]
    """How many were given to enrolments, groups and registrations."""
    enrolments: list[IndividualEnrolment]
    groups: list[EnrolmentGroup]
    registrations: list[Registration]


def _state(document: Any) -> _State:
    match document:
        case {
            "service_keys": service_keys,
            "etags": [int(), int(), int()] as etags,
            "enrolments": list(enrolments),
            "groups": list(groups),
            "registrations": list(registrations),
        } if min(etags) >= 0:
            return _State(
                _service_keys(service_keys),
                etags,
                [_individual(each) for each in enrolments],
                [_group(each) for each in groups],
                [_registration(each) for each in registrations],
            )
        case _:
            raise ValueError("a part of it is missing or of another kind")


def _service_keys(document: Any) -> SymmetricKeys:
    keys = _attestation(document)
    if not isinstance(keys, SymmetricKeys):
        raise ValueError("the service keys are none")
    for key in (keys.primary, keys.secondary):
        check_key(key, "service key")
    return keys


def _individual_document(enrolment: IndividualEnrolment) -> dict[str, Any]:
    return {
        "registration_id": enrolment.registration_id,
        "device_id": enrolment.device_id,
        "attestation": _attestation_document(enrolment.attestation),
        **_common_document(enrolment),
    }


def _individual(document: Any) -> IndividualEnrolment:
    match document:
        case {"registration_id": str(registration_id), "device_id": str(device_id), "attestation": attestation}:
            return IndividualEnrolment(registration_id, _attestation(attestation), device_id, **_common(document))
        case _:
            raise ValueError("an individual enrolment cannot be read")


def _group_document(group: EnrolmentGroup) -> dict[str, Any]:
    return {
        "group_id": group.group_id,
        "attestation": _attestation_document(group.attestation),
        **_common_document(group),
    }


def _group(document: Any) -> EnrolmentGroup:
    match document:
        case {"group_id": str(group_id), "attestation": attestation}:
            return EnrolmentGroup(group_id, _group_attestation(attestation), **_common(document))
        case _:
            raise ValueError("a group cannot be read")


def _common_document(enrolment: Enrolment) -> dict[str, Any]:
    return {
        "enabled": enrolment.enabled,
        "allocation": BuiltInPolicy(enrolment.allocation).value,
        "hubs": list(enrolment.hubs),
        "update_hub_assignment": enrolment.reprovision.update_hub_assignment,
        "migrate_device_data": enrolment.reprovision.migrate_device_data,
        "tags": dict(enrolment.initial_twin.tags),
        "desired": dict(enrolment.initial_twin.desired),
        "edge": enrolment.edge,
        "etag": enrolment.etag,
        "created_ns": enrolment.created_ns,
        "updated_ns": enrolment.updated_ns,
    }


def _common(document: Any) -> dict[str, Any]:
    """What individual enrolments and groups have in common, as arguments for either."""
    match document:
        case {
            "enabled": bool(enabled),
            "allocation": str(allocation),
            "hubs": list(hubs),
            "update_hub_assignment": bool(update_hub_assignment),
            "migrate_device_data": bool(migrate_device_data),
            "tags": dict(tags),
            "desired": dict(desired),
            "edge": bool(edge),
            "etag": str(etag),
            "created_ns": int(created_ns),
            "updated_ns": int(updated_ns),
        }:
            return {
                "enabled": enabled,
                "allocation": BuiltInPolicy(allocation),
                "hubs": tuple(map(_text, hubs)),
                "reprovision": ReprovisionPolicy(update_hub_assignment, migrate_device_data),
                "initial_twin": InitialTwin(tags, desired),
                "edge": edge,
                "etag": etag,
                "created_ns": created_ns,
                "updated_ns": updated_ns,
            }
        case _:
            raise ValueError("an enrolment's settings cannot be read")


def _attestation_document(attestation: IndividualAttestation) -> dict[str, str]:
    match attestation:
        case SymmetricKeys(primary, secondary):
            return {"kind": "keys", "primary": primary, "secondary": secondary}
        case Thumbprints(primary, secondary):
            return {"kind": "thumbprints", "primary": primary, "secondary": secondary}
        case Certificates() as certificates:
            pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates.all)
            return {"kind": "certificates", "pem": pem.decode()}
        case EndorsementKey() as key:
            return {"kind": "tpm", "endorsement_key": base64.b64encode(key.public).decode()}


def _attestation(document: Any) -> IndividualAttestation:
    match document:
        case {"kind": "keys", "primary": str(primary), "secondary": str(secondary)}:
            return SymmetricKeys(primary, secondary)
        case {"kind": "thumbprints", "primary": str(primary), "secondary": str(secondary)}:
            return Thumbprints(primary, secondary)
        case {"kind": "certificates", "pem": str(pem)}:
            return Certificates(*x509.load_pem_x509_certificates(pem.encode()))
        case {"kind": "tpm", "endorsement_key": str(key)}:
            return EndorsementKey.parse(base64.b64decode(key, validate=True))
        case _:
            raise ValueError("an attestation cannot be read")


def _group_attestation(document: Any) -> GroupAttestation:
    attestation = _attestation(document)
    if not isinstance(attestation, SymmetricKeys | Certificates):
        raise ValueError("a group's attestation is one for a single device")
    return attestation


def _registration_document(registration: Registration) -> dict[str, Any]:
    return {
        "registration_id": registration.registration_id,
        "outcome": registration.outcome.value,
        "etag": registration.etag,
        "created_ns": registration.created_ns,
        "updated_ns": registration.updated_ns,
        "hub": registration.hub,
        "device_id": registration.device_id,
        "substatus": registration.substatus.value,
        "payload": registration.payload,
        "error_code": registration.error_code,
        "error_message": registration.error_message,
        "group_id": registration.group_id,
        "past_hubs": sorted(registration.past_hubs),
    }


def _registration(document: Any) -> Registration:
    match document:
        case {
            "registration_id": str(registration_id),
            "outcome": str(outcome),
            "etag": str(etag),
            "created_ns": int(created_ns),
            "updated_ns": int(updated_ns),
            "hub": str(hub),
            "device_id": str(device_id),
            "substatus": str(substatus),
            "payload": payload,
            "error_code": int(error_code),
            "error_message": str(error_message),
            "group_id": str(group_id),
            "past_hubs": list(past_hubs),
        }:
            return Registration(
                registration_id,
                Outcome(outcome),
                etag,
                created_ns,
                updated_ns,
                hub=hub,
                device_id=device_id,
                substatus=Substatus(substatus),
                payload=payload,
                error_code=error_code,
                error_message=error_message,
                group_id=group_id,
                past_hubs=frozenset(map(_text, past_hubs)),
            )
        case _:
            raise ValueError("a registration cannot be read")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the name of a hub is not text")
    return value
