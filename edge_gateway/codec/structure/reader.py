"""A planned frame read step by step, with a line about each, for a person and for the reason of a reject.

It follows the plan as the generated source does and shares nothing else with it, so that the two can be held against
each other: a frame is taken by both or by neither, with the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

from edge_gateway.cel import EvaluationError
from edge_gateway.codec.fields import IntegerField, NamedField, TextField
from edge_gateway.codec.fixed_run import parts_of
from edge_gateway.codec.layout import Slot
from edge_gateway.codec.payload_keys import PayloadKeys
from edge_gateway.codec.rows import Row, checksum_row, missing, slot_flaw, slot_rows
from edge_gateway.codec.sealed import PayloadSeal
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
    left_out,
)
from edge_gateway.codec.structure.source import join_items, number_items
from edge_gateway.records import Value

Known: TypeAlias = dict[str, Value]
"""The values of fields so far, by their locals of the plan."""


class Read(NamedTuple):
    """What became of a frame."""

    rows: list[Row]
    reason: str
    """Why it is rejected; empty if it is not."""
    address: int | str | None
    sequence: int | None
    values: Mapping[str, Value]
    version: int | None


class _Misfit(Exception):
    """The frame goes on with something that does not fit.

    Args:
        reason: the word for a reject.
        is_final: nothing around it can go on without it.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_final = is_final


class _Span:
    """Bytes, and how far they are read."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def inner(self, end: int) -> _Span:
        return _Span(self.data, self.at, end)


def read_frame(plan: Plan, frame: bytes, identity: str | None, sequence: str | None, keys: PayloadKeys) -> Read:
    """Read a frame as the one it was planned as, as far as it goes.

    Args:
        plan: of the frame.
        frame: any bytes.
        identity: the field with the device's address.
        sequence: the field with its counter.
        keys: of encrypted payloads.
    """
    reader = _Reader(plan, identity, sequence, keys)
    return reader.read(frame)


class _Reader:
    def __init__(self, plan: Plan, identity: str | None, sequence: str | None, keys: PayloadKeys) -> None:
        self._plan = plan
        self._roles = {field: role for role, field in (("address", identity), ("sequence", sequence)) if field}
        self._keys = keys
        self._rows: list[Row] = []
        self._held: dict[str, int | str | None] = {"address": None, "sequence": None}
        self._known: Known = {}
        self._bytes: dict[str, bytes] = {}
        self._seen: dict[str, int] = {}

    def read(self, frame: bytes) -> Read:
        plan = self._plan
        check = plan.placed_check(len(frame)) if len(frame) >= plan.least_bytes else None
        reason = ""
        if not plan.admits_length(len(frame)):
            reason = "length"
        elif not plan.has_constants(frame):
            reason = "unknown-frame"
        elif check is not None and not check.holds(frame):
            reason = "checksum"
        values: dict[str, Value] = {}
        span = _Span(frame, 0, len(frame) - plan.check_behind_bytes)
        version: int | None = None
        try:
            self._body(plan.body, span, values, values, is_top=True)
            version = self._version()
            if span.at < span.end and (plan.version is None or (version or 0) <= plan.version[1]):
                extra = frame[span.at : span.end]
                note = f"{len(extra)} bytes more than this frame has"
                self._rows.append(Row(span.at, span.end, extra.hex(" "), "", None, None, note))
                reason = reason or "length"
        except _Misfit as misfit:
            reason = reason or misfit.reason
        if check is not None:
            self._tell_check(checksum_row(check, frame))
        for name, role in self._roles.items():
            if name in values:
                # It stands in an item that a frame can be without, which gives it with its other values.
                found = values.pop(name)
                self._held[role] = found if isinstance(found, int | str) else None
        address, sequence = self._held["address"], self._held["sequence"]
        return Read(
            self._rows,
            reason,
            address,
            sequence if isinstance(sequence, int) else None,
            {} if reason else values,
            version,
        )

    def _tell_check(self, told: Row) -> None:
        """Say of the check whether it is right: in place of the field that holds it, or behind all."""
        for index, row in enumerate(self._rows):
            if (row.start, row.field) == (told.start, told.field):
                self._rows[index] = told
                return
        self._rows.append(told)

    def _version(self) -> int | None:
        if self._plan.version is None:
            return None
        found = self._known.get(self._plan.version[0])
        return found if isinstance(found, int) else None

    def _misfit(self, start: int, end: int, note: str, reason: str) -> _Misfit:
        self._rows.append(Row(start, end, "", "", None, None, f"rejected: {note}"))
        return _Misfit(reason)

    @contextmanager
    def _told_as(self, name: str, place: str) -> Iterator[None]:
        """Tell of fields that are read now where they stand, in place of a name."""
        first_row = len(self._rows)
        try:
            yield
        finally:
            self._rename(first_row, name, place)

    def _rename(self, first_row: int, name: str, place: str) -> None:
        """Give another name to a field in the rows from `first_row` on, and to what is in it."""
        for index, row in enumerate(self._rows[first_row:], first_row):
            behind = row.field.removeprefix(name)
            if row.field and row.field.startswith(name) and (not name or behind[:1] in ("", ".", "[")):
                self._rows[index] = row._replace(field=place + behind)

    # --- bodies ------------------------------------------------------------------------------------------------------

    def _body(
        self, body: Body, span: _Span, values: dict[str, Value], frame_values: dict[str, Value], *, is_top: bool = False
    ) -> None:
        inner, tail_values, tail_rows = span, dict[str, Value](), list[Row]()
        if body.tail is not None:
            inner = span.inner(span.end - body.tail.size_bytes)
            if inner.end < inner.at:
                raise self._short(span, body.tail.slots[0].field.name, body.tail.size_bytes)
            before = len(self._rows)
            tail_values = self._run(body.tail, _Span(span.data, inner.end, span.end), is_top=is_top)
            tail_rows = self._rows[before:]
            del self._rows[before:]
        try:
            for step in body.steps:
                self._step(step, inner, values, frame_values, is_top=is_top)
        finally:
            self._rows += tail_rows
        if body.tail is not None:
            if inner.at != inner.end:
                raise self._misfit(inner.at, inner.end, "bytes that no field takes", "length")
            values.update(tail_values)
            span.at = span.end

    def _short(self, span: _Span, name: str, size_bytes: int) -> _Misfit:
        data = span.data[span.at : max(span.at, span.end)]
        self._rows.append(Row(span.at, span.at + len(data), data.hex(" "), name, None, None, missing(data, size_bytes)))
        return _Misfit("length")

    def _step(
        self, step: Step, span: _Span, values: dict[str, Value], frame_values: dict[str, Value], *, is_top: bool = False
    ) -> None:
        match step:
            case Run():
                values.update(self._run(step, span, is_top=is_top))
            case Variable():
                self._variable(step, span, values)
            case When():
                for inner in step.body.steps:
                    self._forget(inner)
                try:
                    holds = bool(step.condition.evaluate(self._named(step.condition.locals)))
                except EvaluationError as error:
                    raise self._misfit(
                        span.at, span.at, f"the condition has no result: {error.what}", "value"
                    ) from error
                if holds:
                    self._body(step.body, span, values, frame_values, is_top=is_top)
            case GroupStep():
                mapping: dict[str, Value] = {}
                with self._told_as("", f"{step.spec.name}."):
                    self._body(step.body, span, mapping, frame_values)
                self._give(step.scope, step.spec.name, mapping, values if step.spec.emit else None)
            case ArrayStep():
                self._array(step, span, values, frame_values)
            case SwitchStep():
                chosen = self._known.get(step.on)
                body = next((body for case, body in step.cases if case == chosen), step.default)
                if body is None:
                    raise self._misfit(span.at, span.at, f"nothing is declared for {chosen!r}", "value")
                self._body(body, span, values, frame_values)
            case TlvStep():
                self._tlv(step, span, frame_values)
            case ComputedStep():
                self._computed(step, span, values)
            case EncryptedStep():
                self._encrypted(step, span, values, frame_values)
            case PlainStep():
                if self._keys(step.spec.key, self._held["address"]) is not None:
                    raise self._misfit(span.at, span.end, "in clear, from a device that has a key", "unsealed")
                self._body(step.body, span, values, frame_values)
            case RequireStep():
                try:
                    holds = bool(step.expression.evaluate(self._named(step.expression.locals)))
                except EvaluationError:
                    holds = False
                if not holds:
                    raise self._misfit(span.at, span.at, f"not true: {step.expression.text}", "value")

    def _forget(self, step: Step) -> None:
        match step:
            case Run():
                for slot in step.slots:
                    for part in (slot.field, *parts_of(slot.field)):
                        self._known[f"v{step.scope}_{part.name}"] = None
            case Variable() | GroupStep() | ArrayStep() | ComputedStep():
                self._known[f"v{step.scope}_{step.spec.name}"] = None
            case _:
                return

    def _named(self, locals_: Mapping[str, str]) -> dict[str, Value]:
        return {name: self._known.get(local) for name, local in locals_.items()}

    def _give(self, scope: int, name: str, value: Value, values: dict[str, Value] | None) -> None:
        self._known[f"v{scope}_{name}"] = value
        if values is not None:
            values[name] = value

    # --- steps -------------------------------------------------------------------------------------------------------

    def _run(self, run: Run, span: _Span, *, is_top: bool = False) -> dict[str, Value]:
        endian, values = self._plan.endian, dict[str, Value]()
        if span.at + run.size_bytes > span.end:
            for slot in run.slots:
                placed = slot._replace(start=slot.start + span.at, end=slot.end + span.at)
                self._rows += slot_rows(endian, placed, span.data[: span.end])
            raise _Misfit("length")
        flawed = False
        for slot in run.slots:
            placed = slot._replace(start=slot.start + span.at, end=slot.end + span.at)
            self._rows += slot_rows(endian, placed, span.data)
            data = span.data[placed.start : placed.end]
            constant = slot.constant(endian)
            flawed = flawed or slot_flaw(endian, placed, span.data) or constant not in (None, data)
            self._slot(slot, run.scope, data, values, is_top=is_top)
        if flawed:
            raise _Misfit("value")
        span.at += run.size_bytes
        return values

    def _slot(self, slot: Slot, scope: int, data: bytes, values: dict[str, Value], *, is_top: bool) -> None:
        spec, endian = slot.field, self._plan.endian
        self._bytes[f"v{scope}_{spec.name}"] = data
        if isinstance(spec, IntegerField) and spec.bits:
            number = spec.unpack(data, endian)
            self._known[f"v{scope}_{spec.name}"] = number
            for part in spec.bits:
                self._hand(part, scope, part.value_of(part.taken_from(number)), values, is_top=is_top)
        else:
            self._hand(spec, scope, spec.value_in(data, endian), values, is_top=is_top)

    def _hand(self, spec: NamedField, scope: int, value: Value, values: dict[str, Value], *, is_top: bool) -> None:
        role = self._roles.get(spec.name) if is_top else None
        if role is not None:
            self._held[role] = value if isinstance(value, int | str) else None
        is_check = is_top and spec.name == self._plan.check_holder
        is_constant = is_check or spec.is_constant
        self._give(scope, spec.name, value, values if spec.emit and not is_constant and role is None else None)

    def _variable(self, step: Variable, span: _Span, values: dict[str, Value]) -> None:
        spec, until = step.spec, span.end
        if step.length is not None:
            length = self._known.get(step.length)
            until = span.at + (length if isinstance(length, int) else 0)
            if until > span.end or until < span.at:
                raise self._short(span, spec.name, until - span.at)
        raw = spec.unpack(span.data[span.at : until], self._plan.endian)
        flaw = spec.flaw_of(raw) if isinstance(spec, TextField) else ""
        value = spec.value_of(raw)
        note = f"rejected: {flaw}" if flaw else ""
        self._rows.append(Row(span.at, until, span.data[span.at : until].hex(" "), spec.name, value, None, note))
        span.at = until
        if flaw:
            raise _Misfit("value")
        self._give(step.scope, spec.name, value, values if spec.emit else None)

    def _array(self, step: ArrayStep, span: _Span, values: dict[str, Value], frame_values: dict[str, Value]) -> None:
        elements: list[Value] = []
        count = step.count if not isinstance(step.count, str) else self._known.get(step.count)
        size_bytes = count * step.body.least_bytes if isinstance(count, int) else 0
        if not 0 <= size_bytes <= span.end - span.at:
            raise self._misfit(span.at, span.end, f"{count} elements do not fit", "length")
        name = step.spec.of.name if hasattr(step.spec.of, "name") else ""
        try:
            while self._goes_on(step, span, count, len(elements)):
                element: dict[str, Value] = {}
                with self._told_as(name, f"{step.spec.name}[{len(elements)}]"):
                    self._body(step.body, span, element, frame_values)
                elements.append(element.get(name))
        except _Misfit as misfit:
            raise _Misfit(misfit.reason, is_final=True) from misfit
        if step.mark is not None:
            end = span.at + len(step.mark)
            self._rows.append(Row(span.at, end, step.mark.hex(" "), "", None, None, f"the end of {step.spec.name}"))
            span.at = end
        self._give(step.scope, step.spec.name, elements, values if step.spec.emit else None)

    @staticmethod
    def _goes_on(step: ArrayStep, span: _Span, count: Value, done: int) -> bool:
        if isinstance(count, int):
            return done < count
        if step.mark is not None:
            return not span.data.startswith(step.mark, span.at, span.end)
        return span.at < span.end

    def _tlv(self, step: TlvStep, span: _Span, frame_values: dict[str, Value]) -> None:
        spec, scope = step.spec, step.header.scope
        while span.at < span.end:
            try:
                self._run(step.header, span)
                inner = span
                if spec.length is not None:
                    length = self._known.get(f"v{scope}_{spec.length}")
                    end = span.at + (length if isinstance(length, int) else 0)
                    if not span.at <= end <= span.end:
                        raise self._misfit(span.at, span.end, f"an item of {length} bytes does not fit", "length")
                    inner = span.inner(end)
                    span.at = end
            except _Misfit as misfit:
                if spec.unknown == "stop":
                    break
                raise _Misfit(misfit.reason, is_final=True) from misfit
            item: dict[str, Value] = {}
            first_row = len(self._rows)
            try:
                body = self._item(step, inner, item, frame_values)
            except _Misfit as misfit:
                if misfit.is_final or spec.unknown == "reject":
                    raise _Misfit(misfit.reason, is_final=True) from misfit
                if spec.unknown == "stop":
                    break
                continue
            if spec.number is None:
                join_items(frame_values, item, self._seen, tuple(left_out(body)))
                numbers = {name: self._seen[name] for name in item if self._seen[name] > 1}
            else:
                found = self._known.get(f"v{scope}_{spec.number}")
                number = found if isinstance(found, int) else 0
                number_items(frame_values, item, number)
                numbers = dict.fromkeys(item, number)
            for name, number in numbers.items():
                self._rename(first_row, name, f"{name}_{number}")
        if spec.unknown == "stop" and span.at < span.end:
            left = span.data[span.at : span.end]
            self._rows.append(Row(span.at, span.end, left.hex(" "), "", None, None, "not read"))
        span.at = span.end

    def _item(self, step: TlvStep, span: _Span, item: dict[str, Value], frame_values: dict[str, Value]) -> Body:
        tag = self._known.get(f"v{step.header.scope}_{step.spec.tag}")
        body = step.bodies.get(tag) if isinstance(tag, int) else None
        if body is None:
            raise self._misfit(span.at, span.at, f"no item has the tag {tag!r}", "value")
        self._body(body, span, item, frame_values)
        if step.spec.length is not None and span.at != span.end:
            raise self._misfit(span.at, span.end, "bytes that no field of the item takes", "length")
        return body

    def _computed(self, step: ComputedStep, span: _Span, values: dict[str, Value]) -> None:
        spec, note = step.spec, f"computed: {step.expression.text}"
        try:
            value: Value = step.expression.evaluate(self._named(step.expression.locals))  # type: ignore[assignment]  # read_value() lets only scalars in
        except EvaluationError as error:
            value, note = None, f"null: {error.what}"
        if isinstance(value, float) and not math.isfinite(value):
            value, note = None, "null: not a finite number"
        if spec.valid is not None and isinstance(value, int | float):
            least, most = spec.valid.minimum, spec.valid.maximum
            if (least is not None and value < float(least)) or (most is not None and value > float(most)):
                if spec.valid.otherwise == "reject":
                    raise self._misfit(span.at, span.at, f"{spec.name} is {value}, valid is {spec.valid}", "value")
                value, note = None, f"null: valid is {spec.valid}"
        self._rows.append(Row(span.at, span.at, "", spec.name, value, spec.unit, note))
        self._give(step.scope, spec.name, value, values if spec.emit else None)

    def _encrypted(
        self, step: EncryptedStep, span: _Span, values: dict[str, Value], frame_values: dict[str, Value]
    ) -> None:
        spec = step.spec
        key = self._keys(spec.key, self._held["address"])
        data = span.data[span.at : span.end]
        self._rows.append(Row(span.at, span.end, data.hex(" "), "", None, None, f"encrypted, {spec.algorithm}"))
        if not key:
            raise self._misfit(span.at, span.end, f"no key {spec.key!r} is known for this device", "no-key")
        tag = self._joined([step.tag]) if step.tag is not None else data[-spec.tag_bytes :]
        if step.tag is None:
            data = data[: -spec.tag_bytes]
        plain = None
        if len(tag) == spec.tag_bytes:
            seal = PayloadSeal(spec.algorithm, spec.tag_bytes)
            plain = seal.open(key, self._joined(step.nonce), data, tag, self._joined(step.aad))
        if plain is None:
            raise self._misfit(span.at, span.end, f"it does not open with the key {spec.key!r}", "decryption")
        inner = _Span(plain, 0, len(plain))
        first_row = len(self._rows)
        try:
            self._body(step.body, inner, values, frame_values)
            if inner.at != inner.end:
                raise self._misfit(inner.at, inner.end, "bytes that no field takes", "length")
        finally:
            self._rows[first_row:] = [row._replace(seals=row.seals + 1) for row in self._rows[first_row:]]
        span.at = span.end

    def _joined(self, parts: Sequence[BytesOf]) -> bytes:
        found = [part.fixed if not part.local else self._bytes[part.local] for part in parts]
        return b"".join(data[::-1] if part.reversed else data for part, data in zip(parts, found, strict=True))
