"""What the configuration says of where keys are; no key ever stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, field_validator, model_validator

from edge_gateway.config.settings import Settings

_TCTI: Final = re.compile(r"(?:device|swtpm|mssim|tabrmd)(?::[ -~]{0,200})?")

DEFAULT_PCRS: Final = (0, 2, 4, 7, 11)
"""Firmware, its extensions, boot loader, Secure Boot's state, and the unified kernel image (UAPI group)."""


def _tcti(text: str) -> str:
    if not _TCTI.fullmatch(text):
        raise ValueError(
            "not a way to a TPM; device:/dev/tpmrm0 would do, tabrmd: for the access broker, or "
            "swtpm:path=/run/swtpm.sock for a TPM in software"
        )
    return text


Tcti: TypeAlias = Annotated[str, AfterValidator(_tcti)]
Pcr: TypeAlias = Annotated[int, Field(ge=0, le=23)]


class BootSettings(Settings):
    """How the box has to be started for what is stored on it to open."""

    release_key_file: Path = Field(
        description="The public key (PEM, P-256) of whoever makes this box's software. Give it before the first start: "
        "what was stored without it, or under another, does not open with it.",
        examples=["/etc/edge-gateway/release-key.pem"],
    )
    approvals_file: Path = Field(
        description="The boots that have been approved with that key; an update brings its own.",
        examples=["/etc/edge-gateway/approvals.json"],
    )
    pcrs: tuple[Pcr, ...] = Field(
        default=DEFAULT_PCRS,
        min_length=1,
        description="The TPM's registers that count. To change them, have the boots approved for the new ones first.",
    )

    @field_validator("pcrs")
    @classmethod
    def _each_once(cls, pcrs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(pcrs)) < len(pcrs):
            raise ValueError(f"a register is there twice; {sorted(set(pcrs))} would do")
        return pcrs


class KeyStoreSettings(Settings):
    """Where the keys are that this gateway and its sensors prove their identities with."""

    kind: Literal["software", "tpm", "iot-edge"] = Field(
        default="software",
        description="`tpm`: in the TPM, which signs and never lets a key out. `software`: in encrypted files, for boxes"
        " without a TPM; status and log say so. `iot-edge`: with the IoT Edge runtime this gateway is a module of.",
    )
    tcti: Tcti = Field(
        default="device:/dev/tpmrm0",
        description="The way to the TPM, as the TPM2 software stack writes it.",
        examples=["device:/dev/tpmrm0"],
    )
    storage_key: Literal["ecc", "rsa"] = Field(
        default="ecc",
        description="What wraps the keys in the TPM, if it has none at 0x81000001 yet: P-256, or RSA-2048 as Azure's "
        "tools lay it, which takes longer to make.",
    )
    owner_password_file: Path | None = Field(
        default=None,
        description="For `tpm`: a file with the password of the TPM's owner, if it has one, which only the gateway's "
        "user can read. Asked for when the storage key is made.",
        examples=["/etc/edge-gateway/tpm-owner"],
    )
    lockout_password_file: Path | None = Field(
        default=None,
        description="For `tpm`: a file with the TPM's lockout password, likewise. Asked for when all keys are wiped.",
        examples=["/etc/edge-gateway/tpm-lockout"],
    )
    boot: BootSettings | None = Field(
        default=None,
        description="For `tpm`: what is stored opens only in a box that was started as approved. Without it, in this "
        "box however it was started.",
    )
    wrapping_key_file: Path | None = Field(
        default=None,
        description="For `software`: a file with the key that all others are encrypted under, on a stick or given by "
        "systemd as a credential. Without it that key lies beside the others.",
        examples=["/run/credentials/edge-gateway.service/wrapping-key"],
    )

    rotate_after_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How old a key may get. Then the gateway replaces what it can by itself: the key that its buffer is"
        " encrypted with, and its own at the hub if its TPM proves it. Of others it says that they are overdue. Without"
        " it nothing is rotated by the calendar.",
        examples=[365],
    )
    drop_predecessor_after_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="How long the key before the one in use stays, in case that the hub is put back. Without it, until "
        "the next one.",
        examples=[30],
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        of_the_tpm = ("tcti", "storage_key", "owner_password_file", "lockout_password_file", "boot")
        for name, kind in (*((each, "tpm") for each in of_the_tpm), ("wrapping_key_file", "software")):
            if getattr(self, name) != type(self).model_fields[name].default and self.kind != kind:
                raise ValueError(f"`{name}` means nothing with kind: {self.kind}; leave it out, or say kind: {kind}")
        return self
