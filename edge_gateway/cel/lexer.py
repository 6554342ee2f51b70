"""Text to tokens, as the lexis of the CEL specification has it (langdef.md, "Syntax").

Each token carries the value it stands for, so that escapes and number formats end here.

Every regular expression below is linear in the text: at each character at most one alternative can go on.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple, NoReturn

from edge_gateway.cel.errors import ExpressionError

MAX_CHARACTERS = 4096
"""A page of text. It bounds the nodes of the tree as well, since each takes a character."""

RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package"}
    | {"namespace", "return", "var", "void", "while"}
)
"""Names that the specification keeps for host languages: no variables or functions, but keys of maps."""


class TokenKind(enum.Enum):
    """What a token is to the grammar."""

    NAME = "a name"
    QUOTED = "a name in backticks"
    """A field whose name is no name, as in ``map.`content-type` ``."""
    INT = "an int"
    UINT = "a uint"
    DOUBLE = "a double"
    STRING = "a string"
    BYTES = "bytes"
    SYMBOL = "a symbol"
    """Operators and punctuation, and the keywords `in`, `true`, `false` and `null`."""
    END = "the end"


class Token(NamedTuple):
    """A piece of the text."""

    kind: TokenKind
    text: str
    position: int
    """Of its first character, from 0."""
    value: int | float | str | bytes | None = None
    """Of a literal. Signs are not part of it, so an int can be up to 2^64 and more here."""

    def __str__(self) -> str:
        return "the end" if self.kind is TokenKind.END else f"`{self.text}`"


_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SPACE = re.compile(r"(?:[\t\n\f\r ]|//[^\n]*)*")
_TOKEN = re.compile(
    r"""
    (?P<string> (?P<prefix>[bB]?[rR]?) (?P<quote>\"{3}|'{3}|["']) )
  | (?P<double> [0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)? | [0-9]+[eE][+-]?[0-9]+ )
  | (?P<whole>  0x[0-9a-fA-F]+ | [0-9]+ ) (?P<unsigned>[uU]?)
  | (?P<name>   [_a-zA-Z][_a-zA-Z0-9]* )
  | `(?P<quoted> [a-zA-Z0-9_.\-/ ]+ )`
  | (?P<symbol> && | \|\| | [=!<>]= | [-+*/%<>!?:.,()\[\]{}] )
    """,
    re.VERBOSE,
)
_KEYWORDS = frozenset(["true", "false", "null", "in"])

# The rest of a string from behind its opening quotes; by quotes, and whether a backslash means something.
_REST = {
    ('"', False): re.compile(r'([^"\r\n]*)"'),
    ("'", False): re.compile(r"([^'\r\n]*)'"),
    ('"', True): re.compile(r'((?:[^"\\\r\n]|\\[^\r\n])*)"'),
    ("'", True): re.compile(r"((?:[^'\\\r\n]|\\[^\r\n])*)'"),
    ('"""', False): re.compile(r'(.*?)"""', re.DOTALL),
    ("'''", False): re.compile(r"(.*?)'''", re.DOTALL),
    ('"""', True): re.compile(r'((?:[^\\]|\\.)*?)"""', re.DOTALL),
    ("'''", True): re.compile(r"((?:[^\\]|\\.)*?)'''", re.DOTALL),
}
_ESCAPE = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\?\"'`])|[xX](?P<x>[0-9a-fA-F]{2})|(?P<octal>[0-3][0-7]{2})"
    r"|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|)"
)
_PLAIN = dict(zip("abfnrtv\\?\"'`", "\a\b\f\n\r\t\v\\?\"'`", strict=True))


def tokens(text: str) -> list[Token]:
    """Cut a text into tokens, the last of them END.

    Raises:
        ExpressionError: a character or an escape that means nothing, a string without its end, or too long a text.
    """
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"{len(text)} characters",
            text=text,
            position=MAX_CHARACTERS,
            remedy=f"At most {MAX_CHARACTERS} are read",
        )
    if surrogate := _SURROGATE.search(text):
        raise ExpressionError("half a surrogate pair", text=text, position=surrogate.start())
    found: list[Token] = []
    at = _end_of_space(text, 0)
    while at < len(text):
        token, end = _token_at(text, at)
        found.append(token)
        at = _end_of_space(text, end)
    found.append(Token(TokenKind.END, "", len(text)))
    return found


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _token_at(text: str, at: int) -> tuple[Token, int]:
    match = _TOKEN.match(text, at)
    if match is None:
        raise ExpressionError(
            f"`{text[at]}` means nothing here", text=text, position=at, remedy=_MISTAKEN.get(text[at], "")
        )
    word = match[0]
    if match["string"] is not None:
        return _string(text, match)
    if match["double"] is not None:
        return Token(TokenKind.DOUBLE, word, at, float(word)), match.end()
    if match["whole"] is not None:
        digits = match["whole"]
        number = int(digits, 16) if digits.startswith("0x") else int(digits)
        return Token(TokenKind.UINT if match["unsigned"] else TokenKind.INT, word, at, number), match.end()
    if match["quoted"] is not None:
        return Token(TokenKind.QUOTED, match["quoted"], at), match.end()
    kind = TokenKind.SYMBOL if match["symbol"] is not None or word in _KEYWORDS else TokenKind.NAME
    return Token(kind, word, at), match.end()


_MISTAKEN = {
    "=": "Equality is `==`",
    "&": "And is `&&`; bits are `math.bitAnd(a, b)`",
    "|": "Or is `||`; bits are `math.bitOr(a, b)`",
    "^": "Bits are `math.bitXor(a, b)`",
    "~": "Bits are `math.bitNot(a)`",
    "#": "A comment starts with `//`",
    ";": "An expression is one value, without statements",
}


def _string(text: str, opening: re.Match[str]) -> tuple[Token, int]:
    prefix, quote = opening["prefix"].lower(), opening["quote"]
    cooked = "r" not in prefix
    match = _REST[quote, cooked].match(text, opening.end())
    if match is None:
        raise ExpressionError(
            f"a string without its closing {quote}",
            text=text,
            position=opening.start(),
            remedy="Only strings in three quotes may span lines" if len(quote) == 1 else "",
        )
    word = text[opening.start() : match.end()]
    if "b" in prefix:
        octets = _bytes(text, match.start(1), match[1]) if cooked else match[1].encode()
        return Token(TokenKind.BYTES, word, opening.start(), octets), match.end()
    letters = _letters(text, match.start(1), match[1]) if cooked else match[1]
    return Token(TokenKind.STRING, word, opening.start(), letters), match.end()


def _letters(text: str, start: int, body: str) -> str:
    """A string's body with its escapes read as code points."""

    def letter(escape: re.Match[str]) -> str:
        if plain := escape["plain"]:
            return _PLAIN[plain]
        digits = escape["x"] or escape["u"] or escape["U"]
        if digits is None and escape["octal"] is None:
            _refuse_escape(text, start + escape.start())
        code = int(digits, 16) if digits else int(escape["octal"], 8)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ExpressionError(
                f"`{escape[0]}` is not a code point",
                text=text,
                position=start + escape.start(),
                remedy=r"Write one above U+FFFF as \U and eight digits",
            )
        return chr(code)

    return _ESCAPE.sub(letter, body)


def _bytes(text: str, start: int, body: str) -> bytes:
    """A body as UTF-8, with its escapes read as octets."""
    octets = bytearray()
    at = 0
    for escape in _ESCAPE.finditer(body):
        octets += body[at : escape.start()].encode()
        at = escape.end()
        if plain := escape["plain"]:
            octets += _PLAIN[plain].encode()
        elif escape["x"]:
            octets.append(int(escape["x"], 16))
        elif escape["octal"]:
            octets.append(int(escape["octal"], 8))
        else:
            _refuse_escape(text, start + escape.start())
    return bytes(octets + body[at:].encode())


def _refuse_escape(text: str, position: int) -> NoReturn:
    raise ExpressionError(
        f"`{text[position : position + 2]}` is not an escape here",
        text=text,
        position=position,
        remedy=r"Write a backslash as \\, or put an r before the string",
    )
