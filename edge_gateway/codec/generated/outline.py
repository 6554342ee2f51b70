"""The values of a frame as a tree: which names there are, which of them always, and what is in groups and lists.

Schemas and models follow from this and from nothing else. It goes along the plan of a frame as the decoder does, so it
says of every value what the decoder can give.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from edge_gateway.cel import BOOL, INT, STRING, UINT
from edge_gateway.codec.fixed_run import parts_of
from edge_gateway.codec.generated.shapes import (
    ANY_TEXT,
    ListShape,
    MappingShape,
    Meaning,
    Member,
    NumberShape,
    Shape,
    TextShape,
    TruthShape,
    meaning_of,
)
from edge_gateway.codec.profile import Frame, Profile
from edge_gateway.codec.structure.plan import (
    ArrayStep,
    Body,
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
from edge_gateway.codec.structure.planner import plan_frame
from edge_gateway.codec.text import TextFrame
from edge_gateway.codec.text.columns import AnyColumn, ArrayColumn, ChoiceColumn, GroupColumn, NamedColumn


def plan_of(profile: Profile, frame_name: str) -> Plan | None:
    """A frame of the profile as a plan, even if each of its fields has its own place; None for one of text."""
    layout, frame = profile.layouts[frame_name], profile.frames[frame_name]
    if isinstance(layout, Plan):
        return layout
    return plan_frame(frame_name, frame.endian, frame.fields, frame.checksum) if isinstance(frame, Frame) else None


def outline(profile: Profile, frame_name: str) -> MappingShape:
    """What is in the values of a frame of the profile."""
    frame, plan = profile.frames[frame_name], plan_of(profile, frame_name)
    found: Iterable[Member] = ()
    if plan is not None:
        found = _members_of(plan.body)
    elif isinstance(frame, TextFrame):
        found = _members_of_text(frame)
    roles = (profile.identity, profile.sequence, None if plan is None else plan.check_holder)
    members = []
    for member in _merged(found):
        if member.name not in roles or member.is_numbered:
            members.append(member)
        elif member.can_come_again:
            # Only the first is the address or the counter; there is no value without a number.
            members.append(member._replace(is_always_there=False, can_come_again=False, is_numbered=True))
    return MappingShape(tuple(members))


def _members_of(body: Body) -> Iterator[Member]:
    """The values that a list of items gives to the list it stands in, one after the other."""
    for step in (*body.steps, *([body.tail] if body.tail is not None else [])):
        yield from _members_of_step(step)


def _members_of_step(step: Step) -> Iterator[Member]:
    match step:
        case Run():
            for part in (part for slot in step.slots for part in parts_of(slot.field)):
                if part.emit and not part.is_constant:
                    yield Member(part.name, (meaning_of(part),))
        case Variable():
            if step.spec.emit:
                yield Member(step.spec.name, (meaning_of(step.spec),))
        case When():
            for member in _merged(_members_of(step.body)):
                yield member._replace(is_always_there=False)
        case GroupStep():
            if step.spec.emit:
                inner = MappingShape(tuple(_merged(_members_of(step.body))))
                yield Member(step.spec.name, (Meaning(inner, description=step.spec.description),))
        case ArrayStep():
            if step.spec.emit:
                yield Member(step.spec.name, (Meaning(_list_shape(step), description=step.spec.description),))
        case SwitchStep():
            yield from _members_of_switch(step)
        case TlvStep():
            yield from _members_of_items(step)
        case ComputedStep():
            if step.spec.emit:
                yield Member(step.spec.name, (_computed(step),))
        case EncryptedStep() | PlainStep():
            yield from _members_of(step.body)
        case RequireStep():
            return


def _list_shape(step: ArrayStep) -> ListShape:
    # An element is one item, so its body gives one value.
    (element,) = _members_of(step.body)
    (meaning,) = element.meanings
    return ListShape(meaning, step.count, step.count) if isinstance(step.count, int) else ListShape(meaning, 0, None)


def _members_of_switch(step: SwitchStep) -> Iterator[Member]:
    bodies = [body for _, body in step.cases] + ([] if step.default is None else [step.default])
    ways = [_merged(_members_of(body)) for body in bodies]
    always = set.intersection(*({member.name for member in way if member.is_always_there} for way in ways))
    for member in (member for way in ways for member in way):
        yield member._replace(is_always_there=member.name in always)


def _members_of_items(step: TlvStep) -> Iterator[Member]:
    is_numbered = step.spec.number is not None
    for body in step.bodies.values():
        for member in _merged(_members_of(body)):
            yield member._replace(
                is_always_there=False, can_come_again=not is_numbered, is_numbered=is_numbered or member.is_numbered
            )


def _computed(step: ComputedStep) -> Meaning:
    spec, given = step.spec, step.expression.checked.type.present
    shape: Shape
    if given == BOOL:
        shape = TruthShape()
    elif given == STRING:
        shape = TextShape(ANY_TEXT)
    else:
        bounds = (None, None) if spec.valid is None else (spec.valid.minimum, spec.valid.maximum)
        least, most = (None if end is None else float(end) for end in bounds)
        shape = NumberShape(given in (INT, UINT), least, most)
    return Meaning(shape, True, spec.unit, spec.description)


def _members_of_text(frame: TextFrame) -> Iterator[Member]:
    for label, columns in frame.lines_of_columns.items():
        for member in _members_of_columns(columns):
            # A label that is not in a block gives no values.
            yield member if not label else member._replace(is_always_there=False)


def _members_of_columns(columns: Sequence[AnyColumn]) -> Iterator[Member]:
    for column in columns:
        if isinstance(column, ChoiceColumn):
            for way in _members_of_columns(column.of):
                yield way._replace(is_always_there=False)
        elif column.emit and not column.is_constant:
            yield Member(column.name, (_meaning_of_column(column),))


def _meaning_of_column(column: NamedColumn) -> Meaning:
    match column:
        case GroupColumn():
            inner = MappingShape(tuple(_members_of_columns(column.columns)))
            return Meaning(inner, description=column.description)
        case ArrayColumn():
            element = _meaning_of_column(column.of)
            least, most = column.count_range
            if column.skip_empty:
                element, least = element._replace(can_be_null=False), 0
            return Meaning(ListShape(element, 0 if column.optional else least, most), description=column.description)
        case _:
            return meaning_of(column)


def _merged(members: Iterable[Member]) -> list[Member]:
    """Each name once, with all that it can mean."""
    merged: dict[tuple[str, bool], Member] = {}
    for member in members:
        key = (member.name, member.is_numbered)
        before = merged.get(key)
        if before is None:
            merged[key] = member
            continue
        merged[key] = before._replace(
            meanings=tuple(dict.fromkeys((*before.meanings, *member.meanings))),
            is_always_there=before.is_always_there or member.is_always_there,
            can_come_again=before.can_come_again or member.can_come_again,
        )
    return list(merged.values())
