"""What a disk may hold after the power was cut: every image that the log of operations allows.

The model:

- What was written to a file before a sync of that file returned is there, and so is the file's size. A name made or
  taken away before a sync of the directory returned stays so.
- What came later is *pending*. Each pending operation, of whatever file, is there or not, independently of the others:
  caches write back in any order. Names are no exception, although a journalling file system would keep their order.
- A pending write may be torn: of each 512-byte sector that it touches, its bytes are there or not. That is a prefix, a
  suffix or any mixture. A write that is under way when the power goes is a pending one.
- A pending write may have grown the file without its bytes having come; there the file holds zeros.
- Bytes that nobody wrote stay as they were, in a torn sector too. This is what SQLite calls powersafe overwrite and
  takes for granted on Linux: https://www.sqlite.org/psow.html.
- A disk that says it has synced has. One that lies, or bits that rot, are not of this model.

It is more pessimistic than what SQLite takes for granted about its own writes (https://www.sqlite.org/atomiccommit.html,
section 2) in that the parts of two writes to one sector are independent too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from edge_gateway.testbench.power_cut.memory_disk import (
    Created,
    Deleted,
    DirectorySynced,
    Operation,
    Synced,
    Truncated,
    Written,
    put,
)

SECTOR_BYTES: Final = 512

Piece: TypeAlias = tuple[int, int]
"""First byte of a write and the one behind the last, both counted from its beginning."""

Fate: TypeAlias = tuple[Piece, ...] | bool
"""What became of a pending operation: there, not there, or only these pieces of a write. A write with no piece has
grown the file all the same."""

GREW: Final[tuple[Piece, ...]] = ()

Files: TypeAlias = dict[str, bytes]

_RANDOM_IMAGES: Final = 24
_ALONE: Final = 16
"""So many of the latest pending operations are each tried as the only one there, and as the only one missing."""


class Platter:
    """What is certainly on the disk, and what is pending.

    Args:
        files: what it begins with, all durable.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._names = {name: inode for inode, name in enumerate(files)}
        self._files = dict(enumerate(files.values()))
        self.pending: list[Created | Deleted | Written | Truncated] = []

    def do(self, operation: Operation) -> None:
        """Take the next operation of the log."""
        match operation:
            case Synced(inode):
                rest: list[Created | Deleted | Written | Truncated] = []
                file = bytearray(self._files.get(inode, b""))
                for each in self.pending:
                    if isinstance(each, Written | Truncated) and each.inode == inode:
                        _apply(file, each, fate=True)
                    else:
                        rest.append(each)
                self._files[inode] = bytes(file)
                self.pending = rest
            case DirectorySynced():
                for each in self.pending:
                    _rename(self._names, each)
                self.pending = [each for each in self.pending if isinstance(each, Written | Truncated)]
            case _:
                self.pending.append(operation)

    def image(self, fates: Sequence[Fate]) -> Files:
        """The files by name if each pending operation has had its fate."""
        names = dict(self._names)
        files: dict[int, bytearray] = {}
        for each, fate in zip(self.pending, fates, strict=True):
            if isinstance(each, Written | Truncated):
                if fate is False:
                    continue
                file = files.get(each.inode)
                if file is None:
                    file = files[each.inode] = bytearray(self._files.get(each.inode, b""))
                _apply(file, each, fate)
            elif fate:
                _rename(names, each)
        return {name: bytes(files.get(inode, self._files.get(inode, b""))) for name, inode in sorted(names.items())}

    def fates(self, rng: random.Random) -> Iterator[Sequence[Fate]]:
        """Ways in which a cut now may end, the most telling first; some of them may give the same image."""
        pending = self.pending
        everything: list[Fate] = [True] * len(pending)
        nothing: list[Fate] = [False] * len(pending)
        yield everything
        if not pending:
            return
        yield nothing
        yield [GREW if isinstance(each, Written) else True for each in pending]
        if isinstance(last := pending[-1], Written):
            pieces = _sectors(last)
            for count in range(1, len(pieces)):
                yield [*everything[:-1], tuple(pieces[:count])]
                yield [*everything[:-1], tuple(pieces[count:])]
        for at in range(max(0, len(pending) - _ALONE), len(pending)):
            yield [*nothing[:at], True, *nothing[at + 1 :]]
            yield [*everything[:at], False, *everything[at + 1 :]]
        for _ in range(_RANDOM_IMAGES):
            share = rng.choice((0.15, 0.5, 0.85))
            yield [_random_fate(each, share, rng) for each in pending]


def _random_fate(each: Operation, share: float, rng: random.Random) -> Fate:
    """There with a probability of `share`; of the writes every third is torn or has only grown the file."""
    if isinstance(each, Written) and rng.random() < 1 / 3:
        return tuple(piece for piece in _sectors(each) if rng.random() < share)
    return rng.random() < share


def _sectors(write: Written) -> list[Piece]:
    """The parts of a write that lie in different sectors."""
    first = SECTOR_BYTES - write.offset % SECTOR_BYTES
    starts = [0, *range(first, len(write.data), SECTOR_BYTES)]
    return list(zip(starts, [*starts[1:], len(write.data)], strict=True))


def _apply(file: bytearray, each: Written | Truncated, fate: Fate) -> None:
    """Change a file as a write or truncation does that is there, whole or in pieces."""
    if isinstance(each, Truncated):
        del file[each.size :]
    elif isinstance(fate, tuple):
        put(file, max(len(file), each.offset + len(each.data)), b"")
        for start, end in fate:
            put(file, each.offset + start, each.data[start:end])
    else:
        put(file, each.offset, each.data)


def _rename(names: dict[str, int], each: Operation) -> None:
    match each:
        case Created(name, inode):
            names[name] = inode
        case Deleted(name):
            names.pop(name, None)
        case _:
            pass
