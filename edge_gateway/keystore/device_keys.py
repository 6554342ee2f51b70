"""The keys of encrypted payloads as the codec asks for them: the profile's word and a device's address, to a key.

In between stand the names: the configuration says what the key of a device is called in the store. To open one takes a
TPM a tenth of a second, so that is done off the event loop, and for all that the configuration can mean before the link
is read; they are at hand from then on. If one is missing, or the store is away, a frame that needs it has the store
looked at again, every few seconds at most. So a key may be imported while the gateway runs, and a storm of frames from
strangers costs no more than one look. A frame that came before its key was open is rejected.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

import structlog

from edge_gateway.config.devices import LinkSettings
from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import PayloadKeyStore, Secret
from edge_gateway.offload import Offload, run_inline

_log = structlog.get_logger()

LOOK_AGAIN_S: Final = 5.0
"""How long after a look into the store a new key may go unnoticed."""

OPENED_WITHIN_S: Final = 10.0
"""How long a link waits for its keys: a hundred in a TPM. Later ones are opened while it is read."""

_MOST_TOLD: Final = 1000
"""Names that are remembered as wanted, missing or unusable, to log each once."""

_NO_NAME: Final = re.compile(r"(?!)")

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


def meant_names(link: LinkSettings) -> re.Pattern[str]:
    """What matches a link's keys by the names in the store: of listed devices, and of whichever others it may hear."""
    names = [*link.keys.values(), *(name for device in link.devices for name in device.keys.values())]
    if not names:
        return _NO_NAME
    return re.compile("|".join(re.escape(name).replace(re.escape("{address}"), ".*") for name in names), re.DOTALL)


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
        meant: the names of keys that are opened before they are needed, from `meant_names`.
        offload: where the store's calls block; left out, right where a key is asked for.
    """

    def __init__(
        self,
        store: PayloadKeyStore,
        name_of: KeyNames,
        now_s: Callable[[], float],
        own: Collection[tuple[int | str | None, str]] = (),
        *,
        meant: re.Pattern[str] = _NO_NAME,
        offload: Offload = run_inline,
    ) -> None:
        self._store = store
        self._own = frozenset(own)
        self._name_of = name_of
        self._now_s = now_s
        self._meant = meant
        self._offload = offload
        # A look changes these where it runs, each by one assignment; the event loop reads them at any moment.
        self._opened: dict[str, Secret] = {}
        self._there: frozenset[str] | None = None
        """What the store had at the last look; None if it could not be told."""
        self._unusable: frozenset[str] = frozenset()
        """What could not be opened then."""
        self._is_looking = False
        self._wanted: dict[str, int | str | None] = {}
        """Names that frames have asked for since the last look, and who sent such a frame."""
        self._look_again_at_s = float("-inf")
        self._looked = asyncio.Event()
        """A look has ended, or was waited for long enough."""
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
            self._want(name, address)
            secret = self._opened.get(name)  # if the look was here and now
        if secret is None:
            return b"" if (address, key) in self._own else None
        return secret.reveal()

    def open_ahead(self) -> None:
        """Begin to open what is meant, if there is such a thing."""
        if self._meant is not _NO_NAME:
            self._look()

    async def opened(self) -> None:
        """Wait until what is meant was looked for; for seconds at most, as a store that hangs must not stop a link."""
        if self._meant is _NO_NAME or self._looked.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(OPENED_WITHIN_S):
                await self._looked.wait()
        self._looked.set()  # who has waited once waits no more

    def _look(self) -> None:
        """Open what is meant and what was wanted, as far as it is there and not open yet."""
        self._is_looking = True
        self._look_again_at_s = self._now_s() + LOOK_AGAIN_S
        wanted, self._wanted = self._wanted, {}
        self._offload(lambda: self._open_all(wanted), self._has_looked)

    def _want(self, name: str, address: int | str | None) -> None:
        if not self._is_looking:
            there = self._there
            is_new = there is not None and name in there - self._unusable
            if is_new or self._now_s() >= self._look_again_at_s:
                self._wanted[name] = address
                self._look()
                return
            if there is not None and name not in there:
                self._tell_missing(name, address)
        if len(self._wanted) < _MOST_TOLD:
            self._wanted[name] = address

    def _open_all(self, wanted: Mapping[str, int | str | None]) -> None:
        """Blocks; raises nothing that a key store does."""
        unusable: set[str] = set()
        try:
            there = frozenset(self._store.names())
            for name in sorted(there - self._opened.keys(), key=lambda name: (name not in wanted, name)):
                if name in wanted or self._meant.fullmatch(name):
                    try:
                        self._opened[name] = self._store.open_key(name)
                    except KeyStoreUnavailable:
                        raise
                    except KeyStoreError as error:
                        unusable.add(name)
                        self._tell("key.unusable", name, wanted.get(name), str(error))
            self._there = there
            for name in wanted:
                if name not in there:
                    self._tell_missing(name, wanted[name])
        except KeyStoreError as error:
            # So it would be with each of the others; the next look asks for all again.
            for name in wanted:
                self._tell("key.unusable", name, wanted.get(name), str(error))
            self._there = None
        finally:
            self._unusable = frozenset(unusable)
            self._is_looking = False

    def _has_looked(self, bug: BaseException | None) -> None:
        self._looked.set()
        if bug is not None:
            raise bug

    def _tell_missing(self, name: str, address: int | str | None) -> None:
        self._tell("key.missing", name, address, f"edge-gateway keys import {name} --payload")

    def _tell(self, event: str, name: str, address: int | str | None, remedy: str) -> None:
        if (event, name) not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add((event, name))
            _log.warning(event, key=name, address=address, remedy=remedy)
