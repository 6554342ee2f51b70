"""The scan for secrets finds a planted one wherever it lies and in whatever form, and none where there is none."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_gateway.errors import BenchError
from edge_gateway.testbench.memory_scan import Finding, Scan, find_secrets

RNG = random.Random(20)
SECRETS = [RNG.randbytes(size) for size in (16, 32, 64, 32, 32, 32, 32, 32)]

FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "as it is": ("raw", lambda secret: secret),
    "hex": ("hex", lambda secret: secret.hex().encode()),
    "upper-case hex": ("hex", lambda secret: secret.hex().upper().encode()),
    "base64": ("base64", base64.b64encode),
    "base64 of URLs": ("base64", base64.urlsafe_b64encode),
    "within base64, one byte in": ("base64", lambda secret: base64.b64encode(b"k" + secret + b"and more")),
    "within base64, two bytes in": ("base64", lambda secret: base64.b64encode(b"k=" + secret + b"and more")),
}


def noise(size_bytes: int) -> bytes:
    return random.Random(size_bytes).randbytes(size_bytes)


@pytest.mark.parametrize("form", FORMS)
def test_a_planted_secret_is_found_in_every_form(tmp_path: Path, form: str) -> None:
    """Which one it is, and where, is told; at any distance from a word's beginning."""
    name, encode = FORMS[form]
    core = tmp_path / "core"
    for place, number in enumerate([0, 1, 2, 3, 4, 5, 6, 7]):
        core.write_bytes(noise(5000 + place) + encode(SECRETS[number]) + noise(5000))
        [finding] = find_secrets(core, SECRETS).findings
        assert (finding.place, finding.secret, finding.form) == (str(core), number, name)
        assert 5000 + place <= finding.offset <= 5000 + place + 3
        assert finding.length == finding.of


def test_a_thousand_secrets_are_found_in_one_go(tmp_path: Path) -> None:
    """Each at its place, in ten megabytes."""
    secrets = [RNG.randbytes(32) for _ in range(1000)]
    content = bytearray(noise(10_000_000))
    for number, secret in enumerate(secrets):
        content[10_001 * number : 10_001 * number + 32] = secret
    (tmp_path / "core").write_bytes(content)
    findings = find_secrets(tmp_path / "core", secrets).findings
    assert [(each.secret, each.offset) for each in findings if each.length == 32] == [
        (number, 10_001 * number) for number in range(1000)
    ]
    assert len(findings) == 1000


def test_a_core_without_secrets_has_none(tmp_path: Path) -> None:
    """All of it is looked at, and there is nothing to tell; also of an empty file."""
    core = tmp_path / "core"
    core.write_bytes(noise(3_000_001))
    assert find_secrets(core, SECRETS) == Scan((), 3_000_001, ())
    core.write_bytes(b"")
    assert find_secrets(core, SECRETS) == Scan((), 0, ())


@pytest.mark.parametrize("lost_bytes", [1, 8, 16])
def test_what_is_left_of_a_secret_is_found(tmp_path: Path, lost_bytes: int) -> None:
    """Of freed memory the first bytes are written over; the rest gives the key away."""
    (tmp_path / "core").write_bytes(noise(997) + SECRETS[1][lost_bytes:] + noise(99))
    finding = Finding(str(tmp_path / "core"), 997, 1, "raw", 32 - lost_bytes, 32)
    assert find_secrets(tmp_path / "core", SECRETS).findings == (finding,)


@pytest.mark.parametrize("offset", [0, (1 << 20) - 31, (1 << 20) - 16, (1 << 20) - 1, 2_999_968])
def test_a_secret_at_an_edge_is_found_once(tmp_path: Path, offset: int) -> None:
    """At the beginning, at the end, and where one read ends and the next begins."""
    content = bytearray(noise(3_000_000))
    content[offset : offset + 32] = SECRETS[1]
    (tmp_path / "core").write_bytes(content)
    assert [finding.offset for finding in find_secrets(tmp_path / "core", SECRETS).findings] == [offset]


def test_a_directory_is_searched_to_its_depths(tmp_path: Path) -> None:
    """Every file below; each place is named; links and sockets are passed by, and what cannot be read is told."""
    deep = tmp_path / "data" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "log").write_bytes(b"key=" + base64.b64encode(SECRETS[5]) + b" " + SECRETS[1])
    (tmp_path / "data" / "clean").write_bytes(noise(100))
    (tmp_path / "outside").write_bytes(SECRETS[2])
    (tmp_path / "data" / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "data" / "pipe")
    scan = find_secrets(tmp_path / "data", SECRETS)
    assert {(finding.place, finding.secret) for finding in scan.findings} == {
        (str(deep / "log"), 5),
        (str(deep / "log"), 1),
    }
    assert scan.unread == ()
    (deep / "log").unlink()
    assert find_secrets(tmp_path / "data", SECRETS) == Scan((), 100, ())


HOLDER = """
import sys
held = bytearray.fromhex(sys.stdin.readline())
if sys.argv[1] == "wiped":
    held[:] = bytes(len(held))
elif sys.argv[1] == "text":
    held = held.hex()
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def holder(how: str, line: str) -> Iterator[int]:
    """A process that was told a secret on its standard input."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


def test_a_secret_in_a_process_is_found() -> None:
    """Its memory is searched while it runs; the mapping and the address are told."""
    secret = SECRETS[7]
    with holder("kept", secret.hex()) as pid:
        scan = find_secrets(pid, SECRETS)
    assert {finding.secret for finding in scan.findings} == {7}
    assert {"raw", "hex"} <= {finding.form for finding in scan.findings}  # the line it was read from is there, too
    assert all(finding.place.startswith(f"process {pid}") for finding in scan.findings)
    assert scan.scanned_bytes > 1_000_000


def test_a_process_without_secrets_has_none() -> None:
    """One that was told nothing shows nothing, and all its memory was read."""
    with holder("kept", "00" * 32) as pid:
        scan = find_secrets(pid, SECRETS)
    assert (scan.findings, scan.unread) == ((), ())
    assert scan.scanned_bytes > 1_000_000


def test_nothing_of_a_secret_is_told(tmp_path: Path) -> None:
    """What was found can be printed."""
    (tmp_path / "core").write_bytes(SECRETS[1] + SECRETS[2].hex().encode())
    told = repr(find_secrets(tmp_path / "core", SECRETS))
    for secret in (SECRETS[1], SECRETS[2]):
        assert secret.hex()[:12] not in told
        assert repr(secret)[2:20] not in told


@pytest.mark.parametrize("secret", [b"", bytes(15), bytes(32), b"ab" * 16])
def test_what_would_be_found_everywhere_is_refused(tmp_path: Path, secret: bytes) -> None:
    """A secret too short or too simple is named by its number."""
    with pytest.raises(BenchError, match="secret 1: is too short or too simple"):
        find_secrets(tmp_path, [SECRETS[0], secret])


@pytest.mark.parametrize("target", [2**22 + 1, Path("/nowhere/at/all"), Path("/dev/null")])
def test_what_cannot_be_looked_at_is_an_error(target: int | Path) -> None:
    """No such process, no such file, and no plain file."""
    with pytest.raises(BenchError, match=r"cannot be looked at|is no file"):
        find_secrets(target, SECRETS[:1])
