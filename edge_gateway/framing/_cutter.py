"""Cuts a stream of bytes at its delimiters, in bounded memory.

What COBS, SLIP and plain delimiters have in common. The whole state is the piece begun and not ended yet, or, once that
piece has outgrown every frame, the fact that it is being skipped.
"""

from __future__ import annotations

from edge_gateway.framing import FramingCounters


class Cutter:
    """Keeps the unfinished piece between two reads.

    Args:
        delimiter: what ends a piece; at least one byte.
        longest_piece_bytes: a piece that grows beyond this while it is being held is skipped up to and including its
            delimiter: counted once as oversized and its bytes as noise.
        counters: where to count.
    """

    def __init__(self, delimiter: bytes, longest_piece_bytes: int, counters: FramingCounters) -> None:
        self._delimiter = delimiter
        # The last bytes held may be the beginning of the delimiter, and so not belong to the piece.
        self._overlap_bytes = len(delimiter) - 1
        self._most_held_bytes = longest_piece_bytes + self._overlap_bytes
        self._counters = counters
        self._held = bytearray()
        self._skipping = False

    def cut(self, data: bytes) -> list[bytearray]:
        """Return the pieces that `data` completes, without their delimiters.

        An empty piece is returned where two delimiters follow each other. A piece that came whole within `data` may be
        longer than `longest_piece_bytes`; judging it is the caller's, who looks at its length anyway.
        """
        held = self._held
        searched_bytes = max(len(held) - self._overlap_bytes, 0)
        held += data
        if held.find(self._delimiter, searched_bytes) < 0:
            self._bound()
            return []
        pieces = held.split(self._delimiter)
        self._held = pieces.pop()
        if self._skipping:
            self._skipping = False
            self._counters.noise_bytes += len(pieces[0]) + len(self._delimiter)
            del pieces[0]
        self._bound()
        return pieces

    def drop(self) -> None:
        """Forget the unfinished piece; its bytes are noise."""
        self._counters.noise_bytes += len(self._held)
        self._held.clear()
        self._skipping = False

    def _bound(self) -> None:
        if not self._skipping:
            if len(self._held) <= self._most_held_bytes:
                return
            self._skipping = True
            self._counters.oversized += 1
        surplus_bytes = len(self._held) - self._overlap_bytes
        if surplus_bytes > 0:
            self._counters.noise_bytes += surplus_bytes
            del self._held[:surplus_bytes]
