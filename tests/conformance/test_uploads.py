"""File upload: the hub says where to, the file goes there, the hub hears that it is there."""

from __future__ import annotations

import random

import pytest

from .bench import CONFORMANCE, Bench
from .client import ClientKind, Feature
from .kinds import clients_with

pytestmark = CONFORMANCE


@clients_with(Feature.UPLOAD)
@pytest.mark.parametrize(
    "content",
    [b"line 1\nline 2\n", bytes(range(256)) * 1024, random.Random(1).randbytes(5 * 1024 * 1024)],
    ids=["text", "256 KiB", "5 MiB"],
)
async def test_upload(bench: Bench, kind: ClientKind, content: bytes) -> None:
    """A file of any kind and size is there afterwards, and services hear of it."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        await client.upload("logs/today.txt", content)
    [notification] = [each for each in bench.hub.blobs.file_notifications if each.device_id == device.device_id]
    assert notification.blob_name == f"{device.device_id}/logs/today.txt"
    assert notification.size_bytes == len(content)
    assert bench.hub.blobs.read(notification.blob_name) == content


@clients_with(Feature.UPLOAD)
async def test_several(bench: Bench, kind: ClientKind) -> None:
    """One client uploads one file after the other."""
    device = bench.device()
    async with bench.client(kind, device) as client:
        for name in ("a b.txt", "b.txt"):
            await client.upload(name, name.encode())
    names = [each.blob_name for each in bench.hub.blobs.file_notifications if each.device_id == device.device_id]
    assert names == [f"{device.device_id}/a b.txt", f"{device.device_id}/b.txt"]
