"""What can be asked of a buffer and of a gateway, and what is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edge_gateway.api.control import Answer
from edge_gateway.api.handlers import buffer_handlers, gateway_handlers
from edge_gateway.testbench.virtual_time import run_virtual

from .listed_buffer import ListedBuffer, ListedGateway, bad_frame, reading


async def answers(buffer: ListedBuffer, request: str, **arguments: object) -> list[Answer]:
    """All lines but those of progress, of which each must be sound."""
    lines = []
    async for line in gateway_handlers(ListedGateway(buffer))[request].answer(**arguments):
        if "progress" in line:
            assert 0 <= line["progress"]["done"] <= line["progress"]["of"]
        else:
            lines.append(line)
    return lines


def exported(lines: list[Answer]) -> list[dict[str, Any]]:
    return [record for line in lines for record in line.get("records", ())]


def filled(chunks: int = 50) -> ListedBuffer:
    buffer = ListedBuffer()
    for number in range(chunks):
        buffer.add("normal", reading("boiler-1", 2 * number), reading("boiler-2", 2 * number + 1))
    buffer.add("alert", reading("boiler-1", 2 * chunks))
    return buffer


def test_a_gateway_can_be_asked_all_that_its_buffer_can() -> None:
    """A running gateway knows every request that a stopped one knows, with the same arguments."""
    buffer = ListedBuffer()
    of_gateway = gateway_handlers(ListedGateway(buffer))
    for name, handler in buffer_handlers(buffer).items():
        assert of_gateway[name].arguments == handler.arguments


async def test_status() -> None:
    """One line with the status of now."""
    assert await answers(ListedBuffer(), "status") == [{"status": {"gateway": "plant", "faults": []}}]


async def test_stats_and_key() -> None:
    """What the store says, as it says it."""
    buffer = ListedBuffer()
    assert await answers(buffer, "buffer.stats") == [{"stats": await buffer.stats()}]
    assert await answers(buffer, "buffer.rotate-key") == [{"rotated": {"key": 2}}]


async def test_export_gives_each_record_once() -> None:
    """Lane by lane, in the order in which they came, and all are still there."""
    buffer = filled()
    lines = await answers(buffer, "buffer.export")
    assert [record["seq"] for record in exported(lines)] == [100, *range(100)]
    assert lines[-1] == {"exported": {"records": 101, "damaged": 0}}
    assert buffer.status().totals.queued == 101


async def test_export_of_nothing() -> None:
    """An empty buffer is copied, too."""
    assert await answers(ListedBuffer(), "buffer.export") == [{"exported": {"records": 0, "damaged": 0}}]


async def test_export_beside_sensors_that_are_faster() -> None:
    """It ends, with as many records as there were, although more come in than it takes out."""
    buffer = filled()
    records = 0
    async for line in buffer_handlers(buffer)["buffer.export"].answer():
        records += len(line.get("records", ()))
        for _ in range(3):
            buffer.add("alert", reading("boiler-1", 1000 + len(buffer.chunks)))
            if buffer.visits < 1000:
                buffer.add("normal", reading("boiler-1", 1000 + len(buffer.chunks)))
    assert 101 <= records <= 102


async def test_export_beside_a_hub_that_takes() -> None:
    """What the hub gets before its turn is not copied, and nothing is copied twice."""
    buffer = filled()
    seqs = []
    async for line in buffer_handlers(buffer)["buffer.export"].answer():
        seqs += [record["seq"] for record in line.get("records", ())]
        buffer.deliver(2)
    assert len(seqs) < 101
    assert len(set(seqs)) == len(seqs)
    assert sorted(seqs[1:]) == seqs[1:]


async def test_export_goes_round_what_is_damaged() -> None:
    """A damaged chunk is told, and all others are copied."""
    buffer = filled(3)
    chunk_id = buffer.add("normal", reading("boiler-3", 7))
    buffer.damage(chunk_id)
    lines = await answers(buffer, "buffer.export")
    told = {"lane": "normal", "chunk": chunk_id, "records": 1, "devices": {}}
    assert {"damaged": told} in lines
    assert lines[-1] == {"exported": {"records": 7, "damaged": 1}}
    assert len(exported(lines)) == 7


async def test_verify_of_what_is_whole() -> None:
    """Everything is opened: all lanes, the quarantine, and the ledger's chain."""
    buffer = filled()
    buffer.add_bad(bad_frame("line-1", "0102"), bad_frame("line-1", "03"))
    for hour in range(7):
        buffer.close_hour(3600 * hour, boiler=hour, pump=hour)
    found = {"records": 103, "damaged": 0, "set_aside": 0, "ledger_rows": 14, "ledger_faults": 0}
    assert await answers(buffer, "buffer.verify") == [{"verified": found}]


async def test_verify_names_what_is_damaged() -> None:
    """Once when it is found, with its lane; and from then on in the quarantine."""
    buffer = filled(3)
    chunk_id = buffer.add("normal", reading("boiler-3", 7), reading("boiler-3", 8))
    buffer.damage(chunk_id)
    told = {"lane": "normal", "records": 2, "devices": {}}
    first, second = await answers(buffer, "buffer.verify"), await answers(buffer, "buffer.verify")
    assert first[0] == {"damaged": {"chunk": chunk_id, **told}}
    assert [line["set_aside"]["records"] for line in first[1:-1]] == [2]
    assert [line["set_aside"]["records"] for line in second[:-1]] == [2]
    counts = {"records": 7, "set_aside": 2, "ledger_rows": 0, "ledger_faults": 0}
    assert first[-1] == {"verified": {"damaged": 2, **counts}}
    assert second[-1] == {"verified": {"damaged": 0, **counts}}


async def test_ledger_show() -> None:
    """All rows in order; or those of a device, or those since a time; the hour as people write it."""
    buffer = ListedBuffer()
    for hour in range(4):
        buffer.close_hour(3600 * hour, boiler=hour, pump=2 * hour)

    async def rows(**arguments: object) -> list[dict[str, Any]]:
        return [row for line in await answers(buffer, "ledger.show", **arguments) for row in line["rows"]]

    assert [row["number"] for row in await rows()] == list(range(1, 9))
    assert [row["received"] for row in await rows(device="pump")] == [0, 2, 4, 6]
    assert [row["number"] for row in await rows(since_s=7200, device="boiler")] == [5, 7]
    assert (await rows())[2] == {
        "hour": "1970-01-01T01:00:00.000000Z",
        "number": 3,
        "lane": "normal",
        "device": "boiler",
        "received": 1,
        "delivered": 1,
        "queued": 0,
        "expired": 0,
        "evicted": 0,
        "rejected": 0,
        "quarantined": 0,
        "digest": buffer.rows[2].digest.hex(),
    }


@pytest.mark.parametrize("hour_s", [-1, 1 << 62, "noon", None, b"\x01"])
async def test_ledger_show_of_a_row_that_rotted(hour_s: Any) -> None:
    """Whatever the disk has made of a row is shown, and the others are as well."""
    buffer = ListedBuffer()
    buffer.close_hour(3600, boiler=1, pump=2)
    buffer.rows[0] = buffer.rows[0]._replace(hour_s=hour_s)
    [line] = await answers(buffer, "ledger.show")
    assert len(line["rows"]) == 2


async def test_ledger_verify() -> None:
    """A changed row is named, over all pages of a long ledger; and a missing end."""
    buffer = ListedBuffer()
    for hour in range(10):
        buffer.close_hour(3600 * hour, boiler=hour)
    assert await answers(buffer, "ledger.verify") == [{"chain": {"rows": 10, "faults": 0, "last": 10}}]
    buffer.rows[4] = buffer.rows[4]._replace(delivered=3, evicted=1)
    del buffer.rows[9]
    changed, missing, chain = await answers(buffer, "ledger.verify")
    assert (changed["fault"]["kind"], changed["fault"]["number"]) == ("changed", 5)
    assert (missing["fault"]["kind"], missing["fault"]["number"]) == ("missing", 10)
    assert chain == {"chain": {"rows": 9, "faults": 2, "last": 9}}


async def test_ledger_verify_beside_a_ledger_that_grows() -> None:
    """Rows that are written meanwhile are no fault."""
    buffer = ListedBuffer()
    buffer.close_hour(0, boiler=0)
    lines = []
    async for line in buffer_handlers(buffer)["ledger.verify"].answer():
        lines.append(line)
        if len(buffer.rows) < 20:
            buffer.close_hour(0, boiler=len(buffer.rows))
    assert lines[-1] == {"chain": {"rows": 20, "faults": 0, "last": 20}}


async def test_ledger_publish() -> None:
    """How many rows are on their way."""
    buffer = ListedBuffer()
    buffer.close_hour(0, boiler=1, pump=1)
    assert await answers(buffer, "ledger.publish") == [{"published": {"rows": 2}}]


async def test_quarantine_list() -> None:
    """Each frame with reason and bytes, of one link or of all; damaged ones cannot be shown and are told."""
    buffer = ListedBuffer()
    first, second, third = bad_frame("a", "01"), bad_frame("b", "02", "length"), bad_frame("a", "03")
    buffer.add_bad(first, second)
    buffer.add_bad(third)
    assert await answers(buffer, "quarantine.list") == [{"frames": [first, second]}, {"frames": [third]}]
    assert await answers(buffer, "quarantine.list", link="b") == [{"frames": [second]}]
    buffer.damage(max(buffer.quarantined))
    assert [[*line] for line in await answers(buffer, "quarantine.list")] == [["frames"], ["set_aside"]]


async def test_quarantine_replay() -> None:
    """The gateway tries the frames of a link, or of all."""
    gateway = ListedGateway(ListedBuffer())
    replay = gateway_handlers(gateway)["quarantine.replay"]
    assert [line async for line in replay.answer(link="a")][-1] == {
        "replayed": {"frames": 2, "readings": 1, "still_bad": 1}
    }
    assert [line async for line in replay.answer()]
    assert gateway.replayed == ["a", None]


def test_drain() -> None:
    """It tells how many records are delivered, second by second, until all are; then messages wait again."""

    async def drained() -> None:
        buffer = filled(10)
        start_s = asyncio.get_running_loop().time()
        lines = []
        async for line in gateway_handlers(ListedGateway(buffer))["buffer.drain"].answer(timeout_s=60.0):
            lines.append(line)
            assert buffer.draining is ("progress" in line)
            buffer.deliver(4)
        assert asyncio.get_running_loop().time() - start_s == 3
        assert [line["progress"] for line in lines[:-1]] == [{"done": done, "of": 21} for done in (0, 7, 15, 21)]
        assert lines[-1] == {"drained": {"queued": 0, "faults": []}}
        assert not buffer.draining

    run_virtual(drained())


def test_drain_of_nothing() -> None:
    """What is empty is drained at once."""

    async def drained() -> None:
        assert await answers(ListedBuffer(), "buffer.drain") == [{"drained": {"queued": 0, "faults": []}}]
        assert asyncio.get_running_loop().time() == 0

    run_virtual(drained())


def test_drain_to_a_hub_that_is_away() -> None:
    """After the time given it tells what is left and why; messages wait again."""

    async def not_drained() -> None:
        gateway = ListedGateway(filled(10))
        gateway.faults = ["no route to the hub"]
        handler = gateway_handlers(gateway)["buffer.drain"]
        lines = [line async for line in handler.answer(timeout_s=2.5)]
        assert lines[-1] == {"drained": {"queued": 21, "faults": ["no route to the hub"]}}
        assert asyncio.get_running_loop().time() == 2.5
        assert not gateway.buffer.draining

    run_virtual(not_drained())


def test_drain_by_somebody_who_leaves() -> None:
    """An asker that goes away leaves the gateway as it was."""

    async def left() -> None:
        gateway = ListedGateway(filled(10))
        lines = gateway_handlers(gateway)["buffer.drain"].answer()
        await anext(lines)
        assert gateway.buffer.draining
        await lines.aclose()
        assert not gateway.buffer.draining

    run_virtual(left())
