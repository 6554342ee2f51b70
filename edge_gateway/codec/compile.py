"""A profile to Python source: the decoder that runs for every frame.

The source is what one would write by hand for this one device: a length comparison, the constant bytes, one precompiled
`struct`, the checksum, and a dictionary literal. A frame that passes costs hardly a call but `unpack` and the checksum,
and no loop. A frame that passes no branch is looked at again by slower code that finds out why.

Nothing of a profile reaches the source as text it chose: names must be identifiers of a narrow alphabet, and everything
else enters as the `repr` of a checked `int`, `bytes` or `str`. Both are enforced here again, so that a profile made
without the model's checks cannot inject code either.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge_gateway.codec.fields import BitField, BytesField, Endian, FloatField, IntegerField
from edge_gateway.codec.layout import ChecksumSlot, Layout
from edge_gateway.codec.profile import NamedField, Profile
from edge_gateway.errors import ProfileError
from edge_gateway.records import Answer, Reject, Sample


class Decoded(NamedTuple):
    """What became of a batch of frames; each list in the order of the frames."""

    samples: list[Sample]
    answers: list[Answer]
    rejects: list[Reject]


class CompiledDecoder(NamedTuple):
    """A decoder and the source it was made from."""

    source: str
    decode: Callable[[Sequence[bytes]], Decoded]


class _Labels(dict[int, str]):
    """Names of codes; a code without a name is its digits."""

    def __missing__(self, code: int) -> str:
        return str(code)


_INTEGER_CODES = {
    (1, False): "B",
    (2, False): "H",
    (4, False): "I",
    (8, False): "Q",
    (1, True): "b",
    (2, True): "h",
    (4, True): "i",
    (8, True): "q",
}
"""struct's code by size in bytes and whether the number is signed."""
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def compile_decoder(profile: Profile) -> CompiledDecoder:
    """Generate and load the decoder of everything a device of this profile sends.

    Raises:
        ProfileError: a name or number that must not enter source code; only a profile made around its checks has one.
    """
    # Samples come first: nearly every frame is one, and the first length is the cheapest to find.
    heard = profile.heard_layouts
    namespace: dict[str, object] = {
        "Struct": struct.Struct,
        "Labels": _Labels,
        "Decoded": Decoded,
        "Sample": Sample,
        "Answer": Answer,
        "Reject": Reject,
        # A named tuple's own constructor is a Python function; this is the same tuple, 0.1 us a frame sooner.
        "record": tuple.__new__,
        "reason": lambda frame: reject_reason(heard, frame),
    }
    for layout in heard:
        if layout.checksum is not None:
            namespace[_identifier(layout.checksum.name)] = layout.checksum.compute
    source = "\n".join(_source_lines(profile, heard)) + "\n"
    code = compile(source, f"<decoder of {profile.name}>", "exec")
    exec(code, namespace)  # noqa: S102 -- the point of this module; what may enter the source is checked above
    decode = namespace["decode"]
    if not callable(decode):
        raise TypeError("the generated source defines decode() as its last statement")
    return CompiledDecoder(source, decode)


def reject_reason(layouts: Iterable[Layout], frame: bytes) -> str:
    """Why none of these layouts fits a frame: `length`, `checksum` or `unknown-frame`.

    Damage is the likelier cause where every frame of that length has a checksum and none holds, even if the damaged
    byte is one that tells frames apart.
    """
    same_length = [layout for layout in layouts if layout.length_bytes == len(frame)]
    if not same_length:
        return "length"
    damaged = all(layout.checksum is not None and not layout.checksum.holds(frame) for layout in same_length)
    if damaged or any(layout.has_constants(frame) for layout in same_length):
        return "checksum"
    return "unknown-frame"


def _source_lines(profile: Profile, heard: Sequence[Layout]) -> Iterable[str]:
    yield f"# Decodes {_identifier(profile.name)}, version {_literal(profile.version)}. Generated from the profile."
    yield ""
    branches = [_Branch(profile, layout) for layout in heard]
    for branch in branches:
        yield from branch.constants()
    yield ""
    yield ""
    yield "def decode(frames):"
    yield "    samples, answers, rejects = [], [], []"
    yield "    add_sample, add_answer, add_reject = samples.append, answers.append, rejects.append"
    yield "    for frame in frames:"
    yield "        length = len(frame)"
    keyword = "if"
    for length_bytes in dict.fromkeys(layout.length_bytes for layout in heard):
        yield f"        {keyword} length == {_literal(length_bytes)}:"
        for branch in branches:
            if branch.layout.length_bytes == length_bytes:
                yield from (f"            {line}" for line in branch.body())
        keyword = "elif"
    yield "        add_reject(record(Reject, (frame, reason(frame))))"
    yield "    return Decoded(samples, answers, rejects)"


class _Branch:
    """The source for one kind of frame."""

    def __init__(self, profile: Profile, layout: Layout) -> None:
        self.layout = layout
        self._name = _identifier(layout.name)
        self._role = profile.frames[layout.name].role
        self._named = profile.frames[layout.name].named
        self._values = profile.values_of(layout.name)
        self._identity = self._named.get(profile.identity or "")
        self._sequence = self._named.get(profile.sequence or "")
        self._used = {
            spec.name for spec in (*self._values.values(), self._identity, self._sequence) if spec is not None
        }

    def constants(self) -> Iterable[str]:
        """Module level lines: the struct, and the names of codes."""
        struct_format, names = self._unpacked()
        if names:
            yield f"unpack_{self._name} = Struct({_literal(struct_format)}).unpack"
        for spec in self._values.values():
            if isinstance(spec, (IntegerField, BitField)) and spec.enum:
                labels = ", ".join(f"{_literal(code)}: {_literal(label)}" for code, label in spec.enum.items())
                yield f"{self._labels(spec)} = Labels({{{labels}}})"

    def body(self) -> Iterable[str]:
        """The lines that take one frame of the right length, or fall through."""
        layout = self.layout
        indent = ""
        if layout.constants:
            yield f"if {' and '.join(_constant_condition(start, fixed) for start, fixed in layout.constants)}:"
            indent = "    "
        _, names = self._unpacked()
        if names:
            yield f"{indent}{', '.join(names)}{',' if len(names) == 1 else ''} = unpack_{self._name}(frame)"
        if layout.checksum is not None:
            check = layout.checksum
            found = self._check(check).joined
            yield f"{indent}if {_identifier(check.name)}(frame[:{_literal(check.start)}]) == {found}:"
            indent += "    "
        yield from (f"{indent}{line}" for line in self._assignments())
        address = "None" if self._identity is None else self._value(self._identity)
        if self._role == "sample":
            sequence = "None" if self._sequence is None else self._raw(self._sequence)
            yield f"{indent}add_sample(record(Sample, ({address}, {sequence}, {{"
        else:
            yield f"{indent}add_answer(record(Answer, ({_literal(layout.name)}, {address}, {{"
        for name, spec in self._values.items():
            yield f"{indent}    {_literal(name)}: {self._value(spec)},"
        yield f"{indent}}})))"
        yield f"{indent}continue"

    def _number(self, field: IntegerField) -> _Number:
        order = self.layout.endian
        return _number(f"raw_{_identifier(field.name)}", field.size_bytes, field.is_signed, order, order)

    def _check(self, checksum: ChecksumSlot) -> _Number:
        return _number("check", checksum.end - checksum.start, False, checksum.endian, self.layout.endian)

    def _is_used(self, field: IntegerField | FloatField | BytesField) -> bool:
        parts = field.bits if isinstance(field, IntegerField) else ()
        return field.name in self._used or any(part.name in self._used for part in parts)

    def _unpacked(self) -> tuple[str, list[str]]:
        """The struct format, and the names of what it gives."""
        codes: list[str] = []
        names: list[str] = []
        for field, start, end in self.layout.slots:
            match field:
                case _ if not self._is_used(field):
                    codes.append(f"{end - start}x")
                case IntegerField():
                    number = self._number(field)
                    codes.append(number.codes)
                    names += number.names
                case FloatField():
                    codes.append("f" if field.type == "f32" else "d")
                    names.append(f"raw_{_identifier(field.name)}")
                case BytesField():
                    codes.append(f"{end - start}s")
                    names.append(f"raw_{_identifier(field.name)}")
        if self.layout.checksum is not None:
            check = self._check(self.layout.checksum)
            codes.append(check.codes)
            names += check.names
        return ("<" if self.layout.endian == "little" else ">") + "".join(codes), names

    def _assignments(self) -> Iterable[str]:
        """Raw numbers that are not ready to use: integers struct has no code for, and bit fields looked at twice."""
        for field, _, _ in self.layout.slots:
            if isinstance(field, IntegerField) and self._is_used(field):
                local = f"raw_{_identifier(field.name)}"
                joined = self._number(field).joined
                if joined != local:
                    yield f"{local} = {joined}"
                for part in field.bits:
                    if part.name in self._used and part.sentinel:
                        yield f"raw_{_identifier(part.name)} = {_bits(part, local)}"

    def _raw(self, spec: NamedField) -> str:
        if not isinstance(spec, BitField) or spec.sentinel:
            return f"raw_{_identifier(spec.name)}"
        holder = next(
            slot.field
            for slot in self.layout.slots
            if isinstance(slot.field, IntegerField) and any(part is spec for part in slot.field.bits)
        )
        return _bits(spec, f"raw_{_identifier(holder.name)}")

    def _value(self, spec: NamedField) -> str:
        raw = self._raw(spec)
        match spec:
            case FloatField():
                return f"{raw} if {raw} * 0.0 == 0.0 else None"
            case BytesField():
                return f"{raw}.hex()"
            case IntegerField() | BitField():
                if spec.is_bool:
                    value = f"{raw} != 0"
                elif spec.enum:
                    value = f"{self._labels(spec)}[{raw}]"
                else:
                    value = _scaled(raw, *spec.ratio)
                if len(spec.sentinel) == 1:
                    return f"None if {raw} == {_literal(spec.sentinel[0])} else {value}"
                if spec.sentinel:
                    return f"None if {raw} in ({', '.join(map(_literal, spec.sentinel))}) else {value}"
                return value

    def _labels(self, spec: NamedField) -> str:
        return f"labels_{self._name}_{_identifier(spec.name)}"


def _identifier(name: str) -> str:
    """A profile's name as part of an identifier; never as it comes."""
    candidate = name.replace("-", "_").replace("/", "_")
    if not _IDENTIFIER.fullmatch(candidate):
        raise ProfileError(f"{name!r} cannot be a name in source code", remedy="Use a-z, 0-9, - and _")
    return candidate


def _literal(value: object) -> str:
    """A profile's value as a literal; never as it comes."""
    if type(value) not in (int, str, bytes):
        raise ProfileError(f"{value!r} cannot be a literal in source code", remedy="Use a number or text")
    return repr(value)


def _constant_condition(start: int, fixed: bytes) -> str:
    if len(fixed) == 1:
        return f"frame[{_literal(start)}] == {_literal(fixed[0])}"
    return f"frame[{_literal(start)}:{_literal(start + len(fixed))}] == {_literal(fixed)}"


def _bits(part: BitField, holder: str) -> str:
    if part.is_bool and not part.sentinel:
        return f"{holder} & {_literal(part.mask)}"
    shifted = f"{holder} >> {_literal(part.bit)}" if part.bit else holder
    return f"({shifted} & {_literal((1 << part.width) - 1)})"


def _scaled(raw: str, multiplier: int, addend: int, divisor: int) -> str:
    value = raw if multiplier == 1 else f"{raw} * {_literal(multiplier)}"
    if addend:
        value = f"{value} + {_literal(addend)}" if addend > 0 else f"{value} - {_literal(-addend)}"
    if divisor == 1:
        return value
    return f"({value}) / {_literal(divisor)}" if value != raw else f"{value} / {_literal(divisor)}"


class _Number(NamedTuple):
    """How an integer is unpacked."""

    codes: str
    names: list[str]
    """One for each code."""
    joined: str
    """The expression that makes the number of them."""


def _number(local: str, size_bytes: int, is_signed: bool, endian: Endian, frame_endian: Endian) -> _Number:
    if (size_bytes, is_signed) in _INTEGER_CODES and (endian == frame_endian or size_bytes == 1):
        return _Number(_INTEGER_CODES[size_bytes, is_signed], [local], local)
    # struct has no code for it, so byte by byte. Shifting keeps the sign of the highest byte: that one alone is signed.
    names = [f"byte{index}_of_{local}" for index in range(size_bytes)]
    rising = names if endian == "little" else names[::-1]
    codes = ["b" if is_signed and name == rising[-1] else "B" for name in names]
    shifted = [f"{name} << {8 * power}" if power else name for power, name in enumerate(rising)]
    return _Number("".join(codes), names, f"({' | '.join(shifted)})")
