"""What the configuration says of where keys are; no key ever stands in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from edge_gateway.config.settings import Settings

_TCTI: Final = re.compile(r"(?:device|swtpm|mssim|tabrmd)(?::[ -~]{0,200})?")


def _tcti(text: str) -> str:
    if not _TCTI.fullmatch(text):
        raise ValueError(
            "not a way to a TPM; device:/dev/tpmrm0 would do, tabrmd: for the access broker, or "
            "swtpm:path=/run/swtpm.sock for a TPM in software"
        )
    return text


Tcti: TypeAlias = Annotated[str, AfterValidator(_tcti)]


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
    wrapping_key_file: Path | None = Field(
        default=None,
        description="For `software`: a file with the key that all others are encrypted under, on a stick or given by "
        "systemd as a credential. Without it that key lies beside the others.",
        examples=["/run/credentials/edge-gateway.service/wrapping-key"],
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        for name, kind in (("tcti", "tpm"), ("storage_key", "tpm"), ("wrapping_key_file", "software")):
            if name in self.model_fields_set and self.kind != kind:
                raise ValueError(f"`{name}` means nothing with kind: {self.kind}; leave it out, or say kind: {kind}")
        return self
