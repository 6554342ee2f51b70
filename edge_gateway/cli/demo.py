"""`edge-gateway demo`: sensors, gateway and hub on one machine, faults at a key press, and an account that balances."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Annotated, Any

import orjson
import typer

_UNWATCHED_S = 10.0
"""How long it runs where nobody can stop it by a key and no time is given."""


def command(
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Run so long, without the live view; until a key if left out.")
    ] = None,
    sensors: Annotated[int, typer.Option(min=1, max=200, help="How many virtual sensors.")] = 12,
    seed: Annotated[int | None, typer.Option(help="Makes what the sensors measure; drawn if left out.")] = None,
    faults: Annotated[
        str, typer.Option(help="What goes wrong when, for instance cut@3-6,kill@8,unplug@10-12 (seconds).")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Answer with one JSON document, without the live view.")] = False,
) -> None:
    """Show the whole way from sensor to hub on this machine. Needs no root, leaves nothing behind.

    Virtual sensors speak to a real gateway over pseudo-terminals, and the gateway over TLS to a hub that behaves like
    Azure IoT Hub. At the end every frame is accounted for. Exits 0 if the account balances, 1 if it does not.
    """
    # Nobody else needs these, and `edge-gateway run` shall not pay for them.
    from edge_gateway.observability.log import configure_log
    from edge_gateway.testbench.demo.run import run_demo
    from edge_gateway.testbench.demo.script import parse_faults

    steps = parse_faults(faults)
    watched = seconds is None and not json and sys.stdin.isatty() and sys.stdout.isatty()
    configure_log("error", as_json=False)
    if seed is None:
        seed = random.SystemRandom().getrandbits(32)
    watch = None
    if watched:
        from edge_gateway.testbench.demo.live_view import LiveView

        watch = LiveView(seed=seed).watch
    elif seconds is None:
        seconds = _UNWATCHED_S
    try:
        outcome, document = asyncio.run(run_demo(sensors=sensors, seed=seed, seconds=seconds, steps=steps, watch=watch))
    except asyncio.CancelledError:  # by a second Ctrl-C: no account was drawn
        raise typer.Exit(1) from None
    if json:
        typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    else:
        _show(document)
    raise typer.Exit(0 if outcome.balanced else 1)


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    columns = ("sent", "broken", "lost_on_wire", "received", "rejected", "delivered", "queued", "at_hub")
    table.add_column("device")
    for column in columns:
        table.add_column(column.removesuffix("_on_wire").replace("_", " "), justify="right")
    for name, device in document["devices"].items():
        table.add_row(name, *(str(device[column]) for column in columns))
    table.add_row("all", *(str(document["total"][column]) for column in columns), style="bold")
    console.print(table)
    lost, events, latency = document["lost"], document["events"], document["latency_ms"]
    console.print(
        f"lost on the wire: {lost['port_closed']} port closed, {lost['cut_off']} cut off, {lost['not_read']} not read\n"
        f"events: {events['received']} received, {events['delivered']} delivered, {events['at_hub']} at the hub; "
        f"alerts: {document['alerts']['raised']} raised, {document['alerts']['cleared']} cleared\n"
        f"{document['messages']} messages, {document['repeats']} repeats dropped; {document['frames_per_s']} frames/s; "
        f"reading to hub p50 {latency['p50']} ms, p99 {latency['p99']} ms; seed {document['seed']}"
    )
    for imbalance in document["imbalances"]:
        console.print(f"imbalance: {imbalance}", style="red")
    console.print("The account balances." if document["balanced"] else "The account does not balance.", style="bold")
