"""Secrets that are sealed: kept by others, and opened by this TPM alone, if the box is as it has to be.

A sealed secret has no password: the only way to it is a policy, which a session has to show. Without a boot policy it
asks for nothing but that the command be TPM2_Unseal, so that what opens it is this TPM.

Source: TPM 2.0 Library part 3, sections 12.7 (Unseal), 23.7 (PolicyPCR), 23.11 (PolicyCommandCode) and 23.16
(PolicyAuthorize).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from tpm2_pytss import (
    ESYS_TR,
    TPM2_CC,
    TPM2B_PUBLIC,
    TPML_PCR_SELECTION,
    TPMT_SIGNATURE,
    TSS2_Exception,
)

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm.boot_approvals import pcr_selection
from edge_gateway.keystore.tpm.boot_policy import BootPolicy
from edge_gateway.keystore.tpm.connection import Handle, Link
from edge_gateway.keystore.tpm.public_areas import name_of, sealed_template
from edge_gateway.keystore.tpm.response_codes import RC_SIGNATURE, base_code
from edge_gateway.keystore.tpm.signing import wrap
from edge_gateway.keystore.tpm.wrapped import Wrapped

SEALED: Final = "sealed secret"
"""Where an error is, if it is about one."""

_LABEL: Final = ""
"""Keys have names; a sealed secret belongs to whoever keeps it."""

_NO_POLICY: Final = bytes(32)
"""What a policy session starts from."""
_CC_POLICY_COMMAND_CODE: Final = 0x0000016C
_CC_UNSEAL: Final = 0x0000015E


class Policy(Protocol):
    """What has to hold for a sealed secret to open."""

    @property
    def digest(self) -> bytes:
        """The policy as the secret carries it, 32 bytes."""
        ...

    def show(self, link: Link, session: Handle) -> None:
        """Prove in a policy session that it holds now."""
        ...


class SameTpm:
    """`Policy` that holds in the TPM that sealed."""

    digest = hashlib.sha256(_NO_POLICY + struct.pack(">II", _CC_POLICY_COMMAND_CODE, _CC_UNSEAL)).digest()

    def show(self, link: Link, session: Handle) -> None:
        """See `Policy.show`."""
        link.esys.policy_command_code(policy_session=session, code=TPM2_CC.Unseal)


class ApprovedBoot:
    """`Policy` that holds in the TPM that sealed, if the box was started as a `BootPolicy` allows."""

    def __init__(self, boot: BootPolicy) -> None:
        self._boot = boot
        self.digest = boot.digest

    def show(self, link: Link, session: Handle) -> None:
        """See `Policy.show`."""
        pcrs, _ = TPML_PCR_SELECTION.unmarshal(pcr_selection(self._boot.pcrs))
        link.esys.policy_pcr(policy_session=session, pcr_digest=b"", pcrs=pcrs)
        policy = bytes(link.esys.policy_get_digest(policy_session=session))
        signature, _ = TPMT_SIGNATURE.unmarshal(self._boot.approval_of(policy))
        public, _ = TPM2B_PUBLIC.unmarshal(self._boot.release_key)
        release_key = link.esys.load_external(in_public=public, hierarchy=ESYS_TR.OWNER)
        with link.flushed(release_key):
            try:
                ticket = link.esys.verify_signature(
                    key_handle=release_key, digest=hashlib.sha256(policy).digest(), signature=signature
                )
            except TSS2_Exception as error:
                if base_code(int(error.rc)) != RC_SIGNATURE:
                    raise
                raise KeyStoreUnavailable(
                    "the approval of this boot is not signed with the release key",
                    where=str(self._boot.approvals),
                    remedy="Install the approval that came with the release",
                ) from error
        link.esys.policy_authorize(
            policy_session=session,
            approved_policy=policy,
            policy_ref=b"",
            key_sign=name_of(self._boot.release_key),
            check_ticket=ticket,
        )


def check_policy(link: Link, policy: Policy) -> None:
    """Find out whether what is sealed under a policy opens now.

    Raises:
        KeyStoreUnavailable: it does not, and why.
    """
    with link.policy_session() as session:
        policy.show(link, session)


def registers(link: Link, pcrs: Sequence[int]) -> dict[int, bytes]:
    """What the boot has left in the TPM's registers, 32 bytes each.

    Raises:
        KeyStoreError: the TPM has no registers of SHA-256.
    """
    values = {}
    for pcr in pcrs:
        selection, _ = TPML_PCR_SELECTION.unmarshal(pcr_selection([pcr]))
        _, _, digests = link.esys.pcr_read(pcr_selection_in=selection)
        if len(digests) != 1:
            raise KeyStoreError(
                "the TPM keeps no SHA-256 of it",
                where=f"PCR {pcr}",
                remedy="Switch the bank of SHA-256 on, in the firmware's setup or by tpm2_pcrallocate",
            )
        values[pcr] = bytes(digests[0])
    return values


def seal(link: Link, secret: Secret, policy: Policy) -> bytes:
    """Wrap a secret; at most 64 bytes.

    Raises:
        KeyStoreUnavailable: the policy does not hold now. So what is sealed has opened once, and a box that was
            tampered with makes no new keys in place of those that it cannot open.
    """
    check_policy(link, policy)
    return wrap(link, _LABEL, sealed_template(policy.digest), secret).to_bytes()


def unseal(link: Link, sealed: bytes, policy: Policy) -> Secret:
    """Open what was sealed.

    Raises:
        KeyStoreUnavailable: the policy does not hold now.
        KeyStoreError: it is not what `seal` gave.
    """
    wrapped = Wrapped.from_bytes(sealed, label=_LABEL, where=SEALED)
    with link.loaded(wrapped) as item, link.policy_session() as session:
        policy.show(link, session)
        opened = link.esys.unseal(item_handle=item, session1=session)
    secret = Secret(opened.buffer)
    opened.buffer[:] = bytes(len(secret))
    return secret
