"""Where each field of a frame lies, worked out once from the declaration.

The compiler, the encoder and `explain` all read this, so that none counts bytes itself. Every field has a fixed place;
a field whose length depends on what comes before it would be another kind of slot here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge_gateway.codec.checksum import ChecksumFunction, find_checksum
from edge_gateway.codec.fields import BytesField, Endian, FloatField, IntegerField


class Slot(NamedTuple):
    """One field and its bytes."""

    field: IntegerField | FloatField | BytesField
    start: int
    end: int

    def constant(self, endian: Endian) -> bytes | None:
        """The only bytes that may stand here, or None where any may."""
        match self.field:
            case IntegerField(const=int(raw)) as field:
                return field.pack(raw, endian)
            case BytesField(const=str(digits)):
                return bytes.fromhex(digits)
            case _:
                return None


class ChecksumSlot(NamedTuple):
    """The check of a frame: the bytes before `start` give the number in `start` to `end`."""

    name: str
    compute: ChecksumFunction
    start: int
    end: int
    endian: Endian

    def holds(self, frame: bytes) -> bool:
        """Whether the frame's checksum is the one of its bytes."""
        return self.compute(frame[: self.start]) == int.from_bytes(frame[self.start : self.end], self.endian)


class Layout(NamedTuple):
    """A frame's bytes from first to last."""

    name: str
    endian: Endian
    slots: tuple[Slot, ...]
    checksum: ChecksumSlot | None
    length_bytes: int
    constants: tuple[tuple[int, bytes], ...]
    """`(start, bytes)` of what is the same in every such frame, neighbours joined."""

    def fits(self, frame: bytes) -> bool:
        """Whether the frame has this layout's length and constants; the checksum is another question."""
        return self.length_bytes == len(frame) and self.has_constants(frame)

    def has_constants(self, frame: bytes) -> bool:
        """Whether the frame carries this layout's constant bytes."""
        return all(frame.startswith(fixed, start) for start, fixed in self.constants)


def lay_out(
    name: str,
    endian: Endian,
    fields: Sequence[IntegerField | FloatField | BytesField],
    checksum: tuple[str, Endian] | None,
) -> Layout:
    """Give every field its place.

    Args:
        name: the frame's name.
        endian: the byte order of its numbers.
        fields: in wire order.
        checksum: name and byte order of the check behind them, if there is one.

    Raises:
        CodecError: no such checksum.
    """
    slots: list[Slot] = []
    constants: list[tuple[int, bytes]] = []
    position = 0
    for field in fields:
        slot = Slot(field, position, position + field.size_bytes)
        slots.append(slot)
        fixed = slot.constant(endian)
        if fixed is not None:
            if constants and constants[-1][0] + len(constants[-1][1]) == position:
                constants[-1] = (constants[-1][0], constants[-1][1] + fixed)
            else:
                constants.append((position, fixed))
        position = slot.end
    check = None
    if checksum is not None:
        algorithm = find_checksum(checksum[0])
        check = ChecksumSlot(algorithm.name, algorithm.compute, position, position + algorithm.size_bytes, checksum[1])
        position = check.end
    return Layout(name, endian, tuple(slots), check, position, tuple(constants))


def can_be_told_apart(one: Layout, other: Layout) -> bool:
    """Whether no byte sequence fits both: their lengths differ, or a byte constant in both differs."""
    if one.length_bytes != other.length_bytes:
        return True
    fixed = {start + index: byte for start, run in one.constants for index, byte in enumerate(run)}
    return any(
        fixed.get(start + index, byte) != byte for start, run in other.constants for index, byte in enumerate(run)
    )
