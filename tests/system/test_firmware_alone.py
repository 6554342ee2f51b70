"""The firmware by itself, spoken to over its serial port: what any gateway may rely on.

The few lines of COBS and the field layouts are written out here once more on purpose, so that firmware and gateway are
both judged by a third party.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import pytest
import serial
from fastcrc import crc16

from edge_gateway.errors import BenchError

from . import firmware_board
from .firmware_board import BAUD, DEFAULT_ADDRESS, FirmwareBoard, ToolsMissing, build_firmware, require_tools, run_make

ANSWER_TIMEOUT_S = 20.0
"""An answer takes some 10 ms; the rest is for a machine that is busy with other tests."""

ANSWER_WITHIN_MS = 5_000
"""The longest a board may be at what it was sent before: 4 KiB take 1.3 s."""

SET_PERIOD, SET_RELAY, PING = 1, 2, 3
DONE, UNKNOWN_COMMAND, BAD_ARGUMENT = 0, 1, 2
IDLE, MEASURE = 0, 1
TICK_MS = 10

_SAMPLE = Struct("<BHHIhHHB")
_COMMAND = Struct("<BHBH")
_ANSWER = Struct("<BHBB")


class ClimateSample(NamedTuple):
    address: int
    sequence: int
    uptime_ms: int
    temperature_centicelsius: int
    humidity_centipercent: int
    battery_mv: int
    flags: int

    @property
    def mode(self) -> int:
        return self.flags >> 2 & 0b11


class CommandAnswer(NamedTuple):
    address: int
    code: int
    status: int


def stuff(frame: bytes) -> bytes:
    """COBS for frames shorter than 254 bytes: the runs between zeros, each behind its length plus one."""
    return b"".join(bytes([len(run) + 1]) + run for run in frame.split(b"\0")) + b"\0"


def unstuff(encoded: bytes) -> bytes:
    """Undo `stuff`; `encoded` is without the delimiter."""
    runs = []
    while encoded:
        runs.append(encoded[1 : encoded[0]])
        encoded = encoded[encoded[0] :]
    return b"\0".join(runs)


def sealed(body: bytes) -> bytes:
    """`body` with its CRC."""
    return body + crc16.ibm_3740(body).to_bytes(2, "little")


def command(code: int, argument: int = 0, *, address: int = 7) -> bytes:
    """A command frame without stuffing."""
    return sealed(_COMMAND.pack(0x41, address, code, argument))


class Line:
    """A serial port open to a board. Every frame that arrives must be whole and have the right CRC."""

    def __init__(self, port: serial.Serial, *, address: int = 7) -> None:
        self.port = port
        # What comes before the answer to a first ping may have begun while the port was not open yet.
        self.send(command(PING, address=address))
        pong = stuff(sealed(_ANSWER.pack(0x81, address, PING, DONE)))
        assert port.read_until(pong).endswith(pong), "the board does not answer"

    def send(self, frame: bytes) -> None:
        self.port.write(stuff(frame))

    def receive(self) -> ClimateSample | CommandAnswer:
        encoded = self.port.read_until(b"\0")
        assert encoded.endswith(b"\0"), "the board fell silent"
        frame = unstuff(encoded[:-1])
        body, crc = frame[:-2], int.from_bytes(frame[-2:], "little")
        assert crc16.ibm_3740(body) == crc
        if body[0] == 0x01:
            return ClimateSample(*_SAMPLE.unpack(body)[1:])
        assert body[0] == 0x81
        return CommandAnswer(*_ANSWER.unpack(body)[1:])

    def sample(self) -> ClimateSample:
        """The next frame, which must be a sample."""
        frame = self.receive()
        assert isinstance(frame, ClimateSample)
        return frame

    def answer(self) -> CommandAnswer:
        """The next answer, skipping the samples before it; fails if too much of the sensor's own time goes by."""
        first_sample: ClimateSample | None = None
        while isinstance(frame := self.receive(), ClimateSample):
            first_sample = first_sample or frame
            assert frame.uptime_ms - first_sample.uptime_ms < ANSWER_WITHIN_MS, "the board sends, but does not answer"
        return frame

    def ask(self, code: int, argument: int = 0, *, address: int = 7) -> CommandAnswer:
        self.send(command(code, argument, address=address))
        return self.answer()


@pytest.fixture(scope="module", autouse=True)
def _compilers() -> None:
    try:
        require_tools()
    except ToolsMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def line() -> Iterator[Line]:
    with FirmwareBoard() as board, serial.Serial(board.port, BAUD, timeout=ANSWER_TIMEOUT_S) as port:
        yield Line(port)


def test_its_portable_parts_hold_their_known_vectors(tmp_path: Path) -> None:
    """COBS and CRC agree with published vectors, and noise does no harm, as the sanitizers see it."""
    assert "all hold" in run_make("check", tmp_path)


def test_samples_follow_each_other_without_a_gap(line: Line) -> None:
    """Samples carry the address, a sequence that counts by one, and the uptime at which they were taken."""
    assert line.ask(SET_PERIOD, 50).status == DONE
    samples = [line.sample() for _ in range(10)]

    assert {sample.address for sample in samples} == {7}
    first = samples[0]
    assert [sample.sequence for sample in samples] == list(range(first.sequence, first.sequence + 10))
    assert all(earlier.uptime_ms < later.uptime_ms for earlier, later in itertools.pairwise(samples))


def test_a_measurement_is_plausible_and_moves(line: Line) -> None:
    """Temperature and humidity swing around room values in opposite directions; the battery is nearly full."""
    assert line.ask(SET_PERIOD, 50).status == DONE
    samples = [line.sample() for _ in range(8)]

    assert all(1950 <= sample.temperature_centicelsius <= 2350 for sample in samples)
    assert len({sample.temperature_centicelsius for sample in samples}) > 1
    for sample in samples:
        swing = sample.temperature_centicelsius - 2150
        assert sample.humidity_centipercent == 4500 - 5 * swing // 2
        assert sample.battery_mv == 3000
        assert sample.flags == 0


def test_a_ping_is_answered(line: Line) -> None:
    """A ping to the sensor's address is answered as done, with the code it had."""
    assert line.ask(PING) == CommandAnswer(7, PING, DONE)


@pytest.mark.parametrize("period_ms", [50, 120])
def test_set_period_changes_the_rate(line: Line, period_ms: int) -> None:
    """After set-period, samples are that far apart by the sensor's own clock, to within a tick."""
    assert line.ask(SET_PERIOD, period_ms) == CommandAnswer(7, SET_PERIOD, DONE)
    uptimes_ms = [line.sample().uptime_ms for _ in range(6)]

    assert uptimes_ms[-1] - uptimes_ms[0] == pytest.approx(5 * period_ms, abs=TICK_MS)


def test_a_period_between_ticks_holds_on_average(line: Line) -> None:
    """A period of 55 ms, which is no whole number of ticks, does not drift."""
    assert line.ask(SET_PERIOD, 55).status == DONE
    uptimes_ms = [line.sample().uptime_ms for _ in range(11)]

    assert uptimes_ms[-1] - uptimes_ms[0] == pytest.approx(550, abs=TICK_MS)


def test_the_relay_shows_in_later_samples(line: Line) -> None:
    """Mode is `measure` in every sample after the relay was switched on, and `idle` after it was switched off."""
    assert line.ask(SET_PERIOD, 50).status == DONE
    assert line.sample().mode == IDLE
    assert line.ask(SET_RELAY, 1) == CommandAnswer(7, SET_RELAY, DONE)
    assert [line.sample().mode for _ in range(3)] == [MEASURE] * 3
    assert line.ask(SET_RELAY, 0) == CommandAnswer(7, SET_RELAY, DONE)
    assert [line.sample().mode for _ in range(3)] == [IDLE] * 3


@pytest.mark.parametrize(("code", "argument"), [(SET_PERIOD, 49), (SET_PERIOD, 60_001), (SET_RELAY, 2), (PING, 1)])
def test_an_argument_out_of_range_is_refused(line: Line, code: int, argument: int) -> None:
    """A known command with an argument it does not take is answered with `bad argument` and changes nothing."""
    assert line.ask(SET_PERIOD, 80).status == DONE
    assert line.ask(code, argument) == CommandAnswer(7, code, BAD_ARGUMENT)
    earlier, later = line.sample(), line.sample()
    assert later.uptime_ms - earlier.uptime_ms == pytest.approx(80, abs=TICK_MS)
    assert later.mode == IDLE


@pytest.mark.parametrize("period_ms", [50, 60_000])
def test_the_extremes_of_the_period_are_taken(line: Line, period_ms: int) -> None:
    """The smallest and the largest period are within the range."""
    assert line.ask(SET_PERIOD, period_ms).status == DONE


@pytest.mark.parametrize("code", [0, 4, 255])
def test_an_unknown_code_is_refused(line: Line, code: int) -> None:
    """A command nobody defined is answered with `unknown command`, so that a newer gateway can tell."""
    assert line.ask(code) == CommandAnswer(7, code, UNKNOWN_COMMAND)


def _with_flipped_bit(frame: bytes) -> bytes:
    return bytes([*frame[:4], frame[4] ^ 0x01, *frame[5:]])


@pytest.mark.parametrize(
    "garble",
    [
        pytest.param(_with_flipped_bit, id="flipped-bit"),
        pytest.param(lambda frame: frame[:-1], id="cut"),
        pytest.param(lambda frame: frame + b"\0", id="too-long"),
    ],
)
def test_a_garbled_command_is_ignored(line: Line, garble: Callable[[bytes], bytes]) -> None:
    """A command that is not intact is neither answered nor obeyed; the next one is."""
    assert line.ask(SET_PERIOD, 50).status == DONE
    line.send(garble(command(SET_RELAY, 1)))
    assert line.ask(PING) == CommandAnswer(7, PING, DONE)
    assert line.sample().mode == IDLE


@pytest.mark.parametrize("address", [0, 8, 0x0107, 0xFFFF])
def test_a_command_for_another_sensor_is_ignored(line: Line, address: int) -> None:
    """A command to another address is neither answered nor obeyed, though both bytes of the address count."""
    assert line.ask(SET_PERIOD, 50).status == DONE
    line.send(command(SET_RELAY, 1, address=address))
    assert line.ask(PING) == CommandAnswer(7, PING, DONE)
    assert line.sample().mode == IDLE


@pytest.mark.parametrize("seed", [1, 2])
def test_a_flood_of_noise_does_no_harm(line: Line, seed: int) -> None:
    """After 4 KiB of noise and a delimiter, the very next command is answered, and no sample was lost."""
    before = line.sample()
    line.port.write(random.Random(seed).randbytes(4096) + b"\0" + stuff(command(PING)))

    frames = [line.receive()]
    while not isinstance(frames[-1], CommandAnswer):
        frames.append(line.receive())
    assert frames.pop() == CommandAnswer(7, PING, DONE)
    sequences = [frame.sequence for frame in frames if isinstance(frame, ClimateSample)]
    assert sequences == list(range(before.sequence + 1, before.sequence + 1 + len(frames)))
    assert len(frames) >= 1, "4 KiB take more than a second, so samples must have come meanwhile"


def test_commands_back_to_back_are_all_answered(line: Line) -> None:
    """Twenty commands in one write are answered one by one, in order."""
    codes = [PING, 4, SET_RELAY, PING] * 5
    line.port.write(b"".join(stuff(command(code)) for code in codes))
    assert [line.answer().code for _ in codes] == codes


def test_a_board_can_be_built_with_another_address() -> None:
    """The address is a build-time choice: such a sensor signs with it and obeys no other."""
    with (
        FirmwareBoard(address=0x1234) as board,
        serial.Serial(board.port, BAUD, timeout=ANSWER_TIMEOUT_S) as port,
    ):
        line = Line(port, address=0x1234)
        assert line.sample().address == 0x1234
        line.send(command(PING, address=7))
        assert line.ask(PING + 1, address=0x1234) == CommandAnswer(0x1234, PING + 1, UNKNOWN_COMMAND)


def test_what_is_sent_to_a_closed_port_is_lost() -> None:
    """A port opened anew starts with what is sent from then on, not with what nobody read before."""
    with FirmwareBoard() as board:
        with serial.Serial(board.port, BAUD, timeout=ANSWER_TIMEOUT_S) as port:
            assert Line(port).ask(SET_PERIOD, 50).status == DONE
        # Six samples' time. The board cannot be asked how far it is; on a slow machine the test only proves less.
        time.sleep(0.3)
        # Not through pyserial, which empties the input as it opens.
        descriptor = os.open(board.port, os.O_RDONLY | os.O_NOCTTY)
        try:
            waiting = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
        finally:
            os.close(descriptor)
        assert int.from_bytes(waiting, sys.byteorder) <= len(stuff(bytes(_SAMPLE.size + 2)))


def test_the_runner_ends_with_whoever_started_it() -> None:
    """When its stdin is closed, as by the death of the test run, the runner exits with 0."""
    folder = build_firmware(DEFAULT_ADDRESS)
    with subprocess.Popen(
        [folder / "simavr_pty", folder / "climate_sensor.elf"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdin is not None
        assert runner.stdout is not None
        assert runner.stdout.readline().startswith(b"READY /dev/")
        runner.stdin.close()
        assert runner.wait(ANSWER_TIMEOUT_S) == 0


def test_a_crash_of_the_microcontroller_is_told() -> None:
    """Firmware that crashes ends the runner with code 2, and leaving the board says so."""
    with pytest.raises(BenchError, match=r"exit code 2.*crashed"), FirmwareBoard(firmware="dying.elf") as board:
        _wait_for_hang_up(board.port)


def _wait_for_hang_up(port: str) -> None:
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY)
    except FileNotFoundError:
        return  # the runner was gone before we came
    try:
        hang_up = select.poll()
        hang_up.register(descriptor, 0)
        assert hang_up.poll(ANSWER_TIMEOUT_S * 1000)
    finally:
        os.close(descriptor)


def test_a_board_that_cannot_start_says_why() -> None:
    """A firmware file that does not exist is named in the error, not met as a time-out."""
    with pytest.raises(BenchError, match=r"absent\.elf.*No such file"), FirmwareBoard(firmware="absent.elf"):
        pass


def test_missing_compilers_are_told_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cross compiler the error says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolsMissing, match=r"apt-get install .*gcc-avr avr-libc") as raised:
        firmware_board.require_tools()
    assert isinstance(raised.value, BenchError)
