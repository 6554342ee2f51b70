"""Topics and commands of IoT Hub: whatever comes, reading it ends well, and what is written can be read."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import CommandInvalid
from edge_gateway.testbench.cloud import topics as bench_topics
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.uplink.hub_commands import HubCommands, MethodUnknown
from edge_gateway.uplink.hub_topics import (
    CloudMessage,
    DesiredPatch,
    DeviceTopics,
    MethodCall,
    TwinAnswer,
    method_answer,
    reported_patch,
    twin_get,
)
from edge_gateway.uplink.merge_patch import merge_patch

DEVICES = st.from_regex(r"[A-Za-z0-9\-.+%_#*?!(),=@$':]{1,60}", fullmatch=True)
STARTS = st.sampled_from(
    ["", "$iothub/twin/res/", "$iothub/twin/PATCH/properties/desired/?$version=", "$iothub/methods/POST/", "devices/d/"]
)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
JSON = st.recursive(
    st.booleans() | st.integers(-(2**52), 2**52) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


@given(STARTS, WORDS)
def test_any_topic_is_read_or_left(start: str, rest: str) -> None:
    """No topic raises; what is not known is None."""
    DeviceTopics("d").read(start + rest)


@given(DEVICES, WORDS.filter(bool), st.sampled_from(["alert", "normal", "a b&c=d/+#é"]))
def test_the_bench_reads_what_is_written(device: str, message_id: str, lane: str) -> None:
    """Id and lane arrive as they were, for any device, as the bench's hub reads them by itself."""
    properties, system = bench_topics.Topics(IdentityName(device)).properties(
        DeviceTopics(device).event(message_id, lane)
    )
    assert properties == {"lane": lane}
    assert system == {"message-id": message_id, "content-type": "application/json", "content-encoding": "utf-8"}


@given(DEVICES, WORDS, st.dictionaries(WORDS.filter(lambda name: name[:1] not in ("", "$", "?")), WORDS, max_size=3))
def test_what_the_bench_writes_is_read(device: str, message_id: str, properties: dict[str, str]) -> None:
    """A cloud-to-device message's id is found among any other properties."""
    bag = format_property_bag(properties, {"message-id": message_id})
    assert DeviceTopics(device).read(f"devices/{device}/messages/devicebound/{bag}") == CloudMessage(message_id)


@given(
    st.integers(0, 999),
    st.from_regex(r"[0-9a-f-]{1,36}", fullmatch=True),
    st.integers(0, 2**53),
    st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,30}", fullmatch=True),
)
def test_what_the_hub_says_is_read(status: int, request_id: str, version: int, method: str) -> None:
    """Answers, changes and calls are read with all they carry; answers to methods are what the hub expects."""
    topics = DeviceTopics("d")
    assert topics.read(bench_topics.twin_response(status, request_id)) == TwinAnswer(status, request_id)
    assert topics.read(bench_topics.twin_response(status, request_id, version)) == TwinAnswer(status, request_id)
    assert topics.read(bench_topics.desired_patch(version)) == DesiredPatch(version)
    assert topics.read(bench_topics.method_request(method, request_id)) == MethodCall(method, request_id)
    assert bench_topics.method_response(method_answer(status, request_id)) == (status, request_id)
    assert twin_get(request_id) == bench_topics.TWIN_GET + request_id
    assert reported_patch(request_id) == bench_topics.REPORTED_PATCH + request_id


@pytest.mark.parametrize("device", ["", "boiler"])
@given(
    st.sampled_from(["command", "set-relay", "other"]),
    st.binary(max_size=60) | SECTIONS.map(orjson.dumps) | JSON.map(orjson.dumps),
)
def test_any_payload_is_a_command_or_is_told(device: str, method: str, payload: bytes) -> None:
    """Any bytes become a command for this device or a reason; an unknown method is told as such."""
    commands = HubCommands(device, ["set-relay"])
    try:
        command = commands.of_method(method, payload, "r")
        assert not device or command.device == device
    except MethodUnknown:
        assert method == "other" or (method == "set-relay" and not device)
    except CommandInvalid:
        assert method != "other"
    with suppress(CommandInvalid):
        assert commands.of_message(payload, "m").source == "c2d"


def test_a_payload_has_a_limit() -> None:
    """What is larger than a direct method may be is refused, whatever way it came."""
    with pytest.raises(CommandInvalid, match="larger than 131072 bytes"):
        HubCommands("boiler").of_message(b'{"command":"' + b"x" * 2**17 + b'"}', "m")


@given(SECTIONS, SECTIONS)
def test_a_merge_patch_leads_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Merged by the rules of RFC 7396, the patch makes the one into the other; between equals it is empty."""
    assert _merged(before, merge_patch(before, after)) == after
    assert merge_patch(after, after) == {}


def _merged(target: Any, patch: Any) -> Any:
    """As the RFC's section 2 has it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
