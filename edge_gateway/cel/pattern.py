r"""Regular expressions in linear time, for `matches`.

Python's own `re` can backtrack for ever over a text that a device sends. Here a pattern becomes a nondeterministic
automaton, and that a deterministic one, made state by state as texts ask for it: each letter is looked at once.

Understood is what RE2 and Python have in common: letters, `.`, `[a-z]`, `\d \w \s` and their opposites, escapes,
`^ $`, `( )`, `(?: )`, `|`, `* + ? {2} {2,} {2,5}` and their lazy forms, which match the same texts. There are no
back-references, look-around, word boundaries or flags. Classes are of ASCII, as in RE2, but `\s` has the vertical tab.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MAX_PATTERN = 256
"""Letters of a pattern."""
MAX_STATES = 1000
"""Of the nondeterministic automaton. `{2,5}` writes what it repeats five times."""
MAX_CACHED = 2000
"""Transitions kept of the deterministic one; further ones are made each time."""
MAX_GROUPS = 20
"""Groups in each other."""

_ATOM = re.compile(
    r"""
    (?P<set> \[ \^? \]? (?:[^\[\]\\] | \\.)* \] | \\[dDwWsS] | \. )
  | \\(?P<control> [aftnrv] )
  | \\(?P<escaped> [^a-zA-Z0-9] )
  | \\x(?P<code> [0-9a-fA-F]{2} )
  | (?P<letter> [^\\\[\](){}|*+?.^$] )
    """,
    re.VERBOSE | re.DOTALL,
)
_SET_OPERATION = re.compile(r"--|&&|~~|\|\|")
"""Means the signs today, and will mean an operation in a later Python."""
_REPEAT = re.compile(r"(?:(?P<symbol>[*+?])|\{(?P<low>\d{1,4})(?P<comma>,(?P<high>\d{1,4})?)?\})\??")
_CONTROLS = dict(zip("aftnrv", "\a\f\t\n\r\v", strict=True))

_Test = Callable[[str], bool]
_Tree = Callable[[int], int]
"""A part of a pattern: given the state to go on with, adds its own and returns the first."""
_ACCEPT = 0


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a text has a match anywhere in it.

    Raises:
        ValueError: the pattern is none, or has what is not understood.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} letters; at most {MAX_PATTERN} are read")
    automaton = _Automaton()
    first = _Parser(pattern, automaton).pattern()(_ACCEPT)
    start = _Searching(automaton, first).start

    def search(text: str) -> bool:
        state = start
        for letter in text:
            state = state[letter]
        return state.ends_well

    return search


class _Searching:
    """The deterministic automaton, as far as texts have asked for it."""

    def __init__(self, automaton: _Automaton, first: int) -> None:
        self._automaton = automaton
        # A match may begin at every later letter as well, where `^` does not hold any more.
        self._restart = automaton.closure([first])
        self._known: dict[frozenset[int], _State] = {}
        self.room = MAX_CACHED
        """Transitions that may still be kept."""
        states = automaton.closure([first], at_start=True)
        self.start = _State(self, states, _ACCEPT in automaton.closure(states, at_start=True, at_end=True))

    def after(self, states: frozenset[int], letter: str) -> _State:
        """Where a letter leads."""
        found = self._automaton.closure(self._automaton.after(states, letter)) | self._restart
        state = self._known.get(found)
        if state is None:
            state = _State(self, found, _ACCEPT in self._automaton.closure(found, at_end=True))
            if self.room > 0:
                self._known[found] = state
        return state


class _State(dict[str, "_State"]):
    """A state by the letters seen so far; maps the next letter to the next state."""

    def __init__(self, searching: _Searching, states: frozenset[int], ends_well: bool) -> None:
        super().__init__()
        self._searching = searching
        self._states = states
        self.ends_well = ends_well
        """Whether there is a match if the text ends here."""

    def __missing__(self, letter: str) -> _State:
        # Once there is a match, it stays.
        after = self if _ACCEPT in self._states else self._searching.after(self._states, letter)
        if self._searching.room > 0:
            self._searching.room -= 1
            self[letter] = after
        return after


class _Automaton:
    """States, each of which tests a letter, or an assertion, or is a fork. State 0 accepts."""

    def __init__(self) -> None:
        self._tests: list[_Test | str] = [""]
        self._nexts: list[tuple[int, ...]] = [()]

    def add(self, test: _Test | str, *nexts: int) -> int:
        """A state; its test is a function of a letter, `^`, `$`, or empty."""
        if len(self._tests) >= MAX_STATES:
            raise ValueError("the pattern repeats too much")
        self._tests.append(test)
        self._nexts.append(nexts)
        return len(self._tests) - 1

    def redirect(self, state: int, *nexts: int) -> None:
        """Where a fork leads, when that is known later."""
        self._nexts[state] = nexts

    def after(self, states: Iterable[int], letter: str) -> list[int]:
        """Where a letter leads."""
        found: list[int] = []
        for state in states:
            test = self._tests[state]
            if not isinstance(test, str) and test(letter):
                found += self._nexts[state]
        return found

    def closure(self, states: Iterable[int], *, at_start: bool = False, at_end: bool = False) -> frozenset[int]:
        """These states, and those they lead to without a letter."""
        open_assertions = {"", "^" if at_start else "", "$" if at_end else ""}
        waiting, found = list(states), set()
        while waiting:
            state = waiting.pop()
            if state not in found:
                found.add(state)
                if self._tests[state] in open_assertions:
                    waiting += self._nexts[state]
        return frozenset(found)


class _Parser:
    """Recursive descent; parts are functions since a repeated part is written more than once."""

    def __init__(self, pattern: str, automaton: _Automaton) -> None:
        self._pattern = pattern
        self._automaton = automaton
        self._at = 0
        self._depth = 0

    def pattern(self) -> _Tree:
        tree = self._alternatives()
        if self._at < len(self._pattern):
            raise ValueError(f"`)` without its `(` in the pattern, at {self._at + 1}")
        return tree

    def _skip(self, letters: str) -> bool:
        found = self._pattern.startswith(letters, self._at)
        self._at += len(letters) * found
        return found

    def _alternatives(self) -> _Tree:
        branches = [self._sequence()]
        while self._skip("|"):
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        return lambda then: self._automaton.add("", *(branch(then) for branch in branches))

    def _sequence(self) -> _Tree:
        parts: list[_Tree] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated(self._part()))

        def tree(then: int) -> int:
            for part in reversed(parts):
                then = part(then)
            return then

        return tree

    def _repeated(self, part: _Tree) -> _Tree:
        match = _REPEAT.match(self._pattern, self._at)
        if match is None:
            return part
        self._at = match.end()
        if _REPEAT.match(self._pattern, self._at):
            raise ValueError(f"a repetition of a repetition in the pattern, at {self._at + 1}")
        low = {"*": 0, "+": 1, "?": 0}.get(match["symbol"]) if match["symbol"] else int(match["low"])
        is_open = match["symbol"] in ("*", "+") or (match["comma"] is not None and match["high"] is None)
        high = 1 if match["symbol"] == "?" else int(match["high"] or match["low"] or 0)
        return self._times(part, low or 0, None if is_open else high)

    def _times(self, part: _Tree, low: int, high: int | None) -> _Tree:
        if high is not None and high < low:
            raise ValueError(f"the pattern repeats from {low} to {high} times")
        automaton = self._automaton

        def tree(then: int) -> int:
            if high is None:
                loop = automaton.add("")
                automaton.redirect(loop, part(loop), then)
                then = loop
            else:
                end = then
                for _ in range(high - low):
                    then = automaton.add("", part(then), end)
            for _ in range(low):
                # A state for each time, so that repeating nothing is bounded too.
                then = automaton.add("", part(then))
            return then

        return tree

    def _part(self) -> _Tree:
        automaton = self._automaton
        if self._skip("("):
            if not self._skip("?:") and self._skip("?"):
                raise ValueError(f"only `(?:` is understood after `(` in the pattern, at {self._at}")
            self._depth += 1
            if self._depth > MAX_GROUPS:
                raise ValueError(f"more than {MAX_GROUPS} groups in each other in the pattern")
            tree = self._alternatives()
            self._depth -= 1
            if not self._skip(")"):
                raise ValueError("`(` without its `)` in the pattern")
            return tree
        for assertion in "^$":
            if self._skip(assertion):
                return lambda then: automaton.add(assertion, then)
        match = _ATOM.match(self._pattern, self._at)
        if match is None:
            near = self._pattern[self._at : self._at + 2]
            raise ValueError(f"`{near}` is not understood in the pattern, at {self._at + 1}")
        self._at = match.end()
        test = _test(match)
        return lambda then: automaton.add(test, then)


def _test(atom: re.Match[str]) -> _Test:
    """What tells whether a letter is of an atom."""
    if atom["set"]:
        if _SET_OPERATION.search(atom["set"]):
            raise ValueError(f"`{atom['set']}` in the pattern has a doubled sign; one is enough")
        try:
            # Python's engine for a single letter, where there is nothing to go back for.
            of_class = re.compile(atom["set"], re.ASCII).fullmatch
        except re.error as error:
            raise ValueError(f"`{atom['set']}` in the pattern: {error}") from error
        return lambda letter: of_class(letter) is not None
    if atom["control"]:
        return _CONTROLS[atom["control"]].__eq__
    if atom["code"]:
        return chr(int(atom["code"], 16)).__eq__
    return (atom["escaped"] or atom["letter"]).__eq__
