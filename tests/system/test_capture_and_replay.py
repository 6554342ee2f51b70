"""What the links said can be written down in the field and played on a bench, with the same readings coming out."""

from __future__ import annotations

from pathlib import Path

from edge_gateway.testbench import LocalAuthority

from .gateway_process import edge_gateway
from .site import open_site, write_config

SENSORS = 4


async def test_a_replayed_capture_gives_the_same_readings(tmp_path: Path, authority: LocalAuthority) -> None:
    """A gateway whose links play a capture sends the same values in the same order as the one that recorded it."""
    field, bench = tmp_path / "field", tmp_path / "bench"
    field.mkdir()
    bench.mkdir()
    capture = field / "capture.jsonl"
    async with open_site(field, authority, sensors=SENSORS, arguments=["--capture", str(capture)]) as recorded:
        await recorded.gateway.start_reading()
        await recorded.receiver.grows(80)
        await recorded.settled()
        assert (await recorded.gateway.stop()).code == 0
        assert recorded.verdict() == []

    links = [
        {
            "name": link.name,
            "port": {"replay": str(capture), "speed": None},
            "profile": link.profile,
            "devices": [{"name": link.name, "address": link.devices[0].address}],
        }
        for link in recorded.gateway.config.links
    ]
    async with open_site(bench, authority, sensors=0, more_links=links) as replayed:
        await replayed.gateway.start()
        await replayed.receiver.until(lambda: replayed.receiver.records >= recorded.receiver.records)
        for link in links:
            await replayed.gateway.event("link.ended", link=link["name"])
        assert (await replayed.gateway.stop()).code == 0
        assert replayed.verdict() == []
    assert replayed.receiver.frames == recorded.receiver.frames


async def test_a_capture_that_is_not_there_ends_the_gateway(tmp_path: Path) -> None:
    """3, with the file's name and what to do: a link that can never give anything is a mistake and no outage."""
    links = [{"name": "bench", "port": {"replay": "gone.jsonl"}, "profile": "reference-climate"}]
    config = write_config(tmp_path, uplink={"kind": "mqtt", "host": "127.0.0.1"}, links=links)
    code, output, errors = await edge_gateway("run", "--config", str(config))
    assert (code, output) == (3, "")
    assert errors.startswith(
        f"error: {tmp_path / 'gone.jsonl'}: the capture cannot be read: No such file or directory."
    )
