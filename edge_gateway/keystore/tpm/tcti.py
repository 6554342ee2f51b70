"""How the TPM is reached: a TCTI string as the TSS's tools take it, checked before a library is loaded by its name.

TCTI is the TSS's word for the way commands travel to a TPM (TCG TSS 2.0 TCTI specification).
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from typing import Final, Self

from edge_gateway.errors import ConfigError, KeyStoreError, KeyStoreUnavailable

_KINDS: Final = {
    "device": "a TPM of the box, e.g. device:/dev/tpmrm0",
    "swtpm": "the simulator swtpm, e.g. swtpm:path=/run/tpm.sock",
    "mssim": "Microsoft's simulator, e.g. mssim:host=127.0.0.1,port=2321",
    "tabrmd": "a TPM behind tpm2-abrmd, e.g. tabrmd:bus_type=system",
}
_SETTINGS: Final = re.compile(r"[!-~]{0,255}")
"""Printable ASCII without spaces, as all four take."""


@dataclass(frozen=True, slots=True)
class Tcti:
    """A checked TCTI string. Get it by `Tcti.parse`."""

    kind: str
    settings: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Check a string such as `device:/dev/tpmrm0`.

        Raises:
            ConfigError: it is none of the four kinds, or has what no kind takes.
        """
        kind, colon, settings = text.partition(":")
        if kind not in _KINDS or not colon or not _SETTINGS.fullmatch(settings):
            raise ConfigError(
                f"{text[:80]!r} does not say how to reach a TPM",
                where="tcti",
                remedy="Give " + "; ".join(f"`{each}:` for {what}" for each, what in _KINDS.items()),
            )
        if kind == "device" and not settings.startswith("/"):
            raise ConfigError(f"{settings!r} is no path", where="tcti", remedy="Give device:/dev/tpmrm0")
        return cls(kind, settings)

    def __str__(self) -> str:
        return f"{self.kind}:{self.settings}"

    @property
    def is_ours_alone(self) -> bool:
        """Whether what is left in the TPM can only be ours.

        A simulator runs for us. A chip is shared: the kernel (`/dev/tpmrm0`) and tpm2-abrmd keep its users apart, and
        throw out what a user leaves when its connection closes.
        """
        return self.kind == "swtpm"

    def check_device(self) -> None:
        """Find out why a device could not be opened; the TSS does not tell.

        Raises:
            KeyStoreUnavailable: it is not there, or in use.
            KeyStoreError: it may not be opened.
        """
        if self.kind != "device":
            return
        try:
            os.close(os.open(self.settings, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise _device_error(error, self.settings) from error


def _device_error(error: OSError, path: str) -> KeyStoreError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return KeyStoreError(
            "the gateway's user may not use the TPM",
            where=path,
            remedy="Add the user to the device's group, on most systems: usermod -aG tss USER; then restart",
        )
    if error.errno == errno.EBUSY:
        return KeyStoreUnavailable(
            "another program uses the TPM", where=path, remedy="Give device:/dev/tpmrm0, which programs can share"
        )
    if error.errno == errno.ENOENT:
        return KeyStoreUnavailable(
            "there is no TPM",
            where=path,
            remedy="Switch it on in the firmware's setup, see `dmesg | grep -i tpm`, and in a container hand it in",
        )
    return KeyStoreUnavailable(
        f"the TPM cannot be opened: {error.strerror}", where=path, remedy="See `dmesg | grep -i tpm`"
    )
