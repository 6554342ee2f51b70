"""The receiver's judgement of what was delivered."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.receiver import DeliveryAccount, ReceivedMessage, SeqSet


def message(message_id: str | None, body: bytes) -> ReceivedMessage:
    return ReceivedMessage("gateway", message_id, {}, {}, body, 0.0, 0)


def readings(message_id: str, *seqs: int, device: str = "s") -> ReceivedMessage:
    records = [{"device": device, "profile": "p", "seq": seq, "time": "t", "values": {}} for seq in seqs]
    return message(message_id, orjson.dumps(records))


def event(message_id: str, seq: int) -> ReceivedMessage:
    return message(message_id, orjson.dumps([{"device": "s", "event": "alert-raised", "seq": seq}]))


def account(*messages: ReceivedMessage, first_seq: int | None = 1) -> DeliveryAccount:
    account = DeliveryAccount(first_seq)
    for received in messages:
        account.add(received)
    return account


def test_promise_kept() -> None:
    """Repeats are dropped, alerts may overtake, and nothing is wrong."""
    kept = account(
        event("e", 3), readings("a", 1, 2), readings("a", 1, 2), readings("b", 4), readings("c", 1, device="t")
    )
    assert kept.faults() == []
    assert (kept.unique_messages, kept.repeated_messages) == (4, 1)
    assert kept.records == {("s", "normal"): 3, ("s", "alert"): 1, ("t", "normal"): 1}


def test_missing() -> None:
    """Numbers that never came are told, from the first expected on."""
    assert account(readings("a", 2, 3, 6), event("e", 9)).missing() == {"s": [range(1, 2), range(4, 6), range(7, 9)]}
    assert account(readings("a", 2, 3), first_seq=None).missing() == {}


def test_backward() -> None:
    """A number below the one before in its lane is a fault, even if everything is there."""
    assert account(readings("a", 1, 3), readings("b", 2)).faults() == ["s: seq 2 came after 3 in lane normal"]


def test_repeated_record() -> None:
    """A record that comes again in another message is a fault that dropping message ids does not cure."""
    assert account(readings("a", 1, 2), readings("b", 2)).faults() == ["s: seq 2 came in two messages"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[1]", b'[{"device":"s","seq":"1","profile":"p"}]'])
def test_unreadable(body: bytes) -> None:
    """What is not an array of records is a fault, not an error."""
    assert len(account(message("a", body)).faults()) == 1


def test_without_message_id() -> None:
    """A message without id cannot be told from its repeat."""
    assert len(account(message(None, b"[]")).faults()) == 1


@given(st.binary(max_size=60))
def test_arbitrary_bodies(body: bytes) -> None:
    """Any body is judged and never raises."""
    account(message("a", body)).faults()


@given(st.lists(st.integers(0, 40)), st.none() | st.integers(0, 5))
def test_seq_set(seqs: list[int], first: int | None) -> None:
    """A `SeqSet` says what a set would say."""
    members, compact = set[int](), SeqSet()
    for seq in seqs:
        assert compact.add(seq) == (seq not in members)
        members.add(seq)
    low = first if first is not None else min(members, default=0)
    missing = [seq for seq in range(low, max(members, default=0)) if seq not in members]
    assert [seq for gap in compact.gaps(first) for seq in gap] == missing or not members or low > min(members)
