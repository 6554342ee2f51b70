"""Proving which TPM this is, and taking the key that a provisioning service made for it alone.

The service sends a challenge, see there. The TPM gives its inner key only if it has the endorsement key and the storage
root key the service was told of. With it the service's HMAC key is imported, and kept wrapped like every other.

Sources: TPM 2.0 Library part 3, sections 12.5 (ActivateCredential) and 13.3 (Import); TCG EK Credential Profile for the
endorsement key and its policy.
"""

from __future__ import annotations

from typing import Any, Final

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_SYM_DEF_OBJECT,
    TSS2_Exception,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm.challenge import Challenge, challenge_refused
from edge_gateway.keystore.tpm.connection import Handle, Link
from edge_gateway.keystore.tpm.password_file import Password
from edge_gateway.keystore.tpm.public_areas import EK_HANDLE, KeyType, is_endorsement_key
from edge_gateway.keystore.tpm.response_codes import RC_FAILURE, base_code, is_about_parameter
from edge_gateway.keystore.tpm.signing import sign
from edge_gateway.keystore.tpm.storage_root import as_owner, persistent, public_of
from edge_gateway.keystore.tpm.wrapped import Wrapped

_TEMPLATES: Final = {"rsa": "EK-RSA2048", "ecc": "EK-ECC256"}


def endorsement_key(link: Link, kind: KeyType, owner_auth: Password | None) -> bytes:
    """The TPM2B_PUBLIC of the endorsement key, which is made if there is none.

    Args:
        link: the connection.
        kind: what to make.
        owner_auth: as for `StorageRoot`.

    Raises:
        KeyStoreError: something else is in its place.
    """
    public = public_of(link.esys, _endorsement_handle(link, kind, owner_auth))
    if not is_endorsement_key(public):
        raise KeyStoreError(
            "something else is where the endorsement key belongs",
            where=f"TPM handle 0x{EK_HANDLE:x}",
            remedy=f"See what it is: tpm2_readpublic -c 0x{EK_HANDLE:x}",
        )
    return public


def take_key(link: Link, name: str, challenge: Challenge, kind: KeyType, owner_auth: Password | None) -> Wrapped:
    """Import the key of a challenge under the storage root key, and see that it signs."""
    endorsement = _endorsement_handle(link, kind, owner_auth)
    try:
        with _activate(link, endorsement, challenge) as inner_key:
            private = _import(link, inner_key, challenge)
    except TSS2_Exception as error:
        if not (is_about_parameter(int(error.rc)) or base_code(int(error.rc)) == RC_FAILURE):
            raise
        # Some TPMs, libtpms among them, say that they have failed if RSA does not come out. One that has says it again.
        link.esys.read_clock()
        raise challenge_refused("it was made for another TPM, or has been changed on its way") from error
    wrapped = Wrapped(name, challenge.public, private)
    sign(link, wrapped, b"")
    return wrapped


def _import(link: Link, inner_key: Secret, challenge: Challenge) -> bytes:
    """The key under the storage root key, a TPM2B_PRIVATE."""
    public, _ = TPM2B_PUBLIC.unmarshal(challenge.public)
    private = link.esys.import_(
        parent_handle=link.root,
        encryption_key=inner_key.reveal(),
        object_public=public,
        duplicate=TPM2B_PRIVATE(challenge.duplicate),
        in_sym_seed=TPM2B_ENCRYPTED_SECRET(challenge.import_seed),
        symmetric_alg=_inner_wrapping(),
        session1=link.session(hides=True),
    )
    return bytes(private.marshal())


def _activate(link: Link, endorsement: Handle, challenge: Challenge) -> Secret:
    """The inner key, for who has both keys."""
    with link.policy_session() as session:
        # Each argument is given: releases of the library before 3.0 have no defaults here.
        link.esys.policy_secret(
            auth_handle=ESYS_TR.ENDORSEMENT,
            policy_session=session,
            nonce_tpm=b"",
            cp_hash_a=b"",
            policy_ref=b"",
            expiration=0,
        )
        inner_key = link.esys.activate_credential(
            activate_handle=link.root,
            key_handle=endorsement,
            credential_blob=TPM2B_ID_OBJECT(challenge.id_object),
            secret=TPM2B_ENCRYPTED_SECRET(challenge.credential_seed),
            session1=link.session(),
            session2=session,
        )
    return Secret(inner_key.buffer)


def _endorsement_handle(link: Link, kind: KeyType, owner_auth: Password | None) -> Handle:
    handle = persistent(link.esys, EK_HANDLE)
    if handle is not None:
        return handle
    _, template = create_ek_template(_TEMPLATES[kind], NVReadEK(link.esys))
    made, *_ = link.esys.create_primary(
        in_sensitive=TPM2B_SENSITIVE_CREATE(), in_public=template, primary_handle=ESYS_TR.ENDORSEMENT
    )
    with link.flushed(made):
        return as_owner(
            link.esys,
            owner_auth,
            lambda session: link.esys.evict_control(
                auth=ESYS_TR.OWNER, object_handle=made, persistent_handle=EK_HANDLE, session1=session
            ),
        )


def _inner_wrapping() -> Any:
    algorithm = TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.AES)
    algorithm.keyBits.sym = 128
    algorithm.mode.sym = TPM2_ALG.CFB
    return algorithm
