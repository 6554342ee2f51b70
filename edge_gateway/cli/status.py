"""`edge-gateway status`: what a running gateway is doing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from edge_gateway.api.control import ask_status
from edge_gateway.config.load import load_config


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="The running gateway's configuration file.")],
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Ask a running gateway how it is. Exits 0 if all is well, 1 if something is faulty."""
    status = asyncio.run(ask_status(load_config(config).gateway.data_directory))
    if json:
        typer.echo(orjson.dumps(status, option=orjson.OPT_INDENT_2))
    else:
        _show(status)
    if status["faults"]:
        raise typer.Exit(1)


def _show(status: dict[str, Any]) -> None:
    console = Console()
    uplink, account = status["uplink"], status["account"]
    state = "connected" if uplink["connected"] else "not connected"
    console.print(
        f"{status['gateway']} {status['version']}, up {status['uptime_s']:.0f} s; {state} to {uplink['endpoint']}",
        highlight=False,
    )
    keys = status["key_store"]
    if keys["weakness"]:
        console.print(f"key store {keys['kind']}: {keys['weakness']}", highlight=False)
    console.print("account: " + ", ".join(f"{count} {what}" for what, count in account.items()), highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("device", "link", "readings", "missed", "age", "last values"):
        table.add_column(column, justify="right" if column in ("readings", "missed", "age") else "left")
    for device in status["devices"]:
        age = "never" if device["age_s"] is None else f"{device['age_s']:.1f} s"
        values = ", ".join(f"{key} {value}" for key, value in (device["values"] or {}).items())
        table.add_row(device["name"], device["link"], str(device["readings"]), str(device["missed"]), age, values)
    console.print(table)
    for each in status["tamper"]["inputs"]:
        armed = "armed" if each["armed"] else "not armed"
        console.print(f"tamper input {each['name']}: {each['state']}, {armed}", highlight=False)
    for alert in status["alerts"]:
        console.print(f"alert: {alert['rule']} {alert['device']}", highlight=False)
    for fault in status["faults"]:
        console.print(f"fault: {fault}", highlight=False)
