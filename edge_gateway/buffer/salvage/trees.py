"""The rows of a database: first along the trees, then, where a tree is broken, from the pages that nothing leads to.

A deleted row must not come back. So pages are read from the roots, which `sqlite_schema` names; a page counts as part
of a tree only if its kind, its rows and its rowids fit the place that leads to it, and if it is not on the freelist. In
a sound database every leaf is in a tree or on the freelist. So if a tree is broken, or the freelist is whole, leaves
that are in neither come out too, marked as orphans. With neither a broken tree nor a whole freelist, they may be free.

https://www.sqlite.org/fileformat2.html, sections 1.5 (freelist), 1.6 (b-trees), 2.3 to 2.6 (tables and their schema).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Final, NamedTuple, get_args

from edge_gateway.buffer.salvage.cells import (
    INDEX_INTERIOR,
    INDEX_LEAF,
    TABLE_INTERIOR,
    TABLE_LEAF,
    Cell,
    Node,
    Value,
    kind,
    read_node,
)
from edge_gateway.buffer.salvage.content import Content
from edge_gateway.buffer.salvage.log import PAGE_BYTES
from edge_gateway.buffer.salvage.pages import Page, Pages


class Found(enum.IntEnum):
    """How sure it is that a row was there last; a smaller one is surer."""

    TREE = 0
    """It was: the way from the root to it is whole and of the present."""
    STALE = 1
    """It is in the tree, but a newer version of a page on the way is lost, or may be: a damaged transaction may have
    changed or deleted it."""
    ORPHAN = 2
    """Nothing sound leads to it: it was there unless it was deleted, then maybe long ago."""


class Row(NamedTuple):
    """A row that is whole. One may come up more than once, for instance if a half of a split of its page is lost."""

    table: str
    values: tuple[Value, ...]
    """In the order of `Table.columns`."""
    found: Found
    page: int
    frame: int
    """Of the log that the page comes from, 0 for the database itself. Of two rows with one key and equally sure, the
    one with the larger frame is the newer."""


@dataclass(frozen=True)
class Table:
    """What the rows of a table look like, by which they are known where the schema is lost.

    Args:
        name: in the schema.
        columns: the types that a column may hold, by name, in the order of the record: for a WITHOUT ROWID table the
            primary key comes first.
        rowid: the column that is an INTEGER PRIMARY KEY; empty if there is none.
        without_rowid: whether it is such a table.
        root: the page where its tree begins, to be tried if the schema does not tell; 0 if it is not known.
    """

    name: str
    columns: Mapping[str, type | UnionType]
    rowid: str = ""
    without_rowid: bool = False
    root: int = 0


_SCHEMA: Final = Table(
    "sqlite_schema", {"type": str, "name": str, "tbl_name": str, "rootpage": int, "sql": str | None}, root=1
)
_LEAST, _MOST = -(1 << 63) - 1, (1 << 63) - 1
"""A rowid is above the first and at most the second."""

_MAGIC: Final = b"SQLite format 3\0"
_FREE, _SEEN = 1, 2


def rows(database: Content, log: Content, tables: Sequence[Table], *, page_bytes: int = PAGE_BYTES) -> Iterator[Row]:
    """Every whole row of some tables: table by table along the trees, in order of the rowids; then the orphans.

    Nothing is raised, whatever the bytes. Memory is a byte for each page, and a page's rows at a time. Rows that are
    not orphans are to be kept; of orphans the caller has to know whether they were deleted.

    Args:
        database: the file; `FileContent` reads a large one page by page.
        log: its `-wal` file; empty if there is none.
        tables: which tables.
        page_bytes: size of a page, 512 to 65536. Not read from the file, where it may be damaged.
    """
    forest = _Forest(Pages(database, log, page_bytes))
    yield from forest.along_trees([_Shape(table) for table in tables])
    if forest.is_broken or forest.has_whole_freelist:
        yield from forest.orphans([_Shape(table) for table in tables])


class _Shape:
    """What a row has to look like to be one of a table's.

    Args:
        table: which.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.leaf, self.interior = (INDEX_LEAF, INDEX_INTERIOR) if table.without_rowid else (TABLE_LEAF, TABLE_INTERIOR)
        self._types: list[frozenset[type]] = [frozenset(get_args(each) or (each,)) for each in table.columns.values()]
        self._rowid = list(table.columns).index(table.rowid) if table.rowid else -1

    def row(self, cell: Cell) -> tuple[Value, ...] | None:
        """The values in a cell; None if it is no row of this table. Sections 2.3 and 2.4."""
        values = cell.record
        if self._rowid >= 0 and len(values) > self._rowid and values[self._rowid] is None:
            values = (*values[: self._rowid], cell.key, *values[self._rowid + 1 :])
        if len(values) != len(self._types):
            return None
        return values if all(map(frozenset.__contains__, self._types, map(type, values))) else None


class _Way(NamedTuple):
    """A pointer to a page of a tree, and what it promises about the rowids there."""

    page: int
    above: int = _LEAST
    to: int = _MOST
    found: Found = Found.TREE


class _Forest:
    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._marks = bytearray(pages.count + 1)
        self.is_broken = False
        """Whether a tree lacks pages, or may."""
        self.has_whole_freelist = self._read_freelist()

    def along_trees(self, shapes: Sequence[_Shape]) -> Iterator[Row]:
        """The rows that the roots lead to."""
        roots = {
            str(row.values[1]): row.values[3] for row in self._walk(_Shape(_SCHEMA), 1) if row.values[0] == "table"
        }
        self.is_broken = False  # whether the schema is, shows when the roots are missing
        for shape in shapes:
            for root in (roots.get(shape.table.name), shape.table.root):
                if isinstance(root, int) and self._place(_Way(root), shape) is not None:
                    yield from self._walk(shape, root)
                    break
            else:
                self.is_broken = True

    def orphans(self, shapes: Sequence[_Shape]) -> Iterator[Row]:
        """The rows on pages that no tree leads to and that are not free."""
        for number in self._pages.numbers():
            page = None if self._marks[number] else self._pages.read(number)
            if page is None:
                continue
            fitting = [shape for shape in shapes if kind(page, number) in (shape.leaf, shape.interior)]
            node = read_node(self._pages, page, number) if fitting else None
            for cell in node.cells if node else ():
                for shape in fitting:
                    values = shape.row(cell)
                    if values is not None:
                        yield Row(shape.table.name, values, Found.ORPHAN, number, page.frame)
                        break

    def _walk(self, shape: _Shape, root: int) -> Iterator[Row]:
        ways = [_Way(root)]
        while ways:
            way = ways.pop()
            place = self._place(way, shape)
            if place is None:
                self.is_broken = True
                continue
            page, node = place
            found = max(way.found, Found.STALE if page.is_stale else Found.TREE)
            if self._marks[way.page] == _FREE:
                found = Found.ORPHAN  # either the pointer is wrong or the freelist is
            if found or (node.kind == shape.interior and not node.is_whole):
                self.is_broken = True
            self._marks[way.page] = _SEEN
            if node.kind != TABLE_INTERIOR:
                yield from _rows_of(node, page, way, shape, found)
            if node.kind == shape.interior:
                ways += reversed(list(_children(node, way, found)))

    def _place(self, way: _Way, shape: _Shape) -> tuple[Page, Node] | None:
        """The page a pointer leads to, if it may be the one that was meant."""
        page = self._pages.read(way.page)
        if page is None or self._marks[way.page] == _SEEN or kind(page, way.page) not in (shape.leaf, shape.interior):
            return None
        node = read_node(self._pages, page, way.page)
        if node is None:
            return None
        fits = any(
            way.above < cell.key <= way.to and (node.kind == TABLE_INTERIOR or shape.row(cell) is not None)
            for cell in node.cells
        )
        # Only a root can be without a cell.
        is_empty_root = node.is_whole and not node.cells and (way.above, way.to) == (_LEAST, _MOST)
        return (page, node) if fits or is_empty_root else None

    def _read_freelist(self) -> bool:
        """Mark the free pages, and say whether all are known. Section 1.5."""
        first = self._pages.read(1)
        if first is None or not first.data.startswith(_MAGIC):
            return False
        trunk, total = struct.unpack_from(">2I", first.data, 32)
        known = 0
        while trunk:
            page = self._pages.read(trunk)
            if page is None or self._marks[trunk]:
                return False
            following, count = struct.unpack_from(">2I", page.data)
            if count > len(page.data) // 4 - 2:
                return False
            for number in (trunk, *struct.unpack_from(f">{count}I", page.data, 8)):
                # A page with a newer version than the list was taken off it, in a transaction that is damaged.
                if 1 < number <= self._pages.count and self._pages.frame(number) <= page.frame:
                    self._marks[number] = _FREE
            known += 1 + count
            trunk = following
        return known == total and not first.is_stale


def _rows_of(node: Node, page: Page, way: _Way, shape: _Shape, found: Found) -> Iterator[Row]:
    for cell in node.cells:
        values = shape.row(cell)
        if values is None:
            continue
        sure = max(found, Found.STALE if cell.is_stale else Found.TREE)
        if not way.above < cell.key <= way.to:
            sure = Found.ORPHAN
        yield Row(shape.table.name, values, sure, way.page, page.frame)


def _children(node: Node, way: _Way, found: Found) -> Iterator[_Way]:
    above = way.above
    for cell in node.cells:
        if node.kind == TABLE_INTERIOR:
            yield _Way(cell.child, above, cell.key, found)
            above = cell.key
        else:
            yield _Way(cell.child, way.above, way.to, found)
    yield _Way(node.last_child, above, way.to, found)
