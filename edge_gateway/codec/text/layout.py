"""A text frame as the rest of the codec sees a kind of frame: by name, and by the questions it asks of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

from edge_gateway.codec.text.columns import ChoiceColumn
from edge_gateway.codec.text.frames import BlockFrame, TextFrame, can_be_told_apart


@dataclass(frozen=True, slots=True)
class TextLayout:
    """One kind of text frame."""

    name: str
    frame: TextFrame

    @property
    def least_bytes(self) -> int:
        """The shortest such frame, or less."""
        return max(1, len(self.frame.form.start_bytes) + len(self.frame.form.end_bytes))

    @property
    def most_bytes(self) -> None:
        """The longest such frame: nothing but the framing bounds it."""
        return None

    @property
    def optional(self) -> frozenset[str]:
        """The values that a frame may be without."""
        if isinstance(self.frame, BlockFrame):
            return frozenset(self.frame.specs)
        choices = [column for column in self.frame.lines_of_columns[""] if isinstance(column, ChoiceColumn)]
        return frozenset(way.name for column in choices for way in column.of)

    def admits_length(self, length_bytes: int) -> bool:
        """Whether such a frame can be this long."""
        return length_bytes >= self.least_bytes

    def fits(self, frame: bytes) -> bool:
        """Whether the frame is one of this kind, and right."""
        from edge_gateway.codec.text.reading import read_text

        return not read_text(self.frame, frame).reason

    def check_holds(self, frame: bytes) -> bool:
        """Whether the frame's checksum is the one of its bytes; true for a kind without one."""
        from edge_gateway.codec.text.reading import read_text

        return read_text(self.frame, frame).reason != "checksum"

    def sealed(self, frame: bytes) -> bytes:
        """The frame with the right checksum behind its end; the frame itself where there is none."""
        from edge_gateway.codec.text.writing import sealed_again

        return sealed_again(self.frame.form, frame)

    def differs_from(self, other: TextLayout) -> bool:
        """Whether no text can be taken for both."""
        return can_be_told_apart(self.frame, other.frame)
