"""Modbus RTU from the register table of a manual: no frame is written down by hand.

A register is declared as the manual's table has it: function, address, name, type, scale, unit. What is asked on the
line follows: neighbouring registers become one request, and its answer a sample frame with a field for each of them;
each function gets its exception frame; each write becomes a command. What comes out are ordinary frames, polls and
commands of the profile, so that compiler, `explain`, documentation and vectors know nothing of Modbus.

Sources: "MODBUS Application Protocol Specification V1.1b3" (sections 6.3, 6.4, 6.6, 6.12 and 7 for functions 3, 4, 6
and 16 and the exceptions) and "MODBUS over Serial Line, Specification and Implementation Guide V1.02" (2.5.1 for RTU).

| It becomes | Name | For |
| --- | --- | --- |
| request | `read-input-0048` | the first register, in hexadecimal |
| answer, and poll | `input-0048`, `holding-0048` | functions 4 and 3 |
| answer | `exception-4` | the function that was refused |
| request, answer | `write-NAME`, `wrote-NAME` | a write |
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from edge_gateway.codec.fields import (
    BcdField,
    BytesField,
    FieldName,
    FloatField,
    IntegerField,
    MacField,
    Misdeclared,
    TextField,
    WholeNumber,
)
from edge_gateway.codec.names import Name
from edge_gateway.codec.polling import EVERY_S, RETRIES, TIMEOUT_S, GapS, IntervalS, Retries, TimeoutS
from edge_gateway.config.settings import Settings
from edge_gateway.errors import CodecError

UNIT = "unit"
"""The field with a device's address, in every frame: the profile's identity."""

_OWN_NAMES = frozenset({UNIT, "function", "register", "count", "byte_count", "code"})
_CRC = {"algorithm": "crc-16/modbus", "endian": "little"}
_MOST_READ = 125
_MOST_WRITTEN = 123
_REGISTER_BYTES = 2

_KINDS = {3: "holding", 4: "input"}
"""What the registers of a function are called in the specification."""

_EXCEPTIONS = {
    1: "illegal-function",
    2: "illegal-data-address",
    3: "illegal-data-value",
    4: "server-device-failure",
    5: "acknowledge",
    6: "server-device-busy",
    8: "memory-parity-error",
    10: "gateway-path-unavailable",
    11: "gateway-target-failed-to-respond",
}

RegisterAddress = Annotated[int, Field(ge=0, le=0xFFFF)]


class _Read(Settings):
    """Where a register to read is, and how often it is wanted."""

    address: RegisterAddress
    """As it goes over the line, counted from 0; manuals that print 30001 or 40001 mean 0."""
    function: Literal[3, 4] | None = None
    """3 reads holding registers, 4 input registers; the table's unless given."""
    every_s: IntervalS | None = None
    """Seconds from one request to the next; the table's unless given."""


class IntegerRegister(_Read, IntegerField):
    """A whole number in one register or more."""


class FloatRegister(_Read, FloatField):
    """A floating point number in one register or more."""


class BcdRegister(_Read, BcdField):
    """Decimal digits in one register or more."""


class TextRegister(_Read, TextField):
    """Text in one register or more."""


class BytesRegister(_Read, BytesField):
    """Bytes in one register or more."""


class MacRegister(_Read, MacField):
    """A MAC address in three registers."""


Register: TypeAlias = Annotated[
    IntegerRegister | FloatRegister | BcdRegister | TextRegister | BytesRegister | MacRegister,
    Field(discriminator="type"),
]


class _Write(Settings):
    """Where a register to write is, and what may be written."""

    address: RegisterAddress
    """As it goes over the line, counted from 0."""
    function: Literal[6, 16] | None = None
    """6 writes one register, 16 several; unless given, 6 for a value that fits into one."""
    minimum: int | float | None = None
    """The least allowed; without it, the least the register can carry."""
    maximum: int | float | None = None
    """The greatest allowed; without it, the greatest the register can carry."""


class IntegerWrite(_Write, IntegerField):
    """A whole number to write; with `const`, always this one, and the command takes no argument."""


class FloatWrite(_Write, FloatField):
    """A floating point number to write."""


Write: TypeAlias = Annotated[IntegerWrite | FloatWrite, Field(discriminator="type")]


class Expansion(NamedTuple):
    """What a register table becomes: declarations as they would be written in the profile."""

    frames: dict[str, dict[str, Any]]
    polls: dict[str, dict[str, Any]]
    commands: dict[str, dict[str, Any]]


class Modbus(Settings):
    """The registers of a Modbus RTU device."""

    registers: tuple[Register, ...] = Field(min_length=1)
    """What is read, in any order."""
    writes: dict[Name, Write] = Field(default_factory=dict)
    """What can be written, by the name of the command."""
    function: Literal[3, 4] = 3
    """How registers are read that say nothing else."""
    word_order: Literal["normal", "swapped"] = "normal"
    """That of numbers in several registers that say nothing else; `swapped`: the lower register comes first."""
    max_gap: int = Field(default=0, ge=0, le=_MOST_READ)
    """How many registers that nobody named may be read along between two that somebody did. Many devices refuse a
    request that touches one they do not have."""
    max_count: int = Field(default=_MOST_READ, ge=1, le=_MOST_READ)
    """How many registers the device gives in one answer."""
    start: Name | None = None
    """See `polls`."""
    every_s: IntervalS = EVERY_S
    """See `polls`."""
    timeout_s: TimeoutS = TIMEOUT_S
    """See `polls`."""
    retries: Retries = RETRIES
    """See `polls`."""
    gap_s: GapS = 0.0
    """See `polls`."""

    @model_validator(mode="after")
    def _check(self) -> Modbus:
        keyed = [(f"registers[{index}]", register) for index, register in enumerate(self.registers)]
        seen: set[str] = set()
        for key, register in keyed:
            for name_key, name in _names(key, register):
                if name in seen or name in _OWN_NAMES:
                    what = "is there twice" if name in seen else "is a name of the frames themselves"
                    raise Misdeclared(f"{name!r} {what}", key=name_key, remedy=f"For instance: {name}_2")
                seen.add(name)
            _check_size(key, register, self.max_count)
        for name, write in self.writes.items():
            _check_write(f"writes.{name}", write)
        ordered = sorted(keyed, key=lambda each: (self._function(each[1]), each[1].address))
        for (_, before), (key, register) in itertools.pairwise(ordered):
            if self._function(before) == self._function(register) and _end(before) > register.address:
                raise Misdeclared(
                    f"{register.name!r} starts in register 0x{register.address:04x}, which {before.name!r} holds",
                    key=f"{key}.address",
                    remedy=f"Free from 0x{_end(before):04x} on; for parts of a register use `bits`",
                )
        return self

    def expanded(self) -> Expansion:
        """The frames, polls and commands of this table."""
        frames = {f"exception-{function}": _exception(function) for function in self._functions()}
        polls: dict[str, dict[str, Any]] = {}
        for run in self._runs():
            function, start = self._function(run[0]), run[0].address
            name = f"{_KINDS[function]}-{start:04x}"
            frames[f"read-{name}"] = _frame(
                "request", function, [_fixed("register", start), _fixed("count", _span(run))]
            )
            frames[name] = _frame(
                "sample",
                function,
                [_fixed("byte_count", _REGISTER_BYTES * _span(run), "u8"), *self._fields(run)],
            )
            polls[name] = {
                "frame": f"read-{name}",
                "answer": name,
                "refused_by": [f"exception-{function}"],
                "start": self.start,
                "every_s": self._every_s(run[0]),
                "timeout_s": self.timeout_s,
                "retries": self.retries,
                "gap_s": self.gap_s,
            }
        commands = {}
        for name, write in self.writes.items():
            commands[name] = self._command(name, write, frames)
        return Expansion(frames, polls, commands)

    def is_expanded_in(self, frames: Collection[str]) -> bool:
        """Whether this table's frames are among those; so for a profile that is checked a second time."""
        return all(f"exception-{function}" in frames for function in self._functions())

    def _functions(self) -> list[int]:
        read = {self._function(register) for register in self.registers}
        return sorted(read | {_write_function(write) for write in self.writes.values()})

    def _function(self, register: Register) -> int:
        return register.function or self.function

    def _every_s(self, register: Register) -> float:
        return register.every_s or self.every_s

    def _runs(self) -> Iterator[list[Register]]:
        """Registers that are read with one request: of one function and schedule, near each other and not too many."""
        ordered = sorted(self.registers, key=lambda each: (self._function(each), self._every_s(each), each.address))
        run: list[Register] = []
        for register in ordered:
            if run and not self._joins(run, register):
                yield run
                run = []
            run.append(register)
        yield run

    def _joins(self, run: Sequence[Register], register: Register) -> bool:
        return (
            self._function(register) == self._function(run[0])
            and self._every_s(register) == self._every_s(run[0])
            and register.address - _end(run[-1]) <= self.max_gap
            and _end(register) - run[0].address <= self.max_count
        )

    def _fields(self, run: Sequence[Register]) -> Iterator[dict[str, Any]]:
        at = run[0].address
        for register in run:
            if register.address > at:
                gap_bytes = _REGISTER_BYTES * (register.address - at)
                yield {"name": f"unnamed_{at:04x}", "type": "bytes", "length_bytes": gap_bytes, "emit": False}
            yield self._field(register, set(_Read.model_fields))
            at = _end(register)

    def _field(self, placed: Register | Write, not_of_field: set[str]) -> dict[str, Any]:
        """The field itself, without what says where its register is."""
        field = placed.model_dump(exclude_unset=True, exclude=not_of_field)
        is_wide = isinstance(placed, IntegerField | FloatField) and placed.size_bytes in (4, 6, 8)
        return {"word_order": self.word_order, **field} if is_wide else field

    def _command(self, name: str, write: Write, frames: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The command of a write; its frames are added to `frames`."""
        function = _write_function(write)
        field = self._field(write, set(_Write.model_fields))
        at = _fixed("register", write.address)
        if function == 6:
            frames[f"write-{name}"] = _frame("request", function, [at, field])
            frames[f"wrote-{name}"] = _frame("answer", function, [at, field])
        else:
            count = _fixed("count", write.size_bytes // _REGISTER_BYTES)
            byte_count = _fixed("byte_count", write.size_bytes, "u8")
            frames[f"write-{name}"] = _frame("request", function, [at, count, byte_count, field])
            frames[f"wrote-{name}"] = _frame("answer", function, [at, count])
        command: dict[str, Any] = {
            "frame": f"write-{name}",
            "answer": {"frame": f"wrote-{name}", "refused_by": [f"exception-{function}"]},
            "description": write.description,
        }
        if not (isinstance(write, IntegerField) and write.const is not None):
            command["set"] = {write.name: {"argument": write.name}}
            command["arguments"] = {write.name: _argument(write)}
        return command


def _names(key: str, register: Register) -> Iterator[tuple[str, str]]:
    yield f"{key}.name", register.name
    if isinstance(register, IntegerField):
        for index, part in enumerate(register.bits):
            yield f"{key}.bits[{index}].name", part.name


def _check_size(key: str, register: Register, max_count: int) -> None:
    if register.size_bytes % _REGISTER_BYTES:
        raise Misdeclared(
            f"{register.name!r} takes {register.size_bytes} bytes, and a register has 2",
            key=f"{key}.type",
            remedy="Use a type of whole registers, for instance u16, and `bits` for its parts",
        )
    if register.size_bytes > _REGISTER_BYTES * max_count:
        raise Misdeclared(
            f"{register.name!r} takes {register.size_bytes // _REGISTER_BYTES} registers",
            key=f"{key}.type",
            remedy=f"An answer has at most {max_count}: see `max_count`",
        )
    _check_last(key, register)


def _check_last(key: str, placed: Register | Write) -> None:
    if _end(placed) > 0x10000:
        raise Misdeclared(
            f"{placed.name!r} ends behind the last register", key=f"{key}.address", remedy="The last is 0xffff"
        )


def _check_write(key: str, write: Write) -> None:
    if write.name in _OWN_NAMES:
        raise Misdeclared(f"{write.name!r} is a name of the frames themselves", key=f"{key}.name", remedy="Use another")
    if write.size_bytes % _REGISTER_BYTES:
        raise Misdeclared(
            f"{write.name!r} takes {write.size_bytes} bytes, and a register has 2",
            key=f"{key}.type",
            remedy="Use a type of whole registers, for instance u16",
        )
    if isinstance(write, IntegerField) and write.bits:
        raise Misdeclared("a write has one value", key=f"{key}.bits", remedy="Write the whole register as a number")
    if write.function == 6 and write.size_bytes != _REGISTER_BYTES:
        raise Misdeclared(
            f"{write.name!r} takes {write.size_bytes // _REGISTER_BYTES} registers, and function 6 writes one",
            key=f"{key}.function",
            remedy="Use function 16",
        )
    for bound, value in (("minimum", write.minimum), ("maximum", write.maximum)):
        if value is not None:
            try:
                write.raw_of(value, exact=True)
            except CodecError as error:
                raise Misdeclared(error.what, key=f"{key}.{bound}", remedy=error.remedy) from error
    _check_last(key, write)


def _end(placed: Register | Write) -> int:
    """The register behind the last."""
    return placed.address + placed.size_bytes // _REGISTER_BYTES


def _span(run: Sequence[Register]) -> int:
    return _end(run[-1]) - run[0].address


def _write_function(write: Write) -> int:
    return write.function or (6 if write.size_bytes == _REGISTER_BYTES else 16)


def _fixed(name: FieldName, number: int, type_name: str = "u16") -> dict[str, Any]:
    return {"name": name, "type": type_name, "const": number}


def _frame(role: str, function: int, fields: Sequence[dict[str, Any]]) -> dict[str, Any]:
    head = [{"name": UNIT, "type": "u8"}, _fixed("function", function, "u8")]
    return {"role": role, "endian": "big", "fields": [*head, *fields], "checksum": _CRC}


def _exception(function: int) -> dict[str, Any]:
    return _frame("answer", 0x80 | function, [{"name": "code", "type": "u8", "enum": _EXCEPTIONS}])


def _argument(write: Write) -> dict[str, Any]:
    if isinstance(write, WholeNumber) and write.text_form:
        return {"type": "text", "description": write.description}
    is_whole = isinstance(write, IntegerField) and not write.is_scaled
    return {
        "type": "integer" if is_whole else "number",
        "minimum": write.minimum,
        "maximum": write.maximum,
        "unit": write.unit,
        "description": write.description,
    }
