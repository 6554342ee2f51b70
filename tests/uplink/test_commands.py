"""Commands in JSON, whatever way they come."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import CommandInvalid
from edge_gateway.records import Command, CommandResult, CommandStatus
from edge_gateway.uplink.commands import HTTP_STATUS, LARGEST_COMMAND_BYTES, describe_result, parse_command

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=6,
)
_words = st.text(min_size=1)


@given(_words, _words, st.dictionaries(st.text(), _values, max_size=4))
def test_a_command_reads_as_it_was_written(device: str, name: str, arguments: dict[str, Any]) -> None:
    """Any device, command and arguments come through JSON, as bytes and as an object already parsed."""
    document = {"device": device, "command": name, "arguments": arguments}
    expected = Command(device, name, arguments, "here", "7")
    assert parse_command(orjson.dumps(document), source="here", correlation_id="7") == expected
    assert parse_command(document, source="here", correlation_id="7") == expected


def test_arguments_may_be_left_out() -> None:
    """A command without arguments needs no empty object."""
    assert parse_command(b'{"device":"a","command":"b"}', source="s").arguments == {}


@given(st.binary(max_size=200) | _values.map(orjson.dumps))
def test_anything_else_is_invalid_and_nothing_worse(payload: bytes) -> None:
    """Whatever bytes come, they are a command or the one error, with an example of what would do."""
    try:
        command = parse_command(payload, source="s")
    except CommandInvalid as error:
        told = error
    else:
        assert command.device
        return
    assert told.where == "command"
    assert told.remedy.startswith('Send {"device": ')


def test_the_largest_command() -> None:
    """A command has the size limit of a direct method, whatever way it comes."""
    fill = LARGEST_COMMAND_BYTES - len(b'{"device":"a","command":""}')
    parse_command(b'{"device":"a","command":"' + b"x" * fill + b'"}', source="s")
    with pytest.raises(CommandInvalid, match="is larger than 131072 bytes"):
        parse_command(b'{"device":"a","command":"' + b"x" * (fill + 1) + b'"}', source="s")


def test_every_outcome_has_a_number() -> None:
    """No status is left without one, and only what a device agreed to is a success."""
    assert set(HTTP_STATUS) == set(CommandStatus)
    assert [status for status, number in HTTP_STATUS.items() if number < 300] == [
        CommandStatus.ACKNOWLEDGED,
        CommandStatus.SENT,
    ]


def test_an_outcome_in_json() -> None:
    """The documented form."""
    result = CommandResult(CommandStatus.REFUSED, "the device declined", {"status": 2})
    assert describe_result(result) == {"status": "refused", "detail": "the device declined", "answer": {"status": 2}}
