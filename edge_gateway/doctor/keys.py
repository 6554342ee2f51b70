"""Whether the keys the configuration names are there, and can be used."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from edge_gateway.assembly import KEYS_DIRECTORY, PAYLOAD_KEYS_DIRECTORY, payload_key_store
from edge_gateway.doctor.finding import Fault, Finding, Findings, Level
from edge_gateway.doctor.site import Site
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.device_keys import missing_keys
from edge_gateway.keystore.generations import Generations

OPEN_TO_OTHERS: Final = Fault(
    "keys.open-to-others",
    "other users may read {path} (mode {mode}), so the key store does not use it",
    "`sudo chmod go-rwx {path}`; whoever could read it has the key, so think of a new one",
)
NOT_IMPORTED: Final = Fault(
    "keys.not-imported",
    "the key {key} by which the gateway proves itself to the hub is not in the key store",
    "`edge-gateway keys import {key} --config {config}`, and paste the device's primary key; keys there: {known}",
)
UNUSABLE: Final = Fault("keys.unusable", "the key {key} cannot be used: {what}", "{remedy}")
STORE_UNUSABLE: Final = Fault("keys.store-unusable", "the key store cannot be used: {what}", "{remedy}")
PAYLOAD_KEY_MISSING: Final = Fault(
    "keys.payload-missing",
    "the link {link} cannot open what its sensors encrypt: {lack}",
    "Do what it says",
    Level.WARNING,
)


def check_modes(site: Site) -> Findings:
    """Whether keys in files are for their owner alone."""
    found: list[Finding] = []
    for name in (KEYS_DIRECTORY, PAYLOAD_KEYS_DIRECTORY):
        directory = site.data_directory / name
        if directory.is_dir():
            found += [
                _open_to_others(path) for path in (directory, *sorted(directory.iterdir())) if _mode(path) & 0o077
            ]
    return found


def check_identity_key(site: Site) -> Findings:
    """Whether the gateway can sign with its key."""
    key = site.hub.key
    store = site.keys
    try:
        known = store.names()
    except KeyStoreError as error:
        return [STORE_UNUSABLE.found(error.where, what=error.what, remedy=error.remedy or "Look at the evidence")]
    newest = Generations(known).newest(key)
    if newest is None:
        names = ", ".join(known) or "none"
        return [NOT_IMPORTED.found(key=key, config=site.config_file, known=names)]
    if site.is_running:
        return []  # it signs by itself, and what it then says of the hub is told
    try:
        store.sign(newest, b"edge-gateway doctor")
    except KeyStoreError as error:
        remedy = error.remedy or "Import it anew"
        return [UNUSABLE.found(error.where, key=key, what=error.what, remedy=remedy)]
    return []


def check_payload_keys(site: Site) -> Findings:
    """Whether the keys of sensors that encrypt are there."""
    names = payload_key_store(site.config, site.keys).names()
    return [
        PAYLOAD_KEY_MISSING.found(link=link.name, lack=lack)
        for link in site.config.links
        for lack in missing_keys(link, site.learnt.codecs[link.profile].profile.key_names, names)
    ]


def names_a_key(site: Site) -> bool:
    """Whether the uplink proves itself by a key of the store."""
    return site.learnt.hub is not None and site.learnt.hub.certificate_file is None


def _open_to_others(path: Path) -> Finding:
    return OPEN_TO_OTHERS.found(path=path, mode=f"{_mode(path):04o}")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
