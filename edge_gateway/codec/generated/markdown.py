"""A profile as a page for people, in the order of a datasheet: line, framing, bytes, commands, examples.

Whoever checks a profile lays this page beside the manufacturer's and compares row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from edge_gateway.codec.generated.markdown_frames import fixed_frame, length_words, part_of_profile, planned_frame
from edge_gateway.codec.generated.markdown_lines import text_frame
from edge_gateway.codec.generated.markdown_text import cell, table
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.profile import (
    Argument,
    ArgumentReference,
    CommandVector,
    DecoderVector,
    FrameVector,
    Profile,
)
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.text import TextFrame
from edge_gateway.config.settings import Settings

_ROLES = {"sample": "measured values", "answer": "what the device says to a command", "request": "sent to the device"}


def profile_markdown(profile: Profile) -> str:
    """The profile's page, in GitHub's Markdown; ends with a line break."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    manual = profile.source
    yield f"# {cell(profile.title)}"
    yield ""
    yield f"Profile `{profile.name}`, version {profile.version}. Source: {cell(manual.document)}" + (
        f", {cell(manual.pages)}." if manual.pages else "."
    )
    yield ""
    yield from table(("Setting", "Value"), _settings(profile))
    for name in profile.frames:
        yield from ("", *_frame(profile, name))
    for name in profile.parts:
        yield from ("", f"## Part `{name}`", "", *part_of_profile(profile, name))
    if profile.polls:
        yield from ("", *_polls(profile))
    if profile.commands:
        yield from ("", *_commands(profile))
    if profile.vectors:
        yield from ("", *_vectors(profile))


def _settings(profile: Profile) -> Iterator[tuple[str, str]]:
    if profile.line is not None:
        line = profile.line
        yield "line", f"{line.baud} baud, {line.data_bits} data bits, parity {line.parity}, {line.stop_bits} stop bits"
    if profile.framing is not None:
        yield "framing", ", ".join([profile.framing.kind, *_keys(profile.framing)])
    if profile.radio is not None:
        yield "radio", ", ".join(_keys(profile.radio))
    if profile.decoder is not None:
        yield "decoded by code", ", ".join([f"`{profile.decoder}`", *(f"`{key}`" for key in profile.options)])
    if profile.identity:
        yield "device's address", f"`{profile.identity}`"
    if profile.sequence:
        yield "frame counter", f"`{profile.sequence}`"
    if profile.time is not None:
        yield "time of measurement", ", ".join(_keys(profile.time))
    for rule in profile.replay:
        yield "replay", ", ".join(_keys(rule))
    if profile.key_names:
        yield "keys", ", ".join(f"`{name}`" for name in sorted(profile.key_names))


def _keys(settings: Settings) -> Iterator[str]:
    """The keys of a setting and what was said for them, but the kind."""
    for key, value in settings.model_dump(mode="json", exclude={"kind"}, exclude_none=True).items():
        if value not in ([], {}, ""):
            yield f"`{key}` {cell(_shown(value))}"


def _shown(value: Any) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _frame(profile: Profile, name: str) -> Iterator[str]:
    frame, layout = profile.frames[name], profile.layouts[name]
    role = f"{_ROLES[frame.role].capitalize()}."
    description = f" {cell(frame.description)}" if frame.description else ""
    yield f"## Frame `{name}`"
    yield ""
    if isinstance(frame, TextFrame):
        yield f"{role}{description}"
        yield ""
        yield from text_frame(profile, frame)
    elif isinstance(layout, Layout):
        yield f"{role} {length_words(layout)}, {layout.endian} endian.{description}"
        yield ""
        yield from fixed_frame(profile, layout)
    elif isinstance(layout, Plan):
        yield f"{role} {length_words(layout)}, {layout.endian} endian.{description}"
        yield ""
        yield from planned_frame(profile, frame)


def _polls(profile: Profile) -> Iterator[str]:
    yield "## Polls"
    yield ""
    rows = []
    for name, poll in profile.polls.items():
        sets = ", ".join(f"`{field}` = {value}" for field, value in poll.set.items())
        asked = f"`{poll.frame}`" + (f": {sets}" if sets else "")
        rows.append((f"`{name}`", cell(poll.description), asked, f"`{poll.answer}`", f"{poll.every_s:g} s"))
    yield from table(("Poll", "Meaning", "Request", "Answer", "Every"), rows)


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
        rows.append((f"`{name}`", cell(command.description), arguments, f"`{command.frame}`: {sets}", answer))
    yield from table(("Command", "Meaning", "Arguments", "Frame", "Answer"), rows)


def _argument(name: str, argument: Argument) -> str:
    least, most = argument.minimum, argument.maximum
    bounds = f" from {least}" * (least is not None) + f" to {most}" * (most is not None)
    unit = f" {argument.unit}" if argument.unit else ""
    description = f": {cell(argument.description)}" if argument.description else ""
    return f"`{name}` {argument.type}{bounds}{unit}{description}"


def _vectors(profile: Profile) -> Iterator[str]:
    yield "## Test vectors"
    for vector in profile.vectors:
        match vector:
            case FrameVector():
                yield from _vector(f"Frame `{vector.frame}`{_address(vector.address)}", vector.source, vector.hex)
                yield from (f"key {name} = {key}" for name, key in vector.keys.items())
                yield from _values(vector.values, vector.reject)
            case CommandVector():
                yield from _vector(f"Command `{vector.command}`{_address(vector.address)}", vector.source, vector.hex)
                yield from _values({**vector.arguments}, None)
            case DecoderVector():
                yield from _vector("Frame", vector.source, vector.hex, vector.text)
                for sample in vector.samples:
                    yield f"address = {orjson.dumps(sample.address).decode()}"
                    yield from _values(sample.values, None)
                yield from _values({}, vector.reject)
        yield "```"


def _vector(head: str, source: str, digits: str, text: str = "") -> Iterator[str]:
    yield from ("", f"{head}. {cell(source)}:", "", "```text")
    yield bytes.fromhex(digits).hex(" ") if digits else orjson.dumps(text).decode()


def _address(address: int | str | None) -> str:
    return "" if address is None else f", address {address}"


def _values(values: dict[str, Any], reject: str | None) -> Iterator[str]:
    yield from (f"{name} = {orjson.dumps(value).decode()}" for name, value in values.items())
    if reject is not None:
        yield f"rejected: {reject}"
