"""Faults of a service that can be switched while clients are connected; what each does is told where it is obeyed."""

from __future__ import annotations

import random


class Faults:
    """The faults in force at one front door. All off at first.

    Args:
        rng: decides which messages are lost.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng if rng is not None else random.Random()  # noqa: S311 - decides about faults, no secret
        self.frozen = False
        """Nothing is read and nothing answered, on all connections."""
        self.delay_s = 0.0
        """Everything said to clients is said this much later."""
        self.loss = 0.0
        """This share of the messages from clients is dropped unseen and never confirmed, 0 to 1."""
        self.pubacks_withheld = False
        """Messages are taken in and not confirmed."""
        self.puback_copies = 1
        """How often each message is confirmed; 0 for never."""
        self.puback_delay_s = 0.0
        """Each confirmation comes this much later."""

    def loses(self) -> bool:
        """Decide about one message."""
        return self.loss > 0 and self._rng.random() < self.loss
