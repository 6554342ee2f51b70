"""Polls and register tables in a profile: what they become, and what a frame after a request says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.codec import Codec, Profile, compile_profile, failed_vectors, load_profile, parse_profile
from edge_gateway.codec.exchange import PreparedPoll, Verdict
from edge_gateway.config.link import ModbusRtuFraming
from edge_gateway.errors import CodecError


def profile_of(**keys: Any) -> Profile:
    return Profile.model_validate(
        {"name": "meter", "version": 1, "title": "A meter", "source": {"document": "none"}, **keys}
    )


def table(*registers: dict[str, Any], **keys: Any) -> Profile:
    return profile_of(modbus={"registers": registers, **keys})


def at(address: int, name: str, type_name: str = "u16", **keys: Any) -> dict[str, Any]:
    return {"address": address, "name": name, "type": type_name, **keys}


def test_a_register_table_brings_identity_framing_and_exceptions() -> None:
    """Nothing of Modbus is left to write down."""
    profile = table(at(0, "a"), writes={"set-b": at(1, "b")})
    assert profile.identity == "unit"
    assert profile.framing == ModbusRtuFraming()
    assert set(profile.frames) == {
        *("exception-3", "exception-6", "read-holding-0000", "holding-0000", "write-set-b", "wrote-set-b")
    }
    assert profile.commands["set-b"].arguments["b"].type == "integer"


@pytest.mark.parametrize(
    ("keys", "polls"),
    [
        ({}, ["holding-0000", "holding-0003", "input-0001"]),
        ({"max_gap": 1}, ["holding-0000", "input-0001"]),
        ({"max_gap": 1, "max_count": 3}, ["holding-0000", "holding-0003", "input-0001"]),
        ({"max_count": 2}, ["holding-0000", "holding-0003", "input-0001"]),
    ],
)
def test_neighbouring_registers_share_a_request(keys: dict[str, Any], polls: list[str]) -> None:
    """As far apart as `max_gap` allows, as many as `max_count` allows, and never of two functions."""
    profile = table(at(3, "c"), at(1, "b"), at(0, "a"), at(1, "d", function=4), **keys)
    assert list(profile.polls) == polls


def test_registers_wanted_at_different_times_have_requests_of_their_own() -> None:
    """A counter that is read once an hour does not travel with what is read every second."""
    profile = table(at(0, "a"), at(1, "b", every_s=3600), at(2, "c"), every_s=1)
    assert {name: poll.every_s for name, poll in profile.polls.items()} == {
        "holding-0000": 1,
        "holding-0002": 1,
        "holding-0001": 3600,
    }


def test_what_lies_between_registers_is_no_value() -> None:
    """Registers that are only read along leave no trace in the reading."""
    profile = table(at(0, "a"), at(2, "b"), max_gap=1)
    assert list(profile.values_of("holding-0000")) == ["a", "b"]
    codec = compile_profile(profile)
    answer = codec.encode("holding-0000", 9, None, {"a": 1, "b": 2})
    heard = PreparedPoll(codec, "holding-0000").judge(answer, 9)
    assert heard.sample is not None
    assert heard.sample.values == {"a": 1, "b": 2}


def test_a_register_of_bits_gives_its_parts() -> None:
    """Everything a field can say, a register can say."""
    codec = compile_profile(
        table(at(0, "state", bits=[{"name": "on", "bit": 0}, {"name": "mode", "bit": 8, "width": 2, "enum": {1: "x"}}]))
    )
    heard = PreparedPoll(codec, "holding-0000").judge(
        codec.encode("holding-0000", 1, None, {"on": True, "mode": "x"}), 1
    )
    assert heard.sample is not None
    assert heard.sample.values == {"on": True, "mode": "x"}


def test_a_frame_beside_the_table_may_not_take_its_names() -> None:
    """What a table becomes and what is written by hand are kept apart."""
    hand_made = {"role": "answer", "endian": "big", "fields": [{"name": "unit", "type": "u8"}]}
    with pytest.raises(ValueError, match="'holding-0000' is made of the registers already"):
        profile_of(modbus={"registers": [at(0, "a")]}, frames={"holding-0000": hand_made})


def test_a_profile_comes_back_from_its_own_dump() -> None:
    """A table that was worked out once is not worked out again."""
    profile = load_profile("pzem-004t-v3")
    again = Profile.model_validate(profile.model_dump(exclude_unset=True))
    assert again.frames.keys() == profile.frames.keys()
    assert again.polls == profile.polls


def test_the_documented_table_works() -> None:
    """The register table in the documentation loads, and its vector holds."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "poll-a-modbus-meter.md"
    examples = re.findall(r"```yaml\n(name: .*?)```", page.read_text("utf-8"), re.DOTALL)
    assert [failed_vectors(compile_profile(parse_profile(each, "page"))) for each in examples] == [[]]


LOOKALIKES: Codec = compile_profile(table(at(0, "a", "f32"), at(0x100, "b", "f32")))
ANSWER = LOOKALIKES.encode("holding-0000", 1, None, {"a": 1.5})


@pytest.mark.parametrize(("poll", "name"), [("holding-0000", "a"), ("holding-0100", "b")])
def test_an_answer_is_what_was_asked_for(poll: str, name: str) -> None:
    """The same bytes are one value or another, by the request they follow."""
    heard = PreparedPoll(LOOKALIKES, poll).judge(ANSWER, 1)
    assert heard.sample is not None
    assert heard.sample.values == {name: 1.5}


def test_an_answer_without_its_request_is_not_guessed() -> None:
    """Where two answers look the same, decoding without a request gives neither."""
    decoded = LOOKALIKES.decode([ANSWER])
    assert decoded.samples == []
    assert [reject.reason for reject in decoded.rejects] == ["length"]


def test_every_kind_of_answer_is_told_apart() -> None:
    """Values, nothing new, a refusal, damage and strangers each have their verdict."""
    codec = compile_profile(load_profile("sps30"))
    poll = PreparedPoll(codec, "values")
    assert poll.request(None) == bytes.fromhex("00 03 00 fc")
    assert poll.judge(bytes.fromhex("00 03 00 00 fc"), None).verdict is Verdict.NOTHING_NEW
    refused = poll.judge(bytes.fromhex("00 03 43 00 b9"), None)
    assert refused.verdict is Verdict.REFUSED
    assert refused.detail == "no-values: device_error is False, code is not-allowed-now"
    assert poll.judge(bytes.fromhex("00 03 00 00 fd"), None).verdict is Verdict.DAMAGED
    assert poll.judge(bytes.fromhex("00 00 00 00 ff"), None).verdict is Verdict.STRANGE
    assert poll.judge(b"", None).verdict is Verdict.STRANGE


def test_an_address_no_device_can_have_is_refused() -> None:
    """A request names its device, or is not made."""
    with pytest.raises(CodecError, match="unit"):
        PreparedPoll(LOOKALIKES, "holding-0000").request(300)
