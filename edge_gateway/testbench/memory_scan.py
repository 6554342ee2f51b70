"""Looks for secrets where none may be: in a process's memory, a core file, or the files of a directory.

Each secret is looked for as it is, in base64 and in hexadecimal digits, whole or in part: memory that was freed has
lost its first bytes, and what is left of a key is a leak all the same.

How it is fast without a library: memory is read as words of eight bytes, and the set of all words that occur in the
secrets is asked which of them it knows, a megabyte at once. A piece of 15 bytes has a whole word in it, wherever it
lies. Only what the set knows is looked at closely.
"""

from __future__ import annotations

import base64
import os
import re
import stat
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from edge_gateway.errors import BenchError

SHORTEST_SECRET_BYTES: Final = 16
_FEWEST_VALUES: Final = 8
"""Different bytes in a secret; 16 random ones have fewer once in 10^9."""
_SHORTEST_PIECES: Final = {"raw": 8, "base64": 11, "hex": 16}
"""What a find has at least: 64 bits, which no chance brings up."""

_WORD_BYTES: Final = 8
_CHUNK_BYTES: Final = 1 << 20
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (r\S+) \S+ \S+ \S+ *(.*)\n?")
_NOT_MEMORY: Final = frozenset(["[vvar]", "[vvar_vclock]", "[vsyscall]"])
"""The kernel's; they cannot be read, or hold nothing of the process."""

_BASE64_SHIFTS: Final = ((0, 0), (1, 2), (2, 3))
"""How many bytes may stand before a secret within longer base64, and how many characters are then not its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Where a secret is, or a piece of it; never what it is."""

    place: str
    """A file, or a mapping of a process."""
    offset: int
    """Into the file; of a process the address."""
    secret: int
    """Which of those that were looked for, counted from 0."""
    form: str
    """`raw`, `base64` or `hex`."""
    length: int
    """Of the piece, in bytes or characters."""
    of: int
    """How long it would be whole."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What was found, and how much was looked at: a scan that read nothing proves nothing."""

    findings: tuple[Finding, ...]
    scanned_bytes: int
    unread: tuple[str, ...]
    """What could not be read, with the reason."""


class _Form(NamedTuple):
    """A text that gives a secret away."""

    text: bytes
    secret: int
    name: str


_Words: TypeAlias = dict[int, list[tuple[int, int]]]
"""Words of eight bytes, each with the forms it occurs in and where."""


def find_secrets(target: int | Path, secrets: Sequence[bytes]) -> Scan:
    """Look for secrets.

    Args:
        target: a process's number, a file (a core, for instance), or a directory with all in it.
        secrets: each of `SHORTEST_SECRET_BYTES` at least, and random: what is not may be anywhere by chance.

    Raises:
        BenchError: a secret is too short or not random, or the target cannot be looked at.
    """
    forms = _forms(secrets)
    search = _Search(forms)
    try:
        if isinstance(target, int):
            _scan_process(target, search)
        elif target.is_dir():
            for path in sorted(target.rglob("*")):
                _scan_file(path, search)
        else:
            _scan_file(target, search, required=True)
    except OSError as error:
        raise BenchError(
            f"cannot be looked at: {error.strerror}",
            where=str(target),
            remedy="A process must be of the same user, and one that is not dumpable be looked at by root",
        ) from error
    return Scan(tuple(_each_once(search.findings)), search.scanned_bytes, tuple(search.unread))


def _each_once(findings: Iterable[Finding]) -> list[Finding]:
    """The longest of those that overlap: both sorts of base64 are found where they are alike."""
    kept: dict[tuple[str, int, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda each: -each.length):
        alike = kept.setdefault((finding.place, finding.secret, finding.form), [])
        if all(
            finding.offset + finding.length <= each.offset or each.offset + each.length <= finding.offset
            for each in alike
        ):
            alike.append(finding)
    return sorted((each for alike in kept.values() for each in alike), key=lambda each: (each.place, each.offset))


def _forms(secrets: Sequence[bytes]) -> list[_Form]:
    forms: list[_Form] = []
    for number, secret in enumerate(secrets):
        if len(secret) < SHORTEST_SECRET_BYTES or len(set(secret)) < _FEWEST_VALUES:
            raise BenchError(
                f"is too short or too simple to be looked for: {len(set(secret))} values in {len(secret)} bytes",
                where=f"secret {number}",
                remedy=f"Give {SHORTEST_SECRET_BYTES} random bytes or more",
            )
        texts = {secret: "raw", secret.hex().encode(): "hex", secret.hex().upper().encode(): "hex"}
        for before, foreign in _BASE64_SHIFTS:
            own = (before + len(secret)) * 8 // 6  # characters that hold bits of nothing that follows
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                texts[encode(bytes(before) + secret)[foreign:own]] = "base64"
        forms += [_Form(text, number, name) for text, name in texts.items()]
    return forms


class _Search:
    """What is looked for, and what came of it."""

    def __init__(self, forms: Sequence[_Form]) -> None:
        self.findings: list[Finding] = []
        self.unread: list[str] = []
        self.scanned_bytes = 0
        self._forms = forms
        self._words: _Words = {}
        for number, form in enumerate(forms):
            for start in range(len(form.text) - _WORD_BYTES + 1):
                word = int.from_bytes(form.text[start : start + _WORD_BYTES], sys.byteorder)
                self._words.setdefault(word, []).append((number, start))
        self._known = set(self._words)

    def scan(self, place: str, file: int, start: int, end: int) -> None:
        """Look through a part of an open file.

        Args:
            place: what it is called.
            file: its number.
            start: a multiple of eight.
            end: where to stop, if the file does not end before.
        """
        seen: set[tuple[int, int]] = set()
        for chunk_start in range(start, end, _CHUNK_BYTES):
            wanted_bytes = min(_CHUNK_BYTES, end - chunk_start)
            try:
                chunk = os.pread(file, wanted_bytes, chunk_start)
            except OSError as error:
                self.unread.append(f"{place} at {chunk_start:#x}: {error.strerror}")
                continue
            if len(chunk) < wanted_bytes:
                self.unread.append(f"{place} at {chunk_start + len(chunk):#x}: cannot be read from here")
            self.scanned_bytes += len(chunk)
            words = array("Q", chunk[: len(chunk) // _WORD_BYTES * _WORD_BYTES])
            for word in self._known.intersection(words):
                for place_in_chunk in _places(chunk, word):
                    at = chunk_start + place_in_chunk
                    for number, place_in_form in self._words[word]:
                        origin = at - place_in_form  # where the form would begin, were it whole
                        if (number, origin) not in seen:
                            seen.add((number, origin))
                            self._look_closely(place, file, self._forms[number], origin, at, (start, end))

    def _look_closely(self, place: str, file: int, form: _Form, origin: int, at: int, bounds: tuple[int, int]) -> None:
        begin, end = max(origin, bounds[0]), min(origin + len(form.text), bounds[1])
        try:
            around = os.pread(file, end - begin, begin)
        except OSError:
            around = b""  # a process has given it back meanwhile
        first, last = _piece(form.text[begin - origin :], around, at - begin)
        if last - first >= _SHORTEST_PIECES[form.name]:
            self.findings.append(Finding(place, begin + first, form.secret, form.name, last - first, len(form.text)))


def _places(chunk: bytes, word: int) -> Iterator[int]:
    """Where a word begins, among the places where words do."""
    text = word.to_bytes(_WORD_BYTES, sys.byteorder)
    place = chunk.find(text)
    while place >= 0:
        if place % _WORD_BYTES == 0:
            yield place
        place = chunk.find(text, place + 1)


def _piece(text: bytes, around: bytes, at: int) -> tuple[int, int]:
    """From where to where two texts are alike without a break around a place."""
    if len(around) <= at:
        return at, at
    first = at
    while first > 0 and text[first - 1] == around[first - 1]:
        first -= 1
    last = at
    while last < min(len(text), len(around)) and text[last] == around[last]:
        last += 1
    return first, last


def _scan_process(pid: int, search: _Search) -> None:
    mappings = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    with _opened(Path(f"/proc/{pid}/mem")) as memory:
        for start, end, name in _readable(mappings.splitlines()):
            search.scan(f"process {pid} {name}".rstrip(), memory, start, end)


def _readable(mappings: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    for line in mappings:
        match = _MAPPING.fullmatch(line)
        if match is not None and match[4] not in _NOT_MEMORY:
            yield int(match[1], 16), int(match[2], 16), match[4]


def _scan_file(path: Path, search: _Search, *, required: bool = False) -> None:
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            with _opened(path) as file:
                search.scan(str(path), file, 0, status.st_size)
        elif required:
            raise BenchError("is no file", where=str(path), remedy="Name a process, a file or a directory")
    except OSError as error:
        if required:
            raise
        search.unread.append(f"{path}: {error.strerror}")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)
