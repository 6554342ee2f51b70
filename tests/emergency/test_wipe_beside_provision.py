"""`keys wipe` while another process brings keys: nothing usable is left, and nothing comes back."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.keystore.key_files import WIPE_MARK
from tests.keystore.tpm.backend import BlockingTpm, why_not

KEY_DIRECTORIES = ("keys", "data-keys", "payload-keys")
SENSORS = 4000
"""More than the time until the wipe is enough for."""


@contextmanager
def stores(root: Path) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """What a configuration says of each kind of key store."""
    if why_not():
        yield {"software": {"kind": "software"}}
        return
    with BlockingTpm(root / "tpm") as tpm:
        yield {"software": {"kind": "software"}, "tpm": {"kind": "tpm", "tcti": tpm.tcti}}


@pytest.fixture(params=["software", "tpm"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with stores(tmp_path) as kinds:
        if request.param not in kinds:
            pytest.skip(why_not())
        link: dict[str, Any] = {"name": "air", "port": {"path": "/dev/null"}, "profile": "bthome-v2"}
        document = {
            "gateway": {"name": "plant", "data_directory": "data"},
            "key_store": dict(kinds[request.param]),
            "links": [link | {"framing": {"kind": "slip"}}],
            "uplink": {"kind": "mqtt", "host": "unused"},
        }
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(document))
        yield path


def command(config: Path, *words: str) -> Sequence[str]:
    return [sys.executable, "-m", "edge_gateway", *words, "--config", str(config)]


@contextmanager
def provisioning(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that brings sensors their identities, in the midst of it."""
    rows = "\n".join(
        f"s{number},s{number},{base64.b64encode(number.to_bytes(32, 'big')).decode()}" for number in range(SENSORS)
    )
    table = config.parent / "leaves.csv"
    table.write_text(f"device,device_id,key\n{rows}\n")
    words = ("provision", "leaves", "--table", str(table), "--host-name", "hub.example", "--keep-file")
    with subprocess.Popen(
        command(config, *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            wait_for_keys(config, process)
            yield process
        finally:
            process.kill()


def wait_for_keys(config: Path, process: subprocess.Popen[str], count: int = 30) -> None:
    give_up_at_s = time.monotonic() + 60
    while len(key_files(config)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < give_up_at_s
        time.sleep(0.005)


def key_files(config: Path) -> list[str]:
    data = config.parent / "data"
    return sorted(str(path) for each in KEY_DIRECTORIES for path in (data / each).glob("*"))


def wipe(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, "keys", "wipe", "--yes"), capture_output=True, text=True, timeout=120)


def assert_dead(config: Path) -> None:
    """No key in any file, and no command that would make or use one; the first takes what else was written too late."""
    assert key_files(config) == []
    refused = subprocess.run(command(config, "keys", "create", "k"), capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "the keys of this gateway were wiped" in refused.stderr
    assert key_files(config) == []
    assert not (config.parent / "data" / "identities.json").exists()


def test_a_wipe_while_sensors_are_provisioned_leaves_nothing(config: Path) -> None:
    """Provisioning ends with an error, and not one key of it is left or made afterwards."""
    with provisioning(config) as process:
        wiped = wipe(config)
        output, _ = process.communicate(timeout=60)
    assert wiped.returncode == 0, wiped.stdout + wiped.stderr
    assert process.returncode not in (0, -signal.SIGKILL), output
    assert_dead(config)


def test_a_process_that_was_stopped_brings_nothing_back(config: Path) -> None:
    """One that is stopped in the midst of it keeps no key file alive, and when it goes on, it can do no more."""
    with provisioning(config) as process:
        os.kill(process.pid, signal.SIGSTOP)
        words = command(config, "keys", "wipe", "--yes")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wiping:
            give_up_at_s = time.monotonic() + 60
            while not {Path(each).name for each in key_files(config)} <= {WIPE_MARK}:
                assert time.monotonic() < give_up_at_s
                time.sleep(0.005)
            # The TPM in software serves one at a time: if that is who was stopped, only the clearing waits for it.
            os.kill(process.pid, signal.SIGCONT)
            told, _ = wiping.communicate(timeout=120)
        output, _ = process.communicate(timeout=60)
    assert wiping.returncode == 0, told
    assert process.returncode not in (0, -signal.SIGKILL), output
    assert_dead(config)
