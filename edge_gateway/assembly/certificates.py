"""Certificates whose keys stay in the TPM: the key, as long as it may be used, and TLS to the provisioning service."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from edge_gateway.assembly.keys import tpm_of
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyMissing
from edge_gateway.keystore import KeyStore

if TYPE_CHECKING:
    from edge_gateway.keystore.tpm import CertificateKey


def open_certificate_key(raw: KeyStore, keys: RevocableKeyStore, name: str) -> CertificateKey:
    """A key to a certificate, which signs until all keys are wiped. Needs no TPM until then.

    Args:
        raw: the key store.
        keys: the same, as the rest of the gateway has it.
        name: of the key.

    Raises:
        ConfigError: the keys are not in a TPM.
        KeyStoreError: there is no such key, or it is none to a certificate.
    """
    keys.refuse_if_revoked()
    if raw.kind != "tpm":
        raise ConfigError(
            f"a key that stays in the TPM is to prove the identity, and the key store is of kind {raw.kind}",
            where=f"certificate_key {name!r}",
            remedy="Say key_store: {kind: tpm}, or give the file with the key as private_key_file",
        )
    from edge_gateway.keystore.tpm import CertificateKey

    try:
        key = tpm_of(raw).certificate_key(name)
    except KeyMissing as error:
        raise KeyMissing(
            error.what, where=error.where, remedy=f"Make it, and have it certified: edge-gateway keys csr {name}"
        ) from error

    def sign_digest(digest: bytes) -> bytes:
        keys.refuse_if_revoked()
        return key.sign_digest(digest)

    return CertificateKey(name, key.point, sign_digest)


def certificate_key_names(keys: KeyStore) -> list[str]:
    """The names of all keys to certificates, sorted; none where there is no TPM.

    Raises:
        KeyStoreError: the store cannot be read.
    """
    return tpm_of(keys).certificate_key_names() if keys.kind == "tpm" else []


def certified_tls(ca_file: Path | None, certificate_file: Path, key: CertificateKey) -> ssl.SSLContext:
    """TLS to the provisioning service, under an identity that a certificate proves.

    Args:
        ca_file: certificates to trust (PEM); None for the system's.
        certificate_file: the certificate and those behind it (PEM).
        key: the key to it.

    Raises:
        ConfigError: a file is missing or cannot be used, or the certificate is not for that key.
    """
    # Imported when needed: what reads certificates takes 10 MiB, and only who has such a key takes the risk of it.
    from edge_gateway.provisioning.tls import tls_context
    from edge_gateway.uplink.tpm_tls import use_held_key

    context = tls_context(ca_file)
    if not certificate_file.is_file():
        raise ConfigError("there is no such file", where=str(certificate_file), remedy="Give the path of a PEM file")
    use_held_key(context, certificate_file, key)
    return context
