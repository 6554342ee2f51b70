"""What is examined, and what has been learnt about it so far."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from edge_gateway.assembly.keys import make_key_store
from edge_gateway.clock import Clock, kernel_is_synchronized
from edge_gateway.codec import Codec
from edge_gateway.config.model import GatewayConfig
from edge_gateway.doctor.tpm_probe import TpmProbe, open_tpm
from edge_gateway.doctor.user import User, as_user
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.tpm import PasswordFile

Resolver: TypeAlias = Callable[[str], Awaitable[list[str]]]
"""The addresses of a host name; raises OSError or UnicodeError as getaddrinfo does."""

GLOBAL_PROVISIONING_HOST: Final = "global.azure-devices-provisioning.net"


async def resolve(host: str) -> list[str]:
    """The addresses of a host name, as the system's resolver gives them, without repeats.

    Raises:
        OSError: it has none, or nobody answers (`socket.gaierror`).
        UnicodeError: it cannot be a name at all.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Enrolment(NamedTuple):
    """How this gateway is known to a provisioning service."""

    id_scope: str
    registration_id: str
    key: str = "gateway"
    """Name of its symmetric key in the key store; not used with a TPM."""
    host: str = GLOBAL_PROVISIONING_HOST
    ca_file: Path | None = None
    by_tpm: bool = False
    registry: Secret | None = None
    """A connection string of the provisioning service's that may read enrolments, to hear why it refuses."""


class HubIdentity(NamedTuple):
    """Who this gateway is at which IoT hub."""

    host_name: str
    device_id: str
    key: str
    """Name of its key in the key store; not used with a certificate."""
    certificate_file: Path | None = None
    private_key_file: Path | None = None
    certificate_key: str | None = None
    """Name of the key to the certificate, if that is in a TPM."""
    parent: str = ""
    """The IoT Edge device to go through, if any."""
    is_by_tpm: bool = False
    """Whether the provisioning service makes its key, for the TPM that proves it."""


@dataclass(slots=True)
class Learnt:
    """What checks have found out that others build on."""

    config: GatewayConfig | None = None
    codecs: Mapping[str, Codec] = field(default_factory=dict)
    """By the profile's name or path as the links give it."""
    status: Mapping[str, Any] | None = None
    """Of the gateway, if it runs."""
    hub: HubIdentity | None = None
    """None if readings go to a broker."""
    keys: KeyStore | None = None
    may_sign: bool = True
    """False if the key store would have to change the TPM first, to make its storage root key."""
    addresses: tuple[str, ...] = ()
    """Of the hub."""


@dataclass(slots=True)
class Site:
    """A gateway's box. Everything the checks ask of the world beyond files and sockets comes in here.

    Args:
        config_file: the gateway's configuration.
        clock: the box's.
        user: whom the gateway runs as; None takes the owner of the data directory where root asks, and otherwise who
            asks.
        enrolment: if a provisioning service is to be asked.
        registry: a connection string of the hub's that may read its registry, to hear why it refuses a device.
        sends: whether a message may be sent to find out whether the hub takes one.
        environment: the process's.
        resolve: host names to addresses.
        is_synchronized: the kernel's word on the clock.
        open_tpm: opens a TPM by its TCTI.
        devices: where device files are.
    """

    config_file: Path
    clock: Clock
    user: User | None = None
    enrolment: Enrolment | None = None
    registry: Secret | None = None
    sends: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    resolve: Resolver = resolve
    is_synchronized: Callable[[], bool] = kernel_is_synchronized
    open_tpm: Callable[[str], TpmProbe] = open_tpm
    devices: Path = Path("/dev")
    learnt: Learnt = field(default_factory=Learnt)

    @property
    def config(self) -> GatewayConfig:
        """The configuration; there for every check that needs `configuration.file`."""
        if self.learnt.config is None:
            raise LookupError("the configuration is not loaded yet; need `configuration.file`")
        return self.learnt.config

    @property
    def data_directory(self) -> Path:
        """Where the gateway keeps everything."""
        return self.config.gateway.data_directory

    @property
    def gateway_user(self) -> User:
        """Whom the gateway runs as."""
        return self.user or User.of_gateway(self.data_directory)

    @property
    def edge_gateway(self) -> str:
        """How the program is called as the gateway's user, whose the files are that it leaves."""
        user = self.gateway_user
        program = (
            "edge-gateway" if shutil.which("edge-gateway") else str(Path(sys.executable).with_name("edge-gateway"))
        )
        return program if user.uid == os.geteuid() else f"{as_user(user.uid)} {program}"

    @property
    def config_argument(self) -> str:
        """The configuration's path, as a shell takes it."""
        return shlex.quote(str(self.config_file))

    def owner_password(self) -> Secret | None:
        """That of the TPM's owner; None if the configuration names no file with it.

        Raises:
            KeyStoreError: the file cannot be used.
        """
        file = self.config.key_store.owner_password_file
        return None if file is None else PasswordFile(file)()

    @property
    def hub(self) -> HubIdentity:
        """Who the gateway is at its IoT hub; there for checks that need `hub.identity` and apply to a hub only."""
        if self.learnt.hub is None:
            raise LookupError("readings do not go to an IoT hub")
        return self.learnt.hub

    @property
    def keys(self) -> KeyStore:
        """The key store; opened when it is first used, and closed when the examination ends.

        Only checks that need `keys.wiped` may ask for it: all others that open a wiped one end a wipe that was cut
        short, and the doctor must not.

        Raises:
            ConfigError: this box cannot have the one configured.
        """
        if self.learnt.keys is None:
            self.learnt.keys = make_key_store(self.config)
        return self.learnt.keys

    @property
    def is_running(self) -> bool:
        """Whether the gateway runs; known to every check that needs `gateway.running`."""
        return self.learnt.status is not None
