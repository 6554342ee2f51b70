"""Every error the gateway raises on purpose.

An error says *what* is wrong, *where*, and the *remedy*: what a person can do, or what would do instead. Code decides
by type and never by text. Each room has one branch; a foreign library's errors are turned into these at its door.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Root of all errors raised on purpose.

    Args:
        what: what is wrong, in one sentence, without a secret.
        where: the file, key, port, device or host it is about.
        remedy: what to do about it, or a value that would do.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


class ConfigError(GatewayError):
    """The configuration cannot be used as it is."""


class TransportError(GatewayError):
    """A link to devices failed."""


class LinkLost(TransportError):
    """The link was open and is gone: unplugged, reset, or at its end. Reading again waits for its return."""


class LinkUnavailable(TransportError):
    """The link cannot be opened now: no such port, in use by another program, or no permission."""


class LinkEnded(TransportError):
    """The link has nothing more to give and never will: a replay has been played to its end."""


class CodecError(GatewayError):
    """A declaration or a value does not fit a frame."""


class ProfileError(CodecError):
    """A device profile is wrong; the text names the file and the line or key."""


class CommandInvalid(CodecError):
    """A command's name or arguments do not fit the device's profile."""


class StoreError(GatewayError):
    """The durable store failed."""


class BufferUnavailable(StoreError):
    """The store cannot take or give records now. Trying again later may work."""

    state = "io-error"
    """What status and the hub are told: a fixed word."""


class BufferInUse(BufferUnavailable):
    """Another process has the store open."""


class DiskFull(BufferUnavailable):
    """There is no room on the disk."""

    state = "disk-full"


class DiskReadOnly(BufferUnavailable):
    """The disk takes no writes."""

    state = "read-only"


class BufferDamaged(BufferUnavailable):
    """The store's file is not as it was written."""

    state = "damaged"


class DataKeyMissing(BufferUnavailable):
    """The key store does not give the key that the store is encrypted with."""

    state = "no-key"


class LaneFull(StoreError):
    """A lane that refuses when it is full is full. Nothing was taken; trying again later may work."""


class PayloadDamaged(StoreError):
    """What is stored is not what was stored: a disk has rotted, or somebody has changed it."""


class UplinkError(GatewayError):
    """The way to the hub failed.

    Args:
        what: as in `GatewayError`.
        where: as in `GatewayError`.
        remedy: as in `GatewayError`.
        planned: the session was ended on purpose, for instance to renew its token; connect again at once.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", planned: bool = False) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.planned = planned


class UplinkLost(UplinkError):
    """The connection is gone or could not be made: name, network, silence. Trying again may work by itself."""


class UplinkRefused(UplinkError):
    """The hub, or the check of its certificate, said no. Trying again works only after somebody acted."""


class KeyStoreError(GatewayError):
    """A key is missing or cannot be used, and somebody has to act."""


class KeyTaken(KeyStoreError):
    """There is a key of this name, and it is one that is never replaced."""


class KeyMissing(KeyStoreError):
    """There is no such key: it has to be imported."""


class KeyStoreUnavailable(KeyStoreError):
    """What holds the keys does not answer now. Trying again later may work."""


class BenchError(GatewayError):
    """The test bench was asked for something it cannot do."""
