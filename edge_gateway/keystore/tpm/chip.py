"""All that the key store asks of its TPM, a method each. From here on `tpm2-pytss` is loaded.

Each method waits for the TPM and raises what `Connection.run` raises, beside what it says itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import attestation, certificate_keys, sealing, signing, wiping
from edge_gateway.keystore.tpm.boot_policy import BootPolicy
from edge_gateway.keystore.tpm.challenge import CHALLENGE, Challenge
from edge_gateway.keystore.tpm.connection import Connection, Way, load_tcti
from edge_gateway.keystore.tpm.key_directory import KeyDirectory
from edge_gateway.keystore.tpm.password_file import Password
from edge_gateway.keystore.tpm.public_areas import KeyType
from edge_gateway.keystore.tpm.storage_root import StorageRoot
from edge_gateway.keystore.tpm.tcti import Tcti
from edge_gateway.keystore.tpm.wrapped import Wrapped


class Chip:
    """The TPM of a key store; the arguments are those of `TpmKeyStore`."""

    def __init__(
        self,
        tcti: Tcti,
        files: KeyDirectory,
        *,
        srk: KeyType,
        endorsement: KeyType,
        owner_auth: Password | None,
        lockout_auth: Password | None,
        boot_policy: BootPolicy | None,
        connect: Callable[[Tcti], Way] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._endorsement: KeyType = endorsement
        self._owner_auth = owner_auth
        self._lockout_auth = lockout_auth
        self._policy: sealing.Policy = sealing.ApprovedBoot(boot_policy) if boot_policy else sealing.SameTpm()
        root = StorageRoot(files, srk, owner_auth)
        self._connection = Connection(tcti, root.find, connect=connect or load_tcti, sleep=sleep)

    def wrap_key(self, name: str, key: Secret, *, probe: bytes) -> Wrapped:
        """Wrap a key that is handed in, and have it sign `probe` as a test."""
        return self._connection.run(lambda link: signing.wrap_key(link, name, key, probe=probe), where=f"key {name!r}")

    def make_key(self, name: str) -> Wrapped:
        """Make a key of 32 random bytes, and wrap it."""
        return self._connection.run(lambda link: signing.make_key(link, name), where=f"key {name!r}")

    def sign(self, key: Wrapped, data: bytes) -> bytes:
        """HMAC-SHA256 of `data`."""
        return self._connection.run(lambda link: signing.sign(link, key, data), where=f"key {key.label!r}")

    def make_certificate_key(self, name: str) -> Wrapped:
        """Make a key on P-256, and wrap it."""
        return self._connection.run(lambda link: certificate_keys.make_key(link, name), where=f"key {name!r}")

    def sign_digest(self, key: Wrapped, digest: bytes) -> bytes:
        """An ECDSA signature of a digest, DER."""
        return self._connection.run(
            lambda link: certificate_keys.sign_digest(link, key, digest), where=f"key {key.label!r}"
        )

    def seal(self, secret: Secret) -> bytes:
        """A secret of at most 64 bytes, for the disk."""
        return self._connection.run(lambda link: sealing.seal(link, secret, self._policy), where="secret")

    def unseal(self, sealed: bytes) -> Secret:
        """What was sealed."""
        return self._connection.run(lambda link: sealing.unseal(link, sealed, self._policy), where=sealing.SEALED)

    def check_policy(self) -> None:
        """Find out whether what is sealed opens now."""
        self._connection.run(lambda link: sealing.check_policy(link, self._policy), where=sealing.SEALED)

    def registers(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """What the boot has left in these registers."""
        return self._connection.run(lambda link: sealing.registers(link, pcrs), where="PCRs")

    def endorsement_key(self) -> bytes:
        """The TPM2B_PUBLIC of the endorsement key."""
        return self._connection.run(
            lambda link: attestation.endorsement_key(link, self._endorsement, self._owner_auth),
            where="endorsement key",
        )

    def storage_root_key(self) -> bytes:
        """The TPM2B_PUBLIC of the storage root key."""
        return self._connection.run(lambda link: link.root_public(), where="storage root key")

    def take_key(self, name: str, challenge: bytes) -> Wrapped:
        """Import the key of a service's challenge, and wrap it."""
        parsed = Challenge.parse(challenge)
        return self._connection.run(
            lambda link: attestation.take_key(link, name, parsed, self._endorsement, self._owner_auth),
            where=CHALLENGE,
        )

    def prove_root(self) -> None:
        """Have the TPM show that it has the storage root key; then nothing is held in it."""
        self._connection.run(lambda link: link.prove_root(), where="storage root key")

    def clear(self) -> KeyStoreError | None:
        """Clear the TPM; or why it refused."""
        try:
            return self._connection.run(lambda link: wiping.clear(link, self._lockout_auth), where="TPM")
        finally:
            self._connection.drop()

    def close(self) -> None:
        """End the connection and its thread."""
        self._connection.close()
