"""What can be wrong: a text, once, when it is loaded; or an evaluation, for one reading."""

from __future__ import annotations

from edge_gateway.errors import GatewayError


class ExpressionError(GatewayError):
    """A text cannot be used: it does not parse, or its types do not fit.

    Args:
        what: what is wrong, naming what was found.
        text: the whole expression.
        position: the first character it is about, from 0.
        remedy: what would do instead.

    Attributes:
        line: of the position, from 1.
        column: of the position, in characters from 1.
    """

    def __init__(self, what: str, *, text: str, position: int, remedy: str = "") -> None:
        self.line, self.column = line_and_column(text, position)
        super().__init__(what, where=f"line {self.line}, column {self.column}", remedy=remedy)


class EvaluationError(GatewayError):
    """An expression has no result for these values: a division by zero, a null, a number out of range.

    `where` is the line and column of the operation that failed.
    """


def line_and_column(text: str, position: int) -> tuple[int, int]:
    """Where a character stands, both from 1. The end of the text is a position too."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
