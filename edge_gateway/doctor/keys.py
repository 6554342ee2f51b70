"""Whether the keys the configuration names are there, and can be used."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from edge_gateway.assembly.keys import (
    DATA_KEYS_DIRECTORY,
    KEYS_DIRECTORY,
    PAYLOAD_KEYS_DIRECTORY,
    data_keys,
    payload_key_store,
)
from edge_gateway.doctor.finding import Fault, Finding, Findings, Level
from edge_gateway.doctor.site import Site
from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore.device_keys import missing_keys
from edge_gateway.keystore.generations import Generations, newest_generation

OPEN_TO_OTHERS: Final = Fault(
    "keys.open-to-others",
    "other users may read {path} (mode {mode}), so the key store does not use it",
    "`sudo chmod go-rwx {path}`; whoever could read it has the key, so think of a new one",
)
NOT_IMPORTED: Final = Fault(
    "keys.not-imported",
    "the key {key} by which the gateway proves itself to the hub is not in the key store",
    "`{edge_gateway} keys import {key} --config {config}`, paste the device's primary key and press "
    "Ctrl-D; keys there: {known}",
)
UNUSABLE: Final = Fault("keys.unusable", "the key {key} cannot be used: {what}", "{remedy}")
STORE_UNUSABLE: Final = Fault("keys.store-unusable", "the key store cannot be used: {what}", "{remedy}")
DATA_CLOSED: Final = Fault("keys.data-closed", "what the gateway keeps on its disk does not open: {what}", "{remedy}")
PAYLOAD_KEY_MISSING: Final = Fault(
    "keys.payload-missing",
    "the link {link} cannot open what its sensors encrypt: {lack}",
    "Do what it says",
    Level.WARNING,
)


def check_modes(site: Site) -> Findings:
    """Whether keys in files are for their owner alone."""
    found: list[Finding] = []
    for name in (KEYS_DIRECTORY, DATA_KEYS_DIRECTORY, PAYLOAD_KEYS_DIRECTORY):
        directory = site.data_directory / name
        if directory.is_dir():
            found += [
                _open_to_others(path) for path in (directory, *sorted(directory.iterdir())) if _mode(path) & 0o077
            ]
    return found


def check_store(site: Site) -> Findings:
    """Whether there is a key store, and what a running gateway says of it."""
    try:
        site.keys.names()
    except (ConfigError, KeyStoreError) as error:
        return [STORE_UNUSABLE.found(error.where, what=error.what, remedy=error.remedy or "Look at the evidence")]
    told = (site.learnt.status or {}).get("key_store", {}).get("fault", "")
    return [STORE_UNUSABLE.found("its status", what=told, remedy="Do what it says")] if told else []


def check_identity_key(site: Site) -> Findings:
    """Whether the gateway can sign with its key."""
    key = site.hub.key
    if (missing := not_imported(site, key)) is not None:
        return [missing]
    if site.is_running or not site.learnt.may_sign:
        return []  # a running one signs by itself, and what it then says of the hub is told
    try:
        site.keys.sign(newest_generation(site.keys, key), b"edge-gateway doctor")
    except KeyStoreError as error:
        remedy = error.remedy or "Import it anew"
        return [UNUSABLE.found(error.where, key=key, what=error.what, remedy=remedy)]
    return []


def check_data_key(site: Site) -> Findings:
    """Whether the newest key of what is kept on the disk opens."""
    if site.is_running or not site.learnt.may_sign:
        return []
    keys = data_keys(site.config, site.keys)
    try:
        if known := keys.ids():
            keys.open(known[-1]).wipe()
    except KeyStoreError as error:
        return [DATA_CLOSED.found(error.where, what=error.what, remedy=error.remedy)]
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


def not_imported(site: Site, key: str) -> Finding | None:
    """The fault that a key is not in the store, if so."""
    known = Generations(site.keys.names())
    if known.newest(key) is not None:
        return None
    names = ", ".join(known.keys()) or "none"
    return NOT_IMPORTED.found(key=key, edge_gateway=site.edge_gateway, config=site.config_argument, known=names)


def _open_to_others(path: Path) -> Finding:
    return OPEN_TO_OTHERS.found(path=path, mode=f"{_mode(path):04o}")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
