"""A thousand sensors, each a device of its own at the hub, their keys in the TPM and nowhere else.

`python -m tests.system.test_thousand_identities` shows it for a thousand and prints what it took; with the other tests
runs a share of it. Keys, TPM, hub and sensors are those of `identities_site`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import hmac
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, get_args

import orjson
import pytest

from edge_gateway.assembly import DATA_KEYS_DIRECTORY, KEYS_DIRECTORY
from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import Secret
from edge_gateway.keystore.data_keys import SealedDataKeys
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.provisioning.identities import leaf_key_name
from edge_gateway.testbench.memory_scan import Scan, find_secrets
from edge_gateway.testbench.virtual_tpm import VirtualTpm
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.bus import FLUSH, HMAC, LOAD, START_AUTH_SESSION
from tests.keystore.tpm.bus import Bus as FaultyBus

from .gateway_process import STOP_WITHIN_S, edge_gateway
from .identities_site import (
    Bus,
    IdentitiesSite,
    ShortTokens,
    StoreKind,
    configure,
    cpu_s,
    dump_core,
    id_at_hub,
    memory_mib,
    open_identities_site,
    swtpm_pid,
    until,
)

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

SHARE: Final = 40
"""Sensors where the other tests run too."""
SHARE_LIFETIME_S: Final = 8
THOUSAND_LIFETIME_S: Final = 60
"""Of a token. A session is renewed at 70 to 90 % of it; before that all have to be connected."""
ROUND_S: Final = 10.0
"""In which each sensor sends a frame."""
FAULTS_OF_A_BUSY_TPM: Final = (0x922, 0x920, 0x90A, 0x923, 0x921, 0x902)
"""RETRY, NV_RATE, TESTING, NV_UNAVAILABLE, LOCKOUT, OBJECT_MEMORY; TPM 2.0 Library part 2, section 6.6.3."""
USED_TO_SIGN: Final = (LOAD, HMAC, FLUSH, START_AUTH_SESSION)


@dataclass
class Figures:
    """What a run took, for `docs/proof.md`."""

    sensors: int
    provision_s: float = 0.0
    connect_s: float = 0.0
    """From the moment that the line was open."""
    connect_cpu_s: float = 0.0
    """Of the gateway, starting included."""
    connect_tpm_cpu_s: float = 0.0
    renew_s: float = 0.0
    """From the first renewal to the last: a fifth of the lifetime by design."""
    renew_cpu_s: float = 0.0
    """Of the gateway, frames that came meanwhile included."""
    records: int = 0
    connected_mib: float = 0.0
    peak_mib: float = 0.0
    scanned_mib: float = 0.0
    found_in_memory: int = 0
    """How many of the keys, whole or in part."""
    found_in_core: int = 0
    found_on_disk: int = 0

    def __str__(self) -> str:
        return "\n".join(f"{name:20}{value:10.1f}" for name, value in vars(self).items())


# --- connect, send, renew, and what is to be found of the keys -------------------------------------------------------


async def prove(directory: Path, count: int, store: StoreKind, lifetime_s: int) -> Figures:
    """Provision, connect all, have each send, renew every token, look for keys, stop, and judge what arrived."""
    figures = Figures(count)
    planted = os.urandom(32), os.urandom(32)
    environment = {"PLANTED": base64.b64encode(planted[0]).decode()}
    async with open_identities_site(directory, count, store) as site:
        began_s = time.monotonic()
        await site.provision()
        figures.provision_s = time.monotonic() - began_s
        async with ShortTokens(site.config, lifetime_s=lifetime_s, environment=environment) as gateway:
            await gateway.start_reading()
            await _connect(site, gateway, figures)
            site.bus.go_on_sending(ROUND_S)
            await _renew(site, gateway, figures)
            await _look_for_keys(site, gateway, [*site.keys(), *planted], figures)
            await site.bus.silence()
            await site.bus.send_round(1.0)
            await site.arrived()
            figures.peak_mib = memory_mib(gateway.pid, "VmHWM")
            ended = await gateway.stop()
        assert (ended.code, gateway.stray_lines) == (0, [])
        assert ended.took_s < STOP_WITHIN_S
        assert site.faults() == []
        assert (await site.cloud.counted()).denied == 0
        figures.records = site.receiver.records
        assert min(site.bus.sent.values()) >= 1
    return figures


async def _connect(site: IdentitiesSite, gateway: ShortTokens, figures: Figures) -> None:
    began_s = time.monotonic()
    everybody = len(site.devices) + 1
    await until(lambda: len(gateway.sessions()) == everybody, lambda: f"{len(gateway.sessions())} of {everybody}")
    figures.connect_s = time.monotonic() - began_s
    figures.connect_cpu_s = cpu_s(gateway.pid)
    figures.connected_mib = memory_mib(gateway.pid)
    if site.tpm is not None:
        figures.connect_tpm_cpu_s = cpu_s(swtpm_pid(site.tpm))


async def _renew(site: IdentitiesSite, gateway: ShortTokens, figures: Figures) -> None:
    ids = [id_at_hub(device) for device in site.devices]

    def renewed() -> int:
        sessions = gateway.sessions()
        return sum(sessions[each] >= 2 for each in ids)

    await until(lambda: renewed() > 0)
    began_s, began_cpu_s = time.monotonic(), cpu_s(gateway.pid)
    await until(lambda: renewed() == len(ids), lambda: f"{renewed()} of {len(ids)} were renewed")
    figures.renew_s = time.monotonic() - began_s
    figures.renew_cpu_s = cpu_s(gateway.pid) - began_cpu_s


async def _look_for_keys(
    site: IdentitiesSite, gateway: ShortTokens, secrets: Sequence[bytes], figures: Figures
) -> None:
    """Look in the live process, in its core and in its files. The last two secrets are planted: one each."""
    in_environment, in_file = len(secrets) - 2, len(secrets) - 1
    notes = gateway.data_directory / "notes"
    notes.touch(mode=0o600)
    notes.write_text(secrets[in_file].hex())

    memory = await asyncio.to_thread(find_secrets, gateway.pid, secrets)
    figures.scanned_mib = memory.scanned_bytes / (1 << 20)
    assert figures.scanned_mib >= memory_mib(gateway.pid) / 2, "most of what is in RAM is the process's own"
    figures.found_in_memory = len(_found(memory) - {in_environment})
    assert in_environment in _found(memory), "a scan that misses what was planted proves nothing"

    disk = await asyncio.to_thread(find_secrets, gateway.data_directory, secrets)
    figures.found_on_disk = len(_found(disk) - {in_file})
    assert (in_file in _found(disk), disk.unread) == (True, ())
    notes.unlink()

    core_file = await dump_core(gateway.pid, site.directory / "core")
    core = await asyncio.to_thread(find_secrets, core_file, secrets)
    core_file.unlink()
    assert core.scanned_bytes / (1 << 20) >= memory_mib(gateway.pid) / 2
    figures.found_in_core = len(_found(core) - {in_environment})
    assert in_environment in _found(core)


def _found(scan: Scan) -> set[int]:
    return {finding.secret for finding in scan.findings}


@pytest.mark.skipif(shutil.which("gcore") is None, reason="needs gcore, from the package gdb")
async def test_a_share_of_a_thousand(tmp_path: Path) -> None:
    """Each sensor connects, sends and renews under its own identity; no key is in memory, core or files; 0 lost."""
    figures = await prove(tmp_path, SHARE, "tpm", SHARE_LIFETIME_S)
    assert (figures.found_in_memory, figures.found_in_core, figures.found_on_disk) == (0, 0, 0)


async def test_what_a_software_store_gives_away(tmp_path: Path) -> None:
    """As its `weakness` says: no key lies open on the disk, and who has the whole data directory can use each."""
    async with open_identities_site(tmp_path, 5, "software") as site:
        await site.provision()
        copied = shutil.copytree(tmp_path / "data", tmp_path / "copied")
        assert not find_secrets(copied, site.keys()).findings
        thief = SoftwareKeyStore(copied / KEYS_DIRECTORY)
        _, _, *keys = site.keys()
        for device, key in zip(site.devices, keys, strict=True):
            assert thief.sign(leaf_key_name(device), b"x") == hmac.digest(key, b"x", hashlib.sha256)


# --- the same files beside another TPM -------------------------------------------------------------------------------

TPM_PIN_FILE: Final = "srk.name"
ANOTHER_TPM: Final = "these keys belong to another TPM, or this one has been cleared since"


async def test_a_copied_data_directory_is_nobody_beside_another_tpm(tmp_path: Path) -> None:
    """There it runs, reads, says why it cannot do more, and sends nothing; at home all that was queued is delivered."""
    async with AsyncExitStack() as resources:
        site = await resources.enter_async_context(open_identities_site(tmp_path, 5))
        await site.provision()
        home = await resources.enter_async_context(ShortTokens(site.config))
        await home.start_reading()
        await until(lambda: len(home.sessions()) == len(site.devices) + 1)
        await _queue_a_round(site, home)

        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        shutil.copytree(home.data_directory, elsewhere / "data", ignore=shutil.ignore_patterns("*.sock"))
        other_tpm = await resources.enter_async_context(VirtualTpm(elsewhere / "tpm"))
        other_bus = await resources.enter_async_context(Bus(elsewhere / "line", len(site.devices)))
        before = await site.cloud.counted()
        config = configure(elsewhere, other_bus, site.cloud, other_tpm)
        async with ShortTokens(config) as stranger:
            await stranger.start_reading()
            await other_bus.send_round(0.5)
            status = await stranger.status_where(
                lambda status: (
                    status["key_store"]["fault"]
                    and status["buffer"]["fault"]
                    and sum(device["readings"] for device in status["devices"]) == len(site.devices)
                    and status["sensors"]["states"] == {"faulty": len(site.devices)}
                )
            )
            assert ANOTHER_TPM in status["key_store"]["fault"]
            assert status["buffer"] == {"state": "no-key", "fault": ANOTHER_TPM}
            assert status["queue"]["normal"] == len(site.devices), "what was copied stays, and nothing can be added"
            assert status["sensors"]["states"] == {"faulty": len(site.devices)}
            assert status["uplink"]["sessions"] == status["sensors"]["sessions"] == 0
            assert any(ANOTHER_TPM in fault for fault in status["faults"])
            exit_code, told, _ = await edge_gateway("doctor", "--json", "--config", str(config))
            checks = orjson.loads(told)["checks"]
            assert (exit_code, checks["tpm.root"], checks["hub.admission"]) == (1, "fault", "not tried")
            assert (await stranger.stop()).code == 0
        assert await site.cloud.counted() == before
        await asyncio.to_thread(_force, elsewhere / "data", other_tpm.tcti, site.devices)

        await home.start_reading()
        await site.arrived()
        assert (await home.stop()).code == 0
        assert site.faults() == []


def _force(data_directory: Path, tcti: str, devices: Sequence[str]) -> None:
    """Have the store take this TPM for its own, by the pin of another store on it: then it is the TPM that refuses."""
    beside = TpmKeyStore(data_directory.with_name("beside"), tcti=tcti)
    beside.create("any")
    beside.close()
    shutil.copy(data_directory.with_name("beside") / TPM_PIN_FILE, data_directory / KEYS_DIRECTORY / TPM_PIN_FILE)
    store = TpmKeyStore(data_directory / KEYS_DIRECTORY, tcti=tcti)
    store.check()
    data_keys = SealedDataKeys(data_directory / DATA_KEYS_DIRECTORY, store)
    attempts: list[Callable[[], object]] = [partial(store.sign, leaf_key_name(device), b"x") for device in devices]
    attempts += [partial(data_keys.open, number) for number in data_keys.ids()]
    assert len(attempts) > len(devices)
    for attempt in attempts:
        with pytest.raises(KeyStoreError, match="made by another TPM"):
            attempt()
    store.close()


async def _queue_a_round(site: IdentitiesSite, gateway: ShortTokens) -> None:
    """Have something durable that is not delivered, and end the gateway with it."""
    os.kill(site.cloud.pid, signal.SIGSTOP)
    try:
        await site.bus.send_round(0.5)
        await gateway.status_where(lambda status: sum(status["queue"].values()) == len(site.devices))
        await gateway.kill()
    finally:
        os.kill(site.cloud.pid, signal.SIGCONT)


# --- a TPM that comes and goes ---------------------------------------------------------------------------------------


async def test_a_tpm_that_comes_and_goes_under_load(tmp_path: Path) -> None:
    """Killed while sessions begin and while tokens are renewed: all come back by themselves, 0 lost, 0 wrong tokens."""
    await _restarts(tmp_path, SHARE, SHARE_LIFETIME_S, kills=2)


async def _restarts(directory: Path, count: int, lifetime_s: int, kills: int) -> None:
    async with open_identities_site(directory, count) as site:
        assert site.tpm is not None
        await site.provision()
        await site.tpm.kill()
        async with ShortTokens(site.config, lifetime_s=lifetime_s) as gateway:
            await gateway.start_reading()
            site.bus.go_on_sending(ROUND_S / 5)
            for _ in range(kills):
                await _sessions_fail(gateway)
                await site.tpm.restart()
                await _all_begin_anew(site, gateway)
                await site.tpm.kill()
            await site.tpm.restart()
            await gateway.status_where(lambda status: status["sensors"]["states"] == {"connected": count})
            await site.bus.silence()
            await site.arrived()
            assert (await gateway.stop()).code == 0
        assert gateway.stray_lines == []
        assert site.faults() == []
        assert (await site.cloud.counted()).denied == 0


async def _sessions_fail(gateway: ShortTokens) -> None:
    """Wait until a session cannot begin for want of the TPM."""
    mark = len(gateway.events)
    await until(
        lambda: any(
            event["event"] == "uplink.disconnected" and "TPM" in event["reason"] for event in gateway.events[mark:]
        )
    )


async def _all_begin_anew(site: IdentitiesSite, gateway: ShortTokens) -> None:
    """Wait until each sensor has had another session."""
    before = gateway.sessions()

    def late() -> list[str]:
        sessions = gateway.sessions()
        ids = [id_at_hub(device) for device in site.devices]
        return [each for each in ids if sessions.get(each, 0) <= before.get(each, 0)]

    await until(lambda: not late(), late)


def test_whatever_the_tpm_answers_no_signature_is_wrong(tmp_path: Path) -> None:
    """Busy, locked, full and cut off at random while many threads sign: right, or none; and right again after it."""
    rng = random.Random(1)
    bus = FaultyBus()
    keys = {f"k{number}": rng.randbytes(32) for number in range(20)}
    counts = {"right": 0, "none": 0}
    is_over = threading.Event()
    with BlockingTpm() as tpm, ThreadPoolExecutor(8) as threads:
        store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti, connect=bus.connect, sleep=lambda _: None)
        for name, key in keys.items():
            store.put(name, Secret(key))

        def sign() -> None:
            while not is_over.is_set():
                name, data = rng.choice(list(keys)), rng.randbytes(100)
                try:
                    signature = store.sign(name, data)
                except KeyStoreUnavailable:
                    counts["none"] += 1
                else:
                    assert signature == hmac.digest(keys[name], data, hashlib.sha256)
                    counts["right"] += 1

        def interfere(command: int) -> None:
            if rng.random() < 0.02 and command in USED_TO_SIGN:
                bus.answers[command] += [rng.choice(FAULTS_OF_A_BUSY_TPM)] * rng.choice((1, 2, 50))

        bus.before = interfere
        signing = [threads.submit(sign) for _ in range(8)]
        try:
            for _ in range(5):
                tpm.power_cut()
                goal = counts["right"] + 50
                while counts["right"] < goal and not any(each.done() for each in signing):
                    time.sleep(0.01)
        finally:
            is_over.set()
        for each in signing:
            each.result()
        bus.before = lambda _: None
        bus.answers.clear()
        for name, key in keys.items():
            assert store.sign(name, b"x") == hmac.digest(key, b"x", hashlib.sha256)
        store.close()
    assert counts["none"] >= 5, "the faults did reach it"


# --- all thousand ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Show it for as many as are wanted, and print what it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="sensors")
    parser.add_argument("--store", choices=get_args(StoreKind), default="tpm", help="where the keys are")
    parser.add_argument("--token-lifetime-s", type=int, default=THOUSAND_LIFETIME_S, help="how long a token lives")
    parser.add_argument("--tpm-restarts", type=int, default=0, help="instead: kill the TPM so often under load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="identities-") as path:
        directory = Path(path)
        if arguments.tpm_restarts:
            asyncio.run(_restarts(directory, arguments.count, arguments.token_lifetime_s, arguments.tpm_restarts))
            print(f"{arguments.tpm_restarts} restarts: 0 lost, 0 repeated, 0 denied")
        else:
            print(asyncio.run(prove(directory, arguments.count, arguments.store, arguments.token_lifetime_s)))


if __name__ == "__main__":
    main()
