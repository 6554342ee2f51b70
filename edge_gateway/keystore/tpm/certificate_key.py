"""A key for a certificate, as seen by whoever needs its signatures: the private part stays in the TPM.

It is an `EllipticCurvePrivateKey` as well, so that certificates and their requests are made by the library that makes
them everywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from edge_gateway.errors import KeyStoreError

_DIGEST_BYTES: Final = 32


class CertificateKey(ec.EllipticCurvePrivateKey):
    """A key on P-256 that signs and is never seen. Get it by `TpmKeyStore.certificate_key`.

    Args:
        name: its name in the key store.
        point: its public part, uncompressed (SEC 1, section 2.3.3), 65 bytes.
        sign_digest: signs 32 bytes by ECDSA, and gives DER.
    """

    def __init__(self, name: str, point: bytes, sign_digest: Callable[[bytes], bytes]) -> None:
        self.name: Final = name
        self.point: Final = point
        self._sign_digest = sign_digest

    def __repr__(self) -> str:
        return f"CertificateKey({self.name!r})"

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest, DER. May block, for a tenth of a second.

        Args:
            digest: of 32 bytes or more, of which ECDSA on P-256 takes the first 32 (FIPS 186-5, section 6.4.1).

        Raises:
            KeyStoreUnavailable: the TPM does not answer now.
            KeyStoreError: the key cannot be used, or the digest is too short.
        """
        if len(digest) < _DIGEST_BYTES:
            raise KeyStoreError(
                f"a digest of {len(digest)} bytes is not signed",
                where=f"key {self.name!r}",
                remedy="Use SHA-256 or longer",
            )
        return self._sign_digest(digest[:_DIGEST_BYTES])

    def request(self, common_name: str) -> x509.CertificateSigningRequest:
        """A request for a certificate (PKCS #10, RFC 2986).

        Args:
            common_name: whom the certificate is for: the device id at IoT Hub, the registration id at DPS.

        Raises:
            KeyStoreError: as `sign_digest`, or the signature is wrong.
        """
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self, SHA256())
        if not request.is_signature_valid:
            raise KeyStoreError(
                "the TPM signs otherwise than it should", where=f"key {self.name!r}", remedy="Do not use this TPM"
            )
        return request

    # What `cryptography` asks of a private key.

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return self.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public part."""
        return ec.EllipticCurvePublicKey.from_encoded_point(self.curve, self.point)

    def sign(self, data: bytes | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:  # type: ignore[override]  # its type is wider from one release to the next
        """ECDSA with SHA-256, DER."""
        if not isinstance(signature_algorithm.algorithm, SHA256):
            raise ValueError("a certificate key of a TPM signs by SHA-256")
        return self.sign_digest(hashlib.sha256(data).digest())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def exchange(self, *_: object) -> NoReturn:
        """Refused: it signs, and nothing else."""
        raise TypeError("a certificate key signs, and nothing else")

    def private_numbers(self) -> NoReturn:
        """Refused."""
        raise TypeError("the private part stays in the TPM")

    def private_bytes(self, *_: object) -> NoReturn:
        """Refused."""
        raise TypeError("the private part stays in the TPM")
