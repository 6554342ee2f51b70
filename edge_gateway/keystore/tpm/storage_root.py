"""The storage root key: found or made, checked, and pinned by its Name, so that no other is ever taken for it.

The Name is a hash over the public area, the key itself included. It says which TPM this is and which owner it has: one
that was cleared, or put in place of the first, has another. So has an impostor on the bus, which would offer a key of
its own to have our secrets encrypted for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_AUTH,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_SESSION,
    TSS2_Exception,
)

from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore.tpm.connection import Handle, aes_128_cfb
from edge_gateway.keystore.tpm.key_directory import KeyDirectory
from edge_gateway.keystore.tpm.password_file import Password
from edge_gateway.keystore.tpm.public_areas import (
    SRK_HANDLE,
    KeyType,
    is_storage_root,
    name_of,
    srk_template,
)
from edge_gateway.keystore.tpm.response_codes import RC_AUTH_FAIL, RC_BAD_AUTH, RC_HANDLE, base_code

_log = structlog.get_logger()


class StorageRoot:
    """Finds the storage root key of a store.

    Args:
        files: where its Name is pinned.
        kind: what to make where there is none.
        owner_auth: the TPM's owner password; only making needs it.
    """

    def __init__(self, files: KeyDirectory, kind: KeyType, owner_auth: Password | None) -> None:
        self._files = files
        self._kind: KeyType = kind
        self._owner_auth = owner_auth

    def find(self, esys: Any) -> Handle:
        """The persistent storage root key; made if there is none.

        Raises:
            KeyStoreError: it is another than before, something else is in its place, or it cannot be made.
        """
        if self._files.is_being_wiped:
            raise KeyStoreError(
                "a wipe was begun and has not ended",
                where=str(self._files.path),
                remedy="End it: edge-gateway keys wipe",
            )
        pinned = self._files.root_name()
        handle = persistent(esys, SRK_HANDLE)
        if handle is None:
            handle = self._make(esys, pinned)
        else:
            self._accept(esys, handle, pinned)
        return handle

    def _make(self, esys: Any, pinned: bytes | None) -> Handle:
        template, _ = TPM2B_PUBLIC.unmarshal(srk_template(self._kind))
        made, *_ = as_owner(
            esys,
            self._owner_auth,
            lambda session: esys.create_primary(
                in_sensitive=TPM2B_SENSITIVE_CREATE(),
                in_public=template,
                primary_handle=ESYS_TR.OWNER,
                session1=session,
            ),
        )
        try:
            self._accept(esys, made, pinned)
            handle = as_owner(
                esys,
                self._owner_auth,
                lambda session: esys.evict_control(
                    auth=ESYS_TR.OWNER, object_handle=made, persistent_handle=SRK_HANDLE, session1=session
                ),
            )
        finally:
            esys.flush_context(made)
        _log.info("keystore.tpm.storage_root_made", handle=f"0x{SRK_HANDLE:x}", kind=self._kind)
        return handle

    def _accept(self, esys: Any, handle: Handle, pinned: bytes | None) -> None:
        public = public_of(esys, handle)
        # What the library encrypts our secrets for is its own copy of the public area: of that it tells the Name.
        name = bytes(esys.tr_get_name(handle=handle))
        if not is_storage_root(public) or name_of(public) != name:
            raise KeyStoreError(
                "something else is where the storage root key belongs",
                where=f"TPM handle 0x{SRK_HANDLE:x}",
                remedy=f"See what it is: tpm2_readpublic -c 0x{SRK_HANDLE:x}. If nobody needs it, remove it: "
                f"tpm2_evictcontrol -C o -c 0x{SRK_HANDLE:x}",
            )
        if pinned is None:
            self._files.pin_root(name)
        elif name != pinned:
            raise KeyStoreError(
                "these keys belong to another TPM, or this one has been cleared since",
                where=str(self._files.root_path),
                remedy="Put the box's own TPM and disk together again; if it is gone, wipe and provision: "
                "edge-gateway keys wipe",
            )


def persistent(esys: Any, handle: int) -> Handle | None:
    """What a persistent handle holds; None if nothing."""
    try:
        return esys.tr_from_tpmpublic(handle=handle)
    except TSS2_Exception as error:
        if base_code(int(error.rc)) == RC_HANDLE:
            return None
        raise


def public_of(esys: Any, handle: Handle) -> bytes:
    """The TPM2B_PUBLIC of a loaded key, its size in front."""
    public, *_ = esys.read_public(object_handle=handle)
    return bytes(public.marshal())


@contextlib.contextmanager
def password_of(esys: Any, hierarchy: Handle, password: Password | None) -> Iterator[None]:
    """Let commands in the context prove that they know a hierarchy's password.

    Args:
        esys: the library's connection.
        hierarchy: the owner's, or that of the lockout.
        password: empty if None.
    """
    if password is not None:
        auth = TPM2B_AUTH()
        with password() as secret:
            try:
                auth.buffer = bytes(len(secret))
                auth.buffer[:] = secret.view()  # in place: the library copies it from there, and nothing else does
                esys.tr_set_auth(esys_handle=hierarchy, auth_value=auth)
            finally:
                auth.buffer[:] = bytes(len(secret))
    try:
        yield
    finally:
        esys.tr_set_auth(esys_handle=hierarchy, auth_value=None)


def as_owner(esys: Any, password: Password | None, command: Callable[[Handle], Any]) -> Any:
    """Run a command that asks for the owner's password.

    The password itself stays off the bus: it is a part of the key of the session's HMAC.

    Args:
        esys: the library's connection.
        password: empty if None.
        command: gets the session to run in.

    Raises:
        KeyStoreError: the password is another, or cannot be read.
    """
    with password_of(esys, ESYS_TR.OWNER, password):
        session = esys.start_auth_session(
            tpm_key=ESYS_TR.NONE,
            bind=ESYS_TR.NONE,
            session_type=TPM2_SE.HMAC,
            symmetric=aes_128_cfb(),
            auth_hash=TPM2_ALG.SHA256,
        )
        try:
            esys.trsess_set_attributes(session=session, attributes=TPMA_SESSION.CONTINUESESSION)
            return command(session)
        except TSS2_Exception as error:
            if base_code(int(error.rc)) in (RC_BAD_AUTH, RC_AUTH_FAIL):
                raise KeyStoreError(
                    "the TPM's owner password is another" if password else "the TPM's owner has a password",
                    where="TPM owner hierarchy",
                    remedy="Give the password that was set when the TPM was taken into ownership, in a file: "
                    "key_store.owner_password_file",
                ) from error
            raise
        finally:
            with contextlib.suppress(TSS2_Exception):  # it is gone with the TPM
                esys.flush_context(session)
