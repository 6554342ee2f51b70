"""AMQP 1.0 values to bytes and back (OASIS amqp-core-types-v1.0); no I/O.

AMQP tells eight kinds of integer, two of text and so on apart, and a reply has to carry an id back in the type it came
in. So each AMQP type has a Python type of its own, and what is decoded encodes to the same type again. Plain Python
values encode as what they look like: `int` as long, `float` as double, `str` as string, `bytes` as binary.

- Strict: what is no value is one error, `Malformed`. Decimals are refused, too: nothing a hub hears has any.
- Bounded: a value never takes more memory than a small multiple of its bytes, and nests at most `MAX_DEPTH` deep.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Any, TypeAlias

from edge_gateway.errors import BenchError

MAX_DEPTH = 16
"""Of values in values. The deepest a client sends is a filter in a source in an attach: 5."""


class Malformed(BenchError):
    """Bytes are not AMQP 1.0."""

    def __init__(self, what: str) -> None:
        super().__init__(what, where="AMQP", remedy="Close the connection")


class Ubyte(int):
    """8 bits, unsigned."""


class Ushort(int):
    """16 bits, unsigned."""


class Uint(int):
    """32 bits, unsigned."""


class Ulong(int):
    """64 bits, unsigned."""


class Byte(int):
    """8 bits."""


class Short(int):
    """16 bits."""


class Int(int):
    """32 bits."""


class Timestamp(int):
    """Milliseconds since 1970-01-01T00:00:00Z."""


class Float(float):
    """32 bits."""


class Symbol(str):
    """ASCII text from a fixed vocabulary: names of capabilities, conditions, annotations."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Array(list["Value"]):
    """Values that are all of one type."""


@dataclass(frozen=True, slots=True)
class Described:
    """A value and what says how to read it, a code or a symbol."""

    descriptor: Value
    value: Value


Value: TypeAlias = "bool | int | float | str | bytes | uuid.UUID | list[Value] | dict[Any, Value] | Described | None"

_NULL, _BOOLEAN, _LIST0 = 0x40, 0x56, 0x45
_LIST, _MAP, _ARRAY = 0xD0, 0xD1, 0xF0
_BINARY, _STRING, _SYMBOL = 0xB0, 0xB1, 0xB3
_CHAR, _UUID = 0x73, 0x98
_TO_SHORT = 0x10
"""From the code of a text, list, map or array to that of its form for less than 256 bytes."""

_NUMBERS: dict[int, tuple[type[int] | type[float], Struct]] = {
    0x50: (Ubyte, Struct(">B")),
    0x60: (Ushort, Struct(">H")),
    0x70: (Uint, Struct(">I")),
    0x80: (Ulong, Struct(">Q")),
    0x51: (Byte, Struct(">b")),
    0x61: (Short, Struct(">h")),
    0x71: (Int, Struct(">i")),
    0x81: (int, Struct(">q")),
    0x83: (Timestamp, Struct(">q")),
    0x72: (Float, Struct(">f")),
    0x82: (float, Struct(">d")),
}
_SHORT_NUMBERS: dict[int, tuple[type[int] | type[float], Struct]] = {
    0x52: (Uint, Struct(">B")),
    0x53: (Ulong, Struct(">B")),
    0x54: (Int, Struct(">b")),
    0x55: (int, Struct(">b")),
}
_READ_NUMBERS = _NUMBERS | _SHORT_NUMBERS
_NUMBER_CODES = {kind: code for code, (kind, _) in _NUMBERS.items()}
_CONSTANTS: dict[int, Value] = {_NULL: None, 0x41: True, 0x42: False, 0x43: Uint(0), 0x44: Ulong(0)}
_TEXTS: dict[int, Callable[[bytes], Value]] = {
    _BINARY: bytes,
    _STRING: bytes.decode,
    _SYMBOL: lambda data: Symbol(data.decode("ascii")),
}
_U32 = Struct(">I")
_Constructor: TypeAlias = "int | tuple[Value, _Constructor]"
"""What stands before a value: the code of its type, or a descriptor and what follows that."""


def encode(value: Value) -> bytes:
    """Write a value, in the shortest form that all clients read.

    Raises:
        BenchError: a number does not fit its type, or an array's values are not of one type.
    """
    match value:
        case bool():
            return b"\x41" if value else b"\x42"
        case Uint() if 0 <= value < 0x100:
            return bytes((0x52, value))
        case Ulong() if 0 <= value < 0x100:
            return bytes((0x53, value))
        case Described():
            return b"\x00" + encode(value.descriptor) + encode(value.value)
        case list() if not value and not isinstance(value, Array):
            return bytes((_LIST0,))
    code, count, data = _parts(value)
    if code in _TEXTS and len(data) < 0x100:
        return bytes((code - _TO_SHORT, len(data))) + data
    if count is not None and count < 0x100 and len(data) < 0xFF:
        return bytes((code - _TO_SHORT, 1 + len(data), count)) + data
    return bytes((code,)) + _wide(code, count, data)


def _parts(value: Value) -> tuple[int, int | None, bytes]:
    """The code of a value's longest form, how many values are in it if it holds some, and its bytes without lengths."""
    match value:
        case None:
            return _NULL, None, b""
        case bool():
            return _BOOLEAN, None, bytes((value,))
        case Symbol():
            return _SYMBOL, None, value.encode("ascii")
        case Char():
            return _CHAR, None, value.encode("utf-32-be")
        case str():
            return _STRING, None, value.encode()
        case bytes():
            return _BINARY, None, value
        case uuid.UUID():
            return _UUID, None, value.bytes
        case dict():
            return _MAP, 2 * len(value), b"".join(encode(part) for item in value.items() for part in item)
        case Array():
            return _ARRAY, len(value), _elements(value)
        case list():
            return _LIST, len(value), b"".join(map(encode, value))
        case int() | float():
            code = _NUMBER_CODES[type(value)]
            try:
                return code, None, _NUMBERS[code][1].pack(value)
            except (struct.error, OverflowError):
                raise BenchError(
                    f"{value} is no {type(value).__name__}", where="AMQP", remedy="Use a type it fits"
                ) from None
        case _:
            raise BenchError(f"a {type(value).__name__} in an array", where="AMQP", remedy="Use a list")


def _elements(array: Array) -> bytes:
    """One constructor, then the values without theirs; one of no values has the constructor of null."""
    parts = [_parts(value) for value in array]
    codes = {code for code, _, _ in parts}
    if len(codes) > 1:
        raise BenchError("an array of several types", where="AMQP", remedy="Use a list")
    return bytes(codes or (_NULL,)) + b"".join(_wide(*part) for part in parts)


def _wide(code: int, count: int | None, data: bytes) -> bytes:
    if count is not None:
        return _U32.pack(4 + len(data)) + _U32.pack(count) + data
    return _U32.pack(len(data)) + data if code in _TEXTS else data


def decode(data: bytes) -> Value:
    """Read the value that all the bytes are.

    Raises:
        Malformed: they are none, or more than one.
    """
    value, end = decode_first(data, 0)
    if end != len(data):
        raise Malformed("bytes after the value")
    return value


def decode_first(data: bytes, start: int) -> tuple[Value, int]:
    """Read the value that starts at a place; returned with the place behind it.

    Raises:
        Malformed: there is none.
    """
    reader = _Reader(data, start)
    try:
        return reader.value(reader.constructor(0), 0), reader.at
    except UnicodeDecodeError:
        raise Malformed("text that is not UTF-8, or a symbol that is not ASCII") from None


class _Reader:
    """Takes values one after the other and never looks past the end."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def constructor(self, depth: int) -> _Constructor:
        code = self._take(1)[0]
        if code:
            return code
        if depth >= MAX_DEPTH:
            raise Malformed(f"values nested more than {MAX_DEPTH} deep")
        descriptor = self.value(self.constructor(depth + 1), depth + 1)
        return descriptor, self.constructor(depth + 1)

    def value(self, constructor: _Constructor, depth: int) -> Value:
        if isinstance(constructor, tuple):
            return Described(constructor[0], self.value(constructor[1], depth + 1))
        if constructor in _CONSTANTS:
            return _CONSTANTS[constructor]
        if constructor == _LIST0:
            return []
        if constructor in _READ_NUMBERS:
            kind, layout = _READ_NUMBERS[constructor]
            return kind(layout.unpack(self._take(layout.size))[0])
        width = 4 if constructor & 0x10 else 1
        wide = constructor | _TO_SHORT
        if wide in _TEXTS:
            return _TEXTS[wide](self._take(self._length(width)))
        if wide in (_LIST, _MAP, _ARRAY):
            return self._compound(wide, width, depth + 1)
        if constructor == _BOOLEAN:
            return self._boolean()
        if constructor == _CHAR:
            return Char(self._take(4).decode("utf-32-be"))
        if constructor == _UUID:
            return uuid.UUID(bytes=self._take(16))
        raise Malformed(f"no type has the code 0x{constructor:02x}")

    def _compound(self, kind: int, width: int, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise Malformed(f"values nested more than {MAX_DEPTH} deep")
        end = self._length(width) + self.at
        count = self._length(width)
        # A value takes a byte at least, but for those of an array of nulls, which could be four billion in ten bytes.
        if count > end - self.at or end > len(self._data):
            raise Malformed("a list, map or array longer than its bytes")
        result: Value
        if kind == _LIST:
            result = [self.value(self.constructor(depth), depth) for _ in range(count)]
        elif kind == _MAP:
            if count % 2:
                raise Malformed("a map with a key and no value")
            result = dict(self._item(depth) for _ in range(count // 2))
        else:
            constructor = self.constructor(depth)
            result = Array(self.value(constructor, depth) for _ in range(count))
        if self.at != end:
            raise Malformed("a list, map or array shorter or longer than it says")
        return result

    def _item(self, depth: int) -> tuple[Any, Value]:
        key = self.value(self.constructor(depth), depth)
        try:
            hash(key)
        except TypeError:
            raise Malformed("a list or map as the key of a map") from None
        return key, self.value(self.constructor(depth), depth)

    def _boolean(self) -> bool:
        byte = self._take(1)[0]
        if byte > 1:
            raise Malformed("a boolean that is neither true nor false")
        return bool(byte)

    def _length(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def _take(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if self.at > len(self._data):
            raise Malformed("the bytes end within a value")
        return self._data[start : self.at]
