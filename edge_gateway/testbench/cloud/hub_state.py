"""What a local hub has to remember to be the same hub at its next start: a JSON document, and a file for it.

In it are identities with their keys, policies, twins, and cloud-to-device messages that have not ended. Not in it are
messages from devices, which readers have had.

The file is written a moment after each change and at the end; who kills the process loses that moment. It holds keys,
so that only its owner can read it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.cloud_messages import Ack, CloudMessage
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import (
    Authentication,
    CertificateAuthority,
    Identity,
    IdentityName,
    NoAuthentication,
    SymmetricKeys,
    Thumbprints,
)
from edge_gateway.testbench.cloud.kept_file import KeptFile
from edge_gateway.testbench.cloud.tokens import Policy
from edge_gateway.testbench.cloud.twin import Twin

FORMAT = 1


def hub_document(hub: LocalHub) -> dict[str, Any]:
    """All a hub has to remember, as JSON has it."""
    devices = hub.registry.devices()
    identities = [each for device in devices for each in (device, *hub.registry.modules(device.device_id))]
    return {
        "format": FORMAT,
        "host_name": hub.host_name,
        "policies": {name: [policy.primary_key, policy.secondary_key] for name, policy in hub.policies.items()},
        "identities": [_identity_document(hub, identity) for identity in identities],
    }


def restore(hub: LocalHub, document: Any, where: str) -> None:
    """Make a new hub the one whose document this is.

    Args:
        hub: the new one.
        document: of `hub_document`.
        where: what it was read from, for errors.

    Raises:
        BenchError: it is another hub's, of another format, or damaged.
    """
    if (
        not isinstance(document, Mapping)
        or document.get("format") != FORMAT
        or document.get("host_name") != hub.host_name
    ):
        raise BenchError(
            f"the state is not that of hub {hub.host_name}, or of another format",
            where=where,
            remedy="Start with the same host name, or in another directory",
        )
    try:
        for name, (primary, secondary) in document["policies"].items():
            hub.policies[name] = Policy(name, hub.policies[name].rights, primary, secondary)
        for entry in document["identities"]:
            _restore_identity(hub, entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"the state is damaged: {error!r}", where=where, remedy="Remove it") from error


class StateFile(KeptFile):
    """Keeps a hub's state in a file. Enter it before the hub, as an async context manager.

    Args:
        path: the file; made if it is not there.
        hub: whose state.

    Raises:
        BenchError: on entering, the file cannot be read or written, or is not this hub's.
    """

    def __init__(self, path: Path, hub: LocalHub) -> None:
        def content() -> bytes:
            return orjson.dumps(hub_document(hub), option=orjson.OPT_INDENT_2)

        super().__init__(path, content, hub.change, partial(restore, hub))


def _identity_document(hub: LocalHub, identity: Identity) -> dict[str, Any]:
    record = hub.record(identity.name)
    return {
        "name": list(identity.name),
        "authentication": _authentication_document(identity.authentication),
        "generation_id": identity.generation_id,
        "enabled": identity.enabled,
        "status_reason": identity.status_reason,
        "edge": identity.edge,
        "scope": identity.scope,
        "parent_scopes": list(identity.parent_scopes),
        "managed_by": identity.managed_by,
        "twin": record.twin.state(),
        "model_id": record.model_id,
        "session_kept": record.session_kept,
        "kept_subscriptions": record.kept_subscriptions,
        "c2d": [_message_document(message) for message in record.c2d.waiting()],
    }


def _restore_identity(hub: LocalHub, entry: Mapping[str, Any]) -> None:
    name = IdentityName(*entry["name"])
    identity = Identity(
        name,
        _authentication(entry["authentication"]),
        entry["generation_id"],
        enabled=entry["enabled"],
        status_reason=entry["status_reason"],
        edge=entry["edge"],
        scope=entry["scope"],
        parent_scopes=tuple(entry["parent_scopes"]),
        managed_by=entry["managed_by"],
    )
    hub.registry.add(identity)
    record = hub.record(name)
    record.twin = Twin.restored(entry["twin"], hub.clock)
    record.model_id = entry["model_id"]
    record.session_kept = entry["session_kept"]
    record.kept_subscriptions = dict(entry["kept_subscriptions"])
    for message in entry["c2d"]:
        hub.enqueue_c2d(
            CloudMessage(
                name.device_id,
                identity.generation_id,
                base64.b64decode(message["body"]),
                message["properties"],
                message["system_properties"],
                message["packet_id"],
                message["enqueued_ns"],
                message["expires_ns"],
                Ack(message["ack"]),
                attempts=message["attempts"],
            )
        )


def _message_document(message: CloudMessage) -> dict[str, Any]:
    return {
        "body": base64.b64encode(message.body).decode(),
        "properties": dict(message.properties),
        "system_properties": dict(message.system_properties),
        "packet_id": message.packet_id,
        "enqueued_ns": message.enqueued_ns,
        "expires_ns": message.expires_ns,
        "ack": message.ack.value,
        "attempts": message.attempts,
    }


def _authentication_document(authentication: Authentication) -> dict[str, str]:
    match authentication:
        case SymmetricKeys(primary, secondary):
            return {"kind": "keys", "primary": primary, "secondary": secondary}
        case Thumbprints(primary, secondary):
            return {"kind": "thumbprints", "primary": primary, "secondary": secondary}
        case CertificateAuthority():
            return {"kind": "ca"}
        case NoAuthentication():
            return {"kind": "none"}


def _authentication(document: Mapping[str, str]) -> Authentication:
    match document:
        case {"kind": "keys", "primary": primary, "secondary": secondary}:
            return SymmetricKeys(primary, secondary)
        case {"kind": "thumbprints", "primary": primary, "secondary": secondary}:
            return Thumbprints(primary, secondary)
        case {"kind": "ca"}:
            return CertificateAuthority()
        case {"kind": "none"}:
            return NoAuthentication()
        case _:
            raise ValueError("an unknown kind of authentication")
