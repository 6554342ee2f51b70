"""A profile as a page for people, in the order of a datasheet: line, framing, bytes, commands, examples.

Whoever checks a profile lays this page beside the manufacturer's and compares row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import orjson

from edge_gateway.codec.fields import NamedField, RawRange, Valid
from edge_gateway.codec.generated.shapes import unit_of
from edge_gateway.codec.layout import Layout, Slot
from edge_gateway.codec.profile import Argument, ArgumentReference, CommandVector, FrameVector, Profile

_ROLES = {"sample": "measured values", "answer": "what the device says to a command", "request": "sent to the device"}


def profile_markdown(profile: Profile) -> str:
    """The profile's page, in GitHub's Markdown; ends with a line break."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    manual = profile.source
    yield f"# {_cell(profile.title)}"
    yield ""
    yield f"Profile `{profile.name}`, version {profile.version}. Source: {_cell(manual.document)}" + (
        f", {_cell(manual.pages)}." if manual.pages else "."
    )
    yield ""
    yield from _table(("Setting", "Value"), _settings(profile))
    for name, layout in profile.layouts.items():
        yield from ("", *_frame(profile, name, layout))
    if profile.commands:
        yield from ("", *_commands(profile))
    if profile.vectors:
        yield from ("", *_vectors(profile))


def _settings(profile: Profile) -> Iterator[tuple[str, str]]:
    if profile.line is not None:
        line = profile.line
        yield "line", f"{line.baud} baud, {line.data_bits} data bits, parity {line.parity}, {line.stop_bits} stop bits"
    framing = profile.framing.model_dump(exclude={"kind"}, exclude_none=True)
    yield "framing", ", ".join([profile.framing.kind, *(f"`{key}` {value}" for key, value in framing.items())])
    if profile.identity:
        yield "device's address", f"`{profile.identity}`"
    if profile.sequence:
        yield "frame counter", f"`{profile.sequence}`"


def _frame(profile: Profile, name: str, layout: Layout) -> Iterator[str]:
    frame = profile.frames[name]
    yield f"## Frame `{name}`"
    yield ""
    yield f"{_ROLES[frame.role].capitalize()}. {layout.length_bytes} bytes, {layout.endian} endian." + (
        f" {_cell(frame.description)}" if frame.description else ""
    )
    yield ""
    rows: list[tuple[str, ...]] = []
    for slot in layout.slots:
        rows += _slot_rows(profile, name, layout, slot)
    if layout.checksum is not None:
        check = layout.checksum
        name_of_check = "checksum" if check.field == "checksum" else f"`{check.field}`"
        covers = "" if (check.covers_start, check.covers_end) == (0, check.start) else "; over bytes "
        meaning = f"{check.name}{covers}" + (_place(check.covers_start, check.covers_end) if covers else "")
        rows.append((_place(check.start, check.end), f"u{8 * (check.end - check.start)}", name_of_check, "", meaning))
    # A checksum may stand before the last field.
    rows.sort(key=lambda row: int(row[0].partition("-")[0]))
    yield from _table(("Bytes", "Type", "Field", "Unit", "Meaning"), rows)


def _slot_rows(profile: Profile, frame_name: str, layout: Layout, slot: Slot) -> Iterator[tuple[str, ...]]:
    spec = slot.field
    place = _place(slot.start, slot.end)
    constant = slot.constant(layout.endian)
    meaning = f"always `{constant.hex(' ')}`" if constant is not None else _meaning(profile, frame_name, spec)
    yield place, spec.type, f"`{spec.name}`", unit_of(spec) or "", meaning
    for part in getattr(spec, "bits", ()):
        last = part.bit + part.width - 1
        bits = f"bit {part.bit}" if part.width == 1 else f"bits {part.bit}-{last}"
        yield place, bits, f"`{part.name}`", part.unit or "", _meaning(profile, frame_name, part)


def _meaning(profile: Profile, frame_name: str, spec: NamedField) -> str:
    notes = [_cell(spec.description)] if spec.description else []
    scale, offset = getattr(spec, "scale", 1), getattr(spec, "offset", 0)
    if scale != 1 or offset != 0:
        notes.append(f"raw x {scale}" + (f" {'+' if offset > 0 else '-'} {abs(offset)}" if offset else ""))
    enum: dict[int, str] = getattr(spec, "enum", {})
    if enum:
        notes.append(", ".join(f"{code} `{_cell(label)}`" for code, label in enum.items()))
    sentinels: Sequence[object] = getattr(spec, "sentinel", ())
    if sentinels:
        codes = (f"{each.minimum} to {each.maximum}" if isinstance(each, RawRange) else str(each) for each in sentinels)
        notes.append(f"{', '.join(codes)}: no value")
    valid: Valid | None = getattr(spec, "valid", None)
    if valid is not None:
        otherwise = "no value" if valid.otherwise == "null" else "the frame is rejected"
        notes.append(f"valid is {valid}, otherwise {otherwise}")
    if spec.name == profile.identity:
        notes.append("the device's address")
    elif spec.name == profile.sequence:
        notes.append("counts frames")
    elif not getattr(spec, "bits", ()) and spec.name not in profile.values_of(frame_name):
        notes.append("not reported")
    return "; ".join(notes)


def _commands(profile: Profile) -> Iterator[str]:
    yield "## Commands"
    yield ""
    rows = []
    for name, command in profile.commands.items():
        sets = ", ".join(
            f"`{field}` = {f'argument `{source.argument}`' if isinstance(source, ArgumentReference) else source}"
            for field, source in command.set.items()
        )
        arguments = "<br>".join(_argument(key, argument) for key, argument in command.arguments.items())
        answer = f"`{command.answer.frame}`" if command.answer else "none"
        rows.append((f"`{name}`", _cell(command.description), arguments, f"`{command.frame}`: {sets}", answer))
    yield from _table(("Command", "Meaning", "Arguments", "Frame", "Answer"), rows)


def _argument(name: str, argument: Argument) -> str:
    least, most = argument.minimum, argument.maximum
    bounds = f" from {least}" * (least is not None) + f" to {most}" * (most is not None)
    unit = f" {argument.unit}" if argument.unit else ""
    description = f": {_cell(argument.description)}" if argument.description else ""
    return f"`{name}` {argument.type}{bounds}{unit}{description}"


def _vectors(profile: Profile) -> Iterator[str]:
    yield "## Test vectors"
    for vector in profile.vectors:
        match vector:
            case FrameVector():
                head, meant = f"Frame `{vector.frame}`", {**vector.values}
            case CommandVector():
                head, meant = f"Command `{vector.command}`", {**vector.arguments}
        address = "" if vector.address is None else f", address {vector.address}"
        yield from ("", f"{head}{address}. {_cell(vector.source)}:", "", "```text")
        yield bytes.fromhex(vector.hex).hex(" ")
        yield from (f"{name} = {orjson.dumps(value).decode()}" for name, value in meant.items())
        yield "```"


def _place(start: int, end: int) -> str:
    return str(start) if end == start + 1 else f"{start}-{end - 1}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _cell(text: str) -> str:
    """Text of a profile, made harmless to the table and the page it stands in."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
