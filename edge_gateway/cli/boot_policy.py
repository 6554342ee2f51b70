"""`edge-gateway keys boot`: what a box may be started with for its stored data to open, and whether it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from edge_gateway.assembly.emergencies import key_store
from edge_gateway.assembly.keys import tpm_of
from edge_gateway.config.key_store import DEFAULT_PCRS
from edge_gateway.config.load import load_config
from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore.tpm.boot_approvals import (
    REGISTER_BYTES,
    approve,
    pcr_policy,
    read_approvals,
    read_release_key,
    written,
)

app = typer.Typer(
    help="The boots that open what this gateway stores: approved by the maker of its software, told on the box.",
    no_args_is_help=True,
)

_PCRS: Final = range(24)


@app.command("approve")
def approve_boot(
    release_key: Annotated[
        Path, typer.Option(help="The maker's private key (PEM, P-256), which never comes to a box.", metavar="FILE")
    ],
    pcr: Annotated[
        list[str],
        typer.Option(
            help="A register's number and value, for each register that counts, as `keys boot show` prints them.",
            metavar="NUMBER=HEX",
        ),
    ],
    approvals: Annotated[
        str, typer.Option(help="The file to add the approval to; left out, it is printed alone.", metavar="FILE")
    ] = "",
) -> None:
    """Approve the boots that leave these values in the registers of a TPM. Needs no TPM and no gateway."""
    approval = approve(_values(pcr), read_release_key(release_key))
    if not approvals:
        typer.echo(written([approval]), nl=False)
        return
    path = Path(approvals)
    older = read_approvals(path) if path.exists() else []
    content = written([*older, approval])
    try:
        replace_durably(path, content, mode=0o644)  # it is no secret, and the gateway's user has to read it
    except OSError as error:
        raise KeyStoreError(
            f"cannot be written: {error.strerror}", where=approvals, remedy="Choose another file, or make its directory"
        ) from error
    typer.echo(f"policy {approval.policy.hex()} is approved in {approvals}")


@app.command("show")
def show_boot(
    config: Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")],
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Print what this boot has left in the TPM's registers, and whether it is approved; if not, the exit code is 1."""
    settings = load_config(config)
    boot = settings.key_store.boot
    with closing(key_store(settings)) as keys:
        store = tpm_of(keys)
        values = store.registers(sorted(DEFAULT_PCRS if boot is None else boot.pcrs))
        fault = ""
        if boot is not None:
            try:
                store.check_boot()
            except KeyStoreError as error:
                fault = str(error)
    policy = pcr_policy(values)
    is_approved = None if boot is None else not fault
    if json:
        registers = {str(number): value.hex() for number, value in values.items()}
        answer = {"pcrs": registers, "policy": policy.hex(), "approved": is_approved, "fault": fault}
        typer.echo(orjson.dumps(answer))
    else:
        for number, value in values.items():
            typer.echo(f"--pcr {number}={value.hex()}")
        told = {True: "approved", False: f"not approved: {fault}", None: "not asked for: key_store.boot is not set"}
        typer.echo(f"policy {policy.hex()} is {told[is_approved]}")
    if fault:
        raise typer.Exit(1)


def _values(words: list[str]) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    for word in words:
        number, _, digits = word.partition("=")
        try:
            pcr, value = int(number), bytes.fromhex(digits)
        except ValueError:
            pcr, value = -1, b""
        if pcr not in _PCRS or pcr in values or len(value) != REGISTER_BYTES:
            raise ConfigError(
                f"{word[:80]!r} is not a register and its value, once",
                where="--pcr",
                remedy="Give a number from 0 to 23 and 64 hexadecimal digits: --pcr 7=0123...",
            )
        values[pcr] = value
    return values
