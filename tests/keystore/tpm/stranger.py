"""Another program on the same TPM, with keys of its own."""

from __future__ import annotations

import hashlib
from typing import Any, Self

import pytest

from edge_gateway.keystore.tpm.public_areas import key_template
from tests.keystore.tpm.backend import BlockingTpm

pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edge-gateway[tpm]")

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_SE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPMS_SENSITIVE_CREATE,
    TPMT_HA,
    TPMT_SYM_DEF,
    TSS2_Exception,
)

TPM_RC_LOCKOUT = 0x921


class Stranger:
    """Does with the TPM what it likes. A context manager."""

    def __init__(self, tpm: BlockingTpm) -> None:
        self._esys = ESAPI(tpm.tcti)
        self.handles: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._esys.close()

    def empty_the_tpm(self) -> None:
        _, data = self._esys.get_capability(capability=TPM2_CAP.HANDLES, prop=0x80000000, property_count=10)
        for handle in [int(each) for each in data.data.handles]:
            self._esys.flush_context(self._esys.tr_from_tpmpublic(handle))

    def fill_the_tpm(self) -> None:
        """A key at each of the handles there are."""
        for _ in range(3):
            self.make(key_template(made_inside=True))
        _, data = self._esys.get_capability(capability=TPM2_CAP.HANDLES, prop=0x80000000, property_count=10)
        self.handles = [int(each) for each in data.data.handles]

    def make(self, template: bytes) -> Any:
        public, _ = TPM2B_PUBLIC.unmarshal(template)
        handle, *_ = self._esys.create_primary(in_sensitive=TPM2B_SENSITIVE_CREATE(), in_public=public)
        return handle

    def take_a_place(self, what: str) -> None:
        """Of `objects` or `sessions`, for a moment."""
        if what == "objects":
            self._esys.flush_context(self.make(key_template(made_inside=True)))
            return
        symmetric = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        session = self._esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, symmetric, TPM2_ALG.SHA256)
        self._esys.flush_context(session)

    def guess_until_locked(self) -> list[int]:
        """Try wrong passwords of a key of one's own; the TPM's answers."""
        public = TPM2B_PUBLIC.parse(
            "hmac", objectAttributes="userwithauth|fixedtpm|fixedparent|sensitivedataorigin|sign"
        )
        key, *_ = self._esys.create_primary(TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(b"right")), public)
        self._esys.dictionary_attack_parameters(
            new_max_tries=2, new_recovery_time=1000, lockout_recovery=1000, lock_handle=ESYS_TR.LOCKOUT
        )
        self._esys.tr_set_auth(key, b"wrong")
        codes: list[int] = []
        while len(codes) < 10 and TPM_RC_LOCKOUT not in codes:
            try:
                self._esys.hmac(key, b"x", TPM2_ALG.SHA256)
            except TSS2_Exception as error:
                codes.append(int(error.rc))
        self._esys.flush_context(key)
        return codes

    def persist(self, made: Any, handle: int) -> None:
        self._esys.evict_control(auth=ESYS_TR.OWNER, object_handle=made, persistent_handle=handle)

    def evict(self, handle: int) -> None:
        self.persist(self._esys.tr_from_tpmpublic(handle), handle)

    def set_password(self, hierarchy: Any, password: bytes) -> None:
        self._esys.hierarchy_change_auth(auth_handle=hierarchy, new_auth=password)

    def measure(self, pcr: int, what: bytes) -> None:
        """What a stage of a boot does with the next."""
        digest = TPMT_HA(hashAlg=TPM2_ALG.SHA256)
        digest.digest.sha256 = hashlib.sha256(what).digest()
        digests = TPML_DIGEST_VALUES([digest])
        self._esys.pcr_extend(pcr_handle=ESYS_TR(pcr), digests=digests)
