"""`edge-gateway buffer`: what waits for the hub, whether all of it is whole, a copy of it, and to have it delivered."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import orjson
import typer
from rich.console import Console
from rich.table import Table

from edge_gateway.api.control import Answer
from edge_gateway.cli.asking import (
    ConfigFile,
    JsonLines,
    answers,
    ask_and_show,
    show_line,
    watched,
    without_links,
)
from edge_gateway.cli.leaving import leave
from edge_gateway.config.load import load_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import ConfigError

app = typer.Typer(
    help="What a gateway keeps until the hub has it. Works on a running gateway and on a stopped one.",
    no_args_is_help=True,
)


@app.command("stats")
def show_stats(config: ConfigFile, json: JsonLines = False) -> None:
    """Say what the buffer holds: lanes, disk, keys, states, and the account."""

    def show(line: Answer) -> None:
        if json:
            typer.echo(orjson.dumps(line["stats"], option=orjson.OPT_INDENT_2))
        else:
            _show_stats(line["stats"])

    ask_and_show(config, "buffer.stats", show, title="reading")


@app.command("verify")
def verify(config: ConfigFile, json: JsonLines = False) -> None:
    """Open every record that is kept, and follow the ledger's chain. Exits 1 if something is damaged.

    What is damaged is set aside in the quarantine and counted; the rest goes on, and nothing is to be done.
    """

    def show(line: Answer) -> bool:
        show_line(line) if json else _show_found(line)
        return not line.keys().isdisjoint({"damaged", "fault"})

    ask_and_show(config, "buffer.verify", show, title="verifying")


@app.command("export")
def export(
    config: ConfigFile,
    to: Annotated[
        Path | None, typer.Option(help="A file to make, for its owner alone; standard output if left out.")
    ] = None,
    json: JsonLines = False,
) -> None:
    """Copy all queued records as JSON lines, without removing them. Exits 1 if some are damaged.

    Of a running gateway, what the hub gets meanwhile is not in the copy.
    """
    gateway = load_config(config)
    with _output(to) as output:
        exported = asyncio.run(_export(gateway, output, with_bar=not output.isatty()))
    if json and to is not None:
        show_line({"exported": {**exported, "file": str(to)}})
    else:
        typer.echo(f"{exported['records']} records are copied, {exported['damaged']} are damaged", err=True)
    if exported["damaged"]:
        raise typer.Exit(1)


@app.command("drain")
def drain(
    config: ConfigFile,
    timeout_s: Annotated[float, typer.Option(min=0, help="How long to try.")] = 600.0,
    json: JsonLines = False,
) -> None:
    """Have everything delivered that is queued. Exits 1 if some of it could not be.

    A running gateway goes on taking readings in. A stopped one is started for it, without its links.
    """
    gateway = load_config(config)
    asyncio.run(_drain(gateway, timeout_s, json))


@app.command("rotate-key")
def rotate_key(config: ConfigFile, json: JsonLines = False) -> None:
    """Seal what comes from now on with a new key."""

    def show(line: Answer) -> None:
        if json:
            show_line(line)
        else:
            typer.echo(f"what comes from now on is sealed with key {line['rotated']['key']}")

    ask_and_show(config, "buffer.rotate-key", show, title="making a key")


async def _export(gateway: GatewayConfig, output: BinaryIO, *, with_bar: bool) -> dict[str, Any]:
    exported: dict[str, Any] = {}
    async with aclosing(watched(answers(gateway, "buffer.export"), "copying", with_bar=with_bar)) as lines:
        async for line in lines:
            match line:
                case {"records": records}:
                    output.writelines(orjson.dumps(record) + b"\n" for record in records)
                case {"exported": exported}:
                    output.flush()
                case _:
                    _show_found(line, err=True)
    return exported


@contextmanager
def _output(to: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a new file; one that could not be finished is removed."""
    if to is None:
        yield sys.stdout.buffer
        return
    try:
        # The buffer is encrypted and this is not, so it is for the owner alone.
        file = os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise ConfigError(
            (error.strerror or "cannot be written").lower(), where=str(to), remedy="Name a file that is not there yet"
        ) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file)
    except BaseException:
        with suppress(FileNotFoundError):
            to.unlink()
        raise


async def _drain(gateway: GatewayConfig, timeout_s: float, json: bool) -> None:
    code = 1
    answer = answers(gateway, "buffer.drain", without_links, timeout_s=timeout_s)
    async with aclosing(watched(answer, "delivering")) as lines:
        async for line in lines:
            queued, faults = line["drained"]["queued"], line["drained"]["faults"]
            code = 1 if queued else 0
            if json:
                show_line(line)
            elif queued:
                typer.echo(f"{queued} records are still queued after {timeout_s:g} s")
                for fault in faults:
                    typer.echo(f"fault: {fault}")
            else:
                typer.echo("everything is delivered")
    leave(code)


def _show_found(line: Answer, *, err: bool = False) -> None:
    match line:
        case {"damaged": chunk}:
            typer.echo(f"damaged, and set aside now: {_outline(chunk)}", err=err)
        case {"set_aside": chunk}:
            typer.echo(f"damaged, in the quarantine: {_outline(chunk)}", err=err)
        case {"fault": fault}:
            typer.echo(f"ledger: {fault['what']}", err=err)
        case {"verified": found}:
            typer.echo(
                f"{found['records']} records are whole, {found['damaged']} were found damaged, "
                f"{found['set_aside']} damaged ones are in the quarantine",
                err=err,
            )
            typer.echo(f"ledger: {found['ledger_rows']} rows, {found['ledger_faults']} faults", err=err)


def _outline(chunk: dict[str, Any]) -> str:
    devices = ", ".join(f"{device} {records}" for device, records in chunk["devices"].items())
    whose = f" ({devices})" if devices else ""  # what a chunk says of itself may be damaged as well
    return f"lane {chunk['lane']}, chunk {chunk['chunk']}, {chunk['records']} records{whose}"


def _show_stats(stats: dict[str, Any]) -> None:
    """A line for each section, or a table, where a section lists things of one kind."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for name, section in stats.items():
        match section:
            case [dict(), *_]:
                console.print(_table(name, section))
            case dict():
                console.print(f"{name}: " + ", ".join(f"{key} {_text(value)}" for key, value in section.items()))
            case _:
                console.print(f"{name}: {_text(section)}")


def _table(name: str, things: list[dict[str, Any]]) -> Table:
    """A column for each thing, which narrow terminals have room for; what a thing has first is its name."""
    first, *others = things[0]
    table = Table(box=None, pad_edge=False)
    table.add_column(name)
    for thing in things:
        table.add_column(str(thing[first]), justify="right")
    for key in others:
        table.add_row(key, *(_text(thing[key]) for thing in things))
    return table


def _text(value: object) -> str:
    return "-" if value is None else str(value)
