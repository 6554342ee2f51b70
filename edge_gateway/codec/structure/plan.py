"""A frame of no fixed length, worked out once from its declaration: what follows what, and who may use which name.

The compiler, the reader behind `explain` and the encoder all go along a plan, so that none of them asks the declaration
again. Fields of a fixed size that stand side by side are one `Run`; whatever else there is, is a step of its own.

`planner.py` makes plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from edge_gateway.codec.fields import (
    BytesField,
    Endian,
    NamedField,
    TextField,
)
from edge_gateway.codec.fixed_run import parts_of
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Slot
from edge_gateway.codec.structure.items import (
    Array,
    Computed,
    Encrypted,
    Group,
    Plain,
    Tlv,
)
from edge_gateway.codec.text.columns import NamedColumn
from edge_gateway.records import Scalar

if TYPE_CHECKING:
    # A profile of fixed frames needs no expressions, and does without the 3 MiB that CEL takes.
    from edge_gateway.codec.structure.expressions import Expression

MIDDLE_BYTES = 1 << 20
"""Stands for what lies between the first fields and the last while places are worked out: more than any frame has."""

PlanOutput: TypeAlias = NamedField | Group | Array | Computed
"""Whatever gives a value under its name in a binary frame."""

Output: TypeAlias = PlanOutput | NamedColumn
"""Whatever gives a value under its name: the same, or a column of a text."""


@dataclass(frozen=True, slots=True)
class Run:
    """Fields of a fixed size, side by side."""

    scope: int
    slots: tuple[Slot, ...]
    """Their bytes counted from the first of the run."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Variable:
    """Text or bytes as long as the frame says."""

    scope: int
    spec: TextField | BytesField
    length: str | None
    """The local of the field that says so; None: to the end."""


@dataclass(frozen=True, slots=True)
class When:
    """Steps that are only there if a condition holds."""

    condition: Expression
    body: Body


@dataclass(frozen=True, slots=True)
class GroupStep:
    """A mapping."""

    scope: int
    spec: Group
    body: Body


@dataclass(frozen=True, slots=True)
class ArrayStep:
    """A list."""

    scope: int
    spec: Array
    body: Body
    """One element."""
    count: int | str | None
    """How many, or the local of the field that says so; None: until `mark`, or to the end."""
    mark: bytes | None


@dataclass(frozen=True, slots=True)
class SwitchStep:
    """One of several bodies."""

    on: str
    """The local of the value that chooses."""
    cases: tuple[tuple[Scalar, Body], ...]
    default: Body | None


@dataclass(frozen=True, slots=True)
class TlvStep:
    """Tagged items to the end."""

    spec: Tlv
    header: Run
    bodies: Mapping[int, Body]


@dataclass(frozen=True, slots=True)
class ComputedStep:
    """A value from an expression."""

    scope: int
    spec: Computed
    expression: Expression


@dataclass(frozen=True, slots=True)
class BytesOf:
    """A part of a nonce: the wire bytes of a field, or fixed ones."""

    local: str = ""
    """Of the field whose bytes these are; empty for fixed ones."""
    name: str = ""
    fixed: bytes = b""
    reversed: bool = False


@dataclass(frozen=True, slots=True)
class EncryptedStep:
    """What is under a key, to the end."""

    spec: Encrypted
    nonce: tuple[BytesOf, ...]
    aad: tuple[BytesOf, ...]
    tag: BytesOf | None
    body: Body


@dataclass(frozen=True, slots=True)
class PlainStep:
    """What only a device without a key may send."""

    spec: Plain
    body: Body


@dataclass(frozen=True, slots=True)
class RequireStep:
    """What has to be true."""

    expression: Expression


Step: TypeAlias = (
    Run
    | Variable
    | When
    | GroupStep
    | ArrayStep
    | SwitchStep
    | TlvStep
    | ComputedStep
    | EncryptedStep
    | PlainStep
    | RequireStep
)


@dataclass(frozen=True, slots=True)
class Body:
    """Steps one after the other, and the fields of a fixed size that stand at the end of what holds them."""

    steps: tuple[Step, ...]
    tail: Run | None
    least_bytes: int
    most_bytes: int | None
    """None: as many as fit."""
    reaches_end: bool
    """Whether it takes all bytes there are, so that nothing can follow it."""

    @property
    def tail_bytes(self) -> int:
        """How many bytes its tail takes."""
        return 0 if self.tail is None else self.tail.size_bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """A frame of no fixed length."""

    name: str
    endian: Endian
    body: Body
    check: ChecksumSlot | None
    """Its places counted as if the middle of the frame were `MIDDLE_BYTES` long; see `placed_check`."""
    check_behind_bytes: int
    """How many bytes at the end of the frame hold a check that no field holds."""
    constants: tuple[tuple[int, bytes], ...]
    """`(start, bytes)` of what is the same in every such frame, from its first byte on."""
    outputs: Mapping[str, tuple[PlanOutput, ...]]
    """The values by name; several for a name that means different things in different frames."""
    optional: frozenset[str]
    """Those that a frame can be without."""
    numbered: frozenset[str]
    """Those that can come again with a number behind the name."""
    left_out: frozenset[str]
    """Of those, what its item can be without."""
    needed: frozenset[str]
    """The locals of values that something else in the frame asks for."""
    needed_bytes: frozenset[str]
    """The locals of fields whose bytes something asks for."""
    version: tuple[str, int] | None
    """The local of the version's value, and the version this declaration describes."""
    check_holder: str | None
    """The field that holds the check, and is no value."""

    @property
    def least_bytes(self) -> int:
        """The shortest such frame."""
        return self.body.least_bytes + self.check_behind_bytes

    @property
    def most_bytes(self) -> int | None:
        """The longest such frame; None where only the framing bounds it."""
        longest = self.body.most_bytes
        return None if longest is None or self.version is not None else longest + self.check_behind_bytes

    def admits_length(self, length_bytes: int) -> bool:
        """Whether such a frame can be this long."""
        return self.least_bytes <= length_bytes and (self.most_bytes is None or length_bytes <= self.most_bytes)

    def has_constants(self, frame: bytes) -> bool:
        """Whether the frame carries this kind's constant bytes."""
        return all(frame.startswith(fixed, start) for start, fixed in self.constants)

    def fits(self, frame: bytes) -> bool:
        """Whether length and constants are those of such a frame; the checksum is another question."""
        return self.admits_length(len(frame)) and self.has_constants(frame)

    def from_end(self, place: int) -> bool:
        """Whether a place of `check` is counted from the end of the frame."""
        return place >= MIDDLE_BYTES

    def placed_check(self, length_bytes: int) -> ChecksumSlot | None:
        """The check of a frame of this length."""
        if self.check is None:
            return None
        shift = length_bytes - self._pretended_bytes

        def placed(place: int) -> int:
            return place + shift if self.from_end(place) else place

        check = self.check
        return check._replace(
            start=placed(check.start),
            end=placed(check.end),
            covers_start=placed(check.covers_start),
            covers_end=placed(check.covers_end),
        )

    def behind(self, place: int) -> int:
        """How far from the end a place of `check` is that is counted from there."""
        return self._pretended_bytes - place

    @property
    def _pretended_bytes(self) -> int:
        return head_bytes(self.body) + MIDDLE_BYTES + self.body.tail_bytes + self.check_behind_bytes

    def check_holds(self, frame: bytes) -> bool:
        """Whether the frame's checksum is the one of its bytes; true for a kind without one."""
        check = self.placed_check(len(frame))
        return check is None or check.holds(frame)

    def sealed(self, frame: bytes) -> bytes:
        """The frame with the right checksum in its place."""
        check = self.placed_check(len(frame))
        return frame if check is None else frame[: check.start] + check.right_bytes(frame) + frame[check.end :]


def head_of(body: Body) -> Run | None:
    """The fields of a fixed size that a body begins with."""
    first = body.steps[0] if body.steps else None
    return first if isinstance(first, Run) else None


def head_bytes(body: Body) -> int:
    """How many bytes its first fields take."""
    head = head_of(body)
    return 0 if head is None else head.size_bytes


def left_out(body: Body, *, is_left_out: bool = False) -> Iterator[str]:
    """The names of the values that a body can be without, though it is there itself; once each."""
    for step in (*body.steps, *([body.tail] if body.tail is not None else [])):
        match step:
            case When() | EncryptedStep() | PlainStep():
                yield from left_out(step.body, is_left_out=True)
            case SwitchStep():
                bodies = [case for _, case in step.cases] + ([step.default] if step.default is not None else [])
                yield from dict.fromkeys(name for each in bodies for name in left_out(each, is_left_out=True))
            case Run() if is_left_out:
                yield from (part.name for slot in step.slots for part in parts_of(slot.field) if part.emit)
            case Variable() | GroupStep() | ArrayStep() | ComputedStep() if is_left_out and step.spec.emit:
                yield step.spec.name
            case _:
                continue
