"""A declaration to a plan, once, when a profile is loaded; whatever is wrong with it is said here.

A name is known from its field on, in its list of items and in all lists within it. No list uses a name again that is
known there already, so a name in an expression always means one thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from edge_gateway.cel import DOUBLE, INT, UINT, Type, nullable
from edge_gateway.codec.fields import (
    AnyField,
    BitField,
    BytesField,
    Endian,
    FloatField,
    IntegerField,
    Misdeclared,
    NamedField,
    TextField,
    WholeNumber,
)
from edge_gateway.codec.frame_check import Checksum, place_checksum
from edge_gateway.codec.layout import Slot, joined_constants
from edge_gateway.codec.sealed import NONCE_BYTES
from edge_gateway.codec.structure.expressions import Expression, read_condition, read_value, type_of
from edge_gateway.codec.structure.items import (
    Array,
    Computed,
    Encrypted,
    FieldBytes,
    FixedBytes,
    Group,
    Item,
    Part,
    PartOfProfile,
    Plain,
    Require,
    Switch,
    Tlv,
    is_plain_field,
)
from edge_gateway.codec.structure.plan import (
    MIDDLE_BYTES,
    ArrayStep,
    Body,
    BytesOf,
    ComputedStep,
    EncryptedStep,
    GroupStep,
    PlainStep,
    Plan,
    PlanOutput,
    RequireStep,
    Run,
    Step,
    SwitchStep,
    TlvStep,
    Variable,
    When,
    head_bytes,
    head_of,
    left_out,
)
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar

_DEEPEST = 8
"""How deep items may stand in items. Devices have four or five levels, and Python nests no more than 20 loops."""

_MOST_ITEMS = 4096
"""Of a frame, with those of its parts wherever they are used: parts of parts would unfold without end."""

_NUMBERED = re.compile(r"(.+)_[0-9]{1,20}")
"""A name as it is when a tagged item comes again."""


def plan_frame(
    name: str,
    endian: Endian,
    items: Sequence[Item],
    checksum: Checksum | None,
    version: tuple[str, int] | None = None,
    parts: Mapping[str, Sequence[Item]] | None = None,
) -> Plan:
    """Work out a frame.

    Args:
        name: the frame's name.
        endian: the byte order of its numbers.
        items: in wire order.
        checksum: its check, if there is one.
        version: the field that holds the version of the layout, and the one that `items` describe.
        parts: items that the profile declares once, by name.

    Raises:
        Misdeclared: an item is used before it is there, follows what takes all bytes, or its check has no place.
    """
    planner = _Planner(version, parts or {})
    body = planner.body(items, {}, "fields", planner.outputs, of_frame=True)
    head = head_of(body)
    head_slots = () if head is None else head.slots
    check, behind_bytes = None, 0
    if checksum is not None:
        always_bytes = body.least_bytes - body.tail_bytes
        for key, byte, beyond in (("from", checksum.first, 1), ("to", checksum.last, 0)):
            if isinstance(byte, int) and byte >= always_bytes + beyond:
                raise Misdeclared(
                    f"not every such frame has a byte {byte} there",
                    key=f"checksum.{key}",
                    remedy=f"The shortest has {always_bytes} bytes before its last fields; or name a field",
                )
        tail_start = head_bytes(body) + MIDDLE_BYTES
        tail = () if body.tail is None else body.tail.slots
        moved = [slot._replace(start=slot.start + tail_start, end=slot.end + tail_start) for slot in tail]
        middle = Slot(_middle(), head_bytes(body), tail_start)
        try:
            check = place_checksum(checksum, endian, [*head_slots, middle, *moved])
        except CodecError as error:
            raise Misdeclared(error.what, key="checksum", remedy=error.remedy) from error
        behind_bytes = 0 if checksum.at is not None else check.end - check.start
    known_version = None
    if version is not None:
        found = planner.top.get(version[0])
        if found is None:
            raise Misdeclared(
                f"there is no field {version[0]!r}",
                key="version.field",
                remedy=f"There is: {', '.join(planner.top) or 'none'}",
            )
        if found.is_optional or not isinstance(found.spec, WholeNumber) or not found.spec.is_plain:
            raise Misdeclared(
                f"{version[0]!r} cannot be the version",
                key="version.field",
                remedy="Name a whole number without scale, enum or sentinel that every frame has",
            )
        planner.needed.add(found.local)
        known_version = (found.local, version[1])
    return Plan(
        name,
        endian,
        body,
        check,
        behind_bytes,
        joined_constants(head_slots, endian),
        {key: tuple(specs) for key, specs in planner.outputs.items()},
        frozenset(planner.optional),
        frozenset(planner.numbered),
        frozenset(planner.left_out),
        frozenset(planner.needed),
        frozenset(planner.needed_bytes),
        known_version,
        None if checksum is None else checksum.at,
    )


def _middle() -> BytesField:
    """Stands between the first fields and the last. It has no name, so that no declaration can mean it."""
    return BytesField.model_construct(name="", type="bytes", length_bytes="end")


@dataclass(frozen=True, slots=True)
class _Known:
    """A name that can be used."""

    spec: PlanOutput
    type: Type
    local: str
    is_optional: bool = False


_Names: TypeAlias = Mapping[str, _Known]
_Given: TypeAlias = dict[str, list[PlanOutput]]
"""The values of some items by name; several that are never there together can have one name."""


@dataclass(slots=True)
class _Planner:
    version: tuple[str, int] | None
    parts: Mapping[str, Sequence[Item]]
    outputs: dict[str, list[PlanOutput]] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    numbered: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)
    needed_bytes: set[str] = field(default_factory=set)
    top: _Names = field(default_factory=dict)
    _scopes: int = 0
    _depth: int = 0
    _items: int = 0
    _parts_to_the_end: dict[str, bool] = field(default_factory=dict)

    def body(
        self,
        items: Sequence[Item],
        outer_names: _Names,
        key: str,
        outer: _Given,
        *,
        of_frame: bool,
        is_optional: bool = False,
    ) -> Body:
        """Plan a list of items.

        Args:
            items: in wire order.
            outer_names: what is known before the first.
            key: of the list, for errors.
            outer: where its values go.
            of_frame: whether these are the frame's values, and not those of a group or a list.
            is_optional: whether a frame can be without all of it.
        """
        if self._depth > _DEEPEST:
            raise Misdeclared("items stand too deep in each other", key=key, remedy=f"At most {_DEEPEST} levels")
        self._depth += 1
        scope = self._scopes
        self._scopes += 1
        names = dict(outer_names)
        items = self._spread(items, key)
        ending = next((index for index, item in enumerate(items) if self._reaches_end(item)), None)
        tail: Run | None = None
        if ending is not None and ending + 1 < len(items):
            tail = self._tail(scope, items, ending, names, key)
        steps: list[Step] = []
        run: list[AnyField] = []
        given: _Given = {}

        def end_run() -> None:
            if run:
                steps.append(_run(scope, run))
                run.clear()

        for index, item in enumerate(items[: None if ending is None else ending + 1]):
            place = f"{key}[{index}]"
            item_given: _Given = {}
            if is_plain_field(item):
                run.append(item)
                self._know_field(scope, item, names, place)
            else:
                end_run()
                steps.append(self._step(scope, item, names, place, item_given, of_frame, is_optional))
            self._give(item, item_given, of_frame, is_optional)
            _join_given(given, item_given, place)
        end_run()
        for item in [] if tail is None else items[len(items) - len(tail.slots) :]:
            item_given = {}
            self._give(item, item_given, of_frame, is_optional)
            _join_given(given, item_given, key)
        for name, specs in given.items():
            outer.setdefault(name, []).extend(specs)
        if not outer_names:
            self.top = names
        self._depth -= 1
        least, most = _bounds(steps)
        tail_bytes = 0 if tail is None else tail.size_bytes
        return Body(
            tuple(steps), tail, least + tail_bytes, None if most is None else most + tail_bytes, ending is not None
        )

    def _spread(self, items: Sequence[Item], key: str, depth: int = 0) -> list[Item]:
        """The items with those of each part in its place."""
        spread: list[Item] = []
        for index, item in enumerate(items):
            self._items += 1
            if self._items > _MOST_ITEMS:
                raise Misdeclared(
                    "the frame has too many items", key=key, remedy=f"At most {_MOST_ITEMS}, with those of its parts"
                )
            if not isinstance(item, PartOfProfile):
                spread.append(item)
                continue
            if item.part not in self.parts or depth > _DEEPEST:
                is_known = item.part in self.parts
                raise Misdeclared(
                    f"the part {item.part!r} holds itself" if is_known else f"there is no part {item.part!r}",
                    key=f"{key}[{index}].part",
                    remedy="Take it out of itself" if is_known else f"There is: {', '.join(self.parts) or 'none'}",
                )
            if item.is_conditional:
                raise Misdeclared("a part has no condition", key=f"{key}[{index}].if", remedy="Put it in a switch")
            spread += self._spread(self.parts[item.part], f"parts.{item.part}", depth + 1)
        return spread

    def _reaches_end(self, item: Item) -> bool:
        """Whether an item takes all bytes there are."""
        match item:
            case Tlv() | Encrypted():
                return True
            case Array():
                return item.until == "end"
            case Group() | Plain():
                return any(map(self._reaches_end, item.fields))
            case Switch():
                bodies = [*item.cases.values(), item.default or ()]
                return any(self._reaches_end(each) for body in bodies for each in body)
            case TextField() | BytesField():
                return item.length_bytes == "end"
            case PartOfProfile(part=name):
                if name not in self._parts_to_the_end:
                    # Meanwhile false, so that a part that holds itself comes to an end here, too.
                    self._parts_to_the_end[name] = False
                    self._parts_to_the_end[name] = any(map(self._reaches_end, self.parts.get(name, ())))
                return self._parts_to_the_end[name]
            case _:
                return False

    def _tail(self, scope: int, items: Sequence[Item], ending: int, names: dict[str, _Known], key: str) -> Run:
        fields: list[AnyField] = []
        for index, item in enumerate(items[ending + 1 :], ending + 1):
            if not is_plain_field(item):
                raise Misdeclared(
                    "it follows what goes to the end, and nobody knows where that ends",
                    key=f"{key}[{index}]",
                    remedy="Behind it only fields of a fixed size can stand",
                )
            fields.append(item)
            self._know_field(scope, item, names, f"{key}[{index}]")
        return _run(scope, fields)

    def _give(self, item: Item, given: _Given, of_frame: bool, is_optional: bool) -> None:
        """Add the values that an item gives under its own name, or under those of its bit fields."""
        if isinstance(item, Switch | Tlv | Encrypted | Plain | Require | PartOfProfile):
            return
        specs: tuple[PlanOutput, ...] = (item,)
        if isinstance(item, IntegerField) and item.bits:
            specs = item.bits
        for spec in specs:
            given.setdefault(spec.name, []).append(spec)
            if of_frame and (is_optional or item.is_conditional):
                self.optional.add(spec.name)

    # --- names -------------------------------------------------------------------------------------------------------

    def _know_field(self, scope: int, item: AnyField, names: dict[str, _Known], key: str) -> None:
        specs: list[NamedField] = [item]
        if isinstance(item, IntegerField):
            specs += item.bits
        for spec in specs:
            self._know(scope, spec, type_of(spec), names, key)

    def _know(
        self, scope: int, spec: PlanOutput, kind: Type, names: dict[str, _Known], key: str, *, is_optional: bool = False
    ) -> str:
        if spec.name in names:
            raise Misdeclared(f"{spec.name!r} is there twice", key=f"{key}.name", remedy=f"For instance: {spec.name}_2")
        local = f"v{scope}_{spec.name}"
        names[spec.name] = _Known(spec, nullable(kind) if is_optional else kind, local, is_optional)
        return local

    def _local(self, name: str, names: _Names, key: str, purpose: str) -> _Known:
        """A field that something asks for."""
        found = names.get(name)
        if found is None:
            known = ", ".join(names) or "none"
            raise Misdeclared(f"there is no field {name!r} before it", key=key, remedy=f"There is: {known}")
        spec = found.spec
        if purpose == "count":
            is_count = isinstance(spec, WholeNumber) and spec.is_plain
            if not is_count or found.is_optional:
                raise Misdeclared(
                    f"{name!r} cannot say how many", key=key, remedy="Name a whole number without scale or sentinel"
                )
        self.needed.add(found.local)
        return found

    def _bytes_of(self, part: Part, names: _Names, key: str) -> BytesOf:
        if isinstance(part, FixedBytes):
            return BytesOf(fixed=bytes.fromhex(part.hex))
        wanted = part if isinstance(part, FieldBytes) else FieldBytes(field=part)
        found = names.get(wanted.field)
        spec = None if found is None else found.spec
        if found is None or found.is_optional or isinstance(spec, BitField) or not _has_bytes(spec):
            known = ", ".join(name for name, each in names.items() if _has_bytes(each.spec)) or "none"
            raise Misdeclared(
                f"{wanted.field!r} has no bytes that are known here", key=key, remedy=f"Fields that have: {known}"
            )
        self.needed_bytes.add(found.local)
        return BytesOf(found.local, wanted.field, reversed=wanted.reversed)

    def _expression_names(self, expression: Expression, names: _Names) -> None:
        self.needed.update(names[name].local for name in expression.names)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(
        self,
        scope: int,
        item: Item,
        names: dict[str, _Known],
        key: str,
        given: _Given,
        of_frame: bool,
        is_optional: bool,
    ) -> Step:
        condition = self._condition(item, names, key)
        step = self._bare_step(scope, item, names, key, given, of_frame, is_optional or condition is not None)
        if condition is None:
            return step
        _, most = _bounds([step])
        return When(condition, Body((step,), None, 0, most, self._reaches_end(item)))

    def _condition(self, item: Item, names: _Names, key: str) -> Expression | None:
        texts = []
        if item.since is not None or item.until_version is not None:
            asked = "until_version" if item.since is None else "since"
            if self.version is None:
                raise Misdeclared(
                    "the frame has no version", key=f"{key}.{asked}", remedy="Say `version: {field: ..., current: ...}`"
                )
            if self.version[0] not in names:
                raise Misdeclared(
                    f"the version {self.version[0]!r} is not known here", key=f"{key}.{asked}", remedy="Put it before"
                )
            if item.since is not None and item.until_version is not None and item.since > item.until_version:
                raise Misdeclared(
                    f"no version is from {item.since} to {item.until_version}", key=f"{key}.since", remedy="Swap them"
                )
            if item.since is not None:
                texts.append(f"{self.version[0]} >= {item.since}")
            if item.until_version is not None:
                texts.append(f"{self.version[0]} <= {item.until_version}")
        if item.condition is not None:
            texts.append(f"({item.condition})" if texts else item.condition)
        if not texts:
            return None
        expression = read_condition(" && ".join(texts), names, f"{key}.if")
        self._expression_names(expression, names)
        return expression

    def _bare_step(
        self,
        scope: int,
        item: Item,
        names: dict[str, _Known],
        key: str,
        given: _Given,
        of_frame: bool,
        is_optional: bool,
    ) -> Step:
        match item:
            case Group():
                body = self.body(item.fields, names, f"{key}.fields", {}, of_frame=False)
                self._know(scope, item, type_of(item), names, key, is_optional=item.is_conditional)
                return GroupStep(scope, item, body)
            case Array():
                return self._array(scope, item, names, key)
            case Switch():
                return self._switch(item, names, key, given, of_frame)
            case Tlv():
                return self._tlv(item, names, key, given, of_frame)
            case Computed():
                expression = read_value(item.value, names, f"{key}.value")
                self._expression_names(expression, names)
                self._check_number(item, expression, key)
                kind = nullable(expression.checked.type)
                self._know(scope, item, kind, names, key, is_optional=item.is_conditional)
                return ComputedStep(scope, item, expression)
            case Encrypted():
                return self._encrypted(item, names, key, given, of_frame, is_optional)
            case Plain():
                return PlainStep(
                    item,
                    self.body(item.fields, names, f"{key}.fields", given, of_frame=of_frame, is_optional=is_optional),
                )
            case Require():
                expression = read_condition(item.that, names, f"{key}.that")
                self._expression_names(expression, names)
                return RequireStep(expression)
            case PartOfProfile():
                raise TypeError("parts are spread before their items are planned")
            case TextField() | BytesField() if not item.is_sized:
                length = None
                if item.length_bytes != "end":
                    length = self._local(str(item.length_bytes), names, f"{key}.length_bytes", "count").local
                self._know(scope, item, type_of(item), names, key, is_optional=item.is_conditional)
                return Variable(scope, item, length)
            case _:
                run = _run(scope, [item])
                specs: list[NamedField] = [item]
                if isinstance(item, IntegerField):
                    specs += item.bits
                for spec in specs:
                    self._know(scope, spec, type_of(spec), names, key, is_optional=True)
                return run

    def _check_number(self, item: Computed, expression: Expression, key: str) -> None:
        kind = expression.checked.type.present
        for asked in ("unit", "valid"):
            if getattr(item, asked) is not None and kind not in (INT, UINT, DOUBLE):
                raise Misdeclared(
                    f"the value is {kind}, and `{asked}` is for numbers", key=f"{key}.{asked}", remedy="Leave it out"
                )

    def _array(self, scope: int, item: Array, names: dict[str, _Known], key: str) -> ArrayStep:
        if self._reaches_end(item.of):
            raise Misdeclared(
                "an element that goes to the end leaves no room for another",
                key=f"{key}.of",
                remedy="Say how long it is, or leave out the list",
            )
        body = self.body([item.of], names, f"{key}.of", {}, of_frame=False)
        if body.least_bytes == 0:
            raise Misdeclared("an element can be empty", key=f"{key}.of", remedy="Give it a field that is always there")
        count: int | str | None = item.count if isinstance(item.count, int) else None
        if isinstance(item.count, str):
            count = self._local(item.count, names, f"{key}.count", "count").local
        mark = None if item.until in (None, "end") else bytes.fromhex(str(item.until))
        self._know(scope, item, type_of(item), names, key, is_optional=item.is_conditional)
        return ArrayStep(scope, item, body, count, mark)

    def _switch(self, item: Switch, names: dict[str, _Known], key: str, given: _Given, of_frame: bool) -> SwitchStep:
        on = self._local(item.on, names, f"{key}.on", "value")
        if isinstance(on.spec, Group | Array):
            raise Misdeclared(
                f"{item.on!r} is not one value", key=f"{key}.on", remedy="Name a field, or a computed value"
            )
        cases: dict[Scalar, Body] = {}
        for case, items in item.cases.items():
            # As YAML writes it, so that the line is found.
            place = f"{key}.cases.{str(case).lower() if isinstance(case, bool) else case}"
            wanted = _case_value(on.spec, case, place)
            if wanted in cases:
                raise Misdeclared(f"another case is {wanted!r}, too", key=place, remedy="Keep one of the two")
            cases[wanted] = self.body(items, names, place, given, of_frame=of_frame, is_optional=True)
        default = None
        if item.default is not None:
            default = self.body(item.default, names, f"{key}.default", given, of_frame=of_frame, is_optional=True)
        return SwitchStep(on.local, tuple(cases.items()), default)

    def _tlv(self, item: Tlv, names: dict[str, _Known], key: str, given: _Given, of_frame: bool) -> TlvStep:
        if not of_frame:
            raise Misdeclared(
                "tagged items give their values to the frame, not to a group or a list",
                key=key,
                remedy="Put them beside the group",
            )
        inner = dict(names)
        scope = self._scopes
        self._scopes += 1
        for index, each in enumerate(item.header):
            if not is_plain_field(each):
                raise Misdeclared(
                    "a header has one length", key=f"{key}.header[{index}]", remedy="Give it a fixed size"
                )
            self._know_field(scope, each, inner, f"{key}.header[{index}]")
        header = {name: known for name, known in inner.items() if name not in names}
        for role, name in (("tag", item.tag), ("length", item.length), ("number", item.number)):
            if name is not None and name not in header:
                raise Misdeclared(
                    f"the header has no field {name!r}", key=f"{key}.{role}", remedy=f"It has: {', '.join(header)}"
                )
            if name is not None:
                self._local(name, header, f"{key}.{role}", "count")
        bodies = {}
        for tag_number, items in item.items.items():
            place = f"{key}.items.{tag_number}"
            _case_value(header[item.tag].spec, tag_number, place)
            bodies[tag_number] = self.body(items, inner, place, given, of_frame=True, is_optional=True)
            self.left_out.update(left_out(bodies[tag_number]))
        _check_numbered(given, names, key)
        self.numbered.update(given)
        return TlvStep(item, _run(scope, item.header), bodies)

    def _encrypted(
        self,
        item: Encrypted,
        names: dict[str, _Known],
        key: str,
        given: _Given,
        of_frame: bool,
        is_optional: bool,
    ) -> EncryptedStep:
        nonce = tuple(self._bytes_of(part, names, f"{key}.nonce[{index}]") for index, part in enumerate(item.nonce))
        aad = tuple(self._bytes_of(part, names, f"{key}.aad[{index}]") for index, part in enumerate(item.aad))
        tag = None
        if item.tag is not None:
            tag = self._bytes_of(item.tag, names, f"{key}.tag")
            spec = names[item.tag].spec
            if not isinstance(spec, BytesField) or spec.size_bytes != item.tag_bytes:
                raise Misdeclared(
                    f"{item.tag!r} cannot hold the tag", key=f"{key}.tag", remedy=f"Name {item.tag_bytes} `bytes`"
                )
        nonce_bytes = sum(_size_of(names[part.name].spec) if part.local else len(part.fixed) for part in nonce)
        possible = NONCE_BYTES[item.algorithm]
        if nonce_bytes not in possible:
            some = f"{possible[0]} to {possible[-1]}" if len(possible) > 1 else str(possible[0])
            raise Misdeclared(
                f"the nonce has {nonce_bytes} bytes", key=f"{key}.nonce", remedy=f"{item.algorithm} takes {some}"
            )
        body = self.body(item.fields, names, f"{key}.fields", given, of_frame=of_frame, is_optional=is_optional)
        return EncryptedStep(item, nonce, aad, tag, body)


def _has_bytes(spec: PlanOutput | None) -> bool:
    return spec is not None and not isinstance(spec, Group | Array | Computed | BitField) and spec.is_sized


def _size_of(spec: PlanOutput) -> int:
    return 0 if isinstance(spec, Group | Array | Computed | BitField) else spec.size_bytes


def _run(scope: int, fields: Sequence[AnyField]) -> Run:
    slots: list[Slot] = []
    at = 0
    for each in fields:
        slots.append(Slot(each, at, at + each.size_bytes))
        at = slots[-1].end
    return Run(scope, tuple(slots), at)


def _join_given(given: _Given, more: _Given, key: str) -> None:
    """Add the values of the next item of a list; raises `Misdeclared` if they have a name of those before."""
    for name, specs in more.items():
        if any(map(_is_value, specs)) and any(map(_is_value, given.get(name, ()))):
            raise Misdeclared(f"{name!r} is there twice", key=key, remedy=f"For instance: {name}_2")
        given.setdefault(name, []).extend(specs)


def _check_numbered(given: _Given, names: _Names, key: str) -> None:
    """Refuse a name that a value of tagged items has when its item comes again."""
    for name in (*given, *names):
        found = _NUMBERED.fullmatch(name)
        if found is not None and found[1] in given:
            raise Misdeclared(
                f"{name!r} is also what {found[1]!r} is called when its item comes again",
                key=f"{key}.items",
                remedy=f"Give it a name without a number at its end, for instance: {found[1]}_b",
            )


def _is_value(spec: PlanOutput) -> bool:
    return spec.emit and not spec.is_constant


def _bounds(steps: Iterable[Step]) -> tuple[int, int | None]:
    """The fewest and the most bytes that steps take; None for as many as fit."""
    least = 0
    most: int | None = 0
    for step in steps:
        low, high = _step_bounds(step)
        least += low
        most = None if most is None or high is None else most + high
    return least, most


def _step_bounds(step: Step) -> tuple[int, int | None]:
    match step:
        case Run():
            return step.size_bytes, step.size_bytes
        case When():
            return 0, step.body.most_bytes
        case GroupStep():
            return step.body.least_bytes, step.body.most_bytes
        case ArrayStep():
            if isinstance(step.count, int):
                most = step.body.most_bytes
                return step.count * step.body.least_bytes, None if most is None else step.count * most
            return len(step.mark or b""), None
        case SwitchStep():
            bodies = [body for _, body in step.cases] + ([step.default] if step.default is not None else [])
            longest = [body.most_bytes for body in bodies]
            most = None if None in longest else max(each for each in longest if each is not None)
            return min(body.least_bytes for body in bodies), most
        case ComputedStep() | RequireStep():
            return 0, 0
        case PlainStep():
            return step.body.least_bytes, step.body.most_bytes
        case EncryptedStep():
            return (step.spec.tag_bytes if step.tag is None else 0) + step.body.least_bytes, None
        case Variable() | TlvStep():
            return 0, None


def _case_value(spec: PlanOutput, case: bool | int | str, key: str) -> Scalar:
    """The value of the field that a case is about."""
    wanted: Scalar = case
    if isinstance(spec, WholeNumber):
        if spec.is_bool:
            wanted = {"true": True, "false": False}.get(str(case).lower(), case)
        elif spec.enum:
            wanted = case if isinstance(case, int) and not isinstance(case, bool) else str(case)
        elif isinstance(case, str) and case.lstrip("-").isdecimal():
            wanted = int(case)
    if isinstance(spec, Group | Array | Computed):
        return wanted
    try:
        match spec:
            case WholeNumber():
                found = spec.value_of(spec.raw_of(wanted, exact=True))
            case FloatField():
                found = spec.value_of(spec.raw_of(wanted, exact=True))
            case _:
                found = spec.value_of(spec.raw_of(wanted))
    except CodecError as error:
        raise Misdeclared(error.what, key=key, remedy=error.remedy) from error
    return found if isinstance(found, bool | int | float | str) else wanted
