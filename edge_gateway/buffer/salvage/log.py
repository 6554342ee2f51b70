"""The write-ahead log: which frames are whole, whatever has become of those before them.

https://www.sqlite.org/fileformat2.html, section 4. SQLite reads the log up to the first frame whose checksum is wrong.
But the checksum of a frame goes on from the one *stored* in the frame before, not from that frame's bytes: so behind a
damaged frame the chain can be taken up again.

Two kinds of frame look damaged and are not:

- Left over from before the log was last begun anew: these carry other salts (section 4.4).
- Of the last transaction, if the power was cut while it was being written: nobody was told that it is safe. With
  `synchronous=FULL` it is the only one that can be torn, because each is synced before the next begins.

So that nothing left over carries the salts of the present, the log has to be begun anew after each recovery. It is, if
a checkpoint follows the opening.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from edge_gateway.buffer.salvage.content import Content

PAGE_BYTES: Final = 4096
"""SQLite's default."""

_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_MAGIC: Final = 0x377F0682
"""Its last bit is set if the checksum takes the words of the log as big-endian."""

_Pair: TypeAlias = tuple[int, int]


class _Header(NamedTuple):
    """Of a frame; section 4.1."""

    page: int
    pages_after: int
    """Size of the database after the transaction if this is its last frame, else 0."""
    salts: _Pair
    checksum: _Pair


class _Frames:
    """The frames of a log by number; the first is 1, and before it stands the log's own header.

    Args:
        log: the file.
        page_bytes: size of a page.
    """

    def __init__(self, log: Content, page_bytes: int) -> None:
        self._log = log
        self._page_bytes = page_bytes
        self._frame_bytes = _FRAME_HEADER.size + page_bytes
        self.count = max(0, len(log) - _HEADER.size) // self._frame_bytes
        self._word_order = "<" if sys.byteorder == "little" else ">"
        self._first_checksum: _Pair = (0, 0)
        self.has_header = False
        """Whether the log's header is whole."""
        self.salts: _Pair | None = None
        """Of the frames that count; None if nothing tells."""
        if len(log) < _HEADER.size:
            return
        magic, _, _, _, salt_1, salt_2, checksum_1, checksum_2 = _HEADER.unpack(log[: _HEADER.size])
        self._first_checksum = (checksum_1, checksum_2)
        word_order = ">" if magic & 1 else "<"
        checksum = _checksum(log[: _HEADER.size - 8], (0, 0), word_order)
        if magic | 1 == _MAGIC | 1 and checksum == self._first_checksum:
            self.has_header = True
            self._word_order = word_order
            self.salts = (salt_1, salt_2)
        else:
            # What is left over stands behind what is in use, so the first frame that is whole tells.
            whole = (number for number in range(1, self.count + 1) if self.follows(number))
            self.salts = next((self.header(number).salts for number in whole), None)

    def header(self, number: int) -> _Header:
        start = self._start(number)
        page, pages_after, salt_1, salt_2, checksum_1, checksum_2 = _FRAME_HEADER.unpack(
            self._log[start : start + _FRAME_HEADER.size]
        )
        return _Header(page, pages_after, (salt_1, salt_2), (checksum_1, checksum_2))

    def follows(self, number: int) -> bool:
        """Whether a frame is whole and was written behind the one that now stands before it."""
        header = self.header(number)
        before = self.header(number - 1).checksum if number > 1 else self._first_checksum
        start = self._start(number)
        content = self._log[start : start + 8] + self.page(number)
        return header.page > 0 and _checksum(content, before, self._word_order) == header.checksum

    def page(self, number: int) -> bytes:
        """What the frame makes of its page."""
        start = self._start(number) + _FRAME_HEADER.size
        return self._log[start : start + self._page_bytes]

    def _start(self, number: int) -> int:
        return _HEADER.size + (number - 1) * self._frame_bytes


def _checksum(data: bytes, start: _Pair, word_order: str) -> _Pair:
    """Section 4.2."""
    first, second = start
    words = iter(struct.unpack(f"{word_order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def lost_frames(log: Content, recovered: int, *, page_bytes: int = PAGE_BYTES) -> int:
    """Tell whether SQLite has dropped transactions that were finished, because a frame before them is damaged.

    A transaction is begun only after the one before has been synced. So a commit among the frames that SQLite did not
    recover, with a whole frame behind it that was written after it, says that something that was safe is gone. Of the
    very last transaction nobody can say whether it was torn by a power cut or has rotted: it is taken for torn.

    Args:
        log: the file as it was opened, before anything was written.
        recovered: frames that SQLite found in it; the second number `PRAGMA wal_checkpoint(PASSIVE)` returns.
        page_bytes: size of a page.

    Returns:
        The frames of such transactions that are still there, or 0 if nothing is missing.
    """
    frames = _Frames(log, page_bytes)
    if frames.salts is None:
        return 0
    ours: set[int] = set()
    commits: list[int] = []
    for number in range(max(0, recovered) + 1, frames.count + 1):
        header = frames.header(number)
        if header.salts == frames.salts and header.page:
            ours.add(number)
            if header.pages_after:
                commits.append(number)
    if not commits:
        return 0
    # No power cut damages the log's header, which is synced before the first frame is written: so it has rotted.
    if frames.has_header and not any(number + 1 in ours and frames.follows(number + 1) for number in commits):
        return 0
    return sum(number <= commits[-1] for number in ours)


@dataclass
class Log:
    """What a log makes of the database's pages."""

    newest: dict[int, int] = field(default_factory=dict)
    """By page: the number of its newest whole frame."""
    lost: dict[int, int] = field(default_factory=dict)
    """By page: the number of its newest damaged frame."""
    lost_somewhere: int = 0
    """The number of the newest damaged frame that does not say which page it was; 0 if there is none."""
    pages: int = 0
    """Size of the database after the last transaction; 0 if the log does not tell."""


class _Frame(NamedTuple):
    number: int
    page: int
    """0 if it cannot be told."""
    is_whole: bool


def read_log(log: Content, page_bytes: int) -> tuple[Log, _Frames]:
    """Find the newest whole frame of each page, also behind damaged ones.

    Returns:
        What was found, and the frames by number.
    """
    found = Log()
    frames = _Frames(log, page_bytes)
    if frames.salts is None:
        return found, frames
    transaction: list[_Frame] = []
    maybe_torn: list[_Frame] = []
    """A finished transaction with damaged frames that nothing has followed so far."""
    for number, header, is_ours, is_whole in _looked_at(frames):
        if is_whole:
            _take(found, maybe_torn)
            maybe_torn = []
            if _has_hole(transaction) and header.page <= max(frame.page for frame in transaction):
                # A transaction writes its pages in rising order: here the next one has begun, and a commit is lost.
                _take(found, transaction)
                transaction = []
        transaction.append(_Frame(number, header.page if is_ours else 0, is_whole))
        if is_ours and header.pages_after:
            if _has_hole(transaction):
                maybe_torn += transaction
            else:
                _take(found, transaction)
                found.pages = header.pages_after
            transaction = []
    _take(found, [frame._replace(is_whole=False) for frame in maybe_torn])
    return found, frames


def _looked_at(frames: _Frames) -> Iterator[tuple[int, _Header, bool, bool]]:
    """Each frame's number and header, whether it carries the salts in use, and whether it is whole."""
    headers = [frames.header(number) for number in range(1, frames.count + 1)]
    ours = [frames.has_header, *(header.salts == frames.salts and header.page > 0 for header in headers), False]
    follows = [ours[0], *(ours[number] and frames.follows(number) for number in range(1, frames.count + 1)), False]
    for number, header in enumerate(headers, 1):
        # If a frame and the one before both break the chain, what is wrong may be the checksum stored in the one
        # before: certainly if its header is gone, and probably if the chain goes on behind this frame.
        before_is_wrong = not follows[number - 1] and (follows[number + 1] or not ours[number - 1])
        yield number, header, ours[number], ours[number] and (follows[number] or before_is_wrong)


def _has_hole(transaction: list[_Frame]) -> bool:
    return not all(frame.is_whole for frame in transaction)


def _take(found: Log, transaction: list[_Frame]) -> None:
    for number, page, is_whole in transaction:
        if is_whole:
            found.newest[page] = number
        elif page:
            found.lost[page] = number
        else:
            found.lost_somewhere = number
