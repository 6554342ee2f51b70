"""Identity keys: brought in or made, wrapped for the disk, and used where they are opened, in the TPM."""

from __future__ import annotations

import hmac
from typing import Final

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
)

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm.connection import Handle, Link
from edge_gateway.keystore.tpm.public_areas import key_template
from edge_gateway.keystore.tpm.wrapped import Wrapped

_MOST_AT_ONCE_BYTES: Final = 1024
"""What each TPM takes in one command (MAX_DIGEST_BUFFER). Longer data goes in parts."""


def wrap_key(link: Link, label: str, key: Secret, *, probe: bytes) -> Wrapped:
    """Wrap a key that is handed in, and see that the TPM signs with it as software does.

    Args:
        link: the connection.
        label: the key's name.
        key: at most 64 bytes.
        probe: random data to sign.

    Raises:
        KeyStoreError: the TPM signs otherwise.
    """
    wrapped = wrap(link, label, key_template(made_inside=False), key)
    if not hmac.compare_digest(sign(link, wrapped, probe), hmac.digest(key.view(), probe, "sha256")):
        raise KeyStoreError(
            "the TPM signs otherwise than it should", where=f"key {label!r}", remedy="Do not use this TPM"
        )
    return wrapped


def make_key(link: Link, label: str) -> Wrapped:
    """Have the TPM make a key."""
    return wrap(link, label, key_template(made_inside=True), None)


def sign(link: Link, wrapped: Wrapped, data: bytes) -> bytes:
    """HMAC-SHA256 of `data`: the key is loaded, used and taken out again."""
    session = link.session()
    with link.loaded(wrapped) as key:
        if len(data) <= _MOST_AT_ONCE_BYTES:
            digest = link.esys.hmac(handle=key, buffer=data, hash_alg=TPM2_ALG.SHA256, session1=session)
            return bytes(digest)
        return _sign_in_parts(link, key, data, session)


def _sign_in_parts(link: Link, key: Handle, data: bytes, session: Handle) -> bytes:
    sequence = link.esys.hmac_start(handle=key, auth=b"", hash_alg=TPM2_ALG.SHA256, session1=session)
    starts = range(0, len(data), _MOST_AT_ONCE_BYTES)
    try:
        for start in starts[:-1]:
            part = data[start : start + _MOST_AT_ONCE_BYTES]
            link.esys.sequence_update(sequence_handle=sequence, buffer=part, session1=session)
        # The sequence goes with its completion, if that succeeds.
        digest, _ = link.esys.sequence_complete(
            sequence_handle=sequence, buffer=data[starts[-1] :], hierarchy=ESYS_TR.NULL, session1=session
        )
    except BaseException:
        with link.flushed(sequence):
            raise
    return bytes(digest)


def wrap(link: Link, label: str, template: bytes, secret: Secret | None) -> Wrapped:
    """Make an object under the storage root key, and take it out, wrapped.

    Args:
        link: the connection.
        label: as in `Wrapped`.
        template: what it is, a TPM2B_PUBLIC.
        secret: what is in it; None: the TPM makes that.
    """
    sensitive = TPM2B_SENSITIVE_CREATE()
    area = sensitive.sensitive  # views into `sensitive`, which must be kept as long
    data = area.data
    try:
        if secret is not None:
            data.buffer = bytes(len(secret))
            data.buffer[:] = secret.view()  # in place: nothing else in this process ever holds it
        public, _ = TPM2B_PUBLIC.unmarshal(template)
        made = link.esys.create(
            parent_handle=link.root, in_sensitive=sensitive, in_public=public, session1=link.session(hides=True)
        )
    finally:
        if secret is not None:
            data.buffer[:] = bytes(len(secret))
    private, made_public = made[0], made[1]
    return Wrapped(label, bytes(made_public.marshal()), bytes(private.marshal()))
