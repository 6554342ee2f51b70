"""A limit with hysteresis: raises an alert when a value crosses it, clears it when the value is well back."""

from __future__ import annotations

from collections.abc import Sequence

from edge_gateway.config.rules import CommandOnAlert, ThresholdRule
from edge_gateway.records import Command, Event, Reading
from edge_gateway.rules import Outcome


class Threshold:
    """The rule a `ThresholdRule` declares.

    One alert for each device: raised once when the limit is crossed, cleared once when the value has come back past the
    other limit, whatever the value does in between. A value that is missing, null, text or NaN changes nothing; a flag
    counts as 0 or 1, so that a door can raise an alert, too.
    """

    def __init__(self, settings: ThresholdRule) -> None:
        self._settings = settings
        self._devices = frozenset(settings.devices)
        # A low limit is a high limit on the negated value, so one comparison serves both.
        if settings.raise_above is not None and settings.clear_below is not None:
            self._sign, self._raise, self._clear = 1.0, settings.raise_above, settings.clear_below
        else:
            self._sign, self._raise, self._clear = -1.0, -(settings.raise_below or 0.0), -(settings.clear_above or 0.0)
        self._raised: set[str] = set()

    @property
    def name(self) -> str:
        """The rule's name in the configuration."""
        return self._settings.name

    @property
    def profile(self) -> str:
        """The profile whose readings it looks at."""
        return self._settings.profile

    @property
    def settings(self) -> ThresholdRule:
        """What declares this rule."""
        return self._settings

    @property
    def raised(self) -> frozenset[str]:
        """Devices whose alert is raised now."""
        return frozenset(self._raised)

    def __call__(self, readings: Sequence[Reading], outcome: Outcome) -> None:
        """Look at readings in order and add what follows from them to `outcome`. Raises for no reading."""
        name, sign, limit_high, limit_low = self._settings.value, self._sign, self._raise, self._clear
        raised, devices = self._raised, self._devices
        for reading in readings:
            value = reading.values.get(name)
            if not isinstance(value, int | float):
                continue
            device = reading.device
            if device in raised:
                if sign * value < limit_low:
                    raised.discard(device)
                    self._tell(reading, value, "alert-cleared", self._settings.on_clear, outcome)
            elif sign * value > limit_high and (not devices or device in devices):
                raised.add(device)
                self._tell(reading, value, "alert-raised", self._settings.on_raise, outcome)

    def _tell(
        self, reading: Reading, value: float, kind: str, command: CommandOnAlert | None, outcome: Outcome
    ) -> None:
        settings = self._settings
        limit = {
            key: each
            for key in ("raise_above", "clear_below", "raise_below", "clear_above")
            if (each := getattr(settings, key)) is not None
        }
        outcome.events.append(
            Event(
                reading.device,
                settings.name,
                kind,
                reading.time_ns,
                {settings.value: value, **limit},
                reading.time_trusted,
                reading.uptime_ns,
            )
        )
        if command is not None:
            outcome.commands.append(
                Command(
                    command.device or reading.device,
                    command.name,
                    dict(command.arguments),
                    source=f"rule:{settings.name}",
                )
            )
