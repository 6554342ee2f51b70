"""A compiled profile: what the rest of the gateway asks about frames.

Decoding is the generated code of `compile.py`. Encoding is written for clarity instead: a command is rare
beside a received frame, and being another way through the same declaration, encoding checks decoding in tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_gateway.codec.compile import CompiledDecoder, Decoded, compile_decoder
from edge_gateway.codec.explain import explain_decoded, explain_frame
from edge_gateway.codec.fields import FloatField, IntegerField, WholeNumber
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.payload_keys import PayloadKeys, no_payload_keys
from edge_gateway.codec.profile import AnyLayout, Argument, ArgumentReference, Profile
from edge_gateway.codec.rows import Row
from edge_gateway.codec.structure.items import Computed
from edge_gateway.codec.structure.plan import Output, Plan
from edge_gateway.codec.text import TextLayout
from edge_gateway.codec.text.numbers import DecimalColumn
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.errors import CodecError, CommandInvalid, ProfileError
from edge_gateway.records import Answer, CommandResult, CommandStatus, Value

if TYPE_CHECKING:
    from edge_gateway.codec.door import Door


@dataclass(frozen=True, slots=True)
class Request:
    """A command as bytes, and how to know its answer."""

    command: str
    address: int | str | None
    payload: bytes
    """The frame, before framing."""
    answer_frame: str | None = None
    """None for a command the device never answers: do not wait."""
    match: Mapping[str, Value] = field(default_factory=dict)
    success: Mapping[str, Value] = field(default_factory=dict)

    refused_by: tuple[str, ...] = ()
    """Frames that say no."""

    @property
    def answer_frames(self) -> tuple[str, ...]:
        """Every frame that may answer it."""
        return () if self.answer_frame is None else (self.answer_frame, *self.refused_by)

    def judge(self, answer: Answer) -> CommandResult | None:
        """What an answer says about this request; None if it belongs to another device or command."""
        if answer.frame in self.refused_by and answer.address == self.address:
            detail = ", ".join(f"{name} is {value}" for name, value in answer.fields.items())
            return CommandResult(CommandStatus.REFUSED, f"the device answered {answer.frame}: {detail}", answer.fields)
        if answer.frame != self.answer_frame or answer.address != self.address:
            return None
        if any(answer.fields.get(name) != expected for name, expected in self.match.items()):
            return None
        wrong = [name for name, expected in self.success.items() if answer.fields.get(name) != expected]
        if not wrong:
            return CommandResult(CommandStatus.ACKNOWLEDGED, answer=answer.fields)
        detail = ", ".join(f"{name} is {answer.fields.get(name)}" for name in wrong)
        return CommandResult(CommandStatus.REFUSED, f"the device answered: {detail}", answer.fields)


class Codec:
    """Frames to values and commands to frames, for one profile. Any task may use it.

    Raises:
        ProfileError: a profile made around its own checks, or a decoder it names is missing or refuses its options.
    """

    def __init__(self, profile: Profile, keys: PayloadKeys = no_payload_keys) -> None:
        self.profile = profile
        self._keys = keys
        self.door = _door(profile)
        """The code that decodes in place of declared frames; None where they are declared."""
        compiled = compile_decoder(profile, keys) if self.door is None else CompiledDecoder("", self.door.decode)
        self.source: str = compiled.source
        """The generated decoder, to read; empty where code of others decodes."""
        self.decode: Callable[[Sequence[bytes]], Decoded] = compiled.decode
        """Decode whole frames. Raises for no bytes whatever: what does not fit is a `Reject` with its reason."""
        self._decoders: dict[tuple[str, ...], Callable[[Sequence[bytes]], Decoded]] = {}
        self._layouts = profile.layouts
        self._named = {name: profile.named(name) for name in profile.frames}
        self.sequence_span = _sequence_span(profile)
        """How many numbers the device's sequence counts before it wraps to 0; 0 for a profile without one."""

    def encode(
        self, frame_name: str, address: int | str | None, sequence: int | None, values: Mapping[str, Value]
    ) -> bytes:
        """The frame that decodes to these values; for simulators and tests.

        Args:
            frame_name: a frame of the profile, of any role.
            address: for the identity field; ignored by a frame without one.
            sequence: for the sequence field; ignored by a frame without one.
            values: a value for every field that gives one. A value between two raw steps takes the nearest. Fields with
                `emit: false` may be left out, and are 0 then, or the valid number next to it.

        Raises:
            CodecError: no such frame; a value is missing, unknown, or does not fit its field.
        """
        profile = self.profile
        if frame_name not in profile.frames:
            raise CodecError(
                f"there is no frame {frame_name!r}", where=profile.name, remedy=f"Frames: {', '.join(profile.frames)}"
            )
        where = f"{profile.name} {frame_name}"
        named = self._named[frame_name]
        layout = self._layouts[frame_name]
        optional, numbered = _absent_names(layout)
        held: dict[str, Value] = {
            name: value
            for name, value in ((profile.identity, address), (profile.sequence, sequence))
            if name is not None and name in named and (value is not None or name not in optional)
        }
        held |= values
        for name in held:
            if (name not in named and not numbered) or (name in named and named[name].is_constant):
                known = ", ".join(profile.values_of(frame_name))
                raise CodecError(f"there is no value {name!r}", where=where, remedy=f"Values: {known}")
        for name, spec in named.items():
            if name not in held and spec.emit and name not in optional and not is_given_by_itself(spec):
                raise CodecError(f"the value {name!r} is missing", where=where)
        try:
            return self._assembled(layout, held, address)
        except CodecError as error:
            raise CodecError(error.what, where=f"{where} {error.where}", remedy=error.remedy) from error

    def _assembled(
        self, layout: AnyLayout, held: Mapping[str, Value], address: int | str | None, *, exact: bool = False
    ) -> bytes:
        if isinstance(layout, Plan):
            from edge_gateway.codec.structure.writer import write_frame

            return write_frame(layout, held, address, self._keys, exact=exact)
        if isinstance(layout, TextLayout):
            from edge_gateway.codec.text.writing import write_text

            return write_text(layout.frame, held, exact=exact)
        return _assemble(layout, held, exact=exact)

    def encode_command(self, name: str, arguments: Mapping[str, Value], address: int | str | None = None) -> Request:
        """Encode a command for a device.

        Args:
            name: a command of the profile.
            arguments: exactly those the command has.
            address: the device's, where frames name devices.

        Raises:
            CommandInvalid: no such command or argument, one is missing, or a value is of the wrong kind, out of bounds
                or between two steps of the device; the text names the argument, its value and what would do.
        """
        profile = self.profile
        where = f"{profile.name} {name}"
        if name not in profile.commands:
            known = ", ".join(profile.commands) or "none"
            raise CommandInvalid(f"there is no command {name!r}", where=profile.name, remedy=f"Commands: {known}")
        command = profile.commands[name]
        for given in arguments:
            if given not in command.arguments:
                known = ", ".join(command.arguments) or "none"
                raise CommandInvalid(f"there is no argument {given!r}", where=where, remedy=f"Arguments: {known}")
        named = self._named[command.frame]
        held: dict[str, Value] = {}
        asked_as: dict[str, str] = {}
        if profile.identity is not None and profile.identity in named:
            held[profile.identity] = address
        for field_name, source in command.set.items():
            if isinstance(source, ArgumentReference):
                asked_as[field_name] = source.argument
                declared = command.arguments[source.argument]
                held[field_name] = _checked(source.argument, arguments, declared, named[field_name], where)
            else:
                held[field_name] = source
        try:
            payload = self._assembled(self._layouts[command.frame], held, address, exact=True)
        except CodecError as error:
            wrong = asked_as.get(error.where, error.where)
            raise CommandInvalid(error.what, where=f"{where} {wrong}", remedy=error.remedy) from error
        answer = command.answer
        if answer is None:
            return Request(name, address, payload)
        return Request(
            name,
            address if profile.identity in self._named[answer.frame] else None,
            payload,
            answer.frame,
            self.as_decoded(answer.frame, answer.match),
            self.as_decoded(answer.frame, answer.success),
            answer.refused_by,
        )

    def as_decoded(self, frame_name: str, values: Mapping[str, Value]) -> dict[str, Value]:
        """Values a profile states for a frame, as its decoder gives them: a code by its number becomes its name."""
        named = self._named[frame_name]
        return {name: _as_decoded(named[name], value) for name, value in values.items()}

    def decoder_of(self, frames: tuple[str, ...]) -> Callable[[Sequence[bytes]], Decoded]:
        """A decoder that knows these frames only, for what was asked for. Compiled once for each combination."""
        if frames not in self._decoders:
            self._decoders[frames] = compile_decoder(self.profile, self._keys, frames).decode
        return self._decoders[frames]

    def reads_as(self, frame_name: str, frame: bytes) -> bool:
        """Whether a frame is one of this kind, told without the compiled decoder."""
        layout, profile = self._layouts[frame_name], self.profile
        if isinstance(layout, Plan):
            from edge_gateway.codec.structure.reader import read_frame

            return not read_frame(layout, frame, profile.identity, profile.sequence, self._keys).reason
        return layout.fits(frame) and layout.check_holds(frame)

    def explain(self, frame: bytes) -> list[Row]:
        """What each byte of a frame means, for a person; of a broken frame, what is wrong with which byte.

        The first row is about the whole frame, the others go from its first byte to its last. Raises for no bytes.
        """
        if self.door is not None:
            return explain_decoded(frame, self.decode([frame]), self.door.values or {})
        return explain_frame(self.profile, frame, self._keys)

    @property
    def value_names(self) -> frozenset[str] | None:
        """The names a reading's values can have; None where only the devices know."""
        if self.door is not None:
            return None if self.door.values is None else frozenset(self.door.values)
        samples = [name for name, frame in self.profile.frames.items() if frame.role == "sample"]
        return frozenset(value for name in samples for value in self.profile.values_of(name))


def _door(profile: Profile) -> Door | None:
    """The decoder a profile names, opened."""
    if profile.decoder is None:
        return None
    try:
        from edge_gateway.codec.door import open_door

        return open_door(profile.decoder, profile.options)
    except ProfileError as error:
        raise ProfileError(error.what, where=f"{profile.name}: {error.where}", remedy=error.remedy) from error


def _sequence_span(profile: Profile) -> int:
    """The smallest span, should frames of several kinds carry sequences of different widths."""
    named = [profile.named(name) for name, frame in profile.frames.items() if frame.role == "sample"]
    specs = [
        fields[profile.sequence] for fields in named if profile.sequence is not None and profile.sequence in fields
    ]
    return min((spec.raw_range[1] + 1 for spec in specs if isinstance(spec, WholeNumber)), default=0)


def compile_profile(profile: Profile, keys: PayloadKeys = no_payload_keys) -> Codec:
    """Compile a profile, once; what `load_profile` returned always compiles.

    Args:
        profile: what the devices speak.
        keys: of encrypted payloads; without them such frames are rejected.
    """
    return Codec(profile, keys)


def is_given_by_itself(spec: Output) -> bool:
    """Whether nobody has to give a value, because the frame or other values say it."""
    return isinstance(spec, Computed) or spec.is_constant


def _absent_names(layout: AnyLayout) -> tuple[Collection[str], bool]:
    """The values a frame can be without, and whether names can have numbers."""
    if isinstance(layout, TextLayout):
        return layout.optional, False
    return (layout.optional | layout.numbered, bool(layout.numbered)) if isinstance(layout, Plan) else ((), False)


def _checked(name: str, arguments: Mapping[str, Value], declared: Argument, spec: Output, where: str) -> Value:
    """The argument of this name, if it is there and within its declaration."""
    if name not in arguments:
        raise CommandInvalid(f"the argument {name!r} is missing", where=where, remedy=_possible(declared, spec))
    value = arguments[name]
    if not _is_allowed(value, declared, spec):
        raise CommandInvalid(f"{value!r} is not allowed", where=f"{where} {name}", remedy=_possible(declared, spec))
    return value


def _as_decoded(spec: Output, value: Value) -> Value:
    """What a decoder gives for a value a profile states: a code by its number becomes its name."""
    return spec.value_of(spec.raw_of(value)) if isinstance(spec, WholeNumber) else value


def _bounds(declared: Argument, spec: Output) -> tuple[int | float, int | float]:
    """The least and the greatest value of an argument that is a number."""
    least, most = -math.inf, math.inf
    if isinstance(spec, WholeNumber | FloatField | DecimalColumn | PlaceColumn):
        least, most = spec.value_range
    return (
        least if declared.minimum is None else declared.minimum,
        most if declared.maximum is None else declared.maximum,
    )


def _is_allowed(value: Value, declared: Argument, spec: Output) -> bool:
    match declared.type:
        case "text":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            is_number = isinstance(value, int) and not isinstance(value, bool)
        case "number":
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not isinstance(value, (int, float)):
        return False
    least, most = _bounds(declared, spec)
    return least <= value <= most


def _possible(declared: Argument, spec: Output) -> str:
    match declared.type:
        case "text":
            return f"Possible: {getattr(spec, 'text_form', '')}"
        case "boolean":
            return "Possible: true, false"
        case "integer" | "number":
            least, most = _bounds(declared, spec)
            kind = "a whole number" if declared.type == "integer" else "a number"
            return f"Possible: {kind} from {least} to {most}" + (f" {declared.unit}" if declared.unit else "")


def _assemble(layout: Layout, held: Mapping[str, Value], *, exact: bool = False) -> bytes:
    """Put values into their places; a field without one is blank, which is mostly 0.

    Raises:
        CodecError: a value does not fit; `where` is its field's name.
    """
    frame = bytearray(layout.length_bytes)
    for slot in layout.slots:
        spec = slot.field
        constant = slot.constant(layout.endian)
        if constant is not None:
            frame[slot.start : slot.end] = constant
        elif isinstance(spec, IntegerField) and spec.bits:
            number = 0
            for part in spec.bits:
                raw = part.raw_of(held[part.name], exact=exact) if part.name in held else part.blank_raw
                number |= part.put_into_place(raw)
            frame[slot.start : slot.end] = spec.pack(number, layout.endian)
        elif spec.name in held:
            frame[slot.start : slot.end] = spec.encode(held[spec.name], layout.endian, exact=exact)
        else:
            frame[slot.start : slot.end] = spec.blank(layout.endian)
    return layout.sealed(bytes(frame))
