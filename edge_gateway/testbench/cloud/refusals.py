"""How the local cloud says no. Each way of asking (MQTT, HTTPS, AMQP) puts these into its own words.

The text of an error is for the bench's log and for callers in Python. A client on the wire hears as little as it would
from Azure.
"""

from __future__ import annotations

from edge_gateway.errors import BenchError


class AccessDenied(BenchError):
    """A client may not do what it asks for. It hears only that it is not authorised."""


class IdentityNotFound(BenchError):
    """No device or module has this name."""


class IdentityExists(BenchError):
    """A device or module has this name already."""


class EtagMismatch(BenchError):
    """The thing has changed since the caller read it."""


class LimitExceeded(BenchError):
    """A message is too large, or a store is full."""


class QueueFull(LimitExceeded):
    """As many messages wait for a device as may."""


class Throttled(BenchError):
    """Too much in too short a time.

    Attributes:
        retry_after_s: when the caller may try again, in seconds from now.
    """

    def __init__(self, what: str, *, where: str, retry_after_s: float) -> None:
        super().__init__(what, where=where, remedy=f"Try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class QuotaExceeded(BenchError):
    """The hub has taken as many messages as its tier allows in a day."""


class DeviceNotOnline(BenchError):
    """A direct method's device is not connected, has not subscribed to methods, or left before it answered."""


class MethodTimedOut(BenchError):
    """A direct method's device did not answer in time."""


class MessageLockLost(BenchError):
    """A cloud-to-device message is no longer held under this lock."""
