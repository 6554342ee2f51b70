"""What `edge-gateway keys rotate` does: a new key beside the old one. A running gateway goes over to it by itself."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from edge_gateway.api.control import NotRunning, ask_status
from edge_gateway.assembly.certificates import certificate_key_names
from edge_gateway.assembly.rotation import goes_by_provisioning, make_reregistration
from edge_gateway.clock import SystemClock
from edge_gateway.config.model import GatewayConfig
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.generations import Generations, destroy_before, newest_generation
from edge_gateway.provisioning.dps import DpsClient
from edge_gateway.provisioning.group_key import GROUP_KEY, GroupKey
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Method
from edge_gateway.provisioning.leaf_table import WantedLeaf
from edge_gateway.provisioning.leaves import LeafProvisioner, Outcome
from edge_gateway.provisioning.secret_input import SecretInput
from edge_gateway.provisioning.symmetric_keys import MOST_KEY_FILE_BYTES, keep_generation, read_key
from edge_gateway.provisioning.tls import tls_context

Told: TypeAlias = tuple[dict[str, Any], list[str]]
"""What a command answers: as JSON, and in lines."""

_BROUGHT_BY: Final[dict[Method, str]] = {
    "connection-string": "edge-gateway provision connection-string",
    "dps-symmetric-key": "edge-gateway keys rotate",
    "dps-group": "edge-gateway provision dps --method group",
    "dps-tpm": "edge-gateway keys rotate",
    "csv": "edge-gateway provision leaves --table",
}


class Service(NamedTuple):
    """Which provisioning service, and how it is reached."""

    id_scope: str
    host: str
    port: int
    ca_file: Path | None


def rotate_one(store: KeyStore, name: str, from_file: str, *, keep_file: bool) -> Told:
    """Bring a new generation of a key, and erase the file it came in.

    Raises:
        KeyStoreError: there is no key of this name yet, or the store does not take the new one.
        ConfigError: what was given is no key, or the file cannot be erased.
    """
    _check_there(store, name)
    with SecretInput(from_file, most_bytes=MOST_KEY_FILE_BYTES, keep_file=keep_file) as given:
        with read_key(given.content, where=given.where) as key:
            stored = keep_generation(store, name, key)
        note = given.erase()
    return {"key": name, "newest": stored, "notes": _notes(note)}, [f"key {name!r}: the newest is {stored}", note]


def registers_by_tpm(settings: GatewayConfig, name: str) -> bool:
    """Whether a key is one that the provisioning service makes for the gateway's TPM, and can make anew.

    Raises:
        ConfigError: the identities cannot be read.
    """
    if not goes_by_provisioning(settings):
        return False
    own = Identities(settings.gateway.data_directory / IDENTITIES_FILE).own
    return own is not None and own.key == name and own.method == "dps-tpm" and bool(own.registration)


def register_again(settings: GatewayConfig, store: KeyStore) -> Told:
    """Have the provisioning service make a new key for the gateway's TPM.

    Raises:
        ProvisioningError: the service says no, or nothing.
        KeyStoreError: the TPM does not take a key.
    """
    clock = SystemClock(settings.gateway.clock_trust)
    again = make_reregistration(settings, store, RevocableKeyStore(store), clock, random.SystemRandom())
    identity = asyncio.run(again.register())
    stored = newest_generation(store, identity.key)
    return {"key": identity.key, "newest": stored, "notes": []}, [f"key {identity.key!r}: the newest is {stored}"]


def drop_old(settings: GatewayConfig, store: KeyStore, name: str) -> Told:
    """Destroy all generations of a key but the newest.

    Raises:
        KeyStoreError: there is no such key, the gateway that runs goes by an older one as its hub does not take the
            newest, or the store cannot be written.
        GatewayError: a gateway runs, and cannot be asked.
    """
    _check_there(store, name)
    newest = newest_generation(store, name)
    if newest in _refused_by_the_hub(settings):
        raise KeyStoreError(
            "the hub does not take the newest, so the gateway needs an older one",
            where=f"key {name!r}",
            remedy=f"Have {newest} set at the hub; if it is the wrong key: edge-gateway keys remove {newest}",
        )
    destroyed = destroy_before(store, name, keep=1)
    told = f"key {name!r}: destroyed {', '.join(destroyed) or 'none, as there is only one'}"
    return {"key": name, "destroyed": destroyed}, [told]


def _refused_by_the_hub(settings: GatewayConfig) -> list[str]:
    try:
        status = asyncio.run(ask_status(settings.gateway.data_directory))
    except NotRunning:
        return []
    refused: list[str] = status["key_store"]["refused"]
    return refused


def rotate_group(
    settings: GatewayConfig, store: KeyStore, service: Service, from_file: str | None, *, keep_file: bool
) -> tuple[Told, bool]:
    """Bring new keys for all sensors that come by a group's key, derived from the group's new one.

    Returns:
        What to tell, and whether all went well.

    Raises:
        ConfigError: something is missing.
        ProvisioningError: the service cannot be used, or wants none of them. What is done is kept.
        KeyStoreError: the store cannot be used. What is done is kept.
    """
    if not service.id_scope:
        raise ConfigError("is needed", where="--id-scope", remedy="It is in the overview of the provisioning service")
    identities = Identities(settings.gateway.data_directory / IDENTITIES_FILE)
    # A group gives its devices no other ids than those they register by.
    wanted = [
        WantedLeaf(each.device, registration_id=each.device_id)
        for each in identities.leaves.values()
        if each.method == "dps-group"
    ]
    rotated = {each.device for each in wanted}
    left = {each.key: _BROUGHT_BY[each.method] for each in identities if each.key and each.device not in rotated}
    is_kept = Generations(store.names()).newest(GROUP_KEY) is not None
    with GroupKey(store, from_file, keep_file=keep_file, keep_key=is_kept) as group:
        outcome = asyncio.run(_register_again(settings, service, store, identities, group, wanted))
        note = (
            "The file with the group's key is not erased while sensors are refused; correct it and do this again"
            if outcome.refused
            else group.done(is_proven=outcome.is_group_proven)
        )
    refused = {device: str(error) for device, error in outcome.refused.items()}
    document = {"rotated": outcome.provisioned, "refused": refused, "left": sorted(left), "notes": _notes(note)}
    lines = [f"{outcome.provisioned} rotated, {len(refused)} refused"]
    lines += [f"{device}: {why}" for device, why in refused.items()]
    lines += [f"key {key!r} was brought otherwise, so bring the next likewise: {by}" for key, by in left.items()]
    return (document, [*lines, note]), not refused


async def _register_again(
    settings: GatewayConfig,
    service: Service,
    store: KeyStore,
    identities: Identities,
    group: GroupKey,
    wanted: list[WantedLeaf],
) -> Outcome:
    async with DpsClient(
        service.id_scope,
        tls=tls_context(service.ca_file, None, None),
        clock=SystemClock(settings.gateway.clock_trust),
        rng=random.SystemRandom(),
        host=service.host,
        port=service.port,
    ) as client:
        provisioner = LeafProvisioner(store, identities, client=client, derive=group.derive, again=True)
        return await provisioner.run(wanted)


def _check_there(store: KeyStore, name: str) -> None:
    generations = Generations(store.names())
    if name in certificate_key_names(store):
        raise KeyStoreError(
            "is the key to a certificate, and is not rotated",
            where=f"key {name!r}",
            remedy=f"Make one of another name, have it certified, and name both: edge-gateway keys csr {name}-2",
        )
    if not generations.of(name):
        known = ", ".join(generations.keys()) or "none"
        raise KeyMissing(
            "there is no such key to be rotated",
            where=f"key {name!r}",
            remedy=f"Keys there: {known}. The first is brought by `edge-gateway keys import` or `provision`",
        )


def _notes(note: str) -> list[str]:
    return [note] if note else []
