"""Captures: what is written reads back, half a line at the end does no harm, and errors name the line."""

from __future__ import annotations

import asyncio
import json
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from edge_gateway.clock import SystemClock
from edge_gateway.errors import TransportError
from edge_gateway.records import Chunk
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.transport.capture import CapturedChunk, CaptureWriter, read_capture

HEADER = b'{"capture": 1, "started": "2026-05-01T12:00:00.000000Z"}\n'


class FixedClock(SystemClock):
    def now_ns(self) -> int:
        return 1_777_636_800_250_000_000


chunks_of_links = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=10**12).map(lambda microseconds: microseconds / 1e6),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.binary(max_size=64),
    ),
    max_size=20,
)


async def written(path: Path, chunks: list[tuple[float, str, bytes]]) -> None:
    with CaptureWriter(path) as writer:
        start_s = asyncio.get_running_loop().time()
        for at_s, link, data in chunks:
            writer.write(link, [Chunk(start_s + at_s, data)])


@given(chunks_of_links)
def test_what_is_written_reads_back(chunks: list[tuple[float, str, bytes]]) -> None:
    """Any chunks of any links come back with their bytes, links and order, and their times to the microsecond."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "capture.jsonl"
        run_virtual(written(path, chunks))
        read = list(read_capture(path))
    assert [(chunk.link, chunk.data) for chunk in read] == [(link, data) for _, link, data in chunks]
    assert [chunk.at_s for chunk in read] == pytest.approx([at_s for at_s, _, _ in chunks], abs=2e-6)


@given(chunks_of_links, st.data())
def test_a_capture_cut_anywhere_gives_what_was_whole(
    chunks: list[tuple[float, str, bytes]], data: st.DataObject
) -> None:
    """Wherever the power went after the header, the whole lines before are read and the torn one is not."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "capture.jsonl"
        run_virtual(written(path, chunks))
        whole = list(read_capture(path))
        content = path.read_bytes()
        header_bytes = content.index(b"\n") + 1
        cut = data.draw(st.integers(min_value=header_bytes, max_value=len(content)))
        path.write_bytes(content[:cut])
        read = list(read_capture(path))
    # A line that lacks nothing but its end is whole.
    assert read == whole[: len(read)]
    assert len(read) - content[:cut].count(b"\n", header_bytes) in (0, 1)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda tail: HEADER + tail)))
def test_any_bytes_are_a_capture_or_an_error(content: bytes) -> None:
    """Whatever is in the file, reading gives chunks or a TransportError that names file and line."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "capture.jsonl"
        path.write_bytes(content)
        try:
            list(read_capture(path))
        except TransportError as error:
            assert error.where.startswith(f"{path}, line ")  # noqa: PT017 - not raising is as good


async def test_the_file_says_when_it_began(tmp_path: Path) -> None:
    """The header holds the format and the wall time of the start; a line holds time, link and bytes."""
    path = tmp_path / "capture.jsonl"
    with CaptureWriter(path, clock=FixedClock()) as writer:
        writer.write("a", [Chunk(0.0, b"\x01\xff")])  # read long before the capture began
    header, line = path.read_text().splitlines()
    assert json.loads(header) == {"capture": 1, "started": "2026-05-01T12:00:00.250000Z"}
    assert line == '{"t": 0.000000, "link": "a", "hex": "01ff"}'


def test_a_chunk_is_in_the_file_within_a_second(tmp_path: Path) -> None:
    """What was read is flushed a second later at most, without anything more being read."""
    path = tmp_path / "capture.jsonl"

    async def main() -> None:
        with CaptureWriter(path) as writer:
            for _ in range(2):
                before = len(list(read_capture(path)))
                writer.write("a", [Chunk(asyncio.get_running_loop().time(), b"x")])
                await asyncio.sleep(1.01)
                assert len(list(read_capture(path))) == before + 1

    run_virtual(main())


async def test_a_full_capture_stops_and_says_so_once(tmp_path: Path) -> None:
    """The file never outgrows its bound, ends in a whole line, and what comes after is dropped with one event."""
    path = tmp_path / "capture.jsonl"
    with capture_logs() as logs, CaptureWriter(path, max_bytes=300) as writer:
        for _ in range(100):
            writer.write("a", [Chunk(asyncio.get_running_loop().time(), b"12345678")] * 2)
    assert 200 < path.stat().st_size <= 300
    assert len(list(read_capture(path))) > 1
    assert [(entry["event"], entry["max_bytes"]) for entry in logs] == [("capture.full", 300)]


@pytest.mark.parametrize(
    ("chunk_bytes", "rounds", "pause_s"),
    [
        pytest.param(3000, 10, 0.0, id="on-writing"),
        pytest.param(10, 10, 1.0, id="on-flushing"),
        pytest.param(10, 2, 0.0, id="on-closing"),
    ],
)
def test_a_full_disk_ends_the_capture_and_nothing_else(
    tmp_path: Path, chunk_bytes: int, rounds: int, pause_s: float
) -> None:
    """When the file cannot be written any more that is said once, and whoever reads the links goes on."""
    path = tmp_path / "capture.jsonl"

    async def main() -> None:
        with CaptureWriter(path) as writer:
            for _ in range(rounds):
                writer.write("a", [Chunk(asyncio.get_running_loop().time(), bytes(chunk_bytes))] * 50)
                await asyncio.sleep(pause_s)

    _, hard_bytes = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with capture_logs() as logs:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard_bytes))
        try:
            run_virtual(main())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(entry["event"], entry["error"]) for entry in logs] == [("capture.failed", "File too large")]


async def test_a_capture_is_never_written_over(tmp_path: Path) -> None:
    """A file that exists is refused and left as it was; so is a directory that does not exist."""
    path = tmp_path / "capture.jsonl"
    path.write_text("precious")
    with pytest.raises(TransportError, match="the file exists"), CaptureWriter(path):
        pass
    assert path.read_text() == "precious"
    with pytest.raises(TransportError, match="No such file or directory"), CaptureWriter(tmp_path / "no" / "capture"):
        pass


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", 1, "not the header"),
        (b"[1]\n", 1, "not the header"),
        (b'{"t": 0.5, "link": "a", "hex": ""}\n', 1, "not the header"),
        (b'{"capture": 2}\n', 1, "format 1 only"),
        (HEADER + b'{"t": 0.5, "link": "a", "hex": ""}\n{"t": 0.\n', 3, "not JSON"),
        (HEADER + b"\n", 2, "not JSON"),
        (HEADER + b'{"t": true, "link": "a", "hex": ""}\n', 2, "needs t"),
        (HEADER + b'{"t": 0.5, "link": "a"}\n', 2, "needs t"),
        (HEADER + b'{"t": 0.5, "link": "a", "hex": "0"}\n', 2, "pairs of hexadecimal digits"),
        (HEADER + b"x" * 2_000_000, 2, "not JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    """An error names the file and the line, and shows a line that would do."""
    path = tmp_path / "capture.jsonl"
    path.write_bytes(content)
    with pytest.raises(TransportError, match=words) as caught:
        list(read_capture(path))
    assert caught.value.where == f"{path}, line {line}"
    assert "A good line is {" in caught.value.remedy


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing file is an error with its cause."""
    with pytest.raises(TransportError, match="No such file or directory"):
        list(read_capture(tmp_path / "none"))


def test_a_capture_may_be_written_by_hand(tmp_path: Path) -> None:
    """Whole seconds, spaces between bytes and a missing last line end are fine."""
    path = tmp_path / "capture.jsonl"
    path.write_text('{"capture": 1}\n{"t": 2, "link": "a", "hex": "01 ff"}')
    assert list(read_capture(path)) == [CapturedChunk(2.0, "a", b"\x01\xff")]
