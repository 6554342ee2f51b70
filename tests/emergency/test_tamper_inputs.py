"""Tamper inputs: what counts as holding, and contacts, GPIO lines and PCRs as they are read.

No kernel here has modem lines on a pseudo-terminal, and this one has no gpio-sim: behind the port stands what answers
TIOCMGET in the driver's place, and behind the GPIO line what answers in the place of `gpiod.request_lines`. The PCRs
are those of a simulated TPM.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import struct
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_gateway.config.tamper import PcrInput, TamperSettings
from edge_gateway.emergency.tamper import InputUnreadable
from edge_gateway.emergency.tamper.arming import parse_armed
from edge_gateway.emergency.tamper.gpio import GpioLine
from edge_gateway.emergency.tamper.hold import Hold
from edge_gateway.emergency.tamper.making import make_watches
from edge_gateway.emergency.tamper.modem_line import ModemLine
from edge_gateway.emergency.tamper.pcr import PcrChange
from edge_gateway.errors import ConfigError, KeyStoreUnavailable
from edge_gateway.keystore.tpm import TpmKeyStore
from tests.keystore.tpm.backend import BlockingTpm, why_not

# --- holding ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30))), st.integers(1, 50), st.integers(1, 10))
def test_a_state_holds_if_every_look_of_a_while_saw_it(
    looks: list[tuple[bool, int]], hold_s: int, most_gap_s: int
) -> None:
    """It is the sum of the gaps since it was last seen otherwise, each counted as far as it was watched."""
    hold = Hold(hold_s, most_gap_s)
    now_s = 0
    for number, (is_so, gap_s) in enumerate(looks):
        now_s += gap_s
        since = next((back for back in range(number, -1, -1) if not looks[back][0]), -1)
        watched_s = sum(min(gap, most_gap_s) for _, gap in looks[since + 2 : number + 1])
        assert hold.look(is_so, now_s) == (is_so and watched_s >= hold_s)


def test_one_look_decides_nothing() -> None:
    """Not even after an hour without one."""
    hold = Hold(1.0, 0.2)
    assert not hold.look(True, 0.0)
    assert not hold.look(True, 3600.0)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_what_is_armed(content: bytes) -> None:
    """What is none of ours arms nothing, and raises nothing."""
    assert all(isinstance(each, str) for each in parse_armed(content))


# --- a serial port's modem lines --------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[str]:
    master, slave = os.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The modem lines that are active, as bits of TIOCMGET; what the gateway switches on is put first."""
    active = [0]
    real = fcntl.ioctl

    def ioctl(file: int, request: int, *more: Any) -> Any:
        if request == termios.TIOCMGET:
            return struct.pack("I", active[0])
        if request == termios.TIOCMBIS:
            active.append(struct.unpack("I", more[0])[0])
            return more[0]
        return real(file, request, *more)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return active


@pytest.mark.parametrize(
    ("line", "bit"),
    [("cts", termios.TIOCM_CTS), ("dsr", termios.TIOCM_DSR), ("dcd", termios.TIOCM_CD), ("ri", termios.TIOCM_RI)],
)
def test_a_contact_on_a_modem_line(port: str, lines: list[int], line: Any, bit: int) -> None:
    """The loop is fed by RTS and DTR; open or closed means what the configuration says."""
    opened = ModemLine(port, line, tampered_when="open")
    assert opened.is_tampered()
    lines[0] = bit
    assert not opened.is_tampered()
    assert {termios.TIOCM_RTS, termios.TIOCM_DTR} <= set(lines[1:])
    opened.close()
    closed = ModemLine(port, line, tampered_when="closed")
    assert closed.is_tampered()
    lines[0] = ~bit & 0xFFFF
    assert not closed.is_tampered()
    closed.close()


def test_a_port_without_modem_lines_is_a_fault(port: str) -> None:
    """As a pseudo-terminal is one; and one that is not there."""
    for path in (port, "/dev/no-such-port"):
        contact = ModemLine(path, "cts", tampered_when="open")
        for _ in range(2):
            with pytest.raises(InputUnreadable, match=f"{path}: CTS cannot be read: .*usermod -aG dialout"):
                contact.is_tampered()


def test_a_port_that_was_away_is_opened_again(lines: list[int], port: str, tmp_path: Path) -> None:
    """Unplugged it is a fault; plugged in again it is read."""
    link = tmp_path / "port"
    contact = ModemLine(str(link), "cts", tampered_when="open")
    with pytest.raises(InputUnreadable):
        contact.is_tampered()
    link.symlink_to(port)
    assert contact.is_tampered()
    contact.close()
    contact.close()


# --- GPIO -------------------------------------------------------------------------------------------------------------

gpio = pytest.mark.skipif(importlib.util.find_spec("gpiod") is None, reason="gpiod is not installed")


class Chip:
    """Stands for the kernel's chip, by the library's own words."""

    def __init__(self) -> None:
        self.is_high = True
        self.error: OSError | None = None
        self.requests: list[tuple[str, str, dict[int, Any]]] = []
        self.released = 0

    def request(self, path: str, *, consumer: str, config: dict[int, Any]) -> Chip:
        if self.error is not None:
            raise self.error
        self.requests.append((path, consumer, config))
        return self

    def get_value(self, line: int) -> Any:
        import gpiod

        if self.error is not None:
            raise self.error
        assert line in self.requests[-1][2]
        return gpiod.line.Value.ACTIVE if self.is_high else gpiod.line.Value.INACTIVE

    def release(self) -> None:
        self.released += 1


@gpio
def test_a_contact_on_a_gpio_line() -> None:
    """The line is asked for once, as an input with its bias, and read; high or low means what is configured."""
    import gpiod

    chip = Chip()
    high = GpioLine("/dev/gpiochip7", 17, tampered_when="high", bias="pull-up", request=chip.request)
    low = GpioLine("/dev/gpiochip7", 17, tampered_when="low", bias="as-is", request=chip.request)
    assert (high.is_tampered(), low.is_tampered()) == (True, False)
    chip.is_high = False
    assert (high.is_tampered(), low.is_tampered()) == (False, True)
    assert len(chip.requests) == 2
    path, consumer, config = chip.requests[0]
    assert (path, consumer, list(config)) == ("/dev/gpiochip7", "edge-gateway tamper", [17])
    assert config[17].direction is gpiod.line.Direction.INPUT
    assert config[17].bias is gpiod.line.Bias.PULL_UP
    high.close()
    assert chip.released == 1


@gpio
def test_a_gpio_line_that_cannot_be_had_is_a_fault() -> None:
    """By the real library where there is no chip; and it is asked for anew when it is back."""
    missing = GpioLine("/dev/no-such-chip", 3, tampered_when="high", bias="pull-up")
    with pytest.raises(InputUnreadable, match=r"/dev/no-such-chip: GPIO line 3 cannot be read: .*gpioinfo"):
        missing.is_tampered()
    chip = Chip()
    line = GpioLine("/dev/gpiochip0", 3, tampered_when="high", bias="disabled", request=chip.request)
    assert line.is_tampered()
    chip.error = OSError(19, "No such device")
    with pytest.raises(InputUnreadable):
        line.is_tampered()
    chip.error = None
    assert line.is_tampered()
    assert len(chip.requests) == 2


# --- PCRs -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_pcr_that_changes(tmp_path: Path) -> None:
    """What was there at first is untouched; what is measured after that is not, and neither is a TPM that was reset."""
    with BlockingTpm(tmp_path / "tpm") as tpm:
        store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
        extend(store, 10)
        watched, other = PcrChange(store, [10, 14]), PcrChange(store, [7])
        assert not watched.is_tampered()
        assert not other.is_tampered()
        extend(store, 14)
        assert watched.is_tampered()
        assert not other.is_tampered()
        again = PcrChange(store, [10, 14])
        assert not again.is_tampered()
        tpm.power_cut()
        assert again.is_tampered()
        store.close()


def extend(store: TpmKeyStore, pcr: int) -> None:
    """As whoever measures does, by the store's own connection: a simulator has one."""
    from tpm2_pytss import ESYS_TR, TPM2_ALG, TPML_DIGEST_VALUES, TPMT_HA, TPMU_HA

    digests = TPML_DIGEST_VALUES([TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=b"measured".ljust(32)))])
    store._chip._connection.run(
        lambda link: link.esys.pcr_extend(pcr_handle=ESYS_TR(pcr), digests=digests), where="test"
    )


class _Away:
    def registers(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        raise KeyStoreUnavailable("the TPM does not answer", where="TPM", remedy="Wait")


def test_a_tpm_that_does_not_answer_is_a_fault() -> None:
    """And no reason to wipe."""
    with pytest.raises(InputUnreadable, match=r"TPM: the PCRs cannot be read: the TPM does not answer\. Wait"):
        PcrChange(_Away(), [0]).is_tampered()


# --- configuration ----------------------------------------------------------------------------------------------------

THREE = {
    "inputs": [
        {"name": "lid", "kind": "modem-line", "port": "/dev/ttyS1", "line": "dcd"},
        {"name": "case", "kind": "gpio", "line": 17},
        {"name": "boot", "kind": "pcr", "pcrs": [10, 14]},
    ]
}


@gpio
def test_inputs_are_made_as_configured(tmp_path: Path) -> None:
    """One watch for each, with nothing opened and nothing armed."""
    watches = make_watches(TamperSettings.model_validate(THREE), tmp_path, _Away())
    assert [watch.status() for watch in watches] == [
        {"name": name, "state": "unknown", "armed": False, "fault": ""} for name in ("lid", "case", "boot")
    ]
    with pytest.raises(ConfigError, match=r"tamper: boot: PCRs are read by the key store's TPM, and there is none"):
        make_watches(TamperSettings.model_validate(THREE), tmp_path, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [{"name": "a", "kind": "gpio", "line": 1}] * 2}, "two inputs have the name 'a'"),
        ({"inputs": [{"name": "a", "kind": "gpio", "line": 1, "hold_s": 1, "look_every_s": 2}]}, "0.5 would do"),
        ({"inputs": [{"name": "a", "kind": "gpio", "line": -1}]}, "greater than or equal to 0"),
        ({"inputs": [{"name": "a", "kind": "pcr", "pcrs": [24]}]}, "less than or equal to 23"),
        ({"inputs": [{"name": "a", "kind": "pcr", "pcrs": []}]}, "at least 1"),
        ({"inputs": [{"name": "../a", "kind": "pcr", "pcrs": [1]}]}, "match pattern"),
        ({"inputs": [{"name": "a", "kind": "modem-line", "port": "/dev/ttyS1", "line": "rts"}]}, "'cts', 'dsr'"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    """With a value that would do, where there is one."""
    with pytest.raises(ValidationError, match=message):
        TamperSettings.model_validate(change)


def test_a_pcr_is_looked_at_less_often() -> None:
    """Its defaults fit each other."""
    settings = PcrInput(name="boot", pcrs=(10,))
    assert (settings.look_every_s, settings.hold_s) == (5.0, 10.0)
