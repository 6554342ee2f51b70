"""Values to a planned frame: the way back, for commands, simulators and tests.

What a frame says about itself need not be given: lengths and counts come from what they count, a flag that says whether
something is there from whether it is given, a choice from the values that only one of its cases has.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final

from edge_gateway.cel import EvaluationError
from edge_gateway.codec.fields import IntegerField
from edge_gateway.codec.fixed_run import parts_of
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
from edge_gateway.errors import CodecError
from edge_gateway.records import Value

_NUMBERED: Final = re.compile(r"(.+)_([0-9]{1,6})")


def write_frame(
    plan: Plan, given: Mapping[str, Value], address: int | str | None, keys: PayloadKeys, *, exact: bool = False
) -> bytes:
    """The frame that is read as these values.

    Args:
        plan: of the frame.
        given: values by name, those of its address and sequence among them.
        address: of the device, for the key of what is encrypted.
        keys: of encrypted payloads.
        exact: refuse a value that a field would round.

    Raises:
        CodecError: a value is missing, unknown, or does not fit; `where` names it.
    """
    writer = _Writer(plan, given, address, keys, exact)
    frame = writer.body(plan.body, given) + bytes(plan.check_behind_bytes)
    unknown = [name for name in given if name not in writer.used]
    if unknown:
        raise CodecError(
            f"there is no place for {unknown[0]!r}", remedy="Leave it out, or give what says that it is there"
        )
    return plan.sealed(frame)


class _Writer:
    def __init__(
        self, plan: Plan, given: Mapping[str, Value], address: int | str | None, keys: PayloadKeys, exact: bool
    ) -> None:
        self._plan = plan
        self._frame_given = given
        self._address = address
        self._keys = keys
        self._exact = exact
        self._known: dict[str, Value] = {}
        self._bytes: dict[str, bytes] = {}
        self._derived: dict[str, Value] = {}
        self.used: set[str] = set()
        if plan.version is not None:
            self._derived[plan.version[0]] = plan.version[1]

    def body(self, body: Body, given: Mapping[str, Value]) -> bytes:
        """The bytes of a list of items, from the values of its names."""
        for step in body.steps:
            self._derive(step, given)
        if self._plan.check_holder is not None:
            self.used.add(self._plan.check_holder)
        tail = b"" if body.tail is None else self._run(body.tail, given)
        written = b"".join(self._step(step, given) for step in body.steps)
        if body.tail is not None:
            # Once more: what was encrypted has a tag now.
            tail = self._run(body.tail, given)
        return written + tail

    # --- what the frame says about itself ----------------------------------------------------------------------------

    def _derive(self, step: Step, given: Mapping[str, Value]) -> None:
        match step:
            case Variable(length=str(local)) if step.spec.name in given:
                self._derived.setdefault(local, len(self._encoded(step, given)))
            case ArrayStep(count=str(local)) if step.spec.name in given:
                self._derived.setdefault(local, len(_elements(given, step)))
            case When():
                names = set(names_of(step.body))
                only = list(step.condition.locals.items())
                if len(only) == 1 and step.condition.text.strip() == only[0][0]:
                    self._derived.setdefault(only[0][1], any(name in given for name in names))
                self._derive_all(step.body, given)
            case SwitchStep():
                bodies = [
                    (case, body)
                    for case, body in step.cases
                    if set(names_of(body)) & set(given) and not self._would_be_refused(body)
                ]
                if bodies:
                    most = max(bodies, key=lambda each: len(set(names_of(each[1])) & set(given)))
                    self._derived.setdefault(step.on, most[0])
                    self._derive_all(most[1], given)
            case EncryptedStep() | PlainStep():
                self._derive_all(step.body, given)
            case _:
                return

    def _derive_all(self, body: Body, given: Mapping[str, Value]) -> None:
        for step in body.steps:
            self._derive(step, given)

    def _would_be_refused(self, body: Body) -> bool:
        """Whether this device encrypts, and the body is in clear."""
        keys = [step.spec.key for step in body.steps if isinstance(step, PlainStep)]
        return any(self._keys(key, self._address) is not None for key in keys)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: Step, given: Mapping[str, Value]) -> bytes:
        match step:
            case Run():
                return self._run(step, given)
            case Variable():
                return self._variable(step, given)
            case When():
                self._known.update(dict.fromkeys(_locals_of(step.body)))
                return self.body(step.body, given) if self._result(step.condition) else b""
            case GroupStep():
                value = given.get(step.spec.name, {})
                if not isinstance(value, Mapping):
                    raise CodecError(f"{value!r} is not a mapping", where=step.spec.name, remedy="Give it by names")
                written = self._within(step.body, value, step.spec.name)
                self._hand(step.scope, step.spec.name, value)
                return written
            case ArrayStep():
                return self._array(step, given)
            case SwitchStep():
                chosen = self._known.get(step.on)
                body = next((body for case, body in step.cases if case == chosen), step.default)
                if body is None:
                    raise CodecError(f"nothing is declared for {chosen!r}", where=step.on.partition("_")[2])
                return self.body(body, given)
            case TlvStep():
                return b"".join(self._items(step, given))
            case ComputedStep():
                self.used.add(step.spec.name)
                self._known[f"v{step.scope}_{step.spec.name}"] = self._result(step.expression)
                return b""
            case EncryptedStep():
                return self._encrypted(step, given)
            case PlainStep():
                return self.body(step.body, given)
            case RequireStep():
                if not self._result(step.expression):
                    raise CodecError(f"these values cannot be true: {step.expression.text}")
                return b""

    def _result(self, expression: Expression) -> Value:
        """The value of an expression, None where it has none."""
        try:
            value = expression.evaluate({name: self._known.get(local) for name, local in expression.locals.items()})
        except EvaluationError:
            return None
        return value  # type: ignore[return-value]  # read_value() and read_condition() let only scalars in

    def _hand(self, scope: int, name: str, value: Value) -> None:
        self._known[f"v{scope}_{name}"] = value
        self.used.add(name)

    def _within(self, body: Body, given: Mapping[str, Value], name: str) -> bytes:
        """A body whose names are not the frame's, and whose lengths and counts are not those of its neighbours."""
        outside, derived = self.used, self._derived
        self.used, self._derived = set(), dict(derived)
        try:
            written = self.body(body, given)
            unknown = [each for each in given if each not in self.used]
        finally:
            self.used, self._derived = outside, derived
        if unknown:
            raise CodecError(f"there is no place for {unknown[0]!r}", where=name, remedy="Leave it out")
        return written

    def _run(self, run: Run, given: Mapping[str, Value]) -> bytes:
        written = bytearray()
        for slot in run.slots:
            spec, endian = slot.field, self._plan.endian
            constant = slot.constant(endian)
            if constant is not None:
                data = constant
                self._known[f"v{run.scope}_{spec.name}"] = spec.value_in(data, endian)
            elif isinstance(spec, IntegerField) and spec.bits:
                number = 0
                for part in spec.bits:
                    found, value = self._found(run.scope, part.name, given)
                    raw = part.raw_of(value, exact=self._exact) if found else part.blank_raw
                    number |= part.put_into_place(raw)
                    self._hand(run.scope, part.name, part.value_of(raw))
                data = spec.pack(number, endian)
                self._known[f"v{run.scope}_{spec.name}"] = number
            else:
                found, value = self._found(run.scope, spec.name, given)
                data = spec.encode(value, endian, exact=self._exact) if found else spec.blank(endian)
                self._hand(run.scope, spec.name, spec.value_in(data, endian))
            self._bytes[f"v{run.scope}_{spec.name}"] = data
            written += data
        return bytes(written)

    def _found(self, scope: int, name: str, given: Mapping[str, Value]) -> tuple[bool, Value]:
        local = f"v{scope}_{name}"
        if name in given:
            return True, given[name]
        return local in self._derived, self._derived.get(local)

    def _encoded(self, step: Variable, given: Mapping[str, Value]) -> bytes:
        spec = step.spec
        return spec.encode(given[spec.name], self._plan.endian) if spec.name in given else b""

    def _variable(self, step: Variable, given: Mapping[str, Value]) -> bytes:
        data = self._encoded(step, given)
        length = None if step.length is None else self._known.get(step.length)
        if isinstance(length, int) and length != len(data):
            raise CodecError(f"it has {len(data)} bytes, and its length says {length}", where=step.spec.name)
        self._hand(step.scope, step.spec.name, given.get(step.spec.name))
        return data

    def _array(self, step: ArrayStep, given: Mapping[str, Value]) -> bytes:
        elements = _elements(given, step)
        count = self._known.get(step.count) if isinstance(step.count, str) else step.count
        if isinstance(count, int) and count != len(elements):
            raise CodecError(f"{len(elements)} elements are given for {count}", where=step.spec.name)
        name = getattr(step.spec.of, "name", "")
        written = b"".join(self._within(step.body, {name: element}, step.spec.name) for element in elements)
        self._hand(step.scope, step.spec.name, elements)
        return written + (step.mark or b"")

    def _items(self, step: TlvStep, given: Mapping[str, Value]) -> Iterator[bytes]:
        names = {tag: [*names_of(body)] for tag, body in step.bodies.items()}
        done: set[str] = set()
        for full_name in given:
            base, number = _parted(full_name, {name for each in names.values() for name in each}, step)
            if base is None or full_name in done:
                continue
            suffix = full_name.removeprefix(base)
            tags = [tag for tag, each in names.items() if base in each]
            failure: CodecError | None = None
            # Of items with one name, one that says the value to the last digit is better than one that rounds it.
            for exact, tag in itertools.product(dict.fromkeys((True, self._exact)), tags):
                item = {name: given[name + suffix] for name in names[tag] if name + suffix in given}
                try:
                    written = self._item(step, tag, number, item, exact=exact)
                except CodecError as error:
                    failure = failure or error
                    continue
                done |= {name + suffix for name in item}
                yield written
                break
            else:
                raise failure or CodecError(f"no item has {base!r}", where=full_name)
        self.used |= done

    def _item(self, step: TlvStep, tag: int, number: int, given: Mapping[str, Value], *, exact: bool) -> bytes:
        spec, scope = step.spec, step.header.scope
        header: dict[str, Value] = {spec.tag: tag}
        if spec.number is not None:
            header[spec.number] = number
        self._run(step.header, header)
        asked, self._exact = self._exact, exact
        try:
            written = self._within(step.bodies[tag], given, f"item {tag}")
        finally:
            self._exact = asked
        if spec.length is not None:
            header[spec.length] = len(written)
        for name, local in ((name, f"v{scope}_{name}") for slot in step.header.slots for name in [slot.field.name]):
            if name not in header and local in self._derived:
                header[name] = self._derived[local]
        return self._run(step.header, header) + written

    def _encrypted(self, step: EncryptedStep, given: Mapping[str, Value]) -> bytes:
        spec = step.spec
        key = self._keys(spec.key, self._address)
        if not key:
            raise CodecError(f"there is no key {spec.key!r} for this device", where=spec.key)
        plain = self.body(step.body, given)
        seal = PayloadSeal(spec.algorithm, spec.tag_bytes)
        data, tag = seal.seal(key, self._joined(step.nonce), plain, self._joined(step.aad))
        if step.tag is None:
            return data + tag
        self._derived[step.tag.local] = tag.hex()
        return data

    def _joined(self, parts: tuple[BytesOf, ...]) -> bytes:
        found = [part.fixed if not part.local else self._bytes[part.local] for part in parts]
        return b"".join(data[::-1] if part.reversed else data for part, data in zip(parts, found, strict=True))


def _elements(given: Mapping[str, Value], step: ArrayStep) -> list[Value]:
    value = given.get(step.spec.name, [])
    if not isinstance(value, list | tuple):
        raise CodecError(f"{value!r} is not a list", where=step.spec.name, remedy="For instance: []")
    return list(value)


def _parted(full_name: str, names: set[str], step: TlvStep) -> tuple[str | None, int]:
    """The name an item declares, and the number behind it; None for a name of no item."""
    if full_name in names and step.spec.number is None:
        return full_name, 1
    found = _NUMBERED.fullmatch(full_name)
    return (found[1], int(found[2])) if found and found[1] in names else (None, 1)


def _locals_of(body: Body) -> Iterator[str]:
    """The locals of the fields of a body that a frame can be without."""
    for step in body.steps:
        match step:
            case Run():
                for slot in step.slots:
                    yield f"v{step.scope}_{slot.field.name}"
                    for part in parts_of(slot.field):
                        yield f"v{step.scope}_{part.name}"
            case Variable() | GroupStep() | ArrayStep() | ComputedStep():
                yield f"v{step.scope}_{step.spec.name}"
            case _:
                continue


def names_of(body: Body) -> Iterator[str]:
    """The names of the values that a body gives to the list it stands in."""
    for step in (*body.steps, *([body.tail] if body.tail is not None else [])):
        match step:
            case Run():
                for slot in step.slots:
                    for part in parts_of(slot.field):
                        if slot.constant("big") is None:
                            yield part.name
            case Variable() | GroupStep() | ArrayStep() | ComputedStep():
                yield step.spec.name
            case When() | EncryptedStep() | PlainStep():
                yield from names_of(step.body)
            case SwitchStep():
                for _, case in step.cases:
                    yield from names_of(case)
                if step.default is not None:
                    yield from names_of(step.default)
            case TlvStep():
                for item in step.bodies.values():
                    yield from names_of(item)
            case RequireStep():
                continue
