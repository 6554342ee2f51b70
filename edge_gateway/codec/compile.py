"""A profile to Python source: the decoder that runs for every frame.

The source is what one would write by hand for this one device: a length comparison, the constant bytes, one precompiled
`struct`, the checksum, and a dictionary literal. A frame that passes costs hardly a call but `unpack` and the checksum,
and no loop. A frame that passes no branch is looked at again by slower code that finds out why.

Nothing of a profile reaches the source as text it chose: names must be identifiers of a narrow alphabet, and everything
else enters as the `repr` of a checked `int`, `bytes` or `str`. Both are enforced here again, so that a profile made
without the model's checks cannot inject code either.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge_gateway.codec.fields.byte_strings import utf_8_of
from edge_gateway.codec.fields.integers import decimal_of
from edge_gateway.codec.fields.medical_float import medfloat16, medfloat32
from edge_gateway.codec.fields.timestamps import rfc3339_ms, rfc3339_s
from edge_gateway.codec.fixed_run import FixedRun, identifier, literal
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.profile import Profile
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
        "f16": struct.Struct(">e").unpack,
        "f32": struct.Struct(">f").unpack,
        "f64": struct.Struct(">d").unpack,
        "medfloat16": medfloat16,
        "medfloat32": medfloat32,
        "decimal_of": decimal_of,
        "utf_8_of": utf_8_of,
        "rfc3339_s": rfc3339_s,
        "rfc3339_ms": rfc3339_ms,
        "reason": lambda frame: reject_reason(heard, frame),
    }
    for layout in heard:
        if layout.checksum is not None:
            namespace[identifier(layout.checksum.name)] = layout.checksum.compute
    source = "\n".join(_source_lines(profile, heard)) + "\n"
    code = compile(source, f"<decoder of {profile.name}>", "exec")
    exec(code, namespace)  # noqa: S102 -- the point of this module; what may enter the source is checked above
    decode = namespace["decode"]
    if not callable(decode):
        raise TypeError("the generated source defines decode() as its last statement")
    return CompiledDecoder(source, decode)


def reject_reason(layouts: Iterable[Layout], frame: bytes) -> str:
    """Why none of these layouts takes a frame: `length`, `checksum`, `unknown-frame` or `value`.

    Damage is the likelier cause where every frame of that length has a checksum and none holds, even if the damaged
    byte is one that tells frames apart.
    """
    same_length = [layout for layout in layouts if layout.length_bytes == len(frame)]
    if not same_length:
        return "length"
    if any(layout.fits(frame) and (layout.checksum is None or layout.checksum.holds(frame)) for layout in same_length):
        return "value"
    damaged = all(layout.checksum is not None and not layout.checksum.holds(frame) for layout in same_length)
    if damaged or any(layout.has_constants(frame) for layout in same_length):
        return "checksum"
    return "unknown-frame"


def _source_lines(profile: Profile, heard: Sequence[Layout]) -> Iterable[str]:
    yield f"# Decodes {identifier(profile.name)}, version {literal(profile.version)}. Generated from the profile."
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
        yield f"        {keyword} length == {literal(length_bytes)}:"
        for branch in branches:
            if branch.layout.length_bytes == length_bytes:
                yield from (f"            {line}" for line in branch.body())
        keyword = "elif"
    yield "        add_reject(record(Reject, (frame, reason(frame))))"
    yield "    return Decoded(samples, answers, rejects)"


class _Branch:
    """The source for one kind of frame: what says that it is one, its run of fields, and the record made of them."""

    def __init__(self, profile: Profile, layout: Layout) -> None:
        self.layout = layout
        self._role = profile.frames[layout.name].role
        self._values = profile.values_of(layout.name)
        named = profile.frames[layout.name].named
        self._identity = named.get(profile.identity or "")
        self._sequence = named.get(profile.sequence or "")
        roles = [spec.name for spec in (self._identity, self._sequence) if spec is not None]
        self._run = FixedRun(layout, {*self._values, *roles})

    def constants(self) -> Iterable[str]:
        """Module level lines: the struct, and the names of codes."""
        return self._run.constants()

    def body(self) -> Iterable[str]:
        """The lines that take one frame of the right length, or fall through."""
        layout, run = self.layout, self._run
        indent = ""
        if layout.constants:
            yield f"if {' and '.join(_constant_condition(start, fixed) for start, fixed in layout.constants)}:"
            indent = "    "
        yield from (f"{indent}{line}" for line in run.unpacking())
        if layout.checksum is not None:
            yield f"{indent}if {_computed_check(layout.checksum)} == {run.found_check}:"
            indent += "    "
        yield from (f"{indent}{line}" for line in run.assignments())
        conditions = " and ".join(run.conditions())
        if conditions:
            yield f"{indent}if {conditions}:"
            indent += "    "
        address = "None" if self._identity is None else run.value(self._identity)
        if self._role == "sample":
            sequence = "None" if self._sequence is None else run.raw(self._sequence)
            yield f"{indent}add_sample(record(Sample, ({address}, {sequence}, {{"
        else:
            yield f"{indent}add_answer(record(Answer, ({literal(layout.name)}, {address}, {{"
        for name, spec in self._values.items():
            yield f"{indent}    {literal(name)}: {run.value(spec)},"
        yield f"{indent}}})))"
        yield f"{indent}continue"


def _constant_condition(start: int, fixed: bytes) -> str:
    if len(fixed) == 1:
        return f"frame[{literal(start)}] == {literal(fixed[0])}"
    return f"frame[{literal(start)}:{literal(start + len(fixed))}] == {literal(fixed)}"


def _computed_check(check: ChecksumSlot) -> str:
    start = literal(check.covers_start) if check.covers_start else ""
    return f"{identifier(check.name)}(frame[{start}:{literal(check.covers_end)}])"
