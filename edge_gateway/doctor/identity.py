"""Who the gateway, and its sensors, are at the hub: as the configuration says, or as provisioning has found."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.doctor.finding import Fault, Findings
from edge_gateway.doctor.site import HubIdentity, Site
from edge_gateway.errors import ConfigError
from edge_gateway.keystore.generations import Generations
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities

NOT_PROVISIONED: Final = Fault(
    "hub.not-provisioned",
    "this gateway has no identity at a hub yet",
    "`{edge_gateway} provision connection-string --config {config}`, paste the device's primary connection string from "
    "the portal and press Ctrl-D; with a provisioning service: `{edge_gateway} provision dps --help`",
)
IDENTITIES_UNREADABLE: Final = Fault("hub.identities-unreadable", "{file} cannot be used: {what}", "{remedy}")
LEAF_KEY_MISSING: Final = Fault(
    "keys.leaf-missing",
    "the keys of {count} sensors that have an identity of their own are not in the key store: {devices}",
    "Provision these sensors again as it was done before: by their table, `{edge_gateway} provision leaves --table "
    "FILE --config {config}`, or by their group's key, `{edge_gateway} provision leaves --id-scope SCOPE --from-file "
    "FILE --config {config}`",
)

_MOST_TOLD: Final = 5


def check_identity(site: Site) -> Findings:
    """Find out who the gateway is at the hub."""
    uplink = site.config.uplink
    if not isinstance(uplink, IotHubUplink):
        return []
    parent = uplink.gateway_host_name or ""
    if uplink.host_name is not None and uplink.device_id is not None:
        certificate = (uplink.certificate_file, uplink.private_key_file, uplink.certificate_key)
        site.learnt.hub = HubIdentity(uplink.host_name, uplink.device_id, uplink.key, *certificate, parent)
        return []
    path = site.data_directory / IDENTITIES_FILE
    try:
        own = Identities(path).own
    except ConfigError as error:
        return [IDENTITIES_UNREADABLE.found(error.where, file=path, what=error.what, remedy=error.remedy)]
    if own is None:
        return [
            NOT_PROVISIONED.found(
                f"nothing of the gateway in {path}", edge_gateway=site.edge_gateway, config=site.config_argument
            )
        ]
    site.learnt.hub = HubIdentity(
        own.host_name,
        own.device_id,
        own.key or uplink.key,
        Path(own.certificate_file) if own.certificate_file else None,
        Path(own.private_key_file) if own.private_key_file else None,
        own.certificate_key or None,
        own.gateway_host_name or parent,
        own.method == "dps-tpm" and bool(own.registration),
    )
    return []


def check_leaves(site: Site) -> Findings:
    """Whether the keys of sensors with an identity of their own are there."""
    path = site.data_directory / IDENTITIES_FILE
    try:
        leaves = Identities(path).leaves
    except ConfigError:
        return []  # told by the check before, where it matters
    if not leaves:
        return []
    there = Generations(site.keys.names())
    missing = [device for device, identity in leaves.items() if identity.key and there.newest(identity.key) is None]
    if not missing:
        return []
    more = f" and {len(missing) - _MOST_TOLD} more" if len(missing) > _MOST_TOLD else ""
    return [
        LEAF_KEY_MISSING.found(
            count=len(missing),
            devices=", ".join(missing[:_MOST_TOLD]) + more,
            edge_gateway=site.edge_gateway,
            config=site.config_argument,
        )
    ]
