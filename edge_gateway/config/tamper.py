"""What the configuration says of tamper inputs: what is looked at, and what it means."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from edge_gateway.config.settings import Settings

_INPUT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class TamperInputSettings(Settings):
    """What all inputs have."""

    name: str = Field(pattern=_INPUT_NAME, examples=["lid"])
    """What alert, status and log call it."""
    hold_s: float = Field(
        default=1.0,
        gt=0,
        le=3600,
        description="How long it has to be seen tampered with, at every look, before the keys are wiped. As long "
        "untouched, and it is armed.",
    )
    look_every_s: float = Field(default=0.1, ge=0.01, le=600, description="How often it is looked at.")

    @model_validator(mode="after")
    def _is_seen_twice(self) -> Self:
        if self.look_every_s > self.hold_s:
            raise ValueError(
                f"look_every_s ({self.look_every_s:g}) is longer than hold_s ({self.hold_s:g}), so one look would "
                f"decide; {self.hold_s / 2:g} would do"
            )
        return self


class ModemLineInput(TamperInputSettings):
    """A contact loop on a serial port of its own: RTS and DTR feed it, one of the input lines comes back."""

    kind: Literal["modem-line"] = "modem-line"
    port: str = Field(min_length=1, description="Path of the serial port.", examples=["/dev/ttyS1"])
    line: Literal["cts", "dsr", "dcd", "ri"] = Field(default="cts", description="The line that comes back.")
    tampered_when: Literal["open", "closed"] = Field(
        default="open", description="The state of the loop when somebody is at the box. `open` notices a cut wire, too."
    )


class GpioInput(TamperInputSettings):
    """A contact on a line of a GPIO chip."""

    kind: Literal["gpio"] = "gpio"
    chip: str = Field(default="/dev/gpiochip0", min_length=1, description="The chip's device.")
    line: int = Field(
        ge=0, le=1023, description="The line's offset on the chip, as `gpioinfo` shows it.", examples=[17]
    )
    tampered_when: Literal["high", "low"] = Field(
        default="high",
        description="The level when somebody is at the box. `high` with `pull-up` and a contact to ground notices a "
        "cut wire, too.",
    )
    bias: Literal["as-is", "disabled", "pull-up", "pull-down"] = Field(
        default="pull-up", description="What pulls the line when nothing drives it."
    )


class PcrInput(TamperInputSettings):
    """Registers of the TPM that must not change while the gateway runs. Needs key_store: kind: tpm."""

    kind: Literal["pcr"] = "pcr"
    pcrs: tuple[Annotated[int, Field(ge=0, le=23)], ...] = Field(
        min_length=1, max_length=24, description="Their numbers, in the SHA-256 bank.", examples=[[10, 14]]
    )
    hold_s: float = Field(
        default=10.0, gt=0, le=3600, description="How long they have to be others before the keys are wiped."
    )
    look_every_s: float = Field(
        default=5.0, ge=0.1, le=600, description="How often they are read; a TPM on a chip takes some 20 ms for it."
    )


AnyTamperInput: TypeAlias = Annotated[ModemLineInput | GpioInput | PcrInput, Field(discriminator="kind")]


class TamperSettings(Settings):
    """When to destroy all keys because somebody is at the box. There is no way back from it."""

    inputs: tuple[AnyTamperInput, ...] = Field(default=(), max_length=32)
    """What is looked at. One of them is enough to wipe."""
    alert_within_s: float = Field(
        default=3.0, ge=0, le=30, description="How long the hub may take to confirm the alert before the keys go."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [each.name for each in self.inputs]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two inputs have the name {name!r}; each needs its own")
        return self
