"""A profile to Python source: the decoder that runs for every frame.

The source is what one would write by hand for this one device: a length comparison, the constant bytes, one precompiled
`struct`, the checksum, and a dictionary literal. A frame that passes costs hardly a call but `unpack` and the checksum,
and no loop. A frame that passes no branch is looked at again by slower code that finds out why.

Nothing of a profile reaches the source as text it chose: names must be identifiers of a narrow alphabet, and everything
else enters as the `repr` of a checked `int`, `bytes` or `str`. Both are enforced here again, so that a profile made
without the model's checks cannot inject code either.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from edge_gateway.codec.fields.byte_strings import utf_8_of, uuid_text
from edge_gateway.codec.fields.integers import decimal_of
from edge_gateway.codec.fields.medical_float import medfloat16, medfloat32
from edge_gateway.codec.fields.timestamps import rfc3339_ms, rfc3339_s
from edge_gateway.codec.fixed_run import FixedRun, identifier, literal
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Layout
from edge_gateway.codec.payload_keys import PayloadKeys, no_payload_keys
from edge_gateway.codec.profile import AnyLayout, Profile, is_field
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.text import TextLayout
from edge_gateway.records import Answer, Reject, Sample, record

if TYPE_CHECKING:
    from edge_gateway.codec.structure.source import FrameSource


class Decoded(NamedTuple):
    """What became of a batch of frames; each list in the order of the frames."""

    samples: list[Sample]
    answers: list[Answer]
    rejects: list[Reject]
    older: int = 0
    """How many frames were of an older version than their declaration."""
    newer: int = 0
    """How many were of a newer one, so that something of them may not be known."""


class CompiledDecoder(NamedTuple):
    """A decoder and the source it was made from."""

    source: str
    decode: Callable[[Sequence[bytes]], Decoded]


class _Labels(dict[int, str]):
    """Names of codes; a code without a name is its digits."""

    def __missing__(self, code: int) -> str:
        return str(code)


def _all_labels(names: Mapping[int, str], count: int) -> tuple[str, ...]:
    """The names of the codes from 0 on, by position."""
    return tuple(names.get(code, str(code)) for code in range(count))


def compile_decoder(
    profile: Profile, keys: PayloadKeys = no_payload_keys, frames: Collection[str] | None = None
) -> CompiledDecoder:
    """Generate and load the decoder of everything a device of this profile sends.

    Args:
        profile: what the devices speak.
        keys: of encrypted payloads.
        frames: only these; for whoever knows what has to come.

    Raises:
        ProfileError: a name or number that must not enter source code; only a profile made around its checks has one.
    """
    # Samples come first: nearly every frame is one, and the first length is the cheapest to find.
    heard = profile.heard_layouts if frames is None else [profile.layouts[name] for name in frames]
    planned = [_planned(profile, layout) for layout in heard if isinstance(layout, Plan)]
    namespace: dict[str, object] = {
        "Struct": struct.Struct,
        "Labels": _Labels,
        "all_labels": _all_labels,
        "Decoded": Decoded,
        "Sample": Sample,
        "Answer": Answer,
        "Reject": Reject,
        "record": record,
        "f16": struct.Struct(">e").unpack,
        "f32": struct.Struct(">f").unpack,
        "f64": struct.Struct(">d").unpack,
        "medfloat16": medfloat16,
        "medfloat32": medfloat32,
        "decimal_of": decimal_of,
        "utf_8_of": utf_8_of,
        "uuid_text": uuid_text,
        "rfc3339_s": rfc3339_s,
        "rfc3339_ms": rfc3339_ms,
        "from_bytes": int.from_bytes,
        "key_of": keys,
        "reason": lambda frame: reject_reason(profile, heard, frame, keys),
    }
    for layout in heard:
        if isinstance(layout, Layout) and layout.checksum is not None:
            namespace[identifier(layout.checksum.name)] = layout.checksum.compute
    for each in planned:
        namespace.update(each.namespace)
    texts = [layout for layout in heard if isinstance(layout, TextLayout)]
    for text in texts:
        from edge_gateway.codec.text.source import namespace_of

        namespace.update(namespace_of(text.frame))
    fixed = [layout for layout in heard if isinstance(layout, Layout)]
    source = "\n".join(_source_lines(profile, fixed, planned, texts)) + "\n"
    exec(_code(source, profile.name), namespace)  # noqa: S102 -- the point of this module; what may enter the source is checked above
    decode = namespace["decode"]
    if not callable(decode):
        raise TypeError("the generated source defines decode() as its last statement")
    return CompiledDecoder(source, decode)


@functools.lru_cache(maxsize=16)
def _code(source: str, name: str) -> CodeType:
    """The source, compiled; kept, as links of one profile and devices with keys of their own share it."""
    return compile(source, f"<decoder of {name}>", "exec")


def _planned(profile: Profile, plan: Plan) -> FrameSource:
    from edge_gateway.codec.structure.source import FrameSource

    is_sample = profile.frames[plan.name].role == "sample"
    record = (
        "record(Sample, ({address}, {sequence}, {values}))"
        if is_sample
        else f"record(Answer, ({literal(plan.name)}, {{address}}, {{values}}))"
    )
    return FrameSource(plan, f"read_{plan.name}", record, profile.identity, profile.sequence)


def reject_reason(
    profile: Profile, layouts: Sequence[AnyLayout], frame: bytes, keys: PayloadKeys = no_payload_keys
) -> str:
    """Why none of these layouts takes a frame, in a word of docs/reference/profile.md.

    Damage is the likelier cause where every frame of that length has a checksum and none holds, even if the damaged
    byte is one that tells frames apart.
    """
    texts = [layout.frame for layout in layouts if isinstance(layout, TextLayout)]
    if texts:
        from edge_gateway.codec.text.reading import text_reject_reason

        return text_reject_reason(texts, frame) or "value"
    binary = [layout for layout in layouts if not isinstance(layout, TextLayout)]
    same_length = [layout for layout in binary if layout.admits_length(len(frame))]
    if not same_length:
        return "length"
    for layout in same_length:
        if layout.fits(frame) and layout.check_holds(frame):
            if isinstance(layout, Plan):
                from edge_gateway.codec.structure.reader import read_frame

                return read_frame(layout, frame, profile.identity, profile.sequence, keys).reason or "value"
            return "value"
    damaged = all(_has_check(layout) and not layout.check_holds(frame) for layout in same_length)
    if damaged or any(layout.has_constants(frame) for layout in same_length):
        return "checksum"
    return "unknown-frame"


def _has_check(layout: Layout | Plan) -> bool:
    return (layout.check if isinstance(layout, Plan) else layout.checksum) is not None


def _source_lines(
    profile: Profile, heard: Sequence[Layout], planned: Sequence[FrameSource], texts: Sequence[TextLayout]
) -> Iterable[str]:
    yield f"# Decodes {identifier(profile.name)}, version {literal(profile.version)}. Generated from the profile."
    yield ""
    branches = [_Branch(profile, layout) for layout in heard]
    for branch in branches:
        yield from branch.constants
    for each in planned:
        yield from each.constants
    yield ""
    for each in planned:
        yield ""
        yield from each.function()
        yield ""
    for text in texts:
        yield ""
        from edge_gateway.codec.text.source import source_lines

        yield from source_lines(text.frame, f"read_{text.name}", profile.identity, profile.sequence)
        yield ""
    yield ""
    yield "def decode(frames):"
    yield "    samples, answers, rejects = [], [], []"
    yield "    add_sample, add_answer, add_reject = samples.append, answers.append, rejects.append"
    if any(each.plan.version is not None for each in planned):
        yield "    older = newer = 0"
    yield "    for frame in frames:"
    if branches:
        yield "        length = len(frame)"
    keyword = "if"
    for length_bytes in dict.fromkeys(layout.length_bytes for layout in heard):
        yield f"        {keyword} length == {literal(length_bytes)}:"
        for branch in branches:
            if branch.layout.length_bytes == length_bytes:
                yield from (f"            {line}" for line in branch.body())
        keyword = "elif"
    for each in planned:
        yield from (f"        {line}" for line in _planned_branch(profile, each))
    for text in texts:
        yield from (f"        {line}" for line in _text_branch(profile, text))
    yield "        add_reject(record(Reject, (frame, reason(frame))))"
    if any(each.plan.version is not None for each in planned):
        yield "    return Decoded(samples, answers, rejects, older, newer)"
    else:
        yield "    return Decoded(samples, answers, rejects)"


def _planned_branch(profile: Profile, source: FrameSource) -> Iterable[str]:
    """The lines that try a frame of no fixed length, or fall through."""
    add = "add_sample" if profile.frames[source.plan.name].role == "sample" else "add_answer"
    yield f"found = {source.name}(frame)"
    yield "if found is not None:"
    if source.plan.version is None:
        yield f"    {add}(found)"
    else:
        current = literal(source.plan.version[1])
        yield "    found, version = found"
        yield f"    {add}(found)"
        yield f"    older += version < {current}"
        yield f"    newer += version > {current}"
    yield "    continue"


def _text_branch(profile: Profile, layout: TextLayout) -> Iterable[str]:
    """The lines that try a text frame, or fall through."""
    yield f"found = read_{identifier(layout.name)}(frame)"
    yield "if found is not None:"
    if profile.frames[layout.name].role == "sample":
        yield "    add_sample(record(Sample, found))"
    else:
        yield f"    add_answer(record(Answer, ({literal(layout.name)}, found[0], found[2])))"
    yield "    continue"


class _Branch:
    """The source for one kind of frame: what says that it is one, its run of fields, and the record made of them."""

    def __init__(self, profile: Profile, layout: Layout) -> None:
        self.layout = layout
        self._role = profile.frames[layout.name].role
        named = {name: spec for name, spec in profile.named(layout.name).items() if is_field(spec)}
        self._values = {name: named[name] for name in profile.values_of(layout.name)}
        self._identity = named.get(profile.identity or "")
        self._sequence = named.get(profile.sequence or "")
        roles = [spec.name for spec in (self._identity, self._sequence) if spec is not None]
        self._run = FixedRun(layout, {*self._values, *roles})

    @property
    def constants(self) -> list[str]:
        """Module level lines: the struct, and the names of codes."""
        return list(self._run.constants())

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
