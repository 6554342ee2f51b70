"""A client certificate for TLS whose private key stays where it is, as in a TPM.

Python's `ssl` takes a key from a file and no other way. OpenSSL below it asks a key's *method* for each signature, and
lets who makes the key bring his own. So a key is made here that has the public part only, and a method that calls us.
It is given to the `SSL_CTX` that an `ssl.SSLContext` holds; from there on all is as ever, with TLS 1.2 and 1.3.

For this we read one pointer out of CPython's memory and call the OpenSSL that `ssl` itself is linked with. Both hold
for the interpreters in `_CPYTHONS`; each time it is made sure that they do before anything is changed, and another
interpreter is refused (`why_not`). A handshake waits for the signature, in whatever thread it runs.

Sources: OpenSSL 3.0, EC_KEY_METHOD_new(3), EC_KEY_set_method(3), SSL_CTX_use_PrivateKey(3); CPython, Modules/_ssl.c,
`PySSLContext`, whose first member is the `SSL_CTX *`.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import ssl
import sys
import sysconfig
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from edge_gateway.errors import ConfigError, KeyStoreError

_log = structlog.get_logger()

_CPYTHONS: Final = ((3, 11), (3, 12), (3, 13))
"""In which the pointer is where we look for it."""

_NID_P256: Final = 415
"""NID_X9_62_prime256v1, openssl/obj_mac.h."""
_SIGNATURE_BYTES: Final = range(8, 73)
"""Of ECDSA on P-256 in DER; OpenSSL has made room for the longest."""

_SIGN: Final = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_int, c_void_p, POINTER(c_uint), c_void_p, c_void_p, c_void_p)
"""`int (*sign)(int type, const unsigned char *dgst, int dlen, unsigned char *sig, unsigned int *siglen,
const BIGNUM *kinv, const BIGNUM *r, EC_KEY *eckey)`"""

_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "OpenSSL_version": (c_char_p, (c_int,)),
    "ERR_clear_error": (None, ()),
    "EC_KEY_OpenSSL": (c_void_p, ()),
    "EC_KEY_METHOD_new": (c_void_p, (c_void_p,)),
    "EC_KEY_METHOD_free": (None, (c_void_p,)),
    "EC_KEY_METHOD_get_sign": (None, (c_void_p, POINTER(c_void_p), POINTER(c_void_p), POINTER(c_void_p))),
    "EC_KEY_METHOD_set_sign": (None, (c_void_p, _SIGN, c_void_p, c_void_p)),
    "EC_KEY_new_by_curve_name": (c_void_p, (c_int,)),
    "EC_KEY_set_method": (c_int, (c_void_p, c_void_p)),
    "EC_KEY_oct2key": (c_int, (c_void_p, c_char_p, c_size_t, c_void_p)),
    "EC_KEY_free": (None, (c_void_p,)),
    "EVP_PKEY_new": (c_void_p, ()),
    "EVP_PKEY_set1_EC_KEY": (c_int, (c_void_p, c_void_p)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "SSL_CTX_get_options": (c_uint64, (c_void_p,)),
    "SSL_CTX_use_certificate_chain_file": (c_int, (c_void_p, c_char_p)),
    "SSL_CTX_use_PrivateKey": (c_int, (c_void_p, c_void_p)),
    "SSL_CTX_check_private_key": (c_int, (c_void_p,)),
}
"""What each function returns and takes, as OpenSSL 3.0 declares it."""

_kept: Final[list[object]] = []
"""What OpenSSL calls and does not count: a callback for each context. A process makes a handful, and none goes."""


class HeldKey(Protocol):
    """A key on P-256 that whoever holds it does not give away."""

    @property
    def name(self) -> str:
        """For errors and the log."""
        ...

    @property
    def point(self) -> bytes:
        """Its public part, uncompressed (SEC 1, section 2.3.3), 65 bytes."""
        ...

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA over a digest of 32 bytes or more, DER. May block; any thread may call.

        Raises:
            KeyStoreError: it cannot sign.
        """
        ...


def why_not() -> str:
    """Why this interpreter cannot use such a key; empty if it can."""
    return _refusal(sys.implementation.name, sys.version_info[:2], bool(sysconfig.get_config_var("Py_GIL_DISABLED")))


def use_held_key(context: ssl.SSLContext, certificate_file: Path, key: HeldKey) -> None:
    """Have a context show a certificate, and prove that it has the key to it.

    Args:
        context: of a client; not in use yet.
        certificate_file: the certificate and those behind it (PEM), without a key.
        key: that the certificate is for.

    Raises:
        ConfigError: this interpreter cannot do so, the file is no certificate, or it is for another key.
    """
    if reason := why_not():
        raise ConfigError(
            f"a key that stays in the TPM cannot be used with this Python: {reason}",
            where=sys.executable,
            remedy="Run the gateway with the system's Python 3.11 to 3.13, or prove the identity by a symmetric key",
        )
    openssl, pointer = _openssl(), _pointer_in(context)
    if openssl.SSL_CTX_use_certificate_chain_file(pointer, str(certificate_file).encode()) != 1:
        openssl.ERR_clear_error()
        raise ConfigError(
            "cannot be used as PEM certificate",
            where=str(certificate_file),
            remedy="Give the certificate and those behind it, up to one that the other side trusts",
        )
    callback = _SIGN(_signer(key))
    private_key, method = _private_key(key, callback)
    is_taken = False
    try:
        is_taken = openssl.SSL_CTX_use_PrivateKey(pointer, private_key) == 1
        if not is_taken or openssl.SSL_CTX_check_private_key(pointer) != 1:
            openssl.ERR_clear_error()
            raise ConfigError(
                f"the certificate is not for the key {key.name!r}",
                where=str(certificate_file),
                remedy=f"Have that key certified: edge-gateway keys csr {key.name}",
            )
    finally:
        openssl.EVP_PKEY_free(private_key)  # the context holds it now, if it has taken it
        if is_taken:
            _kept.append(callback)
        else:
            # A gateway with a wrong certificate tries it again every minute, for months.
            openssl.EC_KEY_METHOD_free(method)


def _refusal(implementation: str, version: tuple[int, ...], is_free_threaded: bool) -> str:
    if implementation != "cpython" or version not in _CPYTHONS:
        return f"it is {implementation} {'.'.join(map(str, version))}, which nobody has tried"
    if is_free_threaded:
        return "it is a free-threaded build, which nobody has tried"
    if not ssl.OPENSSL_VERSION.startswith("OpenSSL 3."):
        return f"it is built with {ssl.OPENSSL_VERSION}, and this needs OpenSSL 3"
    if not hasattr(_ssl, "__file__"):
        return "its OpenSSL is built in, and cannot be called"
    try:
        openssl = _openssl()
    except (OSError, AttributeError) as error:
        return f"its OpenSSL cannot be called ({error})"
    if openssl.OpenSSL_version(0).decode() != ssl.OPENSSL_VERSION:
        return "its OpenSSL is not the one that was found"
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if openssl.SSL_CTX_get_options(_pointer_in(probe)) != int(probe.options) & 0xFFFFFFFFFFFFFFFF:
        return "its contexts are laid out otherwise than known"
    return ""


@functools.cache
def _openssl() -> ctypes.CDLL:
    """The OpenSSL that `ssl` itself is linked with: a symbol is looked for in a module's own libraries, too.

    Raises:
        OSError: the module cannot be opened.
        AttributeError: a function is not there; in a module that has OpenSSL within itself, none is.
    """
    library = ctypes.CDLL(_ssl.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _pointer_in(context: ssl.SSLContext) -> int:
    """The `SSL_CTX *` of a context: the first member behind what every object begins with."""
    return c_void_p.from_address(id(context) + object.__basicsize__).value or 0


def _private_key(key: HeldKey, callback: Any) -> tuple[int, int]:
    """An `EVP_PKEY *` that has the public part, and its `EC_KEY_METHOD *`, which calls back for signatures.

    The caller frees the former, and the latter if nothing holds the former then.
    """
    openssl = _openssl()
    setup, sign_signature = c_void_p(), c_void_p()
    method = openssl.EC_KEY_METHOD_new(openssl.EC_KEY_OpenSSL())
    openssl.EC_KEY_METHOD_get_sign(method, byref(c_void_p()), byref(setup), byref(sign_signature))
    openssl.EC_KEY_METHOD_set_sign(method, callback, setup, sign_signature)
    ec_key = openssl.EC_KEY_new_by_curve_name(_NID_P256)
    try:
        private_key = openssl.EVP_PKEY_new()
        if not (
            openssl.EC_KEY_set_method(ec_key, method) == 1
            and openssl.EC_KEY_oct2key(ec_key, key.point, len(key.point), None) == 1
            and openssl.EVP_PKEY_set1_EC_KEY(private_key, ec_key) == 1
        ):
            openssl.ERR_clear_error()
            openssl.EVP_PKEY_free(private_key)
            raise ConfigError(
                "its public part is no point on P-256", where=f"key {key.name!r}", remedy="Make a new key"
            )
        return int(private_key), int(method)
    finally:
        openssl.EC_KEY_free(ec_key)  # the private key holds it


def _signer(key: HeldKey) -> Callable[..., int]:
    def sign(
        _type: int, digest: int, digest_bytes: int, room: int, size_bytes: Any, _k_inverse: int, _r: int, _key: int
    ) -> int:
        """1, or 0 if there is no signature: then the handshake fails. Nothing may be raised into OpenSSL."""
        try:
            signature = key.sign_digest(ctypes.string_at(digest, digest_bytes))
        except KeyStoreError as error:
            _log.warning("uplink.tls_key_failed", key=key.name, reason=str(error))
            return 0
        except BaseException as error:  # noqa: BLE001  # there is no way up from here, and it is told
            _log.exception("uplink.tls_key_failed", key=key.name, reason=type(error).__name__)
            return 0
        if len(signature) not in _SIGNATURE_BYTES:  # what is longer would be written past OpenSSL's room
            _log.warning("uplink.tls_key_failed", key=key.name, reason=f"a signature of {len(signature)} bytes")
            return 0
        ctypes.memmove(room, signature, len(signature))
        size_bytes[0] = len(signature)
        return 1

    return sign
