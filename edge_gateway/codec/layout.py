"""Where each field of a frame lies, worked out once from the declaration.

The compiler, the encoder and `explain` all read this, so that none counts bytes itself. Every field has a fixed place:
a layout is one fixed run of bytes. A field whose length depends on what comes before it would end a run and start the
next, each with slots of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge_gateway.codec.fields import AnyField, BytesField, Endian, IntegerField
from edge_gateway.codec.frame_check import Checksum, ChecksumSlot, place_checksum


class Slot(NamedTuple):
    """One field and its bytes."""

    field: AnyField
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


class Layout(NamedTuple):
    """A frame's bytes from first to last."""

    name: str
    endian: Endian
    slots: tuple[Slot, ...]
    """All fields but the one that holds the checksum."""
    checksum: ChecksumSlot | None
    length_bytes: int
    constants: tuple[tuple[int, bytes], ...]
    """`(start, bytes)` of what is the same in every such frame, neighbours joined."""

    @property
    def least_bytes(self) -> int:
        """The shortest such frame."""
        return self.length_bytes

    @property
    def most_bytes(self) -> int | None:
        """The longest such frame."""
        return self.length_bytes

    def admits_length(self, length_bytes: int) -> bool:
        """Whether such a frame can be this long."""
        return length_bytes == self.length_bytes

    def check_holds(self, frame: bytes) -> bool:
        """Whether the frame's checksum is the one of its bytes; true for a kind without one."""
        return self.checksum is None or self.checksum.holds(frame)

    def fits(self, frame: bytes) -> bool:
        """Whether the frame has this layout's length and constants; the checksum is another question."""
        return self.length_bytes == len(frame) and self.has_constants(frame)

    def has_constants(self, frame: bytes) -> bool:
        """Whether the frame carries this layout's constant bytes."""
        return all(frame.startswith(fixed, start) for start, fixed in self.constants)

    def sealed(self, frame: bytes) -> bytes:
        """The frame with the right checksum in its place; the frame itself where there is none."""
        if self.checksum is None:
            return frame
        check = self.checksum
        return frame[: check.start] + check.right_bytes(frame) + frame[check.end :]


def lay_out(name: str, endian: Endian, fields: Sequence[AnyField], checksum: Checksum | None) -> Layout:
    """Give every field its place.

    Args:
        name: the frame's name.
        endian: the byte order of its numbers.
        fields: in wire order.
        checksum: its check, if there is one.

    Raises:
        CodecError: no such checksum.
        Misdeclared: the checksum's place or range is not in the frame.
    """
    slots: list[Slot] = []
    position = 0
    for field in fields:
        slots.append(Slot(field, position, position + field.size_bytes))
        position = slots[-1].end
    check = None if checksum is None else place_checksum(checksum, endian, slots)
    if check is not None:
        slots = [slot for slot in slots if slot.start != check.start]
        position = max(position, check.end)
    return Layout(name, endian, tuple(slots), check, position, joined_constants(slots, endian))


def joined_constants(slots: Sequence[Slot], endian: Endian) -> tuple[tuple[int, bytes], ...]:
    """`(start, bytes)` of what is always the same, neighbours joined."""
    joined: list[tuple[int, bytes]] = []
    for slot in slots:
        fixed = slot.constant(endian)
        if fixed is None:
            continue
        if joined and joined[-1][0] + len(joined[-1][1]) == slot.start:
            joined[-1] = (joined[-1][0], joined[-1][1] + fixed)
        else:
            joined.append((slot.start, fixed))
    return tuple(joined)
