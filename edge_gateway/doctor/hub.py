"""Whether the hub lets the gateway in, and takes its messages.

A hub says no with one code for everything. Why, its registry knows, for whoever may read that: then the doctor names
the cause. A running gateway is asked and not imitated: a second connection under its name would cut it off.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from cryptography import x509

from edge_gateway.assembly.keys import tpm_of
from edge_gateway.clock import NS_PER_S
from edge_gateway.config.uplink import MqttUplink
from edge_gateway.doctor.finding import Fault, Finding, Findings, Level
from edge_gateway.doctor.https import ask
from edge_gateway.doctor.mqtt_packets import CONNACK_BYTES, DISCONNECT, connack_code, connect_packet
from edge_gateway.doctor.network import Endpoint, connection
from edge_gateway.doctor.service_access import is_among, service_access
from edge_gateway.doctor.site import HubIdentity, Site
from edge_gateway.errors import ConfigError, KeyStoreError, UplinkError
from edge_gateway.keystore.generations import generation_names
from edge_gateway.uplink.sas import sas_token
from edge_gateway.uplink.tls import client_context

if TYPE_CHECKING:
    from edge_gateway.uplink.tpm_tls import HeldKey

OFFLINE: Final = Fault(
    "hub.offline", "the running gateway is not connected: {what}", "Do what it says; the way to the hub is free"
)
REFUSED: Final = Fault(
    "hub.refused",
    "the hub {host} does not let the device {device} in, and does not say why",
    "See in the portal that the device is there, enabled, and has this key; with `--registry FILE` the doctor "
    "looks itself",
)
NO_DEVICE: Final = Fault(
    "hub.no-device", "the hub {host} has no device {device}", "Add it to the hub, or correct uplink.device_id"
)
DISABLED: Final = Fault(
    "hub.device-disabled",
    "the device {device} is disabled in the hub {host}",
    "Enable it in the portal, or ask who disabled it; the reason noted there: {reason}",
)
KEY_WRONG: Final = Fault(
    "hub.key-wrong",
    "the key {key} in the key store is neither of the two that the hub has for {device}",
    "`{edge_gateway} keys {bring} {key} --config {config}`, paste the device's primary key and press Ctrl-D",
)
TPM_KEY_WRONG: Final = Fault(
    "hub.tpm-key-wrong",
    "the key {key} in the TPM is neither of the two that the hub has for {device}: the provisioning service has made "
    "another one since, or somebody else has",
    "`{edge_gateway} keys rotate {key} --config {config}` has the provisioning service make a new one for this TPM; "
    "nobody brings it",
)
NEWEST_KEY_REFUSED: Final = Fault(
    "hub.newest-key-refused",
    "the hub does not take the newest key, {newest}; the gateway goes by an older one, {older}",
    "Have that key set at the hub. If it is the wrong one: `{edge_gateway} keys remove {newest} --config {config}`",
    Level.WARNING,
)
OTHER_PROOF: Final = Fault(
    "hub.other-proof",
    "the hub expects the device {device} to prove itself by {kind}, and not by a key",
    "Change its authentication in the portal to symmetric key, or configure the gateway for a certificate",
)
REGISTRY_CLOSED: Final = Fault(
    "hub.registry-closed",
    "the hub does not let the registry be read by the connection string given ({status})",
    "Give one of a policy with registry read, such as registryRead, of this hub",
)
UNAVAILABLE: Final = Fault(
    "hub.unavailable",
    "{host} is there and takes nobody now",
    "Wait; if it lasts, look at the hub's health and its quota of messages in the portal",
)
HANGS_UP: Final = Fault(
    "hub.hangs-up",
    "{host} hangs up when the gateway logs in",
    "See that it is an MQTT server, and look at its log; a broker that wants client certificates does so too",
)
LOGIN_SILENT: Final = Fault(
    "hub.login-no-answer",
    "{host} speaks TLS on port {port}, and does not answer to MQTT",
    "Check the port: another service may be behind it",
)
LOGIN_WRONG: Final = Fault(
    "broker.login-wrong",
    "the broker {host} refuses the user name or the password",
    "Check uplink.username and the content of uplink.password_file",
)
CLIENT_ID_REFUSED: Final = Fault(
    "broker.client-id-refused",
    "{host} refuses the client id {client_id}",
    "Set uplink.client_id to one the broker allows",
)
CLIENT_CERTIFICATE_EXPIRED: Final = Fault(
    "hub.client-certificate-expired",
    "the gateway's own certificate {file} has expired on {end}",
    "Have a new one made, and put it in the file's place",
)
CLIENT_CERTIFICATE_ENDS: Final = Fault(
    "hub.client-certificate-ends",
    "the gateway's own certificate {file} expires soon, on {end}",
    "Have a new one made, and put it in the file's place before that",
    Level.WARNING,
)
CLIENT_CERTIFICATE_UNUSABLE: Final = Fault(
    "hub.client-certificate-unusable",
    "the gateway's own certificate, {file}, or the key to it cannot be used: {what}",
    "Give certificate and key as PEM files that the gateway's user may read and that belong together",
)
QUOTA: Final = Fault(
    "hub.quota",
    "the hub {host} has taken all messages its tier allows in a day",
    "Wait for midnight UTC, or give the hub more units; buffer.max_message_age_s puts more readings into one message",
)
THROTTLED: Final = Fault(
    "hub.throttled", "the hub {host} is asked for too much at once", "Give it more units, or send less often"
)
MESSAGE_REFUSED: Final = Fault(
    "hub.message-refused",
    "the hub {host} does not take a message (HTTP {status})",
    "Look at the hub's health in the portal",
)
NO_HTTPS: Final = Fault(
    "hub.no-https",
    "the hub cannot be asked over HTTPS: {what}",
    "Have TCP port 443 to it allowed; MQTT does not need it",
)

API_VERSION: Final = "2021-04-12"
_LOGS_IN_WITHIN_S: Final = 6.0
_ENDS_SOON_S: Final = 30 * 86_400
"""As most who issue certificates renew them: a journey to the box can be arranged in that time."""
_TOKEN_S: Final = 300
_UNAUTHORIZED: Final = 401
_CONNECTION_REFUSED_ID, _UNAVAILABLE, _BAD_LOGIN, _NOT_AUTHORIZED = 2, 3, 4, 5
"""Return codes of a CONNACK (MQTT 3.1.1, table 3.1)."""
_REFUSED: Final = (_BAD_LOGIN, _NOT_AUTHORIZED)


class _Login(NamedTuple):
    client_id: str
    username: str | None
    password: bytes | None
    context: ssl.SSLContext


def check_client_certificate(site: Site) -> Findings:
    """Whether the gateway's own certificate is still good."""
    file = _owner(site).certificate_file
    assert file is not None  # noqa: S101 - otherwise this check does not apply
    try:
        client_context(None, *_certificate(site))
        end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    except (ConfigError, KeyStoreError) as error:
        return [CLIENT_CERTIFICATE_UNUSABLE.found(error.where, file=file, what=error.what)]
    left_s = end.timestamp() - site.clock.now_ns() / NS_PER_S
    places = {"file": str(file), "end": f"{end:%Y-%m-%d %H:%M UTC}"}
    if left_s <= 0:
        return [CLIENT_CERTIFICATE_EXPIRED.found(**places)]
    return [CLIENT_CERTIFICATE_ENDS.found(**places)] if left_s < _ENDS_SOON_S else []


def has_client_certificate(site: Site) -> bool:
    """Whether the gateway proves itself by a certificate."""
    return _owner(site).certificate_file is not None


async def check_admission(site: Site) -> Findings:
    """Whether the hub lets the gateway in."""
    if site.learnt.status is not None:
        state = site.learnt.status["uplink"]
        if state["connected"]:
            refused = site.learnt.status.get("key_store", {}).get("refused", ())
            keys = await asyncio.to_thread(_keys_to_try, site)
            in_use = next((each for each in keys if each not in refused), keys[0])
            return _if_older(site, keys[0], in_use, "its status")
        finding = OFFLINE.found("its status", what=state["fault"] or "it is about to connect")
        return [finding if site.learnt.hub is None else await _reason(site, site.learnt.hub, finding)]
    host, port = Endpoint.of(site)
    places: dict[str, Any] = {"host": host, "port": port}
    keys = await asyncio.to_thread(_keys_to_try, site)
    try:
        for stored in keys:
            login = await asyncio.to_thread(_login, site, stored)
            places["client_id"] = login.client_id
            code = await _code(site, host, port, login)
            if code not in _REFUSED:
                break
    except TimeoutError:
        return [LOGIN_SILENT.found("no CONNACK in time", **places)]
    except (OSError, EOFError) as error:
        return [HANGS_UP.found(f"{type(error).__name__} in place of a CONNACK", **places)]
    evidence = f"CONNACK {code}"
    match code:
        case 0:
            return _if_older(site, keys[0], stored, evidence)
        case _ if code == _UNAVAILABLE:
            return [UNAVAILABLE.found(evidence, **places)]
        case _ if code in _REFUSED:
            if site.learnt.hub is None:
                return [LOGIN_WRONG.found(evidence, **places)]
            known = site.learnt.hub
            refused = REFUSED.found(evidence, host=known.host_name, device=known.device_id)
            return [await _reason(site, known, refused)]
        case _ if code == _CONNECTION_REFUSED_ID:
            return [CLIENT_ID_REFUSED.found(evidence, **places)]
        case _:
            return [LOGIN_SILENT.found("what it answers is no MQTT", **places)]


async def check_message(site: Site) -> Findings:
    """Whether the hub takes a message; sends one, over HTTPS, which does not disturb a running gateway."""
    known = site.hub
    host = known.host_name
    try:
        for stored in await asyncio.to_thread(generation_names, site.keys, known.key):
            answer = await ask(
                site,
                "POST",
                f"https://{host}/devices/{quote(known.device_id, safe='')}/messages/events?api-version={API_VERSION}",
                token=await asyncio.to_thread(_device_token, site, known, stored),
                headers={"iothub-app-source": "edge-gateway-doctor"},
                body=b"[]",
                ca_file=site.config.uplink.ca_file,
            )
            if answer.status != _UNAUTHORIZED:
                break
    except UplinkError as error:
        return [NO_HTTPS.found(error.where, what=error.what)]
    places = {"host": host, "status": answer.status}
    evidence = f"HTTP {answer.status} {str(answer.body.get('Message', ''))[:80]}".rstrip()
    match answer.status:
        case 200 | 204:
            return []
        case 403:
            return [QUOTA.found(evidence, **places)]
        case 429:
            return [THROTTLED.found(evidence, **places)]
        case _:
            return [MESSAGE_REFUSED.found(evidence, **places)]


def is_to_send(site: Site) -> bool:
    """Whether a message is to be sent."""
    return site.sends


def may_send(site: Site) -> bool:
    """Whether there is a hub that is reached directly and by a key."""
    known = site.learnt.hub
    return known is not None and not known.parent and known.certificate_file is None and site.learnt.may_sign


def may_log_in(site: Site) -> bool:
    """Whether there is something to prove oneself by, or a running gateway to ask."""
    in_a_file = has_client_certificate(site) and _owner(site).certificate_key is None
    return site.is_running or site.learnt.may_sign or in_a_file


def _if_older(site: Site, newest: str, in_use: str, evidence: str) -> Findings:
    """What it means that the hub takes this key, if that is not the newest one."""
    if in_use == newest:
        return []
    tools = {"edge_gateway": site.edge_gateway, "config": site.config_argument}
    return [NEWEST_KEY_REFUSED.found(evidence, newest=newest, older=in_use, **tools)]


async def _code(site: Site, host: str, port: int, login: _Login) -> int | None:
    """What the server answers to a login: the return code of its CONNACK; None if that is none."""
    async with asyncio.timeout(_LOGS_IN_WITHIN_S), connection(site, host, port, login.context) as (reader, writer):
        writer.write(connect_packet(login.client_id, login.username, login.password))
        code = connack_code(await reader.readexactly(CONNACK_BYTES))
        writer.write(DISCONNECT)
    return code


def _keys_to_try(site: Site) -> list[str]:
    """The keys to log in by, one after the other, as the gateway does; an empty name where it goes by none."""
    if isinstance(site.config.uplink, MqttUplink) or site.hub.certificate_file is not None:
        return [""]
    return generation_names(site.keys, site.hub.key)


def _login(site: Site, stored: str) -> _Login:
    uplink = site.config.uplink
    context = client_context(uplink.ca_file, *_certificate(site))
    if not isinstance(uplink, MqttUplink):
        known = site.hub
        username = (
            f"{known.host_name}/{known.device_id}/?api-version={API_VERSION}&DeviceClientType=edge-gateway-doctor"
        )
        token = _device_token(site, known, stored).encode() if stored else None
        return _Login(known.device_id, username, token, context)
    password = uplink.password_file.read_bytes().strip() if uplink.password_file is not None else None
    return _Login(uplink.client_id or site.config.gateway.name, uplink.username, password, context)


def _owner(site: Site) -> MqttUplink | HubIdentity:
    """Who may have a certificate."""
    return site.config.uplink if isinstance(site.config.uplink, MqttUplink) else site.hub


def _certificate(site: Site) -> tuple[Path | None, Path | HeldKey | None]:
    """The gateway's own certificate and the key to it.

    Raises:
        ConfigError: the key is to be in a TPM, and the key store is none.
        KeyStoreError: there is no such key in it.
    """
    owner = _owner(site)
    if owner.certificate_key is None:
        return owner.certificate_file, owner.private_key_file
    return owner.certificate_file, tpm_of(site.keys).certificate_key(owner.certificate_key)


def _device_token(site: Site, known: HubIdentity, stored: str) -> str:
    resource = f"{known.host_name}/devices/{known.device_id}"
    expiry_s = site.clock.now_ns() // NS_PER_S + _TOKEN_S
    return sas_token(site.keys, stored, resource, expiry_s)


async def _reason(site: Site, known: HubIdentity, otherwise: Finding) -> Finding:
    """Why a hub refuses a device, as its registry says; what is known without it if nobody may read that."""
    if site.registry is None:
        return otherwise
    host, token = service_access(site.registry, site.clock.now_ns() // NS_PER_S + _TOKEN_S)
    device = known.device_id
    try:
        url = f"https://{host}/devices/{quote(device, safe='')}?api-version={API_VERSION}"
        answer = await ask(site, "GET", url, token=token, ca_file=site.config.uplink.ca_file)
    except UplinkError as error:
        return NO_HTTPS.found(error.where, what=error.what)
    places = {
        "host": host,
        "device": device,
        "key": known.key,
        "edge_gateway": site.edge_gateway,
        "config": site.config_argument,
        "status": answer.status,
    }
    match answer.status, answer.body:
        case 404, _:
            return NO_DEVICE.found("the registry", **places)
        case 200, {"status": "disabled", **others}:
            return DISABLED.found("the registry", reason=others.get("statusReason") or "none", **places)
        case 200, {"authentication": {"type": str(kind)}} if kind != "sas" and known.certificate_file is None:
            return OTHER_PROOF.found("the registry", kind={"none": "nothing"}.get(kind, "a certificate"), **places)
        case 200, {"authentication": {"symmetricKey": {"primaryKey": str(one), "secondaryKey": str(two)}}}:
            if not site.learnt.may_sign:
                return otherwise
            stored = await asyncio.to_thread(generation_names, site.keys, known.key)
            for each in stored:
                if await asyncio.to_thread(is_among, site.keys, each, (one, two), os.urandom(16)):
                    return otherwise
            bring = "import" if stored == [known.key] else "rotate"
            wrong = TPM_KEY_WRONG if known.is_by_tpm else KEY_WRONG
            return wrong.found("the registry; its keys were compared and not kept", bring=bring, **places)
        case _:
            return REGISTRY_CLOSED.found(f"HTTP {answer.status}", **places)
