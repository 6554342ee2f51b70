"""`edge-gateway ledger`: the hourly account of each device, whether it is as it was written, and to publish it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from edge_gateway.api.control import Answer
from edge_gateway.buffer.ledger import COLUMNS
from edge_gateway.cli.asking import ConfigFile, JsonLines, ask_and_show, show_line

app = typer.Typer(
    help="The account of each device, hour by hour. Works on a running gateway and on a stopped one.",
    no_args_is_help=True,
)

_COUNTERS = COLUMNS[4:]


@app.command("show")
def show_ledger(
    config: ConfigFile,
    device: Annotated[str | None, typer.Option(help="Only the rows of this device or link.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Only hours that began then or later; UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    ] = None,
    json: JsonLines = False,
) -> None:
    """Show the rows, oldest first. Their counters go on from hour to hour."""
    since_s = None if since is None else int(since.replace(tzinfo=UTC).timestamp())
    if not json:
        typer.echo(f"{'hour':20}  " + "  ".join(f"{name:>11}" for name in _COUNTERS) + "  lane, device")

    def show(line: Answer) -> None:
        if json:
            show_line(line)
            return
        for row in line["rows"]:
            hour = str(row["hour"]).replace(".000000Z", "Z")
            counters = "  ".join(f"{row[name]!s:>11}" for name in _COUNTERS)
            typer.echo(f"{hour:20}  {counters}  {row['lane']}, {row['device']}")

    ask_and_show(config, "ledger.show", show, title="reading", device=device, since_s=since_s)


@app.command("verify")
def verify(config: ConfigFile, json: JsonLines = False) -> None:
    """Follow the chain, and name each row that is changed or missing. Exits 1 if there is one."""

    def show(line: Answer) -> bool:
        if json:
            show_line(line)
        elif "fault" in line:
            fault = line["fault"]
            whose = "" if fault["device"] is None else f" ({fault['lane']}, {fault['device']})"
            typer.echo(f"row {fault['number']}{whose}: {fault['kind']}: {fault['what']}")
        else:
            typer.echo(f"{line['chain']['rows']} rows, {line['chain']['faults']} faults")
        return "fault" in line

    ask_and_show(config, "ledger.verify", show, title="verifying")


@app.command("publish")
def publish(config: ConfigFile, json: JsonLines = False) -> None:
    """Have a running gateway send the rows it has not sent yet, which it does once a day by itself."""

    def show(line: Answer) -> None:
        if json:
            show_line(line)
        else:
            typer.echo(f"{line['published']['rows']} rows are on their way")

    ask_and_show(config, "ledger.publish", show, title="publishing", opener=None)
