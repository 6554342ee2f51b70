"""Under which name at which provisioning service a gateway is registered, so that it can register again by itself.

Nothing of it is secret. It is kept with the identity, as the service's own address of it:

```
https://global.azure-devices-provisioning.net/0ne00000001/registrations/plant-3
```
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edge_gateway.errors import ConfigError

HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True)
class Registration:
    """One device's."""

    id_scope: str
    """Tells the customer's service from all others."""
    registration_id: str
    """The service's name for the device."""
    host: str
    """The service's."""
    port: int = HTTPS_PORT
    """The service's."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust in place of the system's."""

    @property
    def address(self) -> str:
        """As it is kept; without `ca_file`."""
        host = self.host.lower()
        origin = host if self.port == HTTPS_PORT else f"{host}:{self.port}"
        name = urllib.parse.quote(self.registration_id, safe="")
        return f"https://{origin}/{self.id_scope}/registrations/{name}"

    @classmethod
    def parse(cls, address: str, ca_file: Path | None = None) -> Self:
        """What an address says.

        Args:
            address: of `Registration.address`.
            ca_file: see `Registration.ca_file`.

        Raises:
            ConfigError: it is none.
        """
        try:
            parts = urllib.parse.urlsplit(address)
            empty, id_scope, word, name = parts.path.split("/")
            port = parts.port or HTTPS_PORT
        except ValueError:
            raise _no_registration(address) from None
        registration = cls(id_scope, urllib.parse.unquote(name), parts.hostname or "", port, ca_file)
        # Whatever else an address may have, a user name for instance, is not in what it is written as.
        if empty or word != "registrations" or not (id_scope and name) or registration.address != address:
            raise _no_registration(address)
        return registration


def _no_registration(address: str) -> ConfigError:
    return ConfigError(
        "is no registration at a provisioning service",
        where=repr(address[:200]),
        remedy="Provision again: edge-gateway provision dps",
    )
