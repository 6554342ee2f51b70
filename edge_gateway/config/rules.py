"""Rules: what to watch for."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from edge_gateway.config.names import Argument, Name
from edge_gateway.config.settings import Settings


class CommandOnAlert(Settings):
    """A command a rule sends down, to the device it is about or to another one."""

    name: str = Field(examples=["set-relay"])
    device: Name | None = Field(
        default=None,
        description="Another device, or this gateway by its own name; the device of the reading if left out.",
        examples=["boiler-room"],
    )
    arguments: dict[str, Argument] = Field(default_factory=dict, examples=[{"state": 1}])
    """What the command needs to know, as the profile declares it."""


class ThresholdRule(Settings):
    """Raises an alert when a value crosses a limit, and clears it when the value is well back.

    The distance between the two limits is the hysteresis: a value that trembles at the limit raises one alert.
    """

    name: Name
    """The rule's name; alerts carry it as their `source`."""
    kind: Literal["threshold"] = "threshold"
    profile: str = Field(description="Which devices: those of this profile.", examples=["reference-climate"])
    devices: tuple[Name, ...] = Field(default=(), description="Only these devices; all of the profile if empty.")
    value: str = Field(description="Which value of the profile.", examples=["temperature"])
    raise_above: float | None = Field(
        default=None, description="Raise when the value is greater than this.", examples=[30]
    )
    clear_below: float | None = Field(
        default=None, description="With `raise_above`: clear when it is less.", examples=[28]
    )
    raise_below: float | None = Field(default=None, description="Raise when the value is less than this.", examples=[5])
    clear_above: float | None = Field(
        default=None, description="With `raise_below`: clear when it is greater.", examples=[7]
    )
    on_raise: CommandOnAlert | None = Field(default=None, description="Sent to the device when the alert is raised.")
    on_clear: CommandOnAlert | None = Field(default=None, description="Sent to the device when the alert is cleared.")

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        high = (self.raise_above, self.clear_below)
        low = (self.raise_below, self.clear_above)
        if (None in high) == (None in low) or (high != (None, None) and low != (None, None)):
            raise ValueError(
                "give either `raise_above` and `clear_below`, or `raise_below` and `clear_above`, "
                "for instance raise_above: 30 with clear_below: 28"
            )
        if self.raise_above is not None and self.clear_below is not None and self.clear_below > self.raise_above:
            raise ValueError(
                f"clear_below ({self.clear_below:g}) is above raise_above ({self.raise_above:g}); "
                f"{self.raise_above:g} or less would do"
            )
        if self.raise_below is not None and self.clear_above is not None and self.clear_above < self.raise_below:
            raise ValueError(
                f"clear_above ({self.clear_above:g}) is below raise_below ({self.raise_below:g}); "
                f"{self.raise_below:g} or more would do"
            )
        return self
