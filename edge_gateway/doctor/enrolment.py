"""Whether the provisioning service (DPS) knows this gateway. Only when asked: registering may move a device.

Source: Azure Device Provisioning Service, REST API 2021-06-01, RuntimeRegistration.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from edge_gateway.clock import NS_PER_S
from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.https import Answer, ask
from edge_gateway.doctor.keys import not_imported
from edge_gateway.doctor.service_access import is_among, service_access
from edge_gateway.doctor.site import Enrolment, Site
from edge_gateway.errors import UplinkError
from edge_gateway.keystore.generations import generation_names
from edge_gateway.keystore.tpm.public_areas import EK_HANDLE, SRK_HANDLE, srk_template
from edge_gateway.uplink.sas import sas_token

UNREACHABLE: Final = Fault("dps.unreachable", "the provisioning service cannot be reached: {what}", "{remedy}")
SCOPE_WRONG: Final = Fault(
    "dps.scope-wrong",
    "the provisioning service {host} knows no ID scope {scope}",
    "Copy the ID scope from the portal: the overview of the provisioning service shows it (0ne...)",
)
NO_ENROLMENT: Final = Fault(
    "dps.no-enrolment",
    "the provisioning service has no individual enrolment for {registration}, and if it is of a group, the key {key} "
    "is not derived from that group's",
    "Add one in the portal, or correct the registration id; with a group's key: `{edge_gateway} provision dps --method "
    "group --id-scope {scope} --from-file FILE --config {config}`",
)
NO_TPM_ENROLMENT: Final = Fault(
    "dps.no-tpm-enrolment",
    "the provisioning service has no enrolment for {registration}",
    "Add an individual one in the portal, of type TPM: `{edge_gateway} provision tpm-enrolment --config {config}` "
    "prints what it asks for; or correct the registration id",
)
NOT_ACCEPTED: Final = Fault(
    "dps.not-accepted",
    "the provisioning service does not accept {registration} with the key {key}, and does not say why",
    "See in the portal that it has an enrolment, and that the key is its primary key or, of a group, the one derived "
    "for this registration id; with `--enrolments FILE` the doctor looks itself",
)
KEY_WRONG: Final = Fault(
    "dps.key-wrong",
    "the key {key} in the key store is neither of the two that the enrolment {registration} has",
    "`{edge_gateway} keys {bring} {key} --config {config}`, paste the enrolment's primary key and press Ctrl-D",
)
REGISTRY_CLOSED: Final = Fault(
    "dps.registry-closed",
    "the provisioning service does not let enrolments be read by the connection string given ({status})",
    "Give one of a policy with enrollment read, of this provisioning service",
)
EK_MISMATCH: Final = Fault(
    "dps.ek-mismatch",
    "the provisioning service has no enrolment {registration} with this TPM's endorsement key: it is for another TPM, "
    "or there is none",
    "Put this TPM's endorsement key into the enrolment, `{edge_gateway} provision tpm-enrolment --config {config}` "
    "prints it; or correct the registration id",
)
DISABLED: Final = Fault(
    "dps.disabled", "the enrolment of {registration} is disabled", "Enable it in the portal, or ask who disabled it"
)
NOT_ASSIGNED: Final = Fault(
    "dps.not-assigned",
    "the provisioning service finds no hub for {registration}: {what}",
    "Link a hub to the provisioning service, or mend the enrolment's allocation policy",
)
THROTTLED: Final = Fault(
    "dps.throttled", "the provisioning service is asked for too much at once", "Try again in a minute"
)
REFUSED: Final = Fault(
    "dps.refused",
    "the provisioning service refuses {registration} (HTTP {status})",
    "Look at the evidence, and in the portal",
)

_API_VERSION: Final = "2021-06-01"
_SERVICE_API_VERSION: Final = "2021-10-01"
_TOKEN_S: Final = 300
_POLL_S: Final = 1.0
_MOST_POLLS: Final = 10
_UNAUTHORIZED: Final = 401


async def check_enrolment(site: Site) -> Findings:
    """Register, as the gateway would, and see what the service says."""
    enrolment = site.enrolment
    assert enrolment is not None  # noqa: S101 - otherwise this check does not apply
    if not enrolment.by_tpm and (missing := await asyncio.to_thread(not_imported, site, enrolment.key)) is not None:
        return [missing]
    try:
        answer = await (_challenge(site, enrolment) if enrolment.by_tpm else _register(site, enrolment))
    except UplinkError as error:
        return [UNREACHABLE.found(error.where, what=error.what, remedy=error.remedy or "Check the network")]
    places: dict[str, Any] = {
        "host": enrolment.host,
        "scope": enrolment.id_scope,
        "registration": enrolment.registration_id,
        "key": enrolment.key,
        "status": answer.status,
        "edge_gateway": site.edge_gateway,
        "config": site.config_argument,
    }
    evidence = _told(answer)
    match answer.status, answer.body:
        case (401, {"authenticationKey": str()}) if enrolment.by_tpm:
            return []
        case 200 | 202, {"status": "disabled"}:
            return [DISABLED.found(evidence, **places)]
        case 200 | 202, {"status": "failed", **others}:
            return [NOT_ASSIGNED.found(evidence, what=_reason(others), **places)]
        case 200 | 202, _:
            return []
        case 401, _:
            otherwise = (EK_MISMATCH if enrolment.by_tpm else NOT_ACCEPTED).found(evidence, **places)
            return [await _why_not(site, enrolment, otherwise, places)]
        case 404, _:
            return [SCOPE_WRONG.found(evidence, **places)]
        case 429, _:
            return [THROTTLED.found(evidence, **places)]
        case _:
            return [REFUSED.found(evidence, **places)]


def is_asked_for(site: Site) -> bool:
    """Whether the provisioning service is to be asked."""
    return site.enrolment is not None


def may_register(site: Site) -> bool:
    """Whether there is something to prove oneself by."""
    return site.learnt.may_sign or (site.enrolment is not None and site.enrolment.by_tpm)


async def _why_not(site: Site, enrolment: Enrolment, otherwise: Finding, places: dict[str, Any]) -> Finding:
    """Why an enrolment is refused, for who may read it; what is known without it if nobody may."""
    if enrolment.registry is None:
        return otherwise
    host, token = service_access(enrolment.registry, site.clock.now_ns() // NS_PER_S + _TOKEN_S)
    path = f"enrollments/{quote(enrolment.registration_id, safe='')}/attestationmechanism"
    url = f"https://{host}/{path}?api-version={_SERVICE_API_VERSION}"
    try:
        answer = await ask(site, "POST", url, token=token, ca_file=_ca_file(site, enrolment))
    except UplinkError as error:
        return UNREACHABLE.found(error.where, what=error.what, remedy=error.remedy or "Check the network")
    match answer.status, answer.body:
        case 404, _ if enrolment.by_tpm:
            return NO_TPM_ENROLMENT.found("its enrolments", **places)
        case 404, _:
            return NO_ENROLMENT.found("its enrolments", **places)
        case 200, {"symmetricKey": {"primaryKey": str(one), "secondaryKey": str(two)}} if not enrolment.by_tpm:
            stored = await asyncio.to_thread(generation_names, site.keys, enrolment.key)
            for each in stored:
                if await asyncio.to_thread(is_among, site.keys, each, (one, two), os.urandom(16)):
                    return otherwise
            bring = "import" if stored == [enrolment.key] else "rotate"
            return KEY_WRONG.found("its enrolments; the keys were compared and not kept", bring=bring, **places)
        case 200, _:
            return otherwise
        case _:
            return REGISTRY_CLOSED.found(f"HTTP {answer.status}", **places | {"status": answer.status})


async def _register(site: Site, enrolment: Enrolment) -> Answer:
    resource = f"{enrolment.id_scope}/registrations/{enrolment.registration_id}"
    expiry_s = site.clock.now_ns() // NS_PER_S + _TOKEN_S
    for stored in await asyncio.to_thread(generation_names, site.keys, enrolment.key):
        token = await asyncio.to_thread(sas_token, site.keys, stored, resource, expiry_s)
        answer = await _put(site, enrolment, {}, token)
        if answer.status != _UNAUTHORIZED:
            break
    for _ in range(_MOST_POLLS):
        if answer.body.get("status") != "assigning":
            break
        await asyncio.sleep(_POLL_S)
        operation = quote(str(answer.body.get("operationId", "")), safe="")
        url = f"{_registration_url(enrolment)}/operations/{operation}?api-version={_API_VERSION}"
        answer = await ask(site, "GET", url, token=token, ca_file=_ca_file(site, enrolment))
    return answer


async def _challenge(site: Site, enrolment: Enrolment) -> Answer:
    """Ask for the challenge, and leave it unanswered: nothing is registered."""
    keys = await asyncio.to_thread(_attestation_keys, site)
    return await _put(site, enrolment, {"tpm": keys}, None)


def _attestation_keys(site: Site) -> dict[str, str]:
    with site.open_tpm(site.config.key_store.tcti) as probe:
        endorsement = probe.public(EK_HANDLE) or probe.made_endorsement_key()
        template = srk_template(site.config.key_store.storage_key)
        root = probe.public(SRK_HANDLE) or probe.made_root(template, site.owner_password())
    keys = {"endorsementKey": endorsement, "storageRootKey": root or b""}
    return {name: base64.b64encode(key).decode() for name, key in keys.items()}


async def _put(site: Site, enrolment: Enrolment, members: Mapping[str, Any], token: str | None) -> Answer:
    return await ask(
        site,
        "PUT",
        f"{_registration_url(enrolment)}/register?api-version={_API_VERSION}",
        token=token,
        headers={"Content-Type": "application/json"},
        body=orjson.dumps({"registrationId": enrolment.registration_id, **members}),
        ca_file=_ca_file(site, enrolment),
    )


def _registration_url(enrolment: Enrolment) -> str:
    scope, registration = quote(enrolment.id_scope, safe=""), quote(enrolment.registration_id, safe="")
    return f"https://{enrolment.host}/{scope}/registrations/{registration}"


def _ca_file(site: Site, enrolment: Enrolment) -> Any:
    return enrolment.ca_file or site.config.uplink.ca_file


def _reason(body: Mapping[str, Any]) -> str:
    state = body.get("registrationState")
    return str(state.get("errorMessage", "no reason given"))[:200] if isinstance(state, dict) else "no reason given"


def _told(answer: Answer) -> str:
    code, message = answer.body.get("errorCode", ""), str(answer.body.get("message", ""))[:80]
    return f"HTTP {answer.status} {code} {message}".rstrip()
