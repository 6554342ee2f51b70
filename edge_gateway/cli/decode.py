"""`edge-gateway decode`: frames given in hexadecimal digits, or recorded from a link, decoded by a profile."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from edge_gateway.cli.decode_input import (
    Given,
    frames_in_capture,
    frames_in_text,
    payload_keys,
    sender_bytes,
)
from edge_gateway.codec import Codec, Decoded, Profile, compile_profile, load_profile
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_UNKNOWN_SENDER = bytes(6)
_OF_ANOTHER_KIND = {"unknown-frame", "length"}
"""Why a frame is rejected that is none of the profile's at all."""


def command(
    profile: Annotated[str, typer.Option("--profile", "-p", help="A profile's name, or the path of its file.")],
    frames: Annotated[
        list[str] | None,
        typer.Argument(help="Frames in hexadecimal digits, without framing; from standard input if left out."),
    ] = None,
    capture: Annotated[
        Path | None, typer.Option(help="Decode the frames of this capture file (edge-gateway run --capture).")
    ] = None,
    link: Annotated[list[str] | None, typer.Option(help="Of a capture, only this link.")] = None,
    sender: Annotated[
        str | None,
        typer.Option(
            help="The address of the device that was heard by radio, to put in front of each frame. Without it, frames "
            "that make sense only behind an address get one of zeros.",
            metavar="ADDRESS",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="A key of what is encrypted: its name in the profile, and a file with it in hexadecimal digits.",
            metavar="NAME=FILE",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A gateway's configuration: --key then names keys in its key store."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Decode as this frame: an answer of a polled device need not say what it is.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="Show what each byte means, and which is wrong.")] = False,
    profiles: Annotated[list[Path] | None, typer.Option(help="A directory with more profiles.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Answer as JSON lines; this is also the default, but for --explain.")
    ] = False,
) -> None:
    """Decode frames. Exits 0 if all of them could be decoded, 1 if one was rejected."""
    declared = load_profile(profile, profiles or ())
    if capture is not None and frames:
        raise typer.BadParameter("give frames or --capture, not both")
    if frame is not None and (frame not in declared.frames or declared.is_request(frame)):
        heard = [name for name in declared.frames if not declared.is_request(name)]
        raise CodecError(
            f"no device sends a frame {frame!r}", where=declared.name, remedy=f"Frames: {', '.join(heard) or 'none'}"
        )
    decoding = _Decoding(compile_profile(declared, payload_keys(declared, key or (), config)), frame, sender)
    rejected = False
    for given in _given(declared, frames, capture, link or ()):
        found, decoded = decoding.decode(given)
        rejected |= bool(decoded.rejects)
        if explain:
            rows = [row._asdict() for row in decoding.codec.explain(found.data)]
            _print({**_origin(found), "rows": rows}) if json else _show(rows, found)
        else:
            _print_records(found, decoded)
    if decoding.guessed_senders:
        typer.echo("The sender is not known, so its address is zeros; --sender says it.", err=True)
    raise typer.Exit(1 if rejected else 0)


def _given(profile: Profile, frames: list[str] | None, capture: Path | None, links: Sequence[str]) -> Iterator[Given]:
    if capture is not None:
        return frames_in_capture(profile, capture, links)
    return frames_in_text(frames if frames is not None else sys.stdin)


class _Decoding:
    """Decodes frames, with the sender's address in front where that is missing.

    Args:
        codec: of the profile.
        frame: the kind of all frames, if that is known.
        sender: the address of all, if that is known.
    """

    def __init__(self, codec: Codec, frame: str | None, sender: str | None) -> None:
        self.codec = codec
        self.guessed_senders = 0
        self._decode = codec.decode if frame is None else codec.decoder_of((frame,))
        self._sender = None if sender is None else sender_bytes(sender)

    def decode(self, given: Given) -> tuple[Given, Decoded]:
        """The frame that was decoded, and what came of it."""
        if self._sender is not None and given.link is None:
            given = given._replace(data=self._sender + given.data)
        decoded = self._decode([given.data])
        if self._sender is not None or self.codec.profile.radio is None or not _is_of_another_kind(decoded):
            return given, decoded
        guessed = given._replace(data=_UNKNOWN_SENDER + given.data)
        with_sender = self._decode([guessed.data])
        if _is_of_another_kind(with_sender):
            return given, decoded
        self.guessed_senders += 1
        return guessed, with_sender


def _is_of_another_kind(decoded: Decoded) -> bool:
    return any(reject.reason in _OF_ANOTHER_KIND for reject in decoded.rejects)


def _origin(given: Given) -> dict[str, Any]:
    return {} if given.link is None else {"link": given.link, "t": given.at_s}


def _print_records(given: Given, decoded: Decoded) -> None:
    origin = _origin(given)
    for sample in decoded.samples:
        _print({**origin, "address": sample.address, "sequence": sample.sequence, "values": sample.values})
    for answer in decoded.answers:
        _print({**origin, "answer": answer.frame, "address": answer.address, "fields": answer.fields})
    for reject in decoded.rejects:
        _print({**origin, "where": given.where, "rejected": reject.reason, "hex": given.data.hex()})


def _print(document: dict[str, Any]) -> None:
    typer.echo(orjson.dumps(document))


def _show(rows: Sequence[dict[str, Any]], given: Given) -> None:
    console = Console(markup=False, highlight=False)
    if given.link is not None:
        console.print(given.where)
    table = Table(box=None, pad_edge=False)
    for column in ("bytes", "raw", "field", "value", "unit", "note"):
        table.add_column(column, overflow="fold", no_wrap=column == "field")
    for row in rows:
        # What was opened has bytes of its own; a mark for each seal tells them from the frame's.
        place = _place(row["start"], row["end"]) if row["end"] > row["start"] else ""
        mark = "+" * row["seals"]
        table.add_row(f"{mark}{place}", row["hex"], row["field"], _shown(row["value"]), row["unit"] or "", row["note"])
    console.print(table)
    if any(row["seals"] for row in rows):
        console.print("Bytes with + are counted in what was decrypted.")


def _place(start: int, end: int) -> str:
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


def _shown(value: Value) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
