"""What must hold of a profile's polls, beyond what each of them says alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edge_gateway.codec.fields import Misdeclared
from edge_gateway.codec.lookalikes import can_be_told_apart
from edge_gateway.codec.polling import Poll
from edge_gateway.codec.structure.items import Array, Computed, Group
from edge_gateway.codec.text.columns import ArrayColumn, GroupColumn, PlainColumn
from edge_gateway.errors import CodecError
from edge_gateway.records import Scalar

if TYPE_CHECKING:  # a profile checks itself with this module
    from edge_gateway.codec.profile import Profile


def check_polls(profile: Profile) -> None:
    """Raise `Misdeclared` where a poll cannot be sent, or its answer not be known."""
    for name, poll in profile.polls.items():
        try:
            _check_request(profile, poll)
            _check_answers(profile, poll)
            _check_start(profile, poll)
        except Misdeclared as wrong:
            # Of what a register table becomes, only its `start` is not its own.
            is_of_table = profile.modbus is not None and poll.start == profile.modbus.start and wrong.key == "start"
            place = "modbus.start" if is_of_table else f"polls.{name}.{wrong.key}"
            raise Misdeclared(wrong.what, key=place, remedy=wrong.remedy) from wrong
    if profile.polls:
        for name, command in profile.commands.items():
            if command.answer is not None:
                _check_apart(
                    profile, (command.answer.frame, *command.answer.refused_by), f"commands.{name}.answer.refused_by"
                )


def _check_request(profile: Profile, poll: Poll) -> None:
    _check_role(profile, poll.frame, "request", "frame")
    settable = {name for name in profile.values_of(poll.frame) if name != profile.identity}
    for name in settable - poll.set.keys():
        raise Misdeclared(f"nothing says what {name!r} holds", key="set", remedy=f"For instance: {name}: 0")
    _check_values(profile, poll.frame, poll.set, "set")


def _check_answers(profile: Profile, poll: Poll) -> None:
    _check_role(profile, poll.answer, "sample", "answer")
    possible = [poll.answer]
    if poll.nothing_new is not None:
        _check_role(profile, poll.nothing_new.frame, "answer", "nothing_new.frame")
        _check_values(profile, poll.nothing_new.frame, poll.nothing_new.match, "nothing_new.match")
        possible.append(poll.nothing_new.frame)
    for index, name in enumerate(poll.refused_by):
        _check_role(profile, name, "answer", f"refused_by[{index}]")
        possible.append(name)
    _check_apart(profile, possible, "answer")


def _check_start(profile: Profile, poll: Poll) -> None:
    if poll.start is None:
        return
    if poll.start not in profile.commands:
        known = ", ".join(profile.commands) or "none"
        raise Misdeclared(f"there is no command {poll.start!r}", key="start", remedy=f"Commands: {known}")
    if profile.commands[poll.start].arguments:
        raise Misdeclared(
            f"{poll.start!r} needs arguments, and nobody is there to give them",
            key="start",
            remedy="Declare a command whose `set` says everything",
        )


def _check_role(profile: Profile, frame: str, role: str, key: str) -> None:
    names = [name for name, each in profile.frames.items() if each.role == role]
    if frame not in names:
        remedy = f"Frames with `role: {role}`: {', '.join(names) or 'none'}"
        raise Misdeclared(f"{frame!r} is no frame with `role: {role}`", key=key, remedy=remedy)


def _check_values(profile: Profile, frame: str, values: dict[str, Scalar], key: str) -> None:
    fields = profile.values_of(frame)
    for name, value in values.items():
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise Misdeclared(f"there is no value {name!r}", key=f"{key}.{name}", remedy=f"Values: {known}")
        spec = fields[name]
        if isinstance(spec, Group | Array | Computed | GroupColumn | ArrayColumn):
            raise Misdeclared(f"{name!r} is not one value", key=f"{key}.{name}", remedy="Name a field of one")
        try:
            if isinstance(spec, PlainColumn):
                spec.write(value, exact=True)
            else:
                spec.raw_of(value, exact=True)
        except CodecError as error:
            raise Misdeclared(error.what, key=f"{key}.{name}", remedy=error.remedy) from error


def _check_apart(profile: Profile, frames: Iterable[str], key: str) -> None:
    layouts = profile.layouts
    met: list[str] = []
    for name in dict.fromkeys(frames):
        for other in met:
            if not can_be_told_apart(layouts[name], layouts[other]):
                raise Misdeclared(
                    f"{name!r} and {other!r} may answer the same request, and look the same",
                    key=key,
                    remedy="Give both a field with `const` at the same place and different numbers",
                )
        met.append(name)
