"""Frames made field by field, by somebody who decides what each of them holds.

A decoder reads a frame along its plan; this goes the same way and writes one. What a frame says about itself is decided
first and kept to: a count is followed by so many elements, a flag by what it promises, and a choice by its case, unless
whoever decides wants a frame that lies (`Draws.stated`).

The corpus decides at random, and a signal by what a sensor would measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from edge_gateway.cel import EvaluationError
from edge_gateway.codec.fields import BytesField, IntegerField, NamedField, TextField, WholeNumber
from edge_gateway.codec.fixed_run import parts_of
from edge_gateway.codec.generated.shapes import OneValue
from edge_gateway.codec.payload_keys import PayloadKeys
from edge_gateway.codec.sealed import PayloadSeal
from edge_gateway.codec.structure.expressions import Expression
from edge_gateway.codec.structure.plan import (
    ArrayStep,
    Body,
    BytesOf,
    ComputedStep,
    EncryptedStep,
    GroupStep,
    Output,
    PlainStep,
    Plan,
    RequireStep,
    Run,
    Step,
    SwitchStep,
    TlvStep,
    Variable,
    When,
)
from edge_gateway.codec.structure.source import join_items, number_items
from edge_gateway.codec.text.column import Column
from edge_gateway.codec.text.places import PlaceColumn
from edge_gateway.codec.text.times import ClockColumn
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar, Value

Values: TypeAlias = dict[str, Value]

_MOST_TOO_MANY: Final = 8
"""Elements or bytes more than a lying frame says that there are."""

MOST_SIZE: Final = 255
"""Of what a frame counts, so that frames stay small; what draws decides how much of it is used."""


class Draws(Protocol):
    """Who decides. `path` names a field within its frame, like `position.latitude`, the same in every frame."""

    def value(self, spec: OneValue, path: str, *, decides: bool) -> Value:
        """A value that the field can carry; see `can_carry`.

        Args:
            spec: the field.
            path: its place.
            decides: whether it depends on it what else is in the frame.
        """

    def one_of(self, spec: NamedField, path: str, options: Sequence[Scalar]) -> Value:
        """The value of a field that chooses what follows: one of those that somebody declared, or another."""

    def size(self, path: str, least: int, most: int) -> int:
        """How many elements or bytes there are."""

    def stated(self, path: str, size: int) -> int:
        """How many the frame says that there are; another number makes it lie."""

    def content(self, spec: TextField | BytesField, path: str, size_bytes: int) -> bytes:
        """The bytes of text or bytes that have no fixed length."""

    def items(self, path: str, bodies: Mapping[int, Body]) -> Sequence[int]:
        """The tags of the items to write, in their order; not all of them need to be declared."""


class Drawn(NamedTuple):
    """A frame, and what it says."""

    frame: bytes
    address: int | str | None
    sequence: int | None
    values: Values
    """Those of fields, also of fields that are no values of a reading; nothing that is computed."""


def can_carry(spec: OneValue, value: Value) -> bool:
    """Whether a field or a column has bytes for a value."""
    try:
        match spec:
            case ClockColumn(date=str()):
                return isinstance(value, str) and can_carry(
                    spec.model_copy(update={"date": None}), value.partition("T")[2]
                )
            case PlaceColumn():
                spec.write(value)
            case Column():
                spec.core_text(value)
            case _:
                spec.raw_of(value)
    except CodecError:
        return False
    return True


class FrameDrawing:
    """Makes frames of one kind.

    Args:
        plan: the frame's.
        identity: the field with the device's address.
        sequence: the field with its counter.
    """

    def __init__(self, plan: Plan, identity: str | None = None, sequence: str | None = None) -> None:
        self.plan = plan
        self.identity = identity
        self.sequence = sequence
        self.decisions = _decisions_in(plan.body)

    def draw(self, draws: Draws, keys: PayloadKeys) -> Drawn | None:
        """A frame; None if what was decided fits in none, for instance because of a `require`: try again.

        Args:
            draws: decides.
            keys: of what is encrypted; without one, no encrypted frame can be made.

        Raises:
            CodecError: a decided value does not fit its field.
        """
        try:
            return _OneFrame(self, draws, keys).draw()
        except _Misfit:
            return None


class _Misfit(Exception):
    """What was decided cannot stand in one frame."""


class _Decisions(NamedTuple):
    """The locals of fields on which it depends what else is in a frame."""

    options: dict[str, list[Scalar]]
    """Those that choose, and what they can choose."""
    sizes: set[str]
    """Those that say how many there are."""
    conditions: set[str]
    """Those that say whether something is there, or which it is."""


class _OneFrame:
    def __init__(self, drawing: FrameDrawing, draws: Draws, keys: PayloadKeys) -> None:
        self._plan = drawing.plan
        self._roles = {name for name in (drawing.identity, drawing.sequence) if name is not None}
        self._identity = drawing.identity
        self._sequence = drawing.sequence
        self._decisions = drawing.decisions
        self._draws = draws
        self._keys = keys
        self._known: Values = {}
        self._bytes: dict[str, bytes] = {}
        self._tags: dict[str, bytes] = {}
        self._values: Values = {}
        self._seen: dict[str, int] = {}

    def draw(self) -> Drawn:
        plan = self._plan
        body = self._body(plan.body, self._values, "")
        address = self._values.pop(self._identity, None) if self._identity else None
        sequence = self._values.pop(self._sequence, None) if self._sequence else None
        self._values.pop(plan.check_holder or "", None)
        return Drawn(
            plan.sealed(body + bytes(plan.check_behind_bytes)),
            address if isinstance(address, int | str) else None,
            sequence if isinstance(sequence, int) else None,
            self._values,
        )

    def _body(self, body: Body, values: Values, path: str) -> bytes:
        tail_values: Values = {}
        tail = b"" if body.tail is None else self._run(body.tail, tail_values, path)
        values |= tail_values
        written = b"".join([self._step(step, values, path) for step in body.steps])
        if body.tail is not None:
            # The tag of what was encrypted is known only now.
            for slot in body.tail.slots:
                tag = self._tags.get(f"v{body.tail.scope}_{slot.field.name}")
                if tag is not None:
                    tail = tail[: slot.start] + tag + tail[slot.end :]
        return written + tail

    def _step(self, step: Step, values: Values, path: str) -> bytes:
        match step:
            case Run():
                return self._run(step, values, path)
            case Variable():
                return self._variable(step, values, path)
            case When():
                self._forget(step.body)
                return self._body(step.body, values, path) if self._result(step.condition, must=True) else b""
            case GroupStep():
                mapping: Values = {}
                written = self._body(step.body, mapping, f"{path}{step.spec.name}.")
                self._give(step.scope, step.spec, mapping, values)
                return written
            case ArrayStep():
                return self._array(step, values, path)
            case SwitchStep():
                chosen = self._known.get(step.on)
                body = next((body for case, body in step.cases if case == chosen), step.default)
                # A frame that says something nobody declared ends here, and is rejected.
                return b"" if body is None else self._body(body, values, path)
            case TlvStep():
                return self._items(step, path)
            case ComputedStep():
                self._compute(step)
                return b""
            case EncryptedStep():
                return self._encrypted(step, values, path)
            case PlainStep():
                if self._keys(step.spec.key, self._address(values)) is not None:
                    raise _Misfit
                return self._body(step.body, values, path)
            case RequireStep():
                if not self._result(step.expression):
                    raise _Misfit
                return b""

    def _address(self, values: Values) -> int | str | None:
        address = self._values.get(self._identity or "", values.get(self._identity or ""))
        return address if isinstance(address, int | str) else None

    def _give(self, scope: int, spec: Output, value: Value, values: Values) -> None:
        local = f"v{scope}_{spec.name}"
        self._known[local] = value
        if spec.emit or local in self._plan.needed or spec.name in self._roles:
            values[spec.name] = value

    # --- fields ------------------------------------------------------------------------------------------------------

    def _run(self, run: Run, values: Values, path: str, preset: Mapping[str, Value] | None = None) -> bytes:
        endian, preset = self._plan.endian, preset or {}
        written = bytearray()
        for slot in run.slots:
            spec = slot.field
            constant = slot.constant(endian)
            if constant is not None:
                data = constant
                self._known[f"v{run.scope}_{spec.name}"] = spec.value_in(data, endian)
            elif isinstance(spec, IntegerField) and spec.bits:
                data = self._bits(spec, run.scope, values, path, preset)
            else:
                value = preset[spec.name] if spec.name in preset else self._decided(spec, run.scope, path)
                data = spec.encode(value, endian)
                self._give(run.scope, spec, spec.value_in(data, endian), values)
            self._bytes[f"v{run.scope}_{spec.name}"] = data
            written += data
        return bytes(written)

    def _bits(self, spec: IntegerField, scope: int, values: Values, path: str, preset: Mapping[str, Value]) -> bytes:
        number = 0
        for part in spec.bits:
            raw = part.raw_of(preset[part.name] if part.name in preset else self._decided(part, scope, path))
            number |= part.put_into_place(raw)
            self._give(scope, part, part.value_of(raw), values)
        self._known[f"v{scope}_{spec.name}"] = number
        return spec.pack(number, self._plan.endian)

    def _decided(self, spec: NamedField, scope: int, path: str) -> Value:
        local, full_path = f"v{scope}_{spec.name}", f"{path}{spec.name}"
        decisions, version = self._decisions, self._plan.version
        if version is not None and local == version[0]:
            return self._draws.one_of(spec, full_path, [version[1]])
        if local in decisions.options:
            return self._draws.one_of(spec, full_path, decisions.options[local])
        if local in decisions.sizes and isinstance(spec, WholeNumber):
            least, most = (int(end) for end in spec.value_range)
            return self._draws.size(full_path, max(0, least), min(most, MOST_SIZE))
        return self._draws.value(spec, full_path, decides=local in decisions.conditions)

    def _held(self, path: str, stated: Value) -> int:
        """How many there are where the frame has said how many: so many, or a few others where it lies."""
        known = stated if isinstance(stated, int) else 0
        return max(0, min(self._draws.stated(path, known), known + _MOST_TOO_MANY))

    def _variable(self, step: Variable, values: Values, path: str) -> bytes:
        spec, full_path = step.spec, f"{path}{step.spec.name}"
        if step.length is None:
            size = self._draws.size(full_path, 0, MOST_SIZE)
        else:
            size = self._held(full_path, self._known.get(step.length))
        data = self._draws.content(spec, full_path, size)
        self._give(step.scope, spec, spec.value_in(data, self._plan.endian), values)
        return data

    def _array(self, step: ArrayStep, values: Values, path: str) -> bytes:
        full_path = f"{path}{step.spec.name}"
        known = self._known.get(step.count) if isinstance(step.count, str) else step.count
        is_counted = isinstance(known, int)
        size = self._held(full_path, known) if is_counted else self._draws.size(full_path, 0, MOST_SIZE)
        elements: list[Value] = []
        written = b""
        for index in range(size):
            element: Values = {}
            data = self._body(step.body, element, f"{full_path}[{index}].")
            if step.mark is not None and data.startswith(step.mark):
                raise _Misfit
            written += data
            elements += element.values()
        self._give(step.scope, step.spec, elements, values)
        return written + (step.mark or b"")

    # --- what is there, and what is not ------------------------------------------------------------------------------

    def _result(self, expression: Expression, *, must: bool = False) -> Value:
        try:
            value = expression.evaluate({name: self._known.get(local) for name, local in expression.locals.items()})
        except EvaluationError as error:
            if must:
                raise _Misfit from error
            return None
        return value if isinstance(value, bool | int | float | str) else None

    def _compute(self, step: ComputedStep) -> None:
        value, valid = self._result(step.expression), step.spec.valid
        if valid is not None and isinstance(value, int | float):
            low = valid.minimum is not None and value < float(valid.minimum)
            high = valid.maximum is not None and value > float(valid.maximum)
            if (low or high) and valid.otherwise == "reject":
                raise _Misfit
            value = None if low or high else value
        self._known[f"v{step.scope}_{step.spec.name}"] = value

    def _forget(self, body: Body) -> None:
        """What a condition may leave out is null until it is there."""
        for step in body.steps:
            match step:
                case Run():
                    for part in (part for slot in step.slots for part in (slot.field, *parts_of(slot.field))):
                        self._known[f"v{step.scope}_{part.name}"] = None
                case Variable() | GroupStep() | ArrayStep() | ComputedStep():
                    self._known[f"v{step.scope}_{step.spec.name}"] = None
                case _:
                    continue

    def _items(self, step: TlvStep, path: str) -> bytes:
        spec, written = step.spec, b""
        for index, tag in enumerate(self._draws.items(f"{path}{spec.tag}", step.bodies)):
            header: Values = {}
            preset: Values = {spec.tag: tag}
            item_path = f"{path}item{tag}."
            try:
                self._run(step.header, header, f"{path}header{index}.", preset)
                item: Values = {}
                body = self._body(step.bodies[tag], item, item_path) if tag in step.bodies else b""
                if spec.length is not None:
                    header[spec.length] = self._draws.stated(f"{item_path}{spec.length}", len(body))
                written += self._run(step.header, {}, "", header) + body
            except CodecError as error:  # a number that its field in the header cannot carry
                raise _Misfit from error
            number = 0 if spec.number is None else header[spec.number]
            if spec.number is None:
                join_items(self._values, item, self._seen)
            elif isinstance(number, int):
                number_items(self._values, item, number)
        return written

    def _encrypted(self, step: EncryptedStep, values: Values, path: str) -> bytes:
        spec = step.spec
        key = self._keys(spec.key, self._address(values))
        if key is None:
            raise _Misfit
        plain = self._body(step.body, values, path)
        seal = PayloadSeal(spec.algorithm, spec.tag_bytes)
        data, tag = seal.seal(key, self._joined(step.nonce), plain, self._joined(step.aad))
        if step.tag is None:
            return data + tag
        self._tags[step.tag.local] = tag
        return data

    def _joined(self, parts: Sequence[BytesOf]) -> bytes:
        found = [part.fixed if not part.local else self._bytes[part.local] for part in parts]
        return b"".join(data[::-1] if part.reversed else data for part, data in zip(parts, found, strict=True))


def _decisions_in(body: Body) -> _Decisions:
    found = _Decisions({}, set(), set())
    for step in body.steps:
        match step:
            case SwitchStep():
                found.options.setdefault(step.on, []).extend(case for case, _ in step.cases)
            case Variable(length=str(local)) | ArrayStep(count=str(local)):
                found.sizes.add(local)
            case When():
                found.conditions.update(step.condition.locals.values())
            case TlvStep():
                found.conditions.add(f"v{step.header.scope}_{step.spec.number}")
            case _:
                pass
        for inner in map(_decisions_in, bodies_in(step)):
            for local, cases in inner.options.items():
                found.options.setdefault(local, []).extend(cases)
            found.sizes.update(inner.sizes)
            found.conditions.update(inner.conditions)
    return found


def bodies_in(step: Step) -> list[Body]:
    """The lists of items within a step."""
    match step:
        case When() | GroupStep() | ArrayStep() | EncryptedStep() | PlainStep():
            return [step.body]
        case SwitchStep():
            return [body for _, body in step.cases] + ([] if step.default is None else [step.default])
        case TlvStep():
            return list(step.bodies.values())
        case _:
            return []
