"""`edge-gateway profiles`: the device profiles there are, what follows from one, and whether its vectors hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from edge_gateway.codec import Profile, compile_profile, load_profile, profile_names
from edge_gateway.codec.generated import (
    VectorFailure,
    dtdl_interface,
    profile_markdown,
    starting_profile,
    values_schema,
    vector_failures,
)
from edge_gateway.errors import ProfileError

app = typer.Typer(help="Device profiles: list, show, test, and start a new one.", no_args_is_help=True)

_Directories = Annotated[list[Path] | None, typer.Option("--profiles", help="A directory with more profiles.")]
_Json = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


@app.command("list")
def list_profiles(profiles: _Directories = None, json: _Json = False) -> None:
    """List the profiles that can be named: how their devices are heard, what they are, and how many vectors there are.

    A device is heard on a serial line, polled on one, or heard by radio; a payload comes inside something else.
    """
    loaded = [load_profile(name, profiles or ()) for name in profile_names(profiles or ())]
    if json:
        _print_json([_summary(profile) for profile in loaded])
        return
    table = _table("name", "kind", "title", "vectors", "source")
    for profile in loaded:
        table.add_row(profile.name, _kind(profile), profile.title, str(len(profile.vectors)), profile.source.document)
    _console().print(table)


class View(StrEnum):
    """What `show` can print of a profile."""

    source = "source"
    markdown = "markdown"
    schema = "schema"
    dtdl = "dtdl"


@app.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(help="A profile's name, or the path of its file.")],
    source: Annotated[bool, typer.Option("--source", help="The Python decoder it is compiled to.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A page for people; also the default.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="The JSON Schema of a reading's values.")] = False,
    dtdl: Annotated[bool, typer.Option("--dtdl", help="The DTDL v3 interface.")] = False,
    dtmi_prefix: Annotated[
        str, typer.Option(help="What the DTDL interface's identifier starts with.")
    ] = "dtmi:edge_gateway",
    profiles: _Directories = None,
    json: _Json = False,
) -> None:
    """Show a profile, or what follows from it. With --json and no view, the profile itself."""
    asked = {View.source: source, View.markdown: markdown, View.schema: schema, View.dtdl: dtdl}
    views = [view for view, wanted in asked.items() if wanted]
    if len(views) > 1:
        raise typer.BadParameter(f"one at a time: {', '.join(f'--{view}' for view in views)}")
    profile = load_profile(name, profiles or ())
    if not views and json:
        _print_json(profile.model_dump(mode="json", exclude_unset=True))
        return
    match views[0] if views else View.markdown:
        case View.schema:
            _print_json(values_schema(profile))
        case View.dtdl:
            _print_json(dtdl_interface(profile, dtmi_prefix=dtmi_prefix))
        case View.source:
            _print_text(compile_profile(profile).source, View.source, json)
        case View.markdown:
            _print_text(profile_markdown(profile), View.markdown, json)


@app.command("test")
def run_vectors(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of profiles, or paths of files; all that have a name if left out.")
    ] = None,
    profiles: _Directories = None,
    json: _Json = False,
) -> None:
    """Run the test vectors of profiles. Exits 0 if all hold, 1 if one does not or a profile has none."""
    directories = profiles or ()
    results = [_run_vectors(load_profile(name, directories)) for name in names or profile_names(directories)]
    if json:
        _print_json(results)
    else:
        _show_results(results)
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


@app.command("new")
def new_profile(
    name: Annotated[str, typer.Argument(help="The new profile's name: lower case letters, digits and -.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; standard output if left out.")
    ] = None,
    radio: Annotated[
        bool, typer.Option("--radio", help="For a Bluetooth sensor that advertises, instead of one on a serial line.")
    ] = False,
    json: _Json = False,
) -> None:
    """Write a commented profile to start from. It works as it is, and is yours to change."""
    text = starting_profile(name, radio=radio)
    if output is not None:
        _write_new(output, text)
    if json:
        _print_json({"name": name, "file": str(output)} if output else {"name": name, "text": text})
    elif output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"{output}: written. Try it: edge-gateway profiles test {output}")


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ProfileError(
            (error.strerror or "cannot be written").lower(), where=str(path), remedy="Name a file that is not there yet"
        ) from error


def _summary(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "version": profile.version,
        "kind": _kind(profile),
        "title": profile.title,
        "vectors": len(profile.vectors),
        "source": profile.source.model_dump(),
    }


def _kind(profile: Profile) -> str:
    """How its devices are heard."""
    if profile.radio is not None:
        return "radio"
    if profile.polls:
        return "polled"
    return "payload" if profile.framing is None else "serial"


def _run_vectors(profile: Profile) -> dict[str, Any]:
    failures = vector_failures(compile_profile(profile))
    return {
        "name": profile.name,
        "vectors": len(profile.vectors),
        "ok": bool(profile.vectors) and not failures,
        "failures": [asdict(failure) for failure in failures],
    }


def _show_results(results: Sequence[dict[str, Any]]) -> None:
    console = _console()
    table = _table("profile", "vector", "bytes", "field", "expected", "got", "what")
    for result in results:
        if not result["vectors"]:
            table.add_row(result["name"], "", "", "", "", "", "the profile has no vectors; add a frame from the manual")
        told = ""
        for each in result["failures"]:
            failure = VectorFailure(**each)
            place = "" if failure.start is None or failure.end is None else _place(failure.start, failure.end)
            # One sentence for a vector, however many bytes of it are wrong.
            what = failure.what if failure.vector != told else ""
            told = failure.vector
            table.add_row(result["name"], failure.vector, place, failure.field, failure.expected, failure.got, what)
    if table.row_count:
        console.print(table)
    right = sum(1 for result in results if result["ok"])
    vectors = sum(result["vectors"] for result in results)
    console.print(f"{right} of {len(results)} profiles hold, {vectors} vectors", highlight=False)


def _place(start: int, end: int) -> str:
    return str(start) if end <= start + 1 else f"{start}-{end - 1}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        right = column in ("vectors", "bytes")
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=column == "name")
    return table


def _console() -> Console:
    # Names and titles are a file's text: brackets in them are no markup.
    return Console(markup=False, highlight=False)


def _print_text(text: str, view: View, json: bool) -> None:
    if json:
        _print_json({view.value: text})
    else:
        typer.echo(text, nl=False)


def _print_json(document: Any) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
