"""Inputs that tell that somebody is at the box: a contact on a serial port, a GPIO line, a changed PCR.

An input that cannot be read is a fault and never a reason to wipe: a cable that rots must not cost a plant its keys.
Nor is one that was never seen untouched since it was configured: boxes are put up with their lids open. See `watch`.
"""

from __future__ import annotations

from typing import Protocol

from edge_gateway.errors import GatewayError


class InputUnreadable(GatewayError):
    """A tamper input cannot be read now."""


class TamperInput(Protocol):
    """Something that can be looked at. Calls block; they are made one after the other, by any thread."""

    def is_tampered(self) -> bool:
        """How it is now. What has to be opened for that is opened, again after a failure.

        Raises:
            InputUnreadable: that cannot be told.
        """
        ...

    def close(self) -> None:
        """Let go of it. Looking again opens it again."""
        ...
