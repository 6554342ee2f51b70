"""What services read and write of a hub's devices: identities and twins as JSON (REST, api-version 2021-04-12).

A document says what is known at the moment it is made. What was never set has Azure's zero time. Reading is strict
about forms and lenient about members nobody here knows, because SDKs send back all that they were given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from edge_gateway.clock import rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.identity import (
    Authentication,
    CertificateAuthority,
    Identity,
    IdentityName,
    NoAuthentication,
    SymmetricKeys,
    Thumbprints,
)
from edge_gateway.testbench.cloud.refusals import EtagMismatch
from edge_gateway.testbench.cloud.twin import Twin

if TYPE_CHECKING:  # the hub's own routes come from modules that use this one
    from edge_gateway.testbench.cloud.hub import LocalHub

_ZERO_TIME = "0001-01-01T00:00:00Z"
_READ_ONLY = ("$version", "$metadata")


class DocumentRefused(BenchError):
    """A document a service has sent cannot be used."""


def device_document(hub: LocalHub, identity: Identity) -> dict[str, Any]:
    """A device of the identity registry, with its keys."""
    record = hub.record(identity.name)
    return {
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": identity.etag,
        **_connection(hub, identity),
        "status": "enabled" if identity.enabled else "disabled",
        "statusReason": identity.status_reason or None,
        "statusUpdatedTime": _ZERO_TIME,
        "cloudToDeviceMessageCount": len(record.c2d),
        "authentication": _authentication_document(identity.authentication),
        "capabilities": {"iotEdge": identity.edge},
        **_scopes(identity),
    }


def module_document(hub: LocalHub, identity: Identity) -> dict[str, Any]:
    """A module of the identity registry, with its keys."""
    return {
        "moduleId": identity.module_id,
        "managedBy": identity.managed_by or None,
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": identity.etag,
        **_connection(hub, identity),
        "cloudToDeviceMessageCount": 0,
        "authentication": _authentication_document(identity.authentication),
    }


def twin_document(hub: LocalHub, identity: Identity, configurations: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A device's or module's twin, as services get it and queries see it.

    Args:
        hub: whose.
        identity: whose twin.
        configurations: what automatic configurations have to do with it, under the name of each.
    """
    connection = _connection(hub, identity)
    authentication = identity.authentication
    thumbprints = authentication if isinstance(authentication, Thumbprints) else Thumbprints()
    document = {
        "deviceId": identity.device_id,
        "deviceEtag": identity.etag,
        "status": "enabled" if identity.enabled else "disabled",
        "statusReason": identity.status_reason or None,
        "statusUpdateTime": _ZERO_TIME,
        "connectionState": connection["connectionState"],
        "lastActivityTime": connection["lastActivityTime"],
        "cloudToDeviceMessageCount": len(hub.record(identity.name).c2d),
        "authenticationType": _authentication_type(authentication),
        "x509Thumbprint": _thumbprints_document(thumbprints),
        "modelId": hub.record(identity.name).model_id,
        **hub.twin(identity.device_id, identity.module_id).service_document(),
    }
    if identity.module_id:
        document["moduleId"] = identity.module_id
    else:
        document |= {"capabilities": {"iotEdge": identity.edge}, **_scopes(identity)}
    if configurations:
        document["configurations"] = configurations
    return document


def identities(hub: LocalHub, modules: bool) -> Iterable[Identity]:
    """All devices of a hub, or all modules."""
    for device in hub.registry.devices():
        if modules:
            yield from hub.registry.modules(device.device_id)
        else:
            yield device


def identity_from(hub: LocalHub, name: IdentityName, document: Any, known: Identity | None = None) -> Identity:
    """The identity a service has written.

    Args:
        hub: draws keys that are left out and says the time.
        name: from the request's path, which a name in the document must not contradict.
        document: a device or a module. Members left out are as in `known`, or as in a new identity.
        known: the identity that is changed; None for a new one.

    Raises:
        DocumentRefused: it is none.
        BenchError: an id, key or thumbprint is not one.
    """
    if not isinstance(document, Mapping):
        raise _refused("not a JSON object", str(name))
    if document.get("deviceId", name.device_id) != name.device_id or document.get("moduleId") not in (
        None,
        name.module_id,
    ):
        raise _refused("the path names another device or module than the body", str(name))
    if known is None:
        known = Identity(name, NoAuthentication(), str(hub.now_ns()))
        authentication = authentication_from(hub, document.get("authentication") or {}, None, str(name))
    elif document.get("authentication") is None:
        authentication = known.authentication
    else:
        authentication = authentication_from(hub, document["authentication"], known.authentication, str(name))
    capabilities = _member(document, "capabilities", dict, {"iotEdge": known.edge}, name)
    edge: bool = capabilities.get("iotEdge", known.edge) is True
    scope = _member(document, "deviceScope", str, known.scope, name)
    parent_scopes = _member(document, "parentScopes", list, list(known.parent_scopes), name)
    if not all(isinstance(each, str) for each in parent_scopes):
        raise _refused("`parentScopes` is not a list of texts", str(name))
    return replace(
        known,
        authentication=authentication,
        enabled=_enabled(document, known.enabled, name),
        status_reason=_member(document, "statusReason", str, known.status_reason, name),
        edge=edge,
        scope=scope or (f"ms-azure-iot-edge://{name.device_id}-{known.generation_id}" if edge else ""),
        parent_scopes=tuple(parent_scopes),
        managed_by=_member(document, "managedBy", str, known.managed_by, name),
    )


def authentication_from(hub: LocalHub, document: Any, known: Authentication | None, where: str) -> Authentication:
    """How a device proves itself, as a service has written it.

    Args:
        hub: draws keys that are left out and were not there before.
        document: `{"type", "symmetricKey", "x509Thumbprint"}`; without a type thumbprints decide, as in the Node SDK.
        known: how it did so before.
        where: the device, for errors.

    Raises:
        DocumentRefused: it is none.
    """
    if not isinstance(document, Mapping):
        raise _refused("`authentication` is not a JSON object", where)
    keys, thumbprints = document.get("symmetricKey") or {}, document.get("x509Thumbprint") or {}
    if not _is_texts(keys) or not _is_texts(thumbprints):
        raise _refused("keys and thumbprints are objects of texts", where)
    kind = document.get("type") or ("selfSigned" if any(thumbprints.values()) else "sas")
    match kind:
        case "sas":
            before = known if isinstance(known, SymmetricKeys) else SymmetricKeys(hub.new_key(), hub.new_key())
            return SymmetricKeys(keys.get("primaryKey") or before.primary, keys.get("secondaryKey") or before.secondary)
        case "selfSigned":
            primary = (thumbprints.get("primaryThumbprint") or "").upper()
            return Thumbprints(primary, (thumbprints.get("secondaryThumbprint") or "").upper())
        case "certificateAuthority":
            return CertificateAuthority()
        case "none":
            return NoAuthentication()
        case _:
            raise _refused(f"authentication type {kind!r}", where, "Use sas, selfSigned, certificateAuthority or none")


def change_twin(hub: LocalHub, name: IdentityName, document: Any, *, etag: str | None, replaces: bool) -> None:
    """Write tags and desired properties; the device hears of the latter. All is written, or nothing.

    Args:
        hub: whose.
        name: whose twin.
        document: `{"tags", "properties": {"desired"}}`; what is left out stays as it is. `$version` and `$metadata` are
            skipped, so that a twin can be written as it was read.
        etag: of the twin the service knows; None takes any.
        replaces: whether the sections take the place of those there are, and are not merged into them. That those left
            out stay as they are is UNVERIFIED in this case.

    Raises:
        IdentityNotFound: there is none of that name.
        EtagMismatch: the twin has changed since.
        DocumentRefused: it is no twin.
        TwinRefused: a limit would be broken.
    """
    twin = hub.twin(name.device_id, name.module_id)
    if etag is not None and etag != twin.etag:
        raise EtagMismatch("the twin has changed in the meantime", where=str(name), remedy="Read it again")
    if not isinstance(document, Mapping):
        raise _refused("not a JSON object", str(name))
    properties = document.get("properties") or {}
    if not isinstance(properties, Mapping):
        raise _refused("`properties` is not a JSON object", str(name))
    tags, desired = _writable(document.get("tags")), _writable(properties.get("desired"))
    trial = Twin.restored(twin.state())
    if tags is not None:
        (trial.replace_tags if replaces else trial.patch_tags)(tags)
    if desired is not None:
        (trial.replace_desired if replaces else trial.patch_desired)(desired)
        change = hub.replace_desired if replaces else hub.patch_desired
        change(name.device_id, desired, name.module_id)
    if tags is not None:
        (twin.replace_tags if replaces else twin.patch_tags)(tags)
    hub.changed()


def _writable(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section  # what is no object the twin refuses
    return {name: value for name, value in section.items() if name not in _READ_ONLY}


def _connection(hub: LocalHub, identity: Identity) -> dict[str, Any]:
    record = hub.record(identity.name)
    return {
        "connectionState": "Connected" if record.session is not None else "Disconnected",
        "connectionStateUpdatedTime": _time(record.state_changed_ns),
        "lastActivityTime": _time(record.last_activity_ns),
    }


def _time(time_ns: int) -> str:
    return rfc3339(time_ns) if time_ns else _ZERO_TIME


def _scopes(identity: Identity) -> dict[str, Any]:
    scopes: dict[str, Any] = {"deviceScope": identity.scope} if identity.scope else {}
    if identity.parent_scopes:
        scopes["parentScopes"] = list(identity.parent_scopes)
    return scopes


def _authentication_type(authentication: Authentication) -> str:
    match authentication:
        case SymmetricKeys():
            return "sas"
        case Thumbprints():
            return "selfSigned"
        case CertificateAuthority():
            return "certificateAuthority"
        case NoAuthentication():
            return "none"


def _authentication_document(authentication: Authentication) -> dict[str, Any]:
    keys: dict[str, Any] = {"primaryKey": None, "secondaryKey": None}
    thumbprints = Thumbprints()
    match authentication:
        case SymmetricKeys(primary, secondary):
            keys = {"primaryKey": primary, "secondaryKey": secondary}
        case Thumbprints():
            thumbprints = authentication
    return {
        "symmetricKey": keys,
        "x509Thumbprint": _thumbprints_document(thumbprints),
        "type": _authentication_type(authentication),
    }


def _thumbprints_document(thumbprints: Thumbprints) -> dict[str, Any]:
    return {
        "primaryThumbprint": thumbprints.primary or None,
        "secondaryThumbprint": thumbprints.secondary or None,
    }


def _enabled(document: Mapping[str, Any], known: bool, name: IdentityName) -> bool:
    status: str = _member(document, "status", str, "enabled" if known else "disabled", name)
    if status not in ("enabled", "disabled"):
        raise _refused(f"status {status!r}", str(name), "Use enabled or disabled")
    return status == "enabled"


def _member(document: Mapping[str, Any], member: str, kind: type, otherwise: Any, name: IdentityName) -> Any:
    value = document.get(member)
    if value is None:
        return otherwise
    if not isinstance(value, kind):
        raise _refused(f"`{member}` is not of the right kind", str(name))
    return value


def _is_texts(document: Any) -> TypeGuard[Mapping[str, str | None]]:
    return isinstance(document, Mapping) and all(isinstance(text, str | None) for text in document.values())


def _refused(what: str, where: str, remedy: str = "See the REST reference of IoT Hub") -> DocumentRefused:
    return DocumentRefused(what, where=where, remedy=remedy)
