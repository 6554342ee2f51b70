"""Protocol buffers in text form, as far as the conformance vectors of CEL use it.

A message becomes a dictionary from field to the list of its values, in order; a value is a message, a string, bytes
(strings are kept as bytes, for a string field is UTF-8 and a bytes field is not), an int, a float or a bare word.
"""

from __future__ import annotations

import ast
import re
from typing import TypeAlias, Union

Field: TypeAlias = Union[bytes, str, int, float, "Message"]
Message: TypeAlias = dict[str, list[Field]]

_TOKEN = re.compile(
    r"""
    (?:\s|\#[^\n]*)*
    (?: (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
      | (?P<number> -?(?:0x[0-9a-fA-F]+|[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+\.)(?![\w.]) )
      | (?P<word> -?[A-Za-z_][\w.]* )
      | \[(?P<extension> [\w./]+ )\]\s*(?=[{:])
      | (?P<symbol> [{}\[\]:,;<>] ) )
    """,
    re.VERBOSE,
)


def parse_textproto(text: str) -> Message:
    """Read a message."""
    return _Reader(text).message("")


class _Reader:
    def __init__(self, text: str) -> None:
        matches = []
        at = 0
        while match := _TOKEN.match(text, at):
            matches.append(match)
            at = match.end()
        assert not text[at:].strip() or text[at:].lstrip().startswith("#"), text[at : at + 80]
        self._matches = matches
        self._at = 0

    def _symbol(self, symbol: str) -> bool:
        found = self._at < len(self._matches) and self._matches[self._at]["symbol"] == symbol
        self._at += found
        return found

    def message(self, closing: str) -> Message:
        made: Message = {}
        while self._at < len(self._matches) and not self._symbol(closing):
            match = self._matches[self._at]
            name = match["word"] or match["extension"]
            assert name, match[0]
            self._at += 1
            self._symbol(":")
            made.setdefault(name, []).extend(self._values())
            _ = self._symbol(",") or self._symbol(";")
        return made

    def _values(self) -> list[Field]:
        if not self._symbol("["):
            return [self._value()]
        values: list[Field] = []
        while not self._symbol("]"):
            values.append(self._value())
            self._symbol(",")
        return values

    def _value(self) -> Field:
        if self._symbol("{"):
            return self.message("}")
        match = self._matches[self._at]
        self._at += 1
        if match["string"] is not None:
            octets = _octets(match["string"])
            while self._at < len(self._matches) and self._matches[self._at]["string"] is not None:
                octets += _octets(self._matches[self._at]["string"])
                self._at += 1
            return octets
        if match["number"] is not None:
            number = match["number"]
            return int(number, 0) if re.fullmatch(r"-?(0x[0-9a-fA-F]+|[0-9]+)", number) else float(number)
        return match["word"]


def _octets(quoted: str) -> bytes:
    """A string's bytes; its escapes are Python's, with a question mark among them, and code points become UTF-8."""
    made = bytearray()
    at = 1
    for escape in re.finditer(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", quoted[:-1]):
        made += quoted[at : escape.start()].encode()
        at = escape.end()
        body = escape[1]
        if body[0] in "uU":
            made += chr(int(body[1:], 16)).encode()
        elif body[0] == "x":
            made.append(int(body[1:], 16))
        elif body[0].isdigit():
            made.append(int(body, 8))
        else:
            made += ast.literal_eval(f"'{escape[0]}'").encode() if body in "abfnrtv\\'\"" else body.encode()
    return bytes(made + quoted[at:-1].encode())
