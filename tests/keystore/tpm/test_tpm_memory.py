"""No key is in the memory or on the disk of a process that has put keys into a TPM and signs with them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_gateway.testbench.memory_scan import find_secrets
from tests.keystore.tpm.backend import BlockingTpm, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

GATEWAY = """
import sys
from pathlib import Path
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore

store = TpmKeyStore(Path(sys.argv[2]), tcti=sys.argv[1])
with open(0, "rb", buffering=0) as keys:
    for number in range(int(sys.argv[3])):
        with Secret(bytes(32)) as key:
            keys.readinto(key.view())
            store.put(f"k{number}", key)
    kept = keys.read(32)
    for number in range(int(sys.argv[3])):
        store.sign(f"k{number}", b"x")
    print("signed", flush=True)
    keys.read(1)
"""


@contextmanager
def gateway(tpm: BlockingTpm, directory: Path, keys: list[bytes], planted: bytes) -> Iterator[int]:
    """A process that has put and used the keys and forgotten them, and keeps what was planted; gives its number."""
    process = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, tpm.tcti, str(directory), str(len(keys))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for key in [*keys, planted]:
                process.stdin.write(key)
            line = b"-"
            while line and line != b"signed\n":
                line = process.stdout.readline()
            assert line, "the gateway has ended"
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("count", [1, 20])
def test_no_key_is_left_in_memory_or_on_the_disk(tmp_path: Path, count: int) -> None:
    """Of keys that were put nothing is found, not even a third of one; the key that was planted is."""
    keys = [os.urandom(32) for _ in range(count)]
    planted = os.urandom(32)
    with BlockingTpm() as tpm, gateway(tpm, tmp_path / "keys", keys, planted) as pid:
        found = find_secrets(pid, [*keys, planted]).findings
    assert {finding.secret for finding in found} == {count}
    assert not find_secrets(tmp_path / "keys", keys).findings
