"""The device profile: one declaration for a family of devices, from the serial line to the meaning of each bit.

This module is the language: its models, and the checks that need more than one of them. `fields.py` has the kinds of
fields, `load.py` finds and reads files. `docs/reference/profile.md` explains it by example.

All checks happen when a profile is made, so whoever holds a `Profile` holds one that compiles:

- names are unique where they must be, and what is named exists,
- no two frames a device sends can be taken for each other,
- every command fills every field of its frame, and its bounds fit the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from edge_gateway.codec.fields import (
    AnyField,
    BytesField,
    Endian,
    FieldName,
    FieldSpec,
    IntegerField,
    MacField,
    Misdeclared,
    NamedField,
    TextField,
    Unit,
    WholeNumber,
)
from edge_gateway.codec.frame_check import Checksum
from edge_gateway.codec.layout import Layout, can_be_told_apart, lay_out
from edge_gateway.config.link import FixedFraming, FramingSettings, HexBytes, SerialLine, Settings
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar

Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$"), Field(examples=["reference-climate", "set-period"])
]
"""The name of a profile, frame or command: lower case letters, digits and `-`."""


class Frame(Settings):
    """One kind of frame."""

    role: Literal["sample", "answer", "request"]
    """`sample`: measured values. `answer`: what a device says to a command. `request`: sent to the device."""
    endian: Endian
    """The byte order of its numbers."""
    fields: tuple[FieldSpec, ...] = Field(min_length=1)
    """In the order of the wire, without gaps: name reserved bytes and give them `emit: false`."""
    checksum: Checksum | None = None
    description: str = ""

    @model_validator(mode="after")
    def _check_names(self) -> Frame:
        seen: set[str] = set()
        for key, spec in _keyed_fields(self.fields):
            if spec.name in seen:
                raise Misdeclared(f"{spec.name!r} is there twice", key=key, remedy=f"For instance: {spec.name}_2")
            seen.add(spec.name)
        self.layout("frame")
        return self

    @property
    def named(self) -> dict[str, NamedField]:
        """Its fields by name, bit fields in place of the integer that holds them, without the one that holds the check.

        Worked out at every call.
        """
        check = None if self.checksum is None else self.checksum.at
        return {
            spec.name: spec
            for _, spec in _keyed_fields(self.fields)
            if spec.name != check and not (isinstance(spec, IntegerField) and spec.bits)
        }

    def layout(self, name: str) -> Layout:
        """Where its fields lie.

        Args:
            name: what the profile calls this frame.
        """
        return lay_out(name, self.endian, self.fields, self.checksum)


def _keyed_fields(fields: Iterable[AnyField]) -> Iterator[tuple[str, NamedField]]:
    for index, spec in enumerate(fields):
        yield f"fields[{index}].name", spec
        if isinstance(spec, IntegerField):
            for bit_index, part in enumerate(spec.bits):
                yield f"fields[{index}].bits[{bit_index}].name", part


def is_constant(spec: NamedField) -> bool:
    """Whether a field holds the same in every frame of its kind."""
    return isinstance(spec, (IntegerField, BytesField)) and spec.const is not None


class Argument(Settings):
    """What the asker of a command may choose."""

    type: Literal["integer", "number", "boolean", "text"]
    minimum: int | float | None = None
    """The least allowed; without it, the least the field can carry."""
    maximum: int | float | None = None
    """The greatest allowed; without it, the greatest the field can carry."""
    unit: Unit | None = None
    description: str = ""

    @model_validator(mode="after")
    def _check_bounds(self) -> Argument:
        bounded = self.minimum is not None or self.maximum is not None
        if bounded and self.type in ("boolean", "text"):
            raise Misdeclared(
                f"a {self.type} has no bounds", key="type", remedy="Use integer or number, or leave them out"
            )
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise Misdeclared(
                f"the minimum {self.minimum} is above the maximum {self.maximum}", key="minimum", remedy="Swap them"
            )
        return self


class ArgumentReference(Settings):
    """Says that a field takes an argument's value."""

    argument: FieldName


class CommandAnswer(Settings):
    """How to know a command's answer, and whether the device agreed."""

    frame: Name
    match: dict[FieldName, Scalar] = Field(default_factory=dict)
    """What an answer to this command carries, beside the device's address."""
    success: dict[FieldName, Scalar] = Field(default_factory=dict)
    """What it carries when the device agreed; anything else is a refusal. Empty: any answer is agreement."""


class DeviceCommand(Settings):
    """Something a device of this family can be told."""

    frame: Name
    """The request it is sent as."""
    set: dict[FieldName, ArgumentReference | Scalar] = Field(default_factory=dict)
    """A value or an argument for every field that is neither constant nor the address."""
    arguments: dict[FieldName, Argument] = Field(default_factory=dict)
    answer: CommandAnswer | None = None
    """None for a device that does not answer this command."""
    description: str = ""


class FrameVector(Settings):
    """Bytes of a frame, and what they mean."""

    frame: Name
    hex: HexBytes
    address: int | str | None = None
    sequence: int | None = None
    values: dict[FieldName, Scalar] = Field(default_factory=dict)
    source: str = Field(min_length=1)
    """Where the bytes are from: a page of the manual, a capture, or that they were computed."""


class CommandVector(Settings):
    """A command, and the bytes it is sent as."""

    command: Name
    arguments: dict[FieldName, Scalar] = Field(default_factory=dict)
    address: int | str | None = None
    hex: HexBytes
    source: str = Field(min_length=1)
    """Where the bytes are from: a page of the manual, a capture, or that they were computed."""


def _vector_kind(vector: Any) -> str:
    keys = vector if isinstance(vector, Mapping) else getattr(vector, "__dict__", {})
    return "CommandVector" if "command" in keys else "FrameVector"


Vector: TypeAlias = Annotated[
    Annotated[FrameVector, Tag("FrameVector")] | Annotated[CommandVector, Tag("CommandVector")],
    Discriminator(_vector_kind),
]


class ManualReference(Settings):
    """Where the profile's facts come from."""

    document: str = Field(min_length=1)
    pages: str = ""


class Profile(Settings):
    """A family of devices: how to reach one, what it says, and what it can be told."""

    name: Name
    version: int = Field(ge=1)
    """Grows with every change of meaning."""
    title: str = Field(min_length=1)
    source: ManualReference
    line: SerialLine | None = None
    """The serial parameters it leaves the factory with; None for a device without a serial line."""
    framing: FramingSettings
    identity: FieldName | None = None
    """The field that says which device of a link speaks or is spoken to. None: a link carries one device."""
    sequence: FieldName | None = None
    """The field that counts the device's frames."""
    frames: dict[Name, Frame] = Field(min_length=1)
    commands: dict[Name, DeviceCommand] = Field(default_factory=dict)
    vectors: tuple[Vector, ...] = ()

    @property
    def layouts(self) -> dict[str, Layout]:
        """Where the fields of each frame lie, by the frame's name. Worked out at every call."""
        return {name: frame.layout(name) for name, frame in self.frames.items()}

    @property
    def heard_layouts(self) -> list[Layout]:
        """The layouts of what a device sends: samples first, then answers."""
        roles = {name: frame.role for name, frame in self.frames.items()}
        heard = [layout for name, layout in self.layouts.items() if not self.is_request(name)]
        return sorted(heard, key=lambda layout: roles[layout.name] != "sample")

    def is_request(self, frame_name: str) -> bool:
        """Whether a frame is sent to the device."""
        return self.frames[frame_name].role == "request"

    def values_of(self, frame_name: str) -> dict[str, NamedField]:
        """The fields of a frame that become values: neither constant, nor address or counter, nor `emit: false`."""
        return {
            name: spec
            for name, spec in self.frames[frame_name].named.items()
            if spec.emit and not is_constant(spec) and name not in (self.identity, self.sequence)
        }

    @model_validator(mode="after")
    def _check_all(self) -> Profile:
        self._check_roles()
        self._check_lengths()
        for name, command in self.commands.items():
            try:
                self._check_command(command)
            except Misdeclared as wrong:
                raise Misdeclared(wrong.what, key=f"commands.{name}.{wrong.key}", remedy=wrong.remedy) from wrong
        for index, vector in enumerate(self.vectors):
            match vector:
                case FrameVector():
                    _must_exist(vector.frame, self.frames, "frame", f"vectors[{index}].frame")
                case CommandVector():
                    _must_exist(vector.command, self.commands, "command", f"vectors[{index}].command")
        return self

    def _check_roles(self) -> None:
        for key, name in (("identity", self.identity), ("sequence", self.sequence)):
            if name is None:
                continue
            holders = [frame.named[name] for frame in self.frames.values() if name in frame.named]
            if not holders:
                known = sorted({field for frame in self.frames.values() for field in frame.named})
                raise Misdeclared(f"no frame has a field {name!r}", key=key, remedy=f"Fields: {', '.join(known)}")
            for spec in holders:
                plain_number = isinstance(spec, WholeNumber) and spec.is_plain
                plain_text = isinstance(spec, (BytesField, MacField, TextField)) and key == "identity"
                if is_constant(spec) or not (plain_number or plain_text):
                    raise Misdeclared(
                        f"{name!r} cannot be the {key}",
                        key=key,
                        remedy="Name a whole number without scale, enum or sentinel",
                    )
        for frame_name, frame in self.frames.items():
            if self.identity is not None and frame.role == "sample" and self.identity not in frame.named:
                raise Misdeclared(
                    f"the identity {self.identity!r} is missing, so nobody knows whose values these are",
                    key=f"frames.{frame_name}.fields",
                    remedy=f"Add a field named {self.identity!r}, or leave out `identity`",
                )

    def _check_lengths(self) -> None:
        if isinstance(self.framing, FixedFraming):
            least, most = self.framing.frame_bytes, self.framing.frame_bytes
        else:
            least, most = 1, self.framing.max_frame_bytes
        heard, sent = self.heard_layouts, [self.layouts[name] for name in self.frames if self.is_request(name)]
        for layout in heard:
            if not least <= layout.length_bytes <= most:
                raise Misdeclared(
                    f"the fields take {layout.length_bytes} bytes, which the framing never delivers",
                    key=f"frames.{layout.name}.fields",
                    remedy=f"It delivers {least} to {most} bytes: mend the fields or `framing`",
                )
        for group in (heard, sent):
            for index, layout in enumerate(group):
                for other in group[:index]:
                    if not can_be_told_apart(layout, other):
                        raise Misdeclared(
                            f"{layout.name!r} and {other.name!r} look the same: {layout.length_bytes} bytes",
                            key=f"frames.{layout.name}",
                            remedy="Give both a field with `const` at the same place and different numbers",
                        )

    def _check_command(self, command: DeviceCommand) -> None:
        _must_exist(command.frame, self.frames, "frame", "frame")
        frame = self.frames[command.frame]
        if frame.role != "request":
            raise Misdeclared(
                f"{command.frame!r} is no request", key="frame", remedy="Name a frame with `role: request`"
            )
        settable = {name: spec for name, spec in frame.named.items() if not is_constant(spec) and name != self.identity}
        for name, spec in settable.items():
            if name not in command.set and spec.emit:
                raise Misdeclared(f"nothing says what {name!r} holds", key="set", remedy=f"For instance: {name}: 0")
        used: set[str] = set()
        for name, source in command.set.items():
            _must_exist(name, settable, "field to set", f"set.{name}")
            if isinstance(source, ArgumentReference):
                _must_exist(source.argument, command.arguments, "argument", f"set.{name}.argument")
                used.add(source.argument)
                _check_argument(source.argument, command.arguments[source.argument], settable[name])
            else:
                _must_encode(source, settable[name], f"set.{name}")
        for name in command.arguments:
            if name not in used:
                raise Misdeclared(f"no field takes {name!r}", key=f"arguments.{name}", remedy="Name it in `set`")
        if command.answer is not None:
            self._check_answer(command.answer)

    def _check_answer(self, answer: CommandAnswer) -> None:
        _must_exist(answer.frame, self.frames, "frame", "answer.frame")
        if self.frames[answer.frame].role != "answer":
            raise Misdeclared(
                f"{answer.frame!r} is no answer", key="answer.frame", remedy="Name a frame with `role: answer`"
            )
        values = self.values_of(answer.frame)
        for part, expected in (("match", answer.match), ("success", answer.success)):
            for name, value in expected.items():
                _must_exist(name, values, "value", f"answer.{part}.{name}")
                _must_encode(value, values[name], f"answer.{part}.{name}")


def _must_exist(name: str, known: Iterable[str], kind: str, key: str) -> None:
    names = list(known)
    if name not in names:
        raise Misdeclared(f"there is no {kind} {name!r}", key=key, remedy=f"There is: {', '.join(names) or 'none'}")


def _must_encode(value: Scalar, spec: NamedField, key: str) -> None:
    try:
        spec.raw_of(value, exact=True)
    except CodecError as error:
        raise Misdeclared(error.what, key=key, remedy=error.remedy) from error


def _check_argument(name: str, argument: Argument, spec: NamedField) -> None:
    for bound in ("minimum", "maximum"):
        value = getattr(argument, bound)
        if value is not None:
            _must_encode(value, spec, f"arguments.{name}.{bound}")
    if argument.type == "boolean":
        _must_encode(True, spec, f"arguments.{name}.type")
    if bool(spec.text_form) != (argument.type == "text"):
        raise Misdeclared(
            f"{spec.name!r} cannot take a value of type {argument.type}",
            key=f"arguments.{name}.type",
            remedy="text is for fields whose values are text (enum, epoch, bytes, mac, text), and only for them",
        )
