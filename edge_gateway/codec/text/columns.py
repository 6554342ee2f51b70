"""The kinds of columns, and those that are made of others: groups, lists, and cells written in one of several ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from edge_gateway.codec.fields.wire import Misdeclared, Named
from edge_gateway.codec.text.numbers import DecimalColumn, IntegerColumn
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import ClockColumn, DateColumn, TimestampColumn
from edge_gateway.codec.text.words import FlagColumn, TextColumn
from edge_gateway.config.settings import Settings

OneCell: TypeAlias = (
    IntegerColumn | DecimalColumn | TextColumn | FlagColumn | ClockColumn | DateColumn | TimestampColumn
)
"""What takes one cell and gives one value."""

PlainColumn: TypeAlias = OneCell | PlaceColumn
"""What gives one value that is no mapping and no list."""

PlainSpec: TypeAlias = Annotated[PlainColumn, Field(discriminator="type")]


class GroupColumn(Named):
    """Columns that belong together; the value is a mapping of theirs."""

    type: Literal["group"]
    columns: tuple[PlainSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_columns(self) -> GroupColumn:
        check_line(self.columns)
        for index, column in enumerate(self.columns):
            if column.optional:
                raise Misdeclared("a group is whole", key=f"columns[{index}].optional", remedy="Leave `optional` out")
        return self


class ArrayColumn(Named):
    """The same again and again; the value is a list."""

    type: Literal["array"]
    of: Annotated[PlainColumn | GroupColumn, Field(discriminator="type")]
    """What comes again: a column, or a group of them."""
    count: int | None = Field(default=None, ge=1, le=256)
    """How many there always are."""
    until: Literal["end"] | None = None
    """`end` for as many as there are, before the optional columns behind it."""
    most: int = Field(default=64, ge=1, le=256)
    """How many there are at most, where `count` does not say it."""
    skip_empty: bool = False
    """Leave out of the list what is null."""
    optional: bool = False
    """Whether a line may end before it; the list is empty then."""

    @model_validator(mode="after")
    def _check_size(self) -> ArrayColumn:
        if (self.count is None) == (self.until is None):
            raise Misdeclared("nothing says how many", key="count", remedy="Give `count`, or `until: end`, not both")
        if not isinstance(self.of, GroupColumn) and self.of.optional:
            raise Misdeclared("an element of a list is always there", key="of.optional", remedy="Leave it out")
        check_line([self.of])
        return self

    @property
    def element_cells(self) -> int:
        """How many cells one element takes."""
        return cells_of(self.of)

    @property
    def count_range(self) -> tuple[int, int]:
        """The least and the greatest number of elements."""
        return (0, self.most) if self.count is None else (self.count, self.count)


class ChoiceColumn(Settings):
    """One cell that may be written in several ways. The first that fits gives its value; the others are left out.

    Ways of one name and unit say the same in another manner, as `*Wh` and `*kWh` behind a number.
    """

    type: Literal["choice"]
    of: tuple[Annotated[OneCell, Field(discriminator="type")], ...] = Field(min_length=2)
    """The ways. None of them may be empty; an empty cell gives no value at all."""
    optional: bool = False
    """Whether a line may end before it."""

    @model_validator(mode="after")
    def _check_ways(self) -> ChoiceColumn:
        for index, column in enumerate(self.of):
            if column.required is not None or column.optional:
                raise Misdeclared(
                    "a way to write a cell is neither required nor optional", key=f"of[{index}]", remedy="Leave it out"
                )
            if column.can_reject or (isinstance(column, ClockColumn) and column.date is not None):
                raise Misdeclared(
                    "a way to write a cell rejects nothing and needs no other column",
                    key=f"of[{index}]",
                    remedy="Leave out `date` and utf-8, or say `otherwise: null`",
                )
        return self


AnyColumn: TypeAlias = PlainColumn | GroupColumn | ArrayColumn | ChoiceColumn
NamedColumn: TypeAlias = PlainColumn | GroupColumn | ArrayColumn
"""Whatever has a name and a value."""

ColumnSpec: TypeAlias = Annotated[AnyColumn, Field(discriminator="type")]
"""A column as it is declared; `type` says which kind."""


def cells_of(column: AnyColumn) -> int:
    """How many cells a column takes; of a list, how many at least."""
    match column:
        case PlaceColumn():
            return 2
        case GroupColumn():
            return sum(map(cells_of, column.columns))
        case ArrayColumn():
            return column.element_cells * column.count_range[0]
        case _:
            return 1


def named_in(columns: Sequence[AnyColumn]) -> Iterator[NamedColumn]:
    """The columns that have a name, those of a choice among them."""
    for column in columns:
        if isinstance(column, ChoiceColumn):
            yield from column.of
        else:
            yield column


def is_optional(column: AnyColumn) -> bool:
    """Whether a line may end before a column."""
    return not isinstance(column, GroupColumn) and column.optional


def is_open(column: AnyColumn) -> bool:
    """Whether only the line says how many cells it takes."""
    return isinstance(column, ArrayColumn) and column.until is not None


def cell_range(columns: Sequence[AnyColumn]) -> tuple[int, int]:
    """The least and the greatest number of cells of a line."""
    least = sum(cells_of(column) for column in columns if not is_optional(column))
    more = sum(cells_of(column) for column in columns if is_optional(column))
    more += sum(
        column.element_cells * column.most for column in columns if isinstance(column, ArrayColumn) and is_open(column)
    )
    return least, least + more


def counts_fit(columns: Sequence[AnyColumn], count: int) -> bool:
    """Whether a line of these columns can have so many cells."""
    at = 0
    for column in columns:
        if at == count and is_optional(column):
            return True
        if isinstance(column, ArrayColumn) and is_open(column):
            elements = (count - at) // column.element_cells
            if not 0 <= elements <= column.most:
                return False
            at += elements * column.element_cells
        else:
            at += cells_of(column)
    return at == count


def check_line(columns: Sequence[AnyColumn]) -> None:
    """Check what only the columns of a line together can get wrong.

    Raises:
        Misdeclared: a name is there twice, a date is missing, or nothing says which column a cell belongs to.
    """
    names: dict[str, NamedColumn] = {}
    for index, column in enumerate(columns):
        for spec in named_in([column]):
            known = names.get(spec.name)
            if known is not None and not _say_the_same(column, known, spec):
                raise Misdeclared(
                    f"{spec.name!r} is there twice", key=f"columns[{index}].name", remedy=f"For instance: {spec.name}_2"
                )
            names[spec.name] = spec
    for index, column in enumerate(columns):
        clock = column if isinstance(column, ClockColumn) and column.date is not None else None
        if clock is not None and not isinstance(names.get(clock.date or ""), DateColumn):
            raise Misdeclared(
                f"there is no date {clock.date!r} in this line",
                key=f"columns[{index}].date",
                remedy="Name a column of type date",
            )
        _check_place(columns, index)


def _say_the_same(column: AnyColumn, one: NamedColumn, other: NamedColumn) -> bool:
    """Whether both are ways of one choice to write the same value."""
    units = [getattr(each, "unit", None) for each in (one, other)]
    return isinstance(column, ChoiceColumn) and one in column.of and units[0] == units[1] and one.type == other.type


def _check_place(columns: Sequence[AnyColumn], index: int) -> None:
    """Check that cells can be told to belong to a column."""
    column, behind = columns[index], columns[index + 1 :]
    if is_optional(column) and not all(map(is_optional, behind)):
        raise Misdeclared(
            "what follows an optional column must be optional",
            key=f"columns[{index}].optional",
            remedy="Mark the columns behind it, too",
        )
    if index == 0 and (is_optional(column) or is_open(column)):
        raise Misdeclared("the first column is always there", key="columns[0]", remedy="Put another before it")
    if isinstance(column, ArrayColumn) and is_open(column):
        cells = column.element_cells
        if not all(map(is_optional, behind)) or sum(map(cells_of, behind)) >= cells:
            raise Misdeclared(
                "nothing says where this list ends",
                key=f"columns[{index}].until",
                remedy=f"What follows it must be optional, and less than the {cells} cells of an element",
            )
