"""`edge-gateway keys csr`: a key in the TPM, and the request to have it certified."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding

from edge_gateway.assembly.emergencies import key_store
from edge_gateway.assembly.keys import tpm_of
from edge_gateway.config.load import load_config
from edge_gateway.errors import ConfigError

_LONGEST_COMMON_NAME = 64
"""RFC 5280, appendix A.1, ub-common-name."""


def command(
    name: Annotated[str, typer.Argument(help="The key's name in the TPM.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")],
    common_name: Annotated[
        str,
        typer.Option(
            help="Whom the certificate is for: the device id at IoT Hub, the registration id at the provisioning "
            "service; left out, the gateway's name.",
            metavar="NAME",
        ),
    ] = "",
) -> None:
    """Print a request (PEM) to have the key NAME certified, for a certificate authority; the key is made if need be.

    The key's private part is made in the TPM and never leaves it.
    """
    settings = load_config(config)
    subject = common_name or settings.gateway.name
    if not 1 <= len(subject) <= _LONGEST_COMMON_NAME:
        raise ConfigError(
            f"a common name of {len(subject)} characters cannot be certified",
            where="--common-name",
            remedy=f"Give 1 to {_LONGEST_COMMON_NAME} characters",
        )
    with closing(key_store(settings)) as keys:
        store = tpm_of(keys)
        is_there = name in store.certificate_key_names()
        key = store.certificate_key(name) if is_there else store.create_certificate_key(name)
        typer.echo(key.request(subject).public_bytes(Encoding.PEM), nl=False)
