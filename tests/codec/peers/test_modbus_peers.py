"""Modbus from a register table, held against pymodbus: the same bytes for the same request, the same values back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

from edge_gateway.codec import Codec, Profile, compile_profile
from edge_gateway.codec.exchange import PreparedPoll, Verdict
from edge_gateway.codec.modbus import FloatRegister, IntegerRegister, Modbus
from edge_gateway.framing.modbus_rtu import ModbusRtuFramer
from edge_gateway.records import Chunk, CommandStatus

DATATYPE = ModbusClientMixin.DATATYPE
TYPES = {
    "u16": DATATYPE.UINT16,
    "i16": DATATYPE.INT16,
    "u32": DATATYPE.UINT32,
    "i32": DATATYPE.INT32,
    "u64": DATATYPE.UINT64,
    "i64": DATATYPE.INT64,
    "f32": DATATYPE.FLOAT32,
    "f64": DATATYPE.FLOAT64,
}
SERVER_SIDE = FramerRTU(DecodePDU(True))
CLIENT_SIDE = FramerRTU(DecodePDU(False))

units = st.integers(1, 247)
words = st.integers(0, 0xFFFF)
thorough = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def sent_by_pymodbus(pdu: ModbusPDU) -> bytes:
    return bytes(CLIENT_SIDE.buildFrame(pdu))


def profile_of(modbus: dict[str, Any]) -> Profile:
    return Profile.model_validate(
        {"name": "drawn", "version": 1, "title": "Drawn", "source": {"document": "hypothesis"}, "modbus": modbus}
    )


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A register table with holes, several functions, types, word orders and schedules."""
    registers: list[dict[str, Any]] = []
    for function in draw(st.sampled_from([(3,), (4,), (3, 4)])):
        address = draw(st.integers(0, 0xF000))
        for _ in range(draw(st.integers(1, 8))):
            kind = draw(st.sampled_from(sorted(TYPES)))
            size = int(kind[1:]) // 16
            address += draw(st.sampled_from([0, 0, 0, 1, 2, 5]))
            keys: dict[str, Any] = {"name": f"r{len(registers)}", "type": kind, "address": address}
            if draw(st.booleans()) or function == 4:
                keys["function"] = function
            if size > 1 and draw(st.booleans()):
                keys["word_order"] = draw(st.sampled_from(["normal", "swapped"]))
            if draw(st.integers(0, 4)) == 0:
                keys["every_s"] = 60
            registers.append(keys)
            address += size
    return {
        "registers": draw(st.permutations(registers)),
        "max_gap": draw(st.sampled_from([0, 1, 5])),
        "max_count": draw(st.sampled_from([4, 10, 125])),
        "word_order": draw(st.sampled_from(["normal", "swapped"])),
    }


def same(got: Any, expected: Any) -> bool:
    """No number is null; everything else is equal to the last bit."""
    if isinstance(expected, float) and not math.isfinite(expected):
        return got is None
    return bool(got == expected)


def expected_values(modbus: Modbus, start: int, function: int, read: list[int]) -> dict[str, Any]:
    """What pymodbus makes of the registers of one answer."""
    values = {}
    for register in modbus.registers:
        assert isinstance(register, IntegerRegister | FloatRegister)
        at, size = register.address - start, register.size_bytes // 2
        inside = (register.function or modbus.function) == function and 0 <= at <= len(read) - size
        if inside:
            order = register.word_order if "word_order" in register.model_fields_set else modbus.word_order
            swapped = order == "swapped" and size > 1
            values[register.name] = ModbusClientMixin.convert_from_registers(
                read[at : at + size], TYPES[register.type], "little" if swapped else "big"
            )
    return values


@given(tables(), units, st.data())
@thorough
def test_reading_registers_is_the_same(table: dict[str, Any], unit: int, data: st.DataObject) -> None:
    """Pymodbus reads our requests as we mean them and sends the same ones; its answers decode to its own values."""
    profile = profile_of(table)
    assert profile.modbus is not None
    codec = compile_profile(profile)
    seen: set[str] = set()
    for name in profile.polls:
        poll = PreparedPoll(codec, name)
        request = poll.request(unit)
        _, heard = SERVER_SIDE.handleFrame(request, 0, 0)
        assert heard is not None
        request_class, answer_class = (
            (ReadInputRegistersRequest, ReadInputRegistersResponse)
            if heard.function_code == 4
            else (ReadHoldingRegistersRequest, ReadHoldingRegistersResponse)
        )
        assert heard.dev_id == unit
        assert heard.count <= table["max_count"]
        assert request == sent_by_pymodbus(request_class(dev_id=unit, address=heard.address, count=heard.count))

        read = data.draw(st.lists(words, min_size=heard.count, max_size=heard.count))
        answer = sent_by_pymodbus(answer_class(dev_id=unit, registers=read))
        assert poll.longest_answer_bytes == max(len(answer), 5)
        framer = ModbusRtuFramer(0.05, 256)
        framer.encode(request)
        assert framer.feed([Chunk(0.0, answer)]) == [answer], "it ends with its last byte"
        said = poll.judge(answer, unit)
        assert said.verdict is Verdict.ANSWERED
        assert said.sample is not None
        values = said.sample.values
        expected = expected_values(profile.modbus, heard.address, heard.function_code, read)
        assert values.keys() <= expected.keys()
        assert all(same(values[each], expected[each]) for each in values)
        seen |= values.keys()

        refusal = sent_by_pymodbus(ExceptionResponse(heard.function_code, 2, unit))
        assert poll.judge(refusal, unit).detail == f"exception-{heard.function_code}: code is illegal-data-address"
        assert poll.judge(answer, unit % 247 + 1).verdict is Verdict.ANOTHER_ADDRESS
    assert seen == {register["name"] for register in table["registers"]}, "every register is read"


WRITES: dict[str, dict[str, Any]] = {
    "one": {"address": 0x10, "name": "a", "type": "u16"},
    "signed": {"address": 0x11, "name": "b", "type": "i16"},
    "wide": {"address": 0x12, "name": "c", "type": "u32"},
    "wide-swapped": {"address": 0x14, "name": "d", "type": "i32", "word_order": "swapped"},
    "real": {"address": 0x16, "name": "e", "type": "f32"},
    "one-by-sixteen": {"address": 0x18, "name": "f", "type": "u16", "function": 16},
    "always": {"address": 0x19, "name": "g", "type": "u16", "const": 0xFF00},
}
WRITER: Codec = compile_profile(
    profile_of({"registers": [{"address": 0, "name": "x", "type": "u16"}], "writes": WRITES})
)


def whole_numbers(kind: str) -> tuple[int, int]:
    """The least and the greatest of a type like `i32`."""
    bits = int(kind[1:])
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "i" else (0, (1 << bits) - 1)


@pytest.mark.parametrize("name", WRITES)
@given(units, st.data())
@settings(deadline=None, max_examples=40)
def test_writing_registers_is_the_same(name: str, unit: int, data: st.DataObject) -> None:
    """A write is the request pymodbus sends, its answer acknowledges, and an exception refuses."""
    write = WRITES[name]
    kind = write["type"]
    value = data.draw(
        st.floats(width=32, allow_nan=False, allow_infinity=False)
        if kind == "f32"
        else st.integers(
            *(
                (-(1 << int(kind[1:]) - 1), (1 << int(kind[1:]) - 1) - 1)
                if kind[0] == "i"
                else (0, (1 << int(kind[1:])) - 1)
            )
        )
    )
    arguments = {} if "const" in write else {write["name"]: value}
    registers = ModbusClientMixin.convert_to_registers(
        write.get("const", value), TYPES[kind], "little" if "word_order" in write else "big"
    )
    address = write["address"]
    request = WRITER.encode_command(name, arguments, unit)
    single = len(registers) == 1 and "function" not in write
    sent, answered = (
        (
            WriteSingleRegisterRequest(dev_id=unit, address=address, registers=registers),
            WriteSingleRegisterResponse(dev_id=unit, address=address, registers=registers),
        )
        if single
        else (
            WriteMultipleRegistersRequest(dev_id=unit, address=address, registers=registers),
            WriteMultipleRegistersResponse(dev_id=unit, address=address, count=len(registers)),
        )
    )
    assert request.payload == sent_by_pymodbus(sent)
    answer = sent_by_pymodbus(answered)
    framer = ModbusRtuFramer(0.05, 256)
    framer.encode(request.payload)
    assert framer.feed([Chunk(0.0, answer)]) == [answer]
    decode = WRITER.decoder_of(request.answer_frames)
    (heard,) = decode([answer]).answers
    outcome = request.judge(heard)
    assert outcome is not None
    assert outcome.status is CommandStatus.ACKNOWLEDGED
    (refusal,) = decode([sent_by_pymodbus(ExceptionResponse(sent.function_code, 3, unit))]).answers
    outcome = request.judge(refusal)
    assert outcome is not None
    assert outcome.status is CommandStatus.REFUSED


METER = PreparedPoll(
    compile_profile(profile_of({"registers": [{"address": 7, "name": "x", "type": "u32"}], "function": 4})),
    "input-0007",
)


@given(st.binary(max_size=20))
@settings(deadline=None)
def test_arbitrary_bytes_are_judged_and_never_raise(frame: bytes) -> None:
    """Whatever comes after a request is an answer, or has a reason why it is none."""
    heard = METER.judge(frame, 1)
    assert (heard.reject is None) == (heard.verdict in (Verdict.ANSWERED, Verdict.REFUSED))


@given(st.integers(0, 8), st.integers(1, 255))
def test_a_damaged_answer_is_never_taken(place: int, change: int) -> None:
    """One changed byte anywhere in an answer is seen."""
    answer = bytearray(sent_by_pymodbus(ReadInputRegistersResponse(dev_id=1, registers=[0x1234, 0x5678])))
    answer[place] ^= change
    assert METER.judge(bytes(answer), 1).verdict in (Verdict.DAMAGED, Verdict.STRANGE)
