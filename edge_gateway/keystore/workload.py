"""The key of an IoT Edge module, which its host holds and signs with: the workload API, over HTTP on a Unix socket.

A module has one key, its own, here called `module`. The host made it and ends it; a module can neither bring others nor
take it away. What is sealed is encrypted by the host, and opens on this host only, for this module, for as long as its
identity is not made anew:

```
"EGE" version  initialization vector | what the host has made of the secret
3     1        12
```

Source: Azure/iotedge, edgelet/api/workloadVersion_2020_07_07.yaml; edgelet/doc/workloadsockets.md.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import Final, Self

from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError
from edge_gateway.keystore.key_files import check_name
from edge_gateway.keystore.secret import Secret
from edge_gateway.keystore.workload_http import HostFailed, WorkloadHttp

MODULE_KEY: Final = "module"
LONGEST_SECRET_BYTES: Final = 64

_DIGEST_BYTES: Final = 32
_MARK: Final = b"EGE\x01"
_VECTOR: Final = slice(4, 16)
_VECTOR_BYTES: Final = 12
_MOST_SEALED_BYTES: Final = 1024
"""The host adds a tag, and might add a version."""
_VERSION: Final = "2018-06-28"
"""The API's first. It had all that is asked for here, and every host since knows it."""


class WorkloadKeyStore:
    """`KeyStore` of an IoT Edge module.

    Args:
        workload_uri: `unix:///path/of.sock`, or `http://host:port` as on old hosts.
        module_id: the module's name.
        generation_id: of its identity in the hub.
        api_version: of the workload API.
        timeout_s: for each step of a request; the host may be asking a TPM of its own.
        random_bytes: gives so many bytes that nobody can guess.

    Raises:
        ConfigError: the address is none.
    """

    kind: Final = "iot-edge"
    weakness: Final = (
        "The key is with this host's IoT Edge runtime, and as safe as that keeps it: in files, unless it was "
        "told to use a TPM"
    )

    def __init__(
        self,
        *,
        workload_uri: str,
        module_id: str,
        generation_id: str,
        api_version: str = _VERSION,
        timeout_s: float = 10.0,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._host = WorkloadHttp(
            workload_uri,
            module_id=module_id,
            generation_id=generation_id,
            api_version=api_version,
            timeout_s=timeout_s,
        )
        self._random_bytes = random_bytes

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The key store of the module whose environment this is.

        Raises:
            ConfigError: it is not that of a module.
        """
        names = ("IOTEDGE_WORKLOADURI", "IOTEDGE_MODULEID", "IOTEDGE_MODULEGENERATIONID")
        missing = [name for name in names if not environment.get(name)]
        if missing:
            raise ConfigError(
                f"this is no IoT Edge module: there is no {' and no '.join(missing)} in its environment",
                where="key_store: kind: iot-edge",
                remedy="Deploy the gateway as a module, or choose kind: tpm or software",
            )
        uri, module_id, generation_id = (environment[name] for name in names)
        return cls(
            workload_uri=uri,
            module_id=module_id,
            generation_id=generation_id,
            api_version=environment.get("IOTEDGE_APIVERSION") or _VERSION,
        )

    def __repr__(self) -> str:
        return f"WorkloadKeyStore({self._host.uri!r})"

    def put(self, name: str, key: Secret) -> None:  # noqa: ARG002  # refused, whatever it is
        """See `KeyStore.put`. Refused."""
        raise _not_ours(name, "cannot be brought into")

    def create(self, name: str) -> None:
        """See `KeyStore.create`. Refused."""
        raise _not_ours(name, "cannot be made in")

    def remove(self, name: str) -> None:
        """See `KeyStore.remove`. Refused."""
        raise _not_ours(name, "cannot be removed from")

    def names(self) -> list[str]:
        """See `KeyStore.names`."""
        return [MODULE_KEY]

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`."""
        check_name(name)
        if name != MODULE_KEY:
            raise KeyMissing(
                "there is no such key",
                where=f"key {name!r} in {self._host.uri}",
                remedy=f"An IoT Edge module has one key, its own: {MODULE_KEY}",
            )
        digest = self._host.ask("sign", {"keyId": "primary", "algo": "HMACSHA256", "data": _base64(data)}, "digest")
        if len(digest) != _DIGEST_BYTES:
            raise self._host.misunderstood(f"a digest of {len(digest)} bytes")
        return digest.reveal()

    def seal(self, secret: Secret) -> bytes:
        """See `KeyStore.seal`."""
        if not 0 < len(secret) <= LONGEST_SECRET_BYTES:
            raise KeyStoreError(
                f"a secret of {len(secret)} bytes cannot be sealed",
                where=self._host.uri,
                remedy=f"Give 1 to {LONGEST_SECRET_BYTES} bytes",
            )
        vector = self._random_bytes(_VECTOR_BYTES)
        request = {"plaintext": _base64(secret.view()), "initializationVector": _base64(vector)}
        encrypted = self._host.ask("encrypt", request, "ciphertext").reveal()
        if not 0 < len(encrypted) <= _MOST_SEALED_BYTES:
            raise self._host.misunderstood(f"{len(encrypted)} encrypted bytes")
        return _MARK + vector + encrypted

    def unseal(self, sealed: bytes) -> Secret:
        """See `KeyStore.unseal`."""
        where = f"sealed secret of {len(sealed)} bytes"
        encrypted = sealed[_VECTOR.stop :]
        if not sealed.startswith(_MARK) or not 0 < len(encrypted) <= _MOST_SEALED_BYTES:
            raise KeyStoreError(
                "is nothing that an IoT Edge host has encrypted", where=where, remedy="Bring it back from a backup"
            )
        request = {"ciphertext": _base64(encrypted), "initializationVector": _base64(sealed[_VECTOR])}
        try:
            return self._host.ask("decrypt", request, "plaintext")
        except HostFailed:
            # The host says the same of what was changed and of troubles of its own. The latter show here.
            self._check_encryption()
            raise KeyStoreError(
                "was changed, or encrypted on another host or for an earlier identity of this module",
                where=where,
                remedy="Bring it back as it was. A module that was deleted in the hub and made anew cannot open it",
            ) from None

    def check(self) -> None:
        """See `KeyStore.check`."""
        self.sign(MODULE_KEY, b"check")

    def wipe(self) -> None:
        """See `KeyStore.wipe`. Refused, as the host keeps the key; what was sealed opens for as long as it is kept."""
        raise KeyStoreError(
            "the module's key is its host's and cannot be destroyed from here",
            where=self._host.uri,
            remedy="Disable the edge device in the hub, or delete the module there; remove what was sealed",
        )

    def close(self) -> None:
        """See `KeyStore.close`. Nothing is held between calls."""

    def _check_encryption(self) -> None:
        vector = _base64(self._random_bytes(_VECTOR_BYTES))
        encrypted = self._host.ask(
            "encrypt", {"plaintext": _base64(b"check"), "initializationVector": vector}, "ciphertext"
        )
        request = {"ciphertext": _base64(encrypted.view()), "initializationVector": vector}
        self._host.ask("decrypt", request, "plaintext")


def _not_ours(name: str, what: str) -> KeyStoreError:
    check_name(name)
    return KeyStoreError(
        f"{what} an IoT Edge module, whose only key is its own",
        where=f"key {name!r}",
        remedy="For keys of sensors choose key_store: kind: tpm, or software",
    )


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()
