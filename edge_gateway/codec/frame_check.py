"""The check of a frame: which algorithm, over which bytes, and where its number stands.

Most devices put it at the end and let it cover everything before it, which is what a declaration without `at`, `from`
and `to` says. Places are named as a manual names them, by the first and the last of what is covered.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field

from edge_gateway.codec.checksum import ChecksumAlgorithm, ChecksumFunction, find_checksum
from edge_gateway.codec.fields import AnyField, Endian, FieldName, IntegerField, Misdeclared
from edge_gateway.config.settings import Settings
from edge_gateway.errors import CodecError

Place: TypeAlias = Annotated[int, Field(ge=0, le=65_535)] | FieldName
"""A byte, counted from 0, or a field."""


Extent: TypeAlias = tuple[AnyField, int, int]
"""A field, its first byte and the byte after its last."""


def _checksum_name(name: str) -> str:
    try:
        return find_checksum(name).name
    except CodecError as error:
        raise Misdeclared(error.what, remedy=error.remedy) from error


class Checksum(Settings):
    """The check of a frame. Without `at` it stands behind the last field; without a range it covers all before it."""

    model_config = ConfigDict(populate_by_name=True)

    algorithm: Annotated[str, AfterValidator(_checksum_name), Field(examples=["crc-16/modbus", "sum-8"])]
    endian: Endian | None = None
    """Its byte order, where it differs from the frame's."""
    at: FieldName | None = None
    """The unsigned integer that holds it, for a check that is not at the end."""
    first: Place | None = Field(default=None, alias="from")
    """The field or byte it covers first; the frame's first unless given."""
    last: Place | None = Field(default=None, alias="to")
    """The field or byte it covers last; unless given, the one before the check, or if `from` is behind it, the last."""


class ChecksumSlot(NamedTuple):
    """The check of a frame: the bytes from `covers_start` to `covers_end` give the number in `start` to `end`."""

    name: str
    compute: ChecksumFunction
    start: int
    end: int
    endian: Endian
    covers_start: int
    covers_end: int
    field: str
    """The field that holds it, or `checksum` where none does."""

    def right_bytes(self, frame: bytes) -> bytes:
        """What should stand in `start` to `end` of this frame."""
        number = self.compute(frame[self.covers_start : self.covers_end])
        return number.to_bytes(self.end - self.start, self.endian)

    def holds(self, frame: bytes) -> bool:
        """Whether the frame's checksum is the one of its bytes."""
        return self.right_bytes(frame) == frame[self.start : self.end]


def place_checksum(check: Checksum, frame_endian: Endian, extents: Sequence[Extent]) -> ChecksumSlot:
    """Find the bytes a check covers and those it stands in.

    Args:
        check: the declaration.
        frame_endian: the byte order of the frame's numbers.
        extents: where the frame's fields lie, in their order.

    Raises:
        Misdeclared: a place is not in the frame, does not fit, or the check covers itself.
        CodecError: no such checksum.
    """
    algorithm = find_checksum(check.algorithm)
    holder = None if check.at is None else _named(check.at, "checksum.at", extents)
    behind = extents[-1][2]
    if holder is None:
        start = behind
        endian = check.endian or frame_endian
    else:
        field, start, _ = holder
        endian = check.endian or _holders_endian(field, algorithm) or frame_endian
    end = start + algorithm.size_bytes
    length_bytes = max(end, behind)
    covers_start = 0 if check.first is None else _place(check.first, "checksum.from", extents, length_bytes)[0]
    if check.last is not None:
        covers_end = _place(check.last, "checksum.to", extents, length_bytes)[1]
    else:
        covers_end = length_bytes if covers_start >= end else start
    if covers_start >= covers_end:
        raise Misdeclared(
            f"nothing lies between byte {covers_start} and byte {covers_end - 1}",
            key="checksum.from",
            remedy="Give the first byte or field it covers as `from`, and the last as `to`",
        )
    if covers_start < end and start < covers_end:
        raise Misdeclared(
            "the check covers its own bytes",
            key="checksum.from" if check.last is None else "checksum.to",
            remedy=f"It stands in bytes {start} to {end - 1}: end before, or start behind",
        )
    return ChecksumSlot(
        algorithm.name, algorithm.compute, start, end, endian, covers_start, covers_end, check.at or "checksum"
    )


def _place(place: int | str, key: str, extents: Sequence[Extent], length_bytes: int) -> tuple[int, int]:
    if isinstance(place, str):
        _, start, end = _named(place, key, extents)
        return start, end
    if place >= length_bytes:
        raise Misdeclared(f"there is no byte {place}", key=key, remedy=f"The frame has bytes 0 to {length_bytes - 1}")
    return place, place + 1


def _named(name: str, key: str, extents: Sequence[Extent]) -> Extent:
    for extent in extents:
        if extent[0].name == name:
            return extent
    known = [field.name for field, _, _ in extents if field.name]
    near = difflib.get_close_matches(name, known, n=2) or known
    raise Misdeclared(f"there is no field {name!r}", key=key, remedy=f"Names that would do: {', '.join(near)}")


def _holders_endian(field: AnyField, algorithm: ChecksumAlgorithm) -> Endian | None:
    """The byte order of the field that holds a check, if it has its own."""
    is_plain = isinstance(field, IntegerField) and not (
        field.is_signed or field.bits or field.has_meaning or field.const is not None or field.word_order != "normal"
    )
    if not is_plain or field.size_bytes != algorithm.size_bytes:
        raise Misdeclared(
            f"{field.name!r} cannot hold {algorithm.name}",
            key="checksum.at",
            remedy=f"Name a field of type u{8 * algorithm.size_bytes} that says nothing but its name",
        )
    return field.endian if isinstance(field, IntegerField) else None
