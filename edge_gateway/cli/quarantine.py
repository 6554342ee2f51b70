"""`edge-gateway quarantine`: frames that could not become readings, and to try them again once a profile is mended."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_gateway.api.control import Answer
from edge_gateway.cli.asking import ConfigFile, JsonLines, ask_and_show, show_line, without_running

app = typer.Typer(
    help="Frames that could not become readings. Works on a running gateway and on a stopped one.",
    no_args_is_help=True,
)

_Link = Annotated[str | None, typer.Option(help="Only what came over this link.")]


@app.command("list")
def list_frames(config: ConfigFile, link: _Link = None, json: JsonLines = False) -> None:
    """List the frames with reason and bytes. `edge-gateway decode --explain` says what is wrong with one."""

    def show(line: Answer) -> None:
        if json:
            show_line(line)
            return
        for frame in line.get("frames", ()):
            typer.echo(f"{frame['time']}  {frame['link']}  {frame['reason']}  {frame['frame']}")
        if "set_aside" in line:
            typer.echo(f"{line['set_aside']['records']} records that the disk has damaged", err=True)

    ask_and_show(config, "quarantine.list", show, title="reading", link=link)


@app.command("replay")
def replay(config: ConfigFile, link: _Link = None, json: JsonLines = False) -> None:
    """Decode the frames once more, by the profiles as they are now. What becomes a reading leaves the quarantine."""

    def show(line: Answer) -> None:
        if json:
            show_line(line)
        else:
            for what, counts in line.items():
                typer.echo(f"{what}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))

    ask_and_show(config, "quarantine.replay", show, title="decoding", opener=without_running, link=link)
