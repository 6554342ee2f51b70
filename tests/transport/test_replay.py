"""Replays: the recorded pace, the recorded distances, one link of many, and an end."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from edge_gateway.errors import ConfigError, LinkEnded, LinkUnavailable, TransportError
from edge_gateway.records import Chunk
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.transport.replay import ReplayPort


def write_capture(path: Path, lines: list[tuple[float, str, bytes]], tail: str = "") -> Path:
    text = '{"capture": 1, "started": "2026-05-01T12:00:00Z"}\n'
    for t_s, link, data in lines:
        text += json.dumps({"t": t_s, "link": link, "hex": data.hex()}) + "\n"
    path.write_text(text + tail)
    return path


async def play(port: ReplayPort) -> list[Chunk]:
    chunks: list[Chunk] = []
    async with port:
        while True:
            try:
                chunks += await port.read()
            except LinkEnded:
                return chunks


@pytest.mark.parametrize(("speed", "takes_s"), [(1.0, 3600.5), (60.0, 60.0), (0.5, 7201.0), (None, 0.0)])
def test_the_pace_is_the_recorded_one_times_speed(tmp_path: Path, speed: float | None, takes_s: float) -> None:
    """An hour plays in an hour, a minute, two hours or no time; the chunks keep their recorded distances."""
    path = write_capture(tmp_path / "c", [(0.5, "a", b"1"), (0.503, "a", b"2"), (3600.5, "a", b"3")])

    async def main() -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        chunks = await play(ReplayPort("bench", path, speed=speed))
        assert loop.time() - started_s == pytest.approx(takes_s, abs=0.1)
        assert [chunk.data for chunk in chunks] == [b"1", b"2", b"3"]
        gaps_s = [later.at_s - earlier.at_s for earlier, later in itertools.pairwise(chunks)]
        assert gaps_s == pytest.approx([0.003, 3599.997])

    run_virtual(main())


def test_a_late_reader_gets_what_came_meanwhile_at_once(tmp_path: Path) -> None:
    """After a pause one read returns all that was due, and not what is not."""
    path = write_capture(tmp_path / "c", [(float(second), "a", b"%d" % second) for second in range(10)])

    async def main() -> None:
        async with ReplayPort("bench", path) as port:
            await asyncio.sleep(4.5)
            assert [chunk.data for chunk in await port.read()] == [b"0", b"1", b"2", b"3", b"4"]
            assert [chunk.data for chunk in await port.read()] == [b"5"]

    run_virtual(main())


async def test_one_link_of_many_is_played(tmp_path: Path) -> None:
    """The chunks of the named link come, those of others do not, however many lie between."""
    lines = [(0.0, "a", b"1")] + [(0.0, "b", b"x")] * 2000 + [(0.0, "a", b"2")]
    path = write_capture(tmp_path / "c", lines)
    assert [chunk.data for chunk in await play(ReplayPort("bench", path, link="a"))] == [b"1", b"2"]


async def test_a_large_capture_comes_in_pieces(tmp_path: Path) -> None:
    """A reader without pause gets a bounded number of chunks at a time, and others run in between."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"x")] * 1000)
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(another())
    async with ReplayPort("bench", path, speed=None) as port:
        assert [len(await port.read()) for _ in range(4)] == [256, 256, 256, 232]
    task.cancel()
    assert turns >= 3


async def test_the_end_is_told_for_ever(tmp_path: Path) -> None:
    """After the last chunk every read raises LinkEnded, the link is down, and nothing can be written."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"1")])
    async with ReplayPort("bench", path) as port:
        await port.read()
        for _ in range(2):
            with pytest.raises(LinkEnded, match="played to its end"):
                await port.read()
        assert not port.is_up
        assert port.fault == "bench: the capture has been played to its end"
        with pytest.raises(LinkUnavailable):
            await port.write(b"x")


async def test_a_capture_of_silence_ends_at_once(tmp_path: Path) -> None:
    """A capture without chunks is good, and at its end."""
    assert await play(ReplayPort("bench", write_capture(tmp_path / "c", []))) == []


async def test_what_is_written_is_counted_and_discarded(tmp_path: Path) -> None:
    """A command can be sent to a replay; nobody answers."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"1")])
    async with ReplayPort("bench", path) as port:
        await port.write(b"12345")
        assert port.counters.bytes_written == 5


async def test_a_link_is_chosen_where_there_are_several(tmp_path: Path) -> None:
    """Without a name a capture of two links is refused once the second one shows; what came before is played."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"1"), (0.0, "b", b"2")])
    async with ReplayPort("bench", path) as port:
        assert [chunk.data for chunk in await port.read()] == [b"1"]
        with pytest.raises(TransportError, match="several links, a and b among them"):
            await port.read()


async def test_a_link_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    """A mistyped link is an error and not a silent end."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"1"), (0.0, "b", b"2")])
    async with ReplayPort("bench", path, link="c") as port:
        with pytest.raises(TransportError, match=r"nothing of link c is in the capture.*a, b") as caught:
            await port.read()
        assert not isinstance(caught.value, LinkEnded)


async def test_a_wrong_line_is_told_after_what_came_before(tmp_path: Path) -> None:
    """The chunks before a wrong line are played, then each read names the line."""
    path = write_capture(tmp_path / "c", [(0.0, "a", b"1")], tail="nonsense\n")
    async with ReplayPort("bench", path) as port:
        assert [chunk.data for chunk in await port.read()] == [b"1"]
        for _ in range(2):
            with pytest.raises(TransportError, match="line 3: the line is not JSON"):
                await port.read()


async def test_what_is_no_capture_is_refused_on_entering(tmp_path: Path) -> None:
    """A missing file and a file of another kind are told at the start."""
    with pytest.raises(TransportError, match="No such file"):
        await ReplayPort("bench", tmp_path / "none").__aenter__()
    other = tmp_path / "other"
    other.write_text("hello\n")
    with pytest.raises(TransportError, match="not the header of a capture"):
        await ReplayPort("bench", other).__aenter__()


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_never_ends_is_refused(speed: float) -> None:
    """Time runs forward."""
    with pytest.raises(ConfigError, match="cannot be played at speed"):
        ReplayPort("bench", "capture.jsonl", speed=speed)
