"""The cells of a b-tree page, and the records in them, as far as they are whole.

https://www.sqlite.org/fileformat2.html, sections 1.6 (b-tree pages), 1.7 (overflow pages) and 2.1 (records). Only the
cells in a page's cell pointer array are read: what else lies in the page has been deleted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

from edge_gateway.buffer.salvage.pages import Page, Pages

Value: TypeAlias = int | float | str | bytes | None

INDEX_INTERIOR: Final = 0x02
TABLE_INTERIOR: Final = 0x05
INDEX_LEAF: Final = 0x0A
TABLE_LEAF: Final = 0x0D

_MAX_RECORD_BYTES: Final = 16 << 20
"""Well above any message. A damaged length must not make us gather the whole disk."""

_DATABASE_HEADER_BYTES: Final = 100
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
_OVERFLOW: Final = struct.Struct(">I")


class _NotWhole(Exception):  # never leaves this module, so it is no GatewayError
    """A cell is not what the format says."""


class Cell(NamedTuple):
    """What stands in a cell; each kind of page has some of it."""

    child: int = 0
    """Of an interior page: the page with what is smaller, or for tables not larger, than this cell."""
    key: int = 0
    """Of a table: the rowid."""
    record: tuple[Value, ...] = ()
    is_stale: bool = False
    """Whether an overflow page of the record is."""


class Node(NamedTuple):
    """A b-tree page."""

    kind: int
    cells: list[Cell]
    """Those that are whole."""
    last_child: int
    """Of an interior page: the page behind its last cell, else 0."""
    is_whole: bool
    """Whether every cell is."""


def kind(page: Page, number: int) -> int:
    """The kind of b-tree page it would be."""
    return page.data[_header_start(number)]


def read_node(pages: Pages, page: Page, number: int) -> Node | None:
    """Read a page as a b-tree page; None if it is none. Section 1.6.

    Args:
        pages: the database, for overflow pages.
        page: as it was read.
        number: of the page.
    """
    data, start = page.data, _header_start(number)
    page_kind, _, count, _, _, last_child = struct.unpack_from(">BHHHBI", data, start)
    if page_kind in (INDEX_INTERIOR, TABLE_INTERIOR):
        start += 12
    elif page_kind in (INDEX_LEAF, TABLE_LEAF):
        start += 8
        last_child = 0
    else:
        return None
    end = start + 2 * count
    if end > len(data):
        return None
    cells: list[Cell] = []
    for at in struct.unpack_from(f">{count}H", data, start):
        try:
            if at < end:
                continue
            cells.append(_read_cell(pages, data, at, page_kind))
        except _NotWhole:
            continue
    return Node(page_kind, cells, last_child, len(cells) == count)


def _header_start(number: int) -> int:
    return _DATABASE_HEADER_BYTES if number == 1 else 0


def _read_cell(pages: Pages, page: bytes, at: int, page_kind: int) -> Cell:
    child = key = 0
    if page_kind in (INDEX_INTERIOR, TABLE_INTERIOR):
        child = int.from_bytes(page[at : at + 4])
        at += 4
    if page_kind == TABLE_INTERIOR:
        return Cell(child, _signed(_varint(page, at)[0]))
    length, at = _varint(page, at)
    if page_kind == TABLE_LEAF:
        key, at = _varint(page, at)
        key = _signed(key)
        most = len(page) - 35
    else:
        most = (len(page) - 12) * 64 // 255 - 23
    if length > _MAX_RECORD_BYTES:
        raise _NotWhole
    if length <= most:
        return Cell(child, key, _read_record(page[at : at + length], length))
    least = (len(page) - 12) * 32 // 255 - 23
    local = least + (length - least) % (len(page) - 4)
    if local > most:
        local = least
    rest, is_stale = _overflow(pages, int.from_bytes(page[at + local : at + local + 4]), length - local)
    return Cell(child, key, _read_record(page[at : at + local] + rest, length), is_stale)


def _overflow(pages: Pages, number: int, length: int) -> tuple[bytes, bool]:
    """The rest of a record, from a chain of pages that has to have just its length. Section 1.7."""
    parts: list[bytes] = []
    numbers: set[int] = set()
    is_stale = False
    while length > 0:
        page = pages.read(number)
        if page is None or number in numbers:
            raise _NotWhole
        numbers.add(number)
        is_stale |= page.is_stale
        parts.append(page.data[4 : 4 + length])
        length -= len(page.data) - 4
        number = _OVERFLOW.unpack_from(page.data)[0]
    if number:
        raise _NotWhole
    return b"".join(parts), is_stale


def _read_record(data: bytes, length: int) -> tuple[Value, ...]:
    """Take a record apart. Section 2.1.

    Args:
        data: the record.
        length: how long it has to be.

    Raises:
        _NotWhole: it is shorter, or its lengths do not add up, or a text is no text.
    """
    header_end, at = _varint(data, 0)
    if len(data) != length or header_end > length:
        raise _NotWhole
    kinds: list[int] = []
    while at < header_end:
        serial_type, at = _varint(data, at)
        kinds.append(serial_type)
    values = tuple(_values(data, header_end, kinds))
    if at != header_end:
        raise _NotWhole
    return values


def _values(data: bytes, at: int, serial_types: list[int]) -> Iterator[Value]:
    for serial_type in serial_types:
        if serial_type >= 12:
            end = at + (serial_type - 12) // 2
        elif serial_type <= 6:
            end = at + _INTEGER_BYTES[serial_type]
        elif serial_type == 7:
            end = at + 8
        elif serial_type in (8, 9):
            end = at
        else:
            raise _NotWhole
        if end > len(data):
            raise _NotWhole
        value = data[at:end]
        at = end
        if serial_type >= 12:
            if serial_type % 2:
                try:
                    yield value.decode()
                except UnicodeDecodeError as error:
                    raise _NotWhole from error
            else:
                yield value
        elif serial_type == 0:
            yield None
        elif serial_type == 7:
            yield struct.unpack(">d", value)[0]
        elif serial_type in (8, 9):
            yield serial_type - 8
        else:
            yield int.from_bytes(value, signed=True)
    if at != len(data):
        raise _NotWhole


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes and where it ends. Section 1.6."""
    if at < len(data) and (value := data[at]) < 0x80:
        return value, at + 1
    value = 0
    for end in range(at, min(at + 8, len(data))):
        byte = data[end]
        if byte < 0x80:
            return value << 7 | byte, end + 1
        value = value << 7 | byte & 0x7F
    if at + 9 > len(data):
        raise _NotWhole
    return value << 8 | data[at + 8], at + 9


def _signed(value: int) -> int:
    """A 64-bit number as two's complement."""
    return value - (1 << 64) if value >> 63 else value
