"""A planned frame to Python source: one function that reads it from its first byte to its last.

What is side by side is unpacked at once (`fixed_run.py`); between that, the source walks along the frame with an offset
`at`, and gives up by returning None at the first thing that does not fit. Why it did not, slower code finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeAlias

from edge_gateway.cel import DOUBLE, EvaluationError, python_source
from edge_gateway.codec.fields import BytesField, IntegerField, NamedField, TextField
from edge_gateway.codec.fixed_run import FixedRun, expansions, identifier, literal, parts_of
from edge_gateway.codec.layout import Layout, Slot
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
    head_of,
    left_out,
)
from edge_gateway.records import Scalar, Value

_LONGEST_ROW = 4
"""How many comparisons stand in a row."""

Put: TypeAlias = Callable[[str, str], None]
"""Takes the name of a value and Python for it."""


class Place(NamedTuple):
    """Where the source is reading: Python names."""

    buffer: str
    at: str
    end: str


class FrameSource:
    """The source of one kind of frame.

    Args:
        plan: the frame.
        name: of the function to write.
        record: Python for what becomes of the values, with `{values}`, `{address}` and `{sequence}` in it.
        identity: the field with the device's address.
        sequence: the field with its counter.
    """

    def __init__(self, plan: Plan, name: str, record: str, identity: str | None, sequence: str | None) -> None:
        self.plan = plan
        self.name = identifier(name)
        self._record = record
        self._roles = {role: field for role, field in (("address", identity), ("sequence", sequence)) if field}
        self._found_roles: set[str] = set()
        self._lines: list[str] = []
        self._depth = 1
        self._count = 0
        self._surrender = ["return None"]
        """What the source does with what does not fit."""
        self.constants: list[str] = []
        """Module level lines."""
        self.namespace: dict[str, object] = {
            "EvaluationError": EvaluationError,
            "join_items": join_items,
            "number_items": number_items,
        }
        """What the source needs beside what `compile.py` gives every decoder."""
        self._write()

    def function(self) -> Iterator[str]:
        """The lines of the function: from a frame to its record, or None if it is none of this kind."""
        yield f"def {self.name}(frame):"
        yield from self._lines

    # --- writing -----------------------------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    @contextmanager
    def _indented(self, opening: str) -> Iterator[None]:
        self._line(opening)
        self._depth += 1
        before = len(self._lines)
        yield
        if len(self._lines) == before:
            self._line("pass")
        self._depth -= 1

    def _give_up_if(self, condition: str) -> None:
        with self._indented(f"if {condition}:"):
            self._give_up()

    @contextmanager
    def _surrendering(self, how: str) -> Iterator[None]:
        """Write what does not give up the whole frame, but only what is read here."""
        self._surrender.append(how)
        yield
        self._surrender.pop()

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _write(self) -> None:
        plan = self.plan
        for start, fixed in plan.constants:
            self._give_up_if(f"frame[{literal(start)}:{literal(start + len(fixed))}] != {literal(fixed)}")
        self._line("length = len(frame)")
        self._write_check()
        for role in ("address", "sequence"):
            self._line(f"{role} = None")
        behind = plan.check_behind_bytes
        self._line(f"end = length - {literal(behind)}" if behind else "end = length")
        self._line("at = 0")
        place, body = Place("frame", "at", "end"), plan.body
        head = head_of(body)
        if head is None or body.tail is not None:
            self._line("values = {}")
        else:
            values: list[tuple[str, str]] = []
            self._run(head, place, lambda *pair: values.append(pair), is_top=True, has_constants=True)
            self._line(f"values = {_mapping(values)}")
            self._line(f"at = {literal(head.size_bytes)}")
            body = replace(body, steps=body.steps[1:])
        if plan.numbered:
            self._line("seen = {}")
        self._body(body, place, self._into("values"), is_top=True, has_constants=True)
        if plan.version is None:
            self._give_up_if("at != end")
        else:
            # A newer device may send more than this declaration knows of.
            local, current = plan.version
            self._give_up_if(f"at > end or (at < end and {local} <= {literal(current)})")
        for role, name in self._roles.items():
            if role not in self._found_roles:
                # It stands in an item that a frame can be without, which gives it with its other values.
                self._line(f"{role} = values.pop({literal(name)}, None)")
        record = self._record.format(address="address", sequence="sequence", values="values")
        self._line(f"return {record}" if plan.version is None else f"return {record}, {plan.version[0]}")

    def _write_check(self) -> None:
        plan, check = self.plan, self.plan.check
        if check is None:
            return

        def place(position: int) -> str:
            if not plan.from_end(position):
                return literal(position)
            return f"length - {literal(plan.behind(position))}" if plan.behind(position) else "length"

        self.namespace[identifier(check.name)] = check.compute
        self._give_up_if(f"length < {literal(plan.least_bytes)}")
        covered = f"frame[{place(check.covers_start)}:{place(check.covers_end)}]"
        found = f"from_bytes(frame[{place(check.start)}:{place(check.end)}], {literal(check.endian)})"
        self._give_up_if(f"{identifier(check.name)}({covered}) != {found}")

    def _into(self, mapping: str) -> Put:
        return lambda name, value: self._line(f"{mapping}[{literal(name)}] = {value}")

    def _body(self, body: Body, place: Place, put: Put, *, is_top: bool = False, has_constants: bool = False) -> None:
        """Write what reads a list of items.

        Args:
            body: the items.
            place: where they begin, and where what holds them ends.
            put: takes their values.
            is_top: whether they are the frame's own, and not those of an item.
            has_constants: whether the constants of its first run have been looked at.
        """
        if body.tail is None:
            for index, step in enumerate(body.steps):
                self._step(step, place, put, is_top=is_top, has_constants=has_constants and index == 0)
            return
        end = self._fresh("end_")
        self._line(f"{end} = {place.end} - {literal(body.tail.size_bytes)}")
        self._give_up_if(f"{end} < {place.at}")
        tail_values: list[tuple[str, str]] = []
        self._run(
            body.tail, place._replace(at=end), lambda *pair: tail_values.append(pair), is_top=is_top, has_room=True
        )
        inner = place._replace(end=end)
        for index, step in enumerate(body.steps):
            self._step(step, inner, put, is_top=is_top, has_constants=has_constants and index == 0)
        self._give_up_if(f"{place.at} != {end}")
        for name, value in tail_values:
            put(name, value)
        self._line(f"{place.at} = {place.end}")

    def _step(self, step: Step, place: Place, put: Put, *, is_top: bool, has_constants: bool) -> None:
        match step:
            case Run():
                self._run(step, place, put, is_top=is_top, has_constants=has_constants)
                self._line(f"{place.at} += {literal(step.size_bytes)}")
            case Variable():
                self._variable(step, place, put)
            case When():
                for local in _needed_in(step.body, self.plan):
                    self._line(f"{local} = None")
                condition = self._evaluated(step.condition, self._surrender[-1])
                with self._indented(f"if {condition}:"):
                    self._body(step.body, place, put, is_top=is_top)
            case GroupStep():
                mapping, _ = self._collected(step.body, place, "group_")
                self._give(step.scope, step.spec.name, mapping, put if step.spec.emit else None)
            case ArrayStep():
                self._array(step, place, put)
            case SwitchStep():
                self._switch(step, place, put)
            case TlvStep():
                self._tlv(step, place)
            case ComputedStep():
                self._computed(step, put)
            case EncryptedStep():
                self._encrypted(step, place, put)
            case PlainStep():
                self._give_up_if(f"key_of({literal(step.spec.key)}, address) is not None")
                self._body(step.body, place, put)
            case RequireStep():
                condition = self._evaluated(step.expression, self._surrender[-1])
                self._give_up_if(f"not {condition}")

    def _collected(self, body: Body, place: Place, prefix: str) -> tuple[str, list[tuple[str, str]] | None]:
        """Write what reads a list of items to values of its own.

        Returns:
            Python for the mapping of them; and the values one by one, if they are the same each time.
        """
        if body.tail is None and all(isinstance(step, Run) for step in body.steps):
            values: list[tuple[str, str]] = []
            self._body(body, place, lambda *pair: values.append(pair))
            return _mapping(values), values
        mapping = self._fresh(prefix)
        self._line(f"{mapping} = {{}}")
        self._body(body, place, self._into(mapping))
        return mapping, None

    def _give(self, scope: int, name: str, value: str, put: Put | None) -> None:
        """Hand a value to whoever asks for it."""
        local = f"v{scope}_{identifier(name)}"
        if local in self.plan.needed:
            self._line(f"{local} = {value}")
            value = local
        if put is not None:
            put(name, value)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _run(
        self, run: Run, place: Place, put: Put, *, is_top: bool, has_room: bool = False, has_constants: bool = False
    ) -> None:
        if not has_room:
            self._give_up_if(f"{place.at} + {literal(run.size_bytes)} > {place.end}")
        parts = [part for slot in run.slots for part in parts_of(slot.field)]
        roles = {field: role for role, field in self._roles.items()} if is_top else {}
        wanted = {part.name for part in parts if self._is_wanted(part, run.scope, roles)}
        held = self._holders_needed(run)
        layout = Layout(self._fresh(f"{self.name}_run"), self.plan.endian, run.slots, None, run.size_bytes, ())
        fixed = FixedRun(layout, wanted | held, self._fresh("r"))
        if fixed.is_one_byte:
            self.constants += fixed.constants(None)
            self._line(f"{fixed.unpacked[0]} = {place.buffer}[{place.at}]")
        else:
            self.constants += fixed.constants("unpack_from")
            for line in fixed.unpacking(f"{place.buffer}, {place.at}"):
                self._line(line)
        for line in fixed.assignments():
            self._line(line)
        for condition in fixed.conditions():
            self._give_up_if(f"not ({condition})")
        for slot in run.slots:
            self._slot(slot, run.scope, place, has_constants=has_constants)
        for part in parts:
            if part.name in roles:
                role = roles[part.name]
                self._found_roles.add(role)
                self._line(f"{role} = {fixed.value(part) if role == 'address' else fixed.raw(part)}")
            if part.name in wanted:
                is_value = part.emit and not part.is_constant and part.name not in roles
                is_value = is_value and not (is_top and part.name == self.plan.check_holder)
                self._give(run.scope, part.name, fixed.value(part), put if is_value else None)
        for name in sorted(held):
            self._line(f"v{run.scope}_{identifier(name)} = {fixed.holder(name)}")

    def _is_wanted(self, part: NamedField, scope: int, roles: dict[str, str]) -> bool:
        if f"v{scope}_{part.name}" in self.plan.needed or part.name in roles:
            return True
        return part.emit and not part.is_constant

    def _holders_needed(self, run: Run) -> set[str]:
        """The integers made of bits that something asks for as a whole."""
        return {
            slot.field.name
            for slot in run.slots
            if isinstance(slot.field, IntegerField)
            and slot.field.bits
            and f"v{run.scope}_{slot.field.name}" in self.plan.needed
        }

    def _slot(self, slot: Slot, scope: int, place: Place, *, has_constants: bool) -> None:
        start, end = (f"{place.at} + {literal(each)}" if each else place.at for each in (slot.start, slot.end))
        constant = slot.constant(self.plan.endian)
        if constant is not None and not has_constants:
            self._give_up_if(f"{place.buffer}[{start}:{end}] != {literal(constant)}")
        local = f"v{scope}_{slot.field.name}"
        if local in self.plan.needed_bytes:
            self._line(f"bytes_{local} = {place.buffer}[{start}:{end}]")

    def _variable(self, step: Variable, place: Place, put: Put) -> None:
        spec, until = step.spec, place.end
        if step.length is not None:
            until = self._fresh("until_")
            self._line(f"{until} = {place.at} + {step.length}")
            self._give_up_if(f"{until} > {place.end} or {step.length} < 0")
        raw = self._fresh("raw_")
        self._line(f"{raw} = {place.buffer}[{place.at}:{until}]")
        self._line(f"{place.at} = {until}")
        match spec:
            case BytesField():
                value = f"{raw}.hex()"
            case TextField(encoding="ascii"):
                self._line(f"{raw} = {raw}.rstrip({literal(spec.padding_byte)})")
                self._give_up_if(f"not {raw}.isascii()")
                value = f"{raw}.decode()"
            case TextField():
                self._line(f"{raw} = utf_8_of({raw}.rstrip({literal(spec.padding_byte)}))")
                self._give_up_if(f"{raw} is None")
                value = raw
        if isinstance(spec, TextField) and spec.expand:
            words = self._fresh(f"{self.name}_words_")
            self.constants.append(f"{words} = {expansions(spec)}")
            value = f"{value}.translate({words})"
        self._give(step.scope, spec.name, value, put if spec.emit else None)

    def _array(self, step: ArrayStep, place: Place, put: Put) -> None:
        values = self._fresh("list_")
        self._line(f"{values} = []")
        if step.count is not None:
            count = literal(step.count) if isinstance(step.count, int) else step.count
            least = literal(step.body.least_bytes)
            # Before the loop, so that a damaged count costs nothing.
            self._give_up_if(f"not 0 <= {count} * {least} <= {place.end} - {place.at}")
            opening = f"for _ in range({count}):"
        elif step.mark is not None:
            opening = f"while not {place.buffer}.startswith({literal(step.mark)}, {place.at}, {place.end}):"
        else:
            opening = f"while {place.at} < {place.end}:"
        # A loop within an item of a list of tagged ones cannot leave that one's loop, so it gives up the frame.
        with self._indented(opening), self._surrendering("return None"):
            self._body(step.body, place, lambda _, value: self._line(f"{values}.append({value})"))
        if step.mark is not None:
            self._line(f"{place.at} += {literal(len(step.mark))}")
        self._give(step.scope, step.spec.name, values, put if step.spec.emit else None)

    def _switch(self, step: SwitchStep, place: Place, put: Put) -> None:
        otherwise = self._give_up if step.default is None else partial(self._body, step.default, place, put)
        ways = [(case, partial(self._body, body, place, put)) for case, body in step.cases]
        if len(ways) <= _LONGEST_ROW:
            self._row(step.on, ways, otherwise)
            return
        number, numbers = self._fresh("case_"), self._fresh(f"cases_{self.name}_")
        listed = ", ".join(f"{literal(case)}: {literal(index)}" for index, (case, _) in enumerate(ways))
        self.constants.append(f"{numbers} = {{{listed}}}")
        self._line(f"{number} = {numbers}.get({step.on}, {literal(len(ways))})")
        self._branches(number, [*enumerate(way for _, way in ways), (len(ways), otherwise)])

    def _branches(self, number: str, ways: Sequence[tuple[int, Callable[[], None]]]) -> None:
        """Write one of several ways, in the order of the numbers that choose them; any other number gives up.

        Many are halved until few are left: a long row of comparisons takes its time, and Python's compiler refuses one
        of a thousand.
        """
        if len(ways) <= _LONGEST_ROW:
            self._row(number, ways, self._give_up)
            return
        half = len(ways) // 2
        with self._indented(f"if {number} < {literal(ways[half][0])}:"):
            self._branches(number, ways[:half])
        with self._indented("else:"):
            self._branches(number, ways[half:])

    def _row(
        self, value: str, ways: Sequence[tuple[Scalar, Callable[[], None]]], otherwise: Callable[[], None]
    ) -> None:
        keyword = "if"
        for wanted, write in ways:
            test = f"is {wanted}" if wanted is True or wanted is False else f"== {literal(wanted)}"
            with self._indented(f"{keyword} {value} {test}:"):
                write()
            keyword = "elif"
        with self._indented("else:"):
            otherwise()

    def _give_up(self) -> None:
        self._line(self._surrender[-1])

    def _tlv(self, step: TlvStep, place: Place) -> None:
        spec, scope = step.spec, step.header.scope
        with self._indented(f"while {place.at} < {place.end}:"):
            with self._surrendering("break" if spec.unknown == "stop" else "return None"):
                has_room = step.header.size_bytes == 1
                self._run(step.header, place, lambda *_: None, is_top=False, has_room=has_room)
                self._line(f"{place.at} += {literal(step.header.size_bytes)}")
                inner = place
                if spec.length is not None:
                    inner = place._replace(at=self._fresh("at_"), end=self._fresh("end_"))
                    self._line(f"{inner.at} = {place.at}")
                    self._line(f"{inner.end} = {place.at} + v{scope}_{identifier(spec.length)}")
                    self._give_up_if(f"not {place.at} <= {inner.end} <= {place.end}")
                    self._line(f"{place.at} = {inner.end}")
            with self._surrendering({"reject": "return None", "skip": "continue", "stop": "break"}[spec.unknown]):
                ways = [(tag, partial(self._item, step, tag, inner)) for tag in sorted(step.bodies)]
                self._branches(f"v{scope}_{identifier(spec.tag)}", ways)
        if spec.unknown == "stop":
            self._line(f"{place.at} = {place.end}")

    def _item(self, step: TlvStep, tag: int, place: Place) -> None:
        spec = step.spec
        item, values = self._collected(step.bodies[tag], place, "item_")
        if spec.length is not None:
            self._give_up_if(f"{place.at} != {place.end}")
        if values == [] or not self.plan.numbered:
            return
        if spec.number is not None:
            self._line(f"number_items(values, {item}, v{step.header.scope}_{identifier(spec.number)})")
        elif values is not None and len(values) == 1:
            # A call takes longer than all the rest of a short item, and few come twice.
            ((name, value),) = values
            first = f"{literal(name)} not in values"
            if name in self.plan.left_out:
                first += f" and {literal(name)} not in seen"
            with self._indented(f"if {first}:"):
                self._line(f"values[{literal(name)}] = {value}")
            with self._indented("else:"):
                self._line(f"join_items(values, {item}, seen)")
        else:
            self._line(f"join_items(values, {item}, seen, {tuple(left_out(step.bodies[tag]))!r})")

    def _computed(self, step: ComputedStep, put: Put) -> None:
        spec, value = step.spec, f"v{step.scope}_{identifier(step.spec.name)}"
        self._evaluated(step.expression, f"{value} = None", value)
        if step.expression.checked.type.present == DOUBLE:
            with self._indented(f"if {value} is not None and {value} * 0.0 != 0.0:"):
                self._line(f"{value} = None")
        if spec.valid is not None:
            least, most = spec.valid.minimum, spec.valid.maximum
            bounds = [f"{literal(float(least))} <= {value}"] if least is not None else []
            bounds += [f"{value} <= {literal(float(most))}"] if most is not None else []
            with self._indented(f"if {value} is not None and not ({' and '.join(bounds)}):"):
                self._line(self._surrender[-1] if spec.valid.otherwise == "reject" else f"{value} = None")
        if spec.emit:
            put(spec.name, value)

    def _evaluated(self, expression: Expression, otherwise: str, target: str | None = None) -> str:
        """Write what evaluates an expression; returns the name of its value."""
        target = target or self._fresh("c_")
        # The frames of a profile share their globals, so the name of this one is in those of its expressions.
        source, globals_ = python_source(expression.checked, expression.locals, self._fresh(f"cel_{self.name}_"))
        self.namespace.update(globals_)
        with self._indented("try:"):
            self._line(f"{target} = {source}")
        with self._indented("except EvaluationError:"):
            self._line(otherwise)
        return target

    def _encrypted(self, step: EncryptedStep, place: Place, put: Put) -> None:
        spec = step.spec
        key, plain = self._fresh("key_"), self._fresh("plain_")
        box = self._fresh(f"open_{self.name}_")
        self.namespace[box] = PayloadSeal(spec.algorithm, spec.tag_bytes).open
        self._line(f"{key} = key_of({literal(spec.key)}, address)")
        self._give_up_if(f"not {key}")
        behind, tag = place.end, _joined([step.tag] if step.tag else [])
        if step.tag is None:
            behind = self._fresh("behind_")
            self._line(f"{behind} = {place.end} - {literal(spec.tag_bytes)}")
            self._give_up_if(f"{behind} < {place.at}")
            tag = f"{place.buffer}[{behind}:{place.end}]"
        sealed = f"{place.buffer}[{place.at}:{behind}]"
        self._line(f"{plain} = {box}({key}, {_joined(step.nonce)}, {sealed}, {tag}, {_joined(step.aad)})")
        self._give_up_if(f"{plain} is None")
        inner = Place(plain, self._fresh("at_"), self._fresh("end_"))
        self._line(f"{inner.at}, {inner.end} = 0, len({plain})")
        self._body(step.body, inner, put)
        self._give_up_if(f"{inner.at} != {inner.end}")
        self._line(f"{place.at} = {place.end}")


def _mapping(values: Sequence[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{literal(name)}: {value}" for name, value in values) + "}"


def _joined(parts: Sequence[BytesOf]) -> str:
    texts = [
        literal(part.fixed) if not part.local else f"bytes_{part.local}" + ("[::-1]" if part.reversed else "")
        for part in parts
    ]
    return " + ".join(texts) or "b''"


def _needed_in(body: Body, plan: Plan) -> list[str]:
    """The locals that steps of a body make for others."""
    found = []
    for step in body.steps:
        match step:
            case Run():
                names = [each.name for slot in step.slots for each in (slot.field, *parts_of(slot.field))]
            case Variable() | GroupStep() | ArrayStep() | ComputedStep():
                names = [step.spec.name]
            case _:
                continue
        found += [local for name in names if (local := f"v{step.scope}_{name}") in plan.needed]
    return list(dict.fromkeys(found))


def join_items(
    values: dict[str, Value], item: dict[str, Value], seen: dict[str, int], left_out: Sequence[str] = ()
) -> None:
    """Add the values of a tagged item; those of a name that is there already get its number: `temperature_2`.

    What an item is without takes its number all the same, so that the values of one item have one number.

    Args:
        values: those of the frame so far.
        item: those of the item.
        seen: how often a name came that came more than once, kept over the items of a frame.
        left_out: the names that an item of its kind can be without.
    """
    for name, value in item.items():
        count = seen.get(name, int(name in values)) + 1
        seen[name] = count
        values[name if count == 1 else f"{name}_{count}"] = value
    for name in left_out:
        if name not in item:
            seen[name] = seen.get(name, int(name in values)) + 1


def number_items(values: dict[str, Value], item: dict[str, Value], number: int) -> None:
    """Add the values of a tagged item under their names and its number: `temperature_3` for channel 3."""
    for name, value in item.items():
        values[f"{name}_{number}"] = value
