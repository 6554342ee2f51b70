"""Who may connect: the identities of devices and modules, and the registry that holds them.

An identity is a value; changing one puts another in its place, with a new etag. The registry tells its hub of each
change, so that connections of removed and disabled devices end.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.refusals import EtagMismatch, IdentityExists, IdentityNotFound
from edge_gateway.testbench.cloud.tokens import check_key

_ID = re.compile(r"[A-Za-z0-9\-:.+%_#*?!(),=@$']{1,128}")
_THUMBPRINT = re.compile(r"([0-9A-F]{40}|[0-9A-F]{64})?")
MAX_MODULES = 50
"""Of one device."""
AGENT, HUB = "$edgeAgent", "$edgeHub"
"""The modules every edge device has."""


class IdentityName(NamedTuple):
    """Names a device, or a module on it."""

    device_id: str
    module_id: str = ""
    """Empty: the device itself."""

    @property
    def path(self) -> str:
        """`devices/{device}[/modules/{module}]`, as topics and resources have it."""
        return f"devices/{self.device_id}" + (f"/modules/{self.module_id}" if self.module_id else "")

    def __str__(self) -> str:
        return f"{self.device_id}/{self.module_id}" if self.module_id else self.device_id


@dataclass(frozen=True, slots=True)
class SymmetricKeys:
    """Tokens signed with either key are valid, so that keys can be changed one at a time. Base64, 16 to 64 bytes."""

    primary: str = field(repr=False)
    secondary: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Thumbprints:
    """A client certificate with either thumbprint is valid: SHA-1 or SHA-256 of its DER, hexadecimal."""

    primary: str = ""
    secondary: str = ""


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """A client certificate is valid whose common name is the device's id and which one of the hub's CAs vouches for."""


@dataclass(frozen=True, slots=True)
class NoAuthentication:
    """Nobody can connect under this identity."""


Authentication: TypeAlias = SymmetricKeys | Thumbprints | CertificateAuthority | NoAuthentication


@dataclass(frozen=True, slots=True)
class Identity:
    """An entry of a hub's identity registry.

    Raises:
        BenchError: an id, key or thumbprint is not one.
    """

    name: IdentityName
    authentication: Authentication
    generation_id: str
    """Tells a device from a later one of the same id."""
    etag: str = ""
    enabled: bool = True
    status_reason: str = ""
    edge: bool = False
    """May host modules and be the parent of other devices."""
    scope: str = ""
    """For an edge device its own; for a device behind one, its parent's."""
    parent_scopes: tuple[str, ...] = ()
    managed_by: str = ""

    def __post_init__(self) -> None:
        for identifier in (self.device_id, *filter(None, [self.module_id])):
            if not _ID.fullmatch(identifier):
                raise BenchError(
                    "not a device id",
                    where=repr(identifier),
                    remedy="Use 1 to 128 ASCII letters, digits and - : . + % _ # * ? ! ( ) , = @ $ '",
                )
        match self.authentication:
            case SymmetricKeys(primary, secondary):
                check_key(primary, str(self.name))
                check_key(secondary, str(self.name))
            case Thumbprints(primary, secondary):
                for thumbprint in (primary, secondary):
                    if not _THUMBPRINT.fullmatch(thumbprint.upper()):
                        raise BenchError(
                            "not a thumbprint",
                            where=str(self.name),
                            remedy="Use the SHA-1 or SHA-256 of the certificate, 40 or 64 hexadecimal digits",
                        )

    @property
    def device_id(self) -> str:
        """The device, or the one the module is on."""
        return self.name.device_id

    @property
    def module_id(self) -> str:
        """The module; empty for a device."""
        return self.name.module_id

    @property
    def primary_key(self) -> str:
        """Base64.

        Raises:
            BenchError: it proves itself otherwise.
        """
        return self._keys().primary

    @property
    def secondary_key(self) -> str:
        """Base64.

        Raises:
            BenchError: it proves itself otherwise.
        """
        return self._keys().secondary

    def _keys(self) -> SymmetricKeys:
        if not isinstance(self.authentication, SymmetricKeys):
            raise BenchError("it has no keys", where=str(self.name), remedy="It proves itself by certificate")
        return self.authentication


class IdentityRegistry:
    """A hub's identities.

    Args:
        on_change: called after each change with the name and the new identity, None if it was removed.
    """

    def __init__(self, on_change: Callable[[IdentityName, Identity | None], None]) -> None:
        self._on_change = on_change
        self._identities: dict[IdentityName, Identity] = {}
        self._etags = 0

    def get(self, name: IdentityName) -> Identity:
        """Look an identity up.

        Raises:
            IdentityNotFound: there is none of that name.
        """
        identity = self._identities.get(name)
        if identity is None:
            raise IdentityNotFound("no such device or module", where=str(name), remedy="Add it to the hub")
        return identity

    def devices(self) -> list[Identity]:
        """All devices, in the order they were added."""
        return [identity for name, identity in self._identities.items() if not name.module_id]

    def modules(self, device_id: str) -> list[Identity]:
        """A device's modules, in the order they were added.

        Raises:
            IdentityNotFound: no such device.
        """
        self.get(IdentityName(device_id))
        return [
            identity for name, identity in self._identities.items() if name.module_id and name.device_id == device_id
        ]

    def add(self, identity: Identity) -> Identity:
        """Take a new identity; returned with its etag.

        Raises:
            IdentityExists: the name is taken.
            IdentityNotFound: a module's device is not there.
            BenchError: the device has as many modules as it may have.
        """
        if identity.name in self._identities:
            raise IdentityExists("it exists already", where=str(identity.name), remedy="Remove it first")
        if identity.module_id and len(self.modules(identity.device_id)) >= MAX_MODULES:
            raise BenchError(f"{MAX_MODULES} modules already", where=identity.device_id, remedy="Remove one first")
        return self._put(identity)

    def update(self, identity: Identity, etag: str | None = None) -> Identity:
        """Put an identity in the place of the one of its name; returned with its new etag.

        Args:
            identity: the new one.
            etag: of the one the caller knows; None takes any.

        Raises:
            IdentityNotFound: there is none of that name.
            EtagMismatch: it has changed since.
        """
        self._expect(identity.name, etag)
        return self._put(identity)

    def remove(self, name: IdentityName, etag: str | None = None) -> None:
        """Forget an identity, and a device's modules with it.

        Raises:
            IdentityNotFound: there is none of that name.
            EtagMismatch: it has changed since.
        """
        self._expect(name, etag)
        names = [name, *(each.name for each in ([] if name.module_id else self.modules(name.device_id)))]
        for each in reversed(names):
            del self._identities[each]
            self._on_change(each, None)

    def _expect(self, name: IdentityName, etag: str | None) -> None:
        if self.get(name).etag != etag and etag is not None:
            raise EtagMismatch("it has changed in the meantime", where=str(name), remedy="Read it again")

    def _put(self, identity: Identity) -> Identity:
        self._etags += 1
        identity = replace(identity, etag=etag(self._etags))
        self._identities[identity.name] = identity
        self._on_change(identity.name, identity)
        return identity


def etag(number: int) -> str:
    """An etag as the hub writes them: eight bytes in base64."""
    return base64.b64encode(number.to_bytes(8, "big")).decode()
