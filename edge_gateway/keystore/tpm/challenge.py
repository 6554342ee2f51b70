"""A provisioning service's challenge, which Azure calls `authenticationKey`: an HMAC key that one TPM can take in.

It is a row of fields, each after its size in 2 bytes, big-endian:

| # | TPM type | content |
| --- | --- | --- |
| 1 | TPM2B_ID_OBJECT | the inner key, encrypted |
| 2 | TPM2B_ENCRYPTED_SECRET | what field 1 is encrypted with, for the endorsement key |
| 3 | TPM2B_PRIVATE | the HMAC key, encrypted with the inner key, and again |
| 4 | TPM2B_ENCRYPTED_SECRET | what the outer encryption is with, for the storage root key |
| 5 | TPM2B_PUBLIC | the HMAC key's public area |
| 6 | TPM2B_DATA | not used; not always there |

Source: the fields are those of TPM 2.0 Library part 2; their order is what Azure's clients read.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Self

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.tpm.public_areas import is_hmac_key, sized

LONGEST_CHALLENGE_BYTES: Final = 4096
"""With RSA keys one takes some 800."""

_LONGEST_FIELDS_BYTES: Final = (128, 256, 512, 256, 512, LONGEST_CHALLENGE_BYTES)
"""More than keys of the sizes we use can fill, and no more than the library has room for."""

CHALLENGE: Final = "challenge"
"""Where an error is, if it is about one."""


class Challenge(NamedTuple):
    """The fields of a challenge that count, without their sizes except the public area's."""

    id_object: bytes
    credential_seed: bytes
    duplicate: bytes
    import_seed: bytes
    public: bytes
    """TPM2B_PUBLIC, its size in front."""

    @classmethod
    def parse(cls, challenge: bytes) -> Self:
        """Split a challenge.

        Raises:
            KeyStoreError: it is cut, too long, or its key cannot sign for us.
        """
        if len(challenge) > LONGEST_CHALLENGE_BYTES:
            raise challenge_refused(f"{len(challenge)} bytes, {LONGEST_CHALLENGE_BYTES} are allowed")
        fields: list[bytes] = []
        rest = challenge
        while rest and len(fields) < 6:
            size_bytes = int.from_bytes(rest[:2], "big")
            if len(rest) < 2 + size_bytes:
                raise challenge_refused(f"it ends within field {len(fields) + 1}")
            if size_bytes > _LONGEST_FIELDS_BYTES[len(fields)]:
                raise challenge_refused(f"field {len(fields) + 1} has {size_bytes} bytes")
            fields.append(rest[2 : 2 + size_bytes])
            rest = rest[2 + size_bytes :]
        if len(fields) < 5 or rest:
            raise challenge_refused("it has not 5 or 6 fields")
        public = sized(fields[4])
        if not is_hmac_key(public):
            raise challenge_refused("its key is not one for HMAC-SHA256 without a password")
        return cls(fields[0], fields[1], fields[2], fields[3], public)


def challenge_refused(what: str) -> KeyStoreError:
    """The error that says why a challenge is of no use."""
    return KeyStoreError(
        f"not a usable challenge: {what}",
        where=CHALLENGE,
        remedy="Ask the provisioning service again; its enrolment has to name this TPM's endorsement key",
    )
