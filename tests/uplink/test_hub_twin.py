"""Following a twin through a hub that refuses, forgets, and is overtaken; on virtual time."""

from __future__ import annotations

import random
from asyncio import sleep
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.uplink.hub_topics import DesiredPatch, TwinAnswer
from edge_gateway.uplink.hub_twin import HubTwin


class Side:
    """The hub's side of one twin, and the gateway's."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.applied: list[tuple[dict[str, Any], bool]] = []
        self.to_report: dict[str, Any] = {}
        self.twin = HubTwin(
            lambda topic, payload: self.asked.append((topic, payload)),
            lambda desired, whole: self.applied.append((dict(desired), whole)),
            lambda: self.to_report,
            endpoint="hub",
            rng=random.Random(1),
        )

    def answer(self, status: int, document: object = None) -> None:
        """Answer the last request."""
        request_id = self.asked[-1][0].rpartition("=")[2]
        self.twin.answered(TwinAnswer(status, request_id), orjson.dumps(document) if document is not None else b"")

    def give(self, version: int, **desired: object) -> None:
        """Answer with a document."""
        self.answer(200, {"desired": {**desired, "$version": version}, "reported": {}})

    def patch(self, version: int, **desired: object) -> None:
        self.twin.patched(DesiredPatch(version), orjson.dumps({**desired, "$version": version}))


def on_virtual_time(scene: Callable[[Side], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        side = Side()
        side.twin.start()
        await scene(side)
        side.twin.stop()

    run_virtual(main())


def test_a_refused_request_is_made_again_later() -> None:
    """A hub that throttles is asked again after some seconds, and not at once."""

    async def scene(side: Side) -> None:
        side.answer(429, {"errorCode": 429})
        await sleep(1)
        assert len(side.asked) == 1
        await sleep(6)
        assert len(side.asked) == 2
        side.give(1)
        assert side.applied == [({"$version": 1}, True)]

    on_virtual_time(scene)


def test_a_request_without_an_answer_is_made_again() -> None:
    """A lost answer costs half a minute, not the session's life; if it comes late, it is none."""

    async def scene(side: Side) -> None:
        lost = side.asked[0][0].rpartition("=")[2]
        await sleep(40)
        assert len(side.asked) == 2
        side.twin.answered(TwinAnswer(200, lost), b'{"desired":{"$version":7}}')
        assert side.applied == []
        side.give(8)
        assert side.applied == [({"$version": 8}, True)]

    on_virtual_time(scene)


def test_changes_are_applied_once_and_in_order() -> None:
    """Of changes that come twice, too early or too late, each version is applied once, or the document is fetched."""

    async def scene(side: Side) -> None:
        side.patch(4, a=1)  # before the document
        side.give(4, a=1)
        side.patch(4, a=1)
        side.patch(5, a=2)
        side.patch(7, a=4)
        side.patch(8, a=5)  # while the document is awaited
        assert side.applied == [({"a": 1, "$version": 4}, True), ({"a": 2, "$version": 5}, False)]
        side.give(8, a=5)
        side.patch(9, a=6)
        assert side.applied[2:] == [({"a": 5, "$version": 8}, True), ({"a": 6, "$version": 9}, False)]

    on_virtual_time(scene)


def test_a_document_that_was_overtaken_is_asked_for_again() -> None:
    """A document older than a change that was heard of is not believed."""

    async def scene(side: Side) -> None:
        side.patch(5, a=1)
        side.give(4)
        assert side.applied == []
        await sleep(7)
        side.give(5, a=1)
        assert side.applied == [({"a": 1, "$version": 5}, True)]

    on_virtual_time(scene)


def test_a_refused_report_is_told_again_until_it_is_taken() -> None:
    """What the hub refused counts as not reported; what it took is not told again."""

    async def scene(side: Side) -> None:
        side.to_report = {"on": True}
        side.give(1)
        assert side.asked[-1][1] == b'{"on":true}'
        side.answer(429)
        await sleep(7)
        assert side.asked[-1][1] == b'{"on":true}'
        side.answer(204)
        asked = len(side.asked)
        await sleep(60)
        assert len(side.asked) == asked
        side.to_report = {}
        await sleep(7)
        assert side.asked[-1][1] == b'{"on":null}'

    on_virtual_time(scene)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([200, 204, 429, 999]), st.binary(max_size=12)),
        max_size=12,
    )
)
def test_whatever_the_hub_says_is_borne(says: list[tuple[bool, int, int, bytes]]) -> None:
    """Answers and changes of any content raise nothing, and never more than one request is open."""

    async def scene(side: Side) -> None:
        for is_patch, version, status, payload in says:
            asked = len(side.asked)
            if is_patch:
                side.twin.patched(DesiredPatch(version), payload)
            else:
                side.twin.answered(TwinAnswer(status, side.asked[-1][0].rpartition("=")[2]), payload)
            assert len(side.asked) - asked <= 1

    on_virtual_time(scene)


@given(st.sampled_from([b"[]", b"5", b'{"desired":5}', b'{"desired":{"$version":"x"},"reported":[1]}', b"{}"]))
def test_a_document_of_another_shape_is_borne(payload: bytes) -> None:
    """A hub that answers with JSON of another shape breaks nothing."""

    async def scene(side: Side) -> None:
        side.twin.answered(TwinAnswer(200, side.asked[-1][0].rpartition("=")[2]), payload)

    on_virtual_time(scene)
