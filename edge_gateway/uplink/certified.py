"""An uplink under an identity that a certificate proves whose key is held elsewhere, as in a TPM.

A certificate ends, and is renewed by a new file. So its file is looked at before each session, and the uplink made anew
when it has changed: no restart, and no wait for the old certificate's end. While the files are wrong, sessions are
refused with the reason, and the next attempt looks again.

TLS has no word for a key that cannot sign: the handshake fails, as it does for many other reasons. What the key itself
said is told in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

from edge_gateway.errors import ConfigError, KeyStoreError, UplinkError, UplinkRefused
from edge_gateway.uplink import Downlink, Session, Uplink
from edge_gateway.uplink.sas import unsigned
from edge_gateway.uplink.tpm_tls import HeldKey

_Version: TypeAlias = tuple[int, int, int] | None


class CertifiedUplink:
    """`Uplink` as another one, which follows its certificate.

    Args:
        certificate_file: the certificate and those behind it (PEM).
        open_key: gives the key to it. Blocks for a moment; raises a KeyStoreError.
        uplink_of: makes the uplink by that key and the certificate as it is now. Blocks likewise; raises a ConfigError.

    Raises:
        ConfigError: the certificate cannot be used, or is not for that key.
        KeyStoreError: there is no such key, or it cannot be opened.
    """

    def __init__(
        self, certificate_file: Path, open_key: Callable[[], HeldKey], uplink_of: Callable[[HeldKey], Uplink]
    ) -> None:
        self._certificate_file = certificate_file
        self._open_key = open_key
        self._uplink_of = uplink_of
        self._make(_version(certificate_file))

    @property
    def endpoint(self) -> str:
        """See `Uplink.endpoint`."""
        return self._uplink.endpoint

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        try:
            await asyncio.to_thread(self._follow)
        except ConfigError as error:
            raise UplinkRefused(error.what, where=error.where, remedy=error.remedy) from error
        except KeyStoreError as error:
            raise unsigned(error) from error
        self._key.failure = None
        async with AsyncExitStack() as resources:
            try:
                session = await resources.enter_async_context(self._uplink.connect(downlink))
            except UplinkError as error:
                if self._key.failure is not None:
                    raise unsigned(self._key.failure) from error
                raise
            yield session

    def _follow(self) -> None:
        version = _version(self._certificate_file)
        if version != self._made_by:
            self._make(version)

    def _make(self, version: _Version) -> None:
        key = _Listened(self._open_key())
        self._uplink = self._uplink_of(key)
        self._key, self._made_by = key, version


class _Listened:
    """A key, and why it did not sign the last time it was asked."""

    def __init__(self, key: HeldKey) -> None:
        self._key = key
        self.name = key.name
        self.point = key.point
        self.failure: KeyStoreError | None = None

    def sign_digest(self, digest: bytes) -> bytes:
        """See `HeldKey.sign_digest`."""
        try:
            return self._key.sign_digest(digest)
        except KeyStoreError as error:
            self.failure = error
            raise


def _version(path: Path) -> _Version:
    """What changes when a file is replaced or written; None if it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
