"""The source for fields that lie side by side at fixed places: one `struct`, and an expression for each value.

A frame whose length never changes is one such run; where a length or a kind of item decides what follows, a frame would
be several, each unpacked where the one before it ends.

Two things meet here for each kind of field: how `struct` takes it from the bytes, and what makes a value of that. An
integer that `struct` has no code for, or whose bytes stand in another order than the frame's, is taken in pieces and
put together by shifting.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from edge_gateway.codec.fields import (
    AnyField,
    BcdField,
    BitField,
    BytesField,
    Endian,
    FloatField,
    IntegerField,
    MacField,
    NamedField,
    RawRange,
    TextField,
    UuidField,
)
from edge_gateway.codec.fields.floats import STRUCT_CODES
from edge_gateway.codec.fields.wire import WordOrder, significance
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.layout import Layout, Slot
from edge_gateway.errors import ProfileError

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_INTEGER_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
"""struct's code for a signed number by its size in bytes; in upper case, for an unsigned one."""


class FixedRun:
    """The source for one run.

    Args:
        layout: where the fields lie.
        wanted: the names of fields whose values or raw numbers are asked for; what else nobody checks is skipped.
        prefix: what the names of raw values start with, so that two runs of one function do not mix theirs.
    """

    def __init__(self, layout: Layout, wanted: Collection[str], prefix: str = "raw") -> None:
        self._layout = layout
        self._prefix = identifier(prefix)
        self._name = identifier(layout.name)
        self._holders = {
            part.name: slot.field
            for slot in layout.slots
            if isinstance(slot.field, IntegerField)
            for part in slot.field.bits
        }
        self._wanted = {
            spec.name
            for slot in layout.slots
            for spec in parts_of(slot.field)
            if spec.can_reject or spec.name in wanted
        }
        self.unpacked: list[str] = []
        """The names of what the struct gives, in order."""
        self._format = "<" if layout.endian == "little" else ">"
        self._lines: list[str] = []
        self._conditions: list[str] = []
        places: list[Slot | ChecksumSlot] = [*layout.slots]
        if layout.checksum is not None:
            places.append(layout.checksum)
        for place in sorted(places, key=lambda place: place.start):
            if isinstance(place, ChecksumSlot):
                self.found_check = self._take_number(
                    "check", place.end - place.start, is_signed=False, endian=place.endian
                )
            elif place.field.name in wanted or any(spec.name in self._wanted for spec in parts_of(place.field)):
                self._take(place.field)
            else:
                self._format += f"{place.end - place.start}x"

    @property
    def is_one_byte(self) -> bool:
        """Whether it takes one unsigned byte, which is read by its place sooner than by a struct."""
        return self._format[1:] == "B"

    def constants(self, unpack: str | None = "unpack") -> Iterator[str]:
        """Module level lines: the struct, and the names of codes.

        Args:
            unpack: which method of the struct takes the run: `unpack` all of some bytes, `unpack_from` a place in them;
                None without a struct.
        """
        if self.unpacked and unpack is not None:
            yield f"unpack_{self._name} = Struct({literal(self._format)}).{identifier(unpack)}"
        for slot in self._layout.slots:
            for spec in parts_of(slot.field):
                if isinstance(spec, IntegerField | BitField | BcdField) and spec.enum and spec.name in self._wanted:
                    yield f"{self._labels(spec.name)} = {_labels_of(spec)}"
                elif isinstance(spec, TextField) and spec.expand:
                    yield f"{self._labels(spec.name)} = {expansions(spec)}"

    def unpacking(self, source: str = "frame") -> Iterator[str]:
        """The line that takes the run.

        Args:
            source: Python for the arguments of `unpack`; with an offset, `constants` has to be told so.
        """
        if self.unpacked:
            targets = ", ".join(self.unpacked) + ("," if len(self.unpacked) == 1 else "")
            yield f"{targets} = unpack_{self._name}({source})"

    def assignments(self) -> Iterable[str]:
        """What makes raw values that are not ready to use."""
        return self._lines

    def conditions(self) -> Iterable[str]:
        """What must be true, or the frame is rejected."""
        return self._conditions

    def raw(self, spec: NamedField) -> str:
        """The expression of a field's raw value."""
        if isinstance(spec, BitField) and not _is_looked_at_twice(spec):
            return _bits(spec, self._local(self._holders[spec.name].name))
        return self._local(spec.name)

    def holder(self, name: str) -> str:
        """The expression of an integer that is made of bit fields, as a whole."""
        return self._local(name)

    def value(self, spec: NamedField) -> str:
        """The expression of a field's value."""
        raw = self.raw(spec)
        match spec:
            case FloatField():
                return f"{raw} if {_float_condition(spec, raw)} else None"
            case TextField():
                text = f"{raw}.decode()" if spec.encoding == "ascii" else raw
                return f"{text}.translate({self._labels(spec.name)})" if spec.expand else text
            case MacField():
                return f"{raw}.hex(':')" if _order(spec, self._layout) == "big" else f"{raw}[::-1].hex(':')"
            case UuidField():
                return f"uuid_text({raw if _order(spec, self._layout) == 'big' else f'{raw}[::-1]'})"
            case BytesField():
                return f"{raw}.hex()"
            case IntegerField() | BitField() | BcdField():
                nulls = _null_condition(spec, raw)
                value = self._number_value(spec, raw)
                return f"None if {nulls} else {value}" if nulls else value

    def _number_value(self, spec: IntegerField | BitField | BcdField, raw: str) -> str:
        if spec.is_bool:
            return f"{raw} != 0"
        if spec.enum:
            return f"{self._labels(spec.name)}[{raw}]"
        if isinstance(spec, IntegerField) and spec.epoch is not None:
            return f"rfc3339_s({raw})" if spec.epoch == "unix-s" else f"rfc3339_ms({raw})"
        return _scaled(raw, *spec.ratio)

    def _take(self, field: AnyField) -> None:
        """Unpack one field, and make its raw value."""
        local, order = self._local(field.name), _order(field, self._layout)
        match field:
            case IntegerField():
                joined = self._take_number(local, field.size_bytes, field.is_signed, order, field.word_order)
                if joined != local:
                    self._lines.append(f"{local} = {joined}")
                for part in field.bits:
                    if part.name in self._wanted and _is_looked_at_twice(part):
                        self._lines.append(f"{self._local(part.name)} = {_bits(part, local)}")
                for spec in parts_of(field):
                    self._conditions += _whole_number_conditions(spec, self._local(spec.name))
            case FloatField():
                self._take_float(field, local, order)
                if field.can_reject:
                    least, most = field.valid_range
                    self._conditions.append(f"({_between(local, least, most)} or {local} * 0.0 != 0.0)")
            case BcdField():
                self._take_bytes(field, local)
                self._lines.append(f"{local} = decimal_of({local if order == 'big' else local + '[::-1]'})")
                self._conditions.append(f"0 <= {local} <= {literal(field.raw_range[1])}")
                self._conditions += _whole_number_conditions(field, local)
            case TextField():
                self._take_bytes(field, local)
                stripped = f"{local}.rstrip({literal(field.padding_byte)})"
                is_ascii = field.encoding == "ascii"
                self._lines.append(f"{local} = {stripped if is_ascii else f'utf_8_of({stripped})'}")
                self._conditions.append(f"{local}.isascii()" if is_ascii else f"{local} is not None")
            case MacField() | UuidField() | BytesField():
                self._take_bytes(field, local)

    def _take_bytes(self, field: AnyField, local: str) -> None:
        self._format += f"{field.size_bytes}s"
        self.unpacked.append(local)

    def _take_float(self, field: FloatField, local: str, order: Endian) -> None:
        code = STRUCT_CODES.get(field.type)
        if code is None:
            word = self._take_number(local, field.size_bytes, False, order, field.word_order)
            self._lines.append(f"{local} = {identifier(field.type)}({word})")
        elif order == self._layout.endian and field.word_order == "normal":
            self._format += code
            self.unpacked.append(local)
        else:
            self._take_bytes(field, local)
            ordered = local
            if field.word_order == "swapped":
                words = [f"{local}[{start}:{start + 2}]" for start in reversed(range(0, field.size_bytes, 2))]
                ordered = f"({' + '.join(words)})"
            if order == "little":
                ordered += "[::-1]"
            self._lines.append(f"({local},) = {identifier(field.type)}({ordered})")

    def _take_number(
        self, local: str, size_bytes: int, is_signed: bool, endian: Endian, word_order: WordOrder = "normal"
    ) -> str:
        """Unpack an integer; returns the expression that makes the number of its pieces."""
        pieces = list(_pieces(significance(size_bytes, endian, word_order), self._layout.endian))
        # Shifting keeps the sign of the highest piece, so that one alone is signed.
        highest = max(piece.shift_bytes for piece in pieces)
        names = [local] if len(pieces) == 1 else [f"part{index}_of_{local}" for index in range(len(pieces))]
        for piece in pieces:
            code = _INTEGER_CODES[piece.size_bytes]
            self._format += code if is_signed and piece.shift_bytes == highest else code.upper()
        self.unpacked += names
        if len(pieces) == 1:
            return local
        shifted = [
            f"{name} << {8 * piece.shift_bytes}" if piece.shift_bytes else name
            for name, piece in zip(names, pieces, strict=True)
        ]
        return f"({' | '.join(shifted)})"

    def _local(self, field_name: str) -> str:
        return f"{self._prefix}_{identifier(field_name)}"

    def _labels(self, field_name: str) -> str:
        # No name has upper case, so no two pairs of names give one.
        return f"labels_{self._name}_OF_{identifier(field_name)}"


class _Piece(NamedTuple):
    """Some neighbouring bytes of a number that struct takes at once."""

    size_bytes: int
    shift_bytes: int
    """How many bytes of the number are below it."""


def _pieces(powers: list[int], endian: Endian) -> Iterator[_Piece]:
    """Cut a number, given the power of 256 of each of its bytes, into the fewest pieces struct has codes for."""
    step = 1 if endian == "little" else -1
    start = 0
    while start < len(powers):
        for size_bytes in (8, 4, 2, 1):
            run = powers[start : start + size_bytes]
            if len(run) == size_bytes and all(after - before == step for before, after in itertools.pairwise(run)):
                yield _Piece(size_bytes, min(run))
                start += size_bytes
                break


def identifier(name: str) -> str:
    """A profile's name as part of an identifier; never as it comes.

    Raises:
        ProfileError: it cannot be one.
    """
    candidate = name.replace("-", "_").replace("/", "_")
    if not _IDENTIFIER.fullmatch(candidate):
        raise ProfileError(f"{name!r} cannot be a name in source code", remedy="Use a-z, 0-9, - and _")
    return candidate


def literal(value: object) -> str:
    """A profile's value as a literal; never as it comes.

    Raises:
        ProfileError: it is no plain number, text or bytes.
    """
    if type(value) not in (int, float, str, bytes):
        raise ProfileError(f"{value!r} cannot be a literal in source code", remedy="Use a number or text")
    return repr(value)


def expansions(field: TextField) -> str:
    """The literal of a text's words, as `str.translate` takes them."""
    return f"{{{', '.join(f'{literal(code)}: {literal(word)}' for code, word in field.expand.items())}}}"


def parts_of(field: AnyField) -> tuple[NamedField, ...]:
    """The named values of a field: its bit fields, or itself."""
    return field.bits if isinstance(field, IntegerField) and field.bits else (field,)


def _order(field: AnyField, layout: Layout) -> Endian:
    own = None if isinstance(field, TextField | BytesField) else field.endian
    return own or layout.endian


def _is_looked_at_twice(part: BitField) -> bool:
    return bool(part.sentinel or part.valid)


def _bits(part: BitField, holder: str) -> str:
    if part.is_bool and not _is_looked_at_twice(part):
        return f"{holder} & {literal(part.mask)}"
    shifted = f"{holder} >> {literal(part.bit)}" if part.bit else holder
    bits = f"({shifted} & {literal((1 << part.width) - 1)})"
    if not part.signed:
        return bits
    half = literal(1 << part.width - 1)
    return f"(({bits} ^ {half}) - {half})"


def _labels_of(spec: IntegerField | BitField | BcdField) -> str:
    """What gives the name of a code: of a byte or less all of them in a tuple, which is faster than a look-up."""
    low, high = spec.raw_range
    names = f"{{{', '.join(f'{literal(code)}: {literal(label)}' for code, label in spec.enum.items())}}}"
    return f"all_labels({names}, {literal(high + 1)})" if low == 0 and high <= 0xFF else f"Labels({names})"


def _scaled(raw: str, multiplier: int, addend: int, divisor: int) -> str:
    value = raw if multiplier == 1 else f"{raw} * {literal(multiplier)}"
    if addend:
        value = f"{value} + {literal(addend)}" if addend > 0 else f"{value} - {literal(-addend)}"
    if divisor == 1:
        return value
    return f"({value}) / {literal(divisor)}" if value != raw else f"{value} / {literal(divisor)}"


def _sentinel_conditions(spec: IntegerField | BitField | BcdField, raw: str) -> list[str]:
    codes = [code for code in spec.sentinel if not isinstance(code, RawRange)]
    conditions = [
        f"{literal(each.minimum)} <= {raw} <= {literal(each.maximum)}"
        for each in spec.sentinel
        if isinstance(each, RawRange)
    ]
    if len(codes) == 1:
        conditions.insert(0, f"{raw} == {literal(codes[0])}")
    elif codes:
        conditions.insert(0, f"{raw} in ({', '.join(map(literal, codes))})")
    return conditions


def _null_condition(spec: IntegerField | BitField | BcdField, raw: str) -> str:
    conditions = _sentinel_conditions(spec, raw)
    least, most = spec.valid_raw
    if spec.nulls_invalid:
        conditions.append(f"not {literal(least)} <= {raw} <= {literal(most)}")
    return " or ".join(conditions)


def _whole_number_conditions(spec: NamedField, raw: str) -> Iterator[str]:
    if isinstance(spec, IntegerField | BitField | BcdField) and spec.valid is not None and not spec.nulls_invalid:
        least, most = spec.valid_raw
        ways = [f"{literal(least)} <= {raw} <= {literal(most)}", *_sentinel_conditions(spec, raw)]
        yield f"({' or '.join(ways)})" if len(ways) > 1 else ways[0]


def _float_condition(spec: FloatField, raw: str) -> str:
    """What is true of a number that is a value."""
    # Only NaN and the infinities are not 0 times 0; an unbounded comparison would let an infinity through.
    finite = f"{raw} * 0.0 == 0.0"
    if spec.valid is None or spec.can_reject:
        return finite
    least, most = spec.valid_range
    return f"{finite} and {_between(raw, least, most)}"


def _between(raw: str, least: float, most: float) -> str:
    if least == float("-inf"):
        return f"{raw} <= {literal(most)}"
    if most == float("inf"):
        return f"{raw} >= {literal(least)}"
    return f"{literal(least)} <= {raw} <= {literal(most)}"
