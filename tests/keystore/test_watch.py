"""What status, log and twin are told of the key store while the gateway runs."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

from structlog.testing import capture_logs

from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.offload import run_inline
from edge_gateway.testbench.virtual_time import run_virtual

MINUTE_S = 60


def watch_through(directory: Path, *, away: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Watch a store for ten minutes whose wrapping key is on a stick that is out for some: faults and events."""
    stick = directory / "stick"
    stick.write_bytes(base64.b64encode(bytes(range(32))))
    stick.chmod(0o600)
    store = SoftwareKeyStore(directory / "keys", wrapping_key_file=stick)
    store.put("gateway", Secret(b"0123456789abcdef"))
    faults: list[str] = []

    async def run() -> None:
        watch = KeyStoreWatch(store, run_inline)
        watching = asyncio.create_task(watch.run())
        await asyncio.sleep(MINUTE_S / 2)  # it looks at full minutes, and is looked at between
        for minute in range(10):
            faults.append(watch.fault)
            if minute == away[0]:
                stick.rename(directory / "pulled")
            if minute == away[1]:
                (directory / "pulled").rename(stick)
            await asyncio.sleep(MINUTE_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with capture_logs() as logs:
        run_virtual(run())
    return faults, [each["event"] for each in logs]


def test_a_store_that_goes_and_comes_back_is_told_once_each(tmp_path: Path) -> None:
    """The fault is there while the store is away, with its remedy, and the log has one line for each change."""
    faults, events = watch_through(tmp_path, away=(2, 5))
    assert [bool(each) for each in faults] == [False] * 3 + [True] * 3 + [False] * 4
    assert str(tmp_path / "stick") in faults[3]
    assert events == ["key_store.weak", "key_store.failing", "key_store.recovered"]


def test_a_weak_store_says_so_when_it_starts(tmp_path: Path) -> None:
    """A wrapping key beside the keys it wraps is told aloud, with what it means."""

    async def run() -> None:
        watching = asyncio.create_task(KeyStoreWatch(SoftwareKeyStore(tmp_path / "keys"), run_inline).run())
        await asyncio.sleep(1)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with capture_logs() as logs:
        run_virtual(run())
    (told,) = [each for each in logs if each["event"] == "key_store.weak"]
    assert told["log_level"] == "warning"
    assert told["kind"] == "software"
    assert "lies beside them" in told["weakness"]
