"""The keys of encrypted payloads as the codec asks for them: the profile's word and a device's address, to a key.

In between stand the names: the configuration says what the key of a device is called in the store. A key is read when
the first frame needs it and is at hand from then on. One that is missing is looked for again every few seconds, so a
key may be imported while the gateway runs, and a storm of frames from strangers costs no more than one look.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, TypeAlias

import structlog

from edge_gateway.config.model import LinkSettings
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import PayloadKeyStore, Secret

_log = structlog.get_logger()

LOOK_AGAIN_S: Final = 5.0
"""How long after a look into the store a new key may go unnoticed."""

_MOST_TOLD: Final = 1000
"""Names that are remembered as missing or unusable, to log each once."""

KeyNames: TypeAlias = Callable[[str, int | str | None], str | None]
"""What the key store calls a device's key, by the profile's word and the address; None if nothing names it."""


def key_names(link: LinkSettings) -> KeyNames:
    """The names a link's configuration gives: the device's own, or else the link's for all."""
    own = {(device.address, key): name for device in link.devices for key, name in device.keys.items()}
    of_all = dict(link.keys)

    def name_of(key: str, address: int | str | None) -> str | None:
        name = own.get((address, key)) or of_all.get(key)
        # Colons are for reading; a key's name has none.
        return None if name is None else name.replace("{address}", str(address).replace(":", ""))

    return name_of


def own_keys(link: LinkSettings) -> frozenset[tuple[int | str | None, str]]:
    """The devices with a key of their own in a link's configuration: their address and the profile's word."""
    return frozenset((device.address, key) for device in link.devices for key in device.keys)


def missing_keys(link: LinkSettings, needed: Collection[str], there: Collection[str]) -> list[str]:
    """What the listed devices of a link lack to be understood, a sentence for each key.

    Args:
        link: its configuration.
        needed: what its profile calls the keys.
        there: the names in the store.
    """
    name_of = key_names(link)
    lacks: list[str] = []
    for key in sorted(needed):
        addresses: list[tuple[str, int | str | None]] = [(device.name, device.address) for device in link.devices]
        if not addresses and "{address}" not in link.keys.get(key, ""):
            addresses = [("its devices", None)]
        for device, address in addresses:
            name = name_of(key, address)
            if name is None:
                lacks.append(f"nothing names the `{key}` of {device}; add it: keys: {{{key}: NAME}}")
            elif name not in there:
                lacks.append(
                    f"there is no key {name!r} yet, the `{key}` of {device}; import it: "
                    f"edge-gateway keys import {name} --payload"
                )
    return list(dict.fromkeys(lacks))


class DeviceKeys:
    """`PayloadKeys` for one link.

    Args:
        store: where the keys are.
        name_of: what the store calls each key, from `key_names`.
        now_s: a clock that only goes forward, seconds.
        own: address and word of each key that the configuration names for one device, from `own_keys`.
    """

    def __init__(
        self,
        store: PayloadKeyStore,
        name_of: KeyNames,
        now_s: Callable[[], float],
        own: Collection[tuple[int | str | None, str]] = (),
    ) -> None:
        self._store = store
        self._own = frozenset(own)
        self._name_of = name_of
        self._now_s = now_s
        self._opened: dict[str, Secret] = {}
        self._there: frozenset[str] = frozenset()
        """What the store had at the last look."""
        self._unusable: set[str] = set()
        """What could not be opened since."""
        self._look_again_at_s = float("-inf")
        self._told: set[tuple[str, str]] = set()

    def __call__(self, key: str, address: int | str | None) -> bytes | None:
        """The key for the profile's word `key` and a device.

        Empty if the configuration names one for this very device that cannot be used: then it is known to encrypt, and
        what it sends in clear is not believed. None for a device of which nothing is known.
        """
        name = self._name_of(key, address)
        if name is None:
            return None
        secret = self._opened.get(name)
        if secret is None:
            secret = self._open(name, address)
        if secret is None:
            return b"" if (address, key) in self._own else None
        return secret.reveal()

    def _open(self, name: str, address: int | str | None) -> Secret | None:
        try:
            if self._now_s() >= self._look_again_at_s:
                self._look_again_at_s = self._now_s() + LOOK_AGAIN_S
                self._unusable.clear()
                self._there = frozenset(self._store.names())
            if name in self._unusable:
                return None
            if name not in self._there:
                self._tell("key.missing", name, address, f"edge-gateway keys import {name} --payload")
                return None
            self._opened[name] = secret = self._store.open_key(name)
        except KeyStoreError as error:
            self._unusable.add(name)
            self._tell("key.unusable", name, address, str(error))
            return None
        return secret

    def _tell(self, event: str, name: str, address: int | str | None, remedy: str) -> None:
        if (event, name) not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add((event, name))
            _log.warning(event, key=name, address=address, remedy=remedy)
