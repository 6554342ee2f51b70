"""Who there is at a hub: its devices and modules, their keys, and what the hub knows of each beside its identity."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cryptography import x509

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.access import AccessControl
from edge_gateway.testbench.cloud.cloud_messages import CloudMessage, CloudQueue
from edge_gateway.testbench.cloud.identity import (
    Authentication,
    Identity,
    IdentityName,
    IdentityRegistry,
    SymmetricKeys,
)
from edge_gateway.testbench.cloud.tokens import POLICY_RIGHTS, Policy, Right, sas_token
from edge_gateway.testbench.cloud.twin import Twin
from edge_gateway.testbench.cloud.watched import Watched

if TYPE_CHECKING:  # a session is of a device that is here
    from edge_gateway.testbench.cloud.hub_session import HubSession


@dataclass(slots=True)
class DeviceRecord:
    """What the hub knows about a device or module, connected or not, beside its identity."""

    twin: Twin
    c2d: CloudQueue
    session: HubSession | None = None
    session_kept: bool = False
    """The last client asked for a session that outlives its connection."""
    kept_subscriptions: dict[str, int] = field(default_factory=dict)
    """What that session is subscribed to, with QoS. The SDKs do not subscribe again when they come back."""
    model_id: str = ""
    last_activity_ns: int = 0
    state_changed_ns: int = 0
    """When it last connected or disconnected; 0 for never."""


class DeviceDirectory(Watched):
    """The part of a hub that knows its devices and modules, and who may do what.

    Args:
        host_name: the hub's name in user names and tokens.
        clock: wall time, by which tokens end.
        rng: makes the keys of devices that are added without.
        on_c2d_end: called with each cloud-to-device message that has ended.
    """

    def __init__(
        self, host_name: str, *, clock: Clock, rng: random.Random, on_c2d_end: Callable[[CloudMessage], None]
    ) -> None:
        super().__init__()
        self.host_name = host_name
        self.clock = clock
        """Wall time, by which tokens end."""
        self.trusted_cas: list[x509.Certificate] = []
        """Whose device certificates are accepted for identities that prove themselves by a CA."""
        self.registry = IdentityRegistry(self._identity_changed)
        self._rng = rng
        self._on_c2d_end = on_c2d_end
        self._records: dict[IdentityName, DeviceRecord] = {}
        self.policies = {
            name: Policy(name, rights, self.new_key(), self.new_key()) for name, rights in POLICY_RIGHTS.items()
        }
        self._access = AccessControl(self.host_name, self.registry, self.policies, self.trusted_cas, self.clock)

    # Identities

    def add_device(
        self,
        device_id: str,
        primary_key: str | None = None,
        secondary_key: str | None = None,
        *,
        authentication: Authentication | None = None,
        edge: bool = False,
        scope: str = "",
    ) -> Identity:
        """Register a device; keys are base64, drawn if not given.

        Args:
            device_id: its id.
            primary_key: with `secondary_key`, for a device that signs tokens.
            secondary_key: see there.
            authentication: for one that proves itself otherwise; keys are then not taken.
            edge: it may host modules and be a parent.
            scope: the parent's, for a device behind one; an edge device gets its own.

        Raises:
            IdentityExists: the id is taken.
            BenchError: the id is not valid, or a key is not.
        """
        generation_id = str(self.clock.now_ns())
        if edge and not scope:
            scope = f"ms-azure-iot-edge://{device_id}-{generation_id}"
        if authentication is None:
            authentication = SymmetricKeys(
                primary_key if primary_key is not None else self.new_key(),
                secondary_key if secondary_key is not None else self.new_key(),
            )
        return self.registry.add(
            Identity(IdentityName(device_id), authentication, generation_id, edge=edge, scope=scope)
        )

    def add_module(
        self,
        device_id: str,
        module_id: str,
        *,
        authentication: Authentication | None = None,
        managed_by: str = "",
    ) -> Identity:
        """Register a module on a device, with drawn keys if nothing else is given.

        Raises:
            IdentityExists: the id is taken.
            IdentityNotFound: no such device.
            BenchError: the id is not valid, or the device has as many modules as it may have.
        """
        if authentication is None:
            authentication = SymmetricKeys(self.new_key(), self.new_key())
        name = IdentityName(device_id, module_id)
        return self.registry.add(Identity(name, authentication, str(self.clock.now_ns()), managed_by=managed_by))

    def remove_device(self, device_id: str) -> None:
        """Forget a device, with its modules, twins and queue, and drop its connections."""
        self.registry.remove(IdentityName(device_id))

    def remove_module(self, device_id: str, module_id: str) -> None:
        """Forget a module, with its twin, and drop its connection."""
        self.registry.remove(IdentityName(device_id, module_id))

    def set_enabled(self, device_id: str, enabled: bool) -> None:
        """Let a device connect, or drop its connection and turn it away."""
        self.registry.update(replace(self.identity(device_id), enabled=enabled))

    @property
    def device_ids(self) -> list[str]:
        """All registered devices, in the order they were added."""
        return [identity.device_id for identity in self.registry.devices()]

    def identity(self, device_id: str, module_id: str = "") -> Identity:
        """A device's or module's registry entry."""
        return self.registry.get(IdentityName(device_id, module_id))

    def record(self, name: IdentityName) -> DeviceRecord:
        """What the hub knows about a device or module beside its identity.

        Raises:
            IdentityNotFound: there is none of that name.
        """
        self.registry.get(name)
        return self._records[name]

    def is_connected(self, device_id: str, module_id: str = "") -> bool:
        """Whether the device or module has a connection now."""
        return self.record(IdentityName(device_id, module_id)).session is not None

    def forget_state(self) -> None:
        """Forget what the hub knows about devices but for their identities: twins, queues, sessions that are kept.

        For a hub that comes back from a disaster; those connected are dropped.
        """
        for name, record in self._records.items():
            if record.session is not None:
                record.session.drop("state lost")
            self._records[name] = DeviceRecord(Twin(self.clock), CloudQueue(self._on_c2d_end))
        self.changed()

    # Keys, and what is made of them

    def new_key(self) -> str:
        """A key for a device or policy, base64."""
        return base64.b64encode(self._rng.randbytes(32)).decode()

    def rotate_keys(self, device_id: str, module_id: str = "") -> Identity:
        """Give a device or module new keys and drop its connection.

        Raises:
            IdentityNotFound: no such device or module.
            BenchError: it has no keys.
        """
        identity = self.identity(device_id, module_id)
        if not isinstance(identity.authentication, SymmetricKeys):
            raise BenchError("it has no keys", where=str(identity.name), remedy="It proves itself by certificate")
        keys = SymmetricKeys(self.new_key(), self.new_key())
        identity = self.registry.update(replace(identity, authentication=keys))
        session = self._records[identity.name].session
        if session is not None:
            session.drop("keys rotated")
        return identity

    def connection_string(self, device_id: str, module_id: str = "") -> str:
        """What a device SDK is configured with. Contains the device's or module's primary key."""
        identity = self.identity(device_id, module_id)
        module = f"ModuleId={module_id};" if module_id else ""
        return f"HostName={self.host_name};DeviceId={device_id};{module}SharedAccessKey={identity.primary_key}"

    def service_connection_string(self, policy: str = "iothubowner") -> str:
        """What a service SDK is configured with. Contains the policy's primary key."""
        key = self.policies[policy].primary_key
        return f"HostName={self.host_name};SharedAccessKeyName={policy};SharedAccessKey={key}"

    def sas_token(self, device_id: str, lifetime_s: float = 3600, module_id: str = "") -> str:
        """A token as the device itself would make it, for clients that cannot sign."""
        identity = self.identity(device_id, module_id)
        expires_s = int(self.clock.now_ns() / NS_PER_S + lifetime_s)
        return sas_token(f"{self.host_name}/{identity.name.path}", identity.primary_key, expires_s)

    # Who may do what

    def admit_device(
        self, name: IdentityName, *, token: str | None, chain: Sequence[x509.Certificate] = ()
    ) -> tuple[Identity, int | None]:
        """Decide whether a client is the device or module it says it is.

        Args:
            name: who it says it is.
            token: its SAS token, if it has one.
            chain: its certificates, its own first, that TLS has seen it has the key of.

        Returns:
            The identity, and the Unix second the client's token ends at, None if it has a certificate.

        Raises:
            AccessDenied: it is not, or may not connect.
        """
        return self._access.admit_device(name, token=token, chain=chain)

    def admit_service(self, token: str, right: Right, path: str = "") -> None:
        """Decide whether a caller has a right, by a token of one of the hub's policies.

        Args:
            token: its SAS token.
            right: what it needs for what it asks for.
            path: of what it asks for, below the host name, for tokens that are for a part of the hub only.

        Raises:
            AccessDenied: it has not.
        """
        self._access.admit_service(token, right, path)

    def now_ns(self) -> int:
        """The hub's wall time, nanoseconds since 1970-01-01T00:00:00Z."""
        return self.clock.now_ns()

    def _identity_changed(self, name: IdentityName, identity: Identity | None) -> None:
        record = self._records.get(name)
        if identity is None and record is not None:
            record.c2d.purge()
            del self._records[name]
        elif record is None:
            self._records[name] = DeviceRecord(Twin(self.clock), CloudQueue(self._on_c2d_end))
        if record is not None and record.session is not None and (identity is None or not identity.enabled):
            record.session.drop("removed" if identity is None else "disabled")
        self.changed()
