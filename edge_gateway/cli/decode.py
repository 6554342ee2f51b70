"""`edge-gateway decode`: frames given as hexadecimal digits, decoded by a profile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.errors import CodecError


def command(
    profile: Annotated[str, typer.Option("--profile", "-p", help="A profile's name, or the path of its file.")],
    frames: Annotated[
        list[str] | None,
        typer.Argument(help="Frames in hexadecimal digits, without framing; from standard input if left out."),
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show what each byte means, and which is wrong.")] = False,
    profiles: Annotated[list[Path] | None, typer.Option(help="A directory with more profiles.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON lines; this is also the default.")] = False,
) -> None:
    """Decode frames. Exits 0 if all of them could be decoded, 1 if one was rejected."""
    codec = compile_profile(load_profile(profile, profiles or ()))
    rejected = False
    for number, frame in enumerate(_frames(frames), start=1):
        rejected |= _explain(codec, frame) if explain and not json else _decode(codec, frame, number)
    raise typer.Exit(1 if rejected else 0)


def _frames(given: list[str] | None) -> Iterator[bytes]:
    lines = given if given is not None else sys.stdin
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            yield bytes.fromhex(text)
        except ValueError as error:
            raise CodecError(
                f"is not hexadecimal: {text[:40]!r}",
                where=f"frame {number}",
                remedy='Give pairs of hexadecimal digits, for instance "01 07 00"',
            ) from error


def _decode(codec: Codec, frame: bytes, number: int) -> bool:
    decoded = codec.decode([frame])
    for sample in decoded.samples:
        _print({"address": sample.address, "sequence": sample.sequence, "values": sample.values})
    for answer in decoded.answers:
        _print({"answer": answer.frame, "address": answer.address, "fields": answer.fields})
    for reject in decoded.rejects:
        _print({"frame": number, "rejected": reject.reason, "hex": frame.hex()})
    return bool(decoded.rejects)


def _print(document: dict[str, object]) -> None:
    typer.echo(orjson.dumps(document))


def _explain(codec: Codec, frame: bytes) -> bool:
    table = Table(box=None, pad_edge=False)
    for column in ("bytes", "raw", "field", "value", "unit", "note"):
        table.add_column(column)
    for row in codec.explain(frame):
        table.add_row(*(str(each) for each in row))
    Console().print(table)
    return bool(codec.decode([frame]).rejects)
