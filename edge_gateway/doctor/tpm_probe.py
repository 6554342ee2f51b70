"""Looks at a TPM and changes nothing in it: what is made for a look is taken out again.

`tpm2-pytss` is loaded by `open_tpm` and not before. An open probe belongs to the thread that opened it.

Source: TPM 2.0 Library part 2, section 6.13 (TPM_PT) and 8.4 (TPMA_PERMANENT).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Protocol, Self

from edge_gateway.errors import GatewayError
from edge_gateway.keystore import Secret

PERMANENT: Final = 0x200
LOADED_SESSIONS_FREE: Final = 0x204
TRANSIENT_FREE: Final = 0x207
PERSISTENT_FREE: Final = 0x209
LOCKOUT_COUNTER: Final = 0x20E
MOST_TRIES: Final = 0x20F
LOCKOUT_INTERVAL_S: Final = 0x210

IN_LOCKOUT: Final = 1 << 9
"""Of `PERMANENT`."""

TRANSIENT_HANDLES: Final = 0x80000000
PERSISTENT_HANDLES: Final = 0x81000000
SESSION_HANDLES: Final = (0x02000000, 0x03000000)

RC_INITIALIZE: Final = 0x100
RC_FAILURE: Final = 0x101

_LAYER: Final = 0x00FF0000
_LAYERS_OF_THE_WAY: Final = (0x000A0000, 0x000D0000, 0x000E0000)
"""TCTI, and the loader of TCTI libraries (TSS 2.0 Overview and Common Structures, section 3; tss2_common.h)."""
_MOST_PROPERTIES: Final = 64
_MOST_HANDLES: Final = 64


class TpmFailed(GatewayError):
    """A TPM, or the way to it, answered with a code.

    Args:
        what: as in `GatewayError`.
        code: of the TPM, or of a layer of the software stack.
        where: as in `GatewayError`.
        remedy: as in `GatewayError`.
    """

    def __init__(self, what: str, *, code: int = 0, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.code = code

    @property
    def is_of_the_way(self) -> bool:
        """Whether it is not the TPM that failed but what leads there (TCTI, or the loader of its libraries)."""
        return self.code & _LAYER in _LAYERS_OF_THE_WAY


class TpmLibraryMissing(GatewayError):
    """The Python library for TPMs is not installed."""


class TpmProbe(Protocol):
    """An open connection to a TPM, to look. Every method may raise `TpmFailed`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def properties(self) -> Mapping[int, int]:
        """The variable properties, by their numbers."""
        ...

    def handles(self, first: int) -> list[int]:
        """What is held in the TPM, from this handle on."""
        ...

    def public(self, handle: int) -> bytes | None:
        """The TPM2B_PUBLIC of a persistent object; None if there is none."""
        ...

    def made_root(self, template: bytes, owner_auth: Secret | None) -> bytes | None:
        """The TPM2B_PUBLIC of the storage root key it makes of a template; None if the owner's password is another."""
        ...

    def made_endorsement_key(self) -> bytes:
        """The TPM2B_PUBLIC of the endorsement key it makes of the maker's template (RSA)."""
        ...

    def owner_accepts(self, owner_auth: Secret | None) -> bool:
        """Whether this is the owner's password. A wrong one counts towards no lock."""
        ...


def open_tpm(tcti: str) -> TpmProbe:
    """Open a TPM by its TCTI, e.g. `device:/dev/tpmrm0`.

    Raises:
        TpmLibraryMissing: the extra `tpm` is not installed.
        TpmFailed: it does not answer.
    """
    os.environ.setdefault("TSS2_LOG", "all+NONE")  # read when the library is loaded; it would write to our stderr
    try:
        import tpm2_pytss
    except (ImportError, RuntimeError) as error:  # RuntimeError: the system's library is missing or too old
        raise TpmLibraryMissing(
            f"the library for TPMs cannot be loaded ({error})",
            where="tpm2-pytss",
            remedy="`sudo apt install libtss2-dev gcc python3-dev pkg-config`, then `pip install 'edge-gateway[tpm]'`",
        ) from error
    return _EsysProbe(tpm2_pytss, tcti)


class _EsysProbe:
    """By the TSS's ESAPI."""

    def __init__(self, tss: Any, tcti: str) -> None:
        self._tss = tss
        self._tcti = tcti
        with self._codes():
            self._way = tss.TCTILdr(*tcti.partition(":")[::2])
            try:
                self._esys = tss.ESAPI(self._way)
                self._esys.read_clock()
            except BaseException:
                self._way.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._esys.close()
        self._way.close()

    def properties(self) -> Mapping[int, int]:
        with self._codes():
            _, data = self._esys.get_capability(
                capability=self._tss.TPM2_CAP.TPM_PROPERTIES, prop=PERMANENT, property_count=_MOST_PROPERTIES
            )
            return {int(each.property): int(each.value) for each in data.data.tpmProperties}

    def handles(self, first: int) -> list[int]:
        with self._codes():
            _, data = self._esys.get_capability(
                capability=self._tss.TPM2_CAP.HANDLES, prop=first, property_count=_MOST_HANDLES
            )
            return [int(each) for each in data.data.handles]

    def public(self, handle: int) -> bytes | None:
        if handle not in self.handles(handle):
            return None
        with self._codes():
            return self._public_of(self._esys.tr_from_tpmpublic(handle=handle))

    def made_root(self, template: bytes, owner_auth: Secret | None) -> bytes | None:
        if not self.owner_accepts(owner_auth):
            return None
        return self._made(template, self._tss.ESYS_TR.OWNER, owner_auth)

    def made_endorsement_key(self) -> bytes:
        from tpm2_pytss.utils import NVReadEK, create_ek_template

        with self._codes():
            _, template = create_ek_template("EK-RSA2048", NVReadEK(self._esys))
        return self._made(bytes(template.marshal()), self._tss.ESYS_TR.ENDORSEMENT, None)

    def owner_accepts(self, owner_auth: Secret | None) -> bool:
        tss = self._tss

        def show(session: Any) -> None:
            with self._auth(tss.ESYS_TR.OWNER, owner_auth):
                self._esys.policy_secret(auth_handle=tss.ESYS_TR.OWNER, policy_session=session, expiration=0)

        with self._codes():
            session = self._esys.start_auth_session(
                tpm_key=tss.ESYS_TR.NONE,
                bind=tss.ESYS_TR.NONE,
                session_type=tss.TPM2_SE.TRIAL,
                symmetric=tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
                auth_hash=tss.TPM2_ALG.SHA256,
            )
            try:
                show(session)
            except tss.TSS2_Exception as error:
                if int(error.error) in (int(tss.TPM2_RC.BAD_AUTH), int(tss.TPM2_RC.AUTH_FAIL)):
                    return False
                raise
            finally:
                self._esys.flush_context(session)
        return True

    def _made(self, template: bytes, hierarchy: Any, auth: Secret | None) -> bytes:
        public, _ = self._tss.TPM2B_PUBLIC.unmarshal(template)
        with self._codes(), self._auth(hierarchy, auth):
            handle, *_ = self._esys.create_primary(
                in_sensitive=self._tss.TPM2B_SENSITIVE_CREATE(), in_public=public, primary_handle=hierarchy
            )
            try:
                return self._public_of(handle)
            finally:
                self._esys.flush_context(handle)

    def _public_of(self, handle: Any) -> bytes:
        public, *_ = self._esys.read_public(object_handle=handle)
        return bytes(public.marshal())

    @contextmanager
    def _auth(self, handle: Any, auth: Secret | None) -> Iterator[None]:
        self._esys.tr_set_auth(esys_handle=handle, auth_value=auth.reveal() if auth is not None else None)
        try:
            yield
        finally:
            self._esys.tr_set_auth(esys_handle=handle, auth_value=None)

    @contextmanager
    def _codes(self) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except self._tss.TSS2_Exception as error:
            raise TpmFailed(f"the TPM answers: {error}", code=int(error.rc), where=self._tcti) from error
