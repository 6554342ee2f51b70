"""Commands to bytes, and answers to outcomes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.codec import compile_profile, load_profile, parse_profile
from edge_gateway.errors import CodecError, CommandInvalid
from edge_gateway.records import Answer, CommandStatus, Value

REFERENCE = compile_profile(load_profile("reference-climate"))

VALVE = compile_profile(
    parse_profile(
        """
        name: valve
        version: 1
        title: A valve with every kind of argument and a hardware address
        source: {document: none}
        framing: {kind: slip}
        identity: mac
        frames:
          set:
            role: request
            endian: big
            fields:
              - {name: mac, type: bytes, length_bytes: 6}
              - {name: opening, type: u16, scale: 0.5, unit: /100, sentinel: 0xffff}
              - {name: gain, type: f32}
              - {name: spare, type: u8, emit: false}
              - name: flags
                type: u8
                bits:
                  - {name: locked, bit: 0}
                  - {name: mode, bit: 4, width: 2, enum: {0: off, 1: auto, 2: "on"}}
            checksum: {algorithm: sum-8}
          state:
            role: sample
            endian: big
            fields:
              - {name: mac, type: bytes, length_bytes: 6}
              - {name: opening, type: u16}
        commands:
          move:
            frame: set
            set:
              opening: {argument: opening}
              gain: {argument: gain}
              locked: {argument: locked}
              mode: {argument: mode}
            arguments:
              opening: {type: number, maximum: 100, unit: /100}
              gain: {type: number}
              locked: {type: boolean}
              mode: {type: text}
        """,
        "valve.yaml",
    )
)
MOVE: dict[str, Value] = {"opening": 12.5, "gain": 1.5, "locked": True, "mode": "auto"}


def test_arguments_go_to_their_fields() -> None:
    """Scaled, float, bit, named and hexadecimal values become the bytes the declaration says; unset fields are 0."""
    request = VALVE.encode_command("move", MOVE, address="0a0b0c0d0e0f")
    body = bytes.fromhex("0a0b0c0d0e0f 0019 3fc00000 00 11")
    assert request.payload == body + bytes([sum(body) & 0xFF])
    assert request.answer_frame is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"opening": 12.3}, "valve move opening: 12.3 is between two steps of the device. Nearest: 12.5"),
        ({"opening": 100.5}, "valve move opening: 100.5 is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"opening": -0.5}, "valve move opening: -0.5 is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"opening": "12"}, "valve move opening: '12' is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"opening": True}, "valve move opening: True is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"opening": None}, "valve move opening: None is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"opening": float("nan")}, "valve move opening: nan is not allowed. Possible: a number from 0.0 to 100 /100"),
        ({"gain": float("inf")}, "valve move gain: inf is not a number. For instance: 1.5"),
        ({"gain": 0.1}, "valve move gain: 0.1 is not exact in f32. Nearest: 0.10000000149011612"),
        ({"gain": 1e39}, "valve move gain: 1e+39 does not fit into f32"),
        ({"locked": 1}, "valve move locked: 1 is not allowed. Possible: true, false"),
        ({"mode": "open"}, "valve move mode: 'open' is not one of the names. Possible: off, auto, on"),
        ({"mode": 1}, "valve move mode: 1 is not allowed. Possible: off, auto, on"),
        ({"mode": "9"}, "valve move mode: '9' does not fit. Possible: 0 to 3"),
        ({"speed": 1}, "valve move: there is no argument 'speed'. Arguments: opening, gain, locked, mode"),
    ],
)
def test_a_wrong_argument_is_named_with_what_would_do(change: dict[str, Value], text: str) -> None:
    """The error names the argument, its value and the possible ones; nothing is sent."""
    with pytest.raises(CommandInvalid) as caught:
        VALVE.encode_command("move", MOVE | change, address="0a0b0c0d0e0f")
    assert str(caught.value) == text


@pytest.mark.parametrize("period_ms", [49, 60_001, 50.5, -1, 2**70])
def test_bounds_of_the_declaration_hold(period_ms: Value) -> None:
    """A period outside its bounds is refused with the value and both bounds."""
    with pytest.raises(CommandInvalid) as caught:
        REFERENCE.encode_command("set-period", {"period_ms": period_ms}, address=7)
    assert str(caught.value) == (
        f"reference-climate set-period period_ms: {period_ms} is not allowed. "
        "Possible: a whole number from 50 to 60000 ms"
    )


def test_a_missing_argument_is_named() -> None:
    """Leaving an argument out says which, and what it could be."""
    with pytest.raises(CommandInvalid, match=r"the argument 'period_ms' is missing. Possible: a whole number from 50"):
        REFERENCE.encode_command("set-period", {}, address=7)


def test_an_unknown_command_names_those_there_are() -> None:
    """A command the profile does not have is refused with the names of those it has."""
    with pytest.raises(CommandInvalid, match=r"no command 'reboot'. Commands: set-period, set-relay, ping"):
        REFERENCE.encode_command("reboot", {}, address=7)


@pytest.mark.parametrize("address", [None, -1, 65_536, "7", 1.5])
def test_an_address_that_does_not_fit_is_refused(address: int | str | None) -> None:
    """Where frames name the device, a command needs an address the field can carry."""
    with pytest.raises(CommandInvalid, match="reference-climate ping address"):
        REFERENCE.encode_command("ping", {}, address=address)


def answer(code: str, status: str, address: int = 7) -> Answer:
    return REFERENCE.decode([REFERENCE.encode("answer", address, None, {"code": code, "status": status})]).answers[0]


def test_an_agreeing_answer_acknowledges() -> None:
    """The device's own answer with the declared success is an acknowledgement and carries the answer's fields."""
    request = REFERENCE.encode_command("set-period", {"period_ms": 500}, address=7)
    result = request.judge(answer("set-period", "done"))
    assert result is not None
    assert result.status is CommandStatus.ACKNOWLEDGED
    assert result.answer == {"code": "set-period", "status": "done"}


@pytest.mark.parametrize("status", ["unknown-command", "bad-argument", "7"])
def test_any_other_answer_refuses(status: str) -> None:
    """An answer without the declared success is a refusal that says what the device said."""
    request = REFERENCE.encode_command("set-period", {"period_ms": 500}, address=7)
    result = request.judge(answer("set-period", status))
    assert result is not None
    assert result.status is CommandStatus.REFUSED
    assert result.detail == f"the device answered: status is {status}"


def test_answers_to_others_are_not_judged() -> None:
    """Another device's answer, another command's, and another kind of frame all leave the request open."""
    request = REFERENCE.encode_command("set-period", {"period_ms": 500}, address=7)
    assert request.judge(answer("set-period", "done", address=8)) is None
    assert request.judge(answer("ping", "done")) is None
    assert request.judge(Answer("other", 7, {"code": "set-period", "status": "done"})) is None


def test_a_command_without_answer_judges_nothing() -> None:
    """What a device never answers is not answered by whatever else it says."""
    request = VALVE.encode_command("move", MOVE, address="0a0b0c0d0e0f")
    assert request.judge(Answer("state", "0a0b0c0d0e0f", {})) is None


@given(
    st.dictionaries(
        st.sampled_from([*MOVE, "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    ),
    st.none() | st.integers() | st.text(),
)
def test_arguments_from_outside_never_break_it(arguments: dict[str, Value], address: int | str | None) -> None:
    """Whatever JSON a hub sends as arguments, the outcome is bytes or CommandInvalid."""
    try:
        assert VALVE.encode_command("move", arguments, address).payload
    except CommandInvalid as error:
        assert error.where  # noqa: PT017 -- both outcomes are allowed; this one has to say where


@pytest.mark.parametrize(
    ("frame", "values", "text"),
    [
        ("smple", {}, "there is no frame 'smple'. Frames: sample, command, answer"),
        ("answer", {"code": "ping"}, "reference-climate answer: the value 'status' is missing"),
        ("answer", {"kind": 1}, "reference-climate answer: there is no value 'kind'. Values: code, status"),
        ("answer", {"code": "ping", "status": None}, "reference-climate answer status: null cannot be sent"),
        ("answer", {"code": "ping", "status": 256}, "reference-climate answer status: 256 does not fit"),
    ],
)
def test_values_that_do_not_fit_a_frame_are_named(frame: str, values: dict[str, Value], text: str) -> None:
    """`encode` names the frame and the value, and what would do."""
    with pytest.raises(CodecError) as caught:
        REFERENCE.encode(frame, 7, None, values)
    assert text in str(caught.value)


def test_a_number_that_means_no_value_is_not_a_measurement() -> None:
    """A value whose raw number is the sentinel is refused, because the receiver would read null."""
    values: dict[str, Value] = {
        "uptime_ms": 0,
        "temperature": -327.68,
        "humidity": 1.0,
        "battery": 1.0,
        "door_open": True,
        "low_battery": True,
        "mode": "idle",
    }
    with pytest.raises(CodecError, match=r"temperature: -327.68 is the code for no value"):
        REFERENCE.encode("sample", 7, 0, values)
