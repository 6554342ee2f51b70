"""Who may connect to an edge hub: the modules of its device, and the devices and their modules behind it.

The hub says who that is and how they prove it. An edge hub keeps what it was told, so that clients can come and go
while the hub is out of reach, for as long as that lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from cryptography import x509

from edge_gateway.clock import Clock
from edge_gateway.testbench.cloud.access import AccessControl
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import Identity, IdentityName, IdentityRegistry
from edge_gateway.testbench.cloud.refusals import AccessDenied, IdentityNotFound


class EdgeScope:
    """The scope of one edge device.

    Args:
        hub: the hub.
        device_id: the edge device.
        gateway_host_name: the edge hub's own; tokens may be for it or for the hub.
        clock: wall time, by which tokens end.
    """

    def __init__(self, hub: LocalHub, device_id: str, gateway_host_name: str, clock: Clock) -> None:
        self._hub = hub
        self._device = IdentityName(device_id)
        self._gateway_host_name = gateway_host_name
        self._clock = clock
        self._registry = hub.registry
        self._trusted_cas: Sequence[x509.Certificate] = hub.trusted_cas

    def follow(self) -> None:
        """Go by what the hub has at the moment."""
        self._registry, self._trusted_cas = self._hub.registry, self._hub.trusted_cas

    def keep(self) -> None:
        """Go by what the hub has now, whatever it has later."""
        kept = IdentityRegistry(_unnoticed)
        for device in self._hub.registry.devices():
            if self._holds(device.name, self._hub.registry):
                for identity in (device, *self._hub.registry.modules(device.device_id)):
                    kept.add(identity)
        self._registry, self._trusted_cas = kept, list(self._hub.trusted_cas)

    def admit(
        self, name: IdentityName, *, token: str | None, chain: Sequence[x509.Certificate]
    ) -> tuple[Identity, int | None]:
        """Decide whether a client may connect; see `LocalHub.admit_device`.

        Raises:
            AccessDenied: it may not.
        """
        if not self._holds(IdentityName(name.device_id), self._registry):
            raise AccessDenied("not a module of this edge device, nor a device behind it", where=str(name))
        host_name = self._hub.host_name
        if token is not None and f"sr={self._gateway_host_name}/".lower() in unquote(token).lower():
            host_name = self._gateway_host_name
        access = AccessControl(host_name, self._registry, {}, self._trusted_cas, self._clock)
        return access.admit_device(name, token=token, chain=chain)

    def _holds(self, device: IdentityName, registry: IdentityRegistry) -> bool:
        if device == self._device:
            return True
        try:
            identity, edge = registry.get(device), registry.get(self._device)
        except IdentityNotFound:
            return False
        parents = identity.parent_scopes if identity.edge else (identity.scope,)
        return bool(edge.scope) and edge.scope in parents


def _unnoticed(_: IdentityName, __: Identity | None) -> None:
    """Nobody waits for changes of what is kept."""
