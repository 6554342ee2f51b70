"""Keys for certificates, on P-256: made in the TPM, wrapped for the disk, and used where they are opened.

Source: TPM 2.0 Library part 3, section 20.2 (Sign); part 2, section 11.3.4 (TPMT_SIGNATURE).
"""

from __future__ import annotations

import struct
from typing import Final

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from tpm2_pytss import (
    TPM2_ALG,
    TPM2_RH,
    TPM2_ST,
    TPMT_SIG_SCHEME,
    TPMT_TK_HASHCHECK,
)

from edge_gateway.keystore.tpm.connection import Link
from edge_gateway.keystore.tpm.public_areas import certificate_key_template
from edge_gateway.keystore.tpm.signing import wrap
from edge_gateway.keystore.tpm.wrapped import Wrapped

_ALGORITHMS: Final = struct.Struct(">HH")
_SIZE: Final = struct.Struct(">H")


def make_key(link: Link, label: str) -> Wrapped:
    """Have the TPM make a key."""
    return wrap(link, label, certificate_key_template(), None)


def sign_digest(link: Link, wrapped: Wrapped, digest: bytes) -> bytes:
    """The signature of a digest of 32 bytes, DER: the key is loaded, used and taken out again."""
    session = link.session()
    with link.loaded(wrapped) as key:
        signature = link.esys.sign(
            key_handle=key,
            digest=digest,
            in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),  # the key has its own
            validation=TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL),  # it is not restricted
            session1=session,
        )
        marshalled = bytes(signature.marshal())
    r, rest = _sized(marshalled[_ALGORITHMS.size :])
    s, _ = _sized(rest)
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _sized(content: bytes) -> tuple[bytes, bytes]:
    """A TPM2B without its size, and what comes behind it."""
    (size_bytes,) = _SIZE.unpack_from(content)
    end = _SIZE.size + size_bytes
    return content[_SIZE.size : end], content[end:]
