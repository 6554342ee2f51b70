"""`KeyStore` and `Attester` on a TPM 2.0: what is done in which order, by the parts beside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.key_files import check_name
from edge_gateway.keystore.tpm.boot_policy import BootPolicy
from edge_gateway.keystore.tpm.certificate_key import CertificateKey
from edge_gateway.keystore.tpm.key_directory import KeyDirectory
from edge_gateway.keystore.tpm.password_file import Password
from edge_gateway.keystore.tpm.public_areas import KeyType, point_of
from edge_gateway.keystore.tpm.tcti import Tcti

_log = structlog.get_logger()

_KEY_BYTES: Final = range(16, 65)
"""HMAC-SHA256 takes 64 at most; shorter ones than 16 are no keys."""
_LONGEST_SEALED_BYTES: Final = 64
_PROBE_BYTES: Final = 32


class TpmKeyStore:
    """`KeyStore` and `Attester` on a TPM 2.0, which the first call that needs it opens. Any thread may call.

    Args:
        directory: for the wrapped keys; made with mode 0700 when the first is put.
        tcti: how to reach the TPM, e.g. `device:/dev/tpmrm0` or `swtpm:path=...`.
        srk: the kind of storage root key to make, where the TPM has none; `rsa` is what Azure's own tools make.
        endorsement: the kind of endorsement key to make, likewise; Azure's clients send RSA.
        owner_auth: gives the TPM's owner password, needed to make either; None if it has none.
        lockout_auth: gives the TPM's lockout password, needed to wipe; likewise.
        boot_policy: what is sealed opens only in a box that was started so; None: in this TPM, however it was started.
        connect: makes the way to the TPM; for tests.
        sleep: waits for so many seconds, while the TPM is busy.
        random_bytes: gives so many bytes that nobody can guess.

    Raises:
        ConfigError: tpm2-pytss is not installed, or the TCTI string is wrong.
    """

    kind: Final = "tpm"
    weakness: Final = ""

    def __init__(
        self,
        directory: Path,
        *,
        tcti: str,
        srk: KeyType = "ecc",
        endorsement: KeyType = "rsa",
        owner_auth: Password | None = None,
        lockout_auth: Password | None = None,
        boot_policy: BootPolicy | None = None,
        connect: Callable[[Tcti], Any] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._tcti = Tcti.parse(tcti)
        try:
            from edge_gateway.keystore.tpm.chip import Chip
        except ImportError as error:
            raise ConfigError(
                f"tpm2-pytss cannot be used: {error}",
                where="tpm",
                remedy="On Debian and Ubuntu: apt-get install gcc python3-dev pkg-config libtss2-dev; then "
                "pip install edge-gateway[tpm]",
            ) from error
        self._files = KeyDirectory(directory)
        self._random_bytes = random_bytes
        self._boot_policy = boot_policy
        self._chip = Chip(
            self._tcti,
            self._files,
            srk=srk,
            endorsement=endorsement,
            owner_auth=owner_auth,
            lockout_auth=lockout_auth,
            boot_policy=boot_policy,
            connect=connect,
            sleep=sleep,
        )

    def __repr__(self) -> str:
        return f"TpmKeyStore({str(self._files.path)!r}, tcti={str(self._tcti)!r})"

    def put(self, name: str, key: Secret) -> None:
        """See `KeyStore.put`. The key is encrypted on its way to the TPM."""
        self._check_free(name)
        if len(key) not in _KEY_BYTES:
            raise KeyStoreError(
                f"a key of {len(key)} bytes cannot be used", where=f"key {name!r}", remedy="Give 16 to 64 bytes"
            )
        self._files.put(self._chip.wrap_key(name, key, probe=self._random_bytes(_PROBE_BYTES)))

    def create(self, name: str) -> None:
        """See `KeyStore.create`. The key is the TPM's own random bits."""
        self._check_free(name)
        self._files.put(self._chip.make_key(name))

    def sign(self, name: str, data: bytes) -> bytes:
        """See `KeyStore.sign`. The TPM vouches for each signature: see `connection`."""
        try:
            wrapped = self._files.read(name)
        except KeyMissing:
            self._check_free(name)
            raise
        return self._chip.sign(wrapped, data)

    def create_certificate_key(self, name: str) -> CertificateKey:
        """Make a key on P-256 for a certificate, of the TPM's own random bits. It is kept like every other.

        Raises:
            KeyStoreError: the name cannot be used or is taken, or the store cannot be written.
        """
        check_name(name)
        # The certificate of the older one would be worth nothing.
        if name in (*self._files.names(), *self._files.certificate_key_names()):
            raise KeyStoreError(
                "is there already, and would be lost",
                where=f"key {name!r}",
                remedy=f"Choose another name, or remove it first: edge-gateway keys remove {name}",
            )
        self._files.put_certificate_key(self._chip.make_certificate_key(name))
        return self.certificate_key(name)

    def certificate_key(self, name: str) -> CertificateKey:
        """A key that `create_certificate_key` has made. Needs no TPM until it signs.

        Raises:
            KeyMissing: there is no such key.
            KeyStoreError: it is another kind of key, or damaged.
        """
        try:
            point = point_of(self._files.read_certificate_key(name).public)
        except KeyMissing:
            if name in self._files.names():
                raise _no_certificate_key(name) from None
            raise
        if point is None:
            raise _no_certificate_key(name)
        return CertificateKey(name, point, lambda digest: self._sign_digest(name, point, digest))

    def _sign_digest(self, name: str, point: bytes, digest: bytes) -> bytes:
        wrapped = self._files.read_certificate_key(name)
        if point_of(wrapped.public) != point:
            raise _no_certificate_key(name)
        return self._chip.sign_digest(wrapped, digest)

    def names(self) -> list[str]:
        """See `KeyStore.names`. Needs no TPM. Keys to certificates are not among them."""
        return self._files.names()

    def certificate_key_names(self) -> list[str]:
        """The names of all keys to certificates, sorted. Needs no TPM.

        Raises:
            KeyStoreError: the store cannot be read.
        """
        return self._files.certificate_key_names()

    def remove(self, name: str) -> None:
        """See `KeyStore.remove`. Needs no TPM, which cannot take back what somebody has copied: only `wipe` does."""
        self._files.remove(name)

    def seal(self, secret: Secret) -> bytes:
        """See `KeyStore.seal`. The secret is encrypted on its way to the TPM."""
        if not 1 <= len(secret) <= _LONGEST_SEALED_BYTES:
            raise KeyStoreError(
                f"a secret of {len(secret)} bytes cannot be sealed",
                where="secret",
                remedy=f"Give 1 to {_LONGEST_SEALED_BYTES} bytes",
            )
        return self._chip.seal(secret)

    def unseal(self, sealed: bytes) -> Secret:
        """See `KeyStore.unseal`. The secret is encrypted on its way from the TPM."""
        return self._chip.unseal(sealed)

    def endorsement_key(self) -> bytes:
        """See `Attester.endorsement_key`."""
        return self._chip.endorsement_key()

    def storage_root_key(self) -> bytes:
        """See `Attester.storage_root_key`."""
        return self._chip.storage_root_key()

    def import_challenge(self, name: str, challenge: bytes) -> None:
        """See `Attester.import_challenge`."""
        self._check_free(name)
        self._files.put(self._chip.take_key(name, challenge))

    def check(self) -> None:
        """See `KeyStore.check`. The TPM proves that it has the storage root key; then it holds nothing of ours.

        Raises:
            KeyStoreUnavailable: what is sealed does not open, because of the way this box was started.
        """
        self._files.check()
        self._chip.prove_root()
        if self._boot_policy is not None:
            self._chip.check_policy()

    def check_boot(self) -> None:
        """Find out whether what is sealed opens in a box that was started as this one was.

        Raises:
            KeyStoreUnavailable: it does not, and why.
        """
        self._chip.check_policy()

    def registers(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """What the boot has left in these registers of the TPM (PCRs), 32 bytes each; nobody vouches for them.

        Raises:
            KeyStoreUnavailable: the TPM does not answer now.
            KeyStoreError: it has no registers of SHA-256.
        """
        return self._chip.registers(pcrs)

    def wipe(self) -> None:
        """See `KeyStore.wipe`. The TPM is cleared, which takes all that anybody has put under its owner.

        The files go first, in the time that it takes to unlink them: whoever holds the TPM's bus could keep the answer
        back for minutes. What a step fails at keeps no other from its turn. While a wipe is not ended, the store does
        nothing else; if the TPM fails, the next call ends it. If the TPM refuses to be cleared, it has ended.
        """
        failures = [_failure_of(self._files.begin_wipe), _failure_of(self._files.delete_all)]
        try:
            refusal = self._chip.clear()
        except KeyStoreError as error:
            gone = "the key files are gone" if failures[1] is None else f"key files are left: {failures[1].what}"
            raise type(error)(
                f"{gone}; copies made before work until the TPM is cleared, which failed: {error.what}",
                where=error.where,
                remedy=f"{error.remedy}. Then wipe again: edge-gateway keys wipe",
            ) from error
        if failures[1] is None:
            self._files.end_wipe()
        _log.warning("keystore.tpm.wiped", tcti=str(self._tcti), cleared=refusal is None)
        # That the mark could not be made is no matter any more.
        for failure in (refusal, failures[1]):
            if failure is not None:
                raise failure

    def _check_free(self, name: str) -> None:
        """Refuse what cannot be a key's name, and the name of a key to a certificate."""
        check_name(name)
        if name in self._files.certificate_key_names():
            raise KeyStoreError(
                "is the key to a certificate, and signs nothing else",
                where=f"key {name!r}",
                remedy="Name the identity's symmetric key; see them by edge-gateway keys list",
            )

    def close(self) -> None:
        """See `KeyStore.close`."""
        self._chip.close()


def _failure_of(step: Callable[[], None]) -> KeyStoreError | None:
    try:
        step()
    except KeyStoreError as error:
        return error
    return None


def _no_certificate_key(name: str) -> KeyStoreError:
    return KeyStoreError(
        "is not the key to a certificate, or no longer the one it was",
        where=f"key {name!r}",
        remedy=f"Make one under a name of its own, and have it certified: edge-gateway keys csr {name}-tls",
    )
