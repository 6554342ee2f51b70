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
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard, TypeVar

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, model_validator

from edge_gateway.codec.device_time import ReadingTime, time_scale
from edge_gateway.codec.fields import (
    AnyField,
    BytesField,
    Endian,
    FieldName,
    IntegerField,
    MacField,
    Misdeclared,
    NamedField,
    TextField,
    Unit,
    UuidField,
    WholeNumber,
)
from edge_gateway.codec.frame_check import Checksum
from edge_gateway.codec.layout import Layout, lay_out
from edge_gateway.codec.lookalikes import can_be_told_apart
from edge_gateway.codec.modbus import UNIT, Modbus
from edge_gateway.codec.names import Name
from edge_gateway.codec.payload_keys import key_names_in
from edge_gateway.codec.poll_checks import check_polls
from edge_gateway.codec.polling import Poll
from edge_gateway.codec.radio import Radio
from edge_gateway.codec.replay import ReplayRule, counter_span
from edge_gateway.codec.sealed import KEY_BYTES
from edge_gateway.codec.structure.items import Computed, Item, is_plain_field
from edge_gateway.codec.structure.plan import Output, Plan
from edge_gateway.codec.text import BlockFrame, ListFrame, TextFrame, TextLayout
from edge_gateway.codec.text.columns import PlainColumn
from edge_gateway.codec.text.words import TextColumn
from edge_gateway.config.link import FixedFraming, FramingSettings, HexBytes, ModbusRtuFraming, SerialLine
from edge_gateway.config.settings import Settings
from edge_gateway.errors import CodecError, ProfileError
from edge_gateway.records import Scalar

AnyLayout: TypeAlias = Layout | Plan | TextLayout
"""Where the fields of a frame lie: at fixed places, one behind the other, or between marks in a text."""


class FrameVersion(Settings):
    """The version of a layout, for devices of different ages on one link."""

    field: FieldName
    """The field that holds it."""
    current: int = Field(ge=0)
    """The one that the fields describe. Of a newer one, whatever stands behind them is ignored."""


class Frame(Settings):
    """One kind of frame."""

    role: Literal["sample", "answer", "request"]
    """`sample`: measured values. `answer`: what a device says to a command. `request`: sent to the device."""
    endian: Endian
    """The byte order of its numbers."""
    fields: tuple[Item, ...] = Field(min_length=1)
    """In the order of the wire, without gaps: name reserved bytes and give them `emit: false`."""
    version: FrameVersion | None = None
    checksum: Checksum | None = None
    description: str = ""

    @model_validator(mode="after")
    def _check_places(self) -> Frame:
        if self.is_fixed:
            self._check_names()
            self.layout("frame", {})
        return self

    def _check_names(self) -> None:
        seen: set[str] = set()
        for key, spec in _keyed_fields(self._fixed_fields):
            if spec.name in seen:
                raise Misdeclared(f"{spec.name!r} is there twice", key=key, remedy=f"For instance: {spec.name}_2")
            seen.add(spec.name)

    @property
    def is_fixed(self) -> bool:
        """Whether every field has its own place, the same in every frame of the kind."""
        return self.version is None and all(is_plain_field(item) for item in self.fields)

    @property
    def _fixed_fields(self) -> list[AnyField]:
        return [item for item in self.fields if is_plain_field(item)]

    def layout(self, name: str, parts: Mapping[str, tuple[Item, ...]]) -> AnyLayout:
        """Where its fields lie.

        Args:
            name: what the profile calls this frame.
            parts: the items that the profile declares once.

        Raises:
            Misdeclared: they cannot lie so.
        """
        if self.is_fixed:
            return lay_out(name, self.endian, self._fixed_fields, self.checksum)
        # What plans need takes memory that a box with fixed frames only can do without.
        from edge_gateway.codec.structure.planner import plan_frame

        version = None if self.version is None else (self.version.field, self.version.current)
        return plan_frame(name, self.endian, self.fields, self.checksum, version, parts)

    def named(self, layout: AnyLayout) -> dict[str, Output]:
        """Its fields by name, bit fields in place of the integer that holds them, without the one that holds the check.

        Args:
            layout: its own.
        """
        check = None if self.checksum is None else self.checksum.at
        if isinstance(layout, Plan):
            return {name: specs[0] for name, specs in layout.outputs.items() if name != check}
        return {
            spec.name: spec
            for _, spec in _keyed_fields(self._fixed_fields)
            if spec.name != check and not (isinstance(spec, IntegerField) and spec.bits)
        }


def _keyed_fields(fields: Iterable[AnyField]) -> Iterator[tuple[str, NamedField]]:
    for index, spec in enumerate(fields):
        yield f"fields[{index}].name", spec
        if isinstance(spec, IntegerField):
            for bit_index, part in enumerate(spec.bits):
                yield f"fields[{index}].bits[{bit_index}].name", part


def is_one_value(spec: Output) -> TypeGuard[NamedField | PlainColumn]:
    """Whether it is one value, of a field or of a column."""
    return isinstance(spec, NamedField | PlainColumn)


def is_field(spec: Output) -> TypeGuard[NamedField]:
    """Whether it is one value of one field."""
    return isinstance(spec, NamedField)


def _frame_kind(frame: Any) -> str:
    keys = frame if isinstance(frame, Mapping) else {"text": getattr(frame, "text", {})}
    text = keys.get("text", {})
    kind = text.get("kind") if isinstance(text, Mapping) else getattr(text, "kind", None)
    if kind is None and not text:
        return "Frame"
    return "BlockFrame" if kind == "block" else "ListFrame"


AnyFrame: TypeAlias = Annotated[
    Annotated[Frame, Tag("Frame")] | Annotated[ListFrame, Tag("ListFrame")] | Annotated[BlockFrame, Tag("BlockFrame")],
    Discriminator(_frame_kind),
]
"""A frame as it is declared: binary, or with the key `text` one of text."""


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
    refused_by: tuple[Name, ...] = ()
    """Other answer frames, which say no whatever they carry."""


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


RejectReason: TypeAlias = Literal[
    "length", "checksum", "unknown-frame", "value", "no-key", "decryption", "unsealed", "decoder"
]
"""Why a frame is rejected, where that can be told from the frame alone."""


class FrameVector(Settings):
    """Bytes of a frame, and what they mean."""

    frame: Name
    hex: HexBytes = ""
    text: str = ""
    """The bytes as text, in place of `hex`."""
    address: int | str | None = None
    sequence: int | None = None
    values: dict[FieldName, JsonValue] = Field(default_factory=dict)
    keys: dict[FieldName, HexBytes] = Field(default_factory=dict)
    """The keys of what is encrypted, by their names in the profile. Only published ones: this file is no secret."""
    reject: RejectReason | None = None
    """The word for the reason, if the frame is one that has to be rejected."""
    source: str = Field(min_length=1)
    """Where the bytes are from: a page of the manual, a capture, or that they were computed."""

    @model_validator(mode="after")
    def _read_text(self) -> FrameVector:
        if self.reject is not None and self.values:
            raise Misdeclared(
                "a frame that is rejected has no values", key="values", remedy="Keep `reject` or `values`"
            )
        for name, key in self.keys.items():
            if len(bytes.fromhex(key)) not in KEY_BYTES:
                raise Misdeclared(
                    f"no key has {len(bytes.fromhex(key))} bytes",
                    key=f"keys.{name}",
                    remedy="AES has keys of 16, 24 or 32",
                )
        return _with_bytes(self)


class CommandVector(Settings):
    """A command, and the bytes it is sent as."""

    command: Name
    arguments: dict[FieldName, Scalar] = Field(default_factory=dict)
    address: int | str | None = None
    hex: HexBytes = ""
    text: str = ""
    """The bytes as text, in place of `hex`."""
    source: str = Field(min_length=1)
    """Where the bytes are from: a page of the manual, a capture, or that they were computed."""

    @model_validator(mode="after")
    def _read_text(self) -> CommandVector:
        return _with_bytes(self)


AnyVector = TypeVar("AnyVector", FrameVector, CommandVector)


def _with_bytes(vector: AnyVector) -> AnyVector:
    """The vector with its text in `hex` as well."""
    if not vector.hex and not vector.text:
        raise Misdeclared("nothing says which bytes", key="hex", remedy="Give `hex`, or `text`")
    if vector.text:
        in_hex = vector.text.encode().hex()
        if vector.hex not in ("", in_hex):
            raise Misdeclared("the bytes are there twice", key="hex", remedy="Keep `hex`, or `text`")
        vector.__dict__["hex"] = in_hex
    return vector


class DecodedSample(Settings):
    """One sample that a decoder gives."""

    address: int | str | None = None
    values: dict[str, JsonValue]


class DecoderVector(Settings):
    """Bytes for a decoder in Python, and all the samples it gives for them."""

    hex: HexBytes = ""
    text: str = ""
    """The bytes as text, in place of `hex`."""
    samples: tuple[DecodedSample, ...]
    reject: str | None = None
    """The word for the reason, if the frame is one that has to be rejected."""
    source: str = Field(min_length=1)
    """Where the bytes are from: a page of the manual, a capture, or that they were computed."""

    @property
    def frame_bytes(self) -> bytes:
        """The frame."""
        return bytes.fromhex(self.hex) or self.text.encode()


def _vector_kind(vector: Any) -> str:
    keys = vector if isinstance(vector, Mapping) else getattr(vector, "__dict__", {})
    if "samples" in keys:
        return "DecoderVector"
    return "CommandVector" if "command" in keys else "FrameVector"


Vector: TypeAlias = Annotated[
    Annotated[FrameVector, Tag("FrameVector")]
    | Annotated[CommandVector, Tag("CommandVector")]
    | Annotated[DecoderVector, Tag("DecoderVector")],
    Discriminator(_vector_kind),
]


class ManualReference(Settings):
    """Where the profile's facts come from."""

    document: str = Field(min_length=1)
    pages: str = ""


_LONGEST_BYTES = 65_536
"""Of a frame that no framing bounds."""


class Profile(Settings):
    """A family of devices: how to reach one, what it says, and what it can be told."""

    name: Name
    version: int = Field(ge=1)
    """Grows with every change of meaning."""
    title: str = Field(min_length=1)
    source: ManualReference
    line: SerialLine | None = None
    """The serial parameters it leaves the factory with; None for a device without a serial line."""
    framing: FramingSettings | None = None
    """How frames are found in what a line carries; None for what comes by radio, or inside something else."""
    radio: Radio | None = None
    """What to listen for, of a device without a line."""
    identity: FieldName | None = None
    """The field that says which device of a link speaks or is spoken to. None: a link carries one device."""
    sequence: FieldName | None = None
    """The field that counts the device's frames."""
    replay: tuple[ReplayRule, ...] = ()
    """The counters that tell new frames from repeated and replayed ones; a frame has to pass all of them."""
    time: ReadingTime | None = None
    """The value that says when a frame was measured; without it, the reading has the time at which it came."""
    frames: dict[Name, AnyFrame] = Field(default_factory=dict, max_length=256)
    """The frames, by name; none with `decoder`."""
    decoder: Name | None = None
    """Code that decodes in place of `frames`: one that ships with the gateway, or an entry point. See `door.py`."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """For the decoder; it says which it takes."""
    parts: dict[Name, tuple[Item, ...]] = Field(default_factory=dict)
    """Items that stand in several places, by a name for them: `{type: part, part: NAME}` stands for them."""
    commands: dict[Name, DeviceCommand] = Field(default_factory=dict)
    polls: dict[Name, Poll] = Field(default_factory=dict)
    """What its devices are asked for. With polls, nothing is heard on the line but what was asked for."""
    modbus: Modbus | None = None
    """The registers of a Modbus RTU device; frames, polls and commands come from them."""
    vectors: tuple[Vector, ...] = ()

    @property
    def layouts(self) -> dict[str, AnyLayout]:
        """Where the fields of each frame lie, by the frame's name; worked out once."""
        # Not a cached property: a copy with other frames would keep the layouts of these.
        known: tuple[object, dict[str, AnyLayout]] = self.__dict__.get("_layouts", (None, {}))
        if known[0] is not self.frames:
            layouts = {name: self._layout(name, frame) for name, frame in self.frames.items()}
            known = self.frames, layouts
            self.__dict__["_layouts"] = known
        return known[1]

    def _layout(self, name: str, frame: Frame | TextFrame) -> AnyLayout:
        return TextLayout(name, frame) if isinstance(frame, TextFrame) else frame.layout(name, self.parts)

    @property
    def heard_layouts(self) -> list[AnyLayout]:
        """The layouts of what a device sends: samples first, then answers.

        Of a polled device, those that can be known without what was asked.
        """
        roles = {name: frame.role for name, frame in self.frames.items()}
        heard = [layout for name, layout in self.layouts.items() if not self.is_request(name)]
        if self.polls:
            heard = [each for each in heard if all(each is other or can_be_told_apart(each, other) for other in heard)]
        return sorted(heard, key=lambda layout: roles[layout.name] != "sample")

    def named(self, frame_name: str) -> dict[str, Output]:
        """The fields or columns of a frame by name; worked out at every call. See `Frame.named`."""
        frame = self.frames[frame_name]
        return {**(frame.specs if isinstance(frame, TextFrame) else frame.named(self.layouts[frame_name]))}

    @property
    def line_framing(self) -> FramingSettings:
        """How frames are found in what a line carries.

        Raises:
            ProfileError: these devices have no line.
        """
        if self.framing is None:
            raise ProfileError(
                "these devices do not speak over a line", where=self.name, remedy="Give the link a `framing` of its own"
            )
        return self.framing

    def is_request(self, frame_name: str) -> bool:
        """Whether a frame is sent to the device."""
        return self.frames[frame_name].role == "request"

    def values_of(self, frame_name: str) -> dict[str, Output]:
        """The fields of a frame that become values: neither constant, nor address or counter, nor `emit: false`."""
        return {
            name: spec
            for name, spec in self.named(frame_name).items()
            if spec.emit and not spec.is_constant and name not in (self.identity, self.sequence)
        }

    def told(self, name: str) -> list[Output] | None:
        """What goes by a name in the samples of these devices: a value, or the sequence; None if only code knows."""
        if not self.frames:
            return None
        return [
            fields[name]
            for frame_name, frame in self.frames.items()
            if frame.role == "sample" and name in (fields := self.named(frame_name))
            if name == self.sequence or name in self.values_of(frame_name)
        ]

    @property
    def key_names(self) -> set[str]:
        """What the profile calls the keys that its encrypted items need."""
        fields = [frame.fields for frame in self.frames.values() if isinstance(frame, Frame)]
        items = [*fields, *self.parts.values()]
        return key_names_in(item for each in items for item in each)

    @model_validator(mode="after")
    def _expand_modbus(self) -> Profile:
        if self.modbus is None or self.modbus.is_expanded_in(self.frames):
            return self
        if self.identity not in (None, UNIT):
            raise Misdeclared(
                f"the identity is {self.identity!r}",
                key="identity",
                remedy=f"With `modbus` it is {UNIT!r}: leave it out",
            )
        frames, polls, commands = self.modbus.expanded()
        made: dict[str, dict[str, Settings]]
        try:
            made = {
                "frames": {name: Frame.model_validate(frame) for name, frame in frames.items()},
                "polls": {name: Poll.model_validate(poll) for name, poll in polls.items()},
                "commands": {name: DeviceCommand.model_validate(command) for name, command in commands.items()},
            }
        except ValidationError as error:  # what the table's own checks let through and a frame does not
            first = error.errors(include_url=False)[0]
            raise Misdeclared(str(first["msg"]), key="modbus", remedy=f"See {first['loc']}") from error
        for key, new in made.items():
            old: Mapping[str, Settings] = getattr(self, key)
            for name in old.keys() & new.keys():
                raise Misdeclared(f"{name!r} is made of the registers already", key=f"{key}.{name}", remedy="Rename it")
            self.__dict__[key] = {**new, **old}
        self.__dict__["identity"] = UNIT
        if self.framing is None:
            self.__dict__["framing"] = ModbusRtuFraming(kind="modbus-rtu")
        self.model_fields_set.update(("frames", "polls", "commands", "identity", "framing"))
        return self

    @model_validator(mode="after")
    def _check_all(self) -> Profile:
        self._check_decoder()
        if self.framing is not None and self.radio is not None:
            raise Misdeclared("what comes by radio has no framing", key="radio", remedy="Keep one of the two")
        self._check_mixture()
        for name, frame in self.frames.items():
            self._check_layout(name, frame)
        self._check_roles()
        self._check_counters_and_time()
        self._check_lengths()
        for name, command in self.commands.items():
            try:
                self._check_command(command)
            except Misdeclared as wrong:
                raise Misdeclared(wrong.what, key=f"commands.{name}.{wrong.key}", remedy=wrong.remedy) from wrong
        check_polls(self)
        for index, vector in enumerate(self.vectors):
            match vector:
                case FrameVector():
                    _must_exist(vector.frame, self.frames, "frame", f"vectors[{index}].frame")
                    for name in vector.keys:
                        _must_exist(name, sorted(self.key_names), "key", f"vectors[{index}].keys.{name}")
                case CommandVector():
                    _must_exist(vector.command, self.commands, "command", f"vectors[{index}].command")
                case DecoderVector() if self.decoder is None:
                    raise Misdeclared(
                        "`samples` are what a decoder gives",
                        key=f"vectors[{index}].samples",
                        remedy="Say `frame` and `values`",
                    )
        return self

    def _check_decoder(self) -> None:
        if self.decoder is None:
            if not self.frames:
                raise Misdeclared("nothing says what the bytes mean", key="frames", remedy="Add frames, or a `decoder`")
            if self.options:
                raise Misdeclared("options are for a decoder", key="options", remedy="Add `decoder`, or leave them out")
            return
        for key in ("modbus", "frames", "parts", "commands", "polls", "identity", "sequence"):
            if getattr(self, key):
                raise Misdeclared(
                    "code decodes these frames, so nothing is declared of them", key=key, remedy="Keep one of the two"
                )

    def _check_mixture(self) -> None:
        texts = [name for name, frame in self.frames.items() if isinstance(frame, TextFrame)]
        if texts and len(texts) < len(self.frames):
            raise Misdeclared(
                "some frames are text and some are not", key=f"frames.{texts[0]}", remedy="Make a profile for each"
            )

    def _check_layout(self, name: str, frame: Frame | TextFrame) -> None:
        if isinstance(frame, TextFrame) or frame.is_fixed:
            return
        try:
            frame.layout(name, self.parts)
        except Misdeclared as wrong:
            place = wrong.key if wrong.key.startswith("parts.") else f"frames.{name}.{wrong.key}"
            raise Misdeclared(wrong.what, key=place, remedy=wrong.remedy) from wrong

    def _check_is_handed_over(self, key: str, name: str) -> None:
        """Within an item that a frame can be without, only what would be a value is handed over."""
        for frame_name, layout in self.layouts.items():
            if isinstance(layout, Plan) and name in layout.optional and not self.named(frame_name)[name].emit:
                raise Misdeclared(
                    f"{name!r} has `emit: false` in an item that a frame can be without",
                    key=key,
                    remedy="Leave `emit` out: the field becomes no value either way",
                )

    def _check_roles(self) -> None:
        for key, name in (("identity", self.identity), ("sequence", self.sequence)):
            if name is None:
                continue
            named = [self.named(frame) for frame in self.frames]
            holders = [fields[name] for fields in named if name in fields]
            if not holders:
                known = sorted({field for fields in named for field in fields})
                raise Misdeclared(f"no frame has a field {name!r}", key=key, remedy=f"Fields: {', '.join(known)}")
            for spec in holders:
                plain_number = isinstance(spec, WholeNumber) and spec.is_plain
                is_text = isinstance(spec, BytesField | MacField | TextField | UuidField) or (
                    isinstance(spec, TextColumn) and not spec.enum
                )
                plain_text = is_text and key == "identity"
                if spec.is_constant or not (plain_number or plain_text):
                    raise Misdeclared(
                        f"{name!r} cannot be the {key}",
                        key=key,
                        remedy="Name a whole number without scale, enum or sentinel",
                    )
            self._check_is_handed_over(key, name)
        for frame_name, frame in self.frames.items():
            if self.identity is not None and frame.role == "sample" and self.identity not in self.named(frame_name):
                raise Misdeclared(
                    f"the identity {self.identity!r} is missing, so nobody knows whose values these are",
                    key=f"frames.{frame_name}.fields",
                    remedy=f"Add a field named {self.identity!r}, or leave out `identity`",
                )

    def _check_counters_and_time(self) -> None:
        for index, rule in enumerate(self.replay):
            with _at(f"replay[{index}]"):
                counter_span(rule, self.told(rule.counter))
        if self.time is not None:
            with _at("time"):
                time_scale(self.time, self.told(self.time.field))

    def _check_lengths(self) -> None:
        if isinstance(self.framing, FixedFraming):
            least, most = self.framing.frame_bytes, self.framing.frame_bytes
        else:
            least, most = 1, _LONGEST_BYTES if self.framing is None else self.framing.max_frame_bytes
        heard = [layout for name, layout in self.layouts.items() if not self.is_request(name)]
        sent = [self.layouts[name] for name in self.frames if self.is_request(name)]
        for layout in heard:
            if layout.least_bytes > most or (layout.most_bytes is not None and layout.most_bytes < least):
                raise Misdeclared(
                    f"the fields take {_bytes_of(layout)}, which the framing never delivers",
                    key=f"frames.{layout.name}.fields",
                    remedy=f"It delivers {least} to {most} bytes: mend the fields or `framing`",
                )
        # What a polled device says is known by what was asked (`poll_checks`).
        for group in () if self.polls else (heard, sent):
            for index, layout in enumerate(group):
                for other in group[:index]:
                    if not can_be_told_apart(layout, other):
                        raise Misdeclared(
                            f"{layout.name!r} and {other.name!r} look the same: {_bytes_of(layout)}",
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
        layout = self.layouts[command.frame]
        optional = layout.optional if isinstance(layout, Plan | TextLayout) else frozenset()
        settable = {
            name: spec
            for name, spec in self.named(command.frame).items()
            if not spec.is_constant and not isinstance(spec, Computed) and name != self.identity
        }
        for name, spec in settable.items():
            if name not in command.set and spec.emit and name not in optional:
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
        for index, name in enumerate(answer.refused_by):
            _must_exist(name, self.frames, "frame", f"answer.refused_by[{index}]")
        values = self.values_of(answer.frame)
        for part, expected in (("match", answer.match), ("success", answer.success)):
            for name, value in expected.items():
                _must_exist(name, values, "value", f"answer.{part}.{name}")
                _must_encode(value, values[name], f"answer.{part}.{name}")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say of what is wrong where the profile says it."""
    try:
        yield
    except Misdeclared as wrong:
        raise Misdeclared(wrong.what, key=f"{place}.{wrong.key}", remedy=wrong.remedy) from wrong


def _bytes_of(layout: AnyLayout) -> str:
    """How long a frame is, for people."""
    if layout.most_bytes == layout.least_bytes:
        return f"{layout.least_bytes} bytes"
    return (
        f"{layout.least_bytes} bytes and more"
        if layout.most_bytes is None
        else (f"{layout.least_bytes} to {layout.most_bytes} bytes")
    )


def _must_exist(name: str, known: Iterable[str], kind: str, key: str) -> None:
    names = list(known)
    if name not in names:
        raise Misdeclared(f"there is no {kind} {name!r}", key=key, remedy=f"There is: {', '.join(names) or 'none'}")


def _must_encode(value: Scalar, spec: Output, key: str) -> None:
    if not is_one_value(spec):
        raise Misdeclared(f"{spec.name!r} is not one value", key=key, remedy="Name a field of one")
    try:
        if isinstance(spec, PlainColumn):
            spec.write(value, exact=True)
        else:
            spec.raw_of(value, exact=True)
    except CodecError as error:
        raise Misdeclared(error.what, key=key, remedy=error.remedy) from error


def _check_argument(name: str, argument: Argument, spec: Output) -> None:
    if not is_one_value(spec):
        raise Misdeclared(f"{spec.name!r} is not one value", key=f"arguments.{name}", remedy="Name a field of one")
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
